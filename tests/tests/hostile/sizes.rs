//! Limits to the byte, from both sides (rules H1, H3, H4; G by bytes).

use super::play::{Case, FORM, get, length, post, refused, sent};

const ID: &str = "/stripe/v1/charges/ch_1";
const LINE: &str = "GET /v1/charges/ch_1";

/// One line with its CRLF, one head, field lines, one body.
const LINE_MAX: usize = 8_192;
const HEAD_MAX: usize = 16_384;
const FIELDS_MAX: usize = 100;
const BODY_MAX: usize = 1_048_576;

pub(crate) fn cases() -> Vec<Case> {
    [lines(), heads(), numbers(), bodies()].into_iter().flatten().collect()
}

fn lines() -> Vec<Case> {
    let field = |bytes: usize| format!("X: {}\r\n", "a".repeat(bytes - 5));
    let query = |bytes: usize| {
        let around = format!("GET {ID}?a= HTTP/1.1\r\n").len();
        format!("{ID}?a={}", "b".repeat(bytes - around))
    };
    let longest = query(LINE_MAX);
    vec![
        sent(LINE, "", "h1 a line of 8192 bytes", get(ID, &field(LINE_MAX))),
        refused(431, "h1 a line of 8193 bytes", get(ID, &field(LINE_MAX + 1))),
        refused(431, "h1 a name of 9000 bytes", get(ID, &format!("{}: a\r\n", "x".repeat(9000)))),
        refused(431, "h1 9000 blanks", get(ID, &format!("X:{}a\r\n", " ".repeat(9000)))),
        sent(
            &format!("GET {}", &longest["/stripe".len()..]),
            "",
            "h1 a target of 8192 bytes",
            get(&longest, ""),
        ),
        refused(414, "h1 a target of 8193 bytes", get(&query(LINE_MAX + 1), "")),
        refused(414, "h1 a path of 9000 bytes", get(&format!("{ID}{}", "a".repeat(9000)), "")),
        refused(414, "h1 a line without an end", format!("GET /{}", "a".repeat(20_000))),
        refused(405, "h1 a method of 20000 bytes", "G".repeat(20_000)),
        refused(405, "h1 20000 blanks", " ".repeat(20_000)),
        refused(400, "h1 20000 line breaks", "\r\n".repeat(10_000)),
    ]
}

fn heads() -> Vec<Case> {
    let around = length(&get(ID, ""));
    let head = |bytes: usize| {
        let left = bytes - around;
        format!(
            "X: {}\r\nY: {}\r\nZ: {}\r\n",
            "a".repeat(8_000),
            "b".repeat(8_000),
            "c".repeat(left - 16_000 - 15)
        )
    };
    vec![
        sent(LINE, "", "h1 a head of 16384 bytes", get(ID, &head(HEAD_MAX))),
        refused(431, "h1 a head of 16385 bytes", get(ID, &head(HEAD_MAX + 1))),
        refused(431, "h1 a head of 1 MiB", get(ID, &"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(30_000))),
    ]
}

fn numbers() -> Vec<Case> {
    // Host and Authorization are two of them.
    vec![
        sent(LINE, "", "h1 100 fields", get(ID, &"X: a\r\n".repeat(FIELDS_MAX - 2))),
        refused(431, "h1 101 fields", get(ID, &"X: a\r\n".repeat(FIELDS_MAX - 1))),
        refused(431, "h1 1000 fields", get(ID, &"X:\r\n".repeat(1000))),
    ]
}

fn bodies() -> Vec<Case> {
    let form = |bytes: usize| format!("{FORM}&description={}", "a".repeat(bytes - FORM.len() - 13));
    let whole = form(BODY_MAX);
    let chunked = |form: &str| {
        format!(
            "POST /stripe/v1/charges HTTP/1.1\r\n{{auth}}Content-Type: application/x-www-form-urlencoded\r\n\
             Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{form}\r\n0\r\n\r\n",
            form.len()
        )
    };
    vec![
        sent("POST /v1/charges", &whole, "h3 a body of 1 MiB", post("/stripe/v1/charges", "", &whole)),
        refused(413, "h3 a body of 1 MiB and a byte", post("/stripe/v1/charges", "", &form(BODY_MAX + 1))),
        sent("POST /v1/charges", &whole, "h4 a chunk of 1 MiB", chunked(&whole)),
        refused(413, "h4 a chunk of 1 MiB and a byte", chunked(&form(BODY_MAX + 1))),
    ]
}
