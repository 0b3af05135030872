//! A short round of each part of `make torture`, with a fresh seed: KEYBRAKE_TEST_SEED repeats one.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write as _;

use keybrake_tests::now_micros;
use keybrake_tests::torture::{NotRun, Part, Size, run};

fn short_round(part: Part) {
    let seed = match std::env::var("KEYBRAKE_TEST_SEED") {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("KEYBRAKE_TEST_SEED={text} is no number")),
        Err(_) => now_micros() % 1_000_000_007,
    };
    // Also where tests that pass are silent.
    let say = |line: String| std::io::stderr().write_all(format!("{line}\n").as_bytes()).unwrap();
    say(format!("{}: KEYBRAKE_TEST_SEED={seed}", part.name()));
    match run(part, Size::Short, seed) {
        Err(NotRun(why)) => say(format!("not run: {}: {why}", part.name())),
        Ok(report) => {
            say(report.to_string());
            report.notes.iter().for_each(|note| say(note.clone()));
            assert!(
                report.violations.is_empty(),
                "{}\nkept: {:?}",
                report.violations.join("\n"),
                report.kept
            );
        }
    }
}

#[test]
fn kills_lose_no_money_and_no_row() {
    short_round(Part::Kill);
}

#[test]
fn what_was_acknowledged_survives_a_kill_right_behind_it() {
    short_round(Part::Ack);
}

#[test]
fn power_cuts_lose_no_money_and_no_row() {
    short_round(Part::Power);
}

#[test]
fn a_disk_that_does_not_write_stops_money_and_nothing_is_lost() {
    short_round(Part::Disk);
}

#[test]
fn cuts_to_the_vendor_leave_no_hold_unexplained() {
    short_round(Part::Net);
}

#[test]
fn nothing_arrives_after_a_revoke_and_a_stopped_dataplane_acknowledges_none() {
    short_round(Part::Revoke);
}

#[test]
fn rolling_restarts_refuse_nobody_and_lose_no_call() {
    short_round(Part::Restart);
}

#[test]
fn no_step_of_the_clock_opens_a_cap() {
    short_round(Part::Clock);
}

#[test]
fn damaged_files_never_leave_more_to_spend() {
    short_round(Part::Damage);
}

#[test]
fn i7_no_answer_is_swapped_and_no_post_arrives_twice() {
    short_round(Part::Swap);
}

#[test]
fn g1_g2_g5_i11_honest_agents_are_served_beside_a_crowd_and_all_of_it_returns() {
    short_round(Part::Exhaust);
}

#[test]
fn the_journals_cost_can_be_measured() {
    short_round(Part::Cost);
}
