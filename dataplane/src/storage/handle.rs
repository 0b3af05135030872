//! The way to the storage thread, and what every other thread may know of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Sender, TrySendError, bounded};
use keybrake_proto::journal::IntentId;
use keybrake_proto::time::{Day, UnixMicros};

use super::batch::{Batch, Family};
use super::books::{Books, Doubt, Handed};
use super::format::{StoredCredential, credential_key, encode_credential, encode_key};
use super::key_write::{Done, KeyWrite};
use super::master::Rewrapped;
use super::resolve::{NoDoubt, Resolution, Resolved};
use super::writer::{Command, Sink, TellResolved, Waits, Writer};
use super::{Store, StoreError};
use crate::progress::{AllProgress, Progress, Watch};
use crate::registry::KeyRecord;

/// Records that may wait for the disk.
const RECORDS_MAX: usize = 65_536;

/// Key writes that may wait for the disk.
const COMMANDS_MAX: usize = 4096;

/// A write that takes longer is a disk that hangs (rule G7).
const STALL: Duration = Duration::from_secs(2);

const WAITS: Waits = Waits {
    gather: Duration::from_millis(2),
    retry: Duration::from_millis(100),
    checkpoint: Duration::from_secs(1),
    stop: Duration::from_secs(10),
};

/// How long the control side waits for an answer that needs the disk.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How long what is in memory may take to the disk: 80 MiB at most.
const TIDY_WAIT: Duration = Duration::from_secs(10);

/// Starts the thread `storage`, which owns the store from now on. `books` are what the store holds.
pub(crate) fn start(
    store: Store,
    books: Books,
    progress: AllProgress,
) -> Result<(StorageHandle, JoinHandle<()>), StoreError> {
    let limits = Limits { records_max: RECORDS_MAX, stall: STALL, waits: WAITS };
    start_with(store, books, progress, limits)
        .map_err(|error| StoreError::Io(format!("cannot start the storage thread: {error}")))
}

/// What tests make small.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) records_max: usize,
    pub(super) stall: Duration,
    pub(super) waits: Waits,
}

pub(super) fn start_with(
    sink: impl Sink,
    books: Books,
    progress: AllProgress,
    limits: Limits,
) -> io::Result<(StorageHandle, JoinHandle<()>)> {
    let (handle, writer) = prepare(sink, books, progress, limits);
    let thread = thread::Builder::new().name("storage".to_owned()).spawn(move || writer.run())?;
    Ok((handle, thread))
}

/// The way to the storage thread, and what that thread runs.
pub(super) fn prepare<S: Sink>(
    sink: S,
    books: Books,
    progress: AllProgress,
    limits: Limits,
) -> (StorageHandle, Writer<S>) {
    let shared = Arc::new(Shared::new(limits.stall, progress));
    let (commands, waiting_commands) = bounded(COMMANDS_MAX);
    let (records, waiting_records) = bounded(limits.records_max);
    let writer =
        Writer::new(sink, books, waiting_commands, waiting_records, limits.waits, Arc::clone(&shared));
    // Admission stops at nine tenths: the rest is for the outcomes of what was admitted.
    let room = limits.records_max.saturating_sub(limits.records_max.div_ceil(10));
    (StorageHandle { commands, records, room, shared }, writer)
}

/// The queue is full or the thread has ended; the record comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Full(pub(crate) Handed);

/// What the storage thread has done, for `/metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// Audit rows written since the start.
    pub(crate) rows: u64,
    /// Batches they were written in.
    pub(crate) batches: u64,
    /// How long the last one took.
    pub(crate) last_batch_us: u64,
    /// Records that wait.
    pub(crate) queued: usize,
    /// Intents without an outcome.
    pub(crate) open_intents: u64,
    /// Exchanges in doubt, those booked included.
    pub(crate) doubts: u64,
    /// Records that were none: a bug.
    pub(crate) damaged: u64,
    /// Whether the last write succeeded.
    pub(crate) healthy: bool,
}

/// The way to the storage thread. When the last one is dropped the thread writes what is queued and
/// ends; [`StorageHandle::flush_and_stop`] also waits for it.
#[derive(Clone)]
pub(crate) struct StorageHandle {
    commands: Sender<Command>,
    records: Sender<Handed>,
    /// Records that may wait before admission stops.
    room: usize,
    shared: Arc<Shared>,
}

#[cfg(test)]
impl StorageHandle {
    /// A storage that takes all and keeps nothing, for tests of those who hand over.
    pub(crate) fn sink() -> StorageHandle {
        let (commands, _) = bounded(1);
        let (records, taken) = bounded(1_000_000);
        // Kept open for as long as the process: a test's end.
        std::mem::forget(taken);
        let shared = Arc::new(Shared::new(Duration::MAX, crate::progress::all(0, |_| 0)));
        StorageHandle { commands, records, room: 1_000_000, shared }
    }
}

impl StorageHandle {
    /// Queues a record of a journal; each shard's in order. Never blocks.
    pub(crate) fn record(&self, record: Handed) -> Result<(), Full> {
        self.records.try_send(record).map_err(|error| Full(error.into_inner()))
    }

    /// Ends a doubt. `done` is called on the storage thread once that is on disk, however long the
    /// disk takes; it is dropped uncalled where the thread has ended.
    pub(crate) fn resolve(
        &self,
        resolution: Resolution,
        done: impl FnOnce(Result<Resolved, NoDoubt>) + Send + 'static,
    ) -> Result<(), StoreError> {
        let done: TellResolved = Box::new(done);
        self.command(Command::Resolve { resolution, done })
    }

    /// Books on `day` what is in doubt since `before` or longer (rule Q1); `tell` is called for each
    /// on the storage thread, once that is on disk.
    pub(crate) fn expire(
        &self,
        before: UnixMicros,
        day: Day,
        tell: Arc<dyn Fn(Resolved) + Send + Sync>,
    ) -> Result<(), StoreError> {
        self.command(Command::Expire { before, day, tell })
    }

    /// Every doubt that no operator has resolved. Blocks, for control threads.
    pub(crate) fn doubts(&self) -> Result<Vec<(IntentId, Doubt)>, StoreError> {
        let (asked, doubts) = bounded(1);
        self.command(Command::Doubts(asked))?;
        doubts.recv_timeout(ANSWER_WAIT).map_err(|_| StoreError::Busy)
    }

    fn command(&self, command: Command) -> Result<(), StoreError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => StoreError::Busy,
            TrySendError::Disconnected(_) => StoreError::Stopped,
        })
    }

    /// Whether what is admitted now will have its audit row (I4): the disk takes writes, the one
    /// that runs is not hanging, and the queue is below 90 %.
    pub(crate) fn has_room(&self) -> bool {
        self.records.len() < self.room && self.shared.takes_writes()
    }

    /// Stores `records` over those with their ids, all of them or none; issue, change and revoke alike. Either all
    /// are revocations or none is. Never blocks.
    ///
    /// `done` is called once: with `Ok` when it is on disk. With an error an issued key does not
    /// exist, and a changed one is as before; [`StoreError::Revoked`] means that it was revoked meanwhile. A revocation the disk refused ([`StoreError::Io`]) is kept, and tried again until it
    /// is on disk or the process ends; after [`StoreError::Busy`] it is for the caller to try again.
    /// It runs on the storage thread, or on this one where the queue is full, and should only post
    /// the answer.
    pub(crate) fn put_keys(
        &self,
        records: &[KeyRecord],
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        let encoded = records.iter().map(|record| Ok((record.id, encode_key(record)?)));
        let keys = match encoded.collect::<Result<_, StoreError>>() {
            Ok(keys) => keys,
            Err(error) => return done(Err(error)),
        };
        let revoked = records.iter().all(|record| record.revoked_at.is_some());
        let write = KeyWrite { keys, revoked, done: Done::new(done) };
        let (command, error) = match self.commands.try_send(Command::Put(write)) {
            Ok(()) => return,
            Err(TrySendError::Full(command)) => (command, StoreError::Busy),
            Err(TrySendError::Disconnected(command)) => (command, StoreError::Stopped),
        };
        if let Command::Put(write) = command {
            write.done.tell(Err(error));
        }
    }

    /// Stores a sealed credential over the one before. Never blocks; `done` is called as by
    /// [`StorageHandle::put_keys`].
    pub(crate) fn put_credential(
        &self,
        (vendor, account): (&str, &str),
        credential: &StoredCredential,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        let mut batch = Batch::default();
        batch.put(Family::Credentials, &credential_key(vendor, account), &encode_credential(credential));
        self.put_sealed(batch, done);
    }

    /// Stores everything that is sealed, under another master key. Never blocks; `done` is called as by
    /// [`StorageHandle::put_keys`].
    pub(crate) fn put_rewrapped(
        &self,
        rewrapped: Rewrapped,
        done: impl FnOnce(Result<(), StoreError>) + Send + 'static,
    ) {
        self.put_sealed(rewrapped.into_batch(), done);
    }

    fn put_sealed(&self, batch: Batch, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        let write = Command::Sealed { batch, done: Done::new(done) };
        let (command, error) = match self.commands.try_send(write) {
            Ok(()) => return,
            Err(TrySendError::Full(command)) => (command, StoreError::Busy),
            Err(TrySendError::Disconnected(command)) => (command, StoreError::Stopped),
        };
        if let Command::Sealed { done, .. } = command {
            done.tell(Err(error));
        }
    }

    /// Leaves little to read for whoever opens the store next. Blocks, for as long as that takes the disk;
    /// records wait meanwhile.
    pub(crate) fn tidy(&self) -> Result<(), StoreError> {
        let (done, tidied) = bounded(1);
        self.command(Command::Tidy(done))?;
        tidied.recv_timeout(TIDY_WAIT).unwrap_or(Err(StoreError::Busy))
    }

    /// Writes all that is queued, syncs it and closes the store; returns when that is done. Blocks,
    /// at most some seconds on a disk that refuses. Records that other threads send from now on
    /// may be lost: stop the workers first.
    pub(crate) fn flush_and_stop(&self) -> Result<(), StoreError> {
        let (stop, stopped) = bounded(1);
        self.commands.send(Command::Stop(stop)).map_err(|_| StoreError::Stopped)?;
        stopped.recv().unwrap_or(Err(StoreError::Stopped))
    }

    /// What the thread has done.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            rows: self.shared.rows.load(Ordering::Relaxed),
            batches: self.shared.batches.load(Ordering::Relaxed),
            last_batch_us: self.shared.last_batch_us.load(Ordering::Relaxed),
            queued: self.records.len().max(self.shared.unstored()),
            open_intents: self.shared.open_intents.load(Ordering::Relaxed),
            doubts: self.shared.doubts.load(Ordering::Relaxed),
            damaged: self.shared.damaged.load(Ordering::Relaxed),
            healthy: self.shared.healthy.load(Ordering::Relaxed),
        }
    }
}

/// What the storage thread writes and the others read. Nothing is ordered by it, so all is relaxed.
pub(super) struct Shared {
    progress: AllProgress,
    writes: Watch,
    healthy: AtomicBool,
    stopped: AtomicBool,
    rows: AtomicU64,
    batches: AtomicU64,
    last_batch_us: AtomicU64,
    open_intents: AtomicU64,
    doubts: AtomicU64,
    damaged: AtomicU64,
}

impl Shared {
    fn new(stall: Duration, progress: AllProgress) -> Shared {
        Shared {
            progress,
            writes: Watch::new(stall),
            healthy: AtomicBool::new(true),
            stopped: AtomicBool::new(false),
            rows: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            last_batch_us: AtomicU64::new(0),
            open_intents: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
        }
    }

    fn takes_writes(&self) -> bool {
        let runs = self.healthy.load(Ordering::Relaxed) && !self.stopped.load(Ordering::Relaxed);
        runs && !self.writes.is_stalled()
    }

    /// Runs a write; also gives how long it took, in microseconds.
    pub(super) fn timed<T>(&self, write: impl FnOnce() -> T) -> (T, u64) {
        self.writes.timed(write)
    }

    pub(super) fn set_healthy(&self) {
        if !self.healthy.load(Ordering::Relaxed) {
            self.healthy.store(true, Ordering::Relaxed);
            eprintln!("storage: the disk takes writes again; requests are forwarded");
        }
    }

    pub(super) fn set_unhealthy(&self, error: &StoreError) {
        if self.healthy.swap(false, Ordering::Relaxed) {
            eprintln!("storage: {error}; until it takes writes no request is forwarded, and nothing is lost");
        }
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(super) fn count_batch(&self, rows: usize, took_us: u64) {
        self.rows.fetch_add(rows as u64, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.last_batch_us.store(took_us, Ordering::Relaxed);
    }

    pub(super) fn set_books(&self, books: &Books) {
        self.open_intents.store(books.open_intents(), Ordering::Relaxed);
        self.doubts.store(u64::try_from(books.doubts().len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.damaged.store(books.damaged(), Ordering::Relaxed);
    }

    /// Records in the journals that the store has not: those that wait for a sync too.
    fn unstored(&self) -> usize {
        let waiting = |progress: &Arc<Progress>| progress.written().saturating_sub(progress.stored());
        let waiting: u64 = self.progress.iter().map(waiting).sum();
        usize::try_from(waiting).unwrap_or(usize::MAX)
    }

    /// The store has taken each journal up to here. Journals of shards of an earlier run have no line.
    pub(super) fn set_stored(&self, cursors: &BTreeMap<u16, u64>) {
        for (shard, sequence) in cursors {
            if let Some(progress) = self.progress.get(usize::from(*shard)) {
                progress.set_stored(*sequence);
            }
        }
    }

    /// The store has it on disk: the journals may forget it.
    pub(super) fn set_forgettable(&self, floors: &BTreeMap<u16, u64>) {
        for (shard, sequence) in floors {
            if let Some(progress) = self.progress.get(usize::from(*shard)) {
                progress.set_forgettable(*sequence);
            }
        }
    }
}
