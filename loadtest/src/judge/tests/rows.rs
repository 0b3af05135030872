//! Rows: missing, invented, unexplained, wrong; arrivals after a revoke, and twice.

use super::*;

#[test]
fn a_request_without_a_row_is_found() {
    let found = check(
        |run| {
            let at = row(run, "req_k2");
            run.audit.remove(at);
            run.books.clear();
        },
        // Without the row it also seems that the cap refused too early.
        &["I2.missing", "I2.missing", "I12", "full"],
    );
    assert_eq!((found[0].call.as_deref(), found[0].seq), (Some("c2"), Some(2)));
    assert_eq!(found[1].row.as_deref(), Some("req_k2"));
}

#[test]
fn a_part_of_a_request_needs_a_row_too() {
    let part = |run: &mut Run| {
        let mut line = run.vendor.pop().unwrap();
        line["malformed"] = json!("head cut short after 12 bytes");
        for name in ["body", "path", "request_id"] {
            line[name] = json!("");
        }
        (line["accepted"], line["accepted_minor"]) = (json!(false), json!(0));
        run.vendor.push(line);
    };
    check(part, &[]);
    check(
        |run| {
            part(run);
            run.audit.pop();
            run.books.pop();
        },
        &["I2.missing"],
    );
}

#[test]
fn a_denial_without_a_row_is_found_unless_the_dataplane_died_behind_it() {
    let without = |run: &mut Run| {
        let at = row(run, "req_k6");
        run.audit.remove(at);
    };
    check(without, &["I2.missing"]);
    let killed = |run: &mut Run, what: &str| {
        without(run);
        let at_us = run.agents[5]["answered_us"].as_u64().unwrap() + 600_000;
        run.kills.push(json!({"at_us": at_us, "what": what, "how": "kill -9", "back_us": null}));
    };
    check(|run| killed(run, "dataplane"), &[]);
    check(|run| killed(run, "both"), &[]);
    check(|run| killed(run, "admin"), &["I2.missing"]);
}

#[test]
fn a_row_for_a_request_that_never_came_is_found() {
    let found = check(
        |run| {
            run.vendor.remove(1);
        },
        &["I2.invented", "I12"],
    );
    assert_eq!(found[0].row.as_deref(), Some("req_k2"));
}

#[test]
fn an_answer_of_a_vendor_that_was_never_asked_is_found() {
    let found = check(
        |run| {
            let at = row(run, "req_k2");
            run.audit.remove(at);
            run.vendor.remove(1);
            run.books.clear();
        },
        &["I2.invented", "full"],
    );
    assert_eq!(found[0].call.as_deref(), Some("c2"));
}

#[test]
fn two_rows_with_one_id_are_found() {
    check(
        |run| {
            let mut twin = run.audit[5].clone();
            twin["sequence"] = json!(100);
            run.audit.push(twin);
        },
        &["I2.duplicate"],
    );
    // A page that was read twice is no second row.
    check(|run| run.audit.push(run.audit[5].clone()), &[]);
}

#[test]
fn an_unknown_row_needs_a_kill_while_it_was_under_way_or_a_fault_of_the_vendor() {
    let found = check(|run| run.kills.clear(), &["I2.unexplained"]);
    assert_eq!(found[0].row.as_deref(), Some("req_k9"));
    let moved = |run: &mut Run, by: i64| {
        let at_us = run.kills[0]["at_us"].as_u64().unwrap().checked_add_signed(by);
        run.kills[0]["at_us"] = json!(at_us);
    };
    check(|run| moved(run, 5_000_000), &["I2.unexplained"]);
    check(|run| moved(run, -5_000_000), &["I2.unexplained"]);
    // Where the agent did not log the end, the call may have been under way for longer.
    check(
        |run| {
            run.agents[8]["ended_us"] = json!(null);
            moved(run, 5_000_000);
        },
        &[],
    );
    check(
        |run| {
            run.vendor[5]["delivery"] = json!("whole");
        },
        &["I2.unexplained"],
    );
}

#[test]
fn a_network_cut_explains_what_it_overlaps() {
    let cut = |run: &mut Run, from: i64, to: i64| {
        let at_us = run.kills[0]["at_us"].as_u64().unwrap();
        let moved = |by| at_us.checked_add_signed(by).unwrap();
        run.kills[0] =
            json!({"at_us": moved(from), "back_us": moved(to), "what": "network", "how": "link down"});
    };
    check(|run| cut(run, -9_000_000, 9_000_000), &[]);
    check(|run| cut(run, 3_000_000, 9_000_000), &["I2.unexplained"]);
}

#[test]
fn a_failed_row_needs_an_explanation_and_counts_nothing() {
    let fail = |run: &mut Run| {
        run.vendor.pop();
        let at = row(run, "req_k9");
        (run.audit[at]["outcome"], run.audit[at]["amount_micros"]) = (json!("failed"), json!(0));
        (run.books[1]["committed_micros"], run.books[1]["held_micros"]) =
            (json!(4_010_000), json!(2_000_000));
    };
    check(fail, &[]);
    let without_kill = |run: &mut Run| {
        fail(run);
        run.kills.clear();
    };
    check(without_kill, &["I2.unexplained"]);
    // A revoke ends what is not sent; what is sent only where it cuts.
    let revoked = |run: &mut Run| run.keys[1]["revoked_us"] = json!(run.agents[8]["ended_us"]);
    check(
        |run| {
            without_kill(run);
            revoked(run);
        },
        &[],
    );
    let revoked_when_sent = |run: &mut Run| {
        run.kills.clear();
        revoked(run);
    };
    check(revoked_when_sent, &["I2.unexplained"]);
    check(
        |run| {
            revoked_when_sent(run);
            run.keys[1]["cut"] = json!(true);
        },
        &[],
    );
    check(
        |run| {
            fail(run);
            let at = row(run, "req_k9");
            run.audit[at]["amount_micros"] = json!(2_020_000);
            run.books.clear();
        },
        &["I2.wrong", "I12"],
    );
}

#[test]
fn a_row_that_says_something_else_than_what_happened_is_found() {
    let change = |name: &'static str, value: Value| {
        move |run: &mut Run| {
            let at = row(run, "req_k2");
            run.audit[at][name] = value;
            run.books.clear();
        }
    };
    check(change("status", json!(500)), &["I2.wrong"]);
    check(change("outcome", json!("denied")), &["I2.wrong", "I2.wrong", "full"]);
    // Less than was accepted, and more.
    check(change("amount_micros", json!(10_000_000)), &["I2.wrong", "I12"]);
    check(change("amount_micros", json!(10_020_000)), &["I2.wrong", "I12"]);
}

#[test]
fn an_arrival_after_the_acknowledged_revoke_is_found() {
    let found = check(
        |run| {
            run.now_us += 10_000_000;
            run.call("vk_b", 203, Kind::Accepted);
            run.books.pop();
        },
        &["I3"],
    );
    assert!(found[0].why.contains("stamped by the kernel"), "{}", found[0].why);
    assert_eq!((found[0].call.as_deref(), found[0].row.as_deref()), (Some("c10"), Some("req_k10")));
    // One microsecond decides.
    let arrival_us = |run: &Run| run.vendor[7]["arrival_us"].as_u64().unwrap();
    check(|run| run.keys[1]["revoked_us"] = json!(arrival_us(run)), &[]);
    check(|run| run.keys[1]["revoked_us"] = json!(arrival_us(run) - 1), &["I3"]);
    let by_parent = |run: &mut Run| {
        run.keys[0]["parent"] = json!("vk_p");
        run.keys.push(json!({"key": "vk_p", "revoked_us": NOON_US}));
    };
    check(by_parent, &["I3"; 5]);
}

#[test]
fn a_call_that_the_vendor_got_twice_is_found() {
    let again = |run: &mut Run, replayed: bool| {
        let mut line = run.vendor[0].clone();
        (line["seq"], line["request_id"]) = (json!(77), json!("req_v77"));
        line["arrival_us"] = json!(line["arrival_us"].as_u64().unwrap() + 50);
        if replayed {
            (line["replayed"], line["accepted"], line["accepted_minor"]) =
                (json!(true), json!(false), json!(0));
        }
        run.vendor.push(line);
    };
    check(|run| again(run, false), &["I1", "I1", "I2.missing", "I7", "I12"]);
    // Nobody but the agent repeats a call, also where the vendor recognizes the repeat.
    check(|run| again(run, true), &["I2.missing", "I7"]);
    // A repeat that the agent sent, and that the vendor recognized, is one call more and has a row of its own.
    check(
        |run| {
            again(run, true);
            let mut call = run.agents[0].clone();
            call["keybrake_request_id"] = json!("req_k77");
            run.agents.push(call);
            let mut twin = run.audit[0].clone();
            (twin["sequence"], twin["id"], twin["amount_micros"]) = (json!(77), json!("req_k77"), json!(0));
            twin["vendor_request_id"] = json!("req_v77");
            run.audit.push(twin);
        },
        &[],
    );
}

#[test]
fn calls_that_are_alike_are_told_apart_by_the_ids_of_their_answers() {
    check(
        |run| {
            run.call("vk_a", 5, Kind::CutAfter);
            run.now_us -= 10_000_000 - 1_000;
            run.call("vk_a", 5, Kind::CutAfter);
            // The first arrives when the other's row is nearer in time.
            let arrival_us = run.vendor[8]["arrival_us"].as_u64().unwrap();
            run.vendor[8]["arrival_us"] = json!(arrival_us + 700);
            // It was over a cap that the second fills.
            run.keys[0]["daily_cap_micros"] = json!(60_000_000);
            run.agents[5]["cap_micros"] = json!(CAP_MICROS);
            run.books.remove(0);
        },
        &[],
    );
}

#[test]
fn keybrakes_own_faults_have_rows_too() {
    let answered = |status: u16| {
        move |run: &mut Run| {
            let at = row(run, "req_k6");
            run.audit.remove(at);
            run.agents[5]["status"] = json!(status);
        }
    };
    check(answered(502), &["I2.missing"]);
    check(answered(503), &[]);
}

#[test]
fn an_answer_that_went_to_another_agent_is_found() {
    check(
        |run| {
            let (first, second) = (run.vendor[0]["request_id"].clone(), run.vendor[1]["request_id"].clone());
            (run.vendor[0]["request_id"], run.vendor[1]["request_id"]) = (second, first);
        },
        // Each row tells of the other's amount.
        &["I2.wrong", "I2.wrong", "I7", "I7"],
    );
}
