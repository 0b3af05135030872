//! Header lines: their grammar, and which of them arrive (rules H1, H2, H5, A4, E1, S7).

use super::play::{Case, FORM, get, post, refused, sent};

const ID: &str = "/stripe/v1/charges/ch_1";
const LINE: &str = "GET /v1/charges/ch_1";

pub(crate) fn cases() -> Vec<Case> {
    [grammar(), hosts(), dropped(), kept(), deciding(), credentials(), expectations()]
        .into_iter()
        .flatten()
        .collect()
}

/// H1: CRLF only, no folding, names are tokens.
fn grammar() -> Vec<Case> {
    let mut cases = Vec::new();
    for field in [
        "X: a\nY: b\r\n",
        "X: a\r\r\n",
        "X: a\rY: b\r\n",
        "X: a\n",
        "X: a\u{0}b\r\n",
        "X\u{0}: a\r\n",
        " X: a\r\n",
        "\tX: a\r\n",
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        "X : a\r\n",
        "X\t: a\r\n",
        "X Y: a\r\n",
        ": a\r\n",
        " : a\r\n",
        "X\r\n",
        "X a\r\n",
        "X(: a\r\n",
        "X\u{e9}: a\r\n",
        "X\u{7f}: a\r\n",
        "X\u{b}: a\r\n",
        "X\u{c}: a\r\n",
        "{X}: a\r\n",
        "\"X\": a\r\n",
        "X;: a\r\n",
        "X=: a\r\n",
        "X@: a\r\n",
        "X,Y: a\r\n",
        "X/Y: a\r\n",
        "X_Y: a\r\n",
        "_: a\r\n",
        "Content_Length: 5\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Stripe_Account: acct_1\r\n",
        "X-Http_Method-Override: DELETE\r\n",
        "X: a\u{1}\r\n",
        "X: a\u{7f}\r\n",
        "X: a\u{1b}[0m\r\n",
        "X: a\u{b}\r\n",
        "X: a\u{8}\r\n",
    ] {
        cases.push(refused(400, &format!("h1 field {field:?}"), get(ID, field)));
    }
    for (name, request) in [
        ("h1 line feeds alone", "GET /stripe/v1/charges/ch_1 HTTP/1.1\n{auth}\n"),
        ("h1 a line feed ends the head", "GET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\n"),
        ("h1 a line feed behind the line", "GET /stripe/v1/charges/ch_1 HTTP/1.1\n{auth}\r\n"),
        ("h1 carriage returns alone", "GET /stripe/v1/charges/ch_1 HTTP/1.1\r{auth}\r\n"),
        ("h1 a blank line first", "\r\nGET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\n"),
        ("h1 a line feed first", "\nGET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\n"),
        ("h1 a carriage return first", "\rGET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\n"),
        ("h1 a fold right behind the line", "GET /stripe/v1/charges/ch_1 HTTP/1.1\r\n X: a\r\n{auth}\r\n"),
        ("h1 a line break in the target", "GET /stripe/v1/charges/\nch_1 HTTP/1.1\r\n{auth}\r\n"),
        ("h1 cr cr lf ends the head", "GET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{auth}\r\r\n"),
    ] {
        cases.push(refused(400, name, request));
    }
    cases
}

/// H2, E1: one valid Host, which leads nowhere.
fn hosts() -> Vec<Case> {
    let head = |host: &str| format!("GET {ID} HTTP/1.1\r\n{host}Authorization: Bearer {{key}}\r\n\r\n");
    let mut cases = Vec::new();
    for host in [
        "",
        "Host:\r\n",
        "Host: \r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nhost: b\r\n",
        "Host: a, b\r\n",
        "Host: a b\r\n",
        "Host: user@a\r\n",
        "Host: a/b\r\n",
        "Host: http://a\r\n",
        "Host: a:99999\r\n",
        "Host: a:b\r\n",
        "Host: a:-1\r\n",
        "Host: a:+80\r\n",
        "Host: a:80:80\r\n",
        "Host: a?b\r\n",
        "Host: a#b\r\n",
        "Host: a%2eb\r\n",
        "Host: [::1\r\n",
        "Host: [x]\r\n",
        "Host: [::1]x\r\n",
        "Host: \u{e9}\r\n",
        "Host: a\\b\r\n",
        "Host: a\tb\r\n",
    ] {
        cases.push(refused(400, &format!("h2 host {host:?}"), head(host)));
    }
    for host in [
        "api.stripe.com",
        "169.254.169.254",
        "[::1]:80",
        "localhost:1",
        "evil.test",
        "a_b",
        "keybrake.test:8080",
    ] {
        cases.push(sent(LINE, "", &format!("e1 host {host}"), head(&format!("Host: {host}\r\n"))));
    }
    cases
}

const DROPPED: [&str; 50] = [
    "X-HTTP-Method-Override: DELETE\r\n",
    "X-HTTP-Method: DELETE\r\n",
    "X-Method-Override: DELETE\r\n",
    "X-Original-URL: /v1/payouts\r\n",
    "X-Rewrite-URL: /v1/payouts\r\n",
    "X-Forwarded-For: 127.0.0.1\r\n",
    "X-Forwarded-Host: evil.test\r\n",
    "X-Forwarded-Proto: http\r\n",
    "X-Forwarded-Prefix: /v1/payouts\r\n",
    "X-Real-IP: 127.0.0.1\r\n",
    "Forwarded: for=127.0.0.1;host=evil.test\r\n",
    "Via: 1.1 evil\r\n",
    "Max-Forwards: 0\r\n",
    "X-Host: evil.test\r\n",
    "X-Api-Key: other\r\n",
    "Api-Key: other\r\n",
    "Cookie: session=1\r\n",
    "Proxy-Authorization: Basic eDp5\r\n",
    "Proxy-Connection: keep-alive\r\n",
    "Keep-Alive: timeout=5\r\n",
    "TE: trailers\r\n",
    "TE: chunked, gzip\r\n",
    "Trailer: Authorization\r\n",
    "Range: bytes=0-1\r\n",
    "If-None-Match: *\r\n",
    "If-Modified-Since: Sat, 21 Nov 2026 00:00:00 GMT\r\n",
    "Accept-Encoding: gzip, br\r\n",
    "Content-Location: /v1/payouts\r\n",
    "Content-Range: bytes 0-1/2\r\n",
    "Origin: https://evil.test\r\n",
    "Referer: https://evil.test/\r\n",
    "Upgrade-Insecure-Requests: 1\r\n",
    "Keybrake-Agent-Id: agent_1\r\n",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
    "Date: Sat, 21 Nov 2026 00:00:00 GMT\r\n",
    "Transfer: chunked\r\n",
    "Content-Length-X: 5\r\n",
    "X-Content-Length: 5\r\n",
    "User-Agent: \u{e9}\r\n",
    "User-Agent: a\u{85}Authorization: Bearer x\r\n",
    "Accept-Language: \u{ff}\r\n",
    "Connection: keep-alive\r\n",
    "Connection: authorization\r\n",
    "Connection: host, content-length, accept-encoding\r\n",
    "Connection: transfer-encoding, te\r\n",
    "Connection: ,, ,\r\n",
    "Connection:\r\n",
    "Connection: close\r\n",
    "Connection: CLOSE, keep-alive\r\n",
    "X!#$%&'*+-.^`|~: a\r\n",
];

/// A4, S7, E1: what is on no list does not arrive, and takes nothing of ours away.
fn dropped() -> Vec<Case> {
    DROPPED
        .into_iter()
        .map(|field| sent(LINE, "", &format!("a4 dropped {field:?}"), get(ID, field)))
        .chain([
            sent(
                "POST /v1/charges",
                FORM,
                "s7 connection names what keybrake writes",
                post(
                    "/stripe/v1/charges",
                    "Connection: authorization, host, content-length, accept-encoding\r\n",
                    FORM,
                ),
            ),
            sent(
                "POST /v1/charges",
                FORM,
                "a4 a method in a field does not change the method",
                post("/stripe/v1/charges", "X-HTTP-Method-Override: GET\r\n", FORM),
            ),
        ])
        .collect()
}

/// A4: what is on the list arrives, with blanks around it or without.
fn kept() -> Vec<Case> {
    [
        "User-Agent: agent/1.0\r\n",
        "user-agent:agent\r\n",
        "Stripe-Version: 2026-10-28.endive\r\n",
        "Accept: */*\r\n",
        "Accept:\t a \t\r\n",
        "Idempotency-Key: order-1\r\n",
        "X-Stripe-Client-User-Agent: {\"lang\":\"python\"}\r\n",
        "Connection: user-agent\r\nUser-Agent: dropped\r\n",
    ]
    .into_iter()
    .map(|field| sent(LINE, "", &format!("a4 kept {field:?}"), get(ID, field)))
    .collect()
}

/// Lines that decide who pays and how the body reads are there once, in ASCII.
fn deciding() -> Vec<Case> {
    let mut cases = Vec::new();
    for field in [
        "Authorization: Bearer {key}\r\n",
        "authorization: Bearer sk_live_1\r\n",
        "Content-Type: text/plain\r\nContent-Type: application/x-www-form-urlencoded\r\n",
        "Idempotency-Key: a\r\nIdempotency-Key: b\r\n",
        "Idempotency-Key: a\u{e9}\r\n",
        "Content-Type: application/x-www-form-urlencoded\u{a0}\r\n",
        "Content-Encoding: identity\r\nContent-Encoding: gzip\r\n",
    ] {
        cases.push(refused(400, &format!("h1 deciding {field:?}"), get(ID, field)));
    }
    for field in [
        "Stripe-Account: acct_1\r\n",
        "stripe-account: acct_1\r\n",
        "Stripe-Account:\r\n",
        "Stripe-Context: acct_1\r\n",
        "Connection: stripe-account\r\nStripe-Account: acct_1\r\n",
        "Stripe-Account: acct_1\r\nStripe-Account: acct_2\r\n",
    ] {
        cases.push(refused(403, &format!("a4 account {field:?}"), get(ID, field)));
    }
    cases
}

/// S4, S5: the slot is read strictly, and whatever is wrong with it has one answer.
fn credentials() -> Vec<Case> {
    let head = |slot: &str| format!("GET {ID} HTTP/1.1\r\n{{host}}{slot}\r\n");
    let mut cases: Vec<Case> = [
        "",
        "Authorization:\r\n",
        "Authorization: Bearer\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: {key}\r\n",
        "Authorization: Bearer{key}\r\n",
        "Authorization: Bearer\t{key}\r\n",
        "Authorization: Bearer {key} x\r\n",
        "Authorization: Bearer {key},\r\n",
        "Authorization: Bearer {key}, Bearer {key}\r\n",
        "Authorization: Bearer \"{key}\"\r\n",
        "Authorization: Bearer x{key}\r\n",
        "Authorization: Bearer {key}x\r\n",
        "Authorization: Token {key}\r\n",
        "Authorization: Digest username={key}\r\n",
        "Authorization: Basic\r\n",
        "Authorization: Basic !!!!\r\n",
        "Authorization: Basic dmF1bHRfa2V5Xw\r\n",
        "Authorization: Basic dmF1bHRfa2V5Xw==\r\n",
        "Authorization: Basic {key}:\r\n",
        "Authorization: Bearer sk_test_9Lq3ZbVtYw2RkHs7XnDc5PfM\r\n",
        "Authorization: Bearer vault_key_00000000000000000000000000000000000000\r\n",
        "X-Api-Key: {key}\r\n",
        "Proxy-Authorization: Bearer {key}\r\n",
        "Cookie: key={key}\r\n",
    ]
    .into_iter()
    .map(|slot| refused(401, &format!("s4 slot {slot:?}"), head(slot)))
    .collect();
    for slot in [
        "Authorization: bearer {key}\r\n",
        "AUTHORIZATION: BEARER  {key}\r\n",
        "authorization:Bearer {key} \t\r\n",
    ] {
        cases.push(sent(LINE, "", &format!("s4 slot {slot:?}"), head(slot)));
    }
    cases
}

/// H5: what would change the protocol, and what is expected.
fn expectations() -> Vec<Case> {
    let mut cases = Vec::new();
    for field in [
        "Upgrade: h2c\r\n",
        "Upgrade: websocket\r\nConnection: Upgrade\r\n",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "HTTP2-Settings: AAMAAABkAAQAAP__\r\n",
        "Connection: upgrade\r\n",
        "Upgrade:\r\n",
        "Connection: a b\r\n",
        "Connection: \"close\"\r\n",
        "Connection: close;x\r\n",
    ] {
        cases.push(refused(400, &format!("h5 field {field:?}"), get(ID, field)));
    }
    for value in
        ["200-ok", "100-continue, x", "\"100-continue\"", "", "100-continue\r\nExpect: 100-continue", "100"]
    {
        let request = post("/stripe/v1/charges", &format!("Expect: {value}\r\n"), FORM);
        cases.push(refused(417, &format!("h5 expect {value:?}"), request));
    }
    for value in ["100-continue", "100-Continue"] {
        let request = post("/stripe/v1/charges", &format!("Expect: {value}\r\n"), FORM);
        cases.push(sent("POST /v1/charges", FORM, &format!("h5 expect {value:?}"), request));
    }
    cases.push(sent(LINE, "", "h5 expect without a body", get(ID, "Expect: 100-continue\r\n")));
    cases
}
