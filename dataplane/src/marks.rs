//! The file of the high-water mark (rule R4), written by committer and storage thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use keybrake_proto::mark::{Mark, SLOT_BYTES, SLOTS};

/// The mark and its file. No worker touches it.
pub(crate) struct Marks(Mutex<Kept>);

struct Kept {
    file: Box<dyn Slots>,
    mark: Mark,
    /// Whether the file holds it.
    written: bool,
    /// Another process writes the file.
    is_retired: bool,
}

/// Where the file is, behind a seam: the simulation brings disks that fail.
pub(crate) trait Slots: Send {
    /// Its length.
    fn bytes(&self) -> io::Result<u64>;

    /// Writes all of `bytes` at `at`; after an error any part of them may be there.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Brings what was written to the disk.
    fn sync(&self) -> io::Result<()>;
}

impl Slots for File {
    fn bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// How long a mark must last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// Beyond the process: the kernel has it.
    Written,
    /// Beyond the machine: the disk has it.
    Synced,
}

/// The newest mark in `path`; `None` where there is no file.
pub(crate) fn read(path: &Path) -> io::Result<Option<Mark>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?.read_to_end(&mut bytes)?,
    };
    newest(&bytes)
}

/// The newest mark in a file's bytes; `None` where none was ever written: the first start was cut.
pub(crate) fn newest(bytes: &[u8]) -> io::Result<Option<Mark>> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    Mark::newest(bytes).map(Some).ok_or_else(damaged)
}

impl Marks {
    /// Opens or makes the file and writes `mark` to it; on disk when it returns.
    pub(crate) fn open(path: &Path, mark: Mark) -> io::Result<Marks> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let marks = Marks::begin(Box::new(file), mark)?;
        if let Some(parent) = path.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()?;
        }
        Ok(marks)
    }

    /// Writes `mark`; on disk when it returns.
    pub(crate) fn begin(file: Box<dyn Slots>, mark: Mark) -> io::Result<Marks> {
        let bytes = u64::try_from(SLOT_BYTES.saturating_mul(SLOTS)).map_err(io::Error::other)?;
        if file.bytes()? != bytes {
            // Written in full, so that no later mark needs space.
            file.write_at(&vec![0; SLOT_BYTES.saturating_mul(SLOTS)], 0)?;
        }
        let marks = Marks(Mutex::new(Kept { file, mark, written: false, is_retired: false }));
        marks.note(Last::Synced, |_| {})?;
        Ok(marks)
    }

    /// Changes the mark and writes it.
    pub(crate) fn note(&self, last: Last, change: impl FnOnce(&mut Mark)) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_retired {
            return Ok(());
        }
        let mut mark = kept.mark.clone();
        change(&mut mark);
        if mark == kept.mark && kept.written {
            return Ok(());
        }
        mark.number = mark.number.saturating_add(1);
        let at = u64::try_from(mark.slot().saturating_mul(SLOT_BYTES)).unwrap_or_default();
        kept.file.write_at(&mark.encode(), at)?;
        let synced = if last == Last::Synced { kept.file.sync() } else { Ok(()) };
        // A mark whose sync failed is written again, though nothing changes.
        (kept.mark, kept.written) = (mark, synced.is_ok());
        synced
    }

    /// From now on another process writes the file, and this one does not.
    pub(crate) fn retire(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_retired = true;
    }
}
