//! `keybrake-dataplane check` and `accept`: the data directory, offline.

use std::fmt::Write as _;
use std::process::ExitCode;

use keybrake_proto::config::Config;
use keybrake_proto::money::Micros;

use crate::recovery::{self, Accepted, Examined};
use crate::registry::KeyRecord;

/// A start would be sealed.
const EXIT_SEALED: u8 = 1;

/// Verifies everything that a start would, changes nothing, and prints the books.
pub(crate) fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let examined = recovery::examine(config)?;
    let keys = examined.store.keys()?;
    print!("{}", report(&examined, &keys));
    match &examined.sealed {
        None => {
            println!("ok: a start finds these books");
            Ok(ExitCode::SUCCESS)
        }
        Some(reason) => {
            eprintln!("keybrake-dataplane: {reason:#}");
            Ok(ExitCode::from(EXIT_SEALED))
        }
    }
}

fn report(examined: &Examined, keys: &[KeyRecord]) -> String {
    let mut out = String::new();
    let Examined { store, books, recovered, open, mark, .. } = examined;
    let anchor = mark.as_ref().map_or("none".to_owned(), |mark| format!("write {}", mark.store_sequence));
    let mut line = |text: std::fmt::Arguments<'_>| writeln!(out, "{text}").unwrap_or_default();
    line(format_args!("store: write {}, {} keys; anchor: {anchor}", store.sequence(), keys.len()));
    for (shard, last) in &recovered.last {
        let marked = mark.as_ref().and_then(|mark| mark.shards.get(shard));
        let marked = marked.map_or(0, |reached| reached.synced.max(reached.written));
        line(format_args!("journal of worker {shard}: record {last}, anchor: record {marked}"));
    }
    line(format_args!(
        "not stored yet: {} records; cut off by the last stop: {open} requests, {} writes",
        recovered.records.len(),
        recovered.torn
    ));
    let mut openings = books.openings();
    line(format_args!("{:<20} {:>10} {:>14} {:>14} {:>14}", "key", "day", "settled", "in doubt", "cap"));
    for key in keys {
        let opening = openings.remove(&key.id).unwrap_or_default();
        let day = opening.spend.day.start().to_string();
        let day = day.get(..10).unwrap_or_default();
        let cap = key.policy.daily_usd_cap.map_or("-".to_owned(), |cap| cap.to_string());
        let (settled, in_doubt) = (opening.spend.settled, opening.in_doubt);
        line(format_args!("{:<20} {day:>10} {settled:>14} {in_doubt:>14} {cap:>14}", key.id));
    }
    let doubts = books.doubts().values().filter(|doubt| doubt.booked.is_none());
    let total = doubts.fold(Micros::ZERO, |sum, doubt| sum.saturating_add(doubt.quote));
    line(format_args!("in doubt: {total} USD in all; `keybrake doubt list` shows each once it runs"));
    out
}

/// Starts with what is there from now on, though a start was sealed.
pub(crate) fn accept(config: &Config, confirmed: Confirmed) -> anyhow::Result<ExitCode> {
    if confirmed == Confirmed::No {
        let examined = recovery::examine(config);
        match examined.map(|examined| examined.sealed) {
            Ok(None) => println!("nothing to accept: a start is not sealed"),
            Ok(Some(reason)) | Err(reason) => {
                eprintln!("keybrake-dataplane: {reason:#}");
                eprintln!(
                    "keybrake-dataplane: accepting it forgets what is missing: caps may be fuller in truth than keybrake \
                     knows, and revokes may be gone; run it again with --yes"
                );
                return Ok(ExitCode::from(EXIT_SEALED));
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let Accepted { was_sealed, set_aside } = recovery::accept(config)?;
    match was_sealed {
        None => println!("nothing to accept: a start is not sealed"),
        Some(reason) => {
            println!("accepted: {reason:#}");
            if let Some(path) = set_aside {
                println!("the journals were moved to {}", path.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the operator said yes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Confirmed {
    Yes,
    No,
}
