//! One schedule: agents, vendor, operator, clocks and faults, in an order that the seed decides.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures_channel::oneshot;
use keybrake_proto::audit::Outcome;
use keybrake_proto::journal::{Booking, End, IntentId};
use keybrake_proto::key::KeyId;
use keybrake_proto::ledger::chain::Sent;
use keybrake_proto::time::{Day, UnixMicros};

use super::machine::Machine;
use super::model::{Arrival, Call, Model, State, Verdict, number, row};
use super::process::{KEYS, Process, SHARDS, Setup, levels, micros};
use super::random::Random;
use crate::journal::Durability;
use crate::storage::{NoDoubt, Resolution, Resolved, Verdict as Ruling};

/// A call under way.
pub(super) struct Live {
    call: usize,
    phase: Phase,
}

enum Phase {
    /// Its intent is to be on disk first.
    Waiting(oneshot::Receiver<bool>),
    Ready,
    /// What the vendor will answer; `None`: nothing that can be read.
    AtVendor(Option<u64>),
}

/// What storage has told, to be carried out by the control side.
type Told = Arc<Mutex<VecDeque<(Option<usize>, Result<Resolved, NoDoubt>)>>>;

pub(super) struct World {
    pub(super) random: Random,
    pub(super) machine: Machine,
    pub(super) setup: Setup,
    pub(super) process: Process,
    pub(super) model: Model,
    pub(super) live: Vec<Live>,
    /// The day of the world.
    pub(super) day: u32,
    /// Shards whose clock has not begun it yet.
    late: [bool; SHARDS],
    told: Told,
    /// Calls whose doubts the hour is about to book, in the order in which it tells.
    expiring: VecDeque<usize>,
    revokes: Arc<Mutex<Vec<usize>>>,
    pub(super) is_traced: bool,
}

impl World {
    pub(super) fn new(
        random: Random,
        machine: Machine,
        setup: Setup,
        process: Process,
        is_traced: bool,
    ) -> World {
        World {
            random,
            machine,
            setup,
            process,
            model: Model::default(),
            live: Vec::new(),
            day: 1,
            late: [false; SHARDS],
            told: Told::default(),
            expiring: VecDeque::new(),
            revokes: Arc::default(),
            is_traced,
        }
    }

    pub(super) fn trace(&self, text: impl FnOnce() -> String) {
        if self.is_traced {
            println!("  {}", text());
        }
    }

    fn today(&self, shard: usize) -> Day {
        Day::new(self.day - u32::from(self.late[shard]))
    }

    /// An agent's request arrives.
    pub(super) fn admit(&mut self) {
        let (shard, key) = (self.random.index(SHARDS), self.random.index(KEYS));
        let quote = if self.random.chance(12) { 0 } else { 1 + self.random.below(6) };
        let number = self.model.calls.len();
        let today = self.today(shard);
        let mut call = Call {
            key,
            shard,
            quote,
            day: today.as_u32(),
            state: State::Refused { is_written: false },
            arrival: None,
            intent: self.process.next[shard],
            ended_at: None,
            outcome: Outcome::Denied,
            resolving: None,
            is_certain: false,
            amendments: 0,
        };
        let journal = &self.process.journals[shard];
        let account = &self.process.accounts[key];
        let id = format!("c{number}");
        let held = if journal.has_room() { account.reserve(today, micros(quote)).ok() } else { None };
        if let Some(day) = held {
            call.day = day.as_u32();
            let unknown = row(&id, Outcome::Unknown, quote);
            match journal.intent(account.keys(), day, micros(quote), None, &unknown.encode(Vec::new())) {
                Ok(intent) => {
                    let shard_number = u16::try_from(shard).unwrap();
                    assert_eq!(intent, IntentId::new(shard_number, call.intent), "sequences have no gaps");
                    self.process.next[shard] += 1;
                    call.state = State::Open;
                    call.outcome = Outcome::Unknown;
                }
                Err(_) => {
                    account.settle(today, micros(quote), micros(0), Sent::No, |_, _| ());
                    call.state = State::Refused { is_written: true };
                }
            }
        }
        self.trace(|| format!("c{number}: key {key} shard {shard} quote {quote}: {:?}", call.state));
        let is_open = call.state == State::Open;
        self.model.calls.push(call);
        if is_open {
            self.wait(number, quote);
        } else {
            self.model.calls[number].ended_at = Some(self.process.next[shard]);
            self.process.next[shard] += 1;
            let denied = row(&id, Outcome::Denied, 0);
            self.process.journals[shard].outcome(None, End::Booked, Vec::new(), None, &denied);
        }
    }

    /// What is paid for waits for the disk, where that was promised.
    fn wait(&mut self, call: usize, quote: u64) {
        let shard = self.model.calls[call].shard;
        if quote == 0 || self.setup.durability != Durability::PowerLoss {
            return self.live.push(Live { call, phase: Phase::Ready });
        }
        match self.process.journals[shard].wait_for_sync() {
            Ok(synced) => self.live.push(Live { call, phase: Phase::Waiting(synced) }),
            Err(_) => self.end(call, 0, Sent::No, Outcome::Failed),
        }
    }

    /// One call under way comes one step further.
    pub(super) fn go_on(&mut self, may_give_up: bool) {
        if self.live.is_empty() {
            return;
        }
        let at = self.random.index(self.live.len());
        let Live { call, phase } = self.live.swap_remove(at);
        let gives_up = may_give_up && self.random.chance(8);
        match phase {
            Phase::Waiting(mut synced) => match synced.try_recv() {
                Ok(Some(true)) => self.live.push(Live { call, phase: Phase::Ready }),
                Ok(None) if !gives_up => self.live.push(Live { call, phase: Phase::Waiting(synced) }),
                Ok(Some(false) | None) | Err(_) => self.end(call, 0, Sent::No, Outcome::Failed),
            },
            Phase::Ready => {
                let key = self.model.calls[call].key;
                if self.process.accounts[key].is_closed() {
                    self.end(call, 0, Sent::No, Outcome::Denied);
                } else if gives_up {
                    self.end(call, 0, Sent::No, Outcome::Failed);
                } else {
                    self.send(call);
                }
            }
            Phase::AtVendor(Some(charge)) => self.end(call, charge, Sent::Yes, Outcome::Forwarded),
            Phase::AtVendor(None) => self.doubt(call),
        }
    }

    /// The vendor has it and decides.
    fn send(&mut self, number: usize) {
        self.check_durable(number);
        let today = self.today(self.model.calls[number].shard).as_u32();
        let call = &mut self.model.calls[number];
        let accepted = match self.random.below(10) {
            0 | 1 => 0,
            2 => self.random.below(call.quote + 1),
            _ => call.quote,
        };
        assert!(call.arrival.is_none(), "c{number} is sent once");
        let day = today.max(call.day);
        call.arrival = Some(Arrival { day, accepted });
        let is_read = !self.random.chance(25);
        self.live.push(Live { call: number, phase: Phase::AtVendor(is_read.then_some(accepted)) });
        self.trace(|| format!("c{number}: the vendor accepts {accepted}, answer read: {is_read}"));
        self.check_caps(number);
    }

    fn end(&mut self, number: usize, charge: u64, sent: Sent, outcome: Outcome) {
        let call = &mut self.model.calls[number];
        let requests = u32::from(sent == Sent::Yes);
        let today = Day::new(self.day - u32::from(self.late[call.shard]));
        let (mut bookings, mut on) = (Vec::new(), Vec::new());
        let mut keys = levels(call.key).iter();
        self.process.accounts[call.key].settle(
            today,
            micros(call.quote),
            micros(charge),
            sent,
            |key, day| {
                bookings.push(Booking { key, day, charge: micros(charge), requests });
                on.push((*keys.next().unwrap(), day.as_u32()));
            },
        );
        let intent = IntentId::new(u16::try_from(call.shard).unwrap(), call.intent);
        call.state = State::Booked { charge, on };
        call.outcome = outcome;
        call.ended_at = Some(self.process.next[call.shard]);
        self.process.next[call.shard] += 1;
        let id = format!("c{number}");
        let row = row(&id, outcome, charge);
        self.process.journals[call.shard].outcome(Some(intent), End::Booked, bookings, None, &row);
        self.trace(|| format!("c{number}: {:?}", self.model.calls[number].state));
    }

    /// It was sent and how it ended is not known; sometimes its exchange panics instead of saying so.
    fn doubt(&mut self, number: usize) {
        let call = &mut self.model.calls[number];
        let intent = IntentId::new(u16::try_from(call.shard).unwrap(), call.intent);
        let vanishes = self.random.chance(30);
        let today = Day::new(self.day - u32::from(self.late[call.shard]));
        let today = if vanishes { Day::default() } else { today };
        let mut bookings = Vec::new();
        self.process.accounts[call.key].doubt(today, |key, day| {
            bookings.push(Booking { key, day, charge: micros(0), requests: 1 });
        });
        call.state = State::InDoubt { booked: None };
        call.ended_at = Some(self.process.next[call.shard]);
        self.process.next[call.shard] += 1;
        let journal = &self.process.journals[call.shard];
        if vanishes {
            journal.lost(intent);
        } else {
            let id = format!("c{number}");
            journal.outcome(
                Some(intent),
                End::InDoubt,
                bookings,
                None,
                &row(&id, Outcome::Unknown, call.quote),
            );
        }
        if call.quote == 0 {
            call.state = State::Booked { charge: 0, on: Vec::new() };
        }
        self.trace(|| format!("c{number}: in doubt, vanished: {vanishes}"));
    }

    fn is_resolving(&self) -> bool {
        self.model.calls.iter().any(|call| call.resolving.is_some())
    }

    /// An operator looks up what a call in doubt came to, or the hour is over.
    pub(super) fn resolve(&mut self, by_operator: bool) {
        if self.is_resolving() {
            return;
        }
        let day = Day::new(self.day);
        let doubts = self.process.writer.books().doubts();
        let of = |row: &[u8]| number(keybrake_proto::audit::AuditRow::decode(row).unwrap().id).unwrap();
        let doubts: Vec<_> = doubts.iter().map(|(id, doubt)| (*id, of(&doubt.row), doubt.booked)).collect();
        let told = Arc::clone(&self.told);
        if by_operator {
            if doubts.is_empty() {
                return;
            }
            let (id, call, _) = doubts[self.random.index(doubts.len())];
            let accepted = self.model.calls[call].arrival.map_or(0, |arrival| arrival.accepted);
            let verdict = if accepted == 0 { Ruling::Void } else { Ruling::Settled(micros(accepted)) };
            self.model.calls[call].resolving = Some((Verdict::Charge(accepted), self.day));
            let done = move |result| told.lock().unwrap().push_back((Some(call), result));
            self.process.storage.resolve(Resolution { id, verdict, day }, done).unwrap();
            self.trace(|| format!("c{call}: an operator says {verdict:?}"));
        } else {
            for (_, call, _) in doubts.iter().filter(|(.., booked)| booked.is_none()) {
                self.model.calls[*call].resolving = Some((Verdict::Expired, self.day));
                self.expiring.push_back(*call);
            }
            let tell = move |resolved| told.lock().unwrap().push_back((None, Ok(resolved)));
            self.process.storage.expire(UnixMicros(u64::MAX), day, Arc::new(tell)).unwrap();
            self.trace(|| format!("the hour is over for {:?}", self.expiring));
        }
        self.process.writer.step(false);
    }

    /// The control side carries out what storage has on disk.
    pub(super) fn carry_out(&mut self) {
        let told: Vec<_> = self.told.lock().unwrap().drain(..).collect();
        for (call, result) in told {
            let number = call.or_else(|| self.expiring.pop_front()).unwrap();
            let Ok(Resolved { quote, charge, booked, .. }) = result else {
                panic!("c{number} is in doubt, and storage says that it is not")
            };
            let call = &mut self.model.calls[number];
            let (verdict, day) = call.resolving.unwrap();
            let account = &self.process.accounts[call.key];
            match booked {
                None => account.resolve(Day::new(day), quote, charge, |_, _| ()),
                Some(booked) => keybrake_proto::ledger::chain::void(
                    &**account,
                    quote.saturating_sub(charge),
                    |_: KeyId| Some(booked),
                ),
            }
            call.resolve(verdict, day);
            self.trace(|| format!("c{number}: {:?}", self.model.calls[number].state));
        }
        for key in self.revokes.lock().unwrap().drain(..) {
            self.model.revoked[key] = true;
        }
    }

    /// A key is closed at once, and then on disk.
    pub(super) fn revoke(&mut self) {
        let key = self.random.index(KEYS);
        self.process.accounts[key].close();
        let revokes = Arc::clone(&self.revokes);
        self.process.storage.put_keys(&[super::revoked(key)], move |done| {
            if done.is_ok() {
                revokes.lock().unwrap().push(key);
            }
        });
        self.trace(|| format!("key {key} is revoked"));
    }

    /// Midnight, which shards see one after the other.
    pub(super) fn roll_day(&mut self) {
        // What an operator resolves is booked on the day on which that began.
        if !self.is_resolving() && self.day < 3 {
            self.day += 1;
            self.late = [true; SHARDS];
            self.trace(|| format!("day {}", self.day));
        }
    }

    pub(super) fn catch_up(&mut self, shard: usize) {
        self.late[shard] = false;
    }

    /// Committer, shards and storage each do a part of what waits for them.
    pub(super) fn turn(&mut self) {
        match self.random.below(14) {
            0..=2 => {
                self.process.committer.round();
            }
            3 => {
                self.process.committer.make_idle_sync_due();
                self.process.committer.round();
            }
            4 | 5 => self.process.committer.look_after_files(),
            6 => self.process.committer.write_marks(),
            7 | 8 => {
                let shard = self.random.index(SHARDS);
                while let Ok(event) = self.process.events[shard].try_recv() {
                    self.process.journals[shard].obey(event);
                }
            }
            9 | 10 => {
                let shard = self.random.index(SHARDS);
                self.process.journals[shard].tick();
            }
            11 | 12 => self.process.writer.step(false),
            _ => self.process.writer.step(true),
        }
        self.carry_out();
    }

    /// All that the process had in memory is gone.
    pub(super) fn forget_process(&mut self) {
        self.live.clear();
        self.late = [false; SHARDS];
        self.told = Told::default();
        self.expiring.clear();
        self.revokes = Arc::default();
    }
}
