//! Rule P5: statements that mean harm are refused or stopped, and the next query is answered.

use std::time::{Duration, Instant};

use super::*;

/// What must become of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Refused before it runs.
    Refused,
    /// Stopped while it runs, or refused as too large.
    Stopped,
    /// Harmless: an answer of bounded size.
    Answered,
}
use End::{Answered, Refused, Stopped};

const STATEMENTS: [(End, &str); 64] = [
    // Writes.
    (Refused, "DELETE FROM calls"),
    (Refused, "UPDATE calls SET amount_usd = 0"),
    (Refused, "INSERT INTO calls DEFAULT VALUES"),
    (Refused, "REPLACE INTO audit_log(id) VALUES ('x')"),
    (Refused, "CREATE TABLE x(a)"),
    (Refused, "CREATE TEMP TABLE x AS SELECT * FROM calls"),
    (Refused, "CREATE VIEW x AS SELECT 1"),
    (Refused, "CREATE TRIGGER x AFTER INSERT ON calls BEGIN SELECT 1; END"),
    (Refused, "CREATE VIRTUAL TABLE x USING fts5(a)"),
    (Refused, "CREATE VIRTUAL TABLE x USING dbstat"),
    (Refused, "DROP TABLE calls"),
    (Refused, "ALTER TABLE calls RENAME TO x"),
    (Refused, "WITH x AS (SELECT 1) DELETE FROM calls"),
    (Refused, "VACUUM INTO '/tmp/keybrake-stolen.db'"),
    (Refused, "VACUUM"),
    (Refused, "REINDEX"),
    (Refused, "ANALYZE"),
    (Refused, "BEGIN EXCLUSIVE"),
    (Refused, "COMMIT"),
    (Refused, "SAVEPOINT x"),
    // Other databases, files, settings, extensions.
    (Refused, "ATTACH '/etc/passwd' AS x"),
    (Refused, "ATTACH 'file:x?mode=memory&cache=shared' AS x"),
    (Refused, "DETACH main"),
    (Refused, "PRAGMA query_only = 0"),
    (Refused, "PRAGMA writable_schema = 1"),
    (Refused, "PRAGMA hard_heap_limit = 0"),
    (Refused, "SELECT * FROM pragma_database_list"),
    (Refused, "SELECT * FROM pragma_function_list"),
    (Refused, "SELECT load_extension('/tmp/x.so')"),
    (Refused, "SELECT readfile('/etc/passwd')"),
    (Refused, "SELECT writefile('/tmp/x', 'y')"),
    (Refused, "SELECT edit('x')"),
    (Refused, "SELECT fts3_tokenizer('simple')"),
    (Refused, "SELECT sqlite_compileoption_get(1)"),
    (Refused, "SELECT * FROM sqlite_master"),
    (Refused, "SELECT COUNT(*) FROM sqlite_schema"),
    (Refused, "SELECT * FROM sqlite_temp_master"),
    (Refused, "SELECT * FROM dbstat"),
    (Refused, "COPY calls TO '/tmp/x'"),
    // More than one, and what hides it.
    (Refused, "SELECT 1; DROP TABLE calls"),
    (Refused, "SELECT 1; SELECT 2"),
    (Refused, "SELECT 1 /* ; */ ; -- x\n PRAGMA query_only = 0"),
    (Refused, "/* x */"),
    (Refused, ""),
    (Refused, "SELECT ?1"),
    (Refused, "SELECT 'a\0b'"),
    // Without end.
    (Stopped, "WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT MAX(n) FROM x"),
    (Stopped, "WITH RECURSIVE x(n) AS (SELECT 1 UNION SELECT n + 1 FROM x) SELECT COUNT(*) FROM x"),
    (Answered, "WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT n FROM x"),
    (Stopped, "SELECT COUNT(*) FROM calls a, calls b, calls c, calls d, calls e, calls f"),
    (
        Stopped,
        "SELECT COUNT(DISTINCT a.id || b.ts || c.ts || d.ts) FROM calls a, calls b, calls c, calls d, calls e",
    ),
    (Stopped, "SELECT a.ts FROM calls a, calls b, calls c, calls d, calls e ORDER BY a.id || b.ts || c.ts"),
    // Texts out of nothing.
    (Refused, "SELECT randomblob(1000000000)"),
    (Refused, "SELECT zeroblob(1000000000)"),
    (Stopped, "SELECT printf('%.1000000000d', 1)"),
    (Stopped, "SELECT length(format('%*s', 2000000000, 'x'))"),
    (Stopped, "SELECT group_concat(a.metadata || b.metadata) FROM calls a, calls b, calls c"),
    (
        Stopped,
        "SELECT replace(replace(replace(printf('%9999s', ''), ' ', '1234567890'), '1', '1234567890'), '2', '1234567890')",
    ),
    (
        Stopped,
        "WITH RECURSIVE x(s) AS (SELECT 'aaaaaaaa' UNION ALL SELECT s || s FROM x) SELECT MAX(length(s)) FROM x",
    ),
    (Stopped, "SELECT json_group_array(a.metadata) FROM calls a, calls b, calls c"),
    // What takes long within one function.
    (Answered, "SELECT printf('%200000s', 'b') LIKE '%a%a%a%a%a%a%a%a%a%a%a%a%a%c'"),
    (
        Answered,
        "SELECT instr(replace(printf('%200000s', ''), ' ', 'a'), replace(printf('%99999s', 'b'), ' ', 'a'))",
    ),
    (Answered, "SELECT length(trim(replace(printf('%200000s', ''), ' ', 'a'), printf('%200000s', 'a')))"),
    (Refused, "SELECT 'aaaaaaaaaaaaaaaaaaaaaaaaaaaa' REGEXP '(a+)+$'"),
];

/// Limits that a busy machine reaches as soon as an idle one.
fn limits() -> Audit {
    Audit {
        query_timeout_s: 1,
        query_rows_max: 1000,
        query_memory_bytes_max: 24 * 1024 * 1024,
        query_temp_bytes_max: 16 * 1024 * 1024,
    }
}

fn tight() -> Asked {
    Asked::with(|_| limits())
}

fn check(asked: &Asked, end: End, sql: &str) {
    let shown: String = sql.chars().take(90).collect();
    let answered = asked.try_ask(sql);
    let said =
        answered.as_ref().map_or_else(ToString::to_string, |answer| format!("{} rows", answer.rows.len()));
    let found = match answered {
        Ok(answer) => {
            assert!(answer.rows.len() <= 1000, "{shown}");
            Answered
        }
        Err(SqlError::Invalid(_) | SqlError::NotAllowed(_)) => Refused,
        Err(SqlError::Stopped(_) | SqlError::Memory | SqlError::TooLarge(_)) => Stopped,
        Err(error @ (SqlError::History(_) | SqlError::Internal(_))) => panic!("{shown}: {error}"),
    };
    assert_eq!(found, end, "{shown}: {said}");
    asked.check("SELECT COUNT(*) FROM calls", "60");
}

#[test]
fn p5_hostile_statements_are_refused_or_stopped_and_the_next_query_is_answered() {
    let asked = tight();
    for (end, sql) in STATEMENTS {
        let started = Instant::now();
        check(&asked, end, sql);
        // A hundred times the limit: what has no end is told from a busy machine.
        assert!(started.elapsed() < Duration::from_secs(100), "{sql}");
    }
}

#[test]
fn p5_statements_of_hostile_size_are_refused() {
    let asked = tight();
    let repeat = |part: &str, times: usize| part.repeat(times);
    for sql in [
        format!("SELECT {}1{}", repeat("(", 5000), repeat(")", 5000)),
        format!("SELECT 1{}", repeat("+1", 5000)),
        format!("SELECT 1{}", repeat(" UNION ALL SELECT 1", 100)),
        format!("SELECT {}", repeat("NOT ", 5000)),
        format!("SELECT '{}'", repeat("x", 40_000)),
        format!("SELECT {}1", repeat("1,", 300)),
        format!("SELECT 1{}", repeat(";SELECT 1", 3000)),
        format!("SELECT max({}1)", repeat("1,", 60)),
        format!("SELECT COUNT(*) FROM calls{}", repeat(", calls", 70)),
        format!("SELECT json('{}')", repeat("[", 3000)),
        format!("SELECT CASE {} END", repeat("WHEN 1 THEN CASE 1 ", 200)),
    ] {
        check(&asked, Refused, &sql);
    }
    // Harmless, if long.
    check(&asked, Answered, &format!("SELECT 1 {}", repeat(";", 20_000)));
    check(&asked, Answered, &format!("SELECT 1 IN ({}1)", repeat("1,", 5000)));
}

#[test]
fn p5_a_pattern_has_a_length_and_a_like_within_it_an_end() {
    let asked = tight();
    let pattern = "%a".repeat(240);
    let started = Instant::now();
    let text = "replace(printf('%200000s', ''), ' ', 'a')";
    asked.check(
        &format!("SELECT {text} LIKE '{pattern}b', {text} GLOB '{}b'", pattern.replace('%', "*")),
        "0 0",
    );
    assert!(started.elapsed() < Duration::from_secs(100));
    check(&asked, Refused, &format!("SELECT 'a' LIKE '{}'", "%a".repeat(300)));
}

#[test]
fn p5_a_sort_that_does_not_fit_goes_to_files_that_are_bounded_and_leave_nothing() {
    let asked = Asked::with(|_| Audit { query_timeout_s: 100, ..limits() });
    // 216,000 rows of some 60 bytes fit into the files, though not into a sort's memory.
    let fits =
        "SELECT a.id || b.ts || c.ts AS x FROM calls a, calls b, calls c ORDER BY x LIMIT 1 OFFSET 200000";
    assert_eq!(asked.ask(fits).rows.len(), 1);
    let sql = "SELECT printf('%1000s', a.ts) || b.ts || c.ts AS x FROM calls a, calls b, calls c, calls d ORDER BY x";
    let stopped = asked.try_ask(sql);
    assert!(matches!(stopped, Err(SqlError::Stopped(Stop::Temp))), "{stopped:?}");
    assert_eq!(std::fs::read_dir(&asked.sql.temp_dir).unwrap().count(), 0);
}

#[test]
fn who_goes_away_stops_a_query() {
    let asked = Asked::with(|limits| Audit { query_timeout_s: 600, ..limits });
    let is_cancelled = Arc::new(AtomicBool::new(true));
    let question = Question { sql: STATEMENTS[46].1.to_owned(), since: String::new() };
    let stopped = asked.sql.ask(&question, &is_cancelled);
    assert!(matches!(stopped, Err(SqlError::Stopped(Stop::Gone))), "{stopped:?}");
}
