//! A key's policy and labels are changed while it is used (rules Q8, Q22).
//!
//! On disk first, then in memory, at once for all workers; then every worker says that nothing it decided before can
//! still be sent. So what is answered as done survives whatever happens next, and holds for all that is sent
//! from then on.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use keybrake_proto::control::Reply;
use keybrake_proto::key::KeyId;
use keybrake_proto::policy::KeyChange;

use super::issue::{after, wait_for};
use super::keys::no_such_key;
use super::{Control, WAIT, refused};
use crate::clock;
use crate::registry::{KeyEntry, KeyRecord};
use crate::shard::Message;

impl Control {
    /// Changes a key that is at `version`, where one is given.
    pub(super) fn change(&self, id: KeyId, version: Option<u32>, change: &KeyChange) -> Reply {
        let Some(entry) = self.keys.find(id) else { return no_such_key() };
        // One at a time: each starts from what the one before has made.
        let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let before = entry.record();
        let record = match self.changed(&entry, &before, version, change) {
            Ok(record) => record,
            Err(refusal) => return refusal,
        };
        self.keys.also_under(&entry, &record);
        // By the storage thread, so that memory has what the disk has, also where nobody waits any more.
        let (changed, new) = (Arc::clone(&entry), record.clone());
        let stored = self.put(&[record], move || changed.change(new));
        if let Err(problem) = wait_for(&stored) {
            if entry.revoked_at().is_some() {
                return closed();
            }
            let message = format!(
                "the change is not known to be on disk: {problem}; show the key, and change it again"
            );
            return refused(503, "storage_unavailable", None, message);
        }
        self.keys.no_longer_under(&entry, &before);
        let keys = Arc::new(self.keys.subtree(&entry));
        let acks = self.post_all(|ack| Message::Changed { keys: Arc::clone(&keys), ack });
        let late_workers = self.gather(&acks, after(Instant::now(), WAIT)).late;
        Reply::Changed { key: Box::new(self.keys.view(&entry, &self.clock)), late_workers }
    }

    /// The record that the change makes of `before`.
    fn changed(
        &self,
        entry: &KeyEntry,
        before: &KeyRecord,
        version: Option<u32>,
        change: &KeyChange,
    ) -> Result<KeyRecord, Reply> {
        if let Some(version) = version.filter(|version| *version != before.version) {
            let message = format!(
                "the key is at version {} and not {version}: it was changed meanwhile; read it again",
                before.version
            );
            return Err(refused(412, "version_mismatch", None, message));
        }
        let now = clock::wall();
        // An expiry that was seen is latched (rule Q10), so a later one would change nothing.
        if !entry.is_open(self.clock.expiry(now)) {
            return Err(closed());
        }
        let above = entry.parent.as_ref().map(|parent| parent.record());
        let policy = change
            .policy(&before.policy, above.as_ref().map(|above| &above.policy), now)
            .map_err(|error| refused(400, "invalid_field", Some(&error.field), error.problem))?;
        // One that was issued before the bounds may still be given another label.
        if policy != before.policy {
            self.settings
                .load()
                .config
                .issue
                .judge(&policy, now)
                .map_err(|error| refused(400, "invalid_field", Some(&error.field), error.problem))?;
        }
        if policy.expires_at != before.policy.expires_at {
            self.expiry_counts(&policy, now, "the key was not changed")?;
        }
        let Some(version) = before.version.checked_add(1) else {
            let message = "the key was changed four thousand million times; issue another";
            return Err(refused(409, "key_closed", None, message));
        };
        let KeyChange { label, agent_run_label, metadata, .. } = change.clone();
        Ok(KeyRecord {
            policy,
            version,
            label: label.unwrap_or_else(|| before.label.clone()),
            agent_run_label: agent_run_label.unwrap_or_else(|| before.agent_run_label.clone()),
            metadata: metadata.unwrap_or_else(|| before.metadata.clone()),
            ..before.clone()
        })
    }
}

fn closed() -> Reply {
    let message =
        "this key is revoked or expired, and so it stays: nothing of it can be changed; issue another";
    refused(409, "key_closed", None, message)
}
