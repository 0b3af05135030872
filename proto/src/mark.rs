//! The high-water mark: how far store and journals had come, kept outside the data directory.
//!
//! RocksDB drops what it cannot read at the end of its log without a word, and a restored backup
//! looks like any other store. A store or journal behind the mark is therefore not started (rule R4).
//!
//! The file has two slots that are written in turn, so that a write that breaks off leaves the other.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The bytes of one slot: a mark of the most shards a dataplane can have stays well below.
pub const SLOT_BYTES: usize = 16 * 1024;

/// The slots of a file.
pub const SLOTS: usize = 2;

const MAGIC: [u8; 8] = *b"KBmark1\n";
const HEADER_BYTES: usize = 16;

/// How far a store and its journals had come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Counts the marks; the higher of two slots holds.
    pub number: u64,
    /// Which store: a random number made with it.
    pub store: [u8; 16],
    /// The kernel's boot id.
    pub boot: [u8; 16],
    /// RocksDB's own sequence at a moment when all before it was on disk.
    pub store_sequence: u64,
    /// How far each shard's journal had come.
    pub shards: BTreeMap<u16, Reached>,
}

/// How far a journal had come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// The last record that was on disk.
    pub synced: u64,
    /// The last record that the kernel had: binding until the machine is started again.
    pub written: u64,
}

/// What is found at a start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The store's number.
    pub store: [u8; 16],
    /// The kernel's boot id.
    pub boot: [u8; 16],
    /// RocksDB's sequence.
    pub store_sequence: u64,
    /// The last record of each shard, in its journal or in the store.
    pub shards: BTreeMap<u16, u64>,
}

/// Why what is found may be older than what was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// The mark is another store's.
    OtherStore,
    /// The store has lost writes.
    Store {
        /// What it had reached.
        marked: u64,
        /// What it reaches.
        found: u64,
    },
    /// A journal has lost records.
    Journal {
        /// Whose.
        shard: u16,
        /// The last record that was there.
        marked: u64,
        /// The last record that is there.
        found: u64,
    },
}

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Behind::OtherStore => f.write_str("the mark belongs to another store"),
            Behind::Store { marked, found } => {
                write!(f, "the store had reached write {marked} and has only {found}")
            }
            Behind::Journal { shard, marked, found } => {
                write!(f, "the journal of worker {shard} had reached record {marked} and has only {found}")
            }
        }
    }
}

impl std::error::Error for Behind {}

impl Mark {
    /// Whether what is found is at the mark or past it. A wrong `Ok` starts with spend forgotten.
    pub fn judge(&self, found: &Found) -> Result<(), Behind> {
        if self.store != found.store {
            return Err(Behind::OtherStore);
        }
        if self.store_sequence > found.store_sequence {
            return Err(Behind::Store { marked: self.store_sequence, found: found.store_sequence });
        }
        for (&shard, reached) in &self.shards {
            let runs_on = self.boot == found.boot;
            let marked = if runs_on { reached.written.max(reached.synced) } else { reached.synced };
            let found = found.shards.get(&shard).copied().unwrap_or_default();
            if marked > found {
                return Err(Behind::Journal { shard, marked, found });
            }
        }
        Ok(())
    }

    /// Which slot this mark is written to.
    pub fn slot(&self) -> usize {
        usize::try_from(self.number % 2).unwrap_or_default()
    }

    /// The mark's bytes, at most [`SLOT_BYTES`].
    pub fn encode(&self) -> Vec<u8> {
        let bytes = [&MAGIC[..], &[0; HEADER_BYTES.saturating_sub(MAGIC.len())]].concat();
        // Serializing integers to memory has no way to fail.
        let mut bytes = postcard::to_extend(self, bytes).unwrap_or_default();
        let payload = bytes.get(HEADER_BYTES..).unwrap_or_default();
        let (length, checksum) = (u32::try_from(payload.len()).unwrap_or(u32::MAX), crc32fast::hash(payload));
        for (to, from) in bytes
            .iter_mut()
            .skip(MAGIC.len())
            .zip(length.to_le_bytes().into_iter().chain(checksum.to_le_bytes()))
        {
            *to = from;
        }
        bytes
    }

    /// The newest mark in a file; `None` where no slot is whole.
    pub fn newest(file: &[u8]) -> Option<Mark> {
        file.chunks(SLOT_BYTES).take(SLOTS).filter_map(Mark::decode).max_by_key(|mark| mark.number)
    }

    fn decode(slot: &[u8]) -> Option<Mark> {
        let (magic, rest) = slot.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (checksum, rest) = rest.split_first_chunk()?;
        let payload = rest.get(..usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        let is_whole = *magic == MAGIC && crc32fast::hash(payload) == u32::from_le_bytes(*checksum);
        is_whole.then(|| postcard::from_bytes(payload).ok()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark {
            number: 4,
            store: [1; 16],
            boot: [2; 16],
            store_sequence: 1000,
            shards: [(0, Reached { synced: 10, written: 12 })].into(),
        }
    }

    fn found() -> Found {
        Found { store: [1; 16], boot: [2; 16], store_sequence: 1000, shards: [(0, 12)].into() }
    }

    fn file(marks: &[Mark]) -> Vec<u8> {
        let mut file = vec![0; SLOT_BYTES * SLOTS];
        for mark in marks {
            let bytes = mark.encode();
            let at = mark.slot() * SLOT_BYTES;
            file[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        file
    }

    #[test]
    fn r4_what_is_behind_the_mark_is_named() {
        assert_eq!(mark().judge(&found()), Ok(()));
        assert_eq!(mark().judge(&Found { store: [3; 16], ..found() }), Err(Behind::OtherStore));
        let older = Found { store_sequence: 999, ..found() };
        assert_eq!(mark().judge(&older), Err(Behind::Store { marked: 1000, found: 999 }));
        let shorter = |last| Found { shards: [(0, last)].into(), ..found() };
        assert_eq!(mark().judge(&shorter(11)), Err(Behind::Journal { shard: 0, marked: 12, found: 11 }));
        // A machine that lost power may have lost what was not synced, and nothing else.
        assert_eq!(mark().judge(&Found { boot: [5; 16], ..shorter(10) }), Ok(()));
        let lost = mark().judge(&Found { boot: [5; 16], ..shorter(9) });
        assert_eq!(lost, Err(Behind::Journal { shard: 0, marked: 10, found: 9 }));
        assert!(mark().judge(&Found { shards: BTreeMap::new(), ..found() }).is_err());
    }

    #[test]
    fn the_newest_whole_slot_holds() {
        let newer = Mark { number: 5, store_sequence: 2000, ..mark() };
        let both = file(&[mark(), newer.clone()]);
        assert_eq!(Mark::newest(&both), Some(newer));
        let mut broken = both;
        broken[SLOT_BYTES + 20] ^= 1;
        assert_eq!(Mark::newest(&broken), Some(mark()));
        broken[20] ^= 1;
        assert_eq!(Mark::newest(&broken), None);
        assert_eq!(Mark::newest(&[]), None);
    }

    #[test]
    fn a_mark_of_the_most_workers_fits_a_slot() {
        let reached = Reached { synced: u64::MAX, written: u64::MAX };
        let mark =
            Mark { shards: (0..=u16::MAX).step_by(128).map(|shard| (shard, reached)).collect(), ..mark() };
        assert!(mark.shards.len() >= 512 && mark.encode().len() < SLOT_BYTES);
    }
}
