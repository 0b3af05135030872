//! `keybrake audit tail`: calls as they are made.

use std::io::BufRead as _;
use std::process::ExitCode;

use clap::Args;
use keybrake_proto::key::KeyId;
use serde_json::Value;

use super::{cells, encoded};
use crate::cli::client::Client;
use crate::cli::{Connection, Invocation, escaped, print, table};
use crate::failure::Failure;
use crate::history::Row;

#[derive(Debug, Args)]
pub(in crate::cli) struct Tail {
    /// Of this key.
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// Of this run: the agent's own, or the one the key was made for.
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
    /// Of this agent.
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,
    /// Refused calls alone.
    #[arg(long)]
    denied: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Prints rows until the API ends, or whoever reads them does.
pub(super) fn run(invocation: &Invocation<'_>, arguments: &Tail) -> Result<ExitCode, Failure> {
    let client = Client::new(invocation, &arguments.connection)?;
    let lines = client.follow(&path(arguments))?;
    let (mut event, mut data) = (String::new(), String::new());
    for line in lines.lines() {
        let line = line.map_err(|error| Failure::operation(format_args!("the tail broke off: {error}")))?;
        match line.split_once(": ").unwrap_or((&line, "")) {
            ("event", name) => name.clone_into(&mut event),
            ("data", text) => text.clone_into(&mut data),
            ("", _) if line.is_empty() => {
                show(invocation.json, &event, &data)?;
                event.clear();
            }
            _ => {}
        }
    }
    Err(Failure::operation("the admin API ended the tail; start it again"))
}

fn path(arguments: &Tail) -> String {
    let filters = [
        ("vault_key_id", arguments.key.map(|id| id.to_string())),
        ("run", arguments.run.clone()),
        ("agent", arguments.agent.clone()),
        ("denied", arguments.denied.then(|| "true".to_owned())),
    ];
    let given = filters.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(&value?))));
    format!("/audit/tail?{}", given.collect::<Vec<String>>().join("&"))
}

fn show(is_json: bool, event: &str, data: &str) -> Result<(), Failure> {
    match event {
        "row" if is_json => print(&format!("{}\n", escaped(data))),
        "row" => {
            let row: Row = serde_json::from_str(data)
                .map_err(|error| Failure::operation(format_args!("a row cannot be read ({error})")))?;
            print(&format!("{}\n", table::printable(&cells(&row).join("  "))))
        }
        "open" => {
            eprintln!("keybrake: following; Ctrl-C ends it");
            Ok(())
        }
        "lost" => {
            let rows = serde_json::from_str::<Value>(data).ok().and_then(|lost| lost.get("rows")?.as_u64());
            eprintln!(
                "keybrake: {} rows were left out: they came faster than they were read",
                rows.unwrap_or(0)
            );
            Ok(())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_stand_in_the_path() {
        let connection = Connection { url: None, token_file: None };
        let mut tail = Tail { key: None, run: None, agent: None, denied: false, connection };
        assert_eq!(path(&tail), "/audit/tail?");
        tail.run = Some("a b".to_owned());
        tail.denied = true;
        assert_eq!(path(&tail), "/audit/tail?run=a%20b&denied=true");
    }
}
