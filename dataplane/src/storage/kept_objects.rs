//! What vault keys counted for the vendor's objects, in the store.

use keybrake_proto::catalog::amount::{Counted, ObjectId};
use keybrake_proto::key::KeyId;
use keybrake_proto::time::UnixMicros;

use super::batch::{Batch, Family};
use super::format::{encode_object, object_key};
use crate::objects::Table;

/// One object of a vault key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptObject {
    /// The vault key.
    pub(crate) key: KeyId,
    /// The object.
    pub(crate) object: ObjectId,
    /// What it counts.
    pub(crate) counted: Counted,
    /// Since when.
    pub(crate) at: UnixMicros,
}

/// All that the store has.
pub(super) fn table(mut stored: Vec<KeptObject>) -> Table {
    stored.sort_by_key(|kept| kept.at);
    let mut table = Table::default();
    for KeptObject { key, object, counted, .. } in stored {
        table.put(key, object, counted);
    }
    table
}

/// Enters one, and forgets the key's oldest beyond the bound (rule Q17).
pub(super) fn put(table: &mut Table, kept: KeptObject, batch: &mut Batch) {
    batch.put(Family::Objects, &object_key(kept.key, &kept.object), &encode_object(&kept));
    let key = kept.key;
    if let Some(evicted) = table.put(key, kept.object, kept.counted) {
        batch.delete(Family::Objects, &object_key(key, &evicted));
    }
}
