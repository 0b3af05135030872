//! A key's account, shared by all shards: the ledger's transitions as compare-and-swap.
//!
//! What happens to the words is decided in [`chain`]; here is only how one of them is loaded and
//! replaced. That is generic over the [`Cell`] that keeps the word, so that a model checker can
//! explore every order of these steps (rule Q18).

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use keybrake_proto::key::KeyId;
use keybrake_proto::ledger::Word;
use keybrake_proto::ledger::chain::{self, Level, Limit, Limits, Opening, Refusal, Sent};
use keybrake_proto::money::Micros;
use keybrake_proto::time::Day;
use portable_atomic::{AtomicU128, Ordering};

/// Where a word is kept.
///
/// All that is asked of it: the swaps of one cell have one order, and each sees the one before. No
/// decision compares the words of two cells with one another.
pub(crate) trait Cell {
    /// A cell with these bits.
    fn new(bits: u128) -> Self;

    /// The bits at this moment, or shortly before.
    fn load(&self) -> u128;

    /// Replaces `current` by `new`, or answers what is there instead; it may fail without a reason.
    fn compare_exchange(&self, current: u128, new: u128) -> Result<u128, u128>;
}

impl Cell for AtomicU128 {
    fn new(bits: u128) -> AtomicU128 {
        AtomicU128::new(bits)
    }

    fn load(&self) -> u128 {
        self.load(Ordering::Acquire)
    }

    fn compare_exchange(&self, current: u128, new: u128) -> Result<u128, u128> {
        self.compare_exchange_weak(current, new, Ordering::AcqRel, Ordering::Acquire)
    }
}

/// One key's words, alone on their cache lines: two shards that spend under two keys do not disturb
/// each other (128 bytes, since the prefetcher fetches lines in pairs).
#[repr(align(128))]
pub(crate) struct Account<C = AtomicU128> {
    daily: C,
    /// Counted with or without a cap, so that one can be set later and is right at once.
    lifetime: Option<C>,
    /// As `lifetime`.
    requests: Option<C>,
    limits: LiveLimits,
    key: KeyId,
    /// The key above it, which never changes.
    parent: Option<Arc<Account<C>>>,
}

/// Limits that change while workers look at them; each by itself, so a request may be held under some old
/// and some new ones. Its last look tells that they changed (rule Q8).
struct LiveLimits {
    daily: AtomicU64,
    lifetime: AtomicU64,
    requests: AtomicU64,
}

/// No limit. Caps have 55 bits, budgets 32.
const NO_LIMIT: u64 = u64::MAX;

impl LiveLimits {
    fn new(limits: Limits) -> LiveLimits {
        let live = LiveLimits {
            daily: AtomicU64::new(NO_LIMIT),
            lifetime: AtomicU64::new(NO_LIMIT),
            requests: AtomicU64::new(NO_LIMIT),
        };
        live.set(limits);
        live
    }

    fn set(&self, limits: Limits) {
        let cap = |cap: Option<Micros>| cap.map_or(NO_LIMIT, Micros::as_u64);
        self.daily.store(cap(limits.daily), Ordering::Release);
        self.lifetime.store(cap(limits.lifetime), Ordering::Release);
        self.requests.store(limits.requests.map_or(NO_LIMIT, u64::from), Ordering::Release);
    }

    fn get(&self) -> Limits {
        // What is no amount is no limit: `Micros::new` refuses it.
        let cap = |live: &AtomicU64| Micros::new(live.load(Ordering::Acquire));
        Limits {
            daily: cap(&self.daily),
            lifetime: cap(&self.lifetime),
            requests: u32::try_from(self.requests.load(Ordering::Acquire)).ok(),
        }
    }
}

impl<C: Cell> Account<C> {
    /// An account as of the last run.
    pub(crate) fn new(
        key: KeyId,
        opening: Opening,
        limits: Limits,
        parent: Option<Arc<Account<C>>>,
    ) -> Account<C> {
        let cell = |limit| C::new(opening.word(limit).pack());
        Account {
            daily: cell(Limit::Daily),
            lifetime: Some(cell(Limit::Lifetime)),
            requests: Some(cell(Limit::Requests)),
            limits: LiveLimits::new(limits),
            key,
            parent,
        }
    }

    /// The same without the words that `limits` do not need, for those who explore every order of steps.
    #[cfg(test)]
    pub(crate) fn with_needed_words(
        key: KeyId,
        opening: Opening,
        limits: Limits,
        parent: Option<Arc<Account<C>>>,
    ) -> Account<C> {
        let account = Account::new(key, opening, limits, parent);
        Account {
            lifetime: account.lifetime.filter(|_| limits.need(Limit::Lifetime)),
            requests: account.requests.filter(|_| limits.need(Limit::Requests)),
            ..account
        }
    }

    /// From now on it has these limits. What is held stays held, and may be more than they allow.
    pub(crate) fn set_limits(&self, limits: Limits) {
        self.limits.set(limits);
    }

    /// The daily word at this moment.
    pub(crate) fn word(&self) -> Word {
        Word::unpack(self.daily.load())
    }

    /// What the key has committed in its life; `None` where it has no total cap.
    pub(crate) fn total_committed(&self) -> Option<Micros> {
        self.limits.get().lifetime?;
        self.load(Limit::Lifetime).map(|word| word.committed)
    }

    /// The requests counted on `today`, those under way included; `None` where there is no budget.
    pub(crate) fn requests(&self, today: Day) -> Option<u64> {
        self.limits.get().requests?;
        self.load(Limit::Requests).map(|word| word.on(today).committed.as_u64())
    }

    /// The key and those above it, leaf first.
    pub(crate) fn keys(&self) -> Vec<KeyId> {
        chain::levels(self).map(|level| level.key).collect()
    }

    /// Whether the key, or one above it, has a cap in USD: then its calls must have a price.
    pub(crate) fn has_usd_cap(&self) -> bool {
        chain::levels(self)
            .map(Level::limits)
            .any(|limits| limits.daily.is_some() || limits.lifetime.is_some())
    }

    /// Whether the key, or one above it, has a cap in USD of which nothing is left on `today`.
    pub(crate) fn is_spent(&self, today: Day) -> bool {
        chain::levels(self).any(|level| {
            let limits = level.limits();
            let is_daily_spent = level.word().left(today, limits.daily) == Some(Micros::ZERO);
            let total = limits.lifetime.zip(level.load(Limit::Lifetime));
            is_daily_spent || total.is_some_and(|(cap, word)| word.committed >= cap)
        })
    }

    /// Keeps `quote` and one request aside on the key and on every key above it, all on the one day
    /// it answers: the latest of `today` and of the words' days.
    pub(crate) fn reserve(&self, today: Day, quote: Micros) -> Result<Day, Refusal> {
        chain::reserve(self, today, quote)
    }

    /// Keeps `quote` and one request aside that another process has admitted, above the caps too.
    pub(crate) fn carry(&self, day: Day, quote: Micros) {
        chain::carry(self, day, quote);
    }

    /// Replaces a hold of `quote` by `charge` on the later of `today` and each word's day: what the
    /// vendor accepted after midnight counts on the new day too (rule M9). `booked` is told every
    /// key of the chain and its day, this one first.
    pub(crate) fn settle(
        &self,
        today: Day,
        quote: Micros,
        charge: Micros,
        sent: Sent,
        booked: impl FnMut(KeyId, Day),
    ) {
        chain::settle(self, today, quote, charge, sent, booked);
    }

    /// Leaves a hold as it is, for a request that was sent and whose outcome is not known.
    pub(crate) fn doubt(&self, today: Day, booked: impl FnMut(KeyId, Day)) {
        chain::doubt(self, today, booked);
    }

    /// Settles what was left by [`Account::doubt`].
    pub(crate) fn resolve(&self, today: Day, quote: Micros, charge: Micros, booked: impl FnMut(KeyId, Day)) {
        chain::resolve(self, today, quote, charge, booked);
    }

    /// Takes `amount` back, which was booked on `day`: in the window only while that day lasts, and
    /// for the key's life (rule Q1).
    pub(crate) fn void(&self, amount: Micros, day: Day) {
        chain::void(self, amount, |_| Some(day));
    }

    /// From here on no reserve succeeds on any core, on this key or below it.
    pub(crate) fn close(&self) {
        chain::close(self);
    }

    /// Whether the key, or one above it, is closed.
    pub(crate) fn is_closed(&self) -> bool {
        chain::is_closed(self)
    }

    fn cell(&self, limit: Limit) -> Option<&C> {
        match limit {
            Limit::Daily => Some(&self.daily),
            Limit::Lifetime => self.lifetime.as_ref(),
            Limit::Requests => self.requests.as_ref(),
        }
    }
}

impl<C: Cell> Level for Account<C> {
    fn key(&self) -> KeyId {
        self.key
    }

    fn parent(&self) -> Option<&Account<C>> {
        self.parent.as_deref()
    }

    fn limits(&self) -> Limits {
        self.limits.get()
    }

    fn has(&self, limit: Limit) -> bool {
        self.cell(limit).is_some()
    }

    fn load(&self, limit: Limit) -> Option<Word> {
        self.cell(limit).map(|cell| Word::unpack(cell.load()))
    }

    fn update<E>(&self, limit: Limit, next: impl Fn(Word) -> Result<Word, E>) -> Option<Result<Word, E>> {
        let cell = self.cell(limit)?;
        let mut bits = cell.load();
        loop {
            let word = match next(Word::unpack(bits)) {
                Ok(word) => word,
                Err(error) => return Some(Err(error)),
            };
            match cell.compare_exchange(bits, word.pack()) {
                Ok(_) => return Some(Ok(word)),
                Err(now) => bits = now,
            }
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
