//! Twilio behind keybrake: what it sees, what an agent sees, and what is counted.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write;

use base64::Engine as _;
use keybrake_tests::{Client, Issued, Keybrake, Reply, Seen, Setup, Vendor, request, whole};
use serde_json::json;

/// The real account and token; no agent knows them.
const SID: &str = "AC5f3e1d2c4b6a79881726354a5b6c7d8e";
const TOKEN: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// What an agent writes in the place of the account.
const PLACEHOLDER: &str = "AC00000000000000000000000000000000";

const MESSAGES: &str = "/twilio/2010-04-01/Accounts/AC00000000000000000000000000000000/Messages.json";

const RULES: [&str; 4] = [
    "POST /2010-04-01/Accounts/*/Messages.json",
    "GET /2010-04-01/Accounts/*/Messages/*.json",
    "POST /verify/v2/Services/*/Verifications",
    "GET /lookups/v2/PhoneNumbers/*",
];

fn created(_: &Seen, out: &mut dyn Write) -> std::io::Result<()> {
    out.write_all(&whole(201, r#"{"sid":"SM1","status":"queued","price":null,"num_segments":"0"}"#))
}

fn start(vendor: &Vendor) -> Keybrake {
    Setup::new(vendor.url()).of_vendor("twilio", &format!("{SID}:{TOKEN}")).start()
}

fn issue(keybrake: &Keybrake, cap: &str) -> Issued {
    let cap: serde_json::Value = serde_json::from_str(cap).unwrap();
    keybrake.issue(&RULES, &json!({"vendor": "twilio", "daily_usd_cap": cap}))
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}")))
}

fn call(keybrake: &Keybrake, line: &str, authorization: &str, form: &str) -> Reply {
    let kind = if form.is_empty() { "" } else { "\nContent-Type: application/x-www-form-urlencoded" };
    let head = format!("{line}\nAuthorization: {authorization}\nUser-Agent: twilio-python/9.13.0{kind}");
    let mut client = Client::connect(keybrake.proxy());
    client.send(request(&head, form.as_bytes()));
    client.reply()
}

fn send(keybrake: &Keybrake, key: &Issued, form: &str) -> Reply {
    call(keybrake, &format!("POST {MESSAGES}"), &basic(PLACEHOLDER, &key.text), form)
}

fn text(body: &str) -> String {
    format!("To=%2B15551234567&From=%2B15557654321&Body={body}")
}

#[test]
fn the_account_and_the_token_are_keybrakes_and_the_rest_arrives_as_it_was_sent() {
    let vendor = Vendor::start(created);
    let keybrake = start(&vendor);
    let key = issue(&keybrake, "1");
    // With the key as the password, as SDKs send it, and as the user.
    drop(send(&keybrake, &key, &text("hello")).expect(201));
    drop(call(&keybrake, &format!("POST {MESSAGES}"), &basic(&key.text, "x"), &text("hello")).expect(201));
    let seen = vendor.seen();
    assert_eq!(seen.len(), 2);
    for seen in &seen {
        assert_eq!(seen.line, format!("POST /2010-04-01/Accounts/{SID}/Messages.json"));
        assert_eq!(seen.field("authorization"), Some(basic(SID, TOKEN).as_str()));
        assert_eq!(seen.field("user-agent"), Some("twilio-python/9.13.0"));
        assert_eq!(seen.text(), text("hello"));
        assert!(!format!("{seen:?}").contains(&key.text), "{seen:?}");
        assert!(!format!("{seen:?}").contains(PLACEHOLDER), "{seen:?}");
    }
    assert!(!keybrake.output().contains(TOKEN));
}

#[test]
fn an_api_key_is_sent_beside_the_account_in_the_path() {
    let vendor = Vendor::start(created);
    let credential = format!("{SID}/SK1234567890:secret-of-it");
    let keybrake = Setup::new(vendor.url()).of_vendor("twilio", &credential).start();
    let key = issue(&keybrake, "1");
    drop(send(&keybrake, &key, &text("hello")).expect(201));
    let seen = &vendor.seen()[0];
    assert_eq!(seen.line, format!("POST /2010-04-01/Accounts/{SID}/Messages.json"));
    assert_eq!(seen.field("authorization"), Some(basic("SK1234567890", "secret-of-it").as_str()));
}

#[test]
fn a_credential_without_an_account_is_refused_at_the_start() {
    let vendor = Vendor::start(created);
    let keybrake = Setup::new(vendor.url()).of_vendor("twilio", TOKEN).prepare();
    let (code, output) = keybrake.failed_start();
    assert!(code != 0 && output.contains("its credential must be AC…:token"), "{code}: {output}");
    assert!(!output.contains(TOKEN), "{output}");
}

#[test]
fn m5_messages_are_counted_by_their_segments_and_the_message_of_a_denial_says_when_it_ends() {
    let vendor = Vendor::start(created);
    let keybrake = start(&vendor);
    let key = issue(&keybrake, "0.06");
    drop(send(&keybrake, &key, &text(&"a".repeat(161))).expect(201));
    assert_eq!(keybrake.micros(&key.id), (29_000, 0));
    drop(send(&keybrake, &key, &text("%F0%9F%8E%89")).expect(201));
    assert_eq!(keybrake.micros(&key.id), (43_500, 0));
    let refused = send(&keybrake, &key, &text(&"a".repeat(161)));
    let body = refused.expect(429);
    // Twilio's SDK for Python shows the message and no header.
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("$0.0165 of $0.06 is left today. The cap resets 20"), "{message}");
    assert_eq!((body["status"].as_u64(), body["code"].as_u64()), (Some(429), Some(20003)));
    assert_eq!(vendor.seen().len(), 2);
    assert_eq!(keybrake.micros(&key.id), (43_500, 0));
}

#[test]
fn q5_a_message_whose_outcome_is_not_known_stays_counted_and_one_that_is_refused_does_not() {
    let vendor = Vendor::start(|seen: &Seen, out: &mut dyn Write| match seen.text() {
        body if body.contains("Body=refuse") => out.write_all(&whole(400, r#"{"code":21211,"status":400}"#)),
        body if body.contains("Body=break") => out.write_all(&whole(500, "{}")),
        _ => Err(std::io::Error::other("cut")),
    });
    let keybrake = start(&vendor);
    let key = issue(&keybrake, "1");
    assert_eq!(send(&keybrake, &key, &text("refuse")).expect(400)["code"], 21211);
    assert_eq!(keybrake.micros(&key.id), (0, 0));
    drop(send(&keybrake, &key, &text("break")).expect(500));
    assert_eq!(keybrake.micros(&key.id), (14_500, 14_500));
    drop(send(&keybrake, &key, &text("cut")).expect(502));
    assert_eq!(keybrake.micros(&key.id), (29_000, 29_000));
    assert_eq!(vendor.seen().len(), 3, "nothing was sent twice");
}

#[test]
fn products_stand_behind_their_names_and_a_path_that_names_none_is_refused() {
    let vendor = Vendor::start(created);
    let keybrake = start(&vendor);
    let key = issue(&keybrake, "1");
    let basic = basic(PLACEHOLDER, &key.text);
    let form = "To=%2B15551234567&Channel=sms";
    drop(call(&keybrake, "POST /twilio/verify/v2/Services/VA1/Verifications", &basic, form).expect(201));
    assert_eq!(vendor.seen()[0].line, "POST /verify/v2/Services/VA1/Verifications");
    assert_eq!(keybrake.micros(&key.id), (50_000 + 2 * 14_500, 0));
    for ambiguous in ["POST /twilio/v2/Services/VA1/Verifications", "POST /v2/Services/VA1/Verifications"] {
        let refused = call(&keybrake, ambiguous, &basic, form).expect(400);
        assert!(refused["message"].as_str().unwrap().contains("/twilio/verify/v2"), "{refused}");
    }
    assert_eq!(vendor.seen().len(), 1);
}

#[test]
fn m3_a_paid_read_is_counted_and_never_sent_twice() {
    // The second request of each connection finds it closed.
    let vendor = Vendor::start(|seen: &Seen, out: &mut dyn Write| match seen.line.contains("cut") {
        true => Err(std::io::Error::other("closed")),
        false => out.write_all(&whole(200, "{}")),
    });
    let keybrake = start(&vendor);
    let key = issue(&keybrake, "1");
    let basic = basic(PLACEHOLDER, &key.text);
    let get =
        |target: &str| call(&keybrake, &format!("GET /twilio/lookups/v2/PhoneNumbers/{target}"), &basic, "");
    drop(get("15551234567").expect(200));
    assert_eq!(keybrake.micros(&key.id), (0, 0));
    drop(get("15551234567?Fields=caller_name").expect(200));
    assert_eq!(keybrake.micros(&key.id), (40_000, 0));
    assert_eq!(vendor.connections(), 1, "the connection is kept");
    drop(get("cut?Fields=caller_name").expect(502));
    assert_eq!(vendor.seen().len(), 3, "what costs money is not sent again");
    assert_eq!(keybrake.micros(&key.id), (80_000, 40_000));
    drop(get("15551234567").expect(200));
    drop(get("cut").expect(502));
    assert_eq!(vendor.seen().len(), 6, "a free read on a kept connection is");
}
