//! What an operator writes to change a key, and the policy it then has.
//!
//! Vendor and parent are no part of it: they never change (rule Q9).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::attenuate::{budget, cap, endpoints, expiry, restrictions};
use super::spec::{self, SpecError, refuse};
use super::{Params, Policy, Rate, Restrictions, Rule};
use crate::money::{Micros, usd};
use crate::time::UnixMicros;

/// The body of `PATCH /vault/keys/{id}`. What is absent stays; `null` takes a limit or a label away, below a
/// parent it means the parent's limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyChange {
    /// `METHOD /path` rules in place of all there are.
    #[serde(default, deserialize_with = "some_endpoints", skip_serializing_if = "Option::is_none")]
    pub allowed_endpoints: Option<Vec<String>>,
    /// The most per UTC day, a number of USD.
    #[serde(default, with = "usd_or_null", skip_serializing_if = "Option::is_none")]
    pub daily_usd_cap: Option<Option<Micros>>,
    /// The most in its whole life, a number of USD.
    #[serde(default, with = "usd_or_null", skip_serializing_if = "Option::is_none")]
    pub total_usd_cap: Option<Option<Micros>>,
    /// The most requests per UTC day.
    #[serde(default, deserialize_with = "some_requests", skip_serializing_if = "Option::is_none")]
    pub daily_request_budget: Option<Option<u32>>,
    /// The key's life from now on; not together with `expires_at`.
    #[serde(default, deserialize_with = "spec::duration", skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// When it expires, RFC 3339 in UTC.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Option<String>>,
    /// A name for people.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub label: Option<Option<String>>,
    /// The run it is for.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub agent_run_label: Option<Option<String>>,
    /// The texts of its audit rows, in place of all there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,

    /// What parameters may hold, in place of all rules there are.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub params: Option<Option<Params>>,
    /// The most one call may cost, a number of USD.
    #[serde(default, with = "usd_or_null", skip_serializing_if = "Option::is_none")]
    pub max_usd_per_call: Option<Option<Micros>>,
    /// Requests per second, a number.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub rate_limit_rps: Option<Option<Rate>>,
    /// The accounts that `Stripe-Account` and `Stripe-Context` may name, in place of all there are.
    #[serde(default, deserialize_with = "some", skip_serializing_if = "Option::is_none")]
    pub stripe_accounts: Option<Option<Vec<String>>>,

    /// Known, and refused: it never changes.
    #[serde(default, deserialize_with = "some", skip_serializing)]
    pub vendor: Option<Fixed>,
    /// Known, and refused: it never changes.
    #[serde(default, deserialize_with = "some", skip_serializing)]
    pub account: Option<Fixed>,
    /// Known, and refused: it never changes.
    #[serde(default, deserialize_with = "some", skip_serializing)]
    pub parent_vault_key: Option<Fixed>,
}

/// A field that never changes. It never exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fixed {}

impl<'de> Deserialize<'de> for Fixed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fixed, D::Error> {
        de::IgnoredAny::deserialize(deserializer)?;
        Err(de::Error::custom("a key's vendor, account and parent never change; issue another key"))
    }
}

/// A value or `null`, told from a field that is absent.
fn some<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

fn some_endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    spec::endpoints(deserializer).map(Some)
}

fn some_requests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<u32>>, D::Error> {
    spec::requests(deserializer).map(Some)
}

mod usd_or_null {
    use super::{Deserializer, Micros, usd};
    use serde::Serializer;

    #[expect(clippy::option_option, clippy::ref_option, reason = "the shape that serde asks for")]
    pub(super) fn serialize<S: Serializer>(
        amount: &Option<Option<Micros>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        usd::option::serialize(&amount.flatten(), serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<Micros>>, D::Error> {
        usd::option::deserialize(deserializer).map(Some)
    }
}

impl KeyChange {
    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == KeyChange::default()
    }

    /// The policy a key with the policy `current` has then, below one with `parent`, at `now`.
    ///
    /// Only what is written is compared with the parent: a parent that was narrowed meanwhile binds its children
    /// by the chain, and must not make their labels unchangeable.
    pub fn policy(
        &self,
        current: &Policy,
        parent: Option<&Policy>,
        now: UnixMicros,
    ) -> Result<Policy, SpecError> {
        if self.is_empty() {
            return refuse("body", "name at least one field to change");
        }
        spec::check_text("label", self.label.as_ref().and_then(Option::as_deref))?;
        spec::check_text("agent_run_label", self.agent_run_label.as_ref().and_then(Option::as_deref))?;
        if let Some(metadata) = &self.metadata {
            spec::check_metadata(metadata)?;
        }
        let of_parent = |of: fn(&Policy) -> Option<Micros>| parent.and_then(of);
        Ok(Policy {
            vendor: current.vendor.clone(),
            account: current.account.clone(),
            allowed_endpoints: self.endpoints(current, parent)?,
            daily_usd_cap: match self.daily_usd_cap {
                Some(wanted) => cap("daily_usd_cap", wanted, of_parent(|parent| parent.daily_usd_cap))?,
                None => current.daily_usd_cap,
            },
            total_usd_cap: match self.total_usd_cap {
                Some(wanted) => cap("total_usd_cap", wanted, of_parent(|parent| parent.total_usd_cap))?,
                None => current.total_usd_cap,
            },
            daily_request_budget: match self.daily_request_budget {
                Some(wanted) => budget(wanted, parent.and_then(|parent| parent.daily_request_budget))?,
                None => current.daily_request_budget,
            },
            expires_at: self.expiry(current, parent, now)?,
            restrictions: self.restrictions(current, parent)?,
        })
    }

    fn endpoints(&self, current: &Policy, parent: Option<&Policy>) -> Result<Vec<Rule>, SpecError> {
        match &self.allowed_endpoints {
            Some(texts) => endpoints(Some(spec::rules(texts, &current.vendor)?), parent),
            None => Ok(current.allowed_endpoints.clone()),
        }
    }

    fn restrictions(&self, current: &Policy, parent: Option<&Policy>) -> Result<Restrictions, SpecError> {
        // What is not written is left empty, so that it is the parent's and cannot be wider.
        let written = Restrictions {
            params: self.params.clone().flatten().unwrap_or_default(),
            max_usd_per_call: self.max_usd_per_call.flatten(),
            rate_limit_rps: self.rate_limit_rps.flatten(),
            stripe_accounts: self.stripe_accounts.clone().flatten().unwrap_or_default(),
        };
        let mut judged = spec::restrictions(written, &current.vendor)?;
        if let Some(parent) = parent {
            judged = restrictions(judged, &parent.restrictions)?;
        }
        let now = &current.restrictions;
        let Restrictions { params, max_usd_per_call, rate_limit_rps, stripe_accounts } = judged;
        Ok(Restrictions {
            params: if self.params.is_some() { params } else { now.params.clone() },
            max_usd_per_call: self.max_usd_per_call.map_or(now.max_usd_per_call, |_| max_usd_per_call),
            rate_limit_rps: self.rate_limit_rps.map_or(now.rate_limit_rps, |_| rate_limit_rps),
            stripe_accounts: if self.stripe_accounts.is_some() {
                stripe_accounts
            } else {
                now.stripe_accounts.clone()
            },
        })
    }

    fn expiry(
        &self,
        current: &Policy,
        parent: Option<&Policy>,
        now: UnixMicros,
    ) -> Result<Option<UnixMicros>, SpecError> {
        let (at, field) = match (&self.expires_at, self.expires_in) {
            (None, None) => return Ok(current.expires_at),
            (Some(_), Some(_)) => return refuse("expires_in", "give either expires_in or expires_at"),
            (Some(at), None) => (at.as_deref(), "expires_at"),
            (None, Some(_)) => (None, "expires_in"),
        };
        let wanted = spec::expiry(at, self.expires_in, now)?;
        expiry(wanted, field, parent.and_then(|parent| parent.expires_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::KeySpec;

    const NOW: UnixMicros = UnixMicros::from_seconds(1_795_219_200);

    fn policy(body: &str) -> Policy {
        let spec: KeySpec = serde_json::from_str(body).unwrap();
        spec.policy(&["stripe".to_owned()], NOW).unwrap()
    }

    fn current() -> Policy {
        policy(
            r#"{"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"], "daily_usd_cap": 10,
                "daily_request_budget": 5, "expires_in": "1h"}"#,
        )
    }

    fn changed(body: &str, parent: Option<&Policy>) -> Result<String, String> {
        let change = serde_json::from_str::<KeyChange>(body).map_err(|error| error.to_string())?;
        let policy = change.policy(&current(), parent, NOW).map_err(|error| error.to_string())?;
        Ok(serde_json::to_string(&policy).unwrap())
    }

    fn check(body: &str, expected: Result<&str, &str>) {
        match (changed(body, None), expected) {
            (Ok(policy), Ok(expected)) => assert_eq!(policy, expected, "{body}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{body}: {error}"),
            (result, expected) => panic!("{body}: {result:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn what_is_absent_stays_and_null_takes_a_limit_away() {
        check(
            r#"{"daily_usd_cap": 3.5}"#,
            Ok(concat!(
                r#"{"vendor":"stripe","allowed_endpoints":["POST /v1/charges"],"daily_usd_cap":3.50,"#,
                r#""daily_request_budget":5,"expires_at":1795222800000000}"#,
            )),
        );
        check(
            r#"{"daily_usd_cap": null, "total_usd_cap": 7, "daily_request_budget": null, "expires_at": null,
                "allowed_endpoints": ["GET /v1/**"]}"#,
            Ok(r#"{"vendor":"stripe","allowed_endpoints":["GET /v1/**"],"total_usd_cap":7.00}"#),
        );
        check(
            r#"{"expires_in": "2h", "label": null}"#,
            Ok(concat!(
                r#"{"vendor":"stripe","allowed_endpoints":["POST /v1/charges"],"daily_usd_cap":10.00,"#,
                r#""daily_request_budget":5,"expires_at":1795226400000000}"#,
            )),
        );
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        check("{}", Err("body: name at least one field"));
        check(r#"{"vendor": "stripe"}"#, Err("never change"));
        check(r#"{"parent_vault_key": null}"#, Err("never change"));
        check(r#"{"allowed_endpoints": []}"#, Err("name at least one endpoint"));
        check(r#"{"allowed_endpoints": ["GET"]}"#, Err("allowed_endpoints[0]"));
        check(r#"{"daily_request_budget": 0}"#, Err("from 1 to"));
        check(r#"{"expires_in": 1, "expires_at": null}"#, Err("give either"));
        check(r#"{"expires_at": "2020-01-01T00:00:00Z"}"#, Err("must lie in the future"));
        check(r#"{"label": ""}"#, Err("label: must have"));
        check(r#"{"dayly": 1}"#, Err("unknown field"));
    }

    #[test]
    fn m11_a_change_is_judged_by_the_parent_and_only_what_is_written() {
        // Narrower than the key is by now.
        let parent = policy(
            r#"{"vendor": "stripe", "allowed_endpoints": ["GET /v1/**"], "daily_usd_cap": 4, "expires_in": "30m"}"#,
        );
        let check = |body: &str, part: &str| {
            let (Ok(text) | Err(text)) = changed(body, Some(&parent));
            assert!(text.contains(part), "{body}: {text}");
        };
        check(r#"{"label": "x"}"#, r#""daily_usd_cap":10.00"#);
        check(r#"{"daily_usd_cap": 5}"#, "daily_usd_cap: 5.00 USD is more than the parent's 4.00 USD");
        check(r#"{"daily_usd_cap": null}"#, r#""daily_usd_cap":4.00"#);
        check(r#"{"expires_at": null}"#, r#""expires_at":1795221000000000"#);
        check(r#"{"expires_in": "45m"}"#, "expires_in: ");
        check(r#"{"allowed_endpoints": ["POST /v1/charges"]}"#, "allowed_endpoints[0]: is wider");
        check(r#"{"allowed_endpoints": ["GET /v1/charges"]}"#, r#"["GET /v1/charges"]"#);
    }

    /// Checks what a change of restrictions makes of a key that has all of them, below `parent`.
    fn check_restrictions(body: &str, parent: Option<&Policy>, expected: Result<&str, &str>) {
        let current = policy(&with_restrictions(
            r#""params": [{"name": "currency", "in": ["usd"]}], "max_usd_per_call": 9, "rate_limit_rps": 5,
               "stripe_accounts": ["acct_1"]"#,
        ));
        let change: KeyChange = serde_json::from_str(body).unwrap();
        let changed = change.policy(&current, parent, NOW);
        match (changed.map(|policy| serde_json::to_string(&policy.restrictions).unwrap()), expected) {
            (Ok(restrictions), Ok(expected)) => assert_eq!(restrictions, expected, "{body}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{body}: {error}"),
            (result, expected) => panic!("{body}: {result:?} instead of {expected:?}"),
        }
    }

    fn with_restrictions(restrictions: &str) -> String {
        format!(r#"{{"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"], {restrictions}}}"#)
    }

    #[test]
    fn restrictions_change_one_by_one_and_null_takes_them_away() {
        let usd = r#""params":[{"name":"currency","in":["usd"]}]"#;
        check_restrictions(
            r#"{"max_usd_per_call": 20}"#,
            None,
            Ok(&format!(
                r#"{{{usd},"max_usd_per_call":20.00,"rate_limit_rps":5,"stripe_accounts":["acct_1"]}}"#
            )),
        );
        check_restrictions(
            r#"{"rate_limit_rps": 0.5, "stripe_accounts": ["acct_2"]}"#,
            None,
            Ok(&format!(
                r#"{{{usd},"max_usd_per_call":9.00,"rate_limit_rps":0.5,"stripe_accounts":["acct_2"]}}"#
            )),
        );
        check_restrictions(
            r#"{"params": [{"name": "amount", "max": 5}], "max_usd_per_call": null, "rate_limit_rps": null,
                "stripe_accounts": null}"#,
            None,
            Ok(r#"{"params":[{"name":"amount","max":5}]}"#),
        );
        check_restrictions(
            r#"{"params": null, "stripe_accounts": []}"#,
            None,
            Ok(r#"{"max_usd_per_call":9.00,"rate_limit_rps":5}"#),
        );
        check_restrictions(r#"{"stripe_accounts": ["acct 1"]}"#, None, Err("stripe_accounts: write each"));
        check(r#"{"rate_limit_rps": 0}"#, Err("rate_limit_rps: `0`"));
        check(r#"{"params": [{"name": "currency"}]}"#, Err("currency"));
    }

    #[test]
    fn m11_restrictions_are_judged_by_the_parent_and_only_those_that_are_written() {
        // Narrower than the key is by now, and without any account.
        let parent = policy(&with_restrictions(
            r#""params": [{"name": "currency", "in": ["usd"]}, {"name": "amount", "max": 500}],
               "max_usd_per_call": 4, "rate_limit_rps": 2"#,
        ));
        let check =
            |body: &str, expected: Result<&str, &str>| check_restrictions(body, Some(&parent), expected);
        let usd = r#"{"name":"currency","in":["usd"]}"#;
        let (both, one) =
            (format!(r#""params":[{usd},{{"name":"amount","max":500}}]"#), format!(r#""params":[{usd}]"#));
        let rest = r#""max_usd_per_call":9.00,"rate_limit_rps":5,"stripe_accounts":["acct_1"]}"#;
        check(r#"{"label": "x"}"#, Ok(&format!("{{{one},{rest}")));
        check(r#"{"params": null}"#, Ok(&format!("{{{both},{rest}")));
        check(
            r#"{"max_usd_per_call": null, "rate_limit_rps": 1, "stripe_accounts": null}"#,
            Ok(&format!(r#"{{{one},"max_usd_per_call":4.00,"rate_limit_rps":1}}"#)),
        );
        check(r#"{"params": [{"name": "amount", "max": 501}]}"#, Err("params"));
        check(r#"{"max_usd_per_call": 4.01}"#, Err("max_usd_per_call: must be at most the parent key's"));
        check(r#"{"rate_limit_rps": 3}"#, Err("rate_limit_rps: must be at most the parent key's"));
        check(r#"{"stripe_accounts": ["acct_1"]}"#, Err("stripe_accounts: the parent key may not act"));
    }

    #[test]
    fn a_change_reads_back_as_written() {
        for body in [
            r#"{"daily_usd_cap":null,"total_usd_cap":7.50,"daily_request_budget":null,"expires_at":null}"#,
            r#"{"allowed_endpoints":["GET /v1/**"],"expires_in":60,"label":"x","metadata":{}}"#,
            r#"{"params":null,"max_usd_per_call":null,"rate_limit_rps":null,"stripe_accounts":null}"#,
            r#"{"params":[{"name":"amount","max":5}],"max_usd_per_call":1.50,"rate_limit_rps":0.5,"stripe_accounts":["acct_1"]}"#,
        ] {
            let change: KeyChange = serde_json::from_str(body).unwrap();
            assert_eq!(serde_json::to_string(&change).unwrap(), body);
        }
    }
}
