//! Guessing is slowed down, and nobody is locked out: a right token never comes here (rule P1).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong tokens of one address that are answered at once; one more each second.
const FREE: f64 = 20.0;

/// The most that an address can owe, so that it is answered at once again after so many seconds.
const DEBT_MAX: f64 = 80.0;

/// What each further one waits longer than the one before.
const STEP: Duration = Duration::from_millis(100);

/// The longest wait.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The most answers that wait at a time: each keeps a connection, and one of the 64 places of the proxy's relay if it came
/// that way. So guesses cannot take all of these.
const WAITING_MAX: usize = 16;

/// The most addresses that are remembered.
const ADDRESSES_MAX: usize = 1024;

/// Wrong tokens by address.
pub(crate) struct Guesses {
    step: Duration,
    debts: Mutex<HashMap<IpAddr, Debt>>,
    waiting: AtomicUsize,
}

/// How many wrong tokens count at a moment.
struct Debt {
    owed: f64,
    at: Instant,
}

impl Debt {
    fn now(&self, now: Instant) -> f64 {
        (self.owed - now.saturating_duration_since(self.at).as_secs_f64()).max(0.0)
    }
}

/// What becomes of the answer to a wrong token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes out after so long.
    After(Duration),
    /// Too many wait already.
    TooMany,
}

impl Guesses {
    /// Nobody has guessed yet.
    pub(crate) fn new() -> Guesses {
        Guesses { step: STEP, debts: Mutex::default(), waiting: AtomicUsize::new(0) }
    }

    /// The same without waits.
    #[cfg(test)]
    pub(crate) fn without_waits() -> Guesses {
        Guesses { step: Duration::ZERO, ..Guesses::new() }
    }

    /// Counts a wrong token from `address`.
    pub(crate) fn wrong(&self, address: IpAddr, now: Instant) -> Verdict {
        let wait = self.wait(group(address), now);
        if !wait.is_zero() && self.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            return Verdict::TooMany;
        }
        Verdict::After(wait)
    }

    /// Counts an answer that waits, for as long as this lives.
    pub(crate) fn waits(&self) -> Waiting<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.waiting)
    }

    fn wait(&self, address: IpAddr, now: Instant) -> Duration {
        let mut debts = self.debts.lock().unwrap_or_else(PoisonError::into_inner);
        if debts.len() >= ADDRESSES_MAX && !debts.contains_key(&address) {
            debts.retain(|_, debt| debt.now(now) > 0.0);
            let least = debts.iter().min_by(|a, b| a.1.now(now).total_cmp(&b.1.now(now)));
            if let Some(least) = least.map(|(address, _)| *address).filter(|_| debts.len() >= ADDRESSES_MAX) {
                debts.remove(&least);
            }
        }
        let debt = debts.entry(address).or_insert(Debt { owed: 0.0, at: now });
        *debt = Debt { owed: (debt.now(now) + 1.0).min(DEBT_MAX), at: now };
        let over = (debt.owed - FREE).max(0.0);
        self.step.mul_f64(over).min(WAIT_MAX)
    }
}

/// An answer that waits.
pub(crate) struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An IPv6 host has a whole /64 to itself.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(guesses: &Guesses, address: &str, now: Instant) -> Duration {
        match guesses.wrong(address.parse().unwrap(), now) {
            Verdict::After(wait) => wait,
            Verdict::TooMany => panic!("too many"),
        }
    }

    #[test]
    fn p1_guesses_wait_longer_and_longer_up_to_a_bound_and_are_forgiven() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        let waits: Vec<Duration> = (0..200).map(|_| wait(&guesses, "192.0.2.1", now)).collect();
        assert!(waits.iter().take(20).all(Duration::is_zero));
        assert_eq!(waits[20..23], [STEP, STEP * 2, STEP * 3]);
        assert!(waits.is_sorted() && waits[199] == WAIT_MAX, "{waits:?}");
        assert_eq!(wait(&guesses, "192.0.2.2", now), Duration::ZERO, "another address");
        let later = now + Duration::from_secs(80);
        assert_eq!(wait(&guesses, "192.0.2.1", later), Duration::ZERO, "forgiven");
    }

    #[test]
    fn p1_a_network_of_one_host_counts_as_one() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        for host in 0..20 {
            wait(&guesses, &format!("2001:db8::{host:x}"), now);
        }
        assert_eq!(wait(&guesses, "2001:db8::ffff", now), STEP);
        assert_eq!(wait(&guesses, "2001:db8:0:1::1", now), Duration::ZERO);
        assert_eq!(wait(&guesses, "::ffff:192.0.2.1", now), Duration::ZERO);
    }

    #[test]
    fn p1_waits_and_addresses_are_bounded() {
        let (guesses, now) = (Guesses::new(), Instant::now());
        for host in 0..5000_u32 {
            guesses.wrong(IpAddr::V4(host.into()), now);
        }
        assert!(guesses.debts.lock().unwrap().len() <= ADDRESSES_MAX);
        for _ in 0..30 {
            wait(&guesses, "192.0.2.1", now);
        }
        let waiting: Vec<Waiting<'_>> = (0..WAITING_MAX).map(|_| guesses.waits()).collect();
        assert_eq!(guesses.wrong("192.0.2.1".parse().unwrap(), now), Verdict::TooMany);
        drop(waiting);
        assert_ne!(guesses.wrong("192.0.2.1".parse().unwrap(), now), Verdict::TooMany);
    }
}
