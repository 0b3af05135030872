//! What a key restricts beside its endpoints and caps: parameters, the cost of one call, the account at the vendor.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::collections::HashSet;
use std::sync::Mutex;

use keybrake_tests::{Client, Issued, Keybrake, Reply, Setup, Vendor, call, form_post, get, paid};
use serde_json::{Value, json};

/// Every endpoint of the tests.
const ENDPOINTS: [&str; 5] = [
    "POST /v1/charges",
    "POST /v1/refunds",
    "POST /v1/customers/*",
    "POST /v1/subscriptions",
    "POST /v2/core/**",
];

struct Scene {
    vendor: Vendor,
    keybrake: Keybrake,
    key: Issued,
}

/// A keybrake before a vendor that carries out everything, and a key with these fields.
fn scene(more: &Value) -> Scene {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&ENDPOINTS, more);
    Scene { vendor, keybrake, key }
}

impl Scene {
    fn form(&self, path: &str, form: &str) -> Reply {
        let mut client = Client::connect(self.keybrake.proxy());
        client.send(form_post(&format!("/stripe{path}"), &self.key.text, form));
        client.reply()
    }

    fn json(&self, path: &str, kind: &str, body: &str) -> Reply {
        let authorization = format!("Authorization: Bearer {}", self.key.text);
        let head = format!("POST /stripe{path}\n{authorization}\nContent-Type: {kind}");
        call(self.keybrake.proxy(), &head, body.as_bytes())
    }
}

fn check(reply: &Reply, expected: &str) {
    let seen = match reply.status {
        200 => "ok".to_owned(),
        _ => reply.json()["error"]["code"].as_str().unwrap_or_default().to_owned(),
    };
    assert_eq!(seen, expected, "{}", reply.text());
}

#[test]
fn a5_parameter_rules_hold_for_forms_the_query_the_path_and_json() {
    let scene = scene(&json!({"params": [
        {"name": "currency", "in": ["usd"]},
        {"name": "amount", "max": 5000, "endpoints": ["POST /v1/charges"]},
        {"name": "customer", "in": ["cus_1"]},
        {"name": "transfer_data.destination", "absent": true},
        {"name": ["to", "cc", "bcc"], "domain": "example.com"},
    ]}));
    check(
        &scene.form("/v1/charges", "amount=5000&currency=usd&customer=cus_1&expand[0]=x&expand[1]=y"),
        "ok",
    );
    let refused = "parameter_not_allowed";
    for form in [
        "amount=5001&currency=usd",
        "amount=50&currency=eur",
        "amount=50&currency=usd&customer=cus_2",
        "amount=50&currency=usd&transfer_data[destination]=acct_2",
        "amount=50&currency=usd&transfer_data%5Bdestination%5D=acct_2",
    ] {
        check(&scene.form("/v1/charges", form), refused);
    }
    // What has two readings is no matter of the rule.
    for form in [
        "amount=50&currency=usd&currency=eur",
        "amount=50&currency=usd&%63urrency=eur",
        "amount=50&currency=usd&Currency=eur",
        "amount=50&currency=usd&customer[]=cus_2",
        "amount=50&currency=usd;customer=cus_2",
    ] {
        check(&scene.form("/v1/charges", form), "malformed_request");
    }
    check(&scene.form("/v1/refunds", "charge=ch_1&amount=9000"), "ok");
    check(&scene.form("/v1/customers/cus_1", "name=a"), "ok");
    check(&scene.form("/v1/customers/cus_2", "name=a"), refused);
    check(&scene.form("/v1/customers/cus_1?currency=eur", "name=a"), refused);
    check(&scene.form("/v1/customers/cus_1?currency=usd", "currency=usd"), "malformed_request");
    let mail = "/v2/core/mails";
    let json = "application/json";
    check(
        &scene.json(mail, json, r#"{"to": ["Ann <a@example.com>", "b@example.com"], "cc": "c@example.com"}"#),
        "ok",
    );
    check(&scene.json(mail, json, r#"{"to": ["a@example.com", "b@evil.com"]}"#), refused);
    check(&scene.json(mail, json, r#"{"to": "a@example.com", "bcc": ["x@evil.com"]}"#), refused);
    check(&scene.json(mail, json, r#"{"to": "a@example.com", "to": "a@evil.com"}"#), "malformed_request");
    check(&scene.json(mail, json, r#"{"to": "a@example.com", "TO": "a@evil.com"}"#), "malformed_request");
    // A vendor may read JSON whatever it is called, so a body of another kind is not looked past.
    for kind in ["application/x-www-form-urlencoded", "text/plain", "application/json; charset=utf-16"] {
        check(&scene.json(mail, kind, r#"{"to":"a@evil.com"}"#), "malformed_request");
    }
    assert_eq!(scene.vendor.seen().len(), 4, "the vendor saw what was allowed and nothing else");
}

#[test]
fn s4_a_denial_names_the_rule_and_what_it_allows_and_leaves_a_row_without_money() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).with_admin().start();
    let rules =
        json!({"daily_usd_cap": 50, "params": [{"name": "customer", "in": ["cus_1"], "required": true}]});
    let key = keybrake.issue_by_admin(&ENDPOINTS, &rules);
    let mut client = Client::connect(keybrake.proxy());
    for form in ["amount=1000&currency=usd&customer=cus_secret", "amount=1000&currency=usd"] {
        client.send(form_post("/stripe/v1/charges", &key.text, form));
        let reply = client.reply();
        assert_eq!(reply.field("keybrake-decision"), Some("parameter_not_allowed"));
        assert_eq!(reply.field("stripe-should-retry"), Some("false"));
        let body = reply.expect(403);
        let message = body["message"].as_str().unwrap();
        assert!(message.contains("`customer`") && message.contains("cus_1"), "{message}");
        assert!(!message.contains("secret"), "nothing that was sent: {message}");
    }
    let rows = keybrake.eventually_rows(&key.id, 2);
    for row in &rows {
        assert_eq!(
            (row["policy_check_result"].as_str(), row["status"].as_u64()),
            (Some("parameter_not_allowed"), Some(403))
        );
        assert_eq!((row["amount"].as_f64(), row["outcome"].as_str()), (Some(0.0), Some("denied")));
    }
    assert_eq!((keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id)), (0, 0));
    assert_eq!(vendor.connections(), 0);
    let view = keybrake.operate(&format!("GET /vault/keys/{}", key.id), None).expect(200);
    assert_eq!(view["params"], rules["params"], "as it was written");
}

#[test]
fn q9_a_call_over_its_bound_is_a_403_and_one_without_a_price_is_held_at_it() {
    let scene = scene(&json!({"daily_usd_cap": 50, "max_usd_per_call": 12.5}));
    check(&scene.form("/v1/charges", "amount=1250&currency=usd"), "ok");
    let refused = scene.form("/v1/charges", "amount=1251&currency=usd");
    let body = refused.expect(403);
    assert_eq!(body["error"]["code"], "call_too_large");
    assert!(
        body["message"].as_str().unwrap().contains("may cost $12.50, and this one may cost $12.51"),
        "{body}"
    );
    assert_eq!(scene.keybrake.committed_cents(&scene.key.id), 1250);
    // No price is known: it is held at the bound, and counted at it.
    check(&scene.form("/v1/subscriptions", "customer=cus_1&items[0][price]=price_1"), "ok");
    assert_eq!(scene.keybrake.committed_cents(&scene.key.id), 2500);
    // A refund of all that is left has a price, which only the vendor knows: what it answers here is no charge.
    check(&scene.form("/v1/refunds", "charge=ch_1"), "unpriced");
    check(&scene.form("/v1/charges", "amount=1&currency=eur"), "currency_not_allowed");
    check(&scene.form("/v1/subscriptions", "customer=cus_1"), "ok");
    check(&scene.form("/v1/subscriptions", "customer=cus_1"), "ok");
    check(&scene.form("/v1/subscriptions", "customer=cus_1"), "daily_cap_exceeded");
    assert_eq!(scene.keybrake.held_cents(&scene.key.id), 0, "every hold has ended");
    let sent = scene.vendor.seen().into_iter().filter(|seen| seen.line.starts_with("POST ")).count();
    assert_eq!((sent, scene.vendor.seen().len()), (4, 5), "and one look-up");
}

#[test]
fn m7_a_call_held_at_its_bound_comes_back_when_the_vendor_refuses_it() {
    let vendor = Vendor::start(|_, out| out.write_all(&keybrake_tests::whole(400, r#"{"error": {}}"#)));
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&ENDPOINTS, &json!({"daily_usd_cap": 10, "max_usd_per_call": 10}));
    let mut client = Client::connect(keybrake.proxy());
    for _ in 0..3 {
        client.send(form_post("/stripe/v1/subscriptions", &key.text, "customer=cus_1"));
        assert_eq!(client.reply().status, 400);
    }
    assert_eq!((keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id)), (0, 0));
}

#[test]
fn a4_an_account_is_named_only_as_the_policy_names_it() {
    let scene = scene(&json!({"stripe_accounts": ["acct_1", "acct_2"]}));
    let send = |fields: &str| {
        let authorization = format!("Authorization: Bearer {}", scene.key.text);
        let form = "Content-Type: application/x-www-form-urlencoded";
        let head = format!("POST /stripe/v1/charges\n{authorization}\n{form}\n{fields}");
        call(scene.keybrake.proxy(), head.trim_end(), b"amount=1&currency=usd")
    };
    check(&send(""), "ok");
    check(&send("Stripe-Account: acct_1"), "ok");
    check(&send("stripe-context: acct_2"), "ok");
    let seen = scene.vendor.seen();
    let named = |at: usize| (seen[at].field("Stripe-Account"), seen[at].field("Stripe-Context"));
    assert_eq!(
        [named(0), named(1), named(2)],
        [(None, None), (Some("acct_1"), None), (None, Some("acct_2"))]
    );
    for fields in [
        "Stripe-Account: acct_3",
        "Stripe-Account: ACCT_1",
        "Stripe-Account: acct_1, acct_3",
        "Stripe-Account:",
        "Stripe-Account: acct_1\nStripe-Account: acct_1",
        "Stripe-Account: acct_1\nStripe-Account: acct_3",
        "Stripe-Account: acct_1\nStripe-Context: acct_1",
        "Stripe-Context: acct_1/acct_2",
        // Dropped on the way it would act on another account than the agent says.
        "Stripe-Account: acct_1\nConnection: stripe-account",
    ] {
        let reply = send(fields);
        check(&reply, "account_not_allowed");
        let body = reply.expect(403);
        assert!(body["message"].as_str().unwrap().contains("acct_1, acct_2"), "it says which: {body}");
    }
    assert_eq!(scene.vendor.seen().len(), 3);
}

/// A vendor that carries out an Idempotency-Key once for each account, as Stripe does.
fn remembering() -> Vendor {
    let known = Mutex::new(HashSet::new());
    Vendor::start(move |seen, out| {
        let account = seen.field("Stripe-Account").unwrap_or_default().to_owned();
        let is_new =
            known.lock().unwrap().insert((account, seen.field("Idempotency-Key").unwrap().to_owned()));
        let replayed = if is_new { "" } else { "Idempotent-Replayed: true\r\n" };
        let body = r#"{"object": "charge", "amount": 1000, "currency": "usd", "status": "succeeded"}"#;
        write!(out, "HTTP/1.1 200 OK\r\n{replayed}Content-Length: {}\r\n\r\n{body}", body.len())
    })
}

#[test]
fn q5_the_account_is_part_of_what_makes_a_repeat() {
    let vendor = remembering();
    let keybrake = Setup::new(vendor.url()).start();
    let key =
        keybrake.issue(&ENDPOINTS, &json!({"daily_usd_cap": 50, "stripe_accounts": ["acct_1", "acct_2"]}));
    for (account, committed) in [("acct_1", 1000), ("acct_1", 1000), ("acct_2", 2000), ("acct_2", 2000)] {
        let head = format!(
            "POST /stripe/v1/charges\nAuthorization: Bearer {}\nContent-Type: application/x-www-form-urlencoded\n\
             Idempotency-Key: one\nStripe-Account: {account}",
            key.text
        );
        check(&call(keybrake.proxy(), &head, b"amount=1000&currency=usd"), "ok");
        assert_eq!(keybrake.committed_cents(&key.id), committed, "{account}");
    }
}

#[test]
fn restrictions_are_written_on_the_command_line_and_hold_over_a_restart() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let arguments = [
        "key issue --vendor stripe --allow",
        "POST /v1/charges",
        "--max-usd-per-call 20 --rate-limit-rps 99.5 --stripe-account acct_1 --daily-usd-cap 50 --param",
        "currency in usd,eur",
        "--param",
        "amount min 50 max 1500 required on POST /v1/charges",
        "--param",
        r#"{"name": "description", "equals": "a b"}"#,
        "--json",
    ];
    // Words but for what holds blanks itself.
    let is_whole = |text: &str| {
        text.starts_with("POST") || text.contains(" in ") || text.contains(" on ") || text.contains('{')
    };
    let words: Vec<&str> = arguments
        .iter()
        .flat_map(|text| if is_whole(text) { vec![*text] } else { text.split(' ').collect() })
        .collect();
    let output = keybrake.cli_command(&words).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let issued: Value = serde_json::from_slice(&output.stdout).unwrap();
    let restrictions = json!({
        "params": [
            {"name": "currency", "in": ["usd", "eur"]},
            {"name": "amount", "endpoints": ["POST /v1/charges"], "min": 50, "max": 1500, "required": true},
            {"name": "description", "in": ["a b"]},
        ],
        "max_usd_per_call": 20.0,
        "rate_limit_rps": 99.5,
        "stripe_accounts": ["acct_1"],
    });
    let own = |of: &Value, field: &str| match field {
        "max_usd_per_call" => json!(of[field].as_f64()),
        _ => of[field].clone(),
    };
    let text = issued["vault_key"].as_str().unwrap().to_owned();
    let key = Issued { id: issued["id"].as_str().unwrap().to_owned(), text };
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    let view = keybrake.operate(&format!("GET /vault/keys/{}", key.id), None).expect(200);
    let holder = get(keybrake.proxy(), "/vault/keys/self", &key.text).expect(200);
    for (field, expected) in restrictions.as_object().unwrap() {
        for seen in [&issued["policy"], &view, &holder] {
            assert_eq!(own(seen, field), *expected, "{field} in {seen}");
        }
    }
    let scene = Scene { vendor, keybrake, key };
    check(&scene.form("/v1/charges", "amount=1500&currency=usd&description=a+b"), "ok");
    for form in
        ["amount=1501&currency=usd", "amount=49&currency=usd", "amount=50&currency=gbp", "currency=usd"]
    {
        check(&scene.form("/v1/charges", form), "parameter_not_allowed");
    }
    let shown = scene.keybrake.cli_command(&["key", "show", &scene.key.id]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(
        shown.contains("$20.00 per call; 99.5 requests per second; accounts acct_1; params ["),
        "{shown}"
    );
    let wrong =
        ["key", "issue", "--vendor", "stripe", "--allow", "GET /v1/charges", "--param", "currency is usd"];
    let refused = scene.keybrake.cli_command(&wrong).output().unwrap();
    let stderr = String::from_utf8(refused.stderr).unwrap();
    assert!(
        !refused.status.success() && stderr.contains("currency in usd,eur"),
        "it says what to write: {stderr}"
    );
}
