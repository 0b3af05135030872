//! Which reservations were executed: what makes a repeat free after a restart, and what tells a
//! recovery that an exchange on the same reservation is not in doubt.

use std::collections::{HashMap, VecDeque};

use keybrake_proto::idempotency::{Identity, REMEMBERED_S, ReservationId, Share};
use keybrake_proto::journal::IntentId;
use keybrake_proto::key::KeyId;
use keybrake_proto::time::UnixMicros;

use super::batch::{Batch, Family};
use super::books::Books;
use super::format::{encode_remembered, remembered_key};
use crate::idempotency::ENTRIES_PER_KEY_MAX;
use crate::objects::{Objects, Table};

/// One executed request of a vault key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Executed {
    /// The vault key.
    pub(crate) key: KeyId,
    /// The request and its reservation.
    pub(crate) share: Share,
    /// When it was known to be executed.
    pub(crate) at: UnixMicros,
}

/// All of them, as the store has them.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    executed: HashMap<(KeyId, Identity), Executed>,
    reservations: HashMap<ReservationId, (KeyId, Identity)>,
    /// What each key had executed, oldest first. One that was executed anew stands there twice.
    order: HashMap<KeyId, VecDeque<Executed>>,
}

impl Remembered {
    pub(super) fn new(mut stored: Vec<Executed>) -> Remembered {
        stored.sort_by_key(|executed| (executed.at, executed.share.reservation));
        let mut remembered = Remembered::default();
        stored.into_iter().for_each(|executed| remembered.insert(executed));
        remembered
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Executed> {
        self.executed.values()
    }

    /// Whether the vendor is known to have executed a request of this reservation.
    pub(super) fn has(&self, reservation: ReservationId) -> bool {
        self.reservations.contains_key(&reservation)
    }

    /// The executed request of this reservation.
    pub(super) fn find(&self, reservation: ReservationId) -> Option<&Executed> {
        self.executed.get(self.reservations.get(&reservation)?)
    }

    /// Adds one, in the batch of its booking, and forgets the key's oldest beyond the bound (rule Q17).
    pub(super) fn put(&mut self, executed: Executed, batch: &mut Batch) {
        batch.put(
            Family::Idempotency,
            &remembered_key(executed.key, executed.share.identity),
            &encode_remembered(executed),
        );
        self.insert(executed);
        let is_full = |order: &VecDeque<Executed>| order.len() > ENTRIES_PER_KEY_MAX;
        while let Some(oldest) =
            self.order.get_mut(&executed.key).filter(|order| is_full(order)).and_then(VecDeque::pop_front)
        {
            self.drop_one(oldest, batch);
        }
    }

    /// Forgets what the vendors may have forgotten.
    pub(super) fn forget(&mut self, now: UnixMicros, batch: &mut Batch) {
        let is_over = |executed: &mut Executed| executed.at.plus_seconds(REMEMBERED_S) < now;
        let mut over = Vec::new();
        for order in self.order.values_mut() {
            over.extend(std::iter::from_fn(|| order.pop_front_if(is_over)));
        }
        self.order.retain(|_, order| !order.is_empty());
        for executed in over {
            self.drop_one(executed, batch);
        }
    }

    fn insert(&mut self, executed: Executed) {
        let Executed { key, share, .. } = executed;
        if let Some(before) = self.executed.insert((key, share.identity), executed) {
            self.reservations.remove(&before.share.reservation);
        }
        self.reservations.insert(share.reservation, (key, share.identity));
        self.order.entry(key).or_default().push_back(executed);
    }

    /// Not one that was executed again since.
    fn drop_one(&mut self, executed: Executed, batch: &mut Batch) {
        let place = (executed.key, executed.share.identity);
        if self.executed.get(&place) != Some(&executed) {
            return;
        }
        self.executed.remove(&place);
        self.reservations.remove(&executed.share.reservation);
        batch.delete(Family::Idempotency, &remembered_key(place.0, place.1));
    }
}

impl Books {
    /// What the shards are to know of objects, as of these books.
    pub(crate) fn begin_objects(&self) -> Objects {
        let mut table = Table::default();
        for (key, object, counted) in self.objects.all() {
            table.put(key, object.clone(), counted);
        }
        Objects::new(table)
    }

    /// Drops the requests whose repeats are free no longer.
    pub(super) fn forget(&mut self, now: UnixMicros) -> Batch {
        let mut batch = Batch::default();
        self.remembered.forget(now, &mut batch);
        self.memory.forget(now);
        batch
    }

    /// Whether a doubt may end otherwise than by a repeat, which the shards then know (rule Q5).
    pub(super) fn may_resolve(&self, id: IntentId) -> bool {
        let Some(doubt) = self.doubts.get(&id) else { return true };
        match (doubt.keys.first(), doubt.share) {
            (Some(key), Some(share)) => self.memory.leave_doubt(*key, share),
            _ => true,
        }
    }
}
