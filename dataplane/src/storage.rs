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
mod kept_objects;
mod key_write;
mod master;
mod open;
mod remembered;
mod resolve;
mod writer;

#[cfg(test)]
pub(crate) mod by_hand;
#[cfg(test)]
mod tests;

pub(crate) use books::{Books, Doubt, Handed, Opening, Running};
pub(crate) use error::StoreError;
pub(crate) use format::{SCHEMA, StoredCredential};
pub(crate) use handle::{StorageHandle, start};
pub(crate) use master::Rewrapped;
pub(crate) use resolve::{NoDoubt, Resolution, Resolved, Verdict};

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use keybrake_proto::audit::AuditRow;
use keybrake_proto::journal::IntentId;
use keybrake_proto::time::UnixMicros;
use rocksdb::{ColumnFamily, DB, Direction, FlushOptions, IteratorMode, WriteBatch, WriteOptions};

use self::batch::{Batch, Change, Family};
use self::books::Stored;
use self::writer::{Sink, Wal};
use crate::marks::{Last, Marks};
use crate::registry::KeyRecord;
use crate::requests::OfMonth;

const STORE_ID: &[u8] = b"store_id";

/// The open store; no other process has it open for writing.
pub(crate) struct Store {
    db: DB,
    /// Told how far the store is; none while it is only read.
    marks: Option<Arc<Marks>>,
}

impl Store {
    /// Opens the store in `dir`, or makes it.
    pub(crate) fn open(dir: &Path) -> Result<Store, StoreError> {
        open::open(dir)
    }

    /// Opens the store that is in `dir` for reading; another process may have it open.
    pub(crate) fn read(dir: &Path) -> Result<Store, StoreError> {
        open::read(dir)
    }

    /// Every key ever issued, revoked ones too.
    pub(crate) fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.read_all(Family::Keys, format::decode_key)
    }

    /// The books as the store has them.
    pub(crate) fn books(&self) -> Result<Books, StoreError> {
        let places = |kind: &'static [u8]| {
            let entries =
                self.db.iterator_cf(self.family(Family::Meta)?, IteratorMode::From(kind, Direction::Forward));
            let mut places = Vec::new();
            for entry in entries {
                let (key, value) = entry.map_err(StoreError::io)?;
                if !key.starts_with(kind) {
                    break;
                }
                let place = format::decode_place(kind, &key, &value);
                places.push(place.ok_or(StoreError::DamagedEntry(Family::Meta.name()))?);
            }
            Ok(places)
        };
        Ok(Books::new(Stored {
            spend: self.read_all(Family::Spend, format::decode_spend)?,
            doubts: self.read_all(Family::Doubts, format::decode_doubt)?,
            open: self.read_all(Family::Intents, format::decode_open)?,
            executed: self.read_all(Family::Idempotency, format::decode_remembered)?,
            objects: self.read_all(Family::Objects, format::decode_object)?,
            cursors: places(format::CURSOR)?,
            floors: places(format::FLOOR)?,
            floor_row: self.floor_row()?,
            sent: self.sent()?,
            next_sequence: self.next_audit_sequence()?,
        }))
    }

    /// Enters what the journals have and the store has not, and ends what a crash left open; on disk
    /// when it returns. Gives how many exchanges that were; those that `runs` says another process runs stay
    /// open.
    pub(crate) fn recover(
        &self,
        books: &mut Books,
        records: &[Handed],
        now: UnixMicros,
        runs: impl Fn(IntentId) -> bool,
    ) -> Result<u64, StoreError> {
        let (batch, open) = self.replay(books, records, now, runs)?;
        self.write(&batch, Wal::Synced)?;
        Ok(open)
    }

    /// As [`Store::recover`] of what nobody runs, without writing it.
    pub(crate) fn rehearse(
        &self,
        books: &mut Books,
        records: &[Handed],
        now: UnixMicros,
    ) -> Result<u64, StoreError> {
        Ok(self.replay(books, records, now, |_| false)?.1)
    }

    fn replay(
        &self,
        books: &mut Books,
        records: &[Handed],
        now: UnixMicros,
        runs: impl Fn(IntentId) -> bool,
    ) -> Result<(Batch, u64), StoreError> {
        let rows = self.ids_of_rows_from(books.floor_row)?;
        Ok(books.recover(records, now, runs, |id| rows.contains(id)))
    }

    fn sent(&self) -> Result<OfMonth, StoreError> {
        let Some(value) = self.get(Family::Meta, format::SENT)? else { return Ok(OfMonth::default()) };
        format::decode_sent(&value).ok_or(StoreError::DamagedEntry(Family::Meta.name()))
    }

    fn floor_row(&self) -> Result<u64, StoreError> {
        let Some(value) = self.get(Family::Meta, format::FLOOR_ROW)? else { return Ok(0) };
        format::decode_sequence(&value).ok_or(StoreError::DamagedEntry(Family::Meta.name()))
    }

    /// The request ids of the audit rows from this sequence on: those of a second, as checkpoints go.
    fn ids_of_rows_from(&self, sequence: u64) -> Result<HashSet<String>, StoreError> {
        let first = format::encode_sequence(sequence);
        let rows =
            self.db.iterator_cf(self.family(Family::Audit)?, IteratorMode::From(&first, Direction::Forward));
        let mut ids = HashSet::new();
        for row in rows {
            let (_, row) = row.map_err(StoreError::io)?;
            if let Ok(row) = AuditRow::decode(&row) {
                ids.insert(row.id.to_owned());
            }
        }
        Ok(ids)
    }

    /// From now on each shard's journal begins behind these records; on disk when it returns.
    pub(crate) fn put_places(&self, last: &BTreeMap<u16, u64>) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for (shard, sequence) in last {
            let sequence = format::encode_sequence(*sequence);
            for kind in [format::CURSOR, format::FLOOR] {
                batch.put(Family::Meta, &format::encode_place(kind, *shard), &sequence);
            }
        }
        self.write(&batch, Wal::Synced)
    }

    /// Stores `records` over those with their ids, all or none; on disk and marked when it returns.
    pub(crate) fn put_keys(&mut self, records: &[KeyRecord]) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        for record in records {
            batch.put(Family::Keys, record.id.as_bytes(), &format::encode_key(record)?);
        }
        self.write(&batch, Wal::Synced)?;
        self.mark()
    }

    /// The number that tells this store from every other; made with it.
    pub(crate) fn id(&self) -> Result<[u8; 16], StoreError> {
        let value = self.get(Family::Meta, STORE_ID)?;
        let damaged = StoreError::DamagedEntry(Family::Meta.name());
        value.and_then(|value| value.try_into().ok()).ok_or(damaged)
    }

    /// RocksDB's own count of writes.
    pub(crate) fn sequence(&self) -> u64 {
        self.db.latest_sequence_number()
    }

    /// From now on each synced write is noted there.
    pub(crate) fn keep_mark(&mut self, marks: Arc<Marks>) {
        self.marks = Some(marks);
    }

    /// The sealed credential of a vendor's account.
    #[cfg(test)]
    pub(crate) fn credential(
        &self,
        vendor: &str,
        account: &str,
    ) -> Result<Option<StoredCredential>, StoreError> {
        let value = self.get(Family::Credentials, &format::credential_key(vendor, account))?;
        value
            .map(|value| {
                format::decode_credential(&value).ok_or(StoreError::DamagedEntry(Family::Credentials.name()))
            })
            .transpose()
    }

    /// Every sealed credential of a vendor, by account.
    pub(crate) fn credentials(&self, vendor: &str) -> Result<Vec<(String, StoredCredential)>, StoreError> {
        let decode = |key: &[u8], value: &[u8]| {
            Some((format::decode_credential_key(key)?, format::decode_credential(value)?))
        };
        let all = self.read_all(Family::Credentials, decode)?;
        let of_vendor = all.into_iter().filter(|((of, _), _)| of == vendor);
        Ok(of_vendor.map(|((_, account), stored)| (account, stored)).collect())
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

    /// The sequence of the next audit row; 1 in an empty store.
    fn next_audit_sequence(&self) -> Result<u64, StoreError> {
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

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
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
        let mut changes = WriteBatch::default();
        for (family, key, change) in batch.changes() {
            match change {
                Change::Put(value) => changes.put_cf(self.family(family)?, key, value),
                Change::Delete => changes.delete_cf(self.family(family)?, key),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(wal == Wal::Synced);
        self.db.write_opt(changes, &options).map_err(StoreError::io)
    }
}

impl Sink for Store {
    fn commit(&mut self, batch: &Batch, wal: Wal) -> Result<(), StoreError> {
        if batch.is_empty() && wal == Wal::Synced {
            return self.db.flush_wal(true).map_err(StoreError::io);
        }
        self.write(batch, wal)
    }

    fn tidy(&mut self) -> Result<(), StoreError> {
        let families = Family::ALL.map(|family| self.family(family));
        let families = families.into_iter().collect::<Result<Vec<_>, _>>()?;
        self.db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(StoreError::io)
    }

    fn mark(&mut self) -> Result<(), StoreError> {
        let Some(marks) = &self.marks else { return Ok(()) };
        let sequence = self.db.latest_sequence_number();
        let noted = marks.note(Last::Synced, |mark| mark.store_sequence = sequence);
        noted.map_err(|error| StoreError::Io(format!("the high-water mark: {error}")))
    }
}
