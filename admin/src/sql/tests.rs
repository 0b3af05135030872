//! Questions about rows that the test writes, and statements that mean harm.

mod hostile;

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;

use super::*;
use crate::history::tests::{Primary, row};

/// 2026-11-22T00:00:00Z.
const MIDNIGHT: u64 = 1_795_305_600;

/// A store of [`ROWS`] rows and what asks it.
pub(super) struct Asked {
    _dir: tempfile::TempDir,
    primary: Primary,
    sql: Sql,
}

const ROWS: u64 = 60;

const CODES: [&str; 3] = ["allowed", "daily_cap_exceeded", "endpoint_not_allowed"];

/// Row `n`, one a minute: three agents in four runs, a third of the rows denied, 0.1 USD and a bit each.
fn nth(n: u64) -> AuditRow<'static> {
    const IDS: [&str; 3] = ["a1", "a2", "a3"];
    const RUNS: [&str; 4] = ["r1", "r2", "r3", "r4"];
    const KEYS: [&[u8; 16]; 2] = [b"0123456789abcdef", b"fedcba9876543210"];
    let pick = |all: &[&'static str]| *all.iter().cycle().nth(usize::try_from(n).unwrap()).unwrap();
    let code = pick(&CODES);
    let amount =
        if code == "allowed" { Micros::new(n.saturating_add(100_000)).unwrap() } else { Micros::ZERO };
    AuditRow {
        ts: UnixMicros::from_seconds(MIDNIGHT).plus_seconds(n.saturating_mul(60)),
        vault_key_id: KeyId::from_bytes(if n.is_multiple_of(2) { KEYS[0] } else { KEYS[1] }),
        policy_check_result: code,
        outcome: if code == "allowed" { Outcome::Forwarded } else { Outcome::Denied },
        amount,
        metadata: vec![("agent_id", pick(&IDS)), ("agent_run_id", pick(&RUNS)), ("order_id", "o1")],
        ..row(0)
    }
}

impl Asked {
    pub(super) fn new() -> Asked {
        Asked::with(|limits| limits)
    }

    pub(super) fn with(change: impl FnOnce(Audit) -> Audit) -> Asked {
        let dir = tempfile::tempdir().unwrap();
        let primary = Primary::open(&dir.path().join("store"));
        (1..=ROWS).for_each(|n| primary.append(n, &nth(n)));
        let history = History::new(dir.path().join("store"), dir.path().join("secondary"));
        let sql = Sql::new(Arc::new(history), change(Audit::default()), dir.path());
        Asked { _dir: dir, primary, sql }
    }

    pub(super) fn try_ask(&self, sql: &str) -> Result<Answer, SqlError> {
        let question = Question { sql: sql.to_owned(), since: "2026-11-22T00:30:00Z".to_owned() };
        self.sql.ask(&question, &Arc::new(AtomicBool::new(false)))
    }

    pub(super) fn ask(&self, sql: &str) -> Answer {
        self.try_ask(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Checks all values, in order.
    fn check(&self, sql: &str, expected: &str) {
        let answer = self.ask(sql);
        let line =
            |row: &Vec<Cell>| row.iter().map(|cell| cell.json().to_string()).collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = answer.rows.iter().map(line).collect();
        assert_eq!(lines.join(" | ").replace('"', ""), expected, "{sql}");
    }

    /// Checks how many rows come, and that this took a look at so many.
    fn scans(&self, sql: &str, rows: usize, scanned: std::ops::RangeInclusive<u64>) {
        let answer = self.ask(sql);
        assert_eq!(answer.rows.len(), rows, "{sql}");
        assert!(scanned.contains(&answer.scanned), "{sql} looked at {}", answer.scanned);
    }
}

#[test]
fn q26_the_published_queries_run_word_for_word() {
    let asked = Asked::new();
    asked.check("SELECT agent_id, SUM(amount) FROM audit_log GROUP BY agent_id", "a1 2.00063 | a2 0 | a3 0");
    let sql = "SELECT ts, endpoint, amount_usd, policy_check_result FROM calls WHERE metadata->>'agent_run_id' = 'r2' \
               AND policy_check_result != 'allowed' ORDER BY ts DESC;";
    let answer = asked.ask(sql);
    assert_eq!(answer.columns, ["ts", "endpoint", "amount_usd", "policy_check_result"]);
    assert_eq!(answer.rows.len(), 10);
    assert_eq!(answer.rows[0][0], Cell::Text("2026-11-22T00:53:00.000000Z".to_owned()));
    let answer = asked.ask("SELECT * FROM calls WHERE metadata->>'agent_id' = 'a2'");
    assert_eq!((answer.rows.len(), answer.columns.len()), (20, 37));
    assert!(!answer.columns.iter().any(|name| name.contains('.')), "{:?}", answer.columns);
}

#[test]
fn sums_of_amounts_are_exact_and_numbers_compare_and_sort() {
    let asked = Asked::new();
    asked.check("SELECT SUM(amount_usd) = 2.00063, SUM(amount_micros) FROM calls", "1 2000630");
    asked.check("SELECT typeof(amount_usd), amount_usd FROM calls WHERE sequence = 3", "real 0.100003");
    asked.check("SELECT COUNT(*) FROM calls WHERE amount_usd > 0.10005 AND amount < 1", "4");
    asked.check("SELECT amount FROM calls ORDER BY amount DESC LIMIT 2", "0.10006 | 0.100057");
    asked.check("SELECT 10 - SUM(amount) FROM calls", "7.99937");
    asked.check("WITH x AS (SELECT agent_id FROM calls GROUP BY 1) SELECT COUNT(*) FROM x", "3");
    let sql = "SELECT agent_run_id, SUM(amount) AS spent FROM calls GROUP BY 1 ORDER BY spent DESC LIMIT 1";
    asked.check(sql, "r1 0.50018");
}

#[test]
fn q16_an_amendment_counts_once_in_both_tables() {
    let asked = Asked::new();
    let unknown = AuditRow {
        id: "req_x",
        outcome: Outcome::Unknown,
        amount: Micros::new(5_000_000).unwrap(),
        ..nth(3)
    };
    asked.primary.append(61, &unknown);
    asked.check("SELECT SUM(amount) FROM calls WHERE outcome = 'unknown'", "5");
    let amendment = AuditRow {
        id: "req_x_amended",
        amends: Some("req_x"),
        outcome: Outcome::Amendment,
        policy_check_result: "doubt_settled",
        amount: Micros::new(2_500_000).unwrap(),
        ..unknown.clone()
    };
    asked.primary.append(62, &amendment);
    for table in ["calls", "audit_log"] {
        asked.check(&format!("SELECT SUM(amount) FROM {table} WHERE sequence > 60"), "2.5");
    }
    let columns = "id, amount, written_micros, amends, amended_by";
    asked.check(
        &format!("SELECT {columns} FROM calls WHERE sequence > 60"),
        "req_x 2.5 5000000 null req_x_amended",
    );
    asked.check(
        &format!("SELECT {columns} FROM audit_log WHERE sequence > 61"),
        "req_x_amended 0 2500000 req_x null",
    );
}

#[test]
fn what_a_scan_can_decide_is_not_left_to_sqlite() {
    // Two hours apart, so that times bound what is looked at: see `Snapshot::within`.
    let asked = Asked::new();
    for n in 0..60_u64 {
        let ts = UnixMicros::from_seconds(MIDNIGHT + 86_400 + n * 7200);
        asked.primary.append(100 + n, &AuditRow { ts, ..nth(n) });
    }
    asked.scans("SELECT id FROM calls", 120, 120..=120);
    asked.scans("SELECT id FROM calls WHERE sequence = 7", 1, 1..=1);
    asked.scans("SELECT id FROM calls WHERE rowid BETWEEN 7 AND 9", 3, 3..=3);
    asked.scans("SELECT id FROM calls WHERE sequence > 155", 4, 4..=5);
    asked.scans("SELECT id FROM calls WHERE ts >= '2026-11-25' AND ts < '2026-11-26'", 12, 12..=17);
    asked.scans(
        "SELECT id FROM calls WHERE ts >= '2026-11-25 00:00' AND ts <= '2026-11-25T23:00:00Z'",
        12,
        12..=17,
    );
    asked.scans(
        "SELECT id FROM calls WHERE ts_micros >= 1795564800000000 AND ts_micros < 1795651200000000",
        12,
        12..=17,
    );
    asked.scans("SELECT id FROM calls WHERE ts >= :since AND ts < '2026-11-22T01:00:01'", 31, 31..=120);
    asked.scans("SELECT id FROM calls WHERE ts = NULL", 0, 0..=0);
    asked.scans("SELECT id FROM calls ORDER BY sequence DESC LIMIT 3", 3, 1..=512);
}

#[test]
fn rows_that_a_scan_leaves_out_never_reach_sqlite() {
    let asked = Asked::new();
    // SQLite counts what it gets: with the test in a function it gets everything.
    assert_eq!(asked.ask("SELECT ts FROM calls WHERE policy_check_result != 'allowed'").passed, 40);
    assert_eq!(asked.ask("SELECT ts FROM calls WHERE metadata->>'agent_run_id' = 'r3'").passed, 15);
    for (pushed, not) in [
        ("policy_check_result != 'allowed'", "policy_check_result || '' != 'allowed'"),
        ("policy_check_result = 'allowed'", "policy_check_result || '' = 'allowed'"),
        ("vault_key_id = 'vk_0123456789abcdef'", "vault_key_id || '' = 'vk_0123456789abcdef'"),
        ("vault_key_id != 'vk_0123456789abcdef'", "vault_key_id || '' != 'vk_0123456789abcdef'"),
        ("vault_key_id = 'no id'", "vault_key_id || '' = 'no id'"),
        ("agent_run_id = 'r3'", "agent_run_id || '' = 'r3'"),
        ("metadata->>'agent_run_id' = 'r3'", "metadata->>'agent_run_id' || '' = 'r3'"),
        ("'r3' != metadata->>'$.agent_run_id'", "'r3' != (metadata->>'agent_run_id') || ''"),
        ("label = 'billing' COLLATE NOCASE", "label || '' = 'billing'"),
        ("crew_run_id = 'c'", "crew_run_id || '' = 'c'"),
        ("status = 200 AND agent_id = 'a1'", "status = 200 AND agent_id || '' = 'a1'"),
        ("agent_id IN ('a1', 'a2')", "agent_id || '' IN ('a1', 'a2')"),
        ("agent_id = 'a1' OR agent_run_id = 'r2'", "agent_id || '' = 'a1' OR agent_run_id || '' = 'r2'"),
    ] {
        let count = |test: &str| asked.ask(&format!("SELECT COUNT(*) FROM calls WHERE {test}"));
        let (by_scan, by_sqlite) = (count(pushed), count(not));
        assert_eq!(by_scan.rows, by_sqlite.rows, "{pushed}");
        assert_eq!((by_scan.scanned, by_sqlite.scanned, by_sqlite.passed), (60, 60, 60), "{pushed}");
        let is_of_scan = !["NOCASE", " IN ", " OR "].iter().any(|part| pushed.contains(part));
        assert_eq!(by_scan.passed < 60, is_of_scan, "{pushed}: {}", by_scan.passed);
    }
    let plan = |sql: &str| {
        let answer = asked.ask(&format!("EXPLAIN QUERY PLAN {sql}"));
        answer.rows.iter().map(|row| format!("{:?}", row[3])).collect::<String>()
    };
    for (sql, part) in [
        ("SELECT ts FROM calls WHERE policy_check_result != 'allowed'", "17!;"),
        ("SELECT ts FROM calls WHERE metadata->>'agent_run_id' = 'r1'", "39=;"),
        ("SELECT ts FROM calls WHERE vault_key_id = 'x' AND ts >= '2026'", "1>"),
        ("SELECT ts FROM calls WHERE agent_id IN ('a', 'b')", ":;"),
        ("SELECT ts FROM calls ORDER BY sequence DESC", ";d"),
    ] {
        let found = plan(sql);
        assert!(found.contains(part) && !found.contains("TEMP B-TREE"), "{sql}: {found}");
    }
}

#[test]
fn a_row_that_took_long_is_found_by_when_it_started() {
    let asked = Asked::new();
    let since = MIDNIGHT + 864_000;
    let at = |seconds| AuditRow { ts: UnixMicros::from_seconds(seconds), ..nth(3) };
    // In the order of their commits: most of them took an hour and more.
    for (n, seconds) in
        [since - 9000, since + 5, since - 3600, since - 10, since + 9, since - 7000].iter().enumerate()
    {
        asked.primary.append(100 + n as u64, &at(*seconds));
    }
    let sql = format!("SELECT sequence FROM calls WHERE ts_micros >= {since}000000");
    asked.check(&sql, "101 | 104");
    asked.check(&format!("SELECT COUNT(*) FROM calls WHERE ts_micros < {since}000000"), "64");
}

#[test]
fn the_usual_questions_have_answers() {
    let asked = Asked::new();
    for saved in SAVED {
        let answer = asked.ask(saved.sql);
        let is_empty = saved.name == "doubts";
        assert_eq!(answer.rows.is_empty(), is_empty, "{}", saved.name);
        assert_eq!(find_saved(saved.name).map(|found| found.name), Some(saved.name));
    }
    let spend = SAVED.iter().find(|saved| saved.name == "spend-by-agent").unwrap();
    // From half past on: rows 30 to 60.
    asked.check(spend.sql, "a1 1.100495 11 0 | a2 0 10 10 | a3 0 10 10");
}

#[test]
fn a_row_that_cannot_be_read_is_counted_and_hides_nothing() {
    let asked = Asked::new();
    asked.primary.append_bytes(&70_u64.to_be_bytes(), b"\x09 from the future");
    asked.primary.append_bytes(b"no sequence", b"");
    let answer = asked.ask("SELECT COUNT(*) FROM calls");
    assert_eq!((&answer.rows[0][0], answer.unreadable), (&Cell::Integer(60), 2));
}

#[test]
fn no_store_is_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::new(dir.path().join("store"), dir.path().join("secondary"));
    let sql = Sql::new(Arc::new(history), Audit::default(), dir.path());
    let question =
        Question { sql: "SELECT COUNT(*), SUM(amount) FROM calls".to_owned(), since: String::new() };
    let answer = sql.ask(&question, &Arc::new(AtomicBool::new(false))).unwrap();
    assert_eq!(answer.rows, [[Cell::Integer(0), Cell::Null]]);
    assert_eq!((answer.newest, answer.scanned), (None, 0));
}

#[test]
fn an_answer_has_a_last_row_and_names_that_differ() {
    let asked = Asked::with(|limits| Audit { query_rows_max: 7, ..limits });
    let answer = asked.ask("SELECT id, id, id AS id_2 FROM calls");
    assert_eq!((answer.rows.len(), answer.is_truncated), (7, true));
    assert_eq!(answer.columns, ["id", "id_2", "id_2_2"]);
    assert!(!asked.ask("SELECT id FROM calls LIMIT 7").is_truncated);
}
