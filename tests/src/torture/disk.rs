//! Disks that are full, read-only or failing, under load.
//!
//! While nothing can be written, keybrake answers 503 and forwards nothing; when the disk is back it goes on by
//! itself. Whatever an agent was answered with 503 never reached the vendor: that is checked call by call.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::mounts::{Disk, leave};
use super::random::Random;
use super::report::Report;
use super::scene::{AGENTS, KEYS, Scene, directory, usual_vendor};
use super::{NotRun, Plan};
use crate::wait::{eventually, pass};

const DISK_BYTES: u64 = 256 * 1024 * 1024;

/// Rounds on one scene.
const ROUNDS_PER_SCENE: usize = 10;

/// Rows of ten kilobytes: what is allocated already is soon used up.
const LONG_ROWS: usize = 20;

/// Of all cycles, so many fill the disk, and so many fail it as a whole; in each of the others the n-th write fails.
const FILLS: usize = 50;
const REMOUNTS: usize = 20;
const FAILING_WRITES: usize = 200;

/// Makes the n-th write or sync of the journal fail with EIO; only debug builds of the dataplane read it.
const FAIL_WRITE: &str = "KEYBRAKE_FAIL_WRITE";

/// More than writes of the journal up to the last one that is failed.
const ENOUGH_CALLS: u64 = 600;

/// What a dataplane says whose start met it.
const WRITE_ERROR: &str = "Input/output error";

/// What the dataplane says when it is over it.
const REPAIRED: &str = "journal: a fresh file is on disk";

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    leave(0)?;
    for (rounds, round) in [(FILLS, Round::Fill), (REMOUNTS, Round::ReadOnly), (FAILING_WRITES, Round::Write)]
    {
        let all: Vec<usize> = spread(plan.share(rounds), rounds);
        for numbers in all.chunks(ROUNDS_PER_SCENE) {
            play_scene(round, numbers, &mut random, report)?;
        }
    }
    Ok(())
}

/// So many of the numbers 1 to `end`, evenly.
fn spread(count: usize, end: usize) -> Vec<usize> {
    (1..=count).map(|at| at * end / count).collect()
}

#[derive(Clone, Copy)]
enum Round {
    Fill,
    ReadOnly,
    Write,
}

fn play_scene(
    round: Round,
    numbers: &[usize],
    random: &mut Random,
    report: &mut Report,
) -> Result<(), NotRun> {
    let dir = directory("disk");
    let disk = Disk::create(&dir, DISK_BYTES)?;
    let vendor = usual_vendor(&dir, random, &[]);
    let data = disk.at().join("data");
    let mut scene = Scene::start(dir, vendor, |setup| setup.data_at(data));
    scene.disk = Some(disk);
    let texts = if matches!(round, Round::Fill) { LONG_ROWS } else { 0 };
    let shift = scene.operator().with_long_rows(texts).work(KEYS, random.fork("operator"));
    let agents = scene.agents(random);
    let (mut waited, mut failed) = (0, 0);
    for number in numbers {
        pass(random.millis(50, 300));
        match round {
            Round::Fill => scene.fill(random.chance(40)),
            Round::ReadOnly => scene.fail_file_system(),
            Round::Write if random.chance(50) => scene.fail_write_and_kill(*number, random, report),
            Round::Write => {
                waited += 1;
                failed += usize::from(scene.fail_write(*number, report));
            }
        }
        report.cycles += 1;
    }
    if failed * 2 < waited {
        report.violation(format!("{FAIL_WRITE} failed a write in {failed} of {waited} rounds"));
    }
    agents.stop();
    shift.end();
    scene.log.flush();
    refused_and_forwarded(&scene.dir, report);
    scene.judge(report);
    Ok(())
}

impl Scene {
    /// Fills the disk to the last block, waits until that shows, and frees it; perhaps with a kill while it is full,
    /// which shows what was only in memory.
    fn fill(&mut self, is_killed: bool) {
        let at = self.log.now_us();
        let ballast = self.disk.as_ref().unwrap().at().join("ballast");
        fill(&File::create(&ballast).unwrap());
        self.wait_for_more("a call to be refused since the disk is full", &self.log.unavailable);
        if is_killed {
            let at = self.log.now_us();
            self.keybrake.dataplane().kill_9();
            std::fs::remove_file(ballast).unwrap();
            self.keybrake.start_dataplane();
            self.note_kill(at, "dataplane", "kill -9 with a full disk");
        } else {
            std::fs::remove_file(ballast).unwrap();
        }
        self.wait_for_more("a call to go through since the disk has space", &self.log.succeeded);
        self.note_outage(at, "full");
    }

    /// Lets the file system find an error, upon which it makes itself read-only until it is mounted anew.
    fn fail_file_system(&mut self) {
        let at = self.log.now_us();
        let device = self.disk.as_ref().unwrap().device();
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
        self.wait_for_more("a call to be refused since the disk is read-only", &self.log.unavailable);
        self.note_outage(at, "read-only");
        let at = self.log.now_us();
        self.keybrake.dataplane().kill_9();
        self.disk.as_mut().unwrap().again();
        self.keybrake.start_dataplane();
        self.wait_for_more("a call to go through since the disk is mounted anew", &self.log.succeeded);
        self.note_kill(at, "dataplane", "kill -9, the disk was mounted anew");
    }

    /// Starts a dataplane whose n-th write or sync of the journal fails, and waits until it is over that. Whether it
    /// said so: what fails with nobody waiting for it is repaired without a word.
    fn fail_write(&mut self, number: usize, report: &mut Report) -> bool {
        if self.start_failing(number, report) {
            return true;
        }
        let at = self.log.now_us();
        let enough = self.log.succeeded.load(Ordering::SeqCst) + ENOUGH_CALLS;
        let has_failed = eventually("a write to fail, and a fresh file to be begun", || {
            let has_failed = self.keybrake.dataplane().stderr().contains(REPAIRED);
            let is_over = has_failed || self.log.succeeded.load(Ordering::SeqCst) > enough;
            is_over.then_some(has_failed)
        });
        self.wait_for_more("a call to go through since a write failed", &self.log.succeeded);
        self.note_outage(at, "a failing write");
        has_failed
    }

    /// As [`Scene::fail_write`], but with a kill at about the time of the failure.
    fn fail_write_and_kill(&mut self, number: usize, random: &mut Random, report: &mut Report) {
        self.start_failing(number, report);
        let at = self.log.now_us();
        pass(random.millis(0, 250));
        self.note_outage(at, "a failing write");
        let at = self.log.now_us();
        self.keybrake.dataplane().kill_9();
        self.keybrake.set_dataplane_env(Vec::new());
        self.keybrake.start_dataplane();
        self.note_kill(at, "dataplane", "kill -9 about a failing write");
    }

    /// Starts a dataplane whose `number`-th write fails; answers whether that was one of the start itself.
    fn start_failing(&mut self, number: usize, report: &mut Report) -> bool {
        let at = self.log.now_us();
        self.keybrake.dataplane().kill_9();
        self.keybrake.set_dataplane_env(vec![(FAIL_WRITE.to_owned(), number.to_string().into())]);
        let start = self.keybrake.try_start();
        let refused = start.is_err();
        match start {
            Ok(process) => self.keybrake.dataplane = Some(process),
            // It refuses, in one line more than it says before.
            Err(said) => {
                if !said.lines().last().is_some_and(|line| line.contains(WRITE_ERROR)) {
                    report.violation(format!("{FAIL_WRITE}={number}: the start ended with {said}"));
                }
                self.keybrake.set_dataplane_env(Vec::new());
                self.keybrake.start_dataplane();
            }
        }
        self.note_kill(at, "dataplane", "kill -9");
        refused
    }

    /// What ran while the disk did not write may have failed, or be unknown: to the judge that is as over a cut.
    fn note_outage(&mut self, at_us: u64, how: &str) {
        self.note_kill(at_us, "network", &format!("disk: {how}"));
    }

    /// Waits until every agent had the chance to make `counter` grow.
    fn wait_for_more(&self, what: &str, counter: &AtomicU64) {
        let enough = counter.load(Ordering::SeqCst) + AGENTS as u64;
        eventually(what, || (counter.load(Ordering::SeqCst) > enough).then_some(()));
    }
}

/// Gives a file all blocks that are free.
fn fill(file: &File) {
    let (mut length, mut step) = (0, 64 << 20);
    while step >= 512 {
        // SAFETY: takes no pointers; the file is open.
        let full = unsafe { libc::posix_fallocate(file.as_raw_fd(), length, step) } != 0;
        if full {
            step /= 2;
        } else {
            length += step;
        }
    }
}

/// Of every call that was answered 503, the vendor knows nothing.
fn refused_and_forwarded(dir: &Path, report: &mut Report) {
    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let arrived: std::collections::HashSet<String> =
        lines("vendor.jsonl").iter().filter_map(|line| called(line["body"].as_str()?)).collect();
    for call in lines("agents.jsonl").iter().filter(|call| call["status"] == 503) {
        if call["call"].as_str().is_some_and(|call| arrived.contains(call)) {
            report.violation(format!("answered 503 and forwarded: {call}"));
        }
    }
}

/// The agent's name for a call, from its form.
fn called(form: &str) -> Option<String> {
    form.split('&').find_map(|pair| pair.strip_prefix("metadata[call]=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_refused_and_forwarded_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "vendor.jsonl",
            "{\"body\":\"amount=1&metadata[call]=c1\"}\n{\"body\":\"metadata[call]=c2\"}\n",
        );
        write("agents.jsonl", "{\"call\":\"c1\",\"status\":200}\n{\"call\":\"c3\",\"status\":503}\n");
        let mut report = Report::new("disk", 1);
        refused_and_forwarded(dir.path(), &mut report);
        assert_eq!(report.violations, Vec::<String>::new());
        write("agents.jsonl", "{\"call\":\"c2\",\"status\":503}\n");
        refused_and_forwarded(dir.path(), &mut report);
        assert_eq!(report.violations.len(), 1);
    }

    #[test]
    fn numbers_are_spread_over_all() {
        assert_eq!(spread(4, 200), [50, 100, 150, 200]);
        assert_eq!(spread(200, 200), (1..=200).collect::<Vec<usize>>());
    }
}
