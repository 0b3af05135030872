//! keybrake's own refusals: one place from decision to status, code and body.
//!
//! The body is one JSON object that all six official SDKs read right, as measured with each. Nothing an
//! agent sent is echoed (rule S4).

mod overload;
mod restriction;

use std::borrow::Cow;
use std::fmt;

use serde::Serialize;

use crate::catalog::currency::NoRate;
use crate::clock::Objection;
use crate::key::KeyId;
use crate::ledger::chain::{Limit, Over, Refusal};
use crate::money::Micros;
use crate::time::{Day, UnixMicros};
pub use overload::Overload;
pub use restriction::Restriction;

/// Why a request was not forwarded, or its reply not delivered. Status and `code` are public API:
/// add a variant, never change one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deny {
    /// The key is unknown, malformed, expired or revoked: agents must not learn which.
    Unauthorized,
    /// The key's policy does not list the endpoint.
    Endpoint {
        /// It mints credentials or widens rights, so a wildcard does not allow it.
        escalates: bool,
    },
    /// The key is for another vendor, or no such vendor is configured.
    Vendor,
    /// The request names an account of the vendor that the policy does not name.
    Account,
    /// No bound of the cost is known, and the key has a cap. The text says what is missing.
    Unpriced(&'static str),
    /// The amount is in a currency that has no rate, or an old one.
    Currency(NoRate),
    /// The object of the vendor's that the call acts on: nothing was sent.
    Object(ObjectFault),
    /// What the key restricts beside endpoints and caps, or its vendor's quota.
    Restriction(Restriction),
    /// The quote does not fit. `left` is what would have, on `day`.
    OverCap {
        /// What the call would cost at most.
        quote: Micros,
        /// Cap less committed.
        left: Micros,
        /// The cap.
        cap: Micros,
        /// The UTC day that is full.
        day: Day,
        /// The key above this one whose cap it is; `None` for the key's own.
        above: Option<KeyId>,
    },
    /// The quote does not fit under a cap for life. No time brings it back.
    OverTotal {
        /// What the call would cost at most.
        quote: Micros,
        /// Cap less committed.
        left: Micros,
        /// The cap.
        cap: Micros,
        /// As in [`Deny::OverCap`].
        above: Option<KeyId>,
    },
    /// The day's requests are used up.
    OverRequests {
        /// Requests per UTC day.
        budget: u64,
        /// The UTC day that is full.
        day: Day,
        /// As in [`Deny::OverCap`].
        above: Option<KeyId>,
    },
    /// The request can be read in more than one way, or not at all.
    Malformed {
        /// 400 to 505, from the rule that was broken.
        status: u16,
        /// What is wrong, in words of ours.
        problem: Cow<'static, str>,
    },
    /// The path is none of keybrake's.
    NotFound,
    /// The audit cannot be written, so nothing is forwarded.
    AuditUnavailable,
    /// The system clock was stepped, so that it is not known which day money counts on (rule M10).
    Clock(Objection),
    /// Too much is asked at once.
    Overload(Overload),
    /// The process is stopping.
    Draining,
    /// The master key is missing or not the store's: no key and no credential can be read (rule R2).
    Sealed,
    /// The vendor could not be reached: nothing was sent.
    VendorUnreachable,
    /// The vendor's answer broke off or was not HTTP: it may have acted.
    VendorBroken,
    /// The vendor did not answer in time: it may have acted.
    VendorTimeout,
    /// The vendor's answer is there and must not be passed on (rule S2): it has acted, or refused.
    Withheld(Withheld),
    /// The admin process does not answer.
    AdminUnavailable,
    /// The control thread does not look at its orders, so the key may be revoked without anybody knowing.
    ControlUnavailable,
    /// The key's policy changed again and again while the request was decided on (rule Q8).
    PolicyChanged,
}

/// Why a vendor's answer is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The vendor's credential stands in it.
    Credential,
    /// It is encoded, so that nobody can see whether the credential stands in it.
    Encoded,
}

/// What is wrong with the object that a call acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectFault {
    /// Another call acts on it (rule Q8).
    Busy,
    /// The vendor does not know it.
    NotFound,
    /// It could not be read.
    Unread,
}

/// Codes of a 429 that time alone ends soon.
const RATES: [&str; 4] = ["rate_limited", "vendor_quota", "too_many_requests_at_once", "too_many_wrong_keys"];

/// A refusal as it goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The HTTP status.
    pub status: u16,
    /// The stable code: in the body, in `Keybrake-Decision`, and in audit rows.
    pub code: &'static str,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u64>,
    /// What was refused, why, and until when.
    pub message: String,
    /// `Stripe-Should-Retry: false` is sent whatever the call.
    pub never_retry: bool,
}

impl Deny {
    /// What a key's agent is told when the ledger refuses its call of `quote`.
    pub fn by_ledger(refusal: Refusal, key: KeyId, quote: Micros) -> Deny {
        let Refusal::Over(Over { key: whose, limit, cap, left, day }) = refusal else {
            return Deny::Unauthorized;
        };
        let above = (whose != key).then_some(whose);
        match limit {
            Limit::Daily => Deny::OverCap { quote, left, cap, day, above },
            Limit::Lifetime => Deny::OverTotal { quote, left, cap, above },
            Limit::Requests => Deny::OverRequests { budget: cap.as_u64(), day, above },
        }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            Deny::Unauthorized => 401,
            Deny::Endpoint { .. } | Deny::Vendor | Deny::Account | Deny::Unpriced(_) | Deny::Currency(_) => {
                403
            }
            Deny::Restriction(restriction) => restriction.status(),
            Deny::Overload(overload) => overload.status(),
            Deny::NotFound | Deny::Object(ObjectFault::NotFound) => 404,
            Deny::OverCap { .. }
            | Deny::OverTotal { .. }
            | Deny::OverRequests { .. }
            | Deny::Object(ObjectFault::Busy) => 429,
            Deny::Malformed { status, .. } => *status,
            Deny::VendorUnreachable
            | Deny::VendorBroken
            | Deny::Withheld(_)
            | Deny::Object(ObjectFault::Unread) => 502,
            Deny::AuditUnavailable
            | Deny::Clock(_)
            | Deny::Draining
            | Deny::Sealed
            | Deny::AdminUnavailable
            | Deny::ControlUnavailable
            | Deny::PolicyChanged => 503,
            Deny::VendorTimeout => 504,
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Deny::Unauthorized => "invalid_vault_key",
            Deny::Endpoint { .. } => "endpoint_not_allowed",
            Deny::Vendor => "vendor_not_allowed",
            Deny::Account => "account_not_allowed",
            Deny::Unpriced(_) => "unpriced",
            Deny::Currency(_) => "currency_not_allowed",
            Deny::Object(ObjectFault::Busy) => "object_busy",
            Deny::Object(ObjectFault::NotFound) => "object_not_found",
            Deny::Object(ObjectFault::Unread) => "look_up_failed",
            Deny::Restriction(restriction) => restriction.code(),
            Deny::Overload(overload) => overload.code(),
            Deny::OverCap { .. } => "daily_cap_exceeded",
            Deny::OverTotal { .. } => "total_cap_exceeded",
            Deny::OverRequests { .. } => "request_budget_exceeded",
            Deny::Malformed { .. } => "malformed_request",
            Deny::NotFound => "not_found",
            Deny::AuditUnavailable => "audit_unavailable",
            Deny::Clock(_) => "clock",
            Deny::Draining => "draining",
            Deny::Sealed => "sealed",
            Deny::VendorUnreachable => "vendor_unreachable",
            Deny::VendorBroken => "vendor_broken",
            Deny::VendorTimeout => "vendor_timeout",
            Deny::Withheld(Withheld::Credential) => "credential_in_reply",
            Deny::Withheld(Withheld::Encoded) => "encoded_reply",
            Deny::AdminUnavailable => "admin_unavailable",
            Deny::ControlUnavailable => "control_unavailable",
            Deny::PolicyChanged => "policy_changed",
        }
    }

    /// The refusal as it goes out at `now`. `allowed` lists the key's endpoint rules or accounts where it is about them.
    pub fn denial(&self, now: UnixMicros, allowed: &str) -> Denial {
        let retry_after_s = match self {
            Deny::OverCap { day, .. } | Deny::OverRequests { day, .. } => {
                Some(now.seconds_until(day.end()).max(1))
            }
            Deny::Clock(objection) => Some(objection.retry_after_s()),
            Deny::Restriction(restriction) => restriction.retry_after_s(),
            Deny::AuditUnavailable
            | Deny::Overload(_)
            | Deny::Draining
            | Deny::AdminUnavailable
            | Deny::ControlUnavailable
            | Deny::Object(ObjectFault::Busy)
            | Deny::PolicyChanged => Some(1),
            Deny::Unauthorized
            | Deny::Endpoint { .. }
            | Deny::Vendor
            | Deny::Account
            | Deny::Unpriced(_)
            | Deny::Currency(_)
            | Deny::Object(ObjectFault::NotFound | ObjectFault::Unread)
            | Deny::OverTotal { .. }
            | Deny::Malformed { .. }
            | Deny::NotFound
            | Deny::Sealed
            | Deny::VendorUnreachable
            | Deny::VendorBroken
            | Deny::VendorTimeout
            | Deny::Withheld(_) => None,
        };
        Denial {
            status: self.status(),
            code: self.code(),
            retry_after_s,
            message: Explained { deny: self, allowed }.to_string(),
            // rule Q25: false on 400-429. A 5xx with an Idempotency-Key may be retried: the vendor replays.
            never_retry: (400..=429).contains(&self.status()),
        }
    }
}

/// Whose limit, where it is not the key's own.
struct Above(Option<KeyId>);

impl fmt::Display for Above {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |key| write!(f, " of {key}, a key above this one,"))
    }
}

const SEALED: &str = "keybrake: sealed: it was started without its master key, and forwards nothing until an operator \
                      restarts it with the right one. Nothing was sent to the vendor.";

struct Explained<'a> {
    deny: &'a Deny,
    allowed: &'a str,
}

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.deny {
            Deny::Unauthorized => f.write_str(
                "keybrake: this vault key is not valid: it is unknown, expired or revoked. Ask the operator for a \
                 new one.",
            ),
            Deny::Endpoint { escalates: false } => {
                write!(f, "keybrake: this key may not call this endpoint. It may call: {}.", self.allowed)
            }
            Deny::Endpoint { escalates: true } => f.write_str(
                "keybrake: this endpoint hands out credentials or rights, so only a rule that spells it out \
                 allows it: `*` may stand for an id only, and `**` never fits.",
            ),
            Deny::Vendor => f.write_str("keybrake: this key is for another vendor, or there is no such vendor here."),
            Deny::Account => restriction::Accounts(self.allowed).fmt(f),
            Deny::Unpriced(why) => write!(f, "keybrake: this key has a spend cap, and this call cannot be priced: {why}."),
            Deny::Currency(no_rate) => explain_currency(*no_rate, f),
            Deny::Object(fault) => f.write_str(explain_object(*fault)),
            Deny::Restriction(restriction) => restriction.fmt(f),
            Deny::Overload(overload) => overload.fmt(f),
            Deny::OverCap { quote, left, cap, day, above } => write!(
                f,
                "keybrake: daily cap{} reached: this call may cost ${quote}, ${left} of ${cap} is left today. The cap \
                 resets {}.",
                Above(*above),
                day.end()
            ),
            Deny::OverTotal { quote, left, cap, above } => write!(
                f,
                "keybrake: total cap{} reached: this call may cost ${quote}, ${left} of ${cap} is left. The cap is for \
                 the key's whole life and does not reset; ask the operator for a new key.",
                Above(*above)
            ),
            Deny::OverRequests { budget, day, above } => write!(
                f,
                "keybrake: daily request budget{} used up: 0 of {budget} requests are left today. It resets {}.",
                Above(*above),
                day.end()
            ),
            Deny::Malformed { problem, .. } => write!(f, "keybrake: malformed request: {problem}."),
            Deny::NotFound => f.write_str(
                "keybrake: nothing here. Agents call /<vendor>/<the vendor's own path>, such as /stripe/v1/charges.",
            ),
            Deny::AuditUnavailable => f.write_str(
                "keybrake: the audit cannot be written, so nothing is forwarded. Nothing was sent to the vendor.",
            ),
            Deny::Clock(objection) => write!(f, "keybrake: {objection}. Nothing was sent to the vendor."),
            Deny::Draining => f.write_str("keybrake: stopping. Nothing was sent to the vendor; try again."),
            Deny::Sealed => f.write_str(SEALED),
            Deny::VendorUnreachable => {
                f.write_str("keybrake: the vendor could not be reached. Nothing was sent; the amount is free again.")
            }
            Deny::VendorBroken => f.write_str(
                "keybrake: the vendor's answer broke off or could not be read. The vendor may have acted, so the \
                 amount stays counted.",
            ),
            Deny::VendorTimeout => f.write_str(
                "keybrake: the vendor did not answer in time. It may have acted, so the amount stays counted.",
            ),
            Deny::Withheld(withheld) => f.write_str(explain_withheld(*withheld)),
            Deny::AdminUnavailable => {
                f.write_str("keybrake: the admin process does not answer; start it with `keybrake admin`.")
            }
            Deny::ControlUnavailable => f.write_str(
                "keybrake: orders to revoke are not being read, so this key may be revoked. Nothing was sent to the \
                 vendor; try again.",
            ),
            Deny::PolicyChanged => f.write_str(
                "keybrake: this key's policy changed while the request waited. Nothing was sent to the vendor; try again.",
            ),
        }
    }
}

fn explain_currency(no_rate: NoRate, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("keybrake: this key has a spend cap in USD, and ")?;
    match no_rate {
        NoRate::Unknown(_) => f.write_str("there is no rate for the currency of this call."),
        NoRate::Stale(day) => {
            let day = day.start().date();
            write!(
                f,
                "the rates of other currencies are of {day} and too old. Ask the operator for new ones."
            )
        }
    }
}

const fn explain_withheld(withheld: Withheld) -> &'static str {
    match withheld {
        Withheld::Credential => {
            "keybrake: the vendor's answer holds a secret of the operator's, so it is withheld. The vendor may have \
             acted; what the call cost is counted. Ask the operator before you try again."
        }
        Withheld::Encoded => {
            "keybrake: the vendor's answer is compressed, which was not asked for, so it is withheld. The vendor may \
             have acted; what the call cost is counted."
        }
    }
}

/// Of a call that acts on an object of the vendor's.
const fn explain_object(fault: ObjectFault) -> &'static str {
    match fault {
        ObjectFault::Busy => {
            "keybrake: another call acts on the same object; its outcome decides what this one costs. Try again when it \
             has ended."
        }
        ObjectFault::NotFound => {
            "keybrake: the vendor knows no such object, so this call cannot be priced. Nothing was sent."
        }
        ObjectFault::Unread => {
            "keybrake: the object that this call acts on could not be read from the vendor, so the call cannot be \
             priced. Nothing was sent; the amount is free again."
        }
    }
}

impl Denial {
    /// Writes the body that Stripe's, Twilio's and Resend's SDKs all read as a typed error.
    pub fn write_body(&self, out: &mut Vec<u8>) {
        let kind = if self.status == 429 { "rate_limit_error" } else { "invalid_request_error" };
        let name = match self.status {
            401 => "invalid_api_key",
            403 => "restricted_api_key",
            429 if RATES.contains(&self.code) => "rate_limit_exceeded",
            429 if self.code == "monthly_quota_exceeded" => "monthly_quota_exceeded",
            429 => "daily_quota_exceeded",
            400..=428 => "validation_error",
            _ => "application_error",
        };
        let body = Body {
            error: ErrorBody { kind, code: self.code, message: &self.message },
            status_code: self.status,
            name,
            message: &self.message,
            status: self.status,
            code: 20003,
            more_info: "keybrake: docs/denials.md",
        };
        // Writing to memory texts and numbers cannot fail; an empty body would still carry the status.
        if serde_json::to_writer(&mut *out, &body).is_err() {
            out.clear();
        }
    }
}

/// `error` is Stripe's shape, `statusCode`/`name`/`message` Resend's, `status`/`code`/`more_info` Twilio's.
#[derive(Serialize)]
struct Body<'a> {
    error: ErrorBody<'a>,
    #[serde(rename = "statusCode")]
    status_code: u16,
    name: &'a str,
    message: &'a str,
    status: u16,
    code: u32,
    more_info: &'a str,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    code: &'a str,
    message: &'a str,
}

#[cfg(test)]
mod tests;
