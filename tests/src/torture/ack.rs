//! `kill -9` of everything right behind an acknowledgement: what was acknowledged is there after the restart.
//!
//! A third of the rounds issues a key, a third revokes one and a third changes a cap, up or down; half go through the
//! admin API, half through the control socket.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use keybrake_proto::control::{KeyStatus, KeyView, Reply, Request};
use keybrake_proto::money::Micros;
use keybrake_proto::policy::KeyChange;
use serde_json::json;

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
        let is_by_admin = round % 6 < 3;
        match round % 3 {
            0 => scene.issue_and_kill(is_by_admin, report),
            1 => scene.revoke_and_kill(is_by_admin, report),
            // Down, so that what fitted is refused; or up, so that what was refused fits.
            _ if round % 12 < 6 => scene.change_and_kill(is_by_admin, (100, (150, 429)), report),
            _ => scene.change_and_kill(is_by_admin, (2 * CAP_CENTS, (CAP_CENTS + 100, 200)), report),
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

    /// Changes a key's cap; a call of so many cents gets that status then.
    fn change_and_kill(
        &mut self,
        is_by_admin: bool,
        (cap_cents, call): (u64, (u64, u16)),
        report: &mut Report,
    ) {
        let key = self.issue_one(is_by_admin);
        self.change_one(&key, cap_cents, is_by_admin);
        self.kill_everything();
        let id = &key.issued.id;
        let cap = Micros::new(cap_cents * 10_000);
        let found = self.view_of(&key).and_then(|view| view.daily_usd_cap);
        if found != cap {
            report.violation(format!(
                "the cap of {id} was changed to {cap:?}, and after the kill it is {found:?}"
            ));
        }
        let (amount_cents, expected) = call;
        let status = charge(self.keybrake.proxy(), &self.log, &key, amount_cents);
        if status != Some(expected) {
            report.violation(format!(
                "the cap of {id} was changed to {cap:?}, and after the kill a call of {amount_cents} cents gets {status:?}"
            ));
        }
    }

    /// Changes a key's cap, which must be acknowledged as done.
    fn change_one(&self, key: &AgentKey, cap_cents: u64, is_by_admin: bool) {
        let id = &key.issued.id;
        if is_by_admin {
            let change = json!({"daily_usd_cap": cap_cents / 100});
            let reply =
                self.keybrake.operate(&format!("PATCH /vault/keys/{id}\nIf-Match: \"0\""), Some(&change));
            assert_eq!(reply.status, 200, "{}", reply.text());
        } else {
            let cap = Some(Micros::new(cap_cents * 10_000));
            let change = Box::new(KeyChange { daily_usd_cap: cap, ..KeyChange::default() });
            let request = Request::ChangeKey { id: key_id(id), version: Some(0), change };
            match self.keybrake.control().ask(&request) {
                Reply::Changed { late_workers, .. } if late_workers.is_empty() => {}
                other => panic!("{other:?}"),
            }
        }
        key.set_cap_cents(cap_cents);
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
        self.view_of(key).map(|view| view.status)
    }

    fn view_of(&self, key: &AgentKey) -> Option<KeyView> {
        match self.keybrake.control().ask(&Request::ShowKey(key_id(&key.issued.id))) {
            Reply::Key(view) => Some(*view),
            _ => None,
        }
    }
}
