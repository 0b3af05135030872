mod disk;
mod doubts;
mod shared;
mod thread;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::{env, fs, process};

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::http1::Method;
use keybrake_proto::journal::{Booking, End, IntentId, Record};
use keybrake_proto::key::KeyDigest;
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Policy;
use keybrake_proto::time::{Day, UnixMicros};
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
            account: "default".to_owned(),
            allowed_endpoints: vec!["POST /v1/charges".parse().unwrap()],
            daily_usd_cap: Some("150.5".parse().unwrap()),
            total_usd_cap: None,
            daily_request_budget: None,
            expires_at: None,
            restrictions: Default::default(),
        },
        label: Some("billing".to_owned()),
        agent_run_label: None,
        metadata: [("team".to_owned(), "a".to_owned())].into(),
        created_at: UnixMicros(1),
        parent: None,
        version: 0,
        revoked_at,
    }
}

/// Who, on which day, how much; `None` for a denial.
type Booked = Option<(u8, u32, u64)>;

/// A record behind all others of this process, in the journal of shard 0.
fn handed(record: &Record<'_>) -> Handed {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let sequence = NEXT.fetch_add(1, Ordering::Relaxed);
    Handed { shard: 0, sequence, payload: record.encode(Vec::new()).into() }
}

fn outcome(booked: Booked, row: &[u8]) -> Handed {
    ending(None, End::Booked, booked, row)
}

fn ending(intent: Option<IntentId>, end: End, booked: Booked, row: &[u8]) -> Handed {
    let booking = booked.map(|(key, day, charge)| Booking {
        key: key_id(key),
        day: Day::new(day),
        charge: micros(charge),
        requests: 1,
    });
    handed(&Record::Outcome { intent, end, bookings: booking.into_iter().collect(), row })
}

/// An intent, and its id.
fn intent(key: u8, day: u32, quote: u64) -> (IntentId, Handed) {
    let record = Record::Intent {
        keys: vec![key_id(key)],
        day: Day::new(day),
        quote: micros(quote),
        share: None,
        row: b"unknown",
    };
    let handed = handed(&record);
    (IntentId::new(0, handed.sequence), handed)
}

fn micros(amount: u64) -> Micros {
    Micros::new(amount).unwrap()
}

const NOW: UnixMicros = UnixMicros(1_000_000);

fn spend(store: &Store, key: u8) -> Option<(u32, u64)> {
    let books = store.books().unwrap();
    books.accounts.get(&key_id(key)).map(|spend| (spend.day.as_u32(), spend.settled.as_u64()))
}

/// What the key starts with: settled and in doubt.
fn opening(store: &Store, key: u8) -> (u64, u64) {
    let opening = store.books().unwrap().openings().remove(&key_id(key)).unwrap_or_default();
    (opening.spend.settled.as_u64(), opening.in_doubt.as_u64())
}

/// The audit rows, with their sequences.
fn rows(store: &Store) -> Vec<(u64, Vec<u8>)> {
    store.read_all(Family::Audit, |key, row| Some((format::decode_sequence(key)?, row.to_vec()))).unwrap()
}

/// Enters the records in one batch, as the thread does.
fn write(store: &Store, records: &[Handed]) {
    let mut books = store.books().unwrap();
    store.write(&books.enter(records, NOW), Wal::Written).unwrap();
}

#[test]
fn a_new_store_is_empty_and_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = Directory::new();
    let store = directory.open();
    assert_eq!(store.keys(), Ok(Vec::new()));
    assert!(store.books().unwrap().is_empty());
    assert_eq!(store.master_check(), Ok(None));
    assert_eq!(store.credential("stripe", "default"), Ok(None));
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
    assert_eq!(spend(&store, 1), Some((5, 30)));
    write(&store, &[outcome(Some((1, 5, 12)), b"c")]);
    assert_eq!(spend(&store, 1), Some((5, 42)));
    assert_eq!(rows(&store), [(1, b"a".to_vec()), (2, b"b".to_vec()), (3, b"c".to_vec())]);
}

#[test]
fn a_later_day_starts_anew_and_an_earlier_one_is_over() {
    let directory = Directory::new();
    let store = directory.open();
    write(&store, &[outcome(Some((1, 5, 30)), b"row"), outcome(Some((1, 6, 0)), b"row")]);
    assert_eq!(spend(&store, 1), Some((6, 0)));
    write(
        &store,
        &[
            outcome(Some((1, 6, 4)), b"row"),
            outcome(Some((1, 5, 30)), b"row"),
            outcome(Some((1, 6, 1)), b"row"),
        ],
    );
    assert_eq!(spend(&store, 1), Some((6, 5)));
    write(&store, &[outcome(Some((1, 6, Micros::MAX.as_u64())), b"row")]);
    assert_eq!(spend(&store, 1), Some((6, Micros::MAX.as_u64())));
    assert_eq!(rows(&store).len(), 6, "every row is written");
}

#[test]
fn q8_a_decision_that_was_taken_back_leaves_no_row_and_no_doubt() {
    let directory = Directory::new();
    let store = directory.open();
    let (withdrawn, first) = intent(1, 5, 30);
    let (sent, second) = intent(1, 5, 30);
    let records = [first, ending(Some(withdrawn), End::Booked, Some((1, 5, 0)), b""), second];
    let mut books = store.books().unwrap();
    assert_eq!(
        store.recover(&mut books, &records, NOW, |_| false).unwrap(),
        1,
        "the one that was decided anew"
    );
    assert_eq!((opening(&store, 1), rows(&store).len()), ((0, 30), 1));
    assert!(store.books().unwrap().doubts().contains_key(&sent));
}

#[test]
fn what_a_crash_cut_off_has_a_row_and_is_in_doubt_once() {
    let directory = Directory::new();
    let store = directory.open();
    let (settled, first) = intent(1, 5, 30);
    let (_, second) = intent(1, 5, 12);
    let records = [first, second, ending(Some(settled), End::Booked, Some((1, 5, 10)), b"settled for less")];
    // Killed before anything was stored, and again after each step of the recovery.
    let recover = |records: &[Handed]| {
        let mut books = store.books().unwrap();
        store.recover(&mut books, records, NOW, |_| false).unwrap()
    };
    assert_eq!(recover(&records), 1);
    assert_eq!(opening(&store, 1), (10, 12));
    let expected = [(1, b"settled for less".to_vec()), (2, b"unknown".to_vec())];
    assert_eq!(rows(&store), expected);
    assert_eq!(recover(&records), 0, "the next start finds the same journal");
    assert_eq!((opening(&store, 1), rows(&store).len()), ((10, 12), 2));
}

#[test]
fn q14_a_record_that_was_handed_over_twice_counts_once_and_its_open_intent_is_found() {
    let directory = Directory::new();
    let store = directory.open();
    let (_, open) = intent(1, 5, 30);
    let records = [open, outcome(Some((1, 5, 7)), b"row")];
    write(&store, &records);
    // Killed: the store has both, and not the intent itself.
    let mut books = store.books().unwrap();
    assert_eq!(store.recover(&mut books, &records, NOW, |_| false), Ok(1));
    assert_eq!((opening(&store, 1), rows(&store).len()), ((7, 30), 2));
}

#[test]
fn q13_an_outcome_that_only_the_store_has_ends_its_intent() {
    let directory = Directory::new();
    let store = directory.open();
    let open_row = audit_row("req_1");
    let intent = |quote| {
        let keys = vec![key_id(1)];
        handed(&Record::Intent { keys, day: Day::new(5), quote: micros(quote), share: None, row: &open_row })
    };
    let open = intent(30);
    let id = IntentId::new(0, open.sequence);
    let ended = ending(Some(id), End::Booked, Some((1, 5, 7)), &audit_row("req_1"));
    write(&store, &[open.clone(), ended]);
    // The journal's file was refused, or lost its end with the power: it has the intent alone.
    let mut books = store.books().unwrap();
    assert_eq!(store.recover(&mut books, &[open], NOW, |_| false), Ok(0));
    assert_eq!((opening(&store, 1), rows(&store).len()), ((7, 0), 1));
}

#[test]
fn q14_after_a_checkpoint_the_journal_may_forget_what_is_still_open() {
    let directory = Directory::new();
    let store = directory.open();
    let (id, open) = intent(1, 5, 30);
    let mut books = store.books().unwrap();
    store.write(&books.enter(&[open], NOW), Wal::Written).unwrap();
    let (batch, forgettable) = books.checkpoint();
    store.write(&batch, Wal::Synced).unwrap();
    assert_eq!(forgettable.get(&0), books.cursors().get(&0));
    // Killed, and the journal begins behind the checkpoint.
    let mut again = store.books().unwrap();
    assert_eq!(again.open_intents(), 1);
    let ended = ending(Some(id), End::Booked, Some((1, 5, 4)), b"row");
    store.write(&again.enter(&[ended], NOW), Wal::Written).unwrap();
    let mut last = store.books().unwrap();
    assert_eq!(store.recover(&mut last, &[], NOW, |_| false), Ok(0));
    assert_eq!(opening(&store, 1), (4, 0));
}

#[test]
fn q1_a_doubt_is_held_until_it_is_booked_and_voided_only_while_its_day_lasts() {
    let directory = Directory::new();
    let store = directory.open();
    let mut books = store.books().unwrap();
    let doubt = |books: &mut Books, quote| {
        let (id, open) = intent(1, 5, quote);
        let unknown = ending(Some(id), End::InDoubt, Some((1, 5, 0)), &audit_row("req_1"));
        store.write(&books.enter(&[open, unknown], NOW), Wal::Written).unwrap();
        id
    };
    let resolve = |books: &mut Books, id, verdict, day| {
        let resolution = Resolution { id, verdict, day: Day::new(day) };
        let (batch, resolved) = books.resolve(&resolution, NOW)?;
        store.write(&batch, Wal::Synced).unwrap();
        Ok::<_, NoDoubt>(resolved)
    };
    let (settled, voided, expired) = (doubt(&mut books, 30), doubt(&mut books, 12), doubt(&mut books, 5));
    assert_eq!(opening(&store, 1), (0, 47));
    let charge = resolve(&mut books, settled, Verdict::Settled(micros(20)), 5).unwrap();
    assert_eq!((charge.quote, charge.charge, charge.booked), (micros(30), micros(20), None));
    assert_eq!(opening(&store, 1), (20, 17));
    resolve(&mut books, voided, Verdict::Void, 5).unwrap();
    assert_eq!(opening(&store, 1), (20, 5));
    assert_eq!(resolve(&mut books, voided, Verdict::Void, 5), Err(NoDoubt));
    assert_eq!(books.expired(NOW, 100, 100), vec![expired]);
    resolve(&mut books, expired, Verdict::Expired, 5).unwrap();
    assert_eq!((opening(&store, 1), books.expired(NOW, 100, 100).len()), ((25, 0), 0));
    // An operator may still void it: in the window only while its day lasts.
    let mut tomorrow = store.books().unwrap();
    let late = outcome(Some((1, 6, 1)), b"row");
    store.write(&tomorrow.enter(&[late], NOW), Wal::Written).unwrap();
    resolve(&mut tomorrow, expired, Verdict::Void, 6).unwrap();
    assert_eq!(spend(&store, 1), Some((6, 1)));
    let lifetime = store.books().unwrap().accounts.get(&key_id(1)).unwrap().lifetime;
    assert_eq!(lifetime, micros(21), "20 settled, 5 booked and voided, 1 the day after");
}

#[test]
fn q1_a_doubt_that_is_resolved_behind_midnight_counts_on_the_day_the_word_is_on() {
    let mut books = Books::new(Stored::default());
    let (id, open) = intent(1, 5, 30);
    let unknown = ending(Some(id), End::InDoubt, Some((1, 5, 0)), &audit_row("req_1"));
    drop(books.enter(&[open, unknown, outcome(Some((1, 6, 1)), b"row")], NOW));
    // Asked for on day 5, and the disk took it on day 6.
    let resolution = Resolution { id, verdict: Verdict::Expired, day: Day::new(5) };
    drop(books.resolve(&resolution, NOW).unwrap());
    assert_eq!(books.accounts.get(&key_id(1)).unwrap().settled, micros(31));
    assert_eq!(books.doubts().get(&id).unwrap().booked, Some(Day::new(6)));
}

#[test]
fn q16_a_resolution_is_a_row_of_its_own_that_names_the_one_it_amends() {
    let mut books = Books::new(Stored::default());
    let (id, open) = intent(1, 5, 30);
    let unknown = ending(Some(id), End::InDoubt, Some((1, 5, 0)), &audit_row("req_1"));
    drop(books.enter(&[open, unknown], NOW));
    let resolution = Resolution { id, verdict: Verdict::Settled(micros(20)), day: Day::new(5) };
    let (batch, _) = books.resolve(&resolution, NOW).unwrap();
    let row = batch.changes().find_map(|(family, _, change)| match change {
        Change::Put(row) if family == Family::Audit => Some(row),
        Change::Put(_) | Change::Delete => None,
    });
    let row = AuditRow::decode(row.unwrap()).unwrap();
    assert_eq!((row.amends, row.amount, row.ts), (Some("req_1"), micros(20), NOW));
    assert_eq!((row.policy_check_result, row.outcome), ("doubt_settled", Outcome::Amendment));
}

/// An encoded row with this id.
fn audit_row(id: &str) -> Vec<u8> {
    let row = AuditRow {
        ts: UnixMicros(1),
        id,
        vault_key_id: Some(key_id(1)),
        label: None,
        agent_run_label: None,
        vendor: "stripe",
        method: Method::Post,
        endpoint: "/v1/charges",
        path: "/v1/charges",
        status: 502,
        policy_check_result: "allowed",
        outcome: Outcome::Unknown,
        amount: micros(30),
        quote: micros(30),
        currency: None,
        amount_minor: None,
        vendor_request_id: None,
        idempotency_key: None,
        latency_us: 1,
        overhead_us: 1,
        client_addr: "127.0.0.1",
        user_agent: None,
        metadata: Vec::new(),
        amends: None,
        account: None,
        parent_key_id: None,
    };
    row.encode(Vec::new())
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
    store.put(Family::Meta, b"schema", b"3").unwrap();
    drop(store);
    assert_eq!(directory.refusal(), StoreError::Schema { found: "3".to_owned() });
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
    store.put(Family::Spend, key_id(1).as_bytes(), b"\x09").unwrap();
    // Another key's record must not be taken for this one's.
    let value = format::encode_key(&key_record(1, None)).unwrap();
    store.put(Family::Keys, key_id(2).as_bytes(), &value).unwrap();
    assert_eq!(store.books().err(), Some(StoreError::DamagedEntry("spend")));
    assert_eq!(store.keys(), Err(StoreError::DamagedEntry("keys")));
}

#[test]
fn what_is_no_record_is_counted_and_the_others_are_entered() {
    let (_, open) = intent(2, 1, 1);
    let damaged = Handed {
        payload: b"\x09".as_slice().into(),
        ..handed(&Record::Lost { intent: IntentId::new(0, 1) })
    };
    let mut books = Books::new(Stored::default());
    let batch = books.enter(&[open, damaged, outcome(Some((1, 5, 30)), b"row")], NOW);
    assert_eq!((batch.count(Family::Audit), batch.count(Family::Spend)), (1, 1));
    assert_eq!((books.damaged(), books.open_intents()), (1, 1));
}

/// Spend as a newcomer would compute it: the sum over the last day, in the order of arrival.
fn naive_spend(all: &[Booked], key: u8) -> Option<(u32, u64)> {
    let of_key = || all.iter().flatten().filter(|(of, ..)| *of == key);
    let day = of_key().map(|(_, day, _)| *day).max()?;
    Some((day, of_key().filter(|(_, on, _)| *on == day).map(|(.., charge)| *charge).sum()))
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
        for key in 0..3 {
            prop_assert_eq!(spend(&store, key), naive_spend(&all, key));
        }
        let expected: Vec<_> = (1..).zip(all.iter().map(|booked| format!("{booked:?}").into_bytes())).collect();
        prop_assert_eq!(rows(&store), expected);
    }
}
