//! Hostile vendors: whatever one answers, the agent gets a whole reply that keybrake has framed anew, a 502, or a reply
//! that ends short of what it announced. A connection that was not left clean carries no other request.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use keybrake_tests::{Keybrake, Recorder, SECRET, Script, Setup, holds, request, whole};
use serde_json::json;

#[path = "hostile/leaks.rs"]
mod leaks;
#[path = "hostile/replies.rs"]
mod replies;

/// What an agent gets of a vendor's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    /// keybrake's own 502.
    BadGateway,
    /// This status with this body, whole.
    Passed(u16, Vec<u8>),
    /// A head, and less than it announced.
    Cut,
}

/// What a vendor answers.
struct Case {
    name: String,
    reply: Vec<u8>,
    /// The vendor closes behind it.
    closes: bool,
    verdict: Verdict,
    /// The next request may come on the same connection.
    is_clean: bool,
}

/// A vendor whose answer to `GET /v1/charges/ch_<number>` is that of the case with this number, cut into pieces.
struct Stage {
    recorder: Recorder,
    keybrake: Keybrake,
    key: String,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy)]
enum Way {
    Whole,
    ByByte,
    InLineEnds,
}

/// A longer answer is not written byte by byte.
const BY_BYTE_MAX: usize = 4096;

impl Stage {
    fn new(answers: Vec<(Vec<u8>, bool)>) -> Stage {
        let recorder = Recorder::start(move |request| {
            let (pieces, closes) = answer(&answers, &String::from_utf8_lossy(request));
            Script { pieces, closes }
        });
        let keybrake = Setup::new(recorder.url()).with_admin().start();
        let endpoints = ["GET /v1/charges/*", "POST /v1/charges"];
        let key = keybrake.issue(&endpoints, &json!({"daily_usd_cap": 5_000_000})).text;
        Stage { recorder, keybrake, key }
    }

    /// All bytes that come back for one request.
    fn ask(&self, head: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.keybrake.proxy()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let head = format!("{head}\nConnection: close\nAuthorization: Bearer {}", self.key);
        stream.write_all(&request(&head, body)).unwrap();
        let mut input = Vec::new();
        stream.read_to_end(&mut input).unwrap();
        input
    }

    /// The number of the connection that a good request arrives on.
    fn good_connection(&self) -> usize {
        let before: Vec<usize> = self.recorder.received().iter().map(Vec::len).collect();
        assert_eq!(read(&self.ask("GET /stripe/v1/charges/ch_good", b"")).unwrap().0, 200);
        let after = self.recorder.received();
        let grown = |(number, bytes): (usize, &Vec<u8>)| {
            (bytes.len() > before.get(number).copied().unwrap_or_default()).then_some(number)
        };
        after.iter().enumerate().find_map(grown).unwrap()
    }
}

/// What is answered to a request: the way stands in the path too.
fn answer(answers: &[(Vec<u8>, bool)], request: &str) -> (Vec<Vec<u8>>, bool) {
    let behind = |mark: &str| request.split_once(mark).map(|(_, rest)| rest);
    let digits =
        behind("case_").map(|rest| rest.chars().take_while(char::is_ascii_digit).collect::<String>());
    let Some(number) = digits.and_then(|digits| digits.parse::<usize>().ok()) else {
        return (vec![whole(200, r#"{"id":"ch_good"}"#)], false);
    };
    let (reply, closes) = answers[number].clone();
    let pieces = match behind("way_").and_then(|rest| rest.chars().next()) {
        Some('b') if reply.len() <= BY_BYTE_MAX => reply.chunks(1).map(<[u8]>::to_vec).collect(),
        Some('c') => reply.split_inclusive(|byte| *byte == b'\r').map(<[u8]>::to_vec).collect(),
        _ => vec![reply],
    };
    (pieces, closes)
}

/// What an agent got, strictly read: status, body, and whether the body is whole.
fn read(input: &[u8]) -> Result<(u16, Vec<u8>, bool), String> {
    let text = || input.escape_ascii().to_string();
    let end = input.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(text)? + 4;
    let head = String::from_utf8(input[..end].to_vec()).map_err(|_| text())?;
    let status =
        head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(text)?;
    let lines: Vec<&str> = head.trim_end().split("\r\n").skip(1).collect();
    if lines.iter().any(|line| !line.contains(": ") || line.contains(|byte: char| byte.is_control())) {
        return Err(format!("a line that is none: {head:?}"));
    }
    let of = |name: &str| lines.iter().filter_map(|line| line.strip_prefix(name)).collect::<Vec<_>>();
    let (lengths, codings) = (of("Content-Length: "), of("Transfer-Encoding: "));
    for name in
        ["Set-Cookie", "Server", "Location", "Alt-Svc", "Keep-Alive", "Upgrade", "Refresh", "Trailer", "Te"]
    {
        if head.to_ascii_lowercase().contains(&format!("\r\n{}:", name.to_ascii_lowercase())) {
            return Err(format!("{name} came: {head}"));
        }
    }
    let rest = &input[end..];
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) if matches!(status, 204 | 304) => Ok((status, rest.to_vec(), rest.is_empty())),
        ([length], []) => {
            let length: usize = length.parse().map_err(|_| text())?;
            if rest.len() > length { Err(text()) } else { Ok((status, rest.to_vec(), rest.len() == length)) }
        }
        ([], ["chunked"]) => unchunked(rest).map(|(body, is_whole)| (status, body, is_whole)),
        _ => Err(format!("ambiguous framing: {head}")),
    }
}

/// keybrake's chunks: no extensions, no trailers, nothing behind them.
fn unchunked(mut rest: &[u8]) -> Result<(Vec<u8>, bool), String> {
    let mut body = Vec::new();
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        let size =
            std::str::from_utf8(&rest[..at]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or_else(|| "a chunk size that is none".to_owned())?;
        let Some(data) = rest.get(at + 2..at + 4 + size) else { return Ok((body, false)) };
        body.extend_from_slice(&data[..size]);
        rest = &rest[at + 4 + size..];
        if size == 0 {
            return if rest.is_empty() { Ok((body, true)) } else { Err("bytes behind the end".to_owned()) };
        }
    }
    Ok((body, false))
}

fn verdict_of(stage: &Stage, input: &[u8]) -> Result<Verdict, String> {
    if holds(input, SECRET) || holds(input, &stage.key) {
        return Err("a secret came".to_owned());
    }
    let (status, body, is_whole) = read(input)?;
    let is_ours = String::from_utf8_lossy(input).contains("Keybrake-Decision: ");
    match (status, is_ours, is_whole) {
        (502, true, true) => Ok(Verdict::BadGateway),
        (_, false, true) => Ok(Verdict::Passed(status, body)),
        (_, false, false) => Ok(Verdict::Cut),
        _ => Err(format!("another denial: {status}")),
    }
}

/// Plays each case as the answer to a read that is streamed and to a charge that is read whole.
fn play(cases: &[Case]) {
    let stage = Stage::new(cases.iter().map(|case| (case.reply.clone(), case.closes)).collect());
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        for (letter, way) in [('a', Way::Whole), ('b', Way::ByByte), ('c', Way::InLineEnds)] {
            for is_priced in [false, true] {
                if let Err(problem) = judge(&stage, case, (number, letter), is_priced) {
                    wrong.push(format!("{} ({way:?}, priced: {is_priced}): {problem}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn judge(stage: &Stage, case: &Case, (number, letter): (usize, char), is_priced: bool) -> Result<(), String> {
    // So that it comes on a connection that exists, and may be used again.
    let before = stage.good_connection();
    let input = if is_priced {
        let form = format!("amount=1&currency=usd&description=case_{number}.way_{letter}");
        let head = "POST /stripe/v1/charges\nContent-Type: application/x-www-form-urlencoded";
        stage.ask(head, form.as_bytes())
    } else {
        stage.ask(&format!("GET /stripe/v1/charges/case_{number}.way_{letter}"), b"")
    };
    let verdict = verdict_of(stage, &input)?;
    // A reply that is read whole before its head is passed on is never cut.
    let is_expected = match (&case.verdict, is_priced) {
        (Verdict::Cut, true) => verdict == Verdict::BadGateway,
        (Verdict::Cut, false) => matches!(verdict, Verdict::Cut | Verdict::BadGateway),
        (expected, _) => verdict == *expected,
    };
    if !is_expected {
        return Err(format!("the agent got {verdict:?}: {}", input.escape_ascii()));
    }
    let after = stage.good_connection();
    match (case.is_clean, before == after) {
        (true, false) => Err("a clean connection was not used again".to_owned()),
        (false, true) => Err("its connection was used again".to_owned()),
        _ => Ok(()),
    }
}

#[test]
fn h1_h3_h5_h7_h9_replies_are_whole_or_refused_or_cut() {
    play(&replies::cases());
}

#[test]
fn h4_h7_chunks_of_a_vendor_are_read_strictly() {
    play(&replies::chunks());
}

/// A vendor that goes on speaking on a connection that is not in use has said what nobody asked for.
#[test]
fn h7_i7_a_connection_with_surplus_bytes_is_not_used_again() {
    let stage = Stage::new(Vec::new());
    let first = stage.good_connection();
    assert_eq!(stage.good_connection(), first, "a clean connection is used again");
    for surplus in [whole(200, r#"{"id":"ch_of_another"}"#), b"x".to_vec(), b"\r\n".to_vec()] {
        let before = stage.good_connection();
        // Over loopback it is there when this returns.
        stage.recorder.say(&surplus);
        assert_ne!(stage.good_connection(), before, "{}", surplus.escape_ascii());
    }
}

/// The vendor answers before it has the request, of which the rest waits in keybrake's kernel.
#[test]
fn h7_an_early_reply_to_a_long_request_is_502_and_its_connection_ends() {
    for body_bytes in [200_000, 12_000_000] {
        let vendor = leaks::Early::start(whole(200, r#"{"id":"ch_early","amount":1000,"currency":"usd"}"#));
        let keybrake = Setup::new(vendor.url()).proxy_line("body_bytes_max = 16777216").start();
        let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
        let form = format!("amount=1000&currency=usd&description={}", "a".repeat(body_bytes));
        let mut client = keybrake_tests::Client::connect(keybrake.proxy());
        client.send(keybrake_tests::form_post("/stripe/v1/charges", &key.text, &form));
        let refused = client.reply().expect(502);
        assert_eq!(refused["error"]["code"], "vendor_broken", "{body_bytes}");
        assert_eq!(keybrake.committed_cents(&key.id), 1000, "it may have acted");
        client.send(keybrake_tests::form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd"));
        assert_eq!(client.reply().expect(200)["id"], "ch_early", "a short one has been received whole");
        assert_eq!(vendor.connections(), 2, "{body_bytes}");
    }
}
