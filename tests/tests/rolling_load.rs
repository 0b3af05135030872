//! A dataplane that takes the place of the running one under load (contract I13): nobody is refused, and no call
//! is lost.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use keybrake_tests::{
    Client, Control, Issued, Keybrake, Process, Setup, StandIn, eventually, form_post, now_micros,
};
use serde_json::json;

const AGENTS: usize = 64;

/// Spend is of a day; these tests take seconds.
fn is_near_midnight() -> bool {
    86_400 - now_micros() / 1_000_000 % 86_400 < 120
}

fn charge(key: &Issued, form: &str) -> Vec<u8> {
    form_post("/stripe/v1/charges", &key.text, form)
}

fn pay(keybrake: &Keybrake, key: &Issued, cents: u64) -> u16 {
    let mut client = Client::connect(keybrake.proxy());
    client.send(charge(key, &format!("amount={cents}&currency=usd")));
    client.reply().status
}

fn inherited(keybrake: &Keybrake) -> u64 {
    keybrake.control().counter("keybrake_inherited_calls")
}

/// What one agent saw.
#[derive(Default)]
struct Log {
    succeeded: u64,
    draining: u64,
    other: Vec<u16>,
    /// Connections that were not accepted.
    refused: u64,
    /// First requests of a connection without an answer: others may meet the end of an idle connection.
    unanswered: u64,
}

/// Agents that pay a cent at a time and connect anew when they are told to.
fn hammer(keybrake: &Keybrake, key: &Issued, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<Log>> {
    let agent = |_| {
        let (proxy, stop) = (keybrake.proxy(), Arc::clone(stop));
        let call = charge(key, "amount=1&currency=usd");
        std::thread::spawn(move || {
            let mut log = Log::default();
            while !stop.load(Ordering::Relaxed) {
                if TcpStream::connect(proxy).is_err() {
                    log.refused += 1;
                    continue;
                }
                let mut client = Client::connect(proxy);
                let mut is_first = true;
                while !stop.load(Ordering::Relaxed) {
                    client.try_send(&call);
                    let Ok(reply) = client.try_reply() else {
                        log.unanswered += u64::from(is_first);
                        break;
                    };
                    match (reply.status, reply.field("keybrake-decision")) {
                        (200, _) => log.succeeded += 1,
                        (503, Some("draining")) => log.draining += 1,
                        (status, _) => log.other.push(status),
                    }
                    is_first = false;
                    if reply.closes() {
                        break;
                    }
                }
            }
            log
        })
    };
    (0..AGENTS).map(agent).collect()
}

fn under_load(money: &str) {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).workers(2).durability(money).with_admin().start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 100_000}));
    let stop = Arc::new(AtomicBool::new(false));
    let agents = hammer(&keybrake, &key, &stop);
    for _ in 0..3 {
        let before = stand_in.requests();
        eventually("the load to run", || (stand_in.requests() > before + 200).then_some(()));
        let (mut old, paused_us) = keybrake.take_over();
        eprintln!("{money}: admission paused for {paused_us} us");
        assert_eq!(old.exit_code(), 0, "{}", old.stderr());
        eventually("all outcomes to be known", || (inherited(&keybrake) == 0).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    let logs: Vec<Log> = agents.into_iter().map(|agent| agent.join().unwrap()).collect();
    let sum = |of: fn(&Log) -> u64| logs.iter().map(of).sum::<u64>();
    let other: Vec<u16> = logs.iter().flat_map(|log| log.other.clone()).collect();
    assert_eq!((sum(|log| log.refused), sum(|log| log.unanswered)), (0, 0));
    assert_eq!(other, Vec::<u16>::new());
    eprintln!("{money}: {} paid, {} told to come again", sum(|log| log.succeeded), sum(|log| log.draining));
    keybrake.settle();
    if !is_near_midnight() {
        assert_eq!(keybrake.committed_cents(&key.id), stand_in.accepted_minor());
        assert_eq!(keybrake.held_cents(&key.id), 0);
    }
}

#[test]
fn i13_under_load_no_connection_is_refused_and_no_call_is_lost() {
    under_load("fsync");
}

#[test]
fn i13_under_load_no_call_is_lost_where_money_survives_the_process_only() {
    under_load("process");
}

#[test]
fn q23_more_and_fewer_workers_take_over_every_socket_that_agents_wait_in() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).workers(3).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 100}));
    let mut paid = 0;
    for workers in [1, 4, 2] {
        let text = keybrake.config_text().replace("workers = 3", &format!("workers = {workers}"));
        std::fs::write(keybrake.config(), text).unwrap();
        let (mut old, _) = keybrake.take_over();
        // The kernel spreads connections over all sockets that listen.
        for _ in 0..24 {
            assert_eq!(pay(&keybrake, &key, 1), 200);
            paid += 1;
        }
        assert_eq!(old.exit_code(), 0);
        assert_eq!(keybrake.control().status().workers, workers);
        if !is_near_midnight() {
            assert_eq!(keybrake.committed_cents(&key.id), paid);
        }
    }
    assert!(keybrake.control().revoke(&key.id).acknowledged);
    let (mut old, _) = keybrake.take_over();
    assert_eq!(pay(&keybrake, &key, 1), 401, "a revoked key stays revoked");
    assert_eq!(old.exit_code(), 0);
}

#[test]
fn q23_an_idle_connection_is_told_to_come_again_or_closed() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 100}));
    let mut fresh = Client::connect(keybrake.proxy());
    let mut idle = [Client::connect(keybrake.proxy()), Client::connect(keybrake.proxy())];
    for client in &mut idle {
        client.send(charge(&key, "amount=1&currency=usd"));
        assert_eq!(client.reply().status, 200);
    }
    let (mut old, _) = keybrake.take_over();
    // The old one does not know this key, and must not say that it is wrong; on a busy machine it has hung up.
    let issued_since = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 100}));
    let [first, _] = &mut idle;
    first.try_send(charge(&issued_since, "amount=1&currency=usd"));
    if let Ok(reply) = first.try_reply() {
        assert_eq!(reply.field("keybrake-decision"), Some("draining"), "{}", reply.text());
    }
    fresh.send(charge(&key, "amount=1&currency=usd"));
    // By the old one, or by the new one where it was not accepted before.
    let reply = fresh.reply();
    assert!(reply.status == 200 || reply.field("keybrake-decision") == Some("draining"), "{}", reply.text());
    for client in &mut idle {
        assert!(client.is_closed());
    }
    assert_eq!(old.exit_code(), 0);
}

/// `keybrake up` restarts both at SIGUSR2.
#[test]
fn i13_keybrake_up_restarts_at_sigusr2_without_refusing_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).workers(2).prepare();
    let mut command = keybrake.cli_command(&["up"]);
    let mut up = Process::start("up", &keybrake.out(), &mut command);
    let ready = |control: &Control| control.answers().then(|| control.status());
    let first = up.wait_until("ready", |_| ready(&keybrake.control()).filter(|status| status.ready));
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 100_000}));
    let stop = Arc::new(AtomicBool::new(false));
    let agents = hammer(&keybrake, &key, &stop);
    eventually("the load to run", || (stand_in.requests() > 100).then_some(()));
    up.restart();
    let next = eventually("the next dataplane", || {
        let text = up.stderr();
        text.contains("took over from process").then(|| keybrake.control().status())
    });
    assert_ne!(first.pid, next.pid);
    let before = stand_in.requests();
    eventually("the load to run", || (stand_in.requests() > before + 100).then_some(()));
    stop.store(true, Ordering::Relaxed);
    let logs: Vec<Log> = agents.into_iter().map(|agent| agent.join().unwrap()).collect();
    assert_eq!(logs.iter().map(|log| log.refused + log.unanswered).sum::<u64>(), 0);
    eventually("the old one to end", || up.stderr().contains("knows all").then_some(()));
    assert_eq!(up.stop(), 0, "{}", up.stderr());
    assert!(!up.stderr().contains("starting it again"), "{}", up.stderr());
}
