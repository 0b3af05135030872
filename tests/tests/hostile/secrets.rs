//! The vault key outside its slot, and echoes (rules S4, S6).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use super::play::{Case, FORM, get, post, refused, sent};

const ID: &str = "/stripe/v1/charges/ch_1";

/// A key that is not the agent's: any key is kept from vendors. It has the form and the checksum of one.
pub(crate) fn other_key() -> String {
    keybrake_proto::key::mint(|bytes| bytes.fill(77))
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

pub(crate) fn cases() -> Vec<Case> {
    [places(), forms()].into_iter().flatten().collect()
}

/// Where a key may not stand.
fn places() -> Vec<Case> {
    let mut cases = vec![
        refused(400, "s4 the key in the query", get(&format!("{ID}?api_key={{key}}"), "")),
        refused(400, "s4 the key as a name in the query", get(&format!("{ID}?{{key}}"), "")),
        refused(400, "s4 the key behind a question mark in the query", get(&format!("{ID}?a?{{key}}=b"), "")),
        refused(400, "s4 the key in the path", get("/stripe/v1/charges/{key}", "")),
        refused(400, "s4 the key within a segment", get("/stripe/v1/charges/ch_{key}.json", "")),
        refused(
            400,
            "s4 the key in a form",
            post("/stripe/v1/charges", "", &format!("{FORM}&description={{key}}")),
        ),
        refused(
            400,
            "s4 the key as a name in a form",
            post("/stripe/v1/charges", "", &format!("{FORM}&{{key}}=1")),
        ),
        refused(
            400,
            "s4 the key in metadata",
            post("/stripe/v1/charges", "", &format!("{FORM}&metadata[key]={{key}}&x=y")),
        ),
        refused(
            400,
            "s4 the key cut by chunks",
            format!(
                "POST /stripe/v1/charges HTTP/1.1\r\n{{auth}}Content-Type: application/x-www-form-urlencoded\r\n\
                 Transfer-Encoding: chunked\r\n\r\n1b\r\n{FORM}&x=\r\n{}\r\n0\r\n\r\n",
                in_two_chunks(&other_key())
            ),
        ),
    ];
    for field in [
        "X-Api-Key: {key}",
        "Api-Key: {key}",
        "Cookie: session={key}; x=y",
        "Proxy-Authorization: Bearer {key}",
        "User-Agent: agent ({key})",
        "Idempotency-Key: {key}",
        "Idempotency-Key: order-{key}-1",
        "Referer: https://a.test/?key={key}",
        "X-Stripe-Client-User-Agent: {\"key\":\"{key}\"}",
        "Stripe-Version: {key}",
        "Accept: {key}",
        "Keybrake-Agent-Id: {key}",
        "Keybrake-Metadata-Key: {key}",
        "traceparent: {key}",
        "X: a{key}b",
    ] {
        cases.push(refused(400, &format!("s4 the key in {field:?}"), get(ID, &format!("{field}\r\n"))));
    }
    cases
}

/// In which forms a key is known.
fn forms() -> Vec<Case> {
    let other = other_key();
    let mut cases = Vec::new();
    for (name, value) in [
        ("another key", other.clone()),
        ("another key, escaped", escaped(&other)),
        ("another key, partly escaped", other.replace('_', "%5f").replace('v', "%76")),
        ("another key in base64", STANDARD.encode(&other)),
        ("another key in base64 behind a letter", STANDARD.encode(format!("x{other}"))),
        ("another key in base64 behind two letters", STANDARD.encode(format!("xy{other}"))),
        ("the pair of a basic", STANDARD.encode(format!("{other}:"))),
        ("the other pair of a basic", STANDARD.encode(format!("AC0:{other}"))),
        ("another key in base64 for urls", URL_SAFE_NO_PAD.encode(format!("?>{other}"))),
        ("another key in base64, escaped", escaped(&STANDARD.encode(format!("{other}:")))),
    ] {
        let form = format!("{FORM}&description={}", value.replace('+', "%2B").replace('=', "%3D"));
        cases.push(refused(400, &format!("s4 {name} in a form"), post("/stripe/v1/charges", "", &form)));
        cases.push(refused(400, &format!("s4 {name} in a field"), get(ID, &format!("X: {value}\r\n"))));
        let query = value.replace('+', "%2B").replace('=', "%3D");
        cases.push(refused(400, &format!("s4 {name} in a query"), get(&format!("{ID}?x={query}"), "")));
    }
    for text in
        ["vault_", "vault_key_", "vault_key_00000000000000000000000000000000000000", "dmF1bHRfa2V5Xw=="]
    {
        let form = format!("{FORM}&description={}", text.replace('=', "%3D"));
        let name = format!("s4 only like a key {text}");
        cases.push(sent("POST /v1/charges", &form, &name, post("/stripe/v1/charges", "", &form)));
    }
    cases.push(refused(405, "s6 trace", format!("TRACE {ID} HTTP/1.1\r\n{{auth}}Max-Forwards: 0\r\n\r\n")));
    cases.push(refused(405, "s6 track", format!("TRACK {ID} HTTP/1.1\r\n{{auth}}\r\n")));
    cases
}

/// A text over the border of two chunks.
fn in_two_chunks(text: &str) -> String {
    let (first, second) = text.split_at(8);
    format!("{:x}\r\n{first}\r\n{:x}\r\n{second}", first.len(), second.len())
}
