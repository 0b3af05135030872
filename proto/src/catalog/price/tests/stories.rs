//! What calls come to in the ledger, in micro-USD, as tables to check by eye.

use std::collections::HashMap;

use super::*;
use crate::catalog::amount::{self, ObjectId};

/// What the vendor says of an object that is read first.
type LookUp = Option<&'static str>;

/// Status and reply.
type Reply = (u16, &'static str);

/// One call: path, form, look-up, reply, what is held, what is charged.
type Call = (&'static str, &'static str, LookUp, Reply, u64, &'static str);

/// Plays calls of one vault key under a cap, one after the other.
fn check(story: &[Call]) {
    let book = PriceBook { rates: Rates::parse(RATES).unwrap(), ..PriceBook::shipped() };
    let today = Day::parse("2026-11-21").unwrap();
    let terms = Terms { bound: Bound::Capped, per_call_max: None, book: &book, today };
    let mut counted: HashMap<ObjectId, Counted> = HashMap::new();
    for (path, body, look_up, (status, reply), held, charged) in story {
        let request = Priced { path: path.as_bytes(), ..priced(body) };
        let price = price(path);
        let acting = acts_on(price, request).unwrap();
        let before = acting.as_ref().and_then(|acting| counted.get(&acting.id).copied());
        let must = must_look_up(price, request, before, Bound::Capped).unwrap();
        assert_eq!(must, look_up.is_some(), "{path} {body}: look-up");
        let looked_up = look_up.map(|reply| {
            amount::looked_up(acting.as_ref().unwrap().subject, Some(reply.as_bytes())).unwrap()
        });
        let quote = quote(price, request, Known { counted: before, looked_up }, &terms).unwrap();
        assert_eq!(quote.amount.as_u64(), *held, "{path} {body}: held");
        let (end, remembered) = end(price, &quote, acting.as_ref(), *status, Some(reply.as_bytes()));
        let text = match end {
            End::Settle(charge) => charge.to_string(),
            End::MovedNothing => Micros::ZERO.to_string(),
            End::Release => "released".to_owned(),
            End::InDoubt => "in doubt".to_owned(),
        };
        assert_eq!(text, *charged, "{path} {body}: charged");
        counted.extend(remembered);
    }
}

const CHARGED: Reply =
    (200, r#"{"object":"charge","id":"ch_1","amount":2000,"currency":"usd","status":"succeeded"}"#);
const INTENT: Reply = (
    200,
    r#"{"object":"payment_intent","id":"pi_1","amount":2000,"currency":"usd","status":"requires_confirmation"}"#,
);
const CONFIRMED: Reply =
    (200, r#"{"object":"payment_intent","id":"pi_1","amount":2000,"currency":"usd","status":"succeeded"}"#);
const DECLINED: Reply = (402, r#"{"error":{"type":"card_error","code":"card_declined"}}"#);

#[test]
fn an_intent_counts_once() {
    check(&[
        ("/v1/payment_intents", "amount=2000&currency=usd", None, INTENT, 20_000_000, "20.00"),
        ("/v1/payment_intents/pi_1/confirm", "", None, CONFIRMED, 0, "0.00"),
        (
            "/v1/payment_intents/pi_1/capture",
            "amount_to_capture=1500",
            None,
            (
                200,
                r#"{"object":"payment_intent","id":"pi_1","amount":2000,"amount_received":1500,"currency":"usd","status":"succeeded"}"#,
            ),
            0,
            "0.00",
        ),
    ]);
}

#[test]
fn an_intent_that_grows_counts_what_it_grows_by() {
    let grown = (
        200,
        r#"{"object":"payment_intent","id":"pi_1","amount":2500,"currency":"usd","status":"requires_capture"}"#,
    );
    check(&[
        ("/v1/payment_intents", "amount=2000&currency=usd", None, INTENT, 20_000_000, "20.00"),
        ("/v1/payment_intents/pi_1", "amount=2500", None, grown, 5_000_000, "5.00"),
        ("/v1/payment_intents/pi_1", "description=x", None, grown, 0, "0.00"),
        ("/v1/payment_intents/pi_1", "amount=2000", None, INTENT, 0, "0.00"),
        (
            "/v1/payment_intents/pi_1/increment_authorization",
            "amount=2600",
            None,
            (
                200,
                r#"{"object":"payment_intent","id":"pi_1","amount":2600,"currency":"usd","status":"requires_capture"}"#,
            ),
            1_000_000,
            "1.00",
        ),
    ]);
}

#[test]
fn what_another_key_made_is_looked_up_and_counts_once() {
    let found = Some(
        r#"{"object":"payment_intent","amount":2000,"amount_capturable":2000,"currency":"usd","status":"requires_confirmation"}"#,
    );
    check(&[
        ("/v1/payment_intents/pi_1/confirm", "", found, CONFIRMED, 20_000_000, "20.00"),
        ("/v1/payment_intents/pi_1/confirm", "", None, CONFIRMED, 0, "0.00"),
    ]);
    let part = (
        200,
        r#"{"object":"payment_intent","id":"pi_1","amount":2000,"amount_received":500,"currency":"usd","status":"requires_capture"}"#,
    );
    let last = (
        200,
        r#"{"object":"payment_intent","id":"pi_1","amount":2000,"amount_received":500,"currency":"usd","status":"succeeded"}"#,
    );
    // The rest stays capturable, so all of it counts.
    check(&[
        (
            "/v1/payment_intents/pi_1/capture",
            "amount_to_capture=500&final_capture=false",
            found,
            part,
            20_000_000,
            "20.00",
        ),
        ("/v1/payment_intents/pi_1/capture", "amount_to_capture=500", None, part, 0, "0.00"),
    ]);
    check(&[("/v1/payment_intents/pi_1/capture", "amount_to_capture=500", found, last, 20_000_000, "5.00")]);
    check(&[(
        "/v1/charges/ch_1/capture",
        "",
        Some(r#"{"object":"charge","amount":2000,"currency":"usd"}"#),
        (200, r#"{"object":"charge","id":"ch_1","amount":2000,"amount_captured":1200,"currency":"usd"}"#),
        20_000_000,
        "12.00",
    )]);
}

#[test]
fn q7_a_decline_leaves_an_intent_that_counts_once() {
    let left = (402, r#"{"error":{"code":"card_declined","payment_intent":{"id":"pi_1","amount":2000}}}"#);
    check(&[
        ("/v1/charges", "amount=2000&currency=usd", None, DECLINED, 20_000_000, "released"),
        ("/v1/payment_intents", "amount=2000&currency=usd&confirm=true", None, left, 20_000_000, "20.00"),
        ("/v1/payment_intents/pi_1/confirm", "", None, CONFIRMED, 0, "0.00"),
    ]);
}

#[test]
fn a_refund_without_an_amount_is_what_is_left_of_the_charge() {
    let refund = (200, r#"{"object":"refund","amount":1500,"currency":"usd","status":"pending"}"#);
    let charge = Some(
        r#"{"object":"charge","amount":2000,"amount_refunded":500,"currency":"usd","status":"succeeded"}"#,
    );
    let intent = Some(r#"{"object":"payment_intent","amount":2000,"amount_received":2000,"currency":"usd"}"#);
    check(&[
        ("/v1/refunds", "charge=ch_1", charge, refund, 15_000_000, "15.00"),
        ("/v1/refunds", "payment_intent=pi_1", intent, refund, 20_000_000, "15.00"),
        // It answers the charge, not the refund.
        ("/v1/charges/ch_1/refund", "", charge, CHARGED, 15_000_000, "15.00"),
        ("/v1/charges", "amount=2000&currency=usd", None, CHARGED, 20_000_000, "20.00"),
        // What this key charged is known to be in USD.
        (
            "/v1/refunds",
            "charge=ch_1&amount=300",
            None,
            (200, r#"{"object":"refund","amount":300,"currency":"usd","status":"succeeded"}"#),
            3_000_000,
            "3.00",
        ),
        (
            "/v1/refunds",
            "charge=ch_1&amount=300",
            None,
            (200, r#"{"object":"refund","amount":300,"currency":"usd","status":"failed"}"#),
            3_000_000,
            "0.00",
        ),
    ]);
}

#[test]
fn m4_other_currencies_count_at_their_rate_and_are_held_with_the_spread() {
    check(&[
        (
            "/v1/charges",
            "amount=1900&currency=gbp",
            None,
            (200, r#"{"object":"charge","id":"ch_2","amount":1900,"currency":"gbp"}"#),
            24_225_000,
            "23.75",
        ),
        (
            "/v1/charges",
            "amount=1900&currency=JPY",
            None,
            (200, r#"{"object":"charge","id":"ch_3","amount":1900,"currency":"jpy"}"#),
            12_597_000,
            "12.35",
        ),
        (
            "/v1/charges",
            "amount=1900&currency=kwd",
            None,
            (200, r#"{"object":"charge","id":"ch_4","amount":1900,"currency":"kwd"}"#),
            6_298_500,
            "6.175",
        ),
        // A refund takes the currency of its charge.
        (
            "/v1/refunds",
            "charge=ch_9&amount=1900",
            Some(r#"{"object":"charge","amount":5000,"amount_refunded":0,"currency":"gbp"}"#),
            (200, r#"{"object":"refund","amount":1900,"currency":"gbp","status":"succeeded"}"#),
            24_225_000,
            "23.75",
        ),
    ]);
}

#[test]
fn money_that_goes_out_counts() {
    check(&[
        (
            "/v1/transfers",
            "destination=acct_1&amount=700&currency=usd",
            None,
            (200, r#"{"object":"transfer","amount":700,"currency":"usd"}"#),
            7_000_000,
            "7.00",
        ),
        (
            "/v1/transfers",
            "destination=acct_1&currency=usd&source_transaction=ch_1",
            Some(r#"{"object":"charge","amount":2000,"currency":"usd"}"#),
            (200, r#"{"object":"transfer","amount":2000,"currency":"usd"}"#),
            20_000_000,
            "20.00",
        ),
        (
            "/v1/transfers/tr_1/reversals",
            "",
            Some(r#"{"object":"transfer","amount":700,"amount_reversed":200,"currency":"usd"}"#),
            (200, r#"{"object":"transfer_reversal","amount":500,"currency":"usd"}"#),
            5_000_000,
            "5.00",
        ),
        (
            "/v1/application_fees/fee_1/refunds",
            "amount=30",
            Some(r#"{"object":"application_fee","amount":100,"amount_refunded":0,"currency":"usd"}"#),
            (200, r#"{"object":"fee_refund","amount":30,"currency":"usd"}"#),
            300_000,
            "0.30",
        ),
        (
            "/v1/payouts",
            "amount=900&currency=usd",
            None,
            (200, r#"{"object":"payout","amount":900,"currency":"usd","status":"failed"}"#),
            9_000_000,
            "0.00",
        ),
        (
            "/v1/customers/cus_1/balance_transactions",
            "amount=-450&currency=usd",
            None,
            (200, r#"{"object":"customer_balance_transaction","amount":-450,"currency":"usd"}"#),
            4_500_000,
            "4.50",
        ),
    ]);
}

#[test]
fn an_open_invoice_costs_what_remains_of_it() {
    let open =
        Some(r#"{"object":"invoice","status":"open","amount_remaining":4200,"currency":"usd","total":5000}"#);
    let paid = (200, r#"{"object":"invoice","status":"paid","amount_paid":5000,"currency":"usd"}"#);
    check(&[
        ("/v1/invoices/in_1/pay", "", open, paid, 42_000_000, "42.00"),
        ("/v1/invoices/in_1/pay", "paid_out_of_band=true", None, paid, 0, "0.00"),
        (
            "/v1/credit_notes",
            "invoice=in_1&refund_amount=300&credit_amount=200",
            open,
            (200, r#"{"object":"credit_note","amount":500,"currency":"usd","status":"issued"}"#),
            5_000_000,
            "5.00",
        ),
    ]);
    let subject =
        acts_on(price("/v1/invoices/in_1/pay"), Priced { path: b"/v1/invoices/in_1/pay", ..priced("") });
    let subject = subject.unwrap().unwrap().subject;
    let draft = br#"{"object":"invoice","status":"draft","amount_remaining":4200,"currency":"usd"}"#;
    assert_eq!(amount::looked_up(subject, Some(draft)), Err(amount::LookupError::CanGrow), "rule Q8");
}

#[test]
fn a_change_that_names_no_amount_makes_no_intent_counted() {
    let of_another = (
        200,
        r#"{"object":"payment_intent","id":"pi_1","amount":100000000,"currency":"eur","status":"requires_confirmation"}"#,
    );
    let found = Some(
        r#"{"object":"payment_intent","amount":2000,"amount_capturable":2000,"currency":"usd","status":"requires_confirmation"}"#,
    );
    check(&[
        ("/v1/payment_intents/pi_1", "metadata[a]=1", None, of_another, 0, "0.00"),
        ("/v1/payment_intents/pi_1", "metadata[a]=1", None, CONFIRMED, 0, "0.00"),
        ("/v1/payment_intents/pi_1/confirm", "", found, CONFIRMED, 20_000_000, "20.00"),
    ]);
    // Nor does it make one forgotten, or of another currency.
    let pounds = |amount: &'static str| (200, amount);
    let of_own = pounds(
        r#"{"object":"payment_intent","id":"pi_2","amount":1900,"currency":"gbp","status":"requires_confirmation"}"#,
    );
    let grown = pounds(
        r#"{"object":"payment_intent","id":"pi_2","amount":9900,"currency":"gbp","status":"requires_confirmation"}"#,
    );
    check(&[
        ("/v1/payment_intents", "amount=1900&currency=gbp", None, of_own, 24_225_000, "23.75"),
        ("/v1/payment_intents/pi_2", "metadata[a]=1", None, of_own, 0, "0.00"),
        ("/v1/payment_intents/pi_2", "amount=9900", None, grown, 102_000_000, "100.00"),
    ]);
}

#[test]
fn a_capture_of_more_than_was_authorized_counts_what_is_more() {
    let received = (
        200,
        r#"{"object":"payment_intent","id":"pi_1","amount":2000,"amount_received":2400,"currency":"usd","status":"succeeded"}"#,
    );
    check(&[
        ("/v1/payment_intents", "amount=2000&currency=usd", None, INTENT, 20_000_000, "20.00"),
        ("/v1/payment_intents/pi_1/capture", "amount_to_capture=2400", None, received, 4_000_000, "4.00"),
    ]);
}

#[test]
fn m4_a_currency_that_is_stated_beside_an_object_is_not_believed() {
    let rates = PriceBook::shipped();
    let terms = Terms {
        bound: Bound::Capped,
        per_call_max: None,
        book: &rates,
        today: Day::parse("2026-11-21").unwrap(),
    };
    let request = priced("charge=ch_1&amount=10000&currency=vnd");
    assert_eq!(must_look_up(price("/v1/refunds"), request, None, Bound::Capped), Ok(true));
    let looked_up = Some(amount::LookedUp { left: 10_000, currency: Currency::USD });
    let refused = quote(price("/v1/refunds"), request, Known { counted: None, looked_up }, &terms);
    assert!(matches!(refused, Err(QuoteError::Malformed(_))), "{refused:?}");
}

#[test]
fn q9_what_one_call_may_cost_is_the_whole_of_its_object() {
    let counted = Some(Counted { minor: 99_000, currency: Currency::USD });
    let book = PriceBook::shipped();
    let terms = Terms {
        bound: Bound::Capped,
        per_call_max: None,
        book: &book,
        today: Day::parse("2026-11-21").unwrap(),
    };
    let path = "/v1/payment_intents/pi_1";
    let request = Priced { path: path.as_bytes(), ..priced("amount=100000") };
    let quote = quote(price(path), request, Known { counted, looked_up: None }, &terms).unwrap();
    assert_eq!((quote.amount.as_u64(), quote.whole().as_u64()), (10_000_000, 1_000_000_000));
}
