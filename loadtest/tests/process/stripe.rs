//! The stand-in as a process: bytes on a socket, lines in a file, exit codes.

use std::io::Read;
use std::net::Shutdown;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::stand_in::{BINARY, DEADLINE, StandIn, post, reply, scratch, send};

#[test]
fn a_connection_is_kept_and_every_request_is_in_the_ledger_before_its_reply() {
    for driver in ["auto", "epoll"] {
        let file = scratch(&format!("ledger-{driver}"));
        let path = file.to_str().unwrap();
        let vendor = StandIn::start(&["--ledger", path, "--ledger-fsync", "--driver", driver]);
        let mut stream = vendor.connect();
        for count in 1..=3_usize {
            let fields = format!("Idempotency-Key: k{count}\r\n");
            send(&mut stream, &post("/v1/charges", "amount=2000&currency=usd", &fields));
            let reply = reply(&mut stream).unwrap();
            assert_eq!(reply.status, 200);
            assert!(reply.head.contains("\r\nRequest-Id: req_"), "{}", reply.head);
            assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), count);
        }
        send(&mut stream, &post("/v1/charges", "amount=2000&currency=usd", "Idempotency-Key: k3\r\n"));
        assert!(reply(&mut stream).unwrap().head.contains("\r\nIdempotent-Replayed: true\r\n"));
        assert_eq!(vendor.stop(Signal::TERM), Some(0));

        let text = std::fs::read_to_string(&file).unwrap();
        assert!(!text.contains("secret"), "the key is in the ledger");
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["seq"], 1);
        assert!(line["arrival_us"].as_u64().unwrap() > 1_600_000_000_000_000);
        assert_eq!((line["method"].as_str(), line["path"].as_str()), (Some("POST"), Some("/v1/charges")));
        assert_eq!((line["amount"].as_u64(), line["currency"].as_str()), (Some(2000), Some("usd")));
        assert_eq!((line["authorized"].as_bool(), line["accepted"].as_bool()), (Some(true), Some(true)));
        assert_eq!(line["idempotency_key"], "k1");
        assert_eq!(line["status"], 200);
        assert_eq!(line["body"], "amount=2000&currency=usd");
        assert_eq!(line["headers"].as_array().unwrap().len(), 4);
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((last["replayed"].as_bool(), last["accepted"].as_bool()), (Some(true), Some(false)));
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn pipelined_chunked_and_expected_bodies_are_read() {
    let vendor = StandIn::start(&[]);
    let mut stream = vendor.connect();
    let one = post("/v1/charges", "amount=1&currency=usd", "");
    send(&mut stream, &format!("{one}{one}"));
    assert_eq!(reply(&mut stream).unwrap().status, 200);
    assert_eq!(reply(&mut stream).unwrap().status, 200);
    let head = "POST /v1/charges HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk_test_1\r\n";
    send(
        &mut stream,
        &format!("{head}Transfer-Encoding: chunked\r\n\r\n8\r\namount=5\r\nd\r\n&currency=usd\r\n0\r\n\r\n"),
    );
    assert_eq!(reply(&mut stream).unwrap().json()["amount"], 5);
    send(&mut stream, &format!("{head}Expect: 100-continue\r\nContent-Length: 21\r\n\r\n"));
    assert_eq!(reply(&mut stream).unwrap().status, 100);
    send(&mut stream, "amount=3&currency=usd");
    assert_eq!(reply(&mut stream).unwrap().json()["amount"], 3);
    let ledger = vendor.ledger();
    assert_eq!((ledger["requests"].as_u64(), ledger["accepted_minor"].as_u64()), (Some(4), Some(10)));
    assert_eq!(ledger["accepted_minor_by_currency"]["usd"], 10);
}

#[test]
fn what_is_no_http_is_refused_recorded_and_closed() {
    let vendor = StandIn::start(&[]);
    let mut stream = vendor.connect();
    send(
        &mut stream,
        "POST /v1/charges HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(reply(&mut stream).unwrap().status, 400);
    assert!(reply(&mut stream).is_none());
    let ledger = vendor.ledger();
    assert_eq!(ledger["accepted"], 0);
    assert!(ledger["lines"][0]["malformed"].is_string());
}

#[test]
fn a_hung_request_was_accepted_and_never_answers() {
    let vendor = StandIn::start(&[]);
    let mut stream = vendor.connect();
    send(&mut stream, &post("/v1/charges", "amount=700&currency=usd&source=tok_hang", ""));
    // Its line is the only event there is, and it may take a moment.
    let since = Instant::now();
    let ledger = loop {
        let ledger = vendor.ledger();
        if ledger["requests"] == 1 || since.elapsed() > DEADLINE {
            break ledger;
        }
    };
    assert_eq!((ledger["accepted"].as_u64(), ledger["accepted_minor"].as_u64()), (Some(1), Some(700)));
    assert_eq!(ledger["lines"][0]["delivery"], "hang");
    stream.get_mut().shutdown(Shutdown::Write).unwrap();
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
}

#[test]
fn a_reply_is_cut_in_its_middle_or_before_its_start() {
    let vendor = StandIn::start(&[]);
    let mut stream = vendor.connect();
    send(&mut stream, &post("/v1/charges", "amount=1&currency=usd&source=tok_cut", ""));
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    let received = String::from_utf8(received).unwrap();
    let (head, body) = received.split_once("\r\n\r\n").unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && !body.is_empty());
    assert!(body.len() < length.parse().unwrap());

    let mut stream = vendor.connect();
    send(&mut stream, &post("/v1/charges", "amount=1&currency=usd&source=tok_cut_before", ""));
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap(), 0);
    let ledger = vendor.ledger();
    assert_eq!((ledger["requests"].as_u64(), ledger["accepted"].as_u64()), (Some(2), Some(1)));
    assert_eq!(ledger["lines"][1]["status"], Value::Null);
}

#[test]
fn replies_are_late_and_padded_on_demand() {
    let vendor = StandIn::start(&["--latency-ms", "40", "--reply-bytes", "100000"]);
    let mut stream = vendor.connect();
    let since = Instant::now();
    send(&mut stream, &post("/v1/charges", "amount=1&currency=usd&source=tok_slow_20", ""));
    let reply = reply(&mut stream).unwrap();
    assert!(since.elapsed() >= Duration::from_millis(60));
    assert_eq!((reply.body.len(), reply.json()["object"].as_str()), (100_000, Some("charge")));
}

#[test]
fn only_named_keys_are_let_in_and_headers_are_shown_without_them() {
    let vendor = StandIn::start(&["--key", "sk_test_secret", "--key", "sk_test_other"]);
    let mut stream = vendor.connect();
    send(&mut stream, &post("/v1/customers", "name=A", "X-Trace: sk_test_secret\r\n"));
    assert_eq!(reply(&mut stream).unwrap().status, 200);
    assert_eq!(vendor.page("/__headers")["vault_key_seen"], false);
    send(
        &mut stream,
        "GET /v1/balance HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer vault_key_hidden0123456789\r\n\r\n",
    );
    let refused = reply(&mut stream).unwrap();
    assert_eq!(refused.status, 401);
    let shown = vendor.page("/__headers");
    assert_eq!(shown["vault_key_seen"], true);
    let headers = |index: usize| shown["requests"][index]["headers"].to_string();
    assert!(headers(0).contains(r#"["Authorization","[key ok]"]"#), "{shown}");
    assert!(headers(1).contains(r#"["Authorization","[key wrong]"]"#), "{shown}");
    let everything = format!("{shown}{}{}", vendor.ledger(), String::from_utf8_lossy(&refused.body));
    assert!(!everything.contains("secret") && !everything.contains("hidden"), "{everything}");
}

#[test]
fn signals_end_it_cleanly_with_connections_open() {
    for driver in ["auto", "epoll"] {
        for signal in [Signal::TERM, Signal::INT] {
            let vendor = StandIn::start(&["--driver", driver]);
            let mut idle = vendor.connect();
            send(&mut idle, &post("/v1/charges", "amount=1&currency=usd", ""));
            assert_eq!(reply(&mut idle).unwrap().status, 200);
            let mut hung = vendor.connect();
            send(&mut hung, &post("/v1/charges", "amount=1&currency=usd&source=tok_hang", ""));
            assert_eq!(vendor.stop(signal), Some(0));
        }
    }
}

#[track_caller]
fn check_start_fault(args: &[&str], said: &str) {
    // One that starts all the same would run on.
    let output = Command::new("timeout").args(["20", BINARY]).args(args).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.starts_with("keybrake-loadtest: ") && text.contains(said), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_fault_at_the_start_is_one_line_and_exit_2() {
    let vendor = StandIn::start(&[]);
    let stripe = |args: &[&'static str]| [&["vendor", "stripe"], args].concat();
    check_start_fault(&["vendor", "stripe", "--listen", &vendor.address], "is taken by another process");
    check_start_fault(&["vendor", "stripe", "--listen", &vendor.address, "--driver", "epoll"], "is taken");
    check_start_fault(&stripe(&["--listen", "localhost"]), "use IP:PORT");
    check_start_fault(&stripe(&["--listen", "192.0.2.1:0"]), "no address of this machine");
    check_start_fault(&stripe(&["--ledger", "/nowhere/ledger"]), "name a file in a writable directory");
    check_start_fault(&stripe(&["--outcome", "explode"]), "not an outcome");
    check_start_fault(&stripe(&["--outcomes", "200"]), "write NAME=WEIGHT");
    check_start_fault(&stripe(&["--outcomes", "explode=1"]), "not an outcome");
    check_start_fault(&stripe(&["--script", "200,"]), "not an outcome");
    check_start_fault(&stripe(&["--kill-pid-file", "p", "--kill-every", "2"]), "--kill-log <FILE>");
    check_start_fault(&stripe(&["--kill-pid-file", "p", "--kill-log", "l"]), "--kill-every <N>");
    check_start_fault(&stripe(&["--kill-every", "2"]), "--kill-pid-file <FILE>");
    check_start_fault(&stripe(&["--kill-probability", "2"]), "not a number from 0 to 1");
    check_start_fault(
        &stripe(&["--kill-pid-file", "p", "--kill-log", "Cargo.toml", "--kill-every", "2"]),
        "cannot go on with the kill log",
    );
    check_start_fault(&stripe(&["--ledger", "Cargo.toml"]), "its last line is no entry");
    check_start_fault(&stripe(&["--workers", "2"]), "--workers");
    check_start_fault(&stripe(&["--ledger-fsync"]), "--ledger <FILE>");
    check_start_fault(&stripe(&["sk_test_secret"]), "sk_test_[redacted]");
    check_start_fault(&["vendor", "paypal"], "unrecognized subcommand");
}

#[test]
fn help_has_examples() {
    let output = Command::new(BINARY).args(["vendor", "stripe", "--help"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for word in [
        "Examples:",
        "pm_card_hang",
        "/__ledger",
        "--outcome",
        "--ledger-fsync",
        "hang_before",
        "--kill-pid-file",
    ] {
        assert!(text.contains(word), "{word}");
    }
}
