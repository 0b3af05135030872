//! A shard's records on their way to storage: an intent before the first byte, an outcome after.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use keybrake_proto::audit::AuditRow;
use keybrake_proto::journal::{Booking, IntentId, Record};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::Day;

use crate::storage::StorageHandle;

/// Bytes of a record that hardly ever need a second allocation.
const RECORD_BYTES: usize = 512;

/// The audit cannot take the record, so nothing may be forwarded (I4).
#[derive(Debug)]
pub(crate) struct NoRoom;

/// One shard's records.
pub(crate) struct Journal {
    storage: StorageHandle,
    next: Cell<u64>,
    /// Outcomes that found the queue full. They are of exchanges that were admitted, so they must
    /// not be lost; each connection can add one, which bounds them.
    late: RefCell<VecDeque<Vec<u8>>>,
}

impl Journal {
    /// The records of the shard with this number.
    pub(crate) fn new(storage: StorageHandle, shard: usize) -> Journal {
        // The shard's number in the upper 16 bits: ids are unlike those of every other shard.
        let first = u64::try_from(shard).unwrap_or_default().checked_shl(48).unwrap_or_default();
        Journal { storage, next: Cell::new(first), late: RefCell::default() }
    }

    /// Whether admission may go on.
    pub(crate) fn has_room(&self) -> bool {
        self.late.borrow().is_empty() && self.storage.has_room()
    }

    /// Records that a request is about to be sent.
    pub(crate) fn intent(&self, key: KeyId, day: Day, quote: Micros) -> Result<IntentId, NoRoom> {
        let id = IntentId(self.next.get());
        let record = Record::Intent { id, key, day, quote }.encode(Vec::with_capacity(64));
        self.storage.record(record).map_err(|_| NoRoom)?;
        self.next.set(id.0.saturating_add(1));
        Ok(id)
    }

    /// Records how an exchange ended, or that a request was denied. It is never lost.
    pub(crate) fn outcome(&self, intent: Option<IntentId>, booking: Option<Booking>, row: &AuditRow<'_>) {
        let row = row.encode(Vec::with_capacity(RECORD_BYTES));
        let record = Record::Outcome { intent, booking, row: &row };
        self.late.borrow_mut().push_back(record.encode(Vec::with_capacity(row.len().saturating_add(64))));
        self.retry();
    }

    /// Hands over what waits, oldest first; called on each tick too. `true` when nothing waits any more.
    pub(crate) fn retry(&self) -> bool {
        let mut late = self.late.borrow_mut();
        while let Some(record) = late.pop_front() {
            if let Err(full) = self.storage.record(record) {
                late.push_front(full.0);
                return false;
            }
        }
        true
    }
}
