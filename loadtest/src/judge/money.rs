//! Sums: what the vendor accepted against the cap, and against what the proxy says it counted.

use std::collections::{BTreeMap, BTreeSet};

use super::Limits;
use super::day::Day;
use super::evidence::{Call, Evidence, Row};
use super::report::{Rule, Violation};
use super::rows::is_before;
use super::trace::Trace;

/// The result of a row that a cap refused.
const OVER_CAP: &str = "daily_cap_exceeded";
/// In doubt for longer than this may have been booked, and is then not held any more, in microseconds.
const HELD_US_MAX: u64 = 55 * 60 * 1_000_000;
/// One minor unit, in millionths of a dollar.
pub(super) const MINOR_MICROS: u64 = 10_000;

/// Sums of one key by day, and what may be counted on a day or on the next.
#[derive(Debug, Default)]
struct Days {
    firm: BTreeMap<Day, u64>,
    /// By the day that ends at the midnight.
    floating: BTreeMap<Day, u64>,
}

impl Days {
    fn add(&mut self, us: u64, micros: u64, slack_us: u64) {
        let (from, to) = (Day::of(us.saturating_sub(slack_us)), Day::of(us.saturating_add(slack_us)));
        let sums = if from == to { &mut self.firm } else { &mut self.floating };
        let sum = sums.entry(from).or_default();
        *sum = sum.saturating_add(micros);
    }

    /// The days on which the sum is over the cap however the floating amounts are placed, with that sum.
    ///
    /// They are placed as if they could be divided, so a day passes that an exact placing would not; by less than
    /// one amount.
    fn over(&self, cap: u64) -> Vec<(Day, u64)> {
        let ends = self.floating.keys().flat_map(|day| [*day, day.next()]);
        let days: BTreeSet<Day> = self.firm.keys().copied().chain(ends).collect();
        // What did not fit before a midnight, and the day behind it.
        let mut carried: Option<(Day, u64)> = None;
        let mut over = Vec::new();
        for day in days {
            let left = carried.take().filter(|(to, _)| *to == day).map_or(0, |(_, micros)| micros);
            let used = self.firm.get(&day).copied().unwrap_or_default().saturating_add(left);
            if used > cap {
                over.push((day, used));
            }
            let floating = self.floating.get(&day).copied().unwrap_or_default();
            carried = Some((day.next(), floating.saturating_sub(cap.saturating_sub(used))));
        }
        over
    }
}

/// Per key, and per ancestor of it, and day: what was accepted is at most the cap.
pub(super) fn caps(evidence: &Evidence, trace: &Trace, limits: Limits, found: &mut Vec<Violation>) {
    let (mut by_arrival, mut by_hold): (BTreeMap<&str, Days>, BTreeMap<&str, Days>) = Default::default();
    for (at, arrival) in
        evidence.arrivals.iter().enumerate().filter(|(_, arrival)| arrival.accepted_minor > 0)
    {
        let say = |why: String| Violation::new(Rule::Cap, why).about_arrival(evidence, trace, at);
        let Some(key) = trace.key_of(evidence, at) else {
            found.push(say(format!(
                "{} minor units were accepted, under no key that is known",
                arrival.accepted_minor
            )));
            continue;
        };
        if let Some(currency) = arrival.currency.as_deref().filter(|currency| *currency != "usd") {
            found.push(say(format!("it was accepted in {currency}; only usd can be judged")));
        }
        let held_us = trace.row_for(evidence, at).map(|row| row.ts);
        let held_us = held_us.or_else(|| trace.call(evidence, at).map(|call| call.sent_us));
        let micros = arrival.accepted_micros();
        for key in evidence.chain(key) {
            by_arrival.entry(key).or_default().add(arrival.arrival_us, micros, limits.slack_us);
            by_hold.entry(key).or_default().add(
                held_us.unwrap_or(arrival.arrival_us),
                micros,
                limits.slack_us,
            );
        }
    }
    for (sums, which) in [(by_arrival, "arrival"), (by_hold, "reservation")] {
        for (key, days) in sums {
            let Some(known) = evidence.keys.get(key) else {
                if which == "arrival" {
                    let why =
                        "something was accepted under this key, which is not in the keys file".to_owned();
                    found.push(Violation::new(Rule::Cap, why).of_key(key));
                }
                continue;
            };
            for (day, used) in known.daily_cap_micros.map(|cap| days.over(cap)).unwrap_or_default() {
                let cap = known.daily_cap_micros.unwrap_or_default();
                let why = format!("{used} was accepted by day of {which}, over the cap of {cap}");
                found.push(Violation::new(Rule::Cap, why).of_key(key).on(day));
            }
        }
    }
}

/// What one key's rows of one day count.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    settled: u64,
    open: u64,
    accepted: u64,
}

/// Per key and day the audit, the vendor and what the key shows agree.
pub(super) fn books(evidence: &Evidence, trace: &Trace, limits: Limits, found: &mut Vec<Violation>) {
    let mut sums: BTreeMap<(&str, Day), Counted> = BTreeMap::new();
    for (at, row) in evidence.rows.iter().enumerate() {
        // An operator's word is not the vendor's.
        if row.amended_micros.is_some() {
            continue;
        }
        let sum = sums.entry((row.key(), Day::of(row.ts))).or_default();
        let part = if row.is_open() { &mut sum.open } else { &mut sum.settled };
        *part = part.saturating_add(row.amount_micros);
        let arrival = trace.arrival_for(evidence, at);
        let accepted = arrival.map_or(0, |arrival| arrival.accepted_micros().max(arrival.live_micros(row)));
        sum.accepted = sum.accepted.saturating_add(accepted);
    }
    for (at, arrival) in evidence.arrivals.iter().enumerate() {
        if let (None, Some(key)) = (trace.row_for(evidence, at), trace.key_of(evidence, at)) {
            let sum = sums.entry((key, Day::of(arrival.arrival_us))).or_default();
            sum.accepted = sum.accepted.saturating_add(arrival.accepted_micros());
        }
    }
    for ((key, day), Counted { settled, open, accepted }) in sums {
        if accepted < settled || accepted > settled.saturating_add(open) {
            let why = format!("the vendor accepted {accepted}; rows settled {settled} and left {open} open");
            found.push(Violation::new(Rule::Audit, why).of_key(key).on(day));
        }
    }
    let by_key = rows_by_key(evidence);
    for shown in &evidence.shown {
        let rows = by_key.get(shown.key.as_str()).map(Vec::as_slice).unwrap_or_default();
        let expected = Expected::of(rows, shown.day, limits);
        let mut say = |name: &str, shows: u64, least: u64, most: u64| {
            if shows < least || shows > most {
                let why = format!("it shows {shows} {name}; the audit counts {least} to {most}");
                found.push(Violation::new(Rule::Books, why).of_key(&shown.key).on(shown.day));
            }
        };
        say("committed", shown.committed_micros, expected.committed_least, expected.committed_most);
        say("held", shown.held_micros, expected.held_least, expected.held_most);
    }
}

/// The rows of each key, those of its descendants with them.
fn rows_by_key(evidence: &Evidence) -> BTreeMap<&str, Vec<&Row>> {
    let mut by_key: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in &evidence.rows {
        for key in evidence.chain(row.key()) {
            by_key.entry(key).or_default().push(row);
        }
    }
    by_key
}

/// What a key may show when all is quiet: two equal bounds, but around midnight and for what is long in doubt.
#[derive(Clone, Copy, Debug, Default)]
struct Expected {
    committed_least: u64,
    committed_most: u64,
    held_least: u64,
    held_most: u64,
}

impl Expected {
    fn of(rows: &[&Row], day: Day, limits: Limits) -> Expected {
        let newest_us = rows.iter().map(|row| row.ts).max().unwrap_or_default();
        let mut expected = Expected::default();
        let add = |sum: &mut u64, micros: u64| *sum = sum.saturating_add(micros);
        for row in rows {
            let micros = row.counted_micros();
            let end_us = row.ts.saturating_add(row.latency_us);
            let first = Day::of(row.ts.saturating_sub(limits.slack_us));
            let last = Day::of(end_us.saturating_add(limits.slack_us));
            let is_young = newest_us.saturating_sub(row.ts) < HELD_US_MAX;
            if row.is_open() {
                add(&mut expected.held_most, micros);
                add(&mut expected.held_least, if is_young { micros } else { 0 });
            }
            // What is in doubt is carried over every midnight until it is booked.
            let may_count = first <= day && (day <= last || row.is_open());
            let must_count = (first == day && last == day) || (row.is_open() && is_young && last <= day);
            // A word changes after it was booked only on the day of booking (rule Q1).
            let most = if row.amended_micros.is_some() { micros.max(row.amount_micros) } else { micros };
            add(&mut expected.committed_most, if may_count { most } else { 0 });
            add(&mut expected.committed_least, if must_count { micros } else { 0 });
        }
        expected
    }
}

/// A denial by the cap, and the call that got it.
struct Denied<'a> {
    row: &'a Row,
    call: Option<&'a Call>,
}

impl Denied<'_> {
    fn amount(&self) -> u64 {
        self.row.quote_micros
    }

    fn cap(&self, evidence: &Evidence) -> Option<u64> {
        let of_key = || evidence.keys.get(self.row.key())?.daily_cap_micros;
        self.call.and_then(|call| call.cap_micros).or_else(of_key)
    }
}

fn denials<'a>(evidence: &'a Evidence, trace: &'a Trace) -> impl Iterator<Item = Denied<'a>> {
    let rows = evidence.rows.iter().enumerate().filter(|(_, row)| row.policy_check_result == OVER_CAP);
    rows.map(|(at, row)| {
        let call = trace.call_of_row.get(at).copied().flatten().and_then(|call| evidence.calls.get(call));
        Denied { row, call }
    })
}

/// A cap refuses only what does not fit beside all that was counted or under way at that moment.
///
/// With the quote of what was under way, so that a call which was declined later is no false alarm. A key with a parent
/// is left out: its ancestors refuse too.
pub(super) fn falsely_full(evidence: &Evidence, trace: &Trace, limits: Limits, found: &mut Vec<Violation>) {
    let mut by_key: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in evidence.rows.iter().filter(|row| row.outcome != "denied") {
        by_key.entry(row.key()).or_default().push(row);
    }
    let lost = calls_without_a_row(evidence, trace);
    for denied in denials(evidence, trace) {
        let (key, amount) = (denied.row.key(), denied.amount());
        let Some(cap) = denied.cap(evidence).filter(|_| evidence.chain(key).count() == 1) else { continue };
        let decided = (denied.row.ts, denied.row.ts.saturating_add(denied.row.latency_us));
        let day = Day::of(denied.row.ts);
        let rows = by_key.get(key).map(Vec::as_slice).unwrap_or_default();
        let under_way = lost.get(key).into_iter().flatten().filter(|call| {
            let end_us = call.end_us().unwrap_or_else(|| call.sent_us.saturating_add(limits.window_us));
            !is_before(decided.1, call.sent_us) && !is_before(end_us, decided.0)
        });
        let mut committed = under_way.fold(0_u64, |sum, call| sum.saturating_add(call.amount_micros()));
        for row in rows.iter().filter(|row| !is_before(decided.1, row.ts)) {
            let end_us = row.ts.saturating_add(row.latency_us);
            let is_of_day = row.is_open() || Day::of(end_us.saturating_add(limits.slack_us)) >= day;
            let is_over = row.outcome != "unknown" && is_before(end_us, decided.0);
            let counts = if is_over { row.amount_micros } else { row.amount_micros.max(row.quote_micros) };
            committed = committed.saturating_add(if is_of_day { counts } else { 0 });
            if committed.saturating_add(amount) > cap {
                break;
            }
        }
        if committed.saturating_add(amount) <= cap {
            let why = format!("{amount} was refused beside at most {committed}, under a cap of {cap}");
            let violation = Violation::new(Rule::Full, why).of_key(key).on(day);
            let call = denied.call.map(|call| call.call.clone());
            found.push(Violation { row: Some(denied.row.id.clone()), call, ..violation });
        }
    }
}

/// Each key's calls that were never answered and have no row: what was kept aside for them, and never sent, is
/// gone with the process.
fn calls_without_a_row<'a>(evidence: &'a Evidence, trace: &Trace) -> BTreeMap<&'a str, Vec<&'a Call>> {
    let with_row: BTreeSet<usize> = trace.call_of_row.iter().copied().flatten().collect();
    let mut lost: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for (at, call) in evidence.calls.iter().enumerate() {
        if call.status.is_none() && !with_row.contains(&at) {
            lost.entry(&call.key).or_default().push(call);
        }
    }
    lost
}

/// The least share of a cap that was used, in percent, of the keys whose cap refused something and that saw no kill and
/// no doubt. What the smallest refused amount left free counts as used.
pub(super) fn headroom_used(evidence: &Evidence, trace: &Trace) -> Option<u64> {
    if evidence.outages.iter().any(super::evidence::Outage::is_death) {
        return None;
    }
    let mut smallest: BTreeMap<(&str, Day), (u64, u64)> = BTreeMap::new();
    for denied in denials(evidence, trace) {
        let Some(cap) = denied.cap(evidence).filter(|cap| *cap > 0) else { continue };
        let entry = smallest.entry((denied.row.key(), Day::of(denied.row.ts))).or_insert((u64::MAX, cap));
        entry.0 = entry.0.min(denied.amount());
    }
    let by_key = rows_by_key(evidence);
    let used = smallest.into_iter().filter_map(|((key, day), (amount, cap))| {
        let mut rows = by_key.get(key)?.iter().filter(|row| Day::of(row.ts) == day);
        let is_doubtful = rows.clone().any(|row| row.outcome == "unknown");
        let spent = rows.try_fold(0_u64, |sum, row| sum.checked_add(row.amount_micros))?;
        let left = cap.saturating_sub(spent).saturating_sub(amount.saturating_sub(MINOR_MICROS));
        let share = cap.saturating_sub(left).saturating_mul(100).checked_div(cap)?;
        (!is_doubtful).then_some(share)
    });
    used.min()
}
