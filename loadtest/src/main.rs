//! `keybrake-loadtest`: stand-in vendors to try keybrake with, and the load runs that measure it.
//!
//! The command line only; a fault at the start is one line on stderr and exit code 2.

#![forbid(unsafe_code)]

mod rt;
mod vendor;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use vendor::ledger::Ledger;
use vendor::redact::redacted;
use vendor::server::{self, Server};
use vendor::stripe::{Every, Setup, State};

/// Wrong usage, or something at the start that the caller must change.
const EXIT_USAGE: u8 = 2;

/// Stand-in vendors and load runs for keybrake.
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
}

#[derive(Subcommand)]
enum Vendor {
    /// Stand in for api.stripe.com, in memory
    Stripe(StripeArgs),
}

const EXAMPLES: &str = "\
Examples:
  keybrake-loadtest vendor stripe
  keybrake-loadtest vendor stripe --listen 127.0.0.1:0 --key sk_test_real --ledger /tmp/stripe.jsonl

`keybrake-loadtest vendor stripe --help` lists the test cards and pages.";

const STRIPE_HELP: &str = "\
Examples:
  keybrake-loadtest vendor stripe
      Listens on 127.0.0.1:8420 and lets any key in that starts with sk_test_.
  keybrake-loadtest vendor stripe --key sk_test_real --ledger /tmp/stripe.jsonl --ledger-fsync
      Lets one key in and records every request on disk before it is answered.
  keybrake-loadtest vendor stripe --outcome 500:100 --outcome hang:1000 --latency-ms 20
      Every 100th POST fails although it was carried out, every 1000th is never answered.
  curl http://127.0.0.1:8420/v1/charges -u sk_test_1: -d amount=2000 -d currency=usd -d source=tok_visa
  python: stripe.api_base = \"http://127.0.0.1:8420\"

Test cards, as source, payment_method, destination or metadata[outcome] (tok_… or pm_card_…):
  tok_chargeDeclined   402 card_declined; a payment intent is declined when it is confirmed
  tok_429              429, not carried out
  tok_500              500, although it was carried out
  tok_hang             carried out, never answered
  tok_cut              carried out, closed in the middle of the reply
  tok_cut_before       closed without being carried out
  tok_slow_250         answered 250 ms late

Pages without a key:
  GET /__ledger        totals and the last 1000 lines of the ledger
  GET /__headers       the headers of the last 100 requests, keys left out, and vault_key_seen";

#[derive(Args)]
#[command(after_help = STRIPE_HELP)]
struct StripeArgs {
    /// Where to listen; port 0 picks a free one, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8420")]
    listen: String,
    /// A key to let in, repeatable [default: any that starts with sk_test_]
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Append one JSON line a request to this file, before the request is answered
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
    /// Bring each line to the disk before the request is answered
    #[arg(long, requires = "ledger")]
    ledger_fsync: bool,
    /// Answer every request this late
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Pad the body of every reply to this size with blanks
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    reply_bytes: usize,
    /// Let every Nth POST end like this, repeatable: chargeDeclined, 429, 500, hang, cut, cut_before, slow_MS
    #[arg(long, value_name = "NAME[:N]")]
    outcome: Vec<Every>,
    /// Remember this many objects of a kind and this many idempotency keys, up to 4 KB each; older ones are forgotten
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = at_least_one)]
    keep: usize,
    /// Threads; only 1, since one account has one state
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=1))]
    workers: u8,
    /// How to talk to the kernel
    #[arg(long, value_enum, default_value = "auto")]
    driver: rt::Driver,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "not a count of at least 1".to_owned())
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ended = match cli.command {
        Command::Vendor(Vendor::Stripe(args)) => stand_in_for_stripe(args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}")),
    }
}

fn stand_in_for_stripe(args: StripeArgs) -> anyhow::Result<()> {
    let address: SocketAddr = args.listen.parse().map_err(|_| {
        anyhow::anyhow!("--listen '{}' is no address; use IP:PORT, for example 127.0.0.1:8420", args.listen)
    })?;
    let ledger = Ledger::open(args.ledger.as_deref(), args.ledger_fsync).with_context(|| {
        let path = args.ledger.unwrap_or_default();
        format!("cannot append to the ledger {}; name a file in a writable directory", path.display())
    })?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The process id tells two runs of one second apart.
    let run = since_epoch.subsec_nanos().wrapping_add(std::process::id().rotate_left(16));
    let setup = Setup { keys: args.key, outcomes: args.outcome, kept_max: args.keep, run };
    let server = Server {
        state: State::new(setup),
        ledger,
        latency: Duration::from_millis(args.latency_ms),
        reply_bytes_min: args.reply_bytes,
    };
    rt::run(args.driver, server::serve("stripe", address, server))
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
