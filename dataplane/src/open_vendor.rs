//! A configured vendor with its credentials: those of the store, or a first one from the environment or a file.
//!
//! At the start, and when a reload adds a vendor.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use keybrake_proto::catalog::Catalog;
use keybrake_proto::config;
use keybrake_proto::policy::DEFAULT_ACCOUNT;
use keybrake_proto::secret::Secret;

use crate::environment;
use crate::pool::{Credential, Vendor};
use crate::seal::MasterKey;
use crate::storage::StoredCredential;

const FIRST_VERSION: u32 = 1;

/// A vendor at each of its hosts, the main one first. `keep` stores a first credential, by account.
pub(crate) fn open(
    vendor: &config::Vendor,
    stored: Vec<(String, StoredCredential)>,
    master: &MasterKey,
    keep: impl FnOnce(&str, &StoredCredential) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Arc<Vendor>>> {
    let name = &vendor.name;
    let catalog = Catalog::of_vendor(vendor)?;
    if master.why_sealed().is_some() {
        return hosts(vendor, catalog, Vec::new());
    }
    let given = given(vendor)?;
    let credential = |account: &str, version, secret: &Secret| {
        let credential = Credential::new(vendor, &catalog.slot, (account, version), secret, None);
        credential.map_err(|problem| anyhow::anyhow!("vendor {name}: {problem}"))
    };
    let mut credentials = Vec::new();
    for (account, stored) in stored {
        let secret = master.open(name, &account, stored.version, &stored.sealed)?;
        if account == DEFAULT_ACCOUNT && given.as_ref().is_some_and(|given| *given != secret) {
            eprintln!(
                "keybrake-dataplane: vendor {name}: the credential given now differs from the stored one, which is \
                 used; it is imported at the first start only, `keybrake vendor rotate {name}` replaces it"
            );
        }
        credentials.push(credential(&account, stored.version, &secret)?);
    }
    if credentials.iter().all(|credential| credential.account != DEFAULT_ACCOUNT) {
        match given {
            Some(secret) => {
                // Before it is stored: one of another form must not stay.
                credentials.push(credential(DEFAULT_ACCOUNT, FIRST_VERSION, &secret)?);
                let sealed = master.seal(name, DEFAULT_ACCOUNT, FIRST_VERSION, &secret)?;
                keep(DEFAULT_ACCOUNT, &StoredCredential { version: FIRST_VERSION, sealed })?;
                eprintln!("keybrake-dataplane: vendor {name}: credential imported and sealed");
            }
            None if vendor.credential_env.is_some() || vendor.credential_file.is_some() => {
                bail!("{}", none(vendor));
            }
            None => eprintln!("keybrake-dataplane: {}", none(vendor)),
        }
    }
    hosts(vendor, catalog, credentials)
}

fn hosts(
    vendor: &config::Vendor,
    catalog: &'static Catalog,
    credentials: Vec<Arc<Credential>>,
) -> anyhow::Result<Vec<Arc<Vendor>>> {
    let credentials = credentials.into_iter().map(|one| (one.account.clone(), one)).collect();
    let credentials = Arc::new(ArcSwap::from_pointee(credentials));
    let labels = std::iter::once(None).chain(catalog.labels.iter().map(|label| Some(*label)));
    let host = |label| Vendor::new(vendor.clone(), catalog, label, Arc::clone(&credentials)).map(Arc::new);
    let hosts: Result<Vec<Arc<Vendor>>, String> = labels.map(host).collect();
    hosts.map_err(|problem| anyhow::anyhow!("vendor {}: {problem}", vendor.name))
}

/// What to do for a vendor that has no credential.
pub(crate) fn none(vendor: &config::Vendor) -> String {
    let name = &vendor.name;
    match (&vendor.credential_env, &vendor.credential_file) {
        (Some(variable), _) => {
            format!("vendor {name} has no credential yet: set {variable} for the first start")
        }
        (None, Some(path)) => format!("vendor {name} has no credential yet: write it to {}", path.display()),
        (None, None) => {
            format!("vendor {name} has no credential yet: `keybrake vendor set {name}` gives it one")
        }
    }
}

/// The credential of the environment or the file (rule Q27); `None` where neither is there.
pub(crate) fn given(vendor: &config::Vendor) -> anyhow::Result<Option<Secret>> {
    let name = &vendor.name;
    let secret = match (&vendor.credential_env, &vendor.credential_file) {
        (Some(variable), _) => environment::secret(variable),
        (None, Some(path)) if path.exists() => Some(
            std::fs::read(path)
                .map(Secret::new)
                .with_context(|| format!("vendor {name}: credential_file {}", path.display()))?,
        ),
        (None, Some(_) | None) => None,
    };
    let Some(secret) = secret else { return Ok(None) };
    let trimmed = secret.expose().trim_ascii();
    if trimmed.is_empty() {
        return Ok(None);
    }
    if !trimmed.iter().all(u8::is_ascii_graphic) {
        bail!("vendor {name}: its credential holds blanks or control characters; give the bare secret");
    }
    Ok(Some(Secret::new(trimmed.to_vec())))
}
