//! Every order of the account's steps, explored by loom (rule Q18).
//!
//! loom has no 128-bit atomics, so its cell is a mutex around the bits. Two threads on two short
//! chains are explored in every order; the longer scenarios in every order in which threads are
//! interrupted in the middle of their work so many times at most, which each scenario names.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use loom::thread;

use super::*;

/// Every cap of every scenario, in the unit of its word.
const CAP: u64 = 10;
const CAP_MICROS: Micros = Micros::new(CAP).unwrap();

/// A word that checks each swap: it is not over its cap, since no charge here is above its quote, and
/// once it is closed it stays so and holds nothing more.
struct Modeled(loom::sync::Mutex<u128>);

impl Cell for Modeled {
    fn new(bits: u128) -> Modeled {
        Modeled(loom::sync::Mutex::new(bits))
    }

    fn load(&self) -> u128 {
        *self.0.lock().unwrap()
    }

    fn compare_exchange(&self, current: u128, new: u128) -> Result<u128, u128> {
        let word = Word::unpack(new);
        assert!(word.held <= word.committed && word.committed <= micros(CAP), "{word:?}");
        let mut bits = self.0.lock().unwrap();
        if *bits != current {
            return Err(*bits);
        }
        let before = Word::unpack(current);
        assert!(!before.closed || word.closed && word.held <= before.held, "{before:?}, then {word:?}");
        *bits = new;
        Ok(current)
    }
}

fn micros(amount: u64) -> Micros {
    Micros::new(amount).unwrap()
}

/// What one thread does: one call, from its reserve to its end.
#[derive(Clone, Copy)]
struct Call {
    leaf: usize,
    /// The day by this core's clock at the reserve and at the end.
    days: [u32; 2],
    quote: u64,
    /// What it costs; `None` is a call that is never sent.
    charge: Option<u64>,
}

/// A call that was admitted.
struct Done {
    call: Call,
    reserved: Day,
    /// Leaf first.
    booked: Vec<(KeyId, Day)>,
}

/// A root, and leaves below it.
struct World {
    root: Arc<Account<Modeled>>,
    leaves: Vec<Arc<Account<Modeled>>>,
    done: Mutex<Vec<Done>>,
    refused: AtomicUsize,
    close_returned: AtomicBool,
}

impl World {
    fn new(root: Limits, leaves: &[Limits]) -> Arc<World> {
        let account = |name: u8, limits, parent| {
            let key = KeyId::from_bytes(&[name; 16]).unwrap();
            Arc::new(Account::with_needed_words(key, Opening::new(Day::new(1)), limits, parent))
        };
        let root = account(b'r', root, None);
        let leaves = leaves.iter().zip(b'a'..);
        Arc::new(World {
            leaves: leaves.map(|(limits, name)| account(name, *limits, Some(Arc::clone(&root)))).collect(),
            root,
            done: Mutex::default(),
            refused: AtomicUsize::new(0),
            close_returned: AtomicBool::new(false),
        })
    }

    fn play(&self, call: Call) {
        let account = &self.leaves[call.leaf];
        let [today, later] = call.days.map(Day::new);
        let was_closed = self.close_returned.load(Relaxed);
        let Ok(reserved) = account.reserve(today, micros(call.quote)) else {
            self.refused.fetch_add(1, Relaxed);
            return;
        };
        assert!(!was_closed, "admitted after close returned");
        let sent = if call.charge.is_some() { Sent::Yes } else { Sent::No };
        let charge = micros(call.charge.unwrap_or_default());
        let mut booked = Vec::new();
        account.settle(later, micros(call.quote), charge, sent, |key, day| booked.push((key, day)));
        self.done.lock().unwrap().push(Done { call, reserved, booked });
    }

    fn close(&self) {
        self.root.close();
        self.close_returned.store(true, Relaxed);
    }

    /// Judges an account when nobody runs any more.
    fn judge(&self, account: &Account<Modeled>) {
        let done = self.done.lock().unwrap();
        let mut ended = Vec::new();
        for Done { call, reserved, booked } in done.iter() {
            let booked = booked.iter().find(|(key, _)| *key == account.key);
            ended.extend(booked.map(|(_, day)| (*reserved, *day, call.charge)));
        }
        let sum = |on: &dyn Fn(Day, Day) -> bool| {
            let of_day = ended.iter().filter(|(reserved, booked, _)| on(*reserved, *booked));
            micros(of_day.map(|(_, _, charge)| charge.unwrap_or_default()).sum())
        };
        for day in (1..5).map(Day::new) {
            assert!(sum(&|reserved, _| reserved == day) <= micros(CAP), "by the day of the reserve");
            assert!(sum(&|_, booked| booked == day) <= micros(CAP), "by the day of the booking");
        }
        // What is undone or released is gone without a trace: so nothing is falsely full.
        let word = account.word();
        let expected = Word {
            closed: word.closed,
            committed: sum(&|_, booked| booked == word.day),
            ..Word::open(word.day)
        };
        assert_eq!(word, expected);
        if let Some(word) = account.load(Limit::Lifetime) {
            assert_eq!((word.held, word.committed), (Micros::ZERO, sum(&|_, _| true)));
        }
        if let Some(word) = account.load(Limit::Requests) {
            let sent = ended.iter().filter(|(_, day, charge)| *day == word.day && charge.is_some()).count();
            assert_eq!((word.held, word.committed.as_u64()), (Micros::ZERO, sent as u64));
            assert!(account.limits().requests.is_none_or(|most| sent <= most as usize));
        }
    }
}

/// Plays `calls`, each on a thread of its own, in every order; `close` also closes the root.
/// `at_end` looks at how many were admitted and refused.
fn explore(
    limits: (Limits, &'static [Limits]),
    calls: &'static [Call],
    interruptions: Option<usize>,
    close: bool,
    at_end: impl Fn(usize, usize) + Send + Sync + 'static,
) {
    let orders = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&orders);
    let mut model = loom::model::Builder::new();
    model.preemption_bound = interruptions;
    model.check(move || {
        counted.fetch_add(1, Relaxed);
        let world = World::new(limits.0, limits.1);
        let mut threads: Vec<_> = calls
            .iter()
            .map(|call| {
                let world = Arc::clone(&world);
                thread::spawn(move || world.play(*call))
            })
            .collect();
        if close {
            let world = Arc::clone(&world);
            threads.push(thread::spawn(move || world.close()));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        for account in world.leaves.iter().chain([&world.root]) {
            world.judge(account);
        }
        at_end(world.done.lock().unwrap().len(), world.refused.load(Relaxed));
    });
    println!("{} orders", orders.load(Relaxed));
}

const fn spend(leaf: usize, days: [u32; 2], quote: u64) -> Call {
    Call { leaf, days, quote, charge: Some(quote) }
}

const NONE: Limits = Limits { daily: None, lifetime: None, requests: None };
const DAILY: Limits = Limits { daily: Some(CAP_MICROS), ..NONE };

#[test]
fn q18_of_two_keys_under_one_cap_one_gets_what_fits_once() {
    const CALLS: &[Call] = &[spend(0, [1, 1], 6), spend(1, [1, 1], 6)];
    explore((DAILY, &[NONE, NONE]), CALLS, None, false, |admitted, refused| {
        // The first one may have ended: its charge stays.
        assert_eq!((admitted, refused), (1, 1));
    });
}

#[test]
fn q18_a_refusal_above_is_undone_while_another_uses_the_same_key() {
    // The first fits under the leaf's cap and not under the root's, once the second is there.
    const CALLS: &[Call] = &[spend(0, [1, 1], 8), spend(1, [1, 1], 5), spend(0, [1, 1], 2)];
    explore((DAILY, &[DAILY, NONE]), CALLS, Some(3), false, |admitted, _| assert!(admitted >= 1));
}

#[test]
fn q18_two_clocks_on_both_sides_of_midnight() {
    const CALLS: &[Call] = &[spend(0, [1, 2], 6), spend(0, [2, 2], 4)];
    explore((DAILY, &[DAILY]), CALLS, Some(5), false, |admitted, _| assert_eq!(admitted, 2));
}

#[test]
fn q18_midnight_while_a_request_is_taken_and_undone() {
    const CALLS: &[Call] = &[spend(0, [1, 1], 6), spend(1, [2, 2], 6), spend(0, [1, 2], 3)];
    explore((DAILY, &[DAILY, NONE]), CALLS, Some(3), false, |admitted, _| assert!(admitted >= 1));
}

#[test]
fn q18_three_words_a_key() {
    const ALL: Limits = Limits { daily: Some(CAP_MICROS), lifetime: Some(CAP_MICROS), requests: Some(1) };
    const UNSENT: Call = Call { leaf: 0, days: [1, 1], quote: 6, charge: None };
    const CALLS: &[Call] = &[UNSENT, spend(0, [2, 2], 6)];
    explore((DAILY, &[ALL]), CALLS, Some(4), false, |admitted, _| assert!(admitted >= 1));
}

#[test]
fn q18_closing_the_key_above_while_two_spend() {
    const CALLS: &[Call] = &[spend(0, [1, 1], 6), spend(1, [1, 2], 0)];
    explore((DAILY, &[NONE, NONE]), CALLS, Some(4), true, |_, _| ());
}
