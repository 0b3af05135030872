//! Paths and rules (rules A1, A2, A3, N1).

use keybrake_proto::catalog::{Call, Catalog, Operation};
use keybrake_proto::http1::{HeadLimits, Method, Parsed, RequestHead};
use keybrake_proto::policy::Rule;
use keybrake_proto::route::{Route, route};

const VENDORS: [&str; 3] = ["stripe", "twilio", "resend"];

/// Lines: a request such as `GET /stripe/v1/charges`, and two rules. Route, operation and verdict are those of a naive
/// matcher, and a rule that is within the other allows nothing more.
pub fn path_match(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.split('\n');
    let (request, rules) = (lines.next().unwrap_or_default(), lines.map(str::parse::<Rule>));
    let rules: Vec<Rule> = rules.filter_map(Result::ok).take(2).collect();
    for rule in &rules {
        assert_eq!(rule.to_string().parse().as_ref(), Ok(rule), "a rule reads back");
    }
    let Some((method, path)) = accepted(request) else { return };
    let path = path.as_bytes();
    let (vendors, path) = match route(path) {
        Ok(Route::Vendor { mount, path: inner }) => {
            assert!(path.ends_with(inner) && path[1..].starts_with(mount));
            (VENDORS.into_iter().filter(|vendor| vendor.as_bytes() == mount).collect(), inner)
        }
        Ok(Route::Bare { path: inner }) => {
            assert_eq!(path, inner);
            (VENDORS.to_vec(), inner)
        }
        Ok(Route::Keys | Route::Live | Route::Ready) | Err(_) => return,
    };
    let is_name = |segment: &[u8]| segment.iter().any(|byte| *byte != b'.');
    assert!(path[1..].split(|byte| *byte == b'/').all(is_name), "a canonical path has names only");
    for vendor in vendors {
        let call = Catalog::of(vendor).unwrap().recognize(method, path);
        judged(vendor, &call, &rules);
    }
}

fn judged(vendor: &str, call: &Call<'_>, rules: &[Rule]) {
    let operations = Catalog::of(vendor).unwrap().operations();
    assert_eq!(call.operation, operation(operations, call), "{vendor}: the operation of {call:?}");
    for rule in rules {
        assert_eq!(rule.allows(call), allows(&rule.to_string(), call), "{vendor}: {rule} {call:?}");
        assert!(rule.concerns(call) || !rule.allows(call));
    }
    if let [one, other] = rules
        && one.is_within(other, operations)
    {
        assert!(other.allows(call) || !one.allows(call), "{vendor}: {one} within {other}: {call:?}");
    }
}

/// Method and path of a request that its head's parser takes.
fn accepted(request: &str) -> Option<(Method, String)> {
    let head = format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut parser = RequestHead::new();
    let parsed = parser.parse(head.as_bytes(), &HeadLimits::REQUEST).ok()?;
    assert_eq!(parsed, Parsed::Complete { head_bytes: head.len() });
    Some((parser.method(), String::from_utf8(parser.path(head.as_bytes()).to_vec()).unwrap()))
}

fn segments(path: &str) -> Vec<&str> {
    path.split('/').skip(1).collect()
}

fn path_of<'a>(call: &Call<'a>) -> &'a str {
    std::str::from_utf8(call.path).unwrap()
}

/// How a segment fits a part of a pattern: not, as a parameter whose ending has so many bytes, or literally.
fn rank(pattern: &str, segment: &str) -> Option<usize> {
    match pattern.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        None => (pattern == segment).then_some(usize::MAX),
        Some((_, ending)) => {
            (segment.len() > ending.len() && segment.ends_with(ending)).then_some(ending.len())
        }
    }
}

/// The operation whose pattern fits best, segment by segment from the left.
fn operation(operations: &'static [Operation], call: &Call<'_>) -> Option<&'static Operation> {
    let path = segments(path_of(call));
    let ranks = |operation: &Operation| -> Option<Vec<usize>> {
        let pattern = segments(operation.pattern);
        if operation.method != call.method || pattern.len() != path.len() {
            return None;
        }
        pattern.iter().zip(&path).map(|(pattern, segment)| rank(pattern, segment)).collect()
    };
    let best = operations.iter().filter_map(|operation| ranks(operation).map(|ranks| (ranks, operation)));
    best.max_by_key(|(ranks, _)| ranks.clone()).map(|(_, operation)| operation)
}

/// A rule by its text: `*` is one parameter, `*.x` one with that ending, a last `**` the rest of what does not escalate.
fn allows(rule: &str, call: &Call<'_>) -> bool {
    let (method, rule) = rule.split_once(' ').unwrap();
    let (rule, path) = (segments(rule), segments(path_of(call)));
    let is_parameter =
        |at: usize| call.operation.is_none_or(|operation| segments(operation.pattern)[at].starts_with('{'));
    let fits = |at: usize, part: &str| match part.strip_prefix('*') {
        None => part == path[at],
        Some(ending) => is_parameter(at) && path[at].len() > ending.len() && path[at].ends_with(ending),
    };
    if method != call.method.as_str() {
        return false;
    }
    if let Some((&"**", first)) = rule.split_last() {
        let escalates = call.operation.is_some_and(|operation| operation.escalates);
        let begins = path.len() > first.len() && first.iter().enumerate().all(|(at, part)| fits(at, part));
        return begins && !escalates;
    }
    rule.len() == path.len() && rule.iter().enumerate().all(|(at, part)| fits(at, part))
}
