//! What survives a stop and a crash of either process, and what a stop finishes.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::net::TcpStream;

use keybrake_proto::control::KeyStatus;
use keybrake_tests::{
    Client, Issued, Issuer, Keybrake, Setup, StandIn, call, eventually, form_post, get, now_micros,
};
use serde_json::{Value, json};

/// How a process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Sigterm,
    Kill9,
}

/// A keybrake with a spent key, a half-spent one, a revoked one and one that never expires, and their rows.
struct Scene {
    stand_in: StandIn,
    keybrake: Keybrake,
    spent: Issued,
    half: Issued,
    revoked: Issued,
    rows: Vec<Vec<Value>>,
    views: Vec<Value>,
    _dir: tempfile::TempDir,
}

fn pay(keybrake: &Keybrake, key: &Issued, cents: u64) -> u16 {
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post(
        "/stripe/v1/charges",
        &key.text,
        &format!("amount={cents}&currency=usd&source=tok_visa"),
    ));
    client.reply().status
}

/// Spend is of a day; these tests take seconds.
fn is_near_midnight() -> bool {
    86_400 - now_micros() / 1_000_000 % 86_400 < 120
}

impl Scene {
    fn start(workers: usize) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let stand_in = StandIn::start(dir.path());
        let keybrake = Setup::new(stand_in.url()).workers(workers).with_admin().start();
        let issue = |label: &str| {
            let more = json!({"daily_usd_cap": 50, "label": label, "metadata": {"agent_id": "a1"}});
            keybrake.issue_by_admin(&["POST /v1/charges"], &more)
        };
        let (spent, half, revoked) = (issue("spent"), issue("half"), issue("revoked"));
        assert_eq!((pay(&keybrake, &spent, 5000), pay(&keybrake, &spent, 1)), (200, 429));
        assert_eq!((pay(&keybrake, &half, 2000), pay(&keybrake, &revoked, 100)), (200, 200));
        assert!(keybrake.control().revoke(&revoked.id).acknowledged);
        assert_eq!(pay(&keybrake, &revoked, 100), 401);
        keybrake.settle();
        let mut scene = Scene {
            stand_in,
            keybrake,
            spent,
            half,
            revoked,
            rows: Vec::new(),
            views: Vec::new(),
            _dir: dir,
        };
        let counts = [(&scene.spent, 2), (&scene.half, 1), (&scene.revoked, 2)];
        scene.rows = counts.map(|(key, count)| scene.keybrake.eventually_rows(&key.id, count)).into();
        scene.views = scene.views_now();
        scene
    }

    fn views_now(&self) -> Vec<Value> {
        let view = |key: &Issued| serde_json::to_value(self.keybrake.key(&key.id)).unwrap();
        [&self.spent, &self.half, &self.revoked].map(view).into()
    }

    fn rows_now(&self) -> Vec<Vec<Value>> {
        [&self.spent, &self.half, &self.revoked].map(|key| self.keybrake.rows(&key.id)).into()
    }

    /// Everything is as it was, and is enforced.
    fn check(&self) {
        if is_near_midnight() {
            return;
        }
        let (keybrake, at_vendor) = (&self.keybrake, self.stand_in.requests());
        assert_eq!(self.rows_now(), self.rows, "audit rows");
        assert_eq!(self.views_now(), self.views, "keys and spend");
        assert_eq!(keybrake.key(&self.revoked.id).status, KeyStatus::Revoked);
        assert_eq!(pay(keybrake, &self.spent, 1), 429, "a spent cap stays spent");
        assert_eq!(pay(keybrake, &self.half, 3001), 429, "and a half-spent one half");
        assert_eq!(pay(keybrake, &self.revoked, 1), 401, "a revoked key stays revoked");
        assert_eq!(self.stand_in.requests(), at_vendor);
        assert_eq!(pay(keybrake, &self.half, 3000), 200, "what was left is left");
        assert_eq!(keybrake.committed_cents(&self.half.id), 5000);
    }

    fn end_dataplane(&mut self, end: End) {
        let process = self.keybrake.dataplane();
        match end {
            End::Sigterm => assert_eq!(process.stop(), 0),
            End::Kill9 => process.kill_9(),
        }
    }

    fn end_admin(&mut self, end: End) {
        let process = self.keybrake.admin();
        match end {
            End::Sigterm => assert_eq!(process.stop(), 0),
            End::Kill9 => process.kill_9(),
        }
    }
}

fn dataplane_alone(end: End) {
    let mut scene = Scene::start(2);
    scene.end_dataplane(end);
    scene.keybrake.start_dataplane();
    scene.check();
}

fn both(end: End) {
    let mut scene = Scene::start(1);
    scene.end_dataplane(end);
    scene.end_admin(end);
    scene.keybrake.start_dataplane();
    scene.keybrake.start_admin();
    scene.check();
}

fn admin_alone(end: End) {
    let mut scene = Scene::start(1);
    scene.end_admin(end);
    let key = &scene.half;
    let reply = get(scene.keybrake.proxy(), "/vault/keys/self", &key.text);
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(pay(&scene.keybrake, &scene.spent, 1), 429, "the proxy goes on enforcing");
    assert_eq!(pay(&scene.keybrake, &scene.revoked, 1), 401);
    assert_eq!(pay(&scene.keybrake, &scene.half, 500), 200, "and forwarding");
    let fresh = scene.keybrake.issue(&["POST /v1/charges"], &json!({}));
    assert!(
        scene.keybrake.control().revoke(&fresh.id).acknowledged,
        "the control socket needs no admin process"
    );
    assert_eq!(pay(&scene.keybrake, &fresh, 1), 401);
    scene.keybrake.start_admin();
    assert_eq!(scene.keybrake.eventually_rows(&scene.half.id, 2).len(), 2, "rows of meanwhile are there");
    assert_eq!(scene.keybrake.eventually_rows(&fresh.id, 1)[0]["status"], 401);
}

#[test]
fn keys_caps_spend_and_rows_survive_a_stop_of_the_dataplane() {
    dataplane_alone(End::Sigterm);
}

#[test]
fn keys_caps_spend_and_rows_survive_a_kill_9_of_the_dataplane() {
    dataplane_alone(End::Kill9);
}

#[test]
fn keys_caps_spend_and_rows_survive_a_stop_of_both_processes() {
    both(End::Sigterm);
}

#[test]
fn keys_caps_spend_and_rows_survive_a_kill_9_of_both_processes() {
    both(End::Kill9);
}

#[test]
fn with_the_admin_process_stopped_the_proxy_goes_on_enforcing() {
    admin_alone(End::Sigterm);
}

#[test]
fn with_the_admin_process_killed_the_proxy_goes_on_enforcing() {
    admin_alone(End::Kill9);
}

#[test]
fn a_call_that_was_at_the_vendor_at_a_kill_9_stays_counted() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 15}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd&source=tok_hang"));
    eventually("the hold is stored", || {
        let control = keybrake.control();
        let stored = control.counter("keybrake_storage_open_intents") == 1
            && control.counter("keybrake_storage_batches_total") > 0;
        stored.then_some(())
    });
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    if !is_near_midnight() {
        assert_eq!(keybrake.committed_cents(&key.id), 1000, "the vendor may have acted");
        assert_eq!((pay(&keybrake, &key, 501), pay(&keybrake, &key, 500)), (429, 200));
    }
}

/// An orderly stop once sent a call after its time was over, and forgot it.
#[test]
fn a_stop_that_cuts_a_call_before_it_was_sent_sends_nothing_and_frees_its_amount() {
    // It listens and does not shake hands.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    Issuer::new().write_to(&ca);
    let mut keybrake = Setup::new(format!("https://localhost:{}", listener.local_addr().unwrap().port()))
        .vendor_line("allow_private_address = true")
        .vendor_line("connect_timeout_s = 60")
        .vendor_line(&format!("ca_file = \"{}\"", ca.display()))
        .proxy_line("drain_timeout_s = 1")
        .with_admin()
        .start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
    eventually("the call to be admitted", || (keybrake.held_cents(&key.id) == 1000).then_some(()));
    assert_eq!(keybrake.dataplane().stop(), 0);
    keybrake.start_dataplane();
    assert_eq!(keybrake.committed_cents(&key.id), 0, "nothing was sent");
    let row = &keybrake.eventually_rows(&key.id, 1)[0];
    assert_eq!((&row["outcome"], &row["amount_micros"]), (&json!("failed"), &json!(0)));
}

#[test]
fn the_credential_is_needed_at_the_first_start_only() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    assert_eq!(keybrake.dataplane().stop(), 0);
    let mut keybrake = keybrake.with_secret(None);
    keybrake.start_dataplane();
    assert_eq!(pay(&keybrake, &key, 100), 200);
}

#[test]
fn sigterm_finishes_a_running_request_and_refuses_new_connections() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).workers(2).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut idle = Client::connect(keybrake.proxy());
    idle.send("GET /livez HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.reply().status, 200);
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd&source=tok_slow_1500"));
    eventually("the call to be at the vendor", || (stand_in.requests() == 1).then_some(()));
    keybrake.dataplane().terminate();
    let proxy = keybrake.proxy();
    eventually("new connections to be refused", || TcpStream::connect(proxy).is_err().then_some(()));
    assert!(keybrake.dataplane().ended().is_none(), "the call still runs");
    assert!(idle.is_closed(), "a connection without a request is closed");
    let reply = client.reply();
    assert_eq!(reply.expect(200)["amount"], 1000);
    assert!(client.is_closed());
    assert_eq!(keybrake.dataplane().exit_code(), 0);
    keybrake.start_dataplane();
    assert_eq!(keybrake.committed_cents(&key.id), 1000);
    assert_eq!(keybrake.held_cents(&key.id), 0);
}

#[test]
fn what_does_not_finish_in_the_drain_time_is_cut_and_stays_counted() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).proxy_line("drain_timeout_s = 1").with_admin().start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd&source=tok_hang"));
    eventually("the call to be at the vendor", || (stand_in.requests() == 1).then_some(()));
    assert_eq!(keybrake.dataplane().stop(), 0);
    keybrake.start_dataplane();
    assert_eq!(keybrake.committed_cents(&key.id), 1000);
    assert_eq!(keybrake.eventually_rows(&key.id, 1)[0]["outcome"], "unknown");
}

#[test]
fn a_stopping_dataplane_is_not_ready() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).with_admin().start();
    assert_eq!(call(keybrake.admin_address(), "GET /readyz", b"").status, 200);
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd&source=tok_slow_1000"));
    eventually("the call to be at the vendor", || (stand_in.requests() == 1).then_some(()));
    keybrake.dataplane().terminate();
    let admin = keybrake.admin_address();
    eventually("/readyz to say so", || (call(admin, "GET /readyz", b"").status == 503).then_some(()));
    assert_eq!(client.reply().status, 200);
}
