//! What was written down during a run, as it is read: JSON lines, from several writers that may have been killed.
//!
//! A line that cannot be read is a violation with its file and number, and the rest is judged all the same.

use super::money::MINOR_MICROS;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};

use super::day::{Day, moment};
use super::report::{Rule, Violation};
use crate::vendor::Form;

/// How deep a chain of parents is followed.
const PARENTS_MAX: usize = 64;

/// One request that reached the vendor.
#[derive(Debug, Deserialize)]
pub(super) struct Arrival {
    pub(super) seq: u64,
    pub(super) arrival_us: u64,
    #[serde(default)]
    pub(super) arrival_by: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    query: Option<String>,
    #[serde(default)]
    pub(super) currency: Option<String>,
    pub(super) accepted: bool,
    #[serde(default)]
    pub(super) accepted_minor: u64,
    #[serde(default)]
    pub(super) replayed: bool,
    #[serde(default)]
    pub(super) outcome: Option<String>,
    #[serde(default)]
    pub(super) status: Option<u16>,
    #[serde(default)]
    pub(super) delivery: String,
    #[serde(default)]
    pub(super) request_id: String,
    #[serde(default)]
    pub(super) malformed: Option<String>,
    #[serde(default)]
    body: String,
}

impl Arrival {
    /// What it committed, in millionths of a dollar.
    pub(super) fn accepted_micros(&self) -> u64 {
        if self.accepted { minor_to_micros(self.accepted_minor) } else { 0 }
    }

    /// What a row may count although nothing was accepted yet: a payment intent whose card was declined lives on, and
    /// can be paid without the proxy (rule Q7).
    pub(super) fn live_micros(&self, row: &Row) -> u64 {
        let is_live = self.path == "/v1/payment_intents" && self.status == Some(402);
        if is_live { row.amount_micros.min(row.quote_micros) } else { 0 }
    }

    /// The agent's id of the call, which travels in the metadata.
    fn call(&self) -> Option<String> {
        let of = |text: &str| Form::parse(text.as_bytes()).owned("metadata[call]");
        of(&self.body).or_else(|| of(self.query.as_deref()?))
    }

    /// Whether it left the proxy in doubt, as far as the vendor knows.
    pub(super) fn is_doubtful(&self) -> bool {
        let is_answered = self.delivery == "whole" || self.delivery == "slow";
        let is_open = self.status.is_none_or(|status| status >= 500 || matches!(status, 408 | 409 | 425));
        self.malformed.is_some() || !is_answered || is_open
    }
}

/// One call, as its agent logged it.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    pub(super) call: String,
    pub(super) key: String,
    #[serde(default)]
    pub(super) cap_micros: Option<u64>,
    #[serde(default)]
    pub(super) amount_minor: Option<u64>,
    pub(super) sent_us: u64,
    #[serde(default)]
    pub(super) answered_us: Option<u64>,
    /// When the connection ended without an answer.
    #[serde(default)]
    pub(super) ended_us: Option<u64>,
    #[serde(default)]
    pub(super) status: Option<u16>,
    #[serde(default)]
    pub(super) keybrake_request_id: Option<String>,
}

impl Call {
    /// When it was over for the agent.
    pub(super) fn end_us(&self) -> Option<u64> {
        self.answered_us.or(self.ended_us)
    }

    /// What it asked for, in micro-USD.
    pub(super) fn amount_micros(&self) -> u64 {
        self.amount_minor.unwrap_or_default().saturating_mul(MINOR_MICROS)
    }
}

/// One row of the audit.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub(super) sequence: u64,
    #[serde(deserialize_with = "read_moment")]
    pub(super) ts: u64,
    pub(super) id: String,
    #[serde(default)]
    pub(super) vault_key_id: Option<String>,
    #[serde(default)]
    pub(super) status: u16,
    pub(super) policy_check_result: String,
    pub(super) outcome: String,
    pub(super) amount_micros: u64,
    #[serde(default)]
    pub(super) quote_micros: u64,
    #[serde(default)]
    pub(super) amount_minor: Option<u64>,
    #[serde(default)]
    pub(super) vendor_request_id: Option<String>,
    #[serde(default)]
    pub(super) latency_us: u64,
    #[serde(default)]
    amends: Option<String>,
    /// What an operator said later that it came to.
    #[serde(skip)]
    pub(super) amended_micros: Option<u64>,
}

impl Row {
    /// What it counts, after what an operator said.
    pub(super) fn counted_micros(&self) -> u64 {
        self.amended_micros.unwrap_or(self.amount_micros)
    }

    /// Whether it is open: nobody knows what it came to.
    pub(super) fn is_open(&self) -> bool {
        self.outcome == "unknown" && self.amended_micros.is_none()
    }

    /// Whether it says that something was sent to the vendor.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.outcome.as_str(), "forwarded" | "unknown" | "cut")
    }

    /// The key, or nothing.
    pub(super) fn key(&self) -> &str {
        self.vault_key_id.as_deref().unwrap_or_default()
    }
}

fn read_moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    moment(&text)
        .ok_or_else(|| D::Error::custom(format!("'{text}' is no time such as 2026-11-21T08:23:12.104113Z")))
}

/// One key.
#[derive(Debug, Deserialize)]
pub(super) struct Key {
    pub(super) key: String,
    #[serde(default)]
    pub(super) daily_cap_micros: Option<u64>,
    /// When its revoke was acknowledged.
    #[serde(default)]
    pub(super) revoked_us: Option<u64>,
    /// The revoke also cut what was under way.
    #[serde(default)]
    pub(super) cut: bool,
    #[serde(default)]
    parent: Option<String>,
}

/// One fault that the harness, or the vendor's kill hook, made.
#[derive(Debug, Deserialize)]
pub(super) struct Outage {
    pub(super) at_us: u64,
    #[serde(default)]
    what: String,
    #[serde(default)]
    pub(super) back_us: Option<u64>,
}

impl Outage {
    /// Whether the dataplane died of it.
    pub(super) fn is_death(&self) -> bool {
        self.what != "admin" && self.what != "network"
    }

    /// Whether it cut the proxy off from the vendor.
    pub(super) fn is_network(&self) -> bool {
        self.what == "network"
    }
}

/// What a key showed when all was quiet.
#[derive(Debug, Deserialize)]
pub(super) struct Shown {
    pub(super) key: String,
    pub(super) committed_micros: u64,
    pub(super) held_micros: u64,
    #[serde(deserialize_with = "read_day")]
    pub(super) day: Day,
}

fn read_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Day, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    let day = value.as_str().map_or_else(|| value.as_u64().map(Day), Day::parse);
    day.ok_or_else(|| D::Error::custom("a day is a text such as 2026-11-21, or days since 1970-01-01"))
}

/// Where the evidence lies.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) vendor: Vec<PathBuf>,
    pub(super) agents: Vec<PathBuf>,
    pub(super) audit: Vec<PathBuf>,
    pub(super) keys: Vec<PathBuf>,
    pub(super) kills: Vec<PathBuf>,
    pub(super) books: Vec<PathBuf>,
}

/// All that was written down.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// By arrival.
    pub(super) arrivals: Vec<Arrival>,
    /// The agent's ids, one for each of `arrivals`.
    pub(super) arrival_calls: Vec<Option<String>>,
    pub(super) calls: Vec<Call>,
    /// By sequence, without amendments.
    pub(super) rows: Vec<Row>,
    pub(super) keys: BTreeMap<String, Key>,
    pub(super) outages: Vec<Outage>,
    pub(super) shown: Vec<Shown>,
    pub(super) unreadable: Vec<Violation>,
}

impl Evidence {
    /// Reads all of it.
    ///
    /// # Errors
    /// A file cannot be opened or read; the message names it.
    pub(super) fn read(files: &Files) -> anyhow::Result<Evidence> {
        let mut bad = Vec::new();
        let mut arrivals: Vec<Arrival> = lines(&files.vendor, &mut bad)?;
        arrivals.sort_by_key(|arrival| arrival.arrival_us);
        let mut all: Vec<Row> = lines(&files.audit, &mut bad)?;
        all.sort_by(|a, b| (a.sequence, &a.id).cmp(&(b.sequence, &b.id)));
        // Pages that were fetched twice, or overlap.
        all.dedup_by(|a, b| a.sequence == b.sequence && a.id == b.id);
        let keys: Vec<Key> = lines(&files.keys, &mut bad)?;
        Ok(Evidence {
            arrival_calls: arrivals.iter().map(Arrival::call).collect(),
            arrivals,
            calls: lines(&files.agents, &mut bad)?,
            rows: amended(all, &mut bad),
            keys: keys.into_iter().map(|key| (key.key.clone(), key)).collect(),
            outages: lines(&files.kills, &mut bad)?,
            shown: lines(&files.books, &mut bad)?,
            unreadable: bad,
        })
    }

    /// A key and its ancestors, leaf first.
    pub(super) fn chain<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        let parent = |key: &&'a str| self.keys.get(*key).and_then(|key| key.parent.as_deref());
        std::iter::successors(Some(key), parent).take(PARENTS_MAX)
    }
}

/// Carries what amendments say over to the rows that they amend.
fn amended(all: Vec<Row>, bad: &mut Vec<Violation>) -> Vec<Row> {
    let (amendments, mut rows): (Vec<Row>, Vec<Row>) =
        all.into_iter().partition(|row| row.outcome == "amendment" || row.amends.is_some());
    let by_id: HashMap<String, usize> =
        rows.iter().enumerate().map(|(at, row)| (row.id.clone(), at)).collect();
    for amendment in amendments {
        let target = amendment.amends.as_deref().or_else(|| amendment.id.strip_suffix("_amended"));
        let row = target.and_then(|id| by_id.get(id)).and_then(|at| rows.get_mut(*at));
        match row {
            Some(row) => row.amended_micros = Some(amendment.amount_micros),
            None => {
                let why = "it amends a row that is not in the audit".to_owned();
                let violation = Violation::new(Rule::Wrong, why).of_key(amendment.key());
                bad.push(Violation { row: Some(amendment.id), ..violation });
            }
        }
    }
    rows
}

fn lines<T: DeserializeOwned>(paths: &[PathBuf], bad: &mut Vec<Violation>) -> anyhow::Result<Vec<T>> {
    let mut read = Vec::new();
    for path in paths {
        lines_of(path, &mut read, bad).map_err(|error| {
            anyhow::anyhow!("cannot read {}: {error}; name an existing file", path.display())
        })?;
    }
    Ok(read)
}

fn lines_of<T: DeserializeOwned>(path: &Path, read: &mut Vec<T>, bad: &mut Vec<Violation>) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match serde_json::from_slice(text) {
            Ok(value) => read.push(value),
            Err(error) => {
                let why = format!("{}:{number}: {error}", path.display());
                bad.push(Violation::new(Rule::Unreadable, why));
            }
        }
    }
    Ok(())
}

/// Dollars have two decimals, and millionths six.
pub(super) fn minor_to_micros(minor: u64) -> u64 {
    minor.saturating_mul(10_000)
}
