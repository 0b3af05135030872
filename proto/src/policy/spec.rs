//! What an operator writes to issue a key, and its way to a valid policy.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{DEFAULT_ACCOUNT, Params, Policy, Rate, Restrictions, Rule, is_account_name};
use crate::catalog::Catalog;
use crate::money::{Micros, usd};
use crate::time::{UnixMicros, parse_duration_seconds};

const RULES_MAX: usize = 100;
const TEXT_BYTES_MAX: usize = 200;
const METADATA_ENTRIES_MAX: usize = 50;
const METADATA_NAME_BYTES_MAX: usize = 64;
const METADATA_VALUE_BYTES_MAX: usize = 500;

/// A thousand million requests a day are more than one machine forwards.
const REQUESTS_MAX: u32 = 1_000_000_000;

const NO_ENDPOINT: &str = "name at least one endpoint, such as \"POST /v1/charges\"";

/// Ten years: a longer life is a typing error.
const LIFE_SECONDS_MAX: u64 = 10 * 366 * 86_400;

/// The body of `POST /vault/keys`. Fields that are not listed are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySpec {
    /// The vendor the key is for; empty: the parent's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// Which of the vendor's accounts it acts on; absent: `default`, or the parent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// `METHOD /path` rules; required, since no rule means nothing and not everything (rule Q9). Absent below
    /// a parent: the parent's. An empty list is never written as one: it would ask for nothing and get all.
    #[serde(default, deserialize_with = "endpoints", skip_serializing_if = "Vec::is_empty")]
    pub allowed_endpoints: Vec<String>,
    /// The most the key may commit per UTC day, a number of USD.
    #[serde(default, with = "usd::option", skip_serializing_if = "Option::is_none")]
    pub daily_usd_cap: Option<Micros>,
    /// The most the key may commit in its whole life, a number of USD.
    #[serde(default, with = "usd::option", skip_serializing_if = "Option::is_none")]
    pub total_usd_cap: Option<Micros>,
    /// The most requests it may send per UTC day.
    #[serde(default, deserialize_with = "requests", skip_serializing_if = "Option::is_none")]
    pub daily_request_budget: Option<u32>,
    /// The key's life from now on: seconds, or a text such as `15m`, `24h`, `7d`.
    #[serde(default, deserialize_with = "duration", skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
    /// When it expires, RFC 3339 in UTC; not together with `expires_in`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The run the key was made for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_run_label: Option<String>,
    /// Texts that stand in each of the key's audit rows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The key above it: its text, which alone authorizes the issue, or for an operator its id. The child may
    /// do nothing that its parent may not (rule M11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_vault_key: Option<String>,

    /// What parameters may hold.
    #[serde(default, skip_serializing_if = "Params::is_empty")]
    pub params: Params,
    /// The most one call may cost, a number of USD.
    #[serde(default, with = "usd::option", skip_serializing_if = "Option::is_none")]
    pub max_usd_per_call: Option<Micros>,
    /// Requests per second, a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit_rps: Option<Rate>,
    /// The accounts that `Stripe-Account` and `Stripe-Context` may name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stripe_accounts: Vec<String>,
}

pub(super) fn endpoints<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let texts = Vec::deserialize(deserializer)?;
    if texts.is_empty() {
        Err(de::Error::custom(format_args!("allowed_endpoints: {NO_ENDPOINT}")))
    } else {
        Ok(texts)
    }
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let seconds = match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::Number(seconds) => seconds.as_u64(),
        serde_json::Value::String(text) => parse_duration_seconds(&text),
        serde_json::Value::Bool(_) | serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
    };
    let error = "expires_in must be a number of seconds or a text such as \"15m\", \"24h\" or \"7d\"";
    seconds.map(Some).ok_or_else(|| de::Error::custom(error))
}

pub(super) fn requests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let number = match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
        serde_json::Value::String(_)
        | serde_json::Value::Bool(_)
        | serde_json::Value::Array(_)
        | serde_json::Value::Object(_) => None,
    };
    let fitting = number.filter(|number| (1..=REQUESTS_MAX).contains(number));
    fitting.map(Some).ok_or_else(|| {
        let error = "daily_request_budget must be a whole number of requests from 1 to";
        de::Error::custom(format_args!("{error} {REQUESTS_MAX}; to stop a key, revoke it"))
    })
}

/// A field of a [`KeySpec`] that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// The field, as written in the body.
    pub field: String,
    /// What is wrong with it and what to write.
    pub problem: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.problem)
    }
}

impl std::error::Error for SpecError {}

pub(super) fn refuse<T>(field: impl Into<String>, problem: impl fmt::Display) -> Result<T, SpecError> {
    Err(SpecError { field: field.into(), problem: problem.to_string() })
}

impl KeySpec {
    /// The policy these fields describe at `now`, where `vendors` are the configured ones.
    ///
    /// For a key without a parent; [`KeySpec::child_policy`] is for the others.
    pub fn policy(&self, vendors: &[String], now: UnixMicros) -> Result<Policy, SpecError> {
        let configured = || vendors.join(", ");
        if self.vendor.is_empty() {
            return refuse("vendor", format_args!("is missing; configured: {}", configured()));
        }
        if !vendors.contains(&self.vendor) {
            return refuse("vendor", format_args!("is not configured; configured: {}", configured()));
        }
        self.check_texts()?;
        Ok(Policy {
            vendor: self.vendor.clone(),
            account: self.account.clone().unwrap_or_else(|| DEFAULT_ACCOUNT.to_owned()),
            allowed_endpoints: rules(&self.allowed_endpoints, &self.vendor)?,
            daily_usd_cap: self.daily_usd_cap,
            total_usd_cap: self.total_usd_cap,
            daily_request_budget: self.daily_request_budget,
            expires_at: self.expiry(now)?,
            restrictions: self.restrictions(&self.vendor)?,
        })
    }

    pub(super) fn restrictions(&self, vendor: &str) -> Result<Restrictions, SpecError> {
        let written = Restrictions {
            params: self.params.clone(),
            max_usd_per_call: self.max_usd_per_call,
            rate_limit_rps: self.rate_limit_rps,
            stripe_accounts: self.stripe_accounts.clone(),
        };
        restrictions(written, vendor)
    }

    pub(super) fn expiry(&self, now: UnixMicros) -> Result<Option<UnixMicros>, SpecError> {
        expiry(self.expires_at.as_deref(), self.expires_in, now)
    }

    pub(super) fn check_texts(&self) -> Result<(), SpecError> {
        if !self.account.as_deref().is_none_or(is_account_name) {
            return refuse("account", "must have 1 to 64 of the characters a-z, 0-9, _ and -");
        }
        check_text("label", self.label.as_deref())?;
        check_text("agent_run_label", self.agent_run_label.as_deref())?;
        check_metadata(&self.metadata)
    }
}

/// Refuses restrictions that cannot be, for a key of `vendor`.
pub(super) fn restrictions(written: Restrictions, vendor: &str) -> Result<Restrictions, SpecError> {
    written.judge()?;
    let has_accounts = Catalog::of(vendor).is_none_or(|catalog| !catalog.account_fields.is_empty());
    if !written.stripe_accounts.is_empty() && !has_accounts {
        return refuse("stripe_accounts", "has no meaning for this vendor; leave it out");
    }
    Ok(written)
}

/// The rules these texts are, for a key of `vendor`; at least one.
pub(super) fn rules(texts: &[String], vendor: &str) -> Result<Vec<Rule>, SpecError> {
    if texts.is_empty() {
        return refuse("allowed_endpoints", NO_ENDPOINT);
    }
    if texts.len() > RULES_MAX {
        return refuse("allowed_endpoints", format_args!("at most {RULES_MAX} are allowed; use `*` or `**`"));
    }
    let parse = |(at, text): (usize, &String)| {
        if text.split('/').nth(1) == Some(vendor) {
            let problem =
                "leave the vendor's name out: rules are the vendor's own paths, such as /v1/charges";
            return refuse(format!("allowed_endpoints[{at}]"), problem);
        }
        // The account is the credential's, whatever an agent or a rule names.
        let account = text.split_once("/2010-04-01/Accounts/").map(|(_, rest)| rest);
        if vendor == "twilio" && account.is_some_and(|rest| !rest.starts_with('*')) {
            let problem = "write `*` for the account: calls act on the credential's";
            return refuse(format!("allowed_endpoints[{at}]"), problem);
        }
        text.parse().or_else(|error| refuse(format!("allowed_endpoints[{at}]"), error))
    };
    texts.iter().enumerate().map(parse).collect()
}

/// When a key expires that is written so; `None`: it does not.
pub(super) fn expiry(
    expires_at: Option<&str>,
    expires_in: Option<u64>,
    now: UnixMicros,
) -> Result<Option<UnixMicros>, SpecError> {
    let at = match (expires_at, expires_in) {
        (Some(_), Some(_)) => return refuse("expires_in", "give either expires_in or expires_at"),
        (None, None) => return Ok(None),
        (None, Some(seconds)) => now.plus_seconds(seconds),
        (Some(text), None) => match UnixMicros::parse_rfc3339(text) {
            Some(at) => at,
            None => return refuse("expires_at", "write RFC 3339 in UTC, such as 2026-11-22T00:00:00Z"),
        },
    };
    let field = if expires_at.is_some() { "expires_at" } else { "expires_in" };
    if at <= now {
        return refuse(field, "must lie in the future");
    }
    if at > now.plus_seconds(LIFE_SECONDS_MAX) {
        return refuse(field, "must lie within ten years; leave it out for a key that does not expire");
    }
    Ok(Some(at))
}

/// Refuses a label that is empty or too long.
pub(super) fn check_text(field: &str, text: Option<&str>) -> Result<(), SpecError> {
    if text.is_some_and(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX) {
        return refuse(field, format_args!("must have 1 to {TEXT_BYTES_MAX} bytes"));
    }
    Ok(())
}

/// Refuses metadata that is too much.
pub(super) fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), SpecError> {
    if metadata.len() > METADATA_ENTRIES_MAX {
        return refuse("metadata", format_args!("at most {METADATA_ENTRIES_MAX} entries are allowed"));
    }
    for (name, value) in metadata {
        if name.is_empty() || name.len() > METADATA_NAME_BYTES_MAX {
            return refuse("metadata", format_args!("names must have 1 to {METADATA_NAME_BYTES_MAX} bytes"));
        }
        if value.len() > METADATA_VALUE_BYTES_MAX {
            return refuse(
                "metadata",
                format_args!("values must have at most {METADATA_VALUE_BYTES_MAX} bytes"),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMicros = UnixMicros::from_seconds(1_795_219_200);

    /// Checks the policy of a body, or the text of its error.
    fn check(body: &str, expected: Result<&str, &str>) {
        let spec = serde_json::from_str::<KeySpec>(body).map_err(|error| error.to_string());
        let policy =
            spec.and_then(|spec| spec.policy(&["stripe".to_owned()], NOW).map_err(|e| e.to_string()));
        match (policy.map(|policy| serde_json::to_string(&policy).unwrap()), expected) {
            (Ok(policy), Ok(expected)) => assert_eq!(policy, expected, "{body}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{body}: {error}"),
            (result, expected) => panic!("{body}: {result:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_whole_body_becomes_a_policy() {
        check(
            r#"{"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"], "daily_usd_cap": 150.5,
                "total_usd_cap": 36028797018.963967, "daily_request_budget": 1000,
                "expires_in": "24h", "label": "billing", "metadata": {"agent_id": "a1"},
                "params": [{"name": "currency", "equals": "usd"}], "max_usd_per_call": 12.5,
                "rate_limit_rps": 0.5, "stripe_accounts": ["acct_1"]}"#,
            Ok(concat!(
                r#"{"vendor":"stripe","allowed_endpoints":["POST /v1/charges"],"daily_usd_cap":150.50,"#,
                r#""total_usd_cap":36028797018.963967,"daily_request_budget":1000,"expires_at":1795305600000000,"#,
                r#""params":[{"name":"currency","in":["usd"]}],"max_usd_per_call":12.50,"rate_limit_rps":0.5,"#,
                r#""stripe_accounts":["acct_1"]}"#,
            )),
        );
        check(
            r#"{"vendor": "stripe", "allowed_endpoints": ["GET /v1/**"], "expires_at": "2026-11-22T00:00:00Z"}"#,
            Ok(r#"{"vendor":"stripe","allowed_endpoints":["GET /v1/**"],"expires_at":1795305600000000}"#),
        );
    }

    #[test]
    fn each_wrong_field_is_named_with_what_to_write() {
        let with =
            |more: &str| format!(r#"{{"vendor": "stripe", "allowed_endpoints": ["GET /v1/**"]{more}}}"#);
        check(r#"{"vendor": "stripe"}"#, Err("allowed_endpoints: name at least one"));
        check(
            r#"{"vendor": "stripe", "allowed_endpoints": []}"#,
            Err("allowed_endpoints: name at least one"),
        );
        check(r#"{"allowed_endpoints": ["GET /v1/**"]}"#, Err("vendor: is missing; configured: stripe"));
        check(
            r#"{"vendor": "strype", "allowed_endpoints": ["GET /v1/**"]}"#,
            Err("vendor: is not configured; configured: stripe"),
        );
        check(
            r#"{"vendor": "stripe", "allowed_endpoints": ["GET"]}"#,
            Err("allowed_endpoints[0]: write a method"),
        );
        check(
            r#"{"vendor": "stripe", "allowed_endpoints": ["POST /stripe/v1/charges"]}"#,
            Err("allowed_endpoints[0]: leave the vendor's name out"),
        );
        check(&with(r#", "daily_usd_cap": "200""#), Err("invalid type"));
        check(&with(r#", "daily_usd_cap": -1"#), Err("is not an amount of USD"));
        check(&with(r#", "total_usd_cap": "5""#), Err("invalid type"));
        check(&with(r#", "expires_in": "soon""#), Err("expires_in must be a number of seconds"));
        check(&with(r#", "expires_in": 0"#), Err("expires_in: must lie in the future"));
        check(&with(r#", "expires_in": "9999d""#), Err("within ten years"));
        check(&with(r#", "expires_at": "tomorrow""#), Err("expires_at: write RFC 3339"));
        check(&with(r#", "expires_in": 1, "expires_at": "2026-11-22T00:00:00Z""#), Err("give either"));
        check(&with(r#", "label": """#), Err("label: must have 1 to 200 bytes"));
        check(&with(r#", "dayly_usd_cap": 1"#), Err("unknown field `dayly_usd_cap`"));
        check(&with(r#", "rate_limit_rps": 0"#), Err("rate_limit_rps: `0` is not a rate"));
        check(&with(r#", "max_usd_per_call": -1"#), Err("is not an amount of USD"));
        check(&with(r#", "params": [{"name": "a"}]"#), Err("params: a: says nothing about its value"));
        check(&with(r#", "stripe_accounts": ["acct 1"]"#), Err("stripe_accounts: write each account"));
    }

    #[test]
    fn a_rule_for_twilio_names_no_account() {
        let policy = |rule: &str| {
            let body = format!(r#"{{"vendor": "twilio", "allowed_endpoints": ["{rule}"]}}"#);
            let spec: KeySpec = serde_json::from_str(&body).unwrap();
            spec.policy(&["twilio".to_owned()], NOW).map_err(|error| error.to_string())
        };
        for rule in [
            "POST /2010-04-01/Accounts/*/Messages.json",
            "GET /2010-04-01/**",
            "GET /2010-04-01/Accounts/*.json",
        ] {
            assert!(policy(rule).is_ok(), "{rule}");
        }
        let error = policy("POST /2010-04-01/Accounts/AC1/Messages.json").unwrap_err();
        assert!(error.contains("allowed_endpoints[0]: write `*` for the account"), "{error}");
    }

    #[test]
    fn q9_caps_and_budgets_outside_their_widths_are_refused() {
        let with =
            |more: &str| format!(r#"{{"vendor": "stripe", "allowed_endpoints": ["GET /v1/**"]{more}}}"#);
        for field in ["daily_usd_cap", "total_usd_cap"] {
            check(&with(&format!(r#", "{field}": 36028797018.963968"#)), Err("is too large"));
            check(&with(&format!(r#", "{field}": 0.0000001"#)), Err("finer than a micro-dollar"));
        }
        for budget in ["0", "-1", "1.5", "1e3", "1000000001", "4294967297", "\"5\"", "true"] {
            let body = with(&format!(r#", "daily_request_budget": {budget}"#));
            check(&body, Err("must be a whole number of requests from 1 to 1000000000"));
        }
        check(r#"{"vendor": "stripe"}"#, Err("allowed_endpoints: name at least one"));
    }
}
