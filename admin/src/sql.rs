//! SQL over the audit: one read-only statement in an empty SQLite database whose two tables are the rows of the store.
//!
//! A query has a connection of its own, which ends with it: nothing that a statement does can outlive it. What it may
//! read and call stands in [`guard`], what it may use in [`budget`], what a scan does by itself in [`scan`].

mod answer;
mod budget;
mod columns;
mod guard;
mod moment;
mod saved;
mod scan;
mod sums;
mod table;
mod texts;
mod tokens;
mod value;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use keybrake_proto::config::Audit;
use rusqlite::{Connection, Error, ErrorCode, Statement};

pub(crate) use answer::Answer;
pub(crate) use budget::Stop;
pub(crate) use guard::STATEMENT_BYTES_MAX;
pub(crate) use saved::{SAVED, Saved, find as find_saved, names as saved_names};
pub(crate) use value::Cell;

use self::budget::Budget;
use self::guard::Memory;
use self::scan::Shared;
use crate::history::{History, HistoryError, Snapshot};

/// The longest answer, in bytes of its values; the command line reads answers of twice that.
const ANSWER_BYTES_MAX: usize = 24 * 1024 * 1024;

/// The stack of a query's thread: SQLite's parser and its JSON functions recurse.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    /// One statement.
    pub(crate) sql: String,
    /// The value of `:since`, where it has one.
    pub(crate) since: String,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum SqlError {
    /// The statement cannot be understood, or asks for what is not there.
    Invalid(String),
    /// It asks for something else than reading the tables.
    NotAllowed(String),
    /// It was stopped.
    Stopped(Stop),
    /// It needs more memory than it may have.
    Memory,
    /// A value, a text or the statement's own program is larger than it may be.
    TooLarge(String),
    /// The rows cannot be read.
    History(HistoryError),
    /// A fault of this program or of the machine.
    Internal(String),
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SqlError::Invalid(problem) => f.write_str(problem),
            SqlError::NotAllowed(problem) => write!(
                f,
                "{problem}: a query may only read the tables calls and audit_log, in one statement; docs/audit.md \
                 lists the functions"
            ),
            SqlError::Stopped(Stop::Time) => f.write_str(
                "stopped: the query took longer than audit.query_timeout_s; narrow it by ts, or raise the limit",
            ),
            SqlError::Stopped(Stop::Temp) => f.write_str(
                "stopped: the query put more aside than audit.query_temp_bytes_max; narrow it by ts, or raise the limit",
            ),
            SqlError::Stopped(Stop::Gone) => f.write_str("stopped: whoever asked has gone"),
            SqlError::Memory => f.write_str(
                "stopped: the query needs more memory than audit.query_memory_bytes_max; narrow it, or raise the limit \
                 and restart",
            ),
            SqlError::TooLarge(problem) => write!(f, "{problem}: a text of a query has at most 256 KiB"),
            SqlError::History(error) => error.fmt(f),
            SqlError::Internal(problem) => write!(f, "the query broke off ({problem}); please report this"),
        }
    }
}

impl std::error::Error for SqlError {}

/// Asks questions of one history.
pub(crate) struct Sql {
    history: Arc<History>,
    limits: Audit,
    temp_dir: PathBuf,
}

impl Sql {
    /// Over `history`, within `limits`; what does not fit into memory goes below `data_dir`.
    pub(crate) fn new(history: Arc<History>, limits: Audit, data_dir: &Path) -> Sql {
        Sql { history, limits, temp_dir: data_dir.join("admin-queries") }
    }

    /// How long a query may run.
    pub(crate) const fn time(&self) -> Duration {
        Duration::from_secs(self.limits.query_timeout_s)
    }

    /// Answers `question` on a thread of its own, at the lowest priority: no query shall take a core from a worker.
    /// Blocks until it has. `is_cancelled` ends it early.
    pub(crate) fn ask(
        &self,
        question: &Question,
        is_cancelled: &Arc<AtomicBool>,
    ) -> Result<Answer, SqlError> {
        crate::token::make_dir(&self.temp_dir).map_err(|failure| SqlError::Internal(failure.to_string()))?;
        let builder = std::thread::Builder::new().name("query".to_owned()).stack_size(STACK_BYTES);
        std::thread::scope(|scope| {
            let run = || {
                lower_priority();
                self.run(question, is_cancelled)
            };
            let thread =
                builder.spawn_scoped(scope, run).map_err(|error| SqlError::Internal(error.to_string()))?;
            thread.join().unwrap_or_else(|_| Err(SqlError::Internal("a panic".to_owned())))
        })
    }

    fn run(&self, question: &Question, is_cancelled: &Arc<AtomicBool>) -> Result<Answer, SqlError> {
        let started = Instant::now();
        check(&question.sql)?;
        // Open files are known by their whole paths.
        let temp_dir = self.temp_dir.canonicalize().unwrap_or_else(|_| self.temp_dir.clone());
        let budget = Budget::new(
            self.time(),
            temp_dir.clone(),
            self.limits.query_temp_bytes_max,
            Arc::clone(is_cancelled),
        );
        let snapshot = match self.history.snapshot(&|| budget.may_go_on()) {
            Ok(snapshot) => snapshot,
            Err(HistoryError::Stopped) => {
                return Err(SqlError::Stopped(budget.stopped().unwrap_or(Stop::Time)));
            }
            Err(error) => return Err(SqlError::History(error)),
        };
        let newest = snapshot.as_ref().and_then(Snapshot::newest);
        let age = snapshot.as_ref().map(Snapshot::age);
        let shared = Arc::new(Shared::new(snapshot, budget));
        let memory = Memory { bytes_max: self.limits.query_memory_bytes_max, temp_dir: &temp_dir };
        let answered = guard::open(&shared, &memory)
            .and_then(|connection| self.answer(&connection, question))
            .map_err(|error| why(&shared, error));
        let (scanned, unreadable, passed) = shared.budget.counted();
        answered.map(|answer| Answer {
            scanned,
            unreadable,
            passed,
            newest,
            age,
            elapsed: started.elapsed(),
            ..answer
        })
    }

    fn answer(&self, connection: &Connection, question: &Question) -> Result<Answer, Error> {
        let mut statement = connection.prepare(&question.sql)?;
        let columns = unique(statement.column_names());
        if let Some(rewritten) = tokens::with_columns(&question.sql) {
            // Where `metadata` is no column of ours, there is no such column, and the statement stays as it is.
            if let Ok(rewritten) = connection.prepare(&rewritten) {
                statement = rewritten;
            }
        }
        bind(&mut statement, question)?;
        let rows_max = usize::try_from(self.limits.query_rows_max).unwrap_or(usize::MAX);
        let mut answer = Answer { columns, ..Answer::default() };
        let (width, mut bytes) = (answer.columns.len(), 0_usize);
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            if answer.rows.len() >= rows_max || bytes >= ANSWER_BYTES_MAX {
                answer.is_truncated = true;
                break;
            }
            let cells =
                (0..width).map(|at| row.get_ref(at).map(Cell::of)).collect::<Result<Vec<Cell>, Error>>()?;
            bytes = cells.iter().map(Cell::bytes).fold(bytes, usize::saturating_add);
            answer.rows.push(cells);
        }
        Ok(answer)
    }
}

/// What needs no SQLite to be refused.
fn check(sql: &str) -> Result<(), SqlError> {
    if sql.len() > STATEMENT_BYTES_MAX {
        return Err(SqlError::Invalid(format!("the statement has more than {STATEMENT_BYTES_MAX} bytes")));
    }
    if sql.contains('\0') {
        return Err(SqlError::Invalid("the statement has a zero byte".to_owned()));
    }
    if tokens::is_several(sql) {
        return Err(SqlError::NotAllowed("this is more than one statement".to_owned()));
    }
    Ok(())
}

/// Gives `:since` its value; there is no other parameter.
fn bind(statement: &mut Statement<'_>, question: &Question) -> Result<(), Error> {
    if statement.column_count() == 0 || !statement.readonly() {
        return Err(Error::InvalidQuery);
    }
    match (statement.parameter_count(), statement.parameter_index(":since")?) {
        (0, _) => Ok(()),
        (1, Some(index)) => statement.raw_bind_parameter(index, &question.since),
        (_, _) => Err(Error::InvalidParameterName("?".to_owned())),
    }
}

/// Column names, those that are there already with a number behind them.
fn unique<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut unique: Vec<String> = Vec::new();
    for name in names {
        let numbered = (2..).map(|number: usize| format!("{name}_{number}"));
        let mut candidates = std::iter::once(name.to_owned()).chain(numbered);
        let free = candidates.find(|candidate| !unique.contains(candidate));
        unique.push(free.unwrap_or_default());
    }
    unique
}

/// What an error of SQLite means.
#[expect(clippy::wildcard_enum_match_arm, reason = "all other errors say themselves what they are")]
fn why(shared: &Shared, error: Error) -> SqlError {
    if let Some(stop) = shared.budget.stopped() {
        return SqlError::Stopped(stop);
    }
    if let Some(error) = shared.take_failure() {
        return SqlError::History(error);
    }
    let text = match &error {
        Error::SqliteFailure(_, Some(text)) | Error::SqlInputError { msg: text, .. } => text.clone(),
        Error::MultipleStatement => {
            return SqlError::NotAllowed("this is more than one statement".to_owned());
        }
        Error::InvalidQuery => {
            return SqlError::NotAllowed("this statement answers nothing, or writes".to_owned());
        }
        Error::InvalidParameterName(_) => {
            return SqlError::Invalid("write values in place of parameters; there is only :since".to_owned());
        }
        other => other.to_string(),
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::AuthorizationForStatementDenied) => SqlError::NotAllowed(text),
        // A virtual table without writes says so before the authorizer is asked.
        Some(_) if text.contains("may not be modified") => SqlError::NotAllowed(text),
        Some(ErrorCode::OutOfMemory) => SqlError::Memory,
        Some(ErrorCode::TooBig) => SqlError::TooLarge(text),
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            SqlError::Internal(format!("its temporary files: {text}"))
        }
        Some(_) | None => SqlError::Invalid(text),
    }
}

/// Of this thread alone, and for good. Nothing depends on it, so a kernel that refuses it is no fault.
fn lower_priority() {
    const LOWEST: i32 = 19;
    rustix::process::setpriority_process(Some(rustix::thread::gettid()), LOWEST).ok();
}

#[cfg(test)]
mod tests;
