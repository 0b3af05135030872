//! Refusals by what a key restricts beside endpoints and caps: parameters, the cost of one call, and pace.

use std::fmt;

use crate::money::Micros;
use crate::policy::Rate;
use crate::time::Month;

/// What a restriction of the key, or the quota of its vendor, forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restriction {
    /// A rule about a parameter.
    Parameter {
        /// The parameter, as the rule names it.
        name: String,
        /// What the rule would allow.
        allowed: String,
    },
    /// The call may cost more than one call may.
    CallTooLarge {
        /// What it would cost at most.
        quote: Micros,
        /// The policy's `max_usd_per_call`.
        most: Micros,
    },
    /// Too many requests per second under the key, or one above it.
    Rate {
        /// Requests per second.
        rate: Rate,
        /// Whole seconds until one is allowed again.
        retry_after_s: u64,
    },
    /// Too many requests of this key wait for their turn at the vendor.
    VendorQuota {
        /// Whole seconds until it makes sense to try again.
        retry_after_s: u64,
    },
    /// The installation has sent what it may send in a month.
    MonthlyQuota {
        /// Requests per UTC month, of all keys.
        most: u64,
        /// The month that is full.
        month: Month,
        /// Whole seconds until the next one.
        retry_after_s: u64,
    },
}

impl Restriction {
    /// The HTTP status (rule Q9: a call over its bound is a 403).
    pub(super) fn status(&self) -> u16 {
        match self {
            Restriction::Parameter { .. } | Restriction::CallTooLarge { .. } => 403,
            Restriction::Rate { .. } | Restriction::VendorQuota { .. } | Restriction::MonthlyQuota { .. } => {
                429
            }
        }
    }

    /// The stable code.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Restriction::Parameter { .. } => "parameter_not_allowed",
            Restriction::CallTooLarge { .. } => "call_too_large",
            Restriction::Rate { .. } => "rate_limited",
            Restriction::VendorQuota { .. } => "vendor_quota",
            Restriction::MonthlyQuota { .. } => "monthly_quota_exceeded",
        }
    }

    /// `Retry-After`, in seconds.
    pub(super) fn retry_after_s(&self) -> Option<u64> {
        match self {
            Restriction::Parameter { .. } | Restriction::CallTooLarge { .. } => None,
            Restriction::Rate { retry_after_s, .. }
            | Restriction::VendorQuota { retry_after_s }
            | Restriction::MonthlyQuota { retry_after_s, .. } => Some(*retry_after_s),
        }
    }
}

impl fmt::Display for Restriction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Restriction::Parameter { name, allowed } => write!(
                f,
                "keybrake: this key's rule on the parameter `{name}` does not allow this call. Allowed: {allowed}."
            ),
            Restriction::CallTooLarge { quote, most } => write!(
                f,
                "keybrake: one call of this key may cost ${most}, and this one may cost ${quote}. Nothing was sent to \
                 the vendor."
            ),
            Restriction::Rate { rate, retry_after_s } => write!(
                f,
                "keybrake: this key may send {rate} requests per second, and at most {} at once. Try again in \
                 {retry_after_s} s. Nothing was sent to the vendor.",
                rate.burst()
            ),
            Restriction::VendorQuota { retry_after_s } => write!(
                f,
                "keybrake: too many requests of this key wait for their turn within the vendor's quota, which all keys \
                 share. Try again in {retry_after_s} s. Nothing was sent to the vendor."
            ),
            Restriction::MonthlyQuota { most, month, .. } => write!(
                f,
                "keybrake: all {most} requests that this installation may send in {month} are used up. The quota \
                 resets {}. Nothing was sent to the vendor.",
                month.end()
            ),
        }
    }
}

/// The refusal of an account, by the accounts that the policy names.
pub(super) struct Accounts<'a>(pub(super) &'a str);

impl fmt::Display for Accounts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str(
                "keybrake: this key may not act on another account: leave out Stripe-Account and Stripe-Context.",
            );
        }
        write!(
            f,
            "keybrake: this key may act on these accounts: {}. Name one of them, once, or leave out Stripe-Account and \
             Stripe-Context.",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deny::Deny;
    use crate::time::UnixMicros;

    fn check(restriction: Restriction, expected: (u16, &str, Option<u64>), words: &str, name: &str) {
        let denial = Deny::Restriction(restriction).denial(UnixMicros(0), "");
        assert_eq!((denial.status, denial.code, denial.retry_after_s), expected);
        assert!(denial.message.contains(words), "{}", denial.message);
        assert!(denial.never_retry, "rule M13");
        let mut body = Vec::new();
        denial.write_body(&mut body);
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["name"], name, "{body}");
    }

    #[test]
    fn m13_q9_each_restriction_has_its_status_code_and_words() {
        let (name, allowed) = ("currency".to_owned(), "one of usd".to_owned());
        let restricted = "restricted_api_key";
        check(
            Restriction::Parameter { name, allowed },
            (403, "parameter_not_allowed", None),
            "`currency` does not allow this call. Allowed: one of usd",
            restricted,
        );
        let usd = |usd: u64| Micros::new(usd * 1_000_000).unwrap();
        check(
            Restriction::CallTooLarge { quote: usd(20), most: usd(5) },
            (403, "call_too_large", None),
            "may cost $5.00, and this one may cost $20.00",
            restricted,
        );
        check(
            Restriction::Rate { rate: "2.5".parse().unwrap(), retry_after_s: 1 },
            (429, "rate_limited", Some(1)),
            "2.5 requests per second, and at most 3 at once",
            "rate_limit_exceeded",
        );
        check(
            Restriction::VendorQuota { retry_after_s: 2 },
            (429, "vendor_quota", Some(2)),
            "Try again in 2 s",
            "rate_limit_exceeded",
        );
        let month = crate::time::Day::parse("2026-11-21").unwrap().month();
        check(
            Restriction::MonthlyQuota { most: 500, month, retry_after_s: 60 },
            (429, "monthly_quota_exceeded", Some(60)),
            "all 500 requests that this installation may send in 2026-11 are used up. The quota resets 2026-12-01T00:00:00Z",
            "monthly_quota_exceeded",
        );
    }
}
