//! `kill -9` of everything right behind an acknowledgement: what was acknowledged is there after the restart.
//!
//! Half of the rounds issue a key, half revoke one; half go through the admin API, half through the control socket.
//! A cap cannot be changed after the issue, so there is no acknowledgement of that to kill at.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use keybrake_proto::control::{KeyStatus, Reply, Request};

use super::agents::{AgentKey, charge};
use super::random::Random;
use super::report::Report;
use super::scene::{KEYS, Scene};
use super::{NotRun, Plan};
use crate::control::key_id;
use crate::wait::now_micros;

/// Rounds on one scene.
const ROUNDS_PER_SCENE: usize = 50;

/// Agents that keep the disk and the workers busy meanwhile.
const AGENTS: usize = 8;

const CAP_CENTS: u64 = 10_000;

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    let rounds: Vec<usize> = (0..plan.cycles).collect();
    for rounds in rounds.chunks(ROUNDS_PER_SCENE) {
        play_scene(rounds, &mut random, report);
    }
    Ok(())
}

fn play_scene(rounds: &[usize], random: &mut Random, report: &mut Report) {
    let mut scene = Scene::usual("ack", random, |_| Vec::new());
    scene.keybrake.start_admin();
    let shift = scene.operator().work(KEYS, random.fork("operator"));
    let agents = scene.agents_with(AGENTS, None, random);
    for round in rounds {
        let is_by_admin = round % 4 < 2;
        if round % 2 == 0 {
            scene.issue_and_kill(is_by_admin, report);
        } else {
            scene.revoke_and_kill(is_by_admin, report);
        }
        report.cycles += 1;
    }
    agents.stop();
    shift.end();
    scene.judge(report);
}

impl Scene {
    fn issue_and_kill(&mut self, is_by_admin: bool, report: &mut Report) {
        let key = self.issue_one(is_by_admin);
        self.kill_everything();
        let id = &key.issued.id;
        match self.status_of(&key) {
            Some(KeyStatus::Active) => {}
            other => report.violation(format!("{id} was issued, and after the kill it is {other:?}")),
        }
        let status = charge(self.keybrake.proxy(), &self.log, &key, 100);
        if status != Some(200) {
            report.violation(format!("{id} was issued, and after the kill a call under it gets {status:?}"));
        }
    }

    fn revoke_and_kill(&mut self, is_by_admin: bool, report: &mut Report) {
        let key = self.issue_one(is_by_admin);
        self.revoke_one(&key, is_by_admin);
        self.kill_everything();
        let id = &key.issued.id;
        match self.status_of(&key) {
            Some(KeyStatus::Revoked) => {}
            other => report.violation(format!("{id} was revoked, and after the kill it is {other:?}")),
        }
        let status = charge(self.keybrake.proxy(), &self.log, &key, 100);
        if status != Some(401) {
            report.violation(format!("{id} was revoked, and after the kill a call under it gets {status:?}"));
        }
    }

    fn issue_one(&self, is_by_admin: bool) -> Arc<AgentKey> {
        let operator = self.operator();
        let key =
            if is_by_admin { operator.issue(CAP_CENTS) } else { operator.issue_without_admin(CAP_CENTS) };
        key.expect("nothing is broken at the moment of the issue")
    }

    /// Revokes a key, which must be acknowledged as done.
    fn revoke_one(&self, key: &AgentKey, is_by_admin: bool) {
        let id = &key.issued.id;
        if is_by_admin {
            let reply = self.keybrake.operate(&format!("POST /vault/keys/{id}/revoke"), None);
            assert_eq!(reply.status, 200, "{}", reply.text());
        } else {
            let revoked = self.keybrake.control().revoke(id);
            assert!(revoked.acknowledged && revoked.durable, "{revoked:?}");
        }
        key.revoked_us.store(now_micros(), Ordering::SeqCst);
    }

    fn kill_everything(&mut self) {
        let at = now_micros();
        self.keybrake.dataplane().kill_9();
        self.keybrake.admin().kill_9();
        self.keybrake.start_dataplane();
        self.keybrake.start_admin();
        self.note_kill(at, "both", "kill -9 at an acknowledgement");
    }

    /// How the dataplane shows a key; `None` if it knows none of this id.
    pub(super) fn status_of(&self, key: &AgentKey) -> Option<KeyStatus> {
        match self.keybrake.control().ask(&Request::ShowKey(key_id(&key.issued.id))) {
            Reply::Key(view) => Some(view.status),
            _ => None,
        }
    }
}
