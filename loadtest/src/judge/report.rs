//! What is said: one line a violation, one line for all of it.

use std::fmt;

use serde::{Serialize, Serializer};

use super::day::Day;

/// What does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Rule {
    /// More was accepted than the cap.
    #[value(name = "I1")]
    Cap,
    /// The vendor or the agent saw something that has no row.
    #[value(name = "I2.missing")]
    Missing,
    /// A row, or an answer, tells of a request that the vendor never got.
    #[value(name = "I2.invented")]
    Invented,
    /// Two rows have one id.
    #[value(name = "I2.duplicate")]
    Duplicate,
    /// A row says `unknown` or `failed`, and nothing happened that could have caused it.
    #[value(name = "I2.unexplained")]
    Unexplained,
    /// A row says something else than what happened.
    #[value(name = "I2.wrong")]
    Wrong,
    /// A request arrived under a key whose revoke was acknowledged.
    #[value(name = "I3")]
    Revoked,
    /// A call was sent twice, or got the answer to another.
    #[value(name = "I7")]
    Repeated,
    /// What the audit counts is not what the vendor accepted.
    #[value(name = "I12")]
    Audit,
    /// What a key shows as committed or held is not what the audit counts.
    #[value(name = "I12.books")]
    Books,
    /// A cap refused a call that fitted.
    #[value(name = "full")]
    Full,
    /// A line of the evidence is not what it should be.
    #[value(name = "unreadable")]
    Unreadable,
}

impl Rule {
    /// Its name, as `--skip` takes it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Rule::Cap => "I1",
            Rule::Missing => "I2.missing",
            Rule::Invented => "I2.invented",
            Rule::Duplicate => "I2.duplicate",
            Rule::Unexplained => "I2.unexplained",
            Rule::Wrong => "I2.wrong",
            Rule::Revoked => "I3",
            Rule::Repeated => "I7",
            Rule::Audit => "I12",
            Rule::Books => "I12.books",
            Rule::Full => "full",
            Rule::Unreadable => "unreadable",
        }
    }
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// One violation, with every id that is known of what it is about.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Violation {
    #[serde(rename = "violation")]
    pub(super) rule: Rule,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) day: Option<String>,
    /// The agent's id of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) call: Option<String>,
    /// The id of the audit row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) row: Option<String>,
    /// The line of the vendor's ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<u64>,
    pub(super) why: String,
}

impl Violation {
    /// A violation that names nothing yet.
    pub(super) fn new(rule: Rule, why: String) -> Violation {
        Violation { rule, key: None, day: None, call: None, row: None, seq: None, why }
    }

    /// Names the key.
    pub(super) fn of_key(mut self, key: &str) -> Violation {
        self.key = Some(key.to_owned());
        self
    }

    /// Names the day.
    pub(super) fn on(mut self, day: Day) -> Violation {
        self.day = Some(day.to_string());
        self
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "violation {}", self.rule.name())?;
        let named = [("key", &self.key), ("day", &self.day), ("call", &self.call), ("row", &self.row)];
        for (name, value) in named {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        if let Some(seq) = self.seq {
            write!(f, " seq={seq}")?;
        }
        write!(f, ": {}", self.why)
    }
}

/// The whole run in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Summary {
    pub(super) cycles: u64,
    pub(super) calls: u64,
    pub(super) accepted: u64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
    pub(super) violations: u64,
    /// The smallest share of a cap that was used where the cap refused something; in percent.
    pub(super) headroom_used: Option<u64>,
    pub(super) seed: Option<u64>,
    pub(super) seconds: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_none =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let Summary { cycles, calls, accepted, refused, unknown, violations, seconds, .. } = self;
        let (headroom, seed) = (or_none(self.headroom_used), or_none(self.seed));
        write!(
            f,
            "cycles={cycles} calls={calls} accepted={accepted} refused={refused} unknown={unknown} \
             violations={violations} headroom_used={headroom} seed={seed} seconds={seconds}"
        )
    }
}
