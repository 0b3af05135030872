//! The keys a shard knows.

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keybrake_proto::catalog::price::Bound;
use keybrake_proto::key::{KeyDigest, KeyId};
use keybrake_proto::ledger::chain::Opening;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Policy;
use keybrake_proto::time::UnixMicros;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::tokens::KeyRate;

/// A key as stored: never its text, only the digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRecord {
    pub(crate) id: KeyId,
    pub(crate) digest: KeyDigest,
    pub(crate) policy: Policy,
    pub(crate) label: Option<String>,
    pub(crate) agent_run_label: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) created_at: UnixMicros,
    /// The key it was derived from.
    #[serde(default)]
    pub(crate) parent: Option<KeyId>,
    pub(crate) revoked_at: Option<UnixMicros>,
}

/// A key in force, shared by all shards.
pub(crate) struct KeyEntry {
    /// As issued; `revoked_at` in it is of the time it was loaded.
    pub(crate) record: KeyRecord,
    /// Its money.
    pub(crate) account: Account,
    /// Its pace, and that of the keys above it.
    pub(crate) rate: KeyRate,
    /// When it was revoked, in microseconds; 0 is not.
    revoked_at: AtomicU64,
    /// What it has in doubt, in micro-USD; part of what is held.
    in_doubt: AtomicU64,
    /// Whether that is on disk.
    revoke_is_durable: AtomicBool,
}

impl KeyEntry {
    /// The key with the money of the last run.
    pub(crate) fn new(record: KeyRecord, opening: Opening, in_doubt: Micros) -> KeyEntry {
        let account = Account::new(record.id, opening, record.policy.limits(), None);
        let revoked_at = AtomicU64::new(record.revoked_at.map_or(0, |at| at.0));
        let revoke_is_durable = AtomicBool::new(record.revoked_at.is_some());
        let in_doubt = AtomicU64::new(in_doubt.as_u64());
        let rate = KeyRate::new(record.policy.restrictions.rate_limit_rps, None);
        let entry = KeyEntry { record, account, rate, revoked_at, in_doubt, revoke_is_durable };
        if entry.revoked_at().is_some() {
            entry.account.close();
        }
        entry
    }

    /// Closes the account; an error is when it had been revoked before.
    pub(crate) fn revoke(&self, now: UnixMicros) -> Result<UnixMicros, UnixMicros> {
        self.account.close();
        let first = self.revoked_at.compare_exchange(0, now.0, Ordering::AcqRel, Ordering::Acquire);
        first.map(|_| now).map_err(UnixMicros)
    }

    /// Its revoke is on disk.
    pub(crate) fn revoke_was_stored(&self) {
        self.revoke_is_durable.store(true, Ordering::Release);
    }

    /// The record of its revoke, where that is not known to be on disk.
    pub(crate) fn undurable_revoke(&self) -> Option<KeyRecord> {
        let revoked_at = self.revoked_at()?;
        let is_durable = self.revoke_is_durable.load(Ordering::Acquire);
        (!is_durable).then(|| KeyRecord { revoked_at: Some(revoked_at), ..self.record.clone() })
    }

    /// When it was revoked.
    pub(crate) fn revoked_at(&self) -> Option<UnixMicros> {
        Some(self.revoked_at.load(Ordering::Acquire)).filter(|at| *at != 0).map(UnixMicros)
    }

    /// What it has in doubt: sent, and not known how it ended (rule Q1).
    pub(crate) fn in_doubt(&self) -> Micros {
        Micros::new(self.in_doubt.load(Ordering::Relaxed)).unwrap_or(Micros::MAX)
    }

    /// An exchange that held `quote` is in doubt.
    pub(crate) fn add_doubt(&self, quote: Micros) {
        self.in_doubt.fetch_add(quote.as_u64(), Ordering::Relaxed);
    }

    /// What one that held `quote` came to is known.
    pub(crate) fn end_doubt(&self, quote: Micros) {
        self.in_doubt.fetch_sub(quote.as_u64(), Ordering::Relaxed);
    }

    /// Whether it admits anything at `now`. An expiry that was once seen stays: the account is
    /// closed, so no later look at a clock that was set back opens it (rule Q10).
    pub(crate) fn is_open(&self, now: UnixMicros) -> bool {
        if self.record.policy.has_expired(now) {
            self.account.close();
        }
        !self.account.is_closed()
    }

    /// Whether calls must have a price.
    pub(crate) fn bound(&self) -> Bound {
        let is_bounded = self.record.policy.restrictions.max_usd_per_call.is_some();
        if is_bounded || self.account.has_usd_cap() { Bound::Capped } else { Bound::Uncapped }
    }
}

/// A shard's keys by digest. Revoked keys stay, closed, so that their denials name them.
#[derive(Default)]
pub(crate) struct Registry {
    keys: hashbrown::HashMap<KeyDigest, Arc<KeyEntry>, BuildHasherDefault<DigestHasher>>,
}

impl Registry {
    /// Adds a key.
    pub(crate) fn insert(&mut self, entry: Arc<KeyEntry>) {
        self.keys.insert(entry.record.digest, entry);
    }

    /// The key with this digest.
    pub(crate) fn find(&self, digest: &KeyDigest) -> Option<&Arc<KeyEntry>> {
        self.keys.get(digest)
    }
}

/// A digest is keyed and uniform, so eight bytes of it are a hash nobody can aim at.
#[derive(Default)]
pub(crate) struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// Lengths, which all digests share.
    fn write_usize(&mut self, _: usize) {}
}
