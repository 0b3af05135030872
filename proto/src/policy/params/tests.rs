#![allow(clippy::indexing_slicing, reason = "test code")]

use proptest::prelude::*;

use super::*;
use crate::catalog::Catalog;
use crate::http1::Method;

fn params(rules: &[&str]) -> Params {
    rules
        .iter()
        .map(|rule| rule.parse::<ParamRule>().unwrap_or_else(|error| panic!("{rule}: {error}")))
        .collect()
}

fn post<'a>(path: &'a str) -> Call<'a> {
    Catalog::of("stripe").unwrap().recognize(Method::Post, path.as_bytes())
}

/// What rules say of a POST to `/v1/charges` or, for JSON, to a path without forms: `ok`, `no <name>`, or a status.
fn verdict(rules: &Params, call: &Call<'_>, query: &str, body: Body<'_>) -> String {
    match rules.allow(&Parameters { call, query: query.as_bytes(), body }) {
        Ok(()) => "ok".to_owned(),
        Err(Deny::Restriction(Restriction::Parameter { name, .. })) => format!("no {name}"),
        Err(deny) => deny.status().to_string(),
    }
}

fn check(rules: &[&str], form: &str, expected: &str) {
    let seen = verdict(&params(rules), &post("/v1/charges"), "", Body::Form(form.as_bytes()));
    assert_eq!(seen, expected, "{rules:?} {form}");
}

fn check_json(rules: &[&str], body: &str, expected: &str) {
    let seen = verdict(&params(rules), &post("/emails"), "", Body::Json(body.as_bytes()));
    assert_eq!(seen, expected, "{rules:?} {body}");
}

#[test]
fn each_test_allows_what_it_says() {
    check(&["currency in usd,eur"], "amount=5&currency=usd", "ok");
    check(&["currency in usd,eur"], "amount=5&currency=USD", "no currency");
    check(&["currency in usd,eur"], "amount=5", "ok");
    check(&["currency in usd,eur required"], "amount=5", "no currency");
    check(&["customer required"], "customer=", "ok");
    check(&["customer in cus_1"], "customer=", "no customer");
    check(&["To prefix +1,+44"], "To=%2B15005550006", "ok");
    check(&["To prefix +1,+44"], "To=%2B4915005550006", "no To");
    check(&["To prefix +1"], "To=+15005550006", "no To");
    check(&["amount max 5000"], "amount=5000", "ok");
    check(&["amount max 5000 min 100"], "amount=99", "no amount");
    for amount in ["5001", "-1", "+1", "1.0", "1e3", "0x1", "01", "", "999999999999999999999", "1 "] {
        check(&["amount max 5000"], &format!("amount={amount}"), "no amount");
    }
    check(&["application_fee_amount absent"], "amount=1", "ok");
    check(&["source prefix tok_", "source equals tok_visa"], "source=tok_visa", "ok");
    check(&["source prefix tok_", "source equals tok_visa"], "source=tok_amex", "no source");
    check(&["transfer_data.destination in acct_1"], "transfer_data[destination]=acct_1", "ok");
    check(
        &["transfer_data.destination in acct_1"],
        "transfer_data[destination]=acct_2",
        "no transfer_data.destination",
    );
}

#[test]
fn every_recipient_of_a_mail_is_at_an_allowed_domain() {
    let rules = ["to,cc,bcc domain example.com"];
    check_json(&rules, r#"{"to": "a@example.com"}"#, "ok");
    check_json(&rules, r#"{"to": "Ann <a@example.com>", "cc": ["b@example.com", "c@EXAMPLE.com"]}"#, "ok");
    check_json(&rules, r#"{"to": ["a@example.com", "b@evil.com"]}"#, "no to");
    check_json(&rules, r#"{"to": "a@example.com", "cc": "b@evil.com"}"#, "no cc");
    check_json(&rules, r#"{"to": "a@example.com", "bcc": ["b@evil.com"]}"#, "no bcc");
    check_json(&rules, r#"{"to": "a@example.com, b@evil.com"}"#, "no to");
    check_json(&rules, r#"{"to": {"email": "b@evil.com"}}"#, "no to");
    check_json(&rules, r#"{"to": null}"#, "no to");
    check_json(&rules, r#"[{"to": "a@example.com"}, {"to": ["b@evil.com"]}]"#, "no to");
    check_json(&rules, r#"[{"to": "a@example.com"}, {"to": ["b@example.com"]}]"#, "ok");
    check_json(&["to required"], r#"[{"to": "a@example.com"}, {}]"#, "no to");
    check_json(&["to required"], r#"{"to": []}"#, "no to");
    check_json(&["amount max 10"], r#"{"amount": 10}"#, "ok");
    check_json(&["amount max 10"], r#"{"amount": "10"}"#, "ok");
    for amount in ["11", "10.0", "1e1", "-1", "null", "[1, 11]"] {
        check_json(&["amount max 10"], &format!(r#"{{"amount": {amount}}}"#), "no amount");
    }
    check_json(&["attachments absent"], r#"{"to": "x"}"#, "ok");
    for attachments in ["[]", "null", "[1]"] {
        check_json(
            &["attachments absent"],
            &format!(r#"{{"attachments": {attachments}}}"#),
            "no attachments",
        );
    }
}

#[test]
fn a5_m2_q26_a_name_that_a_rule_reads_has_one_reading_and_any_other_name_may_be_anything() {
    let rules = ["currency in usd"];
    for form in [
        "currency=usd&currency=usd",
        "currency=usd&currency[]=eur",
        "currency=usd&%63urrency=eur",
        "currency=usd&Currency=eur",
        "currency=usd;currency=eur",
        "currency=usd& currency=eur",
        "currency[0]=usd",
        "currency=%zz",
        "currency=usd&a=%0",
    ] {
        check(&rules, form, "400");
    }
    for body in
        [r#"{"currency": "usd", "currency": "eur"}"#, r#"{"currency": "usd", "CURRENCY": "eur"}"#, "x", "{"]
    {
        check_json(&rules, body, "400");
    }
    check(&rules, "currency=usd&expand[0]=customer&expand[]=x&a=1&a=2&DateSent%3E=2026", "ok");
    check_json(&rules, r#"{"currency": "usd", "a": 1, "a": 2, "A": 3}"#, "ok");
    // Whatever its spelling, a name that must be absent is not there.
    for form in ["fee=1", "Fee=1", "fee[]=1", "fee[x]=1", "%66ee=1", "a=1;fee=2", "fee"] {
        check(&["fee absent"], form, "no fee");
    }
    check(&["fee absent"], "coffee=1&fees=2&a=fee", "ok");
    let charge = post("/v1/charges");
    let rules = params(&rules);
    let both = verdict(&rules, &charge, "currency=usd", Body::Form(b"currency=usd"));
    assert_eq!(both, "400", "once in the query and once in the body");
    assert_eq!(verdict(&rules, &charge, "currency=eur", Body::Form(b"amount=1")), "no currency");
    assert_eq!(verdict(&rules, &charge, "currency=usd", Body::Form(b"amount=1")), "ok");
    assert_eq!(verdict(&rules, &charge, "currency=eur", Body::Json(b"{}")), "no currency");
    assert_eq!(verdict(&rules, &charge, "", Body::Other), "415");
    assert_eq!(verdict(&Params::default(), &charge, "a=%", Body::Other), "ok", "no rule reads it");
}

#[test]
fn a_rule_may_concern_some_endpoints_only_and_reads_their_path() {
    let rules = params(&["customer in cus_1", "amount max 5 on POST /v1/refunds"]);
    let of = |path: &str, form: &str| verdict(&rules, &post(path), "", Body::Form(form.as_bytes()));
    assert_eq!(of("/v1/charges", "amount=9"), "ok");
    assert_eq!(of("/v1/refunds", "amount=9"), "no amount");
    assert_eq!(of("/v1/customers/cus_1", "name=a"), "ok");
    assert_eq!(of("/v1/customers/cus_2", "name=a"), "no customer");
    assert_eq!(of("/v1/customers/cus_1", "customer=cus_2"), "no customer");
    // `**` in a rule that restricts also stands for operations that `**` never allows.
    let rules = params(&["customer in cus_1 on POST /v1/**"]);
    let escalating = verdict(&rules, &post("/v1/ephemeral_keys"), "", Body::Form(b"customer=cus_2"));
    assert_eq!(escalating, "no customer");
}

#[test]
fn s4_the_refusal_names_the_rule_and_what_it_allows_and_nothing_that_was_sent() {
    let rules = params(&["currency in usd,eur required"]);
    let charge = post("/v1/charges");
    let request = Parameters { call: &charge, query: b"", body: Body::Form(b"currency=secret") };
    let message = rules.allow(&request).unwrap_err().denial(crate::time::UnixMicros(0), "").message;
    assert!(message.contains("`currency`") && message.contains("one of usd, eur"), "{message}");
    assert!(!message.contains("secret"), "{message}");
    let many: Vec<String> = (0..12).map(|at| format!("cus_{at}")).collect();
    let shown = params(&[&format!("customer in {}", many.join(","))]).0[0].tests.to_string();
    assert!(shown.ends_with("cus_9 and 2 more"), "{shown}");
}

#[test]
fn rules_that_cannot_be_meant_are_refused_at_issue() {
    let refused = |rule: &str, words: &str| {
        let error = serde_json::from_str::<Params>(&format!("[{rule}]")).unwrap_err().to_string();
        assert!(error.contains(words), "{rule}: {error}");
    };
    refused(r#"{"name": "a"}"#, "says nothing about its value");
    refused(r#"{"name": "a", "in": []}"#, "in needs 1 to 500");
    refused(r#"{"name": "a", "in": ["a"], "equals": "a"}"#, "either equals or in");
    refused(r#"{"name": "a", "min": 2, "max": 1}"#, "min is above max");
    refused(r#"{"name": "a", "absent": true, "required": true}"#, "absent stands alone");
    refused(r#"{"name": "a", "domain": "@example.com"}"#, "write a domain");
    refused(r#"{"name": "a", "domain": "*.example.com"}"#, "write a domain");
    refused(r#"{"name": "a b", "required": true}"#, "is not a parameter's name");
    refused(r#"{"name": [], "required": true}"#, "1 to 10 names");
    refused(r#"{"name": "a", "max": 1.5}"#, "");
    refused(r#"{"name": "a", "regex": "x"}"#, "unknown field `regex`");
    refused(r#"{"name": "a", "required": true, "endpoints": ["GET"]}"#, "write a method");
    let long: Params =
        (0..50).map(|_| format!("a in {}", "x".repeat(190)).parse::<ParamRule>().unwrap()).collect();
    assert!(long.judge().unwrap_err().problem.contains("8192 bytes"));
}

#[test]
fn m11_a_child_may_repeat_or_tighten_each_rule_and_no_more() {
    let check = |parent: &[&str], child: &[&str], is_within: bool| {
        let result = params(child).is_within(&params(parent));
        assert_eq!(result.is_ok(), is_within, "{parent:?} {child:?}: {result:?}");
    };
    check(&[], &["a required"], true);
    check(&["a in x,y"], &["a in x,y"], true);
    check(&["a in x,y"], &["a in x", "b required"], true);
    check(&["a in x,y"], &["a absent"], true);
    check(&["a in x,y"], &["a in x,z"], false);
    check(&["a in x,y"], &["a required"], false);
    check(&["a in x,y"], &[], false);
    check(&["a prefix +1"], &["a prefix +1415,+1416"], true);
    check(&["a prefix +1"], &["a in +1415"], true);
    check(&["a prefix +1"], &["a prefix +"], false);
    check(&["a max 10"], &["a max 10"], true);
    check(&["a max 10"], &["a in 5,10"], true);
    check(&["a max 10"], &["a max 11"], false);
    check(&["a max 10"], &["a in 5,x"], false);
    check(&["a min 10"], &["a min 12 max 15"], true);
    check(&["a min 10"], &["a max 5"], false);
    check(&["a domain x.com,y.com"], &["a domain y.com"], true);
    check(&["a domain x.com"], &["a in b@x.com"], true);
    check(&["a required"], &["a in x"], false);
    check(&["a required"], &["a in x required"], true);
    check(&["a absent"], &["a in x"], false);
    check(&["a,b in x"], &["a in x"], false);
    check(&["a,b in x"], &["a in x", "b absent"], true);
    check(&["a in x on POST /v1/charges"], &["a in x"], true);
    check(&["a in x on POST /v1/charges"], &["a in x on POST /v1/charges on GET /v1/charges"], true);
    check(&["a in x"], &["a in x on POST /v1/charges"], false);
    check(&["a in x on POST /v1/charges"], &["a in x on POST /v1/refunds"], false);
}

/// A rule as a naive reader has it: on one of two names, in some of two endpoints.
#[derive(Clone, Debug)]
struct Naive {
    name: &'static str,
    on: Option<&'static str>,
    any_of: Option<Vec<&'static str>>,
    prefix: Option<&'static str>,
    max: Option<u64>,
    is_required: bool,
    is_absent: bool,
}

impl Naive {
    fn rule(&self) -> ParamRule {
        let mut text = self.name.to_owned();
        if self.is_absent {
            text += " absent";
        } else {
            text += &self.any_of.as_ref().map_or(String::new(), |values| format!(" in {}", values.join(",")));
            text += &self.prefix.map_or(String::new(), |prefix| format!(" prefix {prefix}"));
            text += &self.max.map_or(String::new(), |max| format!(" max {max}"));
            text += if self.is_required || text == self.name { " required" } else { "" };
        }
        text += &self.on.map_or(String::new(), |path| format!(" on POST {path}"));
        text.parse().unwrap()
    }

    fn allows(&self, path: &str, pairs: &[(&str, &str)]) -> bool {
        if self.on.is_some_and(|on| on != path) {
            return true;
        }
        let value = pairs.iter().find(|(name, _)| *name == self.name).map(|(_, value)| *value);
        if self.is_absent {
            return value.is_none();
        }
        let has_test = self.any_of.is_some() || self.prefix.is_some() || self.max.is_some();
        let Some(value) = value else { return !self.is_required && has_test };
        self.any_of.as_ref().is_none_or(|values| values.contains(&value))
            && self.prefix.is_none_or(|prefix| value.starts_with(prefix))
            && self.max.is_none_or(|max| value.parse::<u64>().is_ok_and(|number| number <= max))
    }
}

const VALUES: [&str; 6] = ["usd", "us", "5", "50", "500", "x"];

fn naive() -> impl Strategy<Value = Naive> {
    let values = proptest::sample::subsequence(VALUES.to_vec(), 1..4);
    let on = proptest::option::of(prop_oneof![Just("/v1/charges"), Just("/v1/refunds")]);
    (
        (prop_oneof![Just("a"), Just("b")], on, proptest::option::of(values)),
        (
            proptest::option::of(prop_oneof![Just("u"), Just("us"), Just("5")]),
            proptest::option::of(0u64..600),
        ),
        (any::<bool>(), proptest::bool::weighted(0.15)),
    )
        .prop_map(|((name, on, any_of), (prefix, max), (is_required, is_absent))| Naive {
            name,
            on,
            any_of,
            prefix,
            max,
            is_required,
            is_absent,
        })
}

fn pairs() -> impl Strategy<Value = Vec<(&'static str, &'static str)>> {
    let value = || proptest::option::of(proptest::sample::select(VALUES.to_vec()));
    (value(), value()).prop_map(|(a, b)| {
        a.map(|value| ("a", value)).into_iter().chain(b.map(|value| ("b", value))).collect()
    })
}

proptest! {
    /// In a form, in a query and in JSON, rules say what a naive reader says.
    #[test]
    fn rules_say_what_a_naive_model_says(
        rules in proptest::collection::vec(naive(), 0..4),
        pairs in pairs(),
        path in prop_oneof![Just("/v1/charges"), Just("/v1/refunds")],
    ) {
        let expected = rules.iter().all(|rule| rule.allows(path, &pairs));
        let params: Params = rules.iter().map(Naive::rule).collect();
        let form = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
        let object: serde_json::Map<_, _> =
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        let json = serde_json::to_string(&object).unwrap();
        let call = post(path);
        for (query, body) in [
            ("", Body::Form(form.as_bytes())),
            (form.as_str(), Body::Form(b"")),
            ("", Body::Json(json.as_bytes())),
        ] {
            let seen = verdict(&params, &call, query, body);
            prop_assert_eq!(seen == "ok", expected, "{} {}", query, seen);
            prop_assert!(seen == "ok" || seen.starts_with("no "), "{}", seen);
        }
    }

    /// What a child within its parent allows, the parent allows.
    #[test]
    fn m11_rules_within_a_parents_allow_nothing_that_the_parents_forbid(
        parent in proptest::collection::vec(naive(), 1..3),
        child in proptest::collection::vec(naive(), 1..4),
        requests in proptest::collection::vec(pairs(), 1..20),
    ) {
        let (of_parent, of_child): (Params, Params) =
            (parent.iter().map(Naive::rule).collect(), child.iter().map(Naive::rule).collect());
        if of_child.is_within(&of_parent).is_ok() {
            for pairs in requests {
                for path in ["/v1/charges", "/v1/refunds"] {
                    let allows = |rules: &[Naive]| rules.iter().all(|rule| rule.allows(path, &pairs));
                    prop_assert!(!allows(&child) || allows(&parent), "{:?} {}", pairs, path);
                }
            }
        }
        prop_assert!(of_parent.is_within(&of_parent).is_ok());
    }

    #[test]
    fn arbitrary_requests_never_panic(query: Vec<u8>, body: Vec<u8>) {
        let rules = params(&["a in x", "b.c domain x.com", "d absent"]);
        let call = post("/v1/charges");
        for body in [Body::Form(&body), Body::Json(&body)] {
            let _verdict = rules.allow(&Parameters { call: &call, query: &query, body });
        }
    }
}
