//! What calls to Twilio and Resend come to, in micro-USD, as tables to check by eye.

use crate::catalog::Catalog;
use crate::catalog::amount::Known;
use crate::catalog::book::PriceBook;
use crate::catalog::price::{self, Bound, End, Priced, Quote, QuoteError, Terms};
use crate::catalog::tariff::twilio::TwilioPrices;
use crate::http1::Method;
use crate::money::Micros;
use crate::time::Day;

const FORM: &[u8] = b"application/x-www-form-urlencoded";
const JSON: &[u8] = b"application/json";

const MESSAGES: &str = "/2010-04-01/Accounts/AC1/Messages.json";
const CALLS: &str = "/2010-04-01/Accounts/AC1/Calls.json";
const NUMBERS: &str = "/2010-04-01/Accounts/AC1/IncomingPhoneNumbers.json";
const VERIFICATIONS: &str = "/verify/v2/Services/VA1/Verifications";
const NUMBER: &str = "/lookups/v2/PhoneNumbers/+15551234567";

/// Prices that are easy to reckon with.
const TWILIO: &str = r#"
    source = "made up for this test"
    date = "2026-11-21"
    message = { whatsapp_usd = "0.15", messenger_usd = "0.005" }
    [call]
    seconds_default = 14400
    fetched_twiml = "counted"
    client_minute_usd = "0.004"
    machine_detection_usd = "0.0075"
    recording_minute_usd = "0.0025"
    [verification]
    success_usd = "0.05"
    sms_segments = 2
    call_minutes = 2
    channel_usd = { email = "0" }
    [lookup]
    validation = "0"
    line_type_intelligence = "0.008"
    caller_name = "0.01"
    carrier = "0.005"
    [[country]]
    name = "US"
    prefixes = ["1"]
    sms_usd = "0.0145"
    mms_usd = "0.044"
    call_minute_usd = "0.014"
    number_usd = "1.15"
    [[country]]
    name = "DE"
    prefixes = ["49"]
    sms_usd = "0.12"
    call_minute_usd = "0.2"
    [[country]]
    name = "Jamaica"
    prefixes = ["1876"]
"#;

fn book() -> PriceBook {
    PriceBook { twilio: TwilioPrices::parse(TWILIO).unwrap(), ..PriceBook::shipped() }
}

fn quoted(
    request: &str,
    content_type: &[u8],
    body: &str,
    per_call_max: Option<Micros>,
) -> Result<Quote, QuoteError> {
    let (method, target) = request.split_once(' ').unwrap();
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let vendor = if path.starts_with("/emails") { "resend" } else { "twilio" };
    let method = Method::parse(method.as_bytes()).unwrap();
    let price = Catalog::of(vendor).unwrap().recognize(method, path.as_bytes()).price();
    let book = book();
    let terms = Terms { bound: Bound::Capped, per_call_max, book: &book, today: Day::new(20_778) };
    let request = Priced {
        path: path.as_bytes(),
        content_type: Some(content_type),
        query: query.map(str::as_bytes),
        body: body.as_bytes(),
    };
    price::quote(price, request, Known::default(), &terms)
}

/// What a form to `path` holds, in micro-USD.
fn check(path: &str, form: &str, expected: u64) {
    let quote = quoted(&format!("POST {path}"), FORM, form, None);
    assert_eq!(quote.map(|quote| quote.amount.as_u64()), Ok(expected), "{path} {form}");
}

/// A form that has no price: held at the key's `max_usd_per_call`, else refused under a cap.
fn unpriced(path: &str, form: &str) {
    let request = format!("POST {path}");
    let refused = quoted(&request, FORM, form, None);
    assert!(matches!(refused, Err(QuoteError::Unpriced(_))), "{path} {form}: {refused:?}");
    let most = Micros::from_cents(700).unwrap();
    assert_eq!(quoted(&request, FORM, form, Some(most)).unwrap().amount, most, "{path} {form}");
}

/// A form that can be read in more than one way, or not at all.
fn malformed(path: &str, forms: &[&str]) {
    for form in forms {
        let refused = quoted(&format!("POST {path}"), FORM, form, None);
        assert!(matches!(refused, Err(QuoteError::Malformed(_))), "{path} {form}: {refused:?}");
    }
}

#[test]
fn m5_a_message_is_segments_times_its_country() {
    let text = |body: &str| format!("To=%2B15551234567&From=%2B15557654321&Body={body}");
    check(MESSAGES, &text("hello"), 14_500);
    check(MESSAGES, &text(&"a".repeat(160)), 14_500);
    check(MESSAGES, &text(&"a".repeat(161)), 29_000);
    check(MESSAGES, &text(&"a".repeat(306)), 29_000);
    check(MESSAGES, &text(&"a".repeat(307)), 43_500);
    // An emoji: 70 code units, it two of them.
    check(MESSAGES, &text(&format!("{}%F0%9F%8E%89", "a".repeat(68))), 14_500);
    check(MESSAGES, &text(&format!("{}%F0%9F%8E%89", "a".repeat(69))), 29_000);
    check(MESSAGES, &text("line+one%0Aline+two"), 14_500);
    check(MESSAGES, &text(&"%E2%82%AC".repeat(81)), 29_000);
    check(MESSAGES, "To=%2B491701234567&MessagingServiceSid=MG1&Body=hello", 120_000);
    check(MESSAGES, &format!("{}&SendAt=2026-12-01T00:00:00Z&ScheduleType=fixed", text("hello")), 14_500);
}

#[test]
fn m5_media_stored_texts_and_other_channels_have_bounds_of_their_own() {
    check(
        MESSAGES,
        "To=%2B15551234567&Body=x&MediaUrl=https://a.example/1&MediaUrl=https://a.example/2",
        44_000,
    );
    check(MESSAGES, "To=%2B15551234567&Body=x&SendAsMms=true", 44_000);
    check(MESSAGES, "To=%2B15551234567&Body=x&SendAsMms=false", 14_500);
    check(MESSAGES, "To=%2B15551234567&ContentSid=HX1", 24 * 14_500);
    check(MESSAGES, "To=%2B15551234567&Body=https://long.example&ShortenUrls=true", 24 * 14_500);
    check(MESSAGES, "To=whatsapp:%2B15551234567&Body=x", 150_000);
    check(MESSAGES, "To=messenger:123&Body=x", 5_000);
}

#[test]
fn m3_a_country_without_a_price_is_refused_under_a_cap() {
    unpriced(MESSAGES, "To=%2B8613812345678&Body=x");
    // Behind +1 as well, and not the United States.
    unpriced(MESSAGES, "To=%2B18765551234&Body=x");
    unpriced(MESSAGES, "To=%2B491701234567&Body=x&MediaUrl=https://a.example/1");
    unpriced(MESSAGES, "To=rcs:%2B15551234567&Body=x");
    unpriced(CALLS, "To=%2B8613812345678&Url=https://a.example");
    unpriced(CALLS, "To=sip:a%40b.example&Url=https://a.example");
    unpriced(NUMBERS, "PhoneNumber=%2B491701234567");
    unpriced(VERIFICATIONS, "To=%2B15551234567&Channel=whatsapp");
}

#[test]
fn m2_a_recipient_with_two_readings_is_refused() {
    malformed(
        MESSAGES,
        &[
            "Body=x",
            "To=&Body=x",
            // A raw + is a blank.
            "To=+15551234567&Body=x",
            "To=15551234567&Body=x",
            "To=%2B1&Body=x",
            "To=%2B15551234567&To=%2B8613812345678&Body=x",
            "To=%2B15551234567&to=%2B8613812345678&Body=x",
            "To[]=%2B15551234567&Body=x",
            "To=%2B15551234567&Body=x&Body=y",
            "To=%2B15551234567&Body=x&MediaUrl[0]=y",
            "To=%2B15551234567&Body=%FF",
            "To=%2B15551234567&Body=x&SendAsMms=1",
        ],
    );
    let request = format!("POST {MESSAGES}?Body=aaaa");
    assert!(matches!(quoted(&request, FORM, "To=%2B15551234567", None), Err(QuoteError::Malformed(_))));
    let request = format!("POST {MESSAGES}");
    assert_eq!(quoted(&request, JSON, "{}", None), Err(QuoteError::MediaType));
}

#[test]
fn m5_a_call_is_held_for_all_the_minutes_it_may_last() {
    check(CALLS, "To=%2B15551234567&Url=https://a.example", 240 * 14_000);
    check(CALLS, "To=%2B15551234567&Url=https://a.example&TimeLimit=60", 14_000);
    check(CALLS, "To=%2B15551234567&Url=https://a.example&TimeLimit=61", 28_000);
    check(CALLS, "To=%2B491701234567&Twiml=<Response><Say>hi</Say></Response>&TimeLimit=600", 2_000_000);
    check(CALLS, "To=client:anna&Url=https://a.example&TimeLimit=60", 4_000);
    check(CALLS, "To=%2B15551234567&Url=https://a.example&TimeLimit=120&Record=true", 2 * (14_000 + 2_500));
    check(CALLS, "To=%2B15551234567&Url=https://a.example&TimeLimit=60&MachineDetection=Enable", 21_500);
    malformed(
        CALLS,
        &["To=%2B15551234567&TimeLimit=0", "To=%2B15551234567&TimeLimit=1e3", "Url=https://a.example"],
    );
}

#[test]
fn m3_instructions_that_dial_or_send_more_have_no_price() {
    let to = "To=%2B15551234567&TimeLimit=60&Twiml=";
    check(
        CALLS,
        &format!("{to}%3C%3Fxml version=\"1.0\"%3F%3E<Response><Pause/><Play>x</Play></Response>"),
        14_000,
    );
    for verb in [
        "<Dial>%2B8613812345678</Dial>",
        "<dial >x",
        "<Sms>x</Sms>",
        "<Redirect>x",
        "<!-- --><Dial>",
        "<Pay/>",
    ] {
        unpriced(CALLS, &format!("{to}<Response>{verb}</Response>"));
    }
    let strict = TWILIO.replace("\"counted\"", "\"unpriced\"");
    let book = PriceBook { twilio: TwilioPrices::parse(&strict).unwrap(), ..PriceBook::shipped() };
    let form = b"To=%2B15551234567&Url=https://a.example&TimeLimit=60";
    let refused = super::telephony::call(&book.twilio, form, &mut |_| {});
    assert!(matches!(refused, Err(QuoteError::Unpriced(_))), "{refused:?}");
}

#[test]
fn a_number_costs_its_first_month() {
    check(NUMBERS, "PhoneNumber=%2B15551234567", 1_150_000);
    check(NUMBERS, "AreaCode=415", 1_150_000);
    unpriced(NUMBERS, "AreaCode=876");
    malformed(NUMBERS, &["", "PhoneNumber=%2B15551234567&AreaCode=876", "AreaCode=4151234567890"]);
}

#[test]
fn m3_a_look_up_of_a_number_costs_what_it_asks_for_though_it_is_a_get() {
    let get = |query: &str, expected: Option<u64>| {
        let quote = quoted(&format!("GET {NUMBER}{query}"), FORM, "", None);
        match expected {
            Some(expected) => assert_eq!(quote.map(|of| of.amount.as_u64()), Ok(expected), "{query}"),
            None => assert!(quote.is_err(), "{query}: {quote:?}"),
        }
    };
    get("", Some(0));
    get("?CountryCode=US", Some(0));
    get("?Fields=validation", Some(0));
    get("?Fields=line_type_intelligence", Some(8_000));
    get("?Fields=line_type_intelligence%2Ccaller_name", Some(18_000));
    get("?Fields=caller_name,caller_name", Some(20_000));
    get("?Fields=sim_swap", None);
    get("?Fields=caller_name&Fields=x", None);
    get("?fields=caller_name", None);
    get("?Type=carrier", Some(5_000));
    get("?AddOns=whitepages", None);
}

#[test]
fn a_verification_costs_its_success_and_its_channel() {
    check(VERIFICATIONS, "To=%2B15551234567&Channel=sms", 50_000 + 2 * 14_500);
    check(VERIFICATIONS, "To=%2B15551234567", 50_000 + 2 * 14_500);
    check(VERIFICATIONS, "To=%2B491701234567&Channel=call", 50_000 + 2 * 200_000);
    check(VERIFICATIONS, "To=a%40b.example&Channel=email", 50_000);
    malformed(VERIFICATIONS, &["Channel=sms", "To=%2B15551234567&Channel=sms&channel=email"]);
}

/// What JSON to `path` holds, in micro-USD; `None` if it is refused.
fn mail(path: &str, body: &str, expected: Option<u64>) {
    let quote = quoted(&format!("POST {path}"), JSON, body, None);
    match expected {
        Some(expected) => assert_eq!(quote.map(|of| of.amount.as_u64()), Ok(expected), "{body}"),
        None => assert!(matches!(quote, Err(QuoteError::Malformed(_))), "{body}: {quote:?}"),
    }
}

#[test]
fn m5_a_mail_costs_each_of_its_recipients() {
    mail("/emails", r#"{"from": "a@x", "to": "b@x", "subject": "@", "html": "<p>@</p>"}"#, Some(900));
    mail("/emails", r#"{"from": "a@x", "to": ["b@x", "C <c@x>"], "cc": "d@x", "bcc": ["e@x"]}"#, Some(3_600));
    mail("/emails", r#"{"to": ["b@x"], "scheduled_at": "in 1 min"}"#, Some(900));
    let fifty = vec!["\"b@x\""; 50].join(",");
    mail("/emails", &format!(r#"{{"to": [{fifty}], "cc": [{fifty}], "bcc": [{fifty}]}}"#), Some(135_000));
    for refused in [
        r#"{"to": "b@x", "to": ["c@x", "d@x"]}"#,
        r#"{"to": "b@x", "TO": ["c@x", "d@x"]}"#,
        r#"{"to": 5}"#,
        r#"[{"to": "b@x"}]"#,
        "\u{feff}{\"to\": \"b@x\"}",
        r#"{"to": "b@x"} {"to": "c@x"}"#,
        "to=b@x",
        "",
    ] {
        mail("/emails", refused, None);
    }
    assert_eq!(quoted("POST /emails", FORM, "{}", None), Err(QuoteError::MediaType));
    assert!(quoted("POST /emails?to=b@x", JSON, "{}", None).is_err());
}

#[test]
fn m5_a_batch_of_a_hundred_mails_costs_all_of_them() {
    let batch = |mails: usize| format!("[{}]", vec![r#"{"to": "b@x"}"#; mails].join(","));
    mail("/emails/batch", &batch(100), Some(90_000));
    mail("/emails/batch", &batch(101), None);
    mail("/emails/batch", r#"[{"to": ["b@x", "c@x"]}, {"to": "d@x", "bcc": "e@x"}]"#, Some(3_600));
    mail("/emails/batch", r#"{"to": "b@x"}"#, None);
}

/// How a call ends, as `settle <micro-USD>`, `release` or `doubt`.
fn check_end(request: &str, content_type: &[u8], body: &str, status: u16, reply: &str, expected: &str) {
    let quote = quoted(request, content_type, body, None).unwrap();
    let vendor = if request.contains(" /emails") { "resend" } else { "twilio" };
    let path = request.split_once(' ').unwrap().1;
    let price = Catalog::of(vendor).unwrap().recognize(Method::Post, path.as_bytes()).price();
    let text = match price::end(price, &quote, None, status, Some(reply.as_bytes())).0 {
        End::Settle(charge) => format!("settle {}", charge.as_u64()),
        End::MovedNothing => "settle 0".to_owned(),
        End::Release => "release".to_owned(),
        End::InDoubt => "doubt".to_owned(),
    };
    assert_eq!(text, expected, "{request} {status} {reply}");
}

#[test]
fn q7_a_call_settles_at_its_quote_and_a_refusal_releases_it() {
    let message = format!("POST {MESSAGES}");
    let end = |status: u16, reply: &str, expected: &str| {
        check_end(&message, FORM, "To=%2B15551234567&Body=hello", status, reply, expected);
    };
    end(201, r#"{"sid": "SM1", "price": null, "num_segments": "0", "status": "queued"}"#, "settle 14500");
    end(201, r#"{"sid": "SM1", "price": "-0.5", "num_segments": "9"}"#, "settle 14500");
    end(400, r#"{"code": 21211}"#, "release");
    end(401, "", "release");
    end(429, r#"{"code": 20429}"#, "release");
    for unknown in [408, 409, 425, 500, 502, 503, 504] {
        end(unknown, "", "doubt");
    }
}

#[test]
fn a_batch_settles_at_the_mails_that_were_sent() {
    let end = |body: &str, status: u16, reply: &str, expected: &str| {
        check_end("POST /emails/batch", JSON, body, status, reply, expected);
    };
    let three = r#"[{"to": "b@x"}, {"to": "c@x"}, {"to": "d@x"}]"#;
    end(three, 200, r#"{"data": [{"id": "1"}, {"id": "2"}, {"id": "3"}]}"#, "settle 2700");
    end(three, 200, r#"{"data": [{"id": "1"}], "errors": [{"index": 1}, {"index": 2}]}"#, "settle 900");
    end(three, 200, r#"{"data": []}"#, "settle 0");
    // Never up, and never down by what cannot be read.
    end(three, 200, r#"{"data": [{"id": "1"}, {"id": "2"}, {"id": "3"}, {"id": "4"}]}"#, "settle 2700");
    end(three, 200, r#"{"data": [{}]}"#, "settle 2700");
    end(three, 200, "gone", "settle 2700");
    // One of two was sent: it is the one with three recipients, or so it counts.
    let uneven = r#"[{"to": ["b@x", "c@x", "d@x"]}, {"to": "e@x"}]"#;
    end(uneven, 200, r#"{"data": [{"id": "1"}]}"#, "settle 2700");
    end(three, 422, "{}", "release");
    end(three, 500, "{}", "doubt");
}
