//! What keeps a process from starting: one clear line and exit code 2, before anything is served.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use keybrake_tests::{Keybrake, Process, SECRET, Setup};

const NOWHERE: &str = "http://127.0.0.1:9";

/// The dataplane must refuse to start, with one line that holds all of `expected`.
fn check(keybrake: &Keybrake, expected: &[&str]) {
    let (code, text) = keybrake.failed_start();
    said(code, &text, expected);
}

fn said(code: i32, text: &str, expected: &[&str]) {
    assert_eq!(code, 2, "{text}");
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    // What it says about a first start comes before the fault.
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.contains("made the master key") && !line.contains("imported"))
        .collect();
    assert_eq!(lines.len(), 1, "one line: {text}");
    assert!(!text.contains("panicked") && !text.contains(SECRET), "{text}");
}

/// A keybrake whose configuration is `from` replaced by `to`.
fn with_config(from: &str, to: &str) -> Keybrake {
    let keybrake = Setup::new(NOWHERE).prepare();
    let text = keybrake.config_text();
    assert!(text.contains(from), "{from} is not in {text}");
    fs::write(keybrake.config(), text.replace(from, to)).unwrap();
    keybrake
}

#[test]
fn an_unknown_configuration_key_is_named_with_its_line() {
    check(&with_config("workers = 1", "wrokers = 1"), &["keybrake.toml", "wrokers", "line 3"]);
    check(&with_config("[data]", "[date]"), &["date"]);
}

#[test]
fn an_impossible_value_is_named_with_its_key() {
    check(&with_config("workers = 1", "workers = 100000"), &["proxy.workers", "at most 256"]);
    check(&with_config("workers = 1", "workers = \"two\""), &["workers", "line 3"]);
    check(&with_config("workers = 1", "workers = 1\ndriver = \"kqueue\""), &["kqueue"]);
    check(&with_config("allow_plain_http = true", ""), &["vendor[0].base_url", "https"]);
    check(&with_config("127.0.0.1:9\"", "127.0.0.1:9/v1\""), &["vendor[0].base_url"]);
    check(&with_config("http://127.0.0.1:9", "http://192.0.2.1:9"), &["vendor[0].base_url", "loopback"]);
    check(&with_config("name = \"stripe\"", "name = \"strype\""), &["vendor[0].name", "stripe"]);
    check(&with_config("[proxy]", "[proxy"), &["line 1"]);
}

#[test]
fn a_missing_configuration_says_where_it_was_looked_for() {
    let keybrake = Setup::new(NOWHERE).prepare();
    fs::remove_file(keybrake.config()).unwrap();
    check(&keybrake, &["keybrake.toml", "--config"]);
}

#[test]
fn a_taken_port_is_named() {
    let keybrake = Setup::new(NOWHERE).prepare();
    let _taken = TcpListener::bind(keybrake.proxy()).unwrap();
    check(&keybrake, &["proxy.listen", &keybrake.proxy().to_string()]);
}

#[test]
fn a_second_dataplane_on_one_data_directory_is_refused_and_the_first_goes_on() {
    let first = Setup::new(NOWHERE).start();
    let second = Setup::new(NOWHERE).prepare();
    let text = second.config_text();
    let text = text.replace(second.data().to_str().unwrap(), first.data().to_str().unwrap());
    fs::write(second.config(), text).unwrap();
    check(&second, &[first.data().to_str().unwrap()]);
    assert!(first.control().status().ready, "the first still answers on its control socket");
    assert_eq!(keybrake_tests::call(first.proxy(), "GET /readyz", b"").status, 200);
}

#[test]
fn a_second_dataplane_on_one_port_is_refused_although_ports_are_shared_among_workers() {
    let first = Setup::new(NOWHERE).workers(2).start();
    let second = Setup::new(NOWHERE).prepare();
    fs::write(
        second.config(),
        second.config_text().replace(&second.proxy().to_string(), &first.proxy().to_string()),
    )
    .unwrap();
    check(&second, &["proxy.listen", &first.proxy().to_string()]);
}

#[test]
fn a_data_directory_that_cannot_be_written_is_named() {
    // These tests may run as root, whom modes do not stop: a file stands in the directory's place.
    let keybrake = Setup::new(NOWHERE).prepare();
    fs::write(keybrake.data(), "a file").unwrap();
    check(&keybrake, &["data.dir", keybrake.data().to_str().unwrap()]);
    let keybrake = with_config("[data]\ndir = \"", "[data]\ndir = \"/proc");
    check(&keybrake, &["data.dir", "/proc"]);
}

#[test]
fn a_store_in_whose_place_a_file_stands_is_named() {
    let keybrake = Setup::new(NOWHERE).prepare();
    fs::create_dir(keybrake.data()).unwrap();
    fs::write(keybrake.data().join("store"), "a file").unwrap();
    check(&keybrake, &[keybrake.data().join("store").to_str().unwrap()]);
}

#[test]
fn a_first_start_without_a_credential_says_what_to_set() {
    let keybrake = Setup::new(NOWHERE).secret(None).prepare();
    check(&keybrake, &["stripe", "STRIPE_SECRET_KEY"]);
}

#[test]
fn a_credential_that_is_no_bare_secret_is_refused_and_not_shown() {
    let keybrake = Setup::new(NOWHERE).secret(Some("sk_test_half and half")).prepare();
    let (code, text) = keybrake.failed_start();
    said(code, &text, &["stripe", "credential"]);
    assert!(!text.contains("sk_test_half"), "{text}");
}

#[test]
fn r2_a_first_start_without_its_master_key_is_refused() {
    let keybrake = Setup::new(NOWHERE).data_line("master_key_env = \"KB_MASTER\"").prepare();
    check(&keybrake, &["KB_MASTER is not set"]);
    let line = "master_key_command = [\"/nowhere/kms\"]";
    check(&Setup::new(NOWHERE).data_line(line).prepare(), &["master_key_command", "/nowhere/kms"]);
    let both = "master_key_env = \"KB_MASTER\"\nmaster_key_file = \"key\"";
    check(&Setup::new(NOWHERE).data_line(both).prepare(), &["data.master_key_file", "give one"]);
}

#[test]
fn a_ca_file_that_is_none_is_refused() {
    let keybrake = Setup::new("https://localhost:9").vendor_line("ca_file = \"keybrake.toml\"").prepare();
    check(&keybrake, &["ca_file", "keybrake.toml"]);
}

#[test]
fn what_is_kept_is_open_to_its_owner_alone() {
    let keybrake = Setup::new(NOWHERE).start();
    let mode = |path: std::path::PathBuf| fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(keybrake.data()), 0o700);
    assert_eq!(mode(keybrake.data().join("store")), 0o700);
    assert_eq!(mode(keybrake.data().join("master.key")), 0o600);
    assert_eq!(mode(keybrake.data().join("control.sock")), 0o600);
}

#[test]
fn an_environment_variable_goes_over_the_file_and_a_wrong_one_is_named() {
    let keybrake = Setup::new(NOWHERE).prepare();
    let mut command = keybrake.dataplane_command();
    command.env("KEYBRAKE_PROXY__WORKERS", "1000");
    let mut process = Process::start("dataplane", &keybrake.out(), &mut command);
    said(process.exit_code(), &process.stderr(), &["proxy.workers"]);
    let mut command = keybrake.dataplane_command();
    command.env("KEYBRAKE_PROXY__WROKERS", "1");
    let mut process = Process::start("dataplane", &keybrake.out(), &mut command);
    said(process.exit_code(), &process.stderr(), &["wrokers"]);
}

#[test]
fn the_admin_process_refuses_a_taken_port_and_a_wrong_configuration() {
    let keybrake = Setup::new(NOWHERE).prepare();
    let taken = TcpListener::bind(keybrake.admin_address()).unwrap();
    let mut process = Process::start("admin", &keybrake.out(), &mut keybrake.cli_command(&["admin"]));
    said(process.exit_code(), &process.stderr(), &[&keybrake.admin_address().to_string()]);
    drop(taken);
    fs::write(keybrake.config(), "[proxy]\nwrokers = 1\n").unwrap();
    let mut process = Process::start("admin", &keybrake.out(), &mut keybrake.cli_command(&["admin"]));
    said(process.exit_code(), &process.stderr(), &["wrokers"]);
}
