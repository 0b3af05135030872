//! `kill -9` under load: the dataplane in half of the cycles, the admin process in three tenths, both in two tenths.
//!
//! Half of the kills of a dataplane come at a random moment of the first 800 ms of a burst. The others are aimed:
//! the vendor itself kills the process that called it, before or after it carried the call out, or when it has
//! answered, and waits for the death before it goes on. So each gap between two steps of a call is met.

use std::path::Path;
use std::time::{Duration, Instant};

use super::random::Random;
use super::report::Report;
use super::scene::{KEYS, Scene};
use super::{NotRun, Plan};
use crate::wait::{eventually, now_micros, pass};

/// Cycles on one scene.
const CYCLES_PER_SCENE: usize = 25;

/// How long the vendor may take to aim: it kills at one in so many POSTs.
const AIM_LIMIT: Duration = Duration::from_secs(3);
const AIM_PROBABILITY: &str = "0.03";

/// What is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Dataplane,
    Admin,
    Both,
}

impl Victim {
    fn name(self) -> &'static str {
        match self {
            Victim::Dataplane => "dataplane",
            Victim::Admin => "admin",
            Victim::Both => "both",
        }
    }
}

/// Five of ten, three of ten, two of ten, shuffled.
fn victims(cycles: usize, random: &mut Random) -> Vec<Victim> {
    let victim = |cycle: usize| match cycle % 10 {
        0 | 2 | 4 | 6 | 8 => Victim::Dataplane,
        1 | 5 | 9 => Victim::Admin,
        _ => Victim::Both,
    };
    let mut victims: Vec<Victim> = (0..cycles).map(victim).collect();
    random.shuffle(&mut victims);
    victims
}

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    for victims in victims(plan.cycles, &mut random).chunks(CYCLES_PER_SCENE) {
        play_scene(victims, &mut random, report);
    }
    undisturbed(&mut random, report);
    Ok(())
}

fn play_scene(victims: &[Victim], random: &mut Random, report: &mut Report) {
    let mut scene = Scene::with_kill_hook(random);
    scene.keybrake.start_admin();
    let shift = scene.operator().work(KEYS, random.fork("operator"));
    let agents = scene.agents(random);
    for victim in victims {
        if *victim != Victim::Admin && random.chance(50) {
            scene.kill_by_vendor(*victim);
        } else {
            pass(random.millis(0, 800));
            let at = now_micros();
            scene.kill(*victim);
            scene.back(*victim, at, "kill -9");
        }
        report.cycles += 1;
    }
    agents.stop();
    shift.end();
    scene.judge(report);
}

impl Scene {
    fn with_kill_hook(random: &mut Random) -> Scene {
        Scene::usual("kill", random, |dir: &Path| {
            let path = |name: &str| dir.join(name).display().to_string();
            [
                ("--kill-pid-file", path("pid")),
                ("--kill-log", path("vendor-kills.jsonl")),
                ("--kill-probability", AIM_PROBABILITY.to_owned()),
                ("--kill-at", "before_accept,after_accept,after_reply".to_owned()),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value])
            .collect()
        })
    }

    /// Hands the dataplane's process id to the vendor and waits until that has used it.
    fn kill_by_vendor(&mut self, victim: Victim) {
        let at = now_micros();
        self.aim(&self.keybrake.dataplane.as_ref().unwrap().pid().to_string());
        let limit = Instant::now() + AIM_LIMIT;
        let is_hit = eventually("the vendor to kill the dataplane", || {
            let is_dead = self.keybrake.dataplane().is_dead();
            (is_dead || Instant::now() > limit).then_some(is_dead)
        });
        // Before the process is reaped: afterwards the number may be another's.
        self.aim("");
        self.kill(victim);
        let how = if is_hit { "the vendor's kill -9" } else { "kill -9, the vendor did not" };
        self.back(victim, at, how);
    }

    /// Writes the vendor's pid file in one step.
    fn aim(&self, pid: &str) {
        let fresh = self.dir.join("pid.fresh");
        std::fs::write(&fresh, pid).unwrap();
        std::fs::rename(fresh, self.dir.join("pid")).unwrap();
    }

    fn kill(&mut self, victim: Victim) {
        if victim != Victim::Admin {
            self.keybrake.dataplane().kill_9();
        }
        if victim != Victim::Dataplane {
            self.keybrake.admin().kill_9();
        }
    }

    /// Starts what was killed.
    fn back(&mut self, victim: Victim, at_us: u64, how: &str) {
        if victim != Victim::Admin {
            self.keybrake.start_dataplane();
        }
        if victim != Victim::Dataplane {
            self.keybrake.start_admin();
        }
        self.note_kill(at_us, victim.name(), how);
    }
}

/// Where nothing is killed, a cap is as good as its number: of each key, at least 99 % of the cap are committed
/// before it refuses one cent.
fn undisturbed(random: &mut Random, report: &mut Report) {
    let mut scene = Scene::usual("kill", random, |_| Vec::new());
    scene.keybrake.start_admin();
    let operator = scene.operator();
    let keys: Vec<_> = (0..4).map(|_| operator.nearly_spent(random).unwrap()).collect();
    scene.live.write().unwrap().clone_from(&keys);
    let agents = scene.agents(random);
    eventually("the keys to be spent", || keys.iter().all(|key| key.is_spent()).then_some(()));
    agents.stop();
    for key in &keys {
        scene.spend_to_the_last_cent(key, report);
    }
    report.cycles += 1;
    scene.judge(report);
}
