//! What a hostile vendor answers (rules H1, H3, H4, H5, H7, H9 towards vendors).

use super::{Case, Verdict};

const BODY: &[u8] = br#"{"id":"ch_1"}"#;

/// A head and the 13 bytes of [`BODY`], with the vendor staying.
fn reply(head: &str) -> Vec<u8> {
    [head.as_bytes(), b"\r\n", BODY].concat()
}

fn broken(name: &str, reply: impl Into<Vec<u8>>) -> Case {
    Case {
        name: name.to_owned(),
        reply: bytes_of(reply.into()),
        closes: false,
        verdict: Verdict::BadGateway,
        is_clean: false,
    }
}

fn passed(name: &str, status: u16, body: &[u8], reply: impl Into<Vec<u8>>) -> Case {
    let verdict = Verdict::Passed(status, body.to_vec());
    Case { name: name.to_owned(), reply: bytes_of(reply.into()), closes: false, verdict, is_clean: true }
}

/// The reply is passed on, and the connection is not used again.
fn dirty(case: Case) -> Case {
    Case { is_clean: false, ..case }
}

/// The vendor closes behind the reply.
fn closing(case: Case) -> Case {
    Case { closes: true, is_clean: false, ..case }
}

fn cut(name: &str, reply: impl Into<Vec<u8>>) -> Case {
    closing(Case { verdict: Verdict::Cut, ..broken(name, reply) })
}

/// Text of the tables is UTF-8; what is beyond ASCII is meant as single bytes.
fn bytes_of(bytes: Vec<u8>) -> Vec<u8> {
    match String::from_utf8(bytes) {
        Ok(text) => text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect(),
        Err(error) => error.into_bytes(),
    }
}

pub(crate) fn cases() -> Vec<Case> {
    [status_lines(), fields(), lengths(), interim(), without_bodies(), ends(), left_out()]
        .into_iter()
        .flatten()
        .collect()
}

fn status_lines() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        "HTTP/1.1 99 X",
        "HTTP/1.1 600 X",
        "HTTP/1.1 999 X",
        "HTTP/1.1 000 X",
        "HTTP/1.1 20 X",
        "HTTP/1.1 2000 X",
        "HTTP/1.1 +20 X",
        "HTTP/1.1 2x0 X",
        "HTTP/1.1  200 X",
        "HTTP/1.1\t200 X",
        "HTTP/1.1 ",
        "HTTP/1.1",
        "HTTP/2.0 200 X",
        "HTTP/2 200",
        "HTTP/1.2 200 X",
        "HTTP/0.9 200 X",
        "http/1.1 200 X",
        "HTTP/1.1200 X",
        "ICY 200 OK",
        " HTTP/1.1 200 X",
        "\r\nHTTP/1.1 200 X",
        "\nHTTP/1.1 200 X",
        "{\"id\":1}",
        "GET / HTTP/1.1",
        "HTTP/1.1 200 X\u{0}",
        "HTTP/1.1 200 X\nX: y",
        "HTTP/1.1 200 X\rX: y",
        "HTTP/1.1 101 Switching Protocols",
    ]
    .into_iter()
    .map(|line| {
        broken(&format!("h7 status line {line:?}"), reply(&format!("{line}\r\nContent-Length: 13\r\n")))
    })
    .collect();
    for line in ["HTTP/1.1 200 OK", "HTTP/1.1 200 ", "HTTP/1.1 200", "HTTP/1.1 200 a\tb\u{e9}"] {
        let whole = reply(&format!("{line}\r\nContent-Length: 13\r\n"));
        cases.push(passed(&format!("h9 status line {line:?}"), 200, BODY, whole));
    }
    for status in [201, 206, 301, 302, 307, 400, 402, 403, 404, 409, 429, 451, 499, 500, 503, 599] {
        let whole =
            reply(&format!("HTTP/1.1 {status} X\r\nContent-Length: 13\r\nLocation: http://evil.test/\r\n"));
        cases.push(passed(&format!("s3 status {status}"), status, BODY, whole));
    }
    let old = reply("HTTP/1.0 200 OK\r\nContent-Length: 13\r\nConnection: keep-alive\r\n");
    cases.push(dirty(passed("h7 an old version", 200, BODY, old)));
    cases
}

fn fields() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        "X: a\nY: b\r\n",
        "X: a\n",
        "X: a\rY: b\r\n",
        "X: a\r\r\n",
        "X: a\u{0}\r\n",
        " X: a\r\n",
        "X: a\r\n b\r\n",
        "X: a\r\n\tb\r\n",
        "X : a\r\n",
        "X\r\n",
        "X Y: a\r\n",
        "HTTP/1.1 200 OK\r\n",
    ]
    .into_iter()
    .map(|field| {
        let whole = reply(&format!("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n{field}"));
        broken(&format!("h1 field {field:?}"), whole)
    })
    .collect();
    let many = "X: a\r\n".repeat(200);
    cases.push(broken("h7 201 fields", reply(&format!("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n{many}"))));
    let long = format!("X: {}\r\n", "a".repeat(33_000));
    cases.push(broken(
        "h7 a line over 32 KiB",
        reply(&format!("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n{long}")),
    ));
    let large = format!("X: {}\r\n", "a".repeat(30_000)).repeat(3);
    cases.push(broken(
        "h7 a head over 64 KiB",
        reply(&format!("HTTP/1.1 200 OK\r\n{large}Content-Length: 13\r\n")),
    ));
    cases
}

fn lengths() -> Vec<Case> {
    let mut cases: Vec<Case> = [
        "Content-Length: 13\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 13\r\n",
        "Content-Length: 13\r\nContent-Length: 13\r\n",
        "Content-Length: 13\r\nContent-Length: 0\r\n",
        "Content-Length: 13, 13\r\n",
        "Content-Length: +13\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x0d\r\n",
        "Content-Length: 1 3\r\n",
        "Content-Length: 13.0\r\n",
        "Content-Length:\r\n",
        "Content-Length: x\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length : 13\r\n",
        "Content-Length: 13\u{1}\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
    ]
    .into_iter()
    .map(|lines| broken(&format!("h3 lines {lines:?}"), reply(&format!("HTTP/1.1 200 OK\r\n{lines}"))))
    .collect();
    cases.push(broken(
        "h3 chunks of an old version",
        reply("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n"),
    ));
    for length in ["13", "013", "\t13 "] {
        let whole = reply(&format!("HTTP/1.1 200 OK\r\nContent-Length:{length}\r\n"));
        cases.push(passed(&format!("h9 length {length:?}"), 200, BODY, whole));
    }
    cases
}

/// H7, H5: at most eight interim replies, and no other protocol.
fn interim() -> Vec<Case> {
    let with = |heads: &str| [heads.as_bytes(), &reply("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n")].concat();
    let continues = "HTTP/1.1 100 Continue\r\n\r\n";
    vec![
        passed("h7 one interim reply", 200, BODY, with(continues)),
        passed("h7 eight interim replies", 200, BODY, with(&continues.repeat(8))),
        broken("h7 nine interim replies", with(&continues.repeat(9))),
        broken("h7 a flood of interim replies", with(&continues.repeat(1000))),
        passed(
            "h9 hints",
            200,
            BODY,
            with("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\nSet-Cookie: a=b\r\n\r\n"),
        ),
        passed(
            "h7 an interim reply with a length",
            200,
            BODY,
            with("HTTP/1.1 102 X\r\nContent-Length: 13\r\n\r\n"),
        ),
        broken("h7 an interim reply with a body", with("HTTP/1.1 102 X\r\nContent-Length: 5\r\n\r\nhello")),
        broken(
            "h5 an upgrade behind an interim reply",
            with(&format!("{continues}HTTP/1.1 101 X\r\nUpgrade: h2c\r\n\r\n")),
        ),
        broken(
            "h5 an upgrade",
            "HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".as_bytes(),
        ),
        closing(broken("h7 only interim replies", continues.repeat(3).into_bytes())),
        broken(
            "h7 an interim reply with both lengths",
            with("HTTP/1.1 100 X\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ),
    ]
}

/// H7: what has no body has none, whatever follows it.
fn without_bodies() -> Vec<Case> {
    let mut cases = Vec::new();
    for status in [204, 304] {
        let head = |fields: &str| format!("HTTP/1.1 {status} X\r\n{fields}\r\n");
        cases.push(passed(&format!("h9 a {status}"), status, b"", head("")));
        cases.push(dirty(passed(
            &format!("h7 a {status} with a length"),
            status,
            b"",
            head("Content-Length: 13\r\n"),
        )));
        cases.push(dirty(passed(
            &format!("h7 a {status} with chunks"),
            status,
            b"",
            format!("{}d\r\n{{\"id\":\"ch_1\"}}\r\n0\r\n\r\n", head("Transfer-Encoding: chunked\r\n")),
        )));
        cases.push(dirty(passed(
            &format!("h7 a {status} with a body"),
            status,
            b"",
            reply(&format!("HTTP/1.1 {status} X\r\nContent-Length: 13\r\n")),
        )));
    }
    cases.push(passed(
        "h9 an empty body",
        200,
        b"",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".as_bytes(),
    ));
    cases
}

/// H7: replies that end otherwise than they said, and what comes behind them.
fn ends() -> Vec<Case> {
    let whole = reply("HTTP/1.1 200 OK\r\nContent-Length: 13\r\n");
    let with = |more: &[u8]| [whole.as_slice(), more].concat();
    vec![
        dirty(passed("h7 a surplus byte", 200, BODY, with(b"x"))),
        dirty(passed("h7 a surplus line break", 200, BODY, with(b"\r\n"))),
        dirty(passed("i7 a second reply", 200, BODY, with(&whole))),
        dirty(passed("h7 surplus megabytes", 200, BODY, with(&vec![b'x'; 300_000]))),
        closing(passed("h7 the vendor closes", 200, BODY, whole.clone())),
        dirty(passed(
            "h7 the vendor says that it closes",
            200,
            BODY,
            reply("HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 13\r\n"),
        )),
        closing(passed("h9 a body up to the end", 200, BODY, reply("HTTP/1.1 200 OK\r\n"))),
        closing(passed("h9 an old body up to the end", 200, BODY, reply("HTTP/1.0 200 OK\r\n"))),
        closing(broken("h7 no reply", b"".to_vec())),
        closing(broken("h7 half a status line", b"HTTP/1.1 20".to_vec())),
        closing(broken("h7 half a head", b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n".to_vec())),
        closing(broken(
            "h7 a head without the last line feed",
            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r".to_vec(),
        )),
        cut(
            "h7 a body that is too short",
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"id\":".to_vec(),
        ),
        cut(
            "h7 a long body that is too short",
            [b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n".as_slice(), &vec![b'a'; 200_000]].concat(),
        ),
        cut("h7 no body", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".to_vec()),
        cut(
            "h7 chunks without an end",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec(),
        ),
    ]
}

/// H9, S3: what is not an agent's.
fn left_out() -> Vec<Case> {
    [
        "Set-Cookie: a=b\r\nSet-Cookie2: c\r\n",
        "Server: nginx\r\n",
        "Alt-Svc: h3=\":443\"\r\n",
        "Refresh: 0; url=http://evil.test\r\n",
        "Location: http://evil.test\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Proxy-Authenticate: Basic\r\n",
        "Trailer: X\r\n",
        "TE: trailers\r\n",
        "Upgrade: h2c\r\n",
        "Connection: x-secret\r\nX-Secret: 1\r\n",
        "X(: a\r\n",
        ": a\r\n",
        "X\u{e9}: a\r\n",
        "X: a\u{1}b\r\n",
        "X: a\u{85}Set-Cookie: b\r\n",
        "Content_Length: 5\r\n",
        "Content-Encoding: identity\r\n",
    ]
    .into_iter()
    .map(|field| {
        let whole = reply(&format!("HTTP/1.1 200 OK\r\n{field}Content-Length: 13\r\n"));
        passed(&format!("h9 left out {field:?}"), 200, BODY, whole)
    })
    .collect()
}

/// H4 towards vendors.
pub(crate) fn chunks() -> Vec<Case> {
    let chunked =
        |bytes: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{bytes}").into_bytes();
    let mut cases = Vec::new();
    for bytes in [
        "d\r\n{\"id\":\"ch_1\"}\r\n0\r\n\r\n",
        "0000000d;a=b\r\n{\"id\":\"ch_1\"}\r\n00;c\r\n\r\n",
        "6\r\n{\"id\":\r\n7\r\n\"ch_1\"}\r\n0\r\nX: y\r\nSet-Cookie: z\r\n\r\n",
    ] {
        cases.push(passed(&format!("h9 chunks {bytes:?}"), 200, BODY, chunked(bytes)));
    }
    for bytes in [
        "x\r\n",
        "\r\n",
        " d\r\n{\"id\":\"ch_1\"}\r\n0\r\n\r\n",
        "0xd\r\n",
        "+d\r\n",
        "-1\r\n",
        ";a\r\n",
        "d\n{\"id\":\"ch_1\"}\n0\n\n",
        "1000000000\r\n",
        "d \r\n",
        "d;\u{0}\r\n",
        "d;\n\r\n",
        "d\rx",
    ] {
        cases.push(broken(&format!("h4 chunks {bytes:?}"), chunked(bytes)));
    }
    for bytes in [
        "d\r\n{\"id\":\"ch_1\"}X\r\n0\r\n\r\n",
        "5\r\n{\"id\":\"ch_1\"}\r\n0\r\n\r\n",
        "d\r\n{\"id\":\"ch_1\"}\r\nx\r\n\r\n",
        "d\r\n{\"id\":\"ch_1\"}\r\n0\r\n X: y\r\n\r\n",
        "d\r\n{\"id\":\"ch_1\"}\r\n0\r\nX: \u{0}\r\n\r\n",
        "d\r\n{\"id\":\"ch_1\"}\r\n0\nHTTP/1.1 200 OK\r\n\r\n",
    ] {
        let case = broken(&format!("h4 late {bytes:?}"), chunked(bytes));
        cases.push(Case { verdict: Verdict::Cut, ..case });
    }
    let surplus = passed(
        "h7 bytes behind chunks",
        200,
        BODY,
        chunked("d\r\n{\"id\":\"ch_1\"}\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    );
    cases.push(dirty(surplus));
    cases
}
