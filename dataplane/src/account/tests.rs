//! Accounts over real atomic words, with real threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn usd(amount: u64) -> Micros {
    Micros::new(amount * 1_000_000).unwrap()
}

fn day(number: u32) -> Day {
    Day::new(number)
}

fn daily(cap: u64) -> Limits {
    Limits { daily: Some(usd(cap)), ..Limits::default() }
}

fn account(name: u8, limits: Limits, parent: Option<&Arc<Account>>) -> Arc<Account> {
    let key = KeyId::from_bytes(&[name; 16]).unwrap();
    Arc::new(Account::new(key, Opening::new(day(1)), limits, parent.map(Arc::clone)))
}

fn settle(account: &Account, today: Day, quote: Micros, charge: Micros) -> Vec<Day> {
    let mut days = Vec::new();
    account.settle(today, quote, charge, Sent::Yes, |_, day| days.push(day));
    days
}

#[test]
fn eight_threads_never_get_past_the_cap_and_fill_it() {
    let account = account(b'a', daily(50), None);
    let admitted = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..1000 {
                    admitted.fetch_add(u64::from(account.reserve(day(1), usd(10)).is_ok()), Relaxed);
                }
            });
        }
    });
    assert_eq!(admitted.load(Relaxed), 5);
    assert_eq!(account.word().committed, usd(50));
}

#[test]
fn eight_threads_on_a_chain_never_get_past_a_limit_and_leave_nothing_held() {
    let root = account(b'r', Limits { lifetime: Some(usd(40)), ..daily(60) }, None);
    let leaves =
        [b'x', b'y'].map(|name| account(name, Limits { requests: Some(900), ..daily(30) }, Some(&root)));
    let charged = AtomicU64::new(0);
    thread::scope(|scope| {
        for number in 0..8 {
            let (leaf, charged) = (&leaves[number % 2], &charged);
            scope.spawn(move || {
                for round in 0..500u32 {
                    let today = day(1 + round / 250);
                    if leaf.reserve(today, usd(2)).is_ok() {
                        let charge = u64::from(round % 2);
                        settle(leaf, today, usd(2), usd(charge));
                        charged.fetch_add(charge, Relaxed);
                    }
                }
            });
        }
    });
    let total = root.total_committed().unwrap();
    assert_eq!(total, usd(charged.load(Relaxed)));
    assert!(total <= usd(40));
    for account in leaves.iter().chain([&root]) {
        assert_eq!(account.word().held, Micros::ZERO);
    }
    // With nobody else there, what is left can be had, to the last micro-dollar.
    assert!(root.reserve(day(3), usd(40).saturating_sub(total)).is_ok());
    assert!(root.reserve(day(3), Micros::new(1).unwrap()).is_err());
}

#[test]
fn after_close_nothing_is_reserved_and_holds_still_settle() {
    let parent = account(b'p', Limits::default(), None);
    let account = account(b'a', Limits::default(), Some(&parent));
    account.reserve(day(1), usd(5)).unwrap();
    parent.close();
    assert!(account.is_closed() && !account.word().closed);
    assert_eq!(account.reserve(day(1), Micros::ZERO), Err(Refusal::Closed));
    settle(&account, day(1), usd(5), usd(3));
    assert_eq!((parent.word().committed, account.word().committed), (usd(3), usd(3)));
    assert!(parent.word().closed);
}

#[test]
fn a_hold_that_settles_after_midnight_counts_on_the_new_day() {
    let account = account(b'a', daily(10), None);
    account.reserve(day(1), usd(10)).unwrap();
    assert_eq!(settle(&account, day(2), usd(10), usd(8)), [day(2)]);
    assert!(account.reserve(day(2), usd(3)).is_err());
    assert!(account.reserve(day(2), usd(2)).is_ok());
}

#[test]
fn what_was_spent_before_a_start_still_counts() {
    let limits = Limits { lifetime: Some(usd(20)), requests: Some(2), ..daily(10) };
    let word = Word { committed: usd(4), ..Word::open(day(5)) };
    let opening = Opening { word, lifetime: usd(15), requests: 1 };
    let account = Account::<AtomicU128>::new(KeyId::from_bytes(&[b'a'; 16]).unwrap(), opening, limits, None);
    assert_eq!((account.total_committed(), account.requests(day(5))), (Some(usd(15)), Some(1)));
    assert!(matches!(
        account.reserve(day(5), usd(6)),
        Err(Refusal::Over(over)) if over.limit == Limit::Lifetime && over.left == usd(5)
    ));
    account.reserve(day(5), usd(5)).unwrap();
    assert!(matches!(
        account.reserve(day(5), Micros::ZERO),
        Err(Refusal::Over(over)) if over.limit == Limit::Requests
    ));
    assert_eq!(account.requests(day(6)), Some(1), "the one under way is carried");
}

#[test]
fn a_cap_above_makes_prices_a_must() {
    let capped = account(b'c', Limits { lifetime: Some(usd(1)), ..Limits::default() }, None);
    assert!(account(b'a', Limits::default(), Some(&capped)).has_usd_cap());
    assert!(!account(b'a', Limits { requests: Some(1), ..Limits::default() }, None).has_usd_cap());
}

/// A cell that counts.
struct Counted {
    word: AtomicU128,
    swaps: AtomicU64,
}

impl Cell for Counted {
    fn new(bits: u128) -> Counted {
        Counted { word: AtomicU128::new(bits), swaps: AtomicU64::new(0) }
    }

    fn load(&self) -> u128 {
        Cell::load(&self.word)
    }

    fn compare_exchange(&self, current: u128, new: u128) -> Result<u128, u128> {
        self.swaps.fetch_add(1, Relaxed);
        self.word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire)
    }
}

#[test]
fn a_request_takes_one_swap_a_word_to_reserve_and_one_to_settle() {
    let key = KeyId::from_bytes(&[b'a'; 16]).unwrap();
    let account = Account::<Counted>::new(key, Opening::new(day(1)), daily(10), None);
    let swaps = || Limit::ALL.map(|limit| account.cell(limit).map_or(0, |cell| cell.swaps.load(Relaxed)));
    account.reserve(day(2), usd(1)).unwrap();
    assert_eq!(swaps(), [1, 1, 1]);
    account.settle(day(3), usd(1), usd(1), Sent::Yes, |_, _| ());
    assert_eq!(swaps(), [2, 2, 2]);
    account.reserve(day(3), usd(10)).unwrap_err();
    assert_eq!(swaps(), [2, 2, 2], "a refusal writes nothing");
}

#[test]
fn q22_a_limit_that_is_set_later_counts_all_there_was_before_it() {
    let account = account(b'a', Limits::default(), None);
    account.reserve(day(1), usd(7)).unwrap();
    settle(&account, day(1), usd(7), usd(7));
    account.reserve(day(2), usd(2)).unwrap();
    assert_eq!((account.total_committed(), account.requests(day(2))), (None, None), "nobody asked for it");
    account.set_limits(Limits { daily: Some(usd(4)), lifetime: Some(usd(10)), requests: Some(1) });
    assert_eq!((account.total_committed(), account.requests(day(2))), (Some(usd(9)), Some(1)));
    let over = |quote| match account.reserve(day(2), usd(quote)) {
        Err(Refusal::Over(over)) => Some((over.limit, over.left)),
        _ => None,
    };
    assert_eq!(over(2), Some((Limit::Lifetime, usd(1))));
    assert_eq!(over(1), Some((Limit::Requests, Micros::ZERO)));
    account.set_limits(Limits { daily: Some(usd(1)), ..Limits::default() });
    assert_eq!(over(1), Some((Limit::Daily, Micros::ZERO)), "what is held is over the new cap");
    assert!(account.reserve(day(2), Micros::ZERO).is_ok(), "zero always fits (rule Q4)");
}

#[test]
fn an_account_is_alone_on_its_cache_lines() {
    assert_eq!(align_of::<Account>(), 128);
}

/// What one key below an earlier one has, and what it spends: `[below, cap, calls of $1 and $2]`.
fn trees() -> impl Strategy<Value = Vec<(Index, Option<u64>, Vec<u64>)>> {
    let calls = prop::collection::vec(1..3u64, 0..6);
    prop::collection::vec((any::<Index>(), prop::option::of(0..12u64), calls), 1..16)
}

proptest! {
    #[test]
    fn m11_in_a_random_tree_every_subtree_is_within_every_cap_above_it(keys in trees(), closed in any::<Index>()) {
        // The parent of each, and what was admitted under it alone.
        let (mut tree, mut parents) = (vec![account(b'0', daily(20), None)], vec![0]);
        for (name, (below, cap, _)) in (b'A'..).zip(&keys) {
            let below = below.index(tree.len());
            let limits = cap.map_or(Limits::default(), daily);
            tree.push(account(name, limits, Some(&tree[below])));
            parents.push(below);
        }
        let mut own = vec![Micros::ZERO; tree.len()];
        let calls = keys.iter().map(|(_, _, calls)| calls);
        for (key, calls) in calls.enumerate() {
            let leaf = &tree[key + 1];
            for call in calls {
                if leaf.reserve(day(1), usd(*call)).is_ok() {
                    settle(leaf, day(1), usd(*call), usd(*call));
                    own[key + 1] = own[key + 1].saturating_add(usd(*call));
                }
            }
        }
        let is_below = |mut key: usize, root: usize| loop {
            if key == root {
                return true;
            }
            if key == 0 {
                return false;
            }
            key = parents[key];
        };
        for root in 0..tree.len() {
            let below = (0..tree.len()).filter(|key| is_below(*key, root));
            let sum = below.map(|key| own[key]).fold(Micros::ZERO, Micros::saturating_add);
            let word = tree[root].word();
            prop_assert_eq!((word.committed, word.held), (sum, Micros::ZERO));
            let cap = tree[root].limits().daily;
            prop_assert!(cap.is_none_or(|cap| sum <= cap));
        }
        let closed = closed.index(tree.len());
        tree[closed].close();
        for (key, account) in tree.iter().enumerate() {
            prop_assert_eq!(account.is_closed(), is_below(key, closed));
            prop_assert_eq!(account.reserve(day(1), Micros::ZERO) == Err(Refusal::Closed), is_below(key, closed));
        }
    }
}
