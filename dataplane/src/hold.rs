//! Money kept aside for one exchange, which ends exactly once (N4).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use keybrake_proto::journal::Booking;
use keybrake_proto::ledger::Refusal;
use keybrake_proto::money::Micros;
use keybrake_proto::time::Day;

use crate::deadline::TICKS_PER_SECOND;
use crate::metrics::Metrics;
use crate::registry::KeyEntry;

/// How long an unknown outcome stays held before it is booked at its quote (rule Q1).
const DOUBT_TICKS: u64 = 3600 * TICKS_PER_SECOND;

/// A quote kept aside in a key's account. Only [`Hold::reserve`] makes one.
///
/// Dropped without an end it becomes a doubt: what is not known to be free is not free.
#[must_use]
pub(crate) struct Hold {
    entry: Arc<KeyEntry>,
    doubts: Rc<Doubts>,
    quote: Micros,
    day: Day,
    ended: bool,
}

impl Hold {
    /// Keeps `quote` aside in the account of `entry`.
    pub(crate) fn reserve(
        entry: &Arc<KeyEntry>,
        doubts: &Rc<Doubts>,
        today: Day,
        quote: Micros,
    ) -> Result<Hold, Refusal> {
        let day = entry.account.reserve(today, quote)?;
        Ok(Hold { entry: Arc::clone(entry), doubts: Rc::clone(doubts), quote, day, ended: false })
    }

    /// The day of the account at the reserve.
    pub(crate) fn day(&self) -> Day {
        self.day
    }

    /// The key.
    pub(crate) fn entry(&self) -> &Arc<KeyEntry> {
        &self.entry
    }

    /// The call cost this much.
    pub(crate) fn settle(mut self, today: Day, charge: Micros) -> Booking {
        self.ended = true;
        let day = self.entry.account.settle(today, self.quote, charge);
        Booking { key: self.entry.record.id, day, charge }
    }

    /// Nothing was sent, or the vendor definitely refused.
    pub(crate) fn release(self, today: Day) -> Booking {
        self.settle(today, Micros::ZERO)
    }

    /// It was sent and the outcome is not known: the quote stays held and committed.
    pub(crate) fn doubt(mut self, today: Day) -> Booking {
        self.ended = true;
        self.doubts.add(Arc::clone(&self.entry), self.quote);
        // A settle of nothing, which rolls the day.
        let day = self.entry.account.settle(today, Micros::ZERO, Micros::ZERO);
        Booking { key: self.entry.record.id, day, charge: self.quote }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if !self.ended {
            self.doubts.add(Arc::clone(&self.entry), self.quote);
        }
    }
}

/// A shard's holds whose outcome is not known.
pub(crate) struct Doubts {
    metrics: Arc<Metrics>,
    now: std::cell::Cell<u64>,
    /// Oldest first.
    open: RefCell<VecDeque<Doubt>>,
}

struct Doubt {
    entry: Arc<KeyEntry>,
    quote: Micros,
    book_at: u64,
}

impl Doubts {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Doubts {
        Doubts { metrics, now: std::cell::Cell::new(0), open: RefCell::default() }
    }

    fn add(&self, entry: Arc<KeyEntry>, quote: Micros) {
        if quote > Micros::ZERO {
            let book_at = self.now.get().saturating_add(DOUBT_TICKS);
            self.open.borrow_mut().push_back(Doubt { entry, quote, book_at });
            self.metrics.doubts.add(1);
        }
    }

    /// Books what was in doubt for an hour at its quote; called every tick.
    pub(crate) fn tick(&self, today: Day) {
        let now = self.now.get().saturating_add(1);
        self.now.set(now);
        let mut open = self.open.borrow_mut();
        while let Some(doubt) = open.pop_front_if(|doubt| doubt.book_at <= now) {
            doubt.entry.account.settle(today, doubt.quote, doubt.quote);
            self.metrics.doubts.subtract(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use keybrake_proto::key::{KeyDigest, KeyId};
    use keybrake_proto::ledger::Word;
    use keybrake_proto::policy::Policy;
    use keybrake_proto::time::UnixMicros;

    use super::*;
    use crate::registry::KeyRecord;

    fn usd(amount: u64) -> Micros {
        Micros::new(amount * 1_000_000).unwrap()
    }

    fn entry(cap: u64) -> Arc<KeyEntry> {
        let policy = Policy {
            vendor: "stripe".to_owned(),
            allowed_endpoints: vec!["POST /v1/charges".parse().unwrap()],
            daily_usd_cap: Some(usd(cap)),
            expires_at: None,
        };
        let record = KeyRecord {
            id: KeyId::from_bytes(b"aaaaaaaaaaaaaaaa").unwrap(),
            digest: KeyDigest([0; 32]),
            policy,
            label: None,
            agent_run_label: None,
            metadata: Default::default(),
            created_at: UnixMicros(0),
            parent: None,
            revoked_at: None,
        };
        Arc::new(KeyEntry::new(record, Word::open(Day::new(1))))
    }

    fn doubts() -> Rc<Doubts> {
        Rc::new(Doubts::new(Arc::default()))
    }

    #[test]
    fn a_hold_ends_once_whichever_way_it_goes() {
        let (entry, doubts) = (entry(10), doubts());
        let reserve = || Hold::reserve(&entry, &doubts, Day::new(1), usd(10)).unwrap();
        assert_eq!(reserve().release(Day::new(1)).charge, Micros::ZERO);
        assert_eq!(entry.account.word(), Word::open(Day::new(1)));
        assert_eq!(reserve().settle(Day::new(1), usd(4)).charge, usd(4));
        assert_eq!(entry.account.word().committed, usd(4));
        assert_eq!(entry.account.word().held, Micros::ZERO);
    }

    #[test]
    fn q1_a_doubt_stays_held_for_an_hour_and_is_then_booked() {
        let (entry, doubts) = (entry(10), doubts());
        let hold = Hold::reserve(&entry, &doubts, Day::new(1), usd(6)).unwrap();
        assert_eq!(hold.doubt(Day::new(1)).charge, usd(6));
        for _ in 1..DOUBT_TICKS {
            doubts.tick(Day::new(1));
        }
        assert_eq!((entry.account.word().held, entry.account.word().committed), (usd(6), usd(6)));
        doubts.tick(Day::new(1));
        assert_eq!((entry.account.word().held, entry.account.word().committed), (Micros::ZERO, usd(6)));
    }

    #[test]
    fn a_hold_that_is_dropped_is_a_doubt_and_not_free() {
        let (entry, doubts) = (entry(10), doubts());
        drop(Hold::reserve(&entry, &doubts, Day::new(1), usd(6)).unwrap());
        assert_eq!(entry.account.word().committed, usd(6));
        assert!(Hold::reserve(&entry, &doubts, Day::new(1), usd(6)).is_err());
    }
}
