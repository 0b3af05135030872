//! The operator's way in: the control socket, and all keys as operators see them.
//!
//! One thread accepts, one short-lived thread serves each connection. They share the table of keys
//! among themselves; shards know theirs by messages and never wait for anything here.

mod keys;

use std::fs::{self, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use keybrake_proto::control::{self, ClockState, Counter, FrameError, Refused, Reply, Request, Status};
use keybrake_proto::key::KeyId;

use crate::clock::Clock;
use crate::mailbox::Mailbox;
use crate::metrics::{self, Metrics};
use crate::rt::Kernel;
use crate::seal::KeyDigester;
use crate::shard::{Ack, Message};
use crate::storage::StorageHandle;
pub(crate) use keys::Keys;

/// Connections served at a time; the admin process needs one a request.
const PEERS_MAX: usize = 64;

/// How long a peer may be silent or not read.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// How long shards and disk may take before an answer says "not yet".
const WAIT: Duration = Duration::from_secs(2);

/// What the control threads share.
pub(crate) struct Control {
    pub(crate) shards: Vec<Mailbox<Message>>,
    pub(crate) metrics: Vec<Arc<Metrics>>,
    pub(crate) storage: StorageHandle,
    pub(crate) clock: Arc<Clock>,
    pub(crate) digester: KeyDigester,
    pub(crate) vendors: Vec<String>,
    pub(crate) proxy_listen: String,
    pub(crate) kernel: Kernel,
    pub(crate) started: Instant,
    pub(crate) draining: AtomicBool,
    pub(crate) keys: Keys,
}

/// Binds the control socket, which only its owner may open.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    // The store's lock is held, so a socket that is still there is a dead process's.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket until the process ends.
pub(crate) fn start(listener: UnixListener, control: Arc<Control>) -> io::Result<()> {
    let peers = Arc::new(AtomicUsize::new(0));
    let accept = move || {
        for mut peer in listener.incoming().flatten() {
            if peers.load(Ordering::Relaxed) >= PEERS_MAX {
                let busy = refused(503, "too_many_peers", None, "too many control connections; try again");
                // Small enough for the socket's buffer, so it does not wait for a peer that does not read.
                drop(control::encode(&busy).map(|frame| peer.write_all(&frame)));
                continue;
            }
            peers.fetch_add(1, Ordering::Relaxed);
            let (control, counted) = (Arc::clone(&control), Counted(Arc::clone(&peers)));
            let serve = move || {
                let _counted = counted;
                if let Err(error) = control.serve(peer) {
                    eprintln!("keybrake-dataplane: control: {error}");
                }
            };
            // A thread that does not start drops the closure, and with it the peer and its count.
            thread::Builder::new().name("control-peer".to_owned()).spawn(serve).ok();
        }
    };
    thread::Builder::new().name("control".to_owned()).spawn(accept).map(drop)
}

/// Counts a peer down, however its thread ends.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads one frame's body; `None` at the end of the stream.
pub(crate) fn read_frame(peer: &mut impl io::Read) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; control::FRAME_HEADER_BYTES];
    match peer.read_exact(&mut header) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = control::body_bytes(header).map_err(invalid)?;
    let mut body = vec![0; length];
    peer.read_exact(&mut body)?;
    Ok(Some(body))
}

fn invalid(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A refusal in the words of an HTTP answer.
fn refused(status: u16, code: &str, field: Option<&str>, message: impl Into<String>) -> Reply {
    let field = field.map(str::to_owned);
    Reply::Refused(Refused { status, code: code.to_owned(), field, message: message.into() })
}

impl Control {
    fn serve(&self, mut peer: UnixStream) -> io::Result<()> {
        peer.set_read_timeout(Some(PEER_TIMEOUT))?;
        peer.set_write_timeout(Some(PEER_TIMEOUT))?;
        while let Some(body) = read_frame(&mut peer)? {
            let arrived = Instant::now();
            let reply = match control::decode(&body) {
                Ok(request) => self.answer(request, arrived),
                Err(error) => refused(400, "malformed_frame", None, error.to_string()),
            };
            peer.write_all(&control::encode(&reply).map_err(invalid)?)?;
        }
        Ok(())
    }

    fn answer(&self, request: Request, arrived: Instant) -> Reply {
        match request {
            Request::Status => Reply::Status(Box::new(self.status())),
            Request::IssueKey(spec) => self.issue(&spec),
            Request::ListKeys { after, limit } => self.keys.list(&self.clock, after, limit),
            Request::ShowKey(id) => self.keys.show(&self.clock, id),
            Request::SelfKey { vault_key } => {
                self.keys.show_self(&self.clock, &self.digester.digest(vault_key.as_bytes()))
            }
            Request::RevokeKey(id) => self.revoke(id, arrived),
            Request::Clock => Reply::Clock(self.clock.view()),
            Request::ConfirmClock => self.confirm_clock(),
        }
    }

    fn confirm_clock(&self) -> Reply {
        match self.clock.confirm() {
            Ok(view) => Reply::Clock(view),
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
            ready: self.storage.has_room() && !self.draining.load(Ordering::Relaxed),
            proxy_listen: self.proxy_listen.clone(),
            driver: self.kernel.as_str().to_owned(),
            workers: self.shards.len(),
            vendors: self.vendors.clone(),
            keys: self.keys.count(),
            clock: self.clock.view(),
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
            number("damaged_total", "counter", "Records that could not be read: a bug.", storage.damaged),
            number("healthy", "gauge", "1 while the last write succeeded.", u64::from(storage.healthy)),
        ]);
        counters
    }

    /// Posts a message to every shard at once; the receiver gets one number from each.
    fn post_all(&self, message: impl Fn(Ack) -> Message) -> Receiver<u64> {
        let (sender, acks) = bounded(self.shards.len());
        for shard in &self.shards {
            shard.post(message(Ack(sender.clone())));
        }
        acks
    }

    /// Waits for one number from every shard: their sum, or `None` when one is late.
    fn wait_all(&self, acks: &Receiver<u64>, until: Instant) -> Option<u64> {
        let mut sum = 0u64;
        for _ in &self.shards {
            sum = sum.saturating_add(acks.recv_deadline(until).ok()?);
        }
        Some(sum)
    }
}

/// Asks a running dataplane to revoke a key: the way that needs no admin process.
pub(crate) fn ask_to_revoke(socket: &Path, id: KeyId) -> Result<control::Revoked, String> {
    let unreachable = |error: io::Error| format!("no dataplane answers at {}: {error}", socket.display());
    let mut peer = UnixStream::connect(socket).map_err(unreachable)?;
    peer.set_read_timeout(Some(PEER_TIMEOUT)).map_err(unreachable)?;
    let frame = control::encode(&Request::RevokeKey(id)).map_err(|error| error.to_string())?;
    peer.write_all(&frame).map_err(unreachable)?;
    let body =
        read_frame(&mut peer).map_err(unreachable)?.ok_or("the dataplane closed the control socket")?;
    match control::decode(&body).map_err(|error| error.to_string())? {
        Reply::Revoked(revoked) => Ok(revoked),
        Reply::Refused(refused) => Err(refused.message),
        Reply::Status(_) | Reply::Issued { .. } | Reply::Keys { .. } | Reply::Key(_) | Reply::Clock(_) => {
            Err("the dataplane gave another answer; are both of one version?".to_owned())
        }
    }
}
