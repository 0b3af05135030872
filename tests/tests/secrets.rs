//! Secrets of running processes, and tokens of operators (rules S1, P1, P2, I8).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]
#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;

use keybrake_tests::{
    ADMIN_TOKEN, Issued, Keybrake, Kind, Process, Reply, SECRET, Setup, Vendor, binary, call, get, holds,
    paid, register,
};
use serde_json::{Value, json};

const CHARGE: &str = "POST /v1/charges";

/// Another user than root; every system has it as `nobody`.
const NOBODY: u32 = 65_534;

fn of(pid: u32, name: &str) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/{name}")).unwrap()
}

/// What every process that has seen a secret shows of it: nothing, and it leaves nothing when it crashes.
fn shows_nothing(pid: u32, what: &str) {
    let limits = String::from_utf8(of(pid, "limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{what}: {core}");
    assert!(!holds(&of(pid, "cmdline"), SECRET), "{what}");
}

#[test]
fn s1_no_process_shows_the_credential_and_none_dumps_its_memory() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).variable("KB_OTHER", "stays").with_admin().start();
    let (dataplane, admin) = (keybrake.dataplane().pid(), keybrake.admin().pid());
    shows_nothing(dataplane, "dataplane");
    shows_nothing(admin, "admin");
    let environment = of(dataplane, "environ");
    assert!(!holds(&environment, SECRET), "its environment is read by whoever is this user");
    let environment = String::from_utf8_lossy(&environment).into_owned();
    assert!(environment.contains("KB_OTHER=stays") && !environment.contains("STRIPE_SECRET_KEY"));
    // It has it all the same.
    let key = keybrake.issue(&[CHARGE], &json!({}));
    let paid = charge(&keybrake, &key);
    assert_eq!(paid.status, 200);
    assert_eq!(vendor.seen()[0].field("authorization"), Some(format!("Bearer {SECRET}").as_str()));
    let status = String::from_utf8(of(dataplane, "status")).unwrap();
    let locked = status.lines().find(|line| line.starts_with("VmLck:")).unwrap();
    let said = keybrake.dataplane().stderr().contains("keys may be swapped");
    assert!(said || !locked.contains(" 0 kB"), "{locked}");
}

fn charge(keybrake: &Keybrake, key: &Issued) -> Reply {
    let mut client = keybrake_tests::Client::connect(keybrake.proxy());
    client.send(keybrake_tests::form_post("/stripe/v1/charges", &key.text, "amount=100&currency=usd"));
    client.reply()
}

#[test]
fn s1_under_the_supervisor_too_the_environment_is_clean() {
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    let mut up = Process::start("up", &keybrake.out(), &mut keybrake.cli_command(&["up"]));
    let (proxy, admin) = (keybrake.proxy(), keybrake.admin_address());
    up.wait_until("ready", |_| is_ok(proxy).and_then(|()| is_ok(admin)));
    let dataplane = keybrake.control().status().pid;
    shows_nothing(up.pid(), "up");
    shows_nothing(dataplane, "dataplane");
    assert!(!holds(&of(dataplane, "environ"), SECRET));
    assert_eq!(up.stop(), 0);
}

fn is_ok(address: std::net::SocketAddr) -> Option<()> {
    std::net::TcpStream::connect(address).ok()?;
    (call(address, "GET /readyz", b"").status == 200).then_some(())
}

/// Whether everybody may go there.
fn is_open_to_all(path: &Path) -> bool {
    path.ancestors()
        .skip(1)
        .all(|dir| fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 1 != 0))
}

#[test]
fn s1_another_process_of_the_same_user_cannot_read_its_memory() {
    // The kernel gives what belongs to a process that is not dumpable to root.
    let keybrake = Setup::new("http://127.0.0.1:9").prepare();
    let own = fs::metadata("/proc/self").unwrap().uid();
    let is_root = own == 0;
    if is_root && !is_open_to_all(&binary("keybrake-dataplane")) {
        println!("not run: the binaries are where only root may go");
        return;
    }
    let mut commands = [keybrake.dataplane_command(), keybrake.cli_command(&["admin"])];
    if is_root {
        for path in [keybrake.dir().to_owned(), keybrake.config()] {
            chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        for command in &mut commands {
            command.uid(NOBODY).gid(NOBODY);
        }
    }
    let user = if is_root { NOBODY } else { own };
    let addresses = [keybrake.proxy(), keybrake.admin_address()];
    for (command, address) in commands.iter_mut().zip(addresses) {
        let mut process = Process::start("as-nobody", &keybrake.out(), command);
        process.wait_until("live", |_| {
            std::net::TcpStream::connect(address).ok()?;
            (call(address, "GET /livez", b"").status == 200).then_some(())
        });
        let status = String::from_utf8(of(process.pid(), "status")).unwrap();
        assert!(status.contains(&format!("Uid:\t{user}")), "{status}");
        for name in ["mem", "environ", "maps"] {
            let owner = fs::metadata(format!("/proc/{}/{name}", process.pid())).unwrap().uid();
            assert_eq!(owner, 0, "{name} is not for the process' own user");
        }
        assert_eq!(process.stop(), 0);
    }
}

/// The first line of standard output, which is the new token.
fn made(keybrake: &Keybrake, arguments: &[&str]) -> String {
    let output = keybrake.cli_command(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("kbadmin_") && text.lines().count() == 1, "the token alone");
    register(Kind::AdminToken, text.trim());
    text.trim().to_owned()
}

fn with(keybrake: &Keybrake, token: &str, line: &str) -> Reply {
    let head = format!("{line}\nAuthorization: Bearer {token}\nContent-Type: application/json");
    let body: &[u8] = if line.starts_with("GET") { b"" } else { b"{}" };
    call(keybrake.admin_address(), &head, body)
}

#[test]
fn p1_a_token_for_incidents_revokes_with_the_dataplane_down_and_does_nothing_else() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let key = keybrake.issue(&[CHARGE], &json!({}));
    let token = made(&keybrake, &["token", "create", "on-call", "--scope", "revoke", "--expires", "30d"]);
    for line in
        ["GET /audit", "GET /vault/keys", "POST /vault/keys", "GET /tokens", "POST /tokens", "GET /vendors"]
    {
        let refused = with(&keybrake, &token, line).expect(403);
        assert_eq!(refused["error"]["code"], "scope_missing", "{line}");
    }
    keybrake.dataplane().kill_9();
    // The admin process starts anew meanwhile, and knows the token.
    keybrake.admin().kill_9();
    keybrake.start_admin();
    let answer = with(&keybrake, &token, &format!("POST /vault/keys/{}/revoke", key.id)).expect(202);
    assert_eq!(answer["recorded"], true);
    keybrake.start_dataplane();
    assert_eq!(charge(&keybrake, &key).status, 401);
    let line = format!("change: by=on-call from=127.0.0.1 status=202 POST /vault/keys/{}/revoke", key.id);
    assert!(keybrake.admin().stderr().contains(&line), "{}", keybrake.admin().stderr());
    let rotated = made(&keybrake, &["token", "rotate", "on-call"]);
    assert_eq!(with(&keybrake, &token, "POST /vault/revoke").status, 401);
    assert_eq!(with(&keybrake, &rotated, "POST /vault/revoke").status, 400, "past the door");
    let listed = keybrake.cli_command(&["token", "list"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("bootstrap") && listed.contains("on-call") && !listed.contains("kbadmin_"),
        "{listed}"
    );
    assert!(keybrake.cli_command(&["token", "revoke", "on-call"]).output().unwrap().status.success());
    let refused = with(&keybrake, &rotated, "POST /vault/revoke").expect(401);
    assert!(refused["error"]["message"].as_str().unwrap().contains("was revoked"), "{refused}");
    let env = with(&keybrake, ADMIN_TOKEN, "POST /tokens/bootstrap/revoke").expect(409);
    assert_eq!(env["error"]["code"], "token_in_environment");
}

#[test]
fn p1_an_admin_token_at_the_proxy_is_a_wrong_key_and_stands_in_no_row() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).with_admin().start();
    let token = made(&keybrake, &["token", "create", "ci", "--scope", "admin"]);
    for token in [ADMIN_TOKEN, &token] {
        for path in ["/stripe/v1/charges", "/v1/charges/ch_1"] {
            assert_eq!(get(keybrake.proxy(), path, token).expect(401)["error"]["code"], "invalid_vault_key");
        }
        assert_eq!(get(keybrake.proxy(), "/vault/keys/self", token).status, 401);
    }
    assert!(vendor.seen().is_empty());
    keybrake.settle();
    let rows = keybrake.operate("GET /audit?limit=1000", None).text();
    assert!(!holds(rows.as_bytes(), ADMIN_TOKEN) && !holds(rows.as_bytes(), &token), "{rows}");
}

#[test]
fn p2_nothing_that_operators_can_ask_gives_a_secret_out() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).with_admin().start();
    let another = "sk_test_TheSecondCredentialOfThisTest";
    let set = keybrake.operate("PUT /vendors/stripe/accounts/eu", Some(&json!({"credential": another})));
    assert_eq!(set.status, 201, "{}", set.text());
    let key = keybrake.issue_by_admin(&[CHARGE], &json!({}));
    assert_eq!(charge(&keybrake, &key).status, 200);
    let described = call(keybrake.admin_address(), "GET /openapi.json", b"").json();
    let mut asked = 0;
    for (path, methods) in described["paths"].as_object().unwrap() {
        // A tail does not end; its rows are those of `/audit`.
        if methods.get("get").is_none() || path == "/audit/tail" {
            continue;
        }
        let text = keybrake.operate(&format!("GET {}", path.replace("{id}", &key.id)), None).text();
        for secret in [SECRET, another, ADMIN_TOKEN, key.text.as_str()] {
            assert!(!holds(text.as_bytes(), secret), "{path}");
        }
        asked += 1;
    }
    assert!(asked > 8, "{asked}");
    // Not even whoever sends a wrong one hears it again.
    let wrong: Value = json!({"credential": "sk_test_with a blank in it 0123456789"});
    let refused = keybrake.operate("PUT /vendors/stripe/accounts/eu", Some(&wrong));
    assert!(refused.status == 400 && !refused.text().contains("with a blank"), "{}", refused.text());
}
