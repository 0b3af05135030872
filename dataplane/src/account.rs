//! A key's account, shared by all shards: the ledger's transitions as compare-and-swap.

use keybrake_proto::ledger::{Refusal, Word};
use keybrake_proto::money::Micros;
use keybrake_proto::time::Day;
use portable_atomic::{AtomicU128, Ordering};

/// One key's money, alone on its cache lines: two shards that spend under two keys do not disturb
/// each other (128 bytes, since the prefetcher fetches lines in pairs).
#[repr(align(128))]
pub(crate) struct Account {
    word: AtomicU128,
    cap: Option<Micros>,
}

impl Account {
    /// An account as of the last run.
    pub(crate) fn new(word: Word, cap: Option<Micros>) -> Account {
        Account { word: AtomicU128::new(word.pack()), cap }
    }

    /// The word at this moment.
    pub(crate) fn word(&self) -> Word {
        Word::unpack(self.word.load(Ordering::Acquire))
    }

    /// The cap; `None` where the key has none.
    pub(crate) fn cap(&self) -> Option<Micros> {
        self.cap
    }

    /// Keeps `quote` aside on the later of `today` and the word's day; answers that day.
    pub(crate) fn reserve(&self, today: Day, quote: Micros) -> Result<Day, Refusal> {
        self.swap(|word| word.reserve(today, quote, self.cap)).map(|word| word.day)
    }

    /// Replaces a hold of `quote` by `charge` on the later of `today` and the word's day, which it
    /// answers: what the vendor accepted after midnight counts on the new day too (rule M9).
    pub(crate) fn settle(&self, today: Day, quote: Micros, charge: Micros) -> Day {
        self.always(|word| word.on(today).settle(quote, charge)).day
    }

    /// From here on no reserve succeeds on any core.
    pub(crate) fn close(&self) {
        self.always(Word::close);
    }

    fn always(&self, next: impl Fn(Word) -> Word) -> Word {
        match self.swap(|word| Ok::<_, std::convert::Infallible>(next(word))) {
            Ok(word) => word,
        }
    }

    fn swap<E>(&self, next: impl Fn(Word) -> Result<Word, E>) -> Result<Word, E> {
        let mut bits = self.word.load(Ordering::Acquire);
        loop {
            let word = next(Word::unpack(bits))?;
            match self.word.compare_exchange_weak(bits, word.pack(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(word),
                Err(now) => bits = now,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::thread;

    use super::*;

    fn usd(amount: u64) -> Micros {
        Micros::new(amount * 1_000_000).unwrap()
    }

    #[test]
    fn eight_threads_never_get_past_the_cap_and_fill_it() {
        let day = Day::new(1);
        let account = Arc::new(Account::new(Word::open(day), Some(usd(50))));
        let admitted = Arc::new(AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        match account.reserve(day, usd(10)) {
                            Ok(_) => admitted.fetch_add(1, Relaxed),
                            Err(_) => 0,
                        };
                    }
                });
            }
        });
        assert_eq!(admitted.load(Relaxed), 5);
        assert_eq!(account.word().committed, usd(50));
    }

    #[test]
    fn after_close_nothing_is_reserved_and_holds_still_settle() {
        let account = Account::new(Word::open(Day::new(1)), None);
        account.reserve(Day::new(1), usd(5)).unwrap();
        account.close();
        assert_eq!(account.reserve(Day::new(1), Micros::ZERO), Err(Refusal::Closed));
        account.settle(Day::new(1), usd(5), usd(3));
        assert_eq!(account.word().committed, usd(3));
        assert!(account.word().closed);
    }

    #[test]
    fn a_hold_that_settles_after_midnight_counts_on_the_new_day() {
        let account = Account::new(Word::open(Day::new(1)), Some(usd(10)));
        account.reserve(Day::new(1), usd(10)).unwrap();
        assert_eq!(account.settle(Day::new(2), usd(10), usd(8)), Day::new(2));
        assert!(account.reserve(Day::new(2), usd(3)).is_err());
        assert!(account.reserve(Day::new(2), usd(2)).is_ok());
    }

    #[test]
    fn an_account_is_alone_on_its_cache_lines() {
        assert_eq!(align_of::<Account>(), 128);
    }
}
