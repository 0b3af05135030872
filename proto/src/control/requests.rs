//! How many requests the installation has sent this month.

use serde::{Deserialize, Serialize};

/// The quota of the month, where there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestsView {
    /// The UTC month that is counted, such as `2026-11`.
    pub month: String,
    /// Requests that were sent in it, or are about to be.
    pub sent: u64,
    /// The most that may be.
    pub monthly_max: u64,
    /// When the next month begins, RFC 3339.
    pub resets_at: String,
}
