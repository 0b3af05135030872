//! Keys below keys: they have less than the key above them, draw on it, and end with it.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use keybrake_proto::control::KeyStatus;
use keybrake_proto::policy::DEPTH_MAX;
use keybrake_tests::{
    Client, Issued, Keybrake, Reply, Setup, StandIn, call, eventually, form_post, get, now_micros,
};
use serde_json::{Value, json};

const CHARGE_10: &str = "amount=1000&currency=usd&source=tok_visa";

fn start(dir: &std::path::Path, workers: usize) -> (StandIn, Keybrake) {
    let stand_in = StandIn::start(dir);
    let keybrake = Setup::new(stand_in.url()).workers(workers).with_admin().start();
    (stand_in, keybrake)
}

/// Asks at the proxy, as whoever holds the parent and no token.
fn ask_below(keybrake: &Keybrake, parent: &str, more: &Value) -> Reply {
    let mut body = json!({"parent_vault_key": parent});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call(keybrake.proxy(), "POST /vault/keys\nContent-Type: application/json", body.to_string().as_bytes())
}

fn issue_below(keybrake: &Keybrake, parent: &Issued, more: &Value) -> Issued {
    let issued = ask_below(keybrake, &parent.text, more).expect(201);
    assert_eq!(issued["parent_key_id"], json!(parent.id));
    let text = |name: &str| issued[name].as_str().unwrap().to_owned();
    Issued { text: text("vault_key"), id: text("id") }
}

fn charge(keybrake: &Keybrake, key: &Issued) -> Reply {
    let mut client = Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, CHARGE_10));
    client.reply()
}

fn cents(keybrake: &Keybrake, key: &Issued) -> u64 {
    keybrake.committed_cents(&key.id)
}

/// Whether the day ends while a test runs; then a cap may be spent twice (rule Q10).
fn is_near_midnight() -> bool {
    let second = now_micros() / 1_000_000 % 86_400;
    !(60..86_400 - 60).contains(&second)
}

#[test]
fn m11_whoever_holds_a_key_issues_below_it_and_only_less() {
    let dir = tempfile::tempdir().unwrap();
    let (_stand_in, keybrake) = start(dir.path(), 1);
    let limits = json!({"daily_usd_cap": 50, "daily_request_budget": 9, "expires_in": "1h", "metadata": {"team": "t"}});
    let parent = keybrake.issue(&["POST /v1/charges", "GET /v1/**"], &limits);
    let child = issue_below(
        &keybrake,
        &parent,
        &json!({"daily_usd_cap": 20, "allowed_endpoints": ["POST /v1/charges"]}),
    );
    let (above, below) = (keybrake.key(&parent.id), keybrake.key(&child.id));
    assert_eq!((below.daily_request_budget, &below.expires_at), (Some(9), &above.expires_at), "inherited");
    assert_eq!((&below.metadata, above.children), (&above.metadata, 1));
    assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &child.text).status, 403);
    for (more, field) in [
        (json!({"daily_usd_cap": 50.01}), "daily_usd_cap"),
        (json!({"daily_request_budget": 10}), "daily_request_budget"),
        (json!({"expires_in": "2h"}), "expires_in"),
        (json!({"allowed_endpoints": ["POST /v1/refunds"]}), "allowed_endpoints[0]"),
        (json!({"vendor": "twilio"}), "vendor"),
    ] {
        let refused = ask_below(&keybrake, &parent.text, &more).expect(400);
        assert_eq!(refused["error"]["field"], field, "{refused}");
    }
    // The child's own text goes for the child and not for its parent.
    let refused = ask_below(&keybrake, &child.text, &json!({"daily_usd_cap": 21})).expect(400);
    assert!(refused["error"]["message"].as_str().unwrap().contains("20.00"), "{refused}");
    // An id is public, so it opens nothing but to an operator.
    assert_eq!(ask_below(&keybrake, &parent.id, &json!({})).status, 401);
    let other = keybrake_proto::key::mint(|bytes| bytes.fill(9));
    assert_eq!(ask_below(&keybrake, &other, &json!({})).expect(401)["error"]["code"], "invalid_vault_key");
    let by_id = keybrake.operate("POST /vault/keys", Some(&json!({"parent_vault_key": parent.id})));
    assert_eq!(by_id.expect(201)["policy"]["daily_usd_cap"].to_string(), "50.00");
    let output = keybrake.output();
    assert!(!output.contains(&parent.text) && !output.contains(&child.text), "no key is logged");
}

#[test]
fn m11_nobody_gives_itself_a_price_by_a_key_below_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let (stand_in, keybrake) = start(dir.path(), 1);
    let subscribe = |key: &Issued| {
        let mut client = Client::connect(keybrake.proxy());
        client.send(form_post("/stripe/v1/subscriptions", &key.text, "customer=cus_1"));
        client.reply()
    };
    // Under a cap without a bound such calls are unpriced, whatever a child says.
    let capped = keybrake.issue(&["POST /v1/**"], &json!({"daily_usd_cap": 50}));
    for bound in [json!(0), json!(0.01), json!(50)] {
        let child = issue_below(&keybrake, &capped, &json!({"max_usd_per_call": bound}));
        assert_eq!(subscribe(&child).expect(403)["error"]["code"], "unpriced", "{bound}");
    }
    assert_eq!(stand_in.requests(), 0);
    // With one they are held at that of the parent, and not at the child's lower one.
    let bounded = keybrake.issue(&["POST /v1/**"], &json!({"daily_usd_cap": 50, "max_usd_per_call": 30}));
    let child = issue_below(&keybrake, &bounded, &json!({"max_usd_per_call": 0.01}));
    assert_eq!(subscribe(&child).expect(403)["error"]["code"], "call_too_large");
    assert_eq!((stand_in.requests(), cents(&keybrake, &bounded)), (0, 0));
}

#[test]
fn m11_a_tree_has_a_greatest_depth() {
    let dir = tempfile::tempdir().unwrap();
    let (_stand_in, keybrake) = start(dir.path(), 1);
    let mut leaf = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let root = leaf.clone();
    for _ in 0..DEPTH_MAX {
        leaf = issue_below(&keybrake, &leaf, &json!({}));
    }
    let refused = ask_below(&keybrake, &leaf.text, &json!({})).expect(400);
    assert_eq!(refused["error"]["field"], "parent_vault_key", "{refused}");
    assert_eq!(charge(&keybrake, &leaf).status, 200);
    assert_eq!(cents(&keybrake, &root), 1000, "over nine levels");
}

/// Of 64 calls of $10 at once, below a root with $50 on keys with $30 each, five are paid.
fn exactly_five_are_paid(workers: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (stand_in, keybrake) = start(dir.path(), workers);
    let root = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let team = issue_below(&keybrake, &root, &json!({"daily_usd_cap": 30}));
    let leaves =
        [&root, &team, &team].map(|above| issue_below(&keybrake, above, &json!({"daily_usd_cap": 30})));
    let barrier = Arc::new(Barrier::new(64));
    let agents: Vec<_> = (0..64)
        .map(|number| {
            let (barrier, proxy) = (Arc::clone(&barrier), keybrake.proxy());
            let call = form_post("/stripe/v1/charges", &leaves[number % 3].text, CHARGE_10);
            std::thread::spawn(move || {
                let mut client = Client::connect(proxy);
                barrier.wait();
                client.send(&call);
                client.reply().status
            })
        })
        .collect();
    let statuses: Vec<u16> = agents.into_iter().map(|agent| agent.join().unwrap()).collect();
    if is_near_midnight() {
        return;
    }
    assert!(statuses.iter().all(|status| matches!(status, 200 | 429)), "{statuses:?}");
    let paid = statuses.iter().filter(|status| **status == 200).count() as u64;
    assert_eq!((paid, stand_in.accepted_minor(), cents(&keybrake, &root)), (5, 5000, 5000), "{statuses:?}");
    assert!(cents(&keybrake, &team) <= 3000);
    assert_eq!(leaves.iter().map(|leaf| cents(&keybrake, leaf)).sum::<u64>(), 5000);
    assert_eq!(cents(&keybrake, &team), cents(&keybrake, &leaves[1]) + cents(&keybrake, &leaves[2]));
    assert_eq!(keybrake.key(&leaves[0].id).chain_remaining_usd.unwrap().as_u64(), 0);
    let refused = charge(&keybrake, &leaves[0]);
    assert_eq!((refused.status, stand_in.requests()), (429, 5), "{}", refused.text());
}

#[test]
fn m6_a_cap_holds_for_all_below_it_together_on_one_worker() {
    exactly_five_are_paid(1);
}

#[test]
fn m6_a_cap_holds_for_all_below_it_together_on_two_workers() {
    exactly_five_are_paid(2);
}

#[test]
fn m11_what_is_spent_below_counts_above_also_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (_stand_in, mut keybrake) = start(dir.path(), 2);
    let root = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 30, "total_usd_cap": 100}));
    let child = issue_below(&keybrake, &root, &json!({}));
    let sibling = issue_below(&keybrake, &root, &json!({"daily_usd_cap": 20}));
    assert_eq!((charge(&keybrake, &child).status, charge(&keybrake, &sibling).status), (200, 200));
    keybrake.dataplane().kill_9();
    keybrake.start_dataplane();
    assert_eq!(
        (cents(&keybrake, &root), cents(&keybrake, &child), cents(&keybrake, &sibling)),
        (2000, 1000, 1000)
    );
    let view = keybrake.key(&child.id);
    let left = |left: Option<keybrake_proto::money::Micros>| left.unwrap().as_u64() / 1_000_000;
    assert_eq!((left(view.remaining_usd), left(view.chain_remaining_usd)), (20, 10));
    assert_eq!((charge(&keybrake, &child).status, charge(&keybrake, &sibling).status), (200, 429));
    assert_eq!(keybrake.key(&root.id).total_committed_usd.unwrap().as_u64(), 30_000_000);
}

#[test]
fn m11_a_revoke_reaches_all_below_and_a_restart_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let (_stand_in, mut keybrake) = start(dir.path(), 2);
    let root = keybrake.issue(&["GET /v1/balance"], &json!({"label": "root"}));
    let [child, other] = [(); 2].map(|()| issue_below(&keybrake, &root, &json!({})));
    let grandchild = issue_below(&keybrake, &child, &json!({}));
    let status =
        |keybrake: &Keybrake, key: &Issued| get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status;
    let answer = keybrake.operate(&format!("POST /vault/keys/{}/revoke", child.id), None).expect(200);
    assert_eq!(answer["revoked"], 2, "{answer}");
    for restarted in [false, true] {
        let statuses = [&root, &other, &child, &grandchild].map(|key| status(&keybrake, key));
        assert_eq!(statuses, [200, 200, 401, 401], "restarted: {restarted}");
        assert_eq!(keybrake.key(&grandchild.id).status, KeyStatus::Revoked);
        keybrake.dataplane().kill_9();
        keybrake.start_dataplane();
    }
    let answer = keybrake.operate("POST /vault/revoke", Some(&json!({"label": "root"}))).expect(200);
    assert_eq!((&answer["revoked"], &answer["already_revoked"]), (&json!(2), &json!(2)), "{answer}");
    assert_eq!(status(&keybrake, &other), 401);
    assert_eq!(ask_below(&keybrake, &root.text, &json!({})).status, 401, "nothing is issued below it");
}

#[test]
fn m11_an_expiry_reaches_all_below() {
    let dir = tempfile::tempdir().unwrap();
    let (_stand_in, keybrake) = start(dir.path(), 1);
    let root = keybrake.issue(&["GET /v1/balance"], &json!({"expires_in": 3600}));
    let child = issue_below(&keybrake, &root, &json!({"expires_in": 3600 - 60}));
    let shorter = json!({"expires_in": 1});
    let head = format!("PATCH /vault/keys/{}\nIf-Match: *", root.id);
    assert_eq!(keybrake.operate(&head, Some(&shorter)).status, 200);
    eventually("the child to end with its parent", || {
        (get(keybrake.proxy(), "/stripe/v1/balance", &child.text).status == 401).then_some(())
    });
    assert_eq!(keybrake.key(&child.id).status, KeyStatus::Expired);
}

#[test]
fn m11_a_child_that_is_issued_while_its_parent_is_revoked_is_never_open() {
    let dir = tempfile::tempdir().unwrap();
    let (_stand_in, keybrake) = start(dir.path(), 2);
    for _ in 0..5 {
        let root = keybrake.issue(&["GET /v1/balance"], &json!({}));
        let parent = issue_below(&keybrake, &root, &json!({}));
        let stop = AtomicBool::new(false);
        let made: Vec<Issued> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let mut made = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            let reply = ask_below(&keybrake, &parent.text, &json!({}));
                            assert!(matches!(reply.status, 201 | 401), "{}", reply.text());
                            if reply.status == 401 {
                                break;
                            }
                            let text = |name: &str| reply.json()[name].as_str().unwrap().to_owned();
                            made.push(Issued { text: text("vault_key"), id: text("id") });
                        }
                        made
                    })
                })
                .collect();
            eventually("some to be issued", || (keybrake.key(&parent.id).children > 8).then_some(()));
            assert!(keybrake.control().revoke(&root.id).acknowledged);
            let made = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
            stop.store(true, Ordering::Relaxed);
            made
        });
        assert!(!made.is_empty());
        for key in &made {
            assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &key.text).status, 401);
            assert_eq!(keybrake.key(&key.id).status, KeyStatus::Revoked);
        }
        assert_eq!(ask_below(&keybrake, &parent.text, &json!({})).status, 401);
    }
}

#[test]
fn m11_nobody_issues_or_changes_a_key_beyond_the_bounds_of_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let bounds = "\n[issue]\ndaily_usd_cap_max = 20\nlife_max = \"1h\"\ndepth_max = 1\n";
    let keybrake = Setup::new(stand_in.url()).proxy_line(bounds).with_admin().start();
    let ask = |more: Value| {
        let mut body = json!({"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        keybrake.operate("POST /vault/keys", Some(&body))
    };
    for (more, field) in [
        (json!({"expires_in": 60}), "daily_usd_cap"),
        (json!({"expires_in": 60, "daily_usd_cap": 20.01}), "daily_usd_cap"),
        (json!({"expires_in": 3700, "daily_usd_cap": 20}), "expires_at"),
    ] {
        assert_eq!(ask(more).expect(400)["error"]["field"], field);
    }
    let parent = keybrake.issue(&["POST /v1/charges"], &json!({"expires_in": 3600, "daily_usd_cap": 20}));
    let child = issue_below(&keybrake, &parent, &json!({}));
    let refused = ask_below(&keybrake, &child.text, &json!({})).expect(400);
    assert_eq!(refused["error"]["field"], "parent_vault_key", "{refused}");
    let head = format!("PATCH /vault/keys/{}\nIf-Match: *", parent.id);
    let refused = keybrake.operate(&head, Some(&json!({"daily_usd_cap": null}))).expect(400);
    assert_eq!(refused["error"]["field"], "daily_usd_cap", "{refused}");
    assert_eq!(keybrake.operate(&head, Some(&json!({"label": "x"}))).status, 200);
}

#[test]
fn n5_the_keys_below_one_key_are_bounded_closed_ones_too() {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path());
    let bounds = "\n[issue]\nkeys_below_max = 3\n";
    let mut keybrake = Setup::new(stand_in.url()).proxy_line(bounds).with_admin().start();
    let (root, other) =
        (keybrake.issue(&["GET /v1/balance"], &json!({})), keybrake.issue(&["GET /v1/balance"], &json!({})));
    let child = issue_below(&keybrake, &root, &json!({}));
    let grandchild = issue_below(&keybrake, &child, &json!({}));
    let last = issue_below(&keybrake, &root, &json!({}));
    assert!(keybrake.control().revoke(&last.id).acknowledged);
    for restarted in [false, true] {
        for parent in [&root, &child, &grandchild] {
            let refused = ask_below(&keybrake, &parent.text, &json!({}));
            assert_eq!(refused.status, 400, "{restarted}: {}", refused.text());
            let error = &refused.json()["error"];
            assert_eq!(error["field"], "parent_vault_key", "{error}");
            assert!(error["message"].as_str().unwrap().contains("closed ones too"), "{error}");
        }
        assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &last.text).status, 401, "{restarted}");
        assert_eq!(get(keybrake.proxy(), "/stripe/v1/balance", &grandchild.text).status, 200, "{restarted}");
        keybrake.dataplane().kill_9();
        keybrake.start_dataplane();
    }
    assert_eq!(ask_below(&keybrake, &other.text, &json!({})).status, 201, "each key at the top by itself");
}
