//! `[audit]`: what a query of the audit may use.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// `[audit]`: what a query of the audit may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// The longest a query may run, in seconds.
    pub query_timeout_s: u64,
    /// The most rows of one answer; what is beyond them is left out, and the answer says so.
    pub query_rows_max: u64,
    /// The most memory that all running queries may have together, in bytes.
    pub query_memory_bytes_max: u64,
    /// The most that all running queries may put aside in temporary files, in bytes.
    pub query_temp_bytes_max: u64,
}

impl Default for Audit {
    fn default() -> Audit {
        Audit {
            query_timeout_s: 10,
            query_rows_max: 10_000,
            query_memory_bytes_max: 64 * 1024 * 1024,
            query_temp_bytes_max: 1024 * 1024 * 1024,
        }
    }
}

impl Audit {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        const MIB: u64 = 1024 * 1024;
        for (key, value, least, most, unit) in [
            // The admin API cuts a connection on which nothing is answered for a minute.
            ("query_timeout_s", self.query_timeout_s, 1, 50, "seconds"),
            ("query_rows_max", self.query_rows_max, 1, 1_000_000, "rows"),
            ("query_memory_bytes_max", self.query_memory_bytes_max, 16 * MIB, 16 * 1024 * MIB, "bytes"),
            ("query_temp_bytes_max", self.query_temp_bytes_max, 0, 1024 * 1024 * MIB, "bytes"),
        ] {
            if !(least..=most).contains(&value) {
                return Err(ConfigError::value(
                    format!("audit.{key}"),
                    format!("must be between {least} and {most} {unit}, not {value}"),
                ));
            }
        }
        Ok(())
    }
}
