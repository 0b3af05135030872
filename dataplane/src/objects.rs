//! What vault keys counted for the vendor's objects, and which objects a call is acting on.
//!
//! A later call on an object may arrive on another shard, so all of them share this, behind locks that are held for a
//! look-up only, and by nobody whose call has no object. It is bounded; what was evicted reserves anew (rule Q17).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use keybrake_proto::catalog::amount::{Counted, ObjectId};
use keybrake_proto::idempotency::Identity;
use keybrake_proto::journal::IntentId;
use keybrake_proto::key::KeyId;

/// Objects that are remembered for a vault key, here and in the store. The oldest is evicted.
const OBJECTS_PER_KEY_MAX: usize = 4096;

/// What keys counted for objects.
#[derive(Debug, Default)]
pub(crate) struct Table {
    keys: HashMap<KeyId, OfKey>,
}

#[derive(Debug, Default)]
struct OfKey {
    counted: HashMap<ObjectId, Counted>,
    /// Oldest first.
    order: VecDeque<ObjectId>,
}

impl Table {
    /// What an object counted for a key.
    pub(crate) fn counted(&self, key: KeyId, object: &ObjectId) -> Option<Counted> {
        self.keys.get(&key)?.counted.get(object).copied()
    }

    /// Notes what it counts now; gives the object that is forgotten for it.
    pub(crate) fn put(&mut self, key: KeyId, object: ObjectId, counted: Counted) -> Option<ObjectId> {
        let OfKey { counted: of_key, order } = self.keys.entry(key).or_default();
        if of_key.insert(object.clone(), counted).is_some() {
            return None;
        }
        order.push_back(object);
        let evicted = order.pop_front_if(|_| of_key.len() > OBJECTS_PER_KEY_MAX)?;
        of_key.remove(&evicted);
        Some(evicted)
    }

    /// All of it.
    pub(crate) fn all(&self) -> impl Iterator<Item = (KeyId, &ObjectId, Counted)> {
        self.keys.iter().flat_map(|(key, of_key)| {
            let counted = |object| of_key.counted.get(object).map(|counted| (*key, object, *counted));
            of_key.order.iter().filter_map(counted)
        })
    }
}

/// Which object of which vendor.
type Place = (usize, ObjectId);

/// Who acts on an object, and in how many exchanges: repeats of one request may run side by side.
#[derive(Debug)]
struct Actor {
    /// The vault key and what makes a request of it the same.
    request: Option<(KeyId, Identity)>,
    exchanges: u32,
    /// Those of them that have an intent.
    intents: Vec<IntentId>,
}

/// An exchange that acts on an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acts {
    pub(crate) intent: IntentId,
    /// The number of the vendor.
    pub(crate) vendor: usize,
    pub(crate) object: ObjectId,
    /// Which request may be repeated meanwhile.
    pub(crate) request: Option<(KeyId, Identity)>,
}

/// What all shards know of objects.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    table: Mutex<Table>,
    acting: Mutex<HashMap<Place, Actor>>,
}

/// An object that a call acts on: until this is dropped no other call acts on it (rule Q8).
#[derive(Debug)]
pub(crate) struct Claim {
    objects: Arc<Objects>,
    place: Place,
    intent: Option<IntentId>,
}

/// Another call acts on the object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy;

impl Objects {
    /// What the store had.
    pub(crate) fn new(table: Table) -> Objects {
        Objects { table: Mutex::new(table), acting: Mutex::default() }
    }

    /// What an object counted for a key.
    pub(crate) fn counted(&self, key: KeyId, object: &ObjectId) -> Option<Counted> {
        lock(&self.table).counted(key, object)
    }

    /// Notes what it counts now.
    pub(crate) fn put(&self, key: KeyId, object: ObjectId, counted: Counted) {
        lock(&self.table).put(key, object, counted);
    }

    /// Claims an object of the vendor with number `vendor`; `request` says which one may be repeated.
    pub(crate) fn claim(
        self: &Arc<Self>,
        vendor: usize,
        object: ObjectId,
        request: Option<(KeyId, Identity)>,
    ) -> Result<Claim, Busy> {
        let place = (vendor, object);
        let mut acting = lock(&self.acting);
        match acting.get_mut(&place) {
            Some(actor) if request.is_some() && actor.request == request => {
                actor.exchanges = actor.exchanges.saturating_add(1);
            }
            Some(_) => return Err(Busy),
            None => {
                acting.insert(place.clone(), Actor { request, exchanges: 1, intents: Vec::new() });
            }
        }
        drop(acting);
        Ok(Claim { objects: Arc::clone(self), place, intent: None })
    }

    /// All exchanges that act on an object, for a process that takes over.
    pub(crate) fn acting(&self) -> Vec<Acts> {
        let mut all = Vec::new();
        for ((vendor, object), actor) in lock(&self.acting).iter() {
            let acts = |intent: &IntentId| Acts {
                intent: *intent,
                vendor: *vendor,
                object: object.clone(),
                request: actor.request,
            };
            all.extend(actor.intents.iter().map(acts));
        }
        all
    }
}

impl Claim {
    /// The call that has claimed it is this exchange.
    pub(crate) fn is_of(&mut self, intent: IntentId) {
        if let Some(actor) = lock(&self.objects.acting).get_mut(&self.place) {
            actor.intents.push(intent);
            self.intent = Some(intent);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut acting = lock(&self.objects.acting);
        let Some(actor) = acting.get_mut(&self.place) else { return };
        actor.exchanges = actor.exchanges.saturating_sub(1);
        actor.intents.retain(|intent| Some(*intent) != self.intent);
        if actor.exchanges == 0 {
            acting.remove(&self.place);
        }
    }
}

/// Nothing panics while it is held; if something did, what is behind it is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use keybrake_proto::catalog::currency::Currency;

    use super::*;

    fn key() -> KeyId {
        KeyId::from_bytes(b"0123456789abcdef").unwrap()
    }

    fn object(number: usize) -> ObjectId {
        ObjectId::parse(&format!("pi_{number}")).unwrap()
    }

    fn cents(minor: u64) -> Counted {
        Counted { minor, currency: Currency::USD }
    }

    #[test]
    fn q8_one_call_at_a_time_acts_on_an_object_but_repeats_of_one_request_may() {
        let objects = Arc::new(Objects::default());
        let claim = |request| objects.claim(0, object(1), request);
        let request = |number| Some((key(), Identity([number; 16])));
        let first = claim(request(1)).unwrap();
        assert_eq!(claim(None).unwrap_err(), Busy);
        assert_eq!(claim(request(2)).unwrap_err(), Busy);
        let other_key = KeyId::from_bytes(b"fedcba9876543210").unwrap();
        assert_eq!(claim(Some((other_key, Identity([1; 16])))).unwrap_err(), Busy, "of another key");
        let repeat = claim(request(1)).unwrap();
        assert!(objects.claim(1, object(1), None).is_ok(), "of another vendor");
        drop(first);
        assert_eq!(claim(None).unwrap_err(), Busy);
        drop(repeat);
        let alone = claim(None).unwrap();
        assert_eq!(claim(None).unwrap_err(), Busy, "without a key of its own no call is a repeat");
        drop(alone);
    }

    #[test]
    fn q23_the_exchanges_that_act_on_objects_are_listed_until_they_end() {
        let objects = Arc::new(Objects::default());
        let request = Some((key(), Identity([1; 16])));
        let claim = |number, request| objects.claim(2, object(number), request).unwrap();
        let (mut first, mut repeat, mut other) = (claim(1, request), claim(1, request), claim(3, None));
        assert_eq!(objects.acting(), [], "none is sent yet");
        first.is_of(IntentId::new(0, 1));
        repeat.is_of(IntentId::new(1, 1));
        other.is_of(IntentId::new(0, 2));
        let acts = |shard, number, of, request| Acts {
            intent: IntentId::new(shard, number),
            vendor: 2,
            object: object(of),
            request,
        };
        let mut all = objects.acting();
        all.sort_by_key(|acts| acts.intent.as_u64());
        assert_eq!(all, [acts(0, 1, 1, request), acts(0, 2, 3, None), acts(1, 1, 1, request)]);
        drop((first, other));
        assert_eq!(objects.acting(), [acts(1, 1, 1, request)]);
    }

    #[test]
    fn q17_the_oldest_object_of_a_key_is_forgotten() {
        let mut table = Table::default();
        for number in 0..OBJECTS_PER_KEY_MAX {
            assert_eq!(table.put(key(), object(number), cents(1)), None);
        }
        assert_eq!(table.put(key(), object(0), cents(7)), None, "known already");
        assert_eq!(table.counted(key(), &object(0)), Some(cents(7)));
        assert_eq!(table.put(key(), object(OBJECTS_PER_KEY_MAX), cents(1)), Some(object(0)));
        assert_eq!(table.counted(key(), &object(0)), None);
        assert_eq!(table.all().count(), OBJECTS_PER_KEY_MAX);
    }
}
