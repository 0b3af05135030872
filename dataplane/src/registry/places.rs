//! How many requests run under a key at once (rule G2), over all workers. A request counts for its key and for each
//! key above it, so that whoever issues a thousand keys has no more than one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::KeyEntry;

/// One request under a key; dropped, there is room for another one.
pub(crate) struct KeyPlace(Arc<KeyEntry>);

impl KeyPlace {
    /// A place for one more request, unless `most` run already under the key or under one above it.
    pub(crate) fn take(entry: &Arc<KeyEntry>, most: u64) -> Option<KeyPlace> {
        let mut fits = true;
        for level in entry.chain() {
            fits &= level.running.fetch_add(1, Ordering::Relaxed) < most;
        }
        // One that does not fit gives back what it took.
        Some(KeyPlace(Arc::clone(entry))).filter(|_| fits)
    }
}

impl Drop for KeyPlace {
    fn drop(&mut self) {
        for level in self.0.chain() {
            level.running.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use keybrake_proto::key::{KeyDigest, KeyId};
    use keybrake_proto::ledger::chain::Opening;
    use keybrake_proto::money::Micros;
    use keybrake_proto::policy::Policy;
    use keybrake_proto::time::{Day, UnixMicros};

    use super::*;
    use crate::registry::KeyRecord;

    fn key(id: u8, parent: Option<&Arc<KeyEntry>>) -> Arc<KeyEntry> {
        let policy = Policy {
            vendor: "stripe".to_owned(),
            account: "default".to_owned(),
            allowed_endpoints: vec!["POST /v1/charges".parse().unwrap()],
            daily_usd_cap: None,
            total_usd_cap: None,
            daily_request_budget: None,
            expires_at: None,
            restrictions: Default::default(),
        };
        let record = KeyRecord {
            id: KeyId::from_bytes(&[b'a' + id; 16]).unwrap(),
            digest: KeyDigest([id; 32]),
            policy,
            label: None,
            agent_run_label: None,
            metadata: Default::default(),
            created_at: UnixMicros(0),
            parent: parent.map(|parent| parent.id),
            version: 0,
            revoked_at: None,
        };
        Arc::new(KeyEntry::new(record, Opening::new(Day::default()), Micros::ZERO, parent.cloned()))
    }

    #[test]
    fn g2_m11_requests_of_a_key_count_for_the_keys_above_it_and_a_refusal_takes_nothing() {
        let parent = key(0, None);
        let (one, two) = (key(1, Some(&parent)), key(2, Some(&parent)));
        let take = |key| KeyPlace::take(key, 2);
        let places = (take(&one).unwrap(), take(&two).unwrap());
        assert!(take(&one).is_none() && take(&parent).is_none(), "two run under the parent");
        drop(places.0);
        assert!((0..9).all(|_| take(&one).is_some()), "each is given back at once");
        let _another = take(&two).unwrap();
        assert!(take(&two).is_none());
        drop(places.1);
        assert_eq!(one.running.load(Ordering::Relaxed), 0);
        assert_eq!(parent.running.load(Ordering::Relaxed), 1);
    }
}
