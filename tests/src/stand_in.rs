//! The stand-in Stripe of `keybrake-loadtest`, which judges by a ledger of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::http::get;
use crate::keybrake::SECRET;
use crate::process::{Process, binary};

/// A running stand-in; it lets [`SECRET`] in and nothing else.
#[derive(Debug)]
pub struct StandIn {
    process: Process,
    address: SocketAddr,
}

/// One line of its ledger: a request as it arrived and what it came to.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// When its head was there, in microseconds since the epoch.
    pub at_micros: u64,
    /// It was carried out.
    pub accepted: bool,
    /// The whole line.
    pub line: Value,
}

impl Arrival {
    /// One of its texts; empty where there is none.
    #[must_use]
    pub fn text(&self, name: &str) -> &str {
        self.line[name].as_str().unwrap_or_default()
    }
}

impl StandIn {
    /// Starts one with its output in `dir`.
    #[must_use]
    pub fn start(dir: &Path) -> StandIn {
        StandIn::start_with(dir, &[])
    }

    /// Starts one with further arguments.
    ///
    /// # Panics
    /// When it does not listen in time.
    #[must_use]
    pub fn start_with(dir: &Path, arguments: &[&str]) -> StandIn {
        let mut command = Command::new(binary("keybrake-loadtest"));
        StandIn::run(dir, command.args(["vendor", "stripe", "--listen", "127.0.0.1:0"]).args(arguments))
    }

    /// Runs `command`, which starts one, perhaps elsewhere or under another clock.
    ///
    /// # Panics
    /// When it does not listen in time.
    #[must_use]
    pub(crate) fn run(dir: &Path, command: &mut Command) -> StandIn {
        command.args(["--key", SECRET]);
        let mut process = Process::start("stand-in", dir, command);
        let address = process.wait_until("listening", |process| {
            process
                .stdout()
                .lines()
                .find_map(|line| line.strip_prefix("stand-in stripe on http://")?.parse().ok())
        });
        StandIn { process, address }
    }

    /// Ends it as a crash would.
    pub(crate) fn kill_9(&mut self) {
        self.process.kill_9();
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The last thousand requests, oldest first.
    ///
    /// # Panics
    /// When the ledger is not what it was.
    #[must_use]
    pub fn arrivals(&self) -> Vec<Arrival> {
        let ledger = self.ledger();
        let lines = ledger["lines"].as_array().unwrap();
        let arrival = |line: &Value| Arrival {
            at_micros: line["arrival_us"].as_u64().unwrap(),
            accepted: line["accepted"].as_bool().unwrap(),
            line: line.clone(),
        };
        lines.iter().map(arrival).collect()
    }

    /// Requests so far, whatever became of them.
    ///
    /// # Panics
    /// When the ledger is not what it was.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.ledger()["requests"].as_u64().unwrap()
    }

    /// What it carried out, in minor units.
    ///
    /// # Panics
    /// When the ledger is not what it was.
    #[must_use]
    pub fn accepted_minor(&self) -> u64 {
        self.ledger()["accepted_minor"].as_u64().unwrap()
    }

    /// The heads of the last hundred requests, and whether a vault key was ever seen.
    #[must_use]
    pub fn heads(&self) -> Value {
        get(self.address, "/__headers", "").expect(200)
    }

    fn ledger(&self) -> Value {
        get(self.address, "/__ledger", "").expect(200)
    }
}
