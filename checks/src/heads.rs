//! Heads of requests and replies (rules H1, H2, H3, H5, H9, A1, A3, A4, A5, S7).

use keybrake_proto::http1::encode::{self, RequestLine};
use keybrake_proto::http1::{
    BodyFraming, HeadError, HeadLimits, Parsed, ReplyError, ReplyFraming, ReplyHead, RequestHead,
};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// A request's head: one verdict however it is split; what is accepted is read by httparse and by a naive reader in
/// the same way, has one framing and one host, and what is encoded from it reads back as the same request.
pub fn request_head(bytes: &[u8]) {
    let mut head = RequestHead::new();
    let verdict = head.parse(bytes, &HeadLimits::REQUEST);
    let mut bytewise = RequestHead::new();
    let piece = |end: usize| bytewise.parse(&bytes[..end], &HeadLimits::REQUEST);
    let first = (0..=bytes.len()).map(piece).find(|verdict| *verdict != Ok(Parsed::Partial));
    assert_eq!(first.unwrap_or(Ok(Parsed::Partial)), verdict, "the verdict depends on the pieces");
    match verdict {
        Ok(Parsed::Partial) => assert!(bytes.len() < HeadLimits::REQUEST.head_bytes_max),
        Ok(Parsed::Complete { head_bytes }) => accepted(&head, &bytes[..head_bytes]),
        Err(error) => refused(error),
    }
}

fn refused(error: HeadError) {
    assert!((400..=505).contains(&error.status()), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("; ") && !text.ends_with('.'), "a refusal says what to do: {text}");
}

fn accepted(head: &RequestHead, bytes: &[u8]) {
    let limits = HeadLimits::REQUEST;
    assert!(bytes.len() <= limits.head_bytes_max && head.fields(bytes).count() <= limits.fields_max);
    let target = target(head, bytes);
    let fields = owned(head.fields(bytes));
    let (first, naive_fields) = naive(bytes);
    let line = [head.method().as_str().as_bytes(), &target, b"HTTP/1.1"].join(&b' ');
    assert_eq!(first, line, "the request line");
    assert_eq!(naive_fields, fields, "the fields");

    let mut slots = [httparse::EMPTY_HEADER; 128];
    let mut other = httparse::Request::new(&mut slots);
    assert_eq!(other.parse(bytes), Ok(httparse::Status::Complete(bytes.len())));
    assert_eq!(other.method, Some(head.method().as_str()));
    assert_eq!(other.path.map(str::as_bytes), Some(&target[..]));
    assert_eq!(other.version, Some(1));
    assert_eq!(owned(other.headers.iter().map(|field| (field.name.as_bytes(), field.value))), fields);

    grammar(head, bytes);
    framing(&fields, head.framing());
    forwarded(head, bytes);
}

fn target(head: &RequestHead, bytes: &[u8]) -> Vec<u8> {
    let query = head.query(bytes).map(|query| [b"?", query].concat());
    [head.path(bytes), &query.unwrap_or_default()].concat()
}

fn owned<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Fields {
    fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}

/// A head as its lines: no limits, no grammar.
fn naive(bytes: &[u8]) -> (Vec<u8>, Fields) {
    let text: String = bytes.iter().copied().map(char::from).collect();
    let text = text.strip_suffix("\r\n\r\n").unwrap();
    let mut lines = text.split("\r\n");
    let latin = |text: &str| text.chars().map(|c| u8::try_from(c).unwrap()).collect::<Vec<u8>>();
    let first = latin(lines.next().unwrap());
    let field = |line: &str| {
        let (name, value) = line.split_once(':').unwrap();
        (latin(name), latin(value.trim_matches([' ', '\t'])))
    };
    (first, lines.map(field).collect())
}

fn grammar(head: &RequestHead, bytes: &[u8]) {
    let path = head.path(bytes);
    assert_eq!(path.first(), Some(&b'/'));
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._~+-".contains(byte);
    assert!(path.iter().all(is_plain), "a path byte outside the grammar");
    let is_dots = |segment: &[u8]| !segment.is_empty() && segment.iter().all(|byte| *byte == b'.');
    assert!(!path.split(|byte| *byte == b'/').any(is_dots), "a segment of dots");
    let query = head.query(bytes).unwrap_or_default();
    assert!(query.iter().all(|byte| byte.is_ascii_graphic() && !b"\\#\"<>{}|^`".contains(byte)));
    for (name, value) in head.fields(bytes) {
        assert!(!name.is_empty() && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'_'));
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0 | 0x7f)));
    }
    let count = |wanted: &str| {
        head.fields(bytes).filter(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes())).count()
    };
    assert_eq!(count("host"), 1);
    assert_eq!(count("upgrade") + count("http2-settings"), 0);
    for (name, _) in head.fields(bytes) {
        let letters: String =
            name.iter().copied().map(char::from).filter(char::is_ascii_alphabetic).collect();
        let resembles = ["contentlength", "transferencoding"].contains(&&*letters.to_ascii_lowercase());
        let frames = [&b"content-length"[..], b"transfer-encoding"]
            .iter()
            .any(|field| name.eq_ignore_ascii_case(field));
        assert_eq!(resembles, frames, "a name that resembles a framing field");
    }
    for once in ["authorization", "content-type", "content-encoding", "idempotency-key", "expect"] {
        assert!(count(once) <= 1, "two of {once}");
        assert_eq!(head.repeats(bytes, once), count(once) > 1);
    }
}

/// The framing as the fields alone say it: exactly one length or one coding.
fn framing(fields: &Fields, ours: BodyFraming) {
    let of = |wanted: &str| -> Vec<&[u8]> {
        let is_it = |name: &[u8]| name.eq_ignore_ascii_case(wanted.as_bytes());
        fields.iter().filter(|(name, _)| is_it(name)).map(|(_, value)| &value[..]).collect()
    };
    match (of("content-length").as_slice(), of("transfer-encoding").as_slice()) {
        ([], []) => assert_eq!(ours, BodyFraming::None),
        ([length], []) => {
            assert!(length.iter().all(u8::is_ascii_digit), "a length of {length:?}");
            let length: u64 = std::str::from_utf8(length).unwrap().parse().unwrap();
            assert_eq!(ours, BodyFraming::Length(length));
        }
        ([], [coding]) => {
            assert!(coding.eq_ignore_ascii_case(b"chunked"), "a coding of {coding:?}");
            assert_eq!(ours, BodyFraming::Chunked);
        }
        (lengths, codings) => panic!("ambiguous framing was accepted: {lengths:?} {codings:?}"),
    }
}

const CREDENTIAL: &[u8] = b"Authorization: Bearer credential-of-the-vendor\r\n";
const LENGTH: u64 = 41;

/// What is sent for an accepted request is one request, with our host, length and credential and nothing of the
/// agent's in their place.
fn forwarded(head: &RequestHead, bytes: &[u8]) {
    let line = RequestLine { method: head.method(), path: head.path(bytes), query: head.query(bytes) };
    let kept = || head.fields(bytes).filter(|(name, _)| !head.drops(bytes, name));
    let mut out = Vec::new();
    encode::request_head(&mut out, line, b"vendor.test", kept(), Some(LENGTH), CREDENTIAL);
    let mut again = RequestHead::new();
    let limits = HeadLimits { head_bytes_max: 1 << 20, line_bytes_max: 1 << 20, fields_max: 1000 };
    assert_eq!(again.parse(&out, &limits), Ok(Parsed::Complete { head_bytes: out.len() }));
    assert_eq!((again.method(), target(&again, &out)), (head.method(), target(head, bytes)));
    assert_eq!(again.framing(), BodyFraming::Length(LENGTH));
    let ours: [(&[u8], &[u8]); 3] = [
        (b"Host", b"vendor.test"),
        (b"Content-Length", b"41"),
        (b"Authorization", b"Bearer credential-of-the-vendor"),
    ];
    // Bytes beyond ASCII are not passed on: parsers differ on them.
    let passes = |(name, value): &(&[u8], &[u8])| encode::may_forward(name) && value.is_ascii();
    let mut expected = owned(kept().filter(passes));
    expected.insert(0, (ours[0].0.to_vec(), ours[0].1.to_vec()));
    expected.extend(owned(ours[1..].iter().copied()));
    assert_eq!(owned(again.fields(&out)), expected);
}

/// A reply's head: one verdict however it is split; what is accepted is read as httparse reads it, and what is encoded
/// from it frames the same body.
pub fn reply_head(bytes: &[u8]) {
    let mut head = ReplyHead::new();
    let verdict = head.parse(bytes, &HeadLimits::REPLY);
    let mut bytewise = ReplyHead::new();
    let piece = |end: usize| bytewise.parse(&bytes[..end], &HeadLimits::REPLY);
    let first = (0..=bytes.len()).map(piece).find(|verdict| *verdict != Ok(Parsed::Partial));
    assert_eq!(first.unwrap_or(Ok(Parsed::Partial)), verdict, "the verdict depends on the pieces");
    match verdict {
        Ok(Parsed::Partial) => {}
        Ok(Parsed::Complete { head_bytes }) => accepted_reply(&head, &bytes[..head_bytes]),
        Err(ReplyError::Head(error)) => refused(error),
        Err(error) => assert!(error.to_string().starts_with("vendor reply refused: ")),
    }
}

fn accepted_reply(head: &ReplyHead, bytes: &[u8]) {
    let status = head.status();
    assert!((100..=599).contains(&status) && status != 101);
    let (first, lines) = naive(bytes);
    assert!(first.starts_with(format!("HTTP/1.{} {status}", u8::from(first[7] == b'1')).as_bytes()));
    let fields = owned(head.fields(bytes));
    assert_eq!(lines.len(), fields.len() + head.lines_dropped() as usize);
    assert!(fields.iter().all(|field| lines.contains(field)));
    let mut slots = [httparse::EMPTY_HEADER; 256];
    let mut other = httparse::Response::new(&mut slots);
    // httparse is stricter about reason phrases and looser about nothing that passes here.
    if head.lines_dropped() == 0 && other.parse(bytes) == Ok(httparse::Status::Complete(bytes.len())) {
        assert_eq!(other.code, Some(status));
        assert_eq!(owned(other.headers.iter().map(|field| (field.name.as_bytes(), field.value))), fields);
    }
    if matches!(status, 200..) && !matches!(status, 204 | 304) {
        // Lines with a fault in their value are left out, but never one that frames.
        match head.framing() {
            ReplyFraming::Length(length) => framing(&lines, BodyFraming::Length(length)),
            ReplyFraming::Chunked => framing(&lines, BodyFraming::Chunked),
            ReplyFraming::UntilClose => framing(&lines, BodyFraming::None),
            ReplyFraming::None => panic!("status {status} has a body"),
        }
    } else {
        assert_eq!(head.framing(), ReplyFraming::None);
    }
    passed_back(head, bytes);
}

fn passed_back(head: &ReplyHead, bytes: &[u8]) {
    let framing = match head.framing() {
        ReplyFraming::None => BodyFraming::None,
        ReplyFraming::Length(length) => BodyFraming::Length(length),
        ReplyFraming::Chunked | ReplyFraming::UntilClose => BodyFraming::Chunked,
    };
    let kept = || head.fields(bytes).filter(|(name, _)| !head.drops(bytes, name));
    let mut out = Vec::new();
    encode::reply_head(&mut out, head.status(), kept(), framing, head.close());
    let mut again = ReplyHead::new();
    let limits = HeadLimits { head_bytes_max: 1 << 20, line_bytes_max: 1 << 20, fields_max: 1000 };
    assert_eq!(again.parse(&out, &limits), Ok(Parsed::Complete { head_bytes: out.len() }));
    assert_eq!((again.status(), again.lines_dropped()), (head.status(), 0));
    assert_eq!(again.close(), head.close());
    let framed = match framing {
        BodyFraming::None => ReplyFraming::None,
        BodyFraming::Length(length) => ReplyFraming::Length(length),
        BodyFraming::Chunked => ReplyFraming::Chunked,
    };
    assert_eq!(again.framing(), framed);
    for secret in ["set-cookie", "location", "server", "alt-svc", "refresh"] {
        assert_eq!(again.field(&out, secret), None, "{secret} was passed on");
    }
}
