use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};

use super::disk::{Asked, Disk, Script};
use super::*;
use crate::progress;
use crate::storage::handle::{Full, Limits, start_with};
use crate::storage::writer::Waits;

const LIMITS: Limits = Limits {
    records_max: 2000,
    stall: Duration::from_secs(60),
    waits: Waits {
        gather: Duration::from_millis(1),
        retry: Duration::from_millis(1),
        checkpoint: Duration::from_secs(60),
        stop: Duration::from_secs(60),
    },
};

fn start_scripted(directory: &Directory, limits: Limits) -> (StorageHandle, JoinHandle<()>, Script) {
    let store = directory.open();
    let books = store.books().unwrap();
    let (disk, script) = Disk::new(store);
    let (handle, thread) = start_with(disk, books, progress::all(1, |_| 0), limits).unwrap();
    (handle, thread, script)
}

fn start_on(directory: &Directory) -> (StorageHandle, JoinHandle<()>) {
    let store = directory.open();
    let books = store.books().unwrap();
    start(store, books, progress::all(1, |_| 0)).unwrap()
}

fn put(handle: &StorageHandle, record: &KeyRecord) -> Receiver<Result<(), StoreError>> {
    let (answer, answers) = bounded(1);
    handle.put_keys(std::slice::from_ref(record), move |result| answer.send(result).unwrap());
    answers
}

fn full_disk() -> StoreError {
    StoreError::Io("no space left on device".to_owned())
}

fn rows_asked(rows: usize) -> Asked {
    Asked { wal: Wal::Written, keys: 0, rows }
}

fn keys_asked(keys: usize) -> Asked {
    Asked { wal: Wal::Synced, keys, rows: 0 }
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(30), "{what}");
        thread::yield_now();
    }
}

#[test]
fn all_that_is_queued_is_written_before_the_thread_stops() {
    let directory = Directory::new();
    let (handle, thread) = start_on(&directory);
    for number in 0..2000u64 {
        let (id, open) = intent(1, 5, 1);
        handle.record(open).unwrap();
        let row = number.to_le_bytes();
        handle.record(ending(Some(id), End::Booked, Some((1, 5, 1)), &row)).unwrap();
    }
    assert_eq!(handle.flush_and_stop(), Ok(()));
    // Its queue is gone with the thread, which may end a moment after its answer.
    thread.join().unwrap();
    let counters = handle.counters();
    assert_eq!((counters.rows, counters.open_intents, counters.queued), (2000, 0, 0));
    assert!(counters.batches < 2000, "{counters:?}");
    assert!(!handle.has_room());
    let late = outcome(None, b"late");
    assert_eq!(handle.record(late.clone()), Err(Full(late)));
    assert_eq!(handle.flush_and_stop(), Err(StoreError::Stopped));
    assert_eq!(put(&handle, &key_record(1, None)).recv(), Ok(Err(StoreError::Stopped)));

    // The store is closed, though the handle is still there.
    let store = directory.open();
    assert_eq!(spend(&store, 1), Some((5, 2000)));
    let expected: Vec<_> = (1..).zip((0..2000u64).map(|number| number.to_le_bytes().to_vec())).collect();
    assert_eq!(rows(&store), expected);
}

#[test]
fn the_thread_ends_with_its_last_handle_and_loses_nothing() {
    let directory = Directory::new();
    let (handle, thread) = start_on(&directory);
    handle.record(outcome(None, b"row")).unwrap();
    drop(handle);
    thread.join().unwrap();
    assert_eq!(rows(&directory.open()).len(), 1);
}

#[test]
fn a_key_is_on_disk_when_its_write_is_answered() {
    let (directory, after_crash) = (Directory::new(), Directory::new());
    let (handle, thread) = start_on(&directory);
    let records = [key_record(1, None), key_record(2, Some(UnixMicros(2)))];
    for record in &records {
        assert_eq!(put(&handle, record).recv(), Ok(Ok(())));
    }
    // The files as they are now, with the store open, are what a crash leaves.
    fs::create_dir(&after_crash.0).unwrap();
    for entry in fs::read_dir(&directory.0).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), after_crash.0.join(entry.file_name())).unwrap();
    }
    assert_eq!(after_crash.open().keys(), Ok(records.to_vec()));
    handle.flush_and_stop().unwrap();
    thread.join().unwrap();
}

#[test]
fn keys_overtake_records_and_share_one_sync() {
    let directory = Directory::new();
    let (handle, thread, script) = start_scripted(&directory, LIMITS);
    handle.record(outcome(None, b"first")).unwrap();
    assert_eq!(script.asked(), rows_asked(1));
    for _ in 0..600 {
        handle.record(outcome(None, b"row")).unwrap();
    }
    let answers: Vec<_> = (1..=10).map(|number| put(&handle, &key_record(number, None))).collect();
    script.answer(Ok(()));
    assert_eq!(script.asked(), keys_asked(10));
    script.answer(Ok(()));
    assert!(answers.iter().all(|answer| answer.recv() == Ok(Ok(()))));
    assert_eq!(script.asked(), rows_asked(512));
    script.answer(Ok(()));
    assert_eq!(script.asked(), rows_asked(88));
    drop(script);
    handle.flush_and_stop().unwrap();
    thread.join().unwrap();
    assert_eq!(rows(&directory.open()).len(), 601);
}

#[test]
fn g7_i4_a_disk_that_refuses_stops_admission_and_loses_nothing() {
    let directory = Directory::new();
    let (handle, thread, script) = start_scripted(&directory, LIMITS);
    handle.record(outcome(Some((1, 5, 10)), b"a")).unwrap();
    assert_eq!(script.asked(), rows_asked(1));
    assert!(handle.has_room());
    script.answer(Err(full_disk()));
    // Asked again, with the records behind it still in the queue.
    assert_eq!(script.asked(), rows_asked(1));
    assert!(!handle.has_room());
    handle.record(outcome(Some((1, 5, 10)), b"b")).unwrap();
    script.answer(Err(full_disk()));
    assert_eq!(script.asked(), rows_asked(1));
    script.answer(Ok(()));
    assert_eq!(script.asked(), rows_asked(1));
    assert!(handle.has_room(), "the first batch is written");
    drop(script);
    handle.flush_and_stop().unwrap();
    thread.join().unwrap();
    let store = directory.open();
    assert_eq!(rows(&store), [(1, b"a".to_vec()), (2, b"b".to_vec())]);
    assert_eq!(spend(&store, 1), Some((5, 20)));
}

#[test]
fn a_refused_revocation_is_tried_again_and_a_refused_key_is_not() {
    let directory = Directory::new();
    let (handle, thread, script) = start_scripted(&directory, LIMITS);
    handle.record(outcome(None, b"first")).unwrap();
    script.asked();
    let issued = put(&handle, &key_record(1, None));
    let revoked = put(&handle, &key_record(2, Some(UnixMicros(2))));
    script.answer(Ok(()));
    assert_eq!(script.asked(), keys_asked(2));
    script.answer(Err(full_disk()));
    assert_eq!(issued.recv(), Ok(Err(full_disk())));
    assert_eq!(revoked.recv(), Ok(Err(full_disk())));
    assert_eq!(script.asked(), keys_asked(1));
    assert!(!handle.has_room());
    script.answer(Ok(()));
    wait_until("the disk works again", || handle.has_room());
    drop(script);
    handle.flush_and_stop().unwrap();
    thread.join().unwrap();
    assert_eq!(directory.open().keys(), Ok(vec![key_record(2, Some(UnixMicros(2)))]));
}

#[test]
fn a_refused_key_alone_does_not_stop_admission_for_good() {
    let directory = Directory::new();
    let (handle, thread, script) = start_scripted(&directory, LIMITS);
    let issued = put(&handle, &key_record(1, None));
    assert_eq!(script.asked(), keys_asked(1));
    script.answer(Err(full_disk()));
    assert_eq!(issued.recv(), Ok(Err(full_disk())));
    drop(script);
    wait_until("admission goes on", || handle.has_room());
    handle.flush_and_stop().unwrap();
    thread.join().unwrap();
    assert_eq!(directory.open().keys(), Ok(Vec::new()));
}

#[test]
fn a_write_that_hangs_stops_admission() {
    let directory = Directory::new();
    let limits = Limits { stall: Duration::from_millis(20), ..LIMITS };
    let (handle, thread, script) = start_scripted(&directory, limits);
    handle.record(outcome(None, b"row")).unwrap();
    script.asked();
    wait_until("the write hangs", || !handle.has_room());
    script.answer(Ok(()));
    wait_until("the write has ended", || handle.has_room());
    drop(script);
    handle.flush_and_stop().unwrap();
    thread.join().unwrap();
}

#[test]
fn a_queue_that_is_nine_tenths_full_stops_admission_before_it_loses_an_outcome() {
    let directory = Directory::new();
    let limits = Limits { records_max: 10, ..LIMITS };
    let (handle, thread, script) = start_scripted(&directory, limits);
    handle.record(outcome(None, b"row")).unwrap();
    script.asked();
    for queued in 0..9 {
        assert!(handle.has_room(), "{queued} queued");
        handle.record(outcome(None, b"row")).unwrap();
    }
    assert!(!handle.has_room());
    handle.record(outcome(None, b"row")).unwrap();
    let one_more = outcome(None, b"row");
    assert_eq!(handle.record(one_more.clone()), Err(Full(one_more)));
    drop(script);
    handle.flush_and_stop().unwrap();
    thread.join().unwrap();
    assert_eq!(rows(&directory.open()).len(), 11);
}

#[test]
fn a_disk_that_keeps_refusing_does_not_keep_the_process() {
    let directory = Directory::new();
    let limits = Limits { waits: Waits { stop: Duration::ZERO, ..LIMITS.waits }, ..LIMITS };
    let (handle, thread, script) = start_scripted(&directory, limits);
    handle.record(outcome(None, b"row")).unwrap();
    script.asked();
    let stopping = handle.clone();
    let stopper = thread::spawn(move || stopping.flush_and_stop());
    script.answer(Err(full_disk()));
    while let Ok(()) = script.try_answer(full_disk()) {}
    assert_eq!(stopper.join().unwrap(), Err(StoreError::NotWritten { rows: 1 }));
    thread.join().unwrap();
    assert_eq!(rows(&directory.open()), []);
}

#[test]
fn q22_a_change_that_comes_behind_a_revocation_gives_nothing_back() {
    let directory = Directory::new();
    let (handle, thread) = start_on(&directory);
    let (issued, revoked) = (key_record(1, None), key_record(1, Some(UnixMicros(7))));
    let changed = KeyRecord { version: 1, ..issued.clone() };
    assert_eq!(put(&handle, &issued).recv().unwrap(), Ok(()));
    assert_eq!(put(&handle, &changed).recv().unwrap(), Ok(()));
    assert_eq!(put(&handle, &revoked).recv().unwrap(), Ok(()));
    // It was made before the revoke and waited for its thread to be scheduled.
    assert_eq!(put(&handle, &changed).recv().unwrap(), Err(StoreError::Revoked));
    assert_eq!(put(&handle, &key_record(2, None)).recv().unwrap(), Ok(()), "another key is none of it");
    handle.flush_and_stop().unwrap();
    thread.join().unwrap();
    assert_eq!(directory.open().keys().unwrap().first(), Some(&revoked));
}
