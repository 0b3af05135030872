//! A vendor that breaks, is slow or says much: what the agent gets, and what becomes of the money.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use keybrake_tests::{Client, Issued, Setup, StandIn, Vendor, eventually, form_post, get, whole};
use serde_json::json;

const CHARGE: &str = "amount=1000&currency=usd&source=tok_visa";

fn charge(key: &Issued, form: &str) -> Vec<u8> {
    form_post("/stripe/v1/charges", &key.text, form)
}

#[test]
fn a_vendor_that_cuts_is_502_and_the_amount_stays_held() {
    for answer in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"half\":", "no HTTP at all\r\n\r\n"] {
        let vendor = Vendor::start(move |_, out| {
            out.write_all(answer.as_bytes())?;
            Err(std::io::ErrorKind::ConnectionReset.into())
        });
        let keybrake = Setup::new(vendor.url()).start();
        let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
        let mut client = Client::connect(keybrake.proxy());
        client.send(charge(&key, CHARGE));
        let reply = client.reply();
        assert_eq!(
            reply.field("stripe-should-retry"),
            Some("false"),
            "a call without idempotency key: {reply:?}"
        );
        assert_eq!(reply.expect(502)["error"]["code"], "vendor_broken", "{answer}");
        assert_eq!(keybrake.committed_cents(&key.id), 1000, "{answer}");
        assert_eq!(vendor.seen().len(), 1, "a POST is never sent twice");
    }
}

#[test]
fn a_vendor_that_is_down_is_502_and_the_amount_is_free_again() {
    let port = keybrake_tests::Port::reserve();
    let keybrake = Setup::new(format!("http://{}", port.address())).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    for _ in 0..10 {
        client.send(charge(&key, CHARGE));
        assert_eq!(client.reply().expect(502)["error"]["code"], "vendor_unreachable");
    }
    assert_eq!(keybrake.committed_cents(&key.id), 0);
    assert_eq!(keybrake.held_cents(&key.id), 0);
}

#[test]
fn a_vendor_that_is_too_slow_is_504_and_the_amount_stays_held() {
    let stand_in_dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(stand_in_dir.path());
    let keybrake = Setup::new(stand_in.url()).vendor_line("timeout_s = 1").start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(charge(&key, "amount=1000&currency=usd&source=tok_hang"));
    assert_eq!(client.reply().expect(504)["error"]["code"], "vendor_timeout");
    assert_eq!(keybrake.committed_cents(&key.id), 1000);
    assert_eq!(stand_in.accepted_minor(), 1000);
}

#[test]
fn a_decline_frees_the_amount_and_a_vendor_error_keeps_it() {
    let stand_in_dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(stand_in_dir.path());
    let keybrake = Setup::new(stand_in.url()).start();
    let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 50}));
    let mut client = Client::connect(keybrake.proxy());
    let mut charge_of = |source: &str| {
        client.send(charge(&key, &format!("amount=1000&currency=usd&source={source}")));
        (client.reply(), keybrake.committed_cents(&key.id))
    };
    let (declined, committed) = charge_of("tok_chargeDeclined");
    assert_eq!(declined.expect(402)["error"]["code"], "card_declined");
    assert_eq!(committed, 0);
    let (limited, committed) = charge_of("tok_429");
    assert_eq!((limited.status, committed), (429, 0));
    let (broken, committed) = charge_of("tok_500");
    assert_eq!((broken.status, committed), (500, 1000), "{}", broken.text());
    assert_eq!(broken.field("keybrake-decision"), None, "the vendor's own answer");
    let (paid, committed) = charge_of("tok_visa");
    assert_eq!((paid.status, committed), (200, 2000));
    assert_eq!(stand_in.accepted_minor(), 2000);
    assert_eq!(stand_in.heads()["vault_key_seen"], false);
}

#[test]
fn a_large_reply_streams_to_a_slow_reader_without_being_kept() {
    const BYTES: usize = 5 * 1024 * 1024;
    const CHUNK: usize = 0x8000;
    let vendor = Vendor::start(|_, out| {
        out.write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/pdf\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        for number in 0..BYTES / CHUNK {
            write!(out, "{CHUNK:x}\r\n")?;
            out.write_all(&vec![u8::try_from(number % 251).unwrap(); CHUNK])?;
            out.write_all(b"\r\n")?;
        }
        out.write_all(b"0\r\n\r\n")
    });
    let mut keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["GET /v1/charges/*"], &json!({}));
    let mut client = Client::connect(keybrake.proxy());
    let ask = format!(
        "GET /stripe/v1/charges/ch_1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
        key.text
    );
    // A first reply, so that buffers have their size.
    client.send(&ask);
    assert_eq!(client.reply().body.len(), BYTES);
    let pid = keybrake.dataplane().pid();
    let before = keybrake_tests::resident_bytes(pid);
    let mut slow: Vec<Client> = (0..8).map(|_| Client::connect(keybrake.proxy())).collect();
    for client in &mut slow {
        client.send(&ask);
    }
    for client in &mut slow {
        assert_eq!(client.head().status, 200);
    }
    // Nobody reads, so after the sockets' buffers are full nothing more may be taken from the vendor.
    let mut last = 0;
    let mut same = 0;
    eventually("memory to be steady", || {
        let now = keybrake_tests::resident_bytes(pid);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same > 40).then_some(())
    });
    let grown = last.saturating_sub(before);
    assert!(grown < 8 * 1024 * 1024, "eight unread replies of 5 MiB took {grown} bytes");
    for client in &mut slow {
        client.end();
    }
    // Another agent gets every byte.
    let mut late = Client::connect(keybrake.proxy());
    late.send(&ask);
    let reply = late.reply();
    assert!(
        reply
            .body
            .chunks(CHUNK)
            .enumerate()
            .all(|(n, chunk)| chunk.iter().all(|b| usize::from(*b) == n % 251))
    );
    assert_eq!(reply.body.len(), BYTES);
}

#[test]
fn a_reply_that_breaks_off_while_it_streams_ends_the_agents_connection_too() {
    let vendor = Vendor::start(|_, out| {
        out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")?;
        out.write_all(&[b'a'; 300_000])?;
        out.flush()?;
        Err(std::io::ErrorKind::ConnectionReset.into())
    });
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["GET /v1/charges/*"], &json!({}));
    let mut client = Client::connect(keybrake.proxy());
    client.send(format!(
        "GET /stripe/v1/charges/ch_1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
        key.text
    ));
    let error = client.try_reply().unwrap_err();
    assert!(error.kind() != std::io::ErrorKind::WouldBlock, "the cut is passed on at once: {error}");
}

#[test]
fn h8_a_get_is_repeated_on_a_fresh_connection_when_the_vendor_closed_a_kept_one() {
    // The vendor answers once a connection, says nothing of closing, and closes at the next request.
    let answered = std::sync::atomic::AtomicU64::new(0);
    let vendor = Vendor::start(move |_, out| {
        if answered.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 1 {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        out.write_all(&whole(200, "{}"))
    });
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["GET /v1/charges/*"], &json!({}));
    for _ in 0..2 {
        assert_eq!(get(keybrake.proxy(), "/stripe/v1/charges/ch_1", &key.text).status, 200);
    }
    assert_eq!((vendor.connections(), vendor.seen().len()), (2, 3));
}

#[test]
fn interim_replies_are_skipped_and_a_204_has_no_body() {
    let vendor = Vendor::start(|_, out| {
        out.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    });
    let keybrake = Setup::new(vendor.url()).start();
    let key = keybrake.issue(&["GET /v1/charges/*"], &json!({}));
    let mut client = Client::connect(keybrake.proxy());
    for _ in 0..2 {
        client.send(format!(
            "GET /stripe/v1/charges/ch_1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n",
            key.text
        ));
        assert_eq!(client.reply().status, 204);
    }
    assert_eq!(vendor.connections(), 1);
}
