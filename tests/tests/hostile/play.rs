//! Plays a table: sends each case in several ways, and judges what the agent got and what arrived at the vendor.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use keybrake_tests::{Keybrake, Recorder, SECRET, Script, Setup, holds, length_of, secrets_in_files, whole};
use serde_json::json;

/// One request of a hostile agent, and what must come of it.
pub(crate) struct Case {
    pub(crate) name: String,
    /// Bytes as characters below 256; `{key}`, `{host}` and `{auth}` are filled in.
    pub(crate) request: String,
    pub(crate) verdict: Verdict,
}

/// What comes of a request.
#[derive(Clone)]
pub(crate) enum Verdict {
    /// This status, and nothing at the vendor.
    Refused(u16),
    /// No answer, since the request never ended, and nothing at the vendor.
    Silent,
    /// One request arrives: its line, and its body.
    Sent(String, Vec<u8>),
}

/// A case that is refused.
pub(crate) fn refused(status: u16, name: &str, request: impl Into<String>) -> Case {
    Case { name: name.to_owned(), request: request.into(), verdict: Verdict::Refused(status) }
}

/// A case that never ends.
pub(crate) fn silent(name: &str, request: impl Into<String>) -> Case {
    Case { name: name.to_owned(), request: request.into(), verdict: Verdict::Silent }
}

/// A case of which one request arrives.
pub(crate) fn sent(line: &str, body: &str, name: &str, request: impl Into<String>) -> Case {
    let verdict = Verdict::Sent(line.to_owned(), bytes_of(body));
    Case { name: name.to_owned(), request: request.into(), verdict }
}

/// A request without a body, with further field lines, each with its CRLF.
pub(crate) fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{{auth}}{fields}\r\n")
}

/// A form post with further field lines, each with its CRLF.
pub(crate) fn post(target: &str, fields: &str, body: &str) -> String {
    format!(
        "POST {target} HTTP/1.1\r\n{{auth}}Content-Type: application/x-www-form-urlencoded\r\n{fields}\
         Content-Length: {}\r\n\r\n{body}",
        length(body)
    )
}

/// How many bytes a text of the tables comes to; the key is as long as every key.
pub(crate) fn length(text: &str) -> usize {
    filled(text, &"k".repeat(KEY_BYTES)).len()
}

const KEY_BYTES: usize = 48;

/// The form that is sent where the body does not matter.
pub(crate) const FORM: &str = "amount=1000&currency=usd";

/// Names that may arrive at a vendor, in lower case.
const FIELDS: [&str; 12] = [
    "host",
    "accept",
    "accept-encoding",
    "accept-language",
    "content-type",
    "idempotency-key",
    "stripe-version",
    "user-agent",
    "x-stripe-client-telemetry",
    "x-stripe-client-user-agent",
    "content-length",
    "authorization",
];

/// What is sent byte by byte at most: more only repeats the same.
const BY_BYTE_MAX: usize = 1024;

/// How a case is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Whole,
    ByByte,
    /// Cut between each CR and its LF.
    InLineEnds,
    /// With a second request right behind it.
    Pipelined,
    /// With a second request behind its reply.
    Followed,
}

const WAYS: [Way; 5] = [Way::Whole, Way::ByByte, Way::InLineEnds, Way::Pipelined, Way::Followed];

/// keybrake before a recorder, and the key of a hostile agent.
pub(crate) struct Stage {
    recorder: Recorder,
    keybrake: Keybrake,
    key: String,
    /// A request that is always served, and the line that it arrives as.
    good: (String, String),
}

impl Stage {
    pub(crate) fn stripe() -> Stage {
        let good = (get("/stripe/v1/charges/ch_good", ""), "GET /v1/charges/ch_good".to_owned());
        Stage::of("stripe", &["GET /v1/charges/*", "POST /v1/charges", "DELETE /v1/customers/*"], good)
    }

    pub(crate) fn resend() -> Stage {
        let good = (get("/resend/emails/em_good", ""), "GET /emails/em_good".to_owned());
        Stage::of("resend", &["GET /emails/*", "POST /emails", "POST /emails/batch"], good)
    }

    fn of(vendor: &str, endpoints: &[&str], good: (String, String)) -> Stage {
        let recorder = Recorder::start(|_| Script {
            pieces: vec![whole(200, r#"{"id":"ch_1","object":"charge","amount":1000,"currency":"usd"}"#)],
            closes: false,
        });
        let keybrake = Setup::new(recorder.url()).of_vendor(vendor, SECRET).start();
        let more = json!({"vendor": vendor, "daily_usd_cap": 5_000_000});
        let key = keybrake.issue(endpoints, &more).text;
        assert_eq!(key.len(), KEY_BYTES);
        Stage { recorder, keybrake, key, good }
    }

    /// Nothing that keybrake wrote holds the agent's key, or this one.
    pub(crate) fn keeps_no_key(&self, other: &str) {
        self.keybrake.settle();
        for key in [self.key.as_str(), other] {
            assert_eq!(secrets_in_files(&self.keybrake.data(), key), Vec::<std::path::PathBuf>::new());
            assert!(!holds(self.keybrake.output().as_bytes(), key), "it stands in the output");
        }
    }

    fn proxy(&self) -> SocketAddr {
        self.keybrake.proxy()
    }

    fn bytes(&self, text: &str) -> Vec<u8> {
        filled(text, &self.key)
    }
}

fn filled(text: &str, key: &str) -> Vec<u8> {
    let auth = format!("Host: keybrake.test\r\nAuthorization: Bearer {key}\r\n");
    bytes_of(
        &text.replace("{auth}", &auth).replace("{host}", "Host: keybrake.test\r\n").replace("{key}", key),
    )
}

/// Each character is one byte.
fn bytes_of(text: &str) -> Vec<u8> {
    text.chars().map(|character| u8::try_from(u32::from(character)).unwrap()).collect()
}

/// Plays each case in each way; reports all that are not as they should be.
pub(crate) fn play(stage: &Stage, cases: &[Case]) {
    let mut wrong = Vec::new();
    for case in cases {
        // What follows a request that has not ended is the rest of it.
        let ways = if matches!(case.verdict, Verdict::Silent) { &WAYS[..3] } else { &WAYS[..] };
        for way in ways.iter().copied() {
            if let Err(problem) = judge(stage, case, way) {
                wrong.push(format!("{} ({way:?}): {problem}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

fn judge(stage: &Stage, case: &Case, way: Way) -> Result<(), String> {
    let before = stage.recorder.received();
    let replies = send(stage, &stage.bytes(&case.request), way)?;
    let arrived = arrivals(&before, &stage.recorder.received())?;
    let good = stage.good.1.clone();
    let mut expected: Vec<(String, Vec<u8>)> = Vec::new();
    let first = match &case.verdict {
        Verdict::Sent(line, body) => {
            expected.push((line.clone(), body.clone()));
            Some(200)
        }
        Verdict::Refused(status) => Some(*status),
        Verdict::Silent => None,
    };
    let statuses: Vec<u16> =
        replies.iter().map(|reply| reply.status).filter(|status| *status != 100).collect();
    if statuses.first().copied() != first {
        return Err(format!("answered with {statuses:?}"));
    }
    // A second request is served by itself, or its connection has ended; where the first one never ended it is no request
    // but the rest of the first.
    let has_second = matches!(way, Way::Pipelined | Way::Followed) && first.is_some();
    for (number, status) in statuses.iter().enumerate().skip(1) {
        match status {
            200 if has_second && number + 1 == statuses.len() => expected.push((good.clone(), Vec::new())),
            // What follows a request with surplus bytes is judged like any other.
            400..=599 => {}
            other => return Err(format!("something else was answered with {other}")),
        }
    }
    let is_over = replies.last().is_none_or(|reply| reply.closes);
    if has_second && !is_over && statuses.len() == 1 {
        return Err("the second request was not answered".to_owned());
    }
    judge_arrived(stage, &arrived, &expected)?;
    let still = send(stage, &stage.bytes(&stage.good.0), Way::Whole)?;
    if still.iter().map(|reply| reply.status).ne([200]) {
        return Err("keybrake does not serve any more".to_owned());
    }
    Ok(())
}

/// The requests that arrived since, strictly cut.
fn arrivals(before: &[Vec<u8>], after: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, String> {
    let mut requests = Vec::new();
    for (number, bytes) in after.iter().enumerate() {
        let mut rest = &bytes[before.get(number).map_or(0, Vec::len)..];
        while !rest.is_empty() {
            let length = length_of(rest).ok_or_else(|| format!("half a request arrived: {}", shown(rest)))?;
            requests.push(rest[..length].to_vec());
            rest = &rest[length..];
        }
    }
    Ok(requests)
}

/// Whether exactly the expected requests arrived, each as keybrake writes them.
fn judge_arrived(stage: &Stage, arrived: &[Vec<u8>], expected: &[(String, Vec<u8>)]) -> Result<(), String> {
    let lines: Vec<&str> = expected.iter().map(|(line, _)| line.as_str()).collect();
    if arrived.len() != expected.len() {
        let texts: Vec<String> = arrived.iter().map(|request| shown(request)).collect();
        return Err(format!("{} requests arrived instead of {lines:?}: {texts:?}", arrived.len()));
    }
    let mut left: Vec<&(String, Vec<u8>)> = expected.iter().collect();
    for request in arrived {
        let (line, body) = read_strictly(stage, request)?;
        let at = left.iter().position(|(wanted, bytes)| *wanted == line && *bytes == body);
        let at = at.ok_or_else(|| format!("{line} with {} arrived instead of {lines:?}", shown(&body)))?;
        left.remove(at);
    }
    Ok(())
}

/// A request that arrived, as line and body; it must be written as keybrake writes.
fn read_strictly(stage: &Stage, request: &[u8]) -> Result<(String, Vec<u8>), String> {
    let fault = |problem: &str| Err(format!("{problem}: {}", shown(request)));
    if holds(request, &stage.key) {
        return fault("the vault key arrived");
    }
    let end = request.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let (head, body) = (&request[..end], &request[end + 4..]);
    if !head.is_ascii() {
        return fault("a head beyond ASCII arrived");
    }
    let text = String::from_utf8(head.to_vec()).unwrap();
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap().strip_suffix(" HTTP/1.1").unwrap_or("no HTTP/1.1").to_owned();
    let fields: Vec<(&str, &str)> =
        lines.map(|field| field.split_once(": ").unwrap_or((field, ""))).collect();
    if text.replace("\r\n", "").contains(|character: char| character.is_ascii_control() && character != '\t')
    {
        return fault("a control byte arrived");
    }
    let of = |name: &str| -> Vec<&str> {
        fields.iter().filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| *value).collect()
    };
    if fields.iter().any(|(name, _)| !FIELDS.contains(&name.to_ascii_lowercase().as_str())) {
        return fault("a field that is on no list arrived");
    }
    if of("host") != [stage.recorder.address().to_string()] {
        return fault("another host arrived");
    }
    if of("authorization") != [format!("Bearer {SECRET}")] || fields.last().unwrap().0 != "Authorization" {
        return fault("another credential arrived");
    }
    if of("accept-encoding") != ["identity"] {
        return fault("another encoding is asked for");
    }
    let has_length = !body.is_empty() || line.starts_with("POST");
    match of("content-length").as_slice() {
        [] if !has_length => Ok((line, body.to_vec())),
        [length] if *length == body.len().to_string() => Ok((line, body.to_vec())),
        _ => fault("another length arrived"),
    }
}

/// What an agent was answered.
struct Answered {
    status: u16,
    closes: bool,
}

/// Sends a case and reads all that comes back, up to the end.
fn send(stage: &Stage, bytes: &[u8], way: Way) -> Result<Vec<Answered>, String> {
    let mut stream = TcpStream::connect(stage.proxy()).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let good = stage.bytes(&stage.good.0);
    let mut input = Vec::new();
    // keybrake may have refused and closed before all of it was sent.
    let mut write = |piece: &[u8]| drop((&stream).write_all(piece));
    match way {
        Way::Whole | Way::Followed => write(bytes),
        Way::ByByte => {
            let (first, rest) = bytes.split_at(bytes.len().min(BY_BYTE_MAX));
            first.chunks(1).for_each(&mut write);
            write(rest);
        }
        Way::InLineEnds => bytes.split_inclusive(|byte| *byte == b'\r').for_each(&mut write),
        Way::Pipelined => write(&[bytes, &good].concat()),
    }
    if way == Way::Followed {
        // An answer that is not a 100 is there, or nothing more comes.
        while final_replies(&input) == 0 && read(&mut stream, &mut input)? {}
        drop(stream.write_all(&good));
    }
    drop(stream.shutdown(Shutdown::Write));
    while read(&mut stream, &mut input)? {}
    let key_is_shown = holds(&input, &stage.key) || holds(&input, SECRET);
    if key_is_shown { Err("a secret is in the answer".to_owned()) } else { replies_of(&input) }
}

/// Whether more came.
fn read(stream: &mut TcpStream, input: &mut Vec<u8>) -> Result<bool, String> {
    let mut buffer = [0; 16 * 1024];
    match stream.read(&mut buffer) {
        Ok(0) => Ok(false),
        Ok(read) => {
            input.extend_from_slice(&buffer[..read]);
            Ok(true)
        }
        // What was not read of a refused request.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(false),
        Err(error) => Err(format!("no answer: {error}")),
    }
}

fn final_replies(input: &[u8]) -> usize {
    replies_of(input).map_or(0, |replies| replies.iter().filter(|reply| reply.status != 100).count())
}

/// Replies of keybrake, strictly cut: each has a length.
fn replies_of(input: &[u8]) -> Result<Vec<Answered>, String> {
    let mut replies = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let length = length_of(rest).ok_or_else(|| format!("half a reply came: {}", shown(rest)))?;
        let text = String::from_utf8_lossy(&rest[..length]).into_owned();
        let status = text.strip_prefix("HTTP/1.1 ").and_then(|text| text.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| format!("no status line: {text}"))?;
        replies.push(Answered { status, closes: text.contains("\r\nConnection: close\r\n") });
        rest = &rest[length..];
    }
    Ok(replies)
}

fn shown(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().chars().take(1500).collect()
}
