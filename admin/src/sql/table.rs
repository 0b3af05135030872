//! `calls` and `audit_log` as SQLite's virtual tables: what it asks of them, answered by [`super::scan`].

// SQLite casts pointers to these two types to pointers to their first fields; the traits are unsafe for that reason
// alone, and nothing else here is.
#![allow(unsafe_code, reason = "two markers; see above")]

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_int};
use std::marker::PhantomData;
use std::sync::Arc;

use rusqlite::ffi;
use rusqlite::types::Value;
use rusqlite::vtab::{
    Context, Filters, IndexConstraintOp, IndexInfo, Module, VTab, VTabConfig, VTabConnection, VTabCursor,
};

use super::columns::{self, COLUMNS, Source};
use super::moment;
use super::scan::{Plan, Scan, Shared, Test};

/// How many rows SQLite shall think there are. More would make it plan more cleverly than one pass over everything,
/// which is the cheapest there is but for the times and sequences.
const ROWS: f64 = 1e9;

/// The tables.
pub(super) const MODULE: &Module<'static, Calls> = &Module::eponymous_only_module();

/// What a table is made from.
#[derive(Clone)]
pub(super) struct Of {
    pub(super) shared: Arc<Shared>,
    /// Rows of amendments too, as in `audit_log`.
    pub(super) with_amendments: bool,
}

/// One of the tables.
#[repr(C)]
pub(super) struct Calls {
    base: ffi::sqlite3_vtab,
    of: Of,
}

/// One pass over it.
#[repr(C)]
pub(super) struct Cursor {
    base: ffi::sqlite3_vtab_cursor,
    of: Of,
    scan: Option<Scan>,
    phantom: PhantomData<Calls>,
}

// SAFETY: the type is `repr(C)` and begins with `sqlite3_vtab`, as the trait demands.
unsafe impl VTab<'_> for Calls {
    type Aux = Of;
    type Cursor = Cursor;

    fn connect(
        db: &mut VTabConnection,
        of: Option<&Of>,
        _module: &[u8],
        _database: &[u8],
        _table: &[u8],
        _arguments: &[&[u8]],
    ) -> rusqlite::Result<(Cow<'static, CStr>, Calls)> {
        let missing = || rusqlite::Error::ModuleError("made without rows".to_owned());
        let of = of.ok_or_else(missing)?.clone();
        db.config(VTabConfig::Innocuous)?;
        let declaration = CString::new(columns::declaration())?;
        Ok((Cow::Owned(declaration), Calls { base: ffi::sqlite3_vtab::default(), of }))
    }

    fn best_index(&self, info: &mut IndexInfo) -> rusqlite::Result<bool> {
        let (plan, chosen, cost) = plan(info)?;
        for (argument, constraint) in chosen.iter().enumerate() {
            let argument = c_int::try_from(argument).unwrap_or(c_int::MAX).saturating_add(1);
            info.constraint_usage(*constraint).set_argv_index(argument);
        }
        info.set_order_by_consumed(order(info).is_some());
        info.set_idx_str(&plan.text());
        info.set_estimated_cost(cost);
        #[expect(clippy::cast_possible_truncation, reason = "at most a billion")]
        info.set_estimated_rows(cost.max(1.0) as i64);
        Ok(true)
    }

    fn open(&mut self) -> rusqlite::Result<Cursor> {
        Ok(Cursor {
            base: ffi::sqlite3_vtab_cursor::default(),
            of: self.of.clone(),
            scan: None,
            phantom: PhantomData,
        })
    }
}

/// What the scan does by itself, which constraints that are, and what it costs.
fn plan(info: &IndexInfo) -> rusqlite::Result<(Plan, Vec<usize>, f64)> {
    let mut plan = Plan { used: info.col_used(), newest_first: order(info) == Some(true), ..Plan::default() };
    let (mut chosen, mut cost) = (Vec::new(), ROWS);
    for (at, constraint) in info.constraints().enumerate() {
        // The rowid is the sequence.
        let column = usize::try_from(constraint.column()).unwrap_or(0);
        let Some(test) = test(constraint.operator()) else { continue };
        // `IN` would be a pass for each of its values.
        if !constraint.is_usable() || info.is_in_constraint(at)? {
            continue;
        }
        let Some(share) = share(column, test, info.collation(at)?) else { continue };
        cost *= share;
        plan.tests.push((column, test));
        chosen.push(at);
    }
    Ok((plan, chosen, cost))
}

/// Whether the rows are wanted newest first or oldest first, where one of the two is wanted.
fn order(info: &IndexInfo) -> Option<bool> {
    // Column 0 is the sequence and -1 the rowid, which is the same. They are unique: what comes behind has no say.
    let first = info.order_bys().next()?;
    (first.column() <= 0).then(|| first.is_order_by_desc())
}

#[expect(clippy::wildcard_enum_match_arm, reason = "whatever is not known is SQLite's own work")]
fn test(operator: IndexConstraintOp) -> Option<Test> {
    match operator {
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_EQ => Some(Test::Equal),
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_NE => Some(Test::NotEqual),
        // SQLite looks again, so the bound itself may pass.
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GT | IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_GE => {
            Some(Test::AtLeast)
        }
        IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LT | IndexConstraintOp::SQLITE_INDEX_CONSTRAINT_LE => {
            Some(Test::AtMost)
        }
        _ => None,
    }
}

/// The share of the rows that such a test leaves to look at; `None` where a scan does not do it.
fn share(column: usize, test: Test, collation: &str) -> Option<f64> {
    let found = columns::at(column)?;
    let is_binary = collation.eq_ignore_ascii_case("binary");
    match (found.source, test) {
        (Source::Text(_) | Source::Key(_), Test::Equal | Test::NotEqual) => is_binary.then_some(0.9),
        (Source::Time(_), Test::Equal | Test::AtLeast | Test::AtMost) => {
            collation.eq_ignore_ascii_case(moment::COLLATION).then_some(0.1)
        }
        (Source::Integer(_), Test::Equal) if found.name == "sequence" => Some(1.0 / ROWS),
        (Source::Integer(_), Test::Equal | Test::AtLeast | Test::AtMost)
            if matches!(found.name, "sequence" | "ts_micros") =>
        {
            Some(0.1)
        }
        _ => None,
    }
}

// SAFETY: the type is `repr(C)` and begins with `sqlite3_vtab_cursor`, as the trait demands.
unsafe impl VTabCursor for Cursor {
    fn filter(&mut self, _number: c_int, plan: Option<&str>, values: &Filters<'_>) -> rusqlite::Result<()> {
        let unplanned = || rusqlite::Error::ModuleError("no plan".to_owned());
        let plan = plan.and_then(Plan::parse).ok_or_else(unplanned)?;
        let values = (0..values.len()).map(|at| values.get(at)).collect::<rusqlite::Result<Vec<Value>>>()?;
        let mut scan = Scan::new(Arc::clone(&self.of.shared), self.of.with_amendments, &plan, &values)?;
        scan.fill()?;
        self.scan = Some(scan);
        Ok(())
    }

    fn next(&mut self) -> rusqlite::Result<()> {
        self.scan.as_mut().map_or(Ok(()), Scan::advance)
    }

    fn eof(&self) -> bool {
        self.scan.as_ref().is_none_or(Scan::is_at_end)
    }

    fn column(&self, context: &mut Context, column: c_int) -> rusqlite::Result<()> {
        let at = usize::try_from(column).unwrap_or(COLUMNS.len());
        match self.scan.as_ref().and_then(|scan| scan.cell(at)) {
            Some(cell) => context.set_result(cell),
            None => context.set_result(rusqlite::types::Null),
        }
    }

    fn rowid(&self) -> rusqlite::Result<i64> {
        Ok(self.scan.as_ref().map_or(0, Scan::sequence))
    }
}
