//! Revoke: close, then tell workers and disk at once, then answer (rule Q19).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_channel::Receiver;
use keybrake_proto::control::{Counter, REVOKE_IDS_MAX, REVOKED_IDS_MAX, Reply, Revoke, Revoked, Selector};
use keybrake_proto::time::UnixMicros;

use super::issue::after;
use super::keys::Closed;
use super::{Control, WAIT, refused};
use crate::clock::wall as now;
use crate::in_flight::{AtVendor, InForce};
use crate::registry::KeyRecord;
use crate::shard::Message;

/// A revoke whose accounts are closed and of which every shard is told.
pub(super) struct Closing {
    closed: Closed,
    arrived: Instant,
    closed_us: u64,
    acks: Receiver<(usize, InForce)>,
}

impl Control {
    /// Revokes, and waits until that is in force and durable, or [`WAIT`] is over.
    pub(super) fn revoke(&self, order: &Revoke, arrived: Instant) -> Reply {
        match self.close(order, arrived) {
            Ok(closing) => self.finish(closing),
            Err(refusal) => refusal,
        }
    }

    /// Closes the accounts and tells every shard. Nothing here waits, so the control thread does it before
    /// it says that it has looked (contract I3b).
    pub(super) fn close(&self, order: &Revoke, arrived: Instant) -> Result<Closing, Reply> {
        if matches!(&order.of, Selector::Ids(ids) if ids.len() > REVOKE_IDS_MAX) {
            let problem = format!("at most {REVOKE_IDS_MAX} ids are allowed; revoke the others behind them");
            return Err(refused(400, "invalid_field", Some("ids"), problem));
        }
        let closed = self.keys.close(&order.of, now());
        let closed_us = micros(arrived, Instant::now());
        if closed.entries().next().is_none() {
            return Err(refused(404, "no_such_key", None, nothing_matches(&order.of)));
        }
        let keys = Arc::new(closed.entries().map(|entry| entry.id).collect());
        let at_vendor = if order.cut { AtVendor::Cut } else { AtVendor::Finish };
        let acks = self.post_all(|ack| Message::Revoked { keys: Arc::clone(&keys), at_vendor, ack });
        Ok(Closing { closed, arrived, closed_us, acks })
    }

    /// Makes it durable in one batch, while the shards acknowledge.
    pub(super) fn finish(&self, closing: Closing) -> Reply {
        let Closing { closed, arrived, closed_us, acks } = closing;
        let until = after(arrived, WAIT);
        let undurable: Vec<_> =
            closed.entries().filter(|entry| entry.undurable_revoke().is_some()).map(Arc::clone).collect();
        let records: Vec<KeyRecord> = undurable.iter().filter_map(|entry| entry.undurable_revoke()).collect();
        let stored = (!records.is_empty()).then(|| {
            self.put(&records, move || undurable.iter().for_each(|entry| entry.revoke_was_stored()))
        });
        let gathered = self.gather(&acks, until);
        let durable = stored.is_none_or(|stored| matches!(stored.recv_deadline(until), Ok(Ok(()))));
        let revoked = Revoked {
            revoked: count(closed.now.len()),
            already_revoked: count(closed.before.len()),
            ids: closed.entries().take(REVOKED_IDS_MAX).map(|entry| entry.id).collect(),
            revoked_at: revoked_at(&closed),
            unknown_ids: closed.unknown,
            acknowledged: gathered.late.is_empty(),
            late_workers: gathered.late,
            durable,
            closed_us,
            acknowledged_us: gathered.last.map_or(closed_us, |last| micros(arrived, last)),
            at_vendor: gathered.at_vendor,
            cut: gathered.cut,
        };
        self.figures.count(&revoked);
        Reply::Revoked(Box::new(revoked))
    }
}

/// When what this order closed was closed; else the first of what was closed before.
fn revoked_at(closed: &Closed) -> UnixMicros {
    let keys = if closed.now.is_empty() { &closed.before } else { &closed.now };
    keys.iter().filter_map(|entry| entry.revoked_at()).min().unwrap_or_default()
}

fn nothing_matches(of: &Selector) -> String {
    format!("nothing was revoked: no key {of}; `keybrake key list` shows all")
}

fn count(keys: usize) -> u64 {
    u64::try_from(keys).unwrap_or(u64::MAX)
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}

/// What revokes took, for `/metrics`. Several threads count, so each number is by itself.
#[derive(Default)]
pub(crate) struct Figures {
    done: AtomicU64,
    pending: AtomicU64,
    closed_us: LastAndMax,
    acknowledged_us: LastAndMax,
}

#[derive(Default)]
struct LastAndMax {
    last: AtomicU64,
    max: AtomicU64,
}

impl LastAndMax {
    fn set(&self, value: u64) {
        self.last.store(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }
}

impl Figures {
    fn count(&self, revoked: &Revoked) {
        self.closed_us.set(revoked.closed_us);
        // The time of an acknowledgement that is not whole says nothing.
        if revoked.acknowledged {
            self.acknowledged_us.set(revoked.acknowledged_us);
        }
        let result = if revoked.acknowledged && revoked.durable { &self.done } else { &self.pending };
        result.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> Vec<Counter> {
        let counter = |name: &str, help: &str, kind: &str, label: (&str, &str), value: &AtomicU64| Counter {
            name: format!("keybrake_{name}"),
            help: help.to_owned(),
            kind: kind.to_owned(),
            label: Some((label.0.to_owned(), label.1.to_owned())),
            value: value.load(Ordering::Relaxed),
        };
        let answered = |result, value| {
            counter(
                "revokes_total",
                "Orders to revoke by their answer.",
                "counter",
                ("result", result),
                value,
            )
        };
        let took = |name, help, which, value| counter(name, help, "gauge", ("of", which), value);
        let closed = "Microseconds from the order's arrival until nothing was admitted.";
        let acknowledged = "Microseconds from the order's arrival until every worker had acknowledged.";
        vec![
            answered("done", &self.done),
            answered("pending", &self.pending),
            took("revoke_closed_us", closed, "last", &self.closed_us.last),
            took("revoke_closed_us", closed, "max", &self.closed_us.max),
            took("revoke_acknowledged_us", acknowledged, "last", &self.acknowledged_us.last),
            took("revoke_acknowledged_us", acknowledged, "max", &self.acknowledged_us.max),
        ]
    }
}
