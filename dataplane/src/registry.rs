//! The keys a shard knows.

mod places;

use std::collections::BTreeMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use keybrake_proto::catalog::Call;
use keybrake_proto::catalog::price::Bound;
use keybrake_proto::deny::Deny;
use keybrake_proto::key::{KeyDigest, KeyId};
use keybrake_proto::ledger::chain::Opening;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::{Permit, Policy, Restrictions};
use keybrake_proto::time::UnixMicros;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::tokens::KeyRate;
pub(crate) use places::KeyPlace;

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
    /// The key above it; it never changes.
    #[serde(default)]
    pub(crate) parent: Option<KeyId>,
    /// Counts its changes.
    #[serde(default)]
    pub(crate) version: u32,
    pub(crate) revoked_at: Option<UnixMicros>,
}

/// A key in force, shared by all shards.
pub(crate) struct KeyEntry {
    pub(crate) id: KeyId,
    pub(crate) digest: KeyDigest,
    /// Which of the vendor's accounts it acts on; that never changes.
    pub(crate) vendor_account: String,
    /// The key above it.
    pub(crate) parent: Option<Arc<KeyEntry>>,
    /// As issued or last changed; `revoked_at` in it is of the time it was loaded.
    record: ArcSwap<KeyRecord>,
    /// From this instant on it admits nothing, in microseconds; `u64::MAX` is never.
    expires_at: AtomicU64,
    /// Counts its changes since it was loaded.
    changes: AtomicU64,
    /// Its money.
    pub(crate) account: Arc<Account>,
    /// Its pace, and that of the keys above it.
    pub(crate) rate: Arc<KeyRate>,
    /// Requests under it, and under the keys below it, that run now.
    running: AtomicU64,
    /// When it was revoked, in microseconds; 0 is not.
    revoked_at: AtomicU64,
    /// What it has in doubt, in micro-USD; part of what is held.
    in_doubt: AtomicU64,
    /// Whether that is on disk.
    revoke_is_durable: AtomicBool,
}

/// Which policy a decision was made by. Two that are equal are of one policy, of the key and of all above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u64);

impl KeyEntry {
    /// The key with the money of the last run, below `parent`, whose id is in the record.
    pub(crate) fn new(
        record: KeyRecord,
        opening: Opening,
        in_doubt: Micros,
        parent: Option<Arc<KeyEntry>>,
    ) -> KeyEntry {
        let above = parent.as_ref().map(|parent| Arc::clone(&parent.account));
        let rate_above = parent.as_ref().map(|parent| Arc::clone(&parent.rate));
        let entry = KeyEntry {
            id: record.id,
            digest: record.digest,
            vendor_account: record.policy.account.clone(),
            expires_at: AtomicU64::new(expiry(&record)),
            changes: AtomicU64::new(0),
            account: Arc::new(Account::new(record.id, opening, record.policy.limits(), above)),
            rate: Arc::new(KeyRate::new(record.policy.restrictions.rate_limit_rps, rate_above)),
            running: AtomicU64::new(0),
            revoked_at: AtomicU64::new(record.revoked_at.map_or(0, |at| at.0)),
            revoke_is_durable: AtomicBool::new(record.revoked_at.is_some()),
            in_doubt: AtomicU64::new(in_doubt.as_u64()),
            record: ArcSwap::from_pointee(record),
            parent,
        };
        if entry.revoked_at().is_some() {
            entry.account.close();
        }
        entry
    }

    /// Its record as of now. What is read of one is of one version.
    pub(crate) fn record(&self) -> Arc<KeyRecord> {
        self.record.load_full()
    }

    /// The key and those above it, leaf first.
    pub(crate) fn chain(&self) -> impl Iterator<Item = &KeyEntry> {
        iter::successors(Some(self), |entry| entry.parent.as_deref())
    }

    /// The key at the top of its chain.
    pub(crate) fn root(&self) -> KeyId {
        self.chain().last().map_or(self.id, |root| root.id)
    }

    /// Which policy holds now. Read before anything of that policy, and compared behind it (rule Q8): what changes
    /// in between, of this key or of one above it, changes the sum.
    pub(crate) fn epoch(&self) -> Epoch {
        let changes = self.chain().map(|entry| entry.changes.load(Ordering::Acquire));
        Epoch(changes.fold(0, u64::wrapping_add))
    }

    /// Gives it another record, of the same key. One change at a time: the caller sees to that.
    pub(crate) fn change(&self, record: KeyRecord) {
        self.account.set_limits(record.policy.limits());
        self.rate.set(record.policy.restrictions.rate_limit_rps);
        self.expires_at.store(expiry(&record), Ordering::Release);
        self.record.store(Arc::new(record));
        // Last: whoever sees the new number sees the new policy.
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Allows `call` if this key does and every key above it: one of those may have been narrowed since this one
    /// was issued (rule M11). Else the key that does not.
    pub(crate) fn permit(&self, call: &Call<'_>) -> Result<Permit, (Deny, Arc<KeyRecord>)> {
        let mut permit = None;
        for entry in self.chain() {
            let record = entry.record.load();
            match record.policy.permit(call) {
                Ok(permitted) => permit = Some(permitted),
                Err(deny) => return Err((deny, Arc::clone(&record))),
            }
        }
        permit.ok_or_else(|| (Deny::Unauthorized, self.record()))
    }

    /// Allows what a request names and holds if this key does and every key above it; else the key that does not.
    pub(crate) fn allow(
        &self,
        judge: impl Fn(&Restrictions) -> Result<(), Deny>,
    ) -> Result<(), (Deny, Arc<KeyRecord>)> {
        for entry in self.chain() {
            let record = entry.record.load();
            judge(&record.policy.restrictions).map_err(|deny| (deny, Arc::clone(&record)))?;
        }
        Ok(())
    }

    /// What a call without a known price is held at; `None`: there is no such call.
    ///
    /// A bound makes such calls possible, so that of a key is worth nothing to the keys above it: the highest key that
    /// bounds or caps money decides, and a cap without a bound refuses. A holder who issues below its key would else
    /// give itself a price, and a low one (rule M11).
    pub(crate) fn unpriced_hold(&self) -> Option<Micros> {
        let mut hold = None;
        for entry in self.chain() {
            let record = entry.record.load();
            let policy = &record.policy;
            let is_capped = policy.daily_usd_cap.is_some() || policy.total_usd_cap.is_some();
            match policy.restrictions.max_usd_per_call {
                Some(most) => hold = Some(most),
                None if is_capped => hold = None,
                None => {}
            }
        }
        // Nothing would count at nothing.
        hold.filter(|most| *most > Micros::ZERO)
    }

    /// The most one call may cost, of this key and of all above it.
    pub(crate) fn max_usd_per_call(&self) -> Option<Micros> {
        self.chain().filter_map(|entry| entry.record.load().policy.restrictions.max_usd_per_call).min()
    }

    /// Closes the account; an error is when it had been revoked before. Keys below it are closed by that too, and are
    /// revoked by themselves so that it stands in their records.
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
        let revoked_at = self.revoked_at().filter(|_| self.owes_revoke())?;
        Some(KeyRecord { revoked_at: Some(revoked_at), ..(*self.record()).clone() })
    }

    /// Whether it was revoked, and that is not known to be on disk.
    pub(crate) fn owes_revoke(&self) -> bool {
        self.revoked_at().is_some() && !self.revoke_is_durable.load(Ordering::Acquire)
    }

    /// When it was revoked.
    pub(crate) fn revoked_at(&self) -> Option<UnixMicros> {
        Some(self.revoked_at.load(Ordering::Acquire)).filter(|at| *at != 0).map(UnixMicros)
    }

    /// What it has in doubt: sent, and not known how it ended (rule Q1).
    pub(crate) fn in_doubt(&self) -> Micros {
        Micros::new(self.in_doubt.load(Ordering::Relaxed)).unwrap_or(Micros::MAX)
    }

    /// An exchange that held `quote`, on this key and all above it, is in doubt.
    pub(crate) fn add_doubt(&self, quote: Micros) {
        for entry in self.chain() {
            entry.in_doubt.fetch_add(quote.as_u64(), Ordering::Relaxed);
        }
    }

    /// What one that held `quote` came to is known.
    pub(crate) fn end_doubt(&self, quote: Micros) {
        for entry in self.chain() {
            entry.in_doubt.fetch_sub(quote.as_u64(), Ordering::Relaxed);
        }
    }

    /// Whether it admits anything at `now`: it is open, and so is every key above it. An expiry that was once
    /// seen stays: the account is closed, so no later look at a clock that was set back opens it (rule Q10).
    pub(crate) fn is_open(&self, now: UnixMicros) -> bool {
        for entry in self.chain() {
            if entry.expires_at.load(Ordering::Acquire) <= now.0 {
                entry.account.close();
            }
        }
        !self.account.is_closed()
    }

    /// Whether calls must have a price.
    pub(crate) fn bound(&self) -> Bound {
        let is_bounded = self.account.has_usd_cap() || self.max_usd_per_call().is_some();
        if is_bounded { Bound::Capped } else { Bound::Uncapped }
    }
}

fn expiry(record: &KeyRecord) -> u64 {
    record.policy.expires_at.map_or(u64::MAX, |at| at.0)
}

/// A shard's keys by digest. Revoked keys stay, closed, so that their denials name them.
#[derive(Default)]
pub(crate) struct Registry {
    keys: hashbrown::HashMap<KeyDigest, Arc<KeyEntry>, BuildHasherDefault<DigestHasher>>,
}

impl Registry {
    /// Adds a key.
    pub(crate) fn insert(&mut self, entry: Arc<KeyEntry>) {
        self.keys.insert(entry.digest, entry);
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
