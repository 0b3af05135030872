//! The control thread: it reads every frame, and closes what is to be revoked before anything else.
//!
//! It never waits but in `poll`, and wakes fifty times a second, so that it can say when it last saw that no
//! order was left in its socket ([`Lease`](crate::lease::Lease)). What waits for shards or disk is done by a
//! thread of its own, which hands the connection back.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keybrake_proto::control::{self, FRAME_HEADER_BYTES, FrameError, Reply, Request};
use keybrake_proto::handover::TakeOver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use zeroize::Zeroizing;

use super::revoke::Closing;
use super::{Asked, Control, busy, hand_over, refused};
use crate::lease;
use crate::mailbox::Mailbox;

/// Connections at a time; the admin process needs one a request.
const PEERS_MAX: usize = 64;

/// Connections the kernel holds before they are accepted.
pub(super) const BACKLOG: i32 = 128;

/// How long a peer may be silent or not read.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest request: one to issue a key with every text at its limit.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

/// Read at once.
const READ_BYTES: usize = 32 * 1024;

/// How long to wait when no descriptor is free: it must not spin (rule G6).
const BACK_OFF: Duration = Duration::from_millis(10);

/// How long what was ordered before a hand-over may take; meanwhile nothing is admitted.
const BUSY_WAIT: Duration = Duration::from_secs(1);

/// Between two looks whether all is answered, in front of a hand-over.
const BUSY_PAUSE: Duration = Duration::from_millis(1);

/// Serves the socket until the process ends, or another one takes over. From its first look on, workers send.
pub(crate) fn start(listener: UnixListener, control: Arc<Control>) -> io::Result<hand_over::Front> {
    listener.set_nonblocking(true)?;
    let (returned, line) = Mailbox::new()?;
    line.set_nonblocking(true)?;
    let handle = hand_over::Front(returned.clone());
    let mut front = Front {
        control,
        listener,
        line,
        returned,
        peers: Vec::new(),
        count: Arc::default(),
        busy: Arc::default(),
        spare: spare(),
    };
    let run = move || {
        let run = AssertUnwindSafe(|| while front.turn() {});
        if catch_unwind(run).is_err() {
            // Deaf for orders to revoke, so the process ends and is restarted.
            std::process::abort();
        }
    };
    thread::Builder::new().name("control".to_owned()).spawn(run)?;
    Ok(handle)
}

/// A descriptor to give up where there is no other: a revoke must get in when agents have taken all.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

struct Front {
    control: Arc<Control>,
    listener: UnixListener,
    /// Woken when a connection is handed back.
    line: UnixStream,
    returned: Mailbox<Returned>,
    /// Those whose next request is waited for.
    peers: Vec<Peer>,
    /// Those and the ones being answered.
    count: Arc<AtomicUsize>,
    /// Those that are being answered.
    busy: Arc<AtomicUsize>,
    spare: Option<File>,
}

/// What other threads tell this one.
pub(super) enum Returned {
    /// It was answered.
    Peer(Peer),
    Park(hand_over::Park),
}

/// A connection.
pub(super) struct Peer {
    stream: UnixStream,
    input: Zeroizing<Vec<u8>>,
    /// It sends no more. What it sent before counts: whoever gave up waiting has still ordered.
    has_ended: bool,
    since: Instant,
    _counted: Counted,
}

/// Counts a peer down, however it ends.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request that was read, with its accounts closed where it is to revoke.
enum Work {
    /// Shards and disk are waited for.
    Finish(Closing),
    Answer(Box<Request>),
    TakeOver(TakeOver),
    Reply(Reply),
}

impl Front {
    /// `false`: another process has the socket.
    fn turn(&mut self) -> bool {
        self.spare = self.spare.take().or_else(spare);
        let mut park = None;
        while let Some(returned) = self.returned.take() {
            match returned {
                Returned::Peer(peer) => self.serve(peer, Instant::now()),
                Returned::Park(order) => park = Some(order),
            }
        }
        // Before the look: what it does not see was not there at this time.
        let before = self.control.lease.before_look();
        let looked_at = Instant::now();
        let longest = if park.is_some() { Duration::ZERO } else { lease::RENEWAL };
        let Some(ready) = self.wait(longest) else { return true };
        let arrived = Instant::now();
        drop((&self.line).read(&mut [0; 64]));
        for (mut peer, is_ready) in std::mem::take(&mut self.peers).into_iter().zip(ready) {
            if !is_ready {
                if peer.since.elapsed() < PEER_TIMEOUT {
                    self.peers.push(peer);
                }
            } else {
                peer.read();
                self.serve(peer, arrived);
            }
        }
        if self.accept_all(arrived) {
            self.control.lease.renew(before, looked_at);
        } else {
            thread::sleep(BACK_OFF);
        }
        let Some(park) = park else { return true };
        // What was ordered is answered and on disk, or said to be pending.
        let since = Instant::now();
        while self.busy.load(Ordering::Acquire) > 0 {
            if since.elapsed() >= BUSY_WAIT {
                return true;
            }
            thread::sleep(BUSY_PAUSE);
        }
        park.stand_still(&self.listener)
    }

    /// Waits for input, at most so long; which peers have some. `None` when that cannot be known.
    fn wait(&self, longest: Duration) -> Option<Vec<bool>> {
        let timeout = if self.returned.fall_asleep() { longest } else { Duration::ZERO };
        let nanoseconds = i64::try_from(timeout.as_nanos()).unwrap_or_default();
        let timeout = Timespec { tv_sec: 0, tv_nsec: nanoseconds };
        let mut fds =
            vec![PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&self.line, PollFlags::IN)];
        let own = fds.len();
        fds.extend(self.peers.iter().map(|peer| PollFd::new(&peer.stream, PollFlags::IN)));
        poll(&mut fds, Some(&timeout)).ok()?;
        Some(fds.iter().skip(own).map(|fd| !fd.revents().is_empty()).collect())
    }

    /// Accepts and reads whoever waits. `false` where one had to be left, with whatever it ordered.
    fn accept_all(&mut self, arrived: Instant) -> bool {
        // More cannot have waited when this turn looked, and they come in their order: a flood of later
        // ones holds nobody back.
        for _ in 0..=BACKLOG {
            match self.listener.accept() {
                Ok((stream, _)) => self.welcome(stream, arrived),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) if self.spare.take().is_some() => {}
                Err(_) => return false,
            }
        }
        true
    }

    fn welcome(&mut self, mut stream: UnixStream, arrived: Instant) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        if self.is_full() {
            // Some may have ended without a turn of their own yet.
            for mut peer in std::mem::take(&mut self.peers) {
                peer.read();
                self.serve(peer, arrived);
            }
        }
        if self.is_full() {
            let busy = refused(503, "too_many_peers", None, "too many control connections; try again");
            // Small enough for the socket's buffer.
            drop(control::encode(&busy).map(|frame| stream.write_all(&frame)));
            return;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let counted = Counted(Arc::clone(&self.count));
        let mut peer =
            Peer { stream, input: Zeroizing::default(), has_ended: false, since: arrived, _counted: counted };
        peer.read();
        self.serve(peer, arrived);
    }

    fn is_full(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= PEERS_MAX
    }

    /// Serves the requests of `peer` that are there, up to one that takes longer.
    fn serve(&mut self, mut peer: Peer, arrived: Instant) {
        loop {
            let work = match peer.take_frame() {
                Ok(None) if peer.has_ended => return,
                Ok(None) => return self.peers.push(peer),
                Ok(Some(body)) => self.begin(&body, arrived),
                // Where the next frame begins is not known.
                Err(error) => {
                    peer.has_ended = true;
                    peer.input.clear();
                    Work::Reply(refused(400, "malformed_frame", None, error.to_string()))
                }
            };
            match work {
                Work::Reply(reply) => {
                    // It fits the socket's buffer, unless the peer does not read.
                    let Ok(frame) = control::encode(&reply) else { return };
                    if peer.stream.write_all(&frame).is_err() {
                        return;
                    }
                    peer.since = arrived;
                }
                Work::Finish(closing) => {
                    return self.hand_over(peer, move |control| control.finish(closing));
                }
                Work::TakeOver(offer) => return self.send_on(peer, offer),
                Work::Answer(request) => {
                    return self.hand_over(peer, move |control| control.answer(*request, arrived));
                }
            }
        }
    }

    /// Does what cannot wait.
    fn begin(&self, body: &[u8], arrived: Instant) -> Work {
        match control::decode(body) {
            Ok(Request::Revoke(order)) => match self.control.close(&order, arrived) {
                Ok(closing) => Work::Finish(closing),
                Err(refusal) => Work::Reply(refusal),
            },
            // Microseconds, which is less than a thread takes; and agents can ask for these.
            Ok(request @ (Request::ShowKey(_) | Request::SelfKey { .. })) => {
                Work::Reply(self.control.answer(request, arrived))
            }
            Ok(Request::TakeOver(offer)) => Work::TakeOver(*offer),
            Ok(request) => Work::Answer(Box::new(request)),
            Err(error) => Work::Reply(refused(400, "malformed_frame", None, error.to_string())),
        }
    }

    /// Whoever waits for signals hands over; one at a time.
    fn send_on(&self, peer: Peer, offer: TakeOver) {
        let asked = Asked { stream: peer.stream, offer };
        if let Err(refused) = self.control.asked.try_send(asked) {
            let mut stream = refused.into_inner().stream;
            answer(&mut stream, &busy()).ok();
        }
    }

    /// Has a thread of its own make the reply, write it, and hand the peer back.
    fn hand_over(&self, mut peer: Peer, reply: impl FnOnce(&Control) -> Reply + Send + 'static) {
        let (control, returned) = (Arc::clone(&self.control), self.returned.clone());
        self.busy.fetch_add(1, Ordering::AcqRel);
        let busy = Counted(Arc::clone(&self.busy));
        let finish = move || {
            let _busy = busy;
            match answer(&mut peer.stream, &reply(&control)) {
                Ok(()) => {
                    peer.since = Instant::now();
                    returned.post(Returned::Peer(peer));
                }
                // Whoever asked has given up.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
                Err(error) => eprintln!("keybrake-dataplane: control: {error}"),
            }
        };
        // A thread that does not start drops the closure and with it the peer, which then has no answer.
        thread::Builder::new().name("control-peer".to_owned()).spawn(finish).ok();
    }
}

impl Peer {
    /// Reads what is there.
    fn read(&mut self) {
        // A frame may hold a credential: every copy is wiped (rule S1).
        let mut buffer = Zeroizing::new([0; READ_BYTES]);
        // One request at a time is served, so there is nothing to gain from more than one.
        while self.input.len() <= REQUEST_BYTES_MAX {
            match self.stream.read(&mut buffer[..]) {
                Ok(read @ 1..) => self.append(buffer.get(..read).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.has_ended = true;
                    return;
                }
            }
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        let needed = self.input.len().saturating_add(bytes.len());
        if needed > self.input.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.saturating_mul(2)));
            larger.extend_from_slice(&self.input);
            self.input = larger;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next request's body, once all of it is there.
    fn take_frame(&mut self) -> Result<Option<Zeroizing<Vec<u8>>>, FrameError> {
        let Some((header, rest)) = self.input.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Ok(None);
        };
        let length = control::body_bytes(*header)?;
        if length > REQUEST_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some((body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
        let body = Zeroizing::new(body.to_vec());
        self.input = Zeroizing::new(rest.to_vec());
        Ok(Some(body))
    }
}

/// Writes a reply; waits for a peer that does not read, but not for ever.
fn answer(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let frame = control::encode(reply).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PEER_TIMEOUT))?;
    stream.write_all(&frame)?;
    stream.set_nonblocking(true)
}
