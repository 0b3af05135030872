//! Damage that no crash leaves: after it a start is sealed, or finds no less committed than before.

use keybrake_proto::time::Day;

use super::machine::{File, Machine};
use super::process::{KEYS, NoStart, Process};
use super::random::Random;
use super::world::World;

/// How often one schedule's end is damaged, each time anew.
const TRIES: usize = 6;

impl World {
    /// Ends the process with all of it on disk and marked, and starts it over damaged files. Gives how many of
    /// these starts were sealed.
    pub(super) fn damage(&mut self) -> usize {
        // What storage has entered and not checkpointed, the mark does not miss where a file vanishes.
        for _ in 0..8 {
            let books = self.process.writer.books();
            if books.floors() == books.cursors() {
                break;
            }
            self.process.writer.step(true);
        }
        self.process.committer.make_idle_sync_due();
        self.process.committer.round();
        self.process.committer.write_marks();
        // After a power cut the mark may be an older one, and damage would be a second fault.
        self.machine.kill();
        let whole = Process::start(&self.machine.copy(), &self.setup).unwrap_or_else(|why| panic!("{why:?}"));
        let mut sealed = 0;
        for _ in 0..TRIES {
            let machine = self.machine.copy();
            let what = harm(&machine, &mut self.random);
            match Process::start(&machine, &self.setup) {
                Err(NoStart::Sealed(why)) => {
                    self.trace(|| format!("{what}: {why}"));
                    sealed += 1;
                }
                Err(NoStart::Died) => panic!("{what}: it does not start"),
                Ok(damaged) => {
                    self.trace(|| format!("{what}: started"));
                    self.compare(&whole, &damaged, &what);
                }
            }
        }
        sealed
    }

    fn compare(&self, whole: &Process, damaged: &Process, what: &str) {
        for key in 0..KEYS {
            let [before, after] = [whole, damaged].map(|process| process.accounts[key].word());
            let day = Day::new(self.day);
            assert!(
                after.on(day).committed >= before.on(day).committed && after.closed == before.closed,
                "{what}: key {key} starts with {after:?} in place of {before:?}"
            );
        }
    }
}

/// Changes one file; gives what was done.
fn harm(machine: &Machine, random: &mut Random) -> String {
    let mut inner = machine.lock();
    if random.chance(10) {
        return inner.remove_one(random);
    }
    let (name, file) = inner.one(random);
    let length = file.kernel.len();
    let what = match random.below(4) {
        0 => {
            let from = place(file, random);
            file.kernel[from..].fill(0);
            format!("{name}: zeros from {from}")
        }
        1 => {
            let to = random.index(length);
            file.kernel.truncate(to);
            format!("{name}: cut to {to}")
        }
        2 => {
            let from = place(file, random) / 512 * 512;
            let to = (from + 512).min(length);
            file.kernel[from..to].fill(0);
            format!("{name}: zeros from {from} to {to}")
        }
        _ => {
            let at = place(file, random);
            let bit = random.below(8);
            file.kernel[at] ^= 1 << bit;
            format!("{name}: bit {bit} of byte {at}")
        }
    };
    file.disk.clone_from(&file.kernel);
    what
}

/// Mostly where something is.
fn place(file: &File, random: &mut Random) -> usize {
    let used = file.kernel.iter().rposition(|byte| *byte != 0).unwrap_or_default();
    let bound = if random.chance(90) { used + 1 } else { file.kernel.len() };
    random.index(bound)
}
