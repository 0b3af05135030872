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
mod json;
#[path = "hostile/play.rs"]
mod play;
#[path = "hostile/secrets.rs"]
mod secrets;
#[path = "hostile/sizes.rs"]
mod sizes;
#[path = "hostile/targets.rs"]
mod targets;

use play::{Stage, play};

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
    play(&Stage::resend(), &json::cases());
}

#[test]
fn s4_s6_a_vault_key_goes_nowhere_but_into_its_slot() {
    let stage = Stage::stripe();
    play(&stage, &secrets::cases());
    // Refused requests have rows, which show nothing of it (contract I8).
    stage.keeps_no_key(&secrets::other_key());
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
        json::cases(),
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
