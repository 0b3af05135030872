//! One function decides on every vendor path and method, whichever way the request came in (rule A6).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_proto::catalog::Catalog;
use keybrake_proto::http1::Method;
use keybrake_tests::{Client, Setup, Vendor, call, paid, request};
use serde_json::json;

/// A path of this pattern.
fn path_of(pattern: &str) -> String {
    let segment = |segment: &str| match segment.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((_, ending)) => format!("x_1{ending}"),
        None => segment.to_owned(),
    };
    pattern.split('/').map(segment).collect::<Vec<_>>().join("/")
}

#[test]
fn a6_no_operation_and_no_way_in_goes_past_the_policy() {
    let vendor = Vendor::start(paid);
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["GET /v1/balance"], &json!({}));
    let operations = Catalog::of("stripe").unwrap().operations();
    let known = operations.iter().map(|operation| (operation.method, path_of(operation.pattern)));
    let others = [
        "/v1/not/in/the/table",
        "/v2/nothing",
        "/v1/balance/x",
        "/v1/Balance",
        "/v1/livez",
        "/v1/vault/keys",
    ];
    let unknown = others.iter().flat_map(|path| Method::ALL.map(|method| (method, (*path).to_owned())));
    let balance = Method::ALL.map(|method| (method, "/v1/balance".to_owned()));
    let mut agent = Client::connect(keybrake.proxy());
    let mut refused = 0;
    for (method, path) in known.chain(unknown).chain(balance) {
        if (method, path.as_str()) == (Method::Get, "/v1/balance") {
            continue;
        }
        for mount in ["/stripe", "", "/stripe/", "/stripe/v1"] {
            let head = format!("{} {mount}{path}\nAuthorization: Bearer {}", method.as_str(), key.text);
            agent.send(request(&head, b""));
            let reply = agent.reply();
            // A second version behind the mount is folded only where it is one.
            assert!(matches!(reply.status, 400 | 403), "{head}: {} {}", reply.status, reply.text());
            refused += 1;
            if reply.closes() {
                agent = Client::connect(keybrake.proxy());
            }
        }
    }
    assert!(refused > 2000, "{refused}");
    assert_eq!(vendor.arrived_bytes(), 0, "the vendor got bytes of a request that was refused");
    let reply =
        call(keybrake.proxy(), &format!("GET /stripe/v1/balance\nAuthorization: Bearer {}", key.text), b"");
    assert_eq!((reply.status, vendor.seen().len()), (200, 1), "{}", reply.text());
}
