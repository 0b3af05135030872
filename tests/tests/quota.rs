//! The monthly quota of requests of the whole installation (rule Q30).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write;
use std::sync::{Arc, Barrier};

use keybrake_proto::control::{Reply as Answer, Request};
use keybrake_proto::time::UnixMicros;
use keybrake_tests::{
    Client, Issued, Keybrake, Port, Reply, Seen, Setup, Vendor, eventually, form_post, get, now_micros, paid,
};
use serde_json::json;

/// Whether the month ends while a test runs.
fn is_near_the_end_of_a_month() -> bool {
    let now = UnixMicros(now_micros());
    let before = UnixMicros(now.0 - 60_000_000);
    before.day().month() != now.plus_seconds(120).day().month()
}

fn start(vendor: &str, most: u64) -> (Keybrake, Issued) {
    let keybrake = Setup::new(vendor).workers(2).vendor_line(&quota(most)).with_admin().start();
    let key = keybrake.issue(&["POST /v1/charges", "GET /v1/charges/**"], &json!({"daily_usd_cap": 100}));
    (keybrake, key)
}

/// Behind the last vendor's section.
fn quota(most: u64) -> String {
    format!("\n[requests]\nmonthly_max = {most}\n")
}

fn pay(keybrake: &Keybrake, key: &Issued) -> Reply {
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd"));
    client.reply()
}

fn sent(keybrake: &Keybrake) -> u64 {
    keybrake.control().status().requests.unwrap().sent
}

fn set_quota(keybrake: &Keybrake, from: u64, to: u64) {
    let text = keybrake.config_text().replace(&quota(from), &quota(to));
    std::fs::write(keybrake.config(), text).unwrap();
    let answer = keybrake.control().ask(&Request::ReloadConfig);
    assert!(
        matches!(&answer, Answer::Config(view) if view.changed == ["requests.monthly_max"]),
        "{answer:?}"
    );
}

#[test]
fn q30_beyond_the_quota_nothing_is_sent_and_a_reload_raises_it() {
    if is_near_the_end_of_a_month() {
        return;
    }
    let vendor = Vendor::start(paid);
    let (keybrake, key) = start(&vendor.url(), 10);
    let barrier = Arc::new(Barrier::new(32));
    let agents: Vec<_> = (0..32)
        .map(|_| {
            let (barrier, proxy) = (Arc::clone(&barrier), keybrake.proxy());
            let call = form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd");
            std::thread::spawn(move || {
                let mut client = Client::connect(proxy);
                barrier.wait();
                client.send(&call);
                client.reply()
            })
        })
        .collect();
    let replies: Vec<Reply> = agents.into_iter().map(|agent| agent.join().unwrap()).collect();
    let paid = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!((paid, vendor.seen().len(), sent(&keybrake)), (10, 10, 10), "of 32 at once");
    let refused = replies.into_iter().find(|reply| reply.status != 200).unwrap();
    let resets = UnixMicros(now_micros()).day().month().end();
    let left = UnixMicros(now_micros()).seconds_until(resets);
    let retry_after: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((left..left + 60).contains(&retry_after), "{retry_after} of {left}");
    assert_eq!(refused.field("keybrake-decision"), Some("monthly_quota_exceeded"));
    let message = refused.expect(429)["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains(&resets.to_string()), "{message}");
    // Reads too, and whatever the key: it is the installation's.
    let other = keybrake.issue(&["GET /v1/charges/**"], &json!({}));
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/charges/ch_1", &other.text).status, 429);
    let rows = keybrake.eventually_rows(&other.id, 1);
    assert_eq!(rows[0]["policy_check_result"], "monthly_quota_exceeded");
    let status = keybrake.cli_command(&["status"]).output().unwrap();
    let status = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(status.contains("10 of 10 in "), "{status}");
    let metrics = get(keybrake.admin_address(), "/metrics", "").text();
    assert!(
        metrics.contains("keybrake_requests_of_month 10\n")
            && metrics.contains("keybrake_requests_monthly_max 10\n")
    );
    set_quota(&keybrake, 10, 12);
    let statuses: Vec<u16> = (0..3).map(|_| pay(&keybrake, &key).status).collect();
    assert_eq!(statuses, [200, 200, 429]);
    set_quota(&keybrake, 10, 5);
    assert_eq!((pay(&keybrake, &key).status, vendor.seen().len()), (429, 12), "lowered below what was sent");
}

#[test]
fn q30_a_restart_and_a_kill_forget_nothing_that_was_sent() {
    if is_near_the_end_of_a_month() {
        return;
    }
    let vendor = Vendor::start(paid);
    let (mut keybrake, key) = start(&vendor.url(), 7);
    assert_eq!([pay(&keybrake, &key).status, pay(&keybrake, &key).status], [200, 200]);
    // A denial is not sent.
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/customers", &key.text).status, 403);
    assert_eq!(keybrake.dataplane().stop(), 0);
    keybrake.start_dataplane();
    assert_eq!(sent(&keybrake), 2);
    assert_eq!(
        [pay(&keybrake, &key).status, get(keybrake.proxy(), "/stripe/v1/charges/ch_1", &key.text).status],
        [200, 200]
    );
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    assert_eq!(sent(&keybrake), 4, "a read counts too, with its outcome in the journal only");
    let statuses: Vec<u16> = (0..4).map(|_| pay(&keybrake, &key).status).collect();
    assert_eq!(statuses, [200, 200, 200, 429]);
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    assert_eq!((pay(&keybrake, &key).status, vendor.seen().len()), (429, 7));
    set_quota(&keybrake, 7, 8);
    assert_eq!([pay(&keybrake, &key).status, pay(&keybrake, &key).status], [200, 429]);
}

#[test]
fn q30_a_call_that_a_kill_cuts_off_counts_and_one_that_was_not_sent_does_not() {
    if is_near_the_end_of_a_month() {
        return;
    }
    // It answers nothing, so that what arrives stays there.
    let vendor = Vendor::start(|_: &Seen, _: &mut dyn Write| Ok(()));
    let (mut keybrake, key) = start(&vendor.url(), 2);
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd"));
    eventually("the call at the vendor", || (vendor.seen().len() == 1).then_some(()));
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    assert_eq!(sent(&keybrake), 1);
    let nobody = Port::reserve();
    let (keybrake, key) = start(&format!("http://{}", nobody.address()), 2);
    assert!((0..3).all(|_| pay(&keybrake, &key).status == 502));
    assert_eq!(sent(&keybrake), 0);
}

#[test]
fn q30_a_quota_that_a_reload_sets_counts_the_requests_before_it_and_over_a_rolling_restart() {
    if is_near_the_end_of_a_month() {
        return;
    }
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).workers(2).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    assert!((0..5).all(|_| pay(&keybrake, &key).status == 200));
    assert_eq!(keybrake.control().status().requests, None);
    std::fs::write(keybrake.config(), format!("{}{}", keybrake.config_text(), quota(7))).unwrap();
    let answer = keybrake.control().ask(&Request::ReloadConfig);
    assert!(matches!(answer, Answer::Config(_)), "{answer:?}");
    assert_eq!(sent(&keybrake), 5, "on both workers");
    assert_eq!(pay(&keybrake, &key).status, 200);
    let (mut before, _) = keybrake.take_over();
    assert_eq!(before.exit_code(), 0);
    assert_eq!(sent(&keybrake), 6);
    assert_eq!([pay(&keybrake, &key).status, pay(&keybrake, &key).status], [200, 429]);
    assert_eq!(vendor.seen().len(), 7);
}
