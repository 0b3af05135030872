//! Revokes that find a dataplane stopped, starting, or down.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use keybrake_proto::control::{KeyStatus, Reply, Request, Revoke, SPOOL_NAME, Selector};
use keybrake_tests::{
    Client, FrozenThread, Issued, Keybrake, Setup, Vendor, eventually, form_post, get, key_id, paid,
    read_reply,
};
use serde_json::json;

const ROUNDS: usize = 20;

const AGENTS: usize = 8;

/// No answer for so long is no answer. Longer than the control thread's word holds.
const SILENCE: Duration = Duration::from_millis(150);

fn order(of: Selector) -> Request {
    Request::Revoke(Revoke { of, cut: false })
}

fn issue(keybrake: &Keybrake, label: &str) -> Issued {
    keybrake.issue(&["POST /v1/charges", "GET /v1/balance"], &json!({"label": label}))
}

/// Orders and requests that wait in sockets while the process is stopped: the orders come first.
fn a_stopped_dataplane_obeys_before_it_sends(workers: usize) {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).workers(workers).start();
    for round in 0..ROUNDS {
        let key = issue(&keybrake, "a");
        let call = form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd");
        let mut agents: Vec<Client> = (0..AGENTS).map(|_| Client::connect(keybrake.proxy())).collect();
        // Both sides' connections are open: nothing slows a request down that is let through.
        for agent in &mut agents {
            agent.send(&call);
        }
        assert!(agents.iter_mut().all(|agent| agent.reply().status == 200));
        let (known, bytes) = (vendor.seen().len(), vendor.arrived_bytes());

        keybrake.dataplane().freeze();
        // Agents first, as the kernel may hand sockets out in their order.
        for agent in &mut agents {
            agent.send(&call);
        }
        let of = if round % 2 == 0 {
            Selector::Ids(vec![key_id(&key.id)])
        } else {
            Selector::Label("a".to_owned())
        };
        let mut operator = keybrake.control().send(&order(of));
        operator.set_read_timeout(Some(SILENCE)).unwrap();
        let silence = read_reply(&mut operator).unwrap_err();
        assert!(
            matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "a false acknowledgement: {silence}"
        );
        // Every other operator gives up. The order stands.
        let operator = (round % 4 < 2).then_some(operator);
        keybrake.dataplane().go_on();

        for agent in &mut agents {
            assert_eq!(agent.reply().status, 401, "round {round}");
        }
        assert_eq!((vendor.seen().len(), vendor.arrived_bytes()), (known, bytes), "round {round}");
        if let Some(mut operator) = operator {
            operator.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let Reply::Revoked(revoked) = read_reply(&mut operator).unwrap() else { panic!("no answer") };
            assert!(revoked.acknowledged && revoked.at_vendor == 0, "round {round}: {revoked:?}");
        }
        assert_eq!(keybrake.key(&key.id).status, KeyStatus::Revoked);
    }
}

#[test]
fn i3b_an_order_to_a_stopped_dataplane_comes_before_every_request_on_one_worker() {
    a_stopped_dataplane_obeys_before_it_sends(1);
}

#[test]
fn i3b_an_order_to_a_stopped_dataplane_comes_before_every_request_on_two_workers() {
    a_stopped_dataplane_obeys_before_it_sends(2);
}

#[test]
fn i3b_stops_alone_refuse_nobody() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).workers(2).start();
    let key = issue(&keybrake, "a");
    for _ in 0..5 {
        keybrake.dataplane().freeze();
        let mut agent = Client::connect(keybrake.proxy());
        agent.send(form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd"));
        let mut operator = keybrake.control().send(&Request::Status);
        operator.set_read_timeout(Some(SILENCE)).unwrap();
        assert!(read_reply(&mut operator).is_err());
        keybrake.dataplane().go_on();
        assert_eq!(agent.reply().status, 200);
    }
}

#[test]
fn i3b_while_the_control_thread_does_not_look_nothing_is_sent() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).workers(2).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let call = form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd");
    let mut agent = Client::connect(keybrake.proxy());
    let Some(frozen) = FrozenThread::stop(keybrake.dataplane(), "control") else { return };
    // Its last word holds for a moment; then requests wait for the next one, and are refused at last.
    let refused = eventually("a refusal", || {
        agent.send(&call);
        let reply = agent.reply();
        (reply.status != 200).then_some(reply)
    });
    let known = vendor.seen().len();
    let body = refused.expect(503);
    assert_eq!(body["error"]["code"], "control_unavailable", "{body}");
    agent.send(&call);
    let operator = keybrake.control().send(&order(Selector::Ids(vec![key_id(&key.id)])));
    drop(frozen);
    // Whichever comes first, nothing was held back: with the order in its socket this call is refused too.
    assert_eq!(agent.reply().status, 401);
    drop(operator);
    assert_eq!(vendor.seen().len(), known);
    assert_eq!(keybrake.held_cents(&key.id), 0);
}

#[test]
fn i3b_a_worker_that_does_not_answer_makes_it_pending() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).workers(2).start();
    let key = issue(&keybrake, "a");
    let Some(frozen) = FrozenThread::stop(keybrake.dataplane(), "worker-1") else { return };
    let pending = keybrake.control().revoke(&key.id);
    assert_eq!((pending.acknowledged, &pending.late_workers[..]), (false, &[1][..]), "{pending:?}");
    assert_eq!((pending.durable, pending.revoked), (true, 1), "{pending:?}");
    drop(frozen);
    let done = keybrake.control().revoke(&key.id);
    assert_eq!(
        (done.acknowledged, done.already_revoked, done.revoked_at),
        (true, 1, pending.revoked_at),
        "{done:?}"
    );
    let metric = |name: &str| {
        keybrake.control().status().counters.iter().filter(|c| c.name == name).map(|c| c.value).sum::<u64>()
    };
    assert_eq!(metric("keybrake_revokes_total"), 2);
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn i3b_the_commands_call_an_order_pending_that_nobody_answered() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let (one, two) = (issue(&keybrake, "a"), issue(&keybrake, "b"));
    keybrake.dataplane().freeze();
    let in_thread = |mut command: Command| std::thread::spawn(move || command.output().unwrap());
    let mut own = keybrake.dataplane_command();
    own.args(["revoke", "--label", "a"]);
    let outputs = [in_thread(own), in_thread(keybrake.cli_command(&["revoke", "--label", "b"]))];
    for output in outputs.map(|thread| thread.join().unwrap()) {
        assert_eq!(code(&output), 3, "{output:?}");
        let said = [output.stdout, output.stderr].concat();
        assert!(String::from_utf8_lossy(&said).contains("pending"), "{}", String::from_utf8_lossy(&said));
    }
    keybrake.dataplane().go_on();
    for key in [&one, &two] {
        assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status, 401);
    }
    assert_eq!(vendor.seen().len(), 0);
}

fn own(keybrake: &Keybrake, label: &str) -> Output {
    keybrake.dataplane_command().args(["revoke", "--label", label]).output().unwrap()
}

fn spool(keybrake: &Keybrake) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(keybrake.data().join(SPOOL_NAME)) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn q22_revokes_that_find_no_dataplane_are_in_force_before_the_next_one_listens() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let keys = ["a", "b", "c", "d", "e"].map(|label| issue(&keybrake, label));
    let untouched = issue(&keybrake, "f");
    assert_eq!(keybrake.dataplane().stop(), 0);
    // By the dataplane's own command, the API, the CLI over it, and the CLI without it.
    let output = own(&keybrake, "a");
    assert_eq!(code(&output), 3, "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("before it listens"), "{output:?}");
    let answer = keybrake.operate("POST /vault/revoke", Some(&json!({"label": "b"}))).expect(202);
    assert_eq!((&answer["status"], &answer["recorded"]), (&json!("pending"), &json!(true)), "{answer}");
    assert_eq!(
        keybrake.operate(&format!("POST /vault/keys/{}/revoke", keys[2].id), None).expect(202)["recorded"],
        true
    );
    assert_eq!(code(&keybrake.cli_command(&["revoke", "--label", "d"]).output().unwrap()), 3);
    assert_eq!(keybrake.admin().stop(), 0);
    let output = keybrake.cli_command(&["revoke", "--label", "e"]).output().unwrap();
    assert_eq!(code(&output), 3, "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("recorded"), "{output:?}");
    // What matches nothing is known only then.
    assert_eq!(code(&own(&keybrake, "nobody")), 3);
    let files = spool(&keybrake);
    assert_eq!(files.len(), 6, "{files:?}");
    for file in &files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    keybrake.start_dataplane();
    for key in &keys {
        assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status, 401);
        assert_eq!(keybrake.key(&key.id).status, KeyStatus::Revoked);
    }
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &untouched.text).status, 200);
    assert_eq!(spool(&keybrake), Vec::<PathBuf>::new());
    // It is on disk as any other, and an order by label does not reach keys that are issued later.
    let later = issue(&keybrake, "a");
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    assert!(keys.iter().all(|key| keybrake.key(&key.id).status == KeyStatus::Revoked));
    assert_eq!(keybrake.key(&later.id).status, KeyStatus::Active);
}

#[test]
fn q22_an_order_that_meets_a_dataplane_while_it_starts_is_carried_out() {
    const ORDERS: usize = 8;
    let mut keybrake = Setup::new("http://127.0.0.1:9").start();
    let mut recorded = 0;
    for round in 0..ROUNDS {
        let keys: Vec<Issued> = (0..2 * ORDERS).map(|_| issue(&keybrake, "a")).collect();
        keybrake.dataplane().kill_9();
        keybrake.begin_dataplane();
        // One order after the other, so that they meet every moment of the start.
        let outputs: Vec<Output> = std::thread::scope(|scope| {
            let threads: Vec<_> = keys
                .chunks(ORDERS)
                .map(|keys| {
                    let order = |key: &Issued| {
                        keybrake.dataplane_command().args(["revoke", &key.id]).output().unwrap()
                    };
                    scope.spawn(move || keys.iter().map(order).collect::<Vec<Output>>())
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        keybrake.await_dataplane();
        for (key, output) in keys.iter().zip(&outputs) {
            assert!(matches!(code(output), 0 | 3), "round {round}: {output:?}");
            assert_eq!(keybrake.key(&key.id).status, KeyStatus::Revoked, "round {round}: {output:?}");
            recorded += usize::from(code(output) == 3);
        }
        assert_eq!(spool(&keybrake), Vec::<PathBuf>::new(), "round {round}");
    }
    println!("{recorded} of {} orders were recorded", 2 * ORDERS * ROUNDS);
}

#[test]
fn q22_a_damaged_order_keeps_the_dataplane_from_starting() {
    let mut keybrake = Setup::new("http://127.0.0.1:9").start();
    let key = issue(&keybrake, "a");
    assert_eq!(keybrake.dataplane().stop(), 0);
    let output = keybrake.dataplane_command().args(["revoke", "--label", "a"]).output().unwrap();
    assert_eq!(code(&output), 3);
    let [file] = &spool(&keybrake)[..] else { panic!("{:?}", spool(&keybrake)) };
    let whole = std::fs::read(file).unwrap();
    let mut flipped = whole.clone();
    *flipped.iter_mut().rev().nth(20).unwrap() ^= 1;
    for damaged in [&flipped, &whole[..whole.len() - 1], &b""[..]] {
        std::fs::write(file, damaged).unwrap();
        let (code, stderr) = keybrake.failed_start();
        assert_eq!(code, 2, "{stderr}");
        let line = stderr.lines().last().unwrap();
        assert!(line.contains(&file.display().to_string()) && line.contains("damaged"), "{stderr}");
    }
    std::fs::write(file, &whole).unwrap();
    // One that was being written when its author died was promised to nobody.
    std::fs::write(file.with_extension("tmp"), &whole[..10]).unwrap();
    keybrake.start_dataplane();
    assert_eq!(keybrake.key(&key.id).status, KeyStatus::Revoked);
    eventually("the order to be gone", || (!file.exists()).then_some(()));
}

#[test]
fn q22_without_a_data_directory_nothing_is_recorded() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    let output = keybrake.dataplane_command().args(["revoke", "--all", "--yes"]).output().unwrap();
    assert_eq!(code(&output), 1);
    assert!(String::from_utf8_lossy(&output.stderr).contains("data.dir"), "{output:?}");
    assert!(!keybrake.data().exists());
}
