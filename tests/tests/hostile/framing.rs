//! How long a body is, and how it is cut (rules H3, H4, H6).

use super::play::{Case, FORM, length, refused, sent, silent};

const CHARGES: &str =
    "POST /stripe/v1/charges HTTP/1.1\r\n{auth}Content-Type: application/x-www-form-urlencoded\r\n";
const SENT: &str = "POST /v1/charges";

/// A post with these framing lines and these bytes behind the head.
fn framed(lines: &str, bytes: &str) -> String {
    format!("{CHARGES}{lines}\r\n{bytes}")
}

fn chunked(bytes: &str) -> String {
    framed("Transfer-Encoding: chunked\r\n", bytes)
}

pub(crate) fn cases() -> Vec<Case> {
    [lengths(), both(), codings(), chunks(), trailers(), borders(), without_bodies()]
        .into_iter()
        .flatten()
        .collect()
}

/// One `Content-Length` of digits.
fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for length in [
        "+24",
        "-24",
        "24 24",
        "24, 24",
        "24,24",
        "24;",
        "24.0",
        "2_4",
        "0x18",
        "0b11000",
        "1e1",
        "24x",
        "x24",
        "\"24\"",
        "",
        " ",
        ",",
        "24,",
        ",24",
        "\u{b2}4",
        "\u{ff}",
        "18446744073709551616",
        "99999999999999999999999",
        "24\u{b}",
        "24\t2",
        "NaN",
    ] {
        cases.push(refused(
            400,
            &format!("h3 length {length:?}"),
            framed(&format!("Content-Length: {length}\r\n"), FORM),
        ));
    }
    for lines in [
        "Content-Length: 24\r\nContent-Length: 24\r\n",
        "Content-Length: 24\r\nContent-Length: 0\r\n",
        "Content-Length: 0\r\ncontent-length: 24\r\n",
        "Content-Length : 24\r\n",
        "Content-Length\t: 24\r\n",
        "Content-Length: 24\r\n 0\r\n",
        "Content-Length:\r\n 24\r\n",
        "Content-Length\r\n",
        " Content-Length: 24\r\n",
        "X: y\rContent-Length: 24\r\n",
        "X: y\nContent-Length: 24\r\n",
        "Content-Length: 24\n",
        "Content-Length: 24\u{0}\r\n",
        "Content\u{0}-Length: 24\r\n",
        "Content_Length: 24\r\nContent-Length: 24\r\n",
    ] {
        cases.push(refused(400, &format!("h3 lines {lines:?}"), framed(lines, FORM)));
    }
    for length in ["1048577", "99999999999", "18446744073709551615"] {
        cases.push(refused(
            413,
            &format!("h3 length {length}"),
            framed(&format!("Content-Length: {length}\r\n"), FORM),
        ));
    }
    let tabs = framed("Content-Length:\t24 \t\r\n", FORM);
    cases.push(refused(400, "h3 a length between tabs, which not every parser takes", tabs));
    for length in ["24", "024", "0000000000000024", " 24", "  24  "] {
        let request = framed(&format!("Content-Length:{length}\r\n"), FORM);
        cases.push(sent(SENT, FORM, &format!("h3 length {length:?}"), request));
    }
    cases
}

/// CL.TE, TE.CL and their disguises.
fn both() -> Vec<Case> {
    // Each reading alone would make an allowed request of one of these, and another one of what is behind it.
    let behind = "GET /stripe/v1/charges/ch_smuggled HTTP/1.1\r\n{auth}\r\n";
    let by_length = format!("{FORM}{behind}");
    let by_chunks = format!("18\r\n{FORM}\r\n0\r\n\r\n{behind}");
    let mut cases = Vec::new();
    for lines in [
        "Content-Length: 24\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 24\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "transfer-encoding: CHUNKED\r\ncontent-length: 5\r\n",
        "Content-Length: 24\r\nTransfer-Encoding : chunked\r\n",
        "Content-Length: 24\r\nTransfer-Encoding\t: chunked\r\n",
        "Content-Length: 24\r\n Transfer-Encoding: chunked\r\n",
        "Content-Length: 24\r\nX: y\r\n\tTransfer-Encoding: chunked\r\n",
        "Content-Length: 24\r\nX: y\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 24\r\nX: y\rTransfer-Encoding: chunked\r\n",
        "Content-Length: 24\r\nTransfer-Encoding\u{b}: chunked\r\n",
        "Content-Length: 24\r\nTransfer-Encoding\u{0}: chunked\r\n",
        "Content-Length: 24\r\nTransfer-Encoding: \u{0}chunked\r\n",
        "Content-Length: 24\r\nTransfer-Encoding: chunked\u{b}\r\n",
        "Content-Length: 24\r\nTransfer_Encoding: chunked\r\n",
        "Content-Length: 24\r\nTransfer-Encoding\r\n : chunked\r\n",
    ] {
        for (reading, bytes) in [("length", &by_length), ("chunks", &by_chunks)] {
            cases.push(refused(
                400,
                &format!("h3 both {lines:?}, a body by its {reading}"),
                framed(lines, bytes),
            ));
        }
    }
    cases
}

/// `Transfer-Encoding: chunked` and nothing else.
fn codings() -> Vec<Case> {
    let body = "18\r\namount=1000&currency=usd\r\n0\r\n\r\n";
    let mut cases = Vec::new();
    for coding in [
        "gzip",
        "identity",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "chunked;q=1",
        "xchunked",
        "chunkedx",
        "x chunked",
        "chunked x",
        "\"chunked\"",
        "chun ked",
        "",
        "cow",
        "deflate",
        "chunked\u{e9}",
        "identity, chunked",
        "chunked, identity",
        "'chunked'",
        "chunked ,",
    ] {
        let request = framed(&format!("Transfer-Encoding: {coding}\r\n"), body);
        cases.push(refused(501, &format!("h3 coding {coding:?}"), request));
    }
    for lines in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n",
    ] {
        cases.push(refused(400, &format!("h3 codings {lines:?}"), framed(lines, body)));
    }
    let twice = framed("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", body);
    cases.push(refused(501, "h3 codings with another one first", twice));
    let tabs = framed("Transfer-Encoding:\t chunked \t\r\n", body);
    cases.push(refused(501, "h3 a coding between tabs, which not every parser takes", tabs));
    for lines in [
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding:chunked\r\n",
        "TRANSFER-ENCODING: CHUNKED\r\n",
        "Transfer-Encoding:  chunked  \r\n",
        "Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X\r\n",
        "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
    ] {
        cases.push(sent(SENT, FORM, &format!("h3 coding lines {lines:?}"), framed(lines, body)));
    }
    cases
}

/// H4: our own decoder.
fn chunks() -> Vec<Case> {
    let mut cases = Vec::new();
    for bytes in [
        "0x18\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "+18\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "-18\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        " 18\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18 \r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "1 8\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18\namount=1000&currency=usd\n0\n\n",
        "18\r\namount=1000&currency=usd\n0\r\n\r\n",
        "18\ramount=1000&currency=usd\r\n0\r\n\r\n",
        "18\r\namount=1000&currency=usd0\r\n\r\n",
        "18\r\namount=1000&currency=usdX\r\n0\r\n\r\n",
        "17\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        ";x\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "g\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "1g\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "000000018\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "10000000000000018\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18;\u{0}\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18;\n\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18;a\n0\r\n\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18;a\rb\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18;\u{e9}\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18;\t\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18;\u{7f}\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18\t\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18\u{0}\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18\r\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "\u{b2}\u{b3}\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "18\r\namount=1000&currency=usd\r\n0\n\r\n",
        "18\r\namount=1000&currency=usd\r\n00x\r\n\r\n",
        "18\r\namount=1000&currency=usd\r\n-0\r\n\r\n",
    ] {
        cases.push(refused(400, &format!("h4 chunks {bytes:?}"), chunked(bytes)));
    }
    let extension = "x".repeat(256);
    cases.push(refused(
        400,
        "h4 an extension of 257 bytes",
        chunked(&format!("18;{extension}\r\namount=1000&currency=usd\r\n0\r\n\r\n")),
    ));
    let many: String = (0..70).map(|_| format!("1;{}\r\na\r\n", &extension[..250])).collect();
    cases.push(refused(400, "h4 extensions of more than 16 KiB", chunked(&format!("{many}0\r\n\r\n"))));
    let blanks = chunked("18; a = b\r\namount=1000&currency=usd\r\n0\r\n\r\n");
    cases.push(refused(400, "h4 an extension with blanks", blanks));
    cases.push(refused(413, "h4 a chunk of 4 GiB", chunked("ffffffff\r\n")));
    cases.push(refused(413, "h4 a chunk over the limit", chunked("100001\r\n")));
    for bytes in [
        "18\r\namount=1000&currency=usd\r\n0\r\n\r\n",
        "00000018\r\namount=1000&currency=usd\r\n00000000\r\n\r\n",
        "18;a=b;c=\"d\"\r\namount=1000&currency=usd\r\n0;e\r\n\r\n",
        "c\r\namount=1000&\r\nC\r\ncurrency=usd\r\n0\r\n\r\n",
        "1\r\na\r\n17\r\nmount=1000&currency=usd\r\n0\r\n\r\n",
    ] {
        cases.push(sent(SENT, FORM, &format!("h4 chunks {bytes:?}"), chunked(bytes)));
    }
    cases
}

/// H4: trailers are read strictly and dropped.
fn trailers() -> Vec<Case> {
    let with = |trailer: &str| chunked(&format!("18\r\namount=1000&currency=usd\r\n0\r\n{trailer}\r\n"));
    let mut cases = Vec::new();
    for trailer in [
        " X: a\r\n",
        "X : a\r\n",
        ": a\r\n",
        "X\r\n",
        "X: a\n",
        "X: a\rb\r\n",
        "X: \u{0}\r\n",
        "X: \u{1}\r\n",
        "X\u{e9}: a\r\n",
        "\n",
        "GET /stripe/v1/balance HTTP/1.1\r\n",
    ] {
        cases.push(refused(400, &format!("h4 trailer {trailer:?}"), with(trailer)));
    }
    let long = format!("{}: a\r\n", "x".repeat(300));
    cases.push(refused(400, "h4 a trailer with a long name", with(&long)));
    cases.push(refused(
        400,
        "h4 trailers of more than 16 KiB",
        with(&format!("X: {}\r\n", "a".repeat(17_000))),
    ));
    for trailer in [
        "X: a\r\n",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Authorization: Bearer other\r\n",
        "Host: evil.test\r\n",
        "Stripe-Account: acct_1\r\nX: b\r\n",
    ] {
        cases.push(sent(SENT, FORM, &format!("h4 trailer {trailer:?}"), with(trailer)));
    }
    cases
}

/// H6: where one request ends the next begins, and nowhere else.
fn borders() -> Vec<Case> {
    let smuggled = "GET /stripe/v1/balance HTTP/1.1\r\n{auth}\r\n";
    vec![
        silent("h3 a body that is too short", framed("Content-Length: 30\r\n", FORM)),
        silent("h3 no body at all", framed("Content-Length: 24\r\n", "")),
        silent("h4 chunks without an end", chunked("18\r\namount=1000&currency=usd\r\n")),
        silent("h4 half a chunk", chunked("18\r\namount=1000")),
        silent("h4 half of the last line", chunked("18\r\namount=1000&currency=usd\r\n0\r\n\r")),
        sent(
            SENT,
            "amount=1000&currency=usd",
            "h6 surplus bytes",
            framed("Content-Length: 24\r\n", &format!("{FORM}X")),
        ),
        sent(
            SENT,
            "amount=1000&currency=usd",
            "h6 a second request that is not allowed",
            framed("Content-Length: 24\r\n", &format!("{FORM}{smuggled}")),
        ),
        sent(
            SENT,
            FORM,
            "h6 a second request behind chunks",
            chunked(&format!("18\r\namount=1000&currency=usd\r\n0\r\n\r\n{smuggled}")),
        ),
        sent(
            SENT,
            FORM,
            "h6 line breaks behind a body",
            framed("Content-Length: 24\r\n", &format!("{FORM}\r\n\r\n")),
        ),
        refused(403, "h6 a refused post with a request in its body", {
            let body = "GET /stripe/v1/balance HTTP/1.1\r\nHost: a\r\n\r\n";
            format!(
                "POST /stripe/v1/payouts HTTP/1.1\r\n{{auth}}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
        }),
        refused(
            403,
            "h6 a refused post with chunks",
            format!(
                "POST /stripe/v1/payouts HTTP/1.1\r\n{{auth}}Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        refused(401, "h6 a wrong key with an allowed request in its body", {
            let body = "GET /stripe/v1/charges/ch_smuggled HTTP/1.1\r\n{auth}\r\n";
            format!(
                "POST /stripe/v1/charges HTTP/1.1\r\n{{host}}Authorization: Bearer x\r\nContent-Length: {}\r\n\r\n{body}",
                length(body)
            )
        }),
        refused(403, "h6 a refused post with an allowed request in its long body", {
            let body =
                format!("GET /stripe/v1/charges/ch_smuggled HTTP/1.1\r\n{{auth}}\r\n{}", "x".repeat(20_000));
            format!(
                "POST /stripe/v1/payouts HTTP/1.1\r\n{{auth}}Content-Length: {}\r\n\r\n{body}",
                length(&body)
            )
        }),
        refused(
            401,
            "h6 a wrong key with a request in its body",
            "POST /stripe/v1/charges HTTP/1.1\r\n{host}Authorization: Bearer x\r\nContent-Length: 24\r\n\r\namount=1000&currency=usd",
        ),
    ]
}

/// H3: a GET has no body.
fn without_bodies() -> Vec<Case> {
    let get = |lines: &str, bytes: &str| {
        format!("GET /stripe/v1/charges/ch_1 HTTP/1.1\r\n{{auth}}{lines}\r\n{bytes}")
    };
    vec![
        refused(400, "h3 a get with a body", get("Content-Length: 5\r\n", "hello")),
        refused(400, "h3 a get with braces", get("Content-Length: 2\r\n", "{}")),
        refused(400, "h3 a get with chunks", get("Transfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        refused(
            400,
            "h3 a get with a request as its body",
            get("Content-Length: 50\r\n", &"GET / HTTP".repeat(5)),
        ),
        refused(400, "h3 a post without a length", format!("{CHARGES}\r\n{FORM}")),
        refused(400, "h3 a post with an empty body", framed("Content-Length: 0\r\n", "")),
    ]
}
