//! The system clock is set while keybrake runs, and no cap is spent twice (rules I9, M9, M10, Q10).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex};

use keybrake_proto::clock::{BootId, Record};
use keybrake_proto::control::{ClockState, ClockView, Reply, Request};
use keybrake_tests::{
    Client, FakeTime, Issued, Keybrake, Process, Seen, Setup, Vendor, eventually, form_post, get, paid, whole,
};
use serde_json::json;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

const DAY_SECONDS: u64 = 86_400;

const NOON: u64 = 43_200;

/// So many seconds before midnight a test begins that is to see it: more than a busy machine needs for
/// what has to be done before.
const BEFORE_MIDNIGHT: u64 = 8;

/// Lets the answers of a vendor through that wait for it.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// A vendor, a keybrake and its clock.
struct Scene {
    time: FakeTime,
    keybrake: Keybrake,
    vendor: Vendor,
    /// Charges with the description `slow` wait for it.
    gate: Gate,
    dir: tempfile::TempDir,
}

impl Scene {
    fn start(second_of_day: u64) -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let gate = Gate::default();
        let waiting = gate.clone();
        let vendor = Vendor::start(move |seen: &Seen, out: &mut dyn Write| {
            if seen.text().contains("description=slow") {
                waiting.pass();
            }
            if seen.line.starts_with("GET") { out.write_all(&whole(200, "{}")) } else { paid(seen, out) }
        });
        let mut keybrake = Setup::new(vendor.url()).workers(2).with_admin().prepare();
        let time = FakeTime::at_second_of_day(dir.path(), second_of_day);
        time.start_dataplane(&mut keybrake);
        keybrake.start_admin();
        Scene { time, keybrake, vendor, gate, dir }
    }

    fn issue(&self, cap: u64) -> Issued {
        self.keybrake.issue(&["POST /v1/charges", "GET /v1/balance"], &json!({"daily_usd_cap": cap}))
    }

    fn send(&self, key: &Issued, usd: u64, more: &str) -> Client {
        let mut client = Client::connect(self.keybrake.proxy());
        let form = format!("amount={}&currency=usd&source=tok_visa{more}", usd * 100);
        client.send(form_post("/stripe/v1/charges", &key.text, &form));
        client
    }

    /// Status and code of a charge.
    fn pay(&self, key: &Issued, usd: u64) -> (u16, String) {
        let reply = self.send(key, usd, "").reply();
        (reply.status, reply.field("keybrake-decision").unwrap_or_default().to_owned())
    }

    fn read(&self, key: &Issued) -> u16 {
        get(self.keybrake.proxy(), "/stripe/v1/balance", &key.text).status
    }

    fn clock(&self) -> ClockView {
        clock_of(&self.keybrake, &Request::Clock)
    }

    fn confirm(&self) -> ClockView {
        clock_of(&self.keybrake, &Request::ConfirmClock)
    }

    /// Waits until the clock's own thread has seen a step.
    fn eventually(&self, state: ClockState, why: Option<&str>) -> ClockView {
        eventually(&format!("the clock to be {state:?} {why:?}"), || {
            let view = self.clock();
            (view.state == state && view.why.as_deref() == why).then_some(view)
        })
    }

    /// Lets midnight be near, by a clock that an operator has confirmed.
    fn go_near_midnight(&mut self) {
        self.time.step_to_second_of_day(DAY_SECONDS - BEFORE_MIDNIGHT);
        assert_eq!(self.confirm().state, ClockState::Ok);
    }

    /// Fails where the machine was busy for too long.
    fn assert_before_midnight(&self) {
        let second = self.time.now_micros() / 1_000_000 % DAY_SECONDS;
        assert!(second >= DAY_SECONDS - BEFORE_MIDNIGHT, "it took {BEFORE_MIDNIGHT} s to come here");
    }

    fn restart(&mut self) {
        assert_eq!(self.keybrake.dataplane().stop(), 0);
        self.time.start_dataplane(&mut self.keybrake);
    }

    fn record_file(&self) -> PathBuf {
        self.keybrake.data().join("clock")
    }

    /// As if the machine had been started again since the last record.
    fn change_boot_id(&self) {
        let record = Record::decode(&std::fs::read(self.record_file()).unwrap()).unwrap();
        let other = Record { boot_id: BootId([9; 16]), ..record };
        std::fs::write(self.record_file(), other.encode()).unwrap();
    }

    fn stderr(&mut self) -> String {
        self.keybrake.dataplane().stderr()
    }
}

fn clock_of(keybrake: &Keybrake, request: &Request) -> ClockView {
    let reply = keybrake.control().ask(request);
    let Reply::Clock(view) = reply else { panic!("{reply:?}") };
    *view
}

/// What becomes of a file; `None` is its end.
type Damage = fn(&[u8]) -> Option<Vec<u8>>;

fn paid_well() -> (u16, String) {
    (200, String::new())
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn m10_two_days_forward_stop_money_until_an_operator_confirms_and_reads_go_on() {
    let mut scene = Scene::start(NOON);
    let key = scene.issue(50);
    assert_eq!(scene.pay(&key, 50), paid_well());
    let day = scene.clock().day;
    scene.time.step(2 * DAY);
    let reply = scene.send(&key, 10, "").reply();
    assert_eq!(reply.field("retry-after"), Some("60"));
    assert_eq!(reply.field("stripe-should-retry"), None, "rule Q25");
    let body = reply.expect(503);
    assert_eq!(body["error"]["code"], "clock");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("2 d 0 h ahead of") && message.contains("`keybrake clock confirm`"),
        "{message}"
    );
    assert_eq!(scene.read(&key), 200);
    let view = scene.eventually(ClockState::Suspended, Some("step_forward"));
    assert_eq!((&view.day, view.since.is_some()), (&day, true));
    assert!(view.deviation_us.abs_diff(2 * DAY * 1_000_000) < 5_000_000, "{view:?}");
    assert_eq!(scene.keybrake.control().counter("keybrake_clock_suspended"), 1);
    assert_eq!(get(scene.keybrake.proxy(), "/readyz", "").status, 200);
    let show = |scene: &Scene, name: &str, arguments: &[&str]| {
        let mut command = scene.keybrake.cli_command(arguments);
        let mut process = Process::start(name, scene.dir.path(), &mut command);
        (process.exit_code(), process.stdout())
    };
    let (code, text) = show(&scene, "clock", &["clock"]);
    assert!(code == 1 && text.contains("SUSPENDED") && text.contains("2 d 0 h ahead of"), "{code} {text}");
    assert!(show(&scene, "status", &["status"]).1.contains("SUSPENDED"));
    assert_eq!(scene.keybrake.committed_cents(&key.id), 5000, "no window has opened");
    let (code, text) = show(&scene, "confirm", &["clock", "confirm"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(scene.pay(&key, 50), paid_well());
    assert_eq!(scene.pay(&key, 1), refused(429, "daily_cap_exceeded"));
    let rows = scene.keybrake.eventually_rows(&key.id, 5);
    assert_eq!(rows.iter().filter(|row| row["policy_check_result"] == "clock").count(), 1, "{rows:#?}");
    let stderr = scene.stderr();
    assert!(stderr.contains("an operator confirmed") && stderr.contains("2 d 0 h ahead of"), "{stderr}");
    // The clock was right before. The day has come, and stays.
    scene.time.step(-2 * DAY);
    assert_eq!(scene.pay(&key, 1), refused(429, "daily_cap_exceeded"));
    assert_eq!(scene.confirm().state, ClockState::Ok);
    assert_eq!(scene.pay(&key, 1), refused(429, "daily_cap_exceeded"));
    scene.restart();
    assert_eq!(scene.pay(&key, 1), refused(429, "daily_cap_exceeded"));
}

#[test]
fn m9_a_day_back_keeps_the_day_and_its_spend_over_restarts_too() {
    let mut scene = Scene::start(NOON);
    let (full, half) = (scene.issue(50), scene.issue(50));
    assert_eq!((scene.pay(&full, 50), scene.pay(&half, 30)), (paid_well(), paid_well()));
    let day = scene.clock().day;
    scene.time.step(-DAY);
    let view = scene.eventually(ClockState::Deviating, Some("step_back"));
    assert_eq!(view.day, day);
    assert_eq!(scene.pay(&full, 1), refused(429, "daily_cap_exceeded"));
    assert_eq!(scene.pay(&half, 10), paid_well());
    scene.restart();
    // A start compares the clocks whether a day is over or not.
    assert_eq!(scene.clock().state, ClockState::Suspended);
    assert_eq!(scene.pay(&half, 10), refused(503, "clock"));
    assert_eq!(scene.read(&half), 200);
    scene.keybrake.dataplane().kill_9();
    scene.time.start_dataplane(&mut scene.keybrake);
    assert_eq!(scene.pay(&half, 10), refused(503, "clock"), "starting again confirms nothing");
    let view = scene.confirm();
    assert_eq!((view.state, view.day), (ClockState::Ok, day));
    assert_eq!(scene.pay(&full, 1), refused(429, "daily_cap_exceeded"));
    assert_eq!(scene.pay(&half, 10), paid_well());
    assert_eq!(scene.pay(&half, 1), refused(429, "daily_cap_exceeded"));
}

#[test]
fn q10_steps_of_a_second_or_two_change_nothing() {
    let mut scene = Scene::start(NOON);
    let key = scene.issue(50);
    for step in [1, -1, -1, 1, 2, -2] {
        scene.time.step(step);
        assert_eq!(scene.pay(&key, 1), paid_well(), "{step} s");
        assert_eq!(scene.clock().state, ClockState::Ok, "{step} s");
        scene.restart();
        assert_eq!(scene.pay(&key, 1), paid_well(), "{step} s, after a restart");
    }
    assert_eq!(scene.keybrake.committed_cents(&key.id), 1200);
}

#[test]
fn q10_a_step_that_is_taken_back_needs_no_operator() {
    let mut scene = Scene::start(NOON);
    let key = scene.issue(50);
    for step in [13 * HOUR, DAY, 2 * DAY] {
        scene.time.step(step);
        assert_eq!(scene.pay(&key, 1), refused(503, "clock"));
        scene.time.step(-step);
        assert_eq!(scene.pay(&key, 1), paid_well());
    }
    // A restart on a wrong clock is strict, and heals as well.
    scene.time.step(HOUR);
    scene.restart();
    assert_eq!((scene.pay(&key, 1), scene.read(&key)), (refused(503, "clock"), 200));
    scene.time.step(-HOUR);
    assert_eq!(scene.pay(&key, 1), paid_well());
    assert_eq!(scene.keybrake.committed_cents(&key.id), 400);
}

#[test]
fn i9_a_call_that_ends_on_a_stepped_clock_opens_no_window() {
    let mut scene = Scene::start(NOON);
    let key = scene.issue(50);
    assert_eq!(scene.pay(&key, 30), paid_well());
    let mut slow = scene.send(&key, 20, "&description=slow");
    eventually("the slow call to arrive", || (scene.vendor.seen().len() == 2).then_some(()));
    scene.time.step(2 * DAY);
    scene.eventually(ClockState::Suspended, Some("step_forward"));
    scene.gate.open();
    assert_eq!(slow.reply().status, 200, "what runs is finished and settled");
    scene.time.step(-2 * DAY);
    eventually("the hold to end", || (scene.keybrake.held_cents(&key.id) == 0).then_some(()));
    assert_eq!(scene.pay(&key, 1), refused(429, "daily_cap_exceeded"));
    assert_eq!(scene.keybrake.committed_cents(&key.id), 5000);
}

#[test]
fn q2_m9_calls_in_flight_at_midnight_count_on_both_days_and_the_day_rolls_by_itself() {
    let mut scene = Scene::start(NOON);
    scene.go_near_midnight();
    let (flying, spent) = (scene.issue(50), scene.issue(50));
    assert_eq!(scene.pay(&spent, 50), paid_well());
    let mut slow: Vec<Client> = (0..5).map(|_| scene.send(&flying, 10, "&description=slow")).collect();
    eventually("five calls at the vendor", || (scene.vendor.seen().len() == 6).then_some(()));
    let before = scene.clock();
    scene.assert_before_midnight();
    assert_eq!(scene.pay(&flying, 1), refused(429, "daily_cap_exceeded"));
    // Agents go on asking over midnight; none hears of the clock, and the first who is served has the new day.
    eventually("the day to roll", || {
        let answer = scene.pay(&spent, 50);
        assert!(answer == paid_well() || answer == refused(429, "daily_cap_exceeded"), "{answer:?}");
        (answer == paid_well()).then_some(())
    });
    let after = scene.clock();
    assert_eq!((after.state, &after.wall[..10]), (ClockState::Ok, after.day.as_str()));
    assert!(after.day > before.day && after.resets_at > before.resets_at);
    assert_eq!(scene.pay(&flying, 1), refused(429, "daily_cap_exceeded"), "what is held is carried");
    scene.gate.open();
    assert!(slow.iter_mut().all(|client| client.reply().status == 200));
    assert_eq!(scene.pay(&flying, 1), refused(429, "daily_cap_exceeded"), "and settles on the new day");
    assert_eq!(scene.keybrake.committed_cents(&flying.id), 5000);
    let record = Record::decode(&std::fs::read(scene.record_file()).unwrap()).unwrap();
    assert_eq!(record.day.start().date(), after.day, "the day is on disk");
}

#[test]
fn i4_a_day_that_cannot_be_recorded_does_not_begin_and_does_when_the_disk_takes_it() {
    let mut scene = Scene::start(NOON);
    let key = scene.issue(50);
    scene.go_near_midnight();
    let day = scene.clock().day;
    assert_eq!(scene.pay(&key, 50), paid_well());
    // A directory stands where the new record is written.
    let in_the_way = scene.keybrake.data().join("clock.new");
    std::fs::create_dir(&in_the_way).unwrap();
    scene.assert_before_midnight();
    let reply = scene.keybrake.control().ask(&Request::ConfirmClock);
    let Reply::Refused(refusal) = reply else { panic!("{reply:?}") };
    assert_eq!((refusal.status, refusal.code.as_str()), (503, "storage_unavailable"));
    scene.eventually(ClockState::Suspended, Some("not_recorded"));
    assert_eq!((scene.pay(&key, 1), scene.read(&key)), (refused(503, "clock"), 200));
    assert_eq!(scene.clock().day, day);
    let failures = |stderr: &str| stderr.matches("until it is, no new day begins").count();
    assert_eq!(failures(&scene.stderr()), 1, "it is said once: {}", scene.stderr());
    std::fs::remove_dir(&in_the_way).unwrap();
    eventually("the new day to begin", || (scene.pay(&key, 50) == paid_well()).then_some(()));
    assert_eq!(scene.clock().state, ClockState::Ok);
}

#[test]
fn q10_between_two_midnights_money_waits_and_goes_on_by_itself() {
    let mut scene = Scene::start(NOON);
    let key = scene.issue(50);
    scene.go_near_midnight();
    assert_eq!(scene.pay(&key, 40), paid_well());
    scene.assert_before_midnight();
    // Less than five minutes, so it is tolerated; but true time may be on either side of midnight.
    scene.time.step(20);
    assert_eq!(scene.pay(&key, 10), refused(503, "clock"));
    assert_eq!(scene.read(&key), 200);
    assert_eq!(scene.clock().why.as_deref(), Some("between_midnights"));
    eventually("money to go on", || (scene.pay(&key, 50) == paid_well()).then_some(()));
    let view = scene.clock();
    assert_eq!((view.state, &view.wall[..10]), (ClockState::Ok, view.day.as_str()));
    assert!(view.deviation_us.abs() < 5_000_000, "the roll has taken a new anchor: {view:?}");
}

#[test]
fn q10_back_over_midnight_money_stops_when_the_true_day_is_over() {
    let mut scene = Scene::start(NOON);
    let key = scene.issue(50);
    scene.go_near_midnight();
    let day = scene.clock().day;
    assert_eq!(scene.pay(&key, 10), paid_well());
    scene.assert_before_midnight();
    scene.time.step(-HOUR);
    assert_eq!(scene.pay(&key, 10), paid_well(), "the day is not over by either clock");
    // By the system clock there is an hour to go.
    scene.eventually(ClockState::Suspended, Some("step_back"));
    assert_eq!(scene.pay(&key, 10), refused(503, "clock"));
    assert_eq!(scene.clock().day, day);
    scene.time.step(HOUR);
    eventually("money to go on", || (scene.pay(&key, 50) == paid_well()).then_some(()));
    assert!(scene.clock().day > day);
}

#[test]
fn m10_across_boots_only_a_clock_that_went_back_seals() {
    let mut scene = Scene::start(NOON);
    let key = scene.issue(50);
    assert_eq!(scene.pay(&key, 50), paid_well());
    let day = scene.clock().day;
    assert_eq!(scene.keybrake.dataplane().stop(), 0);
    scene.change_boot_id();
    scene.time.step(-HOUR);
    scene.time.start_dataplane(&mut scene.keybrake);
    let view = scene.clock();
    assert_eq!((view.state, view.why.as_deref()), (ClockState::Suspended, Some("step_back")));
    assert_eq!((scene.pay(&key, 10), scene.read(&key)), (refused(503, "clock"), 200));
    scene.restart();
    assert_eq!(scene.clock().state, ClockState::Suspended, "it is one boot, and still sealed");
    // Time is synchronized after the start: it goes on by itself.
    scene.time.step(HOUR);
    scene.eventually(ClockState::Ok, None);
    assert_eq!(scene.pay(&key, 10), refused(429, "daily_cap_exceeded"));
    // A machine may have been off for a day.
    assert_eq!(scene.keybrake.dataplane().stop(), 0);
    scene.change_boot_id();
    scene.time.step(DAY);
    scene.time.start_dataplane(&mut scene.keybrake);
    assert!(scene.clock().day > day);
    assert_eq!(scene.pay(&key, 50), paid_well());
}

#[test]
fn i5_without_its_record_or_with_a_damaged_one_a_start_has_no_more_headroom() {
    let mut scene = Scene::start(NOON);
    let (key, _unused) = (scene.issue(50), scene.issue(50));
    assert_eq!(scene.pay(&key, 50), paid_well());
    let whole = |scene: &Scene| std::fs::read(scene.record_file()).unwrap();
    let damages: [Damage; 5] = [
        |_| None,
        |_| Some(Vec::new()),
        |bytes| Some(bytes[..bytes.len() - 1].to_vec()),
        |bytes| Some([&bytes[..20], &[bytes[20] ^ 4], &bytes[21..]].concat()),
        |bytes| Some([b"KBCLOCK9", &bytes[8..]].concat()),
    ];
    for (number, damage) in damages.into_iter().enumerate() {
        for step in [0, -DAY] {
            assert_eq!(scene.keybrake.dataplane().stop(), 0);
            match damage(&whole(&scene)) {
                Some(bytes) => std::fs::write(scene.record_file(), bytes).unwrap(),
                None => std::fs::remove_file(scene.record_file()).unwrap(),
            }
            scene.time.step(step);
            scene.time.start_dataplane(&mut scene.keybrake);
            let expected = if step == 0 { refused(429, "daily_cap_exceeded") } else { refused(503, "clock") };
            assert_eq!(scene.pay(&key, 1), expected, "damage {number}, {step} s");
            let lines = scene.stderr().lines().filter(|line| line.contains("the day goes on from")).count();
            assert_eq!(lines, usize::from(number > 0), "{}", scene.stderr());
            scene.time.step(-step);
            eventually("the clocks to agree", || (scene.clock().state == ClockState::Ok).then_some(()));
        }
    }
}

#[test]
fn q10_what_has_expired_by_a_wrong_clock_stays_expired_until_an_operator_confirms() {
    let mut scene = Scene::start(NOON);
    let lasting = |hours: i64| json!({"daily_usd_cap": 50, "expires_in": hours * HOUR});
    let issue = |scene: &Scene, hours| scene.keybrake.issue(&["POST /v1/charges"], &lasting(hours));
    let (used, unused, later) = (issue(&scene, 1), issue(&scene, 1), issue(&scene, 48));
    assert_eq!(scene.pay(&used, 1), paid_well());
    scene.time.step(2 * HOUR);
    assert_eq!(scene.pay(&used, 1), refused(401, "invalid_vault_key"));
    let spec = json!({"vendor": "stripe", "allowed_endpoints": ["GET /v1/balance"], "expires_in": HOUR});
    let spec = Box::new(serde_json::from_value(spec).unwrap());
    let reply = scene.keybrake.control().ask(&Request::IssueKey(spec));
    let Reply::Refused(refusal) = reply else { panic!("{reply:?}") };
    assert_eq!(refusal.code, "clock", "its expiry cannot be counted");
    // The step is on disk before the clock is right again.
    let stepped_us = scene.time.now_micros() - 60_000_000;
    eventually("the step to be recorded", || {
        let record = Record::decode(&std::fs::read(scene.record_file()).unwrap()).unwrap();
        (record.seen.0 > stepped_us).then_some(())
    });
    scene.time.step(-2 * HOUR);
    scene.eventually(ClockState::Deviating, Some("seen_ahead"));
    scene.keybrake.dataplane().kill_9();
    scene.time.start_dataplane(&mut scene.keybrake);
    for key in [&used, &unused] {
        assert_eq!(scene.pay(key, 1), refused(401, "invalid_vault_key"));
    }
    assert_eq!(scene.pay(&later, 1), paid_well());
    assert_eq!(scene.confirm().state, ClockState::Ok);
    assert_eq!(scene.pay(&unused, 1), refused(401, "invalid_vault_key"), "it was looked at, and is closed");
    let fresh = issue(&scene, 1);
    assert_eq!(scene.pay(&fresh, 1), paid_well());
}
