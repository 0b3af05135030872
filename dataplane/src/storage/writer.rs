//! The loop of the storage thread.
//!
//! Key writes come first: they wait for one batch of records at most. A batch the disk refuses is
//! kept and tried again; meanwhile the queue fills and [`Shared::has_room`] is false.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, after, select};
use keybrake_proto::key::KeyId;

use super::StoreError;
use super::batch::{Batch, Family};
use super::books::Books;
use super::handle::Shared;

/// Records in one batch: where it was measured, batches of 64 to 512 took the least CPU time a record.
const RECORDS_PER_BATCH_MAX: usize = 512;

/// Empty rounds of gathering after which the thread sleeps until it is woken.
const IDLE_ROUNDS: u32 = 50;

/// Key writes in one batch.
const KEYS_PER_BATCH_MAX: usize = 1024;

/// What survives a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wal {
    /// The end of the process: the kernel has it.
    Written,
    /// The end of the machine: the disk has it, with all that was written before.
    Synced,
}

/// Where batches go; dropping it closes it. A seam for tests that need a disk to fail.
pub(super) trait Sink: Send + 'static {
    /// Writes all of the batch or nothing.
    fn commit(&mut self, batch: &Batch, wal: Wal) -> Result<(), StoreError>;

    /// Puts on disk what was written.
    fn sync(&mut self) -> Result<(), StoreError>;
}

type Tell = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Who waits for a key write: told once, also where the write is dropped unserved.
pub(super) struct Done(Option<Tell>);

impl Done {
    pub(super) fn new(done: impl FnOnce(Result<(), StoreError>) + Send + 'static) -> Done {
        Done(Some(Box::new(done)))
    }

    pub(super) fn tell(mut self, result: Result<(), StoreError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(StoreError::Stopped));
        }
    }
}

/// Keys to write together.
pub(super) struct KeyWrite {
    pub(super) keys: Vec<(KeyId, Vec<u8>)>,
    /// Revocations, which are tried until they are on disk.
    pub(super) revoked: bool,
    pub(super) done: Done,
}

/// What cannot wait behind records.
pub(super) enum Command {
    Put(KeyWrite),
    /// Write what is queued, close the store, answer.
    Stop(Sender<Result<(), StoreError>>),
}

/// How long the thread waits for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waits {
    /// While records gather. They do not wake the thread: a wake-up each would cost a worker more
    /// than all the rest of the record.
    pub(super) gather: Duration,
    /// Between two tries of what the disk refused.
    pub(super) retry: Duration,
    /// For a disk that refuses while the process stops.
    pub(super) stop: Duration,
}

enum Event {
    Command(Command),
    Record(Vec<u8>),
    Retry,
    /// No handle is left.
    Abandoned,
}

pub(super) struct Writer<S> {
    sink: S,
    commands: Receiver<Command>,
    records: Receiver<Vec<u8>>,
    books: Books,
    /// The batch of records that the disk refused. There is one at most: it comes first.
    unwritten: Option<Batch>,
    /// Revocations that the disk refused.
    undurable: BTreeMap<KeyId, Vec<u8>>,
    stops: Vec<Sender<Result<(), StoreError>>>,
    waits: Waits,
    shared: Arc<Shared>,
}

impl<S: Sink> Writer<S> {
    pub(super) fn new(
        sink: S,
        books: Books,
        commands: Receiver<Command>,
        records: Receiver<Vec<u8>>,
        waits: Waits,
        shared: Arc<Shared>,
    ) -> Writer<S> {
        Writer {
            sink,
            commands,
            records,
            books,
            unwritten: None,
            undurable: BTreeMap::new(),
            stops: Vec::new(),
            waits,
            shared,
        }
    }

    /// Runs until it is told to stop or no handle is left.
    pub(super) fn run(mut self) {
        // However the thread ends, nothing is admitted afterwards.
        let _ended = Ended(Arc::clone(&self.shared));
        while self.stops.is_empty() {
            match self.next() {
                Event::Command(command) => self.serve(command),
                Event::Record(record) => self.enter(record),
                Event::Retry => self.retry(),
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
        select! {
            recv(self.commands) -> command => command.map_or(Event::Abandoned, Event::Command),
            recv(self.records) -> record => record.map_or(Event::Abandoned, Event::Record),
        }
    }

    fn is_behind(&self) -> bool {
        self.unwritten.is_some() || !self.undurable.is_empty()
    }

    /// Serves `command` and the key writes that wait with it: one sync for all.
    fn serve(&mut self, command: Command) {
        let mut writes = Vec::new();
        let mut next = Some(command);
        while let Some(command) = next {
            match command {
                Command::Put(write) => writes.push(write),
                Command::Stop(stop) => self.stops.push(stop),
            }
            next = if writes.len() < KEYS_PER_BATCH_MAX { self.commands.try_recv().ok() } else { None };
        }
        if !writes.is_empty() {
            self.write_keys(writes);
        }
    }

    fn write_keys(&mut self, writes: Vec<KeyWrite>) {
        let mut batch = self.undurable_batch();
        for (id, value) in writes.iter().flat_map(|write| &write.keys) {
            batch.put(Family::Keys, id.as_bytes(), value);
        }
        let result = self.commit_keys(&batch);
        for write in writes {
            if result.is_err() && write.revoked {
                self.undurable.extend(write.keys);
            }
            write.done.tell(result.clone());
        }
        self.report(&result);
        // Key writes that keep coming must not hold back the rows once the disk works again.
        if result.is_ok() {
            self.write_rows();
        }
    }

    fn undurable_batch(&self) -> Batch {
        let mut batch = Batch::default();
        for (id, value) in &self.undurable {
            batch.put(Family::Keys, id.as_bytes(), value);
        }
        batch
    }

    fn commit_keys(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let result = self.shared.timed(|| self.sink.commit(batch, Wal::Synced)).0;
        if result.is_ok() {
            self.undurable.clear();
        }
        result
    }

    /// Takes the records that are there, up to a batch, and writes them.
    fn enter(&mut self, record: Vec<u8>) {
        let mut records = vec![record];
        records.extend(self.records.try_iter().take(RECORDS_PER_BATCH_MAX.saturating_sub(1)));
        let damaged_before = self.books.damaged();
        let batch = self.books.enter(&records);
        let damaged = self.books.damaged();
        if damaged > damaged_before {
            eprintln!("storage: {damaged} records so far were none and are lost: a bug, please report it");
        }
        self.shared.set_books(self.books.open_intents(), damaged);
        if !batch.is_empty() {
            self.unwritten = Some(batch);
            self.write_rows();
        }
    }

    fn retry(&mut self) {
        if !self.undurable.is_empty() {
            let batch = self.undurable_batch();
            let result = self.commit_keys(&batch);
            self.report(&result);
        }
        self.write_rows();
    }

    fn write_rows(&mut self) {
        let Some(batch) = &self.unwritten else { return };
        let (result, took_us) = self.shared.timed(|| self.sink.commit(batch, Wal::Written));
        if result.is_ok() {
            self.shared.count_batch(batch.count(Family::Audit), took_us);
            self.unwritten = None;
        }
        self.report(&result);
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
            } else {
                return self.sink.sync();
            }
        }
    }

    /// At most one row a record waits in the queue.
    fn unwritten_rows(&self) -> usize {
        let in_batch = self.unwritten.as_ref().map_or(0, |batch| batch.count(Family::Audit));
        in_batch.saturating_add(self.records.len())
    }
}

struct Ended(Arc<Shared>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.stop();
    }
}
