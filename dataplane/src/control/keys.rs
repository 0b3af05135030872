//! Every key as operators see it: issue, list, show, and the closing of many at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use keybrake_proto::control::{KeyStatus, KeyView, LIST_KEYS_MAX, Reply, Revoke, Selector};
use keybrake_proto::key::{self, KeyDigest, KeyId};
use keybrake_proto::ledger::chain::Opening;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::KeySpec;
use keybrake_proto::time::UnixMicros;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{Control, WAIT, refused};
use crate::clock::{self, Clock};
use crate::registry::{KeyEntry, KeyRecord};
use crate::shard::Message;
use crate::storage::StoreError;

/// Every key ever issued.
pub(crate) struct Keys(RwLock<Table>);

#[derive(Default)]
struct Table {
    by_id: HashMap<KeyId, Arc<KeyEntry>>,
    by_digest: HashMap<KeyDigest, KeyId>,
    /// Oldest first.
    in_order: BTreeMap<(UnixMicros, KeyId), Arc<KeyEntry>>,
    // A revoke closes by these, so that it does not have to look at every key.
    by_label: HashMap<String, Vec<Arc<KeyEntry>>>,
    by_run: HashMap<String, Vec<Arc<KeyEntry>>>,
    by_parent: HashMap<KeyId, Vec<Arc<KeyEntry>>>,
}

/// The keys that a revoke has closed.
#[derive(Default)]
pub(super) struct Closed {
    /// Closed by it.
    pub(super) now: Vec<Arc<KeyEntry>>,
    /// Revoked before.
    pub(super) before: Vec<Arc<KeyEntry>>,
    /// Ids that no key has.
    pub(super) unknown: Vec<KeyId>,
}

impl Closed {
    fn close(&mut self, entry: &Arc<KeyEntry>, now: UnixMicros) {
        let to = if entry.revoke(now).is_ok() { &mut self.now } else { &mut self.before };
        to.push(Arc::clone(entry));
    }

    /// All of them, those that it closed first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Arc<KeyEntry>> {
        self.now.iter().chain(&self.before)
    }
}

impl Keys {
    pub(crate) fn new(entries: &[Arc<KeyEntry>]) -> Keys {
        let mut table = Table::default();
        for entry in entries {
            table.insert(Arc::clone(entry));
        }
        Keys(RwLock::new(table))
    }

    pub(super) fn count(&self) -> usize {
        self.read().by_id.len()
    }

    /// The key with this id.
    pub(super) fn find(&self, id: KeyId) -> Option<Arc<KeyEntry>> {
        self.read().by_id.get(&id).map(Arc::clone)
    }

    pub(super) fn list(&self, clock: &Clock, after: Option<KeyId>, limit: usize) -> Reply {
        let table = self.read();
        let from = match after.map(|id| table.by_id.get(&id).ok_or(id)) {
            None => Bound::Unbounded,
            Some(Ok(entry)) => Bound::Excluded(place(entry)),
            Some(Err(_)) => return no_such_key(),
        };
        let limit = limit.clamp(1, LIST_KEYS_MAX);
        let mut rest = table.in_order.range((from, Bound::Unbounded)).map(|(_, entry)| entry);
        let keys = rest.by_ref().take(limit).map(|entry| view(entry, clock)).collect();
        Reply::Keys { keys, more: rest.next().is_some() }
    }

    pub(super) fn show(&self, clock: &Clock, id: KeyId) -> Reply {
        match self.read().by_id.get(&id) {
            Some(entry) => Reply::Key(Box::new(view(entry, clock))),
            None => no_such_key(),
        }
    }

    pub(super) fn show_self(&self, clock: &Clock, digest: &KeyDigest) -> Reply {
        let table = self.read();
        let entry = table.by_digest.get(digest).and_then(|id| table.by_id.get(id));
        match entry.filter(|entry| entry.is_open(clock.expiry(clock::wall()))) {
            Some(entry) => Reply::Key(Box::new(view(entry, clock))),
            // One answer for unknown, expired and revoked (rule Q25).
            None => refused(401, "invalid_vault_key", None, "this vault key is unknown, expired or revoked"),
        }
    }

    /// Closes every key that `of` names, in one pass: those whose issue was acknowledged before this
    /// was called are all in the table.
    pub(super) fn close(&self, of: &Selector, now: UnixMicros) -> Closed {
        let table = self.read();
        let mut closed = Closed::default();
        match of {
            Selector::Ids(ids) => {
                for id in ids {
                    match table.by_id.get(id) {
                        Some(entry) => closed.close(entry, now),
                        None => closed.unknown.push(*id),
                    }
                }
            }
            Selector::Label(label) => {
                table.by_label.get(label).into_iter().flatten().for_each(|entry| closed.close(entry, now));
            }
            Selector::AgentRunLabel(run) => {
                table.by_run.get(run).into_iter().flatten().for_each(|entry| closed.close(entry, now));
            }
            Selector::Subtree(id) => match table.by_id.get(id) {
                Some(root) => table.close_below(root, now, &mut closed),
                None => closed.unknown.push(*id),
            },
            Selector::Vendor(vendor) => {
                let is_of = |entry: &&Arc<KeyEntry>| entry.record.policy.vendor == *vendor;
                table.in_order.values().filter(is_of).for_each(|entry| closed.close(entry, now));
            }
            Selector::All => table.in_order.values().for_each(|entry| closed.close(entry, now)),
        }
        closed
    }

    /// The revokes in `records` are on disk.
    pub(super) fn revokes_were_stored(&self, records: &[KeyRecord]) {
        let table = self.read();
        let entries = records.iter().filter_map(|record| table.by_id.get(&record.id));
        entries.for_each(|entry| entry.revoke_was_stored());
    }

    fn insert(&self, entry: Arc<KeyEntry>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(entry);
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, entry: Arc<KeyEntry>) {
        let record = &entry.record;
        if let Some(label) = &record.label {
            self.by_label.entry(label.clone()).or_default().push(Arc::clone(&entry));
        }
        if let Some(run) = &record.agent_run_label {
            self.by_run.entry(run.clone()).or_default().push(Arc::clone(&entry));
        }
        if let Some(parent) = record.parent {
            self.by_parent.entry(parent).or_default().push(Arc::clone(&entry));
        }
        self.by_digest.insert(entry.record.digest, entry.record.id);
        self.in_order.insert(place(&entry), Arc::clone(&entry));
        self.by_id.insert(entry.record.id, entry);
    }

    /// Closes `root` and all its descendants, parents first.
    fn close_below(&self, root: &Arc<KeyEntry>, now: UnixMicros, closed: &mut Closed) {
        let mut rest = vec![root];
        // A key has one parent, and it was there before: this is a tree.
        while let Some(entry) = rest.pop() {
            closed.close(entry, now);
            rest.extend(self.by_parent.get(&entry.record.id).into_iter().flatten());
        }
    }
}

impl Control {
    /// Makes a key; answers once it is on disk and every shard knows it (rule Q22).
    pub(super) fn issue(&self, spec: &KeySpec) -> Reply {
        let now = clock::wall();
        let policy = match spec.policy(&self.vendors, now) {
            Ok(policy) => policy,
            Err(error) => return refused(400, "invalid_field", Some(&error.field), error.problem),
        };
        let is_doubtful = !self.clock.is_explained(now) || policy.has_expired(self.clock.expiry(now));
        if policy.expires_at.is_some() && is_doubtful {
            let message = "the key was not issued: the system clock was stepped, so its expiry cannot be counted; \
                           `keybrake clock` says more, `keybrake clock confirm` accepts the clock as it is";
            return refused(503, "clock", None, message);
        }
        let Some((vault_key, id)) = mint() else {
            return refused(503, "no_randomness", None, "the system gives no random bytes; try again");
        };
        let record = KeyRecord {
            id,
            digest: self.digester.digest(vault_key.as_bytes()),
            policy,
            label: spec.label.clone(),
            agent_run_label: spec.agent_run_label.clone(),
            metadata: spec.metadata.clone(),
            created_at: now,
            parent: None,
            revoked_at: None,
        };
        let stored = self.put(std::slice::from_ref(&record), || {});
        match stored.recv_timeout(WAIT.saturating_mul(2)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                return refused(503, "storage_unavailable", None, format!("the key was not issued: {error}"));
            }
            Err(_) => {
                return refused(
                    503,
                    "storage_unavailable",
                    None,
                    "the key was not issued: the disk does not answer",
                );
            }
        }
        let entry = Arc::new(KeyEntry::new(record, Opening::new(self.clock.day()), Micros::ZERO));
        self.keys.insert(Arc::clone(&entry));
        let acks = self.post_all(|ack| Message::Add { entry: Arc::clone(&entry), ack });
        if !self.gather(&acks, after(Instant::now(), WAIT)).late.is_empty() {
            // Its text is not shown, so nobody can use it; closed, it also says so.
            let order = Revoke { of: Selector::Ids(vec![id]), cut: false };
            self.revoke(&order, Instant::now());
            return refused(
                503,
                "worker_unavailable",
                None,
                "the key was not issued: a worker does not answer",
            );
        }
        Reply::Issued { vault_key, key: Box::new(view(&entry, &self.clock)) }
    }

    /// Hands records to the disk, which calls `written` once they are there.
    pub(super) fn put(
        &self,
        records: &[KeyRecord],
        written: impl FnOnce() + Send + 'static,
    ) -> Receiver<Result<(), StoreError>> {
        let (sender, stored) = bounded(1);
        let done = move |result: Result<(), StoreError>| {
            if result.is_ok() {
                written();
            }
            // The receiver may have stopped waiting.
            sender.try_send(result).ok();
        };
        self.storage.put_keys(records, done);
        stored
    }
}

/// A new key's text and id; `None` where the system has no random bytes.
fn mint() -> Option<(String, KeyId)> {
    let random = SystemRandom::new();
    let mut failed = false;
    let mut fill = |bytes: &mut [u8]| failed |= random.fill(bytes).is_err();
    let minted = (key::mint(&mut fill), KeyId::mint(&mut fill));
    (!failed).then_some(minted)
}

fn view(entry: &KeyEntry, clock: &Clock) -> KeyView {
    let record = &entry.record;
    let policy = &record.policy;
    let word = entry.account.word();
    let today = word.on(clock.day());
    let total_committed = entry.account.total_committed();
    let total_left = policy.total_usd_cap.zip(total_committed).map(|(cap, total)| cap.saturating_sub(total));
    let has_expired = policy.has_expired(clock.expiry(clock::wall()));
    let status = match entry.revoked_at() {
        Some(_) => KeyStatus::Revoked,
        None if entry.account.is_closed() || has_expired => KeyStatus::Expired,
        None => KeyStatus::Active,
    };
    KeyView {
        id: record.id,
        status,
        vendor: policy.vendor.clone(),
        label: record.label.clone(),
        agent_run_label: record.agent_run_label.clone(),
        allowed_endpoints: policy.allowed_endpoints.clone(),
        daily_usd_cap: policy.daily_usd_cap,
        committed_usd: today.committed,
        held_usd: today.held,
        total_usd_cap: policy.total_usd_cap,
        total_committed_usd: total_committed,
        remaining_usd: lesser(word.left(clock.day(), policy.daily_usd_cap), total_left),
        daily_request_budget: policy.daily_request_budget,
        requests_today: entry.account.requests(clock.day()),
        in_doubt_usd: entry.in_doubt(),
        resets_at: today.day.end().to_string(),
        created_at: record.created_at.to_string(),
        expires_at: policy.expires_at.map(|at| at.to_string()),
        revoked_at: entry.revoked_at().map(|at| at.to_string()),
        metadata: record.metadata.clone(),
        restrictions: policy.restrictions.clone(),
    }
}

/// The smaller of two amounts that may be absent.
fn lesser(one: Option<Micros>, other: Option<Micros>) -> Option<Micros> {
    one.into_iter().chain(other).min()
}

fn no_such_key() -> Reply {
    refused(404, "no_such_key", None, "there is no key with this id; `keybrake key list` shows all")
}

fn place(entry: &KeyEntry) -> (UnixMicros, KeyId) {
    (entry.record.created_at, entry.record.id)
}

pub(super) fn after(instant: Instant, wait: Duration) -> Instant {
    instant.checked_add(wait).unwrap_or(instant)
}
