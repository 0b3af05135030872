//! Chains over plain words, and what another core may do between any two of their steps.

mod interleavings;
mod naive;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::*;

/// What another core does before one of our steps.
type Interruption = Box<dyn FnOnce()>;

/// Counts our steps and lets others in between.
#[derive(Default)]
struct Steps {
    taken: Cell<usize>,
    /// Another core acts: its steps are not ours.
    interrupted: Cell<bool>,
    interruptions: RefCell<Vec<(usize, Interruption)>>,
}

impl Steps {
    fn before(&self, step: usize, interruption: impl FnOnce() + 'static) {
        self.interruptions.borrow_mut().push((step, Box::new(interruption)));
    }

    fn next(&self) {
        if self.interrupted.get() {
            return;
        }
        let step = self.taken.get();
        let due = |(at, _): &mut (usize, Interruption)| *at == step;
        let interruptions: Vec<_> = self.interruptions.borrow_mut().extract_if(.., due).collect();
        self.interrupted.set(true);
        for (_, interruption) in interruptions {
            interruption();
        }
        self.interrupted.set(false);
        self.taken.set(step + 1);
    }
}

struct Key {
    id: KeyId,
    parent: Option<Rc<Key>>,
    limits: Cell<Limits>,
    words: [Cell<Option<Word>>; 3],
    steps: Rc<Steps>,
}

impl Key {
    fn new(name: u8, limits: Limits, parent: Option<&Rc<Key>>) -> Rc<Key> {
        let steps = parent.map_or_else(Rc::default, |parent| Rc::clone(&parent.steps));
        let opening = Opening::new(Day::new(0));
        Rc::new(Key {
            id: id(name),
            parent: parent.map(Rc::clone),
            limits: Cell::new(limits),
            words: Limit::ALL.map(|limit| Cell::new(limits.need(limit).then(|| opening.word(limit)))),
            steps,
        })
    }

    fn cell(&self, limit: Limit) -> &Cell<Option<Word>> {
        let at = Limit::ALL.iter().position(|other| *other == limit).unwrap();
        &self.words[at]
    }

    /// Without counting as a step.
    fn word(&self, limit: Limit) -> Word {
        self.cell(limit).get().unwrap()
    }
}

impl Level for Key {
    fn key(&self) -> KeyId {
        self.id
    }

    fn parent(&self) -> Option<&Key> {
        self.parent.as_deref()
    }

    fn limits(&self) -> Limits {
        self.limits.get()
    }

    fn has(&self, limit: Limit) -> bool {
        self.cell(limit).get().is_some()
    }

    fn load(&self, limit: Limit) -> Option<Word> {
        self.steps.next();
        self.cell(limit).get()
    }

    fn update<E>(&self, limit: Limit, next: impl Fn(Word) -> Result<Word, E>) -> Option<Result<Word, E>> {
        self.steps.next();
        let next = next(self.cell(limit).get()?);
        if let Ok(word) = next {
            self.cell(limit).set(Some(word));
        }
        Some(next)
    }
}

fn id(name: u8) -> KeyId {
    KeyId::from_bytes(&[name; 16]).unwrap()
}

fn usd(amount: u64) -> Micros {
    Micros::new(amount * 1_000_000).unwrap()
}

fn day(number: u32) -> Day {
    Day::new(number)
}

fn daily(cap: u64) -> Limits {
    Limits { daily: Some(usd(cap)), ..Limits::default() }
}

fn full(key: &Key, limit: Limit, left: Micros, on: u32) -> Result<Day, Refusal> {
    let cap = key.limits().cap(limit).unwrap();
    Err(Refusal::Over(Over { key: key.id, limit, cap, left, day: day(on) }))
}

/// Reserves and settles at once.
fn spend(key: &Key, on: u32, amount: u64) {
    reserve(key, day(on), usd(amount)).unwrap();
    settle(key, day(on), usd(amount), usd(amount), Sent::Yes, |_, _| ());
}

#[test]
fn q23_what_another_process_has_admitted_is_held_on_every_word_of_the_chain_and_ends_as_any_hold() {
    let limits = Limits { daily: Some(usd(10)), lifetime: Some(usd(10)), requests: Some(1) };
    let root = Key::new(b'a', limits, None);
    let leaf = Key::new(b'b', limits, Some(&root));
    let committed = |key: &Key| Limit::ALL.map(|limit| key.word(limit).committed.as_u64());
    for _ in 0..2 {
        carry(&*leaf, Day::new(3), usd(6));
    }
    let held = [usd(12).as_u64(), usd(12).as_u64(), 2];
    assert_eq!((committed(&leaf), committed(&root)), (held, held), "above every cap");
    let mut days = Vec::new();
    settle(&*leaf, Day::new(2), usd(6), usd(5), Sent::Yes, |key, day| days.push((key, day)));
    assert_eq!(days, [(id(b'b'), Day::new(3)), (id(b'a'), Day::new(3))], "on the day of the word");
    settle(&*leaf, Day::new(3), usd(6), Micros::ZERO, Sent::No, |_, _| ());
    let settled = [usd(5).as_u64(), usd(5).as_u64(), 1];
    assert_eq!((committed(&leaf), committed(&root)), (settled, settled));
}

#[test]
fn a_request_draws_on_every_level_and_settles_leaf_first() {
    let root = Key::new(b'r', daily(100), None);
    let team = Key::new(b't', Limits::default(), Some(&root));
    let leaf = Key::new(b'l', daily(20), Some(&team));
    assert_eq!(reserve(&*leaf, day(3), usd(10)), Ok(day(3)));
    for key in [&root, &team, &leaf] {
        assert_eq!((key.word(Limit::Daily).held, key.word(Limit::Daily).committed), (usd(10), usd(10)));
    }
    let mut booked = Vec::new();
    settle(&*leaf, day(4), usd(10), usd(7), Sent::Yes, |key, day| booked.push((key, day)));
    assert_eq!(booked, [(leaf.id, day(4)), (team.id, day(4)), (root.id, day(4))]);
    for key in [&root, &team, &leaf] {
        assert_eq!((key.word(Limit::Daily).held, key.word(Limit::Daily).committed), (Micros::ZERO, usd(7)));
    }
}

#[test]
fn each_level_books_on_its_own_later_day() {
    let root = Key::new(b'r', daily(100), None);
    let leaf = Key::new(b'l', daily(20), Some(&root));
    reserve(&*leaf, day(1), usd(5)).unwrap();
    spend(&root, 6, 1);
    let mut booked = Vec::new();
    settle(&*leaf, day(2), usd(5), usd(5), Sent::Yes, |key, day| booked.push((key, day)));
    assert_eq!(booked, [(leaf.id, day(2)), (root.id, day(6))]);
}

#[test]
fn a_denial_names_the_level_and_the_limit() {
    let root = Key::new(b'r', Limits { lifetime: Some(usd(12)), ..daily(50) }, None);
    let leaf = Key::new(b'l', Limits { requests: Some(3), ..daily(10) }, Some(&root));
    assert_eq!(reserve(&*leaf, day(1), usd(11)), full(&leaf, Limit::Daily, usd(10), 1));
    spend(&leaf, 1, 8);
    assert_eq!(reserve(&*leaf, day(2), usd(5)), full(&root, Limit::Lifetime, usd(4), 2));
    spend(&leaf, 2, 4);
    spend(&leaf, 2, 0);
    spend(&leaf, 2, 0);
    assert_eq!(reserve(&*leaf, day(2), Micros::ZERO), full(&leaf, Limit::Requests, Micros::ZERO, 2));
    // A new day gives new requests, but no new life.
    assert_eq!(reserve(&*leaf, day(3), usd(1)), full(&root, Limit::Lifetime, Micros::ZERO, 3));
    assert_eq!(reserve(&*leaf, day(3), Micros::ZERO), Ok(day(3)));
}

#[test]
fn a_denied_request_leaves_no_trace_on_any_word() {
    let root = Key::new(b'r', daily(4), None);
    let leaf = Key::new(
        b'l',
        Limits { daily: Some(usd(9)), lifetime: Some(usd(90)), requests: Some(9) },
        Some(&root),
    );
    spend(&leaf, 1, 3);
    let before = Limit::ALL.map(|limit| leaf.word(limit));
    assert_eq!(reserve(&*leaf, day(2), usd(5)), full(&root, Limit::Daily, usd(4), 2));
    assert_eq!(Limit::ALL.map(|limit| leaf.word(limit)), before);
}

#[test]
fn a_request_that_was_not_sent_is_given_back_and_one_in_doubt_counts_once() {
    let key = Key::new(b'k', Limits { requests: Some(2), ..daily(10) }, None);
    for _ in 0..5 {
        reserve(&*key, day(1), usd(1)).unwrap();
        settle(&*key, day(1), usd(1), Micros::ZERO, Sent::No, |_, _| ());
    }
    assert_eq!(key.word(Limit::Requests), Word::open(day(1)));
    reserve(&*key, day(1), usd(6)).unwrap();
    doubt(&*key, day(1), |_, _| ());
    let counted = |on| Word { committed: ONE_REQUEST, ..Word::open(day(on)) };
    assert_eq!(key.word(Limit::Requests), counted(1));
    assert_eq!((key.word(Limit::Daily).held, key.word(Limit::Daily).committed), (usd(6), usd(6)));
    resolve(&*key, day(1), usd(6), usd(2), |_, _| ());
    assert_eq!(key.word(Limit::Requests), counted(1));
    assert_eq!((key.word(Limit::Daily).held, key.word(Limit::Daily).committed), (Micros::ZERO, usd(2)));
}

#[test]
fn q1_a_doubt_is_carried_over_midnight_and_voided_only_while_its_day_lasts() {
    let key = Key::new(b'k', Limits { lifetime: Some(usd(100)), ..daily(10) }, None);
    reserve(&*key, day(1), usd(6)).unwrap();
    doubt(&*key, day(2), |_, _| ());
    assert_eq!(reserve(&*key, day(2), usd(5)), full(&key, Limit::Daily, usd(4), 2));
    let mut booked_on = None;
    resolve(&*key, day(3), usd(6), usd(6), |_, day| booked_on = Some(day));
    assert_eq!((booked_on, key.word(Limit::Daily).committed), (Some(day(3)), usd(6)));
    spend(&key, 3, 1);
    void(&*key, usd(6), |_| booked_on);
    assert_eq!((key.word(Limit::Daily).committed, key.word(Limit::Lifetime).committed), (usd(1), usd(1)));
    // On a later day only the key's life gets it back.
    spend(&key, 3, 4);
    spend(&key, 4, 2);
    void(&*key, usd(4), |_| booked_on);
    assert_eq!((key.word(Limit::Daily).committed, key.word(Limit::Lifetime).committed), (usd(2), usd(3)));
}

#[test]
fn q9_a_lifetime_cap_has_no_days() {
    let key = Key::new(b'k', Limits { lifetime: Some(usd(10)), ..Limits::default() }, None);
    spend(&key, 1, 6);
    spend(&key, 2, 3);
    assert_eq!(reserve(&*key, Day::MAX, usd(2)), full(&key, Limit::Lifetime, usd(1), Day::MAX.as_u32()));
    assert_eq!(reserve(&*key, day(3), usd(1)), Ok(day(3)));
    assert_eq!(key.word(Limit::Lifetime).day, Day::default());
}

#[test]
fn what_an_opening_holds_can_be_settled_on_every_word() {
    let limits = Limits { daily: Some(usd(10)), lifetime: Some(usd(50)), requests: Some(7) };
    let key = Key::new(b'k', limits, None);
    let word = Word { held: usd(4), committed: usd(6), ..Word::open(day(5)) };
    let opening = Opening { word, lifetime: usd(30), requests: 7 };
    for limit in Limit::ALL {
        key.cell(limit).set(Some(opening.word(limit)));
    }
    assert_eq!(reserve(&*key, day(5), Micros::ZERO), full(&key, Limit::Requests, Micros::ZERO, 5));
    resolve(&*key, day(5), usd(4), usd(1), |_, _| ());
    assert_eq!(key.word(Limit::Daily), Word { committed: usd(3), ..Word::open(day(5)) });
    assert_eq!(key.word(Limit::Lifetime), Word { committed: usd(27), ..Word::open(Day::default()) });
}
