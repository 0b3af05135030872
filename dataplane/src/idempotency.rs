//! Which requests with an Idempotency-Key run, are in doubt or were executed, for each vault key.
//!
//! A repeat may arrive on another shard, so all of them share this memory, behind locks. That is within
//! "nothing blocks a shard" (N3): what is done under a lock is a look-up and the swap of an account's words,
//! well below a microsecond, no I/O and no await, and two requests wait for one another only where their vault keys fall into one of
//! [`BUCKETS`]. Requests without an Idempotency-Key never come here.
//!
//! It decides nothing: [`Entry`] does. It is bounded, and what was evicted reserves anew (rule Q17).

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use keybrake_proto::idempotency::{Ending, Entry, Identity, Joined, Money, ReservationId, Share};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;

/// Requests that are remembered for a vault key, here and in the store; of 23 hours that is one each 20
/// seconds. The oldest that does not run is evicted.
pub(crate) const ENTRIES_PER_KEY_MAX: usize = 4096;

/// Requests of a vault key that are looked at in one look for old ones: each ten minutes, so that all
/// are seen well within a day.
const FORGOTTEN_AT_ONCE: usize = 64;

/// Locks; a power of two.
const BUCKETS: usize = 64;

/// What all shards know of repeats.
#[derive(Debug)]
pub(crate) struct Memory {
    buckets: Box<[Mutex<Bucket>]>,
    /// The number of the last reservation.
    last: AtomicU64,
}

type Bucket = HashMap<KeyId, OfKey>;

#[derive(Debug, Default)]
struct OfKey {
    entries: HashMap<Identity, Entry>,
    /// Oldest first.
    order: BTreeMap<ReservationId, Identity>,
}

/// What an exchange is to hold.
pub(crate) struct Place {
    /// The reservation it is on.
    pub(crate) share: Share,
    /// What it found; `None`: it is the first.
    pub(crate) joined: Option<Joined>,
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::new(ReservationId::default())
    }
}

impl Memory {
    /// A memory whose reservations get numbers above `last`.
    pub(crate) fn new(last: ReservationId) -> Memory {
        let buckets = (0..BUCKETS).map(|_| Mutex::default()).collect();
        Memory { buckets, last: AtomicU64::new(last.0) }
    }

    /// Adds what an earlier run left.
    pub(crate) fn insert(&self, key: KeyId, identity: Identity, entry: Entry) {
        self.bucket(key).entry(key).or_default().insert(identity, entry);
    }

    /// Finds what a request is a repeat of, or makes it the first; `reserve` is told what it has to
    /// keep aside, within the lock, so that nobody joins a reservation that is refused.
    ///
    /// `Ok(None)`: there is no room, and the request is on its own.
    pub(crate) fn join<R, E>(
        &self,
        key: KeyId,
        identity: Identity,
        quote: Micros,
        now: UnixMicros,
        reserve: impl FnOnce(Micros) -> Result<R, E>,
    ) -> Result<Option<(Place, R)>, E> {
        let mut bucket = self.bucket(key);
        let of_key = bucket.entry(key).or_default();
        if let Some(entry) = of_key.entries.get_mut(&identity)
            && let Some(joined) = entry.finds(now)
        {
            let reserved = reserve(Micros::ZERO)?;
            entry.join();
            let share = Share { reservation: entry.reservation(), identity };
            return Ok(Some((Place { share, joined: Some(joined) }, reserved)));
        }
        if !of_key.has_room() {
            return Ok(None);
        }
        let reserved = reserve(quote)?;
        let number = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let share = Share { reservation: ReservationId(number), identity };
        of_key.insert(identity, Entry::first(share.reservation, quote));
        Ok(Some((Place { share, joined: None }, reserved)))
    }

    /// Whether a request would find a reservation at `now`, or an execution that is paid for.
    pub(crate) fn finds(&self, key: KeyId, identity: Identity, now: UnixMicros) -> bool {
        let bucket = self.bucket(key);
        let entry = bucket.get(&key).and_then(|of_key| of_key.entries.get(&identity));
        entry.is_some_and(|entry| entry.finds(now).is_some())
    }

    /// An exchange ended: gives what becomes of its reservation's money.
    pub(crate) fn end(&self, key: KeyId, share: Share, ending: Ending, now: UnixMicros) -> Money {
        let mut bucket = self.bucket(key);
        let entry = bucket.get_mut(&key).and_then(|of_key| of_key.find(share));
        let Some(entry) = entry else {
            // Somebody said that the request never was executed, so this is an execution to pay for.
            return if matches!(ending, Ending::Executed(_)) { Money::Beyond } else { Money::Untouched };
        };
        let money = entry.end(ending, now);
        if matches!(money, Money::Released(_))
            && let Some(of_key) = bucket.get_mut(&key)
        {
            of_key.remove(share);
        }
        money
    }

    /// Somebody else ends the doubt over this reservation: an operator, or the hour that passed. `false`
    /// where a repeat was faster, whose outcome is on its way to the store.
    pub(crate) fn leave_doubt(&self, key: KeyId, share: Share) -> bool {
        let mut bucket = self.bucket(key);
        let Some(of_key) = bucket.get_mut(&key) else { return true };
        match of_key.find(share) {
            Some(entry) if !entry.has_doubt() => false,
            Some(_) => {
                of_key.remove(share);
                true
            }
            None => true,
        }
    }

    /// Drops what the vendors may have forgotten.
    pub(crate) fn forget(&self, now: UnixMicros) {
        for bucket in &self.buckets {
            let keys: Vec<KeyId> = lock(bucket).keys().copied().collect();
            // A lock for each key, so that no shard waits long.
            for key in keys {
                let mut bucket = lock(bucket);
                let Some(of_key) = bucket.get_mut(&key) else { continue };
                of_key.forget(now);
                if of_key.entries.is_empty() {
                    bucket.remove(&key);
                }
            }
        }
    }

    fn bucket(&self, key: KeyId) -> MutexGuard<'_, Bucket> {
        let sum = key
            .as_bytes()
            .iter()
            .fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(*byte)));
        #[expect(clippy::indexing_slicing, reason = "a remainder of their number, which is not zero")]
        lock(&self.buckets[sum % BUCKETS])
    }
}

/// Nothing panics while it is held; if something did, each entry is still whole.
fn lock(bucket: &Mutex<Bucket>) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OfKey {
    fn find(&mut self, share: Share) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(&share.identity)?;
        (entry.reservation() == share.reservation).then_some(entry)
    }

    fn insert(&mut self, identity: Identity, entry: Entry) {
        self.order.insert(entry.reservation(), identity);
        if let Some(before) = self.entries.insert(identity, entry) {
            self.order.remove(&before.reservation());
        }
    }

    fn remove(&mut self, share: Share) {
        self.entries.remove(&share.identity);
        self.order.remove(&share.reservation);
    }

    /// Makes room for one more; not where that many run at this moment.
    fn has_room(&mut self) -> bool {
        if self.entries.len() < ENTRIES_PER_KEY_MAX {
            return true;
        }
        let idle = |identity: &Identity| self.entries.get(identity).is_some_and(|entry| !entry.is_running());
        let oldest = self.order.iter().find(|(_, identity)| idle(identity));
        let Some((reservation, identity)) = oldest.map(|(reservation, identity)| (*reservation, *identity))
        else {
            return false;
        };
        self.remove(Share { reservation, identity });
        true
    }

    fn forget(&mut self, now: UnixMicros) {
        let is_over = |entry: &Entry| !entry.is_running() && entry.is_over(now);
        let over = self.order.iter().take(FORGOTTEN_AT_ONCE);
        let over = over.filter(|(_, identity)| self.entries.get(identity).is_none_or(is_over));
        let over: Vec<Share> = over
            .map(|(reservation, identity)| Share { reservation: *reservation, identity: *identity })
            .collect();
        over.into_iter().for_each(|share| self.remove(share));
    }
}

#[cfg(test)]
mod tests;
