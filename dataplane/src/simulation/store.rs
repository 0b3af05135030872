//! A store in memory: batches are applied whole, in order, and those at the end that were not synced can be lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::machine::{Fate, Machine};
use super::random::Random;
use crate::marks::{Last, Marks};
use crate::storage::by_hand::{Batch, Change, Family, Sink, Wal};
use crate::storage::{Books, StoreError, by_hand};

type Entry = (Family, Vec<u8>);

/// What the store has.
#[derive(Clone, Default)]
pub(super) struct Entries {
    kernel: BTreeMap<Entry, Vec<u8>>,
    disk: BTreeMap<Entry, Vec<u8>>,
    /// Batches that only the kernel has.
    unsynced: Vec<Vec<(Entry, Option<Vec<u8>>)>>,
    /// Counts changes, as RocksDB does.
    pub(super) sequence: u64,
}

impl Entries {
    fn apply(&mut self, batch: &Batch) {
        let mut changes = Vec::new();
        for (family, key, change) in batch.changes() {
            let value = match change {
                Change::Put(value) => Some(value.to_vec()),
                Change::Delete => None,
            };
            changes.push(((family, key.to_vec()), value));
        }
        self.sequence += changes.len() as u64;
        change(&mut self.kernel, changes.iter().cloned());
        self.unsynced.push(changes);
    }

    fn sync(&mut self) {
        let unsynced = std::mem::take(&mut self.unsynced);
        change(&mut self.disk, unsynced.into_iter().flatten());
    }

    /// The log is written in order, so of what was not synced a first part is there.
    pub(super) fn cut_power(&mut self, random: &mut Random, percent: u64) {
        let kept = self.unsynced.iter().take_while(|_| random.chance(percent)).count();
        let lost: usize = self.unsynced.drain(kept..).map(|batch| batch.len()).sum();
        self.sequence -= lost as u64;
        self.sync();
        self.kernel.clone_from(&self.disk);
    }

    /// The books, as they would be after a power cut that leaves nothing but what was synced.
    pub(super) fn disk_books(&self) -> Books {
        by_hand::read(
            self.disk.iter().map(|((family, key), value)| (*family, key.as_slice(), value.as_slice())),
        )
    }

    fn entries(&self) -> impl Iterator<Item = (Family, &[u8], &[u8])> {
        self.kernel.iter().map(|((family, key), value)| (*family, key.as_slice(), value.as_slice()))
    }

    /// The books, as a start reads them.
    pub(super) fn books(&self) -> Books {
        by_hand::read(self.entries())
    }

    /// Keys and values of one family.
    pub(super) fn family(&self, family: Family) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries().filter(move |(of, ..)| *of == family).map(|(_, key, value)| (key, value))
    }
}

fn change(entries: &mut BTreeMap<Entry, Vec<u8>>, changes: impl Iterator<Item = (Entry, Option<Vec<u8>>)>) {
    for (entry, value) in changes {
        match value {
            Some(value) => entries.insert(entry, value),
            None => entries.remove(&entry),
        };
    }
}

/// The open store of one process.
pub(super) struct Store {
    pub(super) machine: Machine,
    pub(super) marks: Option<Arc<Marks>>,
}

impl Sink for Store {
    fn commit(&mut self, batch: &Batch, wal: Wal) -> Result<(), StoreError> {
        let mut inner = self.machine.lock();
        let fate = inner.fate(|faults| &mut faults.store);
        let is_applied = match fate {
            Fate::Nothing => false,
            Fate::Refused | Fate::Deadly => inner.random.chance(50),
            Fate::Done => true,
        };
        if is_applied {
            inner.store.apply(batch);
        }
        if fate != Fate::Done {
            return Err(StoreError::Io("refused".to_owned()));
        }
        if wal == Wal::Synced {
            inner.store.sync();
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<(), StoreError> {
        let Some(marks) = &self.marks else { return Ok(()) };
        let sequence = self.machine.lock().store.sequence;
        let noted = marks.note(Last::Synced, |mark| mark.store_sequence = sequence);
        noted.map_err(|error| StoreError::Io(error.to_string()))
    }
}
