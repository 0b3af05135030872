//! `keybrake audit query`: SQL over the audit.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::cli::client::Client;
use crate::cli::{Connection, Invocation, print, print_json, table};
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(in crate::cli) struct Query {
    /// One SELECT over `calls` or `audit_log`; `-` reads it from standard input.
    #[arg(value_name = "SQL", required_unless_present = "saved", conflicts_with = "saved")]
    sql: Option<String>,
    /// A saved question; without a name, lists them.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    saved: Option<String>,
    /// Where `:since` in the statement begins: 15m, 24h, 30d ago, or RFC 3339 in UTC [default: 30d].
    #[arg(long, value_name = "TIME", value_parser = super::moment)]
    since: Option<String>,
    /// How the answer is written [default: a table on a terminal, else csv; json with --json].
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
    Ndjson,
    Csv,
}

#[derive(Deserialize)]
struct Answer {
    columns: Vec<String>,
    rows: Vec<Map<String, Value>>,
    scanned: u64,
    elapsed_ms: u64,
    lag_ms: Option<u64>,
}

#[derive(Deserialize)]
struct Listed {
    saved: Vec<Saved>,
}

#[derive(Deserialize)]
struct Saved {
    name: String,
    about: String,
    sql: String,
}

/// Asks, and prints what comes.
pub(super) fn run(invocation: &Invocation<'_>, arguments: &Query) -> Result<ExitCode, Failure> {
    let client = Client::new(invocation, &arguments.connection)?;
    if arguments.saved.as_deref() == Some("") {
        return list(invocation, &client);
    }
    let mut body = match (&arguments.sql, &arguments.saved) {
        (Some(sql), _) => json!({"sql": statement(sql)?}),
        (None, name) => json!({"saved": name}),
    };
    if let (Some(since), Some(members)) = (&arguments.since, body.as_object_mut()) {
        members.insert("since".to_owned(), since.as_str().into());
    }
    let body = body.to_string();
    let format =
        arguments.format.unwrap_or_else(|| match (invocation.json, std::io::stdout().is_terminal()) {
            (true, _) => Format::Json,
            (false, true) => Format::Table,
            (false, false) => Format::Csv,
        });
    let name = match format {
        Format::Table | Format::Json => "json",
        Format::Ndjson => "ndjson",
        Format::Csv => "csv",
    };
    let answer = client.query(&format!("/audit/query?format={name}"), body.as_bytes())?;
    match format {
        Format::Csv | Format::Ndjson => print(&answer.text)?,
        Format::Json => print_json(&answer.read()?)?,
        Format::Table => print(&rendered(&answer.read()?))?,
    }
    notes(answer.number("keybrake-truncated") > 0, answer.number("keybrake-unreadable"));
    Ok(ExitCode::SUCCESS)
}

fn statement(sql: &str) -> Result<String, Failure> {
    if sql != "-" {
        return Ok(sql.to_owned());
    }
    std::io::read_to_string(std::io::stdin())
        .map_err(|error| Failure::operation(format_args!("cannot read standard input: {error}")))
}

fn list(invocation: &Invocation<'_>, client: &Client) -> Result<ExitCode, Failure> {
    let answer = client.get("/audit/query")?;
    if invocation.json {
        print_json(&answer.body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let saved = answer.read::<Listed>()?.saved;
    let one = |saved: &Saved| format!("{}: {}\n    {}\n", saved.name, saved.about, saved.sql);
    print(&table::printable_lines(&saved.iter().map(one).collect::<String>()))?;
    Ok(ExitCode::SUCCESS)
}

fn rendered(answer: &Answer) -> String {
    let head: Vec<String> = answer.columns.clone();
    let cell = |value: Option<&Value>| match value {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let rows: Vec<Vec<String>> =
        answer.rows.iter().map(|row| head.iter().map(|name| cell(row.get(name))).collect()).collect();
    let behind = match answer.lag_ms {
        Some(lag) => format!("{lag} ms behind live"),
        None => "the dataplane does not answer".to_owned(),
    };
    let (count, scanned, elapsed) = (rows.len(), answer.scanned, answer.elapsed_ms);
    let rows_word = if count == 1 { "row" } else { "rows" };
    format!(
        "{}({count} {rows_word} of {scanned} looked at, {elapsed} ms, {behind})\n",
        table::render_all(&head, &rows)
    )
}

fn notes(truncated: bool, unreadable: u64) {
    if truncated {
        eprintln!(
            "keybrake: there are more rows than one answer may have: narrow it, or raise audit.query_rows_max"
        );
    }
    if unreadable > 0 {
        eprintln!("keybrake: {unreadable} rows cannot be read: they are damaged or of a newer version");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_an_answer_is_a_table_that_drives_no_terminal() {
        let answer = json!({
            "columns": ["agent\u{1b}[2J", "spent"], "scanned": 9, "elapsed_ms": 3,
            "rows": [{"agent\u{1b}[2J": "a\u{202e}1", "spent": 20.5}, {"agent\u{1b}[2J": null, "spent": 1}], "lag_ms": 2
        });
        let text = rendered(&serde_json::from_value(answer).unwrap());
        let lines: Vec<&str> = text.lines().collect();
        let head = "agent\u{fffd}[2J  spent";
        assert_eq!(
            lines,
            [
                head,
                "a\u{fffd}1        20.5",
                "-          1",
                "(2 rows of 9 looked at, 3 ms, 2 ms behind live)"
            ]
        );
    }
}
