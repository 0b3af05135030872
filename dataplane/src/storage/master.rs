//! What a master key seals, and all of it under another one: in one write, so that it is always under one key.

use std::fmt;

use super::batch::{Batch, Family};
use super::writer::Wal;
use super::{Store, StoreError, StoredCredential, format};
use crate::seal::{MasterKey, SealError};

/// Tells the master key that everything is sealed under.
const MASTER_CHECK: &[u8] = b"master_check";

/// What hashes vault keys, sealed; there is none before the first rotation.
const DIGEST_KEY: &[u8] = b"digest_key";

/// Why nothing was sealed anew.
#[derive(Debug)]
pub(crate) enum NotRotated {
    /// It cannot be read.
    Store(StoreError),
    /// It cannot be opened or sealed.
    Seal(SealError),
}

impl fmt::Display for NotRotated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotRotated::Store(error) => error.fmt(f),
            NotRotated::Seal(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for NotRotated {}

impl From<StoreError> for NotRotated {
    fn from(error: StoreError) -> NotRotated {
        NotRotated::Store(error)
    }
}

impl From<SealError> for NotRotated {
    fn from(error: SealError) -> NotRotated {
        NotRotated::Seal(error)
    }
}

/// Everything that is sealed, under another master key.
pub(crate) struct Rewrapped {
    /// How many credentials.
    pub(crate) credentials: usize,
    batch: Batch,
}

impl Rewrapped {
    pub(super) fn into_batch(self) -> Batch {
        self.batch
    }
}

impl Store {
    /// What tells the master key the store was made with; `None` before the first start is done.
    pub(crate) fn master_check(&self) -> Result<Option<[u8; 16]>, StoreError> {
        let value = self.get(Family::Meta, MASTER_CHECK)?;
        value
            .map(|value| value.try_into().map_err(|_| StoreError::DamagedEntry(Family::Meta.name())))
            .transpose()
    }

    /// Stores what [`Store::master_check`] reads; on disk when it returns.
    pub(crate) fn put_master_check(&self, check: &[u8; 16]) -> Result<(), StoreError> {
        self.put(Family::Meta, MASTER_CHECK, check)
    }

    /// What [`MasterKey::with_digest_key`] takes.
    pub(crate) fn digest_key(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.get(Family::Meta, DIGEST_KEY)
    }

    /// Everything that `before` seals, under `new`; writes nothing.
    pub(crate) fn rewrap(
        &self,
        before: &MasterKey,
        new: MasterKey,
    ) -> Result<(MasterKey, Rewrapped), NotRotated> {
        let (new, digest_key) = new.succeed(before)?;
        let decode = |key: &[u8], value: &[u8]| {
            Some((format::decode_credential_key(key)?, format::decode_credential(value)?))
        };
        let mut batch = Batch::default();
        batch.put(Family::Meta, MASTER_CHECK, &new.check_value());
        batch.put(Family::Meta, DIGEST_KEY, &digest_key);
        let all = self.read_all(Family::Credentials, decode)?;
        for ((vendor, account), StoredCredential { version, sealed }) in &all {
            let sealed = new.rewrap(before, (vendor, account, *version), sealed)?;
            let credential = StoredCredential { version: *version, sealed };
            let key = format::credential_key(vendor, account);
            batch.put(Family::Credentials, &key, &format::encode_credential(&credential));
        }
        Ok((new, Rewrapped { credentials: all.len(), batch }))
    }

    /// Stores all of it or nothing; on disk when it returns.
    pub(crate) fn put_rewrapped(&self, rewrapped: Rewrapped) -> Result<(), StoreError> {
        self.write(&rewrapped.batch, Wal::Synced)
    }
}
