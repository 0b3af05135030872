//! A revoke: nothing of the key is sent after it was acknowledged.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use keybrake_tests::{
    Certificate, Client, Issuer, Keybrake, Setup, StandIn, Vendor, eventually, form_post, get, now_micros,
    paid,
};
use serde_json::json;

const THREADS: usize = 16;

const ROUNDS: usize = 20;

/// Sends calls on sixteen connections until told to stop; each thread answers its statuses.
fn hammer(keybrake: &Keybrake, key: &str, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<Vec<u16>>> {
    (0..THREADS)
        .map(|number| {
            let (proxy, stop) = (keybrake.proxy(), Arc::clone(stop));
            // Free calls too: a revoke is not a matter of money.
            let call = if number % 2 == 0 {
                form_post("/stripe/v1/charges", key, "amount=1&currency=usd&source=tok_visa")
            } else {
                let head = format!(
                    "GET /stripe/v1/balance HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n"
                );
                head.into_bytes()
            };
            std::thread::spawn(move || {
                let mut client = Client::connect(proxy);
                let mut statuses = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    client.send(&call);
                    let reply = client.reply();
                    statuses.push(reply.status);
                    if reply.closes() {
                        client = Client::connect(proxy);
                    }
                }
                statuses
            })
        })
        .collect()
}

fn nothing_arrives_after_the_acknowledgement(workers: usize) {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).workers(workers).start();
    for round in 0..ROUNDS {
        let key =
            keybrake.issue(&["POST /v1/charges", "GET /v1/balance"], &json!({"daily_usd_cap": 100_000}));
        let stop = Arc::new(AtomicBool::new(false));
        let before = stand_in.requests();
        let threads = hammer(&keybrake, &key.text, &stop);
        eventually("the load to run", || (stand_in.requests() > before + 100).then_some(()));
        let revoked = keybrake.control().revoke(&key.id);
        let acknowledged = now_micros();
        let known = stand_in.requests();
        assert!(revoked.acknowledged, "{revoked:?}");
        // Every thread sees refusals only before the load ends.
        eventually("the agents to be refused", || {
            (get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status == 401).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        let statuses: Vec<Vec<u16>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        // What was sent before may be read later by a busy stand-in: the revoke said how many are on their way.
        let late =
            stand_in.arrivals().into_iter().filter(|arrival| arrival.at_micros > acknowledged).count() as u64;
        assert!(late <= revoked.at_vendor, "round {round}: {late} came after {revoked:?}");
        let after = stand_in.requests();
        assert!(
            after <= known + revoked.at_vendor,
            "round {round}: {known} at the acknowledgement, {after} later"
        );
        // A disk that stalls for seconds is said so, and another revoke tells when it is durable (rule Q19).
        eventually("the revoke to be durable", || keybrake.control().revoke(&key.id).durable.then_some(()));
        for statuses in statuses {
            // A disk that stalls also stops admission: those were not forwarded.
            let statuses: Vec<u16> = statuses.into_iter().filter(|status| *status != 503).collect();
            let first = statuses.iter().position(|status| *status == 401).unwrap_or(statuses.len());
            assert!(statuses[..first].iter().all(|status| *status == 200), "round {round}: {statuses:?}");
            assert!(statuses[first..].iter().all(|status| *status == 401), "round {round}: {statuses:?}");
        }
    }
}

/// The same by the kernel's count of what had arrived at the vendor when the acknowledgement came: to the byte.
fn not_one_byte_is_sent_after_the_acknowledgement(workers: usize) {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).workers(workers).start();
    for round in 0..ROUNDS {
        let key =
            keybrake.issue(&["POST /v1/charges", "GET /v1/balance"], &json!({"daily_usd_cap": 100_000}));
        let stop = Arc::new(AtomicBool::new(false));
        let before = vendor.bytes();
        let threads = hammer(&keybrake, &key.text, &stop);
        eventually("the load to run", || (vendor.bytes() > before + 20_000).then_some(()));
        let revoked = keybrake.control().revoke(&key.id);
        let arrived = vendor.arrived_bytes();
        assert!(revoked.acknowledged, "{revoked:?}");
        eventually("the agents to be refused", || {
            (get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status == 401).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            drop(thread.join().unwrap());
        }
        assert_eq!(vendor.arrived_bytes(), arrived, "round {round}: {revoked:?}");
    }
}

#[test]
fn under_load_not_one_byte_is_sent_after_the_acknowledgement_on_one_worker() {
    not_one_byte_is_sent_after_the_acknowledgement(1);
}

#[test]
fn under_load_not_one_byte_is_sent_after_the_acknowledgement_on_two_workers() {
    not_one_byte_is_sent_after_the_acknowledgement(2);
}

#[test]
fn under_load_no_request_reaches_the_vendor_after_the_acknowledgement_on_one_worker() {
    nothing_arrives_after_the_acknowledgement(1);
}

#[test]
fn under_load_no_request_reaches_the_vendor_after_the_acknowledgement_on_two_workers() {
    nothing_arrives_after_the_acknowledgement(2);
}

#[test]
fn a_revoke_answers_every_other_key_is_untouched_and_a_second_revoke_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).workers(2).start();
    let (key, other) =
        (keybrake.issue(&["GET /v1/balance"], &json!({})), keybrake.issue(&["GET /v1/balance"], &json!({})));
    let first = keybrake.control().revoke(&key.id);
    let second = keybrake.control().revoke(&key.id);
    assert_eq!(first.revoked_at, second.revoked_at);
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status, 401);
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &other.text).status, 200);
}

#[test]
fn a_running_exchange_of_a_revoked_key_finishes_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd&source=tok_slow_500"));
    eventually("the call to be at the vendor", || (stand_in.requests() == 1).then_some(()));
    let revoked = keybrake.control().revoke(&key.id);
    assert_eq!((revoked.at_vendor, revoked.acknowledged), (1, true));
    assert_eq!(client.reply().status, 200);
    assert_eq!(keybrake.committed_cents(&key.id), 1000);
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd&source=tok_visa"));
    assert_eq!(client.reply().status, 401);
}

#[test]
fn q8_a_request_that_still_waits_for_its_connection_is_never_sent_after_a_revoke() {
    let issuer = Issuer::new();
    // It listens and does not shake hands yet.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    issuer.write_to(&ca);
    let keybrake = Setup::new(format!("https://localhost:{}", listener.local_addr().unwrap().port()))
        .vendor_line("allow_private_address = true")
        .vendor_line("connect_timeout_s = 60")
        .vendor_line(&format!("ca_file = \"{}\"", ca.display()))
        .start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
    eventually("the call to be admitted", || (keybrake.held_cents(&key.id) == 1000).then_some(()));
    let revoked = keybrake.control().revoke(&key.id);
    assert_eq!((revoked.acknowledged, revoked.at_vendor), (true, 0), "{revoked:?}");
    let vendor = Vendor::start_tls_on(listener, issuer.server(Certificate::Good), paid);
    assert_eq!(client.reply().status, 401);
    assert_eq!((vendor.connections(), vendor.bytes()), (1, 0), "the connection opened, and nothing was sent");
    assert_eq!(keybrake.committed_cents(&key.id), 0, "the amount is free again");
}

#[test]
fn the_dataplanes_own_revoke_command_needs_no_admin_process() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["GET /v1/balance"], &json!({}));
    let output = keybrake.dataplane_command().args(["revoke", &key.id]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("acknowledged by every worker"), "{output:?}");
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status, 401);
    let wrong = keybrake.dataplane_command().args(["revoke", "vk_0000000000000000"]).output().unwrap();
    assert_eq!(
        (wrong.status.code(), String::from_utf8_lossy(&wrong.stderr).lines().count()),
        (Some(1), 1),
        "{wrong:?}"
    );
}

#[test]
fn an_expired_key_is_refused_like_a_revoked_one() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["GET /v1/balance"], &json!({"expires_in": 1}));
    eventually("the key to expire", || {
        (get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status == 401).then_some(())
    });
    let known = stand_in.requests();
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status, 401);
    assert_eq!(stand_in.requests(), known);
    assert_eq!(keybrake.key(&key.id).status, keybrake_proto::control::KeyStatus::Expired);
}
