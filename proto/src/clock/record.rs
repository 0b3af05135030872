//! What is kept of the clocks on disk: 60 bytes, little-endian, with a checksum.
//!
//! `KBCLOCK1 | wall u64 | boot u64 | boot id 16 bytes | day u32 | seen u64 |
//! kind u32 | crc32 u32`; the kind is 0 for an anchor and 1 for a floor.

use std::fmt;

use super::{BootId, BootMicros, Reading};
use crate::time::{Day, UnixMicros};

/// Name and version of the format.
const MAGIC: [u8; 8] = *b"KBCLOCK1";

/// The length of a record.
pub const RECORD_BYTES: usize = 60;

/// One agreement, as the next start finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the wall clock should have been, and the boot clock of that moment.
    pub at: Reading,
    /// The boot that `at.boot` counts from.
    pub boot_id: BootId,
    /// The day money counted on.
    pub day: Day,
    /// The latest time that any key's expiry was compared with.
    pub seen: UnixMicros,
    /// Whether `at` is exact, or only what time cannot be before.
    pub kind: RecordKind,
}

/// What the clocks of a [`Record`] say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordKind {
    /// They agreed.
    Anchor,
    /// The wall clock could be no earlier.
    Floor,
}

/// Bytes that are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// Another version wrote it, or it is no clock record at all.
    Unknown,
    /// Its length or its checksum is wrong.
    Damaged,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordError::Unknown => "is not a record of this version",
            RecordError::Damaged => "is damaged",
        })
    }
}

impl std::error::Error for RecordError {}

impl Record {
    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.at.wall.0.to_le_bytes());
        bytes.extend_from_slice(&self.at.boot.0.to_le_bytes());
        bytes.extend_from_slice(&self.boot_id.0);
        bytes.extend_from_slice(&self.day.as_u32().to_le_bytes());
        bytes.extend_from_slice(&self.seen.0.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.kind == RecordKind::Floor).to_le_bytes());
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The record in these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
        let (magic, rest) = bytes.split_first_chunk().ok_or(RecordError::Damaged)?;
        let (payload, checksum) = bytes.split_last_chunk().ok_or(RecordError::Damaged)?;
        let is_whole =
            bytes.len() == RECORD_BYTES && crc32fast::hash(payload) == u32::from_le_bytes(*checksum);
        match (*magic == MAGIC, is_whole) {
            (true, true) => fields(rest).ok_or(RecordError::Damaged),
            (true, false) => Err(RecordError::Damaged),
            (false, _) => Err(RecordError::Unknown),
        }
    }
}

fn fields(bytes: &[u8]) -> Option<Record> {
    let (wall, bytes) = bytes.split_first_chunk()?;
    let (boot, bytes) = bytes.split_first_chunk()?;
    let (boot_id, bytes) = bytes.split_first_chunk()?;
    let (day, bytes) = bytes.split_first_chunk()?;
    let (seen, bytes) = bytes.split_first_chunk()?;
    let (kind, _) = bytes.split_first_chunk()?;
    Some(Record {
        at: Reading {
            wall: UnixMicros(u64::from_le_bytes(*wall)),
            boot: BootMicros(u64::from_le_bytes(*boot)),
        },
        boot_id: BootId(*boot_id),
        day: Day::new(u32::from_le_bytes(*day)),
        seen: UnixMicros(u64::from_le_bytes(*seen)),
        kind: if u32::from_le_bytes(*kind) == 0 { RecordKind::Anchor } else { RecordKind::Floor },
    })
}
