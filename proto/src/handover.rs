//! What a running dataplane and the one that takes its place say to each other (rule Q23).
//!
//! The new one asks with a control frame, [`TakeOver`]. The answer is a control frame too,
//! [`HandedOver`], and carries descriptors: the listeners' and the control socket's. From then on
//! the old one sends a [`Parting`] for each exchange that ends with it, framed as control frames are
//! but not in JSON. What money that moves the new one decides: it alone knows of repeats it has let in.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::catalog::amount::{Counted, ObjectId};
use crate::control::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Refused};
use crate::idempotency::{Ending, Identity};
use crate::journal::{IntentId, NotARecord, segment};
use crate::key::KeyId;
use crate::ledger::chain::Sent;
use crate::money::Micros;
use crate::time::UnixMicros;

/// Counts the changes of this protocol.
pub const FORMAT: u32 = 2;

/// The most sockets that are handed over: the kernel takes 253 descriptors at once (`SCM_MAX_FD`).
pub const LISTENERS_MAX: usize = 250;

/// What a program reads and writes: only programs of equal formats can take over from each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formats {
    /// [`FORMAT`].
    pub handover: u32,
    /// That of the journals.
    pub journal: u16,
    /// That of the store.
    pub store: String,
}

impl Formats {
    /// Those of this program, whose store has the schema `store`.
    pub fn own(store: &str) -> Formats {
        Formats { handover: FORMAT, journal: segment::VERSION, store: store.to_owned() }
    }
}

impl fmt::Display for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Formats { handover, journal, store } = self;
        write!(f, "hand-over {handover}, journal {journal}, store {store}")
    }
}

/// A dataplane that wants to take the place of the running one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    /// What it reads.
    pub formats: Formats,
    /// Its `proxy.listen`: the sockets it takes over stay where they are.
    pub listen: String,
    /// Its `data.anchor_file`: with another one it would not find how far the store had come.
    pub anchor: String,
    /// Its process id.
    pub pid: u32,
}

/// What the one before gives away. Its descriptors come with the first bytes: the sockets for agents
/// first, the control socket last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedOver {
    /// Exchanges that go on there: a [`Parting`] follows for each.
    pub running: Vec<u64>,
    /// Which of them act on an object of a vendor's.
    pub acts_on: Vec<ActsOn>,
    /// Since when nothing is admitted, in microseconds of the monotonic clock, which is the machine's.
    pub paused_at_us: u64,
    /// Its process id.
    pub pid: u32,
}

/// An object that an exchange acts on, so that no other call does until it ends (rule Q8).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActsOn {
    /// The exchange.
    pub intent: u64,
    /// The vendor's name. Numbers of vendors follow a configuration, which may be another one by now.
    pub vendor: String,
    /// Which of the vendor's hosts, where it has several.
    pub label: Option<String>,
    /// The object.
    pub object: ObjectId,
    /// The vault key and the request, where that may be repeated meanwhile.
    pub request: Option<(KeyId, Identity)>,
}

/// To [`TakeOver`]. A refusal is that of any [`Reply`](crate::control::Reply), so that a dataplane that
/// knows nothing of this is understood too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reply", content = "body")]
pub enum Answer {
    /// The old one admits nothing any more.
    HandedOver(Box<HandedOver>),
    /// The old one goes on.
    Refused(Refused),
}

/// The new one admits; the last it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admits {
    /// How long nothing was admitted.
    pub paused_us: u64,
}

/// How an exchange ended, by itself: what that means for the money of others on its reservation is
/// for whoever keeps the accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// What is known of it.
    pub ending: Ending,
    /// Whether a byte of it was sent.
    pub sent: Sent,
    /// What it cost; zero unless it was executed.
    pub charge: Micros,
    /// When that was known.
    pub at: UnixMicros,
}

/// What the old one says after the hand-over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parting<'a> {
    /// An exchange ended.
    Ended {
        /// Its intent.
        intent: IntentId,
        /// How.
        fate: Fate,
        /// The encoded audit row, whose amount is the old one's opinion.
        #[serde(borrow)]
        row: &'a [u8],
    },
    /// An exchange vanished without an outcome.
    Lost {
        /// Its intent.
        intent: IntentId,
    },
    /// What a vendor's object counts for a key now, behind the end of the exchange that says so.
    Counted {
        /// The exchange's intent.
        intent: IntentId,
        /// The key.
        key: KeyId,
        /// The object.
        object: ObjectId,
        /// What it counts.
        counted: Counted,
    },
    /// A request was refused.
    Denied {
        /// The encoded audit row.
        #[serde(borrow)]
        row: &'a [u8],
    },
}

impl<'a> Parting<'a> {
    /// The frame of it.
    pub fn frame(&self) -> Vec<u8> {
        // Serializing integers and bytes to memory has no way to fail.
        let mut frame = postcard::to_extend(self, vec![0; FRAME_HEADER_BYTES]).unwrap_or_default();
        let length = u32::try_from(frame.len().saturating_sub(FRAME_HEADER_BYTES)).unwrap_or(u32::MAX);
        for (to, from) in frame.iter_mut().zip(length.to_le_bytes()) {
            *to = from;
        }
        frame
    }

    /// Reads a frame's body.
    pub fn decode(body: &'a [u8]) -> Result<Parting<'a>, NotARecord> {
        postcard::from_bytes(body).map_err(|_| NotARecord)
    }
}

const _: () = assert!(crate::journal::PAYLOAD_BYTES_MAX < FRAME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::currency::Currency;
    use crate::control::body_bytes;
    use crate::idempotency::Answer;

    #[test]
    fn partings_read_back_as_written() {
        let intent = IntentId::new(3, 7);
        let fate = Fate {
            ending: Ending::Executed(Answer::Replayed),
            sent: Sent::Yes,
            charge: Micros::MAX,
            at: UnixMicros(5),
        };
        let unsent = Fate {
            ending: Ending::MovedNothing,
            sent: Sent::No,
            charge: Micros::ZERO,
            at: UnixMicros::default(),
        };
        for parting in [
            Parting::Ended { intent, fate, row: b"row" },
            Parting::Ended { intent, fate: unsent, row: b"" },
            Parting::Lost { intent },
            Parting::Counted {
                intent,
                key: KeyId::from_bytes(b"0123456789abcdef").unwrap(),
                object: ObjectId::parse("pi_1").unwrap(),
                counted: Counted { minor: 7, currency: Currency::USD },
            },
            Parting::Denied { row: b"row" },
        ] {
            let frame = parting.frame();
            let (header, body) = frame.split_first_chunk().unwrap();
            assert_eq!(body_bytes(*header).unwrap(), body.len());
            assert_eq!(Parting::decode(body), Ok(parting));
        }
        assert_eq!(Parting::decode(b"\x09"), Err(NotARecord));
    }
}
