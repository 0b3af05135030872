//! `keybrake drill`: what a revoke takes on this running system, without touching anybody's key.

use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use keybrake_proto::key::KeyId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::failure::Failure;

/// The label of the keys that a drill makes.
const LABEL: &str = "keybrake-drill";

/// The one rule of them: no vendor has such an endpoint, and nobody knows the keys.
const ENDPOINT: &str = "GET /keybrake-drill";

/// A drill that dies leaves keys behind, which then end by themselves.
const LIFE_S: u64 = 600;

#[derive(Debug, Args)]
pub(super) struct Drill {
    /// How many keys to issue and revoke.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    keys: u16,
    #[command(flatten)]
    connection: Connection,
}

/// What one revoke took.
struct Measured {
    closed_us: u64,
    acknowledged_us: u64,
    answered_us: u64,
}

#[derive(Deserialize)]
struct Issued {
    id: KeyId,
}

/// Issues keys, revokes each by itself and prints what that took.
pub(super) fn run(invocation: &Invocation<'_>, arguments: &Drill) -> Result<ExitCode, Failure> {
    let client = Client::new(invocation, &arguments.connection)?;
    let spec = spec(&client.get("/healthz")?.body)?;
    let mut left = Vec::new();
    let issued = issue(&client, &spec, arguments.keys, &mut left);
    let mut measured = Vec::new();
    let mut problems = Vec::new();
    if issued.is_ok() {
        for id in std::mem::take(&mut left) {
            match revoke(&client, id) {
                Ok(one) => measured.push(one),
                Err(failure) => {
                    problems.push(failure.to_string());
                    left.push(id);
                }
            }
        }
    }
    // Nothing stays active, however it went.
    left.retain(|id| revoke(&client, *id).is_err());
    issued?;
    let report = report(&measured, arguments.keys, &problems, &left);
    if invocation.json {
        print_json(&report)?;
    } else {
        print(&text(&measured, arguments.keys))?;
        for problem in &problems {
            eprintln!("keybrake: NOT acknowledged: {problem}");
        }
        for id in &left {
            eprintln!("keybrake: {id} is not known to be revoked; it ends by itself in {LIFE_S} s");
        }
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A key that nobody can spend with, for the first vendor there is.
fn spec(health: &Value) -> Result<Value, Failure> {
    let vendor = health.pointer("/dataplane/vendors/0").and_then(Value::as_str);
    let vendor = vendor.ok_or_else(|| {
        Failure::operation(
            "the dataplane does not answer, so there is nothing to measure; see `keybrake status`",
        )
    })?;
    Ok(json!({
        "vendor": vendor, "allowed_endpoints": [ENDPOINT], "daily_usd_cap": 0, "expires_in": LIFE_S, "label": LABEL,
    }))
}

fn issue(client: &Client, spec: &Value, keys: u16, issued: &mut Vec<KeyId>) -> Result<(), Failure> {
    let body = serde_json::to_vec(spec).map_err(Failure::operation)?;
    for _ in 0..keys {
        issued.push(client.post("/vault/keys", &body)?.read::<Issued>()?.id);
    }
    Ok(())
}

fn revoke(client: &Client, id: KeyId) -> Result<Measured, Failure> {
    let body = serde_json::to_vec(&json!({"ids": [id]})).map_err(Failure::operation)?;
    let began = Instant::now();
    let answer = client.post("/vault/revoke", &body)?;
    let answered_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let number = |name: &str| answer.body.get(name).and_then(Value::as_u64);
    match (answer.status, number("closed_us"), number("acknowledged_us")) {
        (200, Some(closed_us), Some(acknowledged_us)) => {
            Ok(Measured { closed_us, acknowledged_us, answered_us })
        }
        (..) => {
            let message = answer.body.get("message").and_then(Value::as_str).unwrap_or("no reason was given");
            Err(Failure::operation(format_args!("{id}: {}", table::printable(message))))
        }
    }
}

/// The median, the 99th percentile and the most, by rank.
fn ranks(measured: &[Measured], of: Figure) -> Option<[u64; 3]> {
    let mut values: Vec<u64> = measured.iter().map(of).collect();
    values.sort_unstable();
    let rank = |percent: usize| {
        let rank = values.len().saturating_mul(percent).div_ceil(100);
        values.get(rank.saturating_sub(1)).copied()
    };
    Some([rank(50)?, rank(99)?, rank(100)?])
}

/// A figure of a revoke.
type Figure = fn(&Measured) -> u64;

const ROWS: [(&str, Figure); 3] = [
    ("closed", |one| one.closed_us),
    ("acknowledged", |one| one.acknowledged_us),
    ("answered", |one| one.answered_us),
];

fn report(measured: &[Measured], keys: u16, problems: &[String], left: &[KeyId]) -> Value {
    let mut report = json!({
        "keys": keys,
        "acknowledged": measured.len(),
        "complete": problems.is_empty(),
        "problems": problems,
        "not_known_to_be_revoked": left,
    });
    for (name, of) in ROWS {
        let figures = ranks(measured, of).map(|[p50, p99, max]| json!({"p50": p50, "p99": p99, "max": max}));
        if let Some(members) = report.as_object_mut() {
            members.insert(format!("{name}_us"), figures.unwrap_or(Value::Null));
        }
    }
    report
}

fn text(measured: &[Measured], keys: u16) -> String {
    let rows: Vec<[String; 4]> = ROWS
        .iter()
        .filter_map(|(name, of)| {
            let [p50, p99, max] = ranks(measured, *of)?;
            Some([(*name).to_owned(), format!("{p50} µs"), format!("{p99} µs"), format!("{max} µs")])
        })
        .collect();
    format!(
        "{} of {keys} revokes were acknowledged by every worker and are on disk\n\n{}",
        measured.len(),
        table::render(["UNTIL", "P50", "P99", "MAX"], &rows)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let measured: Vec<Measured> = (1..=200)
            .map(|us| Measured { closed_us: us, acknowledged_us: us * 2, answered_us: us * 3 })
            .collect();
        assert_eq!(ranks(&measured, |one| one.closed_us), Some([100, 198, 200]));
        assert_eq!(ranks(&measured[..1], |one| one.answered_us), Some([3, 3, 3]));
        assert_eq!(ranks(&[], |one| one.closed_us), None);
    }

    #[test]
    fn a_drill_without_a_dataplane_says_so() {
        assert_eq!(spec(&json!({"dataplane": {"up": false}})).unwrap_err().status, 1);
        assert_eq!(spec(&json!({"dataplane": {"vendors": ["stripe"]}})).unwrap()["vendor"], "stripe");
    }
}
