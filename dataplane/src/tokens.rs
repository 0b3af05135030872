//! Requests per second, counted by all shards together: one atomic a bucket, no lock, no timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use keybrake_proto::policy::{Bucket, Rate};

/// A bucket in use.
#[derive(Debug)]
pub(crate) struct Tokens {
    bucket: Bucket,
    epoch: Instant,
    /// Up to when all tokens are used, in nanoseconds since `epoch`.
    used_ns: AtomicU64,
}

impl Tokens {
    /// A full bucket of `burst` tokens.
    pub(crate) fn new(rate: Rate, burst: u32) -> Tokens {
        Tokens { bucket: Bucket::new(rate, burst), epoch: Instant::now(), used_ns: AtomicU64::new(0) }
    }

    /// Takes a token, or says after how long there is one.
    pub(crate) fn take(&self, now: Instant) -> Result<(), Duration> {
        let now_ns = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        // Nothing else is ordered by it.
        let mut used_ns = self.used_ns.load(Ordering::Relaxed);
        loop {
            let next_ns = self.bucket.take(used_ns, now_ns).map_err(Duration::from_nanos)?;
            let swapped =
                self.used_ns.compare_exchange_weak(used_ns, next_ns, Ordering::Relaxed, Ordering::Relaxed);
            match swapped {
                Ok(_) => return Ok(()),
                Err(now_used_ns) => used_ns = now_used_ns,
            }
        }
    }

    /// Gives a token back that was taken and not used.
    pub(crate) fn give_back(&self) {
        let back = |used_ns| Some(self.bucket.give_back(used_ns));
        // The update always has a value, so there is no error.
        self.used_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back).ok();
    }
}

/// The pace of a key and of all keys above it, shared by all shards. The key's own may change while it is used.
#[derive(Debug, Default)]
pub(crate) struct KeyRate {
    own: ArcSwapOption<Level>,
    above: Option<Arc<KeyRate>>,
}

#[derive(Debug)]
struct Level {
    rate: Rate,
    tokens: Tokens,
}

impl Level {
    fn new(rate: Rate) -> Arc<Level> {
        Arc::new(Level { rate, tokens: Tokens::new(rate, rate.burst()) })
    }
}

/// Which rate is used up, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFast {
    pub(crate) rate: Rate,
    pub(crate) wait: Duration,
}

impl KeyRate {
    /// The pace of a key with `own` rate below one with the pace `above`: what a child sends counts for its parent.
    pub(crate) fn new(own: Option<Rate>, above: Option<Arc<KeyRate>>) -> KeyRate {
        KeyRate { own: ArcSwapOption::new(own.map(Level::new)), above }
    }

    /// Gives the key another rate of its own. One that stays as it was keeps its bucket: a change of something else is
    /// no new burst.
    pub(crate) fn set(&self, own: Option<Rate>) {
        if self.own.load().as_ref().map(|level| level.rate) != own {
            self.own.store(own.map(Level::new));
        }
    }

    /// Takes a token of each level, or none.
    pub(crate) fn take(&self, now: Instant) -> Result<(), TooFast> {
        let own = self.own.load();
        if let Some(level) = own.as_ref() {
            level.tokens.take(now).map_err(|wait| TooFast { rate: level.rate, wait })?;
        }
        let above = self.above.as_ref().map_or(Ok(()), |above| above.take(now));
        if let (Err(_), Some(level)) = (above, own.as_ref()) {
            level.tokens.give_back();
        }
        above
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Option<Rate> {
        text.parse().ok()
    }

    #[test]
    fn a_key_without_a_rate_is_never_too_fast() {
        let now = Instant::now();
        assert!((0..1000).all(|_| KeyRate::default().take(now).is_ok()));
    }

    #[test]
    fn shards_share_one_bucket() {
        let shared = Arc::new(KeyRate::new(rate("5"), None));
        let now = Instant::now();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || (0..100).filter(|_| shared.take(now).is_ok()).count())
            })
            .collect();
        let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!(taken, 5, "all at one instant: one burst");
    }

    #[test]
    fn m11_what_a_child_sends_counts_for_its_parent_and_a_refusal_takes_nothing() {
        let parent = Arc::new(KeyRate::new(rate("2"), None));
        let below = |own| KeyRate::new(own, Some(Arc::clone(&parent)));
        let (one, two) = (below(rate("5")), below(None));
        let now = Instant::now();
        assert!(one.take(now).is_ok() && two.take(now).is_ok());
        let refused = one.take(now).unwrap_err();
        assert_eq!(Some(refused.rate), rate("2"));
        assert!(parent.take(now).is_err());
        // The refused take left the child's own bucket as it was: four of five are there.
        let own = one.own.load_full().unwrap();
        assert!((0..4).all(|_| own.tokens.take(now).is_ok()));
        assert!(own.tokens.take(now).is_err());
    }

    #[test]
    fn a_rate_changes_at_once_for_a_key_and_all_below_it_and_one_that_stays_gives_no_burst() {
        let parent = Arc::new(KeyRate::new(rate("2"), None));
        let child = KeyRate::new(None, Some(Arc::clone(&parent)));
        let now = Instant::now();
        assert!(child.take(now).is_ok() && child.take(now).is_ok() && child.take(now).is_err());
        parent.set(rate("2"));
        assert!(child.take(now).is_err(), "the same rate is the same bucket");
        parent.set(rate("3"));
        assert!((0..3).all(|_| child.take(now).is_ok()));
        assert_eq!(child.take(now).map_err(|refused| Some(refused.rate)), Err(rate("3")));
        parent.set(None);
        assert!((0..10).all(|_| child.take(now).is_ok()));
        child.set(rate("1"));
        assert!(child.take(now).is_ok() && child.take(now).is_err() && parent.take(now).is_ok());
    }
}
