//! The master key: without it everything is sealed, and it is replaced while keybrake runs (rule R2).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use keybrake_tests::{Issued, Keybrake, SECRET, Setup, Vendor, call, eventually, form_post, get, paid};
use serde_json::{Value, json};

const CHARGE: &str = "POST /v1/charges";

fn key_of(byte: &str) -> String {
    byte.repeat(32)
}

/// One key that may charge, at a vendor that says yes.
fn issue(keybrake: &Keybrake) -> Issued {
    keybrake.issue(&[CHARGE], &json!({"daily_usd_cap": 50}))
}

fn charge(keybrake: &Keybrake, key: &Issued) -> keybrake_tests::Reply {
    let mut client = keybrake_tests::Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=100&currency=usd"));
    client.reply()
}

fn is_charged(keybrake: &Keybrake, vendor: &Vendor, key: &Issued) {
    let before = vendor.seen().len();
    assert_eq!(charge(keybrake, key).status, 200);
    let seen = vendor.seen();
    assert_eq!(seen.len(), before + 1);
    assert_eq!(seen[before].field("authorization"), Some(format!("Bearer {SECRET}").as_str()));
}

fn output(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

/// The lines of the sealed dataplane that say so.
fn sealed_lines(keybrake: &mut Keybrake) -> Vec<String> {
    let text = keybrake.dataplane().stderr();
    text.lines().filter(|line| line.contains("sealed: ")).map(str::to_owned).collect()
}

#[test]
fn r2_with_a_wrong_missing_malformed_or_open_master_key_it_is_sealed_and_says_why() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let key = issue(&keybrake);
    is_charged(&keybrake, &vendor, &key);
    let path = keybrake.master_key_file();
    let right = fs::read(&path).unwrap();
    let calls = vendor.seen().len();
    for (wrong, words) in [
        (Some(key_of("00")), "another master key"),
        (Some("half a key".to_owned()), "64 hexadecimal digits"),
        (None, "is not there"),
        (Some("open".to_owned()), "chmod 600"),
    ] {
        assert_eq!(keybrake.dataplane().stop(), 0);
        match &wrong {
            Some(text) if text == "open" => {
                fs::write(&path, &right).unwrap();
                fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
            }
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        keybrake.start_sealed();
        check_sealed(&mut keybrake, &key, words);
        if wrong.is_none() {
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
    }
    assert_eq!(vendor.seen().len(), calls, "nothing was sent");
    // The right key and a restart, and all is as before.
    assert_eq!(keybrake.dataplane().stop(), 0);
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    keybrake.start_dataplane();
    is_charged(&keybrake, &vendor, &key);
    assert_eq!(keybrake.committed_cents(&key.id), 200);
}

fn check_sealed(keybrake: &mut Keybrake, key: &Issued, words: &str) {
    let lines = sealed_lines(keybrake);
    assert!(lines.len() == 1 && lines[0].contains(words), "one line, with {words}: {lines:?}");
    let denied = charge(keybrake, key).expect(503);
    assert_eq!(denied["error"]["code"], "sealed");
    let unknown = get(keybrake.proxy(), "/stripe/v1/charges/ch_1", "no-key");
    assert_eq!(unknown.expect(503)["error"]["code"], "sealed", "whoever asks");
    let own = get(keybrake.proxy(), "/vault/keys/self", &key.text);
    assert_eq!(own.expect(503)["error"]["code"], "sealed", "not `unknown`: the key is good");
    assert_eq!(call(keybrake.proxy(), "GET /readyz", b"").status, 503);
    assert_eq!(call(keybrake.admin_address(), "GET /readyz", b"").expect(503)["error"]["code"], "sealed");
    let (status, text) = output(&mut keybrake.cli_command(&["status"]));
    assert!(status == 1 && text.contains("SEALED") && text.contains(words), "{text}");
    for (line, body) in [
        ("POST /vault/keys", json!({"vendor": "stripe", "allowed_endpoints": [CHARGE]})),
        ("PUT /vendors/stripe/accounts/default", json!({"credential": "sk_test_another"})),
        ("POST /master-key/rotate", Value::Null),
    ] {
        let refused = keybrake.operate(line, Some(&body).filter(|body| !body.is_null())).expect(503);
        assert_eq!(refused["error"]["code"], "sealed", "{line}");
    }
}

#[test]
fn r2_a_sealed_dataplane_takes_revokes() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let (kept, revoked) = (issue(&keybrake), issue(&keybrake));
    assert_eq!(keybrake.dataplane().stop(), 0);
    let path = keybrake.master_key_file();
    let right = fs::read(&path).unwrap();
    fs::write(&path, key_of("00")).unwrap();
    keybrake.start_sealed();
    let answer = keybrake.operate(&format!("POST /vault/keys/{}/revoke", revoked.id), None).expect(200);
    assert_eq!(answer["status"], "revoked");
    assert_eq!(keybrake.dataplane().stop(), 0);
    fs::write(&path, right).unwrap();
    keybrake.start_dataplane();
    assert_eq!(charge(&keybrake, &revoked).status, 401);
    is_charged(&keybrake, &vendor, &kept);
}

#[test]
fn r2_a_sealed_dataplane_is_unsealed_by_a_take_over() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).start();
    let key = issue(&keybrake);
    assert_eq!(keybrake.dataplane().stop(), 0);
    let path = keybrake.master_key_file();
    let right = fs::read(&path).unwrap();
    fs::write(&path, key_of("00")).unwrap();
    keybrake.start_sealed();
    let mut refused = keybrake.dataplane_command();
    let (status, text) = output(refused.arg("--take-over"));
    assert!(status == 2 && text.contains("another master key"), "the one that runs stays: {text}");
    fs::write(&path, right).unwrap();
    let mut next = keybrake.dataplane_command();
    next.arg("--take-over");
    let mut next = keybrake_tests::Process::start("next", &keybrake.out(), &mut next);
    let proxy = keybrake.proxy();
    next.wait_until("ready", |_| (call(proxy, "GET /readyz", b"").status == 200).then_some(()));
    assert_eq!(keybrake.dataplane().exit_code(), 0);
    keybrake.dataplane = Some(next);
    is_charged(&keybrake, &vendor, &key);
}

#[test]
fn r2_the_master_key_is_rotated_while_calls_go_on_and_nothing_is_entered_again() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let key = issue(&keybrake);
    let path = keybrake.master_key_file();
    let first = fs::read(&path).unwrap();
    let (status, text) = output(&mut keybrake.cli_command(&["master-key", "rotate"]));
    assert!(status == 0 && text.contains("1 wrapped anew"), "{text}");
    assert_ne!(fs::read(&path).unwrap(), first);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    is_charged(&keybrake, &vendor, &key);
    let set = keybrake.operate("PUT /vendors/stripe/accounts/eu", Some(&json!({"credential": SECRET})));
    assert_eq!(set.status, 201, "{}", set.text());
    let newer = issue(&keybrake);
    let (status, text) = output(&mut keybrake.cli_command(&["master-key", "rotate", "--json"]));
    let rotated: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &rotated["credentials"]), (0, &json!(2)), "{text}");
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    is_charged(&keybrake, &vendor, &key);
    is_charged(&keybrake, &vendor, &newer);
    // The key before opens nothing any more, and is kept for copies of the store from before.
    let kept = fs::read(rotated["kept"].as_str().unwrap()).unwrap();
    assert_eq!(keybrake.dataplane().stop(), 0);
    for old in [&first, &kept] {
        let right = fs::read(&path).unwrap();
        fs::write(&path, old).unwrap();
        keybrake.start_sealed();
        assert_eq!(sealed_lines(&mut keybrake).len(), 1);
        assert_eq!(keybrake.dataplane().stop(), 0);
        fs::write(&path, right).unwrap();
    }
    keybrake.start_dataplane();
    is_charged(&keybrake, &vendor, &key);
}

#[test]
fn r2_a_rotation_that_broke_off_at_any_step_starts_with_what_is_there() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let key = issue(&keybrake);
    let path = keybrake.master_key_file();
    let next = path.with_extension("key.next");
    let kill_and_start = |keybrake: &mut Keybrake| {
        keybrake.dataplane().kill_9();
        keybrake.start_dataplane();
    };
    // The next key is on disk and the store is as it was.
    fs::write(&next, key_of("5a")).unwrap();
    fs::set_permissions(&next, Permissions::from_mode(0o600)).unwrap();
    kill_and_start(&mut keybrake);
    is_charged(&keybrake, &vendor, &key);
    assert!(next.exists());
    // It is the one that a rotation takes.
    let rotated = keybrake.operate("POST /master-key/rotate", None).expect(200);
    assert_eq!(fs::read_to_string(&path).unwrap(), key_of("5a"));
    // The store is under the next key, and its file was not put in place.
    fs::rename(&path, &next).unwrap();
    fs::copy(rotated["kept"].as_str().unwrap(), &path).unwrap();
    kill_and_start(&mut keybrake);
    assert!(keybrake.dataplane().stderr().contains("broke off and is done now"), "{}", keybrake.output());
    assert!(!next.exists() && fs::read_to_string(&path).unwrap() == key_of("5a"));
    is_charged(&keybrake, &vendor, &key);
}

#[test]
fn r2_a_kill_at_any_time_during_rotations_loses_nothing() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let key = issue(&keybrake);
    let mut rotations = 0;
    for round in 0..12_u64 {
        let (admin, is_over) = (keybrake.admin_address(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (over, dataplane) = (&is_over, keybrake.dataplane.as_mut().unwrap());
            let rotating = scope.spawn(move || {
                let mut done = 0;
                while !over.load(Ordering::Relaxed) {
                    let head = format!(
                        "POST /master-key/rotate\nAuthorization: Bearer {}",
                        keybrake_tests::ADMIN_TOKEN
                    );
                    done += u32::from(call(admin, &head, b"").status == 200);
                }
                done
            });
            // By what the process has said, and then somewhere behind it.
            let said = |process: &keybrake_tests::Process| {
                let count = process.stderr().matches("the master key is").count();
                (count > usize::try_from(round % 3).unwrap()).then_some(())
            };
            dataplane.wait_until("rotated", said);
            for _ in 0..round * 20_000 {
                std::hint::spin_loop();
            }
            dataplane.kill_9();
            is_over.store(true, Ordering::Relaxed);
            rotations += rotating.join().unwrap();
        });
        keybrake.start_dataplane();
        assert!(sealed_lines(&mut keybrake).is_empty());
        is_charged(&keybrake, &vendor, &key);
    }
    assert!(rotations > 0);
    println!("12 kills, {rotations} rotations");
}

#[test]
fn r2_a_master_key_of_the_environment_is_replaced_by_a_start_that_knows_both() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url())
        .with_admin()
        .data_line("master_key_env = \"KB_MASTER\"\nold_master_key_env = \"KB_MASTER_OLD\"")
        .variable("KB_MASTER", &key_of("a1"))
        .start();
    assert!(!keybrake.master_key_file().exists());
    let key = issue(&keybrake);
    let refused = keybrake.operate("POST /master-key/rotate", None).expect(409);
    assert_eq!(refused["error"]["code"], "master_key_in_environment");
    assert_eq!(keybrake.dataplane().stop(), 0);
    // The new one alone: sealed, and it says which of both is which.
    keybrake.set_variables(&[("KB_MASTER", &key_of("b2"))]);
    keybrake.start_sealed();
    assert_eq!(sealed_lines(&mut keybrake).len(), 1);
    assert_eq!(keybrake.dataplane().stop(), 0);
    keybrake.set_variables(&[("KB_MASTER", &key_of("b2")), ("KB_MASTER_OLD", &key_of("a1"))]);
    keybrake.start_dataplane();
    assert!(keybrake.dataplane().stderr().contains("is not needed any more"), "{}", keybrake.output());
    is_charged(&keybrake, &vendor, &key);
    keybrake.dataplane().kill_9();
    keybrake.set_variables(&[("KB_MASTER", &key_of("b2"))]);
    keybrake.start_dataplane();
    is_charged(&keybrake, &vendor, &key);
    assert!(!keybrake.output().contains(&key_of("a1")) && !keybrake.output().contains(&key_of("b2")));
}

#[test]
fn r2_a_program_gives_the_master_key_and_the_next_one() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url())
        .with_admin()
        .data_line("master_key_command = [\"/bin/cat\", \"kms.answer\"]\nmaster_key_timeout_s = 5")
        .prepare();
    let answer = keybrake.dir().join("kms.answer");
    fs::write(&answer, key_of("c3")).unwrap();
    keybrake.start_dataplane();
    keybrake.start_admin();
    let key = issue(&keybrake);
    let same = keybrake.operate("POST /master-key/rotate", None).expect(409);
    assert_eq!(same["error"]["code"], "same_master_key");
    fs::write(&answer, "no key").unwrap();
    let unusable = keybrake.operate("POST /master-key/rotate", None).expect(503);
    assert_eq!(unusable["error"]["code"], "master_key_unavailable");
    fs::write(&answer, key_of("d4")).unwrap();
    assert_eq!(keybrake.operate("POST /master-key/rotate", None).status, 200);
    is_charged(&keybrake, &vendor, &key);
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    is_charged(&keybrake, &vendor, &key);
    assert_eq!(keybrake.dataplane().stop(), 0);
    fs::write(&answer, key_of("c3")).unwrap();
    keybrake.start_sealed();
    let status = eventually("the status", || {
        let (_, text) = output(&mut keybrake.cli_command(&["status"]));
        text.contains("SEALED").then_some(text)
    });
    assert!(status.contains("another master key"), "{status}");
}
