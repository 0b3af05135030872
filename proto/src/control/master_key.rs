//! Another master key for the same store.

use serde::{Deserialize, Serialize};

/// A master key that was replaced. Ids are the first eight digits of a check value, which says nothing of the key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterKeyRotated {
    /// The id of the key before.
    pub from: String,
    /// The id of the key from now on.
    pub to: String,
    /// How many credentials' data keys were wrapped anew.
    pub credentials: usize,
    /// Where the key before is kept, for copies of the store that are older than this; `None`: with the operator.
    pub kept: Option<String>,
    /// What is left to do, and is done by the next start at the latest.
    pub pending: Option<String>,
}
