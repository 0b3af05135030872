//! One order for many keys, and what becomes of the calls that run.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Read as _;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use keybrake_proto::control::{KeyStatus, Selector};
use keybrake_tests::{
    Certificate, Client, Issued, Issuer, Keybrake, Setup, StandIn, Vendor, eventually, form_post, get,
    now_micros, paid, whole,
};
use serde_json::{Value, json};

fn balance(keybrake: &Keybrake, key: &Issued) -> u16 {
    get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status
}

fn issue(keybrake: &Keybrake, more: &Value) -> Issued {
    keybrake.issue(&["GET /v1/balance"], more)
}

fn revoke(keybrake: &Keybrake, body: &Value) -> Value {
    keybrake.operate("POST /vault/revoke", Some(body)).expect(200)
}

#[test]
fn q30_one_order_is_for_all_keys_of_a_label_a_run_a_vendor_or_a_list_and_for_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).workers(2).with_admin().start();
    let labelled = [json!({"label": "a"}), json!({"label": "a", "agent_run_label": "r"})];
    let [one, two] = labelled.map(|more| issue(&keybrake, &more));
    let run = issue(&keybrake, &json!({"label": "b", "agent_run_label": "r"}));
    let [listed, alone, last] = [(); 3].map(|()| issue(&keybrake, &json!({})));
    let open = |keys: &[&Issued]| keys.iter().all(|key| balance(&keybrake, key) == 200);
    let shut = |keys: &[&Issued]| keys.iter().all(|key| balance(&keybrake, key) == 401);
    assert!(open(&[&one, &two, &run, &listed, &alone, &last]));

    let answer = revoke(&keybrake, &json!({"label": "a"}));
    assert_eq!((&answer["revoked"], &answer["already_revoked"]), (&json!(2), &json!(0)), "{answer}");
    assert_eq!(answer["ids"], json!([one.id, two.id]));
    assert!(shut(&[&one, &two]) && open(&[&run, &listed, &alone, &last]));

    let answer = revoke(&keybrake, &json!({"agent_run_label": "r"}));
    assert_eq!((&answer["revoked"], &answer["already_revoked"]), (&json!(1), &json!(1)), "{answer}");
    assert!(shut(&[&run]) && open(&[&listed, &alone, &last]));

    let answer = revoke(&keybrake, &json!({"ids": [listed.id, "vk_0000000000000000"]}));
    assert_eq!((&answer["revoked"], &answer["unknown_ids"]), (&json!(1), &json!(["vk_0000000000000000"])));
    assert_eq!(revoke(&keybrake, &json!({"subtree": alone.id}))["ids"], json!([alone.id]));
    assert!(shut(&[&listed, &alone]) && open(&[&last]));

    for nothing in [
        json!({"label": "nobody"}),
        json!({"agent_run_label": "nobody"}),
        json!({"vendor": "twilio"}),
        json!({"ids": ["vk_0000000000000000"]}),
        json!({"subtree": "vk_0000000000000000"}),
    ] {
        let refused = keybrake.operate("POST /vault/revoke", Some(&nothing)).expect(404);
        assert_eq!(refused["error"]["code"], "no_such_key", "{refused}");
    }
    assert_eq!(revoke(&keybrake, &json!({"vendor": "stripe"}))["revoked"], 1);
    assert!(shut(&[&last]));
    let fresh = issue(&keybrake, &json!({}));
    let answer = revoke(&keybrake, &json!({"all": true}));
    assert_eq!((&answer["revoked"], &answer["already_revoked"]), (&json!(1), &json!(6)), "{answer}");
    assert!(answer["durable"] == true && answer["acknowledged"] == true, "{answer}");
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    for key in [&one, &two, &run, &listed, &alone, &last, &fresh] {
        assert_eq!(keybrake.key(&key.id).status, KeyStatus::Revoked);
    }
}

#[test]
fn q19_an_order_for_300_keys_is_on_disk_when_it_is_acknowledged() {
    let mut keybrake = Setup::new("http://127.0.0.1:9").workers(2).start();
    let keys: Vec<Issued> = (0..300).map(|_| issue(&keybrake, &json!({"label": "a"}))).collect();
    let other = issue(&keybrake, &json!({}));
    let revoked = keybrake.control().revoke_all(Selector::Label("a".to_owned()), false);
    keybrake.dataplane().kill_9();
    assert_eq!(
        (revoked.revoked, revoked.ids.len(), revoked.late_workers.len()),
        (300, 100, 0),
        "{revoked:?}"
    );
    assert!(revoked.acknowledged && revoked.durable, "{revoked:?}");
    assert!(revoked.closed_us <= revoked.acknowledged_us, "{revoked:?}");
    keybrake.start_dataplane();
    for key in &keys {
        let view = keybrake.key(&key.id);
        assert_eq!(
            (view.status, view.revoked_at),
            (KeyStatus::Revoked, Some(revoked.revoked_at.to_string()))
        );
    }
    assert_eq!(keybrake.key(&other.id).status, KeyStatus::Active);
}

#[test]
fn a_revoke_by_label_misses_no_key_whose_issue_was_acknowledged_before() {
    let keybrake = Setup::new("http://127.0.0.1:9").workers(2).start();
    let (stop, issued) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (control, stop, issued) = (keybrake.control(), Arc::clone(&stop), Arc::clone(&issued));
            std::thread::spawn(move || {
                let spec =
                    json!({"vendor": "stripe", "allowed_endpoints": ["GET /v1/balance"], "label": "a"});
                while !stop.load(Ordering::Relaxed) {
                    let key = control.issue(&spec);
                    issued.lock().unwrap().push(key.id);
                }
            })
        })
        .collect();
    let mut revoked_before = 0;
    for round in 1..=20 {
        let more = revoked_before + 10;
        eventually("keys to be issued", || (issued.lock().unwrap().len() >= more).then_some(()));
        let acknowledged = issued.lock().unwrap()[revoked_before..].to_vec();
        revoked_before += acknowledged.len();
        let revoked = keybrake.control().revoke_all(Selector::Label("a".to_owned()), false);
        assert!(revoked.acknowledged, "{revoked:?}");
        for id in &acknowledged {
            assert_eq!(keybrake.key(id).status, KeyStatus::Revoked, "round {round}: {id}");
        }
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A vendor that answers when the sender is dropped.
fn waits_for(
    go_on: mpsc::Receiver<()>,
) -> impl Fn(&keybrake_tests::Seen, &mut dyn std::io::Write) -> std::io::Result<()> {
    let go_on = Mutex::new(go_on);
    move |seen, out| {
        // An error is the sender's end.
        match go_on.lock().unwrap().recv() {
            Ok(()) | Err(mpsc::RecvError) => paid(seen, out),
        }
    }
}

fn running_calls_are_cut(https: bool) {
    let (held, go_on) = mpsc::channel();
    let dir = tempfile::tempdir().unwrap();
    let (vendor, setup) = if https {
        let issuer = Issuer::new();
        let ca = dir.path().join("ca.pem");
        issuer.write_to(&ca);
        let vendor = Vendor::start_tls(issuer.server(Certificate::Good), waits_for(go_on));
        let setup = Setup::new(format!("https://localhost:{}", vendor.address().port()))
            .vendor_line("allow_private_address = true")
            .vendor_line(&format!("ca_file = \"{}\"", ca.display()));
        (vendor, setup)
    } else {
        let vendor = Vendor::start(waits_for(go_on));
        let setup = Setup::new(vendor.url());
        (vendor, setup)
    };
    let keybrake = setup.workers(2).with_admin().start();
    let key =
        |label: &str| keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50, "label": label}));
    let (cut, other) = (key("a"), key("b"));
    let call = |key: &Issued| {
        let mut client = Client::connect(keybrake.proxy());
        client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
        client
    };
    let (mut running, mut untouched) = (call(&cut), call(&other));
    eventually("both calls to be at the vendor", || (vendor.seen().len() == 2).then_some(()));
    let revoked = keybrake.control().revoke_all(Selector::Label("a".to_owned()), true);
    assert!(revoked.acknowledged && revoked.durable, "{revoked:?}");
    assert_eq!((revoked.at_vendor, revoked.cut), (1, 1));
    // The vendor has not answered and may have acted: the agent is refused, its money stays counted.
    assert_eq!(running.reply().status, 401);
    assert_eq!((keybrake.committed_cents(&cut.id), keybrake.held_cents(&cut.id)), (1000, 1000));
    let row = &keybrake.eventually_rows(&cut.id, 1)[0];
    assert_eq!((&row["outcome"], &row["status"]), (&json!("unknown"), &json!(401)), "{row}");
    drop(held);
    assert_eq!(untouched.reply().status, 200);
    assert_eq!((keybrake.committed_cents(&other.id), keybrake.held_cents(&other.id)), (1000, 0));
}

#[test]
fn calls_that_run_are_cut_where_that_is_ordered_and_others_finish() {
    running_calls_are_cut(false);
}

#[test]
fn calls_that_run_over_tls_are_cut_where_that_is_ordered() {
    running_calls_are_cut(true);
}

#[test]
fn q20_a_vendor_that_takes_no_bytes_does_not_hold_the_acknowledgement_back() {
    // It accepts and never reads, until the test wants to know what was sent.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let keybrake = Setup::new(format!("http://{}", listener.local_addr().unwrap()))
        .proxy_line("body_bytes_max = 16777216")
        .vendor_line("timeout_s = 300")
        .with_admin()
        .start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let body = format!("amount=1000&currency=usd&description={}", "a".repeat(14 * 1024 * 1024));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, &body));
    let (mut vendor, _) = listener.accept().unwrap();
    let mut head = [0; 4096];
    vendor.read_exact(&mut head).unwrap();
    let revoked = keybrake.control().revoke(&key.id);
    assert!(revoked.acknowledged && revoked.late_workers.is_empty(), "{revoked:?}");
    assert_eq!((revoked.at_vendor, revoked.cut), (1, 1), "{revoked:?}");
    assert_eq!(client.reply().status, 401);
    // Bytes have left, so it is a doubt, although the vendor cannot have had all of it.
    assert_eq!((keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id)), (1000, 1000));
    assert_eq!(keybrake.eventually_rows(&key.id, 1)[0]["outcome"], "unknown");
    let mut sent = head.to_vec();
    drop(vendor.read_to_end(&mut sent));
    assert!(sent.len() < body.len(), "{} of {} bytes", sent.len(), body.len());
}

#[test]
fn a_call_that_waits_for_its_connection_ends_with_the_revoke() {
    // It listens and never shakes hands.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let keybrake = Setup::new(format!("https://localhost:{}", listener.local_addr().unwrap().port()))
        .vendor_line("allow_private_address = true")
        .vendor_line("connect_timeout_s = 300")
        .start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
    eventually("the call to be admitted", || (keybrake.held_cents(&key.id) == 1000).then_some(()));
    assert_eq!(keybrake.control().revoke(&key.id).at_vendor, 0);
    // The vendor is still silent: without the revoke the answer would take five minutes.
    assert_eq!(client.reply().status, 401);
    assert_eq!(keybrake.committed_cents(&key.id), 0);
}

#[test]
fn q21_what_revokes_take_stands_in_each_answer_and_in_the_metrics() {
    let vendor = Vendor::start(|_, out| out.write_all(&whole(200, "{}")));
    let keybrake = Setup::new(vendor.url()).workers(2).with_admin().start();
    let busy = issue(&keybrake, &json!({}));
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (proxy, text, stop) = (keybrake.proxy(), busy.text.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    assert_eq!(get(proxy, "/stripe/v1/balance", &text).status, 200);
                }
            })
        })
        .collect();
    let mut revokes = Vec::new();
    for _ in 0..100 {
        let revoked = keybrake.control().revoke(&issue(&keybrake, &json!({})).id);
        assert!(revoked.acknowledged && revoked.closed_us <= revoked.acknowledged_us, "{revoked:?}");
        revokes.push((revoked.closed_us, revoked.acknowledged_us));
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let metrics = get(keybrake.admin_address(), "/metrics", "").text();
    let metric = |name: &str| -> u64 {
        let line =
            metrics.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}"));
        line.trim().parse().unwrap()
    };
    let last = revokes.last().unwrap();
    assert_eq!(metric("keybrake_revoke_closed_us{of=\"last\"}"), last.0);
    assert_eq!(metric("keybrake_revoke_acknowledged_us{of=\"last\"}"), last.1);
    assert_eq!(
        metric("keybrake_revoke_closed_us{of=\"max\"}"),
        revokes.iter().map(|one| one.0).max().unwrap()
    );
    assert_eq!(
        metric("keybrake_revoke_acknowledged_us{of=\"max\"}"),
        revokes.iter().map(|one| one.1).max().unwrap()
    );
    let done = metric("keybrake_revokes_total{result=\"done\"}");
    assert_eq!(done + metric("keybrake_revokes_total{result=\"pending\"}"), 100);
    // No test decides by a duration; whoever reads the output may.
    for (what, of) in [("closed", 0), ("acknowledged", 1)] {
        let mut us: Vec<u64> = revokes.iter().map(|one| if of == 0 { one.0 } else { one.1 }).collect();
        us.sort_unstable();
        println!("{what}: p50 {} us, p99 {} us, max {} us", us[49], us[98], us[99]);
    }
}

#[test]
fn the_command_line_revokes_by_selector_and_asks_before_all() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).with_admin().start();
    let run = |arguments: &[&str]| {
        let output = keybrake.cli_command(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), output.stderr)
    };
    let dataplane = |arguments: &[&str]| {
        let output = keybrake.dataplane_command().arg("revoke").args(arguments).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap(), output.stderr)
    };
    let keys = ["a", "b", "c", "d"]
        .map(|label| issue(&keybrake, &json!({"label": label, "agent_run_label": label})));
    let (code, text, _) = run(&["revoke", "--label", "a"]);
    assert!(code == 0 && text.contains("revoked 1 keys") && text.contains(&keys[0].id), "{code}: {text}");
    let (code, text, _) = run(&["revoke", "--run", "b", "--cut", "--json"]);
    assert_eq!(
        (code, serde_json::from_str::<Value>(&text).unwrap()["ids"].clone()),
        (0, json!([keys[1].id]))
    );
    let (code, text, _) = dataplane(&["--label", "c"]);
    assert!(code == 0 && text.contains("revoked 1 keys"), "{code}: {text}");
    assert_eq!(run(&["revoke", "--label", "nobody"]).0, 1);
    assert_eq!(dataplane(&["--vendor", "twilio"]).0, 1);
    assert_eq!(dataplane(&["--label", "c", "--all"]).0, 2);
    assert_eq!(dataplane(&["--label", "nobody", "--cut"]).0, 1);
    assert_eq!(dataplane(&[]).0, 2);
    // Nobody has confirmed.
    for (code, stderr) in
        [run(&["revoke", "--all"]), dataplane(&["--all"])].map(|(code, _, stderr)| (code, stderr))
    {
        assert_eq!(code, 2);
        assert!(String::from_utf8_lossy(&stderr).contains("--yes"));
    }
    assert_eq!(balance(&keybrake, &keys[3]), 200);
    assert_eq!(run(&["revoke", &keys[3].id, "vk_0000000000000000"]).0, 1, "one of them is unknown");
    assert_eq!(balance(&keybrake, &keys[3]), 401);
    let more = issue(&keybrake, &json!({}));
    assert_eq!(run(&["revoke", "--all", "--yes"]).0, 0);
    assert_eq!(balance(&keybrake, &more), 401);
    let more = issue(&keybrake, &json!({}));
    assert_eq!(dataplane(&["--all", "--yes"]).0, 0);
    assert_eq!(balance(&keybrake, &more), 401);
}

#[test]
fn a_drill_measures_revokes_touches_no_key_and_leaves_nothing_active() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).workers(2).with_admin().start();
    let own = issue(&keybrake, &json!({}));
    let before = now_micros();
    let output = keybrake.cli_command(&["drill", "--keys", "7", "--json"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["acknowledged"], &report["complete"]), (&json!(7), &json!(true)), "{report}");
    for figure in ["closed_us", "acknowledged_us", "answered_us"] {
        let number = |name: &str| report[figure][name].as_u64().unwrap();
        assert!(number("p50") <= number("p99") && number("p99") <= number("max"), "{report}");
        assert!(number("max") <= now_micros() - before, "{report}");
    }
    let keys = keybrake.operate("GET /vault/keys", None).expect(200)["keys"].as_array().unwrap().clone();
    let drilled: Vec<&Value> = keys.iter().filter(|key| key["label"] == "keybrake-drill").collect();
    assert_eq!(drilled.len(), 7);
    assert!(drilled.iter().all(|key| key["status"] == "revoked"), "{drilled:?}");
    assert_eq!((balance(&keybrake, &own), stand_in.requests()), (200, 1), "no call of the drill's");
    assert!(keybrake.cli_command(&["drill", "--keys", "1"]).output().unwrap().status.success());
    assert_eq!(keybrake.dataplane().stop(), 0);
    let output = keybrake.cli_command(&["drill"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
