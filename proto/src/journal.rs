//! The records a shard hands to storage: an intent before the first byte goes to a vendor, an
//! outcome after.
//!
//! In this version they travel through a queue in memory; the file that makes them survive a crash
//! takes the same bytes. A record is `length u32 | crc32 u32 | payload`, little-endian, the length
//! and the checksum being those of the payload.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::key::KeyId;
use crate::money::Micros;
use crate::time::Day;

const HEADER_BYTES: usize = 8;

/// The longest payload: an audit row with all its texts at their limits stays well below.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

/// Numbers an exchange since the process started; no two shards give the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntentId(pub u64);

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// A hold exists and its request is about to be sent.
    Intent {
        /// Which exchange.
        id: IntentId,
        /// Whose money.
        key: KeyId,
        /// The day of the account word at the reserve.
        day: Day,
        /// What is held.
        quote: Micros,
    },
    /// An exchange ended, or a request was denied.
    Outcome {
        /// The intent it ends; `None` for a denial, which has none.
        intent: Option<IntentId>,
        /// What to add to the key's spend; `None` where no account was touched.
        booking: Option<Booking>,
        /// The encoded audit row.
        #[serde(borrow)]
        row: &'a [u8],
    },
}

/// What an outcome counts for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    /// Whose money.
    pub key: KeyId,
    /// The day of the account word when the hold ended.
    pub day: Day,
    /// What stays committed on that day: the charge, or the quote while in doubt.
    pub charge: Micros,
}

/// Bytes that are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordError {
    /// The record does not end within the bytes.
    Torn,
    /// Length, checksum or payload is wrong.
    Damaged,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RecordError::Torn => "a journal record that breaks off",
            RecordError::Damaged => "a damaged journal record",
        })
    }
}

impl std::error::Error for RecordError {}

impl<'a> Record<'a> {
    /// Appends the record's bytes to `out`.
    pub fn encode(&self, out: Vec<u8>) -> Vec<u8> {
        let start = out.len();
        let mut out = out;
        out.extend([0; HEADER_BYTES]);
        // Serializing integers and bytes to memory has no way to fail.
        let mut out = postcard::to_extend(self, out).unwrap_or_default();
        let Some((header, payload)) =
            out.get_mut(start..).and_then(|of| of.split_at_mut_checked(HEADER_BYTES))
        else {
            return out;
        };
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let (at_length, at_checksum) = header.split_at_mut(4);
        at_length.copy_from_slice(&length.to_le_bytes());
        at_checksum.copy_from_slice(&crc32fast::hash(payload).to_le_bytes());
        out
    }

    /// Reads the first record of `bytes`; also gives the bytes behind it.
    pub fn decode(bytes: &'a [u8]) -> Result<(Record<'a>, &'a [u8]), RecordError> {
        let (length, rest) = bytes.split_first_chunk().ok_or(RecordError::Torn)?;
        let (checksum, rest) = rest.split_first_chunk().ok_or(RecordError::Torn)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| RecordError::Damaged)?;
        if length > PAYLOAD_BYTES_MAX {
            return Err(RecordError::Damaged);
        }
        let (payload, rest) = rest.split_at_checked(length).ok_or(RecordError::Torn)?;
        if crc32fast::hash(payload) != u32::from_le_bytes(*checksum) {
            return Err(RecordError::Damaged);
        }
        let record = postcard::from_bytes(payload).map_err(|_| RecordError::Damaged)?;
        Ok((record, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records() -> Vec<Record<'static>> {
        let key = KeyId::from_bytes(b"0123456789abcdef").unwrap();
        let day = Day::new(20_778);
        vec![
            Record::Intent { id: IntentId(7), key, day, quote: Micros::MAX },
            Record::Outcome {
                intent: Some(IntentId(7)),
                booking: Some(Booking { key, day, charge: Micros::ZERO }),
                row: b"row",
            },
            Record::Outcome { intent: None, booking: None, row: b"" },
        ]
    }

    #[test]
    fn records_read_back_one_behind_the_other() {
        let bytes = records().iter().fold(Vec::new(), |bytes, record| record.encode(bytes));
        let mut rest = bytes.as_slice();
        for expected in records() {
            let (record, behind) = Record::decode(rest).unwrap();
            assert_eq!(record, expected);
            rest = behind;
        }
        assert_eq!(rest, b"");
    }

    #[test]
    fn every_cut_is_torn_and_every_flipped_bit_is_noticed() {
        let bytes = records()[1].encode(Vec::new());
        for end in 0..bytes.len() {
            assert_eq!(Record::decode(&bytes[..end]), Err(RecordError::Torn), "cut at {end}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::decode(&flipped).is_err(), "bit {bit}");
        }
    }
}
