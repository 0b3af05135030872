//! What the outside world knows: each call as its agent, its shard and the vendor saw it.

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::http1::Method;
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;

use super::process::{KEYS, levels, micros};

/// What became of a call's money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Refused before it had an intent; `is_written`: its intent may be in a file whose write failed.
    Refused { is_written: bool },
    /// Held.
    Open,
    /// It counts `charge` on these days of these keys.
    Booked { charge: u64, on: Vec<(usize, u32)> },
    /// Held, or booked at its quote on that day.
    InDoubt { booked: Option<u32> },
    /// A crash took it before it was sent.
    Gone,
}

/// What the vendor saw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) day: u32,
    pub(super) accepted: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) key: usize,
    pub(super) shard: usize,
    pub(super) quote: u64,
    /// The day of the reserve.
    pub(super) day: u32,
    pub(super) state: State,
    pub(super) arrival: Option<Arrival>,
    /// The sequence of its intent; of its only record for one that was refused.
    pub(super) intent: u64,
    /// The sequence of the record that ended it.
    pub(super) ended_at: Option<u64>,
    /// How its row says it ended.
    pub(super) outcome: Outcome,
    /// What an operator, or the hour, makes of its doubt, and on which day; not known to be on disk.
    pub(super) resolving: Option<(Verdict, u32)>,
    /// A start has found it like this on disk.
    pub(super) is_certain: bool,
    /// Rows that amend its own.
    pub(super) amendments: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Charge(u64),
    Expired,
}

impl Call {
    /// What it counts for `key` on `day`.
    fn counts(&self, key: usize, day: u32) -> u64 {
        if !levels(self.key).contains(&key) {
            return 0;
        }
        match &self.state {
            State::Refused { .. } | State::Gone => 0,
            State::Open | State::InDoubt { booked: None } => self.quote,
            State::InDoubt { booked: Some(booked) } => {
                if *booked == day {
                    self.quote
                } else {
                    0
                }
            }
            State::Booked { charge, on } => {
                if on.contains(&(key, day)) {
                    *charge
                } else {
                    0
                }
            }
        }
    }

    /// What it counts for the life of `key`.
    fn counts_ever(&self, key: usize) -> u64 {
        match &self.state {
            _ if !levels(self.key).contains(&key) => 0,
            State::Refused { .. } | State::Gone => 0,
            State::Open | State::InDoubt { .. } => self.quote,
            State::Booked { charge, .. } => *charge,
        }
    }

    /// What of it is held.
    fn holds(&self, key: usize) -> u64 {
        let is_held = matches!(self.state, State::Open | State::InDoubt { booked: None });
        if is_held && levels(self.key).contains(&key) { self.quote } else { 0 }
    }

    /// Its doubt has ended.
    pub(super) fn resolve(&mut self, verdict: Verdict, day: u32) {
        let State::InDoubt { booked } = self.state else { panic!("no doubt: {self:?}") };
        self.resolving = None;
        match verdict {
            Verdict::Expired => self.state = State::InDoubt { booked: Some(day) },
            Verdict::Charge(charge) => {
                let on = levels(self.key).iter().map(|key| (*key, booked.unwrap_or(day))).collect();
                self.state = State::Booked { charge, on };
                self.amendments += 1;
            }
        }
    }
}

/// All calls of a schedule.
#[derive(Default)]
pub(super) struct Model {
    pub(super) calls: Vec<Call>,
    /// A revoke of the key was answered.
    pub(super) revoked: [bool; KEYS],
    /// Power was cut under a journal that does not promise to survive that.
    pub(super) is_unreliable: bool,
    /// The rows that the last start found.
    pub(super) rows: Vec<Vec<u8>>,
}

impl Model {
    fn sum(&self, of: impl Fn(&Call) -> u64) -> u64 {
        self.calls.iter().map(of).sum()
    }

    pub(super) fn committed(&self, key: usize, day: u32) -> u64 {
        self.sum(|call| call.counts(key, day))
    }

    pub(super) fn committed_ever(&self, key: usize) -> u64 {
        self.sum(|call| call.counts_ever(key))
    }

    pub(super) fn held(&self, key: usize) -> u64 {
        self.sum(|call| call.holds(key))
    }

    /// What the vendor accepted from `key` and those below it, of the calls that `chosen` tells.
    pub(super) fn accepted(&self, key: usize, chosen: impl Fn(&Call, &Arrival) -> bool) -> u64 {
        let of = |call: &Call| match &call.arrival {
            Some(arrival) if levels(call.key).contains(&key) && chosen(call, arrival) => arrival.accepted,
            Some(_) | None => 0,
        };
        self.sum(of)
    }

    /// How many of its calls of `day` the vendor saw, of those that hold money.
    pub(super) fn sent(&self, key: usize, day: u32) -> u64 {
        self.sum(|call| {
            let is_one = levels(call.key).contains(&key)
                && call.day == day
                && call.arrival.is_some()
                && call.quote > 0;
            u64::from(is_one)
        })
    }
}

/// The row of the call with this number.
pub(super) fn row(id: &str, outcome: Outcome, amount: u64) -> AuditRow<'_> {
    AuditRow {
        ts: UnixMicros(1),
        id,
        vault_key_id: None,
        label: None,
        agent_run_label: None,
        vendor: "stripe",
        method: Method::Post,
        endpoint: "",
        path: "",
        status: 0,
        policy_check_result: "",
        outcome,
        amount: micros(amount),
        quote: Micros::ZERO,
        currency: None,
        amount_minor: None,
        vendor_request_id: None,
        idempotency_key: None,
        latency_us: 0,
        overhead_us: 0,
        client_addr: "",
        user_agent: None,
        metadata: Vec::new(),
        amends: None,
        account: None,
        parent_key_id: None,
    }
}

/// The number in a row's id.
pub(super) fn number(id: &str) -> Option<usize> {
    id.strip_prefix('c')?.parse().ok()
}
