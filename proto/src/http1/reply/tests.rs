use proptest::prelude::*;

use super::*;
use HeadError::*;

fn parse(bytes: &[u8]) -> Result<ReplyHead, ReplyError> {
    let mut head = ReplyHead::new();
    let whole = head.parse(bytes, &HeadLimits::REPLY);
    let mut bytewise = ReplyHead::new();
    let last = (0..=bytes.len())
        .map(|end| bytewise.parse(&bytes[..end], &HeadLimits::REPLY))
        .find(|verdict| *verdict != Ok(Parsed::Partial));
    assert_eq!(last.unwrap_or(Ok(Parsed::Partial)), whole);
    match whole? {
        Parsed::Partial => panic!("the head is not whole"),
        Parsed::Complete { head_bytes } => assert_eq!(head_bytes, bytes.len()),
    }
    Ok(head)
}

/// Checks one head, written without its CRLFs, against its status, framing and what it says of the connection.
#[track_caller]
fn check(lines: &str, expected: Result<&str, ReplyError>) {
    let bytes = format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).into_bytes();
    let seen = parse(&bytes).map(|head| {
        let close = if head.close() { " close" } else { "" };
        let interim = if head.is_interim() { " interim" } else { "" };
        let dropped = if head.lines_dropped() > 0 { " dropped" } else { "" };
        format!("{} {:?}{close}{interim}{dropped}", head.status(), head.framing())
    });
    assert_eq!(seen.as_deref().map_err(|error| *error), expected, "{lines:?}");
}

#[test]
fn replies_are_framed_as_their_heads_say() {
    check("HTTP/1.1 200 OK\nContent-Length: 5", Ok("200 Length(5)"));
    check("HTTP/1.1 200 \nTransfer-Encoding: Chunked", Ok("200 Chunked"));
    check("HTTP/1.1 402\nContent-Length: 0", Ok("402 Length(0)"));
    check("HTTP/1.1 200 OK", Ok("200 UntilClose close"));
    check("HTTP/1.1 200 OK\nContent-Length: 5\nConnection: x, Close", Ok("200 Length(5) close"));
    check("HTTP/1.1 200 d\u{e9}j\u{e0} vu\nContent-Length: 5", Ok("200 Length(5)"));
}

#[test]
fn some_statuses_have_no_body_whatever_the_fields_say() {
    check("HTTP/1.1 100 Continue", Ok("100 None interim"));
    check("HTTP/1.1 103 Early Hints\nLink: </a>", Ok("103 None interim"));
    check("HTTP/1.1 204 No Content\nContent-Length: 5", Ok("204 None"));
    check("HTTP/1.1 304 Not Modified\nTransfer-Encoding: chunked", Ok("304 None"));
}

#[test]
fn an_old_vendor_is_read_once() {
    check("HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 5", Ok("200 Length(5) close"));
    check("HTTP/1.0 200 OK", Ok("200 UntilClose close"));
    check("HTTP/1.0 200 OK\nTransfer-Encoding: chunked", Err(ReplyError::CodingInOldVersion));
}

#[test]
fn hostile_replies_are_refused() {
    use ReplyError::{Head, StatusLine, Upgrade, Version};
    for (rule, lines, expected) in [
        ("H7", "HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked", Head(LengthAndCoding)),
        ("H7", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nContent-Length: 5", Head(LengthAndCoding)),
        ("H7", "HTTP/1.1 200 OK\nContent-Length: 5\nContent-Length: 5", Head(LengthRepeated)),
        ("H7", "HTTP/1.1 200 OK\nContent-Length: 5, 5", Head(LengthInvalid)),
        ("H7", "HTTP/1.1 200 OK\nContent-Length: 5\u{1}", Head(LengthInvalid)),
        ("H7", "HTTP/1.1 204 OK\nContent-Length: x", Head(LengthInvalid)),
        ("H7", "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked", Head(CodingUnknown)),
        ("H7", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\u{b}", Head(CodingUnknown)),
        (
            "H7",
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\ntransfer-encoding: chunked",
            Head(CodingRepeated),
        ),
        ("H7", "HTTP/1.1 200 OK\nContent-Length : 5", Head(FieldNameSpace)),
        ("H7", "HTTP/1.1 200 OK\nX: a\n b: c", Head(Fold)),
        ("H7", "HTTP/1.1 200 OK\ngarbage", Head(FieldLine)),
        ("H7", "HTTP/1.1 200 OK\nX: a\0b", Head(Nul)),
        ("H7", "HTTP/1.1 200 OK\nX: a\rb", Head(BareCr)),
        ("H7", "HTTP/1.1 200 O\0K", Head(Nul)),
        ("H5", "HTTP/1.1 101 Switching Protocols\nUpgrade: h2c", Upgrade),
        ("H7", "HTTP/1.1 099 OK", StatusLine),
        ("H7", "HTTP/1.1 600 OK", StatusLine),
        ("H7", "HTTP/1.1 20 OK", StatusLine),
        ("H7", "HTTP/1.1 2000 OK", StatusLine),
        ("H7", "HTTP/1.1 +20 OK", StatusLine),
        ("H7", "HTTP/1.1  200 OK", StatusLine),
        ("H7", "HTTP/1.1\t200 OK", StatusLine),
        ("H7", "HTTP/1.1 200\tOK", StatusLine),
        ("H7", "http/1.1 200 OK", StatusLine),
        ("H7", "HTTP/2 200", StatusLine),
        ("H7", "SSH-2.0-OpenSSH", StatusLine),
        ("H7", "{\"error\": 1}", StatusLine),
        ("H7", "HTTP/2.0 200 OK", Version),
        ("H7", "HTTP/1.2 200 OK", Version),
        ("H7", "\nHTTP/1.1 200 OK", Head(LeadingLineBreak)),
    ] {
        assert!(rule.starts_with('H'));
        check(lines, Err(expected));
        assert!(expected.to_string().starts_with("vendor reply refused: "));
    }
    assert_eq!(parse(b"HTTP/1.1 200 OK\nX: a\r\n\r\n").err(), Some(Head(BareLf)));
    let long = format!("HTTP/1.1 200 OK\r\n{}", format!("X: {}\r\n", "a".repeat(30_000)).repeat(3));
    assert_eq!(parse(long.as_bytes()).err(), Some(Head(HeadTooLarge)));
    let many = format!("HTTP/1.1 200 OK\r\n{}", "(: a\r\n".repeat(201));
    assert_eq!(parse(many.as_bytes()).err(), Some(Head(TooManyFields)));
}

#[test]
fn h9_a_line_that_fails_the_grammar_is_left_out() {
    let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n: a\r\nX(: b\r\nY: c\x01\r\nZ: d\r\n\r\n";
    let head = parse(bytes).unwrap();
    let names: Vec<_> = head.fields(bytes).map(|(name, _)| name).collect();
    assert_eq!((names, head.lines_dropped()), (vec![&b"Content-Length"[..], b"Z"], 3));
    assert_eq!(head.field(bytes, "z"), Some(&b"d"[..]));
}

#[test]
fn a_field_named_by_connection_is_dropped() {
    let bytes = b"HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nContent-Length: 0\r\n\r\n";
    let head = parse(bytes).unwrap();
    assert!(head.drops(bytes, b"x-hop") && !head.drops(bytes, b"content-length") && !head.close());
}

#[test]
fn the_final_reply_follows_an_interim_one() {
    let bytes = b"HTTP/1.1 100 Continue\r\nX: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n!";
    let mut head = ReplyHead::new();
    let Ok(Parsed::Complete { head_bytes }) = head.parse(bytes, &HeadLimits::REPLY) else {
        panic!("refused")
    };
    assert!(head.is_interim());
    head.reset();
    let rest = &bytes[head_bytes..];
    assert_eq!(head.parse(rest, &HeadLimits::REPLY), Ok(Parsed::Complete { head_bytes: rest.len() - 1 }));
    assert_eq!((head.status(), head.framing(), head.fields(rest).count()), (200, ReplyFraming::Length(1), 1));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic_and_get_one_verdict(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\r\n: aA".to_vec())], 0..200),
        cut in 0usize..200,
    ) {
        let bytes = [b"HTTP/1.1 200 OK\r\n".as_slice(), &bytes].concat();
        let mut whole = ReplyHead::new();
        let verdict = whole.parse(&bytes, &HeadLimits::REPLY);
        let mut split = ReplyHead::new();
        let first = split.parse(&bytes[..cut.min(bytes.len())], &HeadLimits::REPLY);
        prop_assert!(first == Ok(Parsed::Partial) || first == verdict);
        prop_assert_eq!(split.parse(&bytes, &HeadLimits::REPLY), verdict);
        for (name, value) in whole.fields(&bytes) {
            prop_assert!(!name.iter().chain(value).any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        }
    }
}
