//! The agents: threads that spend under vault keys on connections of their own, and write down each call and
//! what was answered, as a checker outside keybrake reads it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use super::random::Random;
use crate::http::{Client, Reply, form_post};
use crate::keybrake::Issued;
use crate::wait::{now_micros, pass};

/// How long an answer may take: longer than any deadline of keybrake's in these rounds.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Between two tries to connect to a process that is being started.
const RECONNECT: Duration = Duration::from_millis(4);

/// After an answer that says that something is broken.
const BACK_OFF: Duration = Duration::from_millis(20);

/// A key is spent when so many calls were refused under it.
const REFUSALS_MAX: u32 = 6;

/// The operator's own calls stand in the log under this agent.
const OPERATOR: usize = 1000;

/// Asks the vendor to carry a call out and to answer at once, whatever it would draw.
pub(crate) const FINE: &str = "slow_0";

/// Calls under one key: well below the amounts that there are.
const AMOUNTS_MAX: usize = 2_000;

/// What agents ask for, in the stand-in's own operations: each moves the amount that it names.
const OPERATIONS: [&str; 4] = ["/v1/charges", "/v1/charges", "/v1/payouts", "/v1/topups"];

/// The rules that let them.
pub(crate) const RULES: [&str; 4] =
    ["POST /v1/charges", "POST /v1/payouts", "POST /v1/topups", "GET /v1/balance"];

/// A vault key as the agents hold it.
#[derive(Debug)]
pub(crate) struct AgentKey {
    pub(crate) issued: Issued,
    cap_cents: AtomicU64,
    /// When its revoke was acknowledged, in microseconds since the epoch; 0 before.
    pub(crate) revoked_us: AtomicU64,
    /// Amounts that were asked for: none twice, so that an amount names one call of a key.
    amounts: Mutex<HashSet<u64>>,
    refusals: AtomicU32,
}

impl AgentKey {
    pub(crate) fn new(issued: Issued, cap_cents: u64) -> AgentKey {
        AgentKey {
            issued,
            cap_cents: AtomicU64::new(cap_cents),
            revoked_us: AtomicU64::new(0),
            amounts: Mutex::default(),
            refusals: AtomicU32::new(0),
        }
    }

    /// Its daily cap.
    pub(crate) fn cap_cents(&self) -> u64 {
        self.cap_cents.load(Ordering::SeqCst)
    }

    /// Its cap was changed, before anything was spent.
    pub(crate) fn set_cap_cents(&self, cents: u64) {
        self.cap_cents.store(cents, Ordering::SeqCst);
    }

    /// Under it nearly everything is refused, since its cap is spent; or its amounts are used up.
    pub(crate) fn is_spent(&self) -> bool {
        self.refusals.load(Ordering::Relaxed) >= REFUSALS_MAX
            || self.amounts.lock().unwrap().len() >= AMOUNTS_MAX
    }

    fn fresh_amount(&self, random: &mut Random, max_cents: u64) -> u64 {
        let mut amounts = self.amounts.lock().unwrap();
        loop {
            let amount = random.between(1, max_cents);
            if amounts.insert(amount) {
                return amount;
            }
        }
    }
}

/// What is written down, and counted meanwhile.
#[derive(Debug)]
pub(crate) struct AgentLog {
    file: Mutex<BufWriter<File>>,
    numbers: AtomicU64,
    /// Added to each time stamp: where the scene lives in another time.
    offset_us: AtomicI64,
    pub(crate) calls: AtomicU64,
    pub(crate) succeeded: AtomicU64,
    /// 503: keybrake cannot write, or does not trust its clock.
    pub(crate) unavailable: AtomicU64,
    pub(crate) unanswered: AtomicU64,
    /// Connections that nobody accepted.
    pub(crate) unconnected: AtomicU64,
}

/// One call's line.
struct Call<'a> {
    key: &'a AgentKey,
    agent: usize,
    path: &'a str,
    amount: u64,
}

impl AgentLog {
    pub(crate) fn create(path: &Path) -> AgentLog {
        AgentLog {
            file: Mutex::new(BufWriter::new(File::create(path).unwrap())),
            numbers: AtomicU64::new(1),
            offset_us: AtomicI64::new(0),
            calls: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            unavailable: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            unconnected: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_offset(&self, offset_us: i64) {
        self.offset_us.store(offset_us, Ordering::Relaxed);
    }

    /// The scene's time.
    pub(crate) fn now_us(&self) -> u64 {
        now_micros().checked_add_signed(self.offset_us.load(Ordering::Relaxed)).unwrap()
    }

    pub(crate) fn flush(&self) {
        self.file.lock().unwrap().flush().unwrap();
    }

    /// Sends one call and writes down what became of it. An unanswered one ends the connection.
    fn call(&self, client: &mut Client, call: &Call<'_>, outcome: Option<&str>) -> Option<Reply> {
        let Call { key, agent, path, amount } = *call;
        let name = format!("c{}", self.numbers.fetch_add(1, Ordering::Relaxed));
        let outcome = outcome.map(|name| format!("&metadata[outcome]=tok_{name}")).unwrap_or_default();
        let form = format!("amount={amount}&currency=usd&metadata[call]={name}{outcome}");
        let request = form_post(&format!("/stripe{path}"), &key.issued.text, &form);
        let sent_us = self.now_us();
        let reply = client.exchange(&request).ok();
        let over_us = self.now_us();
        let (answered_us, ended_us) =
            if reply.is_some() { (Some(over_us), None) } else { (None, Some(over_us)) };
        self.count(key, reply.as_ref());
        let line = json!({
            "call": name, "key": key.issued.id, "cap_micros": key.cap_cents() * 10_000,
            "method": "POST", "path": path, "amount_minor": amount, "sent_us": sent_us,
            "answered_us": answered_us, "ended_us": ended_us, "status": reply.as_ref().map(|reply| reply.status),
            "keybrake_request_id": reply.as_ref().and_then(row_id), "agent": agent,
        });
        let mut file = self.file.lock().unwrap();
        writeln!(file, "{line}").unwrap();
        reply
    }

    fn count(&self, key: &AgentKey, reply: Option<&Reply>) {
        let add = |counter: &AtomicU64| counter.fetch_add(1, Ordering::SeqCst);
        add(&self.calls);
        match reply.map(|reply| reply.status) {
            None => drop(add(&self.unanswered)),
            Some(200..300) => drop(add(&self.succeeded)),
            Some(503) => drop(add(&self.unavailable)),
            // The stand-in's 429 names no cap, but a key that is replaced early does no harm.
            Some(401 | 429) => drop(key.refusals.fetch_add(1, Ordering::Relaxed)),
            Some(_) => {}
        }
    }
}

/// The id of a reply's audit row: a denial's own id stands where a vendor's would.
fn row_id(reply: &Reply) -> Option<&str> {
    let denied = || reply.field("keybrake-decision").and_then(|_| reply.field("request-id"));
    reply.field("keybrake-request-id").or_else(denied)
}

/// The keys that agents spend under at the moment.
pub(crate) type Live = Arc<RwLock<Vec<Arc<AgentKey>>>>;

/// Running agents.
#[derive(Debug)]
pub(crate) struct Agents {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// What each agent knows.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) proxy: SocketAddr,
    pub(crate) live: Live,
    pub(crate) log: Arc<AgentLog>,
    /// Amounts are drawn up to here.
    pub(crate) max_cents: u64,
    /// What the vendor is asked to make of each call; `None` leaves it to the vendor's own draw.
    pub(crate) outcome: Option<&'static str>,
}

impl Agents {
    /// Sends out so many agents.
    pub(crate) fn start(count: usize, job: &Job, random: &mut Random) -> Agents {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|agent| {
            let (job, stop, random) = (job.clone(), Arc::clone(&stop), random.fork("agent"));
            std::thread::spawn(move || spend(&job, agent, &stop, random))
        });
        Agents { threads: threads.collect(), stop }
    }

    /// Lets each finish its call.
    pub(crate) fn stop(mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn spend(job: &Job, agent: usize, stop: &AtomicBool, mut random: Random) {
    let mut connection = None;
    while !stop.load(Ordering::SeqCst) {
        let Some(client) = &mut connection else {
            connection = Client::open(job.proxy, SILENCE_MAX).ok();
            if connection.is_none() {
                job.log.unconnected.fetch_add(1, Ordering::SeqCst);
                pass(RECONNECT);
            }
            continue;
        };
        let key = {
            let live = job.live.read().unwrap();
            live.get(random.index(live.len().max(1))).filter(|key| !key.is_spent()).map(Arc::clone)
        };
        let Some(key) = key else {
            pass(RECONNECT);
            continue;
        };
        let amount = key.fresh_amount(&mut random, job.max_cents);
        let path = OPERATIONS[random.index(OPERATIONS.len())];
        let reply = job.log.call(client, &Call { key: &key, agent, path, amount }, job.outcome);
        // Nobody repeats at once what the proxy or the vendor cannot do.
        match reply.as_ref().map(|reply| reply.status) {
            Some(503) => pass(5 * BACK_OFF),
            None | Some(500..) => pass(BACK_OFF),
            Some(_) => {}
        }
        if reply.is_none_or(|reply| reply.closes()) {
            connection = None;
        }
    }
}

/// One charge of exactly `cents`, which the vendor is asked to carry out; its status, if there was an answer.
pub(crate) fn charge(proxy: SocketAddr, log: &AgentLog, key: &AgentKey, cents: u64) -> Option<u16> {
    charge_as(proxy, log, key, cents, FINE)
}

/// As [`charge`], with an outcome of one's choice.
pub(crate) fn charge_as(
    proxy: SocketAddr,
    log: &AgentLog,
    key: &AgentKey,
    cents: u64,
    outcome: &str,
) -> Option<u16> {
    key.amounts.lock().unwrap().insert(cents);
    let mut client = Client::open(proxy, SILENCE_MAX).ok()?;
    let call = Call { key, agent: OPERATOR, path: "/v1/charges", amount: cents };
    log.call(&mut client, &call, Some(outcome)).map(|reply| reply.status)
}
