//! Why the store cannot be used.

use std::fmt;
use std::path::PathBuf;

use super::format::SCHEMA;

/// Why the store cannot be opened, read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreError {
    /// Another process has it open for writing.
    Locked(PathBuf),
    /// The directory cannot be made, read or written, or its disk is full.
    Unusable {
        /// The store's directory.
        path: PathBuf,
        /// The operating system's or RocksDB's words.
        reason: String,
    },
    /// Files are damaged or missing.
    Damaged {
        /// The store's directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Made by another version of keybrake.
    Schema {
        /// The version it has.
        found: String,
    },
    /// An entry of this column family is not one that this program wrote.
    DamagedEntry(&'static str),
    /// A read or a write failed while the store was open.
    Io(String),
    /// Too many key writes wait.
    Busy,
    /// The key was revoked meanwhile: nothing of it is written over that.
    Revoked,
    /// The storage thread has ended.
    Stopped,
    /// The storage thread ended and the disk did not take what was queued.
    NotWritten {
        /// Audit rows that only the journals have: the next start enters them.
        rows: usize,
    },
}

impl StoreError {
    pub(super) fn io(error: rocksdb::Error) -> StoreError {
        StoreError::Io(error.into_string())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Locked(path) => write!(
                f,
                "the store {} is in use by another keybrake-dataplane; stop that one or set another data.dir",
                path.display()
            ),
            StoreError::Unusable { path, reason } => {
                write!(
                    f,
                    "cannot use the store {}: {reason}; check its permissions and the disk",
                    path.display()
                )
            }
            StoreError::Damaged { path, reason } => write!(
                f,
                "sealed: the store {} is damaged: {reason}; restore it from a backup",
                path.display()
            ),
            StoreError::Schema { found } => write!(
                f,
                "the store has schema version {found:?} and this program reads {SCHEMA:?}; run the keybrake that \
                 made it"
            ),
            StoreError::DamagedEntry(family) => write!(
                f,
                "sealed: an entry in {family} of the store is damaged or newer than this program; restore the \
                 store from a backup or run a newer keybrake"
            ),
            StoreError::Io(reason) => {
                write!(f, "the store cannot be read or written: {reason}; check the disk")
            }
            StoreError::Revoked => f.write_str("the key was revoked meanwhile"),
            StoreError::Busy => f.write_str("too many key changes wait for the disk; try again"),
            StoreError::Stopped => f.write_str("the storage thread has stopped; restart the dataplane"),
            StoreError::NotWritten { rows } => {
                write!(
                    f,
                    "the disk did not take the last {rows} audit rows before the process stopped; the journals have \
                     them for the next start"
                )
            }
        }
    }
}

impl std::error::Error for StoreError {}
