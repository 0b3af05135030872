//! What a request says of its sender, from headers and bodies to the columns of the audit.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_tests::{Issued, Keybrake, Setup, Vendor, call, paid};
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn started(metadata: &Value) -> (Vendor, Keybrake, Issued) {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).with_admin().start();
    let endpoints = ["POST /v1/charges", "GET /v1/charges", "POST /v2/core/**"];
    let key = keybrake.issue_by_admin(&endpoints, &json!({"daily_usd_cap": 50, "metadata": metadata}));
    (vendor, keybrake, key)
}

fn send(keybrake: &Keybrake, key: &Issued, line: &str, kind: &str, fields: &str, body: &str) -> u16 {
    let kind = if kind.is_empty() { String::new() } else { format!("Content-Type: {kind}\n") };
    let head = format!("{line}\nAuthorization: Bearer {}\n{kind}{fields}", key.text);
    call(keybrake.proxy(), head.trim_end(), body.as_bytes()).status
}

const FORM: &str = "application/x-www-form-urlencoded";

const CHARGES: &str = "POST /stripe/v1/charges";

#[test]
fn headers_and_metadata_of_bodies_stand_in_the_row_and_no_header_reaches_the_vendor() {
    let (vendor, keybrake, key) = started(&json!({"team": "billing"}));
    let fields = format!(
        "Keybrake-Agent-Id: a1\nKeybrake-Agent-Name: Ann\nKeybrake-Agent-Run-Id: run_xyz\nKeybrake-Crew-Run-Id: crew_1\n\
         Keybrake-Metadata-Order-Id: o1\ntraceparent: 00-{TRACE}-00f067aa0ba902b7-01"
    );
    let form = "amount=1000&currency=usd&metadata[agent_id]=of_the_form&metadata[ticket]=T-1";
    assert_eq!(send(&keybrake, &key, CHARGES, FORM, &fields, form), 200);
    let seen = &vendor.seen()[0];
    assert_eq!(seen.text(), form, "the vendor gets its own metadata as it was sent");
    let is_ours = |name: &str| {
        name.to_ascii_lowercase().starts_with("keybrake-") || name.eq_ignore_ascii_case("traceparent")
    };
    assert!(seen.fields.iter().all(|(name, _)| !is_ours(name)), "{:?}", seen.fields);
    let row = &keybrake.eventually_rows(&key.id, 1)[0];
    for (column, value) in
        [("agent_id", "a1"), ("agent_name", "Ann"), ("agent_run_id", "run_xyz"), ("crew_run_id", "crew_1")]
    {
        assert_eq!((&row[column], &row["metadata"][column]), (&json!(value), &json!(value)), "{column}");
    }
    let metadata = &row["metadata"];
    assert_eq!([&metadata["order_id"], &metadata["ticket"], &metadata["team"]], ["o1", "T-1", "billing"]);
    assert_eq!(metadata["trace_id"], TRACE);
    let csv = keybrake.operate(&format!("GET /audit?vault_key_id={}&format=csv", key.id), None).text();
    let columns = csv.lines().next().unwrap();
    assert!(columns.contains(",agent_id,agent_name,agent_run_id,crew_run_id,"), "{columns}");
    assert!(csv.contains(",a1,Ann,run_xyz,crew_1,"), "{csv}");
}

#[test]
fn what_the_operator_wrote_on_the_key_no_agent_can_say_otherwise() {
    let (_vendor, keybrake, key) = started(&json!({"agent_id": "of_the_key"}));
    let fields = "Keybrake-Agent-Id: forged\nKeybrake-Metadata-Agent-Id: forged\nKeybrake-Agent-Name: Ann";
    let form = "amount=1000&currency=usd&metadata[agent_id]=forged";
    assert_eq!(send(&keybrake, &key, CHARGES, FORM, fields, form), 200);
    let row = &keybrake.eventually_rows(&key.id, 1)[0];
    assert_eq!((row["agent_id"].as_str(), row["agent_name"].as_str()), (Some("of_the_key"), Some("Ann")));
    assert!(!row.to_string().contains("forged"), "{row}");
}

#[test]
fn json_bodies_queries_and_denials_have_their_context_too() {
    let (_vendor, keybrake, key) = started(&json!({}));
    let body = r#"{"amount": 1, "metadata": {"agent_run_id": "run_1", "attempt": 2, "nested": {"a": 1}}}"#;
    // Under a cap there is no price for it: it is refused after its body was read.
    assert_eq!(send(&keybrake, &key, "POST /stripe/v2/core/things", "application/json", "", body), 403);
    let query = "GET /stripe/v1/charges?limit=3&metadata[agent_run_id]=run_2";
    assert_eq!(send(&keybrake, &key, query, "", "", ""), 200);
    // Refused before the body is read: what its headers say.
    let fields = "Keybrake-Agent-Run-Id: run_3";
    assert_eq!(send(&keybrake, &key, "POST /stripe/v1/payouts", FORM, fields, "metadata[x]=y"), 403);
    let rows = keybrake.eventually_rows(&key.id, 3);
    let of =
        |run: &str| rows.iter().find(|row| row["agent_run_id"] == run).unwrap_or_else(|| panic!("{rows:#?}"));
    assert_eq!(of("run_1")["policy_check_result"], "unpriced");
    assert_eq!(of("run_1")["metadata"], json!({"agent_run_id": "run_1", "attempt": "2"}));
    assert_eq!(of("run_2")["method"], "GET");
    assert_eq!(of("run_3")["metadata"], json!({"agent_run_id": "run_3"}));
}

#[test]
fn n5_a_flood_of_context_is_bounded_and_the_keys_own_stays() {
    let (_vendor, keybrake, key) = started(&json!({"team": "billing"}));
    let form: String = (0..200).map(|at| format!("&metadata[n{at}]={}", "x".repeat(400))).collect();
    let fields: String =
        (0..40).map(|at| format!("Keybrake-Metadata-N{at}: {}\n", "y".repeat(300))).collect();
    let form = format!("amount=1000&currency=usd{form}");
    assert_eq!(send(&keybrake, &key, CHARGES, FORM, &fields, &form), 200);
    let row = &keybrake.eventually_rows(&key.id, 1)[0];
    let metadata = row["metadata"].as_object().unwrap();
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + value.as_str().unwrap().len()).sum();
    assert!(metadata.len() > 10 && metadata.len() <= 51 && bytes <= 4096 + 50, "{} {bytes}", metadata.len());
    assert_eq!(metadata["team"], "billing");
    assert_eq!(metadata["n0"].as_str().unwrap().chars().next(), Some('y'), "the header goes first");
}
