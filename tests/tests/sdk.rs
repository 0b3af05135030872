//! The official Stripe SDKs for Python through keybrake: what they can do, what they raise, what leaks.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_tests::{
    Issued, Keybrake, Localstripe, Relay, SECRET, Sdk, Setup, eventually, holds, now_micros, secrets_in_files,
};
use serde_json::{Value, json};

const BASE_URLS: [&str; 4] = ["/stripe", "/stripe/", "/stripe/v1", "/stripe/v1/"];

/// What `pay.py` needs.
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

/// SDK → relay → keybrake → relay → localstripe. Both relays keep every byte.
struct Chain {
    agents: Relay,
    keybrake: Keybrake,
    vendor: Relay,
    localstripe: Localstripe,
    dir: tempfile::TempDir,
}

impl Chain {
    fn start() -> Chain {
        let dir = tempfile::tempdir().unwrap();
        let localstripe = Localstripe::start(dir.path());
        let vendor = Relay::start(localstripe.address());
        let keybrake = Setup::new(format!("http://{}", vendor.address())).with_admin().on_disk().start();
        let agents = Relay::start(keybrake.proxy());
        Chain { agents, keybrake, vendor, localstripe, dir }
    }

    fn base(&self, path: &str) -> String {
        format!("http://{}{path}", self.agents.address())
    }

    /// The vault keys stay on the agents' side, the credential on the vendor's, and neither in a file.
    fn check_secrets(&self, keys: &[&Issued]) {
        for key in keys {
            for bytes in self.vendor.sent_up().into_iter().chain(self.vendor.sent_down()) {
                assert!(!holds(&bytes, &key.text), "a vault key went to the vendor");
            }
        }
        for bytes in self.agents.sent_down().into_iter().chain(self.agents.sent_up()) {
            assert!(!holds(&bytes, SECRET), "the credential went to an agent");
        }
        assert!(self.vendor.sent_up().iter().any(|bytes| holds(bytes, SECRET)), "the scan itself finds it");
        // Standard error of all processes is below the same directory.
        for secret in keys.iter().map(|key| key.text.as_str()).chain([SECRET]) {
            for dir in [self.keybrake.dir(), self.dir.path()] {
                let found = secrets_in_files(dir, secret);
                assert!(found.is_empty(), "a secret stands in {found:?}");
            }
        }
    }
}

fn pays_in_every_way(sdk: Sdk) {
    let chain = Chain::start();
    let key = chain.keybrake.issue_by_admin(&PAYING, &json!({"daily_usd_cap": 500}));
    for path in BASE_URLS {
        let paid = sdk.run("pay.py", &[&chain.base(path), &key.text]);
        let expected = json!({
            "version": paid["version"], "intent": 2000, "run": "run_1", "charge": 1500, "refund": 500, "refunded": 500
        });
        assert_eq!(paid, expected, "{path}");
    }
    assert_eq!(chain.agents.requests().len(), chain.vendor.requests().len(), "one for one");
    assert_eq!(chain.keybrake.committed_cents(&key.id), 4 * (2000 + 1500 + 500));
    let rows = chain.keybrake.eventually_rows(&key.id, chain.agents.requests().len());
    assert!(rows.iter().all(|row| row["policy_check_result"] == "allowed"), "{rows:#?}");
    let mut keys = vec![&key];
    let other;
    if sdk == Sdk::New {
        other = chain.keybrake.issue_by_admin(&PAYING, &json!({"daily_usd_cap": 500}));
        for path in BASE_URLS {
            let paid = sdk.run("pay_with_client.py", &[&chain.base(path), &other.text]);
            assert_eq!(paid, json!({"intent": 2000}), "StripeClient at {path}");
        }
        keys.push(&other);
    }
    chain.check_secrets(&keys);
}

#[test]
fn the_newest_stripe_sdk_pays_and_refunds_through_a_vault_key() {
    pays_in_every_way(Sdk::New);
}

#[test]
fn a_stripe_sdk_older_than_8_pays_and_refunds_through_a_vault_key() {
    pays_in_every_way(Sdk::Old);
}

#[test]
fn a_stripe_sdk_of_major_version_2_pays_and_refunds_through_a_vault_key() {
    pays_in_every_way(Sdk::Two);
}

/// Seconds to the next 00:00 UTC.
fn seconds_left_today() -> u64 {
    86_400 - now_micros() / 1_000_000 % 86_400
}

/// The error of one call, which is one request on the wire and none at the vendor, and has an audit row.
fn refused(chain: &Chain, sdk: Sdk, call: &str, key: &Issued) -> Value {
    let (before, at_vendor) = (chain.agents.requests().len(), chain.vendor.requests().len());
    let rows = chain.keybrake.rows(&key.id).len();
    let error = sdk.run("refused.py", &[&chain.base("/stripe"), call, &key.text]);
    assert_eq!(chain.agents.requests().len(), before + 1, "{sdk:?} sends it once: {error}");
    assert_eq!(chain.vendor.requests().len(), at_vendor, "the vendor sees nothing: {error}");
    let rows = chain.keybrake.eventually_rows(&key.id, rows + 1);
    let is_of_error =
        |row: &&Value| row["policy_check_result"] == error["code"] && row["id"] == error["request_id"];
    let row = rows.iter().find(is_of_error).unwrap_or_else(|| panic!("{error} is not in {rows:#?}"));
    assert_eq!((&row["status"], &row["outcome"]), (&error["status"], &json!("denied")), "{row:#}");
    assert_eq!(row["amount_usd"].as_f64(), Some(0.0), "{row:#}");
    error
}

fn raises_typed_errors(sdk: Sdk) {
    let chain = Chain::start();
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
    assert!(std::net::TcpStream::connect(chain.localstripe.address()).is_ok(), "and was there");
}

#[test]
fn the_newest_stripe_sdk_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::New);
}

#[test]
fn a_stripe_sdk_older_than_8_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::Old);
}

#[test]
fn a_stripe_sdk_of_major_version_2_raises_its_own_types_for_denials() {
    raises_typed_errors(Sdk::Two);
}
