//! The pace of a key, and turns at a vendor whose quota all keys share.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Instant;

use keybrake_tests::{Client, Issued, Keybrake, Setup, Vendor, eventually, form_post, get, paid};
use serde_json::json;

const CALL: &str = "amount=1000&currency=usd";

/// Statuses and codes, with how often each came.
type Counts = BTreeMap<String, u64>;

/// Sends the same call until `goes_on` says otherwise; the connection stays.
fn send_while(keybrake: &Keybrake, key: &Issued, mut goes_on: impl FnMut(u64) -> bool) -> Counts {
    let mut client = Client::connect(keybrake.proxy());
    let call = form_post("/stripe/v1/charges", &key.text, CALL);
    let mut counts = Counts::new();
    let mut sent = 0;
    while goes_on(sent) {
        sent += 1;
        client.send(&call);
        let reply = client.reply();
        let code = reply.field("keybrake-decision").map_or_else(|| reply.status.to_string(), str::to_owned);
        *counts.entry(code).or_default() += 1;
    }
    counts
}

#[test]
fn a_key_that_is_too_fast_is_told_when_to_come_again_and_nothing_is_held() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).with_admin().start();
    // One, and another one after 1000 seconds.
    let key = keybrake
        .issue_by_admin(&["POST /v1/charges"], &json!({"daily_usd_cap": 50, "rate_limit_rps": 0.001}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, CALL));
    assert_eq!(client.reply().status, 200);
    client.send(form_post("/stripe/v1/charges", &key.text, CALL));
    let refused = client.reply();
    let retry_after: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=1000).contains(&retry_after), "{retry_after}");
    assert_eq!(refused.field("stripe-should-retry"), Some("false"));
    let body = refused.expect(429);
    assert_eq!(
        (body["error"]["code"].as_str(), body["name"].as_str()),
        (Some("rate_limited"), Some("rate_limit_exceeded"))
    );
    assert!(
        body["message"].as_str().unwrap().contains("0.001 requests per second, and at most 1 at once"),
        "{body}"
    );
    let rows = keybrake.eventually_rows(&key.id, 2);
    let refused = rows.iter().find(|row| row["policy_check_result"] == "rate_limited").unwrap();
    assert_eq!((refused["outcome"].as_str(), refused["amount"].as_f64()), (Some("denied"), Some(0.0)));
    assert_eq!((keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id)), (1000, 0));
    assert_eq!(vendor.seen().len(), 1);
}

#[test]
fn one_rate_is_shared_by_all_workers_and_connections() {
    const CLIENTS: usize = 16;
    const CALLS: u64 = 20;
    let vendor = Vendor::start(paid);
    let keybrake = Arc::new(Setup::new(vendor.url()).workers(2).start());
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"rate_limit_rps": 5}));
    let (began, barrier) = (Instant::now(), Arc::new(Barrier::new(CLIENTS)));
    let agents: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (keybrake, key, barrier) = (Arc::clone(&keybrake), key.clone(), Arc::clone(&barrier));
            std::thread::spawn(move || {
                barrier.wait();
                send_while(&keybrake, &key, |sent| sent < CALLS)
            })
        })
        .collect();
    let mut all = Counts::new();
    for agent in agents {
        for (code, count) in agent.join().unwrap() {
            *all.entry(code).or_default() += count;
        }
    }
    // However long it took: one burst, and what has come back since.
    let most = 5 + began.elapsed().as_secs() * 5 + 5;
    let passed = all["200"];
    assert!((5..=most).contains(&passed), "{all:?}, at most {most}");
    assert_eq!(
        passed + all.get("rate_limited").copied().unwrap_or_default(),
        CLIENTS as u64 * CALLS,
        "{all:?}"
    );
    assert_eq!(vendor.seen().len() as u64, passed);
}

#[test]
fn one_key_bursting_a_hundred_times_as_much_gives_a_steady_key_no_429() {
    const TIMES: usize = 100;
    const STEADY_CALLS: u64 = 40;
    let vendor = Vendor::start(paid);
    let keybrake = Arc::new(Setup::new(vendor.url()).workers(2).vendor_line("quota_rps = 50").start());
    let issue = || keybrake.issue(&["POST /v1/charges"], &json!({}));
    let (steady, bursting) = (issue(), issue());
    // Each message is one call of the burst.
    let (order, orders) = std::sync::mpsc::channel::<()>();
    let orders = Arc::new(Mutex::new(orders));
    let burst: Vec<_> = (0..TIMES)
        .map(|_| {
            let (keybrake, key, orders) = (Arc::clone(&keybrake), bursting.clone(), Arc::clone(&orders));
            std::thread::spawn(move || send_while(&keybrake, &key, |_| orders.lock().unwrap().recv().is_ok()))
        })
        .collect();
    let burst_once = || (0..TIMES).for_each(|_| order.send(()).unwrap());
    burst_once();
    eventually("the burst waits for turns", || {
        (keybrake.control().counter("keybrake_turns_waited_total") > 0).then_some(())
    });
    let counts = send_while(&keybrake, &steady, |sent| {
        burst_once();
        sent < STEADY_CALLS
    });
    drop(order);
    let mut of_burst = Counts::new();
    for agent in burst {
        for (code, count) in agent.join().unwrap() {
            *of_burst.entry(code).or_default() += count;
        }
    }
    assert_eq!(counts, Counts::from([("200".to_owned(), STEADY_CALLS)]), "the steady key");
    assert_eq!(of_burst.values().sum::<u64>(), (STEADY_CALLS + 2) * TIMES as u64);
    let (passed, refused) = (of_burst["200"], of_burst.get("vendor_quota").copied().unwrap_or_default());
    assert!(refused > 0 && passed + refused == of_burst.values().sum::<u64>(), "{of_burst:?}");
    assert_eq!(vendor.seen().len() as u64, passed + STEADY_CALLS);
    assert_eq!((keybrake.held_cents(&steady.id), keybrake.held_cents(&bursting.id)), (0, 0));
}

#[test]
fn what_the_policy_refuses_uses_no_turn_and_a_key_revoked_while_it_waits_sends_nothing() {
    let vendor = Vendor::start(paid);
    let keybrake = Arc::new(Setup::new(vendor.url()).vendor_line("quota_rps = 1").start());
    let capped = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 1}));
    let free = keybrake.issue(&["POST /v1/charges"], &json!({}));
    let refused = send_while(&keybrake, &capped, |sent| sent < 30);
    assert_eq!(refused, Counts::from([("daily_cap_exceeded".to_owned(), 30)]));
    let began = Instant::now();
    let counts = send_while(&keybrake, &free, |sent| sent < 1);
    assert_eq!(counts, Counts::from([("200".to_owned(), 1)]));
    let waited = || keybrake.control().counter("keybrake_turns_waited_total");
    assert_eq!(waited(), 0, "a refusal gives the turn back before it is answered");
    let sent = {
        let (keybrake, key) = (Arc::clone(&keybrake), free.clone());
        std::thread::spawn(move || send_while(&keybrake, &key, |sent| sent < 1))
    };
    eventually("it waits for a turn", || (waited() > 0 || sent.is_finished()).then_some(()));
    drop(keybrake.control().revoke(&free.id));
    let counts = sent.join().unwrap();
    // On a machine that stood still for a second it had its turn before.
    let may_have_gone = began.elapsed().as_millis() > 900 && counts == Counts::from([("200".to_owned(), 1)]);
    assert!(may_have_gone || counts == Counts::from([("invalid_vault_key".to_owned(), 1)]), "{counts:?}");
}

#[test]
fn a_429_of_the_vendor_passes_unchanged() {
    let vendor = Vendor::start(|_, out| {
        let body = r#"{"error": {"code": "rate_limit"}}"#;
        write!(
            out,
            "HTTP/1.1 429 Too Many\r\nContent-Type: application/json\r\nRetry-After: 7\r\n\
             Stripe-Rate-Limited-Reason: global-rate\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    });
    let keybrake = Setup::new(vendor.url()).vendor_line("quota_rps = 100").start();
    let key = keybrake.issue(&["POST /v1/charges", "GET /v1/charges/*"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, CALL));
    for reply in [client.reply(), get(keybrake.proxy(), "/stripe/v1/charges/ch_1", &key.text)] {
        assert_eq!((reply.status, reply.text().as_str()), (429, r#"{"error": {"code": "rate_limit"}}"#));
        assert_eq!((reply.field("retry-after"), reply.field("keybrake-decision")), (Some("7"), None));
        assert_eq!(reply.field("stripe-rate-limited-reason"), Some("global-rate"));
    }
    assert_eq!(keybrake.committed_cents(&key.id), 0, "it moved nothing");
}
