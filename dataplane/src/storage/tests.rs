mod disk;
mod thread;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

use keybrake_proto::journal::{Booking, End, IntentId, Record};
use keybrake_proto::key::KeyId;
use keybrake_proto::key::KeyDigest;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Policy;
use keybrake_proto::time::Day;
use proptest::prelude::*;

use super::batch::Batch;
use super::books::Stored;
use super::*;

/// A store's directory of this test's own, gone at its end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("keybrake-storage-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Directory(env::temp_dir().join(name))
    }

    fn open(&self) -> Store {
        Store::open(&self.0).unwrap()
    }

    fn refusal(&self) -> StoreError {
        Store::open(&self.0).err().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn key_id(number: u8) -> KeyId {
    KeyId::from_bytes(format!("key0000000000{number:03}").as_bytes()).unwrap()
}

fn key_record(number: u8, revoked_at: Option<UnixMicros>) -> KeyRecord {
    KeyRecord {
        id: key_id(number),
        digest: KeyDigest([number; 32]),
        policy: Policy {
            vendor: "stripe".to_owned(),
            allowed_endpoints: vec!["POST /v1/charges".parse().unwrap()],
            daily_usd_cap: Some("150.5".parse().unwrap()),
            expires_at: None,
        },
        label: Some("billing".to_owned()),
        agent_run_label: None,
        metadata: [("team".to_owned(), "a".to_owned())].into(),
        created_at: UnixMicros(1),
        revoked_at,
    }
}

/// Who, on which day, how much; `None` for a denial.
type Booked = Option<(u8, u32, u64)>;

fn outcome(booked: Booked, row: &[u8]) -> Vec<u8> {
    let booking = booked.map(|(key, day, charge)| Booking {
        key: key_id(key),
        day: Day::new(day),
        charge: Micros::new(charge).unwrap(),
    });
    Record::Outcome { intent: booked.map(|_| IntentId(1)), booking, row }.encode(Vec::new())
}

fn intent(key: u8) -> Vec<u8> {
    hold(IntentId(1), key, 1, 0)
}

fn hold(id: IntentId, key: u8, day: u32, quote: u64) -> Vec<u8> {
    let quote = Micros::new(quote).unwrap();
    Record::Intent { id, key: key_id(key), day: Day::new(day), quote }.encode(Vec::new())
}

fn spend(key: u8, day: u32, committed: u64) -> (KeyId, Spend) {
    (key_id(key), Spend { day: Day::new(day), committed: Micros::new(committed).unwrap() })
}

/// The audit rows, with their sequences.
fn rows(store: &Store) -> Vec<(u64, Vec<u8>)> {
    store.read_all(Family::Audit, |key, row| Some((format::decode_sequence(key)?, row.to_vec()))).unwrap()
}

/// Enters the records in one batch, as the thread does.
fn write(store: &Store, records: &[Vec<u8>]) {
    let mut books = Books::new(store.spend().unwrap(), store.next_audit_sequence().unwrap());
    store.write(&books.enter(records), Wal::Written).unwrap();
}

#[test]
fn a_new_store_is_empty_and_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new();
    let store = directory.open();
    assert_eq!(store.keys(), Ok(Vec::new()));
    assert_eq!(store.spend(), Ok(Vec::new()));
    assert_eq!(store.master_check(), Ok(None));
    assert_eq!(store.credential("stripe", "default"), Ok(None));
    assert_eq!(store.next_audit_sequence(), Ok(1));
    assert_eq!(fs::metadata(&directory.0).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn all_that_is_put_is_there_after_a_reopen() {
    let directory = Directory::new();
    let store = directory.open();
    let credential = StoredCredential { version: 7, sealed: b"sealed".to_vec() };
    store.put_credential("stripe", "default", &credential).unwrap();
    store.put_master_check(&[9; 16]).unwrap();
    write(&store, &[outcome(Some((1, 5, 30)), b"a"), outcome(None, b"b")]);
    drop(store);

    let store = directory.open();
    assert_eq!(store.credential("stripe", "default"), Ok(Some(credential)));
    assert_eq!(store.credential("stripe", "other"), Ok(None));
    assert_eq!(store.master_check(), Ok(Some([9; 16])));
    assert_eq!(store.spend(), Ok(vec![spend(1, 5, 30)]));
    assert_eq!(store.next_audit_sequence(), Ok(3));
    write(&store, &[outcome(Some((1, 5, 12)), b"c")]);
    assert_eq!(store.spend(), Ok(vec![spend(1, 5, 42)]));
    assert_eq!(rows(&store), [(1, b"a".to_vec()), (2, b"b".to_vec()), (3, b"c".to_vec())]);
}

#[test]
fn a_later_day_starts_anew_and_an_earlier_one_is_over() {
    let directory = Directory::new();
    let store = directory.open();
    write(&store, &[outcome(Some((1, 5, 30)), b""), outcome(Some((1, 6, 0)), b"")]);
    assert_eq!(store.spend(), Ok(vec![spend(1, 6, 0)]));
    write(
        &store,
        &[outcome(Some((1, 6, 4)), b""), outcome(Some((1, 5, 30)), b""), outcome(Some((1, 6, 1)), b"")],
    );
    assert_eq!(store.spend(), Ok(vec![spend(1, 6, 5)]));
    write(&store, &[outcome(Some((1, 6, Micros::MAX.as_u64())), b"")]);
    assert_eq!(store.spend(), Ok(vec![spend(1, 6, Micros::MAX.as_u64())]));
    assert_eq!(rows(&store).len(), 6, "every row is written");
}

#[test]
fn what_is_held_is_committed_until_its_outcome_and_after_a_kill() {
    let directory = Directory::new();
    let store = directory.open();
    let mut books = Books::new(Vec::new(), 1);
    let mut enter = |records: &[Vec<u8>]| {
        store.write(&books.enter(records), Wal::Written).unwrap();
        store.spend().unwrap()
    };
    assert_eq!(enter(&[hold(IntentId(1), 1, 5, 30), hold(IntentId(2), 1, 5, 12)]), vec![spend(1, 5, 42)]);
    assert_eq!(enter(&[outcome(Some((1, 5, 10)), b"settled for less")]), vec![spend(1, 5, 22)]);
    // The other hold is carried over midnight.
    assert_eq!(enter(&[hold(IntentId(3), 1, 6, 1)]), vec![spend(1, 6, 13)]);
    // Killed here: the next process has no outcome to wait for, and the money stays committed.
    write(&store, &[outcome(Some((1, 6, 4)), b"after the kill")]);
    assert_eq!(store.spend().unwrap(), vec![spend(1, 6, 17)]);
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let directory = Directory::new();
    let _open = directory.open();
    assert_eq!(directory.refusal(), StoreError::Locked(directory.0.clone()));
}

#[test]
fn another_schema_version_is_refused_by_name() {
    let directory = Directory::new();
    let mut store = directory.open();
    // A newer version may have column families that this one does not know.
    store.db.create_cf("newer", &rocksdb::Options::default()).unwrap();
    store.put(Family::Meta, b"schema", b"2").unwrap();
    drop(store);
    assert_eq!(directory.refusal(), StoreError::Schema { found: "2".to_owned() });
}

#[test]
fn a_store_without_its_beginning_is_not_started_anew() {
    let directory = Directory::new();
    write(&directory.open(), &[outcome(Some((1, 5, 30)), b"a")]);
    fs::remove_file(directory.0.join("CURRENT")).unwrap();
    assert!(matches!(directory.refusal(), StoreError::Damaged { .. }));
}

#[test]
fn a_directory_that_cannot_be_is_told() {
    let directory = Directory::new();
    fs::create_dir(&directory.0).unwrap();
    let file = directory.0.join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(Store::open(&file.join("store")).err(), Some(StoreError::Unusable { .. })));
}

#[test]
fn damaged_entries_are_named_by_their_family() {
    let directory = Directory::new();
    let store = directory.open();
    store.put(Family::Spend, key_id(1).as_bytes(), b"\x02").unwrap();
    // Another key's record must not be taken for this one's.
    let value = format::encode_key(&key_record(1, None)).unwrap();
    store.put(Family::Keys, key_id(2).as_bytes(), &value).unwrap();
    assert_eq!(store.spend(), Err(StoreError::DamagedEntry("spend")));
    assert_eq!(store.keys(), Err(StoreError::DamagedEntry("keys")));
}

#[test]
fn what_is_no_record_is_counted_and_the_others_are_entered() {
    let mut damaged = outcome(Some((1, 5, 30)), b"row");
    damaged[9] ^= 1;
    // Several records may come in one message.
    let two = [intent(1), outcome(Some((1, 5, 30)), b"row")].concat();
    let mut books = Books::new(Vec::new(), 1);
    let batch = books.enter(&[hold(IntentId(2), 1, 1, 0), damaged, two, b"?".to_vec()]);
    assert_eq!((batch.count(Family::Audit), batch.count(Family::Spend)), (1, 1));
    assert_eq!((books.damaged(), books.open_intents()), (2, 1));
}

/// Spend as a newcomer would compute it: the sum over the last day, in the order of arrival.
fn naive_spend(all: &[Booked], key: u8) -> Option<(KeyId, Spend)> {
    let of_key = || all.iter().flatten().filter(|(of, ..)| *of == key);
    let day = of_key().map(|(_, day, _)| *day).max()?;
    let committed = of_key().filter(|(_, on, _)| *on == day).map(|(.., charge)| *charge).sum();
    Some(spend(key, day, committed))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn batches_equal_a_naive_model(
        batches in prop::collection::vec(
            prop::collection::vec(prop::option::of((0u8..3, 0u32..4, 0u64..1000)), 0..12),
            1..6,
        ),
        reopen_at in 0usize..6,
    ) {
        let directory = Directory::new();
        let mut store = directory.open();
        for (index, batch) in batches.iter().enumerate() {
            if index == reopen_at {
                drop(store);
                store = directory.open();
            }
            let records: Vec<_> = batch.iter().map(|booked| outcome(*booked, format!("{booked:?}").as_bytes())).collect();
            write(&store, &records);
        }
        let all: Vec<Booked> = batches.concat();
        let expected: Vec<_> = (0..3).filter_map(|key| naive_spend(&all, key)).collect();
        prop_assert_eq!(store.spend().unwrap(), expected);
        let expected: Vec<_> = (1..).zip(all.iter().map(|booked| format!("{booked:?}").into_bytes())).collect();
        prop_assert_eq!(rows(&store), expected);
    }
}
