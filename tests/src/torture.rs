//! Torture: keybrake's processes are killed, cut off, starved and lied to while agents spend, and an
//! independent judge then compares what the vendor did with what keybrake's books say.
//!
//! Each part is a file that reads like its description. They share a [`scene`]: one keybrake, one stand-in vendor
//! with its own ledger, sixty-four agents who write down each answer, and an operator who replaces spent keys. All
//! that is drawn is drawn from one seed. What a part finds out goes into its [`Report`]; a violation keeps the
//! directory it was found in.

mod ack;
mod agents;
mod clock;
mod cost;
mod damage;
mod disk;
mod exhaust;
mod judge;
mod kill;
mod lanes;
mod mounts;
mod network;
mod power;
mod random;
mod report;
mod restart;
mod revoke;
mod scene;
mod swap;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::time::Instant;

use random::Random;
pub use report::Report;

/// What is done to keybrake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// `kill -9` of one or both processes under load.
    Kill,
    /// `kill -9` of everything at the acknowledgement of an issue, a revoke or a change.
    Ack,
    /// Power cuts.
    Power,
    /// Full, read-only and failing disks.
    Disk,
    /// Cuts between keybrake and the vendor.
    Net,
    /// Revokes under load and of a stopped dataplane.
    Revoke,
    /// Rolling restarts under load.
    Restart,
    /// Steps of the wall clock, and midnight.
    Clock,
    /// Damaged, missing and older files.
    Damage,
    /// A vendor that cuts and says too much, under agents who know their own replies.
    Swap,
    /// Slow, idle and keyless agents by the thousand.
    Exhaust,
    /// What the journal costs; nothing is broken.
    Cost,
}

/// How much of a part is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// All of it.
    Full,
    /// A short round, for `make test`.
    Short,
    /// So many cycles.
    Rounds(usize),
}

/// Why a part was not run: this machine does not allow it.
#[derive(Debug)]
pub struct NotRun(pub String);

impl Part {
    /// Every part, in the order in which they are run.
    pub const ALL: [Part; 12] = [
        Part::Kill,
        Part::Ack,
        Part::Power,
        Part::Disk,
        Part::Net,
        Part::Revoke,
        Part::Restart,
        Part::Clock,
        Part::Damage,
        Part::Swap,
        Part::Exhaust,
        Part::Cost,
    ];

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Part::Kill => "kill",
            Part::Ack => "ack",
            Part::Power => "power",
            Part::Disk => "disk",
            Part::Net => "net",
            Part::Revoke => "revoke",
            Part::Restart => "restart",
            Part::Clock => "clock",
            Part::Damage => "damage",
            Part::Swap => "swap",
            Part::Exhaust => "exhaust",
            Part::Cost => "cost",
        }
    }

    /// Its cycles in full, and in a short round.
    fn cycles(self) -> (usize, usize) {
        match self {
            Part::Kill => (500, 16),
            Part::Ack => (300, 10),
            Part::Power => (100, 5),
            Part::Disk => (270, 12),
            Part::Net => (200, 8),
            Part::Revoke => (2100, 84),
            Part::Restart => (50, 4),
            Part::Clock => (200, 12),
            Part::Damage => (1500, 60),
            // Of ten thousand calls each.
            Part::Swap => (100, 5),
            Part::Exhaust => (5, 5),
            Part::Cost => (9, 9),
        }
    }

    fn play(self, plan: &Plan, random: Random, report: &mut Report) -> Result<(), NotRun> {
        match self {
            Part::Kill => kill::play(plan, random, report),
            Part::Ack => ack::play(plan, random, report),
            Part::Power => power::play(plan, random, report),
            Part::Disk => disk::play(plan, random, report),
            Part::Net => network::play(plan, random, report),
            Part::Revoke => revoke::play(plan, random, report),
            Part::Restart => restart::play(plan, random, report),
            Part::Clock => clock::play(plan, random, report),
            Part::Damage => damage::play(plan, random, report),
            Part::Swap => {
                swap::play(plan, random, report);
                Ok(())
            }
            Part::Exhaust => exhaust::play(plan, random, report),
            Part::Cost => cost::play(plan, random, report),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        let known = || Part::ALL.map(Part::name).join(", ");
        Part::ALL
            .into_iter()
            .find(|part| part.name() == text)
            .ok_or_else(|| format!("'{text}' is no part; use one of {}", known()))
    }
}

/// How far a part goes.
#[derive(Debug, Clone, Copy)]
struct Plan {
    cycles: usize,
    /// The whole of the part is wanted, figures included: with release binaries where time is measured.
    is_full: bool,
    /// Of how many cycles this is a share.
    of: usize,
}

impl Plan {
    /// So much of `full` as this plan has of the whole part, at least one.
    fn share(&self, full: usize) -> usize {
        (full * self.cycles).div_ceil(self.of).max(1)
    }
}

/// Plays a part; everything drawn comes from `seed`. Whatever panics is a violation.
///
/// # Errors
/// When this machine does not allow the part.
///
/// # Panics
/// When no thread can be started.
pub fn run(part: Part, size: Size, seed: u64) -> Result<Report, NotRun> {
    let (full, short) = part.cycles();
    let cycles = match size {
        Size::Full => full,
        Size::Short => short,
        Size::Rounds(rounds) => rounds.max(1),
    };
    let plan = Plan { cycles, is_full: size != Size::Short, of: full };
    // A thread of its own: namespaces belong to threads, and what it started ends with it.
    let thread = std::thread::Builder::new().name(part.name().to_owned()).spawn(move || {
        let start = Instant::now();
        let mut report = Report::new(part.name(), seed);
        let random = Random::new(seed).fork(part.name());
        let mut played = Ok(());
        caught(&mut report, |report| played = part.play(&plan, random, report));
        report.time = start.elapsed();
        if !report.violations.is_empty() {
            scene::left_open(part.name()).iter().for_each(|dir| report.keep(dir));
        }
        played.map(|()| report)
    });
    thread.unwrap().join().unwrap()
}

/// Plays; a panic is a violation.
fn caught(report: &mut Report, play: impl FnOnce(&mut Report)) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| play(report))) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
        report.violation(format!("the round broke off: {text}"));
    }
}
