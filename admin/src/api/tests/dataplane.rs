//! The other end of the control socket: one key, answers by the behavior under test.

use std::path::Path;

use keybrake_proto::control::{
    self, AccountView, ClockState, ClockView, ConfigState, ConfigView, Counter, CredentialSet, DoubtResolved,
    DoubtView, FRAME_HEADER_BYTES, KeyStatus, KeyView, MasterKeyRotated, Only, Refused, Reply, Request,
    Revoke, Revoked, Selector, Status, VendorView,
};
use keybrake_proto::key::{self, KeyId};
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// The byte whose repetition mints the one vault key that is known.
pub(super) const VAULT_KEY_BYTE: u8 = 7;

/// The one key's id.
pub(super) const KNOWN: Id = Id;

/// Prints and serializes as the id.
#[derive(Clone, Copy)]
pub(super) struct Id;

impl Id {
    fn get() -> KeyId {
        KeyId::from_bytes(b"0123456789abcdef").unwrap()
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        Id::get().fmt(f)
    }
}

impl serde::Serialize for Id {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Id::get().serialize(serializer)
    }
}

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behavior {
    Answers,
    Silent,
    NotReady,
    Sealed,
    NotAcknowledged,
    NotDurable,
    ClockStepped,
}

/// Serves until it is dropped.
pub(super) struct FakeDataplane(JoinHandle<()>);

impl FakeDataplane {
    pub(super) fn start(dir: &Path, behavior: Behavior) -> FakeDataplane {
        let listener = UnixListener::bind(dir.join(control::SOCKET_NAME)).unwrap();
        FakeDataplane(tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, behavior));
            }
        }))
    }
}

impl Drop for FakeDataplane {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(mut stream: UnixStream, behavior: Behavior) {
    let mut header = [0; FRAME_HEADER_BYTES];
    while stream.read_exact(&mut header).await.is_ok() {
        let mut body = vec![0; control::body_bytes(header).unwrap()];
        stream.read_exact(&mut body).await.unwrap();
        let request = control::decode(&body).unwrap();
        if behavior == Behavior::Silent {
            continue;
        }
        let reply = answer(request, behavior);
        stream.write_all(&control::encode(&reply).unwrap()).await.unwrap();
    }
}

fn answer(request: Request, behavior: Behavior) -> Reply {
    let vault_key = key::mint(|bytes| bytes.fill(VAULT_KEY_BYTE));
    match request {
        Request::Status => Reply::Status(Box::new(status(behavior))),
        Request::IssueKey(spec) if spec.vendor == "stripe" || spec.parent_vault_key.is_some() => {
            Reply::Issued { vault_key, key: Box::new(view()) }
        }
        Request::ChangeKey { version: Some(7) | None, .. } => Reply::Changed {
            key: Box::new(KeyView { version: 8, ..view() }),
            late_workers: if behavior == Behavior::NotAcknowledged { vec![1] } else { Vec::new() },
        },
        Request::ChangeKey { .. } => refused(412, "version_mismatch", "the key is at version 7"),
        Request::IssueKey(_) => Reply::Refused(Refused {
            status: 400,
            code: "invalid_spec".to_owned(),
            field: Some("vendor".to_owned()),
            message: "is not configured; configured: stripe".to_owned(),
        }),
        Request::Config | Request::ReloadConfig => Reply::Config(Box::new(configuration())),
        Request::Vendors => Reply::Vendors(vec![VendorView {
            name: "stripe".to_owned(),
            base_url: "https://api.stripe.com".to_owned(),
            accounts: vec![AccountView { name: "default".to_owned(), version: 1 }],
        }]),
        Request::SetCredential(spec) => Reply::CredentialSet(CredentialSet {
            vendor: spec.vendor,
            account: spec.account,
            version: if spec.only == Some(Only::New) { 1 } else { 2 },
            late_workers: Vec::new(),
        }),
        Request::ListKeys { after: Some(_), .. } => Reply::Keys { keys: Vec::new(), more: false },
        Request::ListKeys { after: None, .. } => Reply::Keys { keys: vec![view()], more: true },
        Request::ShowKey(id) if id == Id::get() => Reply::Key(Box::new(view())),
        Request::SelfKey { vault_key: sent } if sent == vault_key => Reply::Key(Box::new(view())),
        Request::Revoke(Revoke { of, cut }) if of == Selector::Ids(vec![Id::get()]) => revoked(cut, behavior),
        Request::Clock => Reply::Clock(Box::new(clock(behavior))),
        Request::RotateMasterKey => rotated(),
        Request::Doubts => Reply::Doubts(vec![doubt()]),
        Request::ResolveDoubt { id, charge_usd } if id == doubt().id => {
            Reply::DoubtResolved(Box::new(DoubtResolved {
                id,
                vault_key_id: Id::get(),
                quote_usd: doubt().quote_usd,
                charge_usd: charge_usd.unwrap_or_default(),
            }))
        }
        Request::ResolveDoubt { .. } => refused(404, "no_such_doubt", "no call with this id is in doubt"),
        Request::ConfirmClock => Reply::Clock(Box::new(clock(Behavior::Answers))),
        Request::ShowKey(_) | Request::SelfKey { .. } | Request::Revoke(_) | Request::TakeOver(_) => {
            Reply::Refused(Refused {
                status: 404,
                code: "no_such_key".to_owned(),
                field: None,
                message: "there is no such key".to_owned(),
            })
        }
    }
}

fn revoked(cut: bool, behavior: Behavior) -> Reply {
    Reply::Revoked(Box::new(Revoked {
        revoked: 1,
        already_revoked: 0,
        ids: vec![Id::get()],
        unknown_ids: Vec::new(),
        revoked_at: UnixMicros::from_seconds(1_795_305_600),
        acknowledged: behavior != Behavior::NotAcknowledged,
        late_workers: if behavior == Behavior::NotAcknowledged { vec![1] } else { Vec::new() },
        durable: behavior != Behavior::NotDurable,
        closed_us: 42,
        acknowledged_us: 310,
        at_vendor: 1,
        cut: u64::from(cut),
    }))
}

fn configuration() -> ConfigView {
    ConfigView {
        state: ConfigState::default(),
        changed: vec!["proxy.idle_timeout_s".to_owned()],
        late_workers: Vec::new(),
        config: serde_json::json!({"proxy": {"workers": 2}}),
    }
}

fn refused(status: u16, code: &str, message: &str) -> Reply {
    Reply::Refused(Refused { status, code: code.to_owned(), field: None, message: message.to_owned() })
}

fn view() -> KeyView {
    let resets = "2026-11-22T00:00:00Z".to_owned();
    KeyView {
        id: Id::get(),
        status: KeyStatus::Active,
        version: 7,
        parent_key_id: None,
        children: 2,
        chain_remaining_usd: Micros::new(140_500_000),
        vendor: "stripe".to_owned(),
        account: "default".to_owned(),
        label: Some("billing".to_owned()),
        agent_run_label: None,
        allowed_endpoints: vec!["POST /v1/charges".parse().unwrap()],
        daily_usd_cap: Micros::new(150_500_000),
        committed_usd: Micros::new(10_000_000).unwrap(),
        held_usd: Micros::ZERO,
        in_doubt_usd: Micros::ZERO,
        total_usd_cap: Micros::new(900_000_000),
        total_committed_usd: Micros::new(700_250_000),
        remaining_usd: Micros::new(140_500_000),
        daily_request_budget: Some(1000),
        requests_today: Some(17),
        resets_at: resets.clone(),
        created_at: "2026-11-21T00:00:00Z".to_owned(),
        expires_at: Some(resets),
        revoked_at: None,
        metadata: [("agent_id".to_owned(), "a1".to_owned())].into(),
        restrictions: Default::default(),
    }
}

fn clock(behavior: Behavior) -> ClockView {
    let is_stepped = behavior == Behavior::ClockStepped;
    ClockView {
        state: if is_stepped { ClockState::Suspended } else { ClockState::Ok },
        why: is_stepped.then(|| "step_forward".to_owned()),
        since: is_stepped.then(|| "2026-11-21T10:00:00Z".to_owned()),
        wall: if is_stepped { "2026-11-23T10:00:00Z" } else { "2026-11-21T10:00:00Z" }.to_owned(),
        expected: "2026-11-21T10:00:00Z".to_owned(),
        deviation_us: if is_stepped { 172_800_000_000 } else { 0 },
        day: "2026-11-21".to_owned(),
        resets_at: "2026-11-22T00:00:00Z".to_owned(),
        latest_seen: "2026-11-21T10:00:00Z".to_owned(),
    }
}

fn status(behavior: Behavior) -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 1,
        uptime_s: 5,
        ready: !matches!(behavior, Behavior::NotReady | Behavior::Sealed),
        sealed: (behavior == Behavior::Sealed).then(|| "another master key".to_owned()),
        proxy_listen: "127.0.0.1:8080".to_owned(),
        driver: "epoll".to_owned(),
        workers: 2,
        vendors: vec!["stripe".to_owned()],
        keys: 1,
        config: ConfigState::default(),
        requests: None,
        clock: clock(behavior),
        proxy_tls: None,
        counters: vec![
            Counter {
                name: "keybrake_exchanges_total".to_owned(),
                help: "Exchanges.".to_owned(),
                kind: "counter".to_owned(),
                label: Some(("result".to_owned(), "allowed".to_owned())),
                value: 7,
            },
            Counter {
                name: "keybrake_storage_queued".to_owned(),
                help: "Records that wait for the disk.".to_owned(),
                kind: "gauge".to_owned(),
                label: None,
                value: 0,
            },
        ],
    }
}

fn rotated() -> Reply {
    let (from, to) = ("00000001".to_owned(), "00000002".to_owned());
    Reply::MasterKeyRotated(MasterKeyRotated { from, to, credentials: 1, kept: None, pending: None })
}

fn doubt() -> DoubtView {
    DoubtView {
        id: "d000000000000002a".to_owned(),
        vault_key_id: Id::get(),
        request_id: "req_1".to_owned(),
        ts: "2026-11-21T10:00:00Z".to_owned(),
        since: "2026-11-21T10:00:01Z".to_owned(),
        vendor: "stripe".to_owned(),
        method: "POST".to_owned(),
        path: "/v1/charges".to_owned(),
        idempotency_key: None,
        vendor_request_id: None,
        quote_usd: "12.5".parse().unwrap(),
        booked_on: None,
    }
}
