//! The configuration that is in force, and what became of the file when it was read again.

use serde::{Deserialize, Serialize};

/// What became of the configuration file. Times are RFC 3339.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    /// When what is in force was read.
    pub read_at: String,
    /// Why the file was not taken when it was read last, in one line; `None`: it was.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<String>,
    /// Fields whose value in the file is another one than the one in force, and takes effect at a restart.
    pub needs_restart: Vec<String>,
}

/// The configuration as operators see it: no field of it is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigView {
    /// What became of the file.
    #[serde(flatten)]
    pub state: ConfigState,
    /// The fields that the last reload changed.
    pub changed: Vec<String>,
    /// The workers that did not answer in time: their requests may still be served by what was before.
    pub late_workers: Vec<usize>,
    /// What is in force: every field with its value, as the file and the environment gave it or by default.
    pub config: serde_json::Value,
}
