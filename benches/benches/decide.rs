//! What one request costs in `proto`: parse, recognize, permit, quote, reserve, settle, encode.

#![allow(missing_docs, reason = "criterion's macros make public items")]
#![allow(clippy::unwrap_used, reason = "a benchmark's inputs are constants")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::catalog::Catalog;
use keybrake_proto::catalog::amount::Known;
use keybrake_proto::catalog::book::PriceBook;
use keybrake_proto::catalog::price::{self, Bound, Priced, Terms};
use keybrake_proto::catalog::wire::Slot;
use keybrake_proto::deny::Deny;
use keybrake_proto::http1::{HeadLimits, Method, RequestHead, encode};
use keybrake_proto::key::{self, KeyId};
use keybrake_proto::leak::Forms;
use keybrake_proto::ledger::Word;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::{Policy, Restrictions};
use keybrake_proto::secret::Secret;
use keybrake_proto::time::{Day, UnixMicros};

const HEAD: &[u8] = b"POST /stripe/v1/charges HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
    User-Agent: Stripe/v1 PythonBindings/16.1.0\r\nAuthorization: Bearer vault_key_gGeKzWgqgi1dmMr5Zj8ILJKq7aN6RdQW3D28fA\r\n\
    Idempotency-Key: 5b9e1c0e-6c1e-4d0e-9c56-2f2b7f1f3f4e\r\nStripe-Version: 2026-10-28.endive\r\n\
    Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 90\r\nAccept: */*\r\n\r\n";

const FORM: &[u8] =
    b"amount=2000&currency=usd&source=tok_visa&description=order+6735&metadata[agent_id]=agent_7";

fn policy() -> Policy {
    let rules = ["GET /v1/charges/*", "POST /v1/refunds", "POST /v1/charges"];
    Policy {
        vendor: "stripe".to_owned(),
        account: "default".to_owned(),
        allowed_endpoints: rules.map(|rule| rule.parse().unwrap()).to_vec(),
        daily_usd_cap: Micros::new(50_000_000),
        total_usd_cap: None,
        daily_request_budget: None,
        expires_at: None,
        restrictions: Restrictions::default(),
    }
}

fn decide(criterion: &mut Criterion) {
    let stripe = Catalog::of("stripe").unwrap();
    let policy = policy();
    let mut head = RequestHead::new();
    criterion.bench_function("parse a request head", |bencher| {
        bencher.iter(|| {
            head.reset();
            head.parse(black_box(HEAD), &HeadLimits::REQUEST)
        });
    });
    criterion.bench_function("recognize and permit", |bencher| {
        bencher.iter(|| policy.permit(&stripe.recognize(Method::Post, black_box(b"/v1/charges"))));
    });
    criterion.bench_function("look for a vault key in a form", |bencher| {
        bencher.iter(|| key::stands_in(black_box(FORM)));
    });
    let price = stripe.recognize(Method::Post, b"/v1/charges").price();
    let content_type = Some(&b"application/x-www-form-urlencoded"[..]);
    let request = Priced { path: b"/v1/charges", content_type, query: None, body: FORM };
    let book = PriceBook::shipped();
    let terms = Terms { bound: Bound::Capped, per_call_max: None, book: &book, today: Day::new(20_000) };
    criterion.bench_function("quote a form", |bencher| {
        bencher.iter(|| price::quote(price, black_box(request), Known::default(), &terms));
    });
    let (word, quote) = (Word::open(Day::new(20_000)), Micros::new(20_000_000).unwrap());
    criterion.bench_function("reserve and settle", |bencher| {
        bencher.iter(|| {
            let bits = black_box(word).pack();
            let held = Word::unpack(bits).reserve(Day::new(20_000), quote, policy.daily_usd_cap);
            held.map(|held| held.settle(quote, quote).pack())
        });
    });
}

fn write(criterion: &mut Criterion) {
    let line = encode::RequestLine { method: Method::Post, path: b"/v1/charges", query: None };
    let fields: [(&[u8], &[u8]); 2] =
        [(b"Content-Type", b"application/x-www-form-urlencoded"), (b"Accept", b"*/*")];
    let mut out = Vec::with_capacity(1024);
    criterion.bench_function("encode a request head", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode::request_head(
                &mut out,
                line,
                b"api.stripe.com",
                fields,
                Some(90),
                b"Authorization: Bearer x\r\n",
            );
        });
    });
    let row = row();
    criterion.bench_function("encode an audit row", |bencher| {
        bencher.iter(|| black_box(&row).encode(Vec::with_capacity(512)));
    });
    criterion.bench_function("write a denial", |bencher| {
        bencher.iter(|| {
            out.clear();
            Deny::Unauthorized.denial(UnixMicros(0), "").write_body(&mut out);
        });
    });
}

fn row() -> AuditRow<'static> {
    AuditRow {
        ts: UnixMicros::from_seconds(1_795_219_200),
        id: "req_852ba27614c8182f00000000",
        vault_key_id: KeyId::from_bytes(b"0123456789abcdef"),
        label: Some("billing"),
        agent_run_label: None,
        vendor: "stripe",
        method: Method::Post,
        endpoint: "/v1/charges",
        path: "/v1/charges",
        status: 200,
        policy_check_result: "allowed",
        outcome: Outcome::Forwarded,
        amount: Micros::MAX,
        quote: Micros::MAX,
        currency: Some("usd"),
        amount_minor: Some(2000),
        vendor_request_id: Some("req_0123456789abcd"),
        idempotency_key: Some("5b9e1c0e-6c1e-4d0e-9c56-2f2b7f1f3f4e"),
        latency_us: 900,
        overhead_us: 40,
        client_addr: "127.0.0.1",
        user_agent: Some("Stripe/v1 PythonBindings/16.1.0"),
        metadata: vec![("agent_id", "agent_7")],
        amends: None,
        account: Some("default"),
        parent_key_id: None,
    }
}

fn search(criterion: &mut Criterion) {
    let credential = Secret::new(b"sk_live_51HqLyjWDarjtT1zdp7dcG3Kq9ZbVtYw2RkHs7XnDc5PfM".to_vec());
    let forms = Forms::new(&Slot::Bearer, &credential).unwrap();
    let reply =
        br#"{"id": "ch_3MmlLrLkdIwHu7ix0snN0B15", "object": "charge", "amount": 1099, "currency": "usd"}, "#;
    let bytes: Vec<u8> = reply.iter().copied().cycle().take(128 * 1024).collect();
    criterion.bench_function("search 128 KiB of a reply for a credential", |bencher| {
        bencher.iter(|| forms.stand_in(black_box(&bytes)));
    });
    criterion.bench_function("search 500 bytes of a reply for a credential", |bencher| {
        bencher.iter(|| forms.stand_in(black_box(bytes.get(..500).unwrap())));
    });
    criterion.bench_function("what of a reply may begin a credential", |bencher| {
        bencher.iter(|| forms.begun(black_box(&bytes)));
    });
}

criterion_group!(benches, decide, search, write);
criterion_main!(benches);
