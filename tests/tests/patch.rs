//! A key that is changed while it is used: what is answered as done holds for all that is sent from then on.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keybrake_tests::{
    Certificate, Client, Issued, Issuer, Keybrake, Reply, Setup, StandIn, Vendor, eventually, form_post, get,
    paid,
};
use serde_json::{Value, json};

const CHARGE_10: &str = "amount=1000&currency=usd&source=tok_visa";

fn patch(keybrake: &Keybrake, key: &Issued, if_match: &str, body: &Value) -> Reply {
    keybrake.operate(&format!("PATCH /vault/keys/{}\nIf-Match: {if_match}", key.id), Some(body))
}

fn charge(keybrake: &Keybrake, key: &Issued) -> u16 {
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, CHARGE_10));
    client.reply().status
}

#[test]
fn q22_a_change_is_in_force_when_it_is_answered_and_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let mut keybrake = Setup::new(stand_in.url()).workers(2).with_admin().start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 20, "label": "old"}));
    assert_eq!((charge(&keybrake, &key), charge(&keybrake, &key), charge(&keybrake, &key)), (200, 200, 429));
    let raised =
        patch(&keybrake, &key, "\"0\"", &json!({"daily_usd_cap": 30, "total_usd_cap": 40, "label": "new"}));
    assert_eq!((raised.field("etag"), raised.expect(200)["version"].as_u64()), (Some("\"1\""), Some(1)));
    assert_eq!((charge(&keybrake, &key), charge(&keybrake, &key)), (200, 429));
    // What was spent before there was a cap for life counts under it.
    let view = keybrake.key(&key.id);
    assert_eq!(
        (view.total_committed_usd.unwrap().as_u64(), view.remaining_usd.unwrap().as_u64()),
        (30_000_000, 0)
    );
    for restarted in [false, true] {
        let listed = keybrake.operate("GET /vault/keys", None).expect(200);
        let listed = &listed["keys"][0];
        assert_eq!(
            (&listed["label"], listed["daily_usd_cap"].to_string()),
            (&json!("new"), "30.00".to_owned())
        );
        assert_eq!(charge(&keybrake, &key), 429, "restarted: {restarted}");
        keybrake.dataplane().kill_9();
        keybrake.start_dataplane();
    }
    assert_eq!(patch(&keybrake, &key, "*", &json!({"daily_usd_cap": null})).status, 200);
    assert_eq!((charge(&keybrake, &key), charge(&keybrake, &key)), (200, 429), "the cap for life is left");
    let narrowed = patch(&keybrake, &key, "*", &json!({"allowed_endpoints": ["GET /v1/balance"]}));
    assert_eq!((narrowed.status, charge(&keybrake, &key)), (200, 403));
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status, 200);
    assert_eq!(keybrake.operate("POST /vault/revoke", Some(&json!({"label": "old"}))).status, 404);
    assert_eq!(keybrake.operate("POST /vault/revoke", Some(&json!({"label": "new"}))).status, 200);
    let closed = patch(&keybrake, &key, "*", &json!({"daily_usd_cap": 1})).expect(409);
    assert_eq!(closed["error"]["code"], "key_closed");
}

#[test]
fn two_who_read_the_same_version_do_not_both_change_it() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let keybrake = Setup::new(stand_in.url()).with_admin().start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({}));
    let shown = keybrake.operate(&format!("GET /vault/keys/{}", key.id), None);
    let etag = shown.field("etag").unwrap().to_owned();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let change = |cap: u64| patch(&keybrake, &key, &etag, &json!({"daily_usd_cap": cap})).status;
        let threads: Vec<_> = (1..9).map(|cap| scope.spawn(move || change(cap))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 412).count(), 7, "{statuses:?}");
    let head = format!("PATCH /vault/keys/{}", key.id);
    let refused = keybrake.operate(&head, Some(&json!({"label": "x"}))).expect(428);
    assert_eq!(refused["error"]["code"], "precondition_required");
    let parent = patch(&keybrake, &key, "*", &json!({"parent_vault_key": key.id})).expect(400);
    assert_eq!(parent["error"]["field"], "parent_vault_key", "a parent never changes (rule Q9)");
    let output =
        keybrake.cli_command(&["key", "set", &key.id, "--clear", "daily-usd-cap", "--label", "x"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let view = keybrake.key(&key.id);
    assert_eq!((view.version, view.daily_usd_cap, view.label.as_deref()), (2, None, Some("x")));
    let late = keybrake
        .cli_command(&["key", "update", &key.id, "--label", "y", "--if-version", "1"])
        .output()
        .unwrap();
    assert!(
        late.status.code() == Some(1) && String::from_utf8_lossy(&late.stderr).contains("version 2"),
        "{late:?}"
    );
}

#[test]
fn q22_restrictions_change_while_the_key_is_used_and_stay_so_after_a_kill() {
    let vendor = Vendor::start(paid);
    let mut keybrake = Setup::new(vendor.url()).workers(2).with_admin().start();
    let slow = json!({"rate_limit_rps": 0.001, "daily_usd_cap": 500});
    let key = keybrake.issue(&["POST /v1/charges"], &slow);
    assert_eq!((charge(&keybrake, &key), charge(&keybrake, &key)), (200, 429), "one at a time");
    assert_eq!(patch(&keybrake, &key, "*", &json!({"label": "x"})).status, 200);
    assert_eq!(charge(&keybrake, &key), 429, "a change of something else is no new burst");
    let changed = patch(&keybrake, &key, "*", &json!({"rate_limit_rps": null, "max_usd_per_call": 10}));
    let view = changed.expect(200);
    assert_eq!(
        (view.get("rate_limit_rps"), view["max_usd_per_call"].to_string()),
        (None, "10.00".to_owned())
    );
    assert_eq!((charge(&keybrake, &key), charge(&keybrake, &key)), (200, 200));
    let status = |body: &Value| {
        let changed = patch(&keybrake, &key, "*", body);
        assert_eq!(changed.status, 200, "{body}: {}", changed.text());
        charge(&keybrake, &key)
    };
    assert_eq!(status(&json!({"max_usd_per_call": 9.99})), 403);
    assert_eq!(
        status(&json!({"max_usd_per_call": null, "params": [{"name": "currency", "in": ["eur"]}]})),
        403
    );
    let of = |account: &str| {
        let mut client = Client::connect(keybrake.proxy());
        let call = form_post("/stripe/v1/charges", &key.text, CHARGE_10);
        client.send(String::from_utf8(call).unwrap().replacen(
            "\r\n",
            &format!("\r\nStripe-Account: {account}\r\n"),
            1,
        ));
        client.reply().status
    };
    assert_eq!((status(&json!({"params": [{"name": "currency", "in": ["usd"]}]})), of("acct_1")), (200, 403));
    assert_eq!(
        (status(&json!({"stripe_accounts": ["acct_1"]})), of("acct_1"), of("acct_2")),
        (200, 200, 403)
    );
    let set = [
        "key",
        "set",
        &key.id,
        "--param",
        "currency in eur",
        "--rate-limit-rps",
        "50",
        "--clear",
        "stripe-accounts",
    ];
    let output = keybrake.cli_command(&set).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    assert_eq!(charge(&keybrake, &key), 403);
    let shown = keybrake.operate(&format!("GET /vault/keys/{}", key.id), None).expect(200);
    assert_eq!(shown["params"], json!([{"name": "currency", "in": ["eur"]}]));
    assert_eq!((shown["rate_limit_rps"].as_u64(), shown.get("stripe_accounts")), (Some(50), None));
}

#[test]
fn m11_restrictions_of_a_child_are_judged_by_its_parent_and_a_narrowed_parent_binds_it() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).with_admin().start();
    let bounds =
        json!({"max_usd_per_call": 20, "rate_limit_rps": 100, "params": [{"name": "amount", "max": 5000}]});
    let parent = keybrake.issue(&["POST /v1/charges"], &bounds);
    let child = json!({"vendor": "stripe", "parent_vault_key": parent.id, "max_usd_per_call": 15});
    let child = keybrake.control().issue(&child);
    for (wider, field) in [
        (json!({"max_usd_per_call": 20.01}), "max_usd_per_call"),
        (json!({"rate_limit_rps": 101}), "rate_limit_rps"),
        (json!({"params": [{"name": "currency", "in": ["usd"]}]}), "params"),
        (json!({"stripe_accounts": ["acct_1"]}), "stripe_accounts"),
    ] {
        assert_eq!(patch(&keybrake, &child, "*", &wider).expect(400)["error"]["field"], field, "{wider}");
    }
    let inherited = patch(&keybrake, &child, "*", &json!({"max_usd_per_call": null})).expect(200);
    assert_eq!(inherited["max_usd_per_call"].to_string(), "20.00");
    assert_eq!(charge(&keybrake, &child), 200);
    // The child's own record says more from here on.
    for narrowed in [json!({"max_usd_per_call": 9.99}), json!({"params": [{"name": "amount", "max": 999}]})] {
        assert_eq!(patch(&keybrake, &parent, "*", &narrowed).status, 200);
        assert_eq!(charge(&keybrake, &child), 403, "{narrowed}");
        let wide = json!({"max_usd_per_call": 20, "params": [{"name": "amount", "max": 5000}]});
        assert_eq!(patch(&keybrake, &parent, "*", &wide).status, 200);
    }
    assert_eq!(patch(&keybrake, &parent, "*", &json!({"rate_limit_rps": 0.001})).status, 200);
    assert_eq!((charge(&keybrake, &child), charge(&keybrake, &child)), (200, 429));
}

/// A keybrake whose vendor listens and does not shake hands yet.
struct Waiting {
    keybrake: Keybrake,
    listener: Option<TcpListener>,
    issuer: Issuer,
    _dir: tempfile::TempDir,
}

impl Waiting {
    fn start() -> Waiting {
        Waiting::with("# As it comes.")
    }

    fn with(vendor_line: &str) -> Waiting {
        let (issuer, dir) = (Issuer::new(), tempfile::tempdir().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ca = dir.path().join("ca.pem");
        issuer.write_to(&ca);
        let keybrake = Setup::new(format!("https://localhost:{}", listener.local_addr().unwrap().port()))
            .vendor_line("allow_private_address = true")
            .vendor_line("connect_timeout_s = 60")
            .vendor_line(vendor_line)
            .vendor_line(&format!("ca_file = \"{}\"", ca.display()))
            .with_admin()
            .start();
        Waiting { keybrake, listener: Some(listener), issuer, _dir: dir }
    }

    /// A charge of $10 that is admitted and not sent.
    fn admit(&self, key: &Issued) -> Client {
        let mut client = Client::connect(self.keybrake.proxy());
        client.send(form_post("/stripe/v1/charges", &key.text, CHARGE_10));
        eventually("the call to be admitted", || (self.keybrake.held_cents(&key.id) == 1000).then_some(()));
        client
    }

    fn answer(&mut self) -> Vendor {
        Vendor::start_tls_on(self.listener.take().unwrap(), self.issuer.server(Certificate::Good), paid)
    }
}

fn decided_anew(more: &Value, change: &Value, expected: (u16, u64, u64)) {
    let mut waiting = Waiting::start();
    let parent = waiting.keybrake.issue(&["POST /v1/charges", "GET /v1/**"], &json!({"daily_usd_cap": 50}));
    let mut body = json!({"vendor": "stripe", "parent_vault_key": parent.id});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let key = waiting.keybrake.control().issue(&body);
    for changed in [&parent, &key] {
        assert_eq!(patch(&waiting.keybrake, changed, "*", &json!({"label": "before"})).status, 200);
    }
    let mut client = waiting.admit(&key);
    // That of the key above binds it as its own does.
    assert_eq!(patch(&waiting.keybrake, &parent, "*", change).status, 200);
    let vendor = waiting.answer();
    let (status, requests, cents) = expected;
    assert_eq!(client.reply().status, status, "{change}");
    assert_eq!(vendor.seen().len() as u64, requests, "{change}");
    for key in [&key, &parent] {
        assert_eq!(waiting.keybrake.committed_cents(&key.id), cents, "{change}");
        assert_eq!(waiting.keybrake.held_cents(&key.id), 0, "{change}");
    }
    let rows = waiting.keybrake.eventually_rows(&key.id, 1);
    assert_eq!(rows[0]["status"], json!(status), "one row for one request, whatever was decided in between");
    waiting.keybrake.settle();
}

#[test]
fn q8_a_request_that_was_admitted_under_a_cap_that_is_lowered_is_decided_anew() {
    decided_anew(&json!({}), &json!({"daily_usd_cap": 9.99}), (429, 0, 0));
}

#[test]
fn q8_a_request_whose_endpoint_is_taken_away_is_decided_anew() {
    decided_anew(&json!({}), &json!({"allowed_endpoints": ["GET /v1/**"]}), (403, 0, 0));
}

#[test]
fn q8_a_request_that_a_new_bound_of_one_call_or_a_new_rule_for_a_parameter_refuses_is_decided_anew() {
    decided_anew(&json!({}), &json!({"max_usd_per_call": 9.99}), (403, 0, 0));
    decided_anew(&json!({}), &json!({"params": [{"name": "amount", "max": 999}]}), (403, 0, 0));
}

#[test]
fn q8_a_request_that_the_new_policy_allows_goes_on_and_counts_once() {
    decided_anew(&json!({}), &json!({"daily_usd_cap": 10}), (200, 1, 1000));
}

#[test]
fn q8_a_request_that_is_decided_anew_keeps_its_turn_and_one_that_is_refused_then_gives_it_back() {
    for (change, status) in
        [(json!({"label": "x"}), 200), (json!({"allowed_endpoints": ["GET /v1/**"]}), 403)]
    {
        // One turn, and the next one a second later: who finds none waits for it.
        let mut waiting = Waiting::with("quota_rps = 1");
        let key = waiting.keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
        let mut client = waiting.admit(&key);
        assert_eq!(patch(&waiting.keybrake, &key, "*", &change).status, 200);
        let vendor = waiting.answer();
        assert_eq!(client.reply().status, status, "{change}");
        if status != 200 {
            let other = waiting.keybrake.issue(&["POST /v1/charges"], &json!({}));
            assert_eq!(charge(&waiting.keybrake, &other), 200, "the turn is there again");
        }
        assert_eq!(vendor.seen().len(), 1);
        assert_eq!(waiting.keybrake.control().counter("keybrake_turns_waited_total"), 0, "{change}");
    }
}

#[test]
fn q8_under_load_not_one_byte_is_sent_under_a_policy_that_was_changed() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).workers(2).with_admin().start();
    for round in 0..8 {
        let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 1_000_000}));
        let stop = Arc::new(AtomicBool::new(false));
        let before = vendor.bytes();
        let agents: Vec<_> = (0..16)
            .map(|_| {
                let (proxy, stop) = (keybrake.proxy(), Arc::clone(&stop));
                let call = form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd");
                std::thread::spawn(move || {
                    let (mut client, mut statuses) = (Client::connect(proxy), Vec::new());
                    while !stop.load(Ordering::Relaxed) {
                        client.send(&call);
                        statuses.push(client.reply().status);
                    }
                    statuses
                })
            })
            .collect();
        eventually("the load to run", || (vendor.bytes() > before + 20_000).then_some(()));
        // By its cap in one round, by its rules in the next.
        let change = if round % 2 == 0 {
            json!({"daily_usd_cap": 0})
        } else {
            json!({"allowed_endpoints": ["GET /v1/balance"]})
        };
        let changed = patch(&keybrake, &key, "*", &change);
        let arrived = vendor.arrived_bytes();
        assert_eq!(changed.status, 200, "{}", changed.text());
        let refusal = if round % 2 == 0 { 429 } else { 403 };
        eventually("the agents to be refused", || (charge(&keybrake, &key) == refusal).then_some(()));
        stop.store(true, Ordering::Relaxed);
        for agent in agents {
            let statuses = agent.join().unwrap();
            let statuses: Vec<u16> = statuses.into_iter().filter(|status| *status != 503).collect();
            let first = statuses.iter().position(|status| *status == refusal).unwrap_or(statuses.len());
            assert!(statuses[..first].iter().all(|status| *status == 200), "round {round}: {statuses:?}");
            assert!(statuses[first..].iter().all(|status| *status == refusal), "round {round}: {statuses:?}");
        }
        assert_eq!(vendor.arrived_bytes(), arrived, "round {round}");
        assert_eq!(keybrake.held_cents(&key.id), 0);
    }
}
