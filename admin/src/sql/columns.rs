//! The columns of `calls` and `audit_log`: one table, one line a column.

use keybrake_proto::audit::{AuditHead, AuditRow};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;
use serde_json::Value;

use super::moment;
use super::value::{Cell, usd};
use crate::history::Amendment;

/// A row as it is stored, and what an operator said of it later.
pub(super) struct Stored<'a> {
    pub(super) sequence: u64,
    pub(super) row: AuditRow<'a>,
    pub(super) amendment: Option<&'a Amendment>,
}

impl Stored<'_> {
    /// What it counts: what an operator said, else what was written. An amendment's own amount counts at the row that it
    /// amends, so that sums over all rows count it once.
    fn amount(&self) -> Micros {
        match (self.amendment, self.row.amends) {
            (Some(amendment), _) => amendment.amount,
            (None, Some(_)) => Micros::ZERO,
            (None, None) => self.row.amount,
        }
    }

    /// An entry of the metadata; of two with one name the later one counts, as in [`crate::history::Row`].
    fn entry(&self, name: &str) -> Option<&str> {
        self.row.metadata.iter().rev().find(|(found, _)| *found == name).map(|(_, value)| *value)
    }

    fn metadata(&self) -> String {
        let entries = self.row.metadata.iter();
        let entries = entries.map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
        Value::Object(entries.collect()).to_string()
    }

    /// A row of which only the head was read.
    pub(super) fn of_head<'a>(sequence: u64, head: &AuditHead<'a>) -> Stored<'a> {
        let row = AuditRow {
            ts: head.ts,
            id: head.id,
            vault_key_id: head.vault_key_id,
            label: head.label,
            agent_run_label: head.agent_run_label,
            vendor: head.vendor,
            method: head.method,
            endpoint: head.endpoint,
            path: head.path,
            status: head.status,
            policy_check_result: head.policy_check_result,
            outcome: head.outcome,
            amount: Micros::ZERO,
            quote: Micros::ZERO,
            currency: None,
            amount_minor: None,
            vendor_request_id: None,
            idempotency_key: None,
            latency_us: 0,
            overhead_us: 0,
            client_addr: "",
            user_agent: None,
            metadata: Vec::new(),
            amends: None,
            account: None,
            parent_key_id: None,
        };
        Stored { sequence, row, amendment: None }
    }
}

/// Where a column's value comes from, and with it how SQL sees it.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// A text.
    Text(for<'r> fn(&'r Stored<'_>) -> Option<&'r str>),
    /// A key's id.
    Key(fn(&Stored<'_>) -> Option<KeyId>),
    /// A whole number.
    Integer(fn(&Stored<'_>) -> Option<u64>),
    /// USD.
    Usd(fn(&Stored<'_>) -> Micros),
    /// An instant, as a text that sorts by time.
    Time(fn(&Stored<'_>) -> UnixMicros),
    /// An object of texts, as JSON.
    Json(fn(&Stored<'_>) -> String),
}

impl Source {
    /// The type in the table's declaration.
    fn declared(self) -> &'static str {
        match self {
            Source::Text(_) | Source::Key(_) | Source::Json(_) => "TEXT",
            Source::Integer(_) => "INTEGER",
            Source::Usd(_) => "REAL",
            Source::Time(_) => "TEXT COLLATE keybrake_time",
        }
    }

    /// The value of `row`.
    pub(super) fn cell(self, row: &Stored<'_>) -> Cell {
        match self {
            Source::Text(of) => of(row).map_or(Cell::Null, |text| Cell::Text(text.to_owned())),
            Source::Key(of) => of(row).map_or(Cell::Null, |id| Cell::Text(id.to_string())),
            Source::Integer(of) => {
                of(row).map_or(Cell::Null, |number| Cell::Integer(i64::try_from(number).unwrap_or(i64::MAX)))
            }
            Source::Usd(of) => usd(i128::from(of(row).as_u64())),
            Source::Time(of) => Cell::Text(moment::canonical(of(row))),
            Source::Json(of) => Cell::Text(of(row)),
        }
    }
}

/// One column.
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) source: Source,
    /// Its value is in an [`AuditHead`]: a row that is filtered away by it is not read further.
    pub(super) in_head: bool,
    /// It is for the rewriting of statements alone and not part of `*`.
    pub(super) is_hidden: bool,
}

const fn of_head(name: &'static str, source: Source) -> Column {
    Column { name, source, in_head: true, is_hidden: false }
}

const fn column(name: &'static str, source: Source) -> Column {
    Column { name, source, in_head: false, is_hidden: false }
}

const fn hidden(name: &'static str, source: Source) -> Column {
    Column { name, source, in_head: false, is_hidden: true }
}

use Source::{Integer, Json, Key, Text, Time, Usd};

/// The columns, in the order of `SELECT *`. To add one, add a line: the declaration, the push-down and the help follow.
/// At most 63 of them: SQLite tells which are used by the bits of a number.
pub(super) const COLUMNS: &[Column] = &[
    of_head("sequence", Integer(|stored| Some(stored.sequence))),
    of_head("ts", Time(|stored| stored.row.ts)),
    of_head("id", Text(|stored| Some(stored.row.id))),
    of_head("vault_key_id", Key(|stored| stored.row.vault_key_id)),
    column("parent_key_id", Key(|stored| stored.row.parent_key_id)),
    of_head("label", Text(|stored| stored.row.label)),
    of_head("agent_run_label", Text(|stored| stored.row.agent_run_label)),
    column("agent_id", Text(|stored| stored.entry("agent_id"))),
    column("agent_name", Text(|stored| stored.entry("agent_name"))),
    column("agent_run_id", Text(|stored| stored.entry("agent_run_id"))),
    column("crew_run_id", Text(|stored| stored.entry("crew_run_id"))),
    of_head("vendor", Text(|stored| Some(stored.row.vendor))),
    column("account", Text(|stored| stored.row.account)),
    of_head("method", Text(|stored| Some(stored.row.method.as_str()))),
    of_head("endpoint", Text(|stored| Some(stored.row.endpoint))),
    of_head("path", Text(|stored| Some(stored.row.path))),
    of_head("status", Integer(|stored| Some(stored.row.status.into()))),
    of_head("policy_check_result", Text(|stored| Some(stored.row.policy_check_result))),
    of_head("outcome", Text(|stored| Some(stored.row.outcome.as_str()))),
    column("amount_usd", Usd(|stored| stored.amount())),
    column("amount", Usd(|stored| stored.amount())),
    column("amount_micros", Integer(|stored| Some(stored.amount().as_u64()))),
    column("quote_usd", Usd(|stored| stored.row.quote)),
    column("quote_micros", Integer(|stored| Some(stored.row.quote.as_u64()))),
    column("currency", Text(|stored| stored.row.currency)),
    column("amount_minor", Integer(|stored| stored.row.amount_minor)),
    column("vendor_request_id", Text(|stored| stored.row.vendor_request_id)),
    column("idempotency_key", Text(|stored| stored.row.idempotency_key)),
    column("latency_us", Integer(|stored| Some(stored.row.latency_us))),
    column("overhead_us", Integer(|stored| Some(stored.row.overhead_us))),
    column("client_addr", Text(|stored| Some(stored.row.client_addr))),
    column("user_agent", Text(|stored| stored.row.user_agent)),
    column("metadata", Json(|stored| stored.metadata())),
    column("amends", Text(|stored| stored.row.amends)),
    column("amended_by", Text(|stored| stored.amendment.map(|amendment| amendment.id.as_str()))),
    column("written_micros", Integer(|stored| Some(stored.row.amount.as_u64()))),
    of_head("ts_micros", Integer(|stored| Some(stored.row.ts.0))),
    hidden("metadata.agent_id", Text(|stored| stored.entry("agent_id"))),
    hidden("metadata.agent_name", Text(|stored| stored.entry("agent_name"))),
    hidden("metadata.agent_run_id", Text(|stored| stored.entry("agent_run_id"))),
    hidden("metadata.crew_run_id", Text(|stored| stored.entry("crew_run_id"))),
];

const _: () = assert!(COLUMNS.len() <= 63);

/// The column at `at`.
pub(super) fn at(at: usize) -> Option<&'static Column> {
    COLUMNS.get(at)
}

/// Where the column `name` is.
#[cfg(test)]
fn position(name: &str) -> Option<usize> {
    COLUMNS.iter().position(|column| column.name == name)
}

/// The declaration that SQLite wants of a virtual table.
pub(super) fn declaration() -> String {
    let columns = COLUMNS.iter().map(|column| {
        let hidden = if column.is_hidden { " HIDDEN" } else { "" };
        format!("\"{}\" {}{hidden}", column.name, column.source.declared())
    });
    format!("CREATE TABLE x({})", columns.collect::<Vec<String>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_row_is_a_column_of_sql() {
        for name in crate::history::COLUMNS {
            let found = position(name).and_then(at);
            assert!(found.is_some_and(|column| !column.is_hidden), "add a line for `{name}`");
        }
    }

    #[test]
    fn every_column_is_there_once() {
        for (at, column) in COLUMNS.iter().enumerate() {
            assert_eq!(position(column.name), Some(at), "{}", column.name);
        }
    }
}
