//! `keybrake-loadtest judge`: its arguments, and what it prints.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::evidence::{Evidence, Files};
use super::report::{Rule, Summary, Violation};
use super::trace::Trace;
use super::{Limits, judge, money, rows};

const HELP: &str = "\
Examples:
  keybrake-loadtest judge --vendor-ledger stripe.jsonl --agents agents.jsonl --audit audit.jsonl --keys keys.jsonl
  keybrake-loadtest judge --vendor-ledger stripe.jsonl --agents agents.jsonl --audit audit.jsonl --keys keys.jsonl \\
    --kills kills.jsonl --books books.jsonl --seed 7 --json

Exit status: 0 nothing is violated, 1 something is, 2 a file cannot be read.
docs/loadtest.md has the formats, the rules, and how to read a violation.";

/// Where the evidence of a run lies.
#[derive(Args)]
#[command(after_help = HELP)]
pub(crate) struct JudgeArgs {
    /// What `vendor stripe --ledger` wrote; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    vendor_ledger: Vec<PathBuf>,
    /// What the agents logged; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    agents: Vec<PathBuf>,
    /// What `GET /audit?format=ndjson` answered, all pages; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    audit: Vec<PathBuf>,
    /// The keys: id, daily cap, and when a revoke was acknowledged; repeatable
    #[arg(long, value_name = "FILE", required = true)]
    keys: Vec<PathBuf>,
    /// The kills and cuts, also those of `vendor stripe --kill-log`; repeatable
    #[arg(long, value_name = "FILE", visible_alias = "vendor-kills")]
    kills: Vec<PathBuf>,
    /// What each key showed as committed and held when all was quiet; repeatable
    #[arg(long, value_name = "FILE")]
    books: Vec<PathBuf>,
    /// Around midnight either day counts
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=43_200))]
    slack_s: u64,
    /// How long a call may be under way whose end its agent did not log
    #[arg(long, value_name = "S", default_value_t = 35, value_parser = clap::value_parser!(u64).range(..=86_400))]
    window_s: u64,
    /// Leave a rule out, repeatable
    #[arg(long, value_name = "RULE", value_enum)]
    skip: Vec<Rule>,
    /// The run's seed, to stand in what is printed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The run's cycles, to be printed [default: the number of kills and cuts]
    #[arg(long, value_name = "N")]
    cycles: Option<u64>,
    /// Print JSON lines
    #[arg(long)]
    json: bool,
}

/// Judges and prints; says whether nothing is violated.
///
/// # Errors
/// A file cannot be read, or stdout cannot be written to.
pub(crate) fn run(args: JudgeArgs) -> anyhow::Result<bool> {
    let limits = Limits {
        slack_us: args.slack_s.saturating_mul(1_000_000),
        window_us: args.window_s.saturating_mul(1_000_000),
    };
    let files = Files {
        vendor: args.vendor_ledger,
        agents: args.agents,
        audit: args.audit,
        keys: args.keys,
        kills: args.kills,
        books: args.books,
    };
    let evidence = Evidence::read(&files)?;
    let trace = Trace::of(&evidence, limits);
    let mut found = judge(&evidence, &trace, limits);
    found.retain(|violation| !args.skip.contains(&violation.rule));
    let mut summary = summary(&evidence, &trace);
    summary.cycles = args.cycles.unwrap_or(summary.cycles);
    summary.violations = found.len() as u64;
    summary.seed = args.seed;
    print(&found, &summary, args.json).context("cannot write to stdout; keep it open")?;
    Ok(found.is_empty())
}

fn summary(evidence: &Evidence, trace: &Trace) -> Summary {
    let first_us = evidence.calls.iter().map(|call| call.sent_us).min().unwrap_or_default();
    let last_us =
        evidence.calls.iter().map(|call| call.end_us().unwrap_or(call.sent_us)).max().unwrap_or_default();
    Summary {
        cycles: evidence.outages.len() as u64,
        calls: evidence.calls.len() as u64,
        accepted: evidence.arrivals.iter().filter(|arrival| arrival.accepted).count() as u64,
        refused: evidence.rows.iter().filter(|row| row.outcome == "denied").count() as u64,
        unknown: rows::unknown(evidence),
        headroom_used: money::headroom_used(evidence, trace),
        seconds: last_us.saturating_sub(first_us).checked_div(1_000_000).unwrap_or_default(),
        ..Summary::default()
    }
}

fn print(found: &[Violation], summary: &Summary, is_json: bool) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    for violation in found {
        if is_json {
            serde_json::to_writer(&mut out, violation)?;
            out.write_all(b"\n")?;
        } else {
            let seed = summary.seed.map(|seed| format!(" (seed {seed})")).unwrap_or_default();
            writeln!(out, "{violation}{seed}")?;
        }
    }
    if is_json {
        serde_json::to_writer(&mut out, summary)?;
        out.write_all(b"\n")?;
    } else {
        writeln!(out, "{summary}")?;
    }
    out.flush()
}
