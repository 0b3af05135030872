//! `keybrake`, the operator's tool: the admin API, the supervisor of both processes, and the command line.
//!
//! It never links the dataplane: both meet in `keybrake_proto` and at the control socket.
// Two markers in `sql::table` alone are exempt: SQLite asks for them.
#![deny(unsafe_code)]

mod api;
mod cli;
mod config;
mod control;
mod explain;
mod failure;
mod history;
mod query_log;
mod revoke;
mod scope;
mod sql;
mod supervisor;
mod tail;
mod token;
mod tokens;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Tokens, credentials and vault keys pass through (rule S1). `run` starts programs, so a limit that they would
    // inherit is for the other commands to set.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).ok();
    match cli::parse(std::env::args_os()).and_then(|cli| cli::run(&cli)) {
        Ok(status) => status,
        Err(failure) => {
            eprintln!("keybrake: {failure}");
            ExitCode::from(failure.status)
        }
    }
}
