//! `[requests]`: what the whole installation may send.

use serde::{Deserialize, Serialize};

/// Beside the month it is counted in a word of 64 bits.
pub(super) const MONTHLY_MAX_MAX: u64 = (1 << 40) - 1;

/// `[requests]`: what all keys together may send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Requests {
    /// The most requests that are sent to vendors in a UTC month; absent: as many as come.
    pub monthly_max: Option<u64>,
}
