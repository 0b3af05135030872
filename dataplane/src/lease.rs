//! The control thread's word that it has carried out every order that had arrived.
//!
//! A process that is stopped (SIGSTOP, a frozen container) finds an order to revoke in the control
//! socket and agents' requests in the others when it goes on. Nothing says which thread runs first. So a
//! worker sends nothing unless the control thread has looked at its socket a moment ago: after a
//! stop the last look is too old, and workers wait for the next one (contract I3b). A load and a comparison a
//! request, no clock but the one that is read anyway.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How old the control thread's last look may be. Shorter stops are told by SIGCONT.
const LIFE: Duration = Duration::from_millis(100);

/// How often the control thread looks where nothing wakes it.
pub(crate) const RENEWAL: Duration = Duration::from_millis(20);

/// How long an exchange waits for the next look before it is refused.
pub(crate) const WAIT: Duration = Duration::from_secs(2);

/// Between two looks at the lease while waiting.
pub(crate) const PAUSE: Duration = Duration::from_millis(2);

/// Nobody has looked, or a stop has come since.
const VOID: usize = 0;

/// Void, and the control thread looks: another stop makes it [`VOID`] again.
const LOOKING: usize = 1;

/// What a time is counted from, so that it is neither of them.
const FIRST: usize = 2;

/// When the control thread last looked. Clones are the same lease.
#[derive(Clone)]
pub(crate) struct Lease {
    epoch: Instant,
    /// [`VOID`], [`LOOKING`], or microseconds since `epoch` plus [`FIRST`].
    looked_us: Arc<AtomicUsize>,
}

impl Lease {
    /// A lease of which nothing is known yet: until the first look nothing is sent.
    pub(crate) fn new() -> Lease {
        Lease { epoch: Instant::now(), looked_us: Arc::new(AtomicUsize::new(VOID)) }
    }

    /// What a signal handler sets to [`Lease::voided`].
    pub(crate) fn cell(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.looked_us)
    }

    /// The value of a lease that nobody may rely on.
    pub(crate) const fn voided() -> usize {
        VOID
    }

    /// What stands there before a look, for [`Lease::renew`].
    pub(crate) fn before_look(&self) -> usize {
        match self.looked_us.compare_exchange(VOID, LOOKING, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => LOOKING,
            Err(before) => before,
        }
    }

    /// Everything that had arrived at `looked_at` is carried out. Void stays what was voided since
    /// `before`: that look may have been in front of a stop.
    pub(crate) fn renew(&self, before: usize, looked_at: Instant) {
        // Whoever reads the new value sees the accounts closed that were closed before it.
        self.looked_us
            .compare_exchange(before, self.micros(looked_at), Ordering::AcqRel, Ordering::Acquire)
            .ok();
    }

    /// Whether a request may be sent at `now` as far as the control thread is concerned.
    pub(crate) fn is_fresh(&self, now: Instant) -> bool {
        let looked_us = self.looked_us.load(Ordering::Acquire);
        let life_us = usize::try_from(LIFE.as_micros()).unwrap_or_default();
        looked_us >= FIRST && self.micros(now).saturating_sub(looked_us) <= life_us
    }

    fn micros(&self, at: Instant) -> usize {
        let since = at.saturating_duration_since(self.epoch);
        usize::try_from(since.as_micros()).unwrap_or(usize::MAX).saturating_add(FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(lease: &Lease, since: Duration) -> Instant {
        lease.epoch + since
    }

    #[test]
    fn i3b_nothing_is_sent_before_the_first_look_or_long_after_the_last() {
        let lease = Lease::new();
        assert!(!lease.is_fresh(lease.epoch));
        lease.renew(lease.before_look(), lease.epoch);
        assert!(lease.is_fresh(lease.epoch) && lease.is_fresh(after(&lease, LIFE)));
        assert!(!lease.is_fresh(after(&lease, LIFE + Duration::from_micros(1))));
        // The look that a stop interrupted began before it, so it renews nothing.
        lease.renew(lease.before_look(), after(&lease, Duration::from_millis(1)));
        assert!(!lease.is_fresh(after(&lease, Duration::from_secs(1))));
    }

    #[test]
    fn i3b_a_look_in_front_of_sigcont_renews_nothing() {
        let lease = Lease::new();
        lease.renew(lease.before_look(), lease.epoch);
        let before = lease.before_look();
        lease.cell().store(Lease::voided(), Ordering::SeqCst);
        lease.renew(before, after(&lease, Duration::from_millis(1)));
        assert!(!lease.is_fresh(after(&lease, Duration::from_millis(2))));
        let before = lease.before_look();
        lease.cell().store(Lease::voided(), Ordering::SeqCst);
        lease.renew(before, after(&lease, Duration::from_millis(2)));
        assert!(!lease.is_fresh(after(&lease, Duration::from_millis(2))), "two stops, one behind the other");
        lease.renew(lease.before_look(), after(&lease, Duration::from_millis(3)));
        assert!(lease.is_fresh(after(&lease, Duration::from_millis(3))));
    }
}
