//! What one query may still use, and why it ends early.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between two looks at the temporary files.
const TEMP_LOOK: Duration = Duration::from_millis(50);

/// Why a query was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Its time was up.
    Time,
    /// Its temporary files grew too large.
    Temp,
    /// Whoever asked went away.
    Gone,
}

/// Time, temporary files, and what was looked at. Shared by SQLite's progress handler and the scans.
pub(super) struct Budget {
    until: Instant,
    temp_dir: PathBuf,
    temp_bytes_max: u64,
    is_cancelled: std::sync::Arc<AtomicBool>,
    state: Mutex<State>,
    scanned: AtomicU64,
    unreadable: AtomicU64,
    passed: AtomicU64,
}

struct State {
    stopped: Option<Stop>,
    next_temp_look: Instant,
}

impl Budget {
    /// From now on for `time`; `is_cancelled` ends it early.
    pub(super) fn new(
        time: Duration,
        temp_dir: PathBuf,
        temp_bytes_max: u64,
        is_cancelled: std::sync::Arc<AtomicBool>,
    ) -> Budget {
        let now = Instant::now();
        Budget {
            until: now.checked_add(time).unwrap_or(now),
            temp_dir,
            temp_bytes_max,
            is_cancelled,
            state: Mutex::new(State { stopped: None, next_temp_look: now }),
            scanned: AtomicU64::new(0),
            unreadable: AtomicU64::new(0),
            passed: AtomicU64::new(0),
        }
    }

    /// Whether the query may go on. Once it may not, it never may.
    pub(super) fn may_go_on(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.stopped.is_some() {
            return false;
        }
        let now = Instant::now();
        if self.is_cancelled.load(Ordering::Relaxed) {
            state.stopped = Some(Stop::Gone);
        } else if now >= self.until {
            state.stopped = Some(Stop::Time);
        } else if now >= state.next_temp_look {
            state.next_temp_look = now.checked_add(TEMP_LOOK).unwrap_or(now);
            if temp_bytes(&self.temp_dir) > self.temp_bytes_max {
                state.stopped = Some(Stop::Temp);
            }
        }
        state.stopped.is_none()
    }

    /// Why it was stopped, if it was.
    pub(super) fn stopped(&self) -> Option<Stop> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped
    }

    /// Counts rows that were looked at, those of them that cannot be read, and those that SQLite is given.
    pub(super) fn count(&self, scanned: u64, unreadable: u64, passed: usize) {
        self.scanned.fetch_add(scanned, Ordering::Relaxed);
        self.unreadable.fetch_add(unreadable, Ordering::Relaxed);
        self.passed.fetch_add(u64::try_from(passed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The same three, so far.
    pub(super) fn counted(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (of(&self.scanned), of(&self.unreadable), of(&self.passed))
    }
}

/// The bytes of this process's open files below `dir`. SQLite deletes its temporary files as it opens them, so that a
/// directory does not list them and a crash leaves none behind.
fn temp_bytes(dir: &Path) -> u64 {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return 0 };
    let is_ours = |path: &Path| std::fs::read_link(path).is_ok_and(|target| target.starts_with(dir));
    let paths = open.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| is_ours(path));
    let bytes = paths.filter_map(|path| std::fs::metadata(path).ok()).map(|file| file.len());
    bytes.fold(0, u64::saturating_add)
}
