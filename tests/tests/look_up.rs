//! Calls whose price depends on an object of the vendor's: it is read first, and counts once.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use keybrake_tests::{
    Client, Control, Issued, Keybrake, Reply, Seen, Setup, StandIn, Vendor, eventually, form_post, whole,
};
use serde_json::{Value, json};

const RULES: [&str; 1] = ["POST /v1/**"];

const CHARGE: &str = r#"{"id":"ch_1","object":"charge","amount":2000,"amount_refunded":0,"currency":"usd","status":"succeeded"}"#;

const REFUND: &str = r#"{"id":"re_1","object":"refund","amount":2000,"currency":"usd","status":"succeeded"}"#;

fn send(keybrake: &Keybrake, key: &Issued, path: &str, form: &str) -> Client {
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post(&format!("/stripe/v1/{path}"), &key.text, form));
    client
}

fn post(keybrake: &Keybrake, key: &Issued, path: &str, form: &str) -> Reply {
    send(keybrake, key, path, form).reply()
}

fn id(reply: &Reply) -> String {
    reply.expect(200)["id"].as_str().unwrap().to_owned()
}

fn code(reply: &Reply) -> String {
    reply.json()["error"]["code"].as_str().unwrap().to_owned()
}

/// What a key has committed and holds, in cents.
fn cents(keybrake: &Keybrake, key: &Issued) -> (u64, u64) {
    (keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id))
}

#[test]
fn a_refund_without_an_amount_counts_what_is_left_of_the_charge_and_its_look_up_has_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).with_admin().start();
    let shop = keybrake.issue_by_admin(&RULES, &json!({"daily_usd_cap": 100}));
    let charge = id(&post(&keybrake, &shop, "charges", "amount=2000&currency=usd&source=tok_visa"));
    assert_eq!(post(&keybrake, &shop, "refunds", &format!("charge={charge}&amount=500")).status, 200);
    // It charged this itself, so nothing was read for the refund's currency.
    assert_eq!(stand_in.requests(), 2);
    assert_eq!(cents(&keybrake, &shop), (2500, 0));

    let support = keybrake.issue_by_admin(&RULES, &json!({"daily_usd_cap": 15, "daily_request_budget": 1}));
    assert_eq!(post(&keybrake, &support, "refunds", &format!("charge={charge}")).status, 200);
    assert_eq!(stand_in.requests(), 4, "the charge was read, then refunded");
    assert_eq!(cents(&keybrake, &support), (1500, 0));
    let rows = keybrake.eventually_rows(&support.id, 2);
    let of = |outcome: &str| -> Value {
        rows.iter().find(|row| row["outcome"] == outcome).unwrap_or_else(|| panic!("{rows:?}")).clone()
    };
    let (looked_up, refunded) = (of("look_up"), of("forwarded"));
    assert_eq!(refunded["amount_usd"].to_string(), "15.00", "{refunded}");
    assert_eq!((&looked_up["method"], &looked_up["status"]), (&json!("GET"), &json!(200)), "{looked_up}");
    assert_eq!(looked_up["endpoint"], "/v1/charges/{charge}");
    assert_eq!(looked_up["id"], format!("{}_lookup", refunded["id"].as_str().unwrap()));
    // The look-up was none of the key's requests, and the refund was its one.
    let reply = post(&keybrake, &support, "refunds", &format!("charge={charge}"));
    assert_eq!((reply.status, code(&reply).as_str()), (429, "request_budget_exceeded"));
}

#[test]
fn what_an_object_does_not_leave_room_for_is_refused_and_what_the_vendor_does_not_know_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let shop = keybrake.issue(&RULES, &json!({"daily_usd_cap": 100}));
    let charge = id(&post(&keybrake, &shop, "charges", "amount=2000&currency=usd&source=tok_visa"));
    let support = keybrake.issue(&RULES, &json!({"daily_usd_cap": 19}));
    let before = stand_in.requests();
    let reply = post(&keybrake, &support, "refunds", &format!("charge={charge}"));
    assert_eq!((reply.status, code(&reply).as_str()), (429, "daily_cap_exceeded"));
    assert_eq!(stand_in.requests(), before + 1, "read, and not refunded");
    let reply = post(&keybrake, &support, "refunds", "charge=ch_none");
    assert_eq!((reply.status, code(&reply).as_str()), (404, "object_not_found"));
    let reply = post(&keybrake, &support, "refunds", "charge=..%2Fbalance");
    assert_eq!((reply.status, code(&reply).as_str()), (400, "malformed_request"));
    let reply = post(&keybrake, &support, "refunds", "amount=5");
    assert_eq!((reply.status, code(&reply).as_str()), (400, "malformed_request"));
    assert_eq!(cents(&keybrake, &support), (0, 0));
}

#[test]
fn an_intent_counts_once_also_after_a_crash_and_another_keys_intent_counts_when_it_is_confirmed() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).workers(2).start();
    let shop = keybrake.issue(&RULES, &json!({"daily_usd_cap": 50}));
    let create = |keybrake: &Keybrake| {
        id(&post(keybrake, &shop, "payment_intents", "amount=2000&currency=usd&payment_method=pm_card_visa"))
    };
    let first = create(&keybrake);
    assert_eq!(post(&keybrake, &shop, &format!("payment_intents/{first}/confirm"), "").status, 200);
    assert_eq!(cents(&keybrake, &shop), (2000, 0));
    let second = create(&keybrake);
    keybrake.settle();
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    assert_eq!(post(&keybrake, &shop, &format!("payment_intents/{second}/confirm"), "").status, 200);
    assert_eq!(cents(&keybrake, &shop), (4000, 0), "remembered over the crash");
    let other = keybrake.issue(&RULES, &json!({"daily_usd_cap": 50}));
    let fourth = id(&post(
        &keybrake,
        &other,
        "payment_intents",
        "amount=700&currency=usd&payment_method=pm_card_visa",
    ));
    assert_eq!(post(&keybrake, &shop, &format!("payment_intents/{fourth}/confirm"), "").status, 200);
    assert_eq!(cents(&keybrake, &shop), (4700, 0), "another key's counts here too");
}

/// A vendor that answers a charge to every read; a refund waits until `go` says so.
fn slow_refunds(seen: Sender<()>, go: Receiver<()>) -> Vendor {
    let (seen, go) = (Mutex::new(seen), Mutex::new(go));
    Vendor::start(move |request: &Seen, out: &mut dyn Write| {
        if request.line.starts_with("GET ") {
            return out.write_all(&whole(200, CHARGE));
        }
        seen.lock().unwrap().send(()).unwrap();
        go.lock().unwrap().recv().unwrap();
        out.write_all(&whole(200, REFUND))
    })
}

#[test]
fn q8_one_call_at_a_time_acts_on_an_object() {
    let (seen, at_vendor) = channel();
    let (done, go) = channel();
    let vendor = slow_refunds(seen, go);
    let keybrake = Setup::new(vendor.url()).workers(2).start();
    let key = keybrake.issue(&RULES, &json!({"daily_usd_cap": 100}));
    let mut first = send(&keybrake, &key, "refunds", "charge=ch_1");
    at_vendor.recv().unwrap();
    let reply = post(&keybrake, &key, "refunds", "charge=ch_1");
    assert_eq!((reply.status, code(&reply).as_str()), (429, "object_busy"));
    assert_eq!(reply.field("retry-after"), Some("1"));
    done.send(()).unwrap();
    assert_eq!(first.reply().status, 200);
    done.send(()).unwrap();
    assert_eq!(post(&keybrake, &key, "refunds", "charge=ch_1").status, 200, "the object is free again");
    assert_eq!(cents(&keybrake, &key), (4000, 0));
}

#[test]
fn q8_a_key_whose_cap_is_spent_keeps_no_object_from_others_while_it_is_looked_up() {
    let (seen, looks) = channel();
    let (done, go) = channel::<()>();
    let (go, is_first) = (Mutex::new(go), AtomicBool::new(true));
    let vendor = Vendor::start(move |request: &Seen, out: &mut dyn Write| {
        if request.line.starts_with("GET ") && is_first.swap(false, Ordering::SeqCst) {
            seen.send(()).unwrap();
            go.lock().unwrap().recv().unwrap();
        }
        let left = if request.line.contains("ch_over") { "refunded\":2000" } else { "refunded\":0" };
        let charge = CHARGE.replace("refunded\":0", left);
        out.write_all(&whole(200, if request.line.starts_with("GET ") { &charge } else { REFUND }))
    });
    let keybrake = Setup::new(vendor.url()).workers(2).start();
    let spent = keybrake.issue(&RULES, &json!({"daily_usd_cap": 0}));
    let key = keybrake.issue(&RULES, &json!({"daily_usd_cap": 100}));
    let mut first = send(&keybrake, &spent, "refunds", "charge=ch_1");
    looks.recv().unwrap();
    assert_eq!(post(&keybrake, &key, "refunds", "charge=ch_1").status, 200, "the object is free");
    done.send(()).unwrap();
    let reply = first.reply();
    assert_eq!((reply.status, code(&reply).as_str()), (429, "daily_cap_exceeded"));
    assert_eq!(cents(&keybrake, &spent), (0, 0));
    let posts = || vendor.seen().iter().filter(|seen| seen.line.starts_with("POST ")).count();
    assert_eq!(posts(), 1);
    // What is free goes on: nothing is left of this charge, which the vendor may say by itself.
    assert_eq!(post(&keybrake, &spent, "refunds", "charge=ch_over").status, 200);
    assert_eq!(posts(), 2);
}

/// Revokes the key while its look-up is at the vendor.
struct Revoking {
    control: Control,
    key: Mutex<String>,
    armed: AtomicBool,
}

#[test]
fn q8_a_key_that_is_revoked_between_look_up_and_call_sends_nothing_more() {
    let revoking: Arc<Mutex<Option<Revoking>>> = Arc::default();
    let shared = Arc::clone(&revoking);
    let vendor = Vendor::start(move |_: &Seen, out: &mut dyn Write| {
        if let Some(revoking) = &*shared.lock().unwrap()
            && revoking.armed.swap(false, Ordering::SeqCst)
        {
            let revoked = revoking.control.revoke(&revoking.key.lock().unwrap());
            assert!(revoked.acknowledged, "{revoked:?}");
        }
        out.write_all(&whole(200, CHARGE))
    });
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&RULES, &json!({"daily_usd_cap": 100}));
    let armed = AtomicBool::new(true);
    *revoking.lock().unwrap() =
        Some(Revoking { control: keybrake.control(), key: Mutex::new(key.id.clone()), armed });
    assert_eq!(post(&keybrake, &key, "refunds", "charge=ch_1").status, 401);
    let lines: Vec<String> = vendor.seen().into_iter().map(|seen| seen.line).collect();
    assert_eq!(lines, ["GET /v1/charges/ch_1"]);
    assert_eq!(cents(&keybrake, &key), (0, 0));
}

#[test]
fn a_repeat_settles_a_lost_refund_at_what_was_held_for_it_though_nothing_is_left_by_then() {
    let refunded = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&refunded);
    // It answers the charge to a refund by its path, so the reply names no refund's amount.
    let vendor = Vendor::start(move |request: &Seen, out: &mut dyn Write| {
        let is_over = shared.load(Ordering::SeqCst);
        let charge =
            if is_over { CHARGE.replace("refunded\":0", "refunded\":2000") } else { CHARGE.to_owned() };
        if request.line.starts_with("POST ") && !shared.swap(true, Ordering::SeqCst) {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        out.write_all(&whole(200, &charge))
    });
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&RULES, &json!({"daily_usd_cap": 100}));
    let refund = || {
        let head = format!(
            "POST /stripe/v1/charges/ch_1/refund\nAuthorization: Bearer {}\nIdempotency-Key: k\nContent-Length: 0",
            key.text
        );
        let mut client = Client::connect(keybrake.proxy());
        client.send(keybrake_tests::request(&head, b""));
        client.reply()
    };
    assert_eq!(refund().status, 502);
    assert_eq!(cents(&keybrake, &key), (2000, 2000), "in doubt");
    assert_eq!(refund().status, 200);
    assert_eq!(cents(&keybrake, &key), (2000, 0), "settled at what it was held at");
}

#[test]
fn q5_a_repeat_whose_stored_answer_says_that_nothing_moved_settles_a_doubt_at_nothing() {
    let lost = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&lost);
    let vendor = Vendor::start(move |request: &Seen, out: &mut dyn Write| {
        let is_over = shared.load(Ordering::SeqCst);
        if request.line.starts_with("GET ") {
            let left = if is_over { "refunded\":2000" } else { "refunded\":0" };
            return out.write_all(&whole(200, &CHARGE.replace("refunded\":0", left)));
        }
        if !shared.swap(true, Ordering::SeqCst) {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        let failed = String::from_utf8(whole(200, &REFUND.replace("succeeded", "failed"))).unwrap();
        out.write_all(failed.replacen("\r\n", "\r\nIdempotent-Replayed: true\r\n", 1).as_bytes())
    });
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&RULES, &json!({"daily_usd_cap": 100}));
    let refund = || {
        let call = String::from_utf8(form_post("/stripe/v1/refunds", &key.text, "charge=ch_1")).unwrap();
        let mut client = Client::connect(keybrake.proxy());
        client.send(call.replacen("\r\n", "\r\nIdempotency-Key: k\r\n", 1));
        client.reply()
    };
    assert_eq!(refund().status, 502);
    assert_eq!(cents(&keybrake, &key), (2000, 2000), "in doubt");
    assert_eq!(refund().status, 200);
    assert_eq!(cents(&keybrake, &key), (0, 0), "the refund failed, and somebody else's is what is gone");
}

#[test]
fn a_look_up_that_fails_holds_nothing_and_the_call_is_not_sent() {
    let broken = Arc::new(AtomicBool::new(true));
    let shared = Arc::clone(&broken);
    let vendor = Vendor::start(move |request: &Seen, out: &mut dyn Write| {
        let body = if request.line.starts_with("GET ") { CHARGE } else { REFUND };
        let status = if shared.load(Ordering::SeqCst) { 500 } else { 200 };
        out.write_all(&whole(status, body))
    });
    let keybrake = Setup::new(vendor.url()).with_admin().start();
    let key = keybrake.issue_by_admin(&RULES, &json!({"daily_usd_cap": 100}));
    let reply = post(&keybrake, &key, "refunds", "charge=ch_1");
    assert_eq!((reply.status, code(&reply).as_str()), (502, "look_up_failed"));
    assert_eq!((vendor.seen().len(), cents(&keybrake, &key)), (1, (0, 0)));
    broken.store(false, Ordering::SeqCst);
    assert_eq!(post(&keybrake, &key, "refunds", "charge=ch_1").status, 200);
    let rows = keybrake.eventually_rows(&key.id, 4);
    let outcomes: Vec<&str> = rows.iter().map(|row| row["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == "look_up").count(), 2, "{outcomes:?}");
    eventually("the counter", || (keybrake.control().counter("keybrake_look_ups_total") == 2).then_some(()));
}
