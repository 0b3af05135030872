//! The one door to a vendor: sends an admitted request and reads the reply.
//!
//! Nothing is sent without a [`Permit`] and a [`Hold`], and nothing is sent twice but a GET that is free.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use keybrake_proto::deny::Withheld;
use keybrake_proto::http1::{BodyDecoder, HeadLimits, Method, Parsed, ReplyFraming, ReplyHead, encode};
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Permit;
use zeroize::Zeroize as _;

use crate::hold::Hold;
use crate::in_flight::Ticket;
use crate::limits::Memory;
use crate::pool::{Credential, Pool, VendorConnection};
use crate::registry::Epoch;
use crate::shard::{NotConnected, Shard};

/// Read at once.
const READ_BYTES: usize = 16 * 1024;

/// Read at once, once a body is known to be large: fewer trips through the ring.
const BULK_READ_BYTES: usize = 128 * 1024;

/// Room for the method, the version and the header lines that are written here.
const OWN_LINES_BYTES: usize = 256;

/// Interim replies (1xx) in front of a final one (rule H7).
const INTERIM_MAX: u32 = 8;

/// The end of a long request, sent by itself: a reply that is there before it was not asked for (rule H7).
const LAST_PIECE_BYTES: usize = 16 * 1024;

/// Fields that say how long a body is.
const FRAMING_FIELDS: [&str; 2] = ["content-length", "transfer-encoding"];

/// What lets a request through the door.
pub(crate) struct Admitted {
    #[expect(dead_code, reason = "that it exists is the proof")]
    pub(crate) permit: Permit,
    pub(crate) hold: Hold,
    pub(crate) ticket: Ticket,
    /// Of the policy that said yes.
    pub(crate) epoch: Epoch,
}

/// A request as it goes to the vendor, in parts that were parsed.
pub(crate) struct Outgoing<'a> {
    /// What it is sent with; its path was written for this one.
    pub(crate) credential: &'a Arc<Credential>,
    pub(crate) line: encode::RequestLine<'a>,
    /// Fields of the allowlist.
    pub(crate) fields: &'a [(&'a [u8], &'a [u8])],
    /// The whole body; `None` sends no Content-Length.
    pub(crate) body: Option<&'a [u8]>,
}

/// What broke between keybrake and the vendor.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No connection: nothing was sent.
    Unreachable(io::Error),
    /// The key was closed after admission: nothing was sent.
    Closed,
    /// It cannot be known whether the key was closed: nothing was sent.
    Blind,
    /// The policy that said yes is no longer the key's, or the credential was replaced: nothing was sent.
    Stale,
    /// Another process takes over: nothing was sent.
    Draining,
    /// The key was revoked while it was sent, or with an order to cut: the vendor may have acted.
    Revoked,
    /// The vendor may have acted; it was too slow.
    TimedOut,
    /// The vendor may have acted; it closed the connection without a byte of an answer.
    Dropped,
    /// The vendor may have acted; its answer broke off or is not HTTP.
    Broken,
}

impl Fault {
    /// Whether the vendor cannot have seen the request.
    pub(crate) fn before_send(&self) -> bool {
        matches!(self, Fault::Unreachable(_) | Fault::Closed | Fault::Blind | Fault::Stale | Fault::Draining)
    }
}

impl From<NotConnected> for Fault {
    fn from(error: NotConnected) -> Fault {
        match error {
            NotConnected::Failed(error) => Fault::Unreachable(error),
            NotConnected::Closed => Fault::Closed,
            NotConnected::Draining => Fault::Draining,
        }
    }
}

/// A vendor's reply: its head, and as much of its body as was asked for.
pub(crate) struct Reply {
    connection: VendorConnection,
    decoder: BodyDecoder,
    /// Bytes of the connection's input that are the head.
    head_bytes: usize,
    /// Decoded and not yet taken.
    pub(crate) body: Vec<u8>,
    /// So many first bytes of `body` were searched for the credential.
    searched: usize,
}

/// The vendor's credential stands in what it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaked;

/// Sends an admitted request and reads the reply's head. `now` is when it was admitted.
pub(crate) async fn forward(
    shard: &Rc<Shard>,
    pool: &Pool,
    admitted: &Admitted,
    outgoing: &Outgoing<'_>,
    now: Instant,
) -> Result<Reply, Fault> {
    let entry = admitted.hold.entry();
    let credential = outgoing.credential;
    let (connection, now) = match pool.take_idle(credential) {
        Some(connection) => {
            shard.metrics.vendor_connections_reused.add(1);
            (connection, now)
        }
        None => (shard.connect(pool, entry).await?.with(credential), Instant::now()),
    };
    // A GET that costs money is carried out once, as every write.
    let is_free = admitted.hold.quote() == Micros::ZERO;
    let may_repeat = connection.is_reused && outgoing.line.method == Method::Get && is_free;
    match exchange(shard, pool, admitted, outgoing, (connection, now)).await {
        // A kept connection may have been closed by the vendor in the same moment.
        Err(Fault::Dropped) if may_repeat => {}
        done => return done,
    }
    // The first try may have arrived, so whatever comes now is not "nothing was sent".
    let connection = shard.connect(pool, entry).await.map_err(|_| Fault::Dropped)?.with(credential);
    let repeated = exchange(shard, pool, admitted, outgoing, (connection, Instant::now())).await;
    repeated.map_err(|fault| if fault.before_send() { Fault::Dropped } else { fault })
}

/// Carries one request on a connection; the clock was read with it.
async fn exchange(
    shard: &Rc<Shard>,
    pool: &Pool,
    admitted: &Admitted,
    outgoing: &Outgoing<'_>,
    (mut connection, now): (VendorConnection, Instant),
) -> Result<Reply, Fault> {
    if !shard.control_has_looked(now).await {
        pool.keep(connection);
        return Err(if shard.is_handing_over() { Fault::Draining } else { Fault::Blind });
    }
    encode_request(&mut connection.output, pool, outgoing);
    shard.obey();
    // A revoke that the other process acknowledges must not be followed by a byte of this one.
    if shard.is_handing_over() {
        connection.output.zeroize();
        return Err(Fault::Draining);
    }
    if shard.deadlines.is_cut() {
        connection.output.zeroize();
        return Err(Fault::Unreachable(io::Error::other("keybrake is stopping")));
    }
    // The last look. From here to the end of the send the exchange counts as sent (rule Q20).
    if !admitted.hold.entry().is_open(shard.clock.expiry(shard.now())) {
        connection.output.zeroize();
        pool.keep(connection);
        return Err(Fault::Closed);
    }
    if admitted.hold.entry().epoch() != admitted.epoch || !pool.vendor.is_current(outgoing.credential) {
        connection.output.zeroize();
        pool.keep(connection);
        return Err(Fault::Stale);
    }
    // A kept one was looked at when it was taken.
    if !connection.is_reused && connection.transport.has_spoken() {
        connection.output.zeroize();
        return Err(Fault::Unreachable(io::Error::other("it spoke before it was asked")));
    }
    admitted.ticket.looked(connection.deadline.id());
    connection.deadline.set(pool.vendor.config.timeout_s);
    let written = connection.send().await;
    admitted.ticket.sent();
    written?;
    Reply::receive(connection).await
}

/// Head and body in one buffer, so that they leave in one write.
fn encode_request(output: &mut Vec<u8>, pool: &Pool, outgoing: &Outgoing<'_>) {
    let (vendor, credential) = (&pool.vendor, &outgoing.credential.line);
    let body = outgoing.body.unwrap_or_default();
    let own: &[(&[u8], &[u8])] = &[(b"Accept-Encoding", b"identity")];
    let fields = outgoing.fields.iter().chain(own).copied();
    let length = outgoing.body.map(|body| u64::try_from(body.len()).unwrap_or(u64::MAX));
    let authority = vendor.authority.as_bytes();
    let fields_bytes =
        outgoing.fields.iter().map(|(name, value)| name.len().saturating_add(value.len()).saturating_add(4));
    let line = [outgoing.line.path, outgoing.line.query.unwrap_or_default(), authority];
    let line_bytes = line.into_iter().map(<[u8]>::len);
    let parts_bytes = [credential.expose().len(), body.len(), OWN_LINES_BYTES];
    // Room for all of it: a buffer that grows leaves a copy of the credential behind.
    output.reserve(fields_bytes.chain(line_bytes).chain(parts_bytes).fold(0, usize::saturating_add));
    encode::request_head(output, outgoing.line, authority, fields, length, credential.expose());
    output.extend_from_slice(body);
}

impl VendorConnection {
    /// For calls with this credential.
    fn with(mut self, credential: &Arc<Credential>) -> VendorConnection {
        self.credential = Some(Arc::clone(credential));
        self
    }

    /// Sends `output`. A vendor that speaks before it has all of a long request answers something else.
    async fn send(&mut self) -> Result<(), Fault> {
        let mut output = std::mem::take(&mut self.output);
        let first_bytes = output.len().saturating_sub(LAST_PIECE_BYTES);
        let last = if first_bytes > 0 { output.split_off(first_bytes) } else { Vec::new() };
        let (mut written, mut output) = self.transport.write_all(output).await;
        // The buffer held the credential (S1).
        output.zeroize();
        self.output = output;
        if written.is_ok() && !last.is_empty() {
            if self.transport.has_spoken() {
                // Its end may also be a revoke's or a deadline's doing.
                let fault = self.fault();
                return Err(if matches!(fault, Fault::Dropped) { Fault::Broken } else { fault });
            }
            let mut sent;
            (written, sent) = self.transport.write_all(last).await;
            sent.zeroize();
        }
        written.map_err(|_| self.fault())
    }

    /// Reads the final reply's head; answers its length.
    async fn read_head(&mut self) -> Result<usize, Fault> {
        let mut interim = 0u32;
        let mut is_first = true;
        loop {
            match self.head.parse(&self.input, &HeadLimits::REPLY) {
                Ok(Parsed::Complete { head_bytes }) if !self.head.is_interim() => return Ok(head_bytes),
                Ok(Parsed::Complete { head_bytes }) if interim < INTERIM_MAX => {
                    self.input.drain(..head_bytes);
                    self.head.reset();
                    interim = interim.saturating_add(1);
                }
                Ok(Parsed::Partial) => {
                    if self.read(READ_BYTES).await? == 0 {
                        return Err(self.fault());
                    }
                    if std::mem::take(&mut is_first) && self.transport.was_early() {
                        return Err(Fault::Broken);
                    }
                }
                Ok(Parsed::Complete { .. }) | Err(_) => return Err(Fault::Broken),
            }
        }
    }

    async fn read(&mut self, room: usize) -> Result<usize, Fault> {
        let input = std::mem::take(&mut self.input);
        let (read, input) = self.transport.read(input, room).await;
        self.input = input;
        read.map_err(|_| self.fault())
    }

    fn fault(&self) -> Fault {
        if self.deadline.was_revoked() {
            return Fault::Revoked;
        }
        match (self.deadline.has_expired(), self.input.is_empty()) {
            (true, _) => Fault::TimedOut,
            (false, true) => Fault::Dropped,
            (false, false) => Fault::Broken,
        }
    }
}

impl Reply {
    /// Reads a reply's head, and what came with it.
    pub(crate) async fn receive(mut connection: VendorConnection) -> Result<Reply, Fault> {
        let head_bytes = connection.read_head().await?;
        let decoder = BodyDecoder::of_reply(connection.head.framing(), u64::MAX);
        let mut reply = Reply { connection, decoder, head_bytes, body: Vec::new(), searched: 0 };
        reply.decode_rest_of_input()?;
        Ok(reply)
    }

    /// The reply's status.
    pub(crate) fn status(&self) -> u16 {
        self.connection.head.status()
    }

    /// The reply's head and the bytes it speaks of.
    pub(crate) fn head(&self) -> (&ReplyHead, &[u8]) {
        (&self.connection.head, &self.connection.input)
    }

    /// Whether the whole body was read.
    pub(crate) fn is_complete(&self) -> bool {
        self.decoder.is_done()
    }

    /// The body, where it is whole and in clear text: what is encoded, or may have been cut, says
    /// nothing reliable of what a call cost.
    pub(crate) fn readable_body(&self) -> Option<&[u8]> {
        let is_readable = self.head().0.framing() != ReplyFraming::UntilClose && !self.is_encoded();
        (self.is_complete() && is_readable).then_some(&self.body)
    }

    /// Whether its body is in another form than it was asked for in.
    fn is_encoded(&self) -> bool {
        let (head, input) = self.head();
        head.fields(input).any(|(name, value)| {
            name.eq_ignore_ascii_case(b"content-encoding") && !value.eq_ignore_ascii_case(b"identity")
        })
    }

    /// What it was asked for with.
    pub(crate) fn credential(&self) -> Option<&Arc<Credential>> {
        self.connection.credential.as_ref()
    }

    /// Why the head and what was read of the body must not be passed on (rule S2).
    pub(crate) fn withheld(&mut self) -> Option<Withheld> {
        let head = self.connection.input.get(..self.head_bytes).unwrap_or_default();
        if self.credential().is_some_and(|credential| credential.forms.stand_in(head)) {
            return Some(Withheld::Credential);
        }
        if self.passable().is_err() {
            return Some(Withheld::Credential);
        }
        // What has no body needs no decoding.
        let is_empty = self.is_complete() && self.body.is_empty();
        (self.is_encoded() && !is_empty).then_some(Withheld::Encoded)
    }

    /// How many bytes of `body` may go out: those which neither are of the credential nor may begin it.
    pub(crate) fn passable(&mut self) -> Result<usize, Leaked> {
        let Some(credential) = &self.connection.credential else { return Ok(self.body.len()) };
        let from = self.searched.saturating_sub(credential.forms.overlap());
        if credential.forms.stand_in(self.body.get(from..).unwrap_or_default()) {
            return Err(Leaked);
        }
        self.searched = self.body.len();
        let held = if self.is_complete() { 0 } else { credential.forms.begun(&self.body) };
        Ok(self.body.len().saturating_sub(held))
    }

    /// Takes so many first bytes of `body` off it.
    pub(crate) fn passed(&mut self, bytes: usize) {
        self.body.drain(..bytes.min(self.body.len()));
        self.searched = self.searched.saturating_sub(bytes);
    }

    /// Reads until the body is complete, or more than `limit` bytes of it are there, or `memory` has no room for more
    /// (rule G3).
    pub(crate) async fn read_up_to(&mut self, limit: usize, memory: &mut Memory) -> Result<(), Fault> {
        while !self.is_complete() && self.body.len() <= limit {
            // It is there twice: as it was read, and as it is passed on.
            let is_first = self.body.len() < READ_BYTES;
            let next = self.body.len().saturating_add(BULK_READ_BYTES);
            if !is_first && !memory.cover(next.saturating_mul(2)) {
                return Ok(());
            }
            self.read_more().await?;
        }
        Ok(())
    }

    /// Reads the next piece of the body behind what is there.
    pub(crate) async fn read_more(&mut self) -> Result<(), Fault> {
        let room = if self.body.len() >= READ_BYTES { BULK_READ_BYTES } else { READ_BYTES };
        if self.connection.read(room).await? == 0 {
            return self.decoder.end_of_input().map_err(|_| self.connection.fault());
        }
        self.decode_rest_of_input()
    }

    /// Gives the connection back where the exchange ended cleanly; else drops it (H7).
    pub(crate) fn finish(mut self, pool: &Pool) {
        let (head, input) = self.head();
        // A length on a reply that has no body announces bytes that nobody would read.
        let is_bodiless = head.framing() == ReplyFraming::None;
        let may_trail = is_bodiless && FRAMING_FIELDS.iter().any(|name| head.field(input, name).is_some());
        let has_surplus = input.len() > self.head_bytes || may_trail;
        if self.is_complete() && !has_surplus && !self.connection.head.close() {
            self.connection.input.clear();
            pool.keep(self.connection);
        }
    }

    fn decode_rest_of_input(&mut self) -> Result<(), Fault> {
        let input = self.connection.input.get(self.head_bytes..).unwrap_or_default();
        let progress = self.decoder.decode(input, &mut self.body).map_err(|_| Fault::Broken)?;
        let decoded = self.head_bytes..self.head_bytes.saturating_add(progress.consumed);
        self.connection.input.drain(decoded);
        Ok(())
    }
}
