//! Reads audit rows from the dataplane's RocksDB, as a *secondary* instance.
//!
//! A secondary takes no lock and writes nothing into the primary's directory: no query can slow a
//! shard. It is stale for what is overwritten, so only the audit, which is append-only, is read so.

mod row;
mod snapshot;

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use keybrake_proto::audit::AuditRow;
use keybrake_proto::key::KeyId;
use keybrake_proto::time::UnixMicros;
use rocksdb::{ColumnFamilyDescriptor, DB, Options};

pub(crate) use row::{COLUMNS, Row, write_csv_cell};
pub(crate) use snapshot::{Amendment, Snapshot, Step};

/// The column family of the rows: commit sequence, big-endian, to [`AuditRow::encode`]'s bytes.
pub(crate) const AUDIT_FAMILY: &str = "audit";

/// The most rows of one page.
pub(crate) const PAGE_ROWS_MAX: usize = 1000;

/// The most rows one page looks at, so that no filter makes a request long.
const LOOKED_AT_MAX: usize = 200_000;

/// How long after its start a row may be committed, in seconds; see [`Query::ends_at`].
const COMMIT_DELAY_S_MAX: u64 = 2 * 3600;

/// Which verdicts a query wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// `allowed`.
    Allowed,
    /// Every code but `allowed`.
    Denied,
    /// This code.
    Code(String),
}

/// What is asked for. Absent filters let everything pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Query {
    /// Rows of this key.
    pub(crate) vault_key_id: Option<KeyId>,
    /// Rows that started at this instant or later.
    pub(crate) since: Option<UnixMicros>,
    /// Rows that started before this instant.
    pub(crate) until: Option<UnixMicros>,
    /// Rows with this verdict.
    pub(crate) verdict: Option<Verdict>,
    /// The most rows, at most [`PAGE_ROWS_MAX`].
    pub(crate) rows_max: usize,
    /// Rows committed before this sequence: the cursor of the page before.
    pub(crate) after: Option<u64>,
}

/// Rows, newest first in the order of their commits.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    /// The rows.
    pub(crate) rows: Vec<Row>,
    /// The cursor of the next page; absent where nothing is left to look at.
    pub(crate) next: Option<u64>,
    /// Rows that were looked at and cannot be read: damaged, or of a newer version.
    pub(crate) unreadable: u64,
}

/// Why history cannot be read.
#[derive(Debug)]
pub(crate) enum HistoryError {
    /// RocksDB's reason.
    Store(rocksdb::Error),
    /// The secondary's own directory cannot be made.
    Directory(String),
    /// Who asked has had enough, or time was up.
    Stopped,
}

impl fmt::Display for HistoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HistoryError::Store(error) => write!(
                f,
                "the audit cannot be read ({error}); try again, and run both processes as the same user"
            ),
            HistoryError::Directory(problem) => f.write_str(problem),
            HistoryError::Stopped => {
                f.write_str("stopped before the audit was read; ask for less, or try again")
            }
        }
    }
}

impl std::error::Error for HistoryError {}

impl From<rocksdb::Error> for HistoryError {
    fn from(error: rocksdb::Error) -> HistoryError {
        HistoryError::Store(error)
    }
}

/// The audit of one data directory. Its calls block: run them off the async workers.
pub(crate) struct History {
    primary: PathBuf,
    secondary: PathBuf,
    open: Mutex<Option<Opened>>,
}

/// A secondary and the store it belongs to.
struct Opened {
    store: Arc<DB>,
    identity: Identity,
    amendments: Arc<snapshot::Amendments>,
}

/// A store that has caught up, and what is known of its amendments.
type CaughtUp = (Arc<DB>, Arc<snapshot::Amendments>);

/// Which store lies in a directory: RocksDB's own id of it, and the file that holds the id, which is
/// another one once a backup was copied over the store.
///
/// Catching up with a store that took another's place finds nothing new and reports nothing.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    id: Vec<u8>,
    inode: u64,
}

impl History {
    /// The audit in the store `primary`; `secondary` is this process's own directory.
    pub(crate) fn new(primary: PathBuf, secondary: PathBuf) -> History {
        History { primary, secondary, open: Mutex::new(None) }
    }

    /// One page; an empty one where there is no store yet.
    pub(crate) fn read(&self, query: &Query) -> Result<Page, HistoryError> {
        self.with_store(|store| scan(store, query)).map(Option::unwrap_or_default)
    }

    /// The newest commit sequence; `None` where nothing was committed yet.
    pub(crate) fn newest(&self) -> Result<Option<u64>, HistoryError> {
        let newest = self.with_store(|store| {
            let mut rows = store.raw_iterator_cf(family(store)?);
            rows.seek_to_last();
            rows.status()?;
            Ok(rows.key().and_then(sequence))
        })?;
        Ok(newest.flatten())
    }

    /// Runs `read` on a store that has caught up with the primary, and once more on a store opened
    /// anew where that failed: files a secondary knew may be gone.
    fn with_store<T>(
        &self,
        read: impl Fn(&DB) -> Result<T, HistoryError>,
    ) -> Result<Option<T>, HistoryError> {
        let Some(store) = self.caught_up()? else { return Ok(None) };
        match read(&store) {
            Ok(found) => Ok(Some(found)),
            Err(_) => {
                self.lock().take();
                let Some(store) = self.caught_up()? else { return Ok(None) };
                read(&store).map(Some)
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Opened>> {
        // What a panicked reader leaves here is an open store or none: both are whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caught_up(&self) -> Result<Option<Arc<DB>>, HistoryError> {
        Ok(self.opened()?.map(|opened| opened.0))
    }

    /// As [`History::caught_up`], with what is known of the store's amendments.
    fn opened(&self) -> Result<Option<CaughtUp>, HistoryError> {
        let mut open = self.lock();
        let identity = self.identity();
        if let Some(opened) = open.as_ref() {
            let is_same = identity.as_ref() == Some(&opened.identity);
            if is_same && opened.store.try_catch_up_with_primary().is_ok() {
                return Ok(Some((Arc::clone(&opened.store), Arc::clone(&opened.amendments))));
            }
            *open = None;
        }
        let Some(identity) = identity else { return Ok(None) };
        crate::token::make_dir(&self.secondary)
            .map_err(|failure| HistoryError::Directory(failure.to_string()))?;
        let store = Arc::new(self.open_secondary()?);
        let amendments = Arc::new(snapshot::Amendments::default());
        *open = Some(Opened { store: Arc::clone(&store), identity, amendments: Arc::clone(&amendments) });
        Ok(Some((store, amendments)))
    }

    /// `None` where there is no store, or none that is finished being made.
    fn identity(&self) -> Option<Identity> {
        let path = self.primary.join("IDENTITY");
        let id = std::fs::read(&path).ok()?;
        let inode = std::fs::metadata(&path).ok()?.ino();
        self.primary.join("CURRENT").exists().then_some(Identity { id, inode })
    }

    fn open_secondary(&self) -> Result<DB, rocksdb::Error> {
        let mut options = Options::default();
        // The primary deletes files; an open descriptor keeps them readable.
        options.set_max_open_files(-1);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1024 * 1024);
        let families =
            ["default", AUDIT_FAMILY].map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
        DB::open_cf_descriptors_as_secondary(&options, &self.primary, &self.secondary, families)
    }
}

fn family(store: &DB) -> Result<&rocksdb::ColumnFamily, HistoryError> {
    let missing = || HistoryError::Directory("the store has no audit; it is not keybrake's".to_owned());
    store.cf_handle(AUDIT_FAMILY).ok_or_else(missing)
}

fn sequence(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

impl Query {
    /// Whether no row committed before this one can be wanted any more.
    ///
    /// Rows lie in the order of their commits, not of their starts: a row that started after `since`
    /// may have been committed before one that started earlier and took long. So the first row older
    /// than `since` does not end the scan. But an exchange cannot take longer than its deadlines,
    /// which are far below two hours in sum: once a row is two hours older than `since`, everything
    /// committed before it had started before `since`. (Rows that a restart commits late follow all
    /// rows of the run before, so they keep the rule.)
    fn ends_at(&self, row: &AuditRow<'_>) -> bool {
        self.since.is_some_and(|since| row.ts.plus_seconds(COMMIT_DELAY_S_MAX) < since)
    }

    fn wants(&self, row: &AuditRow<'_>) -> bool {
        let allowed = row.policy_check_result == "allowed";
        self.vault_key_id.is_none_or(|id| row.vault_key_id == Some(id))
            && self.since.is_none_or(|since| row.ts >= since)
            && self.until.is_none_or(|until| row.ts < until)
            && self.verdict.as_ref().is_none_or(|verdict| match verdict {
                Verdict::Allowed => allowed,
                Verdict::Denied => !allowed,
                Verdict::Code(code) => row.policy_check_result == code,
            })
    }
}

fn scan(store: &DB, query: &Query) -> Result<Page, HistoryError> {
    let mut stored = store.raw_iterator_cf(family(store)?);
    match query.after {
        None => stored.seek_to_last(),
        Some(after) => match after.checked_sub(1) {
            Some(last) => stored.seek_for_prev(last.to_be_bytes()),
            None => return Ok(Page::default()),
        },
    }
    let mut page = Page::default();
    let mut looked_at = 0_usize;
    let mut last_seen = None;
    while let Some((key, bytes)) = stored.item() {
        if page.rows.len() >= query.rows_max || looked_at >= LOOKED_AT_MAX {
            page.next = last_seen;
            break;
        }
        looked_at = looked_at.saturating_add(1);
        last_seen = sequence(key).or(last_seen);
        match (sequence(key), AuditRow::decode(bytes)) {
            (Some(_), Ok(row)) if query.ends_at(&row) => break,
            (Some(sequence), Ok(row)) => {
                if query.wants(&row) {
                    page.rows.push(Row::new(sequence, &row));
                }
            }
            (None, _) | (_, Err(_)) => page.unreadable = page.unreadable.saturating_add(1),
        }
        stored.prev();
    }
    stored.status()?;
    Ok(page)
}

#[cfg(test)]
pub(crate) mod tests;
