//! `SUM`, `TOTAL` and `AVG`, exact where amounts are summed.
//!
//! SQLite adds doubles as doubles, so ten times 0.1 is not 1. These take each number for the whole number of
//! micro-dollars that it means (see [`super::value`]) and add those; a number that means none, such as a third, makes
//! the sum one of doubles again. Sums of integers are what they are in SQLite.

use rusqlite::functions::{Aggregate, Context, FunctionFlags, WindowAggregate};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, Result};

use super::value::{Cell, micros_of_real, micros_of_text, usd};

/// What is asked of a sum.
#[derive(Clone, Copy)]
enum Kind {
    Sum,
    Total,
    Average,
}

/// Numbers so far. It can be taken back from, as the frames of window functions do.
#[derive(Default)]
struct Sum {
    /// Numbers, NULL not counted.
    count: i64,
    /// Those of them that are no integers.
    fractions: i64,
    /// Those of them that mean no whole number of micro-dollars.
    inexact: i64,
    /// The exact ones together, in millionths.
    micros: i128,
    /// All together.
    double: f64,
}

/// One number.
struct Term {
    micros: Option<i128>,
    double: f64,
    is_integer: bool,
}

impl Term {
    fn of(value: ValueRef<'_>) -> Option<Term> {
        let of_double = |double: f64| Term { micros: micros_of_real(double), double, is_integer: false };
        match value {
            ValueRef::Null => None,
            ValueRef::Integer(number) => Some(Term {
                micros: i128::from(number).checked_mul(1_000_000),
                double: number as f64,
                is_integer: true,
            }),
            ValueRef::Real(double) => Some(of_double(double)),
            ValueRef::Text(text) => {
                let text = String::from_utf8_lossy(text);
                let micros = micros_of_text(text.trim());
                let double = text.trim().parse().unwrap_or(0.0);
                Some(Term { micros: micros.or_else(|| micros_of_real(double)), ..of_double(double) })
            }
            ValueRef::Blob(_) => Some(of_double(0.0)),
        }
    }
}

impl Sum {
    fn add(&mut self, term: &Term) -> Result<()> {
        self.apply(term, 1)
    }

    /// `sign` is 1 or -1.
    fn apply(&mut self, term: &Term, sign: i64) -> Result<()> {
        let overflow = || Error::UserFunctionError("integer overflow".into());
        let signed = |holds: bool| if holds { sign } else { 0 };
        self.count = self.count.checked_add(sign).ok_or_else(overflow)?;
        self.fractions = self.fractions.checked_add(signed(!term.is_integer)).ok_or_else(overflow)?;
        self.inexact = self.inexact.checked_add(signed(term.micros.is_none())).ok_or_else(overflow)?;
        let micros = term.micros.unwrap_or(0).checked_mul(i128::from(sign)).ok_or_else(overflow)?;
        self.micros = self.micros.checked_add(micros).ok_or_else(overflow)?;
        self.double += term.double * sign as f64;
        Ok(())
    }

    fn result(&self, kind: Kind) -> Result<Cell> {
        let exact = (self.inexact == 0).then_some(self.micros);
        match (kind, self.count, exact) {
            (Kind::Total, 0, _) => Ok(Cell::Real(0.0)),
            (Kind::Sum | Kind::Average, 0, _) => Ok(Cell::Null),
            (Kind::Sum, _, Some(micros)) if self.fractions == 0 => {
                let whole = i64::try_from(micros / 1_000_000);
                whole.map(Cell::Integer).map_err(|_| Error::UserFunctionError("integer overflow".into()))
            }
            (Kind::Sum | Kind::Total, _, Some(micros)) => Ok(usd(micros)),
            (Kind::Sum | Kind::Total, _, None) => Ok(Cell::Real(self.double)),
            (Kind::Average, count, Some(micros)) => Ok(Cell::Real(micros as f64 / (count as f64 * 1e6))),
            (Kind::Average, count, None) => Ok(Cell::Real(self.double / count as f64)),
        }
    }
}

impl Aggregate<Sum, Cell> for Kind {
    fn init(&self, _context: &mut Context<'_>) -> Result<Sum> {
        Ok(Sum::default())
    }

    fn step(&self, context: &mut Context<'_>, sum: &mut Sum) -> Result<()> {
        Term::of(context.get_raw(0)).map_or(Ok(()), |term| sum.add(&term))
    }

    fn finalize(&self, _context: &mut Context<'_>, sum: Option<Sum>) -> Result<Cell> {
        sum.unwrap_or_default().result(*self)
    }
}

impl WindowAggregate<Sum, Cell> for Kind {
    fn value(&self, sum: Option<&mut Sum>) -> Result<Cell> {
        sum.map_or_else(|| Sum::default().result(*self), |sum| sum.result(*self))
    }

    fn inverse(&self, context: &mut Context<'_>, sum: &mut Sum) -> Result<()> {
        Term::of(context.get_raw(0)).map_or(Ok(()), |term| sum.apply(&term, -1))
    }
}

/// Puts them in the place of SQLite's own.
pub(super) fn register(connection: &Connection) -> Result<()> {
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    for (name, kind) in [("sum", Kind::Sum), ("total", Kind::Total), ("avg", Kind::Average)] {
        connection.create_window_function(name, 1, flags, kind)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expression: &str, values: &str, expected: &Cell) {
        let connection = Connection::open_in_memory().unwrap();
        register(&connection).unwrap();
        let sql = format!("WITH t(x) AS (VALUES {values}) SELECT {expression} FROM t");
        let found = connection.query_row(&sql, [], |row| Ok(Cell::of(row.get_ref(0)?))).unwrap();
        assert_eq!(&found, expected, "{sql}");
    }

    #[test]
    fn sums_of_amounts_are_exact() {
        let tenths = ["(0.1)"; 10].join(",");
        check("SUM(x)", &tenths, &Cell::Real(1.0));
        check("SUM(x) = 1", &tenths, &Cell::Integer(1));
        check("TOTAL(x)", &tenths, &Cell::Real(1.0));
        check("SUM(x) - 0.3", "(0.1), (0.2), (NULL)", &Cell::Real(0.0));
        check("SUM(x * 3)", "(0.1), (0.2)", &Cell::Real(0.9));
        check("AVG(x)", "(0.1), (0.2), (NULL)", &Cell::Real(0.15));
        // Each is beyond what a double holds to the micro-dollar.
        let large = "('36028797018.963967'), ('0.000001'), (-36028797018)";
        check("SUM(x)", large, &Cell::Real(0.963_968));
        check("SUM(x)", "('36028797018.963967'), (0.000001)", &Cell::Text("36028797018.963968".to_owned()));
    }

    #[test]
    fn other_sums_are_what_they_are_in_sqlite() {
        check("SUM(x)", "(1), (2)", &Cell::Integer(3));
        check("SUM(DISTINCT x)", "(1), (2), (2)", &Cell::Integer(3));
        check("SUM(x)", "(9223372036854775807), (-1)", &Cell::Integer(i64::MAX - 1));
        check("SUM(x)", "(NULL)", &Cell::Null);
        check("TOTAL(x)", "(NULL)", &Cell::Real(0.0));
        check("AVG(x)", "(1), (2)", &Cell::Real(1.5));
        check("SUM(x)", "(0.25), (1e-9)", &Cell::Real(0.250_000_001));
        check("SUM(x)", "('a'), (x'00'), (2)", &Cell::Real(2.0));
        check("typeof(SUM(x))", "(1e300), (1e300)", &Cell::Text("real".to_owned()));
    }

    #[test]
    fn sums_over_windows_take_back_what_leaves_them() {
        let running = "group_concat(s) FROM (SELECT SUM(x) OVER (ORDER BY x ROWS 1 PRECEDING) AS s";
        let connection = Connection::open_in_memory().unwrap();
        register(&connection).unwrap();
        let sql = format!("WITH t(x) AS (VALUES (0.1), (0.2), (0.7)) SELECT {running} FROM t)");
        let found: String = connection.query_row(&sql, [], |row| row.get(0)).unwrap();
        assert_eq!(found, "0.1,0.3,0.9");
    }

    #[test]
    fn a_sum_that_no_integer_holds_is_an_error() {
        let connection = Connection::open_in_memory().unwrap();
        register(&connection).unwrap();
        let sql = "WITH t(x) AS (VALUES (9223372036854775807), (1)) SELECT SUM(x) FROM t";
        let error = connection.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap_err();
        assert!(error.to_string().contains("integer overflow"), "{error}");
    }
}
