//! The operator's way in: the control socket, and all keys as operators see them.
//!
//! One thread reads every frame and closes the accounts of a revoke at once ([`front`]); what takes longer is done by
//! one short-lived thread a request. They share the table of keys among themselves; shards know theirs
//! by messages and never wait for anything here.

mod change;
mod client;
mod doubts;
mod front;
mod hand_over;
mod issue;
mod keys;
mod master_key;
mod reload;
mod requests;
mod revoke;
mod spool;
mod tls;
mod vendors;

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, Sender, bounded};
use keybrake_proto::config::Data;
use keybrake_proto::control::{ClockState, Counter, Refused, Reply, Request, Status};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::clock::Clock;
use crate::heir::Left;
use crate::in_flight::InForce;
use crate::lease::Lease;
use crate::limits::Limits;
use crate::mailbox::Mailbox;
use crate::metrics::{self, Metrics};
use crate::requests::Requests;
use crate::rt::Kernel;
use crate::seal::{KeyDigester, MasterKey};
use crate::settings::Settings;
use crate::shard::{Ack, Message};
use crate::storage::StorageHandle;
use crate::tls::AgentTls;
pub(crate) use client::{Told, order};
pub(crate) use doubts::start as start_doubts;
pub(crate) use front::start;
pub(crate) use hand_over::{Asked, Front, Parked};
pub(crate) use keys::Keys;
pub(crate) use master_key::Sealing;
pub(crate) use reload::Reloads;
pub(crate) use revoke::Figures;
pub(crate) use spool::carry_out;

/// How long shards and disk may take before an answer says "not yet".
const WAIT: Duration = Duration::from_secs(2);

/// What the control threads share.
pub(crate) struct Control {
    pub(crate) shards: Vec<Mailbox<Message>>,
    pub(crate) metrics: Vec<Arc<Metrics>>,
    pub(crate) storage: StorageHandle,
    pub(crate) clock: Arc<Clock>,
    pub(crate) digester: KeyDigester,
    pub(crate) master: Arc<ArcSwap<MasterKey>>,
    /// The configuration's `[data]`: where another master key comes from.
    pub(crate) data: Data,
    /// What is sealed and on its way to the disk: a credential, or all of them under another master key.
    pub(crate) sealing: Sealing,
    pub(crate) lease: Lease,
    /// What the configuration says now.
    pub(crate) settings: ArcSwap<Settings>,
    pub(crate) reloads: Reloads,
    pub(crate) limits: Arc<Limits>,
    /// Of the month.
    pub(crate) requests: Arc<Requests>,
    pub(crate) proxy_listen: String,
    pub(crate) kernel: Kernel,
    pub(crate) started: Instant,
    pub(crate) draining: AtomicBool,
    pub(crate) keys: Keys,
    /// Held by whoever changes a key or a credential.
    pub(crate) changes: Mutex<()>,
    pub(crate) figures: Figures,
    /// Where a process that wants to take over is sent.
    pub(crate) asked: Sender<Asked>,
    /// What the process before still runs.
    pub(crate) left: Left,
    /// Absent: agents connect with plain HTTP.
    pub(crate) agent_tls: Option<Arc<AgentTls>>,
}

/// What all shards said, as far as they did in time.
pub(crate) struct Gathered {
    at_vendor: u64,
    cut: u64,
    /// When the last of them said it.
    last: Option<Instant>,
    /// Those that said nothing.
    pub(crate) late: Vec<usize>,
}

/// Binds the control socket, which only its owner may open.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    // The store's lock is held, so a socket that is still there is a dead process's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(front::BACKLOG)?;
    Ok(OwnedFd::from(socket).into())
}

/// A refusal in the words of an HTTP answer.
fn refused(status: u16, code: &str, field: Option<&str>, message: impl Into<String>) -> Reply {
    let field = field.map(str::to_owned);
    Reply::Refused(Refused { status, code: code.to_owned(), field, message: message.into() })
}

/// The refusal of a second take-over at a time.
fn busy() -> Reply {
    refused(503, "take_over_busy", None, "another take-over is under way; try again when it is over")
}

impl Control {
    fn answer(&self, request: Request, arrived: Instant) -> Reply {
        if let Some(refusal) = self.refuse_sealed(&request) {
            return refusal;
        }
        match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::IssueKey(spec) => self.issue(&spec),
            Request::ChangeKey { id, version, change } => self.change(id, version, &change),
            Request::Config => Reply::Config(Box::new(self.configuration())),
            Request::ReloadConfig => self.reload_reply(),
            Request::Vendors => self.vendors(),
            Request::SetCredential(spec) => self.set_credential(&spec),
            Request::ListKeys { after, limit } => self.keys.list(&self.clock, after, limit),
            Request::ShowKey(id) => self.keys.show(&self.clock, id),
            Request::SelfKey { vault_key } => {
                self.keys.show_self(&self.clock, &self.digester.digest(vault_key.as_bytes()))
            }
            Request::Revoke(order) => self.revoke(&order, arrived),
            Request::Clock => Reply::Clock(Box::new(self.clock.view())),
            Request::ConfirmClock => self.confirm_clock(),
            Request::RotateMasterKey => self.rotate_master_key(),
            Request::Doubts => self.doubts(),
            Request::ResolveDoubt { id, charge_usd } => self.resolve_doubt(&id, charge_usd),
            // The control thread has sent it elsewhere.
            Request::TakeOver(_) => busy(),
        }
    }

    fn confirm_clock(&self) -> Reply {
        match self.clock.confirm() {
            Ok(view) => Reply::Clock(Box::new(view)),
            Err(error) => {
                let message = format!("the clock was not confirmed: its record cannot be written: {error}");
                refused(503, "storage_unavailable", None, message)
            }
        }
    }

    fn status(&self) -> Status {
        let seconds = self.started.elapsed().as_secs();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: seconds,
            ready: self.storage.has_room()
                && !self.draining.load(Ordering::Relaxed)
                && !self.digester.is_sealed(),
            sealed: self.master.load().why_sealed().map(str::to_owned),
            proxy_listen: self.proxy_listen.clone(),
            driver: self.kernel.as_str().to_owned(),
            workers: self.shards.len(),
            vendors: self.settings.load().config.vendor_names(),
            config: self.reloads.state(),
            requests: self.requests_of_month(),
            keys: self.keys.count(),
            clock: self.clock.view(),
            proxy_tls: self.agent_tls.as_deref().map(tls::view),
            counters: self.counters(),
        }
    }

    fn counters(&self) -> Vec<Counter> {
        let storage = self.storage.counters();
        let number = |name: &str, kind: &str, help: &str, value: u64| Counter {
            name: format!("keybrake_storage_{name}"),
            help: help.to_owned(),
            kind: kind.to_owned(),
            label: None,
            value,
        };
        let clock = self.clock.view();
        let of_clock = |name: &str, help: &str, value: u64| Counter {
            name: format!("keybrake_clock_{name}"),
            help: help.to_owned(),
            kind: "gauge".to_owned(),
            label: None,
            value,
        };
        let mut counters = metrics::counters(&self.metrics);
        counters.extend([
            of_clock(
                "suspended",
                "1 while calls that cost money are refused, since the system clock was stepped.",
                u64::from(clock.state == ClockState::Suspended),
            ),
            of_clock(
                "deviation_us",
                "How far the system clock is from where it should be.",
                clock.deviation_us.unsigned_abs(),
            ),
        ]);
        counters.extend([
            number("rows_total", "counter", "Audit rows written.", storage.rows),
            number("batches_total", "counter", "Batches they were written in.", storage.batches),
            number("last_batch_us", "gauge", "How long the last batch took.", storage.last_batch_us),
            number(
                "queued",
                "gauge",
                "Records that wait.",
                u64::try_from(storage.queued).unwrap_or(u64::MAX),
            ),
            number("open_intents", "gauge", "Exchanges whose outcome is not recorded.", storage.open_intents),
            Counter {
                name: "keybrake_inherited_calls".to_owned(),
                help: "Calls that the dataplane before this one still runs.".to_owned(),
                kind: "gauge".to_owned(),
                label: None,
                value: self.left.count(),
            },
            number("damaged_total", "counter", "Records that could not be read: a bug.", storage.damaged),
            number("healthy", "gauge", "1 while the last write succeeded.", u64::from(storage.healthy)),
        ]);
        counters.extend(self.limits.counters());
        counters.extend(self.figures.counters());
        counters.extend(self.reloads.counters());
        counters.extend(self.agent_tls.iter().flat_map(|tls| tls::counters(tls)));
        counters.extend(self.request_counters());
        counters
    }

    /// Posts a message to every shard at once; the receiver gets each one's answer.
    pub(crate) fn post_all(&self, message: impl Fn(Ack) -> Message) -> Receiver<(usize, InForce)> {
        let (to, acks) = bounded(self.shards.len());
        for (number, shard) in self.shards.iter().enumerate() {
            shard.post(message(Ack { shard: number, to: to.clone() }));
        }
        acks
    }

    /// Waits until every shard has answered, or until `until`.
    pub(crate) fn gather(&self, acks: &Receiver<(usize, InForce)>, until: Instant) -> Gathered {
        let late = (0..self.shards.len()).collect();
        let mut gathered = Gathered { at_vendor: 0, cut: 0, last: None, late };
        while !gathered.late.is_empty() {
            let Ok((shard, in_force)) = acks.recv_deadline(until) else { break };
            gathered.late.retain(|late| *late != shard);
            gathered.at_vendor = gathered.at_vendor.saturating_add(in_force.at_vendor);
            gathered.cut = gathered.cut.saturating_add(in_force.cut);
            gathered.last = gathered.last.max(Some(in_force.at));
        }
        gathered
    }
}

#[cfg(test)]
mod tests;
