//! Pages that hold keys, kept out of swap.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

static COMPLAINED: AtomicBool = AtomicBool::new(false);

/// Keeps the pages that hold `value` in memory, as far as RLIMIT_MEMLOCK allows (rule S1); the first time it does not,
/// one line says so. What `value` points to elsewhere is not meant.
///
/// They stay locked when it is dropped: other keys may be on the same page, and there are few.
pub(crate) fn keep_in_memory<T: ?Sized>(value: &T) {
    // SAFETY: the range is that of a live value; mlock neither reads nor writes it.
    let locked = unsafe { libc::mlock((&raw const *value).cast(), size_of_val(value)) };
    if locked != 0 && !COMPLAINED.swap(true, Ordering::Relaxed) {
        eprintln!(
            "keybrake-dataplane: keys may be swapped to disk: {}; raise RLIMIT_MEMLOCK (LimitMEMLOCK= of systemd), or \
             run without swap",
            io::Error::last_os_error()
        );
    }
}
