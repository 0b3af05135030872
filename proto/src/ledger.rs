//! The account word: one key's money in 128 bits, and the transitions all accounts obey.
//!
//! `closed 1 | day 17 | held 55 | committed 55`, amounts in micro-USD (rule Q9). Every function
//! maps a word to the next one; the dataplane swaps them in atomically and retries. `committed` is
//! settled + held + in doubt on `day`, the number the cap is compared with; `held` is the part of it
//! whose outcome is not known yet, and it is carried into a new day. A lifetime cap and a request
//! budget are further words of the same kind; [`chain`] holds a request on all words of a key and of
//! every key above it.
//!
//! **At the edge of 55 bits** no money is lost. A reserve keeps `committed` below [`Micros::MAX`],
//! with or without a cap, so only a charge above its quote can reach it. There it stays until the
//! day is over, whatever settles: it reads "that much or more", and nothing but zero fits.

pub mod chain;

use std::fmt;

use crate::money::Micros;
use crate::time::Day;

const COMMITTED_BITS: u32 = 55;
const HELD_BITS: u32 = 55;
const DAY_BITS: u32 = 17;

const HELD_SHIFT: u32 = COMMITTED_BITS;
const DAY_SHIFT: u32 = HELD_SHIFT + HELD_BITS;
const CLOSED_SHIFT: u32 = DAY_SHIFT + DAY_BITS;

const _: () = assert!(CLOSED_SHIFT == u128::BITS - 1);
const _: () = assert!(Micros::MAX.as_u64() == (1 << COMMITTED_BITS) - 1);
const _: () = assert!(Day::MAX.as_u32() == (1 << DAY_BITS) - 1);

/// One key's money.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Word {
    /// No reserve succeeds any more, not even of zero.
    pub closed: bool,
    /// The UTC day `committed` speaks of; it never moves back.
    pub day: Day,
    /// Kept aside for exchanges that run or are in doubt. Part of `committed`.
    pub held: Micros,
    /// Settled + held on `day`.
    pub committed: Micros,
}

/// Why a word did not take a reserve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The account is closed: revoked or expired.
    Closed,
    /// The word is on this later day.
    Later(Day),
    /// The quote does not fit under the cap. `left` is what would have. A false `Full` refuses one
    /// call; a false success spends money.
    Full {
        /// Cap less committed.
        left: Micros,
    },
}

/// The most a reserve may leave committed: [`Micros::MAX`] itself says that the sum is not known.
const COMMITTED_MAX: Micros = match Micros::new(Micros::MAX.as_u64() - 1) {
    Some(most) => most,
    None => Micros::ZERO,
};

impl Word {
    /// An open account with nothing on it.
    pub fn open(day: Day) -> Word {
        Word { closed: false, day, held: Micros::ZERO, committed: Micros::ZERO }
    }

    /// The word in its 128 bits.
    pub fn pack(self) -> u128 {
        u128::from(self.closed) << CLOSED_SHIFT
            | u128::from(self.day.as_u32()) << DAY_SHIFT
            | u128::from(self.held.as_u64()) << HELD_SHIFT
            | u128::from(self.committed.as_u64())
    }

    /// The word in these bits; every pattern is one.
    pub fn unpack(bits: u128) -> Word {
        let field = |shift: u32, width: u32| {
            let mask = u128::MAX.checked_shr(u128::BITS.saturating_sub(width)).unwrap_or_default();
            u64::try_from((bits >> shift) & mask).unwrap_or_default()
        };
        Word {
            closed: field(CLOSED_SHIFT, 1) == 1,
            day: Day::new(u32::try_from(field(DAY_SHIFT, DAY_BITS)).unwrap_or_default()),
            held: Micros::new(field(HELD_SHIFT, HELD_BITS)).unwrap_or_default(),
            committed: Micros::new(field(0, COMMITTED_BITS)).unwrap_or_default(),
        }
    }

    /// The word on `today`, where that is later: what is held is carried, what was settled stays behind.
    #[must_use]
    pub fn on(self, today: Day) -> Word {
        if today > self.day { Word { day: today, committed: self.held, ..self } } else { self }
    }

    /// Keeps `quote` aside on `day`, which must not be before the word's own.
    ///
    /// A quote of zero fits under every cap, also one that was lowered below what is committed
    /// (rule Q4); so a word that a recovery found above its cap admits only that. `cap` is `None`
    /// where the key has none.
    pub fn reserve(self, day: Day, quote: Micros, cap: Option<Micros>) -> Result<Word, Refused> {
        if self.closed {
            return Err(Refused::Closed);
        }
        if self.day > day {
            return Err(Refused::Later(self.day));
        }
        let word = self.on(day);
        let left = cap.unwrap_or(COMMITTED_MAX).min(COMMITTED_MAX).saturating_sub(word.committed);
        if quote > Micros::ZERO && quote > left {
            return Err(Refused::Full { left });
        }
        Ok(Word {
            held: word.held.saturating_add(quote),
            committed: word.committed.saturating_add(quote),
            ..word
        })
    }

    /// Ends a hold of `quote` with what the call did cost; a charge above the quote is booked in full.
    ///
    /// No more than what is held is freed.
    #[must_use]
    pub fn settle(self, quote: Micros, charge: Micros) -> Word {
        let freed = quote.min(self.held);
        Word { held: self.held.saturating_sub(freed), ..self.less(freed) }.plus(charge)
    }

    /// Takes back `amount` that was booked on `day`, unless that day is over for this word (rule Q1).
    /// What is held stays.
    #[must_use]
    pub fn void(self, day: Day, amount: Micros) -> Word {
        let settled = self.committed.saturating_sub(self.held);
        if self.day == day { self.less(amount.min(settled)) } else { self }
    }

    /// A sum that is not known stays so.
    fn less(self, amount: Micros) -> Word {
        if self.committed == Micros::MAX {
            return self;
        }
        Word { committed: self.committed.saturating_sub(amount), ..self }
    }

    fn plus(self, amount: Micros) -> Word {
        Word { committed: self.committed.saturating_add(amount), ..self }
    }

    /// With `quote` more held, whatever the cap: another process has admitted it.
    #[must_use]
    pub fn carry(self, quote: Micros) -> Word {
        Word { held: self.held.saturating_add(quote), ..self.plus(quote) }
    }

    /// Ends a hold whose call moved nothing.
    #[must_use]
    pub fn release(self, quote: Micros) -> Word {
        self.settle(quote, Micros::ZERO)
    }

    /// Lets no further reserve succeed. Holds still settle.
    #[must_use]
    pub fn close(self) -> Word {
        Word { closed: true, ..self }
    }

    /// What would still fit under `cap` on `today`; `None` where there is no cap.
    pub fn left(self, today: Day, cap: Option<Micros>) -> Option<Micros> {
        cap.map(|cap| cap.saturating_sub(self.on(today).committed))
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = if self.closed { "closed | " } else { "" };
        write!(f, "{closed}day {} | held {} | committed {}", self.day.as_u32(), self.held, self.committed)
    }
}

#[cfg(test)]
mod tests;
