//! Calls in doubt: what an operator says of them, and what an hour does (rule Q1).
//!
//! The disk comes first, the account after it: a crash in between leaves money held that the store
//! gives back at the next start, never the reverse.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{after, bounded};
use keybrake_proto::audit::AuditRow;
use keybrake_proto::control::{DoubtResolved, DoubtView, Reply};
use keybrake_proto::journal::IntentId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::{Day, UnixMicros};

use super::{Control, WAIT, refused};
use crate::clock;
use crate::registry::KeyEntry;
use crate::rt;
use crate::storage::{Doubt, NoDoubt, Resolution, Resolved, Verdict};

/// How long an unknown outcome stays held before it is booked at its quote, in microseconds.
const HELD_US: u64 = 3_600_000_000;

/// Between two looks at what is held for so long.
const LOOK: Duration = Duration::from_secs(5);

/// Books what is in doubt for an hour, until the process ends; and tidies behind a flood of agents.
pub(crate) fn start(control: Arc<Control>) -> io::Result<()> {
    let run = move || {
        while after(LOOK).recv().is_ok() {
            if control.limits.has_shrunk() {
                rt::trim_memory();
            }
            let day = control.clock.day();
            let before = UnixMicros(clock::wall().0.saturating_sub(HELD_US));
            let keys = Arc::clone(&control);
            let tell = move |resolved: Resolved| keys.apply(&resolved, day);
            // A thread that has ended, or is behind, is told of elsewhere.
            control.storage.expire(before, day, Arc::new(tell)).ok();
        }
    };
    thread::Builder::new().name("doubts".to_owned()).spawn(run).map(drop)
}

impl Control {
    /// Every doubt that no operator has resolved.
    pub(super) fn doubts(&self) -> Reply {
        match self.storage.doubts() {
            Ok(doubts) => Reply::Doubts(doubts.iter().filter_map(|(id, doubt)| view(*id, doubt)).collect()),
            Err(error) => refused(503, "storage_unavailable", None, error.to_string()),
        }
    }

    /// An operator says what a doubt came to: `None`, that it moved nothing.
    pub(super) fn resolve_doubt(&self, id: &str, charge: Option<Micros>) -> Reply {
        let id: IntentId = match id.parse() {
            Ok(id) => id,
            Err(problem) => return refused(400, "invalid_field", Some("id"), problem),
        };
        let entry = match self.storage.doubts() {
            Ok(doubts) => {
                let doubt = doubts.into_iter().find(|(of, _)| *of == id).map(|(_, doubt)| doubt);
                doubt.and_then(|doubt| self.keys.find(*doubt.keys.first()?))
            }
            Err(error) => return refused(503, "storage_unavailable", None, error.to_string()),
        };
        let Some(entry) = entry else { return no_such_doubt() };
        let key = entry.id;
        let day = self.clock.day();
        let verdict = charge.map_or(Verdict::Void, Verdict::Settled);
        let (answer, answered) = bounded(1);
        let done = move |result: Result<Resolved, NoDoubt>| {
            if let Ok(resolved) = &result {
                apply(&entry, resolved, day);
            }
            // Who asked may have stopped waiting.
            answer.try_send(result).ok();
        };
        if let Err(error) = self.storage.resolve(Resolution { id, verdict, day }, done) {
            return refused(503, "storage_unavailable", None, format!("the doubt was not resolved: {error}"));
        }
        match answered.recv_timeout(WAIT.saturating_mul(2)) {
            Ok(Ok(Resolved { quote, charge, .. })) => Reply::DoubtResolved(Box::new(DoubtResolved {
                id: id.to_string(),
                vault_key_id: key,
                quote_usd: quote,
                charge_usd: charge,
            })),
            Ok(Err(NoDoubt)) => no_such_doubt(),
            Err(_) => refused(
                503,
                "storage_unavailable",
                None,
                "the disk does not answer; the doubt is resolved when it does: look again with `keybrake doubt list`",
            ),
        }
    }

    /// Changes the accounts as a resolution says; called once for each, when it is on disk.
    fn apply(&self, resolved: &Resolved, day: Day) {
        let Some(entry) = resolved.keys.first().and_then(|key| self.keys.find(*key)) else { return };
        apply(&entry, resolved, day);
    }
}

fn apply(entry: &KeyEntry, resolved: &Resolved, day: Day) {
    let Resolved { quote, charge, booked, .. } = *resolved;
    let account = &entry.account;
    match booked {
        None => {
            account.resolve(day, quote, charge, |_, _| ());
            entry.end_doubt(quote);
        }
        Some(booked) => {
            account.void(quote.saturating_sub(charge), booked);
            account.resolve(day, Micros::ZERO, charge.saturating_sub(quote), |_, _| ());
        }
    }
}

fn view(id: IntentId, doubt: &Doubt) -> Option<DoubtView> {
    let row = AuditRow::decode(&doubt.row).ok();
    let text = |of: fn(&AuditRow<'_>) -> String| row.as_ref().map(of).unwrap_or_default();
    Some(DoubtView {
        id: id.to_string(),
        vault_key_id: *doubt.keys.first()?,
        request_id: text(|row| row.id.to_owned()),
        ts: text(|row| row.ts.to_string()),
        since: doubt.since.to_string(),
        vendor: text(|row| row.vendor.to_owned()),
        method: text(|row| row.method.as_str().to_owned()),
        path: text(|row| row.path.to_owned()),
        idempotency_key: row.as_ref().and_then(|row| row.idempotency_key).map(str::to_owned),
        vendor_request_id: row.as_ref().and_then(|row| row.vendor_request_id).map(str::to_owned),
        quote_usd: doubt.quote,
        booked_on: doubt.booked.map(|day| day.start().to_string().chars().take(10).collect()),
    })
}

fn no_such_doubt() -> Reply {
    refused(
        404,
        "no_such_doubt",
        None,
        "no call with this id is in doubt: it was resolved or never was; `keybrake doubt list` shows all",
    )
}

#[cfg(test)]
mod tests {
    use keybrake_proto::key::{KeyDigest, KeyId};
    use keybrake_proto::ledger::Word;
    use keybrake_proto::ledger::chain::Opening;
    use keybrake_proto::policy::Policy;

    use super::*;
    use crate::registry::KeyRecord;

    fn usd(amount: u64) -> Micros {
        Micros::new(amount * 1_000_000).unwrap()
    }

    /// A key with a cap of $10, of which `held` are in doubt.
    fn entry(held: u64) -> KeyEntry {
        let policy = Policy {
            vendor: "stripe".to_owned(),
            account: "default".to_owned(),
            allowed_endpoints: vec!["POST /v1/charges".parse().unwrap()],
            daily_usd_cap: Some(usd(10)),
            total_usd_cap: None,
            daily_request_budget: None,
            expires_at: None,
            restrictions: Default::default(),
        };
        let record = KeyRecord {
            id: KeyId::from_bytes(b"aaaaaaaaaaaaaaaa").unwrap(),
            digest: KeyDigest([0; 32]),
            policy,
            label: None,
            agent_run_label: None,
            metadata: Default::default(),
            created_at: UnixMicros(0),
            parent: None,
            version: 0,
            revoked_at: None,
        };
        let word = Word { closed: false, day: Day::new(1), held: usd(held), committed: usd(held) };
        KeyEntry::new(record, Opening { word, lifetime: usd(held), requests: 0 }, usd(held), None)
    }

    fn resolved(quote: u64, charge: u64, booked: Option<Day>) -> Resolved {
        Resolved { keys: Vec::new(), quote: usd(quote), charge: usd(charge), booked }
    }

    /// Held, committed and in doubt, in dollars.
    fn check(entry: &KeyEntry, expected: (u64, u64, u64)) {
        let word = entry.account.word();
        let dollars = |micros: Micros| micros.as_u64() / 1_000_000;
        assert_eq!((dollars(word.held), dollars(word.committed), dollars(entry.in_doubt())), expected);
    }

    #[test]
    fn q1_what_is_held_becomes_what_it_came_to() {
        let entry = entry(6);
        check(&entry, (6, 6, 6));
        apply(&entry, &resolved(4, 3, None), Day::new(1));
        check(&entry, (2, 5, 2));
        apply(&entry, &resolved(2, 0, None), Day::new(1));
        check(&entry, (0, 3, 0));
    }

    #[test]
    fn q1_what_was_booked_is_given_back_only_while_its_day_lasts() {
        let entry = entry(6);
        apply(&entry, &resolved(6, 6, None), Day::new(1));
        check(&entry, (0, 6, 0));
        apply(&entry, &resolved(6, 2, Some(Day::new(1))), Day::new(1));
        check(&entry, (0, 2, 0));
        apply(&entry, &resolved(2, 5, Some(Day::new(1))), Day::new(1));
        check(&entry, (0, 5, 0));
        entry.account.reserve(Day::new(2), usd(1)).unwrap();
        apply(&entry, &resolved(5, 0, Some(Day::new(1))), Day::new(2));
        check(&entry, (1, 1, 0));
    }
}
