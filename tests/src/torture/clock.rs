//! The wall clock is stepped while calls run, and midnight comes with two hundred of them in flight.
//!
//! The dataplane's wall clock is libfaketime's. The vendor lives at the same time of day, and its clock is never
//! stepped: by that clock no key may get more accepted in a day than its cap. What the dataplane has to do about a
//! step is in rules M9, M10 and Q10: inside a day money goes on, on the same day; over a midnight that nothing explains
//! money is refused with 503, until the clock is right again. Reads go on.

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
use crate::fake_time::{FakeTime, installed};
use crate::http::get;
use crate::process::{binary, tie};
use crate::stand_in::StandIn;
use crate::wait::{eventually, pass};

const LANES: usize = 3;
const AGENTS: usize = 16;
const KEYS: usize = 4;
const CAP_CENTS: u64 = 200_000;
const DAY_S: u64 = 86_400;
const NOON_S: u64 = 43_200;

/// Calls that are at the vendor when the day ends.
const IN_FLIGHT: usize = 200;

/// How long before midnight a scenario begins: enough to start, to spend and to send what is in flight.
const BEFORE_MIDNIGHT_S: u64 = 6;

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
    if installed().is_none() {
        return Err(NotRun("libfaketime is missing; scripts/setup.sh torture installs it".to_owned()));
    }
    let scenarios: Vec<Scenario> = (0..plan.cycles).map(|number| scenario(number, &mut random)).collect();
    side_by_side(LANES, scenarios, &mut random, report, |scenario, mut random, report| {
        play_scenario(scenario, &mut random, report);
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
            step: sign * any(random, 50_000, 2 * DAY_S),
            is_killed: random.chance(40),
        },
        7 | 8 => Scenario::Midnight,
        _ => Scenario::MidnightAfter(sign * any(random, 1, 3_600)),
    }
}

fn play_scenario(scenario: Scenario, random: &mut Random, report: &mut Report) {
    let time_of_day = match scenario {
        Scenario::InsideTheDay(_) | Scenario::OverMidnight { .. } => NOON_S,
        Scenario::Midnight | Scenario::MidnightAfter(_) => DAY_S - BEFORE_MIDNIGHT_S,
    };
    let (mut scene, mut wall) = open_scene(time_of_day);
    if !matches!(scenario, Scenario::Midnight) {
        scene.unjudged = UNJUDGED;
    }
    let violations = report.violations.len();
    match scenario {
        Scenario::InsideTheDay(step) => inside_the_day(scene, &mut wall, step, random, report),
        Scenario::OverMidnight { step, is_killed } => {
            over_midnight(scene, &mut wall, step, is_killed, random, report);
        }
        Scenario::Midnight => midnight(scene, None, random, report),
        Scenario::MidnightAfter(step) => midnight(scene, Some((&mut wall, step)), random, report),
    }
    if report.violations.len() > violations {
        report.violations.push(format!("the scenario was {scenario:?}"));
    }
}

/// A scene in which it is `second` of some day, for the vendor and at first for the dataplane too.
fn open_scene(second: u64) -> (Scene, FakeTime) {
    let dir = directory("clock");
    let clock = |name: &str| {
        let place = dir.join(name);
        std::fs::create_dir(&place).unwrap();
        FakeTime::at_second_of_day(&place, second)
    };
    let (true_time, wall) = (clock("true"), clock("wall"));
    let mut command = Command::new(binary("keybrake-loadtest"));
    command.args(["vendor", "stripe", "--listen", "127.0.0.1:0", "--ledger"]).arg(dir.join("vendor.jsonl"));
    true_time.apply(&mut command);
    tie(&mut command);
    let vendor = StandIn::run(&dir, &mut command);
    let scene = Scene::patient(dir, vendor, VENDOR_TIMEOUT_S, |setup| {
        let setup = setup.vendor_line("idle_connections_max = 512");
        wall.environment().into_iter().fold(setup, |setup, (name, value)| setup.dataplane_env(name, value))
    });
    scene.log.set_offset(true_time.offset_micros());
    let operator = scene.operator();
    let keys = (0..KEYS).map(|_| operator.issue_without_admin(CAP_CENTS).unwrap());
    *scene.live.write().unwrap() = keys.collect();
    (scene, wall)
}

/// Nothing is refused for the clock: a day is a day, whatever time it is.
fn inside_the_day(scene: Scene, wall: &mut FakeTime, step: i64, random: &mut Random, report: &mut Report) {
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
    wall: &mut FakeTime,
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
    wall.step(-step);
    eventually("money to go on since the clock is right again", || {
        let status = charge(scene.keybrake.proxy(), &scene.log, &key, 1);
        matches!(status, Some(200 | 429)).then_some(())
    });
    spend_all(&scene, report);
    scene.judge(report);
}

/// What is held when the day ends counts on both days.
fn midnight(scene: Scene, step: Option<(&mut FakeTime, i64)>, random: &mut Random, report: &mut Report) {
    let flying: Vec<_> = (0..IN_FLIGHT).map(|number| fly(&scene, number)).collect();
    let is_stepped = step.is_some();
    if let Some((wall, step)) = step {
        pass(random.millis(0, 1_000));
        wall.step(step);
    }
    for call in flying {
        call.join().unwrap();
    }
    // The calls took five seconds, so the day has ended or is about to.
    let second = scene.log.now_us() / 1_000_000 % DAY_S;
    if second > DAY_S / 2 {
        pass(Duration::from_secs(DAY_S - second));
    }
    let agents = scene.agents_with(AGENTS, Some(FINE), random);
    pass(random.millis(300, 800));
    agents.stop();
    if !is_stepped {
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
