//! JSON to a vendor that speaks it: one reading of who is mailed and how often (rules A4, A5, M2, H3).

use super::play::{Case, get, length, refused, sent};

const MAIL: &str = r#"{"from":"a@b.c","to":["d@e.f"],"subject":"g","text":"h"}"#;

fn post(lines: &str, body: &str) -> String {
    let length = length(body);
    format!("POST /resend/emails HTTP/1.1\r\n{{auth}}{lines}Content-Length: {length}\r\n\r\n{body}")
}

const JSON: &str = "Content-Type: application/json\r\n";

pub(crate) fn cases() -> Vec<Case> {
    [texts(), kinds(), reads()].into_iter().flatten().collect()
}

/// M2: JSON of which parsers differ.
fn texts() -> Vec<Case> {
    let mut cases = Vec::new();
    for body in [
        r#"{"to":"a@b.c","to":["d@e.f","g@h.i"]}"#,
        r#"{"to":"a@b.c","t\u006f":["d@e.f"]}"#,
        r#"{"to":"a@b.c","cc":"x@y.z","cc":"x@y.z"}"#,
        r#"{"to":1}"#,
        r#"{"to":{"0":"a@b.c"}}"#,
        r#"{"to":[["a@b.c"]]}"#,
        r#"{"to":[1e3]}"#,
        "",
    ] {
        cases.push(refused(400, &format!("m2 json {body:?}"), post(JSON, body)));
    }
    for body in [
        r#"{"to":NaN}"#,
        r#"{"to":"a@b.c"} {}"#,
        r#"{"to":"a@b.c"}x"#,
        r#"{"to":"a@b.c",}"#,
        r#"{'to':'a@b.c'}"#,
        r#"{to:"a@b.c"}"#,
        r#"{"to":"a@b.c""#,
        r#"{"to":"a@b.c" /* x */}"#,
        r#""to""#,
        "1",
        "null",
        "\u{ef}\u{bb}\u{bf}{\"to\":\"a@b.c\"}",
        "{\"to\":\"a@b.c\",\"x\":\"\u{ff}\"}",
        "{\"to\":\"a@b.c\",\"x\":\"\u{0}\"}",
        "{\u{0}\"to\":\"a@b.c\"}",
        "{\"to\":\"a@b.c\"}\u{0}",
        r#"{"to":"a@b.c","x":"\x41"}"#,
        r#"{"to":"a@b.c","x":01}"#,
        r#"{"to":"a@b.c","x":+1}"#,
        r#"{"to":"a@b.c","x":.5}"#,
    ] {
        cases.push(refused(415, &format!("m2 no json {body:?}"), post(JSON, body)));
    }
    cases
}

fn kinds() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: application/json; charset=utf-16\r\n",
        "Content-Type: application/json, text/plain\r\n",
        "Content-Type: application/json; x=y\r\n",
        "Content-Type: application/jsonx\r\n",
        "Content-Type: application/problem+json\r\n",
        "Content-Type: application/json\r\nContent-Encoding: gzip\r\n",
        "Content-Type: application/json\r\nContent-Encoding: br\r\n",
    ] {
        cases.push(refused(415, &format!("m2 json as {kind:?}"), post(kind, MAIL)));
    }
    for body in [MAIL, r#" {"to":"a@b.c"} "#, r#"{"to":"a@b.c","x":{"to":1e3}}"#] {
        cases.push(sent("POST /emails", body, &format!("m2 json {body:?}"), post(JSON, body)));
    }
    let with_charset = post("Content-Type: application/json; charset=utf-8\r\n", MAIL);
    cases.push(sent("POST /emails", MAIL, "m2 json with its charset", with_charset));
    cases
}

/// H3: Resend's SDK sends a GET with braces, which are read and dropped.
fn reads() -> Vec<Case> {
    let mut cases = Vec::new();
    let line = "GET /emails/em_1";
    cases.push(sent(
        line,
        "",
        "h3 braces of a get",
        format!("{}{{}}", get("/resend/emails/em_1", "Content-Length: 2\r\n")),
    ));
    cases.push(sent(
        line,
        "",
        "h3 braces of a get in chunks",
        format!("{}2\r\n{{}}\r\n0\r\n\r\n", get("/resend/emails/em_1", "Transfer-Encoding: chunked\r\n")),
    ));
    for body in ["{\"a\":1}", "[]", "x", "{}{}", "GET / HTTP/1.1\r\n\r\n"] {
        let head = get("/resend/emails/em_1", &format!("Content-Length: {}\r\n", body.len()));
        cases.push(refused(400, &format!("h3 a get with {body:?}"), format!("{head}{body}")));
    }
    for (status, path) in [
        (403, "/resend/Emails/em_1"),
        (403, "/resend/api-keys"),
        (400, "/resend/emails/"),
        (403, "/emails/em_1"),
    ] {
        cases.push(refused(status, &format!("a2 path {path}"), get(path, "")));
    }
    cases.push(sent("GET /emails/em_1", "", "a6 the fold behind the mount", get("/resend//emails/em_1", "")));
    cases
}
