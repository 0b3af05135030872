//! Hostile agents on raw sockets: every case is refused with nothing sent, or reaches the vendor as exactly one allowed
//! request that was written anew, with the credential in place of the vault key.
//!
//! The tables say what is sent and what comes of it. Each case is sent whole, byte by byte, cut between CR and LF, with
//! a second request right behind it, and with a second one behind its reply; behind each keybrake must still serve.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

#[path = "hostile/bodies.rs"]
mod bodies;
#[path = "hostile/fields.rs"]
mod fields;
#[path = "hostile/framing.rs"]
mod framing;
#[path = "hostile/json.rs"]
mod json_texts;
#[path = "hostile/play.rs"]
mod play;
#[path = "hostile/secrets.rs"]
mod secrets;
#[path = "hostile/sizes.rs"]
mod sizes;
#[path = "hostile/targets.rs"]
mod targets;

use keybrake_tests::{Client, Recorder, Script, Setup, form_post, holds, length_of, secrets_in_files, whole};
use play::{Stage, play};
use serde_json::json;

/// The fewest cases of all tables together.
const CASES_MIN: usize = 300;

#[test]
fn a1_a2_a3_a5_a6_e1_targets_and_methods_are_refused_or_reach_one_operation() {
    play(&Stage::stripe(), &targets::cases());
}

#[test]
fn h1_h2_h5_a4_s7_fields_are_refused_or_left_out() {
    play(&Stage::stripe(), &fields::cases());
}

#[test]
fn h3_h4_h6_framing_is_refused_or_written_anew() {
    play(&Stage::stripe(), &framing::cases());
}

#[test]
fn a4_a5_m2_bodies_have_one_reading() {
    play(&Stage::stripe(), &bodies::cases());
}

#[test]
fn a5_m2_json_has_one_reading() {
    play(&Stage::resend(), &json_texts::cases());
}

#[test]
fn s4_s6_a_vault_key_goes_nowhere_but_into_its_slot() {
    let stage = Stage::stripe();
    play(&stage, &secrets::cases());
    // Refused requests have rows, which show nothing of it (contract I8).
    stage.keeps_no_key(&secrets::other_key());
}

/// Twilio's SDK for Python puts what it is given as the user into the path too. There the account is the credential's,
/// whatever the agent wrote: it is not sent, so it is no key in a wrong place.
#[test]
fn s4_a_key_as_twilios_account_is_replaced_and_neither_sent_nor_written_down() {
    const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
    let recorder =
        Recorder::start(|_| Script { pieces: vec![whole(201, r#"{"sid":"SM1"}"#)], closes: false });
    let secret = format!("{ACCOUNT}:0123456789abcdef0123456789abcdef");
    let keybrake = Setup::new(recorder.url()).of_vendor("twilio", &secret).start();
    let rule = "POST /2010-04-01/Accounts/*/Messages.json";
    let key = keybrake.issue(&[rule], &json!({"vendor": "twilio"})).text;
    let send = |account: &str, body: &str| {
        let path = format!("/twilio/2010-04-01/Accounts/{account}/Messages.json");
        let mut client = Client::connect(keybrake.proxy());
        client.send(form_post(&path, &key, &format!("To=%2B15005550006&From=%2B15005550006&Body={body}")));
        client.reply().status
    };
    assert_eq!((send(&key, "hello"), send(&key, &key), send("AC0", &key)), (201, 400, 400));
    let arrived = recorder.received().concat();
    let line = format!("POST /2010-04-01/Accounts/{ACCOUNT}/Messages.json HTTP/1.1\r\n");
    assert!(arrived.starts_with(line.as_bytes()), "{}", arrived.escape_ascii());
    assert!(
        !holds(&arrived, &key) && length_of(&arrived) == Some(arrived.len()),
        "one request, without the key"
    );
    keybrake.settle();
    assert_eq!(secrets_in_files(&keybrake.data(), &key), Vec::<std::path::PathBuf>::new());
}

#[test]
fn h1_h3_h4_sizes_are_bounded_to_the_byte() {
    play(&Stage::stripe(), &sizes::cases());
}

#[test]
fn the_tables_have_enough_cases_and_each_name_once() {
    let tables = [
        targets::cases(),
        fields::cases(),
        framing::cases(),
        bodies::cases(),
        json_texts::cases(),
        secrets::cases(),
        sizes::cases(),
    ];
    let mut names: Vec<String> = tables.into_iter().flatten().map(|case| case.name).collect();
    assert!(names.len() >= CASES_MIN, "only {} cases", names.len());
    names.sort();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "two cases have one name");
}
