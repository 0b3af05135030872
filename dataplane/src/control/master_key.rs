//! Another master key for the store that runs, and what a sealed one refuses (rule R2).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam_channel::bounded;
use keybrake_proto::config::KeySource;
use keybrake_proto::control::{MasterKeyRotated, Reply, Request};

use super::issue::wait_for;
use super::{Control, refused};
use crate::rt;
use crate::seal::{self, MasterKey};
use crate::storage::{Rewrapped, Store};

/// Counts what is sealed and on its way to the disk.
#[derive(Default)]
pub(crate) struct Sealing(Arc<AtomicUsize>);

/// One such write; it is over when this is dropped.
pub(super) struct Underway(Arc<AtomicUsize>);

impl Sealing {
    pub(super) fn begin(&self) -> Underway {
        self.0.fetch_add(1, Ordering::AcqRel);
        Underway(Arc::clone(&self.0))
    }

    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Control {
    /// The refusal of what needs the master key, where that is not known. Orders to revoke need none.
    pub(super) fn refuse_sealed(&self, request: &Request) -> Option<Reply> {
        let needs_it = match request {
            Request::IssueKey(_)
            | Request::SetCredential(_)
            | Request::SelfKey { .. }
            | Request::RotateMasterKey => true,
            Request::Status
            | Request::ChangeKey { .. }
            | Request::Vendors
            | Request::ListKeys { .. }
            | Request::ShowKey(_)
            | Request::Revoke(_)
            | Request::Clock
            | Request::Config
            | Request::ReloadConfig
            | Request::ConfirmClock
            | Request::TakeOver(_)
            | Request::Doubts
            | Request::ResolveDoubt { .. } => false,
        };
        if !needs_it || !self.digester.is_sealed() {
            return None;
        }
        // Holders of a vault key see this too: why, is for operators.
        let message =
            "the dataplane is sealed: it was started without its master key; `keybrake status` says more";
        Some(refused(503, "sealed", None, message))
    }

    /// Wraps every data key under another master key: all in one write, and memory follows the disk.
    pub(super) fn rotate_master_key(&self) -> Reply {
        let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(refusal) = self.seals() {
            return refusal;
        }
        let before = self.master.load_full();
        let (new, rewrapped) = match self.prepare(&before) {
            Ok(prepared) => prepared,
            Err(refusal) => return refusal,
        };
        let (to, credentials) = (new.id(), rewrapped.credentials);
        let (sender, stored) = bounded(1);
        let (master, sealing) = (Arc::clone(&self.master), self.sealing.begin());
        // By the storage thread, so that memory has what the disk has, and nothing is sealed in between.
        self.storage.put_rewrapped(rewrapped, move |result| {
            if result.is_ok() {
                let new = Arc::new(new);
                rt::keep_in_memory(&*new);
                master.store(new);
            }
            drop(sealing);
            sender.try_send(result).ok();
        });
        if let Err(problem) = wait_for(&stored) {
            let message = format!(
                "the new master key is not known to be in force: {problem}; keep both, and rotate again"
            );
            return refused(503, "storage_unavailable", None, message);
        }
        let (kept, pending) = self.finish_files(&before.id());
        eprintln!(
            "keybrake-dataplane: the master key is {to} from now on; {credentials} credentials are wrapped anew"
        );
        Reply::MasterKeyRotated(MasterKeyRotated { from: before.id(), to, credentials, kept, pending })
    }

    /// Refuses to seal anything while something sealed is on its way to the disk, perhaps longer than somebody waited for
    /// it: a rotation would not see it, and what comes later must not be overtaken by it.
    pub(super) fn seals(&self) -> Result<(), Reply> {
        if self.sealing.is_idle() {
            return Ok(());
        }
        let message = "a credential or the master key is on its way to the disk; try again";
        Err(refused(503, "storage_unavailable", None, message))
    }

    fn prepare(&self, before: &MasterKey) -> Result<(MasterKey, Rewrapped), Reply> {
        let failed = |problem: String| {
            refused(503, "master_key_unavailable", None, format!("the master key was not rotated: {problem}"))
        };
        let timeout = Duration::from_secs(self.data.master_key_timeout_s);
        let new = match self.data.master_key() {
            KeySource::File(path) => seal::next_key(&path),
            source @ KeySource::Command(_) => seal::read(&source, timeout),
            KeySource::Env(name) => {
                let message = format!(
                    "the master key comes from {name}, which a running process does not see change: set {name} to the \
                     new key and data.old_master_key_env or _file to the old one, and restart"
                );
                return Err(refused(409, "master_key_in_environment", None, message));
            }
        };
        let new = new.map_err(|error| failed(error.to_string()))?;
        if before.check(&new.check_value()).is_ok() {
            let message = format!(
                "the new master key is the one in use, {}; let data.master_key_command print another one, or remove \
                 the file that ends in .next",
                before.id()
            );
            return Err(refused(409, "same_master_key", None, message));
        }
        // Beside the storage thread, which has synced every credential that was ever acknowledged.
        let store = Store::read(&self.data.store_dir()).map_err(|error| failed(error.to_string()))?;
        store.rewrap(before, new).map_err(|error| failed(error.to_string()))
    }

    /// Where the key before is kept, and what is left to do.
    fn finish_files(&self, id_before: &str) -> (Option<String>, Option<String>) {
        let KeySource::File(path) = self.data.master_key() else { return (None, None) };
        match seal::finish_rotation(&path, id_before) {
            Ok(kept) => (Some(kept.display().to_string()), None),
            Err(error) => {
                let name = path.display();
                (None, Some(format!("{name} was not replaced by {name}.next, which is in force: {error}")))
            }
        }
    }
}
