//! Resend behind keybrake: recipients are counted, bodies are read in one way, and repeats count once.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write;

use keybrake_tests::{Client, Issued, Keybrake, Reply, Seen, Setup, Vendor, request, whole};
use serde_json::json;

const REAL_KEY: &str = "re_9Lq3ZbVt_Yw2RkHs7XnDc5PfM";

const RULES: [&str; 5] =
    ["POST /emails", "POST /emails/batch", "GET /emails/*", "POST /broadcasts/*/send", "GET /**"];

const MAIL: &str =
    r#"{"from":"a@x.example","to":["b@x.example","c@x.example"],"cc":"d@x.example","subject":"s"}"#;

fn sent(seen: &Seen, out: &mut dyn Write) -> std::io::Result<()> {
    let mails = serde_json::from_slice::<serde_json::Value>(&seen.body).ok();
    let ids = mails.and_then(|mails| mails.as_array().map(Vec::len)).unwrap_or_default();
    let data: Vec<_> = (0..ids).map(|at| json!({"id": at.to_string()})).collect();
    out.write_all(&whole(200, &json!({"id": "1", "data": data}).to_string()))
}

fn start(vendor: &Vendor) -> (Keybrake, Issued) {
    let keybrake = Setup::new(vendor.url()).of_vendor("resend", REAL_KEY).start();
    let key = keybrake.issue(&RULES, &json!({"vendor": "resend", "daily_usd_cap": 1}));
    (keybrake, key)
}

fn call(keybrake: &Keybrake, key: &Issued, head: &str, body: &str) -> Reply {
    let (line, fields) = head.split_once('\n').unwrap_or((head, ""));
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json" };
    let head = format!(
        "{line}\nAuthorization: Bearer {}\nUser-Agent: resend-python:2.51.0\n{kind}\n{fields}",
        key.text
    );
    let mut client = Client::connect(keybrake.proxy());
    client.send(request(&head, body.as_bytes()));
    client.reply()
}

#[test]
fn m5_a_mail_counts_its_recipients_and_a_batch_of_a_hundred_all_of_them() {
    let vendor = Vendor::start(sent);
    let (keybrake, key) = start(&vendor);
    drop(call(&keybrake, &key, "POST /resend/emails", MAIL).expect(200));
    assert_eq!(keybrake.micros(&key.id), (2_700, 0));
    let batch = format!("[{}]", vec![r#"{"to":"b@x.example"}"#; 100].join(","));
    // As its Python SDK writes the path where the base URL ends in a slash.
    drop(
        call(&keybrake, &key, "POST /resend//emails/batch\nx-batch-validation: permissive", &batch)
            .expect(200),
    );
    assert_eq!(keybrake.micros(&key.id), (92_700, 0));
    let seen = vendor.seen();
    assert_eq!(seen[1].line, "POST /emails/batch");
    assert_eq!(seen[1].field("authorization"), Some(format!("Bearer {REAL_KEY}").as_str()));
    assert_eq!(seen[1].field("x-batch-validation"), Some("permissive"));
    assert_eq!(seen[1].field("user-agent"), Some("resend-python:2.51.0"));
    assert_eq!(seen[1].text(), batch);
    assert!(!format!("{seen:?}").contains(&key.text), "{seen:?}");
}

#[test]
fn a_batch_of_which_a_part_was_sent_counts_that_part() {
    // Longer than what is read at once with the head.
    let vendor = Vendor::start(|_: &Seen, out: &mut dyn Write| {
        let message = "x".repeat(100_000);
        let reply = json!({"data": [{"id": "1"}], "errors": [{"index": 1, "message": message}]});
        out.write_all(&whole(200, &reply.to_string()))
    });
    let (keybrake, key) = start(&vendor);
    let body = r#"[{"to":"b@x.example"},{"to":"not an address"}]"#;
    drop(call(&keybrake, &key, "POST /resend/emails/batch", body).expect(200));
    assert_eq!(keybrake.micros(&key.id), (900, 0));
}

#[test]
fn q5_a_repeat_under_one_idempotency_key_counts_once() {
    let vendor = Vendor::start(sent);
    let (keybrake, key) = start(&vendor);
    for _ in 0..2 {
        drop(call(&keybrake, &key, "POST /resend/emails\nIdempotency-Key: order-1", MAIL).expect(200));
        assert_eq!(keybrake.micros(&key.id), (2_700, 0));
    }
    let seen = vendor.seen();
    let forwarded: Vec<&str> = seen.iter().filter_map(|seen| seen.field("idempotency-key")).collect();
    assert_eq!(forwarded.len(), 2);
    assert!(forwarded[0] == forwarded[1] && forwarded[0].ends_with("-order-1"), "{forwarded:?}");
    // Without one each is a mail of its own, and none is invented.
    drop(call(&keybrake, &key, "POST /resend/emails", MAIL).expect(200));
    assert_eq!(keybrake.micros(&key.id), (5_400, 0));
    assert_eq!(vendor.seen()[2].field("idempotency-key"), None);
}

#[test]
fn h3_the_empty_object_that_the_sdk_sends_with_a_get_is_dropped() {
    let vendor = Vendor::start(sent);
    let (keybrake, key) = start(&vendor);
    drop(call(&keybrake, &key, "GET /resend/emails/1", "{}").expect(200));
    let seen = &vendor.seen()[0];
    assert_eq!((seen.line.as_str(), seen.text().as_str()), ("GET /emails/1", ""));
    assert_eq!(seen.field("content-length"), None);
    for body in [r#"{"a":1}"#, "[]", "x"] {
        drop(call(&keybrake, &key, "GET /resend/emails/1", body).expect(400));
    }
    assert_eq!(vendor.seen().len(), 1);
    assert_eq!(keybrake.micros(&key.id), (0, 0));
}

#[test]
fn m2_a_mail_with_two_readings_is_refused_and_so_is_what_has_no_price() {
    let vendor = Vendor::start(sent);
    let (keybrake, key) = start(&vendor);
    let status = |path: &str, body: &str| call(&keybrake, &key, &format!("POST /resend{path}"), body).status;
    for body in [
        r#"{"to":"b@x","to":["c@x","d@x"]}"#,
        r#"{"to":"b@x","To":["c@x","d@x"]}"#,
        r#"{"to":1}"#,
        r#"{"to":"b@x"} {}"#,
        "\u{feff}{\"to\":\"b@x\"}",
    ] {
        assert!(matches!(status("/emails", body), 400 | 415), "{body}");
    }
    assert_eq!(status("/emails?to=b@x", MAIL), 400);
    assert_eq!(status("/broadcasts/1/send", "{}"), 403);
    assert_eq!(vendor.seen().len(), 0);
    assert_eq!(keybrake.micros(&key.id), (0, 0));
}
