//! From records to puts: which row gets which sequence, and what each key has spent.

use std::collections::{BTreeMap, HashMap};

use keybrake_proto::journal::{Booking, Record, RecordError};
use keybrake_proto::key::KeyId;

use super::batch::{Batch, Family};
use super::format::{Spend, encode_sequence, encode_spend};

/// What the storage thread knows of the store without reading it. No I/O.
#[derive(Debug)]
pub(super) struct Books {
    spend: HashMap<KeyId, Spend>,
    next_sequence: u64,
    open_intents: u64,
    /// Records that were not records: a bug in a shard, as they come from this process.
    damaged: u64,
}

impl Books {
    pub(super) fn new(spend: Vec<(KeyId, Spend)>, next_sequence: u64) -> Books {
        Books { spend: spend.into_iter().collect(), next_sequence, open_intents: 0, damaged: 0 }
    }

    /// Intents without an outcome so far.
    pub(super) fn open_intents(&self) -> u64 {
        self.open_intents
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
                Record::Intent { .. } => self.open_intents = self.open_intents.saturating_add(1),
                Record::Outcome { intent, booking, row } => {
                    if intent.is_some() {
                        self.open_intents = self.open_intents.saturating_sub(1);
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

    /// Days only go on. A hold that ended on a day before the key's last one was carried to that
    /// day by the account word, so a booking for an earlier day is one whose window is over.
    fn book(&mut self, Booking { key, day, charge }: Booking) -> Spend {
        let spend = self.spend.entry(key).or_insert(Spend { day, committed: Default::default() });
        if day > spend.day {
            *spend = Spend { day, committed: charge };
        } else if day == spend.day {
            spend.committed = spend.committed.saturating_add(charge);
        }
        *spend
    }
}
