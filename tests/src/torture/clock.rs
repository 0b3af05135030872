//! The wall clock is stepped while calls run, and midnight comes with two hundred of them in flight.
//!
//! The dataplane's wall clock is libfaketime's. The vendor lives at the same time of day, and its clock is never
//! stepped: by that clock no key may get more accepted in a day than its cap. What the dataplane has to do about a
//! step is in rules M9, M10 and Q10: inside a day money goes on, on the same day; over a midnight that nothing explains
//! money is refused with 503, until the clock is right again. Reads go on.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::agents::{AgentKey, FINE, charge};
use super::lanes::side_by_side;
use super::random::Random;
use super::report::Report;
use super::scene::{Scene, directory};
use super::{NotRun, Plan};
use crate::http::get;
use crate::process::{binary, tie};
use crate::stand_in::StandIn;
use crate::wait::{eventually, now_micros, pass};

const LANES: usize = 3;
const AGENTS: usize = 16;
const KEYS: usize = 4;
const CAP_CENTS: u64 = 200_000;
const DAY_S: i64 = 86_400;
const NOON_S: i64 = 43_200;

/// Calls that are at the vendor when the day ends.
const IN_FLIGHT: usize = 200;

/// How long before midnight a scenario begins: enough to start, to spend and to send what is in flight.
const BEFORE_MIDNIGHT_S: i64 = 6;

/// How long the vendor takes for those.
const SLOW: &str = "slow_5000";

const VENDOR_TIMEOUT_S: u32 = 15;

/// The times in rows are those of a clock that was stepped: what fits when, and on which day, cannot be told by them.
const UNJUDGED: &[&str] = &["full", "I12.books"];

/// What happens to the clock.
#[derive(Clone, Copy, Debug)]
enum Scenario {
    /// At noon, by so many seconds: no midnight is near.
    InsideTheDay(i64),
    /// At noon, over the end or the start of the day, and back again; perhaps with a kill in between.
    OverMidnight { step: i64, is_killed: bool },
    /// The day ends with calls in flight.
    Midnight,
    /// The same, after a step.
    MidnightAfter(i64),
}

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    let library = library()?;
    let scenarios: Vec<Scenario> = (0..plan.cycles).map(|number| scenario(number, &mut random)).collect();
    side_by_side(LANES, scenarios, &mut random, report, |scenario, mut random, report| {
        play_scenario(scenario, &library, &mut random, report);
        report.cycles += 1;
    });
    Ok(())
}

/// The seconds of a step: from one second to two days, in both directions.
fn scenario(number: usize, random: &mut Random) -> Scenario {
    let sign = if random.chance(50) { 1 } else { -1 };
    let any = |random: &mut Random, from: u64, to: u64| i64::try_from(random.between(from, to)).unwrap();
    match number % 10 {
        0 => Scenario::InsideTheDay(sign),
        1 => Scenario::InsideTheDay(2 * sign),
        2 => Scenario::InsideTheDay(sign * any(random, 3, 290)),
        3 => Scenario::InsideTheDay(sign * any(random, 310, 36_000)),
        4..=6 => Scenario::OverMidnight {
            step: sign * [DAY_S, 2 * DAY_S, any(random, 50_000, 170_000)][number % 3],
            is_killed: random.chance(40),
        },
        7 | 8 => Scenario::Midnight,
        _ => Scenario::MidnightAfter(sign * any(random, 1, 3_600)),
    }
}

fn library() -> Result<PathBuf, NotRun> {
    let name = "faketime/libfaketimeMT.so.1";
    let dirs = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    dirs.map(|dir| dir.join(name))
        .find(|path| path.exists())
        .ok_or_else(|| NotRun(format!("no {name}; scripts/setup.sh torture installs faketime")))
}

/// A wall clock that can be stepped under a running process.
struct Wall {
    file: PathBuf,
    library: PathBuf,
    /// Seconds that this scenario's true time is ahead of the machine's.
    base: i64,
}

impl Wall {
    fn new(file: PathBuf, library: &Path, base: i64) -> Wall {
        let wall = Wall { file, library: library.to_owned(), base };
        wall.step(0);
        wall
    }

    /// Sets it so many seconds off the scenario's true time.
    fn step(&self, seconds: i64) {
        let fresh = self.file.with_extension("fresh");
        std::fs::write(&fresh, format!("{:+}\n", self.base + seconds)).unwrap();
        std::fs::rename(fresh, &self.file).unwrap();
    }

    fn environment(&self) -> Vec<(String, OsString)> {
        vec![
            ("LD_PRELOAD".to_owned(), self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), self.file.clone().into()),
            ("FAKETIME_NO_CACHE".to_owned(), "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".into()),
        ]
    }
}

fn play_scenario(scenario: Scenario, library: &Path, random: &mut Random, report: &mut Report) {
    let time_of_day = match scenario {
        Scenario::InsideTheDay(_) | Scenario::OverMidnight { .. } => NOON_S,
        Scenario::Midnight | Scenario::MidnightAfter(_) => DAY_S - BEFORE_MIDNIGHT_S,
    };
    let (mut scene, wall) = open_scene(library, time_of_day);
    if !matches!(scenario, Scenario::Midnight) {
        scene.unjudged = UNJUDGED;
    }
    let violations = report.violations.len();
    match scenario {
        Scenario::InsideTheDay(step) => inside_the_day(scene, &wall, step, random, report),
        Scenario::OverMidnight { step, is_killed } => {
            over_midnight(scene, &wall, step, is_killed, random, report);
        }
        Scenario::Midnight => midnight(scene, None, random, report),
        Scenario::MidnightAfter(step) => midnight(scene, Some((&wall, step)), random, report),
    }
    if report.violations.len() > violations {
        report.violations.push(format!("the scenario was {scenario:?}"));
    }
}

fn open_scene(library: &Path, time_of_day: i64) -> (Scene, Wall) {
    let base = time_of_day - i64::try_from(now_micros() / 1_000_000).unwrap() % DAY_S;
    let dir = directory("clock");
    let true_time = Wall::new(dir.join("true.time"), library, base);
    let wall = Wall::new(dir.join("wall.time"), library, base);
    let mut command = Command::new(binary("keybrake-loadtest"));
    command.args(["vendor", "stripe", "--listen", "127.0.0.1:0", "--ledger"]).arg(dir.join("vendor.jsonl"));
    command.envs(true_time.environment());
    tie(&mut command);
    let vendor = StandIn::run(&dir, &mut command);
    let scene = Scene::patient(dir, vendor, VENDOR_TIMEOUT_S, |setup| {
        let setup = setup.vendor_line("idle_connections_max = 512");
        wall.environment().into_iter().fold(setup, |setup, (name, value)| setup.dataplane_env(&name, value))
    });
    scene.log.set_offset(base);
    let operator = scene.operator();
    let keys = (0..KEYS).map(|_| operator.issue_without_admin(CAP_CENTS).unwrap());
    *scene.live.write().unwrap() = keys.collect();
    (scene, wall)
}

/// Nothing is refused for the clock: a day is a day, whatever time it is.
fn inside_the_day(scene: Scene, wall: &Wall, step: i64, random: &mut Random, report: &mut Report) {
    let agents = scene.agents_with(AGENTS, Some(FINE), random);
    pass(random.millis(50, 200));
    wall.step(step);
    pass(random.millis(300, 600));
    agents.stop();
    let unavailable = scene.log.unavailable.load(Ordering::SeqCst);
    if unavailable > 0 {
        report.violation(format!("{unavailable} calls were refused after a step inside the day"));
    }
    spend_all(&scene, report);
    scene.judge(report);
}

fn over_midnight(
    mut scene: Scene,
    wall: &Wall,
    step: i64,
    is_killed: bool,
    random: &mut Random,
    report: &mut Report,
) {
    let agents = scene.agents_with(AGENTS, Some(FINE), random);
    pass(random.millis(50, 200));
    wall.step(step);
    pass(random.millis(300, 600));
    agents.stop();
    let key = Arc::clone(&scene.live.read().unwrap()[0]);
    if is_killed {
        let at = scene.log.now_us();
        scene.keybrake.dataplane().kill_9();
        scene.keybrake.start_dataplane();
        scene.note_kill(at, "dataplane", "kill -9 with a stepped clock");
    }
    // A step back leaves the running dataplane on the day that it had; a start on either is suspended.
    if step > 0 || is_killed {
        eventually("money to be refused with 503", || {
            (charge(scene.keybrake.proxy(), &scene.log, &key, 1) == Some(503)).then_some(())
        });
        let read = get(scene.keybrake.proxy(), "/stripe/v1/balance", &key.issued.text).status;
        if read != 200 {
            report.violation(format!("a read gets {read} while the clock is not trusted"));
        }
    }
    wall.step(0);
    eventually("money to go on since the clock is right again", || {
        let status = charge(scene.keybrake.proxy(), &scene.log, &key, 1);
        matches!(status, Some(200 | 429)).then_some(())
    });
    spend_all(&scene, report);
    scene.judge(report);
}

/// What is held when the day ends counts on both days.
fn midnight(scene: Scene, step: Option<(&Wall, i64)>, random: &mut Random, report: &mut Report) {
    let flying: Vec<_> = (0..IN_FLIGHT).map(|number| fly(&scene, number)).collect();
    if let Some((wall, step)) = step {
        pass(random.millis(0, 1_000));
        wall.step(step);
    }
    for call in flying {
        call.join().unwrap();
    }
    // The calls took five seconds, so the day has ended or is about to.
    let midnight = i64::try_from(scene.log.now_us() / 1_000_000).unwrap().rem_euclid(DAY_S);
    if midnight > DAY_S / 2 {
        pass(Duration::from_secs(u64::try_from(DAY_S - midnight).unwrap()));
    }
    let agents = scene.agents_with(AGENTS, Some(FINE), random);
    pass(random.millis(300, 800));
    agents.stop();
    if step.is_none() {
        spend_all(&scene, report);
    }
    scene.judge(report);
}

fn fly(scene: &Scene, number: usize) -> std::thread::JoinHandle<()> {
    let (proxy, log) = (scene.keybrake.proxy(), Arc::clone(&scene.log));
    let key = Arc::clone(&scene.live.read().unwrap()[number % KEYS]);
    let cents = CAP_CENTS / IN_FLIGHT as u64 + number as u64;
    std::thread::spawn(move || {
        super::agents::charge_as(proxy, &log, &key, cents, SLOW);
    })
}

/// Each key's cap can be used to the last cent.
fn spend_all(scene: &Scene, report: &mut Report) {
    let live: Vec<Arc<AgentKey>> = scene.live.read().unwrap().clone();
    for key in live {
        scene.spend_to_the_last_cent(&key, report);
    }
}
