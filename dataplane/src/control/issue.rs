//! Issue: a key by itself, or below another one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use keybrake_proto::control::{Reply, Revoke, Selector};
use keybrake_proto::key::{self, KeyId};
use keybrake_proto::ledger::chain::Opening;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::{KeySpec, Policy};
use keybrake_proto::time::UnixMicros;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::keys::no_such_holder;
use super::{Control, WAIT, refused};
use crate::clock;
use crate::registry::{KeyEntry, KeyRecord};
use crate::shard::Message;
use crate::storage::StoreError;

/// The most open keys directly below one: whoever holds that one can make them, and each stays in memory.
const OPEN_CHILDREN_MAX: usize = 1000;

/// The field that names the key above.
const PARENT: &str = "parent_vault_key";

impl Control {
    /// Makes a key; answers once it is on disk and every shard knows it (rule Q22).
    pub(super) fn issue(&self, spec: &KeySpec) -> Reply {
        let now = clock::wall();
        let parent = match self.parent_of(spec, now) {
            Ok(parent) => parent,
            Err(refusal) => return refusal,
        };
        let above = parent.as_ref().map(|parent| parent.record());
        let settings = self.settings.load_full();
        let policy = match &above {
            None => spec.policy(&settings.config.vendor_names(), now),
            Some(above) => spec.child_policy(&above.policy, now),
        };
        let policy = policy.and_then(|policy| settings.config.issue.judge(&policy, now).map(|()| policy));
        let policy = match policy {
            Ok(policy) => policy,
            Err(error) => return refused(400, "invalid_field", Some(&error.field), error.problem),
        };
        let is_possible = self
            .account_exists(&policy)
            .and_then(|()| self.expiry_counts(&policy, now, "the key was not issued"));
        if let Err(refusal) = is_possible {
            return refusal;
        }
        let Some((vault_key, id)) = mint() else {
            return refused(503, "no_randomness", None, "the system gives no random bytes; try again");
        };
        let record = KeyRecord {
            id,
            digest: self.digester.digest(vault_key.as_bytes()),
            policy,
            label: spec.label.clone(),
            agent_run_label: spec
                .agent_run_label
                .clone()
                .or_else(|| above.as_ref().and_then(|above| above.agent_run_label.clone())),
            metadata: match &above {
                Some(above) if spec.metadata.is_empty() => above.metadata.clone(),
                Some(_) | None => spec.metadata.clone(),
            },
            created_at: now,
            parent: parent.as_ref().map(|parent| parent.id),
            version: 0,
            revoked_at: None,
        };
        let stored = self.put(std::slice::from_ref(&record), || {});
        if let Err(problem) = wait_for(&stored) {
            let message = format!("the key was not issued: {problem}");
            return refused(503, "storage_unavailable", None, message);
        }
        self.put_in_force(record, parent, vault_key)
    }

    /// Tells every shard of a key that is on disk.
    fn put_in_force(&self, record: KeyRecord, parent: Option<Arc<KeyEntry>>, vault_key: String) -> Reply {
        let opening = Opening::new(self.clock.day());
        let above = parent.as_ref().map(Arc::clone);
        let entry = Arc::new(KeyEntry::new(record, opening, Micros::ZERO, above));
        self.keys.insert(Arc::clone(&entry));
        let acks = self.post_all(|ack| Message::Add { entry: Arc::clone(&entry), ack });
        let is_known = self.gather(&acks, after(Instant::now(), WAIT)).late.is_empty();
        // Whoever closed a key above before this one was in the table has not found it. It is closed by that
        // all the same, since it draws on that key; here its own record learns it.
        let is_above_open = parent.is_none_or(|parent| parent.is_open(self.clock.expiry(clock::wall())));
        if is_known && is_above_open {
            return Reply::Issued { vault_key, key: Box::new(self.keys.view(&entry, &self.clock)) };
        }
        // Its text is not shown, so nobody can use it; closed, it also says so.
        let order = Revoke { of: Selector::Ids(vec![entry.id]), cut: false };
        self.revoke(&order, Instant::now());
        if is_above_open {
            let message = "the key was not issued: a worker does not answer";
            return refused(503, "worker_unavailable", None, message);
        }
        no_such_holder()
    }

    /// The key above the one that is asked for: open, and not too deep.
    fn parent_of(&self, spec: &KeySpec, now: UnixMicros) -> Result<Option<Arc<KeyEntry>>, Reply> {
        let Some(text) = &spec.parent_vault_key else { return Ok(None) };
        let refuse = |problem: String| Err(refused(400, "invalid_field", Some(PARENT), problem));
        let seen = self.clock.expiry(now);
        // An id is no secret: only operators come here with one.
        let parent = match text.parse::<KeyId>() {
            Ok(id) => match self.keys.find(id) {
                Some(parent) if parent.is_open(seen) => parent,
                Some(_) => return refuse("is revoked or expired: nothing is issued below it".to_owned()),
                None => return refuse("no key has this id; `keybrake key list` shows all".to_owned()),
            },
            Err(_) => {
                let found = self.keys.find_by_digest(&self.digester.digest(text.as_bytes()));
                found.filter(|parent| parent.is_open(seen)).ok_or_else(no_such_holder)?
            }
        };
        let above = parent.chain().skip(1).count();
        if !self.settings.load().config.issue.allows_below(above) {
            return refuse(format!("has {above} keys above it, so none may be below it"));
        }
        let below = self.keys.below_root(&parent);
        if !self.settings.load().config.issue.allows_more_below(below) {
            let had = format!("the key at its top has had {below} keys below it, closed ones too");
            return refuse(format!("{had}, and may have no more; issue another one at the top"));
        }
        if self.keys.open_children(parent.id, seen) >= OPEN_CHILDREN_MAX {
            let most = format!("has {OPEN_CHILDREN_MAX} open keys below it, the most there may be");
            return refuse(format!("{most}; revoke some, or let them expire sooner"));
        }
        Ok(Some(parent))
    }

    /// Refuses an expiry while the clock cannot count it.
    pub(super) fn expiry_counts(&self, policy: &Policy, now: UnixMicros, what: &str) -> Result<(), Reply> {
        let is_doubtful = !self.clock.is_explained(now) || policy.has_expired(self.clock.expiry(now));
        if policy.expires_at.is_none() || !is_doubtful {
            return Ok(());
        }
        let message = format!(
            "{what}: the system clock was stepped, so its expiry cannot be counted; `keybrake clock` says more, \
             `keybrake clock confirm` accepts the clock as it is"
        );
        Err(refused(503, "clock", None, message))
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

/// Waits for the disk; the error says what is wrong with it.
pub(super) fn wait_for(stored: &Receiver<Result<(), StoreError>>) -> Result<(), String> {
    match stored.recv_timeout(WAIT.saturating_mul(2)) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the disk does not answer".to_owned()),
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

pub(super) fn after(instant: Instant, wait: Duration) -> Instant {
    instant.checked_add(wait).unwrap_or(instant)
}
