//! The configuration is read again while agents are served: the last good one stays in force (rule Q30).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use keybrake_proto::control::{ConfigView, Reply as Answer, Request};
use keybrake_tests::{
    Client, Issued, Keybrake, Process, Reply, Seen, Setup, Vendor, eventually, form_post, paid, request,
    whole,
};
use serde_json::json;

const ACME_SECRET: &str = "acme-live-9Lq3ZbVtYw2RkHs7";

/// Writes what `edit` makes of the first configuration.
fn write(keybrake: &Keybrake, edit: impl Fn(String) -> String) {
    std::fs::write(keybrake.config(), edit(keybrake.config_text())).unwrap();
}

/// Behind `[proxy]`.
fn with_proxy(text: &str, line: &str) -> String {
    text.replacen("[proxy]\n", &format!("[proxy]\n{line}\n"), 1)
}

fn reload(keybrake: &Keybrake) -> Result<ConfigView, String> {
    match keybrake.control().ask(&Request::ReloadConfig) {
        Answer::Config(view) => {
            assert_eq!(view.late_workers, Vec::<usize>::new());
            Ok(*view)
        }
        Answer::Refused(refused) => Err(refused.message),
        other => panic!("{other:?}"),
    }
}

/// Reloads what `edit` makes of the first configuration; answers what changed.
fn change(keybrake: &Keybrake, edit: impl Fn(String) -> String) -> Vec<String> {
    write(keybrake, edit);
    reload(keybrake).unwrap().changed
}

fn cli(keybrake: &Keybrake, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = keybrake.cli_command(arguments).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn charge(client: &mut Client, key: &Issued, form: &str) -> Reply {
    client.send(form_post("/stripe/v1/charges", &key.text, form));
    client.reply()
}

#[test]
fn q30_a_file_that_cannot_be_used_changes_nothing_and_says_why_in_one_line() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).with_admin().start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    write(&keybrake, |text| with_proxy(&text, "idle_timeout_s = 0\nbody_bytes_max = 1024"));
    let (code, out, err) = cli(&keybrake, &["config", "reload"]);
    let line = "proxy.idle_timeout_s: must be between 1 and 3600 seconds, not 0";
    let file = keybrake.config().display().to_string();
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(err.contains(line) && err.contains(&file) && err.lines().count() == 1, "{err}");
    let on_stderr = |keybrake: &mut Keybrake| {
        let text = keybrake.dataplane().stderr();
        text.lines().filter(|said| said.contains("not reloaded") && said.contains(line)).count()
    };
    assert_eq!(on_stderr(&mut keybrake), 1);
    // A signal says the same; nobody waits for its answer.
    keybrake.dataplane().hang_up();
    eventually("the second refusal", || (on_stderr(&mut keybrake) == 2).then_some(()));
    let (_, status, _) = cli(&keybrake, &["status"]);
    assert!(status.contains("NOT RELOADED") && status.contains(line), "{status}");
    let shown = keybrake.operate("GET /config", None).expect(200);
    assert!(shown["last_error"].as_str().unwrap().contains(line), "{shown}");
    assert_eq!(shown["config"]["proxy"]["body_bytes_max"], 1_048_576, "nothing of it is in force");
    let long = format!("amount=1&currency=usd&description={}", "x".repeat(2000));
    let mut client = Client::connect(keybrake.proxy());
    assert_eq!(charge(&mut client, &key, &long).status, 200);
    // Half of a TOML value, and no file at all.
    write(&keybrake, |text| text[..text.find("data").unwrap()].to_owned());
    assert!(reload(&keybrake).unwrap_err().contains("keybrake.toml"));
    std::fs::remove_file(keybrake.config()).unwrap();
    assert!(reload(&keybrake).unwrap_err().contains("keybrake.toml"));
    assert_eq!(keybrake.control().counter("keybrake_config_reloads_total"), 4);
    // The next good one is taken, by the same connection too.
    write(&keybrake, |text| with_proxy(&text, "body_bytes_max = 1024"));
    let (code, out, err) = cli(&keybrake, &["config", "reload"]);
    assert_eq!((code, out.as_str()), (Some(0), "changed: proxy.body_bytes_max\n"), "{err}");
    assert_eq!(charge(&mut client, &key, &long).status, 413);
    assert_eq!(keybrake.control().status().config.last_error, None);
    let (_, shown, _) = cli(&keybrake, &["config", "show", "--running"]);
    assert!(shown.contains("body_bytes_max = 1024\n"), "{shown}");
}

#[test]
fn q30_what_cannot_change_live_stays_and_is_named_in_one_line() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    write(&keybrake, |text| {
        let text = text.replace("workers = 1", "workers = 2").replace("dir = \"", "dir = \"/elsewhere");
        with_proxy(&text.replace(&vendor.url(), "http://127.0.0.1:9"), "idle_timeout_s = 7")
    });
    let view = reload(&keybrake).unwrap();
    let named = ["proxy.workers", "data.dir", "vendor.stripe.base_url"];
    assert_eq!(
        (view.changed, view.state.needs_restart),
        (vec!["proxy.idle_timeout_s".to_owned()], named.map(str::to_owned).to_vec())
    );
    let line = "reloaded: changed proxy.idle_timeout_s; needs a restart: proxy.workers, data.dir, vendor.stripe.base_url\n";
    let said = keybrake.dataplane().stderr();
    assert!(said.contains(line), "{said}");
    let mut client = Client::connect(keybrake.proxy());
    assert_eq!(charge(&mut client, &key, "amount=1&currency=usd").status, 200, "at the same vendor");
    // As long as the file says otherwise, it is named.
    assert_eq!(reload(&keybrake).unwrap().state.needs_restart, named);
    write(&keybrake, |text| text);
    assert_eq!(reload(&keybrake).unwrap().state.needs_restart, Vec::<String>::new());
}

#[test]
fn q30_limits_towards_agents_take_effect() {
    let vendor = Vendor::start(paid);
    let long =
        ["head", "body", "idle", "write", "drain"].map(|name| format!("{name}_timeout_s = 3600")).join("\n");
    let keybrake = Setup::new(vendor.url()).proxy_line(&long).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    let changed = change(&keybrake, |text| text.replace("3600", "1"));
    assert_eq!(changed.len(), 5, "{changed:?}");
    let all_closed = |what| {
        let connections = || keybrake.control().counter("keybrake_agent_connections");
        eventually(what, || (connections() == 0).then_some(()));
    };
    // Nobody would wait for an hour.
    let mut slow_head = Client::connect(keybrake.proxy());
    slow_head.send("POST /stripe/v1/charges HTTP/1.1\r\n");
    assert!(slow_head.is_closed());
    all_closed("head_timeout_s");
    let mut slow_body = Client::connect(keybrake.proxy());
    let call = form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd");
    slow_body.send(&call[..call.len() - 1]);
    assert_eq!(slow_body.reply().status, 408, "body_timeout_s");
    drop(slow_body);
    let mut idle = Client::connect(keybrake.proxy());
    assert_eq!(charge(&mut idle, &key, "amount=1&currency=usd").status, 200);
    all_closed("idle_timeout_s");
    change(&keybrake, |text| with_proxy(&text, "connections_max = 1"));
    eventually("no connection", || {
        (keybrake.control().counter("keybrake_agent_connections") == 0).then_some(())
    });
    let mut first = Client::connect(keybrake.proxy());
    assert_eq!(charge(&mut first, &key, "amount=1&currency=usd").status, 200);
    let mut second = Client::connect(keybrake.proxy());
    assert!(second.is_closed(), "connections_max");
    change(&keybrake, |text| with_proxy(&text, "connections_max = 2"));
    let mut second = Client::connect(keybrake.proxy());
    assert_eq!(charge(&mut second, &key, "amount=1&currency=usd").status, 200);
}

const RATES: &str = "source = \"made up for this test\"\ndate = \"2026-11-20\"\nmax_age_days = 100000\n\
                     spread_percent = \"2\"\n[usd_per]\ngbp = \"1.25\"\n";

#[test]
fn q30_prices_and_bounds_of_issue_take_effect_and_price_files_are_read_again() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 100}));
    let mut client = Client::connect(keybrake.proxy());
    let pounds = "amount=1000&currency=gbp";
    assert_eq!(charge(&mut client, &key, pounds).status, 403);
    let rates = keybrake.dir().join("rates.toml");
    std::fs::write(&rates, RATES).unwrap();
    let prices = format!(
        "\n[prices]\nrates_file = \"{}\"\n[issue]\ndaily_usd_cap_max = 5\ndepth_max = 0\n",
        rates.display()
    );
    let with_prices = |text: String| format!("{text}{prices}");
    let changed = change(&keybrake, with_prices);
    assert_eq!(changed, ["prices.rates_file", "issue.daily_usd_cap_max", "issue.depth_max"]);
    assert_eq!(charge(&mut client, &key, pounds).status, 200);
    assert_eq!(keybrake.micros(&key.id), (12_500_000, 0));
    std::fs::write(&rates, RATES.replace("1.25", "2.00")).unwrap();
    assert_eq!(
        reload(&keybrake).unwrap().changed,
        Vec::<String>::new(),
        "the file has another name in no field"
    );
    assert_eq!(charge(&mut client, &key, pounds).status, 200);
    assert_eq!(keybrake.micros(&key.id), (32_500_000, 0));
    std::fs::write(&rates, "no prices").unwrap();
    assert!(reload(&keybrake).unwrap_err().contains("rates.toml"));
    assert_eq!(charge(&mut client, &key, pounds).status, 200, "the last good one");
    let issue = |more: &serde_json::Value| {
        let mut spec = json!({"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let spec = Box::new(serde_json::from_value(spec).unwrap());
        match keybrake.control().ask(&Request::IssueKey(spec)) {
            Answer::Issued { .. } => None,
            Answer::Refused(refused) => refused.field,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(issue(&json!({"daily_usd_cap": 6})).as_deref(), Some("daily_usd_cap"));
    assert_eq!(issue(&json!({"daily_usd_cap": 5})), None);
    let below = json!({"daily_usd_cap": 5, "parent_vault_key": key.text, "vendor": "stripe"});
    assert_eq!(issue(&below).as_deref(), Some("parent_vault_key"));
}

#[test]
fn q30_limits_towards_a_vendor_take_effect() {
    let is_silent = Arc::new(AtomicBool::new(false));
    let silent = Arc::clone(&is_silent);
    let vendor = Vendor::start(
        move |seen: &Seen, out: &mut dyn Write| {
            if silent.load(Ordering::SeqCst) { Ok(()) } else { paid(seen, out) }
        },
    );
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    let call = || charge(&mut Client::connect(keybrake.proxy()), &key, "amount=1&currency=usd").status;
    assert_eq!((call(), call(), vendor.connections()), (200, 200, 1));
    change(&keybrake, |text| format!("{text}\nidle_connections_max = 0"));
    assert_eq!(
        (call(), call(), call(), vendor.connections()),
        (200, 200, 200, 3),
        "the kept one, then one each"
    );
    let quota = |text: String| format!("{text}\nquota_rps = 1\ntimeout_s = 1\nconnect_timeout_s = 2");
    let changed = change(&keybrake, quota);
    let expected = ["connect_timeout_s", "idle_connections_max", "quota_rps", "timeout_s"];
    let mut names: Vec<&str> =
        changed.iter().map(|name| name.strip_prefix("vendor.stripe.").unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, expected);
    let waited = || keybrake.control().counter("keybrake_turns_waited_total");
    assert_eq!(waited(), 0);
    // More than one of three calls at once waits, however slow the machine is: each takes a turn of a second.
    let agents: Vec<_> = (0..3)
        .map(|_| {
            let (proxy, key) = (keybrake.proxy(), key.clone());
            std::thread::spawn(move || {
                charge(&mut Client::connect(proxy), &key, "amount=1&currency=usd").status
            })
        })
        .collect();
    let statuses: Vec<u16> = agents.into_iter().map(|agent| agent.join().unwrap()).collect();
    assert!(statuses.contains(&200) && waited() > 0, "quota_rps: {statuses:?}");
    change(&keybrake, |text| format!("{text}\ntimeout_s = 1"));
    let waited_before = waited();
    is_silent.store(true, Ordering::SeqCst);
    assert_eq!(call(), 504, "timeout_s; the default is a minute");
    assert_eq!(waited(), waited_before, "no quota any more");
}

fn acme(vendor: &Vendor, secret: &str, header: &str, usd: &str) -> String {
    format!(
        "\n[[vendor]]\nname = \"acme\"\nbase_url = \"{}\"\nallow_plain_http = true\ncredential_file = \"{secret}\"\n\
         credential_header = \"X-Api-Key\"\nrequest_headers = [\"{header}\"]\n[[vendor.operation]]\nmethod = \"POST\"\n\
         path = \"/v1/letters\"\nprice = \"fixed\"\nusd = \"{usd}\"\n",
        vendor.url()
    )
}

fn send_letter(keybrake: &Keybrake, key: &Issued) -> Reply {
    let head = format!(
        "POST /acme/v1/letters\nX-Api-Key: {}\nAcme-A: a\nAcme-B: b\nContent-Type: application/json",
        key.text
    );
    let mut client = Client::connect(keybrake.proxy());
    client.send(request(&head, b"{}"));
    client.reply()
}

#[test]
fn q30_a_vendor_is_added_with_its_credential_and_each_request_sees_one_configuration() {
    let vendor = Vendor::start(|_: &Seen, out: &mut dyn Write| out.write_all(&whole(200, "{}")));
    let keybrake = Setup::new(vendor.url()).workers(2).start();
    let secret = keybrake.dir().join("acme.secret");
    let of = |header: &str, usd: &str| acme(&vendor, &secret.display().to_string(), header, usd);
    write(&keybrake, |text| format!("{text}{}", of("Acme-A", "0.01")));
    let refused = reload(&keybrake).unwrap_err();
    assert!(refused.contains("vendor acme has no credential yet: write it to"), "{refused}");
    std::fs::write(&secret, ACME_SECRET).unwrap();
    assert_eq!(reload(&keybrake).unwrap().changed, ["vendor.acme (added)"]);
    let key = keybrake.issue(&["POST /v1/letters"], &json!({"vendor": "acme", "daily_usd_cap": 1000}));
    assert_eq!(send_letter(&keybrake, &key).status, 200);
    assert_eq!(vendor.seen()[0].field("x-api-key"), Some(ACME_SECRET));
    // One call after the other, so that what each one cost can be told, while two configurations take turns.
    let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let turns = {
        let (stop, control, path, first) =
            (Arc::clone(&stop), keybrake.control(), keybrake.config(), keybrake.config_text());
        let texts = [("Acme-B", "0.02"), ("Acme-A", "0.01")]
            .map(|(header, usd)| format!("{first}{}", of(header, usd)));
        let taken = Arc::clone(&taken);
        std::thread::spawn(move || {
            for text in texts.iter().cycle() {
                std::fs::write(&path, text).unwrap();
                let answer = control.ask(&Request::ReloadConfig);
                assert!(matches!(answer, Answer::Config(_)), "{answer:?}");
                taken.fetch_add(1, Ordering::SeqCst);
                if stop.load(Ordering::SeqCst) {
                    return;
                }
            }
        })
    };
    let (mut calls, mut spent) = ([0_u32; 2], keybrake.micros(&key.id).0);
    while calls.iter().any(|calls| *calls < 20) || taken.load(Ordering::SeqCst) < 8 {
        assert_eq!(send_letter(&keybrake, &key).status, 200);
        let now = keybrake.micros(&key.id).0;
        let seen = vendor.seen().pop().unwrap();
        let headers = (seen.field("acme-a"), seen.field("acme-b"));
        match now - spent {
            10_000 => assert_eq!(headers, (Some("a"), None)),
            20_000 => assert_eq!(headers, (None, Some("b"))),
            other => panic!("a call cost {other}"),
        }
        calls[usize::from(now - spent == 20_000)] += 1;
        spent = now;
    }
    stop.store(true, Ordering::SeqCst);
    turns.join().unwrap();
    // A vendor that the file no longer names stays until a restart, and its keys with it.
    write(&keybrake, |text| text);
    assert_eq!(reload(&keybrake).unwrap().state.needs_restart, ["vendor.acme (removed)"]);
    assert_eq!(send_letter(&keybrake, &key).status, 200);
}

#[test]
fn q30_up_passes_the_signal_on_and_goes_on() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).prepare();
    let mut up = Process::start("up", &keybrake.out(), &mut keybrake.cli_command(&["up"]));
    let (proxy, admin) = (keybrake.proxy(), keybrake.admin_address());
    let is_ready = |address, path| keybrake_tests::get(address, path, "").status == 200;
    eventually("both", || {
        let connects =
            std::net::TcpStream::connect(proxy).is_ok() && std::net::TcpStream::connect(admin).is_ok();
        (connects && is_ready(proxy, "/readyz") && is_ready(admin, "/livez")).then_some(())
    });
    let pid = keybrake.control().status().pid;
    write(&keybrake, |text| with_proxy(&text, "idle_timeout_s = 7"));
    up.hang_up();
    eventually("the reload", || {
        keybrake.output().contains("reloaded: changed proxy.idle_timeout_s").then_some(())
    });
    assert_eq!(keybrake.control().status().pid, pid);
    assert!(is_ready(admin, "/livez") && up.ended().is_none(), "the admin process does not end by it");
    assert_eq!(up.stop(), 0);
}
