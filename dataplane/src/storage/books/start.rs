//! What is done with the books at a start: what a crash cut off is ended, and what another process still
//! runs is kept (rule Q23).

use std::collections::BTreeMap;
use std::sync::Arc;

use keybrake_proto::audit::AuditRow;
use keybrake_proto::idempotency::{Entry, ReservationId, Share};
use keybrake_proto::journal::{IntentId, NotARecord, Record};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::{Day, UnixMicros};

use super::{Books, Handed, Touched};
use crate::idempotency::Memory;
use crate::requests::OfMonth;
use crate::storage::batch::{Batch, Family};
use crate::storage::format::{encode_intent, encode_open};
use crate::storage::remembered::Executed;

/// An exchange that another process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    /// Its intent, which stays open until its outcome comes.
    pub(crate) intent: IntentId,
    /// Whose money: the key and its ancestors, leaf first.
    pub(crate) keys: Vec<KeyId>,
    /// The day of the chain at its reserve.
    pub(crate) day: Day,
    /// What its intent says is held for it, by itself or by others.
    pub(crate) quote: Micros,
    /// What is held for it beyond the doubts and the other exchanges of its reservation.
    pub(crate) held: Micros,
    /// The reservation, where others may be on it.
    pub(crate) share: Option<Share>,
}

/// What the books know of a reservation with running exchanges.
enum Standing {
    /// Nothing yet: its quote is held.
    Held,
    /// One of its exchanges is in doubt, and holds the quote.
    InDoubt(Micros),
    /// That doubt was booked: nothing is held.
    Booked,
    Executed(UnixMicros),
}

impl Books {
    /// What the shards are to know of repeats, as of these books.
    pub(crate) fn begin_memory(&mut self, now: UnixMicros) -> Arc<Memory> {
        // Above those of earlier runs, also of reservations that left nothing in the store.
        let memory = Arc::new(Memory::new(self.last_reservation.max(ReservationId(now.0))));
        for Executed { key, share, at } in self.remembered.all() {
            let entry = Entry::executed(share.reservation, *at);
            if !entry.is_over(now) {
                memory.insert(*key, share.identity, entry);
            }
        }
        for doubt in self.doubts.values().filter(|doubt| doubt.booked.is_none()) {
            if let (Some(key), Some(share)) = (doubt.keys.first(), doubt.share) {
                memory.insert(*key, share.identity, Entry::in_doubt(share.reservation, doubt.quote));
            }
        }
        self.remember_running(&memory);
        self.memory = Arc::clone(&memory);
        memory
    }

    /// The exchanges that another process runs: all that are open at a start.
    pub(crate) fn running(&self) -> Vec<Running> {
        let mut left = self.held_of_reservations();
        let running = |(intent, open): (&IntentId, &super::Open)| {
            let held = match open.share {
                None => open.quote,
                // Once for all who are on it.
                Some(share) => left.remove(&share.reservation).unwrap_or_default(),
            };
            let (keys, day, quote, share) = (open.keys.clone(), open.day, open.quote, open.share);
            Running { intent: *intent, keys, day, quote, held, share }
        };
        self.open.iter().map(running).collect()
    }

    /// Requests of the month, those included that another process runs.
    pub(crate) fn sent(&self) -> OfMonth {
        self.open.values().fold(self.sent, |sent, open| sent.plus(open.day.month(), 1))
    }

    /// What is held for each reservation that is open and neither in doubt nor executed.
    fn held_of_reservations(&self) -> BTreeMap<ReservationId, Micros> {
        let mut held: BTreeMap<ReservationId, Micros> = BTreeMap::new();
        for open in self.open.values() {
            let Some(share) = open.share else { continue };
            if matches!(self.standing(share.reservation), Standing::Held) {
                let most = held.entry(share.reservation).or_default();
                *most = (*most).max(open.quote);
            }
        }
        held
    }

    fn standing(&self, reservation: ReservationId) -> Standing {
        if let Some(executed) = self.remembered.find(reservation) {
            return Standing::Executed(executed.at);
        }
        match self.doubted.get(&reservation).and_then(|id| self.doubts.get(id)) {
            Some(doubt) if doubt.booked.is_none() => Standing::InDoubt(doubt.quote),
            Some(_) => Standing::Booked,
            None => Standing::Held,
        }
    }

    /// Repeats find the exchanges that another process runs.
    fn remember_running(&self, memory: &Memory) {
        let mut entries: BTreeMap<ReservationId, (KeyId, Share, Entry)> = BTreeMap::new();
        let held = self.held_of_reservations();
        for open in self.open.values() {
            let (Some(share), Some(key)) = (open.share, open.keys.first()) else { continue };
            let number = share.reservation;
            let entry = match self.standing(number) {
                Standing::Held => Entry::held(number, held.get(&number).copied().unwrap_or_default()),
                Standing::InDoubt(quote) => Entry::in_doubt(number, quote),
                Standing::Executed(at) => Entry::executed(number, at),
                Standing::Booked => continue,
            };
            entries.entry(number).or_insert((*key, share, entry)).2.join();
        }
        for (key, share, entry) in entries.into_values() {
            memory.insert(key, share.identity, entry);
        }
    }

    /// Enters what the journals have and the store has not, and ends what a crash left open. Gives how
    /// many exchanges that were; those that `runs` says another process runs stay open. `has_row` knows the
    /// rows behind the floors.
    pub(in crate::storage) fn recover(
        &mut self,
        records: &[Handed],
        now: UnixMicros,
        runs: impl Fn(IntentId) -> bool,
        has_row: impl Fn(&str) -> bool,
    ) -> (Batch, u64) {
        let mut batch = self.enter(records, now);
        self.forget_ended(has_row);
        let before = self.open_intents();
        batch.append(self.end_open(now, runs));
        (batch, before.saturating_sub(self.open_intents()))
    }

    /// Ends every intent that has no outcome and is not run elsewhere, as after a crash: a row that says so,
    /// and a doubt.
    fn end_open(&mut self, now: UnixMicros, runs: impl Fn(IntentId) -> bool) -> Batch {
        let (mut batch, mut touched) = (Batch::default(), Touched::default());
        let open: Vec<IntentId> = self.open.keys().copied().filter(|id| !runs(*id)).collect();
        for id in open {
            self.lose(id, now, &mut batch, &mut touched);
        }
        // Behind the floors nothing would be left of them if this process ended.
        for (id, open) in self.open.iter_mut().filter(|(_, open)| !open.stored) {
            batch.put(Family::Intents, &encode_intent(*id), &encode_open(open));
            open.stored = true;
        }
        // Or the next start would find the same intents again.
        self.raise_floors(&mut batch);
        self.finish(&mut batch, &touched);
        batch
    }

    /// At a start: forgets the open intents whose rows the store has. A store can be past the end of
    /// a journal: the disk had the one's outcome and not yet the other's, or the file was refused.
    fn forget_ended(&mut self, has_row: impl Fn(&str) -> bool) {
        self.open.retain(|_, open| {
            let row = AuditRow::decode(&open.row);
            open.stored || !row.is_ok_and(|row| has_row(row.id))
        });
    }

    /// At a start: a record that the store has, of which only the open intent is missing there.
    pub(super) fn recall(&mut self, handed: &Handed) -> Result<(), NotARecord> {
        if self.floors.get(&handed.shard).is_some_and(|floor| handed.sequence <= *floor) {
            return Ok(());
        }
        match Record::decode(&handed.payload)? {
            record @ Record::Intent { .. } => self.open(handed, record),
            Record::Outcome { intent: Some(intent), .. } | Record::Lost { intent } => {
                self.open.remove(&intent);
            }
            Record::Outcome { intent: None, .. } | Record::Counted { .. } => {}
        }
        Ok(())
    }
}
