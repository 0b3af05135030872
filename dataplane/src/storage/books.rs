//! From records to puts: which row gets which sequence, and what each key has committed.
//!
//! What is stored for a key is what it settled on its last day and what its open intents hold: a
//! process that is killed while calls are at a vendor finds their quotes committed at the next start.

use std::collections::{BTreeMap, HashMap};

use keybrake_proto::journal::{Booking, IntentId, Record, RecordError};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::Day;

use super::batch::{Batch, Family};
use super::format::{Spend, encode_sequence, encode_spend};

/// What the storage thread knows of the store without reading it. No I/O.
#[derive(Debug)]
pub(super) struct Books {
    accounts: HashMap<KeyId, Entry>,
    /// Intents without an outcome, with what each holds.
    open: HashMap<IntentId, (KeyId, Micros)>,
    next_sequence: u64,
    /// Records that were not records: a bug in a shard, as they come from this process.
    damaged: u64,
}

/// One key's money as the records say it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    day: Day,
    /// Settled on `day`, or committed on it before this process started.
    settled: Micros,
    /// What its open intents hold; a hold is carried into a new day.
    held: Micros,
}

impl Entry {
    fn committed(&self) -> Spend {
        Spend { day: self.day, committed: self.settled.saturating_add(self.held) }
    }

    /// Days only go on.
    fn advance(&mut self, day: Day) {
        if day > self.day {
            (self.day, self.settled) = (day, Micros::ZERO);
        }
    }
}

impl Books {
    pub(super) fn new(spend: Vec<(KeyId, Spend)>, next_sequence: u64) -> Books {
        let entry = |spend: Spend| Entry { day: spend.day, settled: spend.committed, held: Micros::ZERO };
        let accounts = spend.into_iter().map(|(key, spend)| (key, entry(spend))).collect();
        Books { accounts, open: HashMap::new(), next_sequence, damaged: 0 }
    }

    /// Intents without an outcome so far.
    pub(super) fn open_intents(&self) -> u64 {
        u64::try_from(self.open.len()).unwrap_or(u64::MAX)
    }

    /// Records that did not decode.
    pub(super) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Enters `records` and gives what is to be written for them.
    ///
    /// Spend is written as what it is, not as what is added: the batch may be written twice.
    pub(super) fn enter(&mut self, records: &[Vec<u8>]) -> Batch {
        let mut batch = Batch::default();
        let mut touched = BTreeMap::new();
        for bytes in records {
            if self.enter_one(bytes, &mut batch, &mut touched).is_err() {
                self.damaged = self.damaged.saturating_add(1);
            }
        }
        for (key, spend) in touched {
            batch.put(Family::Spend, key.as_bytes(), &encode_spend(spend));
        }
        batch
    }

    fn enter_one(
        &mut self,
        bytes: &[u8],
        batch: &mut Batch,
        touched: &mut BTreeMap<KeyId, Spend>,
    ) -> Result<(), RecordError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (record, behind) = Record::decode(rest)?;
            rest = behind;
            match record {
                Record::Intent { id, key, day, quote } => {
                    self.open.insert(id, (key, quote));
                    touched.insert(
                        key,
                        self.change(key, day, |entry| entry.held = entry.held.saturating_add(quote)),
                    );
                }
                Record::Outcome { intent, booking, row } => {
                    if let Some((key, quote)) = intent.and_then(|id| self.open.remove(&id)) {
                        let day = booking.map_or(Day::default(), |booking| booking.day);
                        let end = |entry: &mut Entry| entry.held = entry.held.saturating_sub(quote);
                        touched.insert(key, self.change(key, day, end));
                    }
                    batch.put(Family::Audit, &encode_sequence(self.next_sequence), row);
                    self.next_sequence = self.next_sequence.saturating_add(1);
                    if let Some(booking) = booking {
                        touched.insert(booking.key, self.book(booking));
                    }
                }
            }
        }
        Ok(())
    }

    /// A hold that ended on a day before the key's last one was carried to that day by the account
    /// word, so a booking for an earlier day is one whose window is over.
    fn book(&mut self, Booking { key, day, charge }: Booking) -> Spend {
        self.change(key, day, |entry| {
            if day == entry.day {
                entry.settled = entry.settled.saturating_add(charge);
            }
        })
    }

    /// Changes a key's entry on `day` or its own later one; gives what is to be stored.
    fn change(&mut self, key: KeyId, day: Day, change: impl FnOnce(&mut Entry)) -> Spend {
        let new = Entry { day, settled: Micros::ZERO, held: Micros::ZERO };
        let entry = self.accounts.entry(key).or_insert(new);
        entry.advance(day);
        change(entry);
        entry.committed()
    }
}
