//! `keybrake-loadtest`: stand-in vendors to try keybrake with, and a judge of what came of it.
//!
//! The command line only; a fault at the start is one line on stderr and exit code 2. A judge that found something
//! exits with 1.

#![forbid(unsafe_code)]

mod arrival;
mod judge;
mod random;
mod rt;
mod vendor;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use judge::command::JudgeArgs;
use vendor::command::Vendor;
use vendor::redact::redacted;

/// A judged run violates a rule.
const EXIT_VIOLATED: u8 = 1;
/// Wrong usage, or something at the start that the caller must change.
const EXIT_USAGE: u8 = 2;

/// Stand-in vendors for keybrake, and a judge of what came of a run.
#[derive(Parser)]
#[command(name = "keybrake-loadtest", version, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a stand-in vendor
    #[command(subcommand)]
    Vendor(Vendor),
    /// Judge a run by what the vendor, the agents and the audit wrote down
    Judge(Box<JudgeArgs>),
}

const EXAMPLES: &str = "\
Examples:
  keybrake-loadtest vendor stripe
  keybrake-loadtest vendor stripe --listen 127.0.0.1:0 --key sk_test_real --ledger /tmp/stripe.jsonl
  keybrake-loadtest judge --vendor-ledger stripe.jsonl --agents agents.jsonl --audit audit.jsonl --keys keys.jsonl

`keybrake-loadtest vendor stripe --help` lists the outcomes, test cards and pages.";

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ended = match cli.command {
        Command::Vendor(vendor) => vendor::command::run(vendor).map(|()| true),
        Command::Judge(args) => judge::command::run(*args),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_VIOLATED),
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// Help and version go out as they are; everything else becomes one line.
fn usage(error: &clap::Error) -> ExitCode {
    let is_asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if is_asked_for || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let is_printed = error.print().is_ok();
        return if is_asked_for && is_printed { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
    }
    let text = error.render().to_string();
    let paragraph = text.split("\n\n").next().unwrap_or_default();
    let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
    fail(&format!("{}; see keybrake-loadtest --help", line.trim_start_matches("error: ")))
}

fn fail(why: &str) -> ExitCode {
    // A key that was given in the wrong place stands in the message.
    eprintln!("keybrake-loadtest: {}", redacted(why));
    ExitCode::from(EXIT_USAGE)
}
