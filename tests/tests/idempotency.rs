//! Repeats under one Idempotency-Key: counted once, held once, over crashes and workers too.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};

use keybrake_tests::{
    Client, Issued, Keybrake, Setup, StandIn, Vendor, eventually, form_post, now_micros, paid, whole,
};
use serde_json::json;

const CHARGE: &str = "amount=1000&currency=usd&source=tok_visa";

/// What a vendor answers that has answered before.
const REPLAYED: &str = r#"{"object": "charge", "amount": 1000, "currency": "usd", "status": "succeeded"}"#;

/// Spend is of a day; these tests take seconds.
fn is_near_midnight() -> bool {
    86_400 - now_micros() / 1_000_000 % 86_400 < 120
}

fn charge(key: &Issued, idempotency_key: &str, form: &str) -> Vec<u8> {
    let bytes = String::from_utf8(form_post("/stripe/v1/charges", &key.text, form)).unwrap();
    let field = format!("\r\nIdempotency-Key: {idempotency_key}\r\nContent-Type");
    bytes.replacen("\r\nContent-Type", &field, 1).into_bytes()
}

fn pay(keybrake: &Keybrake, key: &Issued, idempotency_key: &str, form: &str) -> u16 {
    let mut client = Client::connect(keybrake.proxy());
    client.send(charge(key, idempotency_key, form));
    client.reply().status
}

/// A key that may spend so many dollars a day.
fn issue(keybrake: &Keybrake, dollars: u64) -> Issued {
    keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": dollars}))
}

/// What is committed and what of it is held, in US cents.
fn spent(keybrake: &Keybrake, key: &Issued) -> (u64, u64) {
    (keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id))
}

/// Writes a whole reply that says that it is a stored one.
fn replay(out: &mut dyn Write) -> std::io::Result<()> {
    let reply = String::from_utf8(whole(200, REPLAYED)).unwrap();
    out.write_all(reply.replacen("\r\n", "\r\nIdempotent-Replayed: true\r\n", 1).as_bytes())
}

#[test]
fn q5_a_repeat_of_an_executed_call_is_free_under_a_full_cap_and_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).workers(2).with_admin().start();
    let key = issue(&keybrake, 10);
    let check = |keybrake: &Keybrake| {
        assert_eq!(pay(keybrake, &key, "order-1", CHARGE), 200);
        assert_eq!(spent(keybrake, &key), (1000, 0));
        assert_eq!(pay(keybrake, &key, "order-2", CHARGE), 429, "nothing else fits");
        assert_eq!(stand_in.accepted_minor(), 1000);
    };
    check(&keybrake);
    check(&keybrake);
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    if is_near_midnight() {
        return;
    }
    check(&keybrake);
    keybrake.settle();
    let rows = keybrake.eventually_rows(&key.id, 6);
    let amounts: f64 = rows.iter().map(|row| row["amount_usd"].as_f64().unwrap()).sum();
    assert!((amounts - 10.0).abs() < 1e-9, "{rows:#?}");
}

#[test]
fn q6_of_64_repeats_at_once_on_two_workers_one_is_charged() {
    const CLIENTS: usize = 64;
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).workers(2).start();
    let key = issue(&keybrake, 10);
    let barrier = Arc::new(Barrier::new(CLIENTS));
    let agents: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (barrier, proxy, call) =
                (Arc::clone(&barrier), keybrake.proxy(), charge(&key, "order-1", CHARGE));
            std::thread::spawn(move || {
                let mut client = Client::connect(proxy);
                barrier.wait();
                client.send(&call);
                client.reply().status
            })
        })
        .collect();
    let statuses: Vec<u16> = agents.into_iter().map(|agent| agent.join().unwrap()).collect();
    if is_near_midnight() {
        return;
    }
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(stand_in.accepted_minor(), 1000);
    assert_eq!(spent(&keybrake, &key), (1000, 0));
}

#[test]
fn q6_a_repeat_while_the_first_hangs_draws_on_its_hold() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let key = issue(&keybrake, 10);
    let hangs = CHARGE.replace("tok_visa", "tok_hang");
    let mut first = Client::connect(keybrake.proxy());
    first.send(charge(&key, "order-1", &hangs));
    eventually("the call to be at the vendor", || (stand_in.requests() == 1).then_some(()));
    assert_eq!(spent(&keybrake, &key), (1000, 1000));
    assert_eq!(pay(&keybrake, &key, "order-2", CHARGE), 429, "the cap is full");
    assert_eq!(pay(&keybrake, &key, "order-1", &hangs), 200, "and the repeat goes through");
    if is_near_midnight() {
        return;
    }
    assert_eq!(spent(&keybrake, &key), (1000, 0), "settled by the repeat, while the first hangs");
    drop(stand_in);
    assert_eq!(first.reply().status, 502);
    assert_eq!(spent(&keybrake, &key), (1000, 0), "the first has nothing left to settle");
}

#[test]
fn q6_a_crash_leaves_one_doubt_for_all_exchanges_on_a_reservation_and_a_repeat_settles_it() {
    let answers = Arc::new(AtomicBool::new(false));
    let answering = Arc::clone(&answers);
    let vendor = Vendor::start(move |_, out| {
        if answering.load(Ordering::SeqCst) {
            return replay(out);
        }
        loop {
            std::thread::park();
        }
    });
    let mut keybrake = Setup::new(vendor.url()).workers(2).start();
    let key = issue(&keybrake, 15);
    let clients: Vec<Client> = (0..6)
        .map(|_| {
            let mut client = Client::connect(keybrake.proxy());
            client.send(charge(&key, "order-1", CHARGE));
            client
        })
        .collect();
    eventually("all calls to be at the vendor", || (vendor.seen().len() == 6).then_some(()));
    assert_eq!(spent(&keybrake, &key), (1000, 1000));
    keybrake.dataplane().kill_9();
    drop(clients);
    keybrake.start_dataplane();
    if is_near_midnight() {
        return;
    }
    assert_eq!(spent(&keybrake, &key), (1000, 1000), "in doubt once");
    answers.store(true, Ordering::SeqCst);
    assert_eq!(pay(&keybrake, &key, "order-1", CHARGE), 200);
    assert_eq!(spent(&keybrake, &key), (1000, 0), "the vendor says what it came to");
    keybrake.settle();
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    if is_near_midnight() {
        return;
    }
    assert_eq!(spent(&keybrake, &key), (1000, 0), "and the store knows too");
}

#[test]
fn q5_a_retry_after_a_cut_settles_the_doubt_and_the_rows_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).with_admin().start();
    let key = issue(&keybrake, 10);
    let cut = CHARGE.replace("tok_visa", "tok_cut_after");
    assert_eq!(pay(&keybrake, &key, "order-1", &cut), 502);
    assert_eq!(spent(&keybrake, &key), (1000, 1000), "in doubt");
    assert_eq!(pay(&keybrake, &key, "order-1", &cut), 200, "as an SDK does");
    if is_near_midnight() {
        return;
    }
    assert_eq!((spent(&keybrake, &key), stand_in.accepted_minor()), ((1000, 0), 1000));
    keybrake.settle();
    let rows = keybrake.eventually_rows(&key.id, 3);
    let amended: Vec<&str> =
        rows.iter().filter_map(|row| row["id"].as_str()?.strip_suffix("_amended")).collect();
    let amounts: f64 = rows
        .iter()
        .filter(|row| !amended.contains(&row["id"].as_str().unwrap()))
        .map(|row| row["amount_usd"].as_f64().unwrap())
        .sum();
    assert!(amended.len() == 1 && (amounts - 10.0).abs() < 1e-9, "{rows:#?}");
}

#[test]
fn m8_the_same_text_with_another_body_or_under_another_vault_key_is_a_new_call() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let (key, other) = (issue(&keybrake, 15), issue(&keybrake, 15));
    assert_eq!(pay(&keybrake, &key, "order-1", CHARGE), 200);
    let changed = CHARGE.replace("1000", "600");
    assert_eq!(pay(&keybrake, &key, "order-1", &changed), 429, "it is held like any other");
    let changed = CHARGE.replace("1000", "400");
    assert_eq!(pay(&keybrake, &key, "order-1", &changed), 400, "the vendor refuses it");
    assert_eq!(pay(&keybrake, &other, "order-1", CHARGE), 200);
    if is_near_midnight() {
        return;
    }
    assert_eq!((spent(&keybrake, &key), spent(&keybrake, &other)), ((1000, 0), (1000, 0)));
    assert_eq!(stand_in.accepted_minor(), 2000);
}

#[test]
fn q5_a_repeat_that_the_vendor_executes_again_is_booked_in_full() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).start();
    let key = issue(&keybrake, 10);
    assert_eq!(pay(&keybrake, &key, "order-1", CHARGE), 200);
    assert_eq!(pay(&keybrake, &key, "order-1", CHARGE), 200, "it was to be replayed");
    if is_near_midnight() {
        return;
    }
    assert_eq!(spent(&keybrake, &key), (2000, 0));
    assert_eq!(keybrake.control().counter("keybrake_charges_above_quote_total"), 1);
}

#[test]
fn q5_a_replay_of_what_is_not_on_the_books_counts() {
    let vendor = Vendor::start(|_, out| replay(out));
    let keybrake = Setup::new(vendor.url()).start();
    let key = issue(&keybrake, 15);
    assert_eq!(pay(&keybrake, &key, "order-1", CHARGE), 200);
    assert_eq!(spent(&keybrake, &key), (1000, 0));
    assert_eq!(pay(&keybrake, &key, "order-1", CHARGE), 200);
    assert_eq!(spent(&keybrake, &key), (1000, 0), "and once");
}

#[test]
fn q5_what_moved_nothing_is_held_anew() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let vendor = Vendor::start(move |seen, out| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => out.write_all(&whole(429, r#"{"error": {"type": "rate_limit_error"}}"#)),
        _ => paid(seen, out),
    });
    let keybrake = Setup::new(vendor.url()).start();
    let key = issue(&keybrake, 10);
    assert_eq!(pay(&keybrake, &key, "order-1", CHARGE), 429);
    assert_eq!(spent(&keybrake, &key), (0, 0));
    assert_eq!(pay(&keybrake, &key, "order-1", CHARGE), 200);
    assert_eq!(spent(&keybrake, &key), (1000, 0));
    assert_eq!(pay(&keybrake, &key, "order-2", CHARGE), 429, "the cap is full");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
}
