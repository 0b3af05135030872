//! What a torture run asks of a stand-in: outcomes by script and by chance, stamps, kills, a ledger that goes on.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use super::stand_in::{DEADLINE, StandIn, post, reply, scratch, send};

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits for so many lines.
#[track_caller]
fn wait_for_lines(path: &Path, count: usize) -> Vec<Value> {
    let since = Instant::now();
    loop {
        let lines = lines(path);
        if lines.len() >= count {
            return lines;
        }
        assert!(since.elapsed() < DEADLINE, "{lines:?}");
        std::thread::yield_now();
    }
}

/// Sends one charge on a connection of its own; yields what came back until the end.
fn charge(vendor: &StandIn, fields: &str) -> String {
    let mut stream = vendor.connect();
    send(
        &mut stream,
        &post("/v1/charges", "amount=5&currency=usd", &format!("Connection: close\r\n{fields}")),
    );
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    String::from_utf8(received).unwrap()
}

fn outcomes(path: &Path) -> Vec<(String, bool, Option<u64>)> {
    let outcome = |line: &Value| {
        let name = line["outcome"].as_str().unwrap_or("none").to_owned();
        (name, line["accepted"].as_bool().unwrap(), line["status"].as_u64())
    };
    lines(path).iter().map(outcome).collect()
}

#[test]
fn a_script_is_played_and_every_line_says_what_was_played() {
    let file = scratch("script");
    let script =
        "402,429,409,500_before,500_after,cut_before,cut_middle,cut_after,hang_before,hang_after,slow_1,200";
    let path = file.to_str().unwrap();
    let vendor = StandIn::start(&["--ledger", path, "--script", script, "--hang-ms", "1"]);
    let replies: Vec<String> = (0..13).map(|_| charge(&vendor, "")).collect();
    let starts: Vec<&str> = replies.iter().map(|reply| reply.get(9..12).unwrap_or_default()).collect();
    assert_eq!(starts, ["402", "429", "409", "500", "500", "", "200", "", "", "", "200", "200", "200"]);
    let expected = [
        ("402", false, Some(402)),
        ("429", false, Some(429)),
        ("409", false, Some(409)),
        ("500_before", false, Some(500)),
        ("500_after", true, Some(500)),
        ("cut_before", false, None),
        ("cut_middle", true, Some(200)),
        ("cut_after", true, Some(200)),
        ("hang_before", false, None),
        ("hang_after", true, Some(200)),
        ("slow", true, Some(200)),
        ("200", true, Some(200)),
        ("none", true, Some(200)),
    ];
    let played = outcomes(&file);
    let played: Vec<_> =
        played.iter().map(|(name, accepted, status)| (name.as_str(), *accepted, *status)).collect();
    assert_eq!(played, expected);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn the_same_seed_draws_the_same_outcomes_and_another_one_others() {
    let drawn = |seed: &str| {
        let file = scratch(&format!("seed-{seed}"));
        let weights = "200=50,402=20,500_after=10,cut_before=10,cut_after=10";
        let path = file.to_str().unwrap();
        let vendor = StandIn::start(&["--ledger", path, "--outcomes", weights, "--seed", seed]);
        assert_eq!(vendor.said, format!("seed {seed}\n"));
        for _ in 0..40 {
            charge(&vendor, "");
        }
        let outcomes = outcomes(&file);
        std::fs::remove_file(file).unwrap();
        outcomes
    };
    let first = drawn("7");
    assert_eq!(first, drawn("7"));
    assert_ne!(first, drawn("8"));
}

#[test]
fn a_seed_that_was_not_given_is_printed() {
    let vendor = StandIn::start(&["--outcomes", "200=1"]);
    let seed = vendor.said.strip_prefix("seed ").unwrap().trim_end();
    assert!(seed.parse::<u64>().is_ok(), "{seed}");
}

#[test]
fn the_kernel_stamps_the_first_byte_and_not_the_end() {
    for driver in ["auto", "epoll"] {
        let file = scratch(&format!("stamps-{driver}"));
        let path = file.to_str().unwrap();
        let vendor = StandIn::start(&["--ledger", path, "--arrival", "kernel", "--driver", driver]);
        let now_us = || u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
        // A stamp is asked for when the socket is made, and the first segments may come before it is there.
        let is_stamped = || lines(&file).last().is_some_and(|line| line["arrival_by"] == "kernel");
        let since = Instant::now();
        while !is_stamped() {
            assert!(since.elapsed() < DEADLINE, "the kernel stamps nothing on loopback");
            charge(&vendor, "");
        }
        let mut stream = vendor.connect();
        for _ in 0..3 {
            let seen = lines(&file).len();
            let text = post("/v1/charges", "amount=5&currency=usd", "");
            let (start, rest) = text.split_at(1);
            let before = now_us();
            send(&mut stream, start);
            // The rest is sent once the first byte was read, as its arrival at another page shows: one thread
            // serves both.
            vendor.ledger();
            let after = now_us();
            send(&mut stream, rest);
            assert_eq!(reply(&mut stream).unwrap().status, 200);
            let line = lines(&file).pop().unwrap();
            let arrival = line["arrival_us"].as_u64().unwrap();
            assert_eq!((lines(&file).len(), line["arrival_by"].as_str()), (seen + 1, Some("kernel")));
            assert!(before <= arrival && arrival <= after, "{before} {arrival} {after}");
        }
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn a_request_of_which_only_a_part_came_is_recorded() {
    let file = scratch("part");
    let path = file.to_str().unwrap();
    let vendor = StandIn::start(&["--ledger", path, "--arrival", "kernel"]);
    let whole = post("/v1/charges", "amount=5&currency=usd&metadata[call]=c1", "");
    for (part, why) in
        [("POST /v1/cha", "head cut short after 12 bytes"), (&whole[..whole.len() - 3], "body cut short")]
    {
        let mut stream = vendor.connect();
        stream.get_mut().write_all(part.as_bytes()).unwrap();
        stream.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
        let line = lines(&file).pop().unwrap();
        assert!(line["malformed"].as_str().unwrap().starts_with(why), "{line}");
        assert_eq!(line["accepted"], false);
    }
    let last = lines(&file).pop().unwrap();
    assert_eq!(last["path"], "/v1/charges");
    assert!(last["body"].as_str().unwrap().starts_with("amount=5"), "{last}");
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_ledger_goes_on_behind_its_last_whole_line() {
    let file = scratch("goes-on");
    let path = file.to_str().unwrap();
    let vendor = StandIn::start(&["--ledger", path]);
    charge(&vendor, "");
    charge(&vendor, "");
    assert_eq!(vendor.stop(Signal::KILL), None);
    let torn = std::fs::read_to_string(&file).unwrap() + "{\"seq\":3,\"arri";
    std::fs::write(&file, torn).unwrap();
    let vendor = StandIn::start(&["--ledger", path]);
    charge(&vendor, "");
    let numbers: Vec<u64> = lines(&file).iter().map(|line| line["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    std::fs::remove_file(file).unwrap();
}

/// Something to kill; killed with the test.
struct Victim(Child);

impl Victim {
    fn start() -> Victim {
        Victim(Command::new("sleep").arg("600").spawn().unwrap())
    }

    fn arm(&self, file: &Path) {
        std::fs::write(file, self.0.id().to_string()).unwrap();
    }

    fn is_dead(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn the_process_in_the_file_is_killed_at_each_point_and_once() {
    for point in ["before_accept", "after_accept", "after_reply"] {
        let file = |name: &str| scratch(&format!("kill-{point}-{name}"));
        let (ledger, pid_file, log) = (file("ledger"), file("pid"), file("log"));
        let text = |path: &'_ Path| path.to_str().unwrap().to_owned();
        let vendor = StandIn::start(&[
            "--ledger",
            &text(&ledger),
            "--ledger-fsync",
            "--kill-pid-file",
            &text(&pid_file),
            "--kill-log",
            &text(&log),
            "--kill-every",
            "2",
            "--kill-at",
            point,
        ]);
        let (mut first, mut second) = (Victim::start(), Victim::start());
        first.arm(&pid_file);
        assert!(charge(&vendor, "").starts_with("HTTP/1.1 200"));
        assert!(!first.is_dead(), "every second one");
        assert!(charge(&vendor, "").starts_with("HTTP/1.1 200"));
        let kills = wait_for_lines(&log, 1);
        assert!(first.is_dead());
        assert_eq!(
            (kills[0]["killed"].as_u64(), kills[0]["seq"].as_u64()),
            (Some(first.0.id().into()), Some(2))
        );
        assert_eq!(kills[0]["where"], point);
        let arrival = lines(&ledger)[1]["arrival_us"].as_u64().unwrap();
        assert!(kills[0]["at_us"].as_u64().unwrap() >= arrival);
        // It is in the file until somebody else is: nobody is killed meanwhile.
        charge(&vendor, "");
        charge(&vendor, "");
        assert_eq!(lines(&log).len(), 1);
        second.arm(&pid_file);
        charge(&vendor, "");
        assert_eq!(wait_for_lines(&log, 2)[1]["killed"].as_u64(), Some(second.0.id().into()));
        assert!(second.is_dead(), "the kill that was due was owed");
        for path in [ledger, pid_file, log] {
            std::fs::remove_file(path).unwrap();
        }
    }
}
