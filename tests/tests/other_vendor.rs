//! A vendor that only the configuration knows, and the files with prices.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write;

use keybrake_tests::{Client, Issued, Keybrake, Reply, Seen, Setup, Vendor, request, whole};
use serde_json::json;

const REAL_KEY: &str = "acme-live-9Lq3ZbVtYw2RkHs7";

/// The worked example of docs/other-vendors.md.
const VENDOR: &str = r#"
credential_header = "X-Api-Key"
request_headers = ["Acme-Version"]
free_reads = false

[[vendor.operation]]
method = "POST"
path = "/v1/payments"
price = "amount"
field = "payment.amount"
unit = "minor"
currency_field = "payment.currency"
idempotent = true

[[vendor.operation]]
method = "POST"
path = "/v1/faxes"
price = "units"
field = "pages"
usd = "0.07"

[[vendor.operation]]
method = "POST"
path = "/v1/letters/{id}/send"
price = "fixed"
usd = "1.25"

[[vendor.operation]]
method = "GET"
path = "/v1/letters/{id}"
price = "free"

[[vendor.operation]]
method = "POST"
path = "/v1/tokens"
price = "free"
escalates = true
"#;

const RATES: &str = "source = \"made up for this test\"\ndate = \"2026-11-20\"\nmax_age_days = 100000\n\
                     spread_percent = \"2\"\n[usd_per]\ngbp = \"1.25\"\n";

fn done(_: &Seen, out: &mut dyn Write) -> std::io::Result<()> {
    out.write_all(&whole(200, "{}"))
}

fn start(vendor: &Vendor) -> (Keybrake, Issued) {
    let dir = tempfile::tempdir().unwrap();
    let rates = dir.path().join("rates.toml");
    std::fs::write(&rates, RATES).unwrap();
    let prices = format!("[prices]\nrates_file = \"{}\"", rates.display());
    let setup = Setup::new(vendor.url()).of_vendor("acme", REAL_KEY);
    let keybrake = setup.vendor_line(VENDOR).vendor_line(&prices).start();
    let key =
        keybrake.issue(&["POST /v1/**", "GET /v1/**"], &json!({"vendor": "acme", "daily_usd_cap": 100}));
    (keybrake, key)
}

fn call(keybrake: &Keybrake, head: &str, body: &str) -> Reply {
    let kind = if body.is_empty() { "" } else { "\nContent-Type: application/json" };
    let mut client = Client::connect(keybrake.proxy());
    client.send(request(&format!("{head}{kind}"), body.as_bytes()));
    client.reply()
}

#[test]
fn its_calls_are_priced_as_the_configuration_says() {
    let vendor = Vendor::start(done);
    let (keybrake, key) = start(&vendor);
    let mut spent = 0;
    let mut check = |line: &str, body: &str, status: u16, micros: u64| {
        let reply = call(&keybrake, &format!("{line}\nX-Api-Key: {}", key.text), body);
        assert_eq!(reply.status, status, "{line} {body}: {}", reply.text());
        spent += micros;
        assert_eq!(keybrake.micros(&key.id), (spent, 0), "{line} {body}");
    };
    check("POST /acme/v1/payments", r#"{"payment":{"amount":1900,"currency":"usd"}}"#, 200, 19_000_000);
    // Settled without the spread that was held.
    check("POST /acme/v1/payments", r#"{"payment":{"amount":1000,"currency":"gbp"}}"#, 200, 12_500_000);
    check("POST /acme/v1/payments", r#"{"payment":{"amount":1000,"currency":"chf"}}"#, 403, 0);
    check("POST /acme/v1/payments", r#"{"payment":{"amount":1,"amount":1000,"currency":"usd"}}"#, 400, 0);
    check("POST /acme/v1/payments", r#"{"payment":{"amount":"1000","currency":"usd"}}"#, 400, 0);
    check("POST /acme/v1/faxes", r#"{"pages":[1,2,3]}"#, 200, 210_000);
    check("POST /acme/v1/faxes", r#"{"pages":2}"#, 200, 140_000);
    check("POST /acme/v1/letters/7/send", "{}", 200, 1_250_000);
    check("GET /acme/v1/letters/7", "", 200, 0);
    // Not listed, and reads are not said to be free.
    check("GET /acme/v1/reports", "", 403, 0);
    check("POST /acme/v1/reports", "{}", 403, 0);
    // `**` does not match what hands out credentials.
    check("POST /acme/v1/tokens", "{}", 403, 0);
    check("POST /acme/v1/payments", r#"{"payment":{"amount":9000,"currency":"usd"}}"#, 429, 0);
    assert_eq!(vendor.seen().len(), 6);
}

#[test]
fn its_credential_stands_in_its_own_header_and_the_vault_key_nowhere() {
    let vendor = Vendor::start(done);
    let (keybrake, key) = start(&vendor);
    let fields = format!("X-Api-Key: {}\nAcme-Version: 7\nX-Other: 8\nAuthorization: Bearer x", key.text);
    drop(call(&keybrake, &format!("POST /acme/v1/faxes\n{fields}"), r#"{"pages":1}"#).expect(200));
    let seen = &vendor.seen()[0];
    assert_eq!(seen.line, "POST /v1/faxes");
    assert_eq!(seen.field("x-api-key"), Some(REAL_KEY));
    assert_eq!(seen.field("acme-version"), Some("7"));
    assert_eq!((seen.field("x-other"), seen.field("authorization")), (None, None));
    assert_eq!(seen.text(), r#"{"pages":1}"#);
    assert!(!format!("{seen:?}").contains(&key.text), "{seen:?}");
    // The vault key in another slot, or two of them.
    for fields in [
        format!("Authorization: Bearer {}", key.text),
        format!("X-Api-Key: Bearer {}", key.text),
        format!("X-Api-Key: {}\nX-Api-Key: {}", key.text, key.text),
    ] {
        drop(call(&keybrake, &format!("POST /acme/v1/faxes\n{fields}"), r#"{"pages":1}"#).expect(401));
    }
    assert_eq!(vendor.seen().len(), 1);
}

#[test]
fn q5_a_repeat_counts_once_where_the_configuration_says_that_the_vendor_knows_it() {
    let vendor = Vendor::start(done);
    let (keybrake, key) = start(&vendor);
    let head = format!("POST /acme/v1/payments\nX-Api-Key: {}\nIdempotency-Key: one", key.text);
    for _ in 0..2 {
        drop(call(&keybrake, &head, r#"{"payment":{"amount":1900,"currency":"usd"}}"#).expect(200));
    }
    assert_eq!(keybrake.micros(&key.id), (19_000_000, 0));
}

#[test]
fn a_price_file_that_cannot_be_used_is_one_line_at_the_start_and_in_the_check() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("twilio.toml");
    std::fs::write(&file, "source = \"x\"\ndate = \"2026-11-20\"\nprice = 0.5\n").unwrap();
    let lines = format!("[prices]\ntwilio_file = \"{}\"", file.display());
    let keybrake = Setup::new("http://127.0.0.1:9").vendor_line(&lines).prepare();
    let (code, output) = keybrake.failed_start();
    assert_eq!((code, output.lines().count()), (2, 1), "{output}");
    let words = format!("prices.twilio_file {}: line 3: unknown field `price`", file.display());
    assert!(output.contains(&words), "{output}");
    let checked = keybrake.cli_command(&["config", "check"]).output().unwrap();
    let error = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.code() == Some(2) && error.contains(&words), "{error}");
}

#[test]
fn a_call_is_explained_without_a_running_keybrake() {
    let keybrake = Setup::new("http://127.0.0.1:9").of_vendor("acme", REAL_KEY).vendor_line(VENDOR).prepare();
    let explain = |arguments: &[&str]| {
        let output = keybrake.cli_command(&[&["price", "explain"], arguments].concat()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = explain(&["POST", "/acme/v1/faxes", "--body", r#"{"pages":3}"#]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("3 units at $0.07") && text.contains("held       $0.21"), "{text}");
    let to = "To=%2B15551234567&Body=hello";
    let (code, text) = explain(&[
        "--json",
        "POST",
        "/2010-04-01/Accounts/AC0/Messages.json",
        "--vendor",
        "twilio",
        "--body",
        to,
    ]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, json["held_usd"].as_str()), (Some(0), Some("0.0145")), "{text}");
    let (code, text) = explain(&["POST", "/stripe/v1/charges", "--body", "amount=5&currency=gbp"]);
    assert!(code == Some(1) && text.contains("prices.rates_file has no rate for gbp"), "{text}");
    let (code, text) = explain(&["POST", "/stripe/v1/refunds", "--body", "charge=ch_1"]);
    assert!(code == Some(0) && text.contains("GET /v1/charges/ch_1"), "{text}");
}
