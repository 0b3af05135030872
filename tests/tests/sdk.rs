//! The official Stripe SDKs through keybrake: what they can do, what they raise, what leaks.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_tests::{Chain, Guest, Issued, Sdk, eventually, now_micros};
use serde_json::{Value, json};

const BASE_URLS: [&str; 4] = ["/stripe", "/stripe/", "/stripe/v1", "/stripe/v1/"];

/// What `pay.py` and `pay.cjs` need.
const PAYING: [&str; 9] = [
    "POST /v1/customers",
    "POST /v1/payment_methods",
    "POST /v1/payment_methods/*/attach",
    "POST /v1/payment_intents",
    "GET /v1/payment_intents/*",
    "POST /v1/charges",
    "GET /v1/charges/*",
    "POST /v1/refunds",
    "GET /v1/refunds/*",
];

/// What is told apart in `pay.py` and `pay.cjs`, in cents.
const PAID_CENTS: u64 = 2000 + 1500 + 500;

/// Every way in which an SDK can be pointed at keybrake, as arguments of its program.
fn ways(chain: &Chain, sdk: Sdk) -> Vec<Vec<String>> {
    let bases = BASE_URLS.map(|path| chain.base(path));
    if sdk.is_python() {
        return bases.map(|base| vec![base]).to_vec();
    }
    // stripe-node takes no path: a bare host, or a fetch client that puts one in front.
    let fetch = bases.map(|base| vec!["fetch".to_owned(), base]);
    [&[vec!["host".to_owned(), chain.base("")]], &fetch[..]].concat()
}

fn pays_in_every_way(sdk: Sdk) {
    let chain = Chain::of_stripe(Guest::localstripe);
    let key = chain.keybrake.issue_by_admin(&PAYING, &json!({"daily_usd_cap": 500}));
    let ways = ways(&chain, sdk);
    for way in &ways {
        let arguments: Vec<&str> = way.iter().map(String::as_str).chain([key.text.as_str()]).collect();
        let paid = sdk.run("pay", &arguments);
        let expected =
            json!({"intent": 2000, "run": "run_1", "charge": 1500, "refund": 500, "refunded": 500});
        assert_eq!(paid, expected, "{way:?}");
    }
    assert_eq!(chain.agents.requests().len(), chain.vendor.requests().len(), "one for one");
    assert_eq!(chain.keybrake.committed_cents(&key.id), ways.len() as u64 * PAID_CENTS);
    let rows = chain.keybrake.eventually_rows(&key.id, chain.agents.requests().len());
    assert!(rows.iter().all(|row| row["policy_check_result"] == "allowed"), "{rows:#?}");
    let mut keys = vec![&key];
    let other;
    if sdk == Sdk::StripePython16 {
        other = chain.keybrake.issue_by_admin(&PAYING, &json!({"daily_usd_cap": 500}));
        for path in BASE_URLS {
            let paid = sdk.run("pay_with_client", &[&chain.base(path), &other.text]);
            assert_eq!(paid, json!({"intent": 2000}), "StripeClient at {path}");
        }
        keys.push(&other);
    }
    chain.check_secrets(&keys);
}

#[test]
fn the_newest_stripe_sdk_pays_and_refunds_through_a_vault_key() {
    pays_in_every_way(Sdk::StripePython16);
}

#[test]
fn a_stripe_sdk_older_than_8_pays_and_refunds_through_a_vault_key() {
    pays_in_every_way(Sdk::StripePython7);
}

#[test]
fn a_stripe_sdk_of_major_version_2_pays_and_refunds_through_a_vault_key() {
    pays_in_every_way(Sdk::StripePython2);
}

/// Seconds to the next 00:00 UTC.
fn seconds_left_today() -> u64 {
    86_400 - now_micros() / 1_000_000 % 86_400
}

fn refused(chain: &Chain, sdk: Sdk, call: &str, key: &Issued) -> Value {
    chain.refused(key, || {
        let error = sdk.run("refused", &[&chain.base("/stripe"), call, &key.text]);
        assert!(!error["code"].is_null() && !error["request_id"].is_null(), "{error}");
        error
    })
}

fn raises_typed_errors(sdk: Sdk) {
    let chain = Chain::of_stripe(Guest::localstripe);
    let issue = |more: Value| chain.keybrake.issue_by_admin(&["POST /v1/charges"], &more);
    let (capped, revoked, expiring) =
        (issue(json!({"daily_usd_cap": 10})), issue(json!({})), issue(json!({"expires_in": 1})));

    let error = refused(&chain, sdk, "payout", &capped);
    assert_eq!((&error["type"], &error["status"]), (&json!("PermissionError"), &json!(403)), "{error}");
    assert_eq!(error["code"], "endpoint_not_allowed");
    assert!(error["message"].as_str().unwrap().contains("POST /v1/charges"), "{error}");

    let before = seconds_left_today();
    let error = refused(&chain, sdk, "charge", &capped);
    assert_eq!((&error["type"], &error["status"]), (&json!("RateLimitError"), &json!(429)), "{error}");
    let retry_after: u64 = error["retry_after"].as_str().unwrap().parse().unwrap();
    let (after, near) = (seconds_left_today(), 60);
    let is_near_midnight = before < near || before > 86_400 - near;
    assert!(
        (after.saturating_sub(3)..=before + 3).contains(&retry_after) || is_near_midnight,
        "{error} at {before}"
    );

    assert_eq!(chain.keybrake.operate(&format!("POST /vault/keys/{}/revoke", revoked.id), None).status, 200);
    let error = refused(&chain, sdk, "charge", &revoked);
    assert_eq!((&error["type"], &error["status"]), (&json!("AuthenticationError"), &json!(401)), "{error}");

    eventually("the key to expire", || {
        (chain.keybrake.key(&expiring.id).status == keybrake_proto::control::KeyStatus::Expired).then_some(())
    });
    let of_expired = refused(&chain, sdk, "charge", &expiring);
    assert_eq!(of_expired["type"], "AuthenticationError", "{of_expired}");
    assert_eq!(of_expired["message"], error["message"], "an agent does not learn which");

    assert_eq!(chain.vendor.requests(), Vec::<String>::new(), "localstripe saw none of them");
    assert!(chain.guest_listens(), "and was there");
}

#[test]
fn stripe_node_14_pays_and_refunds_through_a_vault_key() {
    pays_in_every_way(Sdk::StripeNode14);
}

#[test]
fn stripe_node_23_pays_and_refunds_through_a_vault_key() {
    pays_in_every_way(Sdk::StripeNode23);
}

#[test]
fn the_newest_stripe_sdk_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::StripePython16);
}

#[test]
fn a_stripe_sdk_older_than_8_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::StripePython7);
}

#[test]
fn a_stripe_sdk_of_major_version_2_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::StripePython2);
}

#[test]
fn stripe_node_14_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::StripeNode14);
}

#[test]
fn stripe_node_23_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::StripeNode23);
}
