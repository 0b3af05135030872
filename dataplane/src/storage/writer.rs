//! The loop of the storage thread.
//!
//! Key writes come first: they wait for one batch of records at most. A batch the disk refuses is
//! kept and tried again; meanwhile the queue fills and [`Shared::has_room`] is false.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, after, select};
use keybrake_proto::journal::IntentId;
use keybrake_proto::time::{Day, UnixMicros};

use super::StoreError;
use super::batch::{Batch, Family};
use super::books::{Books, Doubt, Handed};
use super::handle::Shared;
use super::key_write::{Done, KeyWrite, Revocations};
use super::resolve::{NoDoubt, Resolution, Resolved, Verdict};

/// Records in one batch: where it was measured, batches of 64 to 512 took the least CPU time a record.
const RECORDS_PER_BATCH_MAX: usize = 512;

/// Empty rounds of gathering after which the thread sleeps until it is woken.
const IDLE_ROUNDS: u32 = 50;

/// How often old requests are looked for, to be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Key writes in one batch.
const KEYS_PER_BATCH_MAX: usize = 1024;

/// Doubts that are booked by one command, in one batch: the rest waits for the next.
const EXPIRED_AT_ONCE_MAX: usize = 8192;

/// Doubts that are held, and that are kept in the list after they were booked (rule N5). Each is about a KiB here and in
/// the store. A vendor that answers 500 to everything makes thousands in an hour.
const DOUBTS_HELD_MAX: usize = 16_384;
const DOUBTS_BOOKED_MAX: usize = 32_768;

/// What survives a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wal {
    /// The end of the process: the kernel has it.
    Written,
    /// The end of the machine: the disk has it, with all that was written before.
    Synced,
}

/// Where batches go; dropping it closes it. A seam for tests that need a disk to fail.
pub(crate) trait Sink: Send + 'static {
    /// Writes all of the batch or nothing.
    fn commit(&mut self, batch: &Batch, wal: Wal) -> Result<(), StoreError>;

    /// Brings what is in memory into tables, so that whoever opens it next has little to read.
    fn tidy(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Notes outside the store that all it has taken is on disk.
    fn mark(&mut self) -> Result<(), StoreError>;
}

/// Told what a resolution changes, once that is on disk.
pub(super) type TellResolved = Box<dyn FnOnce(Result<Resolved, NoDoubt>) + Send>;

/// What cannot wait behind records.
pub(super) enum Command {
    Put(KeyWrite),
    /// End one doubt.
    Resolve {
        resolution: Resolution,
        done: TellResolved,
    },
    /// Book the doubts that are older than `before`; `tell` is called for each when it is on disk.
    Expire {
        before: UnixMicros,
        day: Day,
        tell: Arc<dyn Fn(Resolved) + Send + Sync>,
    },
    /// What is sealed: a credential, or everything under another master key.
    Sealed {
        batch: Batch,
        done: Done,
    },
    /// All doubts.
    Doubts(Sender<Vec<(IntentId, Doubt)>>),
    /// Leave little to read for the next to open the store.
    Tidy(Sender<Result<(), StoreError>>),
    /// Write what is queued, close the store, answer.
    Stop(Sender<Result<(), StoreError>>),
}

/// How long the thread waits for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waits {
    /// While records gather. They do not wake the thread: a wake-up each would cost a worker more
    /// than all the rest of the record.
    pub(crate) gather: Duration,
    /// Between two tries of what the disk refused.
    pub(crate) retry: Duration,
    /// From a write to the sync that lets the journals forget it.
    pub(crate) checkpoint: Duration,
    /// For a disk that refuses while the process stops.
    pub(crate) stop: Duration,
}

enum Event {
    Command(Command),
    Record(Handed),
    Retry,
    Checkpoint,
    /// No handle is left.
    Abandoned,
}

/// A batch that is to be written, and what follows from it.
struct Pending {
    batch: Batch,
    wal: Wal,
    /// Up to where journals may forget once it is on disk.
    forgettable: Option<BTreeMap<u16, u64>>,
    then: Vec<Box<dyn FnOnce() + Send>>,
}

pub(super) struct Writer<S> {
    sink: S,
    commands: Receiver<Command>,
    records: Receiver<Handed>,
    books: Books,
    /// The batch that the disk refused. There is one at most: it comes first.
    unwritten: Option<Pending>,
    revocations: Revocations,
    /// Since when something is written that no checkpoint covers.
    unsynced_since: Option<Instant>,
    forgot_at: Instant,
    stops: Vec<Sender<Result<(), StoreError>>>,
    waits: Waits,
    shared: Arc<Shared>,
}

impl<S: Sink> Writer<S> {
    pub(super) fn new(
        sink: S,
        books: Books,
        commands: Receiver<Command>,
        records: Receiver<Handed>,
        waits: Waits,
        shared: Arc<Shared>,
    ) -> Writer<S> {
        Writer {
            sink,
            commands,
            records,
            books,
            unwritten: None,
            revocations: Revocations::default(),
            unsynced_since: None,
            forgot_at: Instant::now(),
            stops: Vec::new(),
            waits,
            shared,
        }
    }

    /// Runs until it is told to stop or no handle is left.
    pub(super) fn run(mut self) {
        // However the thread ends, nothing is admitted afterwards.
        let _ended = Ended(Arc::clone(&self.shared));
        self.tell_books();
        while self.stops.is_empty() {
            match self.next() {
                Event::Command(command) => self.serve(command),
                Event::Record(record) => self.enter(record),
                Event::Retry => self.retry(),
                Event::Checkpoint => self.checkpoint(),
                Event::Abandoned => break,
            }
        }
        self.shared.stop();
        let drained = self.drain();
        if let Err(error) = &drained {
            eprintln!("storage: {error}");
        }
        let Writer { sink, stops, .. } = self;
        // Closed before the answer: the next process may open it at once.
        drop(sink);
        for stop in stops {
            // Who asked may be gone.
            stop.send(drained.clone()).unwrap_or_default();
        }
    }

    fn next(&self) -> Event {
        match self.commands.try_recv() {
            Ok(command) => return Event::Command(command),
            Err(TryRecvError::Disconnected) => return Event::Abandoned,
            Err(TryRecvError::Empty) => {}
        }
        if self.is_behind() {
            return match self.commands.recv_timeout(self.waits.retry) {
                Ok(command) => Event::Command(command),
                Err(RecvTimeoutError::Timeout) => Event::Retry,
                Err(RecvTimeoutError::Disconnected) => Event::Abandoned,
            };
        }
        if self.unsynced_since.is_some_and(|since| since.elapsed() >= self.waits.checkpoint) {
            return Event::Checkpoint;
        }
        for _ in 0..IDLE_ROUNDS {
            let waits =
                if self.records.len() < RECORDS_PER_BATCH_MAX { self.waits.gather } else { Duration::ZERO };
            match self.commands.recv_timeout(waits) {
                Ok(command) => return Event::Command(command),
                Err(RecvTimeoutError::Disconnected) => return Event::Abandoned,
                Err(RecvTimeoutError::Timeout) => {}
            }
            match self.records.try_recv() {
                Ok(record) => return Event::Record(record),
                Err(TryRecvError::Disconnected) => return Event::Abandoned,
                Err(TryRecvError::Empty) => {}
            }
        }
        // Nothing came for a while: now the next record may wake the thread.
        let checkpoint = match self.unsynced_since {
            Some(since) => after(self.waits.checkpoint.saturating_sub(since.elapsed())),
            None => crossbeam_channel::never(),
        };
        select! {
            recv(self.commands) -> command => command.map_or(Event::Abandoned, Event::Command),
            recv(self.records) -> record => record.map_or(Event::Abandoned, Event::Record),
            recv(checkpoint) -> _ => Event::Checkpoint,
        }
    }

    fn is_behind(&self) -> bool {
        self.unwritten.is_some() || self.revocations.are_waiting()
    }

    /// Serves `command` and what waits with it: one sync for all key writes.
    fn serve(&mut self, command: Command) {
        let mut writes = Vec::new();
        let mut next = Some(command);
        while let Some(command) = next {
            match command {
                Command::Put(write) => writes.push(write),
                Command::Sealed { batch, done } => {
                    let Writer { sink, shared, .. } = self;
                    let write = || sink.commit(&batch, Wal::Synced).and_then(|()| sink.mark());
                    done.tell(shared.timed(write).0);
                }
                Command::Stop(stop) => self.stops.push(stop),
                Command::Tidy(done) => done.send(self.sink.tidy()).unwrap_or_default(),
                Command::Resolve { resolution, done } => self.resolve(&resolution, done),
                Command::Expire { before, day, tell } => self.expire(before, day, &tell),
                // Who asked may be gone.
                Command::Doubts(asked) => {
                    let doubts = self.books.doubts().iter().map(|(id, doubt)| (*id, doubt.clone()));
                    asked.send(doubts.collect()).unwrap_or_default();
                }
            }
            next = if writes.len() < KEYS_PER_BATCH_MAX { self.commands.try_recv().ok() } else { None };
        }
        if !writes.is_empty() {
            self.write_keys(writes);
        }
    }

    fn write_keys(&mut self, writes: Vec<KeyWrite>) {
        let mut batch = self.revocations.batch();
        let writes = self.revocations.without_revoked(writes);
        for (id, value) in writes.iter().flat_map(|write| &write.keys) {
            batch.put(Family::Keys, id.as_bytes(), value);
        }
        let result = self.commit_keys(&batch);
        for write in writes {
            if result.is_err() && write.revoked {
                self.revocations.keep(write.keys);
            }
            write.done.tell(result.clone());
        }
        self.report(&result);
        // Key writes that keep coming must not hold back the rows once the disk works again.
        if result.is_ok() {
            self.write_pending();
        }
    }

    /// On disk, and marked: an older copy of the store would give a revoked key its rights back.
    fn commit_keys(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let Writer { sink, shared, .. } = self;
        let (result, _) = shared.timed(|| sink.commit(batch, Wal::Synced).and_then(|()| sink.mark()));
        if result.is_ok() {
            self.revocations.were_written();
        }
        result
    }

    /// Takes the records that are there, up to a batch, and writes them.
    fn enter(&mut self, record: Handed) {
        let mut records = vec![record];
        records.extend(self.records.try_iter().take(RECORDS_PER_BATCH_MAX.saturating_sub(1)));
        let damaged_before = self.books.damaged();
        let batch = self.books.enter(&records, now());
        let damaged = self.books.damaged();
        if damaged > damaged_before {
            eprintln!("storage: {damaged} records so far were none and are lost: a bug, please report it");
        }
        self.tell_books();
        self.unsynced_since.get_or_insert_with(Instant::now);
        self.write(Pending { batch, wal: Wal::Written, forgettable: None, then: Vec::new() });
    }

    fn checkpoint(&mut self) {
        let (mut batch, forgettable) = self.books.checkpoint();
        if self.forgot_at.elapsed() >= FORGET_EVERY {
            self.forgot_at = Instant::now();
            batch.append(self.books.forget(now()));
        }
        self.unsynced_since = None;
        self.write(Pending { batch, wal: Wal::Synced, forgettable: Some(forgettable), then: Vec::new() });
    }

    fn resolve(&mut self, resolution: &Resolution, done: TellResolved) {
        // Before the books, as a repeat that ends now would settle it too.
        let is_free = self.books.may_resolve(resolution.id);
        let resolved = if is_free { self.books.resolve(resolution, now()) } else { Err(NoDoubt) };
        match resolved {
            Err(none) => done(Err(none)),
            Ok((batch, resolved)) => {
                self.tell_books();
                let then: Vec<Box<dyn FnOnce() + Send>> = vec![Box::new(move || done(Ok(resolved)))];
                self.write(Pending { batch, wal: Wal::Synced, forgettable: None, then });
            }
        }
    }

    fn expire(&mut self, before: UnixMicros, day: Day, tell: &Arc<dyn Fn(Resolved) + Send + Sync>) {
        let mut batch = Batch::default();
        let mut then: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        for id in self.books.expired(before, DOUBTS_HELD_MAX, EXPIRED_AT_ONCE_MAX) {
            let resolution = Resolution { id, verdict: Verdict::Expired, day };
            // As in `resolve`.
            let is_free = self.books.may_resolve(id);
            let resolved = if is_free { self.books.resolve(&resolution, now()) } else { Err(NoDoubt) };
            let Ok((of_one, resolved)) = resolved else { continue };
            batch.append(of_one);
            let tell = Arc::clone(tell);
            then.push(Box::new(move || tell(resolved)));
        }
        let forgotten = self.books.forgotten(DOUBTS_BOOKED_MAX, EXPIRED_AT_ONCE_MAX);
        batch.append(self.books.forget_booked(&forgotten));
        if !then.is_empty() || !forgotten.is_empty() {
            self.tell_books();
            self.write(Pending { batch, wal: Wal::Synced, forgettable: None, then });
        }
    }

    fn retry(&mut self) {
        if self.revocations.are_waiting() {
            let batch = self.revocations.batch();
            let result = self.commit_keys(&batch);
            self.report(&result);
        }
        self.write_pending();
    }

    /// Writes behind what the disk refused before, if anything; together, as the books already have both.
    fn write(&mut self, pending: Pending) {
        match &mut self.unwritten {
            None => self.unwritten = Some(pending),
            Some(before) => {
                before.batch.append(pending.batch);
                before.wal = if before.wal == Wal::Synced { Wal::Synced } else { pending.wal };
                before.forgettable = pending.forgettable.or(before.forgettable.take());
                before.then.extend(pending.then);
            }
        }
        self.write_pending();
    }

    fn write_pending(&mut self) {
        let Writer { sink, shared, unwritten, .. } = self;
        let Some(pending) = unwritten else { return };
        let write = || match pending.wal {
            // What changed nothing need not be written, but the sync is asked for.
            Wal::Written if pending.batch.is_empty() => Ok(()),
            Wal::Written => sink.commit(&pending.batch, Wal::Written),
            Wal::Synced => sink.commit(&pending.batch, Wal::Synced).and_then(|()| sink.mark()),
        };
        let (result, took_us) = shared.timed(write);
        if result.is_ok()
            && let Some(done) = self.unwritten.take()
        {
            self.shared.count_batch(done.batch.count(Family::Audit), took_us);
            self.shared.set_stored(self.books.cursors());
            if let Some(forgettable) = &done.forgettable {
                self.shared.set_forgettable(forgettable);
            }
            done.then.into_iter().for_each(|then| then());
        }
        self.report(&result);
    }

    fn tell_books(&self) {
        self.shared.set_books(&self.books);
    }

    /// Healthy is a thread that has written all it keeps. A refused key that is not kept changes
    /// nothing, as no retry would tell when the disk works again.
    fn report(&self, result: &Result<(), StoreError>) {
        match (result, self.is_behind()) {
            (Ok(()), false) => self.shared.set_healthy(),
            (Err(error), true) => self.shared.set_unhealthy(error),
            (Ok(()), true) | (Err(_), false) => {}
        }
    }

    /// Writes all that is queued and syncs it, or gives up on a disk that keeps refusing.
    fn drain(&mut self) -> Result<(), StoreError> {
        let started = Instant::now();
        let mut is_final = false;
        loop {
            self.retry();
            if self.is_behind() {
                if started.elapsed() >= self.waits.stop {
                    return Err(StoreError::NotWritten { rows: self.unwritten_rows() });
                }
                // A tick, not an event: there is nothing to wait for but the disk.
                after(self.waits.retry).recv().map_err(|_| StoreError::Stopped)?;
            } else if let Ok(command) = self.commands.try_recv() {
                self.serve(command);
            } else if let Ok(record) = self.records.try_recv() {
                self.enter(record);
            } else if is_final {
                return Ok(());
            } else {
                self.checkpoint();
                is_final = true;
            }
        }
    }

    /// At most one row a record waits in the queue.
    fn unwritten_rows(&self) -> usize {
        let in_batch = self.unwritten.as_ref().map_or(0, |pending| pending.batch.count(Family::Audit));
        in_batch.saturating_add(self.records.len())
    }
}

/// Without its thread: tests and the simulation say when it does what.
#[cfg(test)]
impl<S: Sink> Writer<S> {
    /// One turn of [`Writer::run`] with what is there, in the same order.
    pub(super) fn step(&mut self, is_checkpoint_due: bool) {
        if let Ok(command) = self.commands.try_recv() {
            self.serve(command);
        } else if self.is_behind() {
            self.retry();
        } else if is_checkpoint_due && self.unsynced_since.is_some() {
            self.checkpoint();
        } else if let Ok(record) = self.records.try_recv() {
            self.enter(record);
        }
    }

    pub(super) fn books(&self) -> &Books {
        &self.books
    }
}

fn now() -> UnixMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.stop();
    }
}
