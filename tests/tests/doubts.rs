//! Calls whose outcome is not known: what a crash leaves, and what an operator says of it.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_tests::{Client, Issued, Keybrake, Setup, StandIn, eventually, form_post};
use serde_json::{Value, json};

/// Sends a call that the vendor carries out and does not answer, and waits until it is there.
fn hang(keybrake: &Keybrake, stand_in: &StandIn, key: &Issued, cents: u64) -> Client {
    let before = stand_in.requests();
    let mut client = Client::connect(keybrake.proxy());
    let body = format!("amount={cents}&currency=usd&source=tok_hang");
    client.send(form_post("/stripe/v1/charges", &key.text, &body));
    eventually("the call to be at the vendor", || (stand_in.requests() == before + 1).then_some(()));
    client
}

fn pay(keybrake: &Keybrake, key: &Issued, cents: u64) -> u16 {
    let mut client = Client::connect(keybrake.proxy());
    let body = format!("amount={cents}&currency=usd&source=tok_visa");
    client.send(form_post("/stripe/v1/charges", &key.text, &body));
    client.reply().status
}

fn kill(keybrake: &mut Keybrake) {
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
}

fn doubts(keybrake: &Keybrake) -> Vec<Value> {
    let reply = keybrake.operate("GET /doubts", None);
    assert_eq!(reply.status, 200);
    reply.json()["doubts"].as_array().unwrap().clone()
}

fn cents(keybrake: &Keybrake, key: &Issued) -> (u64, u64, u64) {
    let view = keybrake.key(&key.id);
    (keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id), view.in_doubt_usd.as_u64() / 10_000)
}

#[test]
fn m12_i2_q1_what_was_at_the_vendor_at_a_kill_has_a_row_and_stays_counted_until_an_operator_resolves_it() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).with_admin().start();
    let key = keybrake.issue_by_admin(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    assert_eq!(pay(&keybrake, &key, 1000), 200);
    let _hanging = [hang(&keybrake, &stand_in, &key, 2000), hang(&keybrake, &stand_in, &key, 1500)];
    kill(&mut keybrake);
    assert_eq!(cents(&keybrake, &key), (4500, 3500, 3500));
    assert_eq!((pay(&keybrake, &key, 501), pay(&keybrake, &key, 500)), (429, 200));
    let rows = keybrake.eventually_rows(&key.id, 5);
    let unknown: Vec<&Value> = rows.iter().filter(|row| row["outcome"] == "unknown").collect();
    assert_eq!(unknown.len(), 2, "{rows:?}");
    // Once more: nothing is counted twice, and no row comes twice.
    kill(&mut keybrake);
    assert_eq!(cents(&keybrake, &key), (5000, 3500, 3500));
    assert_eq!(keybrake.eventually_rows(&key.id, 5).len(), 5);

    let listed = doubts(&keybrake);
    let of = |quote: f64| listed.iter().find(|doubt| doubt["quote_usd"].as_f64() == Some(quote)).unwrap();
    let (settled, voided) = (of(20.0), of(15.0));
    assert!(unknown.iter().any(|row| row["id"] == settled["request_id"]), "{listed:?}");
    let output = keybrake.cli_command(&["doubt", "void", voided["id"].as_str().unwrap()]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(cents(&keybrake, &key), (3500, 2000, 2000));
    let settle = ["doubt", "settle", settled["id"].as_str().unwrap(), "--usd", "12.5"];
    let output = keybrake.cli_command(&settle).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(cents(&keybrake, &key), (2750, 0, 0));
    let again = keybrake.cli_command(&settle).output().unwrap();
    assert_eq!(again.status.code(), Some(1), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("keybrake doubt list"), "{again:?}");

    // What an operator said is on disk, and in the audit as rows that amend.
    kill(&mut keybrake);
    assert_eq!((cents(&keybrake, &key), doubts(&keybrake)), ((2750, 0, 0), Vec::new()));
    let rows = keybrake.eventually_rows(&key.id, 7);
    let amends = |id: &Value| rows.iter().find(|row| row["amends"] == *id).unwrap().clone();
    let (settled, voided) = (amends(&settled["request_id"]), amends(&voided["request_id"]));
    assert_eq!(
        (&settled["policy_check_result"], &settled["amount_micros"]),
        (&json!("doubt_settled"), &json!(12_500_000))
    );
    assert_eq!(
        (&voided["policy_check_result"], &voided["amount_micros"]),
        (&json!("doubt_voided"), &json!(0))
    );
    assert_eq!((pay(&keybrake, &key, 2251), pay(&keybrake, &key, 2250)), (429, 200));
}

/// The data directory as it is, beside itself.
fn copy_data(keybrake: &Keybrake, name: &str) -> std::path::PathBuf {
    let copy = keybrake.dir().join(name);
    let status = std::process::Command::new("cp").arg("-a").arg(keybrake.data()).arg(&copy).status().unwrap();
    assert!(status.success());
    copy
}

#[test]
fn i5_r4_q15_an_older_copy_is_sealed_until_it_is_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    assert_eq!(pay(&keybrake, &key, 1000), 200);
    assert_eq!(keybrake.dataplane().stop(), 0);
    let older = copy_data(&keybrake, "older");
    keybrake.start_dataplane();
    assert_eq!(pay(&keybrake, &key, 2000), 200);
    keybrake.dataplane().kill_9();
    let newest = copy_data(&keybrake, "newest");
    let check = keybrake.dataplane_command().arg("check").output().unwrap();
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && text.contains("30.00"), "{check:?}");

    std::fs::remove_dir_all(keybrake.data()).unwrap();
    std::fs::rename(&older, keybrake.data()).unwrap();
    let (code, error) = keybrake.failed_start();
    assert_eq!((code, error.lines().count()), (2, 1), "{error}");
    assert!(error.contains("sealed") && error.contains("keybrake-dataplane accept"), "{error}");
    let check = keybrake.dataplane_command().arg("check").output().unwrap();
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    let asked = keybrake.dataplane_command().arg("accept").output().unwrap();
    assert_eq!(asked.status.code(), Some(1), "{asked:?}");
    assert!(!keybrake.failed_start().1.is_empty(), "to be asked changes nothing");

    // The newest one, put back, starts as if nothing had been.
    let older = copy_data(&keybrake, "older");
    std::fs::remove_dir_all(keybrake.data()).unwrap();
    std::fs::rename(&newest, keybrake.data()).unwrap();
    keybrake.start_dataplane();
    assert_eq!(keybrake.committed_cents(&key.id), 3000);
    assert_eq!(keybrake.dataplane().stop(), 0);

    std::fs::remove_dir_all(keybrake.data()).unwrap();
    std::fs::rename(&older, keybrake.data()).unwrap();
    let accepted = keybrake.dataplane_command().args(["accept", "--yes"]).output().unwrap();
    assert!(accepted.status.success(), "{accepted:?}");
    keybrake.start_dataplane();
    assert_eq!(keybrake.committed_cents(&key.id), 1000, "the operator said that nothing newer exists");
    assert_eq!(pay(&keybrake, &key, 100), 200);
}

#[test]
fn r4_what_is_accepted_keeps_what_the_journals_still_say() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    assert_eq!(pay(&keybrake, &key, 1000), 200);
    let _hanging = hang(&keybrake, &stand_in, &key, 2000);
    keybrake.dataplane().kill_9();
    std::fs::remove_file(keybrake.dir().join("data.anchor")).unwrap();
    assert!(keybrake.failed_start().1.contains("anchor"), "a missing anchor seals");
    let accepted = keybrake.dataplane_command().args(["accept", "--yes"]).output().unwrap();
    assert!(accepted.status.success(), "{accepted:?}");
    keybrake.start_dataplane();
    assert_eq!(cents(&keybrake, &key), (3000, 2000, 2000));
    assert_eq!((pay(&keybrake, &key, 2001), pay(&keybrake, &key, 2000)), (429, 200));
}
