//! Vendors and their credentials, which go in and never out (rule P2).

use serde::{Deserialize, Serialize};

use crate::secret::SecretText;

/// A credential for one of a vendor's accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialSpec {
    /// A configured vendor.
    pub vendor: String,
    /// 1 to 64 of `a-z 0-9 _ -`.
    pub account: String,
    /// The vendor's secret.
    pub credential: SecretText,
    /// Refuse it where the account is not as expected; absent: whatever it is.
    pub only: Option<Only>,
}

/// What is expected of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Only {
    /// There is none of this name.
    New,
    /// There is one.
    Existing,
}

/// A vendor as operators see it: never its secrets (rule P2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VendorView {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub base_url: String,
    /// Its accounts, by name.
    pub accounts: Vec<AccountView>,
}

/// One of a vendor's accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountView {
    /// Its name.
    pub name: String,
    /// Counts its credentials.
    pub version: u32,
}

/// A credential that was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialSet {
    /// The vendor.
    pub vendor: String,
    /// The account.
    pub account: String,
    /// Counts its credentials: 1 is the first.
    pub version: u32,
    /// The workers that did not answer in time: it is durable, and they may still send what they had begun with the
    /// one before.
    pub late_workers: Vec<usize>,
}
