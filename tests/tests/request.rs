//! One request through the proxy, byte by byte: what passes, what is refused, and what becomes of the money.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keybrake_tests::{Client, Issued, Keybrake, SECRET, Setup, Vendor, call, form_post, get, paid};
use serde_json::json;

const CHARGE: &str = "amount=1000&currency=usd&source=tok_visa";

/// A keybrake before a vendor that carries out everything, and a key for charges under a $50 cap.
fn with_paying_vendor() -> (Vendor, Keybrake, Issued) {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["POST /v1/charges", "GET /v1/charges/*"], &json!({"daily_usd_cap": 50}));
    (vendor, keybrake, key)
}

fn charge(key: &Issued, form: &str) -> Vec<u8> {
    form_post("/stripe/v1/charges", &key.text, form)
}

#[test]
fn a_request_arrives_with_the_real_credential_and_without_what_the_vendor_must_not_see() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let head = format!(
        "POST /stripe/v1/charges\nAuthorization: Bearer {}\nContent-Type: application/x-www-form-urlencoded\n\
         Stripe-Version: 2026-10-28\nX-HTTP-Method-Override: DELETE\n\
         X-Method-Override: GET\nCookie: a=b\nX-Forwarded-For: 1.2.3.4\nKeybrake-Agent-Id: a1\nUser-Agent: curl/9",
        key.text
    );
    let reply = call(keybrake.proxy(), &head, CHARGE.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.field("request-id"), Some("req_of_the_vendor"));
    let seen = &vendor.seen()[0];
    assert_eq!((seen.line.as_str(), seen.text().as_str()), ("POST /v1/charges", CHARGE));
    assert_eq!(seen.field("Authorization"), Some(format!("Bearer {SECRET}").as_str()));
    assert_eq!(seen.field("Host"), Some(vendor.address().to_string().as_str()));
    assert_eq!(seen.field("Stripe-Version"), Some("2026-10-28"));
    assert_eq!(seen.field("User-Agent"), Some("curl/9"));
    for dropped in
        ["X-HTTP-Method-Override", "X-Method-Override", "Cookie", "X-Forwarded-For", "Keybrake-Agent-Id"]
    {
        assert_eq!(seen.field(dropped), None, "{dropped} was forwarded");
    }
}

#[test]
fn a_request_for_another_account_is_refused() {
    let (vendor, keybrake, key) = with_paying_vendor();
    for field in ["Stripe-Account: acct_other", "stripe-context: ctx"] {
        let head = format!("GET /stripe/v1/charges/ch_1\nAuthorization: Bearer {}\n{field}", key.text);
        let refused = call(keybrake.proxy(), &head, b"").expect(403);
        assert_eq!(refused["error"]["code"], "account_not_allowed", "{field}");
    }
    assert_eq!(vendor.connections(), 0);
}

/// A body that the vendor may read in another way than keybrake must not arrive there.
#[test]
fn a4_bodies_in_another_form_and_parameters_that_change_the_call_are_refused() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let form = "application/x-www-form-urlencoded";
    let cases = [
        (form, "", CHARGE.to_owned() + "&_method=DELETE", 400),
        (form, "", CHARGE.to_owned() + "&%5Fstripe_account=acct_2", 400),
        (form, "Content-Encoding: gzip", CHARGE.to_owned(), 415),
        ("application/json", "", r#"{"amount": 1, "currency": "usd", "_method": "DELETE"}"#.to_owned(), 415),
        ("multipart/form-data; boundary=x", "", "--x--".to_owned(), 415),
    ];
    for (kind, field, body, status) in cases {
        let authorization = format!("Authorization: Bearer {}", key.text);
        let head = format!("POST /stripe/v1/charges\n{authorization}\nContent-Type: {kind}\n{field}");
        let refused = call(keybrake.proxy(), head.trim_end(), body.as_bytes()).expect(status);
        assert_eq!(refused["error"]["code"], "malformed_request", "{kind} {body}");
    }
    assert_eq!(vendor.connections(), 0);
}

#[test]
fn all_four_base_urls_and_a_bare_path_lead_to_one_endpoint() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let paths = [
        "/stripe/v1/charges",
        "/stripe//v1/charges",
        "/stripe/v1/v1/charges",
        "/stripe/v1//v1/charges",
        "/v1/charges",
    ];
    for path in paths {
        let mut client = Client::connect(keybrake.proxy());
        client.send(form_post(path, &key.text, CHARGE));
        assert_eq!(client.reply().status, 200, "{path}");
    }
    assert!(vendor.seen().iter().all(|seen| seen.line == "POST /v1/charges"));
    assert_eq!(vendor.seen().len(), paths.len());
}

#[test]
fn the_key_is_taken_from_bearer_and_from_either_half_of_basic() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let basic = |pair: String| format!("Basic {}", STANDARD.encode(pair));
    let slots = [
        format!("Bearer {}", key.text),
        format!("bearer {}", key.text),
        basic(format!("{}:", key.text)),
        basic(format!("AC00000000000000000000000000000000:{}", key.text)),
    ];
    for slot in &slots {
        let head = format!("GET /stripe/v1/charges/ch_1\nAuthorization: {slot}");
        assert_eq!(call(keybrake.proxy(), &head, b"").status, 200, "{slot}");
    }
    assert_eq!(vendor.seen().len(), slots.len());
    for seen in vendor.seen() {
        assert_eq!(seen.field("Authorization"), Some(format!("Bearer {SECRET}").as_str()));
    }
}

#[test]
fn a_key_that_is_unknown_mistyped_or_missing_is_401_in_one_text() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let unknown = keybrake_proto::key::mint(|bytes| bytes.fill(7));
    let mut mistyped = key.text.clone();
    mistyped.pop();
    let mut messages = Vec::new();
    for head in [
        format!("GET /stripe/v1/charges/ch_1\nAuthorization: Bearer {unknown}"),
        format!("GET /stripe/v1/charges/ch_1\nAuthorization: Bearer {mistyped}"),
        format!("GET /stripe/v1/charges/ch_1\nAuthorization: Bearer {SECRET}"),
        format!("GET /stripe/v1/charges/ch_1\nX-Api-Key: {}", key.text),
        "GET /stripe/v1/charges/ch_1".to_owned(),
    ] {
        let reply = call(keybrake.proxy(), &head, b"");
        messages.push(reply.expect(401)["error"]["message"].to_string());
    }
    messages.dedup();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(vendor.connections(), 0);
}

#[test]
fn a_denial_has_the_one_body_that_every_sdk_reads() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let reply = get(keybrake.proxy(), "/stripe/v1/balance", &key.text);
    assert_eq!(reply.field("content-type"), Some("application/json"));
    assert_eq!(reply.field("stripe-should-retry"), Some("false"));
    assert_eq!(reply.field("keybrake-decision"), Some("endpoint_not_allowed"));
    assert!(reply.field("request-id").unwrap().starts_with("req_"), "{:?}", reply.fields);
    let body = reply.expect(403);
    assert_eq!(body["error"]["type"], "invalid_request_error");
    assert_eq!(body["error"]["code"], "endpoint_not_allowed");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("POST /v1/charges"), "it says what would be allowed: {message}");
    assert_eq!((body["statusCode"].as_u64(), body["status"].as_u64()), (Some(403), Some(403)));
    assert_eq!(body["name"], "restricted_api_key");
    assert_eq!(body["message"], body["error"]["message"]);
    assert!(body["code"].is_number() && body["more_info"].is_string(), "{body}");
    let reply = get(keybrake.proxy(), "/twilio/2010-04-01/Accounts.json", &key.text);
    assert_eq!(reply.expect(403)["error"]["code"], "vendor_not_allowed");
    assert_eq!(vendor.connections(), 0);
}

#[test]
fn h6_connections_are_kept_on_both_sides_and_pipelined_requests_are_answered_in_order() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let mut client = Client::connect(keybrake.proxy());
    for cents in 1..=5 {
        client.send(charge(&key, &format!("amount={cents}&currency=usd")));
        assert_eq!(client.reply().expect(200)["amount"].as_u64(), Some(cents));
    }
    let together: Vec<u8> =
        (6..=10).flat_map(|cents| charge(&key, &format!("amount={cents}&currency=usd"))).collect();
    client.send(together);
    for cents in 6..=10 {
        assert_eq!(client.reply().expect(200)["amount"].as_u64(), Some(cents));
    }
    assert_eq!(vendor.connections(), 1);
}

#[test]
fn h6_a_denial_keeps_the_connection_and_connection_close_ends_it() {
    let (_vendor, keybrake, key) = with_paying_vendor();
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/payouts", &key.text, CHARGE));
    assert_eq!(client.reply().status, 403);
    client.send(format!(
        "GET /stripe/v1/charges/ch_1 HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        key.text
    ));
    let reply = client.reply();
    assert!(reply.status == 200 && reply.closes(), "{reply:?}");
    assert!(client.is_closed());
}

#[test]
fn a_chunked_body_is_sent_on_whole() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let mut client = Client::connect(keybrake.proxy());
    client.send(format!(
        "POST /stripe/v1/charges HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n",
        key.text
    ));
    for piece in ["b\r\namount=1000\r\n", "9\r\n&currency\r\n", "4\r\n=usd\r\n", "0\r\n\r\n"] {
        client.send(piece);
    }
    assert_eq!(client.reply().status, 200);
    let seen = &vendor.seen()[0];
    assert_eq!(seen.text(), "amount=1000&currency=usd");
    assert_eq!(seen.field("Content-Length"), Some("24"));
    client.send(charge(&key, CHARGE));
    assert_eq!(client.reply().status, 200, "the connection goes on");
}

#[test]
fn expect_100_continue_is_answered_for_a_request_that_may_be_sent() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\n\
             Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n",
            key.text,
            CHARGE.len()
        )
    };
    let mut client = Client::connect(keybrake.proxy());
    client.send(head("/stripe/v1/charges"));
    assert_eq!(client.reply().status, 100);
    client.send(CHARGE);
    assert_eq!(client.reply().status, 200);
    let mut refused = Client::connect(keybrake.proxy());
    refused.send(head("/stripe/v1/payouts"));
    let reply = refused.reply();
    assert!(reply.status == 403 && reply.closes(), "no body is asked for: {reply:?}");
    assert_eq!(vendor.seen().len(), 1);
}

#[test]
fn a_body_of_one_mebibyte_passes_and_one_byte_more_is_413() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let form = |bytes: usize| format!("amount=1000&currency=usd&description={}", "a".repeat(bytes - 37));
    let mut client = Client::connect(keybrake.proxy());
    client.send(charge(&key, &form(1024 * 1024)));
    assert_eq!(client.reply().status, 200);
    let mut client = Client::connect(keybrake.proxy());
    client.try_send(charge(&key, &form(1024 * 1024 + 1)));
    let reply = client.reply();
    assert!(reply.closes(), "{reply:?}");
    assert_eq!(reply.expect(413)["error"]["code"], "malformed_request");
    let mut client = Client::connect(keybrake.proxy());
    client.send(format!(
        "POST /stripe/v1/charges HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        key.text
    ));
    for _ in 0..17 {
        client.try_send(format!("10000\r\n{}\r\n", "a".repeat(0x10000)));
    }
    assert_eq!(client.reply().status, 413);
    assert_eq!(vendor.seen().len(), 1);
}

#[test]
fn ambiguous_heads_are_refused_and_the_connection_ends() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let auth = format!("Host: a\r\nAuthorization: Bearer {}\r\n", key.text);
    let body = "amount=1&currency=usd";
    for (head, status) in [
        (
            format!(
                "POST /stripe/v1/charges HTTP/1.1\r\n{auth}Content-Length: 21\r\nTransfer-Encoding: chunked\r\n"
            ),
            400,
        ),
        (
            format!("POST /stripe/v1/charges HTTP/1.1\r\n{auth}Content-Length: 21\r\nContent-Length: 22\r\n"),
            400,
        ),
        (format!("POST /stripe/v1/charges HTTP/1.1\r\n{auth}Content-Length : 21\r\n"), 400),
        (format!("POST /stripe/v1/charges HTTP/1.1\r\n{auth}Content-Length: +21\r\n"), 400),
        (format!("POST /stripe/v1/charges HTTP/1.1\r\n{auth}Transfer-Encoding: identity, chunked\r\n"), 501),
        (
            format!(
                "POST /stripe/v1/charges HTTP/1.1\r\n{auth}Authorization: Bearer other\r\nContent-Length: 21\r\n"
            ),
            400,
        ),
        (format!("POST /stripe/v1/charges HTTP/1.1\r\n{auth}X: a\r\n b\r\nContent-Length: 21\r\n"), 400),
        (format!("POST /stripe/v1/charges HTTP/1.1\n{auth}Content-Length: 21\n"), 400),
        (format!("POST /stripe/v1/%63harges HTTP/1.1\r\n{auth}Content-Length: 21\r\n"), 400),
        (format!("POST http://a/stripe/v1/charges HTTP/1.1\r\n{auth}Content-Length: 21\r\n"), 400),
        (format!("HEAD /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}"), 405),
        (format!("CONNECT api.stripe.com:443 HTTP/1.1\r\n{auth}"), 405),
        (format!("POST /stripe/v1/charges HTTP/1.0\r\n{auth}Content-Length: 21\r\n"), 505),
        (format!("POST /stripe/v1/charges HTTP/1.1\r\nAuthorization: Bearer {}\r\n", key.text), 400),
    ] {
        let mut client = Client::connect(keybrake.proxy());
        client.try_send(format!("{head}\r\n{body}"));
        let reply = client.reply();
        assert_eq!(reply.status, status, "{head}{}", reply.text());
        assert!(reply.closes() && client.is_closed(), "{head}{reply:?}");
        let shown = format!("{}{:?}", reply.text(), reply.fields);
        assert!(!shown.contains(&key.text), "nothing an agent sent is echoed: {shown}");
    }
    assert_eq!(vendor.connections(), 0);
}

#[test]
fn ambiguous_paths_are_400_and_reach_no_vendor() {
    let (vendor, keybrake, key) = with_paying_vendor();
    for path in [
        "/stripe/v1/charges/../payouts",
        "/stripe/v1//charges",
        "/stripe/v1/charges/",
        "/stripe/v1/charges/ch%2F1",
        "/stripe/v1/charges/ch_1;a=b",
        "/stripe/v1/charges/.",
    ] {
        let reply = get(keybrake.proxy(), path, &key.text);
        assert_eq!(reply.status, 400, "{path}: {}", reply.text());
    }
    assert_eq!(vendor.connections(), 0);
}

#[test]
fn a_price_in_the_query_or_twice_or_in_another_type_is_refused() {
    let (vendor, keybrake, key) = with_paying_vendor();
    let post = |path: &str, kind: &str, body: &str| {
        let head = format!("POST {path}\nAuthorization: Bearer {}\nContent-Type: {kind}", key.text);
        call(keybrake.proxy(), &head, body.as_bytes()).status
    };
    let form = "application/x-www-form-urlencoded";
    assert_eq!(post("/stripe/v1/charges?amount=1", form, CHARGE), 400);
    assert_eq!(post("/stripe/v1/charges?amount=1&currency=usd", form, ""), 400);
    assert_eq!(post("/stripe/v1/charges", form, &format!("{CHARGE}&amount=1")), 400);
    assert_eq!(post("/stripe/v1/charges", form, "amount=-1&currency=usd"), 400);
    assert_eq!(post("/stripe/v1/charges", "application/json", r#"{"amount":1,"currency":"usd"}"#), 415);
    assert_eq!(post("/stripe/v1/charges", form, "amount=1&currency=xyz"), 403);
    assert!(matches!(post("/stripe/v1/charges", form, "currency=usd"), 400 | 403));
    assert_eq!(vendor.connections(), 0);
    assert_eq!(keybrake.committed_cents(&key.id), 0);
}

#[test]
fn an_idempotency_key_is_of_its_vault_key_alone_and_stays_the_same() {
    let (vendor, keybrake, first) = with_paying_vendor();
    let second = keybrake.issue(&["POST /v1/charges"], &json!({}));
    let send = |key: &Issued, idempotency_key: &str| {
        let head = format!(
            "POST /stripe/v1/charges\nAuthorization: Bearer {}\nIdempotency-Key: {idempotency_key}\n\
             Content-Type: application/x-www-form-urlencoded",
            key.text
        );
        assert_eq!(call(keybrake.proxy(), &head, CHARGE.as_bytes()).status, 200);
        vendor.seen().last().unwrap().field("Idempotency-Key").unwrap().to_owned()
    };
    let sent = send(&first, "order-1");
    assert_ne!(sent, "order-1");
    assert_eq!(send(&first, "order-1"), sent);
    assert_ne!(send(&second, "order-1"), sent);
    assert_ne!(send(&first, "order-2"), sent);
    let long = send(&first, &"x".repeat(255));
    assert!(long.len() <= 255, "the vendor's limit holds: {long}");
    assert_ne!(send(&first, &format!("{}y", "x".repeat(254))), long);
}

#[test]
fn an_agent_that_stops_in_the_middle_of_a_head_is_cut_off() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).proxy_line("head_timeout_s = 1").start();
    let mut client = Client::connect(keybrake.proxy());
    client.send("GET /stripe/v1/charges/ch_1 HTTP/1.1\r\nHost: a\r\n");
    let start = std::time::Instant::now();
    drop(client.try_reply());
    assert!(client.is_closed());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[test]
fn health_is_answered_without_a_key() {
    let (_vendor, keybrake, _key) = with_paying_vendor();
    for path in ["/livez", "/readyz"] {
        assert_eq!(call(keybrake.proxy(), &format!("GET {path}"), b"").status, 200, "{path}");
    }
}
