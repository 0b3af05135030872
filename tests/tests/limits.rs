//! The cap for a key's whole life and its daily budget of requests.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::sync::{Arc, Barrier};

use keybrake_tests::{Client, Issued, Keybrake, Port, Reply, Setup, StandIn, form_post, get, now_micros};
use serde_json::json;

const CLIENTS: usize = 64;

/// Ten dollars.
const CALL: &str = "amount=1000&currency=usd&source=tok_visa";

/// Whether the day ends while a test runs; then a budget may be spent twice (rule Q10).
fn is_near_midnight() -> bool {
    let of_day = now_micros() / 1_000_000 % 86_400;
    !(60..86_340).contains(&of_day)
}

fn pay(keybrake: &Keybrake, key: &Issued) -> Reply {
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, CALL));
    client.reply()
}

/// How many of as many clients at once are paid; all others are refused with `code`.
fn paid_at_once(keybrake: &Keybrake, key: &Issued, code: &str) -> usize {
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let agents: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (barrier, proxy) = (Arc::clone(&barrier), keybrake.proxy());
            let call = form_post("/stripe/v1/charges", &key.text, CALL);
            std::thread::spawn(move || {
                let mut client = Client::connect(proxy);
                barrier.wait();
                client.send(&call);
                client.reply()
            })
        })
        .collect();
    let replies: Vec<Reply> = agents.into_iter().map(|agent| agent.join().unwrap()).collect();
    let (paid, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 200);
    for reply in refused {
        assert_eq!(reply.expect(429)["error"]["code"], code);
    }
    paid.len()
}

#[test]
fn of_64_clients_at_once_exactly_as_many_are_paid_as_the_tightest_limit_allows() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).workers(2).start();
    let issue = |limits| keybrake.issue(&["POST /v1/charges"], &limits);
    let for_life = issue(json!({"total_usd_cap": 50, "daily_usd_cap": 900, "daily_request_budget": 100}));
    let by_count = issue(json!({"total_usd_cap": 900, "daily_usd_cap": 900, "daily_request_budget": 7}));
    assert_eq!(paid_at_once(&keybrake, &for_life, "total_cap_exceeded"), 5);
    assert_eq!(paid_at_once(&keybrake, &by_count, "request_budget_exceeded"), 7);
    if is_near_midnight() {
        return;
    }
    assert_eq!((stand_in.requests(), stand_in.accepted_minor()), (12, 12_000), "by the vendor's own ledger");
    let view = keybrake.key(&by_count.id);
    assert_eq!((view.requests_today, view.daily_request_budget), (Some(7), Some(7)));
    assert_eq!(view.total_committed_usd.unwrap().to_string(), "70.00");
    assert_eq!(view.remaining_usd.unwrap().to_string(), "830.00");
    let view = keybrake.key(&for_life.id);
    assert_eq!((view.remaining_usd.unwrap().as_u64(), view.held_usd.as_u64()), (0, 0));
    assert_eq!(view.requests_today, Some(5), "what was refused does not count");
}

#[test]
fn a_spent_total_cap_names_no_time_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/**", "GET /v1/balance"], &json!({"total_usd_cap": 15}));
    assert_eq!(pay(&keybrake, &key).status, 200);
    let reply = pay(&keybrake, &key);
    assert_eq!(reply.field("retry-after"), None);
    assert_eq!(reply.field("stripe-should-retry"), Some("false"));
    let body = reply.expect(429);
    assert_eq!(body["error"]["code"], "total_cap_exceeded");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("$5.00 of $15.00"), "{message}");
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status, 200);
    // It is a cap in USD: what has no price is refused under it.
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/subscriptions", &key.text, "customer=cus_1"));
    assert_eq!(client.reply().expect(403)["error"]["code"], "unpriced");
}

#[test]
fn a_request_counts_once_it_was_sent_whatever_came_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let rules = ["GET /v1/balance", "GET /v1/charges/*", "POST /v1/charges"];
    let key = keybrake.issue(&rules, &json!({"daily_request_budget": 3}));
    let read = |path: &str| get(keybrake.proxy(), path, &key.text);
    assert_eq!(read("/stripe/v1/customers").status, 403, "denied, so not sent");
    assert_eq!(read("/stripe/v1/balance").status, 200);
    assert_eq!(read("/stripe/v1/charges/ch_none").status, 404, "the vendor's answer");
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post(
        "/stripe/v1/charges",
        &key.text,
        "amount=1000&currency=usd&source=tok_chargeDeclined",
    ));
    assert_eq!(client.reply().status, 402, "the vendor's refusal, which releases the money");
    let reply = read("/stripe/v1/balance");
    if is_near_midnight() {
        return;
    }
    let retry_after: u64 = reply.field("retry-after").unwrap().parse().unwrap();
    let left = 86_400 - now_micros() / 1_000_000 % 86_400;
    assert!(retry_after.abs_diff(left) <= 30, "{retry_after} instead of {left}");
    let body = reply.expect(429);
    assert_eq!(body["error"]["code"], "request_budget_exceeded");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("0 of 3 requests"), "{message}");
    assert_eq!((stand_in.requests(), keybrake.key(&key.id).requests_today), (3, Some(3)));
}

#[test]
fn a_request_that_could_not_be_sent_is_given_back() {
    // Reserved, and nobody listens.
    let port = Port::reserve();
    let keybrake = Setup::new(format!("http://{}", port.address())).start();
    let limits = json!({"daily_request_budget": 1, "total_usd_cap": 10});
    let key = keybrake.issue(&["POST /v1/charges"], &limits);
    for _ in 0..3 {
        assert_eq!(pay(&keybrake, &key).expect(502)["error"]["code"], "vendor_unreachable");
    }
    let view = keybrake.key(&key.id);
    assert_eq!((view.requests_today, view.total_committed_usd.unwrap().as_u64()), (Some(0), 0));
}
