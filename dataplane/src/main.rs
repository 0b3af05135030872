//! `keybrake-dataplane`: the proxy between agents and the APIs that move money.
//!
//! ```text
//!  main ─ opens state, binds, starts and stops the others
//!  ├ worker-0 … worker-N   one pinned thread, one runtime, one shard each; they never block
//!  ├ storage               owns RocksDB: keys, spend, audit rows
//!  ├ resolver              getaddrinfo, which blocks
//!  ├ pacer-<vendor>        turns at a vendor that has a quota
//!  ├ certificate           looks whether the files of [proxy.tls] have changed
//!  └ control               the Unix socket of the admin process
//! ```
//! Threads meet only in queues: shards' mailboxes, storage's records, channels for answers. What
//! they share are the keys' accounts, each one atomic word.

// What needs it says so at its module: `rt` and `run::machine`.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, reason = "a test that overflows has failed"))]

mod account;
mod alarm;
mod check;
mod clock;
mod connection;
mod control;
mod deadline;
mod descriptors;
mod downstream;
mod environment;
mod exchange;
mod fault;
mod hand_over;
mod heir;
mod hold;
mod idempotency;
mod in_flight;
mod journal;
mod lease;
mod limits;
mod listener;
mod mailbox;
mod marks;
mod metrics;
mod objects;
mod open_vendor;
mod pacing;
mod pool;
mod progress;
mod recovery;
mod registry;
mod relay;
mod requests;
mod resolve;
#[expect(unsafe_code, reason = "shutting down and peeking at a socket that the runtime owns")]
mod rt;
mod run;
mod seal;
mod settings;
mod shard;
#[cfg(test)]
mod simulation;
mod source;
mod state;
mod storage;
mod take_over;
mod tls;
mod tokens;
mod transport;
mod upstream;
mod worker;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use check::Confirmed;
use clap::{Args, Parser, Subcommand, ValueEnum};
use keybrake_proto::config::{Config, Driver};
use keybrake_proto::control::{RevokeSpec, Revoked};
use keybrake_proto::key::KeyId;

use crate::control::Told;
use crate::source::Source;

/// A configuration or a machine that keybrake cannot start on.
const EXIT_CANNOT_START: u8 = 2;

/// A revoke that is not acknowledged: closed or recorded, and to be repeated.
const EXIT_PENDING: u8 = 3;

/// The proxy between AI agents and the APIs that move money.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  keybrake-dataplane --config keybrake.toml\n  keybrake-dataplane --driver epoll\n  \
                  keybrake-dataplane --take-over\n  keybrake-dataplane revoke vk_0123456789abcdef\n\n`keybrake up` starts it together with the admin process."
)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, default_value = "keybrake.toml", env = "KEYBRAKE_CONFIG")]
    config: PathBuf,
    /// How workers talk to the kernel; over `proxy.driver`.
    #[arg(long, value_enum)]
    driver: Option<DriverArgument>,
    /// Take the place of the dataplane that runs on this data directory: no connection is refused meanwhile, and
    /// calls that are at a vendor end there. Starts as usual where none runs.
    #[arg(long)]
    take_over: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Revoke keys over the control socket: works without the admin process, and is recorded for the next start
    /// where no dataplane runs.
    #[command(
        after_help = "Examples:\n  keybrake-dataplane revoke vk_0123456789abcdef\n  keybrake-dataplane revoke --label \
                      billing\n  keybrake-dataplane revoke --all --yes --cut\n\nExit status: 0 revoked, acknowledged by \
                      every worker and on disk; 1 failed; 2 wrong command line; 3 pending: closed or recorded, and \
                      not acknowledged."
    )]
    Revoke(RevokeArguments),
    /// Verify the data directory as a start would, and print the books; changes nothing.
    #[command(
        after_help = "Checks the store, the journals and the anchor. Run it while the dataplane is stopped, or on a \
                      copy.\nExit status: 0 a start finds these books, 1 it would be sealed, 2 nothing can be read."
    )]
    Check,
    /// Start with what is there, though it is older than the anchor says or damaged.
    #[command(
        after_help = "For a sealed start whose missing part cannot be brought back. What is missing is forgotten: caps \
                      may be fuller in truth than keybrake knows, revokes may be gone. Without --yes it says what it \
                      would accept."
    )]
    Accept {
        /// Do it.
        #[arg(long)]
        yes: bool,
    },
}

/// Which keys; exactly one way to say so.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Keys by id, such as vk_0123456789abcdef.
    ids: Vec<KeyId>,
    /// All keys with this label.
    #[arg(long)]
    label: Option<String>,
    /// All keys made for this run.
    #[arg(long)]
    run: Option<String>,
    /// A key and all its descendants.
    #[arg(long, value_name = "ID")]
    subtree: Option<KeyId>,
    /// All keys for a vendor.
    #[arg(long)]
    vendor: Option<String>,
    /// Every key; asks first on a terminal.
    #[arg(long)]
    all: bool,
}

/// A revoke.
#[derive(Args)]
struct RevokeArguments {
    #[command(flatten)]
    which: Which,
    /// Do not ask before `--all`.
    #[arg(long)]
    yes: bool,
    /// Also cut the calls that are at a vendor: what came of them is then not known.
    #[arg(long)]
    cut: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum DriverArgument {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring, or an error.
    #[value(name = "io_uring")]
    IoUring,
    /// epoll.
    Epoll,
}

fn main() -> ExitCode {
    run::harden();
    let arguments = Arguments::parse();
    let source = Source { path: arguments.config, driver: arguments.driver.map(DriverArgument::chosen) };
    let config = match source.read() {
        Ok(config) => config,
        Err(problem) => return fail(&problem, EXIT_CANNOT_START),
    };
    let begin = if arguments.take_over { run::Begin::TakeOver } else { run::Begin::Alone };
    match arguments.command {
        Some(Command::Revoke(arguments)) => revoke(&config, arguments),
        Some(Command::Check) => offline(check::check(&config)),
        Some(Command::Accept { yes }) => {
            let confirmed = if yes { Confirmed::Yes } else { Confirmed::No };
            offline(check::accept(&config, confirmed))
        }
        None => serve(config, source, begin),
    }
}

fn serve(config: Config, source: Source, begin: run::Begin) -> ExitCode {
    let credentials = config.vendors.iter().filter_map(|vendor| vendor.credential_env.as_ref());
    let secrets: Vec<&String> = credentials.chain(config.data.master_key_variables()).collect();
    if let Err(error) = environment::take(&secrets) {
        eprintln!("keybrake-dataplane: secrets stay in the environment of this process: {error}");
    }
    match run::run(config, source, begin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(run::Failure::Start(error)) => fail(&format!("{error:#}"), EXIT_CANNOT_START),
        Err(run::Failure::Running(error)) => fail(&format!("{error:#}"), 1),
    }
}

impl DriverArgument {
    fn chosen(self) -> Driver {
        match self {
            DriverArgument::Auto => Driver::Auto,
            DriverArgument::IoUring => Driver::IoUring,
            DriverArgument::Epoll => Driver::Epoll,
        }
    }
}

fn revoke(config: &Config, arguments: RevokeArguments) -> ExitCode {
    let RevokeArguments { which, yes, cut } = arguments;
    if which.all && !yes && !is_confirmed() {
        return fail(
            "nothing was revoked; to revoke every key without being asked give --yes",
            EXIT_CANNOT_START,
        );
    }
    let Which { ids, label, run, subtree, vendor, all } = which;
    let ids = (!ids.is_empty()).then_some(ids);
    let spec =
        RevokeSpec { ids, label, agent_run_label: run, subtree, vendor, all: all.then_some(true), cut };
    let order = match spec.order() {
        Ok(order) => order,
        Err(wrong) => {
            let field = wrong.field.map_or(String::new(), |field| format!("{field}: "));
            return fail(&format!("{field}{}", wrong.problem), EXIT_CANNOT_START);
        }
    };
    match control::order(&config.data, &order) {
        Ok(Told::Answered(revoked)) => report(&revoked),
        Ok(Told::Recorded) => fail(
            "pending: the dataplane is down; the order is recorded, and the dataplane carries it out before it listens",
            EXIT_PENDING,
        ),
        Ok(Told::Silent) => fail(
            "pending: the dataplane does not answer; the order is in its socket and comes before any later request, \
             unless the process is killed: revoke again until it is acknowledged",
            EXIT_PENDING,
        ),
        Err(problem) => fail(&problem, 1),
    }
}

fn offline(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| fail(&format!("{error:#}"), EXIT_CANNOT_START))
}

/// Asks on a terminal; where there is none nobody has confirmed.
fn is_confirmed() -> bool {
    if !std::io::stdin().is_terminal() {
        return false;
    }
    eprint!("Revoke every key, for good? Type yes: ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok() && line.trim() == "yes"
}

fn report(revoked: &Revoked) -> ExitCode {
    let before = match revoked.already_revoked {
        0 => String::new(),
        keys => format!(" ({keys} more had been before)"),
    };
    let keys = format!("{} keys{before}", revoked.revoked);
    for id in &revoked.unknown_ids {
        eprintln!("keybrake-dataplane: {id}: no key has this id");
    }
    if !revoked.acknowledged || !revoked.durable {
        let workers = revoked.late_workers.iter().map(|worker| format!("worker {worker}"));
        let late: Vec<String> = workers.chain((!revoked.durable).then(|| "the disk".to_owned())).collect();
        let late = late.join(", ");
        let problem = format!(
            "pending: {keys} closed in {} us; no answer from {late}: revoke again",
            revoked.closed_us
        );
        return fail(&problem, EXIT_PENDING);
    }
    println!(
        "revoked {keys}: closed in {} us, acknowledged by every worker in {} us, {} calls at the vendor, {} cut",
        revoked.closed_us, revoked.acknowledged_us, revoked.at_vendor, revoked.cut
    );
    if revoked.unknown_ids.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn fail(problem: &str, code: u8) -> ExitCode {
    eprintln!("keybrake-dataplane: {problem}");
    ExitCode::from(code)
}
