//! Which call, which arrival at the vendor and which row of the audit belong together.
//!
//! First by ids that were printed on the way, then, for calls whose agent got no answer, by key, amount and time.

use std::collections::HashMap;

use super::Limits;
use super::evidence::{Arrival, Call, Evidence, Outage, Row};

/// How far the clocks' readings of one event may lie apart, in microseconds: who reads a clock may be interrupted.
pub(super) const JITTER_US: u64 = 250_000;

/// From when to when something was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start_us: u64,
    pub(super) end_us: u64,
}

impl Span {
    /// Whether a moment falls into it, as exactly as clocks are read.
    pub(super) fn has(self, us: u64) -> bool {
        self.start_us <= us.saturating_add(JITTER_US) && us <= self.end_us.saturating_add(JITTER_US)
    }

    /// Whether a kill or a cut falls into it.
    pub(super) fn is_hit_by(self, outage: &Outage) -> bool {
        if outage.is_network() {
            let back_us = outage.back_us.unwrap_or(outage.at_us);
            return self.start_us <= back_us.saturating_add(JITTER_US)
                && outage.at_us <= self.end_us.saturating_add(JITTER_US);
        }
        outage.is_death() && self.has(outage.at_us)
    }
}

/// Indexes into the evidence that belong together.
#[derive(Debug, Default)]
pub(super) struct Trace {
    /// For each arrival the agent's call.
    pub(super) call_of: Vec<Option<usize>>,
    /// For each arrival the row.
    pub(super) row_of: Vec<Option<usize>>,
    /// For each row the arrival.
    pub(super) arrival_of: Vec<Option<usize>>,
    /// For each row the agent's call.
    pub(super) call_of_row: Vec<Option<usize>>,
    by_id: HashMap<String, usize>,
}

impl Trace {
    /// Finds all of it.
    pub(super) fn of(evidence: &Evidence, limits: Limits) -> Trace {
        let mut trace = Trace {
            call_of: calls_of_arrivals(evidence, limits),
            row_of: vec![None; evidence.arrivals.len()],
            arrival_of: vec![None; evidence.rows.len()],
            call_of_row: vec![None; evidence.rows.len()],
            by_id: HashMap::new(),
        };
        for (at, row) in evidence.rows.iter().enumerate() {
            trace.by_id.entry(row.id.clone()).or_insert(at);
        }
        trace.claim_by_vendor_id(evidence);
        trace.claim_by_own_id(evidence);
        trace.claim_by_amount(evidence, limits);
        trace.claim_by_time(evidence, limits);
        trace.find_calls_of_rows(evidence, limits);
        trace
    }

    /// The row with this id.
    pub(super) fn row(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// The key that an arrival belongs to, as its agent says, else as its row says.
    pub(super) fn key_of<'a>(&self, evidence: &'a Evidence, arrival: usize) -> Option<&'a str> {
        let by_agent = self.call(evidence, arrival).map(|call| call.key.as_str());
        by_agent.or_else(|| self.row_for(evidence, arrival).map(Row::key).filter(|key| !key.is_empty()))
    }

    /// The call of an arrival.
    pub(super) fn call<'a>(&self, evidence: &'a Evidence, arrival: usize) -> Option<&'a Call> {
        evidence.calls.get((*self.call_of.get(arrival)?)?)
    }

    /// The row of an arrival.
    pub(super) fn row_for<'a>(&self, evidence: &'a Evidence, arrival: usize) -> Option<&'a Row> {
        evidence.rows.get((*self.row_of.get(arrival)?)?)
    }

    /// The arrival of a row.
    pub(super) fn arrival_for<'a>(&self, evidence: &'a Evidence, row: usize) -> Option<&'a Arrival> {
        evidence.arrivals.get((*self.arrival_of.get(row)?)?)
    }

    /// From when to when a row's call was under way, as far as that is known.
    pub(super) fn span(&self, evidence: &Evidence, at: usize, limits: Limits) -> Span {
        let row_us = evidence.rows.get(at).map_or(0, |row| row.ts);
        let call = self.call_of_row.get(at).copied().flatten().and_then(|call| evidence.calls.get(call));
        let start_us = call.map_or(row_us, |call| call.sent_us);
        let end_us = call.and_then(Call::end_us).unwrap_or_else(|| start_us.saturating_add(limits.window_us));
        Span { start_us, end_us }
    }

    fn claim(&mut self, arrival: usize, row: usize) {
        if let (Some(of), Some(by)) = (self.row_of.get_mut(arrival), self.arrival_of.get_mut(row))
            && of.is_none()
            && by.is_none()
        {
            *of = Some(row);
            *by = Some(arrival);
        }
    }

    fn is_claimed(&self, row: usize) -> bool {
        self.arrival_of.get(row).is_none_or(Option::is_some)
    }

    fn open_arrivals(&self) -> Vec<usize> {
        let open = |(at, row): (usize, &Option<usize>)| row.is_none().then_some(at);
        self.row_of.iter().enumerate().filter_map(open).collect()
    }

    /// The vendor's reply was read: its id stands in the row.
    fn claim_by_vendor_id(&mut self, evidence: &Evidence) {
        let rows = evidence.rows.iter().enumerate();
        let by_vendor: HashMap<&str, usize> =
            rows.filter_map(|(at, row)| Some((row.vendor_request_id.as_deref()?, at))).collect();
        for (at, arrival) in evidence.arrivals.iter().enumerate() {
            if let Some(row) = by_vendor.get(arrival.request_id.as_str()) {
                self.claim(at, *row);
            }
        }
    }

    /// The agent was answered: the row's id stands in its log.
    fn claim_by_own_id(&mut self, evidence: &Evidence) {
        for at in self.open_arrivals() {
            let id = self.call(evidence, at).and_then(|call| call.keybrake_request_id.as_deref());
            if let Some(row) = id.and_then(|id| self.row(id)) {
                self.claim(at, row);
            }
        }
    }

    /// Nobody was answered: of the rows of that key and amount, the one nearest in time.
    fn claim_by_amount(&mut self, evidence: &Evidence, limits: Limits) {
        let mut by_amount: HashMap<(&str, Option<u64>), Vec<usize>> = HashMap::new();
        for (at, row) in evidence.rows.iter().enumerate() {
            if !self.is_claimed(at) && row.outcome != "denied" {
                by_amount.entry((row.key(), row.amount_minor)).or_default().push(at);
            }
        }
        for at in self.open_arrivals() {
            let (Some(call), Some(arrival)) = (self.call(evidence, at), evidence.arrivals.get(at)) else {
                continue;
            };
            let rows = by_amount.get(&(call.key.as_str(), call.amount_minor));
            let until_us = call.end_us().unwrap_or_else(|| call.sent_us.saturating_add(limits.window_us));
            let span = Span { start_us: call.sent_us, end_us: until_us };
            let near = |row: &&usize| {
                let row_us = evidence.rows.get(**row).map_or(0, |row| row.ts);
                !self.is_claimed(**row) && span.has(row_us)
            };
            let distance =
                |row: &&usize| evidence.rows.get(**row).map(|row| row.ts.abs_diff(arrival.arrival_us));
            let nearest = rows.and_then(|rows| rows.iter().filter(near).min_by_key(distance)).copied();
            if let Some(row) = nearest {
                self.claim(at, row);
            }
        }
    }

    /// It does not say whose it is, as where only its start came: of the unknown rows, the one nearest in time.
    fn claim_by_time(&mut self, evidence: &Evidence, limits: Limits) {
        for at in self.open_arrivals() {
            let Some(arrival) = evidence.arrivals.get(at) else { continue };
            if self.call_of.get(at).is_some_and(Option::is_some) {
                continue;
            }
            let span = Span {
                start_us: arrival.arrival_us.saturating_sub(limits.slack_us),
                end_us: arrival.arrival_us,
            };
            let rows = evidence.rows.iter().enumerate();
            let open = rows
                .filter(|(row, of)| !self.is_claimed(*row) && of.outcome == "unknown" && span.has(of.ts))
                .min_by_key(|(_, of)| of.ts.abs_diff(arrival.arrival_us));
            if let Some((row, _)) = open {
                self.claim(at, row);
            }
        }
    }

    fn find_calls_of_rows(&mut self, evidence: &Evidence, limits: Limits) {
        let mut by_id: HashMap<&str, usize> = HashMap::new();
        let mut silent: HashMap<(&str, Option<u64>), Vec<usize>> = HashMap::new();
        for (at, call) in evidence.calls.iter().enumerate() {
            match call.keybrake_request_id.as_deref() {
                Some(id) => drop(by_id.insert(id, at)),
                None => silent.entry((call.key.as_str(), call.amount_minor)).or_default().push(at),
            }
        }
        for (at, row) in evidence.rows.iter().enumerate() {
            let of_arrival = || self.call_of.get((*self.arrival_of.get(at)?)?).copied().flatten();
            let near = |call: &&usize| {
                let Some(call) = evidence.calls.get(**call) else { return false };
                let end_us = call.end_us().unwrap_or_else(|| call.sent_us.saturating_add(limits.window_us));
                Span { start_us: call.sent_us, end_us }.has(row.ts)
            };
            let distance =
                |call: &&usize| evidence.calls.get(**call).map(|call| call.sent_us.abs_diff(row.ts));
            let of_amount = || {
                let calls = silent.get(&(row.key(), row.amount_minor))?;
                calls.iter().filter(near).min_by_key(distance).copied()
            };
            let found = by_id.get(row.id.as_str()).copied().or_else(of_arrival).or_else(of_amount);
            if let Some(call) = self.call_of_row.get_mut(at) {
                *call = found;
            }
        }
    }
}

/// For each arrival the call that its agent logged under its id; of several, the one that was under way.
fn calls_of_arrivals(evidence: &Evidence, limits: Limits) -> Vec<Option<usize>> {
    let mut logged: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, call) in evidence.calls.iter().enumerate() {
        logged.entry(call.call.as_str()).or_default().push(at);
    }
    let of = |(arrival, id): (&Arrival, &Option<String>)| {
        let calls = logged.get(id.as_deref()?)?;
        let under_way = calls.iter().find(|at| {
            let Some(call) = evidence.calls.get(**at) else { return false };
            let end_us = call.end_us().unwrap_or_else(|| call.sent_us.saturating_add(limits.window_us));
            Span { start_us: call.sent_us, end_us }.has(arrival.arrival_us)
        });
        under_way.or(calls.first()).copied()
    };
    evidence.arrivals.iter().zip(&evidence.arrival_calls).map(of).collect()
}
