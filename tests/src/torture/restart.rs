//! Rolling restarts under load: the dataplane is replaced by one that takes over, again and again.
//!
//! On most scenes nothing goes wrong: then no connection is refused, every call is answered, and no outcome is
//! unknown but by the vendor's doing. On the others the old or the new process is killed while the old one still
//! runs calls. Behind each restart a key is revoked, so that a byte which the old process sent late would be seen.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::random::Random;
use super::report::Report;
use super::scene::{KEYS, Scene, directory, usual_vendor};
use super::{NotRun, Plan};
use crate::process::Process;
use crate::wait::{eventually, now_micros, pass};

/// Restarts on one scene.
const CYCLES_PER_SCENE: usize = 10;

/// Of all restarts, so many in which nothing is killed; in the others one process is.
const PLAIN: usize = 40;
const KILLED: usize = 10;

/// All agents come at once when admission goes on, so a vendor that syncs each call may take its time.
const VENDOR_TIMEOUT_S: u32 = 3;

/// The moments of a pause that are noted for the judge, in microseconds, and how much earlier they begin: the end of
/// the pause is seen a little late.
const PAUSE_STEP_US: usize = 1_000;
const PAUSE_SLACK_US: u64 = 10_000;

/// Who is killed while both run.
#[derive(Clone, Copy)]
enum Victim {
    Nobody,
    Old,
    New,
}

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    let mut pauses = Vec::new();
    let mut left = plan.share(PLAIN);
    while left > 0 {
        let cycles = left.min(CYCLES_PER_SCENE);
        play_scene(plan, &vec![Victim::Nobody; cycles], &mut random, &mut pauses, report);
        left -= cycles;
    }
    let killed: Vec<Victim> =
        (0..plan.share(KILLED)).map(|cycle| if cycle % 2 == 0 { Victim::Old } else { Victim::New }).collect();
    play_scene(plan, &killed, &mut random, &mut pauses, report);
    pauses.sort_unstable();
    let build = if plan.is_full { "release" } else { "debug" };
    if let (Some(median), Some(most)) = (pauses.get(pauses.len() / 2), pauses.last()) {
        report.note(format!(
            "restart: admission paused for {median} us in the median and {most} us at most, over {} restarts, {build} \
             build",
            pauses.len()
        ));
    }
    Ok(())
}

fn play_scene(
    plan: &Plan,
    victims: &[Victim],
    random: &mut Random,
    pauses: &mut Vec<u64>,
    report: &mut Report,
) {
    let dir = directory("restart");
    let vendor = usual_vendor(&dir, random, &[]);
    let money = if random.chance(50) { "fsync" } else { "process" };
    let mut scene = Scene::patient(dir, vendor, VENDOR_TIMEOUT_S, |setup| {
        let setup = setup.durability(money);
        if plan.is_full { setup.release() } else { setup }
    });
    let shift = scene.operator().work(KEYS, random.fork("operator"));
    let agents = scene.agents(random);
    for victim in victims {
        pass(random.millis(100, 600));
        let old = scene.replace(*victim, random, pauses);
        let at = random.index(KEYS);
        let key = Arc::clone(&scene.live.read().unwrap()[at]);
        eventually("a revoke to be acknowledged", || {
            let revoked = scene.keybrake.control().revoke(&key.issued.id);
            let read_us = now_micros();
            (revoked.acknowledged && revoked.durable).then(|| key.revoked_us.store(read_us, Ordering::SeqCst))
        });
        // Its agents are refused from now on, so the operator replaces it.
        scene.end(old, *victim, report);
        report.cycles += 1;
    }
    agents.stop();
    shift.end();
    if victims.iter().all(|victim| matches!(victim, Victim::Nobody)) {
        let refused = scene.log.unconnected.load(Ordering::SeqCst);
        let unanswered = scene.log.unanswered.load(Ordering::SeqCst);
        if refused + unanswered > 0 {
            report.violation(format!("{refused} connections were refused, {unanswered} calls had no answer"));
        }
    }
    scene.judge(report);
}

impl Scene {
    /// Replaces the dataplane, whatever happens to one of the two; gives the old one, which may run calls.
    fn replace(&mut self, victim: Victim, random: &mut Random, pauses: &mut Vec<u64>) -> Process {
        let (mut old, paused_us) = self.keybrake.take_over();
        pauses.push(paused_us);
        let admits_at = now_micros();
        let (at, what) = match victim {
            Victim::Nobody => return old,
            Victim::Old => {
                let at = now_micros();
                old.kill_9();
                (at, "the old one")
            }
            Victim::New => {
                pass(random.millis(0, 20));
                let at = now_micros();
                self.keybrake.dataplane().kill_9();
                self.keybrake.start_dataplane();
                (at, "the new one")
            }
        };
        // What the old one still ran is in doubt now, or was told in time.
        eventually("all to be told or in doubt", || {
            let control = self.keybrake.control();
            (control.answers() && control.counter("keybrake_inherited_calls") == 0).then_some(())
        });
        self.note_kill(at, "dataplane", what);
        // A call that ended in the old one while none admitted may have been told to a process that was killed before
        // it recorded that. The judge asks for a moment within the call.
        for at in (admits_at - paused_us - PAUSE_SLACK_US..admits_at).step_by(PAUSE_STEP_US) {
            self.note_kill(at, "dataplane", "what the old one says may be lost");
        }
        old
    }

    /// Waits for the end of the old process, and until the new one knows all.
    fn end(&mut self, mut old: Process, victim: Victim, report: &mut Report) {
        let ended = eventually("the old dataplane to end", || old.ended());
        let is_told = !matches!(victim, Victim::New);
        if matches!(victim, Victim::Nobody) && ended.code() != Some(0) {
            report.violation(format!("the old dataplane ended with {ended}: {}", old.stderr()));
        }
        if is_told {
            eventually("all outcomes to be known", || {
                (self.keybrake.control().counter("keybrake_inherited_calls") == 0).then_some(())
            });
        }
    }
}
