//! Requests per second, counted by all shards together: one atomic a bucket, no lock, no timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

/// The pace of a key and of all keys above it, shared by all shards.
#[derive(Debug, Default)]
pub(crate) struct KeyRate {
    /// The key's own first.
    levels: Vec<(Rate, Arc<Tokens>)>,
}

/// Which rate is used up, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFast {
    pub(crate) rate: Rate,
    pub(crate) wait: Duration,
}

impl KeyRate {
    /// The pace of a key with `own` rate below one with the pace `above`: what a child sends counts for its parent.
    pub(crate) fn new(own: Option<Rate>, above: Option<&KeyRate>) -> KeyRate {
        let own = own.map(|rate| (rate, Arc::new(Tokens::new(rate, rate.burst()))));
        let above = above.into_iter().flat_map(|above| above.levels.iter().cloned());
        KeyRate { levels: own.into_iter().chain(above).collect() }
    }

    /// Takes a token of each level, or none.
    pub(crate) fn take(&self, now: Instant) -> Result<(), TooFast> {
        for (at, (rate, tokens)) in self.levels.iter().enumerate() {
            if let Err(wait) = tokens.take(now) {
                self.levels.iter().take(at).for_each(|(_, tokens)| tokens.give_back());
                return Err(TooFast { rate: *rate, wait });
            }
        }
        Ok(())
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
        let parent = KeyRate::new(rate("2"), None);
        let (one, two) = (KeyRate::new(rate("5"), Some(&parent)), KeyRate::new(None, Some(&parent)));
        let now = Instant::now();
        assert!(one.take(now).is_ok() && two.take(now).is_ok());
        let refused = one.take(now).unwrap_err();
        assert_eq!(Some(refused.rate), rate("2"));
        assert!(parent.take(now).is_err());
        // The refused take left the child's own bucket as it was: four of five are there.
        assert!((0..4).all(|_| one.levels[0].1.take(now).is_ok()));
        assert!(one.levels[0].1.take(now).is_err());
    }
}
