//! Seeds that are bytes: frames, records, segments and rows.

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::catalog::amount::{Counted, ObjectId};
use keybrake_proto::catalog::currency::Currency;
use keybrake_proto::control::{self, Reply, Request};
use keybrake_proto::handover::{Fate, Parting};
use keybrake_proto::http1::Method;
use keybrake_proto::idempotency::{self, Ending, Identity, ReservationId, Share};
use keybrake_proto::journal::segment::{Header, Survives};
use keybrake_proto::journal::{Booking, End, IntentId, Record};
use keybrake_proto::key::KeyId;
use keybrake_proto::ledger::chain::Sent;
use keybrake_proto::mark::{Mark, Reached};
use keybrake_proto::money::Micros;
use keybrake_proto::time::{Day, UnixMicros};

use super::Seed;

pub(super) fn seeds() -> Vec<Seed> {
    [frames(), journals(), rows()].concat()
}

fn key() -> KeyId {
    KeyId::from_bytes(b"0123456789abcdef").unwrap()
}

fn frames() -> Vec<Seed> {
    let seed = |name: &str, bytes| ("control_frame", name.to_owned(), bytes);
    let request = |json: &str| {
        let body: serde_json::Value = serde_json::from_str(json).unwrap();
        control::encode(&body).unwrap().to_vec()
    };
    let intent = IntentId::new(3, 7);
    let fate = Fate {
        ending: Ending::Executed(idempotency::Answer::Replayed),
        sent: Sent::Yes,
        charge: Micros::MAX,
        at: UnixMicros(5),
    };
    let doubt = Request::ResolveDoubt { id: "d0003000000000007".to_owned(), charge_usd: Some(Micros::ZERO) };
    vec![
        seed("status", control::encode(&Request::Status).unwrap().to_vec()),
        seed("doubt", control::encode(&doubt).unwrap().to_vec()),
        seed(
            "issue",
            request(
                r#"{"request": "issue_key", "body": {"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"], "daily_usd_cap": 10.5, "expires_in": "15m", "metadata": {"a": "b"}, "params": [{"name": "currency", "equals": "usd"}]}}"#,
            ),
        ),
        seed(
            "change",
            request(
                r#"{"request": "change_key", "body": {"id": "vk_0123456789abcdef", "version": 3, "change": {"daily_usd_cap": null, "label": null, "expires_in": 60}}}"#,
            ),
        ),
        seed("revoke", request(r#"{"request": "revoke", "body": {"all": true, "cut": true}}"#)),
        seed("list", request(r#"{"request": "list_keys", "body": {"after": null, "limit": 10}}"#)),
        seed(
            "refused",
            request(
                r#"{"reply": "refused", "body": {"status": 404, "code": "no_such_key", "field": null, "message": "x"}}"#,
            ),
        ),
        seed("empty_list", control::encode(&Reply::Keys { keys: Vec::new(), more: false }).unwrap().to_vec()),
        seed("ended", Parting::Ended { intent, fate, row: b"row" }.frame()),
        seed("lost", Parting::Lost { intent }.frame()),
        seed(
            "counted",
            Parting::Counted { intent, key: key(), object: object(), counted: counted() }.frame(),
        ),
        seed("too_long", [&u32::MAX.to_le_bytes()[..], b"{}"].concat()),
        seed("not_json", [&2_u32.to_le_bytes()[..], b"{\""].concat()),
    ]
}

fn object() -> ObjectId {
    ObjectId::parse("pi_1").unwrap()
}

fn counted() -> Counted {
    Counted { minor: u64::MAX, currency: Currency::USD }
}

fn journals() -> Vec<Seed> {
    let (day, intent) = (Day::new(20_778), IntentId::new(3, 7));
    let share = Some(Share { reservation: ReservationId(7), identity: Identity([3; 16]) });
    let bookings = vec![Booking { key: key(), day, charge: Micros::MAX, requests: 1 }];
    let records = [
        ("intent", Record::Intent { keys: vec![key(), key()], day, quote: Micros::MAX, share, row: b"row" }),
        ("outcome", Record::Outcome { intent: Some(intent), end: End::InDoubt, bookings, row: b"row" }),
        ("denial", Record::Outcome { intent: None, end: End::Booked, bookings: Vec::new(), row: b"" }),
        ("lost", Record::Lost { intent }),
        ("counted", Record::Counted { key: key(), object: object(), counted: counted() }),
    ];
    let mut seeds: Vec<Seed> = records
        .iter()
        .map(|(name, record)| ("journal", format!("record_{name}"), record.encode(Vec::new())))
        .collect();
    let header = Header {
        shard: 3,
        generation: 7,
        first_sequence: 11,
        segment_bytes: 64 + 4 * 24 + 32,
        boot: [5; 16],
        survives: Survives::PowerLoss,
    };
    let mut segment = header.encode().to_vec();
    header.frame(&mut segment, 11, b"payload");
    header.commit(&mut segment, 11);
    header.frame(&mut segment, 12, b"next");
    header.commit(&mut segment, 12);
    segment.resize(usize::try_from(header.segment_bytes).unwrap(), 0);
    let mut damaged = segment.clone();
    if let Some(byte) = damaged.get_mut(64 + 17) {
        *byte ^= 1;
    }
    let mark = Mark {
        number: 4,
        store: [1; 16],
        boot: [2; 16],
        store_sequence: 1000,
        shards: [(0, Reached { synced: 10, written: 12 })].into(),
    };
    // Shard, generation, first sequence, free bytes, place and kind of the damage; then frames.
    let plan = |at: u8, flip: u8| {
        [&[3, 7, 11, 4, at, flip], &b"\x05hello\xff\x00\x07payload\xff\x03end\xff"[..]].concat()
    };
    let bytes = [
        ("segment", segment),
        ("segment_damaged", damaged),
        ("segment_never_begun", vec![0; 128]),
        ("mark", mark.encode()),
        ("plan_header_damaged", plan(10, 1)),
        ("plan_record_damaged", plan(110, 1)),
        ("plan_commit_damaged", plan(150, 128)),
        ("plan_end_damaged", plan(250, 7)),
    ];
    seeds.extend(bytes.map(|(name, bytes)| ("journal", name.to_owned(), bytes)));
    seeds
}

fn rows() -> Vec<Seed> {
    let row = AuditRow {
        ts: UnixMicros(1_795_219_200_000_000),
        id: "req_1",
        vault_key_id: Some(key()),
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
        quote: Micros::ZERO,
        currency: Some("usd"),
        amount_minor: Some(2000),
        vendor_request_id: None,
        idempotency_key: Some("b\u{fc}ro"),
        latency_us: u64::MAX,
        overhead_us: 0,
        client_addr: "127.0.0.1",
        user_agent: Some("curl"),
        metadata: vec![("agent_id", "a1"), ("", "")],
        amends: None,
        account: None,
        parent_key_id: None,
    };
    let denied = AuditRow {
        vault_key_id: None,
        status: 401,
        outcome: Outcome::Denied,
        metadata: Vec::new(),
        ..row.clone()
    };
    let amendment = AuditRow { outcome: Outcome::Amendment, amends: Some("req_0"), ..row.clone() };
    let encoded = row.encode(Vec::new());
    let mut old = encoded.clone();
    // Without what later versions have behind it.
    old.truncate(old.len() - 3);
    if let Some(version) = old.first_mut() {
        *version = 1;
    }
    let seeds = [
        ("denied", denied.encode(Vec::new())),
        ("amendment", amendment.encode(Vec::new())),
        ("of_version_1", old),
        ("of_version_9", [&[9], &encoded[1..]].concat()),
        ("cut", encoded[..40].to_vec()),
        ("forwarded", encoded),
    ];
    seeds.map(|(name, bytes)| ("audit_record", name.to_owned(), bytes)).into()
}
