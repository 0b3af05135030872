//! Sums: caps, the audit against the vendor, books, and what a cap may refuse.

use super::*;

#[test]
fn an_amount_over_the_cap_is_found_by_both_days() {
    // 49.93 of 50.00 are accepted, so eight cents more are one too many.
    let found = check(
        |run| {
            run.call("vk_a", 8, Kind::Accepted);
            run.books[0]["committed_micros"] = json!(50_010_000);
        },
        &["I1", "I1"],
    );
    assert!(found[0].why.contains("50010000 was accepted by day of arrival"), "{}", found[0].why);
    assert!(found[1].why.contains("by day of reservation"), "{}", found[1].why);
    assert_eq!((found[0].key.as_deref(), found[0].day.as_deref()), (Some("vk_a"), Some("2026-11-21")));
}

#[test]
fn each_day_has_its_own_cap_and_around_midnight_either_counts() {
    let run_at = |offset_us: i64, minor: u64| {
        let mut run = Run { now_us: NOON_US, ..Run::default() };
        run.keys.push(json!({"key": "vk_a", "daily_cap_micros": CAP_MICROS}));
        run.call("vk_a", 5_000, Kind::Accepted);
        run.now_us = (NOON_US + 43_200_000_000).checked_add_signed(offset_us - 10_000_000).unwrap();
        run.call("vk_a", minor, Kind::Accepted);
        run
    };
    check_run(&run_at(60_000_000, 5_000), &[]);
    check_run(&run_at(-60_000_000, 5_000), &["I1", "I1"]);
    check_run(&run_at(-2_000_000, 5_000), &[]);
    // It fits on neither of the two days.
    check_run(&run_at(-2_000_000, 5_001), &["I1", "I1"]);
}

#[test]
fn what_a_child_spends_counts_under_its_parent() {
    let mut run = Run::clean();
    run.keys[0]["parent"] = json!("vk_p");
    run.keys.push(json!({"key": "vk_p", "daily_cap_micros": 49_930_000}));
    check_run(&run, &[]);
    run.keys[2]["daily_cap_micros"] = json!(49_920_000);
    check_run(&run, &["I1", "I1"]);
}

#[test]
fn money_under_no_known_key_is_found() {
    let found = check(
        |run| {
            run.keys.remove(1);
            run.books.remove(1);
        },
        &["I1"],
    );
    assert_eq!(found[0].key.as_deref(), Some("vk_b"));
}

#[test]
fn an_audit_that_counts_less_or_more_than_the_vendor_is_found() {
    // Of an unknown row only its part of the sum is certain.
    check(
        |run| {
            let at = row(run, "req_k7");
            run.audit[at]["amount_micros"] = json!(1_990_000);
            run.books.clear();
        },
        &["I2.wrong", "I12"],
    );
}

#[test]
fn books_that_do_not_close_are_found() {
    let shows = |at: usize, name: &'static str, by: i64| {
        move |run: &mut Run| {
            let value = run.books[at][name].as_u64().unwrap().checked_add_signed(by).unwrap();
            run.books[at][name] = json!(value);
        }
    };
    check(shows(0, "committed_micros", 1), &["I12.books"]);
    check(shows(0, "committed_micros", -1), &["I12.books"]);
    check(shows(0, "held_micros", 1), &["I12.books"]);
    check(shows(1, "held_micros", -1), &["I12.books"]);
}

#[test]
fn what_an_operator_says_of_a_doubt_counts_in_its_place() {
    let amend = |run: &mut Run, micros: u64| {
        run.audit.push(json!({
            "sequence": 100, "ts": text_of(run.now_us), "id": "req_k9_amended", "amends": "req_k9",
            "vault_key_id": "vk_b", "policy_check_result": "doubt_settled", "outcome": "amendment",
            "amount_micros": micros, "amount_minor": 202,
        }));
        run.books[1]["held_micros"] = json!(2_000_000);
    };
    check(|run| amend(run, 2_020_000), &[]);
    check(
        |run| {
            amend(run, 1_000_000);
            run.books[1]["committed_micros"] = json!(5_010_000);
        },
        &[],
    );
    check(
        |run| {
            amend(run, 2_020_000);
            run.books[1]["committed_micros"] = json!(8_050_000);
        },
        &["I12.books"],
    );
    check(
        |run| {
            amend(run, 2_020_000);
            let at = row(run, "req_k9_amended");
            run.audit[at]["amends"] = json!("req_nobody");
            run.books.pop();
        },
        &["I2.wrong"],
    );
}

#[test]
fn a_voided_doubt_that_the_vendor_never_accepted_closes_the_books() {
    check(
        |run| {
            let line = &mut run.vendor[7];
            (line["accepted"], line["accepted_minor"]) = (json!(false), json!(0));
            run.audit.push(json!({
                "sequence": 100, "ts": text_of(run.now_us), "id": "req_k9_amended", "amends": "req_k9",
                "vault_key_id": "vk_b", "policy_check_result": "doubt_voided", "outcome": "amendment",
                "amount_micros": 0, "amount_minor": 202,
            }));
            (run.books[1]["committed_micros"], run.books[1]["held_micros"]) =
                (json!(4_010_000), json!(2_000_000));
        },
        &[],
    );
}

#[test]
fn a_declined_payment_intent_may_count_its_amount_and_no_other_decline_may() {
    let count = |path: &'static str| {
        move |run: &mut Run| {
            run.vendor[3]["path"] = json!(path);
            let at = row(run, "req_k4");
            run.audit[at]["amount_micros"] = run.audit[at]["quote_micros"].clone();
            run.books.clear();
        }
    };
    check(count("/v1/payment_intents"), &[]);
    check(count("/v1/charges"), &["I2.wrong", "I12"]);
}

#[test]
fn a_doubt_is_carried_into_the_next_day() {
    let next_day = |committed: u64| {
        move |run: &mut Run| {
            run.now_us = NOON_US + 43_200_000_000 + 60_000_000;
            run.books.clear();
            run.show("vk_b", committed, 4_020_000);
        }
    };
    check(next_day(4_020_000), &[]);
    check(next_day(0), &["I12.books"]);
    check(next_day(6_030_000), &["I12.books"]);
}

#[test]
fn a_cap_that_refused_what_fitted_is_found() {
    // 49.93 of 50.00 are counted: seven cents fit.
    let refuse = |minor: u64| {
        move |run: &mut Run| {
            run.call("vk_a", minor, Kind::OverCap);
        }
    };
    check(refuse(8), &[]);
    let found = check(refuse(7), &["full"]);
    assert_eq!((found[0].row.as_deref(), found[0].call.as_deref()), (Some("req_k10"), Some("c10")));
    // Beside a call that was under way, and declined later, it was right to refuse it.
    check(
        |run| {
            run.call("vk_a", 3_000, Kind::Declined);
            run.call("vk_a", 7, Kind::OverCap);
            let at = row(run, "req_k10");
            run.audit[at]["latency_us"] = json!(10_000_000);
        },
        &[],
    );
}

#[test]
fn a_cap_may_refuse_beside_a_call_that_a_crash_left_without_a_trace() {
    // It was held, and died with the process before it was recorded or sent.
    let beside = |ended_before_us: u64| {
        move |run: &mut Run| {
            run.call("vk_a", 7, Kind::OverCap);
            let sent_us = run.now_us - 2_000_000;
            run.agents.push(json!({
                "call": "lost", "key": "vk_a", "cap_micros": CAP_MICROS, "method": "POST", "path": "/v1/charges",
                "agent": 2, "amount_minor": 3_000, "sent_us": sent_us, "answered_us": null, "status": null,
                "ended_us": run.now_us + 500_000 - ended_before_us, "keybrake_request_id": null,
            }));
        }
    };
    check(beside(0), &[]);
    check(beside(2_000_000), &["full"]);
}

#[test]
fn the_headroom_that_was_used_is_told() {
    let mut run = Run::clean();
    run.kills.clear();
    let headroom = |run: &Run| {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::read(&run.write(dir.path())).unwrap();
        super::super::money::headroom_used(&evidence, &Trace::of(&evidence, LIMITS))
    };
    // 0.07 are left, and the smallest amount refused is 1.00.
    assert_eq!(headroom(&run), Some(100));
    run.vendor.truncate(2);
    run.audit[3]["amount_micros"] = json!(0);
    run.audit[4]["amount_micros"] = json!(0);
    assert_eq!(headroom(&run), Some(62));
    assert_eq!(headroom(&Run::clean()), None, "a kill leaves money in doubt");
}
