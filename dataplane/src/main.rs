//! `keybrake-dataplane`: the proxy between agents and the APIs that move money.
//!
//! ```text
//!  main ─ opens state, binds, starts and stops the others
//!  ├ worker-0 … worker-N   one pinned thread, one runtime, one shard each; they never block
//!  ├ storage               owns RocksDB: keys, spend, audit rows
//!  ├ resolver              getaddrinfo, which blocks
//!  └ control               the Unix socket of the admin process
//! ```
//! Threads meet only in queues: shards' mailboxes, storage's records, channels for answers. What
//! they share are the keys' accounts, each one atomic word.

#![cfg_attr(test, allow(clippy::arithmetic_side_effects, reason = "a test that overflows has failed"))]

mod account;
mod check;
mod clock;
mod connection;
mod control;
mod deadline;
mod downstream;
mod exchange;
mod hold;
mod in_flight;
mod journal;
mod listener;
mod mailbox;
mod marks;
mod metrics;
mod pool;
mod progress;
mod recovery;
mod registry;
mod relay;
mod resolve;
mod rt;
mod run;
mod seal;
mod shard;
mod state;
mod storage;
mod tls;
mod transport;
mod upstream;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use check::Confirmed;
use clap::{Parser, Subcommand, ValueEnum};
use keybrake_proto::config::{Config, Driver};
use keybrake_proto::key::KeyId;

/// A configuration or a machine that keybrake cannot start on.
const EXIT_CANNOT_START: u8 = 2;

/// The proxy between AI agents and the APIs that move money.
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  keybrake-dataplane --config keybrake.toml\n  keybrake-dataplane --driver epoll\n  \
                  keybrake-dataplane revoke vk_0123456789abcdef\n\n`keybrake up` starts it together with the admin process."
)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, default_value = "keybrake.toml", env = "KEYBRAKE_CONFIG")]
    config: PathBuf,
    /// How workers talk to the kernel; over `proxy.driver`.
    #[arg(long, value_enum)]
    driver: Option<DriverArgument>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Revoke a key over the control socket: works without the admin process.
    Revoke {
        /// The key's id, such as vk_0123456789abcdef.
        id: KeyId,
    },
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
    let arguments = Arguments::parse();
    let config = match read_config(&arguments.config) {
        Ok(mut config) => {
            config.proxy.driver = arguments.driver.map_or(config.proxy.driver, DriverArgument::chosen);
            config
        }
        Err(problem) => return fail(&problem, EXIT_CANNOT_START),
    };
    match arguments.command {
        Some(Command::Revoke { id }) => revoke(&config, id),
        Some(Command::Check) => offline(check::check(&config)),
        Some(Command::Accept { yes }) => {
            let confirmed = if yes { Confirmed::Yes } else { Confirmed::No };
            offline(check::accept(&config, confirmed))
        }
        None => match run::run(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(run::Failure::Start(error)) => fail(&format!("{error:#}"), EXIT_CANNOT_START),
            Err(run::Failure::Running(error)) => fail(&format!("{error:#}"), 1),
        },
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

fn read_config(path: &Path) -> Result<Config, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("config {}: {error}; give --config FILE", path.display()))?;
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::parse(&text, environment).map_err(|error| format!("config {}: {error}", path.display()))
}

fn revoke(config: &Config, id: KeyId) -> ExitCode {
    match control::ask_to_revoke(&config.data.control_socket(), id) {
        Ok(revoked) if revoked.acknowledged && revoked.durable => {
            println!(
                "revoked {id}: closed in {} us, acknowledged by every worker in {} us, {} at the vendor",
                revoked.closed_us, revoked.acknowledged_us, revoked.at_vendor
            );
            ExitCode::SUCCESS
        }
        Ok(revoked) => {
            let late = if revoked.durable { "a worker did not answer" } else { "the disk did not answer" };
            fail(&format!("{id} is closed, but {late} in time; revoke again to be sure"), 1)
        }
        Err(problem) => fail(&problem, 1),
    }
}

fn offline(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| fail(&format!("{error:#}"), EXIT_CANNOT_START))
}

fn fail(problem: &str, code: u8) -> ExitCode {
    eprintln!("keybrake-dataplane: {problem}");
    ExitCode::from(code)
}
