//! The stand-in's HTTP/1.1 side: connections, framing, the order "record, then reply", and `/__ledger`.
//!
//! One thread owns everything; a reply is one write.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use keybrake_proto::http1::{BodyDecoder, BodyFraming, HeadLimits, Method, Parsed, RequestHead, encode};

use super::kill::{Killer, Point};
use super::ledger::{Ledger, Received};
use super::stripe::{self, Answer, Delivery, State};
use crate::arrival::{Arrival, Clock};
use crate::rt;

/// The longest body that is taken; Stripe's own requests are far shorter.
const BODY_BYTES_MAX: u64 = 8 * 1024 * 1024;
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Between two tries to accept while the process is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What Stripe answers with if the client names no version.
const DEFAULT_VERSION: &[u8] = b"2020-08-27";

/// A stand-in and how it answers.
pub(crate) struct Server {
    /// The vendor.
    pub(crate) state: State,
    /// Its record.
    pub(crate) ledger: Ledger,
    /// Its way to kill the proxy.
    pub(crate) killer: Option<Killer>,
    /// How late every reply is.
    pub(crate) latency: Duration,
    /// How long a request hangs; as long as its caller waits, if that is not said.
    pub(crate) hang: Option<Duration>,
    /// How long a reply's body is at least: shorter ones are padded with blanks, which JSON allows.
    pub(crate) reply_bytes_min: usize,
}

/// Where a stand-in listens, and what it says about that.
pub(crate) struct Listen {
    /// The vendor's name.
    pub(crate) name: &'static str,
    /// Where; port 0 picks a free one.
    pub(crate) address: SocketAddr,
    /// Whose clock stamps what arrives.
    pub(crate) stamps: Clock,
    /// What anything random is drawn from.
    pub(crate) seed: Option<u64>,
}

type Shared = Rc<RefCell<Server>>;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The address cannot be listened on, the signals cannot be taken, or the ledger cannot be synced.
pub(crate) async fn serve(listen: Listen, server: Server) -> anyhow::Result<()> {
    let stop =
        rt::StopSignals::register().context("cannot wait for signals; raise the limit of open files")?;
    let Listen { name, address, stamps, seed } = listen;
    let listener = rt::Listener::bind(address, stamps).map_err(|error| bind_fault(address, &error))?;
    announce(name, listener.address()?, seed).context("cannot write to stdout; keep it open")?;
    let shared = Rc::new(RefCell::new(server));
    rt::spawn(accept(listener, Rc::clone(&shared)));
    stop.received().await?;
    shared.borrow().ledger.sync().context("cannot sync the ledger; its last lines may be lost")
}

fn announce(name: &str, address: SocketAddr, seed: Option<u64>) -> io::Result<()> {
    use std::io::Write;
    let seed = seed.map(|seed| format!("seed {seed}\n")).unwrap_or_default();
    // One write: who reads the first line only may close the pipe behind it.
    let mut stdout = io::stdout().lock();
    stdout.write_all(format!("stand-in {name} on http://{address}\n{seed}").as_bytes())?;
    stdout.flush()
}

fn bind_fault(address: SocketAddr, error: &io::Error) -> anyhow::Error {
    let kind = error.kind();
    if kind == io::ErrorKind::AddrInUse {
        return anyhow::anyhow!(
            "{address} is taken by another process; choose another port, or 0 for a free one"
        );
    }
    if kind == io::ErrorKind::PermissionDenied {
        return anyhow::anyhow!("not allowed to listen on {address}; choose a port above 1023");
    }
    if kind == io::ErrorKind::AddrNotAvailable {
        return anyhow::anyhow!("{address} is no address of this machine; use 127.0.0.1, or 0.0.0.0 for all");
    }
    anyhow::anyhow!("cannot listen on {address}: {error}; choose another address with --listen")
}

async fn accept(listener: rt::Listener, server: Shared) {
    loop {
        match listener.accept().await {
            Ok(stream) => rt::spawn(Connection::new(stream, Rc::clone(&server)).run()),
            Err(error) => {
                eprintln!("keybrake-loadtest: cannot accept: {error}; raise the limit of open files");
                rt::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// One caller.
struct Connection {
    stream: rt::Stream,
    server: Shared,
    head: RequestHead,
    /// Received and not consumed: starts with the current request's head.
    input: Vec<u8>,
    /// When the first byte of `input` arrived.
    arrival: Arrival,
    body: Vec<u8>,
    output: Vec<u8>,
}

/// What the connection does behind an exchange.
enum Next {
    Request,
    Close,
}

/// A message that was read, or could not be.
enum Message {
    Whole { head_bytes: usize, consumed: usize },
    Malformed(Malformed),
    End,
}

/// Bytes that are no request, or not all of one.
struct Malformed {
    status: u16,
    why: String,
    /// The length of its head, if that was whole.
    head_bytes: Option<usize>,
}

/// A reply that is to be sent.
struct Reply {
    delivery: Delivery,
    seq: u64,
    /// Where the proxy is to be killed.
    kill: Option<Point>,
}

impl Connection {
    fn new(stream: rt::Stream, server: Shared) -> Connection {
        let (input, body, output) = (Vec::new(), Vec::new(), Vec::new());
        let arrival = stream.arrival();
        Connection { stream, server, head: RequestHead::new(), input, arrival, body, output }
    }

    async fn run(mut self) {
        // A broken connection ends the same way as one that was closed: the ledger already has its requests.
        while let Ok(Next::Request) = self.exchange().await {}
    }

    /// One request and its reply.
    async fn exchange(&mut self) -> io::Result<Next> {
        match self.read_message().await? {
            Message::End => Ok(Next::Close),
            Message::Malformed(malformed) => {
                self.refuse(&malformed);
                self.stream.write_all(&mut self.output).await?;
                Ok(Next::Close)
            }
            Message::Whole { head_bytes, consumed } => {
                let is_last = self.head.wants_close();
                let next = if let Some(shown) = self.shown(head_bytes)? {
                    self.frame_shown(&shown, is_last);
                    self.stream.write_all(&mut self.output).await?;
                    Next::Request
                } else {
                    let reply = self.answer(head_bytes);
                    self.deliver(reply).await?
                };
                self.input.drain(..consumed);
                // What is left came with the last read.
                self.arrival = self.stream.arrival();
                Ok(if is_last { Next::Close } else { next })
            }
        }
    }

    /// Reads more; no bytes is the caller's end, in order or not.
    async fn read_more(&mut self) -> usize {
        let is_first = self.input.is_empty();
        let bytes = self.stream.read_more(&mut self.input).await.unwrap_or_default();
        if is_first {
            self.arrival = self.stream.arrival();
        }
        bytes
    }

    async fn read_message(&mut self) -> io::Result<Message> {
        self.head.reset();
        self.body.clear();
        let malformed = |status, why, head_bytes| Message::Malformed(Malformed { status, why, head_bytes });
        let head_bytes = loop {
            match self.head.parse(&self.input, &HeadLimits::REQUEST) {
                Ok(Parsed::Complete { head_bytes }) => break head_bytes,
                Ok(Parsed::Partial) => {}
                Err(error) => return Ok(malformed(error.status(), error.to_string(), None)),
            }
            if self.read_more().await == 0 {
                let bytes = self.input.len();
                let why = || format!("head cut short after {bytes} bytes; send all of it");
                return Ok(if bytes == 0 { Message::End } else { malformed(400, why(), None) });
            }
        };
        let mut decoder = BodyDecoder::new(self.head.framing(), BODY_BYTES_MAX);
        if self.head.expect_continue() && !decoder.is_done() && decoder.fits() {
            self.stream.write_all(&mut CONTINUE.to_vec()).await?;
        }
        let mut consumed = head_bytes;
        loop {
            let unread = self.input.get(consumed..).unwrap_or_default();
            match decoder.decode(unread, &mut self.body) {
                Ok(progress) => {
                    consumed = consumed.saturating_add(progress.consumed);
                    if progress.done {
                        return Ok(Message::Whole { head_bytes, consumed });
                    }
                }
                Err(error) => return Ok(malformed(error.status(), error.to_string(), Some(head_bytes))),
            }
            if self.read_more().await == 0 {
                let why = "body cut short; send all of it".to_owned();
                return Ok(malformed(400, why, Some(head_bytes)));
            }
        }
    }

    /// The stand-in's own pages, which are no requests to the vendor.
    fn shown(&self, head_bytes: usize) -> io::Result<Option<Vec<u8>>> {
        if self.head.method() != Method::Get {
            return Ok(None);
        }
        let server = self.server.borrow();
        match self.head.path(self.input.get(..head_bytes).unwrap_or_default()) {
            b"/__ledger" => server.ledger.show().map(Some),
            b"/__headers" => server.ledger.show_headers().map(Some),
            _ => Ok(None),
        }
    }

    fn frame_shown(&mut self, body: &[u8], close: bool) {
        self.output.clear();
        let fields: [(&[u8], &[u8]); 1] = [(b"Content-Type", b"application/json")];
        encode::reply_head(&mut self.output, 200, fields, BodyFraming::Length(body.len() as u64), close);
        self.output.extend_from_slice(body);
    }

    /// Lets the vendor answer, records it, and frames the reply.
    fn answer(&mut self, head_bytes: usize) -> Reply {
        let bytes = self.input.get(..head_bytes).unwrap_or_default();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let key = self.head.idempotency_key(bytes).map(text);
        let version = self.head.field(bytes, "stripe-version").unwrap_or(DEFAULT_VERSION);
        let request = stripe::Request {
            method: self.head.method(),
            path: std::str::from_utf8(self.head.path(bytes)).unwrap_or_default(),
            query: self.head.query(bytes).unwrap_or_default(),
            authorization: self.head.authorization(bytes),
            idempotency_key: key.as_deref(),
            version: std::str::from_utf8(version).unwrap_or_default(),
            body: &self.body,
            now_s: self.arrival.us.checked_div(1_000_000).unwrap_or_default(),
        };
        let mut server = self.server.borrow_mut();
        let seq = server.ledger.next_seq();
        let kill = server.killer.as_mut().filter(|_| request.method == Method::Post).and_then(Killer::next);
        server.kill_at(Point::BeforeAccept, kill, seq);
        let answer = stripe::handle(&mut server.state, &request);
        let received = Received {
            arrival: self.arrival,
            head: Some(&self.head),
            head_bytes: bytes,
            body: &self.body,
            malformed: None,
        };
        or_end(server.ledger.record(&received, &answer), "the ledger");
        server.kill_at(Point::AfterAccept, kill, seq);
        let body_bytes_min = server.reply_bytes_min;
        let mut fields = vec![(b"Stripe-Version".as_slice(), version)];
        fields.extend(key.as_deref().map(|key| (b"Idempotency-Key".as_slice(), key.as_bytes())));
        frame(&mut self.output, &answer, &fields, body_bytes_min, self.head.wants_close());
        Reply { delivery: with_latency(answer.delivery, server.latency), seq, kill }
    }

    /// Answers and records bytes that are no request.
    fn refuse(&mut self, malformed: &Malformed) {
        let Malformed { status, why, head_bytes } = malformed;
        let mut server = self.server.borrow_mut();
        let answer = stripe::refuse_malformed(&mut server.state, *status, why);
        let received = Received {
            arrival: self.arrival,
            head: head_bytes.map(|_| &self.head),
            head_bytes: self.input.get(..head_bytes.unwrap_or(self.input.len())).unwrap_or_default(),
            body: &self.body,
            malformed: Some(why),
        };
        or_end(server.ledger.record(&received, &answer), "the ledger");
        frame(&mut self.output, &answer, &[], 0, true);
    }

    async fn deliver(&mut self, reply: Reply) -> io::Result<Next> {
        match reply.delivery {
            Delivery::Whole => {}
            Delivery::After(delay) => rt::sleep(delay).await,
            Delivery::CutBefore | Delivery::CutAfter => return Ok(Next::Close),
            Delivery::Cut => {
                // A body is longer than its head, so half of all is in the middle of the body.
                self.output.truncate(self.output.len().saturating_mul(3).checked_div(4).unwrap_or_default());
                self.stream.write_all(&mut self.output).await?;
                return Ok(Next::Close);
            }
            Delivery::Never | Delivery::NeverBefore => {
                self.hang().await?;
                return Ok(Next::Close);
            }
        }
        self.stream.write_all(&mut self.output).await?;
        self.server.borrow_mut().kill_at(Point::AfterReply, reply.kill, reply.seq);
        Ok(Next::Request)
    }

    async fn hang(&mut self) -> io::Result<()> {
        let limit = self.server.borrow().hang;
        if let Some(limit) = limit {
            rt::sleep(limit).await;
            return Ok(());
        }
        let mut ignored = Vec::new();
        while self.stream.read_more(&mut ignored).await? > 0 {
            ignored.clear();
        }
        Ok(())
    }
}

impl Server {
    /// Kills the proxy if that is due at this point of this request.
    fn kill_at(&mut self, point: Point, due: Option<Point>, seq: u64) {
        if let Some(killer) = self.killer.as_mut().filter(|_| due == Some(point)) {
            or_end(killer.kill(point, seq), "the kill log");
        }
    }
}

/// A judge that cannot write must not let the run go on.
fn or_end(written: io::Result<()>, what: &str) {
    if let Err(error) = written {
        eprintln!("keybrake-loadtest: cannot write {what}: {error}; free space and start again");
        std::process::exit(1);
    }
}

fn with_latency(delivery: Delivery, latency: Duration) -> Delivery {
    match delivery {
        Delivery::Whole if latency > Duration::ZERO => Delivery::After(latency),
        Delivery::After(delay) => Delivery::After(delay.saturating_add(latency)),
        Delivery::Whole
        | Delivery::Never
        | Delivery::NeverBefore
        | Delivery::Cut
        | Delivery::CutAfter
        | Delivery::CutBefore => delivery,
    }
}

fn frame(out: &mut Vec<u8>, answer: &Answer, fields: &[(&[u8], &[u8])], body_bytes_min: usize, close: bool) {
    out.clear();
    let own: [(&[u8], &[u8]); 3] = [
        (b"Content-Type", b"application/json"),
        (b"Cache-Control", b"no-cache, no-store"),
        (b"Request-Id", answer.request_id.as_bytes()),
    ];
    let replay = answer.original_request.as_ref().map(|original| {
        [(b"Idempotent-Replayed".as_slice(), b"true".as_slice()), (b"Original-Request", original.as_bytes())]
    });
    let fields = own.into_iter().chain(fields.iter().copied()).chain(replay.into_iter().flatten());
    let padding = body_bytes_min.saturating_sub(answer.body.len());
    let length = answer.body.len().saturating_add(padding);
    encode::reply_head(out, answer.status, fields, BodyFraming::Length(length as u64), close);
    out.extend_from_slice(&answer.body);
    out.resize(out.len().saturating_add(padding), b' ');
}
