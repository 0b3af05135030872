use keybrake_proto::idempotency::{Answer, REMEMBERED_S};

use super::*;

const NOW: UnixMicros = UnixMicros(1_000_000);

fn key() -> KeyId {
    KeyId::from_bytes(b"0123456789abcdef").unwrap()
}

fn identity(number: u64) -> Identity {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Identity(bytes)
}

/// What a request finds, and what it has to reserve.
fn join(memory: &Memory, number: u64) -> (Share, Option<Joined>, Micros) {
    let reserve = |quote| Ok::<_, ()>(quote);
    let (place, reserved) = memory.join(key(), identity(number), Micros::MAX, NOW, reserve).unwrap().unwrap();
    (place.share, place.joined, reserved)
}

fn execute(memory: &Memory, share: Share) -> Money {
    memory.end(key(), share, Ending::Executed(Answer::Own), NOW)
}

#[test]
fn m8_a_repeat_reserves_nothing_and_another_request_does() {
    let memory = Memory::default();
    let (first, joined, reserved) = join(&memory, 1);
    assert_eq!((joined, reserved), (None, Micros::MAX));
    assert_eq!(join(&memory, 1), (first, Some(Joined::Sharing(Micros::MAX)), Micros::ZERO));
    let (other, joined, reserved) = join(&memory, 2);
    assert_eq!((joined, reserved), (None, Micros::MAX));
    assert_ne!(other.reservation, first.reservation);
    assert_eq!(execute(&memory, first), Money::Settled(Micros::MAX));
    assert_eq!(join(&memory, 1), (first, Some(Joined::Free), Micros::ZERO));
}

#[test]
fn q5_what_does_not_fit_leaves_nothing_to_share() {
    let memory = Memory::default();
    assert!(memory.join(key(), identity(1), Micros::MAX, NOW, |_| Err::<(), _>(())).is_err());
    assert_eq!(join(&memory, 1).1, None);
}

#[test]
fn q17_of_more_requests_than_fit_the_oldest_reserves_anew() {
    let memory = Memory::default();
    let running = join(&memory, 0).0;
    let most = u64::try_from(ENTRIES_PER_KEY_MAX).unwrap();
    for number in 1..=most {
        let (share, joined, _) = join(&memory, number);
        assert_eq!(joined, None);
        execute(&memory, share);
    }
    let of_key = memory.bucket(key()).get(&key()).map(|of_key| (of_key.entries.len(), of_key.order.len()));
    assert_eq!(of_key, Some((ENTRIES_PER_KEY_MAX, ENTRIES_PER_KEY_MAX)));
    assert_eq!(join(&memory, 0).1, Some(Joined::Sharing(Micros::MAX)), "one that runs stays");
    assert_eq!(join(&memory, 2).1, Some(Joined::Free));
    assert_eq!(join(&memory, 1).1, None, "the oldest one is gone");
    assert_eq!(execute(&memory, running), Money::Settled(Micros::MAX));
}

#[test]
fn q17_where_all_run_one_more_is_on_its_own() {
    let memory = Memory::default();
    for number in 0..u64::try_from(ENTRIES_PER_KEY_MAX).unwrap() {
        join(&memory, number);
    }
    let more = memory.join(key(), identity(u64::MAX), Micros::MAX, NOW, |_| Ok::<_, ()>(()));
    assert!(matches!(more, Ok(None)));
}

#[test]
fn q17_what_is_old_is_forgotten_and_what_is_released_at_once() {
    let memory = Memory::default();
    let share = join(&memory, 1).0;
    execute(&memory, share);
    let released = join(&memory, 2).0;
    assert_eq!(memory.end(key(), released, Ending::MovedNothing, NOW), Money::Released(Micros::MAX));
    let count = || memory.bucket(key()).get(&key()).map_or(0, |of_key| of_key.order.len());
    assert_eq!(count(), 1);
    memory.forget(NOW.plus_seconds(REMEMBERED_S));
    assert_eq!(count(), 1);
    memory.forget(NOW.plus_seconds(REMEMBERED_S + 1));
    assert_eq!(count(), 0);
}

#[test]
fn q5_a_doubt_ends_by_whoever_comes_first_the_repeat_or_the_operator() {
    let in_doubt = || {
        let memory = Memory::default();
        let share = join(&memory, 1).0;
        assert!(!memory.leave_doubt(key(), share), "it runs");
        assert_eq!(memory.end(key(), share, Ending::Unknown, NOW), Money::InDoubt(Micros::MAX));
        let (repeat, joined, reserved) = join(&memory, 1);
        assert_eq!((repeat, joined, reserved), (share, Some(Joined::Sharing(Micros::MAX)), Micros::ZERO));
        (memory, share)
    };
    let (memory, share) = in_doubt();
    assert_eq!(execute(&memory, share), Money::DoubtSettled(Micros::MAX));
    assert!(!memory.leave_doubt(key(), share), "the operator comes too late");
    let (memory, share) = in_doubt();
    assert!(memory.leave_doubt(key(), share));
    assert_eq!(execute(&memory, share), Money::Beyond, "what was voided was executed after all");
    assert_eq!(join(&memory, 1).1, None);
}
