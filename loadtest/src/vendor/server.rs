//! The stand-in's HTTP/1.1 side: connections, framing, the order "record, then reply", and `/__ledger`.
//!
//! One thread owns everything; a reply is one write.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use keybrake_proto::http1::{BodyDecoder, BodyFraming, HeadLimits, Method, Parsed, RequestHead, encode};

use super::ledger::{Ledger, Received};
use super::stripe::{self, Answer, Delivery, State};
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
    /// How late every reply is.
    pub(crate) latency: Duration,
    /// How long a reply's body is at least: shorter ones are padded with blanks, which JSON allows.
    pub(crate) reply_bytes_min: usize,
}

type Shared = Rc<RefCell<Server>>;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// The address cannot be listened on, the signals cannot be taken, or the ledger cannot be synced.
pub(crate) async fn serve(name: &str, address: SocketAddr, server: Server) -> anyhow::Result<()> {
    let stop =
        rt::StopSignals::register().context("cannot wait for signals; raise the limit of open files")?;
    let listener = rt::Listener::bind(address).map_err(|error| bind_fault(address, &error))?;
    let bound = listener.address()?;
    announce(name, bound).context("cannot write to stdout; keep it open")?;
    let shared = Rc::new(RefCell::new(server));
    rt::spawn(accept(listener, Rc::clone(&shared)));
    stop.received().await?;
    shared.borrow().ledger.sync().context("cannot sync the ledger; its last lines may be lost")
}

fn announce(name: &str, address: SocketAddr) -> io::Result<()> {
    use std::io::Write;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "stand-in {name} on http://{address}")?;
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
    Malformed { status: u16, why: String },
    End,
}

impl Connection {
    fn new(stream: rt::Stream, server: Shared) -> Connection {
        let (input, body, output) = (Vec::new(), Vec::new(), Vec::new());
        Connection { stream, server, head: RequestHead::new(), input, body, output }
    }

    async fn run(mut self) {
        // A broken connection ends the same way as one that was closed: the ledger already has its requests.
        while let Ok(Next::Request) = self.exchange().await {}
    }

    /// One request and its reply.
    async fn exchange(&mut self) -> io::Result<Next> {
        match self.read_message().await? {
            Message::End => Ok(Next::Close),
            Message::Malformed { status, why } => {
                self.refuse(status, &why);
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
                    let delivery = self.answer(head_bytes);
                    self.deliver(delivery).await?
                };
                self.input.drain(..consumed);
                Ok(if is_last { Next::Close } else { next })
            }
        }
    }

    async fn read_message(&mut self) -> io::Result<Message> {
        self.head.reset();
        self.body.clear();
        let head_bytes = loop {
            match self.head.parse(&self.input, &HeadLimits::REQUEST) {
                Ok(Parsed::Complete { head_bytes }) => break head_bytes,
                Ok(Parsed::Partial) => {}
                Err(error) => {
                    return Ok(Message::Malformed { status: error.status(), why: error.to_string() });
                }
            }
            if self.stream.read_more(&mut self.input).await? == 0 {
                return Ok(Message::End);
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
                Err(error) => {
                    return Ok(Message::Malformed { status: error.status(), why: error.to_string() });
                }
            }
            if self.stream.read_more(&mut self.input).await? == 0 {
                return Ok(Message::Malformed {
                    status: 400,
                    why: "body cut short; send all of it".to_owned(),
                });
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
    fn answer(&mut self, head_bytes: usize) -> Delivery {
        let arrival_us = now_us();
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
            now_s: arrival_us.checked_div(1_000_000).unwrap_or_default(),
        };
        let mut server = self.server.borrow_mut();
        let answer = stripe::handle(&mut server.state, &request);
        let received = Received {
            arrival_us,
            head: Some(&self.head),
            head_bytes: bytes,
            body: &self.body,
            malformed: None,
        };
        record(&mut server.ledger, &received, &answer);
        let body_bytes_min = server.reply_bytes_min;
        let mut fields = vec![(b"Stripe-Version".as_slice(), version)];
        fields.extend(key.as_deref().map(|key| (b"Idempotency-Key".as_slice(), key.as_bytes())));
        frame(&mut self.output, &answer, &fields, body_bytes_min, self.head.wants_close());
        with_latency(answer.delivery, server.latency)
    }

    /// Answers and records bytes that are no request.
    fn refuse(&mut self, status: u16, why: &str) {
        let mut server = self.server.borrow_mut();
        let answer = stripe::refuse_malformed(&mut server.state, status, why);
        let (head, head_bytes, body) = (None, self.input.as_slice(), self.body.as_slice());
        let received = Received { arrival_us: now_us(), head, head_bytes, body, malformed: Some(why) };
        record(&mut server.ledger, &received, &answer);
        frame(&mut self.output, &answer, &[], 0, true);
    }

    async fn deliver(&mut self, delivery: Delivery) -> io::Result<Next> {
        match delivery {
            Delivery::Whole => {}
            Delivery::After(delay) => rt::sleep(delay).await,
            Delivery::CutBefore => return Ok(Next::Close),
            Delivery::Cut => {
                // A body is longer than its head, so half of all is in the middle of the body.
                self.output.truncate(self.output.len().saturating_mul(3).checked_div(4).unwrap_or_default());
                self.stream.write_all(&mut self.output).await?;
                return Ok(Next::Close);
            }
            Delivery::Never => {
                let mut ignored = Vec::new();
                while self.stream.read_more(&mut ignored).await? > 0 {
                    ignored.clear();
                }
                return Ok(Next::Close);
            }
        }
        self.stream.write_all(&mut self.output).await?;
        Ok(Next::Request)
    }
}

fn with_latency(delivery: Delivery, latency: Duration) -> Delivery {
    match delivery {
        Delivery::Whole if latency > Duration::ZERO => Delivery::After(latency),
        Delivery::After(delay) => Delivery::After(delay.saturating_add(latency)),
        Delivery::Whole | Delivery::Never | Delivery::Cut | Delivery::CutBefore => delivery,
    }
}

/// A judge that cannot write must not let the run go on.
fn record(ledger: &mut Ledger, received: &Received<'_>, answer: &Answer) {
    if let Err(error) = ledger.record(received, answer) {
        eprintln!("keybrake-loadtest: cannot write the ledger: {error}; free space and start again");
        std::process::exit(1);
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

fn now_us() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}
