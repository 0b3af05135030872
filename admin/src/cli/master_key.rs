//! `keybrake master-key rotate`.

use std::process::ExitCode;

use clap::Subcommand;
use keybrake_proto::control::MasterKeyRotated;

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::failure::{Failure, STATUS_PENDING};

#[derive(Debug, Subcommand)]
pub(super) enum MasterKeyCommand {
    /// Give the store another master key while it runs: every data key is wrapped anew, and nothing else changes.
    #[command(
        after_help = "Examples:\n  keybrake master-key rotate\n  keybrake master-key rotate --json\n\nOf a file, the new \
                      key is the one in FILE.next, or made there, and takes the file's place; the key before is kept as \
                      FILE.old-ID, which copies of the store from before need.\nWith data.master_key_command the \
                      program is run again, and must print the new key.\nWith data.master_key_env: set the new key, name \
                      the old one in data.old_master_key_env or _file, and restart.\nExit status 3: the new key is in \
                      force, and its file has to be put in place."
    )]
    Rotate(Connection),
}

/// `keybrake master-key …`.
pub(super) fn run(invocation: &Invocation<'_>, command: &MasterKeyCommand) -> Result<ExitCode, Failure> {
    let MasterKeyCommand::Rotate(connection) = command;
    let answer = Client::new(invocation, connection)?.post("/master-key/rotate", b"")?;
    if invocation.json {
        print_json(&answer.body)?;
    }
    let rotated: MasterKeyRotated = answer.read()?;
    if !invocation.json {
        let kept = rotated.kept.unwrap_or_else(|| "where you keep it".to_owned());
        print(&table::pairs(&[
            ("master key", format!("{}, in force and on disk", rotated.to)),
            ("before", format!("{}, kept in {kept}; copies of the store from before need it", rotated.from)),
            ("credentials", format!("{} wrapped anew", rotated.credentials)),
        ]))?;
    }
    match rotated.pending {
        None => Ok(ExitCode::SUCCESS),
        Some(pending) => {
            eprintln!("keybrake: {pending}; rename it, or the next start does");
            Ok(ExitCode::from(STATUS_PENDING))
        }
    }
}
