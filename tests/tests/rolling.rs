//! A dataplane that takes the place of the running one (rule Q23, contract I13): nobody is refused, no call is
//! lost, and what still runs in the old process is counted by the new one.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::{Read as _, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use keybrake_proto::control::{Reply as ControlReply, Request};
use keybrake_proto::handover::{Formats, TakeOver};
#[cfg(target_os = "linux")]
use keybrake_tests::FrozenThread;
use keybrake_tests::{
    Client, Issued, Issuer, Keybrake, Process, Seen, Setup, StandIn, Vendor, eventually, form_post,
    now_micros, paid, whole,
};
use serde_json::json;

/// Spend is of a day; these tests take seconds.
fn is_near_midnight() -> bool {
    86_400 - now_micros() / 1_000_000 % 86_400 < 120
}

/// A vendor that keeps the calls that say so until it is told to let them go. It remembers Idempotency-Keys.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let is_open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(is_open, |is_open| !*is_open).unwrap());
    }

    fn vendor(&self) -> Vendor {
        let (gate, remembers) = (self.clone(), AtomicBool::new(false));
        Vendor::start(move |seen: &Seen, out: &mut dyn Write| {
            let has_key = seen.field("idempotency-key").is_some();
            let is_repeat = has_key && remembers.swap(true, Ordering::SeqCst);
            if seen.text().contains("description=wait") {
                gate.pass();
            }
            if is_repeat {
                let reply = String::from_utf8(whole(200, REPLAYED)).unwrap();
                return out
                    .write_all(reply.replacen("\r\n", "\r\nIdempotent-Replayed: true\r\n", 1).as_bytes());
            }
            paid(seen, out)
        })
    }
}

const REPLAYED: &str = r#"{"object": "charge", "amount": 1000, "currency": "usd", "status": "succeeded"}"#;

const WAITING: &str = "amount=1000&currency=usd&description=wait";

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

/// A call at the vendor in the old process, and a new one in its place.
struct Overlap {
    gate: Gate,
    vendor: Vendor,
    keybrake: Keybrake,
    key: Issued,
    agent: Client,
    old: Process,
}

impl Overlap {
    fn start(setup: impl FnOnce(Setup) -> Setup) -> Overlap {
        let gate = Gate::default();
        let vendor = gate.vendor();
        let mut keybrake = setup(Setup::new(vendor.url()).workers(2)).with_admin().start();
        let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 15}));
        let mut agent = Client::connect(keybrake.proxy());
        agent.send(charge(&key, WAITING));
        eventually("the call to be at the vendor", || (vendor.seen().len() == 1).then_some(()));
        let (old, _) = keybrake.take_over();
        assert_eq!(inherited(&keybrake), 1);
        Overlap { gate, vendor, keybrake, key, agent, old }
    }

    /// What is committed and what of it is held, in US cents.
    fn spent(&self) -> (u64, u64) {
        (self.keybrake.committed_cents(&self.key.id), self.keybrake.held_cents(&self.key.id))
    }

    fn outcomes(&self) -> Vec<String> {
        let rows = self.keybrake.rows(&self.key.id);
        rows.iter().map(|row| row["outcome"].as_str().unwrap().to_owned()).collect()
    }

    /// It is in doubt, once, and held.
    fn check_doubt(&self) {
        eventually("the doubt", || {
            (self.keybrake.control().counter("keybrake_storage_open_intents") == 0).then_some(())
        });
        self.keybrake.settle();
        let outcomes = self.outcomes();
        assert_eq!(outcomes.iter().filter(|outcome| *outcome != "denied").collect::<Vec<_>>(), ["unknown"]);
        if !is_near_midnight() {
            assert_eq!(self.spent(), (1000, 1000), "the vendor may have acted");
            assert_eq!(pay(&self.keybrake, &self.key, 501), 429);
        }
        assert_eq!(self.keybrake.key(&self.key.id).in_doubt_usd.as_u64(), 10_000_000);
    }
}

fn a_call_at_the_vendor(money: &str) {
    if is_near_midnight() {
        return;
    }
    let mut overlap = Overlap::start(|setup| setup.durability(money));
    assert!(overlap.old.ended().is_none(), "it has a call to finish");
    if !is_near_midnight() {
        assert_eq!(overlap.spent(), (1000, 1000), "the new one counts what the old one holds");
        assert_eq!(pay(&overlap.keybrake, &overlap.key, 501), 429);
        assert_eq!(pay(&overlap.keybrake, &overlap.key, 500), 200);
    }
    overlap.gate.open();
    assert_eq!(overlap.agent.reply().expect(200)["amount"], 1000);
    assert!(overlap.agent.is_closed());
    assert_eq!(overlap.old.exit_code(), 0);
    eventually("the outcome to be known", || (inherited(&overlap.keybrake) == 0).then_some(()));
    overlap.keybrake.settle();
    if !is_near_midnight() {
        assert_eq!(overlap.spent(), (1500, 0));
    }
    let mut outcomes = overlap.outcomes();
    outcomes.sort();
    assert_eq!(outcomes, ["denied", "forwarded", "forwarded"]);
    assert_eq!(overlap.vendor.seen().len(), 2);
    // And all of that is on disk.
    assert_eq!(overlap.keybrake.dataplane().stop(), 0);
    overlap.keybrake.start_dataplane();
    if !is_near_midnight() {
        assert_eq!(overlap.spent(), (1500, 0));
    }
    assert_eq!(overlap.outcomes().len(), 3);
}

#[test]
fn q23_a_call_at_the_vendor_ends_in_the_old_process_and_is_counted_once_by_the_new_one() {
    a_call_at_the_vendor("fsync");
}

#[test]
fn q23_so_it_does_where_money_survives_the_process_only() {
    a_call_at_the_vendor("process");
}

#[test]
fn q23_what_an_old_process_runs_that_is_killed_is_in_doubt() {
    let mut overlap = Overlap::start(|setup| setup);
    overlap.old.kill_9();
    overlap.check_doubt();
    overlap.gate.open();
}

#[test]
fn q23_what_the_old_process_runs_is_in_doubt_at_the_next_start_where_the_new_one_was_killed() {
    let mut overlap = Overlap::start(|setup| setup);
    overlap.keybrake.dataplane().kill_9();
    // The old one has neither the sockets nor the store any more.
    overlap.keybrake.start_dataplane();
    overlap.check_doubt();
    overlap.gate.open();
    assert_eq!(overlap.agent.reply().status, 200, "its agent still gets the answer");
    assert_eq!(overlap.old.exit_code(), 1, "nobody was told of it");
    overlap.check_doubt();
}

#[test]
fn q23_a_new_process_that_stops_waits_for_the_old_ones_calls() {
    let mut overlap = Overlap::start(|setup| setup);
    overlap.keybrake.dataplane().terminate();
    let proxy = overlap.keybrake.proxy();
    eventually("new connections to be refused", || TcpStream::connect(proxy).is_err().then_some(()));
    overlap.gate.open();
    assert_eq!(overlap.agent.reply().status, 200);
    assert_eq!((overlap.old.exit_code(), overlap.keybrake.dataplane().exit_code()), (0, 0));
    overlap.keybrake.start_dataplane();
    assert_eq!(overlap.outcomes(), ["forwarded"]);
    if !is_near_midnight() {
        assert_eq!(overlap.spent(), (1000, 0));
    }
}

#[test]
fn q23_a_second_take_over_waits_until_the_calls_of_the_one_before_have_ended() {
    let mut overlap = Overlap::start(|setup| setup);
    let mut third = overlap.keybrake.begin_take_over();
    assert_eq!(third.exit_code(), 2);
    let said = third.stderr();
    assert!(said.contains("1 calls of the dataplane before it still run"), "{said}");
    assert_eq!(pay(&overlap.keybrake, &overlap.key, 100), 200, "it goes on");
    overlap.gate.open();
    assert_eq!(overlap.old.exit_code(), 0);
    eventually("the outcome to be known", || (inherited(&overlap.keybrake) == 0).then_some(()));
    let (mut second, _) = overlap.keybrake.take_over();
    assert_eq!(second.exit_code(), 0);
    if !is_near_midnight() {
        assert_eq!(overlap.spent(), (1100, 0));
    }
}

/// A repeat in the new process of a call that the old one runs: the two share what is held, and the vendor carries
/// the request out once.
#[test]
fn q6_a_repeat_of_a_call_that_the_old_process_runs_is_counted_once() {
    let gate = Gate::default();
    let vendor = gate.vendor();
    let mut keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 15}));
    let call = String::from_utf8(charge(&key, WAITING)).unwrap();
    let call = call.replacen("\r\nContent-Type", "\r\nIdempotency-Key: one\r\nContent-Type", 1);
    let mut first = Client::connect(keybrake.proxy());
    first.send(&call);
    eventually("the call to be at the vendor", || (vendor.seen().len() == 1).then_some(()));
    let (mut old, _) = keybrake.take_over();
    let mut repeat = Client::connect(keybrake.proxy());
    repeat.send(&call);
    eventually("the repeat to be at the vendor", || (vendor.seen().len() == 2).then_some(()));
    let spent = || (keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id));
    if !is_near_midnight() {
        assert_eq!(spent(), (1000, 1000));
    }
    gate.open();
    assert_eq!((first.reply().status, repeat.reply().status), (200, 200));
    assert_eq!(old.exit_code(), 0);
    eventually("the outcome to be known", || (inherited(&keybrake) == 0).then_some(()));
    if !is_near_midnight() {
        assert_eq!(spent(), (1000, 0));
    }
}

/// The new process does not act on an object that a call of the old one still acts on.
#[test]
fn q8_an_object_that_the_old_process_acts_on_is_busy_in_the_new_one_until_that_call_ends() {
    const CHARGE: &str =
        r#"{"id":"ch_1","object":"charge","amount":2000,"amount_refunded":0,"currency":"usd"}"#;
    const REFUND: &str =
        r#"{"id":"re_1","object":"refund","amount":2000,"currency":"usd","status":"succeeded"}"#;
    let gate = Gate::default();
    let held = gate.clone();
    let vendor = Vendor::start(move |seen: &Seen, out: &mut dyn Write| {
        if seen.line.starts_with("GET ") {
            return out.write_all(&whole(200, CHARGE));
        }
        held.pass();
        out.write_all(&whole(200, REFUND))
    });
    let mut keybrake = Setup::new(vendor.url()).workers(2).start();
    let key = keybrake.issue(&["POST /v1/refunds"], &json!({"daily_usd_cap": 100}));
    let other = keybrake.issue(&["POST /v1/refunds"], &json!({"daily_usd_cap": 100}));
    let send = |keybrake: &Keybrake, key: &Issued, object: &str| {
        let mut client = Client::connect(keybrake.proxy());
        client.send(form_post("/stripe/v1/refunds", &key.text, &format!("charge={object}")));
        client
    };
    let mut first = send(&keybrake, &key, "ch_1");
    eventually("the refund to be at the vendor", || (vendor.seen().len() == 2).then_some(()));
    let (mut old, _) = keybrake.take_over();
    for key in [&key, &other] {
        let busy = send(&keybrake, key, "ch_1").reply();
        assert_eq!(busy.expect(429)["error"]["code"], "object_busy");
    }
    let mut elsewhere = send(&keybrake, &other, "ch_2");
    eventually("another object to be free", || (vendor.seen().len() == 4).then_some(()));
    gate.open();
    assert_eq!((first.reply().status, elsewhere.reply().status), (200, 200));
    assert_eq!(old.exit_code(), 0);
    eventually("the outcome to be known", || (inherited(&keybrake) == 0).then_some(()));
    assert_eq!(send(&keybrake, &other, "ch_1").reply().status, 200, "the object is free again");
}

/// What has not looked for the last time when the old process stops is not sent: a revoke that the new one
/// acknowledges could be behind it.
#[test]
fn i3_what_is_not_sent_when_the_old_process_stops_is_refused_and_never_sent() {
    // It listens and does not shake hands.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    Issuer::new().write_to(&ca);
    let mut keybrake = Setup::new(format!("https://localhost:{}", listener.local_addr().unwrap().port()))
        .vendor_line("allow_private_address = true")
        .vendor_line("connect_timeout_s = 60")
        .vendor_line(&format!("ca_file = \"{}\"", ca.display()))
        .with_admin()
        .start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut agent = Client::connect(keybrake.proxy());
    agent.send(charge(&key, "amount=1000&currency=usd"));
    eventually("the call to be admitted", || (keybrake.held_cents(&key.id) == 1000).then_some(()));
    let (mut old, _) = keybrake.take_over();
    let reply = agent.reply();
    assert_eq!(reply.status, 503, "{}", reply.text());
    assert_eq!(reply.field("keybrake-decision"), Some("draining"));
    assert_eq!(old.exit_code(), 0);
    eventually("the outcome to be known", || (inherited(&keybrake) == 0).then_some(()));
    keybrake.settle();
    assert_eq!(keybrake.committed_cents(&key.id), 0, "nothing was sent");
    let rows = keybrake.rows(&key.id);
    assert_eq!((rows.len(), rows[0]["outcome"].as_str().unwrap()), (1, "denied"), "{rows:?}");
}

#[test]
fn q23_without_a_running_dataplane_there_is_nothing_to_take_over() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).prepare();
    keybrake.dataplane = Some(keybrake.begin_take_over());
    keybrake.await_dataplane();
    let said = keybrake.dataplane().stderr();
    assert!(said.contains("no dataplane runs here"), "{said}");
    // Without the flag a second one is refused, and this one goes on.
    let (code, said) = keybrake.failed_start();
    assert_eq!(code, 2, "{said}");
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 100}));
    assert_eq!(pay(&keybrake, &key, 100), 200);
    // One that was killed leaves its socket behind.
    keybrake.dataplane().kill_9();
    keybrake.dataplane = Some(keybrake.begin_take_over());
    keybrake.await_dataplane();
    assert_eq!(pay(&keybrake, &key, 100), 200);
}

#[test]
fn q23_what_does_not_fit_is_refused_before_anything_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 100}));
    let offer = TakeOver {
        formats: Formats { journal: 9999, ..Formats::own("2") },
        listen: keybrake.proxy().to_string(),
        anchor: String::new(),
        pid: 1,
    };
    let reply = keybrake.control().ask(&Request::TakeOver(Box::new(offer)));
    let ControlReply::Refused(refused) = reply else { panic!("{reply:?}") };
    assert!(refused.code == "take_over_unfit" && refused.message.contains("journal 9999"), "{refused:?}");
    let check = |keybrake: &Keybrake, config: &str, why: &str| {
        std::fs::write(keybrake.config(), config).unwrap();
        let mut process = keybrake.begin_take_over();
        assert_eq!(process.exit_code(), 2);
        let said = process.stderr();
        assert!(said.contains(why), "{said}");
        assert_eq!(pay(keybrake, &key, 100), 200, "the other one goes on");
    };
    let usual = keybrake.config_text();
    let elsewhere = usual.replace(&keybrake.proxy().to_string(), "127.0.0.1:9");
    check(&keybrake, &elsewhere, "sockets cannot be moved");
    let anchor = format!("[data]\nanchor_file = \"{}\"\n", keybrake.dir().join("other").display());
    check(&keybrake, &usual.replace("[data]\n", &anchor), "data.anchor_file is");
    // What this start would fail by is known before the other one stops.
    let master = format!("[data]\nmaster_key_file = \"{}\"\n", keybrake.dir().join("none").display());
    check(&keybrake, &usual.replace("[data]\n", &master), "none is not there");
    std::fs::write(keybrake.config(), usual).unwrap();
    let (mut old, _) = keybrake.take_over();
    assert_eq!(old.exit_code(), 0);
}

#[test]
#[cfg(target_os = "linux")]
fn q23_an_old_process_that_cannot_stand_still_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).workers(2).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 100}));
    let Some(frozen) = FrozenThread::stop(keybrake.dataplane(), "worker-1") else { return };
    let mut next = keybrake.begin_take_over();
    assert_eq!(next.exit_code(), 2);
    let said = next.stderr();
    assert!(said.contains("workers [1] do not stand still"), "{said}");
    drop(frozen);
    for _ in 0..16 {
        assert_eq!(pay(&keybrake, &key, 1), 200, "on both workers");
    }
    assert!(keybrake.control().status().ready);
    assert!(keybrake.control().revoke(&key.id).acknowledged);
    assert_eq!(pay(&keybrake, &key, 1), 401);
    let (mut old, _) = keybrake.take_over();
    assert_eq!(old.exit_code(), 0);
    assert_eq!(pay(&keybrake, &key, 1), 401);
}

#[test]
fn q23_a_socket_that_is_no_dataplanes_is_told_and_nothing_is_started() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).prepare();
    std::fs::create_dir_all(keybrake.data()).unwrap();
    let foreign = UnixListener::bind(keybrake.data().join("control.sock")).unwrap();
    let speaks = std::thread::spawn(move || {
        let (mut peer, _) = foreign.accept().unwrap();
        // The whole question is read, so that the answer is not lost with the connection.
        assert!(peer.read(&mut [0; 64 * 1024]).unwrap() > 0);
        peer.write_all(b"\x05\0\0\0hello").unwrap();
        peer
    });
    let mut process = keybrake.begin_take_over();
    assert_eq!(process.exit_code(), 2);
    drop(speaks.join().unwrap());
    let said = process.stderr();
    assert!(said.contains("nothing was taken over: what answers at"), "{said}");
}
