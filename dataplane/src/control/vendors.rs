//! Vendors' credentials: set and replaced while calls are sent with them (rules H7, P2, Q22).

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use crossbeam_channel::bounded;
use keybrake_proto::control::{AccountView, CredentialSet, CredentialSpec, Only, Reply, VendorView};
use keybrake_proto::policy::{Policy, is_account_name};

use super::issue::{after, wait_for};
use super::{Control, WAIT, refused};
use crate::pool::{Credential, Vendor};
use crate::shard::Message;
use crate::storage::StoredCredential;

/// The longest credential, in bytes; vendors' have some hundred.
const CREDENTIAL_BYTES_MAX: usize = 4096;

/// The most accounts of one vendor.
const ACCOUNTS_MAX: usize = 1000;

impl Control {
    /// Every vendor with its accounts.
    pub(super) fn vendors(&self) -> Reply {
        let account = |one: Arc<Credential>| AccountView { name: one.account.clone(), version: one.version };
        let view = |vendor: &Arc<Vendor>| VendorView {
            name: vendor.config.name.clone(),
            base_url: vendor.config.base_url.clone(),
            accounts: vendor.credentials().into_iter().map(account).collect(),
        };
        // Once, whatever its hosts.
        let settings = self.settings.load_full();
        let main = settings.vendors.iter().filter(|vendor| vendor.label.is_none());
        Reply::Vendors(main.map(view).collect())
    }

    /// Refuses a key for an account that there is none of.
    pub(super) fn account_exists(&self, policy: &Policy) -> Result<(), Reply> {
        let Policy { vendor, account, .. } = policy;
        let has_it = |upstream: &&Arc<Vendor>| upstream.config.name == *vendor;
        if self
            .settings
            .load()
            .vendors
            .iter()
            .find(has_it)
            .is_some_and(|upstream| upstream.credential(account).is_some())
        {
            return Ok(());
        }
        let message = format!(
            "vendor {vendor} has no account `{account}`; `keybrake vendor list` shows all, `keybrake vendor add {vendor} \
             --account {account}` adds it"
        );
        Err(refused(400, "invalid_field", Some("account"), message))
    }

    /// Seals a credential. On disk first, then for all workers at once; then every worker has dropped its connections of
    /// the one before, and says that nothing is being sent with it.
    pub(super) fn set_credential(&self, spec: &CredentialSpec) -> Reply {
        let CredentialSpec { vendor, account, credential, .. } = spec;
        let _one = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let settings = self.settings.load_full();
        let Some(upstream) = settings.vendors.iter().find(|upstream| upstream.config.name == *vendor) else {
            let names = settings.config.vendor_names().join(", ");
            let message = format!("is not configured; configured: {names}");
            return refused(404, "no_such_vendor", Some("vendor"), message);
        };
        if !is_account_name(account) {
            let message = "must have 1 to 64 of the characters a-z, 0-9, _ and -";
            return refused(400, "invalid_field", Some("account"), message);
        }
        let secret = &credential.0;
        let is_bare = secret.expose().iter().all(u8::is_ascii_graphic);
        if !is_bare || secret.expose().is_empty() || secret.expose().len() > CREDENTIAL_BYTES_MAX {
            let message = "must be the bare secret: 1 to 4096 visible ASCII characters";
            return refused(400, "invalid_field", Some("credential"), message);
        }
        if let Err(refusal) = self.seals() {
            return refusal;
        }
        let before = upstream.credential(account);
        if let Err(refusal) = has_place(upstream, spec, before.is_some()) {
            return refusal;
        }
        let version = before.as_ref().map_or(1, |before| before.version.saturating_add(1));
        let place = (account.as_str(), version);
        let new = Credential::new(&upstream.config, &upstream.catalog.slot, place, secret, before.as_deref());
        let new = match new {
            Ok(new) => new,
            Err(problem) => return refused(400, "invalid_field", Some("credential"), problem),
        };
        let sealed = match self.master.load().seal(vendor, account, version, secret) {
            Ok(sealed) => sealed,
            Err(error) => return refused(503, "no_randomness", None, error.to_string()),
        };
        let (sender, stored) = bounded(1);
        let (changed, underway) = (Arc::clone(upstream), self.sealing.begin());
        // By the storage thread, so that memory has what the disk has.
        self.storage.put_credential(
            (vendor, account),
            &StoredCredential { version, sealed },
            move |result| {
                if result.is_ok() {
                    changed.set_credential(new);
                }
                drop(underway);
                sender.try_send(result).ok();
            },
        );
        if let Err(problem) = wait_for(&stored) {
            let message = format!("the credential is not known to be on disk: {problem}; set it again");
            return refused(503, "storage_unavailable", None, message);
        }
        let acks = self.post_all(|ack| Message::Rotated { ack });
        let late_workers = self.gather(&acks, after(Instant::now(), WAIT)).late;
        Reply::CredentialSet(CredentialSet {
            vendor: vendor.clone(),
            account: account.clone(),
            version,
            late_workers,
        })
    }
}

/// Whether the account is one that `spec` speaks of, or one that may be added.
fn has_place(upstream: &Vendor, spec: &CredentialSpec, exists: bool) -> Result<(), Reply> {
    let CredentialSpec { vendor, account, only, .. } = spec;
    match (exists, only) {
        (true, Some(Only::New)) => {
            let message = format!("vendor {vendor} has an account `{account}` already; rotate it");
            Err(refused(409, "account_exists", Some("account"), message))
        }
        (false, Some(Only::Existing)) => {
            let message = format!("vendor {vendor} has no account `{account}`; add it");
            Err(refused(404, "no_such_account", Some("account"), message))
        }
        (false, _) if upstream.credentials().len() >= ACCOUNTS_MAX => {
            let message = format!("vendor {vendor} has {ACCOUNTS_MAX} accounts, the most there may be");
            Err(refused(400, "invalid_field", Some("account"), message))
        }
        (_, _) => Ok(()),
    }
}
