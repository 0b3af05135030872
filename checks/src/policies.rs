//! Policies: what is written, what is below it, what it decides (rules M11, Q9, A2, A5).

use keybrake_proto::catalog::{Call, Catalog};
use keybrake_proto::http1::Method;
use keybrake_proto::policy::params::Parameters;
use keybrake_proto::policy::{KeyChange, KeySpec, Policy, params::Body};
use keybrake_proto::time::UnixMicros;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// 2026-11-21, in seconds.
const NOW: UnixMicros = UnixMicros::from_seconds(1_795_219_200);

/// Calls of each kind: free, priced, unknown, a parameter beside a literal, one that hands out credentials.
const CALLS: [(Method, &str); 12] = [
    (Method::Get, "/v1/charges"),
    (Method::Get, "/v1/charges/ch_1"),
    (Method::Get, "/v1/charges/search"),
    (Method::Get, "/v1/customers/cus_1"),
    (Method::Post, "/v1/charges"),
    (Method::Post, "/v1/refunds"),
    (Method::Post, "/v1/ephemeral_keys"),
    (Method::Post, "/v1/not/in/the/table"),
    (Method::Delete, "/v1/customers/cus_1"),
    (Method::Get, "/2010-04-01/Accounts/AC1/Messages.json"),
    (Method::Post, "/2010-04-01/Accounts/AC1/Messages.json"),
    (Method::Post, "/emails"),
];

/// Bodies that rules tell apart, as forms and as JSON.
const BODIES: [&[u8]; 8] = [
    b"",
    b"amount=500&currency=usd",
    b"amount=50000&currency=eur&customer=cus_1",
    b"amount=1&amount=2",
    b"To=%2B15005550006&Body=x",
    br#"{"to": ["a@example.com"], "amount": 5}"#,
    br#"{"to": ["a@example.com", "b@evil.test"], "currency": "usd"}"#,
    br#"{"currency": ["usd", null], "customer": "cus_1"}"#,
];

/// Lines: the body of an issue, that of a child's, that of a change, and a request's body. A policy reads back as
/// written; a child, also after a change, has and allows nothing that its parent has not.
pub fn policy(bytes: &[u8]) {
    let mut lines = bytes.splitn(4, |byte| *byte == b'\n');
    let Some(parent) = lines.next().and_then(root) else { return };
    reads_back(&parent);
    let Some(child) = lines.next().and_then(|line| below(line, &parent)) else { return };
    reads_back(&child);
    let change = lines.next().unwrap_or_default();
    let body = lines.next().unwrap_or_default();
    is_within(&child, &parent, body);
    if let Ok(change) = serde_json::from_slice::<KeyChange>(change)
        && let Ok(changed) = change.policy(&child, Some(&parent), NOW)
    {
        reads_back(&changed);
        is_within(&changed, &parent, body);
    }
}

fn root(line: &[u8]) -> Option<Policy> {
    let spec: KeySpec = serde_json::from_slice(line).ok()?;
    same(&spec);
    let vendors = ["stripe", "twilio", "resend"].map(str::to_owned);
    let policy = spec.policy(&vendors, NOW).map_err(|error| assert!(!error.problem.is_empty())).ok()?;
    assert!(!policy.allowed_endpoints.is_empty(), "no rule is nothing, and nothing is refused");
    Some(policy)
}

fn below(line: &[u8], parent: &Policy) -> Option<Policy> {
    let spec: KeySpec = serde_json::from_slice(line).ok()?;
    spec.child_policy(parent, NOW).map_err(|error| assert!(!error.problem.is_empty())).ok()
}

fn same<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(written: &T) {
    let json = serde_json::to_string(written).unwrap();
    let read: T = serde_json::from_str(&json).unwrap_or_else(|error| panic!("{json}: {error}"));
    assert_eq!(&read, written, "{json}");
}

fn reads_back(policy: &Policy) {
    same(policy);
    if let Some(at) = policy.expires_at {
        assert!(!policy.has_expired(NOW) && policy.has_expired(at));
    }
}

/// `None` is no limit, so it is the widest.
fn at_most<T: Ord>(value: Option<T>, of_parent: Option<T>) -> bool {
    of_parent.is_none_or(|most| value.is_some_and(|value| value <= most))
}

fn is_within(child: &Policy, parent: &Policy, body: &[u8]) {
    assert_eq!((&child.vendor, &child.account), (&parent.vendor, &parent.account));
    assert!(at_most(child.daily_usd_cap, parent.daily_usd_cap));
    assert!(at_most(child.total_usd_cap, parent.total_usd_cap));
    assert!(at_most(child.daily_request_budget, parent.daily_request_budget));
    assert!(at_most(child.expires_at, parent.expires_at));
    let (own, of_parent) = (&child.restrictions, &parent.restrictions);
    assert!(at_most(own.max_usd_per_call, of_parent.max_usd_per_call));
    assert!(at_most(own.rate_limit_rps, of_parent.rate_limit_rps));
    assert!(own.stripe_accounts.iter().all(|account| of_parent.allows_account(account.as_bytes())));
    let catalog = Catalog::of(&parent.vendor).unwrap();
    for (method, path) in CALLS {
        let call = catalog.recognize(method, path.as_bytes());
        let may = |policy: &Policy| policy.permit(&call).is_ok();
        assert!(may(parent) || !may(child), "the child may {method:?} {path}");
        for body in BODIES.into_iter().chain([body]) {
            passes(child, parent, &call, body);
        }
    }
}

/// What the child's rules about parameters let pass, the parent's do too.
fn passes(child: &Policy, parent: &Policy, call: &Call<'_>, body: &[u8]) {
    for (query, body) in [
        (&b""[..], Body::Form(body)),
        (b"currency=usd&expand[]=a", Body::Form(body)),
        (b"", Body::Json(body)),
        (b"", Body::Other),
    ] {
        let request = Parameters { call, query, body };
        let passes = |policy: &Policy| policy.restrictions.params.allow(&request);
        if passes(child).is_ok() {
            assert!(
                passes(parent).is_ok(),
                "{:?}\n{:?}\n{request:?}",
                child.restrictions,
                parent.restrictions
            );
        }
    }
}
