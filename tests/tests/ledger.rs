//! What calls come to in a key's books, to the micro-dollar, in tables to check by eye: each row is one call through
//! a running keybrake, with what the vendor answers to it.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex};

use keybrake_tests::{Client, Issued, Keybrake, Seen, Setup, Vendor, now_micros, request, whole};
use serde_json::json;

/// Status and body of a reply of the vendor's, and a field of its head.
type Reply = (u16, &'static str, &'static str);

/// What it is, the call's path and body, the vendor's replies in their order, the status that the agent gets, and
/// what the key has spent after it, in micro-USD.
type Row = (&'static str, &'static str, String, Vec<Reply>, u16, u64);

/// The credential.
const STRIPE: &str = "sk_test_0bFQ7vXw2LmZ9kRt";

/// Spread of 2 % on top of each rate while money is held; the charge is booked without it.
const RATES: &str = "source = \"made up for this test\"\ndate = \"2026-11-20\"\nmax_age_days = 100000\n\
                     spread_percent = \"2\"\n[usd_per]\ngbp = \"1.25\"\njpy = \"0.0065\"\nkwd = \"3.25\"\n";

const CHARGED: &str =
    r#"{"object":"charge","id":"ch_1","amount":2000,"currency":"usd","status":"succeeded"}"#;
const PART_REFUNDED: &str =
    r#"{"object":"charge","id":"ch_7","amount":2000,"amount_refunded":500,"currency":"usd"}"#;
const REFUNDED: &str = r#"{"object":"refund","amount":1500,"currency":"usd","status":"succeeded"}"#;
const UNCAPTURED: &str = r#"{"object":"charge","id":"ch_8","amount":2000,"currency":"usd","captured":false}"#;
const CAPTURED: &str =
    r#"{"object":"charge","id":"ch_8","amount":2000,"amount_captured":1200,"currency":"usd"}"#;
const INTENT: &str = r#"{"object":"payment_intent","id":"pi_1","amount":2000,"currency":"usd","status":"requires_confirmation"}"#;
const CONFIRMED: &str =
    r#"{"object":"payment_intent","id":"pi_1","amount":2000,"currency":"usd","status":"succeeded"}"#;
const DECLINED: &str = r#"{"error":{"type":"card_error","code":"card_declined"}}"#;
const IN_POUNDS: &str = r#"{"object":"charge","id":"ch_2","amount":1900,"currency":"gbp"}"#;
const IN_YEN: &str = r#"{"object":"charge","id":"ch_3","amount":1900,"currency":"jpy"}"#;
const IN_DINARS: &str = r#"{"object":"charge","id":"ch_4","amount":1900,"currency":"kwd"}"#;

/// Done.
fn done(body: &'static str) -> Reply {
    (200, body, "X-A: b")
}

/// What the vendor answered before, said once more.
fn replayed(body: &'static str) -> Reply {
    (200, body, "Idempotent-Replayed: true")
}

/// Refused for this reason.
fn refused(status: u16, body: &'static str) -> Reply {
    (status, body, "X-A: b")
}

/// A vendor that answers what the table says, in its order, and a key that may spend $1000 a day.
struct Table {
    replies: Arc<Mutex<VecDeque<Reply>>>,
    vendor: &'static str,
    keybrake: Keybrake,
    key: Issued,
    _vendor: Vendor,
}

impl Table {
    fn of(vendor: &'static str, secret: &str, prices: &str) -> Table {
        let replies = Arc::new(Mutex::new(VecDeque::new()));
        let queue = Arc::clone(&replies);
        let stand_in = Vendor::start(move |seen: &Seen, out: &mut dyn Write| {
            let (status, body, field) =
                queue.lock().unwrap().pop_front().unwrap_or_else(|| panic!("{seen:?}"));
            let reply = String::from_utf8(whole(status, body)).unwrap();
            out.write_all(reply.replacen("\r\n", &format!("\r\n{field}\r\n"), 1).as_bytes())
        });
        let setup = Setup::new(stand_in.url()).of_vendor(vendor, secret).vendor_line(prices);
        let keybrake = setup.start();
        let key = keybrake.issue(&["POST /**"], &json!({"vendor": vendor, "daily_usd_cap": 1000}));
        Table { replies, vendor, keybrake, key, _vendor: stand_in }
    }

    fn check(&self, rows: impl IntoIterator<Item = Row>) {
        // Spend is of a day; a table takes a second.
        let begun = now_micros() / 86_400_000_000;
        for (what, path, body, replies, status, spent) in rows {
            self.replies.lock().unwrap().extend(replies);
            let reply = self.call(path, &body);
            if now_micros() / 86_400_000_000 != begun {
                return;
            }
            assert_eq!(reply.status, status, "{what}: {}", reply.text());
            assert!(self.replies.lock().unwrap().is_empty(), "{what}: the vendor was asked less often");
            assert_eq!(self.keybrake.micros(&self.key.id), (spent, 0), "{what}: spent, and still held");
        }
    }

    /// A path may name the request's `Idempotency-Key` behind a `#`.
    fn call(&self, path: &str, body: &str) -> keybrake_tests::Reply {
        let (path, idempotency_key) = path.split_once('#').unwrap_or((path, ""));
        let kind =
            if self.vendor == "resend" { "application/json" } else { "application/x-www-form-urlencoded" };
        let mut head = format!(
            "POST /{}{path}\nAuthorization: Bearer {}\nContent-Type: {kind}\nUser-Agent: test",
            self.vendor, self.key.text
        );
        if !idempotency_key.is_empty() {
            head.push_str(&format!("\nIdempotency-Key: {idempotency_key}"));
        }
        let mut client = Client::connect(self.keybrake.proxy());
        client.send(request(&head, body.as_bytes()));
        client.reply()
    }
}

fn row(
    what: &'static str,
    path: &'static str,
    form: &str,
    replies: &[Reply],
    status: u16,
    spent: u64,
) -> Row {
    (what, path, form.to_owned(), replies.to_vec(), status, spent)
}

#[test]
fn m3_m8_what_calls_to_stripe_come_to() {
    let charge = "amount=2000&currency=usd&source=tok_visa";
    let intent = "amount=2000&currency=usd";
    let (of_charge, of_intent) = ("/v1/charges/ch_8/capture", "/v1/payment_intents/pi_1/confirm");
    let refund = [done(PART_REFUNDED), done(REFUNDED)];
    let capture = [done(UNCAPTURED), done(CAPTURED)];
    Table::of("stripe", STRIPE, "").check([
        row("a charge of $20", "/v1/charges", charge, &[done(CHARGED)], 200, 20_000_000),
        row("a declined card", "/v1/charges", charge, &[refused(402, DECLINED)], 402, 20_000_000),
        row("$20 under a key", "/v1/charges#order-1", charge, &[done(CHARGED)], 200, 40_000_000),
        row("its replay", "/v1/charges#order-1", charge, &[replayed(CHARGED)], 200, 40_000_000),
        row("$15 left to refund", "/v1/refunds", "charge=ch_7", &refund, 200, 55_000_000),
        row("a capture of $12 of $20", of_charge, "amount=1200", &capture, 200, 67_000_000),
        row("an intent of $20", "/v1/payment_intents", intent, &[done(INTENT)], 200, 87_000_000),
        row("the same one confirmed", of_intent, "", &[done(CONFIRMED)], 200, 87_000_000),
    ]);
}

#[test]
fn m4_what_other_currencies_come_to() {
    let dir = tempfile::tempdir().unwrap();
    let rates = dir.path().join("rates.toml");
    std::fs::write(&rates, RATES).unwrap();
    let prices = format!("[prices]\nrates_file = \"{}\"", rates.display());
    let row = |what, currency: &str, replies: &[Reply], status, spent| {
        let form = format!("amount=1900&currency={currency}&source=tok_visa");
        row(what, "/v1/charges", &form, replies, status, spent)
    };
    Table::of("stripe", STRIPE, &prices).check([
        row("GBP 19.00 at 1.25", "gbp", &[done(IN_POUNDS)], 200, 23_750_000),
        row("JPY 1900 at 0.0065", "jpy", &[done(IN_YEN)], 200, 36_100_000),
        row("KWD 1.900 at 3.25", "kwd", &[done(IN_DINARS)], 200, 42_275_000),
        row("CHF, without a rate", "chf", &[], 403, 42_275_000),
    ]);
    Table::of("stripe", STRIPE, "").check([row("GBP, without a rate", "gbp", &[], 403, 0)]);
}

/// A segment costs $0.0083 and $0.0062 of carrier's fees at most; a text of 161 letters takes two.
#[test]
fn m5_what_messages_and_mails_come_to() {
    const MESSAGES: &str = "/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages.json";
    const QUEUED: &str = r#"{"sid":"SM1","status":"queued","price":null,"num_segments":"0"}"#;
    const SENT: &str = r#"{"id":"1"}"#;
    let text = |what, body: &str, spent| -> Row {
        let form = format!("To=%2B15551234567&From=%2B15557654321&Body={body}");
        (what, MESSAGES, form, vec![(201, QUEUED, "X-A: b")], 201, spent)
    };
    Table::of("twilio", "AC5f3e1d2c4b6a79881726354a5b6c7d8e:d41d8cd98f00b204e9800998ecf8427e", "").check([
        text("160 letters, one segment", &"a".repeat(160), 14_500),
        text("161 letters, two segments", &"a".repeat(161), 43_500),
        text("an emoji, one segment of 70", "%F0%9F%8E%89", 58_000),
        text("71 characters with an emoji, two of 67", &format!("%F0%9F%8E%89{}", "a".repeat(69)), 87_000),
    ]);
    let batch = format!("[{}]", vec![r#"{"to":"b@x.example"}"#; 100].join(","));
    let batch_sent = Box::leak(json!({"data": vec![json!({"id": "1"}); 100]}).to_string().into_boxed_str());
    let mail = r#"{"to":["b@x.example","c@x.example"],"cc":"d@x.example"}"#;
    Table::of("resend", "re_9Lq3ZbVt_Yw2RkHs7XnDc5PfM", "").check([
        ("a mail to three, at $0.0009", "/emails", mail.to_owned(), vec![done(SENT)], 200, 2_700),
        ("a batch of 100 mails", "/emails/batch", batch, vec![done(batch_sent)], 200, 92_700),
    ]);
}
