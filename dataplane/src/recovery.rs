//! From what a run left on disk to books that can be trusted, or to one line that says why not.
//!
//! Store, journals and anchor are judged together: a start finds equal books or is *sealed*, never
//! with more headroom than before (I5).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use keybrake_proto::config::Config;
use keybrake_proto::journal::IntentId;
use keybrake_proto::mark::{Found, Mark, Reached};
use keybrake_proto::time::UnixMicros;

use crate::journal::{self, Recovered};
use crate::marks::{self, Marks};
use crate::storage::{Books, Store};

/// What an operator can do about a sealed start.
const ACCEPT: &str = "start with what is there: `keybrake-dataplane accept`";

/// What a run left, brought to its end and on disk.
pub(crate) struct Opened {
    pub(crate) store: Store,
    pub(crate) books: Books,
    pub(crate) recovered: Recovered,
    pub(crate) marks: Arc<Marks>,
    pub(crate) boot: [u8; 16],
}

/// Opens store, journals and anchor, and ends what a crash cut off; not what `runs` says another process runs.
pub(crate) fn open(config: &Config, runs: impl Fn(IntentId) -> bool) -> anyhow::Result<Opened> {
    let mut store = Store::open(&config.data.store_dir())?;
    // Behind the store's lock: no other process writes it now.
    let mark = read_mark(config)?;
    let boot = boot_id();
    let mut books = store.books()?;
    let recovered = read_journals(config, &books, boot)?;
    judge(config, &store, &books, &recovered, mark.as_ref())?;
    let open = store.recover(&mut books, &recovered.records, now(), runs)?;
    if open > 0 || recovered.torn > 0 {
        eprintln!(
            "keybrake-dataplane: the last run did not stop cleanly: {open} requests may have been at a vendor and are \
             in doubt, {} writes broke off",
            recovered.torn
        );
    }
    let marks = begin_marks(config, &store, &recovered.last, mark.as_ref())?;
    store.keep_mark(Arc::clone(&marks));
    Ok(Opened { store, books, recovered, marks, boot })
}

/// What a start would find, without changing anything.
pub(crate) struct Examined {
    pub(crate) store: Store,
    /// As they would be after the start.
    pub(crate) books: Books,
    pub(crate) recovered: Recovered,
    /// Exchanges that a start would put in doubt.
    pub(crate) open: u64,
    pub(crate) mark: Option<Mark>,
    /// Why it would be sealed.
    pub(crate) sealed: Option<anyhow::Error>,
}

/// Reads everything as a start would. The error is that of a store that cannot be read at all.
pub(crate) fn examine(config: &Config) -> anyhow::Result<Examined> {
    let store = Store::read(&config.data.store_dir())?;
    let mut books = store.books()?;
    let (mark, mut sealed) = match read_mark(config) {
        Ok(mark) => (mark, None),
        Err(error) => (None, Some(error)),
    };
    let recovered = match read_journals(config, &books, boot_id()) {
        Ok(recovered) => recovered,
        Err(error) => {
            sealed.get_or_insert(error);
            let (last, reached) = (books.cursors().clone(), books.floors().clone());
            Recovered { last, reached, ..Recovered::default() }
        }
    };
    if sealed.is_none() {
        sealed = judge(config, &store, &books, &recovered, mark.as_ref()).err();
    }
    let open = store.rehearse(&mut books, &recovered.records, now())?;
    Ok(Examined { store, books, recovered, open, mark, sealed })
}

/// What [`accept`] did.
pub(crate) struct Accepted {
    /// Why the start was sealed; `None`: it was not, and nothing was changed.
    pub(crate) was_sealed: Option<anyhow::Error>,
    /// Where the journals went.
    pub(crate) set_aside: Option<PathBuf>,
}

/// Takes what is there for the truth: the operator says that nothing newer exists.
///
/// What can be read of the journals is entered first, and what it leaves open is in doubt; only what
/// cannot be read is forgotten.
pub(crate) fn accept(config: &Config) -> anyhow::Result<Accepted> {
    let store = Store::open(&config.data.store_dir())?;
    let mut books = store.books()?;
    let mark = read_mark(config);
    let journals = read_journals(config, &books, boot_id());
    let judged = match (&mark, &journals) {
        (Ok(mark), Ok(recovered)) => judge(config, &store, &books, recovered, mark.as_ref()),
        (Err(error), _) | (Ok(_), Err(error)) => Err(anyhow!("{error:#}")),
    };
    let Err(was_sealed) = judged else { return Ok(Accepted { was_sealed: None, set_aside: None }) };
    let dir = config.data.journal_dir();
    let readable = journal::recover_readable(&dir, boot_id(), books.cursors(), books.floors())?;
    let records: Vec<_> = readable.records.into_iter().filter(|handed| handed.record().is_ok()).collect();
    store.recover(&mut books, &records, now(), |_| false)?;
    // Sequences that were ever used name exchanges for ever, so none is used again.
    let mark = mark.ok().flatten();
    let mut last = readable.last;
    for (shard, reached) in mark.iter().flat_map(|mark| &mark.shards) {
        let last = last.entry(*shard).or_default();
        *last = (*last).max(reached.synced).max(reached.written);
    }
    store.put_places(&last)?;
    let set_aside = set_journals_aside(config)?;
    begin_marks(config, &store, &last, mark.as_ref())?;
    Ok(Accepted { was_sealed: Some(was_sealed), set_aside })
}

/// Where the journals went; `None` where there were none.
fn set_journals_aside(config: &Config) -> anyhow::Result<Option<PathBuf>> {
    let dir = config.data.journal_dir();
    let mut name = dir.clone().into_os_string();
    name.push(format!(".set-aside-{}", now().as_seconds()));
    let aside = PathBuf::from(name);
    match std::fs::rename(&dir, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be renamed", dir.display())),
    }
}

fn read_mark(config: &Config) -> anyhow::Result<Option<Mark>> {
    let anchor = config.data.anchor_file();
    marks::read(&anchor)
        .with_context(|| format!("sealed: the anchor {} cannot be used; {ACCEPT}", anchor.display()))
}

fn read_journals(config: &Config, books: &Books, boot: [u8; 16]) -> anyhow::Result<Recovered> {
    Ok(journal::recover(&config.data.journal_dir(), boot, books.cursors(), books.floors())?)
}

/// Refuses a store and journals that are behind the mark (rule R4).
fn judge(
    config: &Config,
    store: &Store,
    books: &Books,
    recovered: &Recovered,
    mark: Option<&Mark>,
) -> anyhow::Result<()> {
    let anchor = config.data.anchor_file();
    let found = Found {
        store: store.id()?,
        boot: boot_id(),
        store_sequence: store.sequence(),
        shards: recovered.reached.clone(),
    };
    match mark {
        Some(mark) => mark.judge(&found).map_err(|behind| {
            anyhow!(
                "sealed: {behind}, says the anchor {}: this is an older copy, or it was damaged; put the newest \
                 back, or {ACCEPT}",
                anchor.display()
            )
        })?,
        // A first start that was cut has nothing yet that an older copy could lack.
        None if store.keys()?.is_empty() && books.is_empty() => {}
        None => bail!("sealed: the anchor {} is missing; put it back, or {ACCEPT}", anchor.display()),
    }
    if let Some(handed) = recovered.records.iter().find(|handed| handed.record().is_err()) {
        bail!(
            "sealed: record {} of the journal of worker {} cannot be read: it is newer than this program or damaged; \
             {ACCEPT}",
            handed.sequence,
            handed.shard
        );
    }
    Ok(())
}

fn begin_marks(
    config: &Config,
    store: &Store,
    last: &BTreeMap<u16, u64>,
    mark: Option<&Mark>,
) -> anyhow::Result<Arc<Marks>> {
    let reached = |last: &u64| Reached { synced: *last, written: *last };
    let mark = Mark {
        number: mark.map_or(0, |mark| mark.number),
        store: store.id()?,
        boot: boot_id(),
        store_sequence: store.sequence(),
        shards: last.iter().map(|(shard, last)| (*shard, reached(last))).collect(),
    };
    let anchor = config.data.anchor_file();
    let marks = Marks::open(&anchor, mark)
        .with_context(|| format!("data.anchor_file {} cannot be written", anchor.display()))?;
    Ok(Arc::new(marks))
}

/// The kernel's number of this boot; zeros where it gives none, which only makes checks laxer.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or_default().to_be_bytes()
}

fn now() -> UnixMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
