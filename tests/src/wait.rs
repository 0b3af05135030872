//! Waiting for an event: the one place where a test sleeps.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an event may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// What `probe` finds, looked for until it is there.
///
/// # Panics
/// When it is not there after thirty seconds; `what` says what was waited for.
pub fn eventually<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    within(LIMIT, what, probe)
}

/// As [`eventually`], with another limit.
///
/// # Panics
/// When `probe` finds nothing within `limit`.
pub fn within<T>(limit: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} for {what}");
        nap(PAUSE);
    }
}

/// Lets time pass where the time itself is what is tested: the moment of a kill, the length of an outage.
/// A test waits for events, with [`eventually`].
pub(crate) fn pass(time: Duration) {
    nap(time);
}

fn nap(time: Duration) {
    std::thread::sleep(time);
}

/// Microseconds since the epoch, by the clock that the stand-ins' ledgers use.
#[must_use]
pub fn now_micros() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}
