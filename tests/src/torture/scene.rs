//! What every part plays on: a directory with one keybrake, one stand-in vendor and everybody's records.
//!
//! A scene is played for some cycles and then judged; long parts play several scenes one after the other, so that
//! a violation's directory holds little else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use keybrake_proto::control::{KeyView, Reply, Request};
use keybrake_proto::time::UnixMicros;
use serde_json::{Value, json};

use super::agents::{self, AgentKey, AgentLog, Agents, Job, Live, RULES};
use super::judge;
use super::mounts::Disk;
use super::random::Random;
use super::report::Report;
use crate::control::Control;
use crate::http::{Client, request};
use crate::keybrake::{ADMIN_TOKEN, Issued, Keybrake, Setup};
use crate::stand_in::StandIn;
use crate::wait::pass;

/// Agents, each on a connection of its own.
pub(crate) const AGENTS: usize = 64;

/// Keys that are spent under at a time.
pub(crate) const KEYS: usize = 20;

/// Each key's cap: of the last tenth of it, about eighty calls of an agent take all.
const CAP_CENTS: u64 = 2_000_000;

/// The most one call of an agent moves.
const CALL_CENTS_MAX: u64 = 5_000;

const DAY_MICROS: u64 = 86_400_000_000;

/// How long an operator's answer may take.
const OPERATOR_SILENCE: Duration = Duration::from_secs(15);

/// What a vendor does to a call, with weights: most go well, and each way of going wrong comes up.
pub(crate) const OUTCOMES: &str = "200=70,402=10,429=2,409=1,500_before=2,500_after=3,cut_before=3,cut_after=3,\
                                   cut_middle=1,hang_before=1,hang_after=1,slow_20=5";

/// A new directory for one scene.
pub(crate) fn directory(part: &str) -> PathBuf {
    let prefix = format!("keybrake-torture-{part}-");
    let dir = tempfile::Builder::new().prefix(&prefix).disable_cleanup(true).tempdir().unwrap().keep();
    OPEN.lock().unwrap().push((part.to_owned(), dir.clone()));
    dir
}

/// Every directory so far, with its part: those of a round that broke off are still there.
static OPEN: Mutex<Vec<(String, PathBuf)>> = Mutex::new(Vec::new());

/// The directories of a part that were not removed.
pub(crate) fn left_open(part: &str) -> Vec<PathBuf> {
    let open = OPEN.lock().unwrap();
    let is_left = |(of, dir): &&(String, PathBuf)| of == part && dir.exists();
    open.iter().filter(is_left).map(|(_, dir)| dir.clone()).collect()
}

/// One keybrake between agents and a vendor.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) dir: PathBuf,
    pub(crate) keybrake: Keybrake,
    pub(crate) vendor: StandIn,
    pub(crate) log: Arc<AgentLog>,
    pub(crate) live: Live,
    pub(crate) keys: Arc<Mutex<Vec<Arc<AgentKey>>>>,
    /// Where its data is on a disk of its own.
    pub(crate) disk: Option<Disk>,
    kills: Vec<Value>,
    /// Rules that the judge cannot apply here.
    pub(crate) unjudged: &'static [&'static str],
}

/// The vendor's arguments that every scene has: a ledger on the disk, kernel stamps, outcomes of this seed.
pub(crate) fn vendor_arguments(dir: &Path, random: &mut Random, outcomes: &str) -> Vec<String> {
    let ledger = dir.join("vendor.jsonl").display().to_string();
    let seed = random.below(1 << 32).to_string();
    ["--ledger", &ledger, "--ledger-fsync", "--arrival", "kernel", "--outcomes", outcomes, "--seed", &seed]
        .map(str::to_owned)
        .into()
}

/// A stand-in with random outcomes, and `more` arguments.
pub(crate) fn usual_vendor(dir: &Path, random: &mut Random, more: &[String]) -> StandIn {
    let arguments = [vendor_arguments(dir, random, OUTCOMES), more.to_vec()].concat();
    StandIn::start_with(dir, &arguments.iter().map(String::as_str).collect::<Vec<&str>>())
}

impl Scene {
    /// A keybrake of `shape` in front of `vendor`, started; without the admin process.
    pub(crate) fn start(dir: PathBuf, vendor: StandIn, shape: impl FnOnce(Setup) -> Setup) -> Scene {
        Scene::patient(dir, vendor, 1, shape)
    }

    /// As [`Scene::start`], with another limit for the vendor's answers.
    pub(crate) fn patient(
        dir: PathBuf,
        vendor: StandIn,
        timeout_s: u32,
        shape: impl FnOnce(Setup) -> Setup,
    ) -> Scene {
        let setup = Setup::new(vendor.url())
            .workers(2)
            .vendor_line(&format!("timeout_s = {timeout_s}"))
            .vendor_line("connect_timeout_s = 1")
            .inside(&dir);
        let mut keybrake = shape(setup).prepare();
        keybrake.start_dataplane();
        let log = Arc::new(AgentLog::create(&dir.join("agents.jsonl")));
        let (live, keys, kills) = (Live::default(), Arc::default(), Vec::new());
        Scene { log, keybrake, vendor, live, keys, disk: None, kills, unjudged: &[], dir }
    }

    /// The usual scene: a stand-in with random outcomes, and `more` arguments for it.
    pub(crate) fn usual(part: &str, random: &mut Random, more: impl FnOnce(&Path) -> Vec<String>) -> Scene {
        let dir = directory(part);
        let more = more(&dir);
        let vendor = usual_vendor(&dir, random, &more);
        Scene::start(dir, vendor, |setup| setup)
    }

    pub(crate) fn operator(&self) -> Operator {
        Operator {
            admin: self.keybrake.admin_address(),
            control: self.keybrake.control(),
            job: self.job(None),
            keys: Arc::clone(&self.keys),
            metadata: json!({}),
        }
    }

    fn job(&self, outcome: Option<&'static str>) -> Job {
        Job {
            proxy: self.keybrake.proxy(),
            live: Arc::clone(&self.live),
            log: Arc::clone(&self.log),
            max_cents: CALL_CENTS_MAX,
            outcome,
        }
    }

    /// Sends out the agents, who spend under the live keys until they are stopped.
    pub(crate) fn agents(&self, random: &mut Random) -> Agents {
        self.agents_with(AGENTS, None, random)
    }

    pub(crate) fn agents_with(
        &self,
        count: usize,
        outcome: Option<&'static str>,
        random: &mut Random,
    ) -> Agents {
        Agents::start(count, &self.job(outcome), random)
    }

    /// Spends what is left of a key's cap, in steps: what is left must fit, and then not one cent more.
    pub(crate) fn spend_to_the_last_cent(&self, key: &AgentKey, report: &mut Report) {
        let view = || self.keybrake.key(&key.issued.id);
        let left = |view: KeyView| view.remaining_usd.unwrap().as_u64() / 10_000;
        let rest = left(view());
        let status = (rest > 0).then(|| agents::charge(self.keybrake.proxy(), &self.log, key, rest));
        if !matches!(status, None | Some(Some(200))) {
            report
                .violation(format!("{rest} cents are left under {}, and they get {status:?}", key.issued.id));
        }
        let committed = view().committed_usd.as_u64() / 10_000;
        if committed * 100 < key.cap_cents() * 99 {
            let id = &key.issued.id;
            report.violation(format!("{id} refuses at {committed} of {} cents", key.cap_cents()));
        }
        let status = agents::charge(self.keybrake.proxy(), &self.log, key, 1);
        if status != Some(429) {
            report.violation(format!("{} is spent, and one cent gets {status:?}", key.issued.id));
        }
    }

    /// Writes down that something was killed or cut, and when it was back, in the judge's words: `admin` explains
    /// nothing that is unknown, `network` explains what ran meanwhile, all others are a death of the dataplane.
    pub(crate) fn note_kill(&mut self, at_us: u64, what: &str, how: &str) {
        let back_us = self.log.now_us();
        self.kills.push(json!({"at_us": at_us, "what": what, "how": how, "back_us": back_us}));
    }

    /// Every key as the dataplane sees it.
    pub(crate) fn views(&self) -> Vec<KeyView> {
        views(&self.keybrake.control())
    }

    /// Waits until nothing runs, and lets the judge compare everybody's records. The agents are stopped. What was
    /// found goes into `report`; a scene without violations is removed.
    pub(crate) fn judge(mut self, report: &mut Report) {
        if self.keybrake.admin.is_none() {
            self.keybrake.start_admin();
        }
        self.keybrake.settle();
        self.check_keys(report);
        self.write_records();
        let findings = judge::ask(&self.dir, self.unjudged);
        report.calls += self.log.calls.load(Ordering::SeqCst);
        findings.add_to(report);
        let Scene { dir, keybrake, vendor, disk, .. } = self;
        // In this order: a disk in use cannot be unmounted.
        drop((keybrake, vendor));
        drop(disk);
        report.end_scene(&dir);
    }

    /// What was acknowledged is there: each key, and each revoke.
    fn check_keys(&self, report: &mut Report) {
        let views = self.views();
        for key in self.keys.lock().unwrap().iter() {
            let id = &key.issued.id;
            let Some(view) = views.iter().find(|view| view.id.to_string() == *id) else {
                report.violation(format!("the issue of {id} was acknowledged, and the key is lost"));
                continue;
            };
            if key.revoked_us.load(Ordering::SeqCst) > 0 && view.revoked_at.is_none() {
                report.violation(format!("the revoke of {id} was acknowledged, and the key is active"));
            }
        }
    }

    fn write_records(&self) {
        self.log.flush();
        let write = |name: &str, lines: Vec<String>| {
            std::fs::write(self.dir.join(name), lines.join("\n") + "\n").unwrap();
        };
        let keys = self.keys.lock().unwrap();
        let key = |key: &Arc<AgentKey>| {
            let revoked_us = Some(key.revoked_us.load(Ordering::SeqCst)).filter(|at| *at > 0);
            let cap = key.cap_cents() * 10_000;
            json!({"key": key.issued.id, "daily_cap_micros": cap, "revoked_us": revoked_us}).to_string()
        };
        write("keys.jsonl", keys.iter().map(key).collect());
        write("kills.jsonl", self.kills.iter().map(Value::to_string).collect());
        let book = |view: KeyView| {
            json!({"key": view.id.to_string(), "committed_micros": view.committed_usd.as_u64(),
                   "held_micros": view.held_usd.as_u64(), "day": day_of(&view)})
            .to_string()
        };
        write("books.jsonl", self.views().into_iter().map(book).collect());
        std::fs::write(self.dir.join("audit.ndjson"), self.audit()).unwrap();
    }

    /// All audit rows as the admin process exports them.
    fn audit(&self) -> Vec<u8> {
        let (mut rows, mut next) = (Vec::new(), String::new());
        loop {
            let line = format!("GET /audit?format=ndjson&limit=1000{next}");
            let page = self.keybrake.operate(&line, None);
            assert_eq!(page.status, 200, "{}", page.text());
            assert_eq!(page.field("keybrake-unreadable").unwrap_or("0"), "0", "rows that cannot be read");
            rows.extend_from_slice(&page.body);
            match page.field("keybrake-next") {
                Some(cursor) => next = format!("&after={cursor}"),
                None => return rows,
            }
        }
    }
}

/// The day of a key's window, which ends when it is reset; in days since the epoch.
fn day_of(view: &KeyView) -> u64 {
    let resets_at = UnixMicros::parse_rfc3339(&view.resets_at).unwrap();
    resets_at.0 / DAY_MICROS - 1
}

/// Every key as the dataplane behind `control` sees it.
pub(crate) fn views(control: &Control) -> Vec<KeyView> {
    let (mut views, mut after) = (Vec::new(), None);
    loop {
        match control.ask(&Request::ListKeys { after, limit: 1000 }) {
            Reply::Keys { keys, more } => {
                views.extend(keys);
                after = views.last().map(|view| view.id);
                if !more {
                    return views;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Who issues keys, while the processes are being killed.
#[derive(Clone)]
pub(crate) struct Operator {
    admin: std::net::SocketAddr,
    pub(crate) control: Control,
    job: Job,
    keys: Arc<Mutex<Vec<Arc<AgentKey>>>>,
    /// Of each key.
    metadata: Value,
}

/// An operator at work: keeps so many keys live.
pub(crate) struct Shift {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Operator {
    /// Issues a key through the admin API, or without it where that process is down; `None` if neither answered.
    pub(crate) fn issue(&self, cap_cents: u64) -> Option<Arc<AgentKey>> {
        let spec = self.spec(cap_cents);
        let issued = self.issue_by_admin(&spec).or_else(|| self.issue_by_control(&spec))?;
        Some(self.remember(issued, cap_cents))
    }

    /// Issues a key over the control socket; `None` if nobody answered there.
    pub(crate) fn issue_without_admin(&self, cap_cents: u64) -> Option<Arc<AgentKey>> {
        let issued = self.issue_by_control(&self.spec(cap_cents))?;
        Some(self.remember(issued, cap_cents))
    }

    fn spec(&self, cap_cents: u64) -> Value {
        json!({"vendor": "stripe", "allowed_endpoints": RULES, "daily_usd_cap": cap_cents / 100,
               "metadata": self.metadata})
    }

    /// The same operator, whose keys have so many texts of 500 bytes, which stand in each row.
    pub(crate) fn with_long_rows(mut self, texts: usize) -> Operator {
        let text = |number: usize| (format!("text{number}"), Value::from("x".repeat(500)));
        self.metadata = Value::Object((0..texts).map(text).collect());
        self
    }

    /// What was acknowledged has to be there from now on.
    fn remember(&self, issued: Issued, cap_cents: u64) -> Arc<AgentKey> {
        let key = Arc::new(AgentKey::new(issued, cap_cents));
        self.keys.lock().unwrap().push(Arc::clone(&key));
        key
    }

    fn issue_by_admin(&self, spec: &Value) -> Option<Issued> {
        let mut client = Client::open(self.admin, OPERATOR_SILENCE).ok()?;
        let head =
            format!("POST /vault/keys\nAuthorization: Bearer {ADMIN_TOKEN}\nContent-Type: application/json");
        let reply = client.exchange(&request(&head, spec.to_string().as_bytes())).ok()?;
        let body = (reply.status == 201).then(|| reply.json())?;
        let text = |name: &str| body[name].as_str().map(str::to_owned);
        Some(Issued { text: text("vault_key")?, id: text("id")? })
    }

    fn issue_by_control(&self, spec: &Value) -> Option<Issued> {
        let request = Request::IssueKey(Box::new(serde_json::from_value(spec.clone()).unwrap()));
        match self.control.try_ask(&request).ok()? {
            Reply::Issued { vault_key, key } => Some(Issued { text: vault_key, id: key.id.to_string() }),
            Reply::Refused(_) => None,
            other => panic!("{other:?}"),
        }
    }

    /// A key of which about nine tenths are spent.
    pub(crate) fn nearly_spent(&self, random: &mut Random) -> Option<Arc<AgentKey>> {
        let key = self.issue(CAP_CENTS)?;
        let cents = CAP_CENTS * random.between(900, 930) / 1000;
        agents::charge(self.job.proxy, &self.job.log, &key, cents)?;
        Some(key)
    }

    /// Makes the first keys, and from then on replaces those that are spent.
    pub(crate) fn work(self, keys: usize, mut random: Random) -> Shift {
        while self.job.live.read().unwrap().len() < keys {
            let key = self.nearly_spent(&mut random).expect("the first keys are issued in peace");
            self.job.live.write().unwrap().push(key);
        }
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                let spent = self.job.live.read().unwrap().iter().position(|key| key.is_spent());
                match spent.and_then(|at| Some((at, self.nearly_spent(&mut random)?))) {
                    Some((at, fresh)) => self.job.live.write().unwrap()[at] = fresh,
                    None => pass(Duration::from_millis(2)),
                }
            }
        });
        Shift { stop, thread: Some(thread) }
    }
}

impl Shift {
    /// Ends the work.
    pub(crate) fn end(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Shift {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}
