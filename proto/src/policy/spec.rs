//! What an operator writes to issue a key, and its way to a valid policy.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Policy, Rule};
use crate::money::{Micros, usd};
use crate::time::{UnixMicros, parse_duration_seconds};

const RULES_MAX: usize = 100;
const TEXT_BYTES_MAX: usize = 200;
const METADATA_ENTRIES_MAX: usize = 50;
const METADATA_NAME_BYTES_MAX: usize = 64;
const METADATA_VALUE_BYTES_MAX: usize = 500;

/// A thousand million requests a day are more than one machine forwards.
const REQUESTS_MAX: u32 = 1_000_000_000;

/// Ten years: a longer life is a typing error.
const LIFE_SECONDS_MAX: u64 = 10 * 366 * 86_400;

/// The body of `POST /vault/keys`. Fields that are not listed are errors.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeySpec {
    /// The vendor the key is for.
    pub vendor: String,
    /// `METHOD /path` rules; required, since no rule means nothing and not everything (rule Q9).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
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

    /// Known, and refused until it is enforced.
    #[serde(default, skip_serializing)]
    pub max_usd_per_call: Option<NotEnforced>,
    /// Known, and refused until it is enforced.
    #[serde(default, skip_serializing)]
    pub rate_limit_rps: Option<NotEnforced>,
    /// Known, and refused until it is enforced.
    #[serde(default, skip_serializing)]
    pub params: Option<NotEnforced>,
    /// Known, and refused until it is enforced.
    #[serde(default, skip_serializing)]
    pub parent_vault_key: Option<NotEnforced>,
}

/// A restriction that keybrake knows and does not enforce yet. It never exists: accepting a
/// restriction without enforcing it would be worse than refusing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotEnforced {}

impl<'de> Deserialize<'de> for NotEnforced {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NotEnforced, D::Error> {
        de::IgnoredAny::deserialize(deserializer)?;
        Err(de::Error::custom(
            "max_usd_per_call, rate_limit_rps, params and parent_vault_key are not enforced by this version; leave \
             them out",
        ))
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let seconds = match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Null => return Ok(None),
        serde_json::Value::Number(seconds) => seconds.as_u64(),
        serde_json::Value::String(text) => parse_duration_seconds(&text),
        serde_json::Value::Bool(_) | serde_json::Value::Array(_) | serde_json::Value::Object(_) => None,
    };
    let error = "expires_in must be a number of seconds or a text such as \"15m\", \"24h\" or \"7d\"";
    seconds.map(Some).ok_or_else(|| de::Error::custom(error))
}

fn requests<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
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

fn refuse<T>(field: impl Into<String>, problem: impl fmt::Display) -> Result<T, SpecError> {
    Err(SpecError { field: field.into(), problem: problem.to_string() })
}

impl KeySpec {
    /// The policy these fields describe at `now`, where `vendors` are the configured ones.
    pub fn policy(&self, vendors: &[String], now: UnixMicros) -> Result<Policy, SpecError> {
        if !vendors.contains(&self.vendor) {
            return refuse("vendor", format_args!("is not configured; configured: {}", vendors.join(", ")));
        }
        self.check_texts()?;
        Ok(Policy {
            vendor: self.vendor.clone(),
            allowed_endpoints: self.rules()?,
            daily_usd_cap: self.daily_usd_cap,
            total_usd_cap: self.total_usd_cap,
            daily_request_budget: self.daily_request_budget,
            expires_at: self.expiry(now)?,
        })
    }

    fn rules(&self) -> Result<Vec<Rule>, SpecError> {
        if self.allowed_endpoints.is_empty() {
            return refuse("allowed_endpoints", "name at least one endpoint, such as \"POST /v1/charges\"");
        }
        if self.allowed_endpoints.len() > RULES_MAX {
            return refuse(
                "allowed_endpoints",
                format_args!("at most {RULES_MAX} are allowed; use `*` or `**`"),
            );
        }
        let parse = |(at, text): (usize, &String)| {
            if text.split('/').nth(1) == Some(self.vendor.as_str()) {
                let problem =
                    "leave the vendor's name out: rules are the vendor's own paths, such as /v1/charges";
                return refuse(format!("allowed_endpoints[{at}]"), problem);
            }
            // The account is the credential's, whatever an agent or a rule names.
            let account = text.split_once("/2010-04-01/Accounts/").map(|(_, rest)| rest);
            if self.vendor == "twilio" && account.is_some_and(|rest| !rest.starts_with('*')) {
                let problem = "write `*` for the account: calls act on the credential's";
                return refuse(format!("allowed_endpoints[{at}]"), problem);
            }
            text.parse().or_else(|error| refuse(format!("allowed_endpoints[{at}]"), error))
        };
        self.allowed_endpoints.iter().enumerate().map(parse).collect()
    }

    fn expiry(&self, now: UnixMicros) -> Result<Option<UnixMicros>, SpecError> {
        let at = match (&self.expires_at, self.expires_in) {
            (Some(_), Some(_)) => return refuse("expires_in", "give either expires_in or expires_at"),
            (None, None) => return Ok(None),
            (None, Some(seconds)) => now.plus_seconds(seconds),
            (Some(text), None) => match UnixMicros::parse_rfc3339(text) {
                Some(at) => at,
                None => return refuse("expires_at", "write RFC 3339 in UTC, such as 2026-11-22T00:00:00Z"),
            },
        };
        let field = if self.expires_at.is_some() { "expires_at" } else { "expires_in" };
        if at <= now {
            return refuse(field, "must lie in the future");
        }
        if at > now.plus_seconds(LIFE_SECONDS_MAX) {
            return refuse(field, "must lie within ten years; leave it out for a key that does not expire");
        }
        Ok(Some(at))
    }

    fn check_texts(&self) -> Result<(), SpecError> {
        for (field, text) in [("label", &self.label), ("agent_run_label", &self.agent_run_label)] {
            if text.as_ref().is_some_and(|text| text.is_empty() || text.len() > TEXT_BYTES_MAX) {
                return refuse(field, format_args!("must have 1 to {TEXT_BYTES_MAX} bytes"));
            }
        }
        if self.metadata.len() > METADATA_ENTRIES_MAX {
            return refuse("metadata", format_args!("at most {METADATA_ENTRIES_MAX} entries are allowed"));
        }
        for (name, value) in &self.metadata {
            if name.is_empty() || name.len() > METADATA_NAME_BYTES_MAX {
                return refuse(
                    "metadata",
                    format_args!("names must have 1 to {METADATA_NAME_BYTES_MAX} bytes"),
                );
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
                "expires_in": "24h", "label": "billing", "metadata": {"agent_id": "a1"}}"#,
            Ok(concat!(
                r#"{"vendor":"stripe","allowed_endpoints":["POST /v1/charges"],"daily_usd_cap":150.50,"#,
                r#""total_usd_cap":36028797018.963967,"daily_request_budget":1000,"expires_at":1795305600000000}"#,
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
        check(&with(r#", "rate_limit_rps": 5"#), Err("not enforced by this version"));
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
