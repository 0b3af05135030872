//! Revokes under load, and revokes of a dataplane that stands still.
//!
//! After an acknowledgement nothing of the key arrives at the vendor any more, by the kernel's own stamps: the judge
//! compares them with the moment at which the acknowledgement was read. A dataplane that is stopped acknowledges
//! nothing; the revoke takes effect when it goes on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use keybrake_proto::control::{Reply, Request, Revoke, Revoked, Selector};
use serde_json::Value;

use super::agents::AgentKey;
use super::random::Random;
use super::report::Report;
use super::scene::{KEYS, Scene, directory, usual_vendor};
use super::{NotRun, Plan};
use crate::control::{key_id, read_reply};
use crate::wait::{eventually, now_micros, pass};

/// Of all cycles, so many revokes under load and so many of a stopped dataplane.
const LOADED: usize = 2000;
const STOPPED: usize = 100;

/// Revokes on one scene.
const REVOKES_PER_SCENE: usize = 400;

/// High enough that no key is spent before it is revoked.
const CAP_CENTS: u64 = 50_000_000;

/// How long a stopped dataplane is given to acknowledge what it must not.
const PATIENCE: Duration = Duration::from_millis(40);

/// How long it then may take.
const LATE: Duration = Duration::from_secs(20);

/// The two times of each revoke, in microseconds.
#[derive(Default)]
struct Times {
    closed: Vec<u64>,
    acknowledged: Vec<u64>,
}

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    let (mut idle, mut loaded) = (Times::default(), Times::default());
    let mut left = plan.share(LOADED);
    while left > 0 {
        let revokes = left.min(REVOKES_PER_SCENE);
        let scene = open_scene(plan, &mut random);
        revoke_idle(&scene, revokes, &mut idle);
        revoke_loaded(scene, revokes, &mut random, &mut loaded, report);
        left -= revokes;
    }
    revoke_stopped(plan, &mut random, report);
    let build = if plan.is_full { "release" } else { "debug" };
    report.note(format!(
        "revoke: microseconds from the control frame on, {build} build\n{}{}{}",
        row("", ["p50", "p99", "p99.9", "most"].map(str::to_owned)),
        idle.rows("idle"),
        loaded.rows("loaded")
    ));
    Ok(())
}

fn open_scene(plan: &Plan, random: &mut Random) -> Scene {
    let dir = directory("revoke");
    let vendor = usual_vendor(&dir, random, &[]);
    Scene::start(dir, vendor, |setup| if plan.is_full { setup.release() } else { setup })
}

/// Revokes with nothing else to do.
fn revoke_idle(scene: &Scene, revokes: usize, times: &mut Times) {
    for _ in 0..revokes {
        let key = scene.operator().issue_without_admin(CAP_CENTS).unwrap();
        times.add(&revoke(scene, &key));
    }
}

/// Revokes keys under which agents spend at that moment.
fn revoke_loaded(scene: Scene, revokes: usize, random: &mut Random, times: &mut Times, report: &mut Report) {
    let issue = || scene.operator().issue_without_admin(CAP_CENTS).unwrap();
    *scene.live.write().unwrap() = (0..KEYS).map(|_| issue()).collect();
    let agents = scene.agents(random);
    for _ in 0..revokes {
        let at = random.index(KEYS);
        let key = Arc::clone(&scene.live.read().unwrap()[at]);
        times.add(&revoke(&scene, &key));
        scene.live.write().unwrap()[at] = issue();
        pass(random.millis(0, 4));
        report.cycles += 1;
    }
    agents.stop();
    scene.judge(report);
}

/// Revokes a key and notes the moment at which the acknowledgement was there. One that is late, for the disk or a
/// worker, is asked for again.
fn revoke(scene: &Scene, key: &AgentKey) -> Revoked {
    eventually("a revoke to be acknowledged", || {
        let revoked = scene.keybrake.control().revoke(&key.issued.id);
        let read_us = now_micros();
        (revoked.acknowledged && revoked.durable).then(|| {
            key.revoked_us.store(read_us, Ordering::SeqCst);
            revoked
        })
    })
}

fn revoke_stopped(plan: &Plan, random: &mut Random, report: &mut Report) {
    let mut scene = open_scene(plan, random);
    let operator = scene.operator();
    let issue = || operator.issue_without_admin(CAP_CENTS).unwrap();
    *scene.live.write().unwrap() = (0..KEYS).map(|_| issue()).collect();
    let agents = scene.agents(random);
    let mut rounds = Vec::new();
    for _ in 0..plan.share(STOPPED) {
        let at = random.index(KEYS);
        let key = Arc::clone(&scene.live.read().unwrap()[at]);
        pass(random.millis(5, 60));
        rounds.push(revoke_while_stopped(&mut scene, &key, report));
        scene.live.write().unwrap()[at] = issue();
        report.cycles += 1;
    }
    agents.stop();
    let passed = passed_between(&scene, &rounds);
    report.note(format!(
        "revoke: of {} stopped dataplanes none acknowledged; between SIGCONT and the acknowledgement {} calls of \
         the revoked keys arrived at the vendor, at most {} in one round",
        rounds.len(),
        passed.iter().sum::<usize>(),
        passed.iter().max().unwrap_or(&0)
    ));
    scene.judge(report);
}

/// A revoke that was asked for while nothing ran.
struct Round {
    key: String,
    thawed_us: u64,
    acknowledged_us: u64,
}

fn revoke_while_stopped(scene: &mut Scene, key: &AgentKey, report: &mut Report) -> Round {
    let id = &key.issued.id;
    scene.keybrake.dataplane().freeze();
    let order = Revoke { of: Selector::Ids(vec![key_id(id)]), cut: false };
    let mut question = scene.keybrake.control().send(&Request::Revoke(order));
    question.set_read_timeout(Some(PATIENCE)).unwrap();
    if let Ok(reply) = read_reply(&mut question) {
        report.violation(format!("{id}: a stopped dataplane answered {reply:?}"));
    }
    let thawed_us = now_micros();
    scene.keybrake.dataplane().go_on();
    question.set_read_timeout(Some(LATE)).unwrap();
    match read_reply(&mut question) {
        Ok(Reply::Revoked(revoked)) if revoked.acknowledged && revoked.durable => {
            key.revoked_us.store(now_micros(), Ordering::SeqCst);
        }
        // Late and said so: then it is asked again.
        Ok(Reply::Revoked(_)) => drop(revoke(scene, key)),
        other => report.violation(format!("{id}: a revoke of a stopped dataplane ended with {other:?}")),
    }
    let acknowledged_us = now_micros();
    Round { key: id.clone(), thawed_us, acknowledged_us }
}

/// For each round, the calls of its key that arrived after SIGCONT and before the acknowledgement: they were with
/// the dataplane when it was stopped.
fn passed_between(scene: &Scene, rounds: &[Round]) -> Vec<usize> {
    scene.log.flush();
    let read = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(scene.dir.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let key_of = |call: &Value| Some((call["call"].as_str()?.to_owned(), call["key"].as_str()?.to_owned()));
    let keys: std::collections::HashMap<String, String> =
        read("agents.jsonl").iter().filter_map(key_of).collect();
    let arrivals: Vec<(String, u64)> = read("vendor.jsonl")
        .iter()
        .filter_map(|line| {
            let call =
                line["body"].as_str()?.split('&').find_map(|pair| pair.strip_prefix("metadata[call]="))?;
            Some((keys.get(call)?.clone(), line["arrival_us"].as_u64()?))
        })
        .collect();
    let passed = |round: &Round| {
        let is_between = |at: u64| at > round.thawed_us && at <= round.acknowledged_us;
        arrivals.iter().filter(|(key, at)| *key == round.key && is_between(*at)).count()
    };
    rounds.iter().map(passed).collect()
}

impl Times {
    fn add(&mut self, revoked: &Revoked) {
        self.closed.push(revoked.closed_us);
        self.acknowledged.push(revoked.acknowledged_us);
    }

    fn rows(mut self, load: &str) -> String {
        let mut rows = String::new();
        for (name, times) in
            [("closed", &mut self.closed), ("acknowledged by all shards", &mut self.acknowledged)]
        {
            times.sort_unstable();
            let at =
                |permille: usize| times[(times.len() * permille / 1000).min(times.len() - 1)].to_string();
            rows.push_str(&row(&format!("{load}, {name}"), [at(500), at(990), at(999), at(1000)]));
        }
        rows
    }
}

fn row(name: &str, values: [String; 4]) -> String {
    let values = values.map(|value| format!("{value:>9}")).concat();
    format!("  {name:<36}{values}\n")
}
