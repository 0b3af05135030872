//! What must hold: after each step, at each send, after each start.

use std::collections::BTreeMap;

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::journal::Record;
use keybrake_proto::journal::segment::{self, Tail};
use keybrake_proto::time::Day;

use super::model::{Call, State, Verdict, number};
use super::process::{KEYS, Process, SHARDS, levels, micros};
use super::world::World;
use crate::journal::Durability;
use crate::storage::by_hand::Family;

/// How far each shard's records were said to have come when the process ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claim {
    /// What survives the end of the process.
    pub(super) killed: u64,
    /// What survives the end of the machine.
    pub(super) cut: u64,
}

pub(super) fn claims(process: &Process, durability: Durability) -> [Claim; SHARDS] {
    let claim = |shard: usize| {
        let progress = &process.progress[shard];
        let killed = progress.written().max(progress.stored());
        let synced = if durability == Durability::PowerLoss { progress.synced() } else { 0 };
        Claim { killed, cut: synced.max(progress.forgettable()) }
    };
    std::array::from_fn(claim)
}

/// The rows of one call.
#[derive(Default)]
struct Rows {
    own: Vec<(Outcome, u64)>,
    amendments: usize,
}

impl World {
    /// I1: what the vendor accepted fits under each cap, by the day of the reserve and by that of arrival.
    pub(super) fn check_caps(&self, sent: usize) {
        if self.model.is_unreliable {
            return;
        }
        let call = &self.model.calls[sent];
        let arrived = call.arrival.unwrap().day;
        for &key in levels(call.key) {
            let limits = self.setup.limits[key];
            let fits = |accepted: u64, cap: Option<_>| cap.is_none_or(|cap| micros(accepted) <= cap);
            let reserved = self.model.accepted(key, |one, _| one.day == call.day);
            assert!(fits(reserved, limits.daily), "I1: key {key} by day of reserve: {reserved}");
            let on_day = self.model.accepted(key, |_, arrival| arrival.day == arrived);
            assert!(fits(on_day, limits.daily), "I1: key {key} by day of arrival: {on_day}");
            let ever = self.model.accepted(key, |_, _| true);
            assert!(fits(ever, limits.lifetime), "I1: key {key} in its life: {ever}");
            let requests = self.model.sent(key, call.day);
            let budget = limits.requests.map(u64::from);
            assert!(budget.is_none_or(|budget| requests <= budget), "I1: key {key}: {requests} requests");
        }
        assert!(!levels(call.key).iter().any(|key| self.model.revoked[*key]), "sent under a revoked key");
    }

    /// The intent of what is about to be sent has survived what was promised.
    pub(super) fn check_durable(&self, sent: usize) {
        let call = &self.model.calls[sent];
        let is_promised = self.setup.durability == Durability::PowerLoss;
        if is_promised && call.quote == 0 {
            return;
        }
        let shard = u16::try_from(call.shard).unwrap();
        let files =
            self.machine.read_journals(if is_promised { |file| &file.disk } else { |file| &file.kernel });
        let id = format!("c{sent}");
        let is_there = |bytes: &[u8]| {
            let Ok(Some(contents)) = segment::read(bytes, |_| Tail::Lenient) else { return false };
            let mut records = contents.records.iter().filter(|(sequence, _)| *sequence == call.intent);
            contents.header.shard == shard
                && records.any(|(_, at)| match Record::decode(&bytes[at.clone()]).unwrap() {
                    Record::Intent { row, .. } => AuditRow::decode(row).unwrap().id == id,
                    Record::Outcome { .. } | Record::Counted { .. } | Record::Lost { .. } => false,
                })
        };
        let is_forgotten = || {
            let inner = self.machine.lock();
            let books = if is_promised { inner.store.disk_books() } else { inner.store.books() };
            books.floors().get(&shard).is_some_and(|floor| call.intent <= *floor)
        };
        assert!(
            files.iter().any(|(_, bytes)| is_there(bytes)) || is_forgotten(),
            "c{sent} is sent and its intent is not durable"
        );
    }

    /// The words say what the calls come to, and not less than the vendor accepted.
    pub(super) fn check_words(&self) {
        if self.model.is_unreliable {
            return;
        }
        let (day, model) = (self.day, &self.model);
        for key in 0..KEYS {
            let account = &self.process.accounts[key];
            let word = account.word().on(Day::new(day));
            let accepted = model.accepted(key, |call, arrival| call.day == day || arrival.day == day);
            assert!(word.committed >= micros(accepted), "I1: key {key} has {word:?}, accepted {accepted}");
            let (committed, held) = (model.committed(key, day), model.held(key));
            assert_eq!(
                (word.committed, word.held),
                (micros(committed), micros(held)),
                "I2: key {key}: committed and held, and what the calls come to"
            );
            if let Some(total) = account.total_committed() {
                assert_eq!(total, micros(model.committed_ever(key)), "I2: key {key} in its life");
            }
        }
    }

    /// The books say what the words say, once nothing is under way.
    pub(super) fn check_books(&self) {
        let openings = self.process.writer.books().openings();
        for key in 0..KEYS {
            let word = self.process.accounts[key].word().on(Day::new(self.day));
            let opening = openings.get(&super::process::key_id(key)).copied().unwrap_or_default();
            let is_today = opening.spend.day.as_u32() == self.day;
            let settled = if is_today { opening.spend.settled } else { micros(0) };
            let booked = settled.saturating_add(opening.in_doubt);
            assert_eq!(booked, word.committed, "key {key}: the books, and {word:?}");
        }
    }

    /// Takes what a start found for what there is, where it is one of the possible outcomes.
    pub(super) fn check_start(&mut self, claims: [u64; SHARDS]) {
        let (rows, all) = self.rows();
        if !self.model.is_unreliable {
            let before = &self.model.rows;
            assert!(
                all.starts_with(before),
                "rows never change: {} before, {} found",
                before.len(),
                all.len()
            );
        }
        self.model.rows = all;
        let doubts = self.process.writer.books().doubts();
        let in_doubt: BTreeMap<usize, Option<u32>> = doubts
            .values()
            .map(|doubt| {
                let id = AuditRow::decode(&doubt.row).unwrap().id;
                (number(id).unwrap(), doubt.booked.map(Day::as_u32))
            })
            .collect();
        assert_eq!(in_doubt.len(), doubts.len(), "one doubt a call");
        let none = Rows::default();
        for (at, call) in self.model.calls.iter_mut().enumerate() {
            let found = (rows.get(&at).unwrap_or(&none), in_doubt.get(&at).copied());
            if self.model.is_unreliable {
                call.state = found.1.map_or(State::Gone, |booked| State::InDoubt { booked });
                call.resolving = None;
                call.outcome = Outcome::Unknown;
            } else {
                judge(at, call, found, claims[call.shard]);
            }
        }
        for key in 0..KEYS {
            let is_closed = self.process.accounts[key].word().closed;
            assert!(is_closed || !self.model.revoked[key], "key {key} was revoked");
            // One whose answer did not come may be on disk.
            self.model.revoked[key] = is_closed;
        }
        self.check_words();
    }

    /// Each call's rows, and all as they stand in the store.
    fn rows(&self) -> (BTreeMap<usize, Rows>, Vec<Vec<u8>>) {
        let (mut rows, mut all) = (BTreeMap::<usize, Rows>::new(), Vec::new());
        for (_, value) in self.machine.lock().store.family(Family::Audit) {
            let row = AuditRow::decode(value).expect("a row");
            let call = number(row.amends.unwrap_or(row.id)).expect("a call's row");
            assert!(call < self.model.calls.len(), "a row of no call");
            let of = rows.entry(call).or_default();
            if row.outcome == Outcome::Amendment {
                of.amendments += 1;
            } else {
                of.own.push((row.outcome, row.amount.as_u64()));
            }
            all.push(value.to_vec());
        }
        (rows, all)
    }
}

/// Whether what was found of a call may be; `claimed` are the records that were said to survive.
fn judge(at: usize, call: &mut Call, (rows, doubt): (&Rows, Option<Option<u32>>), claimed: u64) {
    let was_certain = call.is_certain;
    let had_ended = was_certain || call.ended_at.is_some_and(|sequence| sequence <= claimed);
    if let State::Refused { is_written } = call.state {
        let denials = rows.own.iter().filter(|(outcome, _)| *outcome == Outcome::Denied).count();
        assert!(denials <= 1 && (denials == 1 || !had_ended), "c{at}, refused, has {denials} denials");
        assert!(is_written || rows.own.len() == denials, "c{at} was refused: {:?}", rows.own);
        if doubt.is_some() {
            // A crash before a fresh file was there: nothing tells it from one that was sent.
            assert!(is_written && !was_certain, "c{at} was refused and is in doubt");
            call.state = State::InDoubt { booked: None };
            call.outcome = Outcome::Unknown;
        } else if rows.own.len() > denials {
            assert_eq!(call.quote, 0, "c{at}, refused, was in doubt");
            call.state = State::Booked { charge: 0, on: Vec::new() };
            call.outcome = Outcome::Unknown;
        } else if denials == 0 {
            call.state = State::Gone;
        }
        call.is_certain = true;
        return;
    }
    if rows.own.iter().any(|(outcome, _)| *outcome == Outcome::Denied) && call.outcome == Outcome::Unknown {
        // Refused, and in doubt after a crash: it has both rows.
        assert!(rows.own.len() == 2, "c{at}: {:?}", rows.own);
    } else {
        assert!(rows.own.len() <= 1, "c{at} has {} rows: {:?}", rows.own.len(), rows.own);
    }
    let row = rows.own.last().copied();
    match (doubt, row) {
        (Some(booked), Some((Outcome::Unknown, amount))) => {
            assert_eq!(amount, call.quote, "c{at} in doubt at its quote");
            judge_doubt(at, call, booked, had_ended);
        }
        (Some(_), row) => panic!("c{at} is in doubt with {row:?}"),
        (None, Some((Outcome::Unknown, _))) if call.quote == 0 => {
            call.state = State::Booked { charge: 0, on: Vec::new() };
        }
        (None, Some((Outcome::Unknown, _))) => judge_resolved(at, call, rows),
        (None, Some((outcome, amount))) => {
            assert_eq!(outcome, call.outcome, "c{at} ended otherwise");
            let State::Booked { charge, .. } = call.state else { panic!("c{at} has not ended: {call:?}") };
            assert_eq!(amount, charge, "c{at} came to something else");
        }
        (None, None) => {
            let was_sent = call.arrival.is_some() && call.quote > 0;
            assert!(!was_sent, "c{at} was sent and is nowhere: {call:?}");
            assert!(call.state == State::Gone || !was_certain, "c{at} has no row any more");
            assert!(call.state == State::Gone || call.intent > claimed, "c{at} was recorded and is nowhere");
            call.state = State::Gone;
        }
    }
    assert_eq!(rows.amendments, call.amendments, "amendments of c{at}");
    call.resolving = None;
    call.is_certain = true;
}

fn judge_doubt(at: usize, call: &mut Call, booked: Option<u32>, had_ended: bool) {
    match &call.state {
        State::InDoubt { booked: before } => {
            let is_expected = *before == booked
                || matches!((before, call.resolving), (None, Some((Verdict::Expired, day))) if booked == Some(day));
            assert!(is_expected, "c{at} is booked on {booked:?}: {call:?}");
        }
        State::Open => assert_eq!(booked, None, "c{at}"),
        State::Booked { .. } => {
            assert!(!had_ended, "c{at} had ended and is in doubt again: {call:?}");
            call.outcome = Outcome::Unknown;
        }
        State::Gone | State::Refused { .. } => panic!("c{at} is back: {call:?}"),
    }
    call.state = State::InDoubt { booked };
}

/// It was in doubt and is not: somebody must have said what it came to.
fn judge_resolved(at: usize, call: &mut Call, rows: &Rows) {
    match (&call.state, call.resolving) {
        (State::Booked { .. }, None) => assert!(rows.amendments == 1, "c{at} without an amendment"),
        (State::InDoubt { .. }, Some((Verdict::Charge(charge), day))) => {
            call.resolve(Verdict::Charge(charge), day);
        }
        _ => panic!("c{at} is not in doubt any more: {call:?}"),
    }
}
