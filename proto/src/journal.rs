//! The records of a shard's journal: an intent before the first byte goes to a vendor, an outcome after.
//!
//! The journal is also the queue of the audit: storage takes the same records, in order, each one
//! once. How records stand in a file is [`segment`]'s matter.

pub mod segment;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::catalog::amount::{Counted, ObjectId};
use crate::idempotency::Share;
use crate::key::KeyId;
use crate::money::Micros;
use crate::time::{Day, UnixMicros};

/// The longest payload: an audit row with all its texts at their limits stays well below.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;

const SHARD_SHIFT: u32 = 48;

/// Names an exchange for ever: the shard, and the place of its intent in that shard's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntentId(u64);

impl IntentId {
    /// The intent with sequence `sequence` of `shard`. A sequence stays below 2^48: at a million
    /// records a second that is nine years.
    pub fn new(shard: u16, sequence: u64) -> IntentId {
        IntentId(u64::from(shard) << SHARD_SHIFT | sequence)
    }

    /// The id with this number, which [`IntentId::as_u64`] gave.
    pub const fn from_u64(number: u64) -> IntentId {
        IntentId(number)
    }

    /// Whose journal it is in.
    pub fn shard(self) -> u16 {
        u16::try_from(self.0 >> SHARD_SHIFT).unwrap_or_default()
    }

    /// The id as a number, for storing it.
    pub fn as_u64(self) -> u64 {
        self.0
    }
}

/// `d` and sixteen hexadecimal digits, as operators write it.
impl fmt::Display for IntentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{:016x}", self.0)
    }
}

impl std::str::FromStr for IntentId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<IntentId, &'static str> {
        let digits = text.strip_prefix('d').filter(|digits| digits.len() == 16);
        let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        number
            .map(IntentId)
            .ok_or("a doubt's id is `d` and sixteen hexadecimal digits; `keybrake doubt list` shows them")
    }
}

/// One record. The encoding numbers the variants by their place, so a new one stands last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// A hold exists and its request is about to be sent. Its [`IntentId`] is made of the record's
    /// shard and sequence.
    Intent {
        /// Whose money: the key and its ancestors, leaf first.
        keys: Vec<KeyId>,
        /// The one day of the chain at the reserve (rule Q3).
        day: Day,
        /// What is held on each level.
        quote: Micros,
        /// The reservation that holds the quote, where other exchanges may be on it too: each of their
        /// intents names it, and it is held once (rule Q6).
        share: Option<Share>,
        /// The encoded audit row that tells of the exchange if no outcome ever comes.
        #[serde(borrow)]
        row: &'a [u8],
    },
    /// An exchange ended, or a request was denied.
    Outcome {
        /// The intent it ends; `None` for a denial, which has none.
        intent: Option<IntentId>,
        /// What became of the hold.
        end: End,
        /// What it counts on each level of the chain; empty for a denial.
        bookings: Vec<Booking>,
        /// The encoded audit row; empty for an intent whose exchange goes on under another one.
        #[serde(borrow)]
        row: &'a [u8],
    },
    /// An exchange vanished without an outcome: the row of its intent tells of it, and its hold is in doubt.
    Lost {
        /// The intent.
        intent: IntentId,
    },
    /// What a vendor's object counts for a key now. It stands behind the outcome that says so: without it a later
    /// call on the object counts too much, without the outcome it would count too little.
    Counted {
        /// The key.
        key: KeyId,
        /// The object.
        object: ObjectId,
        /// What it counts.
        counted: Counted,
    },
}

/// What became of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It ended: settled or released, as the bookings say. Of several exchanges on one reservation,
    /// one that changes nothing ends so too.
    Booked,
    /// It is known since then that the vendor carried the request out, and the bookings say what it
    /// cost: a repeat of it is free. A doubt of the same reservation is over.
    Executed {
        /// The time.
        at: UnixMicros,
    },
    /// It was sent and how it ended is not known: the quote stays held (rule Q1).
    InDoubt,
}

/// What an outcome counts for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Booking {
    /// Whose money.
    pub key: KeyId,
    /// The day of the account word when the hold ended.
    pub day: Day,
    /// What is settled on that day; zero while in doubt.
    pub charge: Micros,
    /// What it counts against the request budget of that day: 1, or 0 where nothing was sent.
    pub requests: u32,
}

/// A payload that is no record: written by a newer program, or by none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARecord;

impl fmt::Display for NotARecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a journal record that cannot be read")
    }
}

impl std::error::Error for NotARecord {}

impl<'a> Record<'a> {
    /// Appends the record's payload to `out`.
    pub fn encode(&self, out: Vec<u8>) -> Vec<u8> {
        // Serializing integers and bytes to memory has no way to fail.
        postcard::to_extend(self, out).unwrap_or_default()
    }

    /// Reads what [`Record::encode`] wrote.
    pub fn decode(payload: &'a [u8]) -> Result<Record<'a>, NotARecord> {
        postcard::from_bytes(payload).map_err(|_| NotARecord)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::currency::Currency;
    use crate::idempotency::{Identity, ReservationId};

    #[test]
    fn records_read_back_as_written() {
        let key = KeyId::from_bytes(b"0123456789abcdef").unwrap();
        let day = Day::new(20_778);
        let booking = Booking { key, day, charge: Micros::MAX, requests: 1 };
        let intent = IntentId::new(3, 7);
        let share = Some(Share { reservation: ReservationId(7), identity: Identity([3; 16]) });
        let executed = End::Executed { at: UnixMicros(5) };
        for record in [
            Record::Intent { keys: vec![key, key], day, quote: Micros::MAX, share: None, row: b"row" },
            Record::Intent { keys: vec![key], day, quote: Micros::MAX, share, row: b"row" },
            Record::Outcome { intent: Some(intent), end: executed, bookings: Vec::new(), row: b"" },
            Record::Outcome { intent: Some(intent), end: End::InDoubt, bookings: vec![booking], row: b"row" },
            Record::Outcome { intent: None, end: End::Booked, bookings: Vec::new(), row: b"" },
            Record::Lost { intent },
            Record::Counted {
                key,
                object: ObjectId::parse("pi_1").unwrap(),
                counted: Counted { minor: u64::MAX, currency: Currency::USD },
            },
        ] {
            assert_eq!(Record::decode(&record.encode(Vec::new())), Ok(record));
        }
        assert_eq!(Record::decode(b"\x09"), Err(NotARecord));
    }

    #[test]
    fn a_doubts_id_is_read_as_it_is_written_and_nothing_else_is() {
        let id = IntentId::new(2, 77);
        assert_eq!(id.to_string(), "d000200000000004d");
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "d", "000200000000004d", "d00020000000004d", "d000200000000004g"] {
            assert!(text.parse::<IntentId>().is_err(), "{text}");
        }
    }
}
