//! What a statement may do: read the two tables with functions that are on a list, and nothing else (rule P5).

use std::path::Path;
use std::sync::Arc;

use rusqlite::config::DbConfig;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::limits::Limit;
use rusqlite::{Connection, OpenFlags, Result};

use super::scan::Shared;
use super::{moment, sums, table, texts};

/// The longest statement, in bytes.
pub(crate) const STATEMENT_BYTES_MAX: usize = 32 * 1024;

/// How many steps of SQLite's machine there are between two looks at the budget: about 50 microseconds.
const STEPS_BETWEEN_LOOKS: i32 = 1000;

/// The tables that may be read. The last two take JSON apart, row by row.
const TABLES: [&str; 4] = ["calls", "audit_log", "json_each", "json_tree"];

/// The functions that may be called. Not among them: whatever reads or loads files, tells of the machine, or makes
/// texts of any length out of nothing.
const FUNCTIONS: &str = "-> ->> abs avg ceil ceiling char coalesce concat concat_ws count cume_dist current_date \
    current_time current_timestamp date datetime dense_rank first_value floor format glob group_concat hex ifnull iif \
    if instr json json_array json_array_length json_extract json_group_array json_group_object json_object \
    json_quote json_type json_valid julianday lag last_value lead length like likelihood likely lower ltrim max min mod \
    nth_value ntile nullif octet_length percent_rank pow power printf quote rank replace round row_number rtrim sign sqrt \
    strftime string_agg substr substring sum time timediff total trim trunc typeof unicode unixepoch unlikely upper";

/// What a query may use of the machine, for the whole process.
pub(super) struct Memory<'a> {
    pub(super) bytes_max: u64,
    /// Where sorting goes that does not fit.
    pub(super) temp_dir: &'a Path,
}

/// An empty database in memory with the two tables, in which nothing but reading is possible.
pub(super) fn open(shared: &Arc<Shared>, memory: &Memory<'_>) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_in_memory_with_flags(flags)?;
    settings(&connection, memory)?;
    limits(&connection)?;
    sums::register(&connection)?;
    texts::register(&connection)?;
    connection.create_collation(moment::COLLATION, moment::compare)?;
    for (name, with_amendments) in [("calls", false), ("audit_log", true)] {
        let of = table::Of { shared: Arc::clone(shared), with_amendments };
        connection.create_module(name, table::MODULE, Some(of))?;
    }
    let budget = Arc::clone(shared);
    connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || !budget.budget.may_go_on()))?;
    connection.authorizer(Some(judge))?;
    Ok(connection)
}

/// Whatever takes a `PRAGMA`, before the authorizer refuses them all. The heap's limit holds for the process.
fn settings(connection: &Connection, memory: &Memory<'_>) -> Result<()> {
    connection.pragma_update(None, "hard_heap_limit", i64::try_from(memory.bytes_max).unwrap_or(i64::MAX))?;
    connection.pragma_update(None, "temp_store_directory", memory.temp_dir.to_string_lossy())?;
    connection.pragma_update(None, "temp_store", "FILE")?;
    // In KiB: what a sort keeps in memory before it writes.
    connection.pragma_update(None, "cache_size", -8192)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    Ok(())
}

fn limits(connection: &Connection) -> Result<()> {
    let number = |bytes: usize| i32::try_from(bytes).unwrap_or(i32::MAX);
    for (limit, most) in [
        (Limit::SQLITE_LIMIT_LENGTH, number(texts::TEXT_BYTES_MAX)),
        (Limit::SQLITE_LIMIT_SQL_LENGTH, number(STATEMENT_BYTES_MAX.saturating_mul(2))),
        (Limit::SQLITE_LIMIT_COLUMN, 200),
        (Limit::SQLITE_LIMIT_EXPR_DEPTH, 100),
        (Limit::SQLITE_LIMIT_COMPOUND_SELECT, 20),
        (Limit::SQLITE_LIMIT_VDBE_OP, 25_000),
        (Limit::SQLITE_LIMIT_FUNCTION_ARG, 40),
        (Limit::SQLITE_LIMIT_ATTACHED, 0),
        (Limit::SQLITE_LIMIT_VARIABLE_NUMBER, 1),
        (Limit::SQLITE_LIMIT_TRIGGER_DEPTH, 0),
        (Limit::SQLITE_LIMIT_WORKER_THREADS, 0),
    ] {
        connection.set_limit(limit, most)?;
    }
    Ok(())
}

/// Everything is refused that is not on a list.
#[expect(clippy::wildcard_enum_match_arm, reason = "what is not known is refused")]
fn judge(context: AuthContext<'_>) -> Authorization {
    let is_allowed = match context.action {
        AuthAction::Select | AuthAction::Recursive => true,
        AuthAction::Read { table_name, column_name } => {
            TABLES.contains(&table_name) || column_name.is_empty() && !is_real(table_name)
        }
        AuthAction::Function { function_name } => is_listed(function_name),
        _ => false,
    };
    if is_allowed { Authorization::Allow } else { Authorization::Deny }
}

/// Whether a name of which no column is read can be a table. Else it is one of the statement's own, as in
/// `WITH x AS (…) SELECT COUNT(*) FROM x`, which SQLite asks about too.
fn is_real(table: &str) -> bool {
    let table = table.to_ascii_lowercase();
    ["sqlite_", "pragma_", "fts", "dbstat"].iter().any(|beginning| table.starts_with(beginning))
}

fn is_listed(function: &str) -> bool {
    FUNCTIONS.split_ascii_whitespace().any(|listed| listed.eq_ignore_ascii_case(function))
}
