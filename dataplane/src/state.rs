//! What is opened before anything runs: directory, store, journals, master key, credentials and keys.

mod master_key;

use std::collections::{HashMap, VecDeque};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use arc_swap::ArcSwap;
use keybrake_proto::catalog::Catalog;
use keybrake_proto::catalog::book::PriceBook;
use keybrake_proto::config::{self, Config};
use keybrake_proto::journal::IntentId;
use keybrake_proto::key::KeyId;
use keybrake_proto::ledger::Word;
use keybrake_proto::ledger::chain;
use keybrake_proto::policy::DEFAULT_ACCOUNT;
use keybrake_proto::secret::Secret;

use self::master_key::Found;
use crate::clock;
use crate::environment;
use crate::heir::Inherited;
use crate::idempotency::Memory;
use crate::journal::Recovered;
use crate::marks::Marks;
use crate::objects::Objects;
use crate::pool::{Credential, Vendor};
use crate::recovery::{self, Opened};
use crate::registry::{KeyEntry, KeyRecord};
use crate::seal::MasterKey;
use crate::storage::{Books, Opening, Running, Store, StoredCredential};

const FIRST_VERSION: u32 = 1;

/// The dataplane's state as of the last run.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) books: Books,
    pub(crate) memory: Arc<Memory>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) book: Arc<PriceBook>,
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
    PriceBook::load(&config.prices, |path| std::fs::read_to_string(path))?;
    let Ok(store) = Store::read(&config.data.store_dir()) else { return Ok(()) };
    let Ok(Some(check)) = store.master_check() else { return Ok(()) };
    let master = match master_key::find(config, &store, &check)? {
        Found::Current(master) | Found::Next(master) | Found::Old(master) => master,
    };
    for vendor in &config.vendors {
        let stored = store.credentials(&vendor.name)?;
        for (account, stored) in &stored {
            drop(master.open(&vendor.name, account, stored.version, &stored.sealed)?);
        }
        let is_named = vendor.credential_env.is_some() || vendor.credential_file.is_some();
        let has_default = stored.iter().any(|(account, _)| account == DEFAULT_ACCOUNT);
        if is_named && !has_default && given_credential(vendor)?.is_none() {
            bail!("{}", no_credential(vendor));
        }
    }
    Ok(())
}

/// Opens everything, or says in one line what is wrong and what to do. What `runs` says another process runs is
/// held as what runs here.
pub(crate) fn open(config: &Config, runs: impl Fn(IntentId) -> bool) -> anyhow::Result<State> {
    let book = Arc::new(PriceBook::load(&config.prices, |path| std::fs::read_to_string(path))?);
    let dir = &config.data.dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
        format!("data.dir {} cannot be made; choose another or change its rights", dir.display())
    })?;
    let Opened { store, mut books, recovered, marks, boot } = recovery::open(config, runs)?;
    let master = master_key::open(config, &store)?;
    let mut vendors = Vec::new();
    for vendor in &config.vendors {
        vendors.extend(open_vendor(&store, &master, vendor)?);
    }
    let keys = open_keys(&store, &books)?;
    let inherited = inherit(&keys, books.running());
    let memory = books.begin_memory(clock::wall());
    let objects = Arc::new(books.begin_objects());
    Ok(State {
        inherited,
        store,
        books,
        memory,
        objects,
        book,
        recovered,
        marks,
        boot,
        master,
        vendors,
        keys,
    })
}

/// A vendor at each of its hosts, the main one first.
fn open_vendor(
    store: &Store,
    master: &MasterKey,
    vendor: &config::Vendor,
) -> anyhow::Result<Vec<Arc<Vendor>>> {
    let name = &vendor.name;
    let catalog = Catalog::of_vendor(vendor)?;
    if master.why_sealed().is_some() {
        return hosts(vendor, catalog, Vec::new());
    }
    let given = given_credential(vendor)?;
    let credential = |account: &str, version, secret: &Secret| {
        let credential = Credential::new(vendor, &catalog.slot, (account, version), secret, None);
        credential.map_err(|problem| anyhow::anyhow!("vendor {name}: {problem}"))
    };
    let mut credentials = Vec::new();
    for (account, stored) in store.credentials(name)? {
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
                let stored = StoredCredential { version: FIRST_VERSION, sealed };
                store.put_credential(name, DEFAULT_ACCOUNT, &stored)?;
                eprintln!("keybrake-dataplane: vendor {name}: credential imported and sealed");
            }
            None if vendor.credential_env.is_some() || vendor.credential_file.is_some() => {
                bail!("{}", no_credential(vendor));
            }
            None => eprintln!("keybrake-dataplane: {}", no_credential(vendor)),
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

fn no_credential(vendor: &config::Vendor) -> String {
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
fn given_credential(vendor: &config::Vendor) -> anyhow::Result<Option<Secret>> {
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

/// Holds what another process has admitted, before this one admits anything.
fn inherit(keys: &[Arc<KeyEntry>], running: Vec<Running>) -> Vec<Inherited> {
    let by_id: HashMap<KeyId, &Arc<KeyEntry>> = keys.iter().map(|entry| (entry.id, entry)).collect();
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
    let mut entry = |record: KeyRecord, parent: Option<Arc<KeyEntry>>| {
        let Opening { spend, in_doubt } = openings.remove(&record.id).unwrap_or_default();
        let word = Word {
            closed: false,
            day: spend.day,
            held: in_doubt,
            committed: spend.settled.saturating_add(in_doubt),
        };
        let lifetime = spend.lifetime.saturating_add(in_doubt);
        let opening = chain::Opening { word, lifetime, requests: spend.requests };
        Arc::new(KeyEntry::new(record, opening, in_doubt, parent))
    };
    let mut below: HashMap<Option<KeyId>, Vec<KeyRecord>> = HashMap::new();
    for record in store.keys()? {
        below.entry(record.parent).or_default().push(record);
    }
    let (mut opened, mut parents) = (Vec::new(), VecDeque::from([None]));
    while let Some(parent) = parents.pop_front() {
        let id = parent.as_ref().map(|parent: &Arc<KeyEntry>| parent.id);
        for record in below.remove(&id).unwrap_or_default() {
            let entry = entry(record, parent.as_ref().map(Arc::clone));
            parents.push_back(Some(Arc::clone(&entry)));
            opened.push(entry);
        }
    }
    // Without the key above it, it would have more than it was given.
    if let Some(orphan) = below.into_values().flatten().next() {
        bail!(
            "the store has key {} and not the key above it: it is damaged; put the newest copy back",
            orphan.id
        );
    }
    Ok(opened.into())
}
