//! The operator's command line, as it is typed.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::process::Output;

use keybrake_tests::{Client, Keybrake, Process, Setup, StandIn, call, eventually, form_post, get, kill_9};
use serde_json::Value;

fn run(keybrake: &Keybrake, arguments: &[&str]) -> Output {
    keybrake.cli_command(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The standard output of a command that succeeds.
fn done(keybrake: &Keybrake, arguments: &[&str]) -> String {
    let output = run(keybrake, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text(&output.stdout)
}

/// The one line of a command that fails with this exit code.
fn failed(keybrake: &Keybrake, code: i32, arguments: &[&str]) -> String {
    let output = run(keybrake, arguments);
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().count(), 1, "{arguments:?}: one line: {stderr}");
    assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    stderr
}

#[test]
fn a_key_is_issued_used_listed_shown_revoked_and_read_back_in_the_audit() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).with_admin().start();
    let issued = done(
        &keybrake,
        &[
            "key",
            "issue",
            "--vendor",
            "stripe",
            "--allow",
            "POST /v1/charges",
            "--daily-usd-cap",
            "50",
            "--label",
            "cli",
            "--metadata",
            "agent_id=a1",
        ],
    );
    let key = issued.trim();
    assert!(
        key.starts_with("vault_key_") && issued.lines().count() == 1,
        "standard output is the key: {issued}"
    );
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", key, "amount=1000&currency=usd&source=tok_visa"));
    assert_eq!(client.reply().status, 200);
    let listed: Value = serde_json::from_str(&done(&keybrake, &["key", "list", "--json"])).unwrap();
    let id = listed["keys"][0]["id"].as_str().unwrap_or_else(|| panic!("{listed}")).to_owned();
    assert!(done(&keybrake, &["key", "list"]).contains(&id));
    let shown = done(&keybrake, &["key", "show", &id]);
    assert!(shown.contains("10.00") && shown.contains("40.00") && !shown.contains(key), "{shown}");
    let rows = eventually("the row", || {
        let rows: Value = serde_json::from_str(&done(&keybrake, &["audit", "list", "--json"])).unwrap();
        rows["rows"].as_array().filter(|rows| rows.len() == 1).cloned()
    });
    assert_eq!(
        (&rows[0]["vault_key_id"], rows[0]["amount_usd"].as_f64()),
        (&Value::from(id.as_str()), Some(10.0))
    );
    assert!(done(&keybrake, &["audit", "list"]).contains("/v1/charges"));
    done(&keybrake, &["key", "revoke", &id]);
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", key).status, 401);
    let listed: Value = serde_json::from_str(&done(&keybrake, &["key", "show", &id, "--json"])).unwrap();
    assert_eq!(listed["status"], "revoked");
}

#[test]
fn every_command_has_help_with_examples() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    for command in [
        &["up"][..],
        &["admin"],
        &["status"],
        &["token"],
        &["key"],
        &["key", "issue"],
        &["key", "list"],
        &["key", "show"],
        &["key", "revoke"],
        &["audit", "list"],
        &["config", "check"],
    ] {
        let help = done(&keybrake, &[command, &["--help"]].concat());
        assert!(help.contains("Examples:") && help.contains("keybrake "), "{command:?}: {help}");
    }
}

#[test]
fn what_cannot_be_is_one_line_and_exit_code_2_and_what_is_refused_is_exit_code_1() {
    let keybrake = Setup::new("http://127.0.0.1:9").with_admin().start();
    assert!(failed(&keybrake, 2, &["key", "issue", "--vendor", "stripe"]).contains("--allow"));
    assert!(failed(&keybrake, 2, &["key", "isue"]).contains("isue"));
    failed(
        &keybrake,
        2,
        &["key", "issue", "--vendor", "stripe", "--allow", "post v1", "--daily-usd-cap", "5"],
    );
    failed(
        &keybrake,
        2,
        &["key", "issue", "--vendor", "stripe", "--allow", "POST /v1/a", "--daily-usd-cap", "-5"],
    );
    let refused =
        failed(&keybrake, 1, &["key", "issue", "--vendor", "strype", "--allow", "POST /v1/charges"]);
    assert!(refused.contains("vendor") && refused.contains("stripe"), "{refused}");
    assert!(failed(&keybrake, 1, &["key", "show", "vk_0000000000000000"]).contains("key"));
    assert!(failed(&keybrake, 1, &["key", "revoke", "vk_0000000000000000"]).contains("key"));
}

#[test]
fn a_wrong_token_and_an_admin_process_that_is_down_are_told_apart() {
    let mut keybrake = Setup::new("http://127.0.0.1:9").with_admin().start();
    let output = keybrake
        .cli_command(&["key", "list"])
        .env("KEYBRAKE_ADMIN_TOKEN", "another-token-0123456789")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("token"), "{output:?}");
    assert_eq!(keybrake.admin().stop(), 0);
    let line = failed(&keybrake, 1, &["key", "list"]);
    assert!(line.contains("keybrake up") || line.contains("keybrake admin"), "it says what to start: {line}");
}

#[test]
fn config_check_accepts_the_file_and_names_what_is_wrong_in_another() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    done(&keybrake, &["config", "check"]);
    std::fs::write(keybrake.config(), keybrake.config_text().replace("workers = 1", "wrokers = 1")).unwrap();
    assert!(failed(&keybrake, 2, &["config", "check"]).contains("wrokers"));
    std::fs::write(keybrake.config(), keybrake.config_text().replace("workers = 1", "workers = \"two\""))
        .unwrap();
    assert!(failed(&keybrake, 2, &["config", "check"]).contains("workers"));
}

#[test]
fn up_runs_both_restarts_one_that_dies_and_sigterm_stops_both() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).prepare();
    let mut up = Process::start("up", &keybrake.out(), &mut keybrake.cli_command(&["up"]));
    let (proxy, admin) = (keybrake.proxy(), keybrake.admin_address());
    let is_up = |address, path: &str| {
        std::net::TcpStream::connect(address).is_ok()
            && call(address, &format!("GET {path}"), b"").status == 200
    };
    up.wait_until("ready", |_| (is_up(admin, "/livez") && is_up(admin, "/readyz")).then_some(()));
    let key = keybrake.issue_by_admin(&["POST /v1/charges"], &serde_json::json!({"daily_usd_cap": 50}));
    let pay = |cents: u64| {
        let mut client = Client::connect(proxy);
        client.send(form_post(
            "/stripe/v1/charges",
            &key.text,
            &format!("amount={cents}&currency=usd&source=tok_visa"),
        ));
        client.reply().status
    };
    assert_eq!(pay(5000), 200);
    keybrake.settle();
    assert!(run(&keybrake, &["status"]).status.success());
    let first = keybrake.control().status().pid;
    // A child of `up`, which this test started: by its own id.
    kill_9(first);
    let control = keybrake.control();
    up.wait_until("running a new dataplane", |_| {
        (control.answers() && is_up(admin, "/readyz") && control.status().pid != first).then_some(())
    });
    assert_eq!(pay(1), 429, "the cap stays spent");
    assert_eq!(up.stop(), 0);
    for (name, address) in [("the dataplane", proxy), ("the admin process", admin)] {
        assert!(std::net::TcpStream::connect(address).is_err(), "{name} still listens on {address}");
    }
}

#[test]
fn up_ends_at_once_with_exit_code_2_when_the_configuration_cannot_be_used() {
    let keybrake = Setup::new("http://127.0.0.1:9").secret(None).prepare();
    let mut up = Process::start("up", &keybrake.out(), &mut keybrake.cli_command(&["up"]));
    assert_eq!(up.exit_code(), 2, "{}", up.stderr());
    assert!(up.stderr().contains("STRIPE_SECRET_KEY"), "{}", up.stderr());
}
