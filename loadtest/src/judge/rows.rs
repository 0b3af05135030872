//! What must have a row and what must not, and what rows may say.

use std::collections::{BTreeMap, HashSet};

use super::Limits;
use super::evidence::{Call, Evidence, Row};
use super::report::{Rule, Violation};
use super::trace::{JITTER_US, Span, Trace};

/// A denial's row may be lost in a death of the dataplane that follows so soon, in microseconds.
const DENIAL_LOSS_US: u64 = 1_000_000;
/// What keybrake answers by itself where there is a row. A 503 says that there may be none.
const OWN_ANSWERS: [u16; 6] = [400, 401, 403, 429, 502, 504];

impl Violation {
    fn about_row(self, row: &Row) -> Violation {
        Violation { row: Some(row.id.clone()), ..self }.of_key(row.key())
    }

    fn about_call(self, call: &Call) -> Violation {
        let row = self.row.clone().or_else(|| call.keybrake_request_id.clone());
        Violation { call: Some(call.call.clone()), row, ..self }.of_key(&call.key)
    }

    /// Everything that is known of an arrival.
    pub(super) fn about_arrival(self, evidence: &Evidence, trace: &Trace, at: usize) -> Violation {
        let mut violation = self;
        if let Some(row) = trace.row_for(evidence, at) {
            violation = violation.about_row(row);
        }
        if let Some(call) = trace.call(evidence, at) {
            violation = violation.about_call(call);
        } else {
            violation.call = evidence.arrival_calls.get(at).cloned().flatten();
        }
        Violation { seq: evidence.arrivals.get(at).map(|arrival| arrival.seq), ..violation }
    }
}

/// Each request of which the vendor got a byte has a row, and so has each answer that names one.
pub(super) fn missing(evidence: &Evidence, trace: &Trace, found: &mut Vec<Violation>) {
    for at in 0..evidence.arrivals.len() {
        if trace.row_for(evidence, at).is_none() {
            let why = "the vendor got this request and no row tells of it".to_owned();
            found.push(Violation::new(Rule::Missing, why).about_arrival(evidence, trace, at));
        }
    }
    let with_arrival: HashSet<usize> = trace.call_of.iter().flatten().copied().collect();
    for (at, call) in evidence.calls.iter().enumerate() {
        let Some(status) = call.status else { continue };
        let has_row = call.keybrake_request_id.as_deref().is_some_and(|id| trace.row(id).is_some());
        if !with_arrival.contains(&at) && (200..300).contains(&status) && !has_row {
            let why = format!("the agent was answered {status}, and the vendor never got the request");
            found.push(Violation::new(Rule::Invented, why).about_call(call));
        } else if call.keybrake_request_id.is_some()
            && !has_row
            && (with_arrival.contains(&at) || OWN_ANSWERS.contains(&status))
            && !is_lost_denial(evidence, call, with_arrival.contains(&at))
        {
            let why = format!("the agent was answered {status} with the id of a row that is not there");
            found.push(Violation::new(Rule::Missing, why).about_call(call));
        }
    }
}

/// Whether the dataplane died right behind a denial.
fn is_lost_denial(evidence: &Evidence, call: &Call, has_arrival: bool) -> bool {
    let Some(answered_us) = call.answered_us else { return false };
    let span = Span { start_us: answered_us, end_us: answered_us.saturating_add(DENIAL_LOSS_US) };
    !has_arrival && evidence.outages.iter().any(|outage| outage.is_death() && span.has(outage.at_us))
}

/// No two rows have one id.
pub(super) fn duplicate(evidence: &Evidence, found: &mut Vec<Violation>) {
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    for row in &evidence.rows {
        if let Some(sequence) = first.insert(row.id.as_str(), row.sequence) {
            let why = format!("rows {sequence} and {} have this id", row.sequence);
            found.push(Violation::new(Rule::Duplicate, why).about_row(row));
        }
    }
}

/// A row that says more than the vendor knows, or that nobody knows, needs a reason.
pub(super) fn unexplained(evidence: &Evidence, trace: &Trace, limits: Limits, found: &mut Vec<Violation>) {
    for (at, row) in evidence.rows.iter().enumerate() {
        let arrival = trace.arrival_for(evidence, at);
        if row.is_sent() && row.outcome != "unknown" && arrival.is_none() {
            let why = format!("its outcome is {}, and the vendor never got the request", row.outcome);
            found.push(Violation::new(Rule::Invented, why).about_row(row));
        }
        if !matches!(row.outcome.as_str(), "unknown" | "failed")
            || arrival.is_some_and(|arrival| arrival.is_doubtful())
        {
            continue;
        }
        let span = trace.span(evidence, at, limits);
        let is_hit = evidence.outages.iter().any(|outage| span.is_hit_by(outage));
        if !is_hit && !is_ended_by_revoke(evidence, row, span) {
            let vendor = match arrival {
                Some(arrival) => {
                    let outcome = arrival.outcome.as_deref().unwrap_or("as asked");
                    format!("the vendor answered it (seq {}, outcome {outcome})", arrival.seq)
                }
                None => "the vendor never got it".to_owned(),
            };
            let why = format!(
                "its outcome is {}, {vendor}, and no kill or cut falls between {} and {}",
                row.outcome, span.start_us, span.end_us
            );
            found.push(Violation::new(Rule::Unexplained, why).about_row(row));
        }
    }
}

/// A revoke ends what is not sent yet, and where it cuts also what is under way.
fn is_ended_by_revoke(evidence: &Evidence, row: &Row, span: Span) -> bool {
    // The acknowledgement comes behind the cut, and the agent may hear of the cut first.
    let late = Span { end_us: span.end_us.saturating_add(DENIAL_LOSS_US), ..span };
    evidence.chain(row.key()).filter_map(|key| evidence.keys.get(key)).any(|key| {
        key.revoked_us.is_some_and(|revoked_us| late.has(revoked_us)) && (key.cut || row.outcome == "failed")
    })
}

/// A row agrees with what the vendor did and with what the agent was answered.
pub(super) fn wrong(evidence: &Evidence, trace: &Trace, found: &mut Vec<Violation>) {
    for (at, row) in evidence.rows.iter().enumerate() {
        let mut say = |why: String| {
            let violation = Violation::new(Rule::Wrong, why).about_row(row);
            let seq = trace.arrival_for(evidence, at).map(|arrival| arrival.seq);
            found.push(Violation { seq, ..violation });
        };
        let arrival = trace.arrival_for(evidence, at);
        if !row.is_sent() {
            if arrival.is_some() {
                say(format!("its outcome is {}, and the vendor got the request", row.outcome));
            }
            if row.counted_micros() > 0 {
                say(format!("its outcome is {}, and it counts {}", row.outcome, row.counted_micros()));
            }
        }
        if let Some(arrival) = arrival.filter(|arrival| !arrival.replayed && row.amended_micros.is_none()) {
            let (counted, accepted) = (row.amount_micros, arrival.accepted_micros());
            let is_more =
                row.is_sent() && row.outcome != "unknown" && counted > accepted.max(arrival.live_micros(row));
            if counted < accepted || is_more {
                say(format!("it counts {counted}, and the vendor accepted {accepted}"));
            }
        }
        let call = trace.call_of_row.get(at).copied().flatten().and_then(|call| evidence.calls.get(call));
        let answered = call.filter(|call| call.keybrake_request_id.as_deref() == Some(row.id.as_str()));
        if let Some(status) = answered.and_then(|call| call.status)
            && row.outcome != "unknown"
            && status != row.status
        {
            say(format!("it says {}, and the agent was answered {status}", row.status));
        }
    }
}

/// Nothing arrives under a key after its revoke was acknowledged.
pub(super) fn revoked(evidence: &Evidence, trace: &Trace, found: &mut Vec<Violation>) {
    for (at, arrival) in evidence.arrivals.iter().enumerate() {
        let Some(key) = trace.key_of(evidence, at) else { continue };
        let acknowledged = evidence.chain(key).filter_map(|key| evidence.keys.get(key)?.revoked_us).min();
        if let Some(revoked_us) = acknowledged.filter(|revoked_us| arrival.arrival_us > *revoked_us) {
            let why = format!(
                "it arrived at {} (stamped by the {}), {} us after the revoke was acknowledged at {revoked_us}",
                arrival.arrival_us,
                arrival.arrival_by,
                arrival.arrival_us.saturating_sub(revoked_us)
            );
            found.push(Violation::new(Rule::Revoked, why).about_arrival(evidence, trace, at));
        }
    }
}

/// One call of an agent is one request at the vendor, and its answer is its own.
pub(super) fn repeated(evidence: &Evidence, trace: &Trace, found: &mut Vec<Violation>) {
    let mut sent: BTreeMap<&str, u64> = BTreeMap::new();
    for call in &evidence.calls {
        let count = sent.entry(call.call.as_str()).or_default();
        *count = count.saturating_add(1);
    }
    // How often each call arrived, and how often it was accepted.
    let mut came: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (at, arrival) in evidence.arrivals.iter().enumerate() {
        let Some(Some(id)) = evidence.arrival_calls.get(at) else { continue };
        let (arrived, accepted) = came.entry(id.as_str()).or_default();
        *arrived = arrived.saturating_add(1);
        *accepted = accepted.saturating_add(u64::from(arrival.accepted));
        let sent = sent.get(id.as_str()).copied().unwrap_or_default();
        if *arrived > sent.max(1) || *accepted > 1 {
            let why =
                format!("sent {sent} times by the agent, arrived {arrived} times, accepted {accepted} times");
            found.push(Violation::new(Rule::Repeated, why).about_arrival(evidence, trace, at));
        }
    }
    for at in 0..evidence.arrivals.len() {
        let (Some(call), Some(row)) = (trace.call(evidence, at), trace.row_for(evidence, at)) else {
            continue;
        };
        let is_other_id = call.keybrake_request_id.as_ref().is_some_and(|id| *id != row.id);
        // A call that was repeated has several answers, and its arrivals are told apart by time only.
        let is_repeated = sent.get(call.call.as_str()).is_some_and(|count| *count > 1);
        if call.key != row.key() || (is_other_id && !is_repeated) {
            let why = format!(
                "the agent of {} got the answer {}, and the vendor's reply went into row {} of {}",
                call.key,
                call.keybrake_request_id.as_deref().unwrap_or("none"),
                row.id,
                row.key()
            );
            found.push(Violation::new(Rule::Repeated, why).about_arrival(evidence, trace, at));
        }
    }
}

/// Rows that nobody knows the end of.
pub(super) fn unknown(evidence: &Evidence) -> u64 {
    evidence.rows.iter().filter(|row| row.outcome == "unknown").count() as u64
}

/// Calls that were over at least this long before `us`, as exactly as clocks are read.
pub(super) fn is_before(end_us: u64, us: u64) -> bool {
    end_us.saturating_add(JITTER_US) < us
}
