//! Vendors' credentials: replaced under load, several for one vendor, and never given out.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write as _;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keybrake_tests::{
    Client, Issued, Keybrake, SECRET, Setup, Vendor, eventually, form_post, paid, secrets_in_files,
};
use serde_json::json;

/// As long as [`SECRET`], so that requests with either have one length.
const OTHER: &str = "sk_test_OTHERotherOTHERotherOTHE";

fn vendor_command(keybrake: &Keybrake, arguments: &[&str], secret: &str) -> Output {
    let mut command = keybrake.cli_command(&[&["vendor"], arguments].concat());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may refuse before it reads.
    child.stdin.take().unwrap().write_all(secret.as_bytes()).ok();
    child.wait_with_output().unwrap()
}

fn charge(keybrake: &Keybrake, key: &Issued) -> u16 {
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd"));
    client.reply().status
}

/// How many requests came with this secret.
fn sent_with(vendor: &Vendor, secret: &str) -> u64 {
    let seen = vendor.seen();
    let line = format!("Bearer {secret}");
    seen.iter().filter(|seen| seen.field("authorization") == Some(&line)).count() as u64
}

#[test]
fn h7_a_rotated_credential_is_used_by_every_call_from_then_on_and_on_connections_of_its_own() {
    assert_eq!(OTHER.len(), SECRET.len());
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).workers(2).with_admin().start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    let stop = Arc::new(AtomicBool::new(false));
    let agents: Vec<_> = (0..16)
        .map(|_| {
            let (proxy, stop) = (keybrake.proxy(), Arc::clone(&stop));
            let call = form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd");
            std::thread::spawn(move || {
                let mut client = Client::connect(proxy);
                while !stop.load(Ordering::Relaxed) {
                    client.send(&call);
                    assert_eq!(client.reply().status, 200, "agents notice nothing");
                }
            })
        })
        .collect();
    eventually("the load to run", || (vendor.bytes() > 50_000).then_some(()));
    let output = vendor_command(&keybrake, &["rotate", "stripe"], &format!("{OTHER}\n"));
    let arrived = vendor.arrived_bytes();
    assert!(output.status.success(), "{output:?}");
    let connections = vendor.connections();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("credential 2, in force on every worker"), "{told}");
    let before = vendor.bytes();
    eventually("calls with the other one", || (vendor.bytes() > before + 50_000).then_some(()));
    stop.store(true, Ordering::Relaxed);
    agents.into_iter().for_each(|agent| agent.join().unwrap());
    let (old, new) = (sent_with(&vendor, SECRET), sent_with(&vendor, OTHER));
    assert_eq!(old + new, vendor.seen().len() as u64);
    let bytes_each = vendor.bytes() / (old + new);
    assert_eq!(bytes_each * (old + new), vendor.bytes(), "all of one length");
    assert!(
        old > 0 && new > 0 && old * bytes_each <= arrived,
        "{old} with the old one, {arrived} bytes at the answer"
    );
    assert!(connections >= 1);
    // Also after a kill, and whatever the environment says.
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    assert_eq!(charge(&keybrake, &key), 200);
    assert_eq!(sent_with(&vendor, SECRET), old);
}

#[test]
fn a_key_acts_on_the_account_it_names() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let eu = json!({"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"], "account": "eu"});
    let refused = keybrake.operate("POST /vault/keys", Some(&eu)).expect(400);
    assert_eq!(refused["error"]["field"], "account", "{refused}");
    let file = keybrake.dir().join("eu.secret");
    std::fs::write(&file, OTHER).unwrap();
    let add = ["add", "stripe", "--account", "eu", "--credential-file", file.to_str().unwrap()];
    let output = vendor_command(&keybrake, &add, "");
    assert!(output.status.success(), "{output:?}");
    let (ours, default) = (keybrake.control().issue(&eu), keybrake.issue(&["POST /v1/charges"], &json!({})));
    let child = keybrake.control().issue(&json!({"parent_vault_key": ours.text}));
    assert_eq!(
        (keybrake.key(&ours.id).account, keybrake.key(&child.id).account),
        ("eu".to_owned(), "eu".to_owned())
    );
    for restarted in [0, 1] {
        // In turn over kept connections, each with the credential of its own account.
        for _ in 0..3 {
            assert_eq!([&ours, &default, &child].map(|key| charge(&keybrake, key)), [200; 3]);
        }
        let sent = (sent_with(&vendor, OTHER), sent_with(&vendor, SECRET));
        assert_eq!(sent, (6 * (restarted + 1), 3 * (restarted + 1)));
        keybrake.dataplane().kill_9();
        keybrake.start_dataplane();
    }
    for (key, account, parent) in
        [(&ours, "eu", json!(null)), (&default, "default", json!(null)), (&child, "eu", json!(ours.id))]
    {
        let row = &keybrake.eventually_rows(&key.id, 6)[0];
        assert_eq!((&row["account"], &row["parent_key_id"]), (&json!(account), &parent), "{row}");
    }
    let listed =
        keybrake.cli_command(&["audit", "list", "--key", &child.id, "--limit", "1"]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let line = listed.lines().nth(1).unwrap_or_default();
    assert!(line.contains(&ours.id) && line.contains(" eu "), "{listed}");
    let again = vendor_command(&keybrake, &add, "");
    assert!(
        again.status.code() == Some(1) && String::from_utf8_lossy(&again.stderr).contains("already"),
        "{again:?}"
    );
    let missing = vendor_command(&keybrake, &["rotate", "stripe", "--account", "us"], OTHER);
    assert!(missing.status.code() == Some(1), "{missing:?}");
}

#[test]
fn p2_a_credential_goes_in_and_never_out() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let put = |body: &serde_json::Value| keybrake.operate("PUT /vendors/stripe/accounts/eu", Some(body));
    let mut said = String::new();
    for (body, status) in [
        (json!({"credential": OTHER, "only": "existing"}), 404),
        (json!({"credential": OTHER, "only": "new"}), 201),
        (json!({"credential": OTHER, "only": "new"}), 409),
        (json!({"credential": OTHER}), 200),
        (json!({"credential": OTHER, "onyl": "new"}), 400),
        (json!({"credential": [OTHER]}), 400),
        (json!({"credential": format!("{OTHER} {OTHER}")}), 400),
    ] {
        let reply = put(&body);
        assert_eq!(reply.status, status, "{}", reply.text());
        said.push_str(&reply.text());
    }
    let listed = keybrake.operate("GET /vendors", None);
    let accounts = &listed.expect(200)["vendors"][0]["accounts"];
    assert_eq!(*accounts, json!([{"name": "default", "version": 1}, {"name": "eu", "version": 2}]));
    said.push_str(&listed.text());
    assert_eq!(
        keybrake.operate("PUT /vendors/nobody/accounts/eu", Some(&json!({"credential": OTHER}))).status,
        404
    );
    assert_eq!(
        keybrake.operate("PUT /vendors/stripe/accounts/E.U", Some(&json!({"credential": OTHER}))).status,
        400
    );
    keybrake.admin().stop();
    keybrake.dataplane().stop();
    said.push_str(&keybrake.output());
    for secret in [SECRET, OTHER] {
        assert!(!said.contains(secret), "{said}");
        assert_eq!(secrets_in_files(&keybrake.data(), secret), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn a_vendor_without_a_credential_starts_and_gets_one_later() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).secret(None).with_admin().prepare();
    let text = std::fs::read_to_string(keybrake.config()).unwrap();
    std::fs::write(keybrake.config(), text.replace("credential_env", "# credential_env")).unwrap();
    let mut keybrake = keybrake;
    keybrake.start_dataplane();
    keybrake.start_admin();
    let spec = json!({"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"]});
    let refused = keybrake.operate("POST /vault/keys", Some(&spec)).expect(400);
    assert_eq!(refused["error"]["field"], "account", "{refused}");
    let output = vendor_command(&keybrake, &["set", "stripe"], SECRET);
    assert!(output.status.success(), "{output:?}");
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    assert_eq!((charge(&keybrake, &key), sent_with(&vendor, SECRET)), (200, 1));
}
