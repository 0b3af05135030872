//! The interleavings of the Q rules: another core acts before every one of our steps in turn.

use super::*;

/// A leaf under a root, each capped at 10, with 2 spent on day 0 by the leaf.
fn chain() -> (Rc<Key>, Rc<Key>) {
    let root = Key::new(b'r', daily(10), None);
    let leaf = Key::new(b'l', daily(10), Some(&root));
    spend(&leaf, 0, 2);
    root.steps.taken.set(0);
    (root, leaf)
}

/// The steps of an undisturbed reserve over [`chain`].
const STEPS: usize = 6;

#[test]
fn a_reserve_over_two_levels_takes_six_steps() {
    let (root, leaf) = chain();
    reserve(&*leaf, day(0), usd(6)).unwrap();
    assert_eq!(root.steps.taken.get(), STEPS);
}

#[test]
fn q2_a_hold_over_midnight_counts_on_both_days_of_every_level() {
    let (root, leaf) = chain();
    reserve(&*leaf, day(0), usd(6)).unwrap();
    assert_eq!(reserve(&*leaf, day(0), usd(3)), full(&leaf, Limit::Daily, usd(2), 0));
    // The first call of the new day finds the 6 still held, and not the 2 that were settled.
    assert_eq!(reserve(&*leaf, day(1), usd(5)), full(&leaf, Limit::Daily, usd(4), 1));
    reserve(&*leaf, day(1), usd(1)).unwrap();
    for key in [&root, &leaf] {
        assert_eq!(key.word(Limit::Daily).committed, usd(7));
    }
    settle(&*leaf, day(1), usd(6), usd(2), Sent::Yes, |_, _| ());
    for key in [&root, &leaf] {
        assert_eq!(key.word(Limit::Daily).committed, usd(3));
    }
}

#[test]
fn q3_a_chain_is_held_on_one_day() {
    for step in 0..=STEPS {
        let (root, leaf) = chain();
        // Another core's clock is past midnight, and spends under the root alone.
        let other = Rc::clone(&root);
        root.steps.before(step, move || spend(&other, 1, 3));
        let held_on = reserve(&*leaf, day(0), usd(6)).unwrap();
        let (at_root, at_leaf) = (root.word(Limit::Daily), leaf.word(Limit::Daily));
        assert_eq!((at_root.held, at_leaf.held), (usd(6), usd(6)), "before step {step}");
        if step < STEPS {
            // The root was on day 1 when it was taken, so the leaf is too.
            assert_eq!((held_on, at_root.day, at_leaf.day), (day(1), day(1), day(1)), "before step {step}");
            assert_eq!((at_root.committed, at_leaf.committed), (usd(9), usd(6)), "before step {step}");
        } else {
            assert_eq!((held_on, at_root.day, at_leaf.day), (day(0), day(0), day(0)));
            assert_eq!((at_root.committed, at_leaf.committed), (usd(8), usd(8)));
        }
    }
}

#[test]
fn q3_a_hold_undone_on_a_day_that_began_meanwhile_leaves_nothing() {
    let (root, leaf) = chain();
    let (others_leaf, others_root) = (Rc::clone(&leaf), Rc::clone(&root));
    // Ours is taken from the leaf; now the leaf's day begins and carries it, and the root fills up.
    root.steps.before(STEPS - 1, move || {
        settle(&*others_leaf, day(1), Micros::ZERO, Micros::ZERO, Sent::Yes, |_, _| ());
        assert_eq!(others_leaf.word(Limit::Daily).committed, usd(6));
        spend(&others_root, 1, 10);
    });
    assert_eq!(reserve(&*leaf, day(0), usd(6)), full(&root, Limit::Daily, Micros::ZERO, 1));
    assert_eq!(leaf.word(Limit::Daily), Word::open(day(1)));
    assert_eq!(root.word(Limit::Daily), Word { committed: usd(10), ..Word::open(day(1)) });
}

#[test]
fn q4_a_refusal_above_is_undone_and_tried_once_more() {
    for step in 0..STEPS {
        let (root, leaf) = chain();
        let sibling = Key::new(b's', Limits::default(), Some(&root));
        // A sibling takes what is left of the root, and gives it back one step later.
        let taker = Rc::clone(&sibling);
        root.steps.before(step, move || assert!(reserve(&*taker, day(0), usd(8)).is_ok()));
        root.steps.before(step + 1, move || {
            settle(&*sibling, day(0), usd(8), Micros::ZERO, Sent::No, |_, _| ());
        });
        assert_eq!(reserve(&*leaf, day(0), usd(6)), Ok(day(0)), "before step {step}");
        for key in [&root, &leaf] {
            assert_eq!((key.word(Limit::Daily).held, key.word(Limit::Daily).committed), (usd(6), usd(8)));
        }
    }
}

#[test]
fn q4_a_refusal_that_comes_twice_is_a_denial_and_undone() {
    for step in 0..STEPS {
        let (root, leaf) = chain();
        let other = Rc::clone(&root);
        root.steps.before(step, move || spend(&other, 0, 5));
        assert_eq!(reserve(&*leaf, day(0), usd(6)), full(&root, Limit::Daily, usd(3), 0), "step {step}");
        assert_eq!(leaf.word(Limit::Daily), Word { committed: usd(2), ..Word::open(day(0)) });
        assert!(root.steps.taken.get() > STEPS / 2 + step, "it was tried once more");
    }
}

#[test]
fn q4_zero_fits_under_every_lowered_cap_of_the_chain() {
    let (root, leaf) = chain();
    for key in [&root, &leaf] {
        key.limits.set(daily(1));
    }
    assert_eq!(reserve(&*leaf, day(0), Micros::ZERO), Ok(day(0)));
    assert_eq!(reserve(&*leaf, day(0), Micros::new(1).unwrap()), full(&leaf, Limit::Daily, Micros::ZERO, 0));
}

#[test]
fn closing_a_key_above_stops_a_request_at_every_step() {
    for step in 0..STEPS {
        let (root, leaf) = chain();
        let other = Rc::clone(&root);
        root.steps.before(step, move || close(&*other));
        assert_eq!(reserve(&*leaf, day(0), usd(6)), Err(Refusal::Closed), "before step {step}");
        assert_eq!(leaf.word(Limit::Daily), Word { committed: usd(2), ..Word::open(day(0)) });
        assert!(is_closed(&*leaf) && !leaf.word(Limit::Daily).closed);
    }
}
