use proptest::prelude::*;

use super::*;

const NOW: UnixMicros = UnixMicros(1_000_000);
const QUOTE: Micros = Micros::MAX;

fn first() -> Entry {
    Entry::first(ReservationId(1), QUOTE)
}

/// Plays `endings` of exchanges that all run at once.
fn check(endings: &[Ending], expected: &[Money]) {
    let mut entry = first();
    endings.iter().skip(1).for_each(|_| entry.join());
    let money: Vec<Money> = endings.iter().map(|ending| entry.end(*ending, NOW)).collect();
    assert_eq!(money, expected, "{endings:?}");
}

use Answer::{Own, Replayed};
use Ending::{Executed, MovedNothing, Unknown};
use Money::{Beyond, InDoubt, Released, Settled, Unsure, Untouched};

#[test]
fn q6_any_executed_settles_else_any_unknown_is_a_doubt_else_it_is_released() {
    check(&[Executed(Own)], &[Settled(QUOTE)]);
    check(&[Unknown], &[InDoubt(QUOTE)]);
    check(&[MovedNothing], &[Released(QUOTE)]);
    check(&[Unknown, MovedNothing], &[Unsure(QUOTE), InDoubt(QUOTE)]);
    check(&[Unknown, Unknown], &[Unsure(QUOTE), InDoubt(QUOTE)]);
    check(&[MovedNothing, Unknown], &[Untouched, InDoubt(QUOTE)]);
    check(&[MovedNothing, MovedNothing], &[Untouched, Released(QUOTE)]);
    check(&[Unknown, Executed(Replayed)], &[Unsure(QUOTE), Settled(QUOTE)]);
    check(&[Executed(Own), Unknown, MovedNothing], &[Settled(QUOTE), Untouched, Untouched]);
}

#[test]
fn m8_one_execution_is_paid_for_once_whichever_reply_comes_first() {
    check(&[Executed(Own), Executed(Replayed)], &[Settled(QUOTE), Untouched]);
    check(&[Executed(Replayed), Executed(Own)], &[Settled(QUOTE), Untouched]);
    check(&[Executed(Replayed), Executed(Replayed)], &[Settled(QUOTE), Untouched]);
    check(&[Executed(Replayed), Executed(Own), Executed(Own)], &[Settled(QUOTE), Untouched, Beyond]);
}

#[test]
fn q5_a_repeat_is_free_for_23_hours() {
    let mut entry = first();
    entry.end(Executed(Own), NOW);
    let last = NOW.plus_seconds(REMEMBERED_S);
    assert_eq!(entry.finds(last), Some(Joined::Free));
    assert_eq!(entry.finds(UnixMicros(last.0 + 1)), None);
    entry.join();
    entry.end(Executed(Replayed), last);
    assert_eq!(entry.finds(UnixMicros(last.0 + 1)), None, "a replay does not prolong it");
}

#[test]
fn q5_what_moved_nothing_reserves_anew_and_what_is_in_doubt_does_not() {
    let mut entry = first();
    assert_eq!(entry.finds(NOW), Some(Joined::Sharing(QUOTE)), "while it runs");
    entry.end(MovedNothing, NOW);
    assert_eq!(entry.finds(NOW), None);
    let mut entry = Entry::in_doubt(ReservationId(1), QUOTE);
    assert_eq!(entry.finds(NOW), Some(Joined::Sharing(QUOTE)));
    entry.join();
    assert_eq!(entry.end(Unknown, NOW), Untouched);
    assert!(entry.has_doubt(), "as before");
    entry.join();
    assert_eq!(entry.end(Executed(Replayed), NOW), Money::DoubtSettled(QUOTE));
    assert!(!entry.has_doubt());
}

#[test]
fn q5_a_repeat_that_is_executed_again_is_paid_for() {
    let mut entry = Entry::executed(ReservationId(1), NOW);
    entry.join();
    assert_eq!(entry.end(Executed(Replayed), NOW), Untouched);
    entry.join();
    assert_eq!(entry.end(Executed(Own), NOW), Beyond);
}

fn any_ending() -> impl Strategy<Value = Ending> {
    prop_oneof![Just(Executed(Own)), Just(Executed(Replayed)), Just(Unknown), Just(MovedNothing)]
}

proptest! {
    /// Exchanges begin and end in any order; the model looks at all endings at once, when all are there.
    #[test]
    fn q6_every_interleaving_ends_as_all_endings_together_say(
        endings in proptest::collection::vec(any_ending(), 1..12),
        starts in proptest::collection::vec(any::<bool>(), 24),
    ) {
        let mut entry = first();
        let (mut running, mut begun, mut ended) = (1, 1, 0);
        let (mut held, mut doubts, mut charges) = (1, 0, 0);
        let mut starts = starts.into_iter();
        // While the first reservation is held or in doubt.
        while ended < endings.len() && (running > 0 || entry.finds(NOW).is_some()) {
            if begun < endings.len() && (running == 0 || starts.next().unwrap_or(false)) {
                if entry.finds(NOW).is_none() {
                    break;
                }
                entry.join();
                (running, begun) = (running + 1, begun + 1);
                continue;
            }
            if running == 0 {
                break;
            }
            match entry.end(endings[ended], NOW) {
                Untouched | Unsure(_) => {}
                Settled(_) => (held, charges) = (held - 1, charges + 1),
                Money::DoubtSettled(_) => (doubts, charges) = (doubts - 1, charges + 1),
                Beyond => charges += 1,
                Released(_) => held -= 1,
                InDoubt(_) => (held, doubts) = (held - 1, doubts + 1),
            }
            (running, ended) = (running - 1, ended + 1);
        }
        let seen = &endings[..ended];
        let own = seen.iter().filter(|ending| **ending == Executed(Own)).count();
        let was_executed = own > 0 || seen.contains(&Executed(Replayed));
        let is_unknown = seen.contains(&Unknown);
        prop_assert_eq!(running, 0);
        prop_assert_eq!(charges, own.max(usize::from(was_executed)));
        prop_assert_eq!((held, doubts), (0, usize::from(!was_executed && is_unknown)));
    }
}
