//! What survives a restart: keys, credentials, spend and audit rows, in RocksDB.
//!
//! [`Store`] is opened and read at the start, then handed to the one thread that writes
//! ([`start`]). Nothing here decides: rows and bookings come ready from the shards. RocksDB is
//! never on the way of a request; a shard only asks [`StorageHandle::has_room`].

mod batch;
mod books;
mod error;
mod format;
mod handle;
mod open;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use error::StoreError;
pub(crate) use format::{Spend, StoredCredential};
pub(crate) use handle::{StorageHandle, start};

use std::path::Path;

use keybrake_proto::key::KeyId;
use rocksdb::{ColumnFamily, DB, IteratorMode, WriteBatch, WriteOptions};

use self::batch::{Batch, Family};
use self::writer::{Sink, Wal};
use crate::registry::KeyRecord;

const MASTER_CHECK: &[u8] = b"master_check";

/// The open store; no other process has it open for writing.
pub(crate) struct Store {
    db: DB,
}

impl Store {
    /// Opens the store in `dir`, or makes it.
    pub(crate) fn open(dir: &Path) -> Result<Store, StoreError> {
        open::open(dir)
    }

    /// Every key ever issued, revoked ones too.
    pub(crate) fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.read_all(Family::Keys, format::decode_key)
    }

    /// Stores `records` over those with their ids, all or none; on disk when it returns.
    pub(crate) fn put_keys(&self, records: &[KeyRecord]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for record in records {
            batch.put(Family::Keys, record.id.as_bytes(), &format::encode_key(record)?);
        }
        self.write(&batch, Wal::Synced)
    }

    /// What every key has committed, on the last day it committed anything.
    pub(crate) fn spend(&self) -> Result<Vec<(KeyId, Spend)>, StoreError> {
        self.read_all(Family::Spend, format::decode_spend)
    }

    /// The sealed credential of a vendor's account.
    pub(crate) fn credential(
        &self,
        vendor: &str,
        account: &str,
    ) -> Result<Option<StoredCredential>, StoreError> {
        let value = self.read(Family::Credentials, &format::credential_key(vendor, account))?;
        value
            .map(|value| {
                format::decode_credential(&value).ok_or(StoreError::DamagedEntry(Family::Credentials.name()))
            })
            .transpose()
    }

    /// Stores a sealed credential over the one before; on disk when it returns.
    pub(crate) fn put_credential(
        &self,
        vendor: &str,
        account: &str,
        credential: &StoredCredential,
    ) -> Result<(), StoreError> {
        let key = format::credential_key(vendor, account);
        self.put(Family::Credentials, &key, &format::encode_credential(credential))
    }

    /// What tells the master key the store was made with; `None` before the first start is done.
    pub(crate) fn master_check(&self) -> Result<Option<[u8; 16]>, StoreError> {
        let value = self.read(Family::Meta, MASTER_CHECK)?;
        value
            .map(|value| value.try_into().map_err(|_| StoreError::DamagedEntry(Family::Meta.name())))
            .transpose()
    }

    /// Stores what [`Store::master_check`] reads; on disk when it returns.
    pub(crate) fn put_master_check(&self, check: &[u8; 16]) -> Result<(), StoreError> {
        self.put(Family::Meta, MASTER_CHECK, check)
    }

    /// The sequence of the next audit row; 1 in an empty store.
    pub(crate) fn next_audit_sequence(&self) -> Result<u64, StoreError> {
        let Some(last) = self.db.iterator_cf(self.family(Family::Audit)?, IteratorMode::End).next() else {
            return Ok(1);
        };
        let (key, _) = last.map_err(StoreError::io)?;
        let last = format::decode_sequence(&key).ok_or(StoreError::DamagedEntry(Family::Audit.name()))?;
        Ok(last.saturating_add(1))
    }

    fn family(&self, family: Family) -> Result<&ColumnFamily, StoreError> {
        self.db.cf_handle(family.name()).ok_or(StoreError::DamagedEntry(family.name()))
    }

    fn read(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.db.get_cf(self.family(family)?, key).map_err(StoreError::io)
    }

    fn read_all<T>(
        &self,
        family: Family,
        decode: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, StoreError> {
        let entries = self.db.iterator_cf(self.family(family)?, IteratorMode::Start);
        entries
            .map(|entry| {
                let (key, value) = entry.map_err(StoreError::io)?;
                decode(&key, &value).ok_or(StoreError::DamagedEntry(family.name()))
            })
            .collect()
    }

    fn put(&self, family: Family, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.put(family, key, value);
        self.write(&batch, Wal::Synced)
    }

    fn write(&self, batch: &Batch, wal: Wal) -> Result<(), StoreError> {
        let mut puts = WriteBatch::default();
        for (family, key, value) in batch.puts() {
            puts.put_cf(self.family(family)?, key, value);
        }
        let mut options = WriteOptions::default();
        options.set_sync(wal == Wal::Synced);
        self.db.write_opt(puts, &options).map_err(StoreError::io)
    }
}

impl Sink for Store {
    fn commit(&mut self, batch: &Batch, wal: Wal) -> Result<(), StoreError> {
        self.write(batch, wal)
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.db.flush_wal(true).map_err(StoreError::io)
    }
}
