//! Questions to an audit of millions of rows: seconds, rows a second, and the admin process's memory.
//!
//! Nothing is decided by it. `cargo bench -p keybrake-benches --bench audit -- 5000000` writes that many rows (a million
//! unless told) into a store of its own, starts `keybrake admin` on it and asks over HTTP. `KEYBRAKE_BIN` names the
//! program; else it is the one beside this one's directory.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "bench code: a panic is how it reports"
)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::http1::Method;
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;
use rocksdb::{DB, DBCompressionType, Options, WriteBatch};

const TOKEN: &str = "kbadmin_of-the-benchmark-0123456789";

const ADDRESS: &str = "127.0.0.1:18099";

/// 2026-11-01T00:00:00Z; rows are spread evenly over the thirty days from then on.
const FIRST_S: u64 = 1_793_491_200;

const DAYS: u64 = 30;

/// Keys, agents, runs and operations to choose from.
const KEYS: u64 = 500;

const QUESTIONS: [(&str, &str); 8] = [
    ("count all", "SELECT COUNT(*) FROM calls"),
    ("full scan, GROUP BY agent", "SELECT agent_id, SUM(amount) FROM audit_log GROUP BY agent_id"),
    (
        "full scan, GROUP BY day and vendor",
        "SELECT substr(ts, 1, 10) AS day, vendor, SUM(amount) FROM calls GROUP BY 1, 2",
    ),
    (
        "one key in one day",
        "SELECT COUNT(*), SUM(amount) FROM calls WHERE vault_key_id = 'vk_0000000000000007' AND ts >= '2026-11-15' \
         AND ts < '2026-11-16'",
    ),
    (
        "one key, all days",
        "SELECT COUNT(*), SUM(amount) FROM calls WHERE vault_key_id = 'vk_0000000000000007'",
    ),
    ("one run id", "SELECT COUNT(*), SUM(amount) FROM calls WHERE metadata->>'agent_run_id' = 'run_77'"),
    (
        "published query of one run's denials",
        "SELECT ts, endpoint, amount_usd, policy_check_result FROM calls WHERE metadata->>'agent_run_id' = 'run_77' \
         AND policy_check_result != 'allowed' ORDER BY ts DESC;",
    ),
    (
        "last 100 denials",
        "SELECT * FROM calls WHERE policy_check_result != 'allowed' ORDER BY sequence DESC LIMIT 100",
    ),
];

fn main() {
    let rows = std::env::args().skip(1).find_map(|text| text.parse().ok()).unwrap_or(1_000_000_u64);
    let dir = std::env::temp_dir().join(format!("keybrake-bench-audit-{}", std::process::id()));
    let began = Instant::now();
    write_rows(&dir.join("data/store"), rows);
    println!(
        "{rows} rows written in {:.1} s, {} MiB on disk",
        began.elapsed().as_secs_f64(),
        mebibytes(&dir)
    );
    let admin = start(&dir);
    println!("{:38} {:>9} {:>12} {:>10} {:>8}", "question", "seconds", "rows looked", "rows/s", "RSS MiB");
    // The first one reads the amendments of all rows, once for the process.
    ask("first query (looks for amendments)", "SELECT 1", rows, &admin);
    for (name, sql) in QUESTIONS {
        ask(name, sql, rows, &admin);
    }
}

/// The admin process and its directory, which go with it.
struct Admin(Child, PathBuf);

impl Drop for Admin {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
        std::fs::remove_dir_all(&self.1).ok();
    }
}

fn row(n: u64, rows: u64, texts: &[String; 4]) -> AuditRow<'_> {
    let [id, agent, run, key] = texts;
    let denied = n.is_multiple_of(50);
    let amount = if denied { 0 } else { 100_000 + n % 1_000_000 };
    AuditRow {
        ts: UnixMicros(FIRST_S * 1_000_000 + n * (DAYS * 86_400_000_000 / rows)),
        id,
        vault_key_id: KeyId::from_bytes(key.as_bytes()),
        label: Some("billing"),
        agent_run_label: None,
        vendor: "stripe",
        method: Method::Post,
        endpoint: if n.is_multiple_of(3) { "/v1/charges" } else { "/v1/payment_intents" },
        path: if n.is_multiple_of(3) { "/v1/charges" } else { "/v1/payment_intents" },
        status: if denied { 429 } else { 200 },
        policy_check_result: if denied { "daily_cap_exceeded" } else { "allowed" },
        outcome: if denied { Outcome::Denied } else { Outcome::Forwarded },
        amount: Micros::new(amount).unwrap(),
        quote: Micros::new(amount).unwrap(),
        currency: Some("usd"),
        amount_minor: Some(amount / 10_000),
        vendor_request_id: Some("req_00000000000000"),
        idempotency_key: None,
        latency_us: 80_000 + n % 1000,
        overhead_us: 60,
        client_addr: "10.0.0.7",
        user_agent: Some("Stripe/v1 PythonBindings/16.0.0"),
        metadata: vec![("agent_id", agent), ("agent_run_id", run), ("team", "operations")],
        amends: None,
        account: None,
        parent_key_id: None,
    }
}

fn write_rows(store: &Path, rows: u64) {
    std::fs::create_dir_all(store).unwrap();
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_compression_type(DBCompressionType::Lz4);
    let families = ["default", "keys", "credentials", "audit", "spend", "objects", "meta"];
    let store = DB::open_cf(&options, store, families).unwrap();
    let audit = store.cf_handle("audit").unwrap();
    let mut batch = WriteBatch::default();
    for n in 1..=rows {
        // Scattered, as the calls of many agents are.
        let pick = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let texts = [
            format!("req_{:024x}", n),
            format!("agent_{}", pick % 40),
            format!("run_{}", pick % 20_000),
            format!("{:016}", pick % KEYS),
        ];
        batch.put_cf(audit, n.to_be_bytes(), row(n, rows, &texts).encode(Vec::new()));
        if n.is_multiple_of(512) || n == rows {
            store.write(std::mem::take(&mut batch)).unwrap();
        }
    }
    store.flush_cf(audit).unwrap();
}

fn start(dir: &Path) -> Admin {
    let config = dir.join("keybrake.toml");
    let data = dir.join("data");
    let text = format!(
        "[proxy]\nlisten = \"127.0.0.1:18098\"\n[admin]\nlisten = \"{ADDRESS}\"\n[data]\ndir = \"{}\"\n[audit]\n\
         query_timeout_s = 50\n[[vendor]]\nname = \"stripe\"\nbase_url = \"https://api.stripe.com\"\n",
        data.display()
    );
    std::fs::write(&config, text).unwrap();
    let beside = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("keybrake");
    let program = std::env::var_os("KEYBRAKE_BIN").map_or(beside, PathBuf::from);
    let mut command = Command::new(program);
    let admin = command.arg("admin").arg("--config").arg(config).env("KEYBRAKE_ADMIN_TOKEN", TOKEN);
    let admin = Admin(admin.stderr(Stdio::null()).spawn().unwrap(), dir.to_owned());
    let deadline = Instant::now() + Duration::from_secs(60);
    while TcpStream::connect(ADDRESS).is_err() {
        assert!(Instant::now() < deadline, "the admin process does not listen");
        std::thread::yield_now();
    }
    admin
}

/// Asks once and prints what it took.
fn ask(name: &str, sql: &str, rows: u64, admin: &Admin) {
    let began = Instant::now();
    let body = format!("{{\"sql\": \"{sql}\"}}");
    let mut stream = TcpStream::connect(ADDRESS).unwrap();
    write!(
        stream,
        "POST /audit/query HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let seconds = began.elapsed().as_secs_f64();
    assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
    let (_, scanned) = answer.split_once("keybrake-scanned: ").unwrap();
    let scanned: u64 = scanned.split("\r\n").next().unwrap().parse().unwrap();
    // The first one looks at all rows before it begins.
    let looked = if name.starts_with("first") { rows } else { scanned };
    let rate = looked as f64 / seconds;
    println!("{name:38} {seconds:>9.3} {looked:>12} {rate:>10.0} {:>8}", resident(admin.0.id()));
}

/// The process's memory, in MiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn mebibytes(dir: &Path) -> u64 {
    let bytes = |path: PathBuf| -> u64 {
        if path.is_dir() { mebibytes(&path) << 20 } else { path.metadata().map_or(0, |file| file.len()) }
    };
    std::fs::read_dir(dir).unwrap().map(|entry| bytes(entry.unwrap().path())).sum::<u64>() >> 20
}
