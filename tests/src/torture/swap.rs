//! A vendor that cuts, and that says more than it was asked for, under many agents whose bodies are all unlike: no agent is
//! given the reply to another's request, and no POST arrives twice (contract I7, rules H7 and H8).
//!
//! The vendor answers with the hash of each body, so that an agent knows its own reply. It is a part of this process: a
//! million calls through a ledger on disk would measure the disk.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use super::Plan;
use super::random::Random;
use super::report::Report;
use crate::http::{Client, form_post};
use crate::keybrake::Setup;
use crate::recorder::length_of;
use crate::vendor::whole;

/// Calls of one cycle.
const CALLS_PER_CYCLE: usize = 10_000;

/// Agents, each with a connection of its own.
const AGENTS: usize = 32;

/// Of a hundred calls the vendor cuts so many, and to so many it adds surplus bytes.
const CUTS_PERCENT: u64 = 10;
const SURPLUS_PERCENT: u64 = 5;

/// How long an agent waits: a call of which nothing comes is a fault of its own.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Violations that are told of one kind.
const TOLD_MAX: usize = 20;

/// What an operation of the table costs: one is read whole, the other one streamed.
const PATHS: [&str; 2] = ["/stripe/v1/charges", "/stripe/v1/customers"];

#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    refused: AtomicU64,
    cut: AtomicU64,
    surplus: AtomicU64,
    swapped: Mutex<Vec<String>>,
}

impl Counts {
    fn violation(&self, text: String) {
        self.swapped.lock().unwrap().push(text);
    }
}

/// What arrived, by the hash of the body.
#[derive(Default)]
struct Ledger {
    /// In several parts, so that threads seldom wait for one another.
    parts: [Mutex<HashMap<u64, u32>>; 16],
}

impl Ledger {
    fn enter(&self, hash: u64) {
        *self.part(hash).lock().unwrap().entry(hash).or_default() += 1;
    }

    fn count(&self, hash: u64) -> u32 {
        self.part(hash).lock().unwrap().get(&hash).copied().unwrap_or_default()
    }

    fn part(&self, hash: u64) -> &Mutex<HashMap<u64, u32>> {
        &self.parts[hash as usize % self.parts.len()]
    }

    fn duplicates(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap().values().filter(|count| **count > 1).count()).sum()
    }

    fn requests(&self) -> u64 {
        self.parts
            .iter()
            .map(|part| part.lock().unwrap().values().map(|count| u64::from(*count)).sum::<u64>())
            .sum()
    }
}

struct Flaky {
    ledger: Ledger,
    counts: Counts,
}

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) {
    let flaky = Arc::new(Flaky { ledger: Ledger::default(), counts: Counts::default() });
    let address = serve(&flaky, random.fork("vendor"));
    let keybrake = Setup::new(format!("http://{address}")).workers(2).start();
    let key = keybrake.issue(&["POST /v1/charges", "POST /v1/customers"], &json!({})).text;
    let calls = plan.cycles * CALLS_PER_CYCLE;
    let agents: Vec<_> = (0..AGENTS)
        .map(|agent| {
            let (flaky, key, proxy) = (Arc::clone(&flaky), key.clone(), keybrake.proxy());
            let mut random = random.fork("agent");
            let calls = calls / AGENTS + usize::from(agent < calls % AGENTS);
            std::thread::spawn(move || act(&flaky, (proxy, &key), agent, calls, &mut random))
        })
        .collect();
    for agent in agents {
        agent.join().unwrap();
    }
    let Flaky { ledger, counts } = &*flaky;
    report.cycles += plan.cycles as u64;
    report.calls += calls as u64;
    report.accepted += counts.answered.load(Ordering::Relaxed);
    report.refused += counts.refused.load(Ordering::Relaxed);
    let (duplicates, swapped) = (ledger.duplicates(), counts.swapped.lock().unwrap());
    report.note(format!(
        "swap: {calls} calls, {} requests at the vendor, {} cut, {} with surplus bytes; {} swapped or ambiguous answers, \
         {duplicates} duplicated POSTs",
        ledger.requests(),
        counts.cut.load(Ordering::Relaxed),
        counts.surplus.load(Ordering::Relaxed),
        swapped.len()
    ));
    swapped.iter().take(TOLD_MAX).for_each(|text| report.violation(text.clone()));
    if duplicates > 0 {
        report.violation(format!("{duplicates} bodies arrived more than once"));
    }
    let least = |percent: u64| calls as u64 * percent / 200;
    if counts.cut.load(Ordering::Relaxed) < least(CUTS_PERCENT)
        || counts.surplus.load(Ordering::Relaxed) < least(SURPLUS_PERCENT)
    {
        report.violation("the vendor was not flaky enough to show anything".to_owned());
    }
}

fn hash_of(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}

/// The body of the reply to a body.
fn answer_to(hash: u64) -> String {
    format!(r#"{{"id":"ch_{hash:016x}","object":"charge","status":"succeeded","amount":1,"currency":"usd"}}"#)
}

/// One agent: every body is unlike all others.
fn act(flaky: &Flaky, (proxy, key): (SocketAddr, &str), agent: usize, calls: usize, random: &mut Random) {
    let counts = &flaky.counts;
    let nonce = random.below(u64::MAX);
    let mut client: Option<Client> = None;
    for call in 0..calls {
        let form = format!("amount=1&currency=usd&description=call-{agent}-{call}-{nonce:016x}");
        let (hash, path) = (hash_of(form.as_bytes()), PATHS[random.index(PATHS.len())]);
        let connected = match client.take() {
            Some(client) => client,
            None => Client::open(proxy, SILENCE_MAX).unwrap(),
        };
        let mut connected = connected;
        match connected.exchange(&form_post(path, key, &form)) {
            Ok(reply) if reply.status == 200 => {
                counts.answered.fetch_add(1, Ordering::Relaxed);
                if reply.body != answer_to(hash).as_bytes() {
                    counts.violation(format!("call {agent}-{call} was answered with {}", reply.text()));
                }
                if flaky.ledger.count(hash) == 0 {
                    counts.violation(format!("call {agent}-{call} was answered and never arrived"));
                }
                client = (!reply.closes()).then_some(connected);
            }
            // The vendor cut, or spoke garbage.
            Ok(reply) if reply.status == 502 => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                client = (!reply.closes()).then_some(connected);
            }
            Ok(reply) => counts.violation(format!("call {agent}-{call}: {} {}", reply.status, reply.text())),
            // A reply whose head was passed on already.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => counts.violation(format!("call {agent}-{call}: {error}")),
        }
    }
}

fn serve(flaky: &Arc<Flaky>, mut random: Random) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let flaky = Arc::clone(flaky);
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let (flaky, mut random) = (Arc::clone(&flaky), random.fork("connection"));
            std::thread::spawn(move || drop(talk(&flaky, stream, &mut random)));
        }
    });
    address
}

fn talk(flaky: &Flaky, mut stream: TcpStream, random: &mut Random) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut input, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
    let mut was_ended = false;
    loop {
        while let Some(length) = length_of(&input) {
            let body = input.windows(4).position(|four| four == b"\r\n\r\n").map_or(length, |end| end + 4);
            let hash = hash_of(&input[body..length]);
            input.drain(..length);
            flaky.ledger.enter(hash);
            if was_ended {
                flaky.counts.violation("a connection with surplus bytes was used again".to_owned());
            }
            was_ended = say(flaky, &mut stream, hash, random)?;
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        input.extend_from_slice(&buffer[..read]);
    }
}

/// Answers a request; whether its connection must not be used again. An error ends the connection.
fn say(flaky: &Flaky, stream: &mut TcpStream, hash: u64, random: &mut Random) -> std::io::Result<bool> {
    let reply = whole(200, &answer_to(hash));
    let drawn = random.below(100);
    if drawn < CUTS_PERCENT {
        flaky.counts.cut.fetch_add(1, Ordering::Relaxed);
        let sent = random.index(reply.len());
        stream.write_all(&reply[..sent])?;
        stream.shutdown(Shutdown::Both)?;
        return Err(std::io::ErrorKind::ConnectionAborted.into());
    }
    if drawn >= CUTS_PERCENT + SURPLUS_PERCENT {
        stream.write_all(&reply)?;
        return Ok(false);
    }
    flaky.counts.surplus.fetch_add(1, Ordering::Relaxed);
    // The reply to nobody's request, which would look right to whoever comes next.
    let of_another = whole(200, &answer_to(hash ^ 1));
    match random.below(4) {
        0 => stream.write_all(&[reply.as_slice(), &of_another].concat())?,
        1 => stream.write_all(&[reply.as_slice(), b"\r\n"].concat())?,
        2 => stream.write_all(&[reply.as_slice(), b"x"].concat())?,
        // By itself it may come when the next request is on its way: then it must not be taken for its reply.
        _ => {
            stream.write_all(&reply)?;
            stream.write_all(b"HTTP/1.1 garbage\r\n\r\n")?;
            return Ok(false);
        }
    }
    Ok(true)
}
