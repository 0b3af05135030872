//! Heads that must be refused, each with its rule (docs/rules.md) and the expected refusal.

use super::super::*;
use HeadError::*;

/// Every head is refused with the expected error, whole and byte by byte, and by its last byte at the latest.
#[track_caller]
fn check(rule: &str, head: &[u8], expected: HeadError) {
    let shown = String::from_utf8_lossy(head);
    let whole = RequestHead::new().parse(head, &HeadLimits::REQUEST);
    assert_eq!(whole, Err(expected), "{rule}: {shown:?}");
    let mut bytewise = RequestHead::new();
    let verdict = (0..=head.len()).find_map(|end| bytewise.parse(&head[..end], &HeadLimits::REQUEST).err());
    assert_eq!(verdict, Some(expected), "{rule}, byte by byte: {shown:?}");
    assert!((400..=505).contains(&expected.status()));
    let text = expected.to_string();
    assert!(text.contains("; ") && !text.ends_with('.'), "says what to do: {text}");
}

/// A head whose request line is `line`.
#[track_caller]
fn check_line(rule: &str, line: &str, expected: HeadError) {
    check(rule, format!("{line}\r\nHost: a\r\n\r\n").as_bytes(), expected);
}

/// A POST whose field lines behind Host are `fields`.
#[track_caller]
fn check_fields(rule: &str, fields: &[u8], expected: HeadError) {
    check(rule, &[b"POST /v1/refunds HTTP/1.1\r\nHost: a\r\n", fields, b"\r\n\r\n"].concat(), expected);
}

#[test]
fn hostile_line_ends_are_refused() {
    for (rule, head, expected) in [
        ("H1", &b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], LeadingLineBreak),
        ("H1", b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", LeadingLineBreak),
        ("H1", b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", LeadingLineBreak),
        ("H1", b"GET / HTTP/1.1\nHost: a\r\n\r\n", BareLf),
        ("H1", b"GET / HTTP/1.1\n\n", BareLf),
        ("H1", b"GET / HTTP/1.1\rHost: a\r\n\r\n", BareCr),
        ("H1", b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", BareCr),
        ("H1", b"GET / HTTP/1.1\r\nHost: a\nContent-Length: 5\r\n\r\n", BareLf),
        ("H1", b"GET / HTTP/1.1\r\nHost: a\r\n\n", BareLf),
        ("H1", b"GET / HTTP/1.1\r\nHost: a\n\r\n", BareLf),
        ("H1", b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", BareCr),
        ("H1", b"GET / HTTP/1.1\r\nHost: a\r\n\rX", BareCr),
        ("H1", b"GET / HTTP/1.1\r\nHost: a\r\n\0\r\n\r\n", Nul),
        ("H1", b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", Nul),
        ("H1", b"GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", Nul),
        ("H1", b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n", Nul),
    ] {
        check(rule, head, expected);
    }
}

#[test]
fn hostile_methods_and_versions_are_refused() {
    for (rule, line, expected) in [
        ("A3", "get / HTTP/1.1", Method),
        ("A3", "Post / HTTP/1.1", Method),
        ("A2", "HEAD / HTTP/1.1", Method),
        ("A2", "OPTIONS * HTTP/1.1", Method),
        ("S6", "TRACE / HTTP/1.1", Method),
        ("H5", "CONNECT api.stripe.com:443 HTTP/1.1", Method),
        ("H5", "PRI * HTTP/2.0", Method),
        ("A3", "GETX / HTTP/1.1", Method),
        ("A3", "GET\t/ HTTP/1.1", Method),
        ("A3", " GET / HTTP/1.1", Method),
        ("A3", "\u{feff}GET / HTTP/1.1", Method),
        ("A3", "PROPFIND / HTTP/1.1", Method),
        ("H2", "GET / HTTP/1.0", Version),
        ("H2", "GET / HTTP/0.9", Version),
        ("H2", "GET / HTTP/1.2", Version),
        ("H2", "GET / HTTP/2.0", Version),
        ("H2", "GET / HTTP/2", RequestLine),
        ("H2", "GET / http/1.1", RequestLine),
        ("H2", "GET / HTTP/1.1 ", RequestLine),
        ("H2", "GET / HTTP/1.10", RequestLine),
        ("H2", "GET / HTTP/+1.1", RequestLine),
        ("H2", "GET / ICAP/1.1", RequestLine),
        ("H2", "GET /", RequestLine),
        ("H2", "GET  HTTP/1.1", RequestLine),
        ("H2", "GET  / HTTP/1.1", RequestLine),
        ("H2", "GET /  HTTP/1.1", RequestLine),
        ("H2", "GET / x HTTP/1.1", RequestLine),
        ("H2", "GET", Method),
    ] {
        check_line(rule, line, expected);
    }
}

#[test]
fn hostile_targets_are_refused() {
    for (rule, target, expected) in [
        ("E1", "http://evil.test/v1/charges", TargetForm),
        ("E1", "https://api.stripe.com/v1", TargetForm),
        ("E1", "@evil.test/v1", TargetForm),
        ("A1", "*", TargetForm),
        ("A1", "v1/charges", TargetForm),
        ("A1", "?a=b", TargetForm),
        ("A1", "\\v1", TargetForm),
        ("A1", "/v1/%2e%2e/refunds", PathEscape),
        ("A1", "/v1/customers/cus%2Frefunds", PathEscape),
        ("A1", "/v1/customers/a%5cb", PathEscape),
        ("A1", "/v1/a%00", PathEscape),
        ("A1", "/v1/a%25", PathEscape),
        ("A1", "/v1/a%2", PathEscape),
        ("A1", "/v1/a%", PathEscape),
        ("A1", "/v1/../refunds", PathDots),
        ("A1", "/v1/./refunds", PathDots),
        ("A1", "/..", PathDots),
        ("A1", "/v1/...", PathDots),
        ("A1", "/v1/..?a=b", PathDots),
        ("A1", "/v1;a=b/refunds", PathByte),
        ("A1", "/v1\\refunds", PathByte),
        ("A1", "/v1#refunds", PathByte),
        ("A1", "/v1\"refunds", PathByte),
        ("A1", "/v1/refunds\t", PathByte),
        ("A1", "/v1/\u{7f}", PathByte),
        ("A1", "/v1/\u{1}", PathByte),
        ("A1", "/v1/b\u{fc}ro", PathByte),
        ("A1", "/v1/refunds:x", PathByte),
        ("A1", "/v1/{id}", PathByte),
        ("A5", "/v1?a=b#c", QueryByte),
        ("A5", "/v1?a=\\b", QueryByte),
        ("A5", "/v1?a=\"b", QueryByte),
        ("A5", "/v1?a=<b>", QueryByte),
        ("A5", "/v1?a={b}", QueryByte),
        ("A5", "/v1?a=b|c", QueryByte),
        ("A5", "/v1?a=^b", QueryByte),
        ("A5", "/v1?a=`b", QueryByte),
        ("A5", "/v1?a=b\tc", QueryByte),
        ("A5", "/v1?a=\u{e9}", QueryByte),
        ("A5", "/v1?a=\u{1f}", QueryByte),
        ("A5", "/v1?a=%", QueryEscape),
        ("A5", "/v1?a=%4", QueryEscape),
        ("A5", "/v1?a=%zz", QueryEscape),
        ("A5", "/v1?a=%u0041", QueryEscape),
        ("A5", "/v1?a=%00b", QueryEscape),
        ("A4", "/v1?_method=DELETE", MethodOverride),
        ("A4", "/v1?a=b&_method=DELETE", MethodOverride),
        ("A4", "/v1?a=b;_method=DELETE", MethodOverride),
        ("A4", "/v1?%5Fmethod=DELETE", MethodOverride),
        ("A4", "/v1?_METHOD", MethodOverride),
        ("A4", "/v1?+_method[]=DELETE", MethodOverride),
    ] {
        check_line(rule, &format!("GET {target} HTTP/1.1"), expected);
    }
}

#[test]
fn hostile_field_lines_are_refused() {
    for (rule, fields, expected) in [
        ("H1", &b"X: a\r\n b"[..], Fold),
        ("H1", b"X: a\r\n\tb", Fold),
        ("H1", b" X: a", Fold),
        ("H1", b"X : a", FieldNameSpace),
        ("H1", b"X\t: a", FieldNameSpace),
        ("H1", b"Content-Length : 5", FieldNameSpace),
        ("H1", b"X Y: a", FieldNameSpace),
        ("H1", b": a", FieldName),
        ("H1", b"X(: a", FieldName),
        ("H1", b"X\x01: a", FieldName),
        ("H1", b"\xc3\xa9: a", FieldName),
        ("H1", b"\"X\": a", FieldName),
        ("A4", b"Content_Length: 5", FieldName),
        ("A4", b"X_HTTP_Method_Override: DELETE", FieldName),
        ("H1", b"garbage", FieldLine),
        ("H1", b"X: a\x01b", FieldValue),
        ("H1", b"X: a\x7f", FieldValue),
        ("H1", b"X: a\x0bb", FieldValue),
        ("M2", b"Authorization: a\r\nAuthorization: b", FieldRepeated),
        ("S4", b"Authorization: a\r\nauthorization: a", FieldRepeated),
        ("M2", b"Content-Type: a\r\nContent-Type: b", FieldRepeated),
        ("M8", b"Idempotency-Key: a\r\nIdempotency-key: b", FieldRepeated),
        ("M2", b"Content-Encoding: identity\r\nContent-Encoding: gzip", FieldRepeated),
        ("H5", b"Upgrade: h2c", Upgrade),
        ("H5", b"HTTP2-Settings: AAMAAABk", Upgrade),
        ("H5", b"Connection: Upgrade, HTTP2-Settings", Upgrade),
        ("H5", b"Connection: keep-alive, upgrade", Upgrade),
        ("H5", b"Connection: a b", ConnectionInvalid),
        ("H5", b"Connection: close;q=1", ConnectionInvalid),
        ("H5", b"Expect: 200-ok", Expectation),
        ("H5", b"Expect:", Expectation),
        ("H5", b"Expect: 100-continue, x", Expectation),
        ("H5", b"Expect: 100-continue\r\nExpect: 100-continue", Expectation),
    ] {
        check_fields(rule, fields, expected);
    }
}

#[test]
fn hostile_framing_is_refused() {
    for (rule, fields, expected) in [
        ("H3", &b"Content-Length: 5\r\nTransfer-Encoding: chunked"[..], LengthAndCoding),
        ("H3", b"Transfer-Encoding: chunked\r\nContent-Length: 5", LengthAndCoding),
        ("H3", b"Transfer-Encoding: chunked\r\nContent-Length: 0", LengthAndCoding),
        ("H3", b"Content-Length: 5\r\nContent-Length: 5", LengthRepeated),
        ("H3", b"Content-Length: 5\r\ncontent-length: 6", LengthRepeated),
        ("H3", b"Content-Length: 5, 5", LengthInvalid),
        ("H3", b"Content-Length: 5,", LengthInvalid),
        ("H3", b"Content-Length:", LengthInvalid),
        ("H3", b"Content-Length: 5\t", LengthInvalid),
        ("H3", b"Content-Length:\t5", LengthInvalid),
        ("H3", b"Content-Length: +5", LengthInvalid),
        ("H3", b"Content-Length: -1", LengthInvalid),
        ("H3", b"Content-Length: 0x5", LengthInvalid),
        ("H3", b"Content-Length: 5 5", LengthInvalid),
        ("H3", b"Content-Length: 5.0", LengthInvalid),
        ("H3", b"Content-Length: 1_0", LengthInvalid),
        ("H3", b"Content-Length: \xd9\xa5", LengthInvalid),
        ("H3", b"Content-Length: 18446744073709551616", LengthInvalid),
        ("H3", b"Content-Length: 99999999999999999999999", LengthInvalid),
        ("H3", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", CodingRepeated),
        ("H3", b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", CodingRepeated),
        ("H3", b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", CodingUnknown),
        ("H3", b"Transfer-Encoding: gzip, chunked", CodingUnknown),
        ("H3", b"Transfer-Encoding: chunked, chunked", CodingUnknown),
        ("H3", b"Transfer-Encoding: chunked, identity", CodingUnknown),
        ("H3", b"Transfer-Encoding: xchunked", CodingUnknown),
        ("H3", b"Transfer-Encoding: chunked;q=1", CodingUnknown),
        ("H3", b"Transfer-Encoding: \"chunked\"", CodingUnknown),
        ("H3", b"Transfer-Encoding: identity", CodingUnknown),
        ("H3", b"Transfer-Encoding:", CodingUnknown),
        ("H3", b"Transfer-Encoding: chunked \t ", CodingUnknown),
        ("H3", b"Transfer-Encoding:\tchunked", CodingUnknown),
        ("H3", b"Transfer---Encoding: chunked", FieldName),
        ("H3", b"TransferEncoding: chunked", FieldName),
        ("H3", b"Content.Length: 5", FieldName),
        ("H3", b"!content-length: 5", FieldName),
        ("H3", b"Transfer-Encoding: chunked\x0b", FieldValue),
        ("H3", b"Transfer-Encoding\x0b: chunked", FieldName),
        ("H3", b"Transfer_Encoding: chunked", FieldName),
        ("H3", b"Transfer-Encoding : chunked", FieldNameSpace),
        ("H3", b"Transfer-Encoding:\r\n chunked", CodingUnknown),
        ("H3", b"X: y\r\n Transfer-Encoding: chunked", Fold),
    ] {
        check_fields(rule, fields, expected);
    }
}

#[test]
fn hostile_hosts_are_refused() {
    for (rule, fields, expected) in [
        ("H2", &b""[..], HostMissing),
        ("H2", b"X: a\r\n", HostMissing),
        ("H2", b"Host: a\r\nHost: a\r\n", HostRepeated),
        ("H2", b"Host: a\r\nhost: b\r\n", HostRepeated),
        ("H2", b"Host:\r\n", HostInvalid),
        ("H2", b"Host: a, b\r\n", HostInvalid),
        ("H2", b"Host: a b\r\n", HostInvalid),
        ("H2", b"Host: user@a\r\n", HostInvalid),
        ("H2", b"Host: a/b\r\n", HostInvalid),
        ("H2", b"Host: a:99999\r\n", HostInvalid),
        ("H2", b"Host: a:80:80\r\n", HostInvalid),
        ("H2", b"Host: a:\r\n", HostInvalid),
        ("H2", b"Host: a:+80\r\n", HostInvalid),
        ("H2", b"Host: :80\r\n", HostInvalid),
        ("H2", b"Host: [::1\r\n", HostInvalid),
        ("H2", b"Host: [::1]x\r\n", HostInvalid),
        ("H2", b"Host: [evil]\r\n", HostInvalid),
        ("H2", b"Host: \xc3\xa9\r\n", HostInvalid),
    ] {
        check(rule, &[b"GET / HTTP/1.1\r\n", fields, b"\r\n"].concat(), expected);
    }
}

#[test]
fn oversized_heads_are_refused() {
    let long = "a".repeat(8_192);
    check("H1", format!("GET /{long}").as_bytes(), TargetTooLong);
    check("H1", format!("GET / HTTP/1.1\r\nX: {long}").as_bytes(), LineTooLong);
    let lines = format!("X: {}\r\n", "a".repeat(4_000)).repeat(5);
    check("H1", format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}").as_bytes(), HeadTooLarge);
    check("H1", format!("GET / HTTP/1.1\r\n{}", "X:\r\n".repeat(101)).as_bytes(), TooManyFields);
}
