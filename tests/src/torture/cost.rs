//! What the journal costs a request: CPU time of the dataplane, and time added, with money recorded not at all (a
//! benchmark's setting), without and with a wait for the disk. Nothing is broken here.
//!
//! The three run side by side, and are asked in turn for short slices, so that what else the machine does meets all
//! of them alike. What counts are their ratios.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use super::random::Random;
use super::report::Report;
use super::scene::directory;
use super::{NotRun, Plan};
use crate::http::{Client, form_post};
use crate::keybrake::{Issued, Keybrake, Setup};
use crate::stand_in::StandIn;
use crate::wait::pass;

const CONNECTIONS: [usize; 3] = [1, 32, 256];

/// Without a record of money the dataplane starts for benchmarks only.
const BENCH: &str = "KEYBRAKE_BENCH";

/// As an operator has it who sets nothing.
const DEFAULT_SEGMENT_BYTES: u64 = 8 * 1024 * 1024;

const SILENCE_MAX: Duration = Duration::from_secs(20);

/// One dataplane and what was measured of it with one number of connections.
struct Subject {
    money: &'static str,
    keybrake: Keybrake,
    key: Issued,
    measured: Vec<Measured>,
}

#[derive(Default)]
struct Measured {
    latencies_us: Vec<u64>,
    cpu_ns: u64,
}

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    let dir = directory("cost");
    let vendor = StandIn::start_with(&dir, &["--keep", "1000"]);
    let mut subjects = ["off", "process", "fsync"].map(|money| Subject::start(money, &dir, &vendor, plan));
    let (slices, slice) =
        if plan.is_full { (12, Duration::from_secs(1)) } else { (1, Duration::from_millis(200)) };
    for (at, connections) in CONNECTIONS.into_iter().enumerate() {
        for _ in 0..slices {
            let mut order = [0, 1, 2];
            random.shuffle(&mut order);
            for subject in order {
                subjects[subject].measure(at, connections, slice);
                report.cycles += 1;
            }
        }
    }
    report.calls = subjects.iter().flat_map(|subject| &subject.measured).map(Measured::calls).sum();
    report.accepted = vendor.requests();
    if report.calls != report.accepted {
        report.violation(format!("{} calls, {} at the vendor", report.calls, report.accepted));
    }
    if plan.is_full {
        report.note(table(&subjects));
    }
    drop((subjects, vendor));
    std::fs::remove_dir_all(dir).unwrap();
    Ok(())
}

impl Subject {
    fn start(money: &'static str, dir: &std::path::Path, vendor: &StandIn, plan: &Plan) -> Subject {
        let mut setup = Setup::new(vendor.url())
            .workers(2)
            .inside(dir)
            .segment_bytes(DEFAULT_SEGMENT_BYTES)
            .config_line("[durability]")
            .config_line(&format!("money = \"{money}\""));
        if money == "off" {
            setup = setup.dataplane_env(BENCH, "1");
        }
        let keybrake = if plan.is_full { setup.release() } else { setup }.start();
        let key = keybrake.issue(&["POST /v1/charges"], &json!({"daily_usd_cap": 1_000_000_000}));
        let measured = CONNECTIONS.map(|_| Measured::default()).into();
        Subject { money, keybrake, key, measured }
    }

    fn measure(&mut self, at: usize, connections: usize, time: Duration) {
        let pid = self.keybrake.dataplane().pid();
        let before = cpu_ns(pid);
        let call = form_post("/stripe/v1/charges", &self.key.text, "amount=1&currency=usd&source=tok_visa");
        let latencies = drive(self.keybrake.proxy(), &Arc::new(call), connections, time);
        self.keybrake.settle();
        let measured = &mut self.measured[at];
        measured.cpu_ns += cpu_ns(pid) - before;
        measured.latencies_us.extend(latencies);
    }
}

impl Measured {
    fn calls(&self) -> u64 {
        self.latencies_us.len() as u64
    }

    fn permille(&self, permille: usize) -> u64 {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * permille / 1000).min(sorted.len() - 1)]
    }

    /// CPU time for each call, in hundredths of a microsecond.
    fn cpu_hundredths(&self) -> u64 {
        self.cpu_ns / 10 / self.calls()
    }
}

/// Calls over so many connections, one behind the other on each; the time of each call, in microseconds.
fn drive(proxy: SocketAddr, call: &Arc<Vec<u8>>, connections: usize, time: Duration) -> Vec<u64> {
    let stop = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let (call, stop) = (Arc::clone(call), Arc::clone(&stop));
            std::thread::spawn(move || {
                let mut client = Client::open(proxy, SILENCE_MAX).unwrap();
                let mut latencies = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let start = Instant::now();
                    let reply = client.exchange(&call).unwrap();
                    // Where the disk does not keep up, that is said, and is no call that was carried out.
                    match reply.status {
                        200 => latencies.push(u64::try_from(start.elapsed().as_micros()).unwrap()),
                        status => assert_eq!(status, 503, "{}", reply.text()),
                    }
                }
                latencies
            })
        })
        .collect();
    pass(time);
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
}

/// CPU time of all threads of a process, storage included.
fn cpu_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let time = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0)
    };
    tasks.flatten().map(time).sum()
}

fn table(subjects: &[Subject; 3]) -> String {
    let mut text = "cost: of a call, by durability.money; in parentheses the ratio to off\n".to_owned();
    for (at, connections) in CONNECTIONS.into_iter().enumerate() {
        let off = &subjects[0].measured[at];
        for subject in subjects {
            let measured = &subject.measured[at];
            let pair = |value: u64, of_off: u64| format!("{value} ({})", ratio(value, of_off));
            let cpu = measured.cpu_hundredths();
            text.push_str(&format!(
                "  {connections:>3} connections  {:<8} cpu {}.{:02} us ({})  p50 {} us  p99 {} us  calls {}\n",
                subject.money,
                cpu / 100,
                cpu % 100,
                ratio(cpu, off.cpu_hundredths()),
                pair(measured.permille(500), off.permille(500)),
                pair(measured.permille(990), off.permille(990)),
                measured.calls()
            ));
        }
    }
    text
}

fn ratio(value: u64, of: u64) -> String {
    let percent = value * 100 / of.max(1);
    format!("{}.{:02}", percent / 100, percent % 100)
}
