//! `keybrake doubt`: calls whose outcome is not known, and what an operator says of them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use keybrake_proto::control::{DoubtResolved, DoubtView};
use keybrake_proto::money::Micros;
use serde::Deserialize;

use super::client::{Answer, Client};
use super::{Connection, Invocation, print, print_json, table};
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum DoubtCommand {
    /// List the calls in doubt, with what counts for each.
    #[command(after_help = "Examples:\n  keybrake doubt list\n  keybrake doubt list --json")]
    List(Connection),
    /// Say what a call in doubt cost.
    #[command(
        after_help = "Examples:\n  keybrake doubt settle d000000000000002a --usd 12.50\n\nLook the call up at the vendor \
                      first. A row is added to the audit that amends the call's."
    )]
    Settle(Settle),
    /// Say that a call in doubt moved nothing.
    #[command(
        after_help = "Examples:\n  keybrake doubt void d000000000000002a\n\nLook the call up at the vendor first: what \
                      is voided can be spent again. A row is added to the audit that amends the call's."
    )]
    Void(Void),
}

#[derive(Debug, Args)]
pub(super) struct Settle {
    /// The doubt's id, such as d000000000000002a.
    id: String,
    /// What the call cost, in USD.
    #[arg(long, value_name = "AMOUNT")]
    usd: Micros,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct Void {
    /// The doubt's id, such as d000000000000002a.
    id: String,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Deserialize)]
struct Listed {
    doubts: Vec<DoubtView>,
}

/// `keybrake doubt …`.
pub(super) fn run(invocation: &Invocation<'_>, command: &DoubtCommand) -> Result<ExitCode, Failure> {
    match command {
        DoubtCommand::List(connection) => {
            let answer = Client::new(invocation, connection)?.get("/doubts")?;
            if invocation.json {
                print_json(&answer.body)?;
            } else {
                print(&listed(&answer.read::<Listed>()?.doubts))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        DoubtCommand::Settle(Settle { id, usd, connection }) => {
            let path = format!("/doubts/{}/settle", path_part(id)?);
            let body = format!("{{\"usd\": {usd}}}");
            resolved(invocation, Client::new(invocation, connection)?.post(&path, body.as_bytes())?)
        }
        DoubtCommand::Void(Void { id, connection }) => {
            let path = format!("/doubts/{}/void", path_part(id)?);
            resolved(invocation, Client::new(invocation, connection)?.post(&path, b"")?)
        }
    }
}

/// An id as it may stand in a path.
fn path_part(id: &str) -> Result<&str, Failure> {
    match id.parse::<keybrake_proto::journal::IntentId>() {
        Ok(_) => Ok(id),
        Err(problem) => Err(Failure::setup(format_args!("{id}: {problem}"))),
    }
}

fn listed(doubts: &[DoubtView]) -> String {
    if doubts.is_empty() {
        return "no call is in doubt\n".to_owned();
    }
    let row = |doubt: &DoubtView| {
        let booked = doubt.booked_on.as_ref();
        [
            doubt.id.clone(),
            doubt.vault_key_id.to_string(),
            format!("{} {}", doubt.method, doubt.path),
            doubt.quote_usd.to_string(),
            booked.map_or("held".to_owned(), |day| format!("booked on {day}")),
            doubt.since.clone(),
            doubt.request_id.clone(),
        ]
    };
    let rows: Vec<_> = doubts.iter().map(row).collect();
    table::render(["ID", "KEY", "CALL", "USD", "COUNTED", "SINCE", "REQUEST"], &rows)
}

fn resolved(invocation: &Invocation<'_>, answer: Answer) -> Result<ExitCode, Failure> {
    if invocation.json {
        print_json(&answer.body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let DoubtResolved { id, vault_key_id, quote_usd, charge_usd } = answer.read()?;
    print(&format!(
        "{id}: {vault_key_id} is charged {charge_usd} USD for it, and {quote_usd} USD no longer count\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubts_are_listed_with_how_they_count() {
        let doubt = |booked_on: Option<&str>| DoubtView {
            id: "d000000000000002a".to_owned(),
            vault_key_id: keybrake_proto::key::KeyId::from_bytes(b"0123456789abcdef").unwrap(),
            request_id: "req_1".to_owned(),
            ts: "2026-11-21T10:00:00Z".to_owned(),
            since: "2026-11-21T10:00:01Z".to_owned(),
            vendor: "stripe".to_owned(),
            method: "POST".to_owned(),
            path: "/v1/charges".to_owned(),
            idempotency_key: None,
            vendor_request_id: None,
            quote_usd: "12.5".parse().unwrap(),
            booked_on: booked_on.map(str::to_owned),
        };
        let text = listed(&[doubt(None), doubt(Some("2026-11-21"))]);
        for words in ["POST /v1/charges", "12.50", "held", "booked on 2026-11-21"] {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert_eq!(listed(&[]), "no call is in doubt\n");
        assert!(path_part("../keys").is_err());
    }
}
