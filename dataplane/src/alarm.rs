//! Tells the operator that a limit refuses: one line when that begins, one when it is over, a count of all.
//!
//! A flood must not become a flood of lines, so an alarm that was raised stays raised until nothing was refused for
//! [`QUIET`]: of each kind there are at most two lines in that time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use keybrake_proto::control::Counter;

/// After so long without a refusal it is over.
const QUIET: Duration = Duration::from_secs(10);

/// Agents that are too slow before it is worth a line: some are on every network.
const SLOW_AGENTS: u64 = 10;

/// What refuses, or breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// Connections in all.
    Connections,
    /// Connections of one address.
    Address,
    /// Requests at once under one key.
    Key,
    /// Memory for bodies.
    Memory,
    /// Requests without a valid key of one address.
    WrongKeys,
    /// Requests at once for the admin process.
    Relay,
    /// The process may open no more files.
    Descriptors,
    /// A head that did not arrive in time.
    SlowHead,
    /// A body that did not, or fell behind its least rate.
    SlowBody,
    /// An agent that does not read its reply.
    SlowReader,
    /// A bug of keybrake.
    Panic,
}

impl Alarm {
    const ALL: [Alarm; 11] = [
        Alarm::Connections,
        Alarm::Address,
        Alarm::Key,
        Alarm::Memory,
        Alarm::WrongKeys,
        Alarm::Relay,
        Alarm::Descriptors,
        Alarm::SlowHead,
        Alarm::SlowBody,
        Alarm::SlowReader,
        Alarm::Panic,
    ];

    /// As in `/metrics` and in the lines.
    const fn name(self) -> &'static str {
        match self {
            Alarm::Connections => "connections",
            Alarm::Address => "address",
            Alarm::Key => "key",
            Alarm::Memory => "memory",
            Alarm::WrongKeys => "wrong_keys",
            Alarm::Relay => "relay",
            Alarm::Descriptors => "descriptors",
            Alarm::SlowHead => "slow_head",
            Alarm::SlowBody => "slow_body",
            Alarm::SlowReader => "slow_reader",
            Alarm::Panic => "panic",
        }
    }

    /// What happens, and what to do.
    const fn advice(self) -> &'static str {
        match self {
            Alarm::Connections => {
                "agents' connections are refused; see who connects, or raise proxy.connections_max"
            }
            Alarm::Address => {
                "connections of one address are refused; if many agents share it, raise \
                 limits.connections_per_address_max or list it in limits.trusted_addresses"
            }
            Alarm::Key => {
                "requests of one key get 429; see which by its denials in the audit, and revoke it or raise \
                 limits.requests_per_key_max"
            }
            Alarm::Memory => {
                "requests get 503; see who sends large bodies, or raise limits.body_memory_bytes_max"
            }
            Alarm::WrongKeys => {
                "requests without a valid key get 429; the sampled rows in the audit say from where"
            }
            Alarm::Relay => {
                "requests for keys get 503; see who asks for /vault/keys, and how the admin process is"
            }
            Alarm::Descriptors => {
                "no descriptor is free, so nobody is accepted; raise the process' limit (LimitNOFILE), or lower \
                 proxy.connections_max"
            }
            Alarm::SlowHead => {
                "heads do not arrive within proxy.head_timeout_s and are cut; see who connects"
            }
            Alarm::SlowBody => {
                "bodies fall behind proxy.body_bytes_per_s_min or proxy.body_timeout_s and get 408; see who sends them"
            }
            Alarm::SlowReader => {
                "agents that do not read their replies are cut (proxy.write_bytes_per_s_min, proxy.write_timeout_s)"
            }
            Alarm::Panic => {
                "a connection ended by a bug of keybrake; please report the lines before this one"
            }
        }
    }

    /// So many within [`QUIET`] of one another are worth a line.
    const fn lines_from(self) -> u64 {
        match self {
            Alarm::SlowHead | Alarm::SlowBody | Alarm::SlowReader => SLOW_AGENTS,
            Alarm::Connections
            | Alarm::Address
            | Alarm::Key
            | Alarm::Memory
            | Alarm::WrongKeys
            | Alarm::Relay
            | Alarm::Descriptors
            | Alarm::Panic => 1,
        }
    }
}

/// All alarms of the process, shared by its threads.
#[derive(Debug)]
pub(crate) struct Alarms {
    epoch: Instant,
    of: [State; Alarm::ALL.len()],
    say: fn(&str),
}

#[derive(Debug, Default)]
struct State {
    total: AtomicU64,
    /// Since it was quiet.
    lately: AtomicU64,
    /// Of the last one, in milliseconds since the epoch.
    last_ms: AtomicU64,
    raised: AtomicBool,
}

impl Default for Alarms {
    fn default() -> Alarms {
        Alarms {
            epoch: Instant::now(),
            of: Default::default(),
            say: |line| eprintln!("keybrake-dataplane: limit {line}"),
        }
    }
}

impl Alarms {
    /// One more was refused.
    pub(crate) fn note(&self, alarm: Alarm) {
        self.note_at(alarm, Instant::now());
    }

    /// So many were refused since the start.
    #[cfg(test)]
    pub(crate) fn total(&self, alarm: Alarm) -> u64 {
        self.state(alarm).total.load(Ordering::Relaxed)
    }

    /// Ends alarms; called now and then, by any thread.
    pub(crate) fn tick(&self) {
        self.tick_at(Instant::now());
    }

    /// As `/metrics` shows them.
    pub(crate) fn counters(&self) -> Vec<Counter> {
        let counter = |name: &str, kind: &str, help: &str, alarm: Alarm, value| Counter {
            name: format!("keybrake_{name}"),
            help: help.to_owned(),
            kind: kind.to_owned(),
            label: Some(("limit".to_owned(), alarm.name().to_owned())),
            value,
        };
        let total = Alarm::ALL.into_iter().map(|alarm| {
            let value = self.state(alarm).total.load(Ordering::Relaxed);
            counter("limit_refusals_total", "counter", "What a limit refused or cut.", alarm, value)
        });
        let raised = Alarm::ALL.into_iter().map(|alarm| {
            let value = u64::from(self.state(alarm).raised.load(Ordering::Relaxed));
            counter(
                "limit_alarm",
                "gauge",
                "1 from the first refusal until ten seconds without one.",
                alarm,
                value,
            )
        });
        total.chain(raised).collect()
    }

    fn state(&self, alarm: Alarm) -> &State {
        #[expect(clippy::indexing_slicing, reason = "there is one for each")]
        &self.of[alarm as usize]
    }

    fn note_at(&self, alarm: Alarm, now: Instant) {
        let state = self.state(alarm);
        state.total.fetch_add(1, Ordering::Relaxed);
        state.last_ms.store(self.millis(now), Ordering::Relaxed);
        let lately = state.lately.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if lately >= alarm.lines_from() && !state.raised.swap(true, Ordering::Relaxed) {
            (self.say)(&format!("{}: {}", alarm.name(), alarm.advice()));
        }
    }

    fn tick_at(&self, now: Instant) {
        let quiet = u64::try_from(QUIET.as_millis()).unwrap_or(u64::MAX);
        for (alarm, state) in Alarm::ALL.into_iter().zip(&self.of) {
            let last = state.last_ms.load(Ordering::Relaxed);
            if state.lately.load(Ordering::Relaxed) == 0 || self.millis(now).saturating_sub(last) < quiet {
                continue;
            }
            let refused = state.lately.swap(0, Ordering::Relaxed);
            // Several threads may come here at once: the one that takes it says it.
            if state.raised.swap(false, Ordering::Relaxed) {
                (self.say)(&format!("{}: over, {refused} in all", alarm.name()));
            }
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.epoch).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    thread_local! {
        static SAID: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    fn alarms() -> Alarms {
        Alarms { say: |line| SAID.with_borrow_mut(|said| said.push(line.to_owned())), ..Alarms::default() }
    }

    /// How many lines there were since the last look, and the last of them.
    fn said() -> (usize, String) {
        SAID.with_borrow_mut(|said| (said.len(), said.drain(..).next_back().unwrap_or_default()))
    }

    #[test]
    fn each_kind_has_its_own_place() {
        for (at, alarm) in Alarm::ALL.into_iter().enumerate() {
            assert_eq!(alarm as usize, at);
        }
    }

    #[test]
    fn n5_a_flood_of_refusals_is_two_lines() {
        let alarms = alarms();
        let second = |second| alarms.epoch + Duration::from_secs(second);
        for at in 0..1000 {
            alarms.note_at(Alarm::Memory, alarms.epoch + Duration::from_millis(at));
            alarms.tick_at(alarms.epoch + Duration::from_millis(at));
        }
        let (lines, line) = said();
        assert!(lines == 1 && line.contains("memory") && line.contains("body_memory_bytes_max"), "{line}");
        alarms.tick_at(second(10));
        assert_eq!(said().0, 0, "nine seconds of quiet");
        alarms.tick_at(second(11));
        assert_eq!(said(), (1, "memory: over, 1000 in all".to_owned()));
        alarms.tick_at(second(30));
        assert_eq!(said().0, 0);
        alarms.note_at(Alarm::Memory, second(40));
        assert_eq!(said().0, 1, "it begins again");
        assert_eq!(alarms.total(Alarm::Memory), 1001);
    }

    #[test]
    fn a_few_slow_agents_are_counted_and_are_no_alarm() {
        let alarms = alarms();
        for _ in 1..SLOW_AGENTS {
            alarms.note_at(Alarm::SlowBody, alarms.epoch);
        }
        assert_eq!((said().0, alarms.total(Alarm::SlowBody)), (0, SLOW_AGENTS - 1));
        alarms.note_at(Alarm::SlowBody, alarms.epoch);
        assert_eq!(said().0, 1);
    }
}
