//! Kills the proxy while a request of it is at the vendor: exactly there, and without the proxy's help.
//!
//! Only the process whose id stands in a file is killed, with SIGKILL, and only once: the harness that started it
//! writes the file, and empties it before it takes the dead process in.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use crate::arrival::now_us;
use crate::random::Random;

/// How long the death of a killed process is waited for.
const DEATH_WAIT: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// The lowest id of a process that may be killed: below stands init, and what `kill` reads as groups.
const PID_MIN: i32 = 2;

/// Where in a request the kill falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub(crate) enum Point {
    /// It was read; nothing was carried out or recorded.
    BeforeAccept,
    /// It was carried out and stands in the ledger; nothing was answered.
    AfterAccept,
    /// It was answered.
    AfterReply,
}

/// When a kill is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// With every Nth POST.
    Every(u64),
    /// With this many POSTs in a million.
    PartsPerMillion(u64),
}

/// One kill, as it is logged.
#[derive(Serialize, Deserialize)]
struct Kill {
    killed: i32,
    at_us: u64,
    #[serde(rename = "where")]
    point: Point,
    /// The request's sequence number in the ledger.
    seq: u64,
}

/// The kill hook.
pub(crate) struct Killer {
    pid_file: PathBuf,
    log: File,
    points: Vec<Point>,
    due: Due,
    random: Random,
    posts: u64,
    /// A kill is due and has not found anybody to kill.
    is_owed: bool,
    killed: HashSet<i32>,
}

impl Killer {
    /// A hook that reads `pid_file` when a kill is due; `points` is not empty.
    ///
    /// # Errors
    /// The log cannot be opened, or has a line that is no kill.
    pub(crate) fn new(
        pid_file: PathBuf,
        log: &Path,
        points: Vec<Point>,
        due: Due,
        random: Random,
    ) -> io::Result<Killer> {
        let log = File::options().read(true).append(true).create(true).open(log)?;
        let mut killed = HashSet::new();
        for line in BufReader::new(&log).lines() {
            killed.insert(serde_json::from_str::<Kill>(&line?)?.killed);
        }
        Ok(Killer { pid_file, log, points, due, random, posts: 0, is_owed: false, killed })
    }

    /// Counts one POST; yields where a kill is due in it.
    pub(crate) fn next(&mut self) -> Option<Point> {
        self.posts = self.posts.saturating_add(1);
        // Drawn for each POST, so that the sequence does not depend on whether somebody could be killed.
        let at = self.random.below(self.points.len() as u64);
        let is_turn = match self.due {
            Due::Every(nth) => self.posts.is_multiple_of(nth),
            Due::PartsPerMillion(parts) => self.random.happens(parts),
        };
        self.is_owed |= is_turn;
        self.points.get(usize::try_from(at).unwrap_or_default()).copied().filter(|_| self.is_owed)
    }

    /// Kills, if that is still due and there is somebody to kill; returns once that process is dead.
    ///
    /// # Errors
    /// The kill could not be logged: the run explains nothing from then on, and must end.
    pub(crate) fn kill(&mut self, point: Point, seq: u64) -> io::Result<()> {
        if !self.is_owed {
            return Ok(());
        }
        let Some(pid) = self.armed() else { return Ok(()) };
        let Some(process) = Pid::from_raw(pid) else { return Ok(()) };
        let at_us = now_us();
        // Who is dead already was killed by somebody else.
        let Ok(handle) = pidfd_open(process, PidfdFlags::empty()) else { return Ok(()) };
        if pidfd_send_signal(&handle, Signal::KILL).is_err() {
            return Ok(());
        }
        self.is_owed = false;
        self.killed.insert(pid);
        // What follows in this request is then surely not seen by the killed process.
        let waited = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&DEATH_WAIT));
        if !waited.is_ok_and(|dead| dead > 0) {
            eprintln!(
                "keybrake-loadtest: process {pid} was killed and is not dead after 2 s; look at its state"
            );
        }
        let mut line = serde_json::to_vec(&Kill { killed: pid, at_us, point, seq })?;
        line.push(b'\n');
        self.log.write_all(&line)
    }

    /// The process that may be killed.
    fn armed(&self) -> Option<i32> {
        let pid: i32 = fs::read_to_string(&self.pid_file).ok()?.trim().parse().ok()?;
        let is_own = u32::try_from(pid).is_ok_and(|pid| pid == std::process::id());
        (pid >= PID_MIN && !is_own && !self.killed.contains(&pid)).then_some(pid)
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn killer(dir: &Path, due: Due) -> Killer {
        let points = vec![Point::AfterAccept];
        Killer::new(dir.join("pid"), &dir.join("kills"), points, due, Random::new(1)).unwrap()
    }

    fn victim() -> Child {
        Command::new("sleep").arg("60").spawn().unwrap()
    }

    fn arm(dir: &Path, pid: impl ToString) {
        fs::write(dir.join("pid"), pid.to_string()).unwrap();
    }

    #[test]
    fn a_due_kill_waits_for_somebody_and_takes_each_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut killer = killer(dir.path(), Due::Every(2));
        assert_eq!(killer.next(), None);
        assert_eq!(killer.next(), Some(Point::AfterAccept));
        killer.kill(Point::AfterAccept, 2).unwrap();
        assert!(killer.is_owed, "nobody was armed");
        let mut first = victim();
        arm(dir.path(), first.id());
        assert_eq!(killer.next(), Some(Point::AfterAccept));
        killer.kill(Point::AfterAccept, 3).unwrap();
        assert_eq!(killer.next(), Some(Point::AfterAccept));
        killer.kill(Point::AfterAccept, 4).unwrap();
        // Nobody has reaped it, so it could be.
        assert!(killer.is_owed, "the same process is not killed twice");
        assert!(first.try_wait().unwrap().is_some(), "it is dead when the hook returns");
        drop(killer);
        let log = fs::read_to_string(dir.path().join("kills")).unwrap();
        let kill: Kill = serde_json::from_str(log.trim()).unwrap();
        assert_eq!((kill.killed, kill.point, kill.seq), (first.id() as i32, Point::AfterAccept, 3));
        assert_eq!(
            super::tests::killer(dir.path(), Due::Every(1)).killed.len(),
            1,
            "read again at a restart"
        );
    }

    #[test]
    fn nobody_else_is_ever_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut killer = killer(dir.path(), Due::Every(1));
        for pid in ["", "0", "1", "-1", "12x", &std::process::id().to_string()] {
            arm(dir.path(), pid);
            killer.next();
            killer.kill(Point::AfterAccept, 1).unwrap();
            assert!(killer.is_owed, "{pid}");
        }
    }

    #[test]
    fn chance_decides_over_many_posts() {
        let dir = tempfile::tempdir().unwrap();
        let mut killer = killer(dir.path(), Due::PartsPerMillion(100_000));
        let mut due = 0;
        for _ in 0..10_000 {
            due += i32::from(killer.next().is_some());
            killer.is_owed = false;
        }
        assert!((850..1_150).contains(&due), "{due}");
    }
}
