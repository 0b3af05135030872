//! A vendor over TLS: its certificate is checked, and nothing is sent to one that cannot prove itself.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::process::Command;

use keybrake_tests::{
    Certificate, Client, Issued, Issuer, Keybrake, Port, Process, Setup, Vendor, form_post, paid,
};
use rustls::version::{TLS12, TLS13};
use serde_json::json;

/// A vendor that shows `certificate`, and a keybrake that trusts its authority alone.
fn with_vendor(certificate: Certificate) -> (Vendor, Keybrake, Issued) {
    let issuer = Issuer::new();
    let vendor = Vendor::start_tls(issuer.server(certificate), paid);
    let (keybrake, key) = trusting(&issuer, vendor.address().port());
    (vendor, keybrake, key)
}

/// A keybrake whose vendor is at this port, and is trusted by this authority alone.
fn trusting(issuer: &Issuer, port: u16) -> (Keybrake, Issued) {
    let ca = tempfile::NamedTempFile::new().unwrap();
    issuer.write_to(ca.path());
    let setup = Setup::new(format!("https://localhost:{port}"))
        .vendor_line("allow_private_address = true")
        .vendor_line(&format!("ca_file = \"{}\"", ca.path().display()));
    let keybrake = setup.start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    (keybrake, key)
}

#[test]
fn s8_a_vendor_that_speaks_tls_1_2_or_1_3_alone_is_paid() {
    for version in [&TLS12, &TLS13] {
        let issuer = Issuer::new();
        let vendor = Vendor::start_tls(issuer.server_of(Certificate::Good, &[version]), paid);
        let (keybrake, key) = trusting(&issuer, vendor.address().port());
        let mut client = Client::connect(keybrake.proxy());
        client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
        assert_eq!(client.reply().status, 200);
    }
}

/// OpenSSL's own server, since rustls knows no version before 1.2.
#[test]
fn s8_nothing_is_sent_to_a_vendor_that_speaks_tls_1_1_alone() {
    let issuer = Issuer::new();
    let (cert, key_pem) = issuer.pem_of(Certificate::Good, 90);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cert.pem"), cert).unwrap();
    std::fs::write(dir.path().join("key.pem"), key_pem).unwrap();
    let port = Port::reserve();
    let mut command = Command::new("openssl");
    command
        .current_dir(dir.path())
        .args(["s_server", "-cert", "cert.pem", "-key", "key.pem", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
        // It reads no standard input then.
        .args(["-www", "-accept", &port.address().to_string()]);
    let mut vendor = Process::start("openssl", dir.path(), &mut command);
    vendor.wait_until("listening", |vendor| vendor.stdout().contains("ACCEPT").then_some(()));
    let (keybrake, key) = trusting(&issuer, port.address().port());
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
    assert_eq!(client.reply().expect(502)["error"]["code"], "vendor_unreachable");
    let refused = |vendor: &Process| vendor.stderr().contains("SSL routines").then_some(());
    vendor.wait_until("refused", refused);
    assert_eq!(keybrake.committed_cents(&key.id), 0);
}

#[test]
fn a_vendor_whose_certificate_the_ca_file_vouches_for_is_paid_over_one_kept_connection() {
    let (vendor, keybrake, key) = with_vendor(Certificate::Good);
    let mut client = Client::connect(keybrake.proxy());
    for cents in [1000, 2000] {
        client.send(form_post("/stripe/v1/charges", &key.text, &format!("amount={cents}&currency=usd")));
        assert_eq!(client.reply().expect(200)["amount"].as_u64(), Some(cents));
    }
    assert_eq!((vendor.connections(), vendor.seen().len()), (1, 2));
    assert_eq!(keybrake.committed_cents(&key.id), 3000);
}

fn nothing_is_sent_to(certificate: Certificate) {
    let (vendor, keybrake, key) = with_vendor(certificate);
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
    assert_eq!(client.reply().expect(502)["error"]["code"], "vendor_unreachable");
    assert!(vendor.connections() >= 1, "the vendor was asked for its certificate");
    assert_eq!(vendor.bytes(), 0, "not one byte of the request was sent");
    assert_eq!(keybrake.committed_cents(&key.id), 0, "the amount is free again");
}

#[test]
fn s8_nothing_is_sent_to_a_vendor_with_a_certificate_for_another_name() {
    nothing_is_sent_to(Certificate::OtherName);
}

#[test]
fn s8_nothing_is_sent_to_a_vendor_with_an_expired_certificate() {
    nothing_is_sent_to(Certificate::Expired);
}

#[test]
fn s8_nothing_is_sent_to_a_vendor_with_a_self_signed_certificate() {
    nothing_is_sent_to(Certificate::SelfSigned);
}

#[test]
fn e2_nothing_is_sent_to_a_private_address_that_was_not_allowed() {
    let issuer = Issuer::new();
    let vendor = Vendor::start_tls(issuer.server(Certificate::Good), paid);
    let keybrake = Setup::new(format!("https://localhost:{}", vendor.address().port())).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
    assert_eq!(client.reply().expect(502)["error"]["code"], "vendor_unreachable");
    assert_eq!(vendor.connections(), 0);
}

#[test]
fn s8_a_vendor_that_speaks_no_tls_gets_no_request() {
    let vendor = Vendor::start(paid);
    let url = format!("https://localhost:{}", vendor.address().port());
    let keybrake = Setup::new(url)
        .vendor_line("allow_private_address = true")
        .vendor_line("connect_timeout_s = 1")
        .start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
    assert!(matches!(client.reply().status, 502 | 504));
    assert!(vendor.seen().is_empty());
    assert_eq!(keybrake.committed_cents(&key.id), 0);
}
