//! The judge as a process: what it prints and how it exits, on a ledger that a real stand-in wrote.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::stand_in::{BINARY, StandIn, post, scratch, send};

/// The files of one run.
struct Evidence {
    dir: PathBuf,
}

impl Evidence {
    /// Two calls of one agent, straight to a stand-in; the second is declined. The rows are those of a proxy that
    /// counted right.
    fn new(name: &str) -> Evidence {
        let evidence = Evidence { dir: scratch(name) };
        std::fs::create_dir_all(&evidence.dir).unwrap();
        let ledger = evidence.path("vendor");
        let vendor = StandIn::start(&[
            "--ledger",
            ledger.to_str().unwrap(),
            "--ledger-fsync",
            "--arrival",
            "kernel",
            "--script",
            "200,402",
        ]);
        for call in ["c1", "c2"] {
            let body = format!("amount=500&currency=usd&metadata[call]={call}");
            let mut stream = vendor.connect();
            send(&mut stream, &post("/v1/charges", &body, "Connection: close\r\n"));
            stream.read_to_end(&mut Vec::new()).unwrap();
        }
        let mut day = String::new();
        let counted = [("c1", 5_000_000), ("c2", 0)];
        for (line, (call, micros)) in lines(&ledger).iter().zip(counted) {
            let arrival_us = line["arrival_us"].as_u64().unwrap();
            let row = format!("req_{call}");
            let ts = moment(arrival_us);
            day = ts.split('T').next().unwrap().to_owned();
            evidence.append(
                "agents",
                &json!({"call": call, "key": "vk_1", "cap_micros": 5_000_000, "amount_minor": 500,
                    "sent_us": arrival_us, "answered_us": arrival_us, "status": line["status"],
                    "keybrake_request_id": row}),
            );
            evidence.append(
                "audit",
                &json!({"sequence": line["seq"], "ts": ts, "id": row, "vault_key_id": "vk_1", "status": line["status"],
                    "policy_check_result": "allowed", "outcome": "forwarded", "amount_micros": micros,
                    "quote_micros": 5_000_000, "amount_minor": 500, "vendor_request_id": line["request_id"],
                    "latency_us": 10}),
            );
        }
        evidence.append("keys", &json!({"key": "vk_1", "daily_cap_micros": 5_000_000, "revoked_us": null}));
        evidence.append(
            "books",
            &json!({"key": "vk_1", "committed_micros": 5_000_000, "held_micros": 0, "day": day}),
        );
        evidence
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn append(&self, name: &str, line: &Value) {
        let path = self.path(name);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(path, format!("{text}{line}\n")).unwrap();
    }

    fn judge(&self, args: &[&str]) -> Output {
        let path = |name: &str| self.path(name).to_str().unwrap().to_owned();
        let mut command = Command::new(BINARY);
        command.args(["judge", "--vendor-ledger", &path("vendor"), "--agents", &path("agents")]);
        command.args(["--audit", &path("audit"), "--keys", &path("keys"), "--books", &path("books")]);
        command.args(args).output().unwrap()
    }
}

impl Drop for Evidence {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.dir));
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// As the audit writes a moment; `date` knows the calendar.
fn moment(us: u64) -> String {
    let seconds = format!("@{}.{:06}", us / 1_000_000, us % 1_000_000);
    let output =
        Command::new("date").args(["-u", "-d", &seconds, "+%Y-%m-%dT%H:%M:%S.%6NZ"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_run_that_holds_exits_0_and_is_one_line() {
    let evidence = Evidence::new("judge-holds");
    let output = evidence.judge(&["--seed", "7", "--cycles", "3"]);
    let said =
        "cycles=3 calls=2 accepted=1 refused=0 unknown=0 violations=0 headroom_used=- seed=7 seconds=0\n";
    assert_eq!(text(&output), said);
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_violation_names_its_key_and_seed_and_exits_1() {
    let evidence = Evidence::new("judge-violated");
    std::fs::write(evidence.path("keys"), "{\"key\": \"vk_1\", \"daily_cap_micros\": 4999999}\n").unwrap();
    let output = evidence.judge(&["--seed", "7"]);
    let said = text(&output);
    assert!(said.starts_with("violation I1 key=vk_1 day=20"), "{said}");
    assert!(said.lines().next().unwrap().ends_with("over the cap of 4999999 (seed 7)"), "{said}");
    assert!(said.lines().last().unwrap().contains(" violations=2 "), "{said}");
    assert_eq!(output.status.code(), Some(1));
    let output = evidence.judge(&["--skip", "I1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn json_is_one_object_a_line_and_the_summary_last() {
    let evidence = Evidence::new("judge-json");
    std::fs::write(evidence.path("audit"), "no json\n").unwrap();
    let output = evidence.judge(&["--json", "--skip", "I12", "--skip", "I12.books"]);
    let said: Vec<Value> = text(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let rules: Vec<&str> = said.iter().filter_map(|line| line["violation"].as_str()).collect();
    assert_eq!(rules, ["unreadable", "I2.missing", "I2.missing", "I2.missing", "I2.missing"]);
    assert!(said[0]["why"].as_str().unwrap().contains("/audit:1: "), "{}", said[0]);
    assert_eq!((said[1]["call"].as_str(), said[1]["seq"].as_u64()), (Some("c1"), Some(1)));
    assert_eq!(said[5]["violations"], 5);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_file_that_is_not_there_is_one_line_and_exit_2() {
    let evidence = Evidence::new("judge-missing");
    let output = evidence.judge(&["--kills", "/nowhere/kills"]);
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.starts_with("keybrake-loadtest: cannot read /nowhere/kills: "), "{why}");
    assert_eq!((output.status.code(), why.lines().count()), (Some(2), 1));
    let help = Command::new(BINARY).args(["judge", "--help"]).output().unwrap();
    for word in ["Examples:", "--vendor-ledger", "--slack-s", "I2.unexplained", "Exit status"] {
        assert!(text(&help).contains(word), "{word}");
    }
}
