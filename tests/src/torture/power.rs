//! Power cuts, with `durability.money = "fsync"`.
//!
//! The data directory is on a disk that is an image file. Under load everything that writes to it is stopped where
//! it stands, the image is copied, and the processes are killed. The copy has what was brought to the disk, and
//! nothing of what was only written: it is mounted in the image's place, and keybrake starts on it. The vendor's
//! ledger is elsewhere, since a vendor does not lose power with us.

use std::sync::atomic::Ordering;

use super::mounts::{Disk, leave};
use super::random::Random;
use super::report::Report;
use super::scene::{KEYS, Scene, directory, usual_vendor};
use super::{NotRun, Plan};
use crate::wait::pass;

/// Cuts on one scene.
const CUTS_PER_SCENE: usize = 10;

const IMAGE_BYTES: u64 = 128 * 1024 * 1024;

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    leave(0)?;
    let mut left = plan.cycles;
    while left > 0 {
        let cuts = left.min(CUTS_PER_SCENE);
        play_scene(cuts, &mut random, report)?;
        left -= cuts;
    }
    Ok(())
}

fn play_scene(cuts: usize, random: &mut Random, report: &mut Report) -> Result<(), NotRun> {
    let dir = directory("power");
    let disk = Disk::create(&dir, IMAGE_BYTES)?;
    let vendor = usual_vendor(&dir, random, &[]);
    let data = disk.at().join("data");
    let mut scene = Scene::start(dir, vendor, |setup| {
        setup.data_at(data).config_line("[durability]").config_line("money = \"fsync\"")
    });
    scene.disk = Some(disk);
    let shift = scene.operator().work(KEYS, random.fork("operator"));
    let agents = scene.agents(random);
    for _ in 0..cuts {
        pass(random.millis(20, 600));
        scene.cut_power(random);
        report.cycles += 1;
    }
    agents.stop();
    shift.end();
    scene.judge(report);
    Ok(())
}

impl Scene {
    fn cut_power(&mut self, random: &mut Random) {
        // What is acknowledged right before the cut has to be there afterwards.
        let key = random.chance(50).then(|| self.operator().issue_without_admin(10_000)).flatten();
        if let Some(key) = key.filter(|_| random.chance(50)) {
            let revoked = self.keybrake.control().revoke(&key.issued.id);
            if revoked.acknowledged && revoked.durable {
                key.revoked_us.store(self.log.now_us(), Ordering::SeqCst);
            }
        }
        self.keybrake.dataplane().freeze();
        let at = self.log.now_us();
        let disk = self.disk.as_ref().unwrap();
        let copy = disk.copy();
        self.keybrake.dataplane().kill_9();
        self.disk.as_mut().unwrap().replace(copy);
        self.keybrake.start_dataplane();
        self.note_kill(at, "power", "copy of the disk");
    }
}
