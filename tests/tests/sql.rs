//! Questions about what agents did, in SQL and as it happens, over rows that real calls made.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use keybrake_tests::{Chain, Guest, Issued, Keybrake, Sdk, Setup, Vendor, call, paid};
use serde_json::{Value, json};

const PAYING: [&str; 9] = [
    "POST /v1/customers",
    "POST /v1/payment_methods",
    "POST /v1/payment_methods/*/attach",
    "POST /v1/payment_intents",
    "GET /v1/payment_intents/*",
    "POST /v1/charges",
    "GET /v1/charges/*",
    "POST /v1/refunds",
    "GET /v1/refunds/*",
];

fn ask(keybrake: &Keybrake, sql: &str) -> Value {
    keybrake.operate("POST /audit/query", Some(&json!({"sql": sql}))).expect(200)
}

/// Checks the values of the rows, in the order of the columns.
fn check(keybrake: &Keybrake, sql: &str, expected: &str) {
    let answer = ask(keybrake, sql);
    let columns = answer["columns"].as_array().unwrap();
    let values =
        |row: &Value| columns.iter().map(|name| row[name.as_str().unwrap()].clone()).collect::<Value>();
    let rows: Value = answer["rows"].as_array().unwrap().iter().map(values).collect();
    assert_eq!(rows.to_string(), expected, "{sql}");
}

/// What the SDK did: two runs of an agent, each refused once.
fn paid_and_refused(chain: &Chain) -> (Issued, Issued) {
    let issue = |run: &str, agent: &str| {
        let metadata = json!({"agent_id": agent, "agent_run_id": run, "team": "ops"});
        let more = json!({"daily_usd_cap": 50, "label": format!("label of {run}"), "metadata": metadata});
        chain.keybrake.issue_by_admin(&PAYING, &more)
    };
    let (first, second) = (issue("run_xyz", "billing_agent"), issue("run_abc", "refund_agent"));
    let sdk = Sdk::StripePython16;
    for key in [&first, &second] {
        let base = chain.base("/stripe");
        assert_eq!(sdk.run("pay", &[&base, &key.text])["charge"], 1500);
        let error = sdk.run("refused", &[&base, "payout", &key.text]);
        assert_eq!(error["status"], 403, "{error}");
    }
    let rows = chain.agents.requests().len() / 2;
    for key in [&first, &second] {
        let _rows = chain.keybrake.eventually_rows(&key.id, rows);
    }
    (first, second)
}

/// Questions and what they must find, with `KEY` for the first key's id. Each agent makes eleven calls of the SDK, three of
/// them for 20, 15 and 5 USD, and one that is refused.
const QUESTIONS: [(&str, &str); 23] = [
    (
        "SELECT agent_id, SUM(amount) FROM audit_log GROUP BY agent_id",
        r#"[["billing_agent",40],["refund_agent",40]]"#,
    ),
    ("SELECT SUM(amount_usd), SUM(amount_micros) FROM calls", r#"[[80,80000000]]"#),
    (
        "SELECT COUNT(*) FROM calls WHERE vault_key_id = 'KEY' AND policy_check_result = 'allowed'",
        r#"[[11]]"#,
    ),
    (
        "SELECT policy_check_result, COUNT(*) FROM calls GROUP BY 1 ORDER BY 2 DESC",
        r#"[["allowed",22],["endpoint_not_allowed",2]]"#,
    ),
    (
        "SELECT agent_run_id, SUM(amount) AS spent FROM calls GROUP BY 1 HAVING spent > 10 ORDER BY 1",
        r#"[["run_abc",40],["run_xyz",40]]"#,
    ),
    (
        "SELECT method, endpoint, amount FROM calls WHERE vault_key_id = 'KEY' AND amount > 0 ORDER BY amount DESC",
        r#"[["POST","/v1/payment_intents",20],["POST","/v1/charges",15],["POST","/v1/refunds",5]]"#,
    ),
    (
        "SELECT agent_id, endpoint FROM calls WHERE policy_check_result != 'allowed' ORDER BY sequence",
        r#"[["billing_agent","/v1/payouts"],["refund_agent","/v1/payouts"]]"#,
    ),
    ("SELECT COUNT(*) FROM calls WHERE metadata->>'team' = 'ops'", r#"[[24]]"#),
    (
        "SELECT COUNT(*) FROM calls WHERE crew_run_id = 'run_1' AND metadata->>'crew_run_id' = 'run_1'",
        r#"[[2]]"#,
    ),
    ("SELECT COUNT(DISTINCT vault_key_id), COUNT(DISTINCT label) FROM audit_log", r#"[[2,2]]"#),
    (
        "SELECT currency, SUM(amount_minor) FROM calls WHERE currency IS NOT NULL GROUP BY currency",
        r#"[["usd",8000]]"#,
    ),
    ("SELECT status, COUNT(*) FROM calls GROUP BY status ORDER BY status", r#"[[200,22],[403,2]]"#),
    (
        "SELECT COUNT(*) FROM calls WHERE ts >= date('now', '-1 day') AND ts < datetime('now', '+1 day')",
        r#"[[24]]"#,
    ),
    ("SELECT COUNT(*) FROM calls WHERE ts < '2026-01-01'", r#"[[0]]"#),
    (
        "SELECT vendor, SUM(amount), AVG(amount) FROM calls WHERE amount > 0 GROUP BY vendor",
        r#"[["stripe",80,13.333333333333334]]"#,
    ),
    ("SELECT MAX(amount), MIN(quote_usd) FROM calls WHERE outcome = 'forwarded'", r#"[[20,0]]"#),
    (
        "SELECT endpoint FROM calls WHERE vault_key_id = 'KEY' AND method = 'POST' ORDER BY sequence DESC LIMIT 1",
        r#"[["/v1/payouts"]]"#,
    ),
    (
        "SELECT amount, SUM(amount) OVER (ORDER BY sequence) FROM calls WHERE vault_key_id = 'KEY' AND amount > 0",
        r#"[[20,20],[15,35],[5,40]]"#,
    ),
    (
        "WITH spend AS (SELECT agent_id, SUM(amount) AS usd FROM calls GROUP BY 1) SELECT COUNT(*) FROM spend WHERE usd = 40",
        r#"[[2]]"#,
    ),
    (
        "SELECT COUNT(*) FROM calls WHERE user_agent LIKE '%stripe%' OR user_agent LIKE '%python%'",
        r#"[[24]]"#,
    ),
    ("SELECT COUNT(*) FROM calls WHERE agent_id IN ('billing_agent', 'nobody')", r#"[[12]]"#),
    ("SELECT COUNT(*) FROM calls WHERE latency_us >= overhead_us AND client_addr = '127.0.0.1'", r#"[[24]]"#),
    (
        "SELECT outcome, COUNT(*) FROM calls GROUP BY outcome ORDER BY outcome",
        r#"[["denied",2],["forwarded",22]]"#,
    ),
];

#[test]
fn q26_published_and_usual_questions_are_answered_about_calls_of_an_official_sdk() {
    let chain = Chain::of_stripe(Guest::localstripe);
    let (first, second) = paid_and_refused(&chain);
    let keybrake = &chain.keybrake;
    for (sql, expected) in QUESTIONS {
        check(keybrake, &sql.replace("KEY", &first.id), expected);
    }
    // Word for word as published.
    let published = "SELECT ts, endpoint, amount_usd, policy_check_result FROM calls WHERE metadata->>'agent_run_id' = \
                     'run_xyz' AND policy_check_result != 'allowed' ORDER BY ts DESC;";
    let answer = ask(keybrake, published);
    assert_eq!(answer["rows"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["rows"][0]["policy_check_result"], "endpoint_not_allowed");
    let answer = ask(keybrake, "SELECT * FROM calls WHERE metadata->>'agent_id' = 'billing_agent'");
    assert_eq!((answer["rows"].as_array().unwrap().len(), &answer["truncated"]), (12, &json!(false)));
    assert!(answer["lag_ms"].is_u64(), "{answer}");
    // The books and the audit say the same.
    assert_eq!(keybrake.micros(&first.id).0, 40_000_000);
    for saved in keybrake.operate("GET /audit/query", None).expect(200)["saved"].as_array().unwrap() {
        let answer =
            keybrake.operate("POST /audit/query", Some(&json!({"saved": saved["name"]}))).expect(200);
        assert!(!answer["columns"].as_array().unwrap().is_empty(), "{saved}");
    }
    chain.check_secrets(&[&first, &second]);
}

fn started() -> (Vendor, Keybrake, Issued) {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).with_admin().start();
    let more = json!({"daily_usd_cap": 50, "metadata": {"agent_id": "a1"}});
    let key = keybrake.issue_by_admin(&["POST /v1/charges"], &more);
    (vendor, keybrake, key)
}

fn charge(keybrake: &Keybrake, key: &Issued, cents: u64) -> (u16, String) {
    let head = format!(
        "POST /stripe/v1/charges\nAuthorization: Bearer {}\nContent-Type: application/x-www-form-urlencoded",
        key.text
    );
    let reply = call(keybrake.proxy(), &head, format!("amount={cents}&currency=usd").as_bytes());
    let id = reply.field("keybrake-request-id").or(reply.field("request-id")).unwrap_or_default().to_owned();
    (reply.status, id)
}

fn run(keybrake: &Keybrake, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = keybrake.cli_command(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn the_command_line_asks_and_explains() {
    let (_vendor, keybrake, key) = started();
    assert_eq!(charge(&keybrake, &key, 1999).0, 200);
    let (status, refused) = charge(&keybrake, &key, 4000);
    assert_eq!(status, 429);
    let _rows = keybrake.eventually_rows(&key.id, 2);
    let sql = "SELECT agent_id, SUM(amount) AS spent FROM audit_log GROUP BY agent_id";
    assert_eq!(run(&keybrake, &["audit", "query", sql]).1, "agent_id,spent\r\na1,19.99\r\n");
    let table = run(&keybrake, &["audit", "query", sql, "--format", "table"]).1;
    assert!(table.starts_with("agent_id  spent\na1        19.99\n(1 row of 2 looked at, "), "{table}");
    let json = run(&keybrake, &["audit", "query", sql, "--json"]).1;
    assert_eq!(
        serde_json::from_str::<Value>(&json).unwrap()["rows"],
        json!([{"agent_id": "a1", "spent": 19.99}])
    );
    let saved = run(
        &keybrake,
        &["audit", "query", "--saved", "denials-by-code", "--since", "1h", "--format", "ndjson"],
    )
    .1;
    assert!(saved.contains(r#""policy_check_result":"daily_cap_exceeded""#), "{saved}");
    assert!(run(&keybrake, &["audit", "query", "--saved"]).1.contains("spend-by-run: "));
    let (code, _, error) = run(&keybrake, &["audit", "query", "DROP TABLE calls"]);
    assert!(code == Some(1) && error.contains("may only read"), "{error}");
    let (code, _, error) = run(&keybrake, &["audit", "query", "SELECT x FROM calls", "--format", "csv"]);
    assert!(code == Some(1) && error.contains("no such column"), "{error}");
    assert_eq!(run(&keybrake, &["audit", "query"]).0, Some(2));

    let (code, explained, _) = run(&keybrake, &["explain", &refused]);
    for part in [
        "refused with 429 daily_cap_exceeded",
        "is $40.00, stated as 4000 minor units of usd; it counts $0.00",
        "this rule of it matches: `POST /v1/charges`",
        "written before it count $19.99 on",
        "of its daily cap of $50.00 $19.99 are committed today",
        "a call may cost $30.01 at most",
        "not known: what was left of the caps at that moment",
    ] {
        assert!(explained.contains(part), "{part} is missing in {explained}");
    }
    assert_eq!(code, Some(0));
    assert_eq!(run(&keybrake, &["explain", "req_0"]).0, Some(1));
}

#[test]
fn the_command_line_follows_calls_as_they_are_made() {
    let (_vendor, keybrake, key) = started();
    assert_eq!(charge(&keybrake, &key, 100).0, 200);
    let mut command = keybrake.cli_command(&["audit", "tail", "--denied", "--agent", "a1", "--json"]);
    let mut tail = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(tail.stderr.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "keybrake: following; Ctrl-C ends it");
    assert_eq!((charge(&keybrake, &key, 200).0, charge(&keybrake, &key, 9000).0), (200, 429));
    let mut rows = BufReader::new(tail.stdout.take().unwrap()).lines();
    let row: Value = serde_json::from_str(&rows.next().unwrap().unwrap()).unwrap();
    assert_eq!(
        (&row["policy_check_result"], &row["amount_minor"]),
        (&json!("daily_cap_exceeded"), &json!(9000))
    );
    tail.kill().unwrap();
    tail.wait().unwrap();
}

#[test]
fn the_audit_answers_with_the_dataplane_down_and_stays_whole_after_a_kill() {
    let (_vendor, mut keybrake, key) = started();
    for _ in 0..3 {
        assert_eq!(charge(&keybrake, &key, 100).0, 200);
    }
    let _rows = keybrake.eventually_rows(&key.id, 3);
    keybrake.dataplane().kill_9();
    let answer = ask(&keybrake, "SELECT COUNT(*) AS n, SUM(amount) AS usd FROM calls");
    assert_eq!((&answer["rows"], &answer["lag_ms"]), (&json!([{"n": 3, "usd": 3}]), &Value::Null));
    keybrake.start_dataplane();
    assert_eq!(charge(&keybrake, &key, 100).0, 200);
    let _rows = keybrake.eventually_rows(&key.id, 4);
    check(&keybrake, "SELECT COUNT(*), SUM(amount) FROM calls", "[[4,4]]");
}
