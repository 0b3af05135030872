//! What a shard counts. Each counter is written by one thread and read by any.

use std::sync::atomic::{AtomicU64, Ordering};

use keybrake_proto::control::Counter;

/// One number.
#[derive(Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, by: u64) {
        // One writer, so this need not be one operation.
        self.0.store(self.0.load(Ordering::Relaxed).saturating_add(by), Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).saturating_sub(by), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A shard's numbers, apart from other shards' lines.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Metrics {
    pub(crate) forwarded: Count,
    pub(crate) denied: Count,
    pub(crate) failed: Count,
    pub(crate) unknown: Count,
    pub(crate) look_ups: Count,
    pub(crate) wrong_keys: Count,
    pub(crate) malformed: Count,
    pub(crate) above_quote: Count,
    pub(crate) doubts: Count,
    pub(crate) connections: Count,
    pub(crate) connections_refused: Count,
    pub(crate) accept_errors: Count,
    pub(crate) vendor_connections_opened: Count,
    pub(crate) vendor_connections_reused: Count,
    pub(crate) turns_waited: Count,
    pub(crate) leaks: Count,
    pub(crate) encoded_replies: Count,
    pub(crate) panics: Count,
    pub(crate) tls_full: Count,
    pub(crate) tls_resumed: Count,
    pub(crate) tls_failed: Count,
}

/// The numbers of all shards, as `/metrics` shows them.
pub(crate) fn counters(shards: &[std::sync::Arc<Metrics>]) -> Vec<Counter> {
    let sum = |of: fn(&Metrics) -> &Count| shards.iter().map(|shard| of(shard).read()).sum::<u64>();
    let exchanges = |outcome: &str, of| Counter {
        name: "keybrake_exchanges_total".to_owned(),
        help: "Requests by how they ended.".to_owned(),
        kind: "counter".to_owned(),
        label: Some(("outcome".to_owned(), outcome.to_owned())),
        value: sum(of),
    };
    let plain = |name: &str, kind: &str, help: &str, of| Counter {
        name: format!("keybrake_{name}"),
        help: help.to_owned(),
        kind: kind.to_owned(),
        label: None,
        value: sum(of),
    };
    let mut counters = vec![
        exchanges("forwarded", |of| &of.forwarded),
        exchanges("denied", |of| &of.denied),
        exchanges("failed", |of| &of.failed),
        exchanges("unknown", |of| &of.unknown),
        plain("look_ups_total", "counter", "Objects that were read to price a call on them.", |of| {
            &of.look_ups
        }),
        plain(
            "wrong_keys_total",
            "counter",
            "Requests without a valid vault key; one in a second has a row.",
            |of| &of.wrong_keys,
        ),
        plain("malformed_total", "counter", "Requests refused before their key was read.", |of| {
            &of.malformed
        }),
        plain("charges_above_quote_total", "counter", "Replies that cost more than was held.", |of| {
            &of.above_quote
        }),
        plain("doubts", "gauge", "Holds whose outcome is not known.", |of| &of.doubts),
        plain("agent_connections", "gauge", "Open connections from agents.", |of| &of.connections),
        plain(
            "agent_connections_refused_total",
            "counter",
            "Connections over a limit: in all, or of one address.",
            |of| &of.connections_refused,
        ),
        plain("accept_errors_total", "counter", "Accepts that failed, as without a free descriptor.", |of| {
            &of.accept_errors
        }),
        plain("panics_total", "counter", "Connections that ended by a bug of keybrake.", |of| &of.panics),
    ];
    counters.extend(of_vendors(shards));
    counters.extend(handshakes(shards));
    counters
}

fn handshakes(shards: &[std::sync::Arc<Metrics>]) -> [Counter; 3] {
    let counter = |outcome: &str, of: fn(&Metrics) -> &Count| Counter {
        name: "keybrake_tls_handshakes_total".to_owned(),
        help: "TLS handshakes with agents, by how they ended.".to_owned(),
        kind: "counter".to_owned(),
        label: Some(("outcome".to_owned(), outcome.to_owned())),
        value: shards.iter().map(|shard| of(shard).read()).sum(),
    };
    [
        counter("full", |of| &of.tls_full),
        counter("resumed", |of| &of.tls_resumed),
        counter("failed", |of| &of.tls_failed),
    ]
}

/// What happens at vendors.
fn of_vendors(shards: &[std::sync::Arc<Metrics>]) -> Vec<Counter> {
    let plain = |name: &str, kind: &str, help: &str, of: fn(&Metrics) -> &Count| Counter {
        name: format!("keybrake_{name}"),
        help: help.to_owned(),
        kind: kind.to_owned(),
        label: None,
        value: shards.iter().map(|shard| of(shard).read()).sum(),
    };
    vec![
        plain("vendor_connections_opened_total", "counter", "Connections opened to vendors.", |of| {
            &of.vendor_connections_opened
        }),
        plain("vendor_connections_reused_total", "counter", "Exchanges on a kept vendor connection.", |of| {
            &of.vendor_connections_reused
        }),
        plain(
            "turns_waited_total",
            "counter",
            "Requests that waited for a turn within a vendor's quota.",
            |of| &of.turns_waited,
        ),
        plain(
            "credentials_in_replies_total",
            "counter",
            "Replies that were stopped because the vendor's credential stood in them.",
            |of| &of.leaks,
        ),
        plain(
            "encoded_replies_total",
            "counter",
            "Replies that were withheld because they were encoded.",
            |of| &of.encoded_replies,
        ),
    ]
}
