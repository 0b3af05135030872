use proptest::prelude::*;

use super::*;

/// Reads `amount` and `to` and shows them.
#[track_caller]
fn check(body: &str, expected: Result<[Option<Scalar<'_>>; 2], JsonError>) {
    assert_eq!(read_top_level(body.as_bytes(), ["amount", "to"]), expected, "{body}");
}

fn text(text: &str) -> Option<Scalar<'_>> {
    Some(Scalar::Text(Cow::Borrowed(text)))
}

#[test]
fn named_members_of_the_outer_object_are_read() {
    use Scalar::{Bool, Null, Unsigned};
    check("{}", Ok([None, None]));
    check(r#" { "amount" : 5 , "to" : "a@b" } "#, Ok([Some(Unsigned(5)), text("a@b")]));
    check(r#"{"to":"\u0061\n","amount":18446744073709551615}"#, Ok([Some(Unsigned(u64::MAX)), text("a\n")]));
    check(r#"{"amount":null,"to":true}"#, Ok([Some(Null), Some(Bool(true))]));
    check(r#"{"amount":0,"to":["a","b",{"c":[1]}]}"#, Ok([Some(Unsigned(0)), Some(Scalar::List(3))]));
    check(r#"{"\u0061mount":7}"#, Ok([Some(Unsigned(7)), None]));
}

#[test]
fn only_plain_integers_are_integers() {
    for number in
        ["5.0", "5e3", "5E3", "-5", "-0", "0.5", "1e400", "18446744073709551616", "99999999999999999999999"]
    {
        check(&format!(r#"{{"amount":{number}}}"#), Ok([Some(Scalar::Other), None]));
    }
    check(r#"{"amount":"5"}"#, Ok([text("5"), None]));
    // What serde_json uses inside for numbers of arbitrary precision is an object like any other.
    check(r#"{"amount":{"$serde_json::private::Number":"5"}}"#, Ok([Some(Scalar::Other), None]));
    check(r#"{"$serde_json::private::Number":"5","amount":6}"#, Ok([Some(Scalar::Unsigned(6)), None]));
}

#[test]
fn equal_names_further_down_are_decoys() {
    check(r#"{"a":{"amount":5},"b":[{"to":"x"}]}"#, Ok([None, None]));
    check(r#"{"metadata":{"amount":1},"amount":500}"#, Ok([Some(Scalar::Unsigned(500)), None]));
    check(r#"{"x":"\"amount\":5","amount":6}"#, Ok([Some(Scalar::Unsigned(6)), None]));
    check(r#"{"x":1,"x":2.5,"amount":6}"#, Ok([Some(Scalar::Unsigned(6)), None]));
}

#[test]
fn whatever_somebody_could_read_otherwise_is_refused() {
    use JsonError::{Disguised, NotObject, Repeated, Syntax, TooDeep};
    let deep = |depth: usize| format!(r#"{{"x":{}{},"amount":5}}"#, "[".repeat(depth), "]".repeat(depth));
    check(&deep(63), Ok([Some(Scalar::Unsigned(5)), None]));
    for (rule, body, expected) in [
        ("M2", r#"{"amount":1,"amount":1}"#, Repeated),
        ("M2", r#"{"amount":1,"\u0061mount":5000}"#, Repeated),
        ("M2", r#"{"amount":1,"x":{},"amount":{"amount":2}}"#, Repeated),
        ("M2", r#"{"amount":1,"Amount":5000}"#, Disguised),
        ("M2", r#"{"AMOUNT":5000}"#, Disguised),
        ("M2", "\u{feff}{\"amount\":1}", NotObject),
        ("M2", r#"{"amount":1}{"amount":2}"#, Syntax),
        ("M2", r#"{"amount":1},"#, Syntax),
        ("M2", "{\"amount\":1}\0", Syntax),
        ("M2", r#"{"amount":1"#, Syntax),
        ("M2", r#"{"amount":1,}"#, Syntax),
        ("M2", r#"{"amount":01}"#, Syntax),
        ("M2", r#"{"amount":+1}"#, Syntax),
        ("M2", r#"{"amount":0x1}"#, Syntax),
        ("M2", r#"{"amount":1_0}"#, Syntax),
        ("M2", r#"{"amount":1.}"#, Syntax),
        ("M2", r#"{"amount":NaN}"#, Syntax),
        ("M2", r#"{'amount':1}"#, Syntax),
        ("M2", r#"{amount:1}"#, Syntax),
        ("M2", r#"{"amount":1/**/}"#, Syntax),
        ("M2", "{\"a\":\"\n\",\"amount\":1}", Syntax),
        ("M2", r#"{"to":"\ud800"}"#, Syntax),
        ("M2", r#"{"\ud800":1,"amount":1}"#, Syntax),
        ("M2", "", NotObject),
        ("M2", "amount=5", NotObject),
        ("M2", "[]", NotObject),
        ("M2", r#"[{"amount":1}]"#, NotObject),
        ("M2", r#""amount""#, NotObject),
        ("M2", "5", NotObject),
        ("M2", "-5", NotObject),
        ("M2", "null", NotObject),
        ("M2", "true", NotObject),
        ("M2", &deep(64), TooDeep),
        ("M2", &"[".repeat(1_000_000), TooDeep),
        ("M2", &r#"{"a":"#.repeat(100_000), TooDeep),
    ] {
        assert!(rule.starts_with('M'));
        check(body, Err(expected));
        assert!(expected.to_string().contains("; "));
    }
    assert_eq!(read_top_level(b"{\"x\":\"\xff\",\"amount\":1}", ["amount"]), Err(Syntax));
    assert_eq!(read_top_level(b"5.5", ["amount"]), Err(NotObject));
}

#[test]
fn brackets_in_strings_are_no_depth() {
    let brackets = "[{".repeat(200);
    check(&format!(r#"{{"x":"\"{brackets}\\","amount":1}}"#), Ok([Some(Scalar::Unsigned(1)), None]));
}

proptest! {
    #[test]
    fn a_member_is_read_as_serde_json_reads_it(
        amount in any::<u64>(),
        to in ".{0,12}",
        others in prop::collection::btree_map("[b-s]{1,6}", "[ -~]{0,8}", 0..4),
    ) {
        let mut object = serde_json::Map::new();
        object.extend(others.into_iter().map(|(name, value)| (name, serde_json::Value::from(value))));
        object.insert("amount".to_owned(), amount.into());
        object.insert("to".to_owned(), to.clone().into());
        let body = serde_json::Value::from(object).to_string();
        let read = read_top_level(body.as_bytes(), ["amount", "to"]);
        prop_assert_eq!(read, Ok([Some(Scalar::Unsigned(amount)), Some(Scalar::Text(Cow::Owned(to)))]));
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        body in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\amount5.e-".to_vec())], 0..80),
    ) {
        let accepted = read_top_level(&body, ["amount"]).is_ok();
        prop_assert!(!accepted || serde_json::from_slice::<serde_json::Value>(&body).is_ok_and(|value| value.is_object()));
    }
}
