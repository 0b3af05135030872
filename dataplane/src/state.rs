//! What is opened before anything runs: directory, store, journals, master key, credentials and keys.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use keybrake_proto::config::{self, Config};
use keybrake_proto::journal::IntentId;
use keybrake_proto::key::KeyId;
use keybrake_proto::ledger::Word;
use keybrake_proto::ledger::chain;
use keybrake_proto::secret::Secret;

use crate::clock;
use crate::heir::Inherited;
use crate::idempotency::Memory;
use crate::journal::Recovered;
use crate::marks::Marks;
use crate::pool::Vendor;
use crate::recovery::{self, Opened};
use crate::registry::KeyEntry;
use crate::seal::{Made, MasterKey};
use crate::storage::{Books, Opening, Running, Store, StoredCredential};

/// The vendor account a credential belongs to; named accounts come with `keybrake vendor`.
const ACCOUNT: &str = "default";

const FIRST_VERSION: u32 = 1;

/// The dataplane's state as of the last run.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) books: Books,
    pub(crate) memory: Arc<Memory>,
    pub(crate) recovered: Recovered,
    pub(crate) marks: Arc<Marks>,
    pub(crate) boot: [u8; 16],
    pub(crate) master: MasterKey,
    pub(crate) vendors: Vec<Arc<Vendor>>,
    pub(crate) keys: Arc<[Arc<KeyEntry>]>,
    /// What another process still runs; its money is held in the keys' accounts.
    pub(crate) inherited: Vec<Inherited>,
}

/// Whether [`open`] would find a master key and credentials, as far as that can be read beside the process that
/// has the store open.
pub(crate) fn rehearse(config: &Config) -> anyhow::Result<()> {
    let Ok(store) = Store::read(&config.data.store_dir()) else { return Ok(()) };
    let Ok(Some(check)) = store.master_check() else { return Ok(()) };
    let master = MasterKey::load(&config.data.master_key_file())?;
    master.check(&check)?;
    for vendor in &config.vendors {
        match store.credential(&vendor.name, ACCOUNT)? {
            Some(stored) => drop(master.open(&vendor.name, ACCOUNT, stored.version, &stored.sealed)?),
            None if given_credential(vendor)?.is_none() => bail!("{}", no_credential(vendor)),
            None => {}
        }
    }
    Ok(())
}

/// Opens everything, or says in one line what is wrong and what to do. What `runs` says another process runs is
/// held as what runs here.
pub(crate) fn open(config: &Config, runs: impl Fn(IntentId) -> bool) -> anyhow::Result<State> {
    let dir = &config.data.dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
        format!("data.dir {} cannot be made; choose another or change its rights", dir.display())
    })?;
    let Opened { store, mut books, recovered, marks, boot } = recovery::open(config, runs)?;
    let master = master_key(config, &store)?;
    let vendors = config
        .vendors
        .iter()
        .map(|vendor| open_vendor(&store, &master, vendor))
        .collect::<anyhow::Result<_>>()?;
    let keys = open_keys(&store, &books)?;
    let inherited = inherit(&keys, books.running());
    let memory = books.begin_memory(clock::wall());
    Ok(State { inherited, store, books, memory, recovered, marks, boot, master, vendors, keys })
}

fn master_key(config: &Config, store: &Store) -> anyhow::Result<MasterKey> {
    let path = config.data.master_key_file();
    let Some(check) = store.master_check()? else {
        let (master, made) = MasterKey::load_or_create(&path)?;
        store.put_master_check(&master.check_value())?;
        if made == Made::New {
            eprintln!(
                "keybrake-dataplane: made the master key {}; keep a copy elsewhere, without it the stored \
                 credentials and all vault keys are lost",
                path.display()
            );
        }
        return Ok(master);
    };
    // A store that was sealed with a master key is never given a new one.
    let master = MasterKey::load(&path)?;
    master.check(&check)?;
    Ok(master)
}

fn open_vendor(store: &Store, master: &MasterKey, vendor: &config::Vendor) -> anyhow::Result<Arc<Vendor>> {
    let name = &vendor.name;
    let given = given_credential(vendor)?;
    let credential = match store.credential(name, ACCOUNT)? {
        Some(stored) => {
            let credential = master.open(name, ACCOUNT, stored.version, &stored.sealed)?;
            if given.is_some_and(|given| given != credential) {
                eprintln!(
                    "keybrake-dataplane: vendor {name}: the credential given now differs from the stored one, which \
                     is used; it is imported at the first start only"
                );
            }
            credential
        }
        None => {
            let Some(credential) = given else { bail!("{}", no_credential(vendor)) };
            let sealed = master.seal(name, ACCOUNT, FIRST_VERSION, &credential)?;
            store.put_credential(name, ACCOUNT, &StoredCredential { version: FIRST_VERSION, sealed })?;
            eprintln!("keybrake-dataplane: vendor {name}: credential imported and sealed");
            credential
        }
    };
    let vendor = Vendor::new(vendor.clone(), &credential);
    vendor.map(Arc::new).map_err(|problem| anyhow::anyhow!("vendor {name}: {problem}"))
}

fn no_credential(vendor: &config::Vendor) -> String {
    let name = &vendor.name;
    match (&vendor.credential_env, &vendor.credential_file) {
        (Some(variable), _) => {
            format!("vendor {name} has no credential yet: set {variable} for the first start")
        }
        (None, Some(path)) => format!("vendor {name} has no credential yet: write it to {}", path.display()),
        (None, None) => {
            format!(
                "vendor {name} has no credential yet: give credential_env or credential_file in its [[vendor]]"
            )
        }
    }
}

/// The credential of the environment or the file (rule Q27); `None` where neither is there.
fn given_credential(vendor: &config::Vendor) -> anyhow::Result<Option<Secret>> {
    let name = &vendor.name;
    let bytes = match (&vendor.credential_env, &vendor.credential_file) {
        (Some(variable), _) => std::env::var_os(variable).map(std::ffi::OsString::into_encoded_bytes),
        (None, Some(path)) if path.exists() => Some(
            std::fs::read(path)
                .with_context(|| format!("vendor {name}: credential_file {}", path.display()))?,
        ),
        (None, Some(_) | None) => None,
    };
    let Some(secret) = bytes.map(Secret::new) else { return Ok(None) };
    let trimmed = secret.expose().trim_ascii();
    if trimmed.is_empty() {
        return Ok(None);
    }
    if !trimmed.iter().all(u8::is_ascii_graphic) {
        bail!("vendor {name}: its credential holds blanks or control characters; give the bare secret");
    }
    Ok(Some(Secret::new(trimmed.to_vec())))
}

/// Holds what another process has admitted, before this one admits anything.
fn inherit(keys: &[Arc<KeyEntry>], running: Vec<Running>) -> Vec<Inherited> {
    let by_id: HashMap<KeyId, &Arc<KeyEntry>> = keys.iter().map(|entry| (entry.record.id, entry)).collect();
    let inherited = running.into_iter().filter_map(|running| {
        let entry = Arc::clone(by_id.get(running.keys.first()?)?);
        entry.account.carry(running.day, running.held);
        Some(Inherited { entry, running })
    });
    inherited.collect()
}

/// Every key with its money.
fn open_keys(store: &Store, books: &Books) -> anyhow::Result<Arc<[Arc<KeyEntry>]>> {
    let mut openings: HashMap<KeyId, Opening> = books.openings();
    let entry = |record: crate::registry::KeyRecord| {
        let Opening { spend, in_doubt } = openings.remove(&record.id).unwrap_or_default();
        let word = Word {
            closed: false,
            day: spend.day,
            held: in_doubt,
            committed: spend.settled.saturating_add(in_doubt),
        };
        let lifetime = spend.lifetime.saturating_add(in_doubt);
        let opening = chain::Opening { word, lifetime, requests: spend.requests };
        Arc::new(KeyEntry::new(record, opening, in_doubt))
    };
    Ok(store.keys()?.into_iter().map(entry).collect())
}
