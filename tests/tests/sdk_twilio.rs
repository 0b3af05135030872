//! Twilio's official SDKs through keybrake to a server that answers by Twilio's own OpenAPI document.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_tests::{Chain, Guest, Issued, Sdk, holds};
use serde_json::{Value, json};

/// The account that no agent may name in a request.
const SID: &str = "AC5e7a1f0c9b3d4826a0f1c2d3e4b5a697";
const TOKEN: &str = "9f8e7d6c5b4a39281706f5e4d3c2b1a0";

/// What an agent writes in its place.
const PLACEHOLDER: &str = "AC00000000000000000000000000000000";

const MESSAGES: &str = "/2010-04-01/Accounts/*/Messages.json";

fn chain() -> Chain {
    Chain::of("twilio", &format!("{SID}:{TOKEN}"), &[TOKEN], Guest::twilio)
}

fn issue(chain: &Chain, more: &Value) -> Issued {
    let mut policy = json!({"vendor": "twilio"});
    policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    chain.keybrake.issue_by_admin(&[&format!("POST {MESSAGES}"), &format!("GET {MESSAGES}")], &policy)
}

/// Runs `sms.py` or `sms.cjs`.
fn call(chain: &Chain, sdk: Sdk, half: &str, call: &str, key: &Issued) -> Value {
    sdk.run("sms", &[&chain.base("/twilio"), half, call, &key.text])
}

/// A key in either half of Basic, and a placeholder for the account, send a message.
fn sends(sdk: Sdk) {
    let chain = chain();
    let key = issue(&chain, &json!({"daily_usd_cap": 1}));
    for half in ["password", "username"] {
        let sent = call(&chain, sdk, half, "message", &key);
        assert!(sent["done"].as_str().is_some_and(|sid| sid.starts_with("SM")), "{half}: {sent}");
        let listed = call(&chain, sdk, half, "list", &key);
        assert!(listed["done"].is_number(), "{half}: {listed}");
    }
    let of_agents = |account: &str| format!("POST /twilio/2010-04-01/Accounts/{account}/Messages.json");
    assert!(chain.agents.requests().contains(&of_agents(PLACEHOLDER)), "{:#?}", chain.agents.requests());
    let at_vendor = chain.vendor.requests();
    let messages = format!("POST /2010-04-01/Accounts/{SID}/Messages.json");
    assert_eq!(at_vendor.iter().filter(|line| **line == messages).count(), 2, "{at_vendor:#?}");
    assert_eq!(chain.agents.requests().len(), at_vendor.len(), "one for one");
    let sent_by_agents = chain.agents.sent_up();
    assert!(!sent_by_agents.iter().any(|bytes| holds(bytes, SID)), "no agent sends the real account");
    assert!(chain.keybrake.key(&key.id).committed_usd.as_u64() > 0, "a message costs something");
    let rows = chain.keybrake.eventually_rows(&key.id, at_vendor.len());
    assert!(rows.iter().all(|row| row["policy_check_result"] == "allowed"), "{rows:#?}");
    chain.check_secrets(&[&key]);
}

fn raises_typed_errors(sdk: Sdk) {
    let chain = chain();
    // Less than any message costs.
    let capped = issue(&chain, &json!({"daily_usd_cap": 0.0005}));
    let revoked = issue(&chain, &json!({}));
    let class = if sdk.is_python() { "TwilioRestException" } else { "RestException" };
    let check = |key: &Issued, what: &str, status: u16, words: &str| {
        let error = chain.refused(key, || call(&chain, sdk, "password", what, key));
        assert_eq!((&error["type"], &error["status"]), (&json!(class), &json!(status)), "{error}");
        assert_eq!(error["vendor_code"], 20003, "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("keybrake: ") && message.contains(words), "{error}");
    };
    check(&capped, "call", 403, "Messages.json");
    check(&capped, "verify", 403, "Messages.json");
    // No header reaches a caller in Python, so the time is in the text.
    check(&capped, "message", 429, "resets 20");
    assert_eq!(chain.keybrake.operate(&format!("POST /vault/keys/{}/revoke", revoked.id), None).status, 200);
    check(&revoked, "message", 401, "");
    assert_eq!(chain.vendor.requests(), Vec::<String>::new(), "the vendor saw none of them");
    assert!(chain.guest_listens(), "and was there");
}

#[test]
fn twilio_python_9_sends_with_the_key_in_either_half_and_never_sees_the_account() {
    sends(Sdk::TwilioPython9);
}

#[test]
fn twilio_node_4_sends_with_the_key_in_either_half_and_never_sees_the_account() {
    sends(Sdk::TwilioNode4);
}

#[test]
fn twilio_node_6_sends_with_the_key_in_either_half_and_never_sees_the_account() {
    sends(Sdk::TwilioNode6);
}

#[test]
fn twilio_python_9_raises_its_own_type_for_denials() {
    raises_typed_errors(Sdk::TwilioPython9);
}

#[test]
fn twilio_node_4_raises_its_own_type_for_denials() {
    raises_typed_errors(Sdk::TwilioNode4);
}

#[test]
fn twilio_node_6_raises_its_own_type_for_denials() {
    raises_typed_errors(Sdk::TwilioNode6);
}
