//! Several exchanges on one reservation, whose journals arrive in any order (rules Q6, Q17).

mod running;

use keybrake_proto::idempotency::{Answer, Ending, Entry, Identity, Money, ReservationId, Share};

use super::*;
use crate::idempotency::ENTRIES_PER_KEY_MAX;
use crate::storage::remembered::Executed;

const QUOTE: u64 = 30;

fn share(reservation: u64) -> Share {
    Share {
        reservation: ReservationId(reservation),
        identity: Identity(u128::from(reservation).to_le_bytes()),
    }
}

fn record(shard: u16, sequence: u64, record: &Record<'_>) -> Handed {
    Handed { shard, sequence, payload: record.encode(Vec::new()).into() }
}

/// The intent of an exchange on reservation `of` of key 1: the first record of that shard.
fn shared_intent(shard: u16, of: u64) -> Handed {
    let row = audit_row(&format!("req_{shard}"));
    let keys = vec![key_id(1)];
    let day = Day::new(5);
    record(shard, 1, &Record::Intent { keys, day, quote: micros(QUOTE), share: Some(share(of)), row: &row })
}

/// Its outcome.
fn shared_outcome(shard: u16, end: End, charge: u64) -> Handed {
    let intent = Some(IntentId::new(shard, 1));
    let row = audit_row(&format!("req_{shard}"));
    let bookings = vec![Booking { key: key_id(1), day: Day::new(5), charge: micros(charge), requests: 1 }];
    record(shard, 2, &Record::Outcome { intent, end, bookings, row: &row })
}

/// What is settled and in doubt after the records and a crash, in this store and after another start.
fn recovered(records: &[Handed]) -> (u64, u64) {
    let directory = Directory::new();
    let store = directory.open();
    let recover = || store.recover(&mut store.books().unwrap(), records, NOW, |_| false).unwrap();
    recover();
    let first = opening(&store, 1);
    assert_eq!((recover(), opening(&store, 1)), (0, first), "the next start finds the same journals");
    first
}

const EXECUTED: End = End::Executed { at: NOW };

#[test]
fn q6_a_crash_makes_one_doubt_of_a_reservation_whatever_the_order_of_the_journals() {
    let [a, b, c] = [0, 1, 2].map(|shard| shared_intent(shard, 7));
    assert_eq!(recovered(&[a.clone(), b.clone(), c.clone()]), (0, QUOTE));
    let executed = shared_outcome(1, EXECUTED, 20);
    for records in [[&a, &b, &executed], [&b, &executed, &a]] {
        assert_eq!(recovered(&records.map(Handed::clone)), (20, 0), "executed, so nothing is in doubt");
    }
    let nothing = shared_outcome(1, End::Booked, 0);
    for records in [[&a, &b, &nothing], [&b, &nothing, &a]] {
        assert_eq!(recovered(&records.map(Handed::clone)), (0, QUOTE), "the other may have moved it");
    }
    assert_eq!(recovered(&[a, shared_intent(1, 8)]), (0, 2 * QUOTE), "two reservations are two doubts");
}

#[test]
fn q6_a_doubt_and_the_execution_that_ends_it_may_arrive_in_either_order() {
    let [a, b] = [0, 1].map(|shard| shared_intent(shard, 7));
    let in_doubt = shared_outcome(0, End::InDoubt, 0);
    let executed = shared_outcome(1, EXECUTED, 20);
    assert_eq!(recovered(&[a.clone(), in_doubt.clone(), b.clone()]), (0, QUOTE), "the repeat was cut off");
    assert_eq!(recovered(&[a.clone(), in_doubt.clone()]), (0, QUOTE), "the repeat's journal lost its end");
    for records in [[&a, &in_doubt, &b, &executed], [&b, &executed, &a, &in_doubt]] {
        let records = records.map(Handed::clone);
        assert_eq!(recovered(&records), (20, 0));
        let directory = Directory::new();
        let store = directory.open();
        write(&store, &records);
        assert_eq!(amounts(&store), vec![0], "the row of the doubt, or what amends it, counts nothing");
    }
}

/// The amounts of the rows that stand for the exchange in doubt.
fn amounts(store: &Store) -> Vec<u64> {
    let rows = rows(store);
    let rows: Vec<AuditRow<'_>> = rows.iter().map(|(_, row)| AuditRow::decode(row).unwrap()).collect();
    let amended: Vec<&str> = rows.iter().filter_map(|row| row.amends).collect();
    let of_doubt = |row: &&AuditRow<'_>| row.amends.is_some() || row.id == "req_0";
    let counts = |row: &&AuditRow<'_>| !amended.contains(&row.id);
    rows.iter().filter(of_doubt).filter(counts).map(|row| row.amount.as_u64()).collect()
}

#[test]
fn q5_what_was_executed_and_what_is_in_doubt_is_known_to_the_next_start() {
    let directory = Directory::new();
    let store = directory.open();
    let records = [
        shared_intent(0, 7),
        shared_outcome(0, EXECUTED, 20),
        shared_intent(1, 8),
        shared_outcome(1, End::InDoubt, 0),
    ];
    write(&store, &records);
    let end = |of: u64| {
        let memory = store.books().unwrap().begin_memory(NOW);
        memory.end(key_id(1), share(of), Ending::Executed(Answer::Replayed), NOW)
    };
    assert_eq!(end(7), Money::Untouched, "a free repeat");
    assert_eq!(end(8), Money::DoubtSettled(micros(QUOTE)));
    assert_eq!(end(9), Money::Beyond, "not on the books");
    let memory = store.books().unwrap().begin_memory(NOW);
    let reserve = |quote| Ok::<_, ()>(quote);
    let (place, _) = memory.join(key_id(1), share(9).identity, micros(1), NOW, reserve).unwrap().unwrap();
    assert!(place.share.reservation > ReservationId(8), "no number is given twice");
}

#[test]
fn q5_a_doubt_that_a_repeat_has_settled_is_not_an_operators_any_more() {
    let mut books = Books::new(Stored::default());
    drop(books.enter(&[shared_intent(0, 7), shared_outcome(0, End::InDoubt, 0)], NOW));
    let memory = books.begin_memory(NOW);
    let id = IntentId::new(0, 1);
    let replayed = Ending::Executed(Answer::Replayed);
    assert_eq!(memory.end(key_id(1), share(7), replayed, NOW), Money::DoubtSettled(micros(QUOTE)));
    assert!(!books.may_resolve(id), "its outcome is on its way");
    memory.insert(key_id(1), share(7).identity, Entry::in_doubt(ReservationId(7), micros(QUOTE)));
    assert!(books.may_resolve(id));
    assert_eq!(memory.end(key_id(1), share(7), replayed, NOW), Money::Beyond, "an operator was faster");
}

#[test]
fn q17_the_store_keeps_as_many_requests_of_a_key_as_the_memory_and_forgets_old_ones() {
    let directory = Directory::new();
    let store = directory.open();
    let mut books = store.books().unwrap();
    let most = u64::try_from(ENTRIES_PER_KEY_MAX).unwrap();
    let count = || store.read_all(Family::Idempotency, format::decode_remembered).unwrap().len();
    for number in 0..=most {
        let shard = u16::try_from(number).unwrap();
        let end = End::Executed { at: UnixMicros(NOW.0 + number) };
        let records = [shared_intent(shard, number), shared_outcome(shard, end, 1)];
        store.write(&books.enter(&records, NOW), Wal::Written).unwrap();
    }
    assert_eq!(count(), ENTRIES_PER_KEY_MAX);
    let kept: Vec<Executed> = store.read_all(Family::Idempotency, format::decode_remembered).unwrap();
    assert!(!kept.iter().any(|executed| executed.share == share(0)), "the oldest is gone");
    let hours = |hours: u64| NOW.plus_seconds(hours * 60 * 60);
    store.write(&books.forget(hours(23)), Wal::Written).unwrap();
    assert_eq!(count(), ENTRIES_PER_KEY_MAX);
    store.write(&books.forget(hours(24)), Wal::Written).unwrap();
    assert_eq!(count(), 0);
}
