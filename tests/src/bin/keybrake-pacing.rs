//! Prints what a steady key's calls take before and during another key's burst, at a vendor with a quota.
//!
//! Nothing is decided by it: that the steady key gets no 429 is a test (`tests/tests/pacing.rs`), how long it waits is a
//! figure of the machine. `cargo run -p keybrake-tests --bin keybrake-pacing [quota_rps] [calls]`
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use keybrake_tests::{Client, Issued, Keybrake, Setup, Vendor, form_post, paid};
use serde_json::json;

/// Connections of the bursting key.
const BURSTING: u32 = 300;

/// The bursting key sends so many times as often as the steady one may.
const TIMES: u32 = 100;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>().expect("quota_rps and calls"));
    let (quota, calls) = (numbers.next().unwrap_or(100), numbers.next().unwrap_or(300));
    let vendor = Vendor::start(paid);
    let line = format!("quota_rps = {quota}");
    let keybrake = Arc::new(Setup::new(vendor.url()).workers(2).vendor_line(&line).start());
    let issue = || keybrake.issue(&["POST /v1/charges"], &json!({}));
    let (steady, bursting) = (issue(), issue());
    // A tenth of the quota is what the steady key needs.
    let pause = Duration::from_secs(1) * 10 / quota;
    let before = measure(&keybrake, &steady, calls, pause);
    let is_over = Arc::new(AtomicBool::new(false));
    let (sent, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let began = Instant::now();
    let burst: Vec<_> = (0..BURSTING)
        .map(|_| {
            let (keybrake, key, is_over) = (Arc::clone(&keybrake), bursting.clone(), Arc::clone(&is_over));
            let (sent, refused) = (Arc::clone(&sent), Arc::clone(&refused));
            // As many wait for a turn as a second's quota has; the others make up the rest.
            let between = pause / TIMES * BURSTING.saturating_sub(quota);
            std::thread::spawn(move || {
                let mut client = Client::connect(keybrake.proxy());
                while !is_over.load(Ordering::Relaxed) {
                    client.send(form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd"));
                    sent.fetch_add(1, Ordering::Relaxed);
                    if client.reply().status == 429 {
                        refused.fetch_add(1, Ordering::Relaxed);
                        wait(between);
                    }
                }
            })
        })
        .collect();
    let during = measure(&keybrake, &steady, calls, pause);
    is_over.store(true, Ordering::Relaxed);
    for agent in burst {
        agent.join().unwrap();
    }
    let seconds = began.elapsed().as_secs_f64();
    println!("quota_rps {quota}, steady key one call each {} ms", pause.as_millis());
    println!("before  {before}");
    println!("during  {during}");
    println!(
        "burst   {:.0} calls a second on {BURSTING} connections, {} of {} answered 429 vendor_quota",
        sent.load(Ordering::Relaxed) as f64 / seconds,
        refused.load(Ordering::Relaxed),
        sent.load(Ordering::Relaxed)
    );
    println!("bound   two turns: {:.1} ms and what the machine adds", 2000.0 / f64::from(quota));
}

/// What a key's calls took.
struct Figures {
    micros: Vec<u128>,
    refused: usize,
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = |percent: usize| self.micros[(self.micros.len() - 1) * percent / 100] as f64 / 1000.0;
        let (p50, p99, max) = (at(50), at(99), at(100));
        let calls = self.micros.len();
        write!(f, "calls {calls}  429 {}  p50 {p50:.1} ms  p99 {p99:.1} ms  max {max:.1} ms", self.refused)
    }
}

fn measure(keybrake: &Keybrake, key: &Issued, calls: u32, pause: Duration) -> Figures {
    let mut client = Client::connect(keybrake.proxy());
    let (mut micros, mut refused) = (Vec::new(), 0);
    for _ in 0..calls {
        let began = Instant::now();
        client.send(form_post("/stripe/v1/charges", &key.text, "amount=1&currency=usd"));
        refused += usize::from(client.reply().status == 429);
        micros.push(began.elapsed().as_micros());
        wait(pause.saturating_sub(began.elapsed()));
    }
    micros.sort_unstable();
    Figures { micros, refused }
}

/// A pause that is part of what is measured: nothing is waited for.
fn wait(pause: Duration) {
    let (_never, event) = mpsc::channel::<()>();
    event.recv_timeout(pause).ok();
}
