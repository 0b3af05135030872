//! Calls and what they cost, at Stripe.

use super::*;
use crate::catalog::Catalog;
use crate::catalog::currency::Rates;
use crate::http1::Method;

fn price(path: &str) -> Price {
    Catalog::of("stripe").unwrap().recognize(Method::Post, path.as_bytes()).price()
}

/// Rates of a day: GBP and JPY have one, CHF has none.
const RATES: &str = r#"
    source = "made up for this test"
    date = "2026-11-20"
    max_age_days = 7
    spread_percent = "2"
    usd_per = { gbp = "1.25", jpy = "0.0065", kwd = "3.25" }
"#;

fn priced(body: &str) -> Priced<'_> {
    Priced {
        path: b"/v1/charges",
        content_type: Some(b"application/x-www-form-urlencoded"),
        query: None,
        body: body.as_bytes(),
    }
}

/// The quote of a POST to `path` of which nothing else is known.
fn quoted(path: &str, request: Priced<'_>, bound: Bound) -> Result<Quote, QuoteError> {
    let book = PriceBook { rates: Rates::parse(RATES).unwrap(), ..PriceBook::shipped() };
    let today = Day::parse("2026-11-21").unwrap();
    let request = Priced { path: path.as_bytes(), ..request };
    quote(price(path), request, Known::default(), &Terms { bound, per_call_max: None, book: &book, today })
}

/// The quote in cents of a POST to `path`, under a cap.
fn check(path: &str, body: &str, expected: Result<u64, QuoteError>) {
    let quote = quoted(path, priced(body), Bound::Capped);
    assert_eq!(quote.map(|quote| quote.amount.as_u64() / 10_000), expected, "{path} {body}");
}

/// The end of a call to `path` of $20, as `settle <cents>`, `release` or `doubt`.
fn check_end(path: &str, status: u16, body: &str, expected: &str) {
    let quote = quoted(path, priced("amount=2000&currency=usd&charge=ch_1"), Bound::Capped).unwrap();
    let text = match end(price(path), &quote, None, status, Some(body.as_bytes())).0 {
        End::Settle(charge) => format!("settle {}", charge.as_u64() / 10_000),
        End::MovedNothing => "settle 0".to_owned(),
        End::Release => "release".to_owned(),
        End::InDoubt => "doubt".to_owned(),
    };
    assert_eq!(text, expected, "{path} {status} {body}");
}

#[test]
fn amounts_are_read_from_the_request() {
    check("/v1/charges", "amount=2000&currency=usd", Ok(2000));
    check("/v1/payment_intents", "currency=USD&amount=1&metadata[amount]=9", Ok(1));
    check("/v1/payouts", "amount=999999999999&currency=usd", Ok(999_999_999_999));
    check("/v1/customers", "name=a", Ok(0));
}

#[test]
fn what_cannot_be_priced_is_refused_under_a_cap() {
    let unpriced = |path, body| match quoted(path, priced(body), Bound::Capped) {
        Err(QuoteError::Unpriced(_)) => {}
        other => panic!("{path}: {other:?}"),
    };
    unpriced("/v1/refunds", "charge=ch_1");
    unpriced("/v1/transfers", "destination=acct_1&currency=usd");
    let unstated = quoted("/v1/transfers", priced("destination=acct_1&amount=5"), Bound::Capped);
    assert!(matches!(unstated, Err(QuoteError::Malformed(_))));
    unpriced("/v1/payment_intents/pi_1/capture", "");
    unpriced("/v1/subscriptions", "customer=cus_1");
    check(
        "/v1/charges",
        "amount=2000&currency=eur",
        Err(QuoteError::Currency(NoRate::Unknown(Currency::parse("eur").unwrap()))),
    );
    assert_eq!(quoted("/v1/subscriptions", priced(""), Bound::Uncapped), Ok(Quote::default()));
    let euros = quoted("/v1/charges", priced("amount=5&currency=eur"), Bound::Uncapped).unwrap();
    assert_eq!((euros.amount, euros.amount_minor), (Micros::ZERO, Some(5)));
}

#[test]
fn m2_an_amount_with_two_readings_is_refused() {
    let malformed = |request: Priced<'_>| match quoted("/v1/charges", request, Bound::Capped) {
        Err(QuoteError::Malformed(_) | QuoteError::MediaType) => {}
        other => panic!("{request:?}: {other:?}"),
    };
    for body in [
        "currency=usd",
        "amount=2000",
        "amount=&currency=usd",
        "amount=1&amount=2&currency=usd",
        "amount=-1&currency=usd",
        "amount=1.5&currency=usd",
        "amount=1e3&currency=usd",
        "amount=01&currency=usd",
        "amount=0&currency=usd",
        "%61mount=1&amount=2&currency=usd",
        "amount[]=1&amount=2&currency=usd",
        "amount=1000000000000&currency=usd",
        "amount=1&currency=us",
        "amount=1&currency=usd&currency=eur",
    ] {
        malformed(priced(body));
    }
    let good = priced("amount=1&currency=usd");
    malformed(Priced { query: Some(b"amount=9"), ..good });
    malformed(Priced { content_type: Some(b"application/json"), ..good });
    malformed(Priced { content_type: Some(b"multipart/form-data; boundary=x"), ..good });
}

#[test]
fn the_reply_says_what_it_cost() {
    check_end(
        "/v1/charges",
        200,
        r#"{"object": "charge", "amount": 2000, "currency": "usd", "status": "succeeded"}"#,
        "settle 2000",
    );
    check_end(
        "/v1/charges",
        200,
        r#"{"object": "charge", "amount": 1500, "currency": "usd"}"#,
        "settle 1500",
    );
    check_end(
        "/v1/charges",
        200,
        r#"{"object": "charge", "amount": 9000, "currency": "usd"}"#,
        "settle 9000",
    );
    check_end("/v1/charges", 200, r#"{"object": "charge", "amount": 1, "currency": "eur"}"#, "settle 2000");
    check_end("/v1/charges", 200, r#"{"metadata": {"amount": 1}}"#, "settle 2000");
    check_end(
        "/v1/payouts",
        200,
        r#"{"object": "payout", "amount": 2000, "currency": "usd", "status": "failed"}"#,
        "settle 0",
    );
    check_end(
        "/v1/payment_intents",
        200,
        r#"{"object": "payment_intent", "amount": 2000, "currency": "usd", "status": "canceled"}"#,
        "settle 0",
    );
}

#[test]
fn a_reply_that_shows_another_object_says_nothing_of_the_amount() {
    let charge = r#"{"object": "charge", "amount": 100000, "currency": "usd", "status": "succeeded"}"#;
    check_end("/v1/refunds", 200, charge, "settle 2000");
    check_end("/v1/charges/ch_1/refund", 200, charge, "settle 2000");
    check_end("/v1/refunds", 200, &charge.replace("charge", "refund"), "settle 100000");
}

#[test]
fn q7_an_intent_that_a_refusal_names_may_live_on() {
    let named = r#"{"error": {"type": "invalid_request_error", "payment_intent": {"id": "pi_1"}}}"#;
    check_end("/v1/payment_intents", 400, named, "settle 2000");
    check_end("/v1/charges", 400, named, "release");
}

#[test]
fn credit_and_subscriptions_in_a_customer_are_not_free_under_a_cap() {
    check("/v1/customers", "name=a&source=tok_visa", Ok(0));
    for body in ["balance=-100", "plan=gold", "b%61lance=-1", "coupon=x", "items[]=1&balance=1"] {
        let refused = quoted("/v1/customers", priced(body), Bound::Capped);
        assert!(matches!(refused, Err(QuoteError::Unpriced(_))), "{body}");
    }
    let source = priced("source=tok_visa");
    assert!(quoted("/v1/customers/cus_1", source, Bound::Capped).is_err());
    assert!(quoted("/v1/customers/cus_1", source, Bound::Uncapped).is_ok());
}

#[test]
fn m7_q7_only_a_definite_refusal_releases() {
    let error = r#"{"error": {"type": "card_error"}}"#;
    check_end("/v1/charges", 402, error, "release");
    check_end("/v1/payment_intents", 402, error, "settle 2000");
    for status in [400, 401, 403, 404, 422, 429] {
        check_end("/v1/charges", status, error, "release");
    }
    for status in [302, 408, 409, 425, 500, 502, 503, 504] {
        check_end("/v1/charges", status, error, "doubt");
    }
    check_end("/v1/charges", 200, "not json", "doubt");
    check_end("/v1/charges", 200, r#"{"amount": 1, "amount": 2000}"#, "doubt");
}

#[test]
fn m7_a_call_held_at_the_most_it_may_cost_ends_by_its_status() {
    let held = Quote { amount: Micros::from_cents(500).unwrap(), ..Quote::default() };
    let unpriced = price("/v1/subscriptions");
    for (status, expected) in [
        (200, End::Settle(held.amount)),
        (400, End::Release),
        (402, End::Release),
        (429, End::Release),
        (409, End::InDoubt),
        (500, End::InDoubt),
        (302, End::InDoubt),
    ] {
        assert_eq!(end(unpriced, &held, None, status, None).0, expected, "{status}");
        let free = end(unpriced, &Quote::default(), None, status, None).0;
        assert_eq!(free, End::Settle(Micros::ZERO), "{status}");
    }
}

mod stories;
