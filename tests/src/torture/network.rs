//! Cuts between keybrake and the vendor, which lives in a network namespace of its own behind a pair of virtual
//! network devices: links that go down, resets, and half-open connections.
//!
//! Everything is inside namespaces of this thread: nothing of it is seen outside, and the kernel removes it when the
//! last process in it ends.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::mounts::{leave, run};
use super::random::Random;
use super::report::Report;
use super::scene::{KEYS, OUTCOMES, Scene, directory, vendor_arguments};
use super::{NotRun, Plan};
use crate::process::{binary, tie};
use crate::stand_in::StandIn;
use crate::wait::{eventually, pass};

/// Cuts on one scene.
const CUTS_PER_SCENE: usize = 25;

/// The vendor's namespace, devices and addresses. Plain HTTP goes to loopback addresses only, so the cable has
/// addresses of that range, and the range itself is taken off the loopback device.
const SPACE: &str = "vendor";
const NEAR: (&str, &str) = ("cable0", "127.9.0.1/30");
const FAR: (&str, &str) = ("cable1", "127.9.0.2/30");
const VENDOR: &str = "127.9.0.2";
const LISTEN: &str = "127.9.0.2:8420";

/// How the connection is lost.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Our end of the cable goes down: the kernel says that there is no route.
    NearDown,
    /// The vendor's end goes down: silence.
    FarDown,
    /// Our kernel ends every connection.
    NearReset,
    /// The vendor's kernel does.
    FarReset,
    /// While the cable is down the vendor dies and comes back: connections that one side only knows.
    HalfOpen,
}

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    leave(libc::CLONE_NEWNET)?;
    lay_cable()?;
    let kinds = [Cut::NearDown, Cut::FarDown, Cut::NearReset, Cut::FarReset, Cut::HalfOpen];
    let mut cuts: Vec<Cut> = (0..plan.cycles).map(|cut| kinds[cut % kinds.len()]).collect();
    random.shuffle(&mut cuts);
    let mut recoveries = Vec::new();
    for cuts in cuts.chunks(CUTS_PER_SCENE) {
        play_scene(cuts, &mut random, &mut recoveries, report);
    }
    recoveries.sort_unstable();
    let last = recoveries.last().copied().unwrap_or_default();
    let late = recoveries.iter().filter(|time| **time >= Duration::from_secs(2)).count();
    let half = recoveries.get(recoveries.len() / 2).copied().unwrap_or_default();
    report.note(format!(
        "net: from the repair to the first success: median {} ms, at most {} ms; {late} of {} took 2 s or more",
        half.as_millis(),
        last.as_millis(),
        recoveries.len()
    ));
    if plan.is_full && late > 0 {
        report.violation(format!("{late} recoveries took 2 s or more"));
    }
    Ok(())
}

/// A command in the vendor's namespace.
fn there(program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", SPACE, program]);
    command
}

fn lay_cable() -> Result<(), NotRun> {
    // `ip` keeps the names of namespaces in `/run/netns`.
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    run(Command::new("ip").args(["netns", "add", SPACE]))?;
    run(Command::new("ip").args(["link", "add", NEAR.0, "type", "veth", "peer", FAR.0, "netns", SPACE]))?;
    let here = || Command::new("ip");
    for (ip, (device, address)) in [(&here as &dyn Fn() -> Command, NEAR), (&|| there("ip"), FAR)] {
        run(ip().args(["link", "set", "lo", "up"]))?;
        run(ip().args("route del local 127.0.0.0/8 dev lo table local".split(' ')))?;
        run(ip().args("route add local 127.0.0.0/16 dev lo table local".split(' ')))?;
        run(ip().args(["address", "add", address, "dev", device]))?;
        run(ip().args(["link", "set", device, "up"]))?;
    }
    let allow = "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet";
    run(Command::new("sh").args(["-c", allow]))?;
    run(there("sh").args(["-c", allow]))
}

fn vendor(dir: &Path, random: &mut Random) -> StandIn {
    let mut command = there(&binary("keybrake-loadtest").display().to_string());
    command.args(["vendor", "stripe", "--listen", LISTEN]);
    tie(&mut command);
    StandIn::run(dir, command.args(vendor_arguments(dir, random, OUTCOMES)))
}

fn play_scene(cuts: &[Cut], random: &mut Random, recoveries: &mut Vec<Duration>, report: &mut Report) {
    let dir = directory("net");
    let vendor = vendor(&dir, random);
    let mut scene = Scene::start(dir, vendor, |setup| setup);
    let shift = scene.operator().work(KEYS, random.fork("operator"));
    let agents = scene.agents(random);
    for cut in cuts {
        pass(random.millis(50, 400));
        recoveries.push(scene.cut(*cut, random));
        report.cycles += 1;
    }
    agents.stop();
    shift.end();
    scene.judge(report);
}

impl Scene {
    /// Cuts, repairs, and waits for the first success; answers how long that took.
    fn cut(&mut self, cut: Cut, random: &mut Random) -> Duration {
        let at = self.log.now_us();
        let outage = random.millis(30, 700);
        let near = |state: &str| done(Command::new("ip").args(["link", "set", NEAR.0, state]));
        let far = |state: &str| done(there("ip").args(["link", "set", FAR.0, state]));
        match cut {
            Cut::NearDown => {
                near("down");
                pass(outage);
                near("up");
            }
            Cut::FarDown => {
                far("down");
                pass(outage);
                far("up");
            }
            Cut::NearReset => reset(&mut Command::new("ss"), "dst"),
            Cut::FarReset => reset(&mut there("ss"), "src"),
            Cut::HalfOpen => {
                far("down");
                self.vendor.kill_9();
                pass(outage);
                self.vendor = vendor(&self.dir, random);
                far("up");
            }
        }
        let repaired = Instant::now();
        let before = self.log.succeeded.load(Ordering::SeqCst);
        eventually("a call to go through since the cable is whole", || {
            (self.log.succeeded.load(Ordering::SeqCst) > before).then_some(())
        });
        let recovery = repaired.elapsed();
        self.note_kill(at, "network", &format!("{cut:?}"));
        recovery
    }
}

fn done(command: &mut Command) {
    run(command).unwrap_or_else(|error| panic!("{}", error.0));
}

/// Ends every connection to the vendor; there may be none at the moment.
fn reset(ss: &mut Command, side: &str) {
    done(ss.args(["-4", "-t", "-K", side, VENDOR]));
}
