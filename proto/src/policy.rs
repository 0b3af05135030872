//! What a key may do. A [`Policy`] that exists is valid; the default is deny.

mod attenuate;
mod bounds;
mod change;
pub mod params;
mod rate;
mod restrictions;
mod rule;
mod spec;

pub use attenuate::DEPTH_MAX;
pub use bounds::{IssueBounds, KEYS_BELOW_MAX};
pub use change::KeyChange;
pub use params::{ParamRule, Params};
pub use rate::{Bucket, NotARate, Rate, retry_after_s};
pub use restrictions::Restrictions;
pub use rule::{Rule, RuleError};
pub use spec::{KeySpec, SpecError};

use serde::{Deserialize, Serialize};

use crate::catalog::Call;
use crate::deny::Deny;
use crate::ledger::chain::Limits;
use crate::money::{Micros, usd};
use crate::time::UnixMicros;

/// The vendor account of a key that names none.
pub const DEFAULT_ACCOUNT: &str = "default";

/// Whether this may be the name of a vendor account: 1 to 64 of `a-z 0-9 _ -`.
pub fn is_account_name(name: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(is_allowed)
}

fn default_account() -> String {
    DEFAULT_ACCOUNT.to_owned()
}

fn is_default_account(name: &str) -> bool {
    name == DEFAULT_ACCOUNT
}

/// All a key may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// The vendor the key is for.
    pub vendor: String,
    /// Which of the vendor's accounts it acts on; it never changes.
    #[serde(default = "default_account", skip_serializing_if = "is_default_account")]
    pub account: String,
    /// The operations it may call; never empty.
    pub allowed_endpoints: Vec<Rule>,
    /// The most it may commit per UTC day; `None` is no cap.
    #[serde(with = "usd::option", skip_serializing_if = "Option::is_none", default)]
    pub daily_usd_cap: Option<Micros>,
    /// The most it may commit in its whole life; `None` is no cap.
    #[serde(with = "usd::option", skip_serializing_if = "Option::is_none", default)]
    pub total_usd_cap: Option<Micros>,
    /// The most requests it may send per UTC day, reads included; `None` is no limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub daily_request_budget: Option<u32>,
    /// From this instant on it admits nothing.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at: Option<UnixMicros>,
    /// What it restricts besides.
    #[serde(flatten)]
    pub restrictions: Restrictions,
}

/// Proof that a policy allowed a call. Only [`Policy::permit`] makes one.
#[derive(Debug)]
#[must_use]
pub struct Permit(());

impl Permit {
    /// For reading the object that a permitted call acts on.
    pub fn for_look_up(&self) -> Permit {
        Permit(())
    }
}

impl Policy {
    /// Allows `call` or says which rule of the policy forbids it.
    ///
    /// It looks at the endpoint alone: parameters are judged once the body is there
    /// ([`Params::allow`]), expiry, revocation and the cap are the account's, and whether the vendor is
    /// the key's own is the caller's to have checked.
    pub fn permit(&self, call: &Call<'_>) -> Result<Permit, Deny> {
        if self.allowed_endpoints.iter().any(|rule| rule.allows(call)) {
            Ok(Permit(()))
        } else {
            Err(Deny::Endpoint { escalates: call.operation.is_some_and(|operation| operation.escalates) })
        }
    }

    /// The limits of its account.
    pub fn limits(&self) -> Limits {
        Limits {
            daily: self.daily_usd_cap,
            lifetime: self.total_usd_cap,
            requests: self.daily_request_budget,
        }
    }

    /// Whether the key has expired at `now`.
    pub fn has_expired(&self, now: UnixMicros) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
