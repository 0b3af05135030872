//! The audit as a secondary reads it, beside a primary that this test writes.

use std::path::Path;

use keybrake_proto::audit::Outcome;
use keybrake_proto::http1::Method;
use keybrake_proto::money::Micros;

use super::*;

/// A dataplane's store.
pub(crate) struct Primary(DB);

impl Primary {
    /// Opens or makes it with the dataplane's column families.
    pub(crate) fn open(path: &Path) -> Primary {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let families = ["default", "keys", "credentials", AUDIT_FAMILY, "spend", "objects", "meta"];
        Primary(DB::open_cf(&options, path, families).unwrap())
    }

    /// Commits a row under the next sequence, together with what other families get.
    pub(crate) fn append(&self, sequence: u64, row: &AuditRow<'_>) {
        self.append_bytes(&sequence.to_be_bytes(), &row.encode(Vec::new()));
    }

    /// Commits what may be no row.
    pub(crate) fn append_bytes(&self, key: &[u8], bytes: &[u8]) {
        let mut batch = rocksdb::WriteBatch::default();
        batch.put_cf(self.0.cf_handle(AUDIT_FAMILY).unwrap(), key, bytes);
        batch.put_cf(self.0.cf_handle("spend").unwrap(), b"key", key);
        self.0.write(batch).unwrap();
    }

    /// Moves what is in memory into files, and the log with it.
    fn flush(&self) {
        self.0.flush_cf(self.0.cf_handle(AUDIT_FAMILY).unwrap()).unwrap();
        self.0.flush_cf(self.0.cf_handle("spend").unwrap()).unwrap();
    }

    fn compact(&self) {
        let family = self.0.cf_handle(AUDIT_FAMILY).unwrap();
        self.0.compact_range_cf(family, None::<&[u8]>, None::<&[u8]>);
    }
}

/// An allowed row that started at `seconds`.
pub(crate) fn row(seconds: u64) -> AuditRow<'static> {
    AuditRow {
        ts: UnixMicros::from_seconds(seconds),
        id: "req_1",
        vault_key_id: KeyId::from_bytes(b"0123456789abcdef"),
        label: Some("billing"),
        agent_run_label: None,
        vendor: "stripe",
        method: Method::Post,
        endpoint: "/v1/charges",
        path: "/v1/charges",
        status: 200,
        policy_check_result: "allowed",
        outcome: Outcome::Forwarded,
        amount: Micros::new(20_500_000).unwrap(),
        quote: Micros::new(20_500_000).unwrap(),
        currency: Some("usd"),
        amount_minor: Some(2050),
        vendor_request_id: None,
        idempotency_key: None,
        latency_us: 1500,
        overhead_us: 50,
        client_addr: "127.0.0.1",
        user_agent: None,
        metadata: vec![("agent_id", "a1"), ("agent_id", "a2")],
        amends: None,
        account: Some("default"),
        parent_key_id: None,
    }
}

fn all() -> Query {
    Query { vault_key_id: None, since: None, until: None, verdict: None, rows_max: 1000, after: None }
}

/// A primary and its history in a directory of their own.
fn both() -> (tempfile::TempDir, Primary, History) {
    let dir = tempfile::tempdir().unwrap();
    let primary = Primary::open(&dir.path().join("store"));
    let history = History::new(dir.path().join("store"), dir.path().join("secondary"));
    (dir, primary, history)
}

fn sequences(history: &History, query: &Query) -> Vec<u64> {
    history.read(query).unwrap().rows.iter().map(|row| row.sequence).collect()
}

#[test]
fn no_store_is_no_rows() {
    let dir = tempfile::tempdir().unwrap();
    let history = History::new(dir.path().join("store"), dir.path().join("secondary"));
    assert_eq!(history.read(&all()).unwrap(), Page::default());
    assert_eq!(history.newest().unwrap(), None);
    let primary = Primary::open(&dir.path().join("store"));
    assert_eq!(history.newest().unwrap(), None);
    primary.append(1, &row(1));
    assert_eq!(history.newest().unwrap(), Some(1));
}

#[test]
fn every_query_sees_what_was_committed_before_it() {
    let (_dir, primary, history) = both();
    for sequence in 1..=50 {
        primary.append(sequence, &row(sequence));
        match sequence {
            20 => primary.flush(),
            40 => {
                primary.flush();
                primary.compact();
            }
            _ => {}
        }
        let expected: Vec<u64> = (1..=sequence).rev().collect();
        assert_eq!(sequences(&history, &all()), expected);
    }
}

#[test]
fn a_primary_that_starts_again_is_followed() {
    let (dir, mut primary, history) = both();
    for sequence in 1..=5 {
        primary.append(sequence, &row(sequence));
        let expected: Vec<u64> = (1..=sequence).rev().collect();
        assert_eq!(sequences(&history, &all()), expected);
        drop(primary);
        primary = Primary::open(&dir.path().join("store"));
        assert_eq!(sequences(&history, &all()), expected);
    }
}

#[test]
fn a_store_that_was_made_anew_is_opened_anew() {
    let (dir, primary, history) = both();
    primary.append(1, &row(1));
    primary.flush();
    assert_eq!(sequences(&history, &all()), [1]);
    drop(primary);
    std::fs::remove_dir_all(dir.path().join("store")).unwrap();
    let primary = Primary::open(&dir.path().join("store"));
    for sequence in 7..=8 {
        primary.append(sequence, &row(1));
        primary.flush();
    }
    assert_eq!(sequences(&history, &all()), [8, 7]);
}

#[test]
fn pages_follow_one_another_without_gap_or_repetition() {
    let (_dir, primary, history) = both();
    (1..=10).for_each(|sequence| primary.append(sequence, &row(sequence)));
    let mut query = Query { rows_max: 4, ..all() };
    let mut seen = Vec::new();
    loop {
        let page = history.read(&query).unwrap();
        seen.extend(page.rows.iter().map(|row| row.sequence));
        // New rows are in front of the first page.
        primary.append(10 + seen.len() as u64, &row(99));
        query.after = page.next;
        if page.next.is_none() {
            break;
        }
    }
    assert_eq!(seen, (1..=10).rev().collect::<Vec<u64>>());
    assert_eq!(history.read(&Query { after: Some(0), ..all() }).unwrap(), Page::default());
}

#[test]
fn filters_choose_rows() {
    let (_dir, primary, history) = both();
    let denied = AuditRow { policy_check_result: "daily_cap_exceeded", status: 429, ..row(20) };
    let other = AuditRow { vault_key_id: None, policy_check_result: "endpoint_not_allowed", ..row(30) };
    primary.append(1, &row(10));
    primary.append(2, &denied);
    primary.append(3, &other);
    let check = |query: Query, expected: &[u64]| assert_eq!(sequences(&history, &query), expected);
    let verdict = |verdict| Query { verdict: Some(verdict), ..all() };
    check(verdict(Verdict::Allowed), &[1]);
    check(verdict(Verdict::Denied), &[3, 2]);
    check(verdict(Verdict::Code("daily_cap_exceeded".to_owned())), &[2]);
    check(Query { vault_key_id: row(1).vault_key_id, ..all() }, &[2, 1]);
    check(Query { since: Some(UnixMicros::from_seconds(20)), ..all() }, &[3, 2]);
    check(Query { until: Some(UnixMicros::from_seconds(20)), ..all() }, &[1]);
}

#[test]
fn a_row_that_took_long_does_not_hide_what_was_committed_before_it() {
    let (_dir, primary, history) = both();
    let since = 100_000;
    primary.append(1, &row(since - 3 * 3600));
    primary.append(2, &row(since + 5));
    // Started before `since`, ended after the row in front of it.
    primary.append(3, &row(since - 3600));
    primary.append(4, &row(since + 9));
    let query = Query { since: Some(UnixMicros::from_seconds(since)), rows_max: 2, ..all() };
    assert_eq!(sequences(&history, &query), [4, 2]);
    // The scan ends at the first row that is too old for anything behind it, so there is no next page.
    let page = history.read(&Query { rows_max: 3, ..query }).unwrap();
    assert_eq!((page.rows.len(), page.next), (2, None));
}

#[test]
fn a_filter_that_nothing_passes_is_answered_in_bounded_pages() {
    let (_dir, primary, history) = both();
    let bytes = row(1).encode(Vec::new());
    let family = primary.0.cf_handle(AUDIT_FAMILY).unwrap();
    let mut batch = rocksdb::WriteBatch::default();
    let rows = LOOKED_AT_MAX as u64 + 10;
    (1..=rows).for_each(|sequence| batch.put_cf(family, sequence.to_be_bytes(), &bytes));
    primary.0.write(batch).unwrap();
    let mut query = Query { verdict: Some(Verdict::Denied), ..all() };
    let page = history.read(&query).unwrap();
    assert_eq!((page.rows.len(), page.next), (0, Some(11)));
    query.after = page.next;
    assert_eq!(history.read(&query).unwrap(), Page::default());
}

#[test]
fn rows_that_cannot_be_read_are_counted_and_hide_nothing() {
    let (_dir, primary, history) = both();
    primary.append(1, &row(1));
    primary.append_bytes(&2_u64.to_be_bytes(), b"\x09 from the future");
    primary.append_bytes(b"no sequence", b"");
    primary.append(3, &row(3));
    let page = history.read(&all()).unwrap();
    assert_eq!(page.rows.iter().map(|row| row.sequence).collect::<Vec<u64>>(), [3, 1]);
    assert_eq!(page.unreadable, 2);
}

#[test]
fn the_columns_are_the_fields_of_a_row() {
    let shown = Row::new(7, &row(1_795_305_600));
    let json = serde_json::to_string(&shown).unwrap();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut columns = COLUMNS.to_vec();
    columns.sort_unstable();
    assert_eq!(value.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>(), columns);
    for part in [
        r#""ts":"2026-11-22T00:00:00Z""#,
        r#""vault_key_id":"vk_0123456789abcdef""#,
        r#""amount_usd":20.50,"amount":20.50,"amount_micros":20500000,"quote_usd":20.50"#,
        r#""outcome":"forwarded""#,
        r#""metadata":{"agent_id":"a2"},"agent_id":"a2""#,
    ] {
        assert!(json.contains(part), "{part} is missing in {json}");
    }
    assert_eq!(serde_json::from_str::<Row>(&json).unwrap(), shown);
}
