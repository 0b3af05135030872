//! `[requests]`: what the whole installation may send.

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Beside the month it is counted in a word of 64 bits.
const MONTHLY_MAX_MAX: u64 = (1 << 40) - 1;

/// `[requests]`: what all keys together may send.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Requests {
    /// The most requests that are sent to vendors in a UTC month; absent: as many as come.
    pub monthly_max: Option<u64>,
}

pub(super) fn check(requests: &Requests) -> Result<(), ConfigError> {
    match requests.monthly_max {
        Some(1..=MONTHLY_MAX_MAX) | None => Ok(()),
        Some(most) => Err(ConfigError::value(
            "requests.monthly_max",
            format!(
                "must be between 1 and {MONTHLY_MAX_MAX} requests, not {most}; leave it out for no quota"
            ),
        )),
    }
}
