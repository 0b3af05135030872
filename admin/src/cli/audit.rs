//! `keybrake audit …`.

mod query;
mod tail;

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use keybrake_proto::key::KeyId;
use keybrake_proto::time::{UnixMicros, parse_duration_seconds};
use serde::Deserialize;
use serde_json::json;

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::failure::Failure;
use crate::history::{PAGE_ROWS_MAX, Row};

#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// List exchanges, newest first.
    #[command(after_help = "Examples:\n  keybrake audit list --since 1h\n  keybrake audit list --key \
                            vk_0123456789abcdef --result daily_cap_exceeded\n  keybrake audit list --limit 1000 --json")]
    List(List),
    /// Ask the audit a question in SQL.
    #[command(
        after_help = "Examples:\n  keybrake audit query \"SELECT agent_id, SUM(amount) FROM audit_log GROUP BY agent_id\"\n  \
                      keybrake audit query --saved spend-by-run --since 24h\n  keybrake audit query --saved\n  keybrake \
                      audit query --format csv \"SELECT * FROM calls WHERE metadata->>'agent_id' = 'billing_agent'\"\n\nThe \
                      tables are `calls`, a row for each exchange, and `audit_log`, with a row for each amendment too. \
                      Amounts and their sums are exact.\nNothing can be changed. Limits are in [audit] of the configuration."
    )]
    Query(query::Query),
    /// Show calls as they are made.
    #[command(
        after_help = "Examples:\n  keybrake audit tail --denied\n  keybrake audit tail --agent billing_agent --json\n\nRows \
                            that come faster than they are read are left out, and their number is said on standard error."
    )]
    Tail(tail::Tail),
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Of this key.
    #[arg(long, value_name = "ID")]
    key: Option<KeyId>,
    /// From this time on: 15m, 24h, 7d ago, or RFC 3339 in UTC.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<String>,
    /// `allowed`, `denied`, or a code such as daily_cap_exceeded.
    #[arg(long)]
    result: Option<String>,
    /// The most rows.
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    connection: Connection,
}

fn moment(text: &str) -> Result<String, &'static str> {
    let is_moment = parse_duration_seconds(text).is_some() || UnixMicros::parse_rfc3339(text).is_some();
    is_moment.then(|| text.to_owned()).ok_or("write 15m, 24h or 7d, or RFC 3339 in UTC")
}

#[derive(Deserialize)]
struct Page {
    rows: Vec<Row>,
    next: Option<u64>,
    #[serde(default)]
    unreadable: u64,
}

/// Carries out an `audit` command.
pub(super) fn run(invocation: &Invocation<'_>, command: &AuditCommand) -> Result<ExitCode, Failure> {
    match command {
        AuditCommand::List(arguments) => list(invocation, arguments),
        AuditCommand::Query(arguments) => query::run(invocation, arguments),
        AuditCommand::Tail(arguments) => tail::run(invocation, arguments),
    }
}

fn list(invocation: &Invocation<'_>, arguments: &List) -> Result<ExitCode, Failure> {
    let client = Client::new(invocation, &arguments.connection)?;
    let (rows, next, unreadable) = collect(&client, arguments)?;
    if invocation.json {
        print_json(&json!({"rows": rows, "next": next}))?;
    } else {
        let cells: Vec<_> = rows.iter().map(cells).collect();
        let head =
            ["TIME", "KEY", "PARENT", "ACCOUNT", "CALL", "STATUS", "RESULT", "OUTCOME", "AMOUNT", "MS"];
        print(&table::render(head, &cells))?;
    }
    if next.is_some() && !invocation.json {
        eprintln!("There are more rows: --limit N");
    }
    if unreadable > 0 {
        eprintln!("keybrake: {unreadable} rows cannot be read: they are damaged or of a newer version");
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads pages until there are enough rows: a page whose rows are filtered away may be short.
fn collect(client: &Client, arguments: &List) -> Result<(Vec<Row>, Option<u64>, u64), Failure> {
    let mut query = String::new();
    let filters = [
        ("vault_key_id", arguments.key.map(|id| id.to_string())),
        ("since", arguments.since.clone()),
        ("result", arguments.result.clone()),
    ];
    for (name, value) in filters {
        if let Some(value) = value {
            write!(query, "&{name}={}", encoded(&value)).map_err(Failure::operation)?;
        }
    }
    let (mut rows, mut next, mut unreadable) = (Vec::new(), None, 0_u64);
    loop {
        let left = arguments.limit.saturating_sub(rows.len()).min(PAGE_ROWS_MAX);
        if left == 0 {
            return Ok((rows, next, unreadable));
        }
        let after = next.map(|after: u64| format!("&after={after}")).unwrap_or_default();
        let mut page: Page = client.get(&format!("/audit?limit={left}{query}{after}"))?.read()?;
        rows.append(&mut page.rows);
        unreadable = unreadable.saturating_add(page.unreadable);
        next = page.next;
        if next.is_none() {
            return Ok((rows, None, unreadable));
        }
    }
}

/// Percent-encoding (RFC 3986 section 2.1) of everything but unreserved characters.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String has no way to fail.
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
    out
}

fn cells(row: &Row) -> [String; 10] {
    // Whole seconds: the fraction is in the JSON.
    let time = row.ts.split(['.', 'Z']).next().unwrap_or_default();
    let key = row.label.clone().or_else(|| row.vault_key_id.map(|id| id.to_string()));
    [
        format!("{time}Z"),
        key.unwrap_or_else(|| "-".to_owned()),
        row.parent_key_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        row.account.clone().unwrap_or_else(|| "-".to_owned()),
        format!("{} /{}{}", row.method, row.vendor, row.path),
        row.status.to_string(),
        row.policy_check_result.clone(),
        row.outcome.as_str().to_owned(),
        format!("${}", row.amount),
        row.latency_us.div_ceil(1000).to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_encoded() {
        assert_eq!(encoded("2026-11-22T00:00:00Z"), "2026-11-22T00%3A00%3A00Z");
        assert_eq!(encoded("a&b=ü"), "a%26b%3D%C3%BC");
    }
}
