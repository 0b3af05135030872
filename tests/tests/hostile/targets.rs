//! Targets and methods (rules A1, A2, A3, A5, A6, E1).

use super::play::{Case, FORM, get, post, refused, sent, silent};

const ID: &str = "/stripe/v1/charges/ch_1";

pub(crate) fn cases() -> Vec<Case> {
    [paths(), endpoints(), queries(), forms_of_target(), methods(), versions()]
        .into_iter()
        .flatten()
        .collect()
}

/// A1: what does not fit the grammar is refused, never repaired.
fn paths() -> Vec<Case> {
    let wrong = [
        "/stripe/v1/charges/ch%2F1",
        "/stripe/v1/charges/ch%2f1",
        "/stripe/v1/charges/ch%5C1",
        "/stripe/v1/charges/%2e%2e/payouts",
        "/stripe/v1/charges/%2E%2E%2Fpayouts",
        "/stripe/v1/charges/ch_1%00",
        "/stripe/v1/charges/ch_1%0d%0aX: y",
        "/stripe/v1/charges/ch_1%0a",
        "/stripe/v1/charges/ch%252F1",
        "/stripe/v1/charges/ch_1%",
        "/stripe/v1/charges/ch_1%2",
        "/stripe/v1/charges/ch_1%zz",
        "/stripe/v1/%63harges/ch_1",
        "/stripe/v1/charges/ch%2B1",
        "/stripe/v1/charges/ch%C0%AF1",
        "/stripe/v1/charges/ch%u002f1",
        "/stripe/v1/charges/../payouts",
        "/stripe/v1/charges/./ch_1",
        "/stripe/v1/charges/.",
        "/stripe/v1/charges/..",
        "/stripe/v1/charges/...",
        "/stripe/../stripe/v1/charges/ch_1",
        "/../stripe/v1/charges/ch_1",
        "/stripe/v1/charges//ch_1",
        "/stripe/v1//charges/ch_1",
        "/stripe///v1/charges/ch_1/",
        "//stripe/v1/charges/ch_1",
        "/stripe/v1/charges/ch_1/",
        "/stripe/v1/charges/ch_1//",
        "/stripe/v1/charges/ch_1;x=1",
        "/stripe/v1/charges;/ch_1",
        "/stripe/v1/charges/ch_1\\",
        "/stripe/v1\\charges\\ch_1",
        "/stripe/v1/charges/ch_1\\..\\payouts",
        "/stripe/v1/charges/ch_1#x",
        "/stripe/v1/charges/ch_1\"",
        "/stripe/v1/charges/ch_1'",
        "/stripe/v1/charges/<ch_1>",
        "/stripe/v1/charges/{ch_1}",
        "/stripe/v1/charges/ch|1",
        "/stripe/v1/charges/ch^1",
        "/stripe/v1/charges/ch`1",
        "/stripe/v1/charges/ch_1@x",
        "/stripe/v1/charges/ch_1:80",
        "/stripe/v1/charges/ch,1",
        "/stripe/v1/charges/ch=1",
        "/stripe/v1/charges/ch&1",
        "/stripe/v1/charges/ch!1",
        "/stripe/v1/charges/ch$1",
        "/stripe/v1/charges/(ch_1)",
        "/stripe/v1/charges/*",
        "/stripe/v1/charges/ch\u{e9}1",
        "/stripe/v1/charges/\u{c0}\u{af}",
        "/stripe/v1/charges/\u{ff}",
        "/stripe/v1/charges/ch\u{7f}1",
        "/stripe/v1/charges/ch\u{1}1",
        "/stripe/v1/charges/ch\u{1b}1",
        "/stripe/v1/charges/ch\u{c}1",
        "/stripe/v1/charges/ch\t1",
        "/stripe/v1/charges/ch\u{b}1",
        "/stripe/v1/charges/ch\u{85}1",
        "/stripe/v1/v1/v1/charges/ch_1/",
        "/",
    ];
    wrong.into_iter().map(|target| refused(400, &format!("a1 path {target:?}"), get(target, ""))).collect()
}

/// A2, A6: one verdict whatever the way in; a rule's `*` is one parameter, and case counts.
fn endpoints() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        "/stripe/v1/charges/ch_1",
        "/stripe//v1/charges/ch_1",
        "/stripe/v1/v1/charges/ch_1",
        "/stripe/v1//v1/charges/ch_1",
        "/v1/charges/ch_1",
    ]
    .into_iter()
    .map(|target| sent("GET /v1/charges/ch_1", "", &format!("a6 way in {target}"), get(target, "")))
    .collect();
    for (status, target) in [
        (403, "/stripe/v1/charges/search"),
        (403, "/stripe/v1/Charges/ch_1"),
        (403, "/stripe/V1/charges/ch_1"),
        (403, "/Stripe/v1/charges/ch_1"),
        (403, "/stripe/v1/charges/ch_1/refunds"),
        (403, "/stripe/v1/charges"),
        (403, "/stripe/v1/charges."),
        (403, "/stripe/v1/charge"),
        (403, "/stripe/v1/chargess/ch_1"),
        (403, "/stripe/v1/charges.json/ch_1"),
        (403, "/stripe/v1/balance"),
        (403, "/stripe/v2/charges/ch_1"),
        (403, "/stripe/v3/charges/ch_1"),
        (403, "/stripe/charges/ch_1"),
        (403, "/v1/balance"),
        (403, "/v2/charges/ch_1"),
        (403, "/resend/emails"),
        (403, "/twilio/2010-04-01/Accounts/AC1/Messages.json"),
        (403, "/api.stripe.com/v1/charges/ch_1"),
        (403, "/http/v1/charges/ch_1"),
        (403, "/localhost/v1/charges/ch_1"),
    ] {
        cases.push(refused(status, &format!("a2 endpoint {target}"), get(target, "")));
    }
    let plain = ["ch_1.", "ch_1..", "~ch_1", "ch+1", "-", "_", "~", "a.b.c", "ch_1.json"];
    for id in plain {
        let target = format!("/v1/charges/{id}");
        let line = format!("GET {target}");
        cases.push(sent(&line, "", &format!("a1 plain id {id}"), get(&format!("/stripe{target}"), "")));
    }
    cases.push(refused(403, "a2 post to what may be read", post("/stripe/v1/charges/ch_1", "", FORM)));
    cases
}

/// A5, A4: a query is sent byte for byte or refused.
fn queries() -> Vec<Case> {
    let mut cases = Vec::new();
    for query in [
        "limit=1",
        "",
        "expand[0]=customer",
        "expand[]=customer&expand[]=refunds",
        "created[gte]=1",
        "a=%2F%5C%25",
        "a=/../..//",
        "a=b?c=d",
        "a;b=c",
        "a='x'",
        "a=1&a=2",
        "a=*&b=(c)!$,:@",
        "%5bx%5d=1",
        "method=DELETE",
        "x_method=DELETE",
    ] {
        let line = format!("GET /v1/charges/ch_1?{query}");
        cases.push(sent(&line, "", &format!("a5 query {query:?}"), get(&format!("{ID}?{query}"), "")));
    }
    for query in [
        "a=%",
        "a=%2",
        "a=%zz",
        "a=%00",
        "a=\\",
        "a=#",
        "#",
        "a=\"",
        "a=<b>",
        "a={b}",
        "a=b|c",
        "a=^",
        "a=`",
        "a=\u{e9}",
        "a=\u{ff}",
        "a=\u{1}",
        "a=\u{7f}",
        "a=\t",
        "a=\u{85}",
        "_method=DELETE",
        "x=1&_method=DELETE",
        "x=1;_method=DELETE",
        "%5fmethod=DELETE",
        "_%6dethod=DELETE",
        "_METHOD=DELETE",
        "_method",
        "_method[]=DELETE",
        "_stripe_account=acct_1",
        "%5Fstripe_account=acct_1",
        "_stripe_context=acct_1",
        "_stripe_version=2010-01-01",
        "key=sk_live_1",
    ] {
        cases.push(refused(400, &format!("a5 query {query:?}"), get(&format!("{ID}?{query}"), "")));
    }
    cases
}

/// E1, A1: origin form and nothing else; no form of target leads to another host.
fn forms_of_target() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        "http://keybrake.test/stripe/v1/charges/ch_1",
        "https://api.stripe.com/v1/charges/ch_1",
        "HTTP://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "ftp://x/y",
        "api.stripe.com:443",
        "api.stripe.com/v1/charges/ch_1",
        "stripe/v1/charges/ch_1",
        "@evil.test/v1/charges/ch_1",
        "?limit=1",
        "#",
        "*",
        "%2Fstripe/v1/charges/ch_1",
        "\\stripe\\v1\\charges",
        ".",
        "..",
        "[::1]/v1",
    ]
    .into_iter()
    .map(|target| refused(400, &format!("e1 target {target}"), get(target, "")))
    .collect();
    for target in [
        "//evil.test/v1/charges/ch_1",
        "//evil.test:443/stripe/v1/charges/ch_1",
        "/@evil.test/v1/charges/ch_1",
    ] {
        cases.push(refused(400, &format!("e1 target {target}"), get(target, "")));
    }
    cases.push(refused(403, "e1 a host as the mount", get("/evil.test/v1/charges/ch_1", "")));
    cases
}

/// A3, S6, H5: a closed set, in capitals.
fn methods() -> Vec<Case> {
    let methods = [
        "HEAD", "OPTIONS", "TRACE", "CONNECT", "PRI", "get", "Get", "GETT", "GE", "POSTS", "post", "LINK",
        "PURGE", "PROPFIND", "MKCOL", "SEARCH", "QUERY", "DEBUG", "X", "\"GET\"", "GET\u{1}", "\u{e9}", "*",
        "0",
    ];
    let mut cases: Vec<Case> = methods
        .into_iter()
        .map(|method| {
            refused(405, &format!("a3 method {method:?}"), format!("{method} {ID} HTTP/1.1\r\n{{auth}}\r\n"))
        })
        .collect();
    for (name, request) in [
        ("a3 a tunnel", "CONNECT api.stripe.com:443 HTTP/1.1\r\nHost: api.stripe.com:443\r\n\r\n"),
        ("h5 the preface of http/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        ("a3 options for the server", "OPTIONS * HTTP/1.1\r\n{auth}\r\n"),
        ("a3 a blank first", " GET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\n"),
        ("a3 a tab first", "\tGET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\n"),
        ("a3 a byte order mark", "\u{ef}\u{bb}\u{bf}GET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\n"),
        ("a3 the proxy protocol", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\n\r\n"),
        ("a3 a reply", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        ("a3 a nul first", "\u{0}GET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\n"),
        ("a3 a tab behind the method", "GET\t/stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\n"),
    ] {
        cases.push(refused(405, name, request));
    }
    let hello = "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}";
    cases.push(refused(400, "a3 a tls hello", hello));
    cases.push(refused(403, "a2 a put is not a post", "PUT /stripe/v1/charges HTTP/1.1\r\n{auth}\r\n"));
    cases.push(refused(403, "a2 a patch is not a post", "PATCH /stripe/v1/charges HTTP/1.1\r\n{auth}\r\n"));
    cases.push(refused(
        403,
        "a2 a delete is not a get",
        "DELETE /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\n",
    ));
    cases.push(sent(
        "DELETE /v1/customers/cus_1",
        "",
        "a2 a delete that is allowed",
        "DELETE /stripe/v1/customers/cus_1 HTTP/1.1\r\n{auth}\r\n",
    ));
    cases
}

/// H2, H1: HTTP/1.1 and one blank on either side of the target.
fn versions() -> Vec<Case> {
    let mut cases = Vec::new();
    for (status, line) in [
        (505, "GET /stripe/v1/charges/ch_1 HTTP/1.0"),
        (505, "GET /stripe/v1/charges/ch_1 HTTP/1.2"),
        (505, "GET /stripe/v1/charges/ch_1 HTTP/0.9"),
        (505, "GET /stripe/v1/charges/ch_1 HTTP/2.0"),
        (505, "GET /stripe/v1/charges/ch_1 HTTP/9.9"),
        (400, "GET /stripe/v1/charges/ch_1"),
        (400, "GET"),
        (400, "GET /stripe/v1/charges/ch_1 "),
        (400, "GET /stripe/v1/charges/ch_1 HTTP/1.1 "),
        (400, "GET /stripe/v1/charges/ch_1 HTTP/1.1\t"),
        (400, "GET  /stripe/v1/charges/ch_1 HTTP/1.1"),
        (400, "GET /stripe/v1/charges/ch_1  HTTP/1.1"),
        (400, "GET /stripe/v1/charges/ch_1\tHTTP/1.1"),
        (400, "GET /stripe/v1/charges/ch_1 http/1.1"),
        (400, "GET /stripe/v1/charges/ch_1 HTTP/1"),
        (400, "GET /stripe/v1/charges/ch_1 HTTP/1.10"),
        (400, "GET /stripe/v1/charges/ch_1 HTTP/11"),
        (400, "GET /stripe/v1/charges/ch_1 HTTP/+1.1"),
        (400, "GET /stripe/v1/charges/ch_1 HTTP/ 1.1"),
        (400, "GET /stripe/v1/charges/ch_1 HTTP1.1"),
        (400, "GET /stripe/v1/charges/ch_1 HTTQ/1.1"),
        (400, "GET /stripe/v1/charges/ch_1 x HTTP/1.1"),
        (400, "GET /stripe/v1/charges/ch_1 HTTP/1.1 x"),
        (400, "GET HTTP/1.1"),
        (400, "GET /stripe/v1/charges/ch_1\u{a0}HTTP/1.1"),
    ] {
        // What is not a whole word of a method waits for its line end.
        let status = if line == "GET" { 405 } else { status };
        cases.push(refused(status, &format!("h2 line {line:?}"), format!("{line}\r\n{{auth}}\r\n")));
    }
    cases.push(silent("h1 a head that never ends", "GET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}"));
    cases.push(silent("h1 half a method", "GE"));
    cases.push(silent(
        "h1 a head without the last line feed",
        "GET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r",
    ));
    cases
}
