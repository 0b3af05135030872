//! How far each shard's records have come: what shard, committer and storage thread tell each other
//! without waiting. Sequences only rise, but for what is written: a fresh file begins lower than the broken
//! one before it had come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// One shard's records. Each number is written by one thread.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Progress {
    /// By the shard: the last record that the kernel has.
    written: AtomicU64,
    /// By the shard: the last record that somebody waits for.
    wanted: AtomicU64,
    /// By the committer: the last record that the disk has.
    synced: AtomicU64,
    /// By storage: the last record that the store has taken.
    stored: AtomicU64,
    /// By storage: the journal may forget all up to here.
    forgettable: AtomicU64,
}

/// All shards', by number.
pub(crate) type AllProgress = Arc<[Arc<Progress>]>;

/// One for each of `shards`, which start behind the records that `from` gives.
pub(crate) fn all(shards: usize, from: impl Fn(usize) -> u64) -> AllProgress {
    (0..shards).map(|shard| Arc::new(Progress::starting_at(from(shard)))).collect()
}

impl Progress {
    fn starting_at(sequence: u64) -> Progress {
        Progress {
            written: sequence.into(),
            wanted: sequence.into(),
            synced: sequence.into(),
            stored: sequence.into(),
            forgettable: sequence.into(),
        }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(crate) fn set_written(&self, sequence: u64) {
        self.written.store(sequence, Ordering::Release);
    }

    pub(crate) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Acquire)
    }

    pub(crate) fn set_wanted(&self, sequence: u64) {
        self.wanted.store(sequence, Ordering::Release);
    }

    pub(crate) fn synced(&self) -> u64 {
        self.synced.load(Ordering::Acquire)
    }

    pub(crate) fn set_synced(&self, sequence: u64) {
        self.synced.store(sequence, Ordering::Release);
    }

    pub(crate) fn stored(&self) -> u64 {
        self.stored.load(Ordering::Acquire)
    }

    pub(crate) fn set_stored(&self, sequence: u64) {
        self.stored.store(sequence, Ordering::Release);
    }

    pub(crate) fn forgettable(&self) -> u64 {
        self.forgettable.load(Ordering::Acquire)
    }

    pub(crate) fn set_forgettable(&self, sequence: u64) {
        self.forgettable.store(sequence, Ordering::Release);
    }
}

/// Notices an operation on the disk that hangs (rule G7). Nothing is ordered by it, so all is relaxed.
#[derive(Debug)]
pub(crate) struct Watch {
    epoch: Instant,
    limit_us: u64,
    /// When the operation that runs began, in microseconds since `epoch`; 0 while none runs.
    since_us: AtomicU64,
}

impl Watch {
    /// An operation that takes longer than `limit` hangs.
    pub(crate) fn new(limit: Duration) -> Watch {
        Watch { epoch: Instant::now(), limit_us: micros(limit), since_us: AtomicU64::new(0) }
    }

    /// Reads the clock only while an operation runs.
    pub(crate) fn is_stalled(&self) -> bool {
        let since = self.since_us.load(Ordering::Relaxed);
        since != 0 && self.now_us().saturating_sub(since) > self.limit_us
    }

    /// Runs an operation; also gives how long it took, in microseconds.
    pub(crate) fn timed<T>(&self, operation: impl FnOnce() -> T) -> (T, u64) {
        let since = self.now_us();
        self.since_us.store(since, Ordering::Relaxed);
        let result = operation();
        self.since_us.store(0, Ordering::Relaxed);
        (result, self.now_us().saturating_sub(since))
    }

    /// Never 0.
    fn now_us(&self) -> u64 {
        micros(self.epoch.elapsed()).saturating_add(1)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
