//! Resend's official SDKs through keybrake to resend-local.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_tests::{Chain, Guest, Issued, Sdk};
use serde_json::{Value, json};

/// resend-local takes any key that begins so.
const CREDENTIAL: &str = "re_Kq3vT9bX_5mWc8ZrLh2NfPdYs6JgAe4u";

fn chain() -> Chain {
    Chain::of("resend", CREDENTIAL, &[CREDENTIAL], Guest::resend_local)
}

fn issue(chain: &Chain, more: &Value) -> Issued {
    let mut policy = json!({"vendor": "resend"});
    policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    chain.keybrake.issue_by_admin(&["POST /emails", "POST /emails/batch"], &policy)
}

/// Runs `mails.py` or `mails.cjs`.
fn call(chain: &Chain, sdk: Sdk, call: &str, key: &Issued) -> Value {
    sdk.run("mails", &[&chain.base("/resend"), call, &key.text])
}

fn sends(sdk: Sdk) {
    let chain = chain();
    let key = issue(&chain, &json!({"daily_usd_cap": 1}));
    let sent = call(&chain, sdk, "send", &key);
    assert!(sent["done"]["id"].is_string(), "{sent}");
    let one = chain.keybrake.key(&key.id).committed_usd.as_u64();
    assert!(one > 0, "a mail costs something");
    let sent = call(&chain, sdk, "batch", &key);
    assert!(sent["done"]["data"].as_array().is_some_and(|mails| mails.len() == 2), "{sent}");
    assert_eq!(chain.keybrake.key(&key.id).committed_usd.as_u64(), 3 * one, "each recipient counts");
    assert_eq!(chain.vendor.requests(), ["POST /emails", "POST /emails/batch"]);
    assert_eq!(chain.agents.requests(), ["POST /resend/emails", "POST /resend/emails/batch"]);
    let rows = chain.keybrake.eventually_rows(&key.id, 2);
    assert!(rows.iter().all(|row| row["policy_check_result"] == "allowed"), "{rows:#?}");
    chain.check_secrets(&[&key]);
}

/// `classes` are the SDK's own for 403, 429 and 401. Version 0.8 of Python's is the one that takes a refusal without
/// `statusCode` in its body for a mail that was sent.
fn raises_typed_errors(sdk: Sdk, classes: [&str; 3]) {
    let chain = chain();
    // Less than one mail costs.
    let capped = issue(&chain, &json!({"daily_usd_cap": 0.0005}));
    let revoked = issue(&chain, &json!({}));
    let check = |key: &Issued, what: &str, status: u16, class: &str| {
        let error = chain.refused(key, || call(&chain, sdk, what, key));
        assert_eq!((&error["type"], &error["status"]), (&json!(class), &json!(status)), "{error}");
        assert!(error["message"].as_str().unwrap().starts_with("keybrake: "), "{error}");
    };
    check(&capped, "key", 403, classes[0]);
    check(&capped, "send", 429, classes[1]);
    assert_eq!(chain.keybrake.operate(&format!("POST /vault/keys/{}/revoke", revoked.id), None).status, 200);
    check(&revoked, "send", 401, classes[2]);
    assert_eq!(chain.vendor.requests(), Vec::<String>::new(), "the vendor saw none of them");
    assert!(chain.guest_listens(), "and was there");
}

#[test]
fn resend_python_2_sends_one_and_a_batch() {
    sends(Sdk::ResendPython2);
}

#[test]
fn resend_python_0_sends_one_and_a_batch() {
    sends(Sdk::ResendPython0);
}

#[test]
fn resend_node_2_sends_one_and_a_batch() {
    sends(Sdk::ResendNode2);
}

#[test]
fn resend_node_6_sends_one_and_a_batch() {
    sends(Sdk::ResendNode6);
}

/// `name` of our answers, which Node's SDKs pass on as it is.
const NAMES: [&str; 3] = ["restricted_api_key", "daily_quota_exceeded", "invalid_api_key"];

#[test]
fn resend_python_2_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::ResendPython2, ["ResendError", "RateLimitError", "ResendError"]);
}

#[test]
fn resend_python_0_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::ResendPython0, ["ResendError"; 3]);
}

#[test]
fn resend_node_2_answers_its_own_error_for_denials() {
    raises_typed_errors(Sdk::ResendNode2, NAMES);
}

#[test]
fn resend_node_6_answers_its_own_error_for_denials() {
    raises_typed_errors(Sdk::ResendNode6, NAMES);
}
