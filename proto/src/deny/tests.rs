use super::*;
use crate::clock::Doubt;

const KEY: &[u8] = b"0123456789abcdef";
const PARENT: &[u8] = b"fedcba9876543210";

fn usd(usd: u64) -> Micros {
    Micros::new(usd * 1_000_000).unwrap()
}

/// A call of $10 that does not fit under a limit of 50, of which 3 are left.
fn over(limit: Limit, whose: &[u8]) -> Deny {
    let (key, whose) = (KeyId::from_bytes(KEY).unwrap(), KeyId::from_bytes(whose).unwrap());
    let cap = if limit == Limit::Requests { Micros::new(50).unwrap() } else { usd(50) };
    let over = Over { key: whose, limit, cap, left: usd(3), day: Day::new(20_778) };
    Deny::by_ledger(Refusal::Over(over), key, usd(10))
}

fn over_cap() -> Deny {
    over(Limit::Daily, KEY)
}

#[test]
fn q9_a_spent_lifetime_cap_is_a_429_without_retry_after() {
    let denial = over(Limit::Lifetime, KEY).denial(UnixMicros(0), "");
    assert_eq!((denial.status, denial.code, denial.retry_after_s), (429, "total_cap_exceeded", None));
    assert!(denial.message.contains("$3.00 of $50.00"), "{}", denial.message);
    assert!(denial.message.contains("does not reset"), "{}", denial.message);
    assert!(denial.never_retry);
}

#[test]
fn a_used_up_request_budget_says_what_is_left_and_when_it_resets() {
    let now = UnixMicros::parse_rfc3339("2026-11-21T23:00:00.5Z").unwrap();
    let denial = over(Limit::Requests, KEY).denial(now, "");
    let expected = (429, "request_budget_exceeded", Some(3600));
    assert_eq!((denial.status, denial.code, denial.retry_after_s), expected);
    assert!(denial.message.contains("0 of 50 requests"), "{}", denial.message);
    assert!(denial.message.contains("resets 2026-11-22T00:00:00Z"), "{}", denial.message);
}

#[test]
fn a_denial_names_the_key_above_whose_limit_it_is() {
    for limit in [Limit::Daily, Limit::Lifetime, Limit::Requests] {
        let message = |whose| over(limit, whose).denial(UnixMicros(0), "").message;
        let above = message(PARENT);
        assert!(above.contains(" of vk_fedcba9876543210, a key above this one,"), "{above}");
        assert!(!message(KEY).contains("above"), "{}", message(KEY));
    }
    let closed = Deny::by_ledger(Refusal::Closed, KeyId::from_bytes(KEY).unwrap(), usd(1));
    assert_eq!(closed, Deny::Unauthorized);
}

#[test]
fn a_full_cap_says_what_is_left_and_when_it_resets() {
    let now = UnixMicros::parse_rfc3339("2026-11-21T23:00:00Z").unwrap();
    let denial = over_cap().denial(now, "");
    assert_eq!((denial.status, denial.retry_after_s), (429, Some(3600)));
    assert!(denial.message.contains("$3.00 of $50.00"), "{}", denial.message);
    assert!(denial.message.contains("resets 2026-11-22T00:00:00Z"), "{}", denial.message);
}

#[test]
fn the_body_has_the_shapes_of_all_three_vendors() {
    let mut body = Vec::new();
    over_cap().denial(UnixMicros(0), "").write_body(&mut body);
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["error"]["type"], "rate_limit_error");
    assert_eq!(body["error"]["code"], "daily_cap_exceeded");
    assert_eq!(body["statusCode"], 429);
    assert_eq!(body["name"], "daily_quota_exceeded");
    assert_eq!(body["status"], 429);
    assert_eq!(body["error"]["message"], body["message"]);
}

#[test]
fn m10_a_stepped_clock_says_what_was_seen_since_when_and_what_to_do() {
    let at = |text: &str| UnixMicros::parse_rfc3339(text).unwrap();
    let objection = |doubt, wall: &str, expected: &str| Objection {
        doubt,
        wall: at(wall),
        expected: at(expected),
        day: Day::new(20_778),
        since: at("2026-11-21T23:00:00Z"),
    };
    let check = |objection: Objection, retry_after_s: u64, words: &[&str]| {
        let denial = Deny::Clock(objection).denial(at("2026-11-21T23:00:00Z"), "");
        assert_eq!((denial.status, denial.code, denial.never_retry), (503, "clock", false));
        assert_eq!(denial.retry_after_s, Some(retry_after_s), "{}", denial.message);
        for words in words {
            assert!(denial.message.contains(words), "{words}: {}", denial.message);
        }
    };
    let ahead = objection(Doubt::Forward, "2026-11-23T23:10:00Z", "2026-11-21T23:10:00Z");
    check(
        ahead,
        60,
        &["since 2026-11-21T23:00:00Z", "2 d 0 h ahead of", "2026-11-23T23:10:00Z", "keybrake clock confirm"],
    );
    let behind = objection(Doubt::Back, "2026-11-21T23:10:00Z", "2026-11-22T00:10:00Z");
    check(behind, 60, &["60 min 0 s behind where it should be", "2026-11-22T00:10:00Z was expected"]);
    let between = objection(Doubt::BetweenMidnights, "2026-11-22T00:00:30Z", "2026-11-21T23:59:50.5Z");
    check(between, 10, &["40 s ahead of where it should be", "2026-11-21 is over by one of both clocks"]);
    let unrecorded = objection(Doubt::NotRecorded, "2026-11-22T00:00:30Z", "2026-11-22T00:00:30Z");
    check(unrecorded, 1, &["not on disk yet"]);
}

#[test]
fn m13_a_policy_decision_is_never_402_409_or_5xx_and_is_not_retried() {
    let decisions = [
        Deny::Unauthorized,
        Deny::Endpoint { escalates: false },
        Deny::Vendor,
        Deny::Account,
        Deny::Unpriced(""),
        Deny::Currency(NoRate::Unknown(crate::catalog::currency::Currency::USD)),
        Deny::Object(ObjectFault::Busy),
        over_cap(),
        over(Limit::Lifetime, KEY),
        over(Limit::Requests, KEY),
    ];
    for deny in decisions {
        assert!(matches!(deny.status(), 401 | 403 | 429), "{deny:?}");
        assert!(deny.denial(UnixMicros(0), "").never_retry, "{deny:?}");
    }
}
