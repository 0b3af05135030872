//! The machine: what its kernel has and what its disk has, and how both fail.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use super::random::Random;
use super::store::Entries;
use crate::journal::{Disk, Medium};
use crate::marks::Slots;

/// What a power cut leaves of a file is chosen for each of these.
const PAGE_BYTES: usize = 512;

/// The file of the high-water mark.
const MARK: u32 = 0;

/// A file: as the kernel has it, and as the disk has it.
#[derive(Clone, Default)]
pub(super) struct File {
    pub(super) kernel: Vec<u8>,
    pub(super) disk: Vec<u8>,
    /// Pages that the next sync brings to the disk.
    dirty: Vec<bool>,
}

/// What is about to go wrong: each a number of operations that will fail.
#[derive(Clone, Default, Debug)]
pub(super) struct Faults {
    /// Writes to a file.
    pub(super) writes: u64,
    pub(super) syncs: u64,
    pub(super) creates: u64,
    /// Writes to the store.
    pub(super) store: u64,
    /// The process ends within the operation after so many.
    pub(super) death_in: Option<u64>,
}

/// Everything that outlives a process.
#[derive(Clone)]
pub(super) struct Inner {
    pub(super) random: Random,
    pub(super) faults: Faults,
    /// The process has ended: nothing it still does has an effect.
    pub(super) is_dead: bool,
    pub(super) boot: u8,
    files: BTreeMap<u32, File>,
    /// Shard and slot of each of the journals' files.
    names: BTreeMap<(u16, u32), u32>,
    next_file: u32,
    pub(super) store: Entries,
    /// How many operations there were.
    pub(super) operations: u64,
}

/// A handle to it; clones are the same machine.
#[derive(Clone)]
pub(super) struct Machine(Arc<Mutex<Inner>>);

/// An open file.
struct Handle {
    machine: Machine,
    file: u32,
}

/// What becomes of an operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    /// It is refused; a part of it may be done.
    Refused,
    /// The process ends within it.
    Deadly,
    /// There is no process any more.
    Nothing,
}

fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl File {
    fn write(&mut self, bytes: &[u8], at: usize) {
        let end = at + bytes.len();
        if self.kernel.len() < end {
            self.kernel.resize(end, 0);
        }
        self.kernel[at..end].copy_from_slice(bytes);
        self.dirty.resize(self.kernel.len().div_ceil(PAGE_BYTES), false);
        if end > at {
            self.dirty[at / PAGE_BYTES..=(end - 1) / PAGE_BYTES].fill(true);
        }
    }

    /// Brings the dirty pages to the disk that `chosen` says.
    fn write_back(&mut self, mut chosen: impl FnMut() -> bool) {
        self.disk.resize(self.kernel.len(), 0);
        for (page, _) in self.dirty.iter().enumerate().filter(|(_, dirty)| **dirty) {
            if chosen() {
                let end = ((page + 1) * PAGE_BYTES).min(self.kernel.len());
                let range = page * PAGE_BYTES..end;
                self.disk[range.clone()].copy_from_slice(&self.kernel[range]);
            }
        }
    }
}

impl Inner {
    /// Counts an operation and says how it ends; `fault` is the kind that could refuse it.
    pub(super) fn fate(&mut self, fault: fn(&mut Faults) -> &mut u64) -> Fate {
        if self.is_dead {
            return Fate::Nothing;
        }
        self.operations += 1;
        match &mut self.faults.death_in {
            Some(0) => {
                self.is_dead = true;
                return Fate::Deadly;
            }
            Some(left) => *left -= 1,
            None => {}
        }
        let left = fault(&mut self.faults);
        if *left > 0 {
            *left -= 1;
            return Fate::Refused;
        }
        Fate::Done
    }

    fn write(&mut self, number: u32, bytes: &[u8], at: usize) -> io::Result<()> {
        let fate = self.fate(|faults| &mut faults.writes);
        let Inner { files, random, .. } = self;
        let Some(file) = files.get_mut(&number) else { return Err(refused()) };
        match fate {
            Fate::Nothing => return Err(refused()),
            Fate::Refused | Fate::Deadly => {
                let part = match random.below(3) {
                    // A header is smaller than what a disk writes whole, and a mark is too.
                    2 if number == MARK || at == 0 => 0,
                    0 => 0,
                    1 => bytes.len(),
                    _ => random.index(bytes.len() + 1),
                };
                file.write(&bytes[..part], at);
                return Err(refused());
            }
            Fate::Done => file.write(bytes, at),
        }
        // The kernel writes back when it likes.
        if random.chance(5) {
            file.write_back(|| random.chance(50));
        }
        Ok(())
    }

    fn sync(&mut self, file: u32) -> io::Result<()> {
        let fate = self.fate(|faults| &mut faults.syncs);
        let Inner { files, random, .. } = self;
        let Some(file) = files.get_mut(&file) else { return Err(refused()) };
        match fate {
            Fate::Nothing => Err(refused()),
            Fate::Deadly => {
                file.write_back(|| random.chance(50));
                Err(refused())
            }
            Fate::Refused => {
                // The pages count as clean afterwards, and the next sync would succeed without them.
                file.write_back(|| random.chance(50));
                file.dirty.fill(false);
                Err(refused())
            }
            Fate::Done => {
                file.write_back(|| true);
                file.dirty.fill(false);
                Ok(())
            }
        }
    }

    fn create(&mut self, name: (u16, u32), bytes: usize) -> io::Result<u32> {
        let fate = self.fate(|faults| &mut faults.creates);
        let length = match fate {
            Fate::Nothing => return Err(refused()),
            Fate::Refused | Fate::Deadly => self.random.index(bytes + 1),
            Fate::Done => bytes,
        };
        let (kernel, disk) = (vec![0; length], vec![0; length]);
        let dirty = vec![false; length.div_ceil(PAGE_BYTES)];
        self.next_file += 1;
        let file = self.next_file;
        self.files.insert(file, File { kernel, disk, dirty });
        self.names.insert(name, file);
        if fate == Fate::Done { Ok(file) } else { Err(refused()) }
    }

    /// A file that a start reads, with its name.
    pub(super) fn one(&mut self, random: &mut Random) -> (String, &mut File) {
        let at = random.index(self.names.len() + 1);
        let (name, number) = match self.names.iter().nth(at) {
            Some(((shard, slot), number)) => (format!("journal {shard}-{slot}"), *number),
            None => ("mark".to_owned(), MARK),
        };
        (name, self.files.get_mut(&number).unwrap())
    }

    /// Removes a journal's file; gives what was done.
    pub(super) fn remove_one(&mut self, random: &mut Random) -> String {
        let at = random.index(self.names.len());
        let name = *self.names.keys().nth(at).unwrap();
        self.names.remove(&name);
        format!("journal {}-{} is gone", name.0, name.1)
    }
}

impl Machine {
    pub(super) fn new(random: Random) -> Machine {
        Machine(Arc::new(Mutex::new(Inner {
            random,
            faults: Faults::default(),
            is_dead: false,
            boot: 1,
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            next_file: MARK,
            store: Entries::default(),
            operations: 0,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// A machine of its own in the same state.
    pub(super) fn copy(&self) -> Machine {
        Machine(Arc::new(Mutex::new(self.lock().clone())))
    }

    pub(super) fn boot(&self) -> [u8; 16] {
        [self.lock().boot; 16]
    }

    /// The process has ended: what the kernel has stays.
    pub(super) fn kill(&self) {
        let mut inner = self.lock();
        inner.faults = Faults::default();
        inner.is_dead = false;
    }

    /// The machine has lost power: of what was not synced, any part is there.
    pub(super) fn cut_power(&self) {
        self.kill();
        let mut inner = self.lock();
        let Inner { random, files, store, boot, .. } = &mut *inner;
        for file in files.values_mut() {
            let percent = [0, 50, 100][random.index(3)];
            file.write_back(|| random.chance(percent));
            file.kernel.clone_from(&file.disk);
            file.dirty.fill(false);
        }
        let percent = [0, 50, 100][random.index(3)];
        store.cut_power(random, percent);
        *boot += 1;
    }

    /// Name and bytes of every journal file, as a start reads them.
    pub(super) fn read_journals(&self, of: fn(&File) -> &Vec<u8>) -> Vec<(PathBuf, Vec<u8>)> {
        let inner = self.lock();
        let file = |((shard, slot), file): (&(u16, u32), &u32)| {
            (PathBuf::from(format!("{shard}-{slot}.segment")), of(&inner.files[file]).clone())
        };
        inner.names.iter().map(file).collect()
    }

    /// The bytes of the mark's file; `None` where there is none.
    pub(super) fn read_mark(&self) -> Option<Vec<u8>> {
        self.lock().files.get(&MARK).map(|file| file.kernel.clone())
    }

    /// The mark's file, made where there is none.
    pub(super) fn open_mark(&self) -> Box<dyn Slots> {
        self.lock().files.entry(MARK).or_default();
        Box::new(Handle { machine: self.clone(), file: MARK })
    }
}

impl Medium for Handle {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.machine.lock().write(self.file, bytes, usize::try_from(at).unwrap())
    }

    fn sync(&self) -> io::Result<()> {
        self.machine.lock().sync(self.file)
    }
}

impl Slots for Handle {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.machine.lock().files[&self.file].kernel.len() as u64)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        Medium::write_at(self, bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        Medium::sync(self)
    }
}

impl Disk for Machine {
    fn open(&self, shard: u16, slot: u32) -> io::Result<Arc<dyn Medium>> {
        let file = self.lock().names[&(shard, slot)];
        Ok(Arc::new(Handle { machine: self.clone(), file }))
    }

    fn create(&self, shard: u16, slot: u32, bytes: u64) -> io::Result<Arc<dyn Medium>> {
        let file = self.lock().create((shard, slot), usize::try_from(bytes).unwrap())?;
        Ok(Arc::new(Handle { machine: self.clone(), file }))
    }

    fn remove(&self, shard: u16, slot: u32) -> io::Result<()> {
        let mut inner = self.lock();
        let fate = inner.fate(|faults| &mut faults.creates);
        if fate == Fate::Done || (fate == Fate::Deadly && inner.random.chance(50)) {
            let file = inner.names.remove(&(shard, slot)).unwrap();
            inner.files.remove(&file);
        }
        if fate == Fate::Done { Ok(()) } else { Err(refused()) }
    }
}
