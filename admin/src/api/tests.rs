//! The API over real sockets, with a dataplane of a few lines and a store that the test writes.

mod dataplane;
mod keys;
mod query;
mod scopes;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::mpsc;

use keybrake_proto::config::Data;
use keybrake_proto::control::{Revoke, Selector};
use keybrake_proto::key::{self, KeyId};
use keybrake_proto::secret::Secret;
use serde_json::{Value, json};

use self::dataplane::{Behavior, FakeDataplane, KNOWN, VAULT_KEY_BYTE};
use super::*;
use crate::control::Control;
use crate::history::tests::{Primary, row};

const TOKEN: &str = "the-token-of-an-operator";

/// An admin process, in this one.
struct Server {
    address: SocketAddr,
    dir: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    /// Starts one; without a behavior there is no dataplane.
    fn start(behavior: Option<Behavior>) -> Server {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (started, address) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let dataplane = behavior.map(|behavior| FakeDataplane::start(&path, behavior));
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                started.send(listener.local_addr().unwrap()).unwrap();
                let stop = async { stopped.await.unwrap_or_default() };
                run(listener, Arc::new(api(&path)), stop).await.unwrap();
                drop(dataplane);
            });
        });
        Server { address: address.recv().unwrap(), dir, stop: Some(stop), thread: Some(thread) }
    }

    fn store(&self) -> Primary {
        Primary::open(&self.dir.path().join("store"))
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let mut request =
            ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = agent.run(request.body(body).unwrap()).unwrap();
        let is_endless =
            response.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let text = if is_endless { String::new() } else { response.body_mut().read_to_string().unwrap() };
        Answer { status: response.status().as_u16(), headers: response.headers().clone(), text }
    }

    /// As the operator.
    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[("authorization", &format!("Bearer {TOKEN}"))], b"")
    }

    /// As the operator, with JSON.
    fn post(&self, path: &str, body: &str) -> Answer {
        let authorization = format!("Bearer {TOKEN}");
        let headers = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        self.send("POST", path, &headers, body.as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn api(dir: &Path) -> Api {
    let control = Control::with_timeout(dir.join("control.sock"), Duration::from_millis(200));
    let history = History::new(dir.join("store"), dir.join("secondary"));
    let guesses = Guesses::without_waits();
    let limits = keybrake_proto::config::Audit::default();
    Api { guesses, ..Api::new(control, history, tokens(dir), &limits).unwrap() }
}

fn data(dir: &Path) -> Data {
    Data { dir: dir.to_owned(), admin_pepper_file: Some(dir.join("pepper")), ..Data::default() }
}

/// The tokens of a server in `dir`, as another process reads and writes them.
fn tokens(dir: &Path) -> Tokens {
    Tokens::open(&data(dir), Some(&Secret::new(TOKEN.into())), Source::File(dir.join("admin.token"))).unwrap()
}

struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// Checks status and code of a refusal; its message.
    fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.json()["error"]["code"], code, "{}", self.text);
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

fn vault_key() -> String {
    key::mint(|bytes| bytes.fill(VAULT_KEY_BYTE))
}

fn with_id(path: &str) -> String {
    // What stands there for another kind of id is refused later than a missing token.
    path.replace("{id}", &KNOWN.to_string())
}

#[test]
fn every_route_is_described_and_every_description_is_a_route() {
    let described: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut in_document = BTreeSet::new();
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let access = match operation.get("security").map(|schemes| schemes[0].to_string()).as_deref() {
                None => "operator",
                Some("null") => "open",
                Some("{\"adminToken\":[]}") => "issuer",
                Some(_) => "key holder",
            };
            let scopes = operation.get("x-scopes").map_or("none".to_owned(), Value::to_string);
            in_document.insert((method.clone(), path.clone(), access, scopes));
        }
    }
    let of_table = |route: Route| {
        let in_json = |scopes: &[Scope]| serde_json::to_string(scopes).unwrap();
        let (access, scopes) = match route.access {
            Access::Open => ("open", "none".to_owned()),
            Access::Token(scopes) => ("operator", in_json(scopes)),
            Access::KeyHolder => ("key holder", "none".to_owned()),
            Access::Issuer => ("issuer", in_json(&[Scope::Issue])),
        };
        (route.method.to_owned(), route.path.to_owned(), access, scopes)
    };
    assert_eq!(in_document, routes().into_iter().map(of_table).collect());
    // Each reference has its target.
    for reference in OPENAPI.split("\"$ref\": \"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(described.pointer(pointer).is_some(), "{pointer}");
    }
    let columns: BTreeSet<&str> = crate::history::COLUMNS.into_iter().collect();
    let properties = described["components"]["schemas"]["AuditRow"]["properties"].as_object().unwrap();
    assert_eq!(properties.keys().map(String::as_str).collect::<BTreeSet<_>>(), columns);
}

#[test]
fn a_key_is_issued_over_both_paths_shown_listed_and_revoked() {
    let server = Server::start(Some(Behavior::Answers));
    for path in ["/vault/keys", "/vault_keys"] {
        let body =
            r#"{"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"], "daily_usd_cap": 150.5}"#;
        let answer = server.post(path, body);
        assert_eq!(answer.status, 201, "{}", answer.text);
        let issued = answer.json();
        assert_eq!(issued["vault_key"], vault_key());
        assert_eq!(issued["id"], KNOWN.to_string());
        assert_eq!(issued["expires_at"], "2026-11-22T00:00:00Z");
        assert_eq!(
            issued["policy"],
            json!({"vendor": "stripe", "account": "default", "allowed_endpoints": ["POST /v1/charges"], "daily_usd_cap": 150.5,
                   "total_usd_cap": 900.0, "daily_request_budget": 1000, "expires_at": "2026-11-22T00:00:00Z"})
            .to_string()
            .replace("150.5", "150.50")
            .replace("900.0", "900.00")
            .parse::<Value>()
            .unwrap()
        );
    }
    let listed = server.get("/vault/keys?limit=1").json();
    assert_eq!((listed["keys"][0]["id"].clone(), listed["next"].clone()), (json!(KNOWN), json!(KNOWN)));
    assert_eq!(server.get(&format!("/vault/keys?after={KNOWN}")).json(), json!({"keys": [], "next": null}));
    let shown = server.get(&with_id("/vault/keys/{id}"));
    for part in [
        r#""remaining_usd":140.50"#,
        r#""total_usd_cap":900.00,"total_committed_usd":700.25"#,
        r#""daily_request_budget":1000,"requests_today":17"#,
    ] {
        assert!(shown.text.contains(part), "{part}: {}", shown.text);
    }
    let many = server.post("/vault/revoke", &format!(r#"{{"ids": ["{KNOWN}"], "cut": true}}"#));
    assert_eq!((many.status, &many.json()["ids"], &many.json()["cut"]), (200, &json!([KNOWN]), &json!(1)));
    server.post("/vault/revoke", r#"{"label": "nobody"}"#).refused(404, "no_such_key");
    server.post("/vault/revoke", r#"{"lable": "x"}"#).refused(400, "unknown_field");
    let revoked = server.post(&with_id("/vault/keys/{id}/revoke"), "");
    assert_eq!((revoked.status, &revoked.json()["id"]), (200, &json!(KNOWN)));
    assert_eq!(revoked.json()["status"], "revoked");
    assert_eq!(revoked.json()["closed_us"], 42);
    assert_eq!(revoked.json()["revoked_at"], "2026-11-22T00:00:00Z");
}

#[test]
fn a_holder_sees_its_own_key_and_nothing_of_operators() {
    let server = Server::start(Some(Behavior::Answers));
    let ask = |authorization: &str| {
        server.send("GET", "/vault/keys/self", &[("authorization", authorization)], b"")
    };
    let own = ask(&format!("Bearer {}", vault_key()));
    assert_eq!(own.status, 200, "{}", own.text);
    let own = own.json();
    assert_eq!(own["id"], json!(KNOWN));
    assert_eq!(own["resets_at"], "2026-11-22T00:00:00Z");
    assert_eq!((&own["daily_request_budget"], &own["requests_today"]), (&json!(1000), &json!(17)));
    assert!(own.get("metadata").is_none() && own.get("created_at").is_none());
    ask(&format!("Bearer {TOKEN}")).refused(401, "unauthorized");
    ask(&format!("Bearer {}", key::mint(|bytes| bytes.fill(9)))).refused(401, "unauthorized");
    server.send("GET", "/vault/keys/self", &[], b"").refused(401, "unauthorized");
}

#[test]
fn p3_every_refusal_is_json_and_says_what_to_do() {
    let server = Server::start(Some(Behavior::Answers));
    server.get("/nothing").refused(404, "no_such_route");
    server.get("/vault/keys/").refused(404, "no_such_route");
    let other_method = server.send("DELETE", "/vault/keys", &[], b"");
    other_method.refused(405, "method_not_allowed");
    let allowed: BTreeSet<&str> = other_method.header("allow").split(',').map(str::trim).collect();
    assert_eq!(allowed, BTreeSet::from(["GET", "HEAD", "POST"]));
    let authorization = format!("Bearer {TOKEN}");
    let form =
        [("authorization", authorization.as_str()), ("content-type", "application/x-www-form-urlencoded")];
    server.send("POST", "/vault/keys", &form, b"vendor=stripe").refused(415, "unsupported_media_type");
    server.send("POST", "/vault/keys", &form[..1], b"{}").refused(415, "unsupported_media_type");
    server.post("/vault/keys", &" ".repeat(BODY_BYTES_MAX + 1)).refused(413, "body_too_large");
    server.post("/vault/keys", "{").refused(400, "malformed_json");
    let wrong = server.post("/vault/keys", r#"{"vendor": "stripe", "daily_usd_cap": "1"}"#);
    wrong.refused(400, "invalid_field");
    assert_eq!(wrong.json()["error"]["field"], "daily_usd_cap");
    // What only the dataplane knows, it says in the same shape.
    let refused = server.post("/vault/keys", r#"{"vendor": "strype"}"#);
    refused.refused(400, "invalid_spec");
    assert_eq!(refused.json()["error"]["field"], "vendor");
    server.get("/vault/keys/vk_short").refused(400, "invalid_key_id");
    server.get("/vault/keys/vk_ffffffffffffffff").refused(404, "no_such_key");
    server.get("/vault/keys?limit=0").refused(400, "invalid_parameter");
    server.get("/vault/keys?labl=x").refused(400, "invalid_parameter");
    server.get("/audit?since=yesterday").refused(400, "invalid_parameter");
    server.get("/audit?result=%ff").refused(400, "invalid_parameter");
}

#[test]
fn p3_no_answer_may_be_kept_or_reinterpreted() {
    let server = Server::start(None);
    for answer in [server.get("/livez"), server.get("/nothing"), server.get("/audit"), server.get("/readyz")]
    {
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
}

#[test]
fn without_a_dataplane_the_audit_is_still_read() {
    let server = Server::start(None);
    let primary = server.store();
    primary.append(1, &row(1));
    assert_eq!(server.get("/audit").json()["rows"][0]["sequence"], 1);
    let body = r#"{"vendor": "stripe", "allowed_endpoints": ["GET /v1/**"]}"#;
    let unavailable = server.post("/vault/keys", body);
    assert!(unavailable.refused(503, "dataplane_unavailable").contains("`keybrake up`"));
    assert_eq!(unavailable.header("retry-after"), "1");
    server.get("/vault/keys").refused(503, "dataplane_unavailable");
    server.get("/readyz").refused(503, "dataplane_unavailable");
    assert_eq!(server.get("/livez").text, "ok\n");
    let health = server.get("/healthz").json();
    assert_eq!((&health["status"], &health["dataplane"]["up"]), (&json!("degraded"), &json!(false)));
    assert_eq!(health["audit"]["newest"], 1);
    assert!(server.get("/metrics").text.contains("\nkeybrake_dataplane_up 0\n"));
}

#[test]
fn q22_a_revoke_that_finds_no_dataplane_is_recorded_and_one_that_cannot_be_says_so() {
    use std::os::unix::fs::PermissionsExt as _;

    let server = Server::start(None);
    for (path, body) in [
        (with_id("/vault/keys/{id}/revoke"), String::new()),
        ("/vault/revoke".to_owned(), r#"{"label": "billing", "cut": true}"#.to_owned()),
    ] {
        let recorded = server.post(&path, &body);
        let answer = recorded.json();
        assert_eq!(
            (recorded.status, &answer["status"], &answer["recorded"]),
            (202, &json!("pending"), &json!(true))
        );
        assert_eq!((&answer["acknowledged"], &answer["durable"]), (&json!(false), &json!(false)));
    }
    let spool = server.dir.path().join(keybrake_proto::control::SPOOL_NAME);
    let mut files: Vec<_> = std::fs::read_dir(&spool).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let orders = files.iter().map(|path| {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        keybrake_proto::control::Spooled::decode(&std::fs::read(path).unwrap()).unwrap().revoke
    });
    let expected = [
        Revoke { of: Selector::Ids(vec![KeyId::from_bytes(b"0123456789abcdef").unwrap()]), cut: false },
        Revoke { of: Selector::Label("billing".to_owned()), cut: true },
    ];
    assert!(orders.eq(expected));
    std::fs::remove_dir_all(&spool).unwrap();
    std::fs::write(&spool, "in the way").unwrap();
    let refused = server.post("/vault/revoke", r#"{"all": true}"#);
    assert!(refused.refused(503, "dataplane_unavailable").starts_with("NOT revoked"), "{}", refused.text);
}

#[test]
fn i3b_a_revoke_nobody_acknowledged_is_never_answered_as_done() {
    let revoke = with_id("/vault/keys/{id}/revoke");
    // As under SIGSTOP: the kernel takes the frame, nobody answers.
    let server = Server::start(Some(Behavior::Silent));
    let pending = server.post(&revoke, "");
    assert_eq!((pending.status, &pending.json()["acknowledged"]), (202, &json!(false)));
    assert_eq!(pending.json()["closed_us"], Value::Null);
    let body = r#"{"vendor": "stripe", "allowed_endpoints": ["GET /v1/**"]}"#;
    let message = server.post("/vault/keys", body).refused(503, "dataplane_unavailable");
    assert!(message.contains("keybrake key list"), "{message}");
    // A worker or the disk is late.
    for behavior in [Behavior::NotAcknowledged, Behavior::NotDurable] {
        let server = Server::start(Some(behavior));
        let pending = server.post(&revoke, "");
        assert_eq!((pending.status, &pending.json()["status"]), (202, &json!("pending")));
        assert_eq!(pending.json()["durable"], json!(behavior != Behavior::NotDurable));
        let message = pending.json()["message"].as_str().unwrap().to_owned();
        let late = if behavior == Behavior::NotDurable { "the disk" } else { "worker 1" };
        assert!(message.starts_with("closed") && message.contains(late), "{message}");
    }
}

#[test]
fn health_and_metrics_show_both_processes() {
    let server = Server::start(Some(Behavior::Answers));
    assert_eq!(server.send("GET", "/readyz", &[], b"").text, "ok\n");
    let health = server.get("/healthz").json();
    assert_eq!((&health["status"], &health["dataplane"]["workers"]), (&json!("ok"), &json!(2)));
    let metrics = server.send("GET", "/metrics", &[], b"");
    assert!(metrics.header("content-type").starts_with("text/plain; version=0.0.4"));
    for line in ["keybrake_dataplane_up 1", "keybrake_exchanges_total{result=\"allowed\"} 7"] {
        assert!(metrics.text.lines().any(|found| found == line), "{line} is missing in {}", metrics.text);
    }
    let server = Server::start(Some(Behavior::NotReady));
    server.get("/readyz").refused(503, "not_ready");
    let openapi = server.send("GET", "/openapi.json", &[], b"").json();
    assert_eq!(openapi["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn m10_a_stepped_clock_is_shown_and_confirmed_and_readiness_stays() {
    let server = Server::start(Some(Behavior::ClockStepped));
    let clock = server.get("/clock").json();
    assert_eq!((&clock["state"], &clock["why"]), (&json!("suspended"), &json!("step_forward")));
    assert_eq!(clock["deviation_us"], json!(172_800_000_000_u64));
    let health = server.get("/healthz").json();
    assert_eq!((&health["status"], &health["dataplane"]["clock"]), (&json!("degraded"), &clock));
    assert_eq!(server.get("/readyz").status, 200, "reads go on");
    assert_eq!(server.post("/clock/confirm", "").json()["state"], "ok");
    let server = Server::start(None);
    server.get("/clock").refused(503, "dataplane_unavailable");
    server.post("/clock/confirm", "").refused(503, "dataplane_unavailable");
}

#[test]
fn q1_doubts_are_listed_settled_and_voided() {
    let server = Server::start(Some(Behavior::Answers));
    let listed = server.get("/doubts").json();
    let id = listed["doubts"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(listed["doubts"][0]["quote_usd"].to_string(), "12.50");
    let settled = server.post(&format!("/doubts/{id}/settle"), r#"{"usd": 3.25}"#);
    assert_eq!((settled.status, settled.json()["charge_usd"].to_string()), (200, "3.25".to_owned()));
    let voided = server.post(&format!("/doubts/{id}/void"), "");
    assert_eq!((voided.status, voided.json()["charge_usd"].to_string()), (200, "0.00".to_owned()));
    server.post("/doubts/d0000000000000000/void", "").refused(404, "no_such_doubt");
    for body in ["{}", r#"{"usd": -1}"#, r#"{"usd": "1"}"#, r#"{"usd": 1, "eur": 2}"#] {
        server.post(&format!("/doubts/{id}/settle"), body).refused(400, "invalid_field");
    }
    server.post(&format!("/doubts/{id}/settle"), "[1]").refused(400, "not_an_object");
}

#[test]
fn the_audit_is_paged_filtered_and_written_in_three_formats() {
    let server = Server::start(None);
    let primary = server.store();
    let denied = keybrake_proto::audit::AuditRow {
        policy_check_result: "endpoint_not_allowed",
        user_agent: Some("=HYPERLINK(\"http://x\")"),
        ..row(20)
    };
    primary.append(1, &row(10));
    primary.append(2, &denied);
    primary.append(3, &row(30));
    let page = server.get("/audit?limit=2").json();
    assert_eq!((page["rows"].as_array().unwrap().len(), &page["next"]), (2, &json!(2)));
    assert!(page.get("unreadable").is_none());
    let page = server.get("/audit?limit=2&after=2").json();
    assert_eq!((&page["rows"][0]["ts"], &page["next"]), (&json!("1970-01-01T00:00:10Z"), &Value::Null));
    assert_eq!(server.get("/audit?result=denied").json()["rows"][0]["sequence"], 2);
    assert_eq!(server.get("/audit?vault_key_id=vk_ffffffffffffffff").json()["rows"], json!([]));
    let lines = server.get("/audit?format=ndjson&limit=2");
    assert_eq!((lines.text.lines().count(), lines.header("keybrake-next")), (2, "2"));
    let authorization = format!("Bearer {TOKEN}");
    let accept = [("authorization", authorization.as_str()), ("accept", "text/csv")];
    let csv = server.send("GET", "/audit?result=denied", &accept, b"");
    assert!(csv.header("content-type").starts_with("text/csv"));
    assert!(csv.text.starts_with("sequence,ts,id,"), "{}", csv.text);
    assert!(csv.text.contains("\"'=HYPERLINK(\"\"http://x\"\")\""), "{}", csv.text);
    primary.append_bytes(&4_u64.to_be_bytes(), b"");
    assert_eq!(server.get("/audit").json()["unreadable"], 1);
}
