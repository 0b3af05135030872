//! Every key as operators see it: list, show, and the closing of many at once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use keybrake_proto::control::{KeyStatus, KeyView, LIST_KEYS_MAX, Reply, Selector};
use keybrake_proto::key::{KeyDigest, KeyId};
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;

use super::refused;
use crate::clock::{self, Clock};
use crate::registry::{KeyEntry, KeyRecord};

/// Every key ever issued.
pub(crate) struct Keys(RwLock<Table>);

#[derive(Default)]
struct Table {
    by_id: HashMap<KeyId, Arc<KeyEntry>>,
    by_digest: HashMap<KeyDigest, KeyId>,
    /// Oldest first.
    in_order: BTreeMap<(UnixMicros, KeyId), Arc<KeyEntry>>,
    // A revoke closes by these, so that it does not have to look at every key.
    // A label may have changed since: whoever is found by one is asked for it.
    by_label: HashMap<String, Vec<Arc<KeyEntry>>>,
    by_run: HashMap<String, Vec<Arc<KeyEntry>>>,
    by_parent: HashMap<KeyId, Vec<Arc<KeyEntry>>>,
    /// How many keys there are below a key that has none above it.
    below_root: HashMap<KeyId, usize>,
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

/// One pass of [`Keys::close`].
struct Closing<'a> {
    table: &'a Table,
    now: UnixMicros,
    /// A key may be named by itself and stand below another one that is.
    seen: HashSet<KeyId>,
    closed: Closed,
}

impl Closing<'_> {
    fn close(&mut self, entry: &Arc<KeyEntry>) {
        if self.seen.insert(entry.id) {
            let is_first = entry.revoke(self.now).is_ok();
            let to = if is_first { &mut self.closed.now } else { &mut self.closed.before };
            to.push(Arc::clone(entry));
        }
    }

    fn close_id(&mut self, id: KeyId) {
        match self.table.by_id.get(&id) {
            Some(entry) => self.close_below(entry),
            None => self.closed.unknown.push(id),
        }
    }

    fn close_below(&mut self, root: &Arc<KeyEntry>) {
        let table = self.table;
        table.each_below(root, |entry| self.close(entry));
    }
}

impl Closed {
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
        let keys = rest.by_ref().take(limit).map(|entry| table.view(entry, clock)).collect();
        Reply::Keys { keys, more: rest.next().is_some() }
    }

    pub(super) fn show(&self, clock: &Clock, id: KeyId) -> Reply {
        let table = self.read();
        match table.by_id.get(&id) {
            Some(entry) => Reply::Key(Box::new(table.view(entry, clock))),
            None => no_such_key(),
        }
    }

    pub(super) fn show_self(&self, clock: &Clock, digest: &KeyDigest) -> Reply {
        let table = self.read();
        let entry = table.by_digest.get(digest).and_then(|id| table.by_id.get(id));
        match entry.filter(|entry| entry.is_open(clock.expiry(clock::wall()))) {
            Some(entry) => Reply::Key(Box::new(table.view(entry, clock))),
            None => no_such_holder(),
        }
    }

    /// The key as operators see it.
    pub(super) fn view(&self, entry: &KeyEntry, clock: &Clock) -> KeyView {
        self.read().view(entry, clock)
    }

    /// The key with this text's digest.
    pub(super) fn find_by_digest(&self, digest: &KeyDigest) -> Option<Arc<KeyEntry>> {
        let table = self.read();
        table.by_digest.get(digest).and_then(|id| table.by_id.get(id)).map(Arc::clone)
    }

    /// Keys directly below this one that are open at `now`.
    pub(super) fn open_children(&self, of: KeyId, now: UnixMicros) -> usize {
        let table = self.read();
        table.by_parent.get(&of).into_iter().flatten().filter(|child| child.is_open(now)).count()
    }

    /// The key and all its descendants, as of now.
    pub(super) fn subtree(&self, root: &Arc<KeyEntry>) -> HashSet<KeyId> {
        let mut ids = HashSet::new();
        self.read().each_below(root, |entry| ids.insert(entry.id));
        ids
    }

    /// Lets a revoke by the labels in `record` find this key too. Said before the key has them, so that there is no
    /// moment in which it has them and is not found.
    pub(super) fn also_under(&self, entry: &Arc<KeyEntry>, record: &KeyRecord) {
        self.write().index_labels(entry, record);
    }

    /// Forgets the labels in `before` that the key has no longer.
    pub(super) fn no_longer_under(&self, entry: &Arc<KeyEntry>, before: &KeyRecord) {
        self.write().forget_labels(entry, before);
    }

    /// Closes every key that `of` names and all below them, in one pass: those whose issue was acknowledged
    /// before this was called are all in the table.
    pub(super) fn close(&self, of: &Selector, now: UnixMicros) -> Closed {
        let table = self.read();
        let mut closing = Closing { table: &table, now, seen: HashSet::new(), closed: Closed::default() };
        match of {
            Selector::Ids(ids) => ids.iter().for_each(|id| closing.close_id(*id)),
            Selector::Subtree(id) => closing.close_id(*id),
            Selector::Label(label) => {
                let named = table.by_label.get(label).into_iter().flatten();
                let has_it = |entry: &&Arc<KeyEntry>| entry.record().label.as_ref() == Some(label);
                named.filter(has_it).for_each(|entry| closing.close_below(entry));
            }
            Selector::AgentRunLabel(run) => {
                let named = table.by_run.get(run).into_iter().flatten();
                let has_it = |entry: &&Arc<KeyEntry>| entry.record().agent_run_label.as_ref() == Some(run);
                named.filter(has_it).for_each(|entry| closing.close_below(entry));
            }
            // A child is for its parent's vendor, so each is found by itself.
            Selector::Vendor(vendor) => {
                let is_of = |entry: &&Arc<KeyEntry>| entry.record().policy.vendor == *vendor;
                table.in_order.values().filter(is_of).for_each(|entry| closing.close(entry));
            }
            Selector::All => table.in_order.values().for_each(|entry| closing.close(entry)),
        }
        closing.closed
    }

    /// Keys whose revokes are not known to be on disk.
    pub(super) fn owed(&self) -> Vec<KeyId> {
        let table = self.read();
        table.by_id.values().filter(|entry| entry.owes_revoke()).map(|entry| entry.id).collect()
    }

    /// Keys below the one at the top of the tree of `entry`, closed ones too.
    pub(super) fn below_root(&self, entry: &KeyEntry) -> usize {
        self.read().below_root.get(&entry.root()).copied().unwrap_or_default()
    }

    /// The revokes in `records` are on disk.
    pub(super) fn revokes_were_stored(&self, records: &[KeyRecord]) {
        let table = self.read();
        let entries = records.iter().filter_map(|record| table.by_id.get(&record.id));
        entries.for_each(|entry| entry.revoke_was_stored());
    }

    pub(super) fn insert(&self, entry: Arc<KeyEntry>) {
        self.write().insert(entry);
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn insert(&mut self, entry: Arc<KeyEntry>) {
        let record = entry.record();
        self.index_labels(&entry, &record);
        if let Some(parent) = record.parent {
            self.by_parent.entry(parent).or_default().push(Arc::clone(&entry));
            let below = self.below_root.entry(entry.root()).or_default();
            *below = below.saturating_add(1);
        }
        self.by_digest.insert(entry.digest, entry.id);
        self.in_order.insert(place(&entry), Arc::clone(&entry));
        self.by_id.insert(entry.id, entry);
    }

    fn index_labels(&mut self, entry: &Arc<KeyEntry>, record: &KeyRecord) {
        for (index, label) in
            [(&mut self.by_label, &record.label), (&mut self.by_run, &record.agent_run_label)]
        {
            let Some(label) = label else { continue };
            let named = index.entry(label.clone()).or_default();
            if !named.iter().any(|other| other.id == entry.id) {
                named.push(Arc::clone(entry));
            }
        }
    }

    fn forget_labels(&mut self, entry: &Arc<KeyEntry>, before: &KeyRecord) {
        let now = entry.record();
        for (index, label, is_kept) in [
            (&mut self.by_label, &before.label, before.label == now.label),
            (&mut self.by_run, &before.agent_run_label, before.agent_run_label == now.agent_run_label),
        ] {
            let Some(label) = label.as_ref().filter(|_| !is_kept) else { continue };
            if let Some(named) = index.get_mut(label) {
                named.retain(|other| other.id != entry.id);
            }
        }
    }

    /// Calls `each` for `root` and all its descendants, parents first.
    fn each_below<T>(&self, root: &Arc<KeyEntry>, mut each: impl FnMut(&Arc<KeyEntry>) -> T) {
        let mut rest = vec![root];
        // A key has one parent, and it was there before: this is a tree.
        while let Some(entry) = rest.pop() {
            each(entry);
            rest.extend(self.by_parent.get(&entry.id).into_iter().flatten());
        }
    }

    fn view(&self, entry: &KeyEntry, clock: &Clock) -> KeyView {
        let children = self.by_parent.get(&entry.id).map_or(0, Vec::len);
        KeyView { children: u64::try_from(children).unwrap_or(u64::MAX), ..view(entry, clock) }
    }
}

/// All but the number of its children.
fn view(entry: &KeyEntry, clock: &Clock) -> KeyView {
    let record = entry.record();
    let policy = &record.policy;
    let word = entry.account.word();
    let today = word.on(clock.day());
    let is_open = entry.is_open(clock.expiry(clock::wall()));
    let status = match entry.chain().any(|entry| entry.revoked_at().is_some()) {
        true => KeyStatus::Revoked,
        false if is_open => KeyStatus::Active,
        false => KeyStatus::Expired,
    };
    KeyView {
        id: entry.id,
        status,
        version: record.version,
        parent_key_id: record.parent,
        children: 0,
        vendor: policy.vendor.clone(),
        account: policy.account.clone(),
        label: record.label.clone(),
        agent_run_label: record.agent_run_label.clone(),
        allowed_endpoints: policy.allowed_endpoints.clone(),
        daily_usd_cap: policy.daily_usd_cap,
        committed_usd: today.committed,
        held_usd: today.held,
        total_usd_cap: policy.total_usd_cap,
        total_committed_usd: entry.account.total_committed(),
        remaining_usd: remaining(entry, clock),
        chain_remaining_usd: entry.chain().filter_map(|entry| remaining(entry, clock)).min(),
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

/// What a key may still commit today by its own caps; the smaller one counts.
fn remaining(entry: &KeyEntry, clock: &Clock) -> Option<Micros> {
    let record = entry.record();
    let (daily, total) = (record.policy.daily_usd_cap, record.policy.total_usd_cap);
    let total_left = total.zip(entry.account.total_committed()).map(|(cap, total)| cap.saturating_sub(total));
    lesser(entry.account.word().left(clock.day(), daily), total_left)
}

/// The smaller of two amounts that may be absent.
fn lesser(one: Option<Micros>, other: Option<Micros>) -> Option<Micros> {
    one.into_iter().chain(other).min()
}

/// One answer for a vault key that is unknown, expired or revoked (rule Q25).
pub(super) fn no_such_holder() -> Reply {
    refused(401, "invalid_vault_key", None, "this vault key is unknown, expired or revoked")
}

pub(super) fn no_such_key() -> Reply {
    refused(404, "no_such_key", None, "there is no key with this id; `keybrake key list` shows all")
}

/// Oldest first. A key's time of issue never changes.
fn place(entry: &KeyEntry) -> (UnixMicros, KeyId) {
    (entry.record().created_at, entry.id)
}
