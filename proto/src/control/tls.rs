//! TLS towards agents, as operators see it.

use serde::{Deserialize, Serialize};

use crate::time::UnixMicros;

/// The certificate that agents are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsView {
    /// Until when it is valid; `None` where that cannot be read.
    pub expires_at: Option<UnixMicros>,
    /// Its files have changed and cannot be used: what was read before is in force.
    pub failing: bool,
}
