//! How many requests the whole installation has sent this month, and how many it may (`[requests]`).
//!
//! With a quota all workers count in one word. Without one each counts for itself and adds that to the word when a
//! reload sets a quota, so that the month's earlier requests count. The books keep the same count of the same
//! outcomes (`storage::books`), from which the word begins at a start.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keybrake_proto::deny::{Deny, Restriction};
use keybrake_proto::time::{Day, Month, UnixMicros};

/// The month stands in the bits above the count.
const COUNT_BITS: u32 = 40;

const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// Requests of one month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfMonth {
    pub(crate) month: Month,
    pub(crate) count: u64,
}

impl OfMonth {
    /// With `count` more in `month`: a later month begins anew, an earlier one is over.
    pub(crate) fn plus(self, month: Month, count: u64) -> OfMonth {
        if month > self.month {
            return OfMonth { month, count };
        }
        let count = if month == self.month { count } else { 0 };
        OfMonth { count: self.count.saturating_add(count).min(COUNT_MAX), ..self }
    }

    fn pack(self) -> u64 {
        (u64::from(self.month.as_u32()) << COUNT_BITS) | self.count.min(COUNT_MAX)
    }

    fn unpack(word: u64) -> OfMonth {
        let month = Month::new(u32::try_from(word >> COUNT_BITS).unwrap_or(u32::MAX));
        OfMonth { month, count: word & COUNT_MAX }
    }
}

/// What all workers count in; the month is the agreed day's (rule Q10), never the wall clock's.
pub(crate) struct Requests(AtomicU64);

/// The month's requests are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UsedUp {
    pub(crate) most: u64,
    pub(crate) month: Month,
}

impl UsedUp {
    /// What the agent is told at `now`.
    pub(crate) fn refusal(self, now: UnixMicros) -> Deny {
        let UsedUp { most, month } = self;
        let retry_after_s = now.seconds_until(month.end()).max(1);
        Deny::Restriction(Restriction::MonthlyQuota { most, month, retry_after_s })
    }
}

impl Requests {
    /// As of the last run.
    pub(crate) fn new(opening: OfMonth) -> Requests {
        Requests(AtomicU64::new(opening.pack()))
    }

    /// What it says now. Without a quota it lacks what workers count for themselves.
    pub(crate) fn read(&self) -> OfMonth {
        OfMonth::unpack(self.0.load(Ordering::Relaxed))
    }

    fn take(&self, month: Month, most: u64) -> Result<Month, UsedUp> {
        let next = |word| {
            let now = OfMonth::unpack(word);
            let next = now.plus(month.max(now.month), 1);
            (next.count <= most).then(|| next.pack())
        };
        // Nothing else is ordered by it.
        match self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            // A month never goes back: who is asked for an earlier one counts in the later.
            Ok(before) => Ok(OfMonth::unpack(before).month.max(month)),
            Err(word) => Err(UsedUp { most, month: OfMonth::unpack(word).month.max(month) }),
        }
    }

    fn change(&self, change: impl Fn(OfMonth) -> OfMonth) {
        let next = |word| Some(change(OfMonth::unpack(word)).pack());
        // The update always has a value, so there is no error.
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).ok();
    }
}

/// One worker's way to the count.
pub(crate) struct Tally {
    shared: Arc<Requests>,
    most: Cell<Option<u64>>,
    /// What this worker counted while there was no quota, less what it gave back.
    own: Cell<(Month, i64)>,
    /// The last day that was asked for: its month takes some divisions.
    day: Cell<(Day, Month)>,
}

impl Tally {
    /// A worker's tally under this quota.
    pub(crate) fn new(shared: Arc<Requests>, most: Option<u64>) -> Tally {
        let day = Cell::new((Day::default(), Day::default().month()));
        Tally { shared, most: Cell::new(most), own: Cell::default(), day }
    }

    /// From now on this quota holds.
    pub(crate) fn set(&self, most: Option<u64>) {
        if self.most.replace(most).is_some() || most.is_none() {
            return;
        }
        let (month, count) = self.own.take();
        self.shared.change(|now| match u64::try_from(count) {
            Ok(count) => now.plus(month, count),
            Err(_) if now.month == month => {
                OfMonth { count: now.count.saturating_sub(count.unsigned_abs()), ..now }
            }
            Err(_) => now,
        });
    }

    /// Counts a request that is about to be sent; gives the month it counts in.
    pub(crate) fn take(&self, day: Day) -> Result<Month, UsedUp> {
        let month = self.month_of(day);
        let Some(most) = self.most.get() else {
            self.count(month, 1);
            return Ok(month);
        };
        self.shared.take(month, most)
    }

    /// It was not sent.
    pub(crate) fn give_back(&self, month: Month) {
        if self.most.get().is_none() {
            return self.count(month, -1);
        }
        self.shared.change(|now| match now.month == month {
            true => OfMonth { count: now.count.saturating_sub(1), ..now },
            false => now,
        });
    }

    fn count(&self, month: Month, by: i64) {
        let (of, count) = self.own.get();
        self.own.set(if month > of {
            (month, by)
        } else if month == of {
            (of, count.saturating_add(by))
        } else {
            (of, count)
        });
    }

    fn month_of(&self, day: Day) -> Month {
        let (known, month) = self.day.get();
        if known == day {
            return month;
        }
        self.day.set((day, day.month()));
        day.month()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> Day {
        Day::parse(text).unwrap()
    }

    fn tallies(count: u64, most: Option<u64>) -> (Arc<Requests>, Tally, Tally) {
        let month = day("2026-11-21").month();
        let shared = Arc::new(Requests::new(OfMonth { month, count }));
        (Arc::clone(&shared), Tally::new(Arc::clone(&shared), most), Tally::new(shared, most))
    }

    #[test]
    fn q30_workers_share_one_quota_which_a_new_month_renews() {
        let (shared, one, two) = tallies(7, Some(10));
        let november = day("2026-11-30");
        assert!(one.take(november).is_ok() && two.take(november).is_ok() && one.take(november).is_ok());
        let used_up = UsedUp { most: 10, month: november.month() };
        assert_eq!((one.take(november), two.take(november)), (Err(used_up), Err(used_up)));
        two.give_back(november.month());
        assert_eq!(shared.read().count, 9);
        let december = day("2026-12-01");
        assert_eq!(one.take(december), Ok(december.month()));
        assert_eq!(shared.read(), OfMonth { month: december.month(), count: 1 });
        // What ends now and began before is of the month that is over.
        one.give_back(november.month());
        assert_eq!(two.take(november), Ok(december.month()), "a month does not come back");
        assert_eq!(shared.read().count, 2);
    }

    #[test]
    fn q30_a_quota_that_is_set_later_counts_what_was_sent_before() {
        let (shared, one, two) = tallies(2, None);
        let today = day("2026-11-21");
        assert!((0..5).all(|_| one.take(today).is_ok()) && two.take(today).is_ok());
        one.give_back(today.month());
        assert_eq!(shared.read().count, 2, "each for itself");
        one.set(Some(8));
        two.set(Some(8));
        assert_eq!(shared.read().count, 7);
        assert!(one.take(today).is_ok() && two.take(today).is_err());
        two.set(Some(9));
        one.set(Some(9));
        assert!(two.take(today).is_ok() && one.take(today).is_err());
        // Off and on again loses nothing, and what is given back meanwhile comes back.
        two.set(None);
        two.give_back(today.month());
        two.set(Some(9));
        assert_eq!(shared.read().count, 8);
    }

    #[test]
    fn q30_threads_never_take_more_than_there_is() {
        let month = day("2026-11-21").month();
        let shared = Arc::new(Requests::new(OfMonth { month, count: 0 }));
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    let tally = Tally::new(shared, Some(100));
                    (0..50).filter(|_| tally.take(day("2026-11-21")).is_ok()).count()
                })
            })
            .collect();
        let taken: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert_eq!((taken, shared.read().count), (100, 100));
    }
}
