//! The seeded simulation: ledger, journal and storage under schedules of faults that one number decides.
//!
//! What runs is the dataplane's own code, moved by hand in one thread: accounts, journals, the
//! committer, the storage thread's loop, recovery and the high-water mark. What stands in for the
//! world is here: a machine whose disk refuses, tears and forgets ([`machine`]), a store that loses
//! what was not synced ([`store`]), agents, a vendor that keeps its own ledger, an operator, clocks that
//! differ over midnight ([`world`]), and what must hold ([`check`]); [`damage`] is what no crash leaves.
//!
//! `KEYBRAKE_TEST_SEED` repeats one schedule with every step printed.

mod check;
mod damage;
mod machine;
mod model;
mod process;
mod random;
mod run;
mod store;
mod world;

use keybrake_proto::key::KeyDigest;
use keybrake_proto::policy::Policy;
use keybrake_proto::time::UnixMicros;

use self::process::key_id;
use self::run::{Family, drive};
use crate::registry::KeyRecord;

/// The record of a revoked key.
fn revoked(key: usize) -> KeyRecord {
    KeyRecord {
        id: key_id(key),
        digest: KeyDigest([0; 32]),
        policy: Policy {
            vendor: "stripe".to_owned(),
            account: "default".to_owned(),
            allowed_endpoints: Vec::new(),
            daily_usd_cap: None,
            total_usd_cap: None,
            daily_request_budget: None,
            expires_at: None,
            restrictions: Default::default(),
        },
        label: None,
        agent_run_label: None,
        metadata: Default::default(),
        created_at: UnixMicros(1),
        parent: None,
        version: 0,
        revoked_at: Some(UnixMicros(2)),
    }
}

#[test]
fn kills_leave_every_cap_and_every_row() {
    drive(Family::Kills, 27_000);
}

#[test]
fn disks_that_refuse_leave_every_cap_and_every_row() {
    drive(Family::Refusals, 27_000);
}

#[test]
fn power_cuts_leave_every_cap_and_every_row() {
    drive(Family::PowerCuts, 27_000);
}

#[test]
fn power_cuts_and_refusals_together_leave_every_cap_and_every_row() {
    drive(Family::All, 27_000);
}

#[test]
fn damaged_files_are_sealed_or_leave_no_less_committed() {
    drive(Family::Damage, 5_000);
}

#[test]
fn a_power_cut_under_a_journal_that_survives_the_process_only_seals_nothing_and_invents_nothing() {
    drive(Family::Unpromised, 8_000);
}
