//! The certificate that agents are shown is replaced while they call; and what official SDKs and OpenSSL need to
//! trust it (rule S8).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keybrake_tests::{
    Certificate, Client, Issued, Keybrake, Sdk, Setup, TlsFiles, Vendor, eventually, form_post, json_of,
    paid, python, sdk_environment,
};
use serde_json::json;

fn start(vendor: &Vendor, files: &TlsFiles) -> (Keybrake, Issued) {
    let keybrake = Setup::new(vendor.url()).proxy_line(&files.line("")).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50_000}));
    (keybrake, key)
}

fn charge(key: &Issued) -> Vec<u8> {
    form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd")
}

/// The certificate a new connection is shown.
fn shown(keybrake: &Keybrake, files: &TlsFiles) -> Vec<u8> {
    // Without a session to resume.
    let mut client = Client::connect_tls(keybrake.proxy(), &files.client()).unwrap();
    client.session().peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn s8_a_new_certificate_is_shown_without_a_restart_and_without_a_failed_call() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let (keybrake, key) = start(&vendor, &files);
    let first = shown(&keybrake, &files);
    let mut old = Client::connect_tls(keybrake.proxy(), &files.client()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let agents = (0..4).map(|_| {
        let (stop, proxy, config) = (Arc::clone(&stop), keybrake.proxy(), files.client());
        let call = charge(&key);
        std::thread::spawn(move || {
            let mut paid = 0u64;
            while !stop.load(Ordering::Relaxed) {
                let mut client = Client::connect_tls(proxy, &config).unwrap();
                for _ in 0..5 {
                    client.send(&call);
                    assert_eq!(client.reply().status, 200);
                    paid += 1;
                }
            }
            paid
        })
    });
    let agents: Vec<_> = agents.collect();
    // Written in place and one after the other, as the worst tool does.
    let (cert, private) = files.issuer.pem_of(Certificate::Good, 30);
    std::fs::write(files.path("cert.pem"), &cert).unwrap();
    let complaint = "the private key in";
    eventually("half a pair to be told of", || keybrake.output().contains(complaint).then_some(()));
    assert_eq!(keybrake.control().counter("keybrake_tls_certificate_failing"), 1);
    assert_eq!(shown(&keybrake, &files), first, "the last good one");
    std::fs::write(files.path("key.pem"), &private).unwrap();
    eventually("the new certificate", || (shown(&keybrake, &files) != first).then_some(()));
    assert_eq!(keybrake.control().counter("keybrake_tls_certificate_failing"), 0);
    assert_eq!(keybrake.control().counter("keybrake_tls_certificate_reloads_total"), 1);
    stop.store(true, Ordering::Relaxed);
    let sent: u64 = agents.into_iter().map(|agent| agent.join().unwrap()).sum();
    assert!(sent > 0);
    old.send(charge(&key));
    assert_eq!(old.reply().status, 200, "old connections live on");
    assert_eq!(vendor.seen().len() as u64, sent + 1);
    assert_eq!(keybrake.output().matches(complaint).count(), 1, "one line");
}

#[test]
fn s8_an_expiry_that_is_near_is_an_alarm_and_a_metric() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let (cert, key) = files.issuer.pem_of(Certificate::Good, 5);
    std::fs::write(files.path("cert.pem"), cert).unwrap();
    std::fs::write(files.path("key.pem"), key).unwrap();
    let keybrake = Setup::new(vendor.url()).proxy_line(&files.line("")).with_admin().start();
    let line = eventually("the alarm", || {
        keybrake.output().lines().find(|line| line.contains("ALARM: proxy.tls")).map(str::to_owned)
    });
    // The certificate's seconds are whole.
    assert!(line.contains("in 4 days") || line.contains("in 5 days"), "{line}");
    let status = keybrake.control().status();
    let at = status.proxy_tls.unwrap().expires_at.unwrap();
    assert_eq!(keybrake.control().counter("keybrake_tls_certificate_expires_seconds"), at.as_seconds());
    let output = keybrake.cli_command(&["status"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains(&format!("valid until {}", at.date())) && text.contains("https://"), "{text}");
}

#[test]
fn s8_official_sdks_are_told_the_authority_and_pay_over_https() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let (keybrake, key) = start(&vendor, &files);
    let base = format!("https://localhost:{}", keybrake.proxy().port());
    let ca = files.path("ca.pem");
    for (sdk, base, variable) in [
        (Sdk::StripePython16, format!("{base}/stripe"), "CA_FILE"),
        (Sdk::StripePython7, format!("{base}/stripe"), "CA_FILE"),
        (Sdk::StripeNode23, base.clone(), "NODE_EXTRA_CA_CERTS"),
    ] {
        let words = sdk.words("charge");
        let run = |trusted: bool| {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]).args([&base, "tok_visa", "key", "0", &key.text]).env("NO_PROXY", "*");
            if trusted {
                command.env(variable, &ca);
            }
            json_of(sdk_environment(&mut command))
        };
        assert_eq!(run(true)["id"], "ch_1", "{sdk:?}");
        assert!(run(false)["id"].is_null(), "{sdk:?} checks the certificate");
    }
    assert_eq!(vendor.seen().len(), 3);
}

#[test]
fn s8_openssl_agrees_on_versions_suites_and_the_end() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let (keybrake, _) = start(&vendor, &files);
    let probe = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command
            .args(["s_client", "-connect", &keybrake.proxy().to_string(), "-CAfile", &files.path("ca.pem")])
            .args(["-verify_return_error", "-servername", "localhost"])
            .args(arguments)
            .stdin(Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    for (version, name) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let (works, text) = probe(&[version]);
        assert!(works && text.contains(name) && text.contains("Verify return code: 0"), "{text}");
        assert!(text.contains("Secure Renegotiation IS") && !text.contains("Compression: zlib"), "{text}");
    }
    for refused in [
        &["-tls1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0"],
    ] {
        let (works, text) = probe(refused);
        assert!(!works, "{refused:?}: {text}");
    }
    assert!(vendor.seen().is_empty());
}

/// By tlslite-ng: records of every size, alerts, garbage in place of early data, hellos that are none.
#[test]
fn s8_conversations_that_break_the_rules_of_tls_end_as_they_must() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let (keybrake, _) = start(&vendor, &files);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/tls-audit.py");
    let mut command = Command::new(python("venv-tls"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script);
    command.args(["127.0.0.1", &keybrake.proxy().port().to_string()]);
    let output = command.output().unwrap();
    let is_fine = output.status.success();
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(is_fine && text.contains("conversations end as they must"), "{text}");
    assert_eq!(keybrake.control().counter("keybrake_panics_total"), 0);
    assert!(vendor.seen().is_empty());
}
