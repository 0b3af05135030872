//! What a part found out.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The line of a part, and what is told beside it.
#[derive(Debug)]
pub struct Report {
    part: &'static str,
    seed: u64,
    /// Kills, cuts, fills, revokes, scenarios: what the part counts.
    pub cycles: u64,
    /// Calls that agents sent.
    pub calls: u64,
    /// What the vendor carried out, by its own ledger.
    pub accepted: u64,
    /// Calls that keybrake refused.
    pub refused: u64,
    /// Audit rows whose outcome is unknown.
    pub unknown: u64,
    /// What does not hold, one line each.
    pub violations: Vec<String>,
    /// Where the evidence is.
    pub kept: Vec<PathBuf>,
    /// Figures and tables that belong to the part, for whoever runs all of it.
    pub notes: Vec<String>,
    /// How long it took.
    pub time: Duration,
    /// The violations of earlier scenes.
    judged: usize,
}

impl Report {
    pub(crate) fn new(part: &'static str, seed: u64) -> Report {
        Report {
            part,
            seed,
            cycles: 0,
            calls: 0,
            accepted: 0,
            refused: 0,
            unknown: 0,
            violations: Vec::new(),
            kept: Vec::new(),
            notes: Vec::new(),
            time: Duration::ZERO,
            judged: 0,
        }
    }

    /// A report of the same part that holds nothing.
    pub(crate) fn empty(&self) -> Report {
        Report::new(self.part, self.seed)
    }

    /// What another report of the part holds, too.
    pub(crate) fn add(&mut self, other: Report) {
        self.cycles += other.cycles;
        self.calls += other.calls;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.violations.extend(other.violations);
        self.notes.extend(other.notes);
        for dir in other.kept {
            self.keep(&dir);
        }
    }

    pub(crate) fn violation(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// Removes a scene's directory, or keeps it where something was violated since the last one ended.
    pub(crate) fn end_scene(&mut self, dir: &Path) {
        if self.violations.len() > self.judged {
            self.keep(dir);
        } else {
            std::fs::remove_dir_all(dir).unwrap();
        }
        self.judged = self.violations.len();
    }

    pub(crate) fn keep(&mut self, dir: &Path) {
        if !self.kept.iter().any(|kept| kept == dir) {
            self.kept.push(dir.to_owned());
        }
    }
}

/// `part cycles calls accepted refused unknown violations seed seconds`, one line.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { part, seed, cycles, calls, accepted, refused, unknown, .. } = self;
        write!(
            f,
            "{part:<7} cycles {cycles}  calls {calls}  accepted {accepted}  refused {refused}  \
             unknown {unknown}  violations {}  seed {seed}  seconds {:.1}",
            self.violations.len(),
            self.time.as_secs_f64()
        )
    }
}
