//! A request on its chain: the words of its key and of every key above it, leaf first.
//!
//! A request draws on all of them or on none (rules Q3, Q4). The algorithm is here and knows nothing
//! of threads: it asks a [`Level`] to load a word and to replace one atomically, so that the same
//! lines run over atomic words in the dataplane, over plain ones in tests, and under a model checker.
//! No step waits for another thread.

use std::convert::Infallible;
use std::iter;

use serde::{Deserialize, Serialize};

use super::{Refused, Word};
use crate::key::KeyId;
use crate::money::Micros;
use crate::time::Day;

/// The unit of a request budget's word.
const ONE_REQUEST: Micros = match Micros::new(1) {
    Some(one) => one,
    None => Micros::ZERO,
};

/// Which of a key's words. Where several are full, the first one is named: waiting for a new day
/// does not help against a lifetime cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `total_usd_cap`: a word whose day never moves.
    Lifetime,
    /// `daily_usd_cap`. Every key has this word, with or without a cap; it also holds the closed bit.
    Daily,
    /// `daily_request_budget`: a daily word that counts requests in place of micro-USD.
    Requests,
}

impl Limit {
    /// In the order in which they are taken.
    pub const ALL: [Limit; 3] = [Limit::Lifetime, Limit::Daily, Limit::Requests];

    /// `word` with a request of `quote` held on `day`.
    fn reserve(self, word: Word, day: Day, quote: Micros, cap: Option<Micros>) -> Result<Word, Refused> {
        match self {
            Limit::Lifetime => word.reserve(word.day, quote, cap),
            Limit::Daily => word.reserve(day, quote, cap),
            Limit::Requests => word.reserve(day, ONE_REQUEST, cap),
        }
    }

    /// `word` without that hold. Right also when the day began meanwhile: what was held was carried.
    fn undo(self, word: Word, quote: Micros) -> Word {
        match self {
            Limit::Lifetime | Limit::Daily => word.release(quote),
            Limit::Requests => word.release(ONE_REQUEST),
        }
    }
}

/// A key's limits; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// The most it may commit per UTC day.
    pub daily: Option<Micros>,
    /// The most it may ever commit.
    pub lifetime: Option<Micros>,
    /// The most requests it may send per UTC day.
    pub requests: Option<u32>,
}

impl Limits {
    /// The limit in its word's unit.
    fn cap(&self, limit: Limit) -> Option<Micros> {
        match limit {
            Limit::Lifetime => self.lifetime,
            Limit::Daily => self.daily,
            Limit::Requests => self.requests.and_then(|requests| Micros::new(u64::from(requests))),
        }
    }

    /// Whether a key with these limits, which never change, needs the word.
    pub fn need(&self, limit: Limit) -> bool {
        limit == Limit::Daily || self.cap(limit).is_some()
    }
}

/// What a key's words are at a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The daily word. What it holds, it holds on the other words too.
    pub word: Word,
    /// Committed in the key's whole life, `word.held` included.
    pub lifetime: Micros,
    /// Requests counted on `word.day`.
    pub requests: u32,
}

impl Opening {
    /// A key that has not spent anything.
    pub fn new(day: Day) -> Opening {
        Opening { word: Word::open(day), lifetime: Micros::ZERO, requests: 0 }
    }

    /// One of the words.
    pub fn word(&self, limit: Limit) -> Word {
        match limit {
            Limit::Daily => self.word,
            Limit::Lifetime => {
                Word { held: self.word.held, committed: self.lifetime, ..Word::open(Day::default()) }
            }
            Limit::Requests => {
                let counted = Micros::new(u64::from(self.requests)).unwrap_or(Micros::MAX);
                Word { committed: counted, ..Word::open(self.word.day) }
            }
        }
    }
}

/// One key's words.
pub trait Level: Sized {
    /// Whose they are.
    fn key(&self) -> KeyId;

    /// The key above it. It never changes.
    fn parent(&self) -> Option<&Self>;

    /// Its limits, at this moment.
    fn limits(&self) -> Limits;

    /// Whether it has the word. That never changes: a limit can be set later only where its word was counted all
    /// the time.
    fn has(&self, limit: Limit) -> bool;

    /// The word at this moment; `None` where the key has none.
    fn load(&self, limit: Limit) -> Option<Word>;

    /// Replaces the word by `next` of it, atomically, and answers the new one; on an error the word
    /// stays. `next` may be asked more than once. `None` where the key has none.
    fn update<E>(&self, limit: Limit, next: impl Fn(Word) -> Result<Word, E>) -> Option<Result<Word, E>>;
}

/// Why a request was not held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The key or one above it is closed: revoked or expired.
    Closed,
    /// It does not fit under this limit.
    Over(Over),
}

/// A limit that a request did not fit under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// Whose limit.
    pub key: KeyId,
    /// Which one.
    pub limit: Limit,
    /// The limit, in its word's unit.
    pub cap: Micros,
    /// What would have fit.
    pub left: Micros,
    /// The day of the chain; says nothing of a lifetime cap.
    pub day: Day,
}

/// Whether a request that ends was sent: then it counts against the request budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sent {
    /// The vendor may have seen it.
    Yes,
    /// Not a byte of it was sent.
    No,
}

/// Why one try at a chain was undone.
enum Stop {
    /// A word is on a later day than the chain.
    Later,
    Refused(Refusal),
}

impl Stop {
    fn new(refused: Refused, level: &impl Level, limit: Limit, day: Day) -> Stop {
        match refused {
            Refused::Closed => Stop::Refused(Refusal::Closed),
            Refused::Later(_) => Stop::Later,
            Refused::Full { left } => {
                let cap = level.limits().cap(limit).unwrap_or(Micros::MAX);
                Stop::Refused(Refusal::Over(Over { key: level.key(), limit, cap, left, day }))
            }
        }
    }
}

/// The levels of a chain, leaf first.
pub fn levels<L: Level>(leaf: &L) -> impl Iterator<Item = &L> {
    iter::successors(Some(leaf), |level| level.parent())
}

/// Every word of a chain, in the order in which they are taken.
fn words<L: Level>(leaf: &L) -> impl Iterator<Item = (&L, Limit)> {
    levels(leaf).flat_map(|level| {
        Limit::ALL.into_iter().filter(|limit| level.has(*limit)).map(move |limit| (level, limit))
    })
}

/// Whether the key, or one above it, is closed.
pub fn is_closed(leaf: &impl Level) -> bool {
    levels(leaf).any(|level| level.load(Limit::Daily).is_some_and(|word| word.closed))
}

/// Keeps `quote` and one request aside on every word of the chain, or on none; answers the one day
/// on which it is held everywhere: the latest of `today` and of every word's day (rule Q3).
///
/// What one thread has taken and is about to undo looks like spend to another, so a
/// refusal counts only when it comes twice (rule Q4). A look at all words before one is taken keeps
/// such moments rare.
pub fn reserve(leaf: &impl Level, today: Day, quote: Micros) -> Result<Day, Refusal> {
    let mut is_final = false;
    loop {
        match look_and_take(leaf, today, quote) {
            Ok(day) => return Ok(day),
            // A word has moved on since the look, so the next try is on a later day: this ends.
            Err(Stop::Later) => {}
            Err(Stop::Refused(refusal)) if is_final || refusal == Refusal::Closed => return Err(refusal),
            Err(Stop::Refused(_)) => is_final = true,
        }
    }
}

/// Keeps aside what another process has admitted: `quote` and one request on every word, held since
/// `day`, above the caps too and on closed keys. It ends as any other hold.
pub fn carry(leaf: &impl Level, day: Day, quote: Micros) {
    for (level, limit) in words(leaf) {
        always(level, limit, |word| match limit {
            Limit::Lifetime => word.carry(quote),
            Limit::Daily => word.on(day).carry(quote),
            Limit::Requests => word.on(day).carry(ONE_REQUEST),
        });
    }
}

fn look_and_take(leaf: &impl Level, today: Day, quote: Micros) -> Result<Day, Stop> {
    let day = look(leaf, today)?;
    fits(leaf, day, quote)?;
    take(leaf, day, quote)?;
    Ok(day)
}

/// The day of the chain, by a look at every word.
fn look(leaf: &impl Level, today: Day) -> Result<Day, Stop> {
    let mut day = today;
    for (level, limit) in words(leaf) {
        let Some(word) = level.load(limit) else { continue };
        if word.closed {
            return Err(Stop::Refused(Refusal::Closed));
        }
        if limit != Limit::Lifetime {
            day = day.max(word.day);
        }
    }
    Ok(day)
}

/// Whether every word would take the quote, before one does.
fn fits(leaf: &impl Level, day: Day, quote: Micros) -> Result<(), Stop> {
    for (level, limit) in words(leaf) {
        let Some(word) = level.load(limit) else { continue };
        limit
            .reserve(word, day, quote, level.limits().cap(limit))
            .map_err(|refused| Stop::new(refused, level, limit, day))?;
    }
    Ok(())
}

/// Takes the quote from every word, leaf to root, or undoes what it took.
fn take(leaf: &impl Level, day: Day, quote: Micros) -> Result<(), Stop> {
    for (taken, (level, limit)) in words(leaf).enumerate() {
        let cap = level.limits().cap(limit);
        if let Some(Err(refused)) = level.update(limit, |word| limit.reserve(word, day, quote, cap)) {
            for (level, limit) in words(leaf).take(taken) {
                always(level, limit, |word| limit.undo(word, quote));
            }
            return Err(Stop::new(refused, level, limit, day));
        }
    }
    Ok(())
}

/// Ends a hold of `quote` with what the call did cost, on every word of the chain, each on the later
/// of `today` and its own day. `booked` is told each key and that day, leaf first. A charge above
/// the quote is booked in full.
pub fn settle(
    leaf: &impl Level,
    today: Day,
    quote: Micros,
    charge: Micros,
    sent: Sent,
    booked: impl FnMut(KeyId, Day),
) {
    let requests = if sent == Sent::Yes { ONE_REQUEST } else { Micros::ZERO };
    let end = |limit: Limit, word: Word| match limit {
        Limit::Lifetime => word.settle(quote, charge),
        Limit::Daily => word.on(today).settle(quote, charge),
        Limit::Requests => word.on(today).settle(ONE_REQUEST, requests),
    };
    end_on_each(leaf, end, booked);
}

/// Leaves the quote held, since nobody knows what the call cost, and counts the request as sent.
/// [`resolve`] ends it.
pub fn doubt(leaf: &impl Level, today: Day, booked: impl FnMut(KeyId, Day)) {
    let end = |limit: Limit, word: Word| match limit {
        Limit::Lifetime => word,
        Limit::Daily => word.on(today),
        Limit::Requests => word.on(today).settle(ONE_REQUEST, ONE_REQUEST),
    };
    end_on_each(leaf, end, booked);
}

/// Ends a [`doubt`] over a hold of `quote`. Its request was counted before.
pub fn resolve(leaf: &impl Level, today: Day, quote: Micros, charge: Micros, booked: impl FnMut(KeyId, Day)) {
    let end = |limit: Limit, word: Word| match limit {
        Limit::Lifetime => word.settle(quote, charge),
        Limit::Daily => word.on(today).settle(quote, charge),
        Limit::Requests => word,
    };
    end_on_each(leaf, end, booked);
}

/// Takes back `amount` that was booked: for each key's life, and for the day of the booking, which
/// `booked_on` knows for each key, if that day is not over for its word (rule Q1).
pub fn void(leaf: &impl Level, amount: Micros, booked_on: impl Fn(KeyId) -> Option<Day>) {
    for level in levels(leaf) {
        if let Some(day) = booked_on(level.key()) {
            always(level, Limit::Daily, |word| word.void(day, amount));
        }
        always(level, Limit::Lifetime, |word| word.void(word.day, amount));
    }
}

/// From here on no reserve succeeds on this key or below it.
pub fn close(level: &impl Level) {
    always(level, Limit::Daily, Word::close);
}

fn end_on_each<L: Level>(leaf: &L, end: impl Fn(Limit, Word) -> Word, mut booked: impl FnMut(KeyId, Day)) {
    for (level, limit) in words(leaf) {
        let word = always(level, limit, |word| end(limit, word));
        if let (Limit::Daily, Some(word)) = (limit, word) {
            booked(level.key(), word.day);
        }
    }
}

fn always(level: &impl Level, limit: Limit, next: impl Fn(Word) -> Word) -> Option<Word> {
    level.update(limit, |word| Ok::<_, Infallible>(next(word))).map(|Ok(word)| word)
}

#[cfg(test)]
mod tests;
