//! Agents that use up what they can: slow heads, slow bodies, readers that do not read, idle connections, wrong keys.
//! Honest agents go on beside them, and all of them must be served. The table says how long their calls take and how
//! much memory the dataplane holds before, during and after each.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::random::Random;
use super::report::Report;
use super::scene::directory;
use super::{NotRun, Plan};
use crate::http::{Client, connect_from, form_post, request};
use crate::keybrake::{Issued, Keybrake, Setup};
use crate::process::{may_open, resident_bytes};
use crate::vendor::{Vendor, paid};
use crate::wait::{eventually, pass};

/// Descriptors that this process needs beside the attackers' connections.
const OTHER_DESCRIPTORS: u64 = 1000;

/// Honest agents, and what lies between two calls of one.
const AGENTS: usize = 8;
const BETWEEN_CALLS: Duration = Duration::from_millis(10);

/// Between two trickles of a slow attacker.
const TRICKLE: Duration = Duration::from_millis(500);

/// Attackers come from so many addresses.
const ADDRESSES: usize = 16;

const SILENCE_MAX: Duration = Duration::from_secs(20);

/// A reply for readers that do not read, in bytes.
const LONG_REPLY: usize = 16 << 20;

/// What the dataplane may hold afterwards beyond what it held before, in bytes: what the allocator keeps, and rows on
/// their way to the store.
const MEMORY_KEPT_MAX: u64 = 192 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Attack {
    SlowHead,
    SlowBody,
    SlowReader,
    Idle,
    WrongKeys,
}

impl Attack {
    const ALL: [Attack; 5] =
        [Attack::SlowHead, Attack::SlowBody, Attack::SlowReader, Attack::Idle, Attack::WrongKeys];

    fn name(self) -> &'static str {
        match self {
            Attack::SlowHead => "slow head",
            Attack::SlowBody => "slow body",
            Attack::SlowReader => "slow reader",
            Attack::Idle => "idle",
            Attack::WrongKeys => "wrong keys",
        }
    }

    /// Its connections, in full and in a short round.
    fn connections(self, is_full: bool) -> usize {
        match (self, is_full) {
            (Attack::Idle, true) => 10_000,
            (Attack::SlowHead | Attack::SlowBody, true) => 2000,
            (Attack::SlowReader, true) => 500,
            (Attack::WrongKeys, _) => 8,
            (Attack::Idle, false) => 300,
            (Attack::SlowHead | Attack::SlowBody, false) => 100,
            (Attack::SlowReader, false) => 20,
        }
    }

    /// What is sent at the begin of a connection, and then again and again.
    fn bytes(self, key: &Issued) -> (Vec<u8>, &'static [u8]) {
        match self {
            Attack::SlowHead => (b"GET /livez HTTP/1.1\r\nHost: a\r\n".into(), b"X-Slow: 1\r\n"),
            Attack::SlowBody => {
                let whole = form_post("/stripe/v1/customers", &key.text, &"a".repeat(900_000));
                (whole[..whole.len() - 850_000].into(), b"aaaaaaaa")
            }
            Attack::SlowReader => {
                let head = format!("GET /stripe/v1/customers\nAuthorization: Bearer {}", key.text);
                (request(&head, b""), b"")
            }
            Attack::Idle => (Vec::new(), b""),
            Attack::WrongKeys => {
                (request("GET /stripe/v1/balance\nAuthorization: Bearer vk_wrong", b""), b"")
            }
        }
    }
}

/// What was seen in one stretch of time.
struct Stretch {
    p50_us: u64,
    p99_us: u64,
    resident: u64,
}

pub(super) fn play(plan: &Plan, _: Random, report: &mut Report) -> Result<(), NotRun> {
    let most = Attack::ALL.into_iter().map(|attack| attack.connections(plan.is_full)).max().unwrap_or(0);
    let needed = most as u64 + OTHER_DESCRIPTORS;
    if may_open() < needed {
        return Err(NotRun(format!("a process may open {} files here, and this needs {needed}", may_open())));
    }
    let dir = directory("exhaust");
    let vendor = vendor();
    let setup = Setup::new(vendor.url())
        .workers(2)
        .inside(&dir)
        .config_line("[limits]")
        .config_line("trusted_addresses = []");
    let setup = if plan.is_full { setup.release_if_built() } else { setup };
    let build = setup.build();
    let mut keybrake = setup.start();
    let key = keybrake.issue(&["GET /v1/**", "POST /v1/**"], &json!({}));
    let mut table = vec![format!(
        "{:<12} {:>6}  {:>26}  {:>26}  {:>8} {:>8}",
        "attack", "conns", "honest p50/p99 ms, b d a", "resident MiB, b d a", "attempts", "refused"
    )];
    for attack in Attack::ALL.into_iter().take(plan.cycles) {
        table.push(one(attack, plan, &mut keybrake, &key, report));
        report.cycles += 1;
    }
    if plan.is_full {
        report.note(format!(
            "exhaust: a {build} build; b d a: before, during, after\n  {}",
            table.join("\n  ")
        ));
    }
    drop((keybrake, vendor));
    report.end_scene(&dir);
    Ok(())
}

/// Lets honest agents call before, during and after an attack; the line of the table.
fn one(attack: Attack, plan: &Plan, keybrake: &mut Keybrake, key: &Issued, report: &mut Report) -> String {
    let time = Duration::from_millis(if plan.is_full { 12_000 } else { 300 });
    let pid = keybrake.dataplane().pid();
    let refused_before = refused(keybrake);
    let before = stretch(keybrake.proxy(), key, pid, time, report);
    let stop = Arc::new(AtomicBool::new(false));
    let attempts = Arc::new(AtomicU64::new(0));
    let attackers = begin(attack, plan, keybrake.proxy(), key, (&stop, &attempts));
    let wanted = attack.connections(plan.is_full);
    eventually("the attack to be in full", || {
        (attempts.load(Ordering::Relaxed) >= wanted as u64).then_some(())
    });
    let during = stretch(keybrake.proxy(), key, pid, time, report);
    let held = keybrake.control().counter("keybrake_agent_connections");
    if attack == Attack::Idle && held < wanted as u64 {
        report.violation(format!("{held} connections are open, {wanted} idle ones came"));
    }
    stop.store(true, Ordering::Relaxed);
    attackers.into_iter().for_each(|attacker| attacker.join().unwrap());
    let left = || {
        let control = keybrake.control();
        (control.counter("keybrake_agent_connections"), control.counter("keybrake_body_memory_bytes"))
    };
    eventually("connections and memory to return", || (left() == (0, 0)).then_some(()));
    let after = stretch(keybrake.proxy(), key, pid, time, report);
    if after.resident > before.resident + MEMORY_KEPT_MAX {
        report.violation(format!("{}: {} bytes afterwards", attack.name(), after.resident));
    }
    let attempts = attempts.load(Ordering::Relaxed);
    let refused = refused(keybrake) - refused_before;
    report.refused += refused;
    let times =
        [&before, &during, &after].map(|of| format!("{}/{}", ms(of.p50_us), ms(of.p99_us))).join("  ");
    let memory = [&before, &during, &after].map(|of| format!("{}", of.resident >> 20)).join("  ");
    format!("{:<12} {wanted:>6}  {times:>26}  {memory:>26}  {attempts:>8} {refused:>8}", attack.name())
}

/// Honest calls for some time; each must be served.
fn stretch(proxy: SocketAddr, key: &Issued, pid: u32, time: Duration, report: &mut Report) -> Stretch {
    let call = form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd&source=tok_visa");
    let call = Arc::new(call);
    let until = Instant::now() + time;
    let agents: Vec<_> = (0..AGENTS)
        .map(|_| {
            let call = Arc::clone(&call);
            std::thread::spawn(move || agent(proxy, &call, until))
        })
        .collect();
    let mut latencies = Vec::new();
    for agent in agents {
        match agent.join().unwrap() {
            Ok(of_agent) => latencies.extend(of_agent),
            Err(problem) => report.violation(format!("an honest agent was not served: {problem}")),
        }
    }
    latencies.sort_unstable();
    report.calls += latencies.len() as u64;
    report.accepted += latencies.len() as u64;
    let permille = |permille: usize| {
        latencies.get((latencies.len() * permille / 1000).min(latencies.len().saturating_sub(1))).copied()
    };
    Stretch {
        p50_us: permille(500).unwrap_or(0),
        p99_us: permille(990).unwrap_or(0),
        resident: resident_bytes(pid),
    }
}

fn agent(proxy: SocketAddr, call: &[u8], until: Instant) -> Result<Vec<u64>, String> {
    let mut client = Client::open(proxy, SILENCE_MAX).map_err(|error| error.to_string())?;
    let mut latencies = Vec::new();
    while latencies.is_empty() || Instant::now() < until {
        let start = Instant::now();
        let reply = client.exchange(call).map_err(|error| error.to_string())?;
        if reply.status != 200 {
            return Err(format!("{}: {}", reply.status, reply.text()));
        }
        latencies.push(u64::try_from(start.elapsed().as_micros()).unwrap());
        pass(BETWEEN_CALLS);
    }
    Ok(latencies)
}

/// Starts the attackers, from addresses of their own.
fn begin(
    attack: Attack,
    plan: &Plan,
    proxy: SocketAddr,
    key: &Issued,
    (stop, attempts): (&Arc<AtomicBool>, &Arc<AtomicU64>),
) -> Vec<JoinHandle<()>> {
    let connections = attack.connections(plan.is_full);
    let threads = ADDRESSES.min(connections);
    (0..threads)
        .map(|thread| {
            let source = Ipv4Addr::new(127, 0, 1, u8::try_from(thread + 1).unwrap());
            let share = connections / threads + usize::from(thread < connections % threads);
            let (stop, attempts) = (Arc::clone(stop), Arc::clone(attempts));
            let (first, then) = attack.bytes(key);
            std::thread::spawn(move || match attack {
                Attack::WrongKeys => flood((source, proxy), &first, &stop, &attempts),
                _ => crowd((source, proxy), share, (&first, then), &stop, &attempts),
            })
        })
        .collect()
}

/// Holds connections, trickles on each, and replaces those that were cut.
fn crowd(
    (source, proxy): (Ipv4Addr, SocketAddr),
    share: usize,
    (first, then): (&[u8], &[u8]),
    stop: &AtomicBool,
    attempts: &AtomicU64,
) {
    let mut held: Vec<TcpStream> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        held.retain_mut(|stream| then.is_empty() || stream.write_all(then).is_ok());
        while held.len() < share && !stop.load(Ordering::Relaxed) {
            let Ok(mut stream) = connect_from(source, proxy) else { break };
            attempts.fetch_add(1, Ordering::Relaxed);
            stream.set_write_timeout(Some(SILENCE_MAX)).unwrap();
            if stream.write_all(first).is_ok() {
                held.push(stream);
            }
        }
        pass(TRICKLE);
    }
}

/// Sends one request after the other, as fast as it is answered.
fn flood((source, proxy): (Ipv4Addr, SocketAddr), wrong: &[u8], stop: &AtomicBool, attempts: &AtomicU64) {
    let mut stream = None;
    while !stop.load(Ordering::Relaxed) {
        attempts.fetch_add(1, Ordering::Relaxed);
        let Some(open) = stream.take().or_else(|| connect_from(source, proxy).ok()) else { continue };
        let mut open: TcpStream = open;
        open.set_read_timeout(Some(SILENCE_MAX)).unwrap();
        let mut answer = [0; 4096];
        let read = open.write_all(wrong).and_then(|()| open.read(&mut answer)).unwrap_or(0);
        let ends = answer[..read].windows(17).any(|bytes| bytes.eq_ignore_ascii_case(b"connection: close"));
        if read > 0 && !ends {
            stream = Some(open);
        }
    }
}

/// What the limits refused or cut, all together.
fn refused(keybrake: &Keybrake) -> u64 {
    keybrake.control().counter("keybrake_limit_refusals_total")
}

/// A vendor that is paid, and says much where it is asked.
fn vendor() -> Vendor {
    Vendor::start(|seen, out| match seen.line.as_str() {
        "GET /v1/customers" => {
            write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {LONG_REPLY}\r\n\r\n")?;
            let piece = vec![b'a'; 64 << 10];
            (0..LONG_REPLY / piece.len()).try_for_each(|_| out.write_all(&piece))
        }
        "POST /v1/charges" => paid(seen, out),
        _ => out.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
    })
}

/// Milliseconds with one digit behind the point.
fn ms(us: u64) -> String {
    format!("{}.{}", us / 1000, us % 1000 / 100)
}
