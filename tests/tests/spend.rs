//! The cap: never exceeded at any concurrency, and never falsely full.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::sync::{Arc, Barrier};

use keybrake_tests::{Client, Keybrake, Setup, StandIn, form_post, now_micros};
use serde_json::json;

const CLIENTS: usize = 64;

const CAP_CENTS: u64 = 5_000;

const CALL: &str = "amount=1000&currency=usd&source=tok_visa";

/// Seconds to the next 00:00 UTC.
fn seconds_left_today() -> u64 {
    86_400 - now_micros() / 1_000_000 % 86_400
}

/// Whether the day ends while a test runs; then a cap may be spent twice (rule Q10).
fn is_near_midnight() -> bool {
    seconds_left_today() < 60 || seconds_left_today() > 86_400 - 60
}

/// Every client of its own thread and connection sends `calls` calls at once; answers all statuses.
fn at_once(keybrake: &Keybrake, key: &str, calls: usize) -> Vec<u16> {
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let agents: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (barrier, proxy) = (Arc::clone(&barrier), keybrake.proxy());
            let call = form_post("/stripe/v1/charges", key, CALL);
            std::thread::spawn(move || {
                let mut client = Client::connect(proxy);
                barrier.wait();
                let mut statuses = Vec::new();
                for _ in 0..calls {
                    client.send(&call);
                    statuses.push(client.reply().status);
                }
                statuses
            })
        })
        .collect();
    agents.into_iter().flat_map(|agent| agent.join().unwrap()).collect()
}

fn exactly_five_of_64_are_paid(workers: usize) {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).workers(workers).start();
    assert_eq!(keybrake.control().status().workers, workers);
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": CAP_CENTS / 100}));
    let statuses = at_once(&keybrake, &key.text, 1);
    if is_near_midnight() {
        return;
    }
    let paid = statuses.iter().filter(|status| **status == 200).count();
    let refused = statuses.iter().filter(|status| **status == 429).count();
    assert_eq!((paid, refused), (5, CLIENTS - 5), "{statuses:?}");
    assert_eq!(stand_in.accepted_minor(), CAP_CENTS, "by the vendor's own ledger");
    assert_eq!(stand_in.requests(), 5, "the vendor saw none of the others");
    assert_eq!(keybrake.committed_cents(&key.id), CAP_CENTS);
    assert_eq!(keybrake.held_cents(&key.id), 0, "every hold has ended");
}

#[test]
fn of_64_clients_at_once_exactly_five_pay_ten_dollars_under_a_50_dollar_cap_on_one_worker() {
    exactly_five_of_64_are_paid(1);
}

#[test]
fn of_64_clients_at_once_exactly_five_pay_ten_dollars_under_a_50_dollar_cap_on_two_workers() {
    exactly_five_of_64_are_paid(2);
}

#[test]
fn a_cap_is_filled_to_the_last_call_when_some_calls_are_declined_and_their_money_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    // Every third call is declined, so its money is free for another.
    let stand_in = StandIn::start_with(dir.path(), &["--outcome", "chargeDeclined:3"]);
    let keybrake = Setup::new(stand_in.url()).workers(2).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": CAP_CENTS / 100}));
    let mut statuses = at_once(&keybrake, &key.text, 4);
    // The last decline may have come when everybody had been refused: the money is there for whoever asks then.
    let mut client = Client::connect(keybrake.proxy());
    while statuses.last() != Some(&429) || keybrake.held_cents(&key.id) > 0 || statuses.len() == CLIENTS * 4 {
        client.send(form_post("/stripe/v1/charges", &key.text, CALL));
        statuses.push(client.reply().status);
    }
    if is_near_midnight() {
        return;
    }
    assert!(statuses.iter().all(|status| matches!(status, 200 | 402 | 429)), "{statuses:?}");
    assert_eq!(stand_in.accepted_minor(), CAP_CENTS, "{statuses:?}");
    assert_eq!((keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id)), (CAP_CENTS, 0));
}

#[test]
fn a_full_cap_refuses_with_the_seconds_to_midnight_and_says_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/charges", "GET /v1/balance"], &json!({"daily_usd_cap": 15}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, CALL));
    assert_eq!(client.reply().status, 200);
    client.send(form_post("/stripe/v1/charges", &key.text, CALL));
    let left = seconds_left_today();
    let reply = client.reply();
    if is_near_midnight() {
        return;
    }
    let retry_after: u64 = reply.field("retry-after").unwrap().parse().unwrap();
    assert!(retry_after.abs_diff(left) <= 3, "{retry_after} instead of {left}");
    let body = reply.expect(429);
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("$5.00 of $15.00") && message.contains("T00:00:00Z"), "{message}");
    assert_eq!(body["error"]["code"], "daily_cap_exceeded");
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=500&currency=usd&source=tok_visa"));
    assert_eq!(client.reply().status, 200, "what fits is let through");
    let read = keybrake_tests::get(keybrake.proxy(), "/stripe/v1/balance", &key.text);
    assert_eq!(read.status, 200, "reads go on when the cap is spent: {}", read.text());
    assert_eq!(stand_in.accepted_minor(), 1_500);
}

#[test]
fn under_a_cap_what_has_no_price_is_refused_and_without_one_it_passes() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let rules = ["POST /v1/**"];
    let capped = keybrake.issue(&rules, &json!({"daily_usd_cap": 100}));
    let free = keybrake.issue(&rules, &json!({}));
    let post = |key: &str, path: &str, form: &str| {
        let mut client = Client::connect(keybrake.proxy());
        client.send(form_post(path, key, form));
        client.reply()
    };
    for (path, form) in
        [("/stripe/v1/subscriptions", "customer=cus_1"), ("/stripe/v1/unheard_of", "amount=5&currency=usd")]
    {
        assert_eq!(post(&capped.text, path, form).expect(403)["error"]["code"], "unpriced", "{path}");
    }
    assert_eq!(stand_in.requests(), 0);
    assert_eq!(post(&free.text, "/stripe/v1/refunds", "charge=ch_1").status, 404, "the vendor's answer");
    assert_eq!(stand_in.requests(), 1);
}
