//! What is sent to a vendor is one request to every parser, and what is taken from an agent is what other parsers take
//! (rules N1, H1, H3, H4). The others are llhttp (of Node), httptools (of uvicorn) and h11, in one Python process.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::Write as _;
use std::process::{Command, Stdio};

use keybrake_proto::http1::encode::{self, RequestLine};
use keybrake_proto::http1::{BodyDecoder, BodyFraming, HeadLimits, Parsed, RequestHead};
use keybrake_tests::{python, script};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::Value;

const PARSERS: [&str; 3] = ["h11", "httptools", "llhttp"];
const CREDENTIAL: &[u8] = b"Authorization: Bearer credential-of-the-vendor\r\n";

/// A request as it is read: names in lower case, values without outer blanks, both sorted; bytes as Latin-1.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: String,
}

/// What stands in the bytes of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    requests: Vec<Request>,
    rest: usize,
    fault: Option<String>,
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn sorted<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Vec<(String, String)> {
    let mut fields: Vec<_> =
        fields.map(|(name, value)| (latin(name).to_ascii_lowercase(), latin(value))).collect();
    fields.sort();
    fields
}

/// What we read: the head, where the body starts, the body if it is whole, and its length on the wire.
struct Ours {
    head: RequestHead,
    head_bytes: usize,
    body: Option<(Vec<u8>, usize)>,
}

/// `None` if we refuse the bytes or the head is not whole.
fn read(bytes: &[u8]) -> Option<Ours> {
    let mut head = RequestHead::new();
    let Ok(Parsed::Complete { head_bytes }) = head.parse(bytes, &HeadLimits::REQUEST) else { return None };
    let mut decoder = BodyDecoder::new(head.framing(), 1 << 20);
    let mut body = Vec::new();
    let progress = decoder.decode(&bytes[head_bytes..], &mut body).ok()?;
    Some(Ours { head, head_bytes, body: progress.done.then_some((body, progress.consumed)) })
}

impl Ours {
    fn target<'b>(&self, bytes: &'b [u8]) -> (&'b [u8], Option<&'b [u8]>) {
        (self.head.path(bytes), self.head.query(bytes))
    }

    fn request(&self, bytes: &[u8]) -> Request {
        let (path, query) = self.target(bytes);
        let query = query.map(|query| format!("?{}", latin(query))).unwrap_or_default();
        Request {
            method: self.head.method().as_str().to_owned(),
            target: latin(path) + &query,
            fields: sorted(self.head.fields(bytes)),
            body: self.body.as_ref().map(|(body, _)| latin(body)).unwrap_or_default(),
        }
    }
}

/// What each parser reads in each message, in the order of [`PARSERS`].
fn others(messages: &[Vec<u8>]) -> Vec<[Reading; 3]> {
    let mut child = Command::new(python("venv-parsers"))
        .arg(script("parsers.py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input: Vec<u8> = messages
        .iter()
        .flat_map(|message| [&u32::try_from(message.len()).unwrap().to_le_bytes()[..], message].concat())
        .collect();
    stdin.write_all(&input).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "parsers.py: {}", output.status);
    let lines = String::from_utf8(output.stdout).unwrap();
    let readings: Vec<[Reading; 3]> = lines
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            PARSERS.map(|parser| reading(&line[parser]))
        })
        .collect();
    assert_eq!(readings.len(), messages.len());
    readings
}

fn reading(value: &Value) -> Reading {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let request = |value: &Value| {
        let field =
            |pair: &Value| (text(&pair[0]), pair[1].as_str().unwrap().trim_matches([' ', '\t']).to_owned());
        let mut fields: Vec<_> = value["fields"].as_array().unwrap().iter().map(field).collect();
        fields.sort();
        Request {
            method: text(&value["method"]),
            target: text(&value["target"]),
            fields,
            body: text(&value["body"]),
        }
    };
    Reading {
        requests: value["requests"].as_array().unwrap().iter().map(request).collect(),
        rest: usize::try_from(value["rest"].as_u64().unwrap()).unwrap(),
        fault: value["fault"].as_str().map(str::to_owned),
    }
}

/// So many values of a strategy, different in each run.
fn some<T: std::fmt::Debug>(count: usize, strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::default();
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// Requests of agents, most of them valid: any token as a name, any byte that a value may have, any framing.
fn requests() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE"]);
    let query =
        prop::option::of("([a-z\\[\\]]{1,8}=([!$'()*+,./:;?@A-Za-z0-9_~-]|%[1-9a-f][0-9a-f]){0,12}&?){0,4}");
    let known = prop::sample::select(vec![
        "Accept",
        "User-Agent",
        "Idempotency-Key",
        "Stripe-Version",
        "Content-Type",
        "Connection",
        "TE",
        "Trailer",
        "Keep-Alive",
        "X-Forwarded-For",
        "Range",
        "Cookie",
        "Proxy-Connection",
        "Sec-WebSocket-Key",
        "Via",
    ]);
    let name = prop_oneof![known.prop_map(str::to_owned), "[!#$%&'*+.^`|~A-Za-z0-9-]{1,20}"];
    let byte = prop_oneof![8 => 0x21..=0x7e_u8, 1 => Just(b' '), 1 => Just(b'\t'), 1 => 0x80..=0xff_u8];
    let fields = prop::collection::vec((name, prop::collection::vec(byte, 0..40)), 0..12);
    let body = prop::collection::vec(any::<u8>(), 0..300);
    (method, "(/[A-Za-z0-9._~+-]{1,12}){1,6}", query, fields, body, 0..3_u8).prop_map(
        |(method, path, query, fields, body, framing)| {
            let query = query.map(|query| format!("?{query}")).unwrap_or_default();
            let mut bytes =
                format!("{method} {path}{query} HTTP/1.1\r\nHost: proxy.test:8080\r\n").into_bytes();
            for (name, value) in fields {
                bytes.extend([name.as_bytes(), b":", &value, b"\r\n"].concat());
            }
            match framing {
                0 => bytes.extend(b"\r\n"),
                1 => {
                    bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
                    bytes.extend(body);
                }
                _ => {
                    bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    for piece in body.chunks(100) {
                        encode::chunk(&mut bytes, piece);
                    }
                    encode::last_chunk(&mut bytes);
                }
            }
            bytes
        },
    )
}

/// What a vendor gets for an accepted request if every field may pass that ever may, and what it must read.
fn forwarded(bytes: &[u8]) -> Option<(Vec<u8>, Request)> {
    let ours = read(bytes)?;
    let (body, _) = ours.body.as_ref()?;
    let (path, query) = ours.target(bytes);
    let line = RequestLine { method: ours.head.method(), path, query };
    let length = (ours.head.framing() != BodyFraming::None).then_some(body.len() as u64);
    let mut out = Vec::new();
    encode::request_head(&mut out, line, b"api.vendor.test", ours.head.fields(bytes), length, CREDENTIAL);
    out.extend_from_slice(body);
    let length = length.map(|length| length.to_string());
    let own: [(&[u8], &[u8]); 2] =
        [(b"host", b"api.vendor.test"), (b"authorization", b"Bearer credential-of-the-vendor")];
    let length = length.iter().map(|length| (&b"content-length"[..], length.as_bytes()));
    // Bytes beyond ASCII are not passed on: parsers differ on them.
    let passes = |(name, value): &(&[u8], &[u8])| encode::may_forward(name) && value.is_ascii();
    let passed = ours.head.fields(bytes).filter(passes);
    let fields = sorted(passed.chain(own).chain(length));
    Some((out, Request { fields, ..ours.request(bytes) }))
}

#[test]
fn n1_what_is_forwarded_is_one_request_to_every_parser() {
    let (sent, expected): (Vec<_>, Vec<_>) =
        some(5000, requests()).iter().filter_map(|bytes| forwarded(bytes)).unzip();
    assert!(sent.len() > 3000, "only {} requests were accepted", sent.len());
    for ((readings, expected), bytes) in others(&sent).into_iter().zip(expected).zip(&sent) {
        let one = Reading { requests: vec![expected], rest: 0, fault: None };
        for (parser, reading) in PARSERS.into_iter().zip(readings) {
            assert_eq!(reading, one, "{parser}: {}", latin(bytes));
        }
    }
    println!("{} forwarded requests are read alike by {}", sent.len(), PARSERS.join(", "));
}

/// Fields that give a length, or look like it. `~` is the end of a line.
const LENGTHS: &[&str] = &[
    "",
    "Content-Length: 5",
    "content-length:5",
    "Content-Length: 05",
    "Content-Length: 5 ",
    "Content-Length:\t5",
    "Content-Length: 5\t",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 0x5",
    "Content-Length: 5,5",
    "Content-Length: 5;",
    "Content-Length: 5.0",
    "Content-Length: \x0b5",
    "Content-Length: 5\0",
    "Content-Length:",
    "Content-Length: 0",
    "Content-Length: 18446744073709551621",
    "Content-Length : 5",
    "Content-Length\t: 5",
    " Content-Length: 5",
    "Content_Length: 5",
    "Content-Length: 5~Content-Length: 5",
    "Content-Length: 0~Content-Length: 5",
    "X: y~ Content-Length: 5",
    "Content-Length:~ 5",
    "X: y\nContent-Length: 5",
    "X: y\rContent-Length: 5",
    "Content-Length: 43",
    "\0Content-Length: 5",
    "Content-Length\0: 5",
    "Content-Length",
    "Connection: content-length~Content-Length: 5",
];

/// Fields that give a coding, or look like it.
const CODINGS: &[&str] = &[
    "",
    "Transfer-Encoding: chunked",
    "transfer-encoding:CHUNKED",
    "Transfer-Encoding: chunked ",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: chunked\t",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunkedx",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: chunked;a=b",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding:",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t:chunked",
    " Transfer-Encoding: chunked",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding: chunked~Transfer-Encoding: chunked",
    "Transfer-Encoding: identity~Transfer-Encoding: chunked",
    "Transfer-Encoding:~ chunked",
    "X: y\nTransfer-Encoding: chunked",
    "Transfer-Encoding\0: chunked",
    "Transfer-Encoding: chunked\0",
    "TE: chunked",
    "Connection: transfer-encoding~Transfer-Encoding: chunked",
];

/// What stands behind a head.
const BODIES: &[&str] = &[
    "",
    "hello",
    "5\r\nhello\r\n0\r\n\r\n",
    "0\r\n\r\nGET /other HTTP/1.1\r\nHost: a\r\n\r\n",
    "5\nhello\n0\n\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    "5;a=b\r\nhello\r\n0\r\n\r\n",
    "5;\nhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
    "5\r\nhello\r\n00\r\n\r\n",
    "100000005\r\nhello\r\n0\r\n\r\n",
    "5\rXhello\r\n0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
];

/// Request lines.
const FIRSTS: &[&str] = &[
    "POST /v1/charges HTTP/1.1",
    "GET / HTTP/1.1",
    "POST  / HTTP/1.1",
    "POST / HTTP/1.0",
    "POST /\thttp HTTP/1.1",
];

/// Requests that were used to smuggle others, or look like them: every pair of a length and a coding, every line end,
/// every body.
fn hostile() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (length, coding) in
        LENGTHS.iter().flat_map(|length| CODINGS.iter().map(move |coding| (*length, *coding)))
    {
        for (at, body) in BODIES.iter().enumerate() {
            let first = FIRSTS[if at < 4 { at % 2 } else { (at + length.len()) % FIRSTS.len() }];
            let lines = [first, "Host: a", length, coding].into_iter().filter(|line| !line.is_empty());
            let head = lines.collect::<Vec<_>>().join("~");
            for end in ["\r\n", "\n"] {
                all.push(format!("{}{end}{end}{body}", head.replace('~', end)).into_bytes());
            }
        }
    }
    all
}

/// Requests with a few bytes changed, doubled or taken out.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let nasty = prop::sample::select(b"\r\n\0 \t:;,~\x0b\x7f\x85\xff0a".to_vec());
    let damage = prop::collection::vec((any::<prop::sample::Index>(), nasty, 0..3_u8), 1..4);
    (requests(), damage).prop_map(|(mut bytes, damage)| {
        for (at, byte, how) in damage {
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.remove(at)),
            }
        }
        bytes
    })
}

#[test]
fn h1_h3_h4_whatever_another_parser_reads_otherwise_is_refused() {
    let all = [hostile(), some(15_000, damaged())].concat();
    let count = all.len();
    // Up to where we say that the message ends: who sees another end has more or less than one request.
    let accepted: Vec<(Vec<u8>, Ours)> = all
        .into_iter()
        .filter_map(|mut bytes| {
            let ours = read(&bytes)?;
            let end = ours.body.as_ref().map(|(_, wire)| ours.head_bytes + wire);
            bytes.truncate(end.unwrap_or(bytes.len()));
            Some((bytes, ours))
        })
        .collect();
    let messages: Vec<Vec<u8>> = accepted.iter().map(|(bytes, _)| bytes.clone()).collect();
    assert!(messages.len() > 500, "only {} of {count} are accepted", messages.len());
    let mut differences = Vec::new();
    for ((bytes, ours), readings) in accepted.iter().zip(others(&messages)) {
        let requests = ours.body.iter().map(|_| ours.request(bytes)).collect();
        let read = alike(Reading { requests, rest: 0, fault: None });
        for (parser, theirs) in PARSERS.into_iter().zip(readings) {
            let theirs = alike(theirs);
            if theirs != read {
                differences.push(format!("{parser}: {}\n ours   {read:?}\n theirs {theirs:?}", latin(bytes)));
            }
        }
    }
    let shown: Vec<&String> = differences.iter().take(40).collect();
    assert!(differences.is_empty(), "{} differences: {shown:#?}", differences.len());
    println!("{count} hostile requests: {} are accepted, and all parsers read them alike", messages.len());
}

/// Without what moves no border: h11 writes the coding in lower case.
fn alike(mut reading: Reading) -> Reading {
    for (name, value) in reading.requests.iter_mut().flat_map(|request| &mut request.fields) {
        if name == "transfer-encoding" {
            value.make_ascii_lowercase();
        }
    }
    reading
}
