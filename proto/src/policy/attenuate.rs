//! What a key below a key may be: nothing more than its parent, field by field (rule M11).
//!
//! One function a field. Each gets what is wanted and the parent's value; what is missing is the parent's, what is
//! wider is refused. The same functions judge an issue and a change. That a parent may be narrowed later does not
//! concern them: who decides on a request asks every key of its chain.

use super::spec::{SpecError, refuse, rules};
use super::{KeySpec, Policy, Restrictions, Rule};
use crate::catalog::{Catalog, Operation};
use crate::money::Micros;
use crate::time::UnixMicros;

/// The most keys above a key. Each costs every request below it some swaps of account words.
pub const DEPTH_MAX: usize = 8;

impl KeySpec {
    /// The policy of a key below one with the policy `parent`, at `now`.
    pub fn child_policy(&self, parent: &Policy, now: UnixMicros) -> Result<Policy, SpecError> {
        self.check_texts()?;
        let vendor = vendor(&self.vendor, parent)?;
        let wanted = match self.allowed_endpoints.as_slice() {
            [] => None,
            texts => Some(rules(texts, &vendor)?),
        };
        Ok(Policy {
            account: account(self.account.as_deref(), parent)?,
            allowed_endpoints: endpoints(wanted, Some(parent))?,
            daily_usd_cap: cap("daily_usd_cap", self.daily_usd_cap, parent.daily_usd_cap)?,
            total_usd_cap: cap("total_usd_cap", self.total_usd_cap, parent.total_usd_cap)?,
            daily_request_budget: budget(self.daily_request_budget, parent.daily_request_budget)?,
            expires_at: expiry(self.expiry(now)?, self.expiry_field(), parent.expires_at)?,
            restrictions: restrictions(self.restrictions(&vendor)?, &parent.restrictions)?,
            vendor,
        })
    }

    fn expiry_field(&self) -> &'static str {
        if self.expires_in.is_some() { "expires_in" } else { "expires_at" }
    }
}

fn vendor(wanted: &str, parent: &Policy) -> Result<String, SpecError> {
    if wanted.is_empty() || wanted == parent.vendor {
        return Ok(parent.vendor.clone());
    }
    refuse("vendor", format_args!("must be the parent's, `{}`; leave it out", parent.vendor))
}

fn account(wanted: Option<&str>, parent: &Policy) -> Result<String, SpecError> {
    match wanted {
        Some(wanted) if wanted != parent.account => {
            refuse("account", format_args!("must be the parent's, `{}`; leave it out", parent.account))
        }
        Some(_) | None => Ok(parent.account.clone()),
    }
}

/// The rules of a key; without a parent some must be wanted.
pub(super) fn endpoints(wanted: Option<Vec<Rule>>, parent: Option<&Policy>) -> Result<Vec<Rule>, SpecError> {
    let Some(parent) = parent else {
        return wanted.map_or_else(|| rules(&[], ""), Ok);
    };
    let Some(wanted) = wanted else { return Ok(parent.allowed_endpoints.clone()) };
    let operations = Catalog::of(&parent.vendor).map_or(&[][..], Catalog::operations);
    for (at, rule) in wanted.iter().enumerate() {
        if !is_allowed(rule, &parent.allowed_endpoints, operations) {
            let theirs: Vec<String> = parent.allowed_endpoints.iter().map(Rule::to_string).collect();
            let problem =
                format!("is wider than each rule of the parent, which allows {}", theirs.join(", "));
            return refuse(format!("allowed_endpoints[{at}]"), problem);
        }
    }
    Ok(wanted)
}

/// Whether one of `theirs` allows all that `rule` does. Two that do so only together are a "no".
fn is_allowed(rule: &Rule, theirs: &[Rule], operations: &[Operation]) -> bool {
    theirs.iter().any(|wider| rule.is_within(wider, operations))
}

pub(super) fn restrictions(wanted: Restrictions, parent: &Restrictions) -> Result<Restrictions, SpecError> {
    let restrictions = wanted.below(parent);
    restrictions.is_within(parent)?;
    Ok(restrictions)
}

pub(super) fn cap(
    field: &str,
    wanted: Option<Micros>,
    parent: Option<Micros>,
) -> Result<Option<Micros>, SpecError> {
    match (wanted, parent) {
        (Some(wanted), Some(most)) if wanted > most => {
            refuse(field, format_args!("{wanted} USD is more than the parent's {most} USD"))
        }
        (wanted, parent) => Ok(wanted.or(parent)),
    }
}

pub(super) fn budget(wanted: Option<u32>, parent: Option<u32>) -> Result<Option<u32>, SpecError> {
    match (wanted, parent) {
        (Some(wanted), Some(most)) if wanted > most => refuse(
            "daily_request_budget",
            format_args!("{wanted} requests a day are more than the parent's {most}"),
        ),
        (wanted, parent) => Ok(wanted.or(parent)),
    }
}

pub(super) fn expiry(
    wanted: Option<UnixMicros>,
    field: &str,
    parent: Option<UnixMicros>,
) -> Result<Option<UnixMicros>, SpecError> {
    match (wanted, parent) {
        (Some(wanted), Some(last)) if wanted > last => {
            refuse(field, format_args!("{wanted} is later than the parent's {last}"))
        }
        (wanted, parent) => Ok(wanted.or(parent)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::Call;
    use crate::http1::Method;

    const NOW: UnixMicros = UnixMicros::from_seconds(1_795_219_200);

    fn policy(body: &str) -> Policy {
        let spec: KeySpec = serde_json::from_str(body).unwrap();
        spec.policy(&["stripe".to_owned()], NOW).unwrap()
    }

    /// A child's body under a parent with every limit, and the policy or a part of the error's text.
    fn check(body: &str, expected: Result<&str, &str>) {
        let parent = policy(
            r#"{"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges", "GET /v1/**"], "daily_usd_cap": 50,
                "total_usd_cap": 500, "daily_request_budget": 100, "expires_in": "24h"}"#,
        );
        let spec: KeySpec = serde_json::from_str(body).unwrap();
        let policy = spec.child_policy(&parent, NOW);
        match (policy.map(|policy| serde_json::to_string(&policy).unwrap()), expected) {
            (Ok(policy), Ok(expected)) => assert_eq!(policy, expected, "{body}"),
            (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{body}: {error}"),
            (result, expected) => panic!("{body}: {result:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn m11_what_is_missing_is_inherited() {
        check(
            "{}",
            Ok(concat!(
                r#"{"vendor":"stripe","allowed_endpoints":["POST /v1/charges","GET /v1/**"],"daily_usd_cap":50.00,"#,
                r#""total_usd_cap":500.00,"daily_request_budget":100,"expires_at":1795305600000000}"#,
            )),
        );
        check(
            r#"{"vendor": "stripe", "allowed_endpoints": ["GET /v1/charges/*"], "daily_usd_cap": 0, "total_usd_cap": 500,
                "daily_request_budget": 7, "expires_in": "1h"}"#,
            Ok(concat!(
                r#"{"vendor":"stripe","allowed_endpoints":["GET /v1/charges/*"],"daily_usd_cap":0.00,"#,
                r#""total_usd_cap":500.00,"daily_request_budget":7,"expires_at":1795222800000000}"#,
            )),
        );
    }

    #[test]
    fn m11_what_is_wider_is_refused_field_by_field() {
        check(r#"{"vendor": "twilio"}"#, Err("vendor: must be the parent's, `stripe`"));
        check(
            r#"{"allowed_endpoints": ["GET /v1/charges", "POST /v1/refunds"]}"#,
            Err(
                "allowed_endpoints[1]: is wider than each rule of the parent, which allows POST /v1/charges, GET /v1/**",
            ),
        );
        check(
            r#"{"daily_usd_cap": 50.000001}"#,
            Err("daily_usd_cap: 50.000001 USD is more than the parent's 50.00"),
        );
        check(r#"{"total_usd_cap": 501}"#, Err("total_usd_cap: 501.00 USD is more than the parent's 500.00"));
        check(
            r#"{"daily_request_budget": 101}"#,
            Err("daily_request_budget: 101 requests a day are more than"),
        );
        check(r#"{"expires_in": 86401}"#, Err("expires_in: 2026-11-22T00:00:01"));
        check(r#"{"expires_at": "2026-11-22T00:00:01Z"}"#, Err("expires_at: 2026-11-22T00:00:01"));
        check(r#"{"account": "eu"}"#, Err("account: must be the parent's, `default`"));
        check(r#"{"account": "EU"}"#, Err("account: must have 1 to 64"));
        check(r#"{"label": ""}"#, Err("label: must have 1 to 200 bytes"));
    }

    #[test]
    fn q9_a_key_below_one_without_limits_may_have_any() {
        let parent = policy(r#"{"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"]}"#);
        let spec: KeySpec = serde_json::from_str(r#"{"daily_usd_cap": 9, "expires_in": "365d"}"#).unwrap();
        let child = spec.child_policy(&parent, NOW).unwrap();
        assert_eq!((child.daily_usd_cap, child.total_usd_cap), ("9".parse().ok(), None));
        assert!(child.expires_at.is_some());
    }

    fn specs() -> impl Strategy<Value = KeySpec> {
        let rule = "(GET|POST) /v1/(charges|refunds|\\*\\*|customers/\\*|customers/search|ephemeral_keys)";
        let some = |of: std::ops::Range<u64>| prop::option::of(of.prop_map(|cap| Micros::new(cap).unwrap()));
        let rules = prop::collection::vec(rule, 0..4);
        (rules, some(0..9), some(0..9), prop::option::of(1..9u32), prop::option::of(1..9u64)).prop_map(
            |(allowed_endpoints, daily_usd_cap, total_usd_cap, daily_request_budget, expires_in)| KeySpec {
                allowed_endpoints,
                daily_usd_cap,
                total_usd_cap,
                daily_request_budget,
                expires_in,
                ..KeySpec::default()
            },
        )
    }

    /// `None` is no limit, so it is the widest.
    fn is_within<T: Ord>(value: Option<T>, of_parent: Option<T>) -> bool {
        of_parent.is_none_or(|most| value.is_some_and(|value| value <= most))
    }

    fn paths() -> Vec<Call<'static>> {
        let stripe = Catalog::of("stripe").unwrap();
        let all = ["charges", "refunds", "customers/cus_1", "customers/search", "ephemeral_keys", "x", "x/y"];
        let paths = all.map(|path| &*Box::leak(format!("/v1/{path}").into_boxed_str()));
        let call = |path: &'static str| {
            [Method::Get, Method::Post].map(|method| stripe.recognize(method, path.as_bytes()))
        };
        paths.into_iter().flat_map(call).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        /// Each spec asks to be below an earlier one; whoever is allowed to is a parent in turn.
        #[test]
        fn m11_in_a_random_tree_no_field_widens(specs in prop::collection::vec((specs(), any::<prop::sample::Index>()), 1..20)) {
            let calls = paths();
            let root = r#"{"vendor": "stripe", "allowed_endpoints": ["GET /v1/**", "POST /v1/**", "GET /v1/customers/search"]}"#;
            let mut tree = vec![policy(root)];
            for (spec, below) in specs {
                let parent = below.get(&tree);
                let Ok(child) = spec.child_policy(parent, NOW) else { continue };
                for call in &calls {
                    prop_assert!(child.permit(call).is_err() || parent.permit(call).is_ok(), "{child:?} {call:?}");
                }
                prop_assert!(is_within(child.daily_usd_cap, parent.daily_usd_cap));
                prop_assert!(is_within(child.total_usd_cap, parent.total_usd_cap));
                prop_assert!(is_within(child.daily_request_budget, parent.daily_request_budget));
                prop_assert!(is_within(child.expires_at, parent.expires_at));
                prop_assert_eq!(&child.vendor, &parent.vendor);
                // What was asked for is what it has, and never more.
                prop_assert!(is_within(child.daily_usd_cap, spec.daily_usd_cap));
                tree.push(child);
            }
        }
    }
}
