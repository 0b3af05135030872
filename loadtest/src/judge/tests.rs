//! A clean run passes, and each kind of violation, planted once, is found.

#![expect(clippy::arithmetic_side_effects, reason = "the numbers of a run that was made up are small")]

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::day::Day;
use super::evidence::Files;
use super::*;

mod money;
mod rows;

const LIMITS: Limits = Limits { slack_us: 5_000_000, window_us: 35_000_000 };
/// 2026-11-21T12:00:00Z.
const NOON_US: u64 = 20_778 * 86_400_000_000 + 43_200_000_000;
const CAP_MICROS: u64 = 50_000_000;

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Accepted,
    Declined,
    OverCap,
    CutAfter,
    /// The proxy is killed once the vendor has accepted.
    Killed,
}

/// A run that holds, as the lines that its parts would have written.
#[derive(Default)]
struct Run {
    now_us: u64,
    vendor: Vec<Value>,
    agents: Vec<Value>,
    audit: Vec<Value>,
    keys: Vec<Value>,
    kills: Vec<Value>,
    books: Vec<Value>,
}

impl Run {
    /// Two keys; one fills its cap, the other sees a cut and a kill, and is revoked. Then the books are read.
    fn clean() -> Run {
        let mut run = Run { now_us: NOON_US, ..Run::default() };
        run.keys.push(json!({"key": "vk_a", "daily_cap_micros": CAP_MICROS, "revoked_us": null}));
        for minor in [1_000, 1_001, 1_002] {
            run.call("vk_a", minor, Kind::Accepted);
        }
        run.call("vk_a", 1_500, Kind::Declined);
        run.call("vk_a", 1_990, Kind::Accepted);
        run.call("vk_a", 100, Kind::OverCap);
        run.call("vk_b", 200, Kind::CutAfter);
        run.call("vk_b", 201, Kind::Accepted);
        run.call("vk_b", 202, Kind::Killed);
        run.now_us += 10_000_000;
        run.keys.push(json!({"key": "vk_b", "daily_cap_micros": CAP_MICROS, "revoked_us": run.now_us}));
        run.show("vk_a", 49_930_000, 0);
        run.show("vk_b", 6_030_000, 4_020_000);
        run
    }

    fn show(&mut self, key: &str, committed: u64, held: u64) {
        let day = Day::of(self.now_us).to_string();
        self.books.push(json!({"key": key, "committed_micros": committed, "held_micros": held, "day": day}));
    }

    fn call(&mut self, key: &str, minor: u64, kind: Kind) {
        let count = self.agents.len() + 1;
        let (call, row, request) = (format!("c{count}"), format!("req_k{count}"), format!("req_v{count}"));
        self.now_us += 10_000_000;
        let sent_us = self.now_us;
        let (status, outcome, played) = match kind {
            Kind::Accepted => (200, "forwarded", "200"),
            Kind::Declined => (402, "forwarded", "402"),
            Kind::OverCap => (429, "denied", ""),
            Kind::CutAfter => (502, "unknown", "cut_after"),
            Kind::Killed => (0, "unknown", "200"),
        };
        let micros = minor * 10_000;
        let is_accepted = !matches!(kind, Kind::Declined | Kind::OverCap);
        let is_answered = kind != Kind::Killed;
        let counted = if is_accepted { micros } else { 0 };
        let id = is_answered.then_some(&row);
        self.agents.push(json!({
            "call": call, "key": key, "cap_micros": CAP_MICROS, "method": "POST", "path": "/v1/charges", "agent": 1,
            "amount_minor": minor, "sent_us": sent_us, "answered_us": is_answered.then_some(sent_us + 900),
            "ended_us": (!is_answered).then_some(sent_us + 800), "status": is_answered.then_some(status),
            "keybrake_request_id": id,
        }));
        self.audit.push(json!({
            "sequence": count, "ts": text_of(sent_us + 100), "id": row, "vault_key_id": key, "status": status,
            "policy_check_result": if kind == Kind::OverCap { "daily_cap_exceeded" } else { "allowed" },
            "outcome": outcome, "amount_micros": counted, "quote_micros": micros, "amount_minor": minor,
            "vendor_request_id": matches!(status, 200 | 402).then_some(&request), "latency_us": 600,
        }));
        if kind == Kind::Killed {
            self.kills
                .push(json!({"killed": 99, "at_us": sent_us + 500, "where": "after_accept", "seq": count}));
        }
        if kind != Kind::OverCap {
            self.vendor.push(json!({
                "seq": count, "arrival_us": sent_us + 300, "arrival_by": "kernel", "method": "POST",
                "path": "/v1/charges", "currency": "usd", "accepted": is_accepted,
                "accepted_minor": if is_accepted { minor } else { 0 }, "replayed": false, "outcome": played,
                "status": if played == "402" { 402 } else { 200 },
                "delivery": if kind == Kind::CutAfter { "cut_after" } else { "whole" }, "request_id": request,
                "malformed": null, "body": format!("amount={minor}&currency=usd&metadata[call]={call}"),
            }));
        }
    }

    fn write(&self, dir: &Path) -> Files {
        let write = |name: &str, lines: &[Value]| {
            let path = dir.join(name);
            fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
            vec![path]
        };
        Files {
            vendor: write("vendor", &self.vendor),
            agents: write("agents", &self.agents),
            audit: write("audit", &self.audit),
            keys: write("keys", &self.keys),
            kills: write("kills", &self.kills),
            books: write("books", &self.books),
        }
    }

    fn judged(&self) -> Vec<Violation> {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::read(&self.write(dir.path())).unwrap();
        judge(&evidence, &Trace::of(&evidence, LIMITS), LIMITS)
    }
}

fn text_of(us: u64) -> String {
    let (seconds, micros) = (us / 1_000_000 % 86_400, us % 1_000_000);
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    format!("{}T{hours:02}:{minutes:02}:{:02}.{micros:06}Z", Day::of(us), seconds % 60)
}

/// Plants something into a clean run; compares the rules that are violated.
#[track_caller]
fn check(plant: impl FnOnce(&mut Run), rules: &[&str]) -> Vec<Violation> {
    let mut run = Run::clean();
    plant(&mut run);
    check_run(&run, rules)
}

#[track_caller]
fn check_run(run: &Run, rules: &[&str]) -> Vec<Violation> {
    let found = run.judged();
    let names: Vec<&str> = found.iter().map(|violation| violation.rule.name()).collect();
    assert_eq!(names, rules, "{found:#?}");
    found
}

fn row(run: &mut Run, id: &str) -> usize {
    run.audit.iter().position(|row| row["id"] == id).unwrap()
}

#[test]
fn a_clean_run_violates_nothing() {
    check(|_| {}, &[]);
}

#[test]
fn lines_that_cannot_be_read_are_named_and_the_rest_is_judged() {
    let dir = tempfile::tempdir().unwrap();
    let files = Run::clean().write(dir.path());
    let path = &files.agents[0];
    let text = fs::read_to_string(path).unwrap();
    let cut = text.replacen('\n', "\n\n{\"call\": \"c1\n", 1) + "\u{fffd}garbage";
    fs::write(path, [cut.as_bytes(), b"\xff\xfe\n[]\n"].concat()).unwrap();
    let evidence = Evidence::read(&files).unwrap();
    let found = judge(&evidence, &Trace::of(&evidence, LIMITS), LIMITS);
    let whys: Vec<&str> = found.iter().map(|violation| violation.why.as_str()).collect();
    assert_eq!(found.len(), 3, "{whys:?}");
    for (why, number) in whys.iter().zip([3, 12, 13]) {
        assert!(why.starts_with(&format!("{}:{number}: ", path.display())), "{why}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_no_bad_line_is_passed_over(
        garbage in proptest::collection::vec(any::<u8>(), 1..200),
        at in 0_usize..6,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let files = Run::clean().write(dir.path());
        let path: &PathBuf = [
            &files.vendor[0], &files.agents[0], &files.audit[0], &files.keys[0], &files.kills[0], &files.books[0],
        ][at];
        let mut bytes = fs::read(path).unwrap();
        bytes.extend_from_slice(&garbage);
        fs::write(path, &bytes).unwrap();
        let evidence = Evidence::read(&files).unwrap();
        let found = judge(&evidence, &Trace::of(&evidence, LIMITS), LIMITS);
        let bad = garbage.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
        let named = found.iter().filter(|violation| violation.why.starts_with(path.to_str().unwrap())).count();
        prop_assert_eq!(named, bad);
    }

    #[test]
    fn no_numbers_make_it_panic(numbers in proptest::collection::vec(any::<u64>(), 12)) {
        let mut run = Run::clean();
        let mut numbers = numbers.into_iter().map(Value::from);
        for name in ["arrival_us", "accepted_minor", "seq"] {
            run.vendor[0][name] = numbers.next().unwrap();
        }
        for name in ["sent_us", "answered_us", "amount_minor", "cap_micros"] {
            run.agents[0][name] = numbers.next().unwrap();
        }
        for name in ["amount_micros", "quote_micros", "latency_us"] {
            run.audit[0][name] = numbers.next().unwrap();
        }
        run.kills[0]["at_us"] = numbers.next().unwrap();
        run.books[0]["day"] = numbers.next().unwrap();
        for violation in run.judged() {
            prop_assert!(!violation.to_string().is_empty());
        }
    }
}
