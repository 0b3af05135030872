use proptest::prelude::*;

use super::*;

mod hostile;

/// Parses a head; the fields accepted are then read by httparse too, which must see the same.
fn parse(bytes: &[u8]) -> Result<RequestHead, HeadError> {
    let mut head = RequestHead::new();
    match head.parse(bytes, &HeadLimits::REQUEST)? {
        Parsed::Partial => panic!("the head is not whole: {:?}", String::from_utf8_lossy(bytes)),
        Parsed::Complete { head_bytes } => {
            assert_clean(&head, bytes);
            assert_eq!(as_httparse_reads(bytes), (head_bytes, as_we_read(&head, bytes)));
            Ok(head)
        }
    }
}

/// No span of an accepted head holds a byte that could end a line elsewhere.
fn assert_clean(head: &RequestHead, buf: &[u8]) {
    let spans = head.fields(buf).flat_map(|(name, value)| [name, value]);
    for span in spans.chain([head.path(buf), head.query(buf).unwrap_or_default()]) {
        assert!(!span.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "{span:?}");
    }
}

type Reading = (String, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

fn as_we_read(head: &RequestHead, buf: &[u8]) -> Reading {
    let target = [Some(head.path(buf)), head.query(buf)];
    let target = target.iter().flatten().copied().collect::<Vec<_>>().join(&b'?');
    let fields = head.fields(buf).map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    (head.method().as_str().to_owned(), target, fields)
}

fn as_httparse_reads(buf: &[u8]) -> (usize, Reading) {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    let head_bytes = request.parse(buf).unwrap().unwrap();
    let fields = request.headers.iter().map(|field| (field.name.as_bytes().to_vec(), field.value.to_vec()));
    let reading =
        (request.method.unwrap().to_owned(), request.path.unwrap().as_bytes().to_vec(), fields.collect());
    (head_bytes, reading)
}

/// Checks one accepted head, written without its CRLFs, against what is expected of it.
#[track_caller]
fn check(lines: &str, expected: &str) {
    let bytes = format!("{}\r\n\r\n", lines.replace('\n', "\r\n")).into_bytes();
    let head = parse(&bytes).unwrap_or_else(|error| panic!("refused: {error:?}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut seen = format!("{:?} {}", head.method(), text(head.path(&bytes)));
    if let Some(query) = head.query(&bytes) {
        seen.push_str(&format!(" ?{}", text(query)));
    }
    seen.push_str(&format!(" {:?}", head.framing()));
    for (label, value) in [
        ("auth", head.authorization(&bytes)),
        ("type", head.content_type(&bytes)),
        ("coding", head.content_encoding(&bytes)),
        ("key", head.idempotency_key(&bytes)),
    ] {
        if let Some(value) = value {
            seen.push_str(&format!(" {label}={}", text(value)));
        }
    }
    for (label, holds) in [
        ("get-with-body", head.is_get_with_body()),
        ("expects", head.expect_continue()),
        ("closes", head.wants_close()),
    ] {
        if holds {
            seen.push_str(&format!(" {label}"));
        }
    }
    assert_eq!(seen, expected);
}

#[test]
fn what_stripe_python_sends_is_read() {
    check(
        "POST /stripe/v1/payment_intents HTTP/1.1\nHost: 127.0.0.1:4000\nUser-Agent: Stripe/v1 PythonBindings/12\n\
         Accept-Encoding: gzip, deflate\nAccept: */*\nConnection: keep-alive\nAuthorization: Bearer vk_live_1\n\
         X-Stripe-Client-User-Agent: {\"lang\": \"python\", \"uname\": \"b\u{fc}ro\"}\nStripe-Version: 2025-01-27\n\
         Idempotency-Key: 5f1b\nContent-Type: application/x-www-form-urlencoded\nContent-Length: 24",
        "Post /stripe/v1/payment_intents Length(24) auth=Bearer vk_live_1 \
         type=application/x-www-form-urlencoded key=5f1b",
    );
}

#[test]
fn a_query_keeps_its_brackets_and_escapes() {
    check(
        "GET /v1/charges?expand[0]=data.customer&created[gte]=1&DateSent%3E=2026 HTTP/1.1\nHost: a",
        "Get /v1/charges ?expand[0]=data.customer&created[gte]=1&DateSent%3E=2026 None",
    );
    check("GET /v1/charges? HTTP/1.1\nHost: a", "Get /v1/charges ? None");
}

#[test]
fn a_get_with_a_body_is_told_from_one_without() {
    check("GET /emails/1 HTTP/1.1\nHost: a\nContent-Length: 2", "Get /emails/1 Length(2) get-with-body");
    check("GET /emails/1 HTTP/1.1\nHost: a\nContent-Length: 0", "Get /emails/1 Length(0)");
    check("GET /e HTTP/1.1\nHost: a\nTransfer-Encoding: chunked", "Get /e Chunked get-with-body");
    check("DELETE /e HTTP/1.1\nHost: a\nContent-Length: 0", "Delete /e Length(0)");
    check("DELETE /e HTTP/1.1\nHost: a\nContent-Length: 9", "Delete /e Length(9)");
}

#[test]
fn connection_options_and_expectations_are_read_in_any_case() {
    check("PUT /a HTTP/1.1\nHOST: a\nConnection: Keep-Alive, CLOSE", "Put /a None closes");
    check("PUT /a HTTP/1.1\nhost: a\nexpect: 100-Continue\ncontent-length: 5", "Put /a Length(5) expects");
    check("PATCH /a HTTP/1.1\nhost:a\ntransfer-encoding:  Chunked  ", "Patch /a Chunked");
    check("POST /a HTTP/1.1\nhost: a\ncontent-encoding: gzip", "Post /a None coding=gzip");
}

#[test]
fn hosts_may_be_names_addresses_and_compose_services() {
    for host in ["api.stripe.com", "10.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "key_brake:80", "a~b"] {
        check(&format!("GET / HTTP/1.1\nHost: {host}"), "Get / None");
    }
}

#[test]
fn a_field_named_by_connection_is_dropped_in_any_case() {
    let bytes =
        b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close, X-Trace\r\nConnection: Stripe-Account\r\n\r\n";
    let head = parse(bytes).unwrap();
    assert!(head.drops(bytes, b"x-trace") && head.drops(bytes, b"stripe-account"));
    assert!(!head.drops(bytes, b"accept"));
}

#[test]
fn a_repeated_field_is_seen_as_repeated() {
    let bytes = b"GET /a HTTP/1.1\r\nHost: a\r\nStripe-Account: 1\r\nstripe-account: 2\r\n\r\n";
    let head = parse(bytes).unwrap();
    assert_eq!(head.field(bytes, "Stripe-Account"), Some(&b"1"[..]));
    assert!(head.repeats(bytes, "Stripe-Account") && !head.repeats(bytes, "Host"));
    assert_eq!(head.field(bytes, "Accept"), None);
}

#[test]
fn bytes_behind_the_head_are_left_alone() {
    let bytes = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET\0\r\r\n";
    let mut head = RequestHead::new();
    let parsed = head.parse(bytes, &HeadLimits::REQUEST);
    assert_eq!(parsed, Ok(Parsed::Complete { head_bytes: 28 }));
    assert_eq!(head.parse(bytes, &HeadLimits::REQUEST), parsed);
}

#[test]
fn reset_forgets_the_request_before() {
    let mut head = RequestHead::new();
    let first = b"POST /a?b=1 HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    assert_eq!(head.parse(first, &HeadLimits::REQUEST), Ok(Parsed::Complete { head_bytes: first.len() }));
    head.reset();
    let second = b"GET /b HTTP/1.1\r\nHost: b\r\n\r\n";
    assert_eq!(head.parse(second, &HeadLimits::REQUEST), Ok(Parsed::Complete { head_bytes: second.len() }));
    assert_eq!((head.authorization(second), head.query(second), head.wants_close()), (None, None, false));
    assert_eq!((head.framing(), head.fields(second).count()), (BodyFraming::None, 1));
}

#[test]
fn a_refused_head_stays_refused_until_reset() {
    let mut head = RequestHead::new();
    assert_eq!(head.parse(b"get", &HeadLimits::REQUEST), Err(HeadError::Method));
    assert_eq!(
        head.parse(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", &HeadLimits::REQUEST),
        Err(HeadError::Method)
    );
    head.reset();
    assert_eq!(head.parse(b"", &HeadLimits::REQUEST), Ok(Parsed::Partial));
}

#[test]
fn a_wrong_start_waits_for_no_line_end() {
    for (start, expected) in [
        (&b"\x16\x03\x01"[..], HeadError::Method),
        (b"PR", HeadError::Method),
        (b"get", HeadError::Method),
        (b"GETS", HeadError::Method),
        (b"\r", HeadError::LeadingLineBreak),
        (b"GET /\0", HeadError::Nul),
        (b"GET /\n", HeadError::BareLf),
        (b"GET /\rx", HeadError::BareCr),
        (b"GET /%2e HTTP/1.1\r\n", HeadError::PathEscape),
    ] {
        assert_eq!(RequestHead::new().parse(start, &HeadLimits::REQUEST), Err(expected), "{start:?}");
    }
}

#[test]
fn limits_hold_to_the_byte() {
    let limits = HeadLimits { head_bytes_max: 64, line_bytes_max: 32, fields_max: 2 };
    let verdict = |text: String| RequestHead::new().parse(text.as_bytes(), &limits);
    let line = |bytes: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(bytes - 16));
    assert_eq!(verdict(line(32)), Ok(Parsed::Partial));
    assert_eq!(verdict(line(33)), Err(HeadError::TargetTooLong));
    assert_eq!(verdict(line(33)[..32].to_owned()), Err(HeadError::TargetTooLong));
    assert_eq!(verdict(line(33)[..31].to_owned()), Ok(Parsed::Partial));
    let field = |bytes: usize| format!("Host: {}\r\n", "a".repeat(bytes - 8));
    let whole = |bytes: usize| format!("{}{}\r\n", line(30), field(bytes));
    assert_eq!(verdict(whole(32)), Ok(Parsed::Complete { head_bytes: 64 }));
    assert_eq!(verdict(whole(33)), Err(HeadError::LineTooLong));
    assert_eq!(verdict(format!("{}{}\r\n", line(32), field(31))), Err(HeadError::HeadTooLarge));
    assert_eq!(
        verdict(format!("{}Host: a\r\nA:\r\n\r\n", line(20))),
        Ok(Parsed::Complete { head_bytes: 35 })
    );
    assert_eq!(verdict(format!("{}Host: a\r\nA:\r\nB:\r\n", line(20))), Err(HeadError::TooManyFields));
}

/// Heads that are valid, and mutations of them that mostly are not.
fn a_valid_head() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(Method::ALL.to_vec());
    let query = prop::option::of("[a-z]{1,4}=[A-Za-z0-9\\[\\]&=:+]{0,12}");
    let fields = prop::collection::vec(("[A-Za-z][A-Za-z-]{0,12}x", "[ -~]{0,24}"), 0..6);
    let body = prop::sample::select(vec!["", "Content-Length: 12\r\n", "Transfer-Encoding: chunked\r\n"]);
    (method, "(/[A-Za-z0-9_~+-]{1,8}){1,4}", query, fields, body).prop_map(
        |(method, path, query, fields, body)| {
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            let mut head = format!("{} {path}{query} HTTP/1.1\r\nHost: api.test\r\n", method.as_str());
            for (name, value) in fields {
                head.push_str(&format!("{name}:{value}\r\n"));
            }
            format!("{head}{body}\r\n").into_bytes()
        },
    )
}

fn in_pieces(bytes: &[u8], cuts: &[usize]) -> (RequestHead, Result<Parsed, HeadError>) {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    let mut head = RequestHead::new();
    let mut verdict = Ok(Parsed::Partial);
    for end in ends {
        verdict = head.parse(&bytes[..end], &HeadLimits::REQUEST);
        if verdict != Ok(Parsed::Partial) {
            break;
        }
    }
    (head, verdict)
}

proptest! {
    #[test]
    fn a_head_reads_the_same_however_it_is_split(bytes in a_valid_head(), cuts in prop::collection::vec(0usize..512, 0..40)) {
        let whole = parse(&bytes).unwrap();
        let (head, verdict) = in_pieces(&bytes, &cuts);
        prop_assert_eq!(verdict, Ok(Parsed::Complete { head_bytes: bytes.len() }));
        prop_assert_eq!(as_we_read(&head, &bytes), as_we_read(&whole, &bytes));
        prop_assert_eq!(head.framing(), whole.framing());
    }

    #[test]
    fn a_damaged_head_gets_one_verdict_however_it_is_split(
        mut bytes in a_valid_head(),
        damage in prop::collection::vec((0usize..512, any::<u8>()), 1..4),
        cuts in prop::collection::vec(0usize..512, 0..40),
    ) {
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        let mut head = RequestHead::new();
        let verdict = head.parse(&bytes, &HeadLimits::REQUEST);
        prop_assert_eq!(in_pieces(&bytes, &cuts).1, verdict);
        if let Ok(Parsed::Complete { head_bytes }) = verdict {
            assert_clean(&head, &bytes);
            prop_assert_eq!(as_httparse_reads(&bytes), (head_bytes, as_we_read(&head, &bytes)));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut head = RequestHead::new();
        let started = [b"GET /a HTTP/1.1\r\n".as_slice(), &bytes].concat();
        for bytes in [&bytes, &started] {
            head.reset();
            if head.parse(bytes, &HeadLimits::REQUEST).is_ok() {
                assert_clean(&head, bytes);
            }
        }
    }
}
