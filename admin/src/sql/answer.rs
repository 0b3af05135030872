//! What a query answers, and how it is written.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use keybrake_proto::time::UnixMicros;
use serde_json::{Map, Value};

use super::value::Cell;
use crate::history::write_csv_cell;

/// Rows under names, and what it took to find them.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Each name once.
    pub(crate) columns: Vec<String>,
    /// A value for each column.
    pub(crate) rows: Vec<Vec<Cell>>,
    /// There were more rows than one answer may have.
    pub(crate) is_truncated: bool,
    /// Rows of the audit that were looked at.
    pub(crate) scanned: u64,
    /// Those of them that cannot be read: damaged, or of a newer version.
    pub(crate) unreadable: u64,
    /// Those of them that the scan gave to SQLite; it left the others out by itself.
    pub(crate) passed: u64,
    /// The newest row that was there.
    pub(crate) newest: Option<u64>,
    /// When its exchange had ended, and when that was looked up.
    pub(crate) age: Option<(Option<UnixMicros>, Instant)>,
    /// How long it took.
    pub(crate) elapsed: Duration,
}

impl Answer {
    /// Each row as a JSON object.
    pub(crate) fn objects(&self) -> impl Iterator<Item = Value> {
        self.rows.iter().map(|row| {
            let cells = self.columns.iter().cloned().zip(row.iter().map(Cell::json));
            Value::Object(cells.collect::<Map<String, Value>>())
        })
    }

    /// One JSON object a line.
    pub(crate) fn ndjson(&self) -> String {
        let mut text = String::new();
        for row in self.objects() {
            // A String always takes it.
            writeln!(text, "{row}").unwrap_or_default();
        }
        text
    }

    /// A head and one line a row (RFC 4180); what looks like a formula is a text (rule P4), column names included.
    pub(crate) fn csv(&self) -> String {
        let mut text = String::new();
        let head = self.columns.iter().map(|name| Value::from(name.as_str())).collect::<Vec<Value>>();
        write_line(&mut text, &head);
        for row in &self.rows {
            write_line(&mut text, &row.iter().map(Cell::json).collect::<Vec<Value>>());
        }
        text
    }
}

fn write_line(text: &mut String, cells: &[Value]) {
    for (at, cell) in cells.iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        write_csv_cell(text, cell);
    }
    text.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_csv_of_a_query_runs_no_formula_and_keeps_numbers() {
        let answer = Answer {
            columns: vec!["=cmd()".to_owned(), "n".to_owned()],
            rows: vec![
                vec![Cell::Text("=HYPERLINK(\"x\")".to_owned()), Cell::Integer(-5)],
                vec![Cell::Text("a,b".to_owned()), Cell::Real(0.1 + 0.2)],
                vec![Cell::Null, Cell::Text("-1".to_owned())],
            ],
            ..Answer::default()
        };
        let expected = "'=cmd(),n\r\n\"'=HYPERLINK(\"\"x\"\")\",-5\r\n\"a,b\",0.3\r\n,'-1\r\n";
        assert_eq!(answer.csv(), expected);
        assert_eq!(answer.ndjson().lines().nth(1), Some(r#"{"=cmd()":"a,b","n":0.3}"#));
    }
}
