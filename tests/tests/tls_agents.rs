//! Agents over TLS (rule S8): the versions, what comes of a broken handshake or a cut, and how it all ends.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use keybrake_tests::{
    Certificate, Client, Issued, Issuer, Keybrake, Setup, TlsFiles, Vendor, eventually, form_post, paid,
    request, whole,
};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use serde_json::json;

fn setup(vendor: &Vendor, files: &TlsFiles) -> Setup {
    Setup::new(vendor.url()).proxy_line(&files.line(""))
}

fn a_key(keybrake: &Keybrake) -> Issued {
    keybrake.issue(&["POST /v1/charges", "GET /v1/charges/*"], &json!({"daily_usd_cap": 5000}))
}

fn charge(key: &Issued, cents: u64) -> Vec<u8> {
    form_post("/stripe/v1/charges", &key.text, &format!("amount={cents}&currency=usd"))
}

fn connect(keybrake: &Keybrake, config: &Arc<ClientConfig>) -> Client {
    Client::connect_tls(keybrake.proxy(), config).unwrap()
}

fn handshakes(keybrake: &Keybrake, outcome: &str) -> u64 {
    let counters = keybrake.control().status().counters;
    let label = Some(("outcome".to_owned(), outcome.to_owned()));
    let found = counters.iter().find(|one| one.name == "keybrake_tls_handshakes_total" && one.label == label);
    found.unwrap().value
}

#[test]
fn s8_agents_are_served_over_tls_1_2_and_1_3_and_http_1_1_alone() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let keybrake = setup(&vendor, &files).start();
    let key = a_key(&keybrake);
    for (version, expected) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let mut config = ClientConfig::clone(&files.issuer.client(&[version], None));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut client = connect(&keybrake, &Arc::new(config.clone()));
        for cents in [100, 200] {
            client.send(charge(&key, cents));
            assert_eq!(client.reply().expect(200)["amount"].as_u64(), Some(cents));
        }
        assert_eq!(client.session().protocol_version(), Some(expected));
        assert_eq!(client.session().alpn_protocol(), Some(&b"http/1.1"[..]));
        config.alpn_protocols = vec![b"h2".to_vec()];
        let refused = Client::connect_tls(keybrake.proxy(), &Arc::new(config)).unwrap_err();
        assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    }
    assert_eq!(vendor.seen().len(), 4);
    assert_eq!(keybrake.committed_cents(&key.id), 600);
}

#[test]
fn s8_the_oldest_version_can_be_set() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let keybrake = Setup::new(vendor.url()).proxy_line(&files.line(", min_version = \"1.3\"")).start();
    assert!(Client::connect_tls(keybrake.proxy(), &files.issuer.client(&[&TLS12], None)).is_err());
    drop(connect(&keybrake, &files.issuer.client(&[&TLS13], None)));
}

#[test]
fn s8_sessions_resume_on_every_worker_and_no_ticket_allows_early_data() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let keybrake = setup(&vendor, &files).workers(2).start();
    let key = a_key(&keybrake);
    for version in [&TLS12, &TLS13] {
        let mut config = ClientConfig::clone(&files.issuer.client(&[version], None));
        config.enable_early_data = true;
        let config = Arc::new(config);
        let kinds = (0..6).map(|_| {
            let mut client = connect(&keybrake, &config);
            // A ticket may come with the reply.
            client.send(charge(&key, 1));
            assert_eq!(client.reply().status, 200);
            assert!(!client.session().is_early_data_accepted());
            client.session().handshake_kind().unwrap()
        });
        let kinds: Vec<HandshakeKind> = kinds.collect();
        assert_eq!(kinds[0], HandshakeKind::Full);
        assert!(kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed), "{kinds:?}");
    }
    assert_eq!((handshakes(&keybrake, "full"), handshakes(&keybrake, "resumed")), (2, 10));
    assert_eq!(vendor.seen().len(), 12);
}

#[test]
fn s8_where_agents_need_a_certificate_nobody_gets_in_without_one_of_the_authority() {
    let (vendor, files, other) = (Vendor::start(paid), TlsFiles::new(), Issuer::new());
    let more = format!(", client_ca_file = \"{}\"", files.path("ca.pem"));
    let keybrake = Setup::new(vendor.url()).proxy_line(&files.line(&more)).start();
    let key = a_key(&keybrake);
    for version in [&TLS12, &TLS13] {
        for stranger in [None, Some(&other)] {
            let config = files.issuer.client(&[version], stranger);
            // In TLS 1.3 an agent hears of the refusal behind its own end of the handshake.
            if let Ok(mut client) = Client::connect_tls(keybrake.proxy(), &config) {
                client.try_send(charge(&key, 100));
                assert!(client.try_reply().is_err());
            }
        }
        let mut client = connect(&keybrake, &files.issuer.client(&[version], Some(&files.issuer)));
        client.send(charge(&key, 100));
        assert_eq!(client.reply().status, 200);
    }
    assert_eq!(vendor.seen().len(), 2);
    assert_eq!(handshakes(&keybrake, "failed"), 4);
}

#[test]
fn s8_a_certificate_that_cannot_be_used_is_one_line_and_no_start() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let keybrake = setup(&vendor, &files).prepare();
    let (cert, key) = (files.path("cert.pem"), files.path("key.pem"));
    let good = std::fs::read_to_string(&key).unwrap();
    let (_, of_another) = files.issuer.pem_of(Certificate::Good, 90);
    let encrypted = good.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    for (path, text, words) in [
        (&key, of_another.as_str(), ["proxy.tls: the private key in", "replace both"]),
        (&key, &encrypted, ["key_file", "not encrypted"]),
        (&key, "-----BEGIN PRIVATE KEY-----\nMIG!\n-----END PRIVATE KEY-----\n", ["key_file", "not PEM"]),
        (&cert, "nothing", ["cert_file", "holds no certificate"]),
        (
            &cert,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ["key_file", "cannot be used"],
        ),
    ] {
        std::fs::write(path, text).unwrap();
        if path == &cert {
            std::fs::write(&key, &good).unwrap();
        }
        let (code, stderr) = keybrake.failed_start();
        assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{words:?}: {stderr}");
        assert!(!stderr.contains("MIG"), "no byte of a key: {stderr}");
    }
    std::fs::remove_file(&cert).unwrap();
    let (code, stderr) = keybrake.failed_start();
    assert_eq!((code, stderr.lines().count()), (2, 1), "{stderr}");
    assert!(stderr.contains("cert_file") && stderr.contains("No such file"), "{stderr}");
}

#[test]
fn h1_plain_http_gets_an_alert_from_the_tls_port_and_a_client_hello_gets_a_400_from_the_plain_one() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let keybrake = setup(&vendor, &files).start();
    let key = a_key(&keybrake);
    let mut plain = TcpStream::connect(keybrake.proxy()).unwrap();
    plain.write_all(&charge(&key, 100)).unwrap();
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).unwrap();
    assert_eq!((answer[0], answer.len()), (21, 7), "one alert, and a clean end: {answer:?}");
    assert_eq!(handshakes(&keybrake, "failed"), 1);

    let open = Setup::new(vendor.url()).start();
    let mut stream = TcpStream::connect(open.proxy()).unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut session = rustls::ClientConnection::new(files.client(), name).unwrap();
    session.write_tls(&mut stream).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("this is TLS"), "{answer}");
    assert!(vendor.seen().is_empty());
}

#[test]
fn s8_requests_arrive_in_one_record_or_in_records_of_a_byte() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let keybrake = setup(&vendor, &files).start();
    let key = a_key(&keybrake);
    let mut client = connect(&keybrake, &files.client());
    client.send([charge(&key, 1), charge(&key, 2), charge(&key, 3)].concat());
    for cents in [1, 2, 3] {
        assert_eq!(client.reply().expect(200)["amount"].as_u64(), Some(cents));
    }
    for byte in charge(&key, 4) {
        client.send([byte]);
    }
    assert_eq!(client.reply().expect(200)["amount"].as_u64(), Some(4));
    assert_eq!(vendor.connections(), 1);
}

/// Bytes that show a gap, a repeat or a swap.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| b'a' + u8::try_from(at / 7 % 23).unwrap()).collect()
}

#[test]
fn s8_long_bodies_pass_whole_both_ways() {
    const REPLY_BYTES: usize = 5_000_000;
    let vendor = Vendor::start(|seen, out| {
        if seen.line.starts_with("POST") {
            return paid(seen, out);
        }
        let body = String::from_utf8(pattern(REPLY_BYTES)).unwrap();
        out.write_all(&whole(200, &body))
    });
    let files = TlsFiles::new();
    let keybrake = setup(&vendor, &files).start();
    let key = a_key(&keybrake);
    for version in [&TLS12, &TLS13] {
        let mut client = connect(&keybrake, &files.issuer.client(&[version], None));
        let description = String::from_utf8(pattern(1_000_000)).unwrap();
        let form = format!("amount=100&currency=usd&description={description}");
        client.send(form_post("/stripe/v1/charges", &key.text, &form));
        assert_eq!(client.reply().status, 200);
        assert_eq!(vendor.seen().last().unwrap().text(), form);
        let head = format!("GET /stripe/v1/charges/ch_1\nAuthorization: Bearer {}", key.text);
        client.send(request(&head, b""));
        let reply = client.reply();
        assert_eq!((reply.status, reply.body.len()), (200, REPLY_BYTES));
        assert!(reply.body == pattern(REPLY_BYTES));
        client.send(charge(&key, 1));
        assert_eq!(client.reply().status, 200, "the connection goes on");
    }
}

#[test]
fn s8_a_request_that_a_cut_ends_is_not_forwarded_and_what_follows_an_end_is_not_read() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let keybrake = setup(&vendor, &files).start();
    let key = a_key(&keybrake);
    let whole = charge(&key, 100);
    let half = &whole[..whole.len() - 3];

    // Cut without a word, then with one.
    let mut client = connect(&keybrake, &files.client());
    client.send(half);
    client.end();
    assert!(client.is_closed());
    let mut client = connect(&keybrake, &files.client());
    client.send(half);
    client.session().send_close_notify();
    flush(&mut client);
    assert!(client.ends_cleanly());
    assert!(vendor.seen().is_empty());

    // A whole one is carried out, also if its sender says that nothing more comes, and sends more.
    let mut client = connect(&keybrake, &files.client());
    client.send(&whole);
    client.session().send_close_notify();
    flush(&mut client);
    client.tcp().write_all(b"surplus").unwrap();
    assert_eq!(client.reply().status, 200);
    assert!(client.ends_cleanly());
    assert_eq!(vendor.seen().len(), 1);
    eventually("all connections to end", || {
        (keybrake.control().counter("keybrake_agent_connections") == 0).then_some(())
    });
}

fn flush(client: &mut Client) {
    let mut socket = client.tcp().try_clone().unwrap();
    while client.session().wants_write() {
        client.session().write_tls(&mut socket).unwrap();
    }
}

/// A vendor that answers when it is told to, and says when it was asked.
fn waiting_vendor() -> (Vendor, std::sync::mpsc::Receiver<()>, Sender<()>) {
    let (asked, was_asked) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let vendor = Vendor::start(move |seen, out| {
        asked.send(()).unwrap();
        may_go_on.lock().unwrap().recv().ok();
        paid(seen, out)
    });
    (vendor, was_asked, go_on)
}

#[test]
fn s8_a_drain_ends_idle_connections_cleanly_and_lets_the_running_call_finish() {
    let (vendor, was_asked, go_on) = waiting_vendor();
    let files = TlsFiles::new();
    let mut keybrake = setup(&vendor, &files).start();
    let key = a_key(&keybrake);
    let mut idle = connect(&keybrake, &files.client());
    let mut busy = connect(&keybrake, &files.client());
    busy.send(charge(&key, 100));
    was_asked.recv().unwrap();
    keybrake.dataplane().terminate();
    assert!(idle.ends_cleanly());
    go_on.send(()).unwrap();
    let reply = busy.reply();
    assert!(reply.status == 200 && reply.closes(), "{}", reply.text());
    assert!(busy.ends_cleanly());
    assert_eq!(keybrake.dataplane().exit_code(), 0);
}

#[test]
fn q23_a_rolling_restart_keeps_running_calls_and_refuses_nobody_over_tls() {
    let (vendor, was_asked, go_on) = waiting_vendor();
    let files = TlsFiles::new();
    let mut keybrake = setup(&vendor, &files).start();
    let key = a_key(&keybrake);
    let config = files.client();
    let mut idle = connect(&keybrake, &config);
    let mut busy = connect(&keybrake, &config);
    busy.send(charge(&key, 100));
    was_asked.recv().unwrap();
    let (mut old, _) = keybrake.take_over();
    let mut fresh = connect(&keybrake, &config);
    fresh.send(charge(&key, 200));
    was_asked.recv().unwrap();
    go_on.send(()).unwrap();
    go_on.send(()).unwrap();
    assert_eq!((fresh.reply().status, busy.reply().status), (200, 200));
    assert!(busy.ends_cleanly() && idle.ends_cleanly());
    assert_eq!(old.exit_code(), 0, "{}", old.stderr());
}

#[test]
fn g1_a_handshake_that_does_not_come_is_waited_for_as_long_as_for_a_head() {
    let (vendor, files) = (Vendor::start(paid), TlsFiles::new());
    let keybrake = setup(&vendor, &files).proxy_line("head_timeout_s = 1").start();
    let mut silent = TcpStream::connect(keybrake.proxy()).unwrap();
    let mut slow = TcpStream::connect(keybrake.proxy()).unwrap();
    // The head of a record of 16 KiB, and a byte of it.
    slow.write_all(&[22, 3, 1, 0x40, 0, 1]).unwrap();
    for stream in [&mut silent, &mut slow] {
        // An alert may come before the end; how it ends, it ends.
        stream.read_to_end(&mut Vec::new()).ok();
    }
    eventually("both to be counted", || (handshakes(&keybrake, "failed") == 2).then_some(()));
    assert_eq!(keybrake.control().counter("keybrake_agent_connections"), 0);
}

#[test]
fn g4_an_agent_that_does_not_read_its_reply_over_tls_is_cut() {
    let vendor = Vendor::start(|_, out| out.write_all(&whole(200, &"x".repeat(30_000_000))));
    let files = TlsFiles::new();
    let keybrake = setup(&vendor, &files).proxy_line("write_timeout_s = 1").start();
    let key = a_key(&keybrake);
    let mut client = connect(&keybrake, &files.client());
    client.send(request(&format!("GET /stripe/v1/charges/ch_1\nAuthorization: Bearer {}", key.text), b""));
    eventually("the connection to end", || {
        let seen = !vendor.seen().is_empty();
        (seen && keybrake.control().counter("keybrake_agent_connections") == 0).then_some(())
    });
    assert!(client.try_reply().is_err());
}
