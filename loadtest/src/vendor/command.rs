//! `keybrake-loadtest vendor …`: its arguments, and what they set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::kill::{Due, Killer, Point};
use super::ledger::Ledger;
use super::server::{self, Server};
use super::stripe::{Every, Plan, Script, Setup, State, Weights};
use crate::arrival::Clock;
use crate::random::{Random, fresh_seed};
use crate::rt;

/// The vendors.
#[derive(Subcommand)]
pub(crate) enum Vendor {
    /// Stand in for api.stripe.com, in memory
    Stripe(Box<StripeArgs>),
}

const STRIPE_HELP: &str = "\
Examples:
  keybrake-loadtest vendor stripe
      Listens on 127.0.0.1:8420 and lets any key in that starts with sk_test_.
  keybrake-loadtest vendor stripe --key sk_test_real --ledger /tmp/stripe.jsonl --ledger-fsync
      Lets one key in and records every request on disk before it is answered.
  keybrake-loadtest vendor stripe --outcome 500:100 --outcome hang:1000 --latency-ms 20
      Every 100th POST fails although it was carried out, every 1000th is never answered.
  keybrake-loadtest vendor stripe --outcomes 200=80,402=10,500=5,cut_after=5 --seed 7
      Draws the outcome of each POST; the same seed draws the same sequence.
  keybrake-loadtest vendor stripe --kill-pid-file /tmp/pid --kill-log /tmp/kills.jsonl --kill-every 100
      Kills the process in /tmp/pid when the 100th POST was carried out and is not answered.
  curl http://127.0.0.1:8420/v1/charges -u sk_test_1: -d amount=2000 -d currency=usd -d source=tok_visa
  python: stripe.api_base = \"http://127.0.0.1:8420\"

Outcomes, for --outcome, --script and --outcomes:
  200           what the vendor makes of the request
  402           card_declined; a payment intent is declined when it is confirmed
  429, 409      not carried out
  500_before    500, and it was not carried out
  500           500, although it was carried out; also 500_after
  cut_before    closed without being carried out
  cut           carried out, closed in the middle of the reply; also cut_middle
  cut_after     carried out, closed without a byte of the reply
  hang_before   not carried out, never answered
  hang          carried out, never answered; also hang_after
  slow_250      answered 250 ms late
Test cards name them too, as source, payment_method, destination or metadata[outcome]: tok_429, pm_card_hang;
tok_chargeDeclined and tok_chargeDeclinedInsufficientFunds are two kinds of 402. A test card goes before --script,
that before --outcome, that before --outcomes.

Pages without a key:
  GET /__ledger        totals and the last 1000 lines of the ledger
  GET /__headers       the headers of the last 100 requests, keys left out, and vault_key_seen

docs/loadtest.md has the formats of the ledger and of the kill log.";

/// How to stand in for Stripe.
#[derive(Args)]
#[command(after_help = STRIPE_HELP)]
pub(crate) struct StripeArgs {
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
    /// Whose clock says when a request's first byte arrived; the kernel's costs a system call more a request
    #[arg(long, value_enum, default_value = "process")]
    arrival: Clock,
    /// Answer every request this late
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency_ms: u64,
    /// Pad the body of every reply to this size with blanks
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    reply_bytes: usize,
    /// Let every Nth POST end like this, repeatable; the outcomes are below
    #[arg(long, value_name = "NAME[:N]")]
    outcome: Vec<Every>,
    /// Let the first POSTs end like this, in order
    #[arg(long, value_name = "NAME,…")]
    script: Option<Script>,
    /// Draw how a POST ends, each outcome as often as its share of all weights
    #[arg(long, value_name = "NAME=WEIGHT,…")]
    outcomes: Option<Weights>,
    /// What --outcomes and --kill-probability are drawn from [default: a fresh one; it is printed]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Close a connection that hangs after this long [default: when the caller closes it]
    #[arg(long, value_name = "MS")]
    hang_ms: Option<u64>,
    /// Kill the process whose id stands in this file; an empty or missing file spares all
    #[arg(long, value_name = "FILE", requires_all = ["kill_log", "due"])]
    kill_pid_file: Option<PathBuf>,
    /// Append one JSON line a kill to this file
    #[arg(long, value_name = "FILE", requires = "kill_pid_file")]
    kill_log: Option<PathBuf>,
    /// Kill with every Nth POST
    #[arg(long, value_name = "N", requires = "kill_pid_file", group = "due", value_parser = clap::value_parser!(u64).range(1..))]
    kill_every: Option<u64>,
    /// Kill with this share of the POSTs, from 0 to 1
    #[arg(long, value_name = "P", requires = "kill_pid_file", group = "due", value_parser = parts_per_million)]
    kill_probability: Option<u64>,
    /// Where in a request to kill, repeatable; of several, one is drawn each time
    #[arg(
        long,
        value_enum,
        requires = "kill_pid_file",
        value_delimiter = ',',
        default_value = "after_accept"
    )]
    kill_at: Vec<Point>,
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

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and a million")]
fn parts_per_million(text: &str) -> Result<u64, String> {
    let share: Option<f64> = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.map(|share| (share * 1e6).round() as u64).ok_or_else(|| "not a number from 0 to 1".to_owned())
}

/// Runs a stand-in until it is told to stop.
///
/// # Errors
/// One of the arguments is no good, or as [`server::serve`].
pub(crate) fn run(vendor: Vendor) -> anyhow::Result<()> {
    let Vendor::Stripe(args) = vendor;
    let address: SocketAddr = args.listen.parse().map_err(|_| {
        anyhow::anyhow!("--listen '{}' is no address; use IP:PORT, for example 127.0.0.1:8420", args.listen)
    })?;
    let ledger = Ledger::open(args.ledger.as_deref(), args.ledger_fsync).with_context(|| {
        let path = args.ledger.as_deref().unwrap_or_else(|| "".as_ref());
        format!("cannot append to the ledger {}; name a file in a writable directory", path.display())
    })?;
    let is_random = args.outcomes.is_some() || args.kill_pid_file.is_some();
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let killer = killer(&args, seed)?;
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // The process id tells two runs of one second apart.
    let run = since_epoch.subsec_nanos().wrapping_add(std::process::id().rotate_left(16));
    let plan = Plan {
        script: args.script.unwrap_or_default(),
        turns: args.outcome,
        chance: args.outcomes.map(|weights| (weights, Random::new(seed))),
    };
    let server = Server {
        state: State::new(Setup { keys: args.key, plan, kept_max: args.keep, run }),
        ledger,
        killer,
        latency: Duration::from_millis(args.latency_ms),
        hang: args.hang_ms.map(Duration::from_millis),
        reply_bytes_min: args.reply_bytes,
    };
    let listen =
        server::Listen { name: "stripe", address, stamps: args.arrival, seed: is_random.then_some(seed) };
    rt::run(args.driver, server::serve(listen, server))
}

fn killer(args: &StripeArgs, seed: u64) -> anyhow::Result<Option<Killer>> {
    let (Some(pid_file), Some(log)) = (&args.kill_pid_file, &args.kill_log) else { return Ok(None) };
    let due = match (args.kill_every, args.kill_probability) {
        (Some(nth), _) => Due::Every(nth),
        (None, parts) => Due::PartsPerMillion(parts.unwrap_or_default()),
    };
    // Another sequence than that of the outcomes, so that neither moves the other.
    let random = Random::new(!seed);
    let killer = Killer::new(pid_file.clone(), log, args.kill_at.clone(), due, random);
    let fault = || {
        format!("cannot go on with the kill log {}; name a new file in a writable directory", log.display())
    };
    killer.map(Some).with_context(fault)
}
