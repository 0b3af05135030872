//! Vendors that send the credential back, encode what they were asked not to, or speak too early (rules S2, H7).

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use keybrake_tests::{Recorder, SECRET, Script, Setup, call, form_post, holds, secrets_in_files, whole};
use serde_json::json;

use super::{Stage, Verdict, read, verdict_of};

/// A vendor that answers as soon as it has a head, and reads a long body afterwards or not at all.
pub(crate) struct Early {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

/// A body over this is not read: less of it than keybrake's kernel takes stays there.
const LONG_BYTES: usize = 100_000;

/// A body over this is read, since keybrake cannot send all of it else.
const ENDLESS_BYTES: usize = 10_000_000;

impl Early {
    pub(crate) fn start(reply: Vec<u8>) -> Early {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, small) = (listener.local_addr().unwrap(), 4096i32);
        // SAFETY: the pointer is to one live integer of that size; the descriptor is the listener's.
        let set = unsafe {
            libc::setsockopt(
                listener.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUF,
                (&raw const small).cast(),
                libc::socklen_t::try_from(size_of::<i32>()).unwrap(),
            )
        };
        assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.extend_from_slice(&byte);
                }
                let head = String::from_utf8(head).unwrap();
                let length =
                    head.split("Content-Length: ").nth(1).and_then(|rest| rest.lines().next()).unwrap();
                let length: usize = length.parse().unwrap();
                let mut body = vec![0; length];
                if length <= LONG_BYTES {
                    stream.read_exact(&mut body).unwrap();
                }
                stream.write_all(&reply).unwrap();
                if length > ENDLESS_BYTES {
                    drop(stream.read_exact(&mut body));
                }
                kept.push(stream);
            }
        });
        Early { address, connections }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Replies that hold the credential, each with what it is.
fn leaks() -> Vec<(String, Vec<u8>)> {
    let body = |text: &str| {
        whole(200, &format!(r#"{{"id":"ch_1","object":"charge","amount":1,"currency":"usd","x":"{text}"}}"#))
    };
    let escaped: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut leaks: Vec<(String, Vec<u8>)> = vec![
        ("raw".to_owned(), body(SECRET)),
        ("within a text".to_owned(), body(&format!("Invalid API Key provided: {SECRET}."))),
        ("in hex".to_owned(), body(&escaped)),
        ("in capitals of hex".to_owned(), body(&escaped.to_uppercase())),
    ];
    for before in ["", "a", "ab", "user:"] {
        let text = format!("{before}{SECRET}:");
        leaks.push((format!("in base64 behind {before:?}"), body(&STANDARD.encode(&text))));
        leaks.push((format!("in base64 for urls behind {before:?}"), body(&URL_SAFE.encode(&text))));
    }
    for field in [
        format!("X-Echo: Bearer {SECRET}"),
        format!("Request-Id: {SECRET}"),
        format!("X-{SECRET}: a"),
        format!("Set-Cookie: key={SECRET}"),
        format!("Location: https://evil.test/?key={SECRET}"),
        format!("X(: {SECRET}"),
        format!("X: {}", STANDARD.encode(format!("{SECRET}:"))),
    ] {
        let reply = format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 2\r\n\r\n{{}}");
        leaks.push((format!("in a field {}", field.split(':').next().unwrap()), reply.into_bytes()));
    }
    leaks.push((
        "in the reason".to_owned(),
        format!("HTTP/1.1 401 {SECRET}\r\nContent-Length: 2\r\n\r\n{{}}").into_bytes(),
    ));
    for size in [1, 3, 31] {
        let mut reply = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        for piece in format!("{{\"x\":\"{SECRET}\"}}").as_bytes().chunks(size) {
            reply.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            reply.extend_from_slice(piece);
            reply.extend_from_slice(b"\r\n");
        }
        reply.extend_from_slice(b"0\r\n\r\n");
        leaks.push((format!("in chunks of {size}"), reply));
    }
    leaks
}

/// Before the head went out the reply becomes a 502, after that it is cut: no byte of the credential arrives.
#[test]
fn s2_a_reply_with_the_credential_is_a_502_or_ends_before_it() {
    let leaks = leaks();
    let stage = Stage::new(leaks.iter().map(|(_, reply)| (reply.clone(), false)).collect());
    let mut wrong = Vec::new();
    for (number, (name, _)) in leaks.iter().enumerate() {
        for letter in ['a', 'b', 'c'] {
            let got = stage.ask(&format!("GET /stripe/v1/charges/case_{number}.way_{letter}"), b"");
            let form = format!("amount=1&currency=usd&description=case_{number}.way_{letter}");
            let head = "POST /stripe/v1/charges\nContent-Type: application/x-www-form-urlencoded";
            let priced = stage.ask(head, form.as_bytes());
            let shows = |input: &[u8]| String::from_utf8_lossy(input).contains(&SECRET[..12]);
            if shows(&got) || shows(&priced) {
                wrong.push(format!("{name} ({letter}): a beginning of it came"));
            }
            // A reply that trickles in is passed on as it comes, and cut.
            if !matches!(verdict_of(&stage, &got), Ok(Verdict::BadGateway | Verdict::Cut)) {
                wrong.push(format!("{name} ({letter}): {}", got.escape_ascii()));
            }
            if verdict_of(&stage, &priced) != Ok(Verdict::BadGateway)
                || !String::from_utf8_lossy(&priced).contains("credential_in_reply")
            {
                wrong.push(format!("{name} ({letter}, priced): {}", priced.escape_ascii()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(stage.good_connection(), stage.good_connection());
    let count = stage.keybrake.control().counter("keybrake_credentials_in_replies_total");
    assert_eq!(count, u64::try_from(leaks.len() * 6).unwrap());
    stage.keybrake.settle();
    let output = stage.keybrake.output();
    assert!(output.contains("ALARM: vendor stripe sent the credential"), "{output}");
    assert!(!holds(output.as_bytes(), SECRET), "the alarm does not repeat it");
    assert_eq!(
        secrets_in_files(&stage.keybrake.data(), SECRET),
        Vec::<std::path::PathBuf>::new(),
        "nor does the audit"
    );
}

/// The money went the way that the reply says, and the row says what was done with the reply.
#[test]
fn s2_a_withheld_reply_settles_its_call_and_has_a_row_of_its_own_result() {
    let body = format!(
        r#"{{"id":"ch_1","object":"charge","status":"succeeded","amount":700,"currency":"usd","x":"{SECRET}"}}"#
    );
    let vendor = Recorder::start(move |_| Script { pieces: vec![whole(200, &body)], closes: false });
    let keybrake = Setup::new(vendor.url()).with_admin().start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = keybrake_tests::Client::connect(keybrake.proxy());
    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1000&currency=usd"));
    assert_eq!(client.reply().expect(502)["error"]["code"], "credential_in_reply");
    assert_eq!((keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id)), (700, 0));
    let row = &keybrake.eventually_rows(&key.id, 1)[0];
    assert_eq!(row["policy_check_result"], "credential_in_reply", "{row}");
    assert_eq!((row["outcome"].as_str(), row["status"].as_u64()), (Some("forwarded"), Some(502)), "{row}");
}

/// Nobody can look for a credential in what is encoded.
#[test]
fn s2_an_encoded_reply_is_a_502_and_counts_its_quote() {
    for encoding in ["gzip", "br", "identity, gzip", "x", ""] {
        let reply =
            format!("HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: 3\r\n\r\nabc");
        let vendor =
            Recorder::start(move |_| Script { pieces: vec![reply.clone().into_bytes()], closes: false });
        let keybrake = Setup::new(vendor.url()).start();
        let key = keybrake.issue(&["POST /v1/charges", "GET /v1/charges/*"], &json!({"daily_usd_cap": 50}));
        let read = keybrake_tests::get(keybrake.proxy(), "/stripe/v1/charges/ch_1", &key.text);
        assert_eq!(read.expect(502)["error"]["code"], "encoded_reply", "{encoding}");
        let head = format!(
            "POST /stripe/v1/charges\nAuthorization: Bearer {}\nContent-Type: application/x-www-form-urlencoded",
            key.text
        );
        let charged = call(keybrake.proxy(), &head, b"amount=1000&currency=usd");
        assert_eq!(charged.expect(502)["error"]["code"], "encoded_reply", "{encoding}");
        assert_eq!(
            (keybrake.committed_cents(&key.id), keybrake.held_cents(&key.id)),
            (1000, 0),
            "{encoding}"
        );
        assert_eq!(vendor.connections(), 2, "its connection is not used again");
    }
}

/// A long reply is passed on while it comes: what is before the credential arrives, and nothing of it.
#[test]
fn s2_a_long_reply_ends_right_before_the_credential() {
    // Beginnings of it on the way hold nothing up.
    let filler = |bytes: usize| "sk_test_9Lq3ZbVtYw2RkHs7XnDc5Pf ".repeat(bytes / 32);
    for (before, has_length) in [(300_000, true), (300_000, false), (1_000_000, true)] {
        for secret in [SECRET.to_owned(), STANDARD.encode(format!("ab{SECRET}"))] {
            let body = format!("{}{secret}{}", filler(before), filler(100_000));
            let clean = filler(before + 100_000);
            let framed = |body: &str| match has_length {
                true => whole(200, body),
                false => format!(
                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
                    body.len()
                )
                .into_bytes(),
            };
            let stage = Stage::new(vec![(framed(&body), false), (framed(&clean), false)]);
            let (status, got, is_whole) = read(&stage.ask("GET /stripe/v1/charges/case_0", b"")).unwrap();
            assert!(status == 200 && !is_whole, "{status}");
            assert!(
                body.as_bytes().starts_with(&got) && got.len() <= filler(before).len() + 4,
                "{}",
                got.len()
            );
            let (status, got, is_whole) = read(&stage.ask("GET /stripe/v1/charges/case_1", b"")).unwrap();
            assert!(status == 200 && is_whole && got == clean.as_bytes(), "{} of {}", got.len(), clean.len());
        }
    }
}
