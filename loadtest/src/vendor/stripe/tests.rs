//! The vendor's behavior, read as a dialogue: one request line, one verdict.

use serde_json::Value;

use super::*;

const KEY: &[u8] = b"Bearer sk_test_1";

fn state() -> State {
    State::new(Setup { keys: Vec::new(), plan: Plan::default(), kept_max: 100, run: 7 })
}

fn request<'a>(method: Method, target: &'a str, body: &'a str) -> Request<'a> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    Request {
        method,
        path,
        query: query.as_bytes(),
        authorization: Some(KEY),
        idempotency_key: None,
        version: "2026-10-28.endive",
        body: body.as_bytes(),
        now_s: 1_700_000_000,
    }
}

fn value(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap()
}

fn post(state: &mut State, path: &str, body: &str) -> Answer {
    handle(state, &request(Method::Post, path, body))
}

fn post_keyed(state: &mut State, key: &str, path: &str, body: &str) -> Answer {
    handle(state, &Request { idempotency_key: Some(key), ..request(Method::Post, path, body) })
}

fn get(state: &mut State, target: &str) -> Answer {
    handle(state, &request(Method::Get, target, ""))
}

fn id(answer: &Answer) -> String {
    value(answer)["id"].as_str().unwrap().to_owned()
}

/// Posts to a new account; compares status and what was committed.
#[track_caller]
fn check(path: &str, body: &str, status: u16, committed: u64) -> Value {
    let answer = post(&mut state(), path, body);
    assert_eq!((answer.status, answer.entry.committed_minor), (status, committed), "{:?}", value(&answer));
    assert_eq!(answer.entry.accepted, committed > 0);
    value(&answer)
}

#[track_caller]
fn check_refused(path: &str, body: &str, status: u16, code: &str, param: Option<&str>) {
    let error = check(path, body, status, 0)["error"].clone();
    assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some(code), param), "{error}");
    assert!(error["message"].is_string() && error["type"].is_string());
}

#[test]
fn a_charge_echoes_what_it_was_given() {
    let charge = check(
        "/v1/charges",
        "amount=2000&currency=USD&source=tok_visa&metadata[crew_run_id]=r1&description=a+b",
        200,
        2000,
    );
    assert_eq!(charge["object"], "charge");
    assert_eq!(charge["amount"], 2000);
    assert_eq!(charge["currency"], "usd");
    assert_eq!(charge["status"], "succeeded");
    assert_eq!(charge["metadata"]["crew_run_id"], "r1");
    assert_eq!(charge["description"], "a b");
}

#[test]
fn missing_and_unreadable_parameters_are_named() {
    check_refused("/v1/charges", "currency=usd", 400, "parameter_missing", Some("amount"));
    check_refused("/v1/payment_intents", "amount=1", 400, "parameter_missing", Some("currency"));
    check_refused("/v1/payouts", "amount=1x&currency=usd", 400, "parameter_invalid_integer", Some("amount"));
    check_refused("/v1/topups", "amount=0&currency=usd", 400, "parameter_invalid_integer", Some("amount"));
    check_refused("/v1/transfers", "amount=1&currency=usd", 400, "parameter_missing", Some("destination"));
    check_refused("/v1/refunds", "charge=ch_none", 404, "resource_missing", Some("charge"));
    check_refused("/v1/payment_intents/pi_x", "", 404, "resource_missing", Some("intent"));
    assert_eq!(check("/v1/charges", "amount=5&currency=dollars", 400, 0)["error"]["param"], "currency");
}

#[test]
fn an_unknown_url_is_stripes_404() {
    for path in ["/v1/nothing", "/v1/charges/", "/v2/core/events", "/", "/v1/charges/a/b/c"] {
        let error = check(path, "", 404, 0)["error"].clone();
        assert_eq!(error["type"], "invalid_request_error", "{path}");
    }
}

#[test]
fn outflows_commit_their_amount() {
    assert_eq!(check("/v1/payouts", "amount=1000&currency=usd", 200, 1000)["object"], "payout");
    let transfer = check("/v1/transfers", "amount=700&currency=usd&destination=acct_1", 200, 700);
    assert_eq!(transfer["destination"], "acct_1");
    assert_eq!(check("/v1/topups", "amount=300&currency=usd", 200, 300)["object"], "topup");
}

#[test]
fn a_transfer_without_amount_moves_the_whole_source_transaction() {
    let mut state = state();
    let charge = id(&post(&mut state, "/v1/charges", "amount=900&currency=eur"));
    let body = format!("source_transaction={charge}&destination=acct_1");
    let transfer = post(&mut state, "/v1/transfers", &body);
    assert_eq!((transfer.entry.committed_minor, value(&transfer)["currency"].as_str()), (900, Some("eur")));
}

#[test]
fn an_unauthorized_request_does_nothing() {
    let mut state = state();
    for authorization in [None, Some(b"Bearer vault_key_1".as_slice()), Some(b"Bearer sk_live_1")] {
        let body = "amount=1&currency=usd";
        let answer =
            handle(&mut state, &Request { authorization, ..request(Method::Post, "/v1/charges", body) });
        assert_eq!((answer.status, answer.entry.accepted, answer.entry.authorized), (401, false, false));
    }
    assert_eq!(value(&get(&mut state, "/v1/charges"))["data"], Value::Array(Vec::new()));
}

#[test]
fn a_declined_charge_commits_nothing() {
    for source in ["tok_chargeDeclined", "pm_card_chargeDeclined"] {
        let body = format!("amount=2000&currency=usd&source={source}");
        let error = check("/v1/charges", &body, 402, 0)["error"].clone();
        assert_eq!(error["code"], "card_declined");
        assert_eq!(error["decline_code"], "generic_decline");
        assert!(error["charge"].as_str().unwrap().starts_with("ch_"));
    }
}

#[test]
fn an_intent_is_committed_once_at_creation() {
    let mut state = state();
    let body = "amount=2000&currency=usd&payment_method=pm_card_visa";
    let created = post(&mut state, "/v1/payment_intents", body);
    assert_eq!(created.entry.committed_minor, 2000);
    assert_eq!(value(&created)["status"], "requires_confirmation");
    let path = format!("/v1/payment_intents/{}", id(&created));
    let confirmed = post(&mut state, &format!("{path}/confirm"), "");
    assert_eq!(
        (value(&confirmed)["status"].as_str(), confirmed.entry.committed_minor),
        (Some("succeeded"), 0)
    );
    let again = post(&mut state, &format!("{path}/confirm"), "");
    assert_eq!(value(&again)["error"]["code"], "payment_intent_unexpected_state");
    assert_eq!(value(&get(&mut state, &path))["amount_received"], 2000);
}

#[test]
fn an_intent_that_is_declined_at_once_is_committed_when_another_card_pays() {
    let mut state = state();
    let body = "amount=2000&currency=usd&payment_method=pm_card_chargeDeclined&confirm=true";
    let declined = post(&mut state, "/v1/payment_intents", body);
    assert_eq!((declined.status, declined.entry.committed_minor), (402, 0));
    let intent = value(&declined)["error"]["payment_intent"].clone();
    assert_eq!(intent["status"], "requires_payment_method");
    let path = format!("/v1/payment_intents/{}/confirm", intent["id"].as_str().unwrap());
    assert_eq!(post(&mut state, &path, "").status, 400, "no card is left");
    assert_eq!(post(&mut state, &path, "payment_method=pm_card_visa").entry.committed_minor, 2000);
}

#[test]
fn raising_an_intent_commits_the_difference() {
    let mut state = state();
    let path = format!(
        "/v1/payment_intents/{}",
        id(&post(&mut state, "/v1/payment_intents", "amount=100&currency=usd"))
    );
    assert_eq!(post(&mut state, &path, "amount=150&metadata[a]=b").entry.committed_minor, 50);
    assert_eq!(post(&mut state, &path, "amount=120").entry.committed_minor, 0);
    assert_eq!(value(&get(&mut state, &path))["metadata"]["a"], "b");
    assert_eq!(value(&post(&mut state, &format!("{path}/cancel"), ""))["status"], "canceled");
    assert_eq!(post(&mut state, &path, "amount=500").status, 400);
}

#[test]
fn a_manual_intent_is_captured_later() {
    let mut state = state();
    let body = "amount=100&currency=usd&payment_method=pm_card_visa&confirm=true&capture_method=manual";
    let created = post(&mut state, "/v1/payment_intents", body);
    assert_eq!(value(&created)["amount_capturable"], 100);
    let path = format!("/v1/payment_intents/{}/capture", id(&created));
    let captured = post(&mut state, &path, "amount_to_capture=60");
    assert_eq!((value(&captured)["amount_received"].as_u64(), captured.entry.committed_minor), (Some(60), 0));
    assert_eq!(post(&mut state, &path, "").status, 400);
}

#[test]
fn refunds_end_with_the_charge() {
    let mut state = state();
    let charge = id(&post(&mut state, "/v1/charges", "amount=1000&currency=usd"));
    let of_charge = format!("charge={charge}");
    assert_eq!(
        post(&mut state, "/v1/refunds", &format!("{of_charge}&amount=400")).entry.committed_minor,
        400
    );
    assert_eq!(post(&mut state, "/v1/refunds", &format!("{of_charge}&amount=700")).status, 400);
    let rest = post(&mut state, "/v1/refunds", &of_charge);
    assert_eq!((rest.entry.committed_minor, rest.entry.currency.as_deref()), (600, Some("usd")));
    let none_left = value(&post(&mut state, "/v1/refunds", &of_charge));
    assert_eq!(none_left["error"]["code"], "charge_already_refunded");
    let refunded = value(&get(&mut state, &format!("/v1/charges/{charge}")));
    assert_eq!(
        (refunded["refunded"].as_bool(), refunded["amount_refunded"].as_u64()),
        (Some(true), Some(1000))
    );
    let listed = value(&get(&mut state, &format!("/v1/refunds?charge={charge}")));
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    assert_eq!(get(&mut state, &format!("/v1/refunds/{}", id(&rest))).status, 200);
}

#[test]
fn an_intent_is_refunded_through_its_charge() {
    let mut state = state();
    let unpaid = id(&post(&mut state, "/v1/payment_intents", "amount=5&currency=usd"));
    assert_eq!(post(&mut state, "/v1/refunds", &format!("payment_intent={unpaid}")).status, 400);
    let body = "amount=5&currency=usd&payment_method=pm_card_visa&confirm=true";
    let paid = id(&post(&mut state, "/v1/payment_intents", body));
    assert_eq!(post(&mut state, "/v1/refunds", &format!("payment_intent={paid}")).entry.committed_minor, 5);
}

#[test]
fn the_same_key_and_request_get_the_stored_answer_and_commit_once() {
    let mut state = state();
    let body = "amount=2000&currency=usd";
    let first = post_keyed(&mut state, "k1", "/v1/charges", body);
    let second = post_keyed(&mut state, "k1", "/v1/charges", body);
    assert_eq!((second.status, &second.body), (200, &first.body));
    assert_eq!(second.original_request, Some(first.request_id));
    assert_eq!((second.entry.accepted, second.entry.committed_minor), (false, 0));
    let other_key = post_keyed(&mut state, "k2", "/v1/charges", body);
    assert_ne!(other_key.body, first.body);
}

#[test]
fn the_same_key_with_another_body_or_path_is_an_idempotency_error() {
    let mut state = state();
    post_keyed(&mut state, "k1", "/v1/charges", "amount=2000&currency=usd");
    for (path, body) in
        [("/v1/charges", "amount=2001&currency=usd"), ("/v1/payouts", "amount=2000&currency=usd")]
    {
        let answer = post_keyed(&mut state, "k1", path, body);
        assert_eq!((answer.status, answer.entry.accepted), (400, false));
        assert_eq!(value(&answer)["error"]["type"], "idempotency_error");
    }
}

#[test]
fn a_refused_parameter_does_not_use_its_key_up() {
    let mut state = state();
    assert_eq!(post_keyed(&mut state, "k", "/v1/charges", "amount=1").status, 400);
    assert_eq!(post_keyed(&mut state, "k", "/v1/charges", "amount=1&currency=usd").status, 200);
}

#[test]
fn a_broken_vendor_has_acted_and_repeats_its_500() {
    let mut state = state();
    let body = "amount=2000&currency=usd&source=tok_500";
    let first = post_keyed(&mut state, "k", "/v1/charges", body);
    assert_eq!((first.status, first.entry.accepted, first.entry.committed_minor), (500, true, 2000));
    let second = post_keyed(&mut state, "k", "/v1/charges", body);
    assert_eq!((second.status, second.entry.committed_minor), (500, 0));
    assert_eq!(value(&get(&mut state, "/v1/charges"))["data"].as_array().unwrap().len(), 1);
}

#[test]
fn a_vendor_that_broke_before_it_acted_repeats_its_500_and_never_acts() {
    let mut state = state();
    let body = "amount=2000&currency=usd&source=tok_500_before";
    for is_repeat in [false, true] {
        let answer = post_keyed(&mut state, "k", "/v1/charges", body);
        assert_eq!((answer.status, answer.entry.accepted, answer.entry.committed_minor), (500, false, 0));
        assert_eq!(answer.original_request.is_some(), is_repeat);
    }
}

#[test]
fn what_was_not_carried_out_can_be_repeated_under_its_key() {
    for source in ["429", "409", "cut_before", "hang_before"] {
        let plan = Plan { script: source.parse().unwrap(), ..Plan::default() };
        let mut state = State::new(Setup { keys: Vec::new(), plan, kept_max: 100, run: 7 });
        let body = "amount=2000&currency=usd";
        let first = post_keyed(&mut state, "k", "/v1/charges", body);
        assert_eq!((first.entry.outcome, first.entry.accepted), (Some(source), false));
        let second = post_keyed(&mut state, "k", "/v1/charges", body);
        assert_eq!(
            (second.status, second.entry.accepted, second.entry.outcome),
            (200, true, None),
            "{source}"
        );
    }
}

#[test]
fn test_sources_decide_delivery_and_whether_it_was_carried_out() {
    let slow = Delivery::After(Duration::from_millis(30));
    let cases = [
        ("tok_hang", Delivery::Never, true),
        ("tok_hang_before", Delivery::NeverBefore, false),
        ("tok_cut", Delivery::Cut, true),
        ("tok_cut_after", Delivery::CutAfter, true),
        ("tok_cut_before", Delivery::CutBefore, false),
        ("tok_slow_30", slow, true),
        ("tok_429", Delivery::Whole, false),
        ("tok_409", Delivery::Whole, false),
        ("tok_500_before", Delivery::Whole, false),
        ("tok_500_after", Delivery::Whole, true),
        ("tok_visa", Delivery::Whole, true),
    ];
    for (source, delivery, accepted) in cases {
        let answer = post(&mut state(), "/v1/charges", &format!("amount=1&currency=usd&source={source}"));
        assert_eq!((answer.delivery, answer.entry.accepted), (delivery, accepted), "{source}");
    }
}

#[test]
fn an_answer_that_was_cut_is_replayed_whole() {
    let mut state = state();
    let body = "amount=1&currency=usd&source=tok_cut";
    assert_eq!(post_keyed(&mut state, "k", "/v1/charges", body).delivery, Delivery::Cut);
    let again = post_keyed(&mut state, "k", "/v1/charges", body);
    assert_eq!((again.status, again.delivery, again.entry.accepted), (200, Delivery::Whole, false));
}

#[test]
fn outcomes_take_turns_without_touching_reads() {
    let plan = Plan { turns: vec!["429:2".parse().unwrap()], ..Plan::default() };
    let mut state = State::new(Setup { keys: Vec::new(), plan, kept_max: 100, run: 7 });
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(post(&mut state, "/v1/charges", "amount=1&currency=usd").status);
        statuses.push(get(&mut state, "/v1/charges").status);
    }
    assert_eq!(statuses, [200, 200, 429, 200, 200, 200, 429, 200]);
}

#[test]
fn lists_are_pages_newest_first() {
    let mut state = state();
    let ids: Vec<String> = (0..5).map(|_| id(&post(&mut state, "/v1/customers", "email=a%40b.c"))).collect();
    let mut page = |query: &str| {
        let list = value(&get(&mut state, &format!("/v1/customers?{query}")));
        let ids: Vec<String> = list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect();
        (ids, list["has_more"].as_bool().unwrap())
    };
    let of = |range: &[usize]| range.iter().map(|&index| ids[index].clone()).collect::<Vec<_>>();
    assert_eq!(page("limit=2"), (of(&[4, 3]), true));
    assert_eq!(page(&format!("limit=2&starting_after={}", ids[3])), (of(&[2, 1]), true));
    assert_eq!(page(&format!("starting_after={}", ids[2])), (of(&[1, 0]), false));
    assert_eq!(page(&format!("limit=1&ending_before={}", ids[2])), (of(&[3]), true));
    assert_eq!(page(&format!("ending_before={}", ids[2])), (of(&[4, 3]), false));
    assert_eq!(page("email=nobody"), (Vec::new(), false));
}

#[test]
fn a_customer_is_changed_and_deleted() {
    let mut state = state();
    let path = format!("/v1/customers/{}", id(&post(&mut state, "/v1/customers", "name=A&metadata[x]=1")));
    let changed = value(&post(&mut state, &path, "name=B&metadata[x]="));
    assert_eq!((changed["name"].as_str(), changed["metadata"].as_object().unwrap().len()), (Some("B"), 0));
    assert_eq!(value(&handle(&mut state, &request(Method::Delete, &path, "")))["deleted"], true);
    assert_eq!(value(&get(&mut state, &path))["deleted"], true);
    assert_eq!(value(&get(&mut state, "/v1/customers"))["data"], Value::Array(Vec::new()));
}

#[test]
fn old_versions_and_expand_see_the_charge_of_an_intent() {
    let mut state = state();
    let body = "amount=5&currency=usd&payment_method=pm_card_visa&confirm=true";
    let path = format!("/v1/payment_intents/{}", id(&post(&mut state, "/v1/payment_intents", body)));
    let old =
        value(&handle(&mut state, &Request { version: "2020-08-27", ..request(Method::Get, &path, "") }));
    assert_eq!(old["charges"]["data"][0]["amount"], 5);
    assert_eq!(old["charges"]["data"][0]["refunds"]["object"], "list");
    let new = value(&get(&mut state, &path));
    assert!(new.get("charges").is_none() && new["latest_charge"].is_string());
    let expanded = value(&get(&mut state, &format!("{path}?expand[0]=latest_charge")));
    assert_eq!(expanded["latest_charge"]["amount"], 5);
}

#[test]
fn the_oldest_objects_are_forgotten_and_ids_go_on() {
    let mut state = State::new(Setup { keys: Vec::new(), plan: Plan::default(), kept_max: 2, run: 7 });
    let ids: Vec<String> =
        (0..3).map(|_| id(&post(&mut state, "/v1/charges", "amount=1&currency=usd"))).collect();
    assert_eq!(get(&mut state, &format!("/v1/charges/{}", ids[0])).status, 404);
    assert_eq!(get(&mut state, &format!("/v1/charges/{}", ids[2])).status, 200);
    assert_eq!(get(&mut state, &format!("/v1/charges/{}0", ids[2])).status, 404);
}

#[test]
fn the_judge_reads_a_repeated_amount_as_stripe_would() {
    assert_eq!(check("/v1/charges", "amount=1&%61mount=9000&currency=usd", 200, 9000)["amount"], 9000);
    let in_query = request(Method::Post, "/v1/charges?amount=7&currency=usd", "");
    assert_eq!(handle(&mut state(), &in_query).entry.committed_minor, 7);
}
