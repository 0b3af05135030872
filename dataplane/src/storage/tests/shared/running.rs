//! Exchanges that another process runs at a start (rule Q23).

use super::*;

/// A store that has these records, opened by a process that knows of all that is open that it runs elsewhere.
struct Taken {
    directory: Directory,
    store: Store,
    books: Books,
    /// What the start itself put in doubt.
    ended: u64,
}

fn take_over(records: &[Handed]) -> Taken {
    let directory = Directory::new();
    let store = directory.open();
    let mut books = store.books().unwrap();
    let ended = store.recover(&mut books, records, NOW, |_| true).unwrap();
    Taken { directory, store, books, ended }
}

impl Taken {
    /// What is held for the running exchanges beyond doubts, in all.
    fn held(&self) -> u64 {
        self.books.running().iter().map(|running| running.held.as_u64()).sum()
    }

    /// The process that took over was killed: what the next start puts in doubt, and what is settled and in doubt
    /// then.
    fn killed(self) -> (u64, (u64, u64)) {
        let Taken { directory, store, books, .. } = self;
        drop((store, books));
        let store = directory.open();
        let ended = store.recover(&mut store.books().unwrap(), &[], NOW, |_| false).unwrap();
        (ended, opening(&store, 1))
    }
}

#[test]
fn q23_what_another_process_runs_stays_open_and_is_a_doubt_only_when_that_is_over() {
    let (_, open) = intent(1, 5, 30);
    let taken = take_over(&[open]);
    assert_eq!((taken.ended, taken.held(), rows(&taken.store).len()), (0, 30, 0));
    assert_eq!(opening(&taken.store, 1), (0, 0), "nothing is in doubt");
    // Without the journal: its floor is behind the intent.
    assert_eq!(taken.killed(), (1, (0, 30)));
}

#[test]
fn q23_an_outcome_that_comes_from_the_other_process_is_entered_as_any_other() {
    let (id, open) = intent(1, 5, 30);
    let mut taken = take_over(&[open]);
    // Of whichever shard ends it.
    let booking = Booking { key: key_id(1), day: Day::new(6), charge: micros(20), requests: 1 };
    let outcome =
        Record::Outcome { intent: Some(id), end: End::Booked, bookings: vec![booking], row: b"row" };
    let batch = taken.books.enter(&[record(7, 1, &outcome)], NOW);
    taken.store.write(&batch, Wal::Written).unwrap();
    assert_eq!((taken.books.open_intents(), rows(&taken.store).len()), (0, 1));
    assert_eq!(taken.killed(), (0, (20, 0)));
}

#[test]
fn q6_a_reservation_that_another_process_runs_is_held_once() {
    let [a, b] = [0, 1].map(|shard| shared_intent(shard, 7));
    let in_doubt = shared_outcome(0, End::InDoubt, 0);
    let executed = shared_outcome(0, EXECUTED, 20);
    let nothing = shared_outcome(0, End::Booked, 0);
    for (records, held) in [
        (vec![a.clone(), b.clone()], QUOTE),
        (vec![a.clone(), b.clone(), nothing], QUOTE),
        (vec![a.clone(), b.clone(), in_doubt], 0),
        (vec![a.clone(), b.clone(), executed], 0),
        (vec![a, b, shared_intent(2, 8)], 2 * QUOTE),
    ] {
        assert_eq!(take_over(&records).held(), held, "{records:?}");
    }
}

#[test]
fn q6_repeats_share_what_another_process_runs_and_all_of_them_decide() {
    let [a, b] = [0, 1].map(|shard| shared_intent(shard, 7));
    let mut taken = take_over(&[a, b]);
    let memory = taken.books.begin_memory(NOW);
    let reserve = |quote| Ok::<_, ()>(quote);
    let join = || memory.join(key_id(1), share(7).identity, micros(QUOTE), NOW, reserve).unwrap().unwrap();
    let (place, held) = join();
    assert_eq!((place.share, held), (share(7), Micros::ZERO), "a repeat reserves nothing");
    let end = |ending| memory.end(key_id(1), share(7), ending, NOW);
    assert_eq!(end(Ending::MovedNothing), Money::Untouched);
    // The repeat is told before the one whose answer it is.
    assert_eq!(end(Ending::Executed(Answer::Replayed)), Money::Settled(micros(QUOTE)));
    assert_eq!(end(Ending::Executed(Answer::Own)), Money::Untouched);
    assert_eq!(join().1, Micros::ZERO);
}

#[test]
fn q6_what_moved_nothing_anywhere_is_free_again() {
    let mut taken = take_over(&[shared_intent(0, 7)]);
    let memory = taken.books.begin_memory(NOW);
    assert_eq!(memory.end(key_id(1), share(7), Ending::MovedNothing, NOW), Money::Released(micros(QUOTE)));
}
