//! What is opened before anything runs: directory, store, journals, master key, credentials and keys.

mod master_key;

use std::collections::{HashMap, VecDeque};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use keybrake_proto::catalog::book::PriceBook;
use keybrake_proto::config::Config;
use keybrake_proto::handover::ActsOn;
use keybrake_proto::journal::IntentId;
use keybrake_proto::key::KeyId;
use keybrake_proto::ledger::Word;
use keybrake_proto::ledger::chain;
use keybrake_proto::policy::DEFAULT_ACCOUNT;

use self::master_key::Found;
use crate::clock;
use crate::heir::Inherited;
use crate::idempotency::Memory;
use crate::journal::Recovered;
use crate::marks::Marks;
use crate::objects::Objects;
use crate::open_vendor;
use crate::pool::Vendor;
use crate::recovery::{self, Opened};
use crate::registry::{KeyEntry, KeyRecord};
use crate::requests::Requests;
use crate::seal::MasterKey;
use crate::storage::{Books, Opening, Running, Store, StoredCredential};

/// The dataplane's state as of the last run.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) books: Books,
    pub(crate) memory: Arc<Memory>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) requests: Arc<Requests>,
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
        if is_named && !has_default && open_vendor::given(vendor)?.is_none() {
            bail!("{}", open_vendor::none(vendor));
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
        let keep = |account: &str, stored: &StoredCredential| {
            Ok(store.put_credential(&vendor.name, account, stored)?)
        };
        vendors.extend(open_vendor::open(vendor, store.credentials(&vendor.name)?, &master, keep)?);
    }
    let keys = open_keys(&store, &books)?;
    let requests = Arc::new(Requests::new(books.sent()));
    let inherited = inherit(&keys, books.running());
    let memory = books.begin_memory(clock::wall());
    let objects = Arc::new(books.begin_objects());
    Ok(State {
        inherited,
        store,
        books,
        memory,
        objects,
        requests,
        book,
        recovered,
        marks,
        boot,
        master,
        vendors,
        keys,
    })
}

impl State {
    /// Claims the objects that the exchanges of another process act on, before this one admits anything.
    pub(crate) fn claim(&mut self, acts_on: &[ActsOn]) {
        for of in acts_on {
            let is_it =
                |vendor: &Arc<Vendor>| vendor.config.name == of.vendor && vendor.label == of.label.as_deref();
            let intent = IntentId::from_u64(of.intent);
            let one = self.inherited.iter_mut().find(|one| one.running.intent == intent);
            // A vendor that is not configured any more gets no calls.
            let (Some(one), Some(number)) = (one, self.vendors.iter().position(is_it)) else { continue };
            // Only repeats of one request can have acted on it side by side, and they may again.
            one.claim = self.objects.claim(number, of.object.clone(), of.request).ok().map(Arc::new);
        }
    }
}

/// Holds what another process has admitted, before this one admits anything.
fn inherit(keys: &[Arc<KeyEntry>], running: Vec<Running>) -> Vec<Inherited> {
    let by_id: HashMap<KeyId, &Arc<KeyEntry>> = keys.iter().map(|entry| (entry.id, entry)).collect();
    let inherited = running.into_iter().filter_map(|running| {
        let entry = Arc::clone(by_id.get(running.keys.first()?)?);
        entry.account.carry(running.day, running.held);
        Some(Inherited { entry, running, claim: None })
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
