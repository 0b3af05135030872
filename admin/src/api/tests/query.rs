//! Questions to the audit, its tail and its explanations, over sockets.

use std::io::{BufRead as _, BufReader};

use keybrake_proto::audit::{AuditRow, Outcome};

use super::*;

/// Three calls of an agent, one of them refused, one of them in doubt.
fn rows() -> [AuditRow<'static>; 3] {
    let denied = AuditRow {
        id: "req_2",
        policy_check_result: "daily_cap_exceeded",
        outcome: Outcome::Denied,
        amount: keybrake_proto::money::Micros::ZERO,
        user_agent: Some("=HYPERLINK(\"http://x\")"),
        ..row(20)
    };
    let doubt = AuditRow { id: "req_3", outcome: Outcome::Unknown, vendor_request_id: None, ..row(30) };
    [row(10), denied, doubt]
}

fn ask(server: &Server, sql: &str) -> Answer {
    server.post("/audit/query", &json!({"sql": sql}).to_string())
}

#[test]
fn a_question_is_answered_in_three_formats_and_shows_its_lag() {
    let server = Server::start(Some(Behavior::Answers));
    let primary = server.store();
    for (sequence, row) in (1..).zip(rows()) {
        primary.append(sequence, &row);
    }
    let sql = "SELECT agent_id, SUM(amount) AS spent, COUNT(*) FROM audit_log GROUP BY agent_id";
    let answer = ask(&server, sql);
    assert_eq!(answer.status, 200, "{}", answer.text);
    let parsed = answer.json();
    assert_eq!(parsed["columns"], json!(["agent_id", "spent", "COUNT(*)"]));
    assert!(answer.text.contains(r#""rows":[{"COUNT(*)":3,"agent_id":"a2","spent":41}]"#), "{}", answer.text);
    assert_eq!((&parsed["scanned"], &parsed["truncated"]), (&json!(3), &json!(false)));
    assert!(parsed["lag_ms"].is_u64() && parsed["elapsed_ms"].is_u64() && parsed["newest"] == 3, "{parsed}");
    let body =
        json!({"sql": "SELECT id, user_agent FROM calls WHERE policy_check_result != 'allowed'"}).to_string();
    let csv = server.post("/audit/query?format=csv", &body);
    assert_eq!(csv.text, "id,user_agent\r\nreq_2,\"'=HYPERLINK(\"\"http://x\"\")\"\r\n");
    assert_eq!((csv.header("keybrake-scanned"), csv.header("keybrake-truncated")), ("3", "0"));
    let lines =
        server.post("/audit/query?format=ndjson", &json!({"sql": "SELECT id FROM calls"}).to_string());
    assert_eq!(lines.text.lines().next(), Some(r#"{"id":"req_1"}"#));
    let saved =
        server.post("/audit/query", r#"{"saved": "spend-by-agent", "since": "1970-01-01T00:00:00Z"}"#);
    assert_eq!(saved.json()["rows"][0]["calls"], 3, "{}", saved.text);
    let listed = server.get("/audit/query").json();
    assert_eq!(listed["saved"][0]["name"], "spend-by-agent");
}

#[test]
fn p5_a_question_that_may_not_be_asked_is_refused_and_each_is_written_down() {
    let server = Server::start(None);
    server.store().append(1, &row(1));
    ask(&server, "DELETE FROM calls").refused(400, "query_not_allowed");
    ask(&server, "SELECT 1; SELECT 2").refused(400, "query_not_allowed");
    ask(&server, "SELECT nothing FROM calls").refused(400, "invalid_query");
    ask(&server, "SELECT printf('%.*d', 1000000000, 1)").refused(422, "query_too_large");
    server.post("/audit/query", r#"{"saved": "nothing"}"#).refused(400, "invalid_field");
    server.post("/audit/query", r#"{"saved": "doubts", "since": "soon"}"#).refused(400, "invalid_field");
    for body in ["{}", r#"{"sql": "SELECT 1", "saved": "doubts"}"#, r#"{"sgl": "SELECT 1"}"#] {
        server.post("/audit/query", body).refused(400, "invalid_body");
    }
    server.post("/audit/query?format=xml", r#"{"sql": "SELECT 1"}"#).refused(400, "invalid_parameter");
    let answered = ask(&server, "SELECT COUNT(*) AS n FROM calls").json();
    assert_eq!((&answered["rows"], &answered["lag_ms"]), (&json!([{"n": 1}]), &Value::Null));
    let log = std::fs::read_to_string(server.dir.path().join(crate::query_log::FILE_NAME)).unwrap();
    let entries: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    // What does not get as far as a statement is not written down.
    assert_eq!(entries.len(), 10, "{log}");
    assert_eq!((&entries[0]["sql"], &entries[0]["bytes"]), (&json!("DELETE FROM calls"), &json!(17)));
    assert!(entries[1]["error"].as_str().unwrap().contains("may only read") && !log.contains(TOKEN), "{log}");
    assert_eq!((&entries[9]["rows"], &entries[9]["scanned"]), (&json!(1), &json!(1)));
    assert!(entries.iter().all(|entry| entry["token"] == entries[0]["token"]));
    // Where it cannot be written down, it is not answered.
    let path = server.dir.path().join(crate::query_log::FILE_NAME);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    ask(&server, "SELECT 1").refused(503, "audit_unavailable");
}

#[test]
fn p5_a_token_has_one_query_at_a_time_and_who_leaves_ends_theirs() {
    let server = Server::start(None);
    let endless = "WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT MAX(n) FROM x";
    let body = json!({"sql": endless}).to_string();
    let head = format!(
        "POST /audit/query HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut first = std::net::TcpStream::connect(server.address).unwrap();
    std::io::Write::write_all(&mut first, head.as_bytes()).unwrap();
    // It is being answered once another is refused; each of the others ends at once.
    let second = loop {
        let second = ask(&server, "SELECT 1");
        if second.status != 200 {
            break second;
        }
    };
    second.refused(429, "query_running");
    assert_eq!(second.header("retry-after"), "1");
    drop(first);
    // Long before its time is up, or at the latest then.
    while ask(&server, "SELECT 1").status == 429 {
        std::thread::yield_now();
    }
}

#[test]
fn rows_are_followed_as_they_are_written() {
    let server = Server::start(None);
    let primary = server.store();
    let url = format!("http://{}/audit/tail?denied=true", server.address);
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let response = agent.get(url).header("authorization", format!("Bearer {TOKEN}")).call().unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut lines = BufReader::new(response.into_body().into_reader()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "event: open");
    for (sequence, row) in (1..).zip(rows()) {
        primary.append(sequence, &row);
    }
    let mut lines = lines.filter(|line| !line.is_empty()).skip(1);
    assert_eq!(lines.next().unwrap(), "event: row");
    assert_eq!(lines.next().unwrap(), "id: 2");
    assert!(lines.next().unwrap().contains(r#""id":"req_2""#));
    server.get("/audit/tail?denied=perhaps").refused(400, "invalid_parameter");
}

#[test]
fn p1_a_tail_ends_with_its_token() {
    let server = Server::start(None);
    let primary = server.store();
    let tokens = super::tokens(server.dir.path());
    let made = tokens.create("auditor", &[Scope::ReadAudit], None, super::super::now()).unwrap();
    let token = String::from_utf8(made.token.expose().to_vec()).unwrap();
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let url = format!("http://{}/audit/tail", server.address);
    let response = agent.get(url).header("authorization", format!("Bearer {token}")).call().unwrap();
    let mut lines = BufReader::new(response.into_body().into_reader()).lines().map_while(Result::ok);
    let [first, second, ..] = rows();
    primary.append(1, &first);
    assert!(lines.any(|line| line == "event: row"));
    tokens.revoke("auditor", super::super::now()).unwrap();
    primary.append(2, &second);
    assert!(!lines.any(|line| line == "event: row"), "a revoked token has read another row");
}

#[test]
fn a_request_is_explained_with_its_key_and_with_what_was_said_later() {
    let server = Server::start(Some(Behavior::Answers));
    let primary = server.store();
    for (sequence, row) in (1..).zip(rows()) {
        primary.append(sequence, &row);
    }
    let denied = server.get("/audit/explain/req_2").json();
    let says = denied["says"].to_string();
    for part in ["refused with 200 daily_cap_exceeded", "count $20.50 on 1970-01-01", "now the key is active"]
    {
        assert!(says.contains(part), "{part} is missing in {says}");
    }
    assert_eq!((&denied["row"]["sequence"], &denied["key"]["id"]), (&json!(2), &json!(KNOWN)));
    let doubt = server.get("/audit/explain/req_3").json();
    assert!(doubt["unknown"].to_string().contains("whether the vendor acted"), "{doubt}");
    let [.., unknown] = rows();
    let amendment = AuditRow {
        id: "req_3_amended",
        amends: Some("req_3"),
        policy_check_result: "doubt_voided",
        outcome: Outcome::Amendment,
        amount: keybrake_proto::money::Micros::ZERO,
        ..unknown
    };
    primary.append(4, &amendment);
    let doubt = server.get("/audit/explain/req_3").json();
    assert_eq!(doubt["amendment"]["sequence"], 4, "{doubt}");
    assert!(doubt["says"].to_string().contains("doubt_voided"), "{doubt}");
    server.get("/audit/explain/req_9").refused(404, "no_such_request");
    server.get("/audit/explain/x;y").refused(400, "invalid_parameter");
}
