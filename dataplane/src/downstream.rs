//! An agent's connection: its requests, read whole, and the replies to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use keybrake_proto::config::Proxy;
use keybrake_proto::deny::{Deny, Overload};
use keybrake_proto::http1::{
    BodyDecoder, BodyError, BodyFraming, HeadError, HeadLimits, Method, Parsed, RequestHead, encode,
};
use rustls::HandshakeKind;

use crate::alarm::Alarm;
use crate::deadline::{Deadline, Deadlines, Pace};
use crate::limits::{Limits, Memory};
use crate::rt::Direction;
use crate::transport::Transport;

/// Read at once while waiting for a request: most arrive whole in it, and io_uring holds the buffer
/// as long as the connection is idle, so it is what an idle connection costs.
const FIRST_READ_BYTES: usize = 4 * 1024;

/// Read at once when there is more of a request.
const READ_BYTES: usize = 16 * 1024;

/// Memory a buffer keeps between requests; more is given back.
const KEPT_BYTES: usize = 8 * 1024;

/// What is read and dropped behind a last reply, so that the agent gets it: closing a socket with
/// unread bytes resets it, and the reply may be lost.
const LINGER_BYTES: usize = 256 * 1024;

/// A body up to here is read before a refusal, so that the connection can go on.
const SMALL_BODY_BYTES: u64 = 16 * 1024;

const LINGER_SECONDS: u64 = 2;

/// What becomes of an agent's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It may carry another request.
    NextRequest,
    /// It ends.
    Close,
}

/// Why no further request comes from a connection.
#[derive(Debug)]
pub(crate) enum End {
    /// The agent closed it, or its time was over.
    Closed,
    /// What it sent is no request.
    Malformed(HeadError),
}

/// Why a request's body is not there.
#[derive(Debug)]
pub(crate) enum BodyFault {
    /// The agent is gone, so nobody waits for an answer.
    Gone,
    /// The body can be read in more than one way, or is too large.
    Refused(BodyError),
    /// It did not arrive in time.
    TooSlow,
    /// There is no memory for it (rule G3).
    NoMemory,
}

/// An agent's connection and the request that is being served.
pub(crate) struct Downstream {
    // Before the transport, whose descriptor it holds.
    deadline: Deadline,
    transport: Transport,
    /// The request's head, and whatever came behind it.
    input: Vec<u8>,
    head: RequestHead,
    head_bytes: usize,
    /// Bytes of `input` that belong to the request.
    consumed: usize,
    /// The request's body, decoded.
    body: Vec<u8>,
    body_is_read: bool,
    /// The reply being built.
    pub(crate) output: Vec<u8>,
    /// For more of the body than a connection may have anyway.
    memory: Memory,
    limits: Arc<Limits>,
    address: IpAddr,
    peer: String,
    keep_alive: bool,
}

impl Downstream {
    pub(crate) fn new(
        transport: Transport,
        peer: SocketAddr,
        deadlines: &Rc<Deadlines>,
        limits: &Arc<Limits>,
    ) -> Downstream {
        Downstream {
            deadline: deadlines.slot(transport.fd()),
            transport,
            input: Vec::new(),
            head: RequestHead::new(),
            head_bytes: 0,
            consumed: 0,
            body: Vec::new(),
            body_is_read: true,
            output: Vec::new(),
            memory: limits.request_memory(),
            limits: Arc::clone(limits),
            address: peer.ip(),
            peer: peer.ip().to_string(),
            keep_alive: true,
        }
    }

    /// Shakes hands, where the connection is encrypted; says how that went.
    pub(crate) async fn shake_hands(&mut self, limits: &Proxy) -> io::Result<Option<HandshakeKind>> {
        // Who has no request yet is not waited for at a drain.
        self.deadline.set_idle(limits.head_timeout_s);
        self.transport.shake_hands().await
    }

    /// Waits for the next request and reads its head.
    pub(crate) async fn next_request(&mut self, limits: &Proxy) -> Result<(), End> {
        self.forget_request();
        if self.has_no_input() {
            self.deadline.set_idle(limits.idle_timeout_s);
            let input = std::mem::take(&mut self.input);
            let (read, input) = self.transport.read_first(input, FIRST_READ_BYTES).await;
            self.input = input;
            if !read.unwrap_or(false) {
                return Err(End::Closed);
            }
        }
        self.deadline.set(limits.head_timeout_s);
        loop {
            match self.head.parse(&self.input, &HeadLimits::REQUEST) {
                Ok(Parsed::Complete { head_bytes }) => {
                    self.head_bytes = head_bytes;
                    self.consumed = head_bytes;
                    self.body.clear();
                    self.body_is_read = false;
                    self.keep_alive = !self.head.wants_close();
                    return Ok(());
                }
                Ok(Parsed::Partial) => {
                    if let Err(end) = self.read(READ_BYTES).await {
                        self.note_if_late(Alarm::SlowHead);
                        return Err(end);
                    }
                }
                Err(error) => return Err(End::Malformed(error)),
            }
        }
    }

    /// Reads the request's body whole (rule Q24), at most `bytes_max`.
    pub(crate) async fn read_body(&mut self, limits: &Proxy, bytes_max: u64) -> Result<(), BodyFault> {
        let mut decoder = BodyDecoder::new(self.head.framing(), bytes_max);
        let pace = Pace {
            grace_s: limits.rate_grace_s,
            bytes_per_s_min: limits.body_bytes_per_s_min,
            timeout_s: limits.body_timeout_s,
        };
        let mut began = self.deadline.begin(pace, 0, Direction::Read);
        let mut arrived = 0usize;
        let mut asked = !self.head.expect_continue();
        loop {
            let input = self.input.get(self.consumed..).unwrap_or_default();
            let progress = decoder.decode(input, &mut self.body).map_err(BodyFault::Refused)?;
            self.consumed = self.consumed.saturating_add(progress.consumed);
            if progress.done {
                self.body_is_read = true;
                // The vendor has a deadline of its own; until it answers nothing is due here.
                self.deadline.clear();
                return Ok(());
            }
            if !asked && decoder.fits() {
                asked = true;
                self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                self.flush(limits).await.map_err(|_| BodyFault::Gone)?;
                began = self.deadline.begin(pace, 0, Direction::Read);
            }
            self.drop_decoded();
            // Each connection has room for one piece. What is beyond that is there twice, as it was read and as it will
            // be sent, and is taken before it is read; not when it is announced, since announcing costs nothing.
            if !self.memory.cover(self.body.len().saturating_mul(2)) {
                return Err(BodyFault::NoMemory);
            }
            let before = self.input.len();
            if self.read(READ_BYTES).await.is_err() {
                let is_late = self.note_if_late(Alarm::SlowBody);
                return Err(if is_late { BodyFault::TooSlow } else { BodyFault::Gone });
            }
            arrived = arrived.saturating_add(self.input.len().saturating_sub(before));
            self.deadline.keep_pace(began, pace, arrived);
        }
    }

    /// The head's bytes, which [`Downstream::head`] speaks of.
    pub(crate) fn input(&self) -> &[u8] {
        &self.input
    }

    /// The head's bytes and nothing behind them.
    pub(crate) fn head_bytes(&self) -> &[u8] {
        self.input.get(..self.head_bytes).unwrap_or_default()
    }

    /// The request's head.
    pub(crate) fn head(&self) -> &RequestHead {
        &self.head
    }

    /// The request's body, once read.
    pub(crate) fn body(&self) -> &[u8] {
        &self.body
    }

    /// The agent's address, as a number.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    /// The agent's address.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether nothing of a further request has arrived.
    pub(crate) fn has_no_input(&mut self) -> bool {
        self.consumed >= self.input.len() && !self.transport.holds_input()
    }

    /// Whether the connection can carry another request: nothing of this one is unread, and the
    /// agent did not ask to close (H6).
    pub(crate) fn can_go_on(&self) -> bool {
        self.keep_alive && (self.body_is_read || self.has_no_body())
    }

    /// The reply says that the connection ends with it.
    pub(crate) fn end_after_reply(&mut self) {
        self.keep_alive = false;
    }

    /// Sends what stands in `output`.
    pub(crate) async fn flush(&mut self, limits: &Proxy) -> io::Result<()> {
        let pace = Pace {
            grace_s: limits.rate_grace_s,
            bytes_per_s_min: limits.write_bytes_per_s_min,
            timeout_s: limits.write_timeout_s,
        };
        let output = std::mem::take(&mut self.output);
        // What the agent has taken of a piece is not seen, so a piece has the time that its length needs.
        self.deadline.begin(pace, output.len(), Direction::Both);
        let (written, mut output) = self.transport.write_all(output).await;
        if written.is_err() {
            self.note_if_late(Alarm::SlowReader);
        }
        self.deadline.clear();
        output.clear();
        self.output = output;
        written
    }

    /// Sends what stands in `output`; says what becomes of the connection.
    pub(crate) async fn reply(&mut self, limits: &Proxy) -> After {
        match self.flush(limits).await {
            Ok(()) if self.can_go_on() => After::NextRequest,
            Ok(()) | Err(_) => After::Close,
        }
    }

    /// Ends the connection so that the agent still gets the last reply.
    pub(crate) async fn close(mut self) {
        self.body = Vec::new();
        self.memory.give_back();
        self.hang_up().await;
        let mut dropped = 0usize;
        while dropped < LINGER_BYTES {
            let mut input = std::mem::take(&mut self.input);
            input.clear();
            let (read, input) = self.transport.read_away(input, READ_BYTES).await;
            self.input = input;
            match read {
                Ok(bytes @ 1..) => dropped = dropped.saturating_add(bytes),
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Ends the connection with an agent that sends no more.
    pub(crate) async fn hang_up(&mut self) {
        self.deadline.set(LINGER_SECONDS);
        self.transport.end().await;
    }

    /// Whether a body is left that is short enough to read just to keep the connection.
    pub(crate) fn has_small_body_left(&self) -> bool {
        let is_small = matches!(self.head.framing(), BodyFraming::Length(1..=SMALL_BODY_BYTES));
        is_small && self.keep_alive && !self.body_is_read && !self.head.expect_continue()
    }

    fn has_no_body(&self) -> bool {
        BodyDecoder::new(self.head.framing(), u64::MAX).is_done()
    }

    /// Whether the time was over; if so it is counted.
    fn note_if_late(&self, alarm: Alarm) -> bool {
        let is_late = self.deadline.has_expired() && !self.deadline.was_revoked();
        if is_late {
            self.limits.note(alarm);
        }
        is_late
    }

    fn forget_request(&mut self) {
        self.body.clear();
        self.input.drain(..self.consumed.min(self.input.len()));
        self.consumed = 0;
        self.head.reset();
        for buffer in [&mut self.input, &mut self.body, &mut self.output] {
            if buffer.is_empty() && buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        self.memory.give_back();
    }

    /// Drops body bytes that were decoded, so that a body is not kept twice. The head stays.
    fn drop_decoded(&mut self) {
        self.input.drain(self.head_bytes..self.consumed);
        self.consumed = self.head_bytes;
    }

    async fn read(&mut self, room: usize) -> Result<(), End> {
        let input = std::mem::take(&mut self.input);
        let (read, input) = self.transport.read(input, room).await;
        self.input = input;
        match read {
            Ok(1..) => Ok(()),
            Ok(0) | Err(_) => Err(End::Closed),
        }
    }
}

/// The refusal of a body that is not there.
pub(crate) fn body_refusal(fault: &BodyFault) -> Deny {
    match fault {
        BodyFault::Refused(error) => {
            Deny::Malformed { status: error.status(), problem: error.to_string().into() }
        }
        BodyFault::NoMemory => Deny::Overload(Overload::Memory),
        BodyFault::Gone | BodyFault::TooSlow => {
            Deny::Malformed { status: 408, problem: "the body did not arrive in time".into() }
        }
    }
}

/// The refusal of a head that is no request, whose bytes are `input`.
pub(crate) fn refusal(input: &[u8], error: HeadError) -> Deny {
    // A record of a handshake (RFC 8446 section 5.1).
    if input.starts_with(&[22, 3]) {
        let problem = "this port speaks plain HTTP and this is TLS; use an http:// URL, or set [proxy.tls]";
        return Deny::Malformed { status: 400, problem: problem.into() };
    }
    Deny::Malformed { status: error.status(), problem: error.to_string().into() }
}

/// Writes a denial into the reply; `has_idempotency_key` decides on retries of 5xx (rule Q25).
pub(crate) fn write_denial(
    agent: &mut Downstream,
    denial: &keybrake_proto::deny::Denial,
    request_id: &str,
    has_idempotency_key: bool,
) {
    let mut body = Vec::new();
    denial.write_body(&mut body);
    let retry_after = denial.retry_after_s.map(|seconds| seconds.to_string());
    let unknown_outcome = matches!(denial.status, 502 | 504);
    let never_retry = denial.never_retry || (unknown_outcome && !has_idempotency_key);
    let fields = [
        Some((&b"Content-Type"[..], &b"application/json"[..])),
        Some((&b"Request-Id"[..], request_id.as_bytes())),
        Some((&b"Keybrake-Decision"[..], denial.code.as_bytes())),
        retry_after.as_ref().map(|seconds| (&b"Retry-After"[..], seconds.as_bytes())),
        never_retry.then_some((&b"Stripe-Should-Retry"[..], &b"false"[..])),
        (denial.status == 405).then_some((&b"Allow"[..], Method::ALLOW.as_bytes())),
    ];
    let framing = BodyFraming::Length(u64::try_from(body.len()).unwrap_or(u64::MAX));
    let close = !agent.can_go_on();
    encode::reply_head(&mut agent.output, denial.status, fields.into_iter().flatten(), framing, close);
    agent.output.extend_from_slice(&body);
}
