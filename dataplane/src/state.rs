//! What is opened before anything runs: directory, store, journals, master key, credentials and keys.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use keybrake_proto::config::{self, Config};
use keybrake_proto::key::KeyId;
use keybrake_proto::ledger::Word;
use keybrake_proto::mark::{Found, Mark, Reached};
use keybrake_proto::secret::Secret;
use keybrake_proto::time::UnixMicros;

use crate::journal::{self, Recovered};
use crate::marks::{self, Marks};
use crate::pool::Vendor;
use crate::registry::KeyEntry;
use crate::seal::{Made, MasterKey};
use crate::storage::{Books, Opening, Store, StoredCredential};

/// The vendor account a credential belongs to; named accounts come with `keybrake vendor`.
const ACCOUNT: &str = "default";

const FIRST_VERSION: u32 = 1;

/// What an operator can do about a sealed start.
const ACCEPT: &str = "start with what is there: `keybrake-dataplane accept`";

/// The dataplane's state as of the last run.
pub(crate) struct State {
    pub(crate) store: Store,
    pub(crate) books: Books,
    pub(crate) recovered: Recovered,
    pub(crate) marks: Arc<Marks>,
    pub(crate) boot: [u8; 16],
    pub(crate) master: MasterKey,
    pub(crate) vendors: Vec<Arc<Vendor>>,
    pub(crate) keys: Arc<[Arc<KeyEntry>]>,
}

/// Opens everything, or says in one line what is wrong and what to do.
pub(crate) fn open(config: &Config) -> anyhow::Result<State> {
    let dir = &config.data.dir;
    DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
        format!("data.dir {} cannot be made; choose another or change its rights", dir.display())
    })?;
    let anchor = config.data.anchor_file();
    let mark = marks::read(&anchor).with_context(|| {
        format!("sealed: the anchor {} cannot be used; {ACCEPT}", anchor.display())
    })?;
    let mut store = Store::open(&config.data.store_dir())?;
    let boot = boot_id();
    let mut books = store.books()?;
    let recovered =
        journal::recover(&config.data.journal_dir(), boot, books.cursors(), books.floors())?;
    judge(config, &store, &books, &recovered, mark.as_ref(), boot)?;
    recover(&store, &mut books, &recovered)?;
    let marks = begin_marks(config, &store, &recovered, mark.as_ref(), boot)?;
    store.keep_mark(Arc::clone(&marks));
    let master = master_key(config, &store)?;
    let vendors = config
        .vendors
        .iter()
        .map(|vendor| open_vendor(&store, &master, vendor))
        .collect::<anyhow::Result<_>>()?;
    let keys = open_keys(&store, &books)?;
    Ok(State { store, books, recovered, marks, boot, master, vendors, keys })
}

/// Refuses a store and journals that are behind the mark (rule R4).
fn judge(
    config: &Config,
    store: &Store,
    books: &Books,
    recovered: &Recovered,
    mark: Option<&Mark>,
    boot: [u8; 16],
) -> anyhow::Result<()> {
    let anchor = config.data.anchor_file();
    let found = Found {
        store: store.id()?,
        boot,
        store_sequence: store.sequence(),
        shards: recovered.last.clone(),
    };
    match mark {
        Some(mark) => mark.judge(&found).map_err(|behind| {
            anyhow!(
                "sealed: {behind}, says the anchor {}: this is an older copy, or it was damaged; put the newest copy \
                 back, or {ACCEPT}",
                anchor.display()
            )
        }),
        // A first start that was cut has nothing yet that an older copy could lack.
        None if store.keys()?.is_empty() && books.is_empty() => Ok(()),
        None => bail!("sealed: the anchor {} is missing; put it back, or {ACCEPT}", anchor.display()),
    }
}

/// Brings the store up to the journals' end, and what a crash cut off to its end: in doubt.
fn recover(store: &Store, books: &mut Books, recovered: &Recovered) -> anyhow::Result<()> {
    let open = store.recover(books, &recovered.records, now())?;
    if books.damaged() > 0 {
        bail!("sealed: {} records of the journal cannot be read; {ACCEPT}", books.damaged());
    }
    if open > 0 || recovered.torn > 0 {
        eprintln!(
            "keybrake-dataplane: the last run did not stop cleanly: {open} requests were at a vendor and are in doubt, \
             {} writes broke off",
            recovered.torn
        );
    }
    Ok(())
}

fn begin_marks(
    config: &Config,
    store: &Store,
    recovered: &Recovered,
    mark: Option<&Mark>,
    boot: [u8; 16],
) -> anyhow::Result<Arc<Marks>> {
    let reached = |last: &u64| Reached { synced: *last, written: *last };
    let mark = Mark {
        number: mark.map_or(0, |mark| mark.number),
        store: store.id()?,
        boot,
        store_sequence: store.sequence(),
        shards: recovered.last.iter().map(|(shard, last)| (*shard, reached(last))).collect(),
    };
    let anchor = config.data.anchor_file();
    let marks = Marks::open(&anchor, mark)
        .with_context(|| format!("data.anchor_file {} cannot be written", anchor.display()))?;
    Ok(Arc::new(marks))
}

/// The kernel's number of this boot; zeros where it gives none, which only makes checks laxer.
pub(crate) fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}

fn now() -> UnixMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
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

/// Every key with its money.
fn open_keys(store: &Store, books: &Books) -> anyhow::Result<Arc<[Arc<KeyEntry>]>> {
    let mut openings: HashMap<KeyId, Opening> = books.openings();
    let entry = |record: crate::registry::KeyRecord| {
        let Opening { spend, in_doubt } = openings.remove(&record.id).unwrap_or_default();
        let committed = spend.settled.saturating_add(in_doubt);
        let word = Word { closed: false, day: spend.day, held: in_doubt, committed };
        Arc::new(KeyEntry::new(record, word, in_doubt))
    };
    Ok(store.keys()?.into_iter().map(entry).collect())
}
