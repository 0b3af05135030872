//! The ledger against tables a reader checks by eye, and against a naive model.

use proptest::prelude::*;

use super::*;

fn usd(amount: u64) -> Micros {
    Micros::new(amount * 1_000_000).unwrap()
}

/// Plays `cap 10 | day 0 | reserve 6 -> 6 | settle 6 2 -> 2`: amounts in USD, `-> n` is what is
/// committed afterwards, `-> full` and `-> closed` are refusals.
fn check(script: &str) {
    let mut cap = None;
    let mut today = Day::new(0);
    let mut word = Word::open(today);
    for step in script.split('|').map(str::trim) {
        let (action, expected) = step.split_once("->").map_or((step, None), |(a, e)| (a, Some(e.trim())));
        let words: Vec<&str> = action.split_whitespace().collect();
        let amount = |at: usize| usd(words[at].parse().unwrap());
        let mut refusal = None;
        match words[0] {
            "cap" => cap = Some(amount(1)),
            "day" => today = Day::new(words[1].parse().unwrap()),
            "reserve" => match word.reserve(today.max(word.day), amount(1), cap) {
                Ok(next) => word = next,
                Err(Refused::Closed) => refusal = Some("closed"),
                Err(Refused::Full { .. }) => refusal = Some("full"),
                Err(Refused::Later(_)) => refusal = Some("later"),
            },
            "settle" => word = word.settle(amount(1), amount(2)),
            "release" => word = word.release(amount(1)),
            "carry" => word = word.on(today).carry(amount(1)),
            "close" => word = word.close(),
            other => panic!("no such step: {other}"),
        }
        if let Some(expected) = expected {
            let committed = (word.committed.as_u64() / 1_000_000).to_string();
            assert_eq!(refusal.unwrap_or(&committed), expected, "at `{step}` of `{script}`");
        }
    }
}

#[test]
fn q23_what_another_process_has_admitted_counts_above_the_cap_and_on_a_closed_key() {
    check("cap 10 | reserve 9 -> 9 | carry 6 -> 15 | reserve 1 -> full | settle 6 2 -> 11 | settle 9 0 -> 2");
    check("reserve 3 -> 3 | close | carry 6 -> 9 | reserve 1 -> closed | settle 6 6 -> 9");
    check("cap 10 | day 0 | carry 6 -> 6 | day 1 | reserve 1 -> 7 | reserve 4 -> full");
    check("reserve 3 -> 3 | settle 3 3 -> 3 | day 1 | carry 6 -> 6");
}

#[test]
fn a_cap_is_filled_to_the_last_dollar_and_no_further() {
    check("cap 10 | day 0 | reserve 6 -> 6 | reserve 4 -> 10 | reserve 1 -> full");
    check("cap 10 | day 0 | reserve 11 -> full | reserve 10 -> 10");
}

#[test]
fn a_released_hold_frees_all_and_a_settled_one_frees_the_difference() {
    check(
        "cap 10 | reserve 10 -> 10 | release 10 -> 0 | reserve 10 -> 10 | settle 10 4 -> 4 | reserve 6 -> 10",
    );
}

#[test]
fn q2_a_hold_over_midnight_counts_on_both_days() {
    check("cap 10 | day 0 | reserve 6 -> 6 | day 1 | reserve 1 -> 7 | settle 6 2 -> 3");
}

#[test]
fn a_new_day_forgets_what_was_settled() {
    check(
        "cap 10 | day 0 | reserve 10 -> 10 | settle 10 10 -> 10 | reserve 1 -> full | day 1 | reserve 10 -> 10",
    );
}

#[test]
fn a_clock_behind_the_word_does_not_reopen_a_day() {
    check("cap 10 | day 5 | reserve 10 -> 10 | settle 10 10 -> 10 | day 4 | reserve 1 -> full");
}

#[test]
fn a_closed_account_admits_nothing_and_still_settles() {
    check("cap 10 | reserve 6 -> 6 | close | reserve 0 -> closed | settle 6 5 -> 5 | reserve 1 -> closed");
    check("cap 10 | close | day 1 | reserve 0 -> closed");
}

#[test]
fn q4_zero_fits_also_under_a_cap_that_was_lowered() {
    check("cap 10 | reserve 10 -> 10 | reserve 0 -> 10");
    check("cap 10 | reserve 10 -> 10 | cap 5 | reserve 0 -> 10 | reserve 1 -> full");
}

#[test]
fn a_charge_above_its_quote_is_booked_in_full() {
    check("cap 10 | reserve 5 -> 5 | settle 5 12 -> 12 | reserve 0 -> 12 | reserve 1 -> full");
}

#[test]
fn without_a_cap_money_is_still_counted() {
    check("reserve 1000000 -> 1000000 | settle 1000000 7 -> 7");
}

#[test]
fn q4_a_word_that_was_found_above_its_cap_admits_nothing_but_zero() {
    let word = Word { committed: usd(12), ..Word::open(Day::new(1)) };
    let cap = Some(usd(10));
    assert_eq!(word.reserve(Day::new(1), usd(1), cap), Err(Refused::Full { left: Micros::ZERO }));
    assert_eq!(word.reserve(Day::new(1), Micros::ZERO, cap), Ok(word));
    assert_eq!(word.left(Day::new(1), cap), Some(Micros::ZERO));
}

#[test]
fn q9_the_widest_day_and_amounts_fit_and_do_not_touch_each_other() {
    let widest = Word { closed: true, day: Day::MAX, held: Micros::MAX, committed: Micros::MAX };
    assert_eq!(widest.pack(), u128::MAX);
    for word in [
        Word { closed: true, ..Word::open(Day::default()) },
        Word::open(Day::MAX),
        Word { held: Micros::MAX, ..Word::open(Day::default()) },
        Word { committed: Micros::MAX, ..Word::open(Day::default()) },
    ] {
        assert_eq!(Word::unpack(word.pack()), word);
    }
    assert_eq!((Word { closed: true, ..Word::open(Day::default()) }).pack(), 1 << 127);
}

#[test]
fn at_the_edge_of_the_word_a_sum_that_is_not_known_stays_full_until_the_day_is_over() {
    let one = Micros::new(1).unwrap();
    let day = Day::new(1);
    // No reserve gets there, with the largest cap and without one.
    for cap in [None, Some(Micros::MAX)] {
        let most = Word::open(day).reserve(day, COMMITTED_MAX, cap).unwrap();
        assert_eq!(most.reserve(day, one, cap), Err(Refused::Full { left: Micros::ZERO }));
        assert_eq!(most.release(COMMITTED_MAX), Word::open(day));
    }
    // Two holds; one of them costs far more than its quote.
    let two = Word::open(day).reserve(day, usd(5), None).unwrap().reserve(day, usd(7), None).unwrap();
    let over = two.settle(usd(5), Micros::MAX);
    assert_eq!((over.held, over.committed), (usd(7), Micros::MAX));
    // What really was committed is not in the word, so the other's end must not lower it.
    let after = over.release(usd(7));
    assert_eq!((after.held, after.committed), (Micros::ZERO, Micros::MAX));
    assert_eq!(after.void(day, usd(7)), after);
    assert_eq!(after.reserve(day, one, None), Err(Refused::Full { left: Micros::ZERO }));
    assert!(after.reserve(day, Micros::ZERO, None).is_ok());
    assert!(over.reserve(Day::new(2), usd(1), None).unwrap().committed == usd(8));
}

#[test]
fn no_more_is_freed_than_is_held() {
    // A recovery that forgot the hold must not turn its end into headroom.
    let word = Word { committed: usd(6), ..Word::open(Day::new(1)) };
    assert_eq!(word.release(usd(6)), word);
    let held = Word { held: usd(2), committed: usd(6), ..Word::open(Day::new(1)) };
    assert_eq!(held.release(usd(6)).committed, usd(4));
    assert_eq!(held.void(Day::new(1), usd(6)).committed, usd(2));
    assert_eq!(held.void(Day::new(0), usd(6)), held);
}

/// The ledger as one would write it on paper: a list of holds and one sum per day.
#[derive(Default)]
struct Naive {
    day: u32,
    settled: u128,
    holds: Vec<u64>,
    closed: bool,
}

impl Naive {
    fn committed(&self) -> u128 {
        self.settled + self.holds.iter().copied().map(u128::from).sum::<u128>()
    }
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { quote: u64, day: u32 },
    Settle { at: usize, charge: u64 },
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..100u64, 0..4u32).prop_map(|(quote, day)| Step::Reserve { quote, day }),
        6 => (any::<usize>(), 0..120u64).prop_map(|(at, charge)| Step::Settle { at, charge }),
        1 => Just(Step::Close),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn the_word_agrees_with_a_list_of_holds(steps in steps(), cap in 0..300u64) {
        let mut naive = Naive::default();
        let mut word = Word::open(Day::new(0));
        let micros = |amount| Micros::new(amount).unwrap();
        for step in steps {
            match step {
                Step::Reserve { quote, day } => {
                    let result = word.reserve(Day::new(day).max(word.day), micros(quote), Some(micros(cap)));
                    let mut next = (naive.day, naive.settled);
                    if day > naive.day { next = (day, 0) }
                    let held: u128 = naive.holds.iter().copied().map(u128::from).sum();
                    let fits = quote == 0 || next.1 + held + u128::from(quote) <= u128::from(cap);
                    prop_assert_eq!(result.is_ok(), fits && !naive.closed);
                    if let Ok(reserved) = result {
                        word = reserved;
                        (naive.day, naive.settled) = next;
                        naive.holds.push(quote);
                    }
                }
                Step::Settle { at, charge } if !naive.holds.is_empty() => {
                    let quote = naive.holds.swap_remove(at % naive.holds.len());
                    word = word.settle(micros(quote), micros(charge));
                    naive.settled += u128::from(charge);
                }
                Step::Settle { .. } => {}
                Step::Close => {
                    word = word.close();
                    naive.closed = true;
                }
            }
            prop_assert_eq!(u128::from(word.committed.as_u64()), naive.committed());
            prop_assert_eq!(word.day.as_u32(), naive.day);
            prop_assert_eq!(Word::unpack(word.pack()), word);
        }
    }

    #[test]
    fn every_bit_pattern_is_a_word(bits: u128) {
        prop_assert_eq!(Word::unpack(bits).pack(), bits);
    }
}
