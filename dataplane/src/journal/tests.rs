use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::unbounded;
use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::http1::Method;
use keybrake_proto::journal::End;
use keybrake_proto::journal::segment::{self, Tail};
use keybrake_proto::time::UnixMicros;

use super::committer::{Committer, Line, Shared};
use super::medium::Disk;
use super::*;
use crate::progress::{self, AllProgress};

const SEGMENT_BYTES: u64 = 4096;

/// A disk in memory that can lose power and refuse.
#[derive(Clone, Default)]
struct Memory(Arc<Inner>);

#[derive(Default)]
struct Inner {
    files: Mutex<HashMap<u32, Arc<Page>>>,
    refuses_writes: AtomicBool,
    refuses_syncs: AtomicBool,
    syncs: AtomicU64,
}

struct Page {
    disk: Arc<Inner>,
    written: Mutex<Vec<u8>>,
    synced: Mutex<Vec<u8>>,
}

impl Medium for Page {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if self.disk.refuses_writes.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        let at = usize::try_from(at).unwrap();
        self.written.lock().unwrap()[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.syncs.fetch_add(1, Ordering::Relaxed);
        if self.disk.refuses_syncs.load(Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        *self.synced.lock().unwrap() = self.written.lock().unwrap().clone();
        Ok(())
    }
}

impl Disk for Memory {
    fn open(&self, _: u16, slot: u32) -> io::Result<Arc<dyn Medium>> {
        let files = self.0.files.lock().unwrap();
        Ok(Arc::clone(files.get(&slot).unwrap()) as Arc<dyn Medium>)
    }

    fn create(&self, _: u16, slot: u32, bytes: u64) -> io::Result<Arc<dyn Medium>> {
        let zeros = vec![0; usize::try_from(bytes).unwrap()];
        let page =
            Page { disk: Arc::clone(&self.0), written: Mutex::new(zeros.clone()), synced: Mutex::new(zeros) };
        let page = Arc::new(page);
        self.0.files.lock().unwrap().insert(slot, Arc::clone(&page));
        Ok(page)
    }

    fn remove(&self, _: u16, slot: u32) -> io::Result<()> {
        self.0.files.lock().unwrap().remove(&slot);
        Ok(())
    }
}

/// A shard, its committer and its disk, moved by hand.
struct Bench {
    disk: Memory,
    journal: Journal,
    committer: Committer<Memory>,
    events: crossbeam_channel::Receiver<Event>,
    progress: AllProgress,
}

impl Bench {
    fn new(durability: Durability) -> Bench {
        let disk = Memory::default();
        let progress = progress::all(1, |_| 0);
        let (orders, obeyed) = unbounded();
        let (notify, events) = unbounded();
        let shared = Arc::new(Shared::new(Duration::from_secs(60)));
        let line = Line {
            shard: 0,
            notify: Box::new(move |event| notify.send(event).unwrap()),
            epoch: 0,
            media: Vec::new(),
            retired: VecDeque::new(),
            free: Vec::new(),
            next_slot: 0,
            segments: 0,
            wants_spare: true,
        };
        let committer = Committer {
            disk: disk.clone(),
            lines: vec![line],
            progress: Arc::clone(&progress),
            orders: obeyed,
            shared: Arc::clone(&shared),
            marks: None,
            durability,
            segment_bytes: SEGMENT_BYTES,
            segments_max: 4,
            idle_synced: Instant::now(),
            complained: false,
            end: None,
        };
        let state = State {
            active: None,
            spare: None,
            epoch: 1,
            generation: 0,
            next: 1,
            written: 0,
            survived: 0,
            handed: 0,
            confirming: None,
            unstored: VecDeque::new(),
            waiters: VecDeque::new(),
            scratch: Vec::new(),
            successor: None,
        };
        let journal = Journal {
            shard: 0,
            durability,
            boot: [0; 16],
            storage: StorageHandle::sink(),
            committer: CommitterHandle { orders, shared },
            progress: Arc::clone(&progress[0]),
            state: RefCell::new(state),
        };
        let mut bench = Bench { disk, journal, committer, events, progress };
        bench.turn();
        bench.journal.tick();
        bench.turn();
        bench
    }

    /// The committer does what there is to do, and the shard hears of it.
    fn turn(&mut self) {
        for _ in 0..3 {
            self.committer.round();
            self.committer.look_after_files();
            while let Ok(event) = self.events.try_recv() {
                self.journal.obey(event);
            }
        }
    }

    fn intent(&self) -> Result<IntentId, NoRoom> {
        let key = KeyId::from_bytes(b"0123456789abcdef").unwrap();
        self.journal.intent(vec![key], Day::new(1), Micros::new(5).unwrap(), None, &row().encode(Vec::new()))
    }

    fn denial(&self) {
        self.journal.outcome(None, End::Booked, Vec::new(), None, &row());
    }

    /// The sequences a recovery would find after the end of the process, or of the machine.
    fn found(&self, power_cut: bool) -> Vec<u64> {
        let mut files: Vec<_> = self.disk.0.files.lock().unwrap().values().cloned().collect();
        files.sort_by_key(|page| page.written.lock().unwrap()[16..24].to_vec());
        let mut found: BTreeSet<u64> = BTreeSet::new();
        for page in files {
            let bytes = if power_cut {
                page.synced.lock().unwrap().clone()
            } else {
                page.written.lock().unwrap().clone()
            };
            if let Some(contents) = segment::read(&bytes, |_| Tail::Strict).unwrap() {
                assert!(!matches!(contents.end, segment::End::Damaged { .. }), "{contents:?}");
                found.extend(contents.records.iter().map(|(sequence, _)| *sequence));
            }
        }
        found.into_iter().collect()
    }
}

fn row() -> AuditRow<'static> {
    AuditRow {
        ts: UnixMicros(1),
        id: "req_1",
        vault_key_id: None,
        label: None,
        agent_run_label: None,
        vendor: "stripe",
        method: Method::Post,
        endpoint: "/v1/charges",
        path: "/v1/charges",
        status: 0,
        policy_check_result: "allowed",
        outcome: Outcome::Unknown,
        amount: Micros::ZERO,
        quote: Micros::ZERO,
        currency: None,
        amount_minor: None,
        vendor_request_id: None,
        idempotency_key: None,
        latency_us: 0,
        overhead_us: 0,
        client_addr: "",
        user_agent: None,
        metadata: Vec::new(),
        amends: None,
        account: None,
        parent_key_id: None,
    }
}

#[test]
fn q11_one_sync_serves_all_who_wait_and_none_goes_on_before_it() {
    let mut bench = Bench::new(Durability::PowerLoss);
    let before = bench.disk.0.syncs.load(Ordering::Relaxed);
    for _ in 0..3 {
        bench.intent().unwrap();
    }
    let mut waiting = [bench.journal.wait_for_sync().unwrap(), bench.journal.wait_for_sync().unwrap()];
    assert_eq!(waiting.each_mut().map(|one| one.try_recv()), [Ok(None), Ok(None)]);
    assert_eq!(bench.found(true), Vec::<u64>::new());
    bench.turn();
    assert_eq!(waiting.each_mut().map(|one| one.try_recv()), [Ok(Some(true)), Ok(Some(true))]);
    assert_eq!(bench.disk.0.syncs.load(Ordering::Relaxed), before + 1);
    assert_eq!(bench.found(true), [1, 2, 3]);
}

#[test]
fn a_journal_that_survives_the_process_has_each_record_at_once() {
    let bench = Bench::new(Durability::Process);
    for _ in 0..3 {
        bench.intent().unwrap();
    }
    assert_eq!(bench.found(false), [1, 2, 3]);
    assert_eq!(bench.progress[0].written(), 3);
}

#[test]
fn q13_after_a_refused_write_all_that_storage_lacks_is_in_a_fresh_file_before_anything_is_admitted() {
    let mut bench = Bench::new(Durability::PowerLoss);
    bench.intent().unwrap();
    bench.turn();
    bench.disk.0.refuses_writes.store(true, Ordering::Relaxed);
    assert!(bench.intent().is_err());
    assert!(!bench.journal.has_room());
    // The outcome of what is at a vendor is not lost.
    bench.denial();
    assert_eq!(bench.found(false), [1]);
    bench.turn();
    bench.journal.tick();
    assert!(!bench.journal.has_room(), "the disk still refuses");
    bench.disk.0.refuses_writes.store(false, Ordering::Relaxed);
    bench.turn();
    bench.journal.tick();
    assert!(!bench.journal.has_room(), "the fresh file is not on disk");
    bench.turn();
    assert!(bench.journal.has_room());
    assert_eq!(bench.found(true), [1, 2]);
}

#[test]
fn q13_after_a_refused_write_what_was_on_disk_needs_no_other_sync() {
    let mut bench = Bench::new(Durability::PowerLoss);
    bench.intent().unwrap();
    drop(bench.journal.wait_for_sync());
    bench.turn();
    bench.disk.0.refuses_writes.store(true, Ordering::Relaxed);
    assert!(bench.intent().is_err());
    bench.disk.0.refuses_writes.store(false, Ordering::Relaxed);
    bench.turn();
    bench.journal.tick();
    bench.turn();
    assert!(bench.journal.has_room());
    assert_eq!(bench.found(true), [1]);
}

#[test]
fn q13_after_a_refused_sync_who_waited_is_refused_and_the_file_is_never_synced_again() {
    let mut bench = Bench::new(Durability::PowerLoss);
    bench.intent().unwrap();
    bench.disk.0.refuses_syncs.store(true, Ordering::Relaxed);
    let mut waiting = bench.journal.wait_for_sync().unwrap();
    assert_eq!(waiting.try_recv(), Ok(None));
    bench.turn();
    assert_eq!(waiting.try_recv(), Ok(Some(false)));
    assert!(bench.journal.wait_for_sync().is_err());
    assert!(bench.intent().is_err() && !bench.journal.has_room());
    bench.disk.0.refuses_syncs.store(false, Ordering::Relaxed);
    let syncs = bench.disk.0.syncs.load(Ordering::Relaxed);
    assert!(!bench.committer.round(), "nothing is to be synced before a fresh file");
    assert_eq!(bench.disk.0.syncs.load(Ordering::Relaxed), syncs);
    // Who was refused says so.
    bench.denial();
    bench.turn();
    bench.journal.tick();
    bench.turn();
    assert!(bench.journal.has_room());
    assert_eq!(bench.found(true), [1, 2]);
}

#[test]
fn q14_a_file_is_used_again_only_when_the_store_has_all_of_it_on_disk() {
    let mut bench = Bench::new(Durability::PowerLoss);
    let mut written = 0;
    // Nothing is stored: the files fill up, and then nothing more is taken.
    while bench.intent().is_ok() {
        written += 1;
        drop(bench.journal.wait_for_sync());
        bench.turn();
        assert!(written < 1000);
    }
    assert!(!bench.journal.has_room());
    assert_eq!(bench.disk.0.files.lock().unwrap().len(), 4);
    assert_eq!(bench.found(true), (1..=written).collect::<Vec<u64>>());
    // Written to the store is not enough.
    bench.progress[0].set_stored(written);
    bench.turn();
    assert!(bench.intent().is_err());
    bench.progress[0].set_forgettable(written);
    bench.turn();
    assert!(bench.journal.has_room());
    bench.intent().unwrap();
    drop(bench.journal.wait_for_sync());
    bench.turn();
    assert_eq!(bench.found(true).last(), Some(&(written + 1)));
}

#[test]
fn storage_is_given_only_what_the_disk_has() {
    let mut bench = Bench::new(Durability::PowerLoss);
    bench.intent().unwrap();
    bench.denial();
    assert_eq!(bench.journal.storage.counters().queued, 0, "a power cut would leave the store ahead");
    assert!(bench.journal.has_room());
    bench.journal.tick();
    bench.turn();
    assert_eq!(bench.journal.storage.counters().queued, 2);
}

#[test]
fn storage_is_given_only_what_the_file_has() {
    let bench = Bench::new(Durability::Process);
    bench.intent().unwrap();
    assert_eq!(bench.journal.storage.counters().queued, 1);
    bench.disk.0.refuses_writes.store(true, Ordering::Relaxed);
    bench.denial();
    assert_eq!(bench.journal.storage.counters().queued, 1, "a kill would leave the store ahead");
}

#[test]
fn q13_a_fresh_file_opens_admission_where_all_was_on_disk_before() {
    let mut bench = Bench::new(Durability::PowerLoss);
    bench.intent().unwrap();
    drop(bench.journal.wait_for_sync());
    bench.turn();
    bench.disk.0.refuses_writes.store(true, Ordering::Relaxed);
    assert!(bench.intent().is_err());
    bench.disk.0.refuses_writes.store(false, Ordering::Relaxed);
    bench.turn();
    bench.journal.tick();
    assert!(bench.journal.has_room(), "nothing is left to wait for");
}

#[test]
fn q13_more_than_one_fresh_file_opens_admission_too() {
    let mut bench = Bench::new(Durability::PowerLoss);
    // More than one file, of which storage has nothing.
    for _ in 0..30 {
        bench.intent().unwrap();
        drop(bench.journal.wait_for_sync());
        bench.turn();
    }
    bench.disk.0.refuses_writes.store(true, Ordering::Relaxed);
    assert!(bench.intent().is_err());
    bench.denial();
    bench.disk.0.refuses_writes.store(false, Ordering::Relaxed);
    for _ in 0..4 {
        bench.turn();
        bench.journal.tick();
    }
    bench.turn();
    bench.intent().unwrap();
    assert_eq!(bench.found(false), (1..=32).collect::<Vec<u64>>());
}

/// A file of shard 0 with records from `first` on and a commit up to `commit`.
fn file(slot: u32, generation: u64, first: u64, records: u64, commit: Option<u64>) -> (PathBuf, Vec<u8>) {
    let header = Header {
        shard: 0,
        generation,
        first_sequence: first,
        segment_bytes: SEGMENT_BYTES,
        boot: [1; 16],
        survives: Survives::PowerLoss,
    };
    let mut bytes = header.encode().to_vec();
    for sequence in first..first + records {
        header.frame(&mut bytes, sequence, b"record");
    }
    if let Some(commit) = commit {
        header.commit(&mut bytes, commit);
    }
    bytes.resize(usize::try_from(SEGMENT_BYTES).unwrap(), 0);
    (PathBuf::from(format!("0-{slot}.segment")), bytes)
}

#[test]
fn q12_records_behind_a_gap_are_torn_unless_a_commit_vouches_for_what_is_missing() {
    let recover = |files| recover_files(files, [2; 16], &BTreeMap::new(), &BTreeMap::new());
    // Power went before the first file's end was on disk, and the second file was.
    let torn = recover(vec![file(0, 1, 1, 2, Some(1)), file(1, 2, 5, 1, None)]).unwrap();
    assert_eq!((torn.records.len(), &torn.last, &torn.stale), (2, &[(0, 2)].into(), &vec![(0, 1)]));
    let damaged = recover(vec![file(0, 1, 1, 2, Some(1)), file(1, 2, 5, 1, Some(5))]).unwrap_err();
    assert!(matches!(damaged, read::JournalError::Gap { shard: 0, sequence: 3 }), "{damaged}");
}
