//! Opening RocksDB: its options, its column families, and what can be wrong with its directory.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use ring::rand::{SecureRandom as _, SystemRandom};
use rocksdb::{ColumnFamilyDescriptor, DB, DBCompressionType, ErrorKind, IteratorMode, LogLevel, Options};

use super::batch::{Batch, Family};
use super::format::{SCHEMA, SCHEMAS_BEFORE};
use super::writer::Wal;
use super::{STORE_ID, Store, StoreError};

/// The column family that RocksDB always has. Its memtable counts too: log files are allocated as
/// long as the largest.
const UNUSED: &str = "default";

const SCHEMA_KEY: &[u8] = b"schema";

/// Four of them are the 64 MiB that audit rows may take in memory.
const AUDIT_MEMTABLE_BYTES: usize = 16 * 1024 * 1024;
const AUDIT_MEMTABLES_MAX: i32 = 4;
const OTHER_MEMTABLE_BYTES: usize = 2 * 1024 * 1024;
const OTHER_MEMTABLES_MAX: i32 = 2;

/// Beyond it the families that hold old log files back are written out.
const WAL_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// RocksDB's own log: a few small files.
const LOG_FILES_MAX: usize = 3;
const LOG_FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Descriptors are for connections.
const OPEN_FILES_MAX: i32 = 256;

/// Written pages are handed to the disk as they come, so that a synced key write does not wait for
/// megabytes of rows before it.
const BYTES_PER_SYNC: u64 = 512 * 1024;

/// Opens the store in `dir`, or makes it.
pub(super) fn open(dir: &Path) -> Result<Store, StoreError> {
    let unusable =
        |error: io::Error| StoreError::Unusable { path: dir.to_owned(), reason: error.to_string() };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let exists = dir.join("CURRENT").try_exists().map_err(unusable)?;
    // RocksDB would start an empty store over the files, and every cap would be unspent.
    if !exists && has_files_of_a_store(dir).map_err(unusable)? {
        let reason = "the file CURRENT is missing".to_owned();
        return Err(StoreError::Damaged { path: dir.to_owned(), reason });
    }
    let options = options(exists);
    let mut names =
        if exists { DB::list_cf(&options, dir).map_err(|error| open_error(dir, error))? } else { Vec::new() };
    // What a newer version has beyond these must be opened too, to read which version it is.
    names.retain(|name| name != UNUSED && Family::ALL.iter().all(|family| family.name() != name));
    let known = Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family)));
    let others = names.into_iter().chain([UNUSED.to_owned()]);
    let others = others.map(|name| ColumnFamilyDescriptor::new(name, small_options()));
    let db = DB::open_cf_descriptors(&options, dir, known.into_iter().chain(others))
        .map_err(|error| open_error(dir, error))?;
    let store = Store { db, marks: None };
    check_schema(&store)?;
    Ok(store)
}

/// Opens the store in `dir` for reading.
pub(super) fn read(dir: &Path) -> Result<Store, StoreError> {
    let mut options = options(true);
    options.create_missing_column_families(false);
    let names = DB::list_cf(&options, dir).map_err(|error| open_error(dir, error))?;
    let families = names.into_iter().map(|name| ColumnFamilyDescriptor::new(name, small_options()));
    let db = DB::open_cf_descriptors_read_only(&options, dir, families, false)
        .map_err(|error| open_error(dir, error))?;
    Ok(Store { db, marks: None })
}

fn options(exists: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(!exists);
    options.create_missing_column_families(true);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_bytes_per_sync(BYTES_PER_SYNC);
    options.set_wal_bytes_per_sync(BYTES_PER_SYNC);
    options.set_keep_log_file_num(LOG_FILES_MAX);
    options.set_max_log_file_size(LOG_FILE_BYTES_MAX);
    options.set_log_level(LogLevel::Warn);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_stats_dump_period_sec(0);
    options
}

fn family_options(family: Family) -> Options {
    match family {
        Family::Audit => memtable_options(AUDIT_MEMTABLE_BYTES, AUDIT_MEMTABLES_MAX),
        Family::Keys
        | Family::Credentials
        | Family::Spend
        | Family::Objects
        | Family::Intents
        | Family::Doubts
        | Family::Idempotency
        | Family::Meta => small_options(),
    }
}

fn small_options() -> Options {
    memtable_options(OTHER_MEMTABLE_BYTES, OTHER_MEMTABLES_MAX)
}

fn memtable_options(bytes: usize, number_max: i32) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(bytes);
    options.set_max_write_buffer_number(number_max);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_bottommost_compression_type(DBCompressionType::Zstd);
    options
}

/// Tables or logs. A first start that was cut leaves neither, and may be repeated.
fn has_files_of_a_store(dir: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let name = Path::new(&name);
        if name.extension() == Some(OsStr::new("sst")) || name.extension() == Some(OsStr::new("log")) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open_error(dir: &Path, error: rocksdb::Error) -> StoreError {
    let kind = error.kind();
    let (path, reason) = (dir.to_owned(), error.into_string());
    // RocksDB's words for a lock of another process and of this one (env/fs_posix.cc).
    if reason.contains("While lock file") || reason.contains("lock hold by current process") {
        StoreError::Locked(path)
    } else if kind == ErrorKind::Corruption || kind == ErrorKind::InvalidArgument {
        StoreError::Damaged { path, reason }
    } else {
        StoreError::Unusable { path, reason }
    }
}

fn check_schema(store: &Store) -> Result<(), StoreError> {
    match store.get(Family::Meta, SCHEMA_KEY)? {
        Some(found) if found == SCHEMA.as_bytes() => Ok(()),
        Some(found) if SCHEMAS_BEFORE.iter().any(|schema| found == schema.as_bytes()) => begin(store),
        Some(found) => Err(StoreError::Schema { found: String::from_utf8_lossy(&found).into_owned() }),
        None => {
            for family in Family::ALL {
                if store.db.iterator_cf(store.family(family)?, IteratorMode::Start).next().is_some() {
                    return Err(StoreError::DamagedEntry(Family::Meta.name()));
                }
            }
            begin(store)
        }
    }
}

/// Gives the store its number and its schema, in one write.
fn begin(store: &Store) -> Result<(), StoreError> {
    let mut id = [0; 16];
    let random = SystemRandom::new().fill(&mut id);
    random.map_err(|_| StoreError::Io("the system gives no random bytes".to_owned()))?;
    let mut batch = Batch::default();
    batch.put(Family::Meta, STORE_ID, &id);
    batch.put(Family::Meta, SCHEMA_KEY, SCHEMA.as_bytes());
    store.write(&batch, Wal::Synced)
}
