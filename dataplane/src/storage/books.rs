//! From records to changes of the store: which row gets which sequence, what each key has spent, and
//! which exchanges are in doubt.
//!
//! The same code runs behind live shards and at a start, over the records that the store does not
//! have yet: there is one way from a journal to the books.

mod start;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use keybrake_proto::audit::AuditRow;
use keybrake_proto::idempotency::{ReservationId, Share};
use keybrake_proto::journal::{Booking, End, IntentId, NotARecord, Record};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::{Day, UnixMicros};
use serde::{Deserialize, Serialize};

use super::batch::{Batch, Family};
use super::format::{self, CURSOR, FLOOR, Spend, encode_intent, encode_place, encode_sequence, encode_spend};
use super::kept_objects::{self, KeptObject};
use super::remembered::{Executed, Remembered};
use super::resolve;
use crate::idempotency::Memory;
use crate::objects::Table;
use crate::requests::OfMonth;
pub(crate) use start::Running;

/// A record on its way to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handed {
    /// Whose journal it is in.
    pub(crate) shard: u16,
    /// Its place there.
    pub(crate) sequence: u64,
    /// Its bytes.
    pub(crate) payload: std::sync::Arc<[u8]>,
}

impl Handed {
    /// The record in it.
    pub(crate) fn record(&self) -> Result<Record<'_>, NotARecord> {
        Record::decode(&self.payload)
    }
}

/// An exchange that was sent and whose outcome is not known (rule Q1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Doubt {
    /// Whose money: the key and its ancestors, leaf first.
    pub(crate) keys: Vec<KeyId>,
    /// What is held on each of them.
    pub(crate) quote: Micros,
    /// Since when.
    pub(crate) since: UnixMicros,
    /// The day on which it was booked at its quote; `None` while it is held.
    pub(crate) booked: Option<Day>,
    /// The reservation, where a repeat may still end it.
    pub(crate) share: Option<Share>,
    /// The encoded audit row.
    pub(crate) row: Vec<u8>,
}

/// An intent without an outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
    keys: Vec<KeyId>,
    day: Day,
    quote: Micros,
    share: Option<Share>,
    row: Vec<u8>,
    /// Whether the store has it.
    #[serde(skip)]
    stored: bool,
}

impl Open {
    /// Of a record that is an intent.
    fn of(record: Record<'_>) -> Option<Open> {
        let Record::Intent { keys, day, quote, share, row } = record else { return None };
        Some(Open { keys, day, quote, share, row: row.to_vec(), stored: false })
    }
}

/// What the store holds at a start.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    pub(crate) spend: Vec<(KeyId, Spend)>,
    pub(crate) doubts: Vec<(IntentId, Doubt)>,
    pub(crate) open: Vec<(IntentId, Open)>,
    pub(crate) executed: Vec<Executed>,
    pub(crate) objects: Vec<KeptObject>,
    pub(crate) cursors: Vec<(u16, u64)>,
    pub(crate) floors: Vec<(u16, u64)>,
    /// Requests that were sent in the last month that has any.
    pub(crate) sent: OfMonth,
    /// The sequence of the first audit row behind the floors.
    pub(crate) floor_row: u64,
    /// The sequence of the next audit row.
    pub(crate) next_sequence: u64,
}

/// What a key starts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) spend: Spend,
    /// What it has in doubt and holds therefore.
    pub(crate) in_doubt: Micros,
}

/// What the storage thread knows of the store without reading it. No I/O.
#[derive(Debug, Default)]
pub(crate) struct Books {
    pub(super) accounts: HashMap<KeyId, Spend>,
    pub(super) doubts: BTreeMap<IntentId, Doubt>,
    open: BTreeMap<IntentId, Open>,
    pub(super) remembered: Remembered,
    pub(super) objects: Table,
    /// The doubt over each reservation that has one.
    doubted: HashMap<ReservationId, IntentId>,
    /// The highest number of a reservation.
    pub(super) last_reservation: ReservationId,
    /// What the shards know of repeats.
    pub(super) memory: Arc<Memory>,
    /// Up to which record each journal has been entered.
    cursors: BTreeMap<u16, u64>,
    /// Requests that were sent in the last month that has any, of all keys.
    pub(super) sent: OfMonth,
    /// Up to which record the store has the open intents of each journal.
    floors: BTreeMap<u16, u64>,
    /// The sequence of the first audit row behind the floors.
    pub(super) floor_row: u64,
    next_sequence: u64,
    /// Records that were not records: a bug in a shard, as they come from this process.
    damaged: u64,
}

/// What changed while a batch was made.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) keys: BTreeSet<KeyId>,
    has_sent: bool,
    shards: BTreeSet<u16>,
}

impl Books {
    pub(super) fn new(stored: Stored) -> Books {
        let shares = stored.open.iter().filter_map(|(_, open)| open.share);
        let shares = shares.chain(stored.doubts.iter().filter_map(|(_, doubt)| doubt.share));
        let shares = shares.chain(stored.executed.iter().map(|executed| executed.share));
        let last_reservation = shares.map(|share| share.reservation).max().unwrap_or_default();
        let share = |(id, doubt): &(IntentId, Doubt)| Some((doubt.share?.reservation, *id));
        Books {
            doubted: stored.doubts.iter().filter_map(share).collect(),
            remembered: Remembered::new(stored.executed),
            objects: kept_objects::table(stored.objects),
            last_reservation,
            memory: Arc::default(),
            accounts: stored.spend.into_iter().collect(),
            doubts: stored.doubts.into_iter().collect(),
            open: stored.open.into_iter().map(|(id, open)| (id, Open { stored: true, ..open })).collect(),
            cursors: stored.cursors.into_iter().collect(),
            floors: stored.floors.into_iter().collect(),
            sent: stored.sent,
            floor_row: stored.floor_row.max(1),
            next_sequence: stored.next_sequence.max(1),
            damaged: 0,
        }
    }

    /// Intents without an outcome so far.
    pub(crate) fn open_intents(&self) -> u64 {
        u64::try_from(self.open.len()).unwrap_or(u64::MAX)
    }

    /// Records that did not decode.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Whether nothing was ever entered.
    pub(crate) fn is_empty(&self) -> bool {
        self.accounts.is_empty() && self.cursors.is_empty() && self.next_sequence == 1
    }

    /// Up to which record of each shard the store has the open intents too.
    pub(crate) fn floors(&self) -> &BTreeMap<u16, u64> {
        &self.floors
    }

    /// Up to which record of each shard the books go.
    pub(crate) fn cursors(&self) -> &BTreeMap<u16, u64> {
        &self.cursors
    }

    /// The exchanges in doubt, those included that were booked.
    pub(crate) fn doubts(&self) -> &BTreeMap<IntentId, Doubt> {
        &self.doubts
    }

    /// The doubts that are held since `before` or longer, and the oldest beyond `held_max` (rule N5): they too are
    /// booked at their quote. At most `most` of them, the oldest, in the order of their ids.
    pub(super) fn expired(&self, before: UnixMicros, held_max: usize, most: usize) -> Vec<IntentId> {
        let held = self.doubts.iter().filter(|(_, doubt)| doubt.booked.is_none());
        let mut held: Vec<(UnixMicros, IntentId)> = held.map(|(id, doubt)| (doubt.since, *id)).collect();
        held.sort_unstable();
        let too_many = held.len().saturating_sub(held_max);
        let is_over = |(at, (since, _)): &(usize, (UnixMicros, IntentId))| *at < too_many || *since <= before;
        let over = held.into_iter().enumerate().take_while(is_over).take(most);
        let mut over: Vec<IntentId> = over.map(|(_, (_, id))| id).collect();
        over.sort_unstable();
        over
    }

    /// The oldest doubts that were booked, beyond `booked_max`: nobody has resolved them, and they leave the list. What
    /// was booked for them stays booked.
    pub(super) fn forgotten(&self, booked_max: usize, most: usize) -> Vec<IntentId> {
        let booked = self.doubts.iter().filter(|(_, doubt)| doubt.booked.is_some());
        let mut booked: Vec<(UnixMicros, IntentId)> = booked.map(|(id, doubt)| (doubt.since, *id)).collect();
        let too_many = booked.len().saturating_sub(booked_max).min(most);
        booked.sort_unstable();
        booked.into_iter().take(too_many).map(|(_, id)| id).collect()
    }

    /// Takes doubts that were booked off the list.
    pub(super) fn forget_booked(&mut self, ids: &[IntentId]) -> Batch {
        let mut batch = Batch::default();
        for id in ids {
            let Some(doubt) = self.doubts.remove(id) else { continue };
            batch.delete(Family::Doubts, &encode_intent(*id));
            if let Some(share) = doubt.share {
                self.doubted.remove(&share.reservation);
            }
        }
        batch
    }

    /// What every key that ever spent has spent, and what it has in doubt.
    pub(crate) fn openings(&self) -> HashMap<KeyId, Opening> {
        let opening =
            |(key, spend): (&KeyId, &Spend)| (*key, Opening { spend: *spend, in_doubt: Micros::ZERO });
        let mut openings: HashMap<KeyId, Opening> = self.accounts.iter().map(opening).collect();
        for doubt in self.doubts.values().filter(|doubt| doubt.booked.is_none()) {
            for key in &doubt.keys {
                let opening = openings.entry(*key).or_default();
                opening.in_doubt = opening.in_doubt.saturating_add(doubt.quote);
            }
        }
        openings
    }

    /// Enters `records`, each once, and gives what is to be written for them.
    ///
    /// Spend is written as what it is, not as what is added: the batch may be written twice.
    pub(super) fn enter(&mut self, records: &[Handed], now: UnixMicros) -> Batch {
        let (mut batch, mut touched) = (Batch::default(), Touched::default());
        for handed in records {
            let cursor = self.cursors.entry(handed.shard).or_default();
            // The store has it: it was handed over before a crash, or stands in two segments.
            let is_new = handed.sequence > *cursor;
            let result = if is_new {
                *cursor = handed.sequence;
                touched.shards.insert(handed.shard);
                self.enter_one(handed, now, &mut batch, &mut touched)
            } else {
                self.recall(handed)
            };
            if result.is_err() {
                self.damaged = self.damaged.saturating_add(1);
            }
        }
        self.finish(&mut batch, &touched);
        batch
    }

    /// What the store has to know before a journal may forget its first records: the open intents
    /// among them. Gives also up to where each journal may forget.
    pub(super) fn checkpoint(&mut self) -> (Batch, BTreeMap<u16, u64>) {
        let mut batch = Batch::default();
        for (id, open) in self.open.iter_mut().filter(|(_, open)| !open.stored) {
            batch.put(Family::Intents, &encode_intent(*id), &format::encode_open(open));
            open.stored = true;
        }
        self.raise_floors(&mut batch);
        (batch, self.floors.clone())
    }

    fn raise_floors(&mut self, batch: &mut Batch) {
        for (shard, cursor) in &self.cursors {
            if self.floors.insert(*shard, *cursor) != Some(*cursor) {
                batch.put(Family::Meta, &encode_place(FLOOR, *shard), &encode_sequence(*cursor));
            }
        }
        if self.floor_row != self.next_sequence {
            self.floor_row = self.next_sequence;
            batch.put(Family::Meta, format::FLOOR_ROW, &encode_sequence(self.floor_row));
        }
    }

    fn open(&mut self, handed: &Handed, record: Record<'_>) {
        let Some(open) = Open::of(record) else { return };
        if let Some(share) = open.share {
            self.last_reservation = self.last_reservation.max(share.reservation);
        }
        self.open.insert(IntentId::new(handed.shard, handed.sequence), open);
    }

    fn enter_one(
        &mut self,
        handed: &Handed,
        now: UnixMicros,
        batch: &mut Batch,
        touched: &mut Touched,
    ) -> Result<(), NotARecord> {
        match Record::decode(&handed.payload)? {
            record @ Record::Intent { .. } => self.open(handed, record),
            Record::Outcome { intent, end, bookings, row } => {
                let open = intent.and_then(|id| Some((id, self.close(id, batch)?)));
                // In the month of its reserve, as the workers count it.
                if let (Some((_, open)), Some(leaf)) = (&open, bookings.first()) {
                    self.count(open.day, leaf.requests, touched);
                }
                for booking in &bookings {
                    self.book(*booking, touched);
                }
                if end == End::InDoubt {
                    let (id, open) = open.ok_or(NotARecord)?;
                    self.doubt(id, open, row, now, batch);
                    return Ok(());
                }
                self.put_row(row, batch);
                if let (End::Executed { at }, Some((_, open))) = (end, open) {
                    self.execute(&open, at, now, batch);
                }
            }
            Record::Lost { intent } => self.lose(intent, now, batch, touched),
            Record::Counted { key, object, counted } => {
                kept_objects::put(&mut self.objects, KeptObject { key, object, counted, at: now }, batch);
            }
        }
        Ok(())
    }

    fn count(&mut self, day: Day, requests: u32, touched: &mut Touched) {
        self.sent = self.sent.plus(day.month(), u64::from(requests));
        touched.has_sent |= requests > 0;
    }

    fn close(&mut self, id: IntentId, batch: &mut Batch) -> Option<Open> {
        let open = self.open.remove(&id)?;
        if open.stored {
            batch.delete(Family::Intents, &encode_intent(id));
        }
        Some(open)
    }

    fn lose(&mut self, id: IntentId, now: UnixMicros, batch: &mut Batch, touched: &mut Touched) {
        let Some(open) = self.close(id, batch) else { return };
        let row = open.row.clone();
        self.count(open.day, 1, touched);
        for key in &open.keys {
            let day = resolve::day_of(self, *key, open.day);
            let booking = Booking { key: *key, day, charge: Micros::ZERO, requests: 1 };
            self.book(booking, touched);
        }
        self.doubt(id, open, &row, now, batch);
    }

    /// Puts the row of an exchange whose outcome is not known, and what it held in doubt.
    ///
    /// What several exchanges share is in doubt once, and not if one of them was executed. Their
    /// journals come in any order, so each of them may find the others ended or still open.
    fn doubt(&mut self, id: IntentId, open: Open, row: &[u8], now: UnixMicros, batch: &mut Batch) {
        // Nothing is held for a call that moves no money, so nothing is in doubt.
        if open.quote == Micros::ZERO {
            return self.put_row(row, batch);
        }
        if open.share.is_some_and(|share| self.is_counted(share.reservation)) {
            return match AuditRow::decode(row) {
                Ok(row) => {
                    self.put_row(&AuditRow { amount: Micros::ZERO, ..row }.encode(Vec::new()), batch);
                }
                Err(_) => self.put_row(row, batch),
            };
        }
        self.put_row(row, batch);
        let Open { keys, quote, share, .. } = open;
        let doubt = Doubt { keys, quote, since: now, booked: None, share, row: row.to_vec() };
        batch.put(Family::Doubts, &encode_intent(id), &format::encode_doubt(&doubt));
        if let Some(share) = share {
            self.doubted.insert(share.reservation, id);
        }
        self.doubts.insert(id, doubt);
    }

    /// Whether the money of a reservation is booked or in doubt already.
    fn is_counted(&self, reservation: ReservationId) -> bool {
        self.remembered.has(reservation) || self.doubted.contains_key(&reservation)
    }

    /// The vendor executed the request of `open`: repeats are free, and its reservation is not in doubt.
    fn execute(&mut self, open: &Open, at: UnixMicros, now: UnixMicros, batch: &mut Batch) {
        let (Some(share), Some(key)) = (open.share, open.keys.first()) else { return };
        self.remembered.put(Executed { key: *key, share, at }, batch);
        // One that was booked meanwhile is an operator's to end.
        let held = |id: &IntentId| self.doubts.get(id).is_some_and(|doubt| doubt.booked.is_none());
        let Some(id) = self.doubted.get(&share.reservation).copied().filter(held) else { return };
        self.doubted.remove(&share.reservation);
        let Some(doubt) = self.doubts.remove(&id) else { return };
        batch.delete(Family::Doubts, &encode_intent(id));
        // The row of the exchange that was executed has the charge.
        let verdict = resolve::Verdict::Settled(Micros::ZERO);
        if let Some(row) = resolve::amendment(&doubt, verdict, Micros::ZERO, now) {
            self.put_row(&row, batch);
        }
    }

    pub(super) fn put_row(&mut self, row: &[u8], batch: &mut Batch) {
        // An exchange that goes on under another intent has its row there.
        if !row.is_empty() {
            batch.put(Family::Audit, &encode_sequence(self.next_sequence), row);
            self.next_sequence = self.next_sequence.saturating_add(1);
        }
    }

    /// A hold that ended on a day before the key's last one was carried to that day by the account
    /// word, so a booking for an earlier day is one whose window is over. A lifetime has no window.
    pub(super) fn book(&mut self, booking: Booking, touched: &mut Touched) {
        let spend = self.accounts.entry(booking.key).or_default();
        if booking.day > spend.day {
            *spend = Spend { day: booking.day, settled: Micros::ZERO, requests: 0, ..*spend };
        }
        if booking.day == spend.day {
            spend.settled = spend.settled.saturating_add(booking.charge);
            spend.requests = spend.requests.saturating_add(booking.requests);
        }
        spend.lifetime = spend.lifetime.saturating_add(booking.charge);
        touched.keys.insert(booking.key);
    }

    /// Adds what each touched key has spent and each touched journal has reached.
    pub(super) fn finish(&self, batch: &mut Batch, touched: &Touched) {
        for key in &touched.keys {
            if let Some(spend) = self.accounts.get(key) {
                batch.put(Family::Spend, key.as_bytes(), &encode_spend(*spend));
            }
        }
        if touched.has_sent {
            batch.put(Family::Meta, format::SENT, &format::encode_sent(self.sent));
        }
        for shard in &touched.shards {
            if let Some(cursor) = self.cursors.get(shard) {
                batch.put(Family::Meta, &encode_place(CURSOR, *shard), &encode_sequence(*cursor));
            }
        }
    }

    /// Ends a doubt as an operator says; gives what is to be written, and what changes for the keys.
    pub(super) fn resolve(
        &mut self,
        resolution: &resolve::Resolution,
        now: UnixMicros,
    ) -> Result<(Batch, resolve::Resolved), resolve::NoDoubt> {
        let share = self.doubts.get(&resolution.id).and_then(|doubt| doubt.share);
        let resolved = resolve::resolve(self, resolution, now)?;
        // One that was booked when its hour was over is still there.
        if let Some(share) = share.filter(|_| !self.doubts.contains_key(&resolution.id)) {
            self.doubted.remove(&share.reservation);
        }
        Ok(resolved)
    }
}
