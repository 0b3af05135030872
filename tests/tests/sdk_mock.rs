//! The official Stripe SDKs through keybrake to a stand-in that remembers idempotency keys and fails on demand.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_tests::{Chain, Guest, Issued, Sdk};
use serde_json::{Value, json};

const CHARGE: [&str; 1] = ["POST /v1/charges"];

/// Runs `charge.py` or `charge.cjs`.
fn charge(
    chain: &Chain,
    sdk: Sdk,
    key: &Issued,
    source: &str,
    idempotency_key: &str,
    retries: &str,
) -> Value {
    sdk.run("charge", &[&chain.base("/stripe"), source, idempotency_key, retries, &key.text])
}

/// A test for each SDK.
macro_rules! for_each_sdk {
    ($check:ident: $($name:ident $sdk:ident,)*) => {
        $(#[test]
        fn $name() {
            $check(Sdk::$sdk);
        })*
    };
}

for_each_sdk! { outcomes:
    stripe_python_16_is_told_what_the_vendor_says StripePython16,
    stripe_python_7_is_told_what_the_vendor_says StripePython7,
    stripe_python_2_is_told_what_the_vendor_says StripePython2,
    stripe_node_14_is_told_what_the_vendor_says StripeNode14,
    stripe_node_23_is_told_what_the_vendor_says StripeNode23,
}

/// The vendor's own outcomes, each with what it costs; then the request budget, which is ours.
fn outcomes(sdk: Sdk) {
    let chain = Chain::of_stripe(Guest::stripe_mock);
    let issue = |more: Value| chain.keybrake.issue_by_admin(&CHARGE, &more);
    let key = issue(json!({"daily_usd_cap": 100}));
    let (cents, requests) = (|| chain.keybrake.committed_cents(&key.id), || chain.agents.requests().len());

    let first = charge(&chain, sdk, &key, "tok_visa", "order-1", "0");
    let again = charge(&chain, sdk, &key, "tok_visa", "order-1", "0");
    assert!(first["id"].is_string() && first == again, "the vendor replays: {first}, {again}");
    assert_eq!((cents(), requests()), (1500, 2), "one charge counts once (rule Q5)");

    let declined = charge(&chain, sdk, &key, "tok_chargeDeclined", "order-2", "0");
    assert_eq!((&declined["type"], &declined["status"]), (&json!("CardError"), &json!(402)), "{declined}");
    assert_eq!((cents(), requests()), (1500, 3), "a declined card moves nothing");

    let limited = charge(&chain, sdk, &key, "tok_429", "order-3", "0");
    assert_eq!((&limited["type"], &limited["status"]), (&json!("RateLimitError"), &json!(429)), "{limited}");
    assert!(
        !limited["message"].as_str().unwrap_or_default().contains("keybrake"),
        "the vendor's own: {limited}"
    );
    assert_eq!((cents(), requests()), (1500, 4), "a vendor's 429 moves nothing");

    let broken = charge(&chain, sdk, &key, "tok_500", "order-4", "2");
    assert_eq!((&broken["type"], &broken["status"]), (&json!("APIError"), &json!(500)), "{broken}");
    assert_eq!((cents(), requests()), (3000, 7), "three tries with one key are one charge in doubt");
    assert_eq!(chain.keybrake.held_cents(&key.id), 1500);

    let budget = issue(json!({"daily_request_budget": 1}));
    assert!(charge(&chain, sdk, &budget, "tok_visa", "order-5", "0")["id"].is_string());
    let spent = chain.refused(&budget, || charge(&chain, sdk, &budget, "tok_visa", "order-6", "2"));
    assert_eq!((&spent["type"], &spent["status"]), (&json!("RateLimitError"), &json!(429)), "{spent}");
    assert!(spent["message"].as_str().unwrap().contains("keybrake"), "ours: {spent}");
    chain.check_secrets(&[&key, &budget]);
}
