//! The admin API over HTTP: who is let in, what is refused and with which words, what is listed.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_tests::{ADMIN_TOKEN, Client, Issued, Keybrake, Reply, Setup, StandIn, call, form_post, get};
use serde_json::{Value, json};

const NOWHERE: &str = "http://127.0.0.1:9";

fn started() -> Keybrake {
    Setup::new(NOWHERE).with_admin().start()
}

/// `POST /vault/keys` with these bytes as they are.
fn post(keybrake: &Keybrake, kind: &str, body: &str) -> Reply {
    let head = format!("POST /vault/keys\nAuthorization: Bearer {ADMIN_TOKEN}\nContent-Type: {kind}");
    call(keybrake.admin_address(), &head, body.as_bytes())
}

/// A refusal with this status, whose message holds `expected`.
fn check(reply: &Reply, status: u16, expected: &str) {
    let body = reply.expect(status);
    let error = &body["error"];
    let message = error["message"].as_str().unwrap_or_else(|| panic!("no message: {body}"));
    assert!(error["code"].is_string(), "{body}");
    assert!(format!("{}{message}", error["field"]).contains(expected), "{expected:?} is not in {body}");
}

#[test]
fn without_the_admin_token_nothing_is_told_or_done() {
    let keybrake = started();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    let spec = json!({"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"]}).to_string();
    let revoke = format!("POST /vault/keys/{}/revoke", key.id);
    let show = format!("GET /vault/keys/{}", key.id);
    for wrong in [
        "",
        "Bearer",
        "Bearer wrong-token-of-some-length",
        "Basic a2V5YnJha2U6",
        &format!("Bearer {}", key.text),
    ] {
        for line in [
            "POST /vault/keys",
            "POST /vault_keys",
            "GET /vault/keys",
            "GET /audit",
            "GET /healthz",
            &revoke,
            &show,
        ] {
            let authorization =
                if wrong.is_empty() { String::new() } else { format!("Authorization: {wrong}\n") };
            let head = format!("{line}\n{authorization}Content-Type: application/json");
            let body = if line.starts_with("POST /vault") && !line.ends_with("revoke") {
                spec.as_bytes()
            } else {
                b""
            };
            let reply = call(keybrake.admin_address(), &head, body);
            assert_eq!(reply.status, 401, "{line} with {wrong:?}: {}", reply.text());
            assert!(
                reply.field("www-authenticate").is_some() && !reply.text().contains(&key.id),
                "{reply:?}"
            );
        }
    }
    assert_eq!(keybrake.control().status().keys, 1);
    assert_eq!(keybrake.key(&key.id).status, keybrake_proto::control::KeyStatus::Active);
}

#[test]
fn a_wrong_body_is_refused_with_the_field_and_what_to_write() {
    let keybrake = started();
    let json = "application/json";
    let with = |more: &str| format!(r#"{{"vendor": "stripe", "allowed_endpoints": ["GET /v1/**"]{more}}}"#);
    check(&post(&keybrake, json, "{\"vendor\": \"stripe\", "), 400, "JSON");
    check(&post(&keybrake, json, ""), 400, "");
    check(&post(&keybrake, json, "[]"), 400, "");
    check(&post(&keybrake, json, &with(r#", "dayly_usd_cap": 5"#)), 400, "dayly_usd_cap");
    check(
        &post(&keybrake, json, r#"{"vendor": "strype", "allowed_endpoints": ["GET /v1/**"]}"#),
        400,
        "vendor",
    );
    check(&post(&keybrake, json, r#"{"vendor": "stripe"}"#), 400, "allowed_endpoints");
    check(
        &post(&keybrake, json, r#"{"vendor": "stripe", "allowed_endpoints": []}"#),
        400,
        "allowed_endpoints",
    );
    check(
        &post(&keybrake, json, r#"{"vendor": "stripe", "allowed_endpoints": ["get /v1"]}"#),
        400,
        "allowed_endpoints[0]",
    );
    check(&post(&keybrake, json, &with(r#", "daily_usd_cap": -1"#)), 400, "USD");
    check(&post(&keybrake, json, &with(r#", "daily_usd_cap": 1e99"#)), 400, "USD");
    check(&post(&keybrake, json, &with(r#", "expires_in": "soon""#)), 400, "expires_in");
    check(&post(&keybrake, json, &with(r#", "expires_at": "2020-01-01T00:00:00Z""#)), 400, "expires_at");
    check(&post(&keybrake, json, &with(r#", "parent_vault_key": "x""#)), 401, "unknown, expired or revoked");
    check(&post(&keybrake, "text/plain", &with("")), 415, "application/json");
    check(&post(&keybrake, "application/x-www-form-urlencoded", "vendor=stripe"), 415, "application/json");
    let long = with(&format!(r#", "label": "{}""#, "x".repeat(300_000)));
    assert_eq!(post(&keybrake, json, &long).status, 413);
    assert_eq!(keybrake.control().status().keys, 0, "nothing was issued");
}

#[test]
fn wrong_paths_methods_ids_and_parameters_are_refused_by_name() {
    let keybrake = started();
    let ask = |line: &str| keybrake.operate(line, None);
    check(&ask("GET /nothing"), 404, "openapi");
    check(&ask("DELETE /vault/keys"), 405, "method");
    check(&ask("GET /vault/keys/vk_0000000000000000"), 404, "key");
    check(&ask("GET /vault/keys/no-id"), 400, "id");
    check(&ask("POST /vault/keys/vk_0000000000000000/revoke"), 404, "key");
    check(&ask("GET /audit?vault_key=vk_0000000000000000"), 400, "vault_key");
    check(&ask("GET /audit?limit=0"), 400, "limit");
    check(&ask("GET /audit?since=yesterday"), 400, "since");
}

#[test]
fn both_paths_issue_a_key_on_the_admin_listener_and_through_the_proxys() {
    let keybrake = started();
    let body = json!({
        "vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"], "daily_usd_cap": 150.5, "expires_in": "24h",
        "label": "billing", "agent_run_label": "run_1", "metadata": {"agent_id": "a1"}
    });
    for address in [keybrake.admin_address(), keybrake.proxy()] {
        for path in ["/vault/keys", "/vault_keys"] {
            let head = |token: &str| {
                format!("POST {path}\nAuthorization: Bearer {token}\nContent-Type: application/json")
            };
            let issued = call(address, &head(ADMIN_TOKEN), body.to_string().as_bytes()).expect(201);
            assert!(issued["vault_key"].as_str().unwrap().starts_with("vault_key_"), "{issued}");
            assert!(issued["id"].as_str().unwrap().starts_with("vk_"), "{issued}");
            assert_eq!(issued["policy"]["daily_usd_cap"].as_f64(), Some(150.5));
            assert!(issued["expires_at"].is_string(), "{issued}");
            let reply = call(address, &head("a-wrong-token-0123456789"), body.to_string().as_bytes());
            assert_eq!(reply.status, 401, "{}", reply.text());
        }
    }
    let listed = keybrake.operate("GET /vault/keys", None).expect(200);
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 4);
    for key in keys {
        assert_eq!(
            (key["label"].as_str(), key["agent_run_label"].as_str()),
            (Some("billing"), Some("run_1"))
        );
        assert_eq!((&key["status"], &key["metadata"]["agent_id"]), (&json!("active"), &json!("a1")));
        assert!(!key.to_string().contains("vault_key_"), "a key's text is shown once: {key}");
    }
    // Other routes of the API are not on the agents' listener.
    assert_eq!(get(keybrake.proxy(), "/audit", ADMIN_TOKEN).status, 401);
    assert_eq!(
        call(keybrake.proxy(), &format!("GET /vault/keys\nAuthorization: Bearer {ADMIN_TOKEN}"), b"").status,
        404
    );
}

#[test]
fn a_holder_sees_its_own_key_and_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).with_admin().start();
    let key = keybrake.issue_by_admin(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1250&currency=usd&source=tok_visa"));
    assert_eq!(client.reply().status, 200);
    for address in [keybrake.admin_address(), keybrake.proxy()] {
        let own = get(address, "/vault/keys/self", &key.text).expect(200);
        assert_eq!(own["id"], json!(key.id));
        assert_eq!((own["committed_usd"].as_f64(), own["remaining_usd"].as_f64()), (Some(12.5), Some(37.5)));
        assert_eq!(get(address, "/vault/keys/self", ADMIN_TOKEN).status, 401);
    }
    assert!(keybrake.control().revoke(&key.id).acknowledged);
    assert_eq!(get(keybrake.admin_address(), "/vault/keys/self", &key.text).status, 401);
}

fn three_rows(keybrake: &Keybrake) -> Issued {
    let key = keybrake.issue_by_admin(
        &["POST /v1/charges"],
        &json!({"daily_usd_cap": 15, "label": "billing", "agent_run_label": "run_1", "metadata": {"agent_id": "a1"}}),
    );
    let mut client = Client::connect(keybrake.proxy());
    for path in ["/stripe/v1/charges", "/stripe/v1/charges", "/stripe/v1/payouts"] {
        client.send(form_post(path, &key.text, "amount=1000&currency=usd&source=tok_visa"));
        drop(client.reply());
    }
    key
}

#[test]
fn each_exchange_and_each_denial_has_one_row_with_its_reason_and_context() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).with_admin().start();
    let (key, other) = (three_rows(&keybrake), three_rows(&keybrake));
    let mut rows = keybrake.eventually_rows(&key.id, 3);
    rows.sort_by_key(|row| row["status"].as_u64());
    let shown: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!([
                row["status"],
                row["policy_check_result"],
                row["outcome"],
                row["endpoint"],
                row["amount_usd"].as_f64()
            ])
        })
        .collect();
    assert_eq!(
        shown,
        [
            json!([200, "allowed", "forwarded", "/v1/charges", 10.0]),
            json!([403, "endpoint_not_allowed", "denied", "/v1/payouts", 0.0]),
            json!([429, "daily_cap_exceeded", "denied", "/v1/charges", 0.0]),
        ]
    );
    for row in &rows {
        assert_eq!((&row["vault_key_id"], &row["label"]), (&json!(key.id), &json!("billing")), "{row:#}");
        assert_eq!((&row["vendor"], &row["method"]), (&json!("stripe"), &json!("POST")), "{row:#}");
        assert_eq!(row["metadata"]["agent_id"], "a1", "{row:#}");
        assert_eq!(row["client_addr"], "127.0.0.1", "{row:#}");
    }
    let ask =
        |query: &str| keybrake.operate(&format!("GET /audit?{query}"), None).expect(200)["rows"].clone();
    let of_key = |query: &str| ask(&format!("vault_key_id={}&{query}", key.id)).as_array().unwrap().len();
    assert_eq!(
        (of_key("result=allowed"), of_key("result=denied"), of_key("result=daily_cap_exceeded")),
        (1, 2, 1)
    );
    assert_eq!((of_key("since=1h"), of_key("until=1h")), (3, 0));
    drop(keybrake.eventually_rows(&other.id, 3));
    assert_eq!(ask("result=denied").as_array().unwrap().len(), 4);
    let page = keybrake.operate("GET /audit?limit=4", None).expect(200);
    let rest = keybrake.operate(&format!("GET /audit?limit=4&after={}", page["next"]), None).expect(200);
    assert_eq!((page["rows"].as_array().unwrap().len(), rest["rows"].as_array().unwrap().len()), (4, 2));
    assert!(rest["next"].is_null(), "{rest}");
}

#[test]
fn health_metrics_and_the_description_need_no_token_and_tell_no_secret() {
    let keybrake = started();
    let ask = |address, path: &str| call(address, &format!("GET {path}"), b"");
    for path in ["/livez", "/readyz", "/metrics", "/openapi.json"] {
        let reply = ask(keybrake.admin_address(), path);
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        assert!(!reply.text().contains(ADMIN_TOKEN) && !reply.text().contains(keybrake_tests::SECRET));
    }
    let metrics = ask(keybrake.admin_address(), "/metrics").text();
    assert!(metrics.contains("# TYPE keybrake_"), "{metrics}");
    let description = ask(keybrake.admin_address(), "/openapi.json").json();
    for path in ["/vault/keys", "/vault/keys/{id}/revoke", "/audit"] {
        assert!(description["paths"][path].is_object(), "{path} is not described");
    }
}

#[test]
fn with_the_dataplane_down_the_api_says_so_and_audit_history_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).with_admin().start();
    let key = three_rows(&keybrake);
    let rows = keybrake.eventually_rows(&key.id, 3);
    assert_eq!(keybrake.dataplane().stop(), 0);
    assert_eq!(call(keybrake.admin_address(), "GET /livez", b"").status, 200);
    for line in ["GET /readyz", "GET /vault/keys"] {
        let reply = keybrake.operate(line, None);
        check(&reply, 503, "dataplane");
        assert!(reply.field("retry-after").is_some());
    }
    assert_eq!(keybrake.rows(&key.id), rows);
}
