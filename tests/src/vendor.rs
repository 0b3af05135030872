//! A vendor of a few lines inside the test, for what a real one does not do on demand.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::wait::now_micros;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method and target, such as `POST /v1/charges`.
    pub line: String,
    /// Names as sent, with their values.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// When its last byte had arrived, in microseconds since the epoch.
    pub at_micros: u64,
}

impl Seen {
    /// A field's value; the name's case does not count.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What goes wrong or right with one request: writes the answer; an error closes the connection.
type Answer = dyn Fn(&Seen, &mut dyn Write) -> std::io::Result<()> + Send + Sync;

/// A vendor; it listens until the test ends.
pub struct Vendor {
    address: SocketAddr,
    door: Arc<Door>,
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    answer: Arc<Answer>,
    kept: Arc<Kept>,
}

#[derive(Default)]
struct Kept {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicU64,
    /// Every connection, for what the kernel knows of it.
    sockets: Mutex<Vec<TcpStream>>,
    /// Bytes of requests, after decryption.
    bytes: AtomicU64,
}

impl Vendor {
    /// A vendor over plain HTTP.
    #[must_use]
    pub fn start(
        answer: impl Fn(&Seen, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Vendor {
        Vendor::listen(TcpListener::bind("127.0.0.1:0").unwrap(), None, Arc::new(answer))
    }

    /// A vendor over TLS.
    #[must_use]
    pub fn start_tls(
        config: Arc<ServerConfig>,
        answer: impl Fn(&Seen, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Vendor {
        Vendor::start_tls_on(TcpListener::bind("127.0.0.1:0").unwrap(), config, answer)
    }

    /// A vendor over TLS on a socket that listens already: who connected before has waited for it.
    #[must_use]
    pub fn start_tls_on(
        listener: TcpListener,
        config: Arc<ServerConfig>,
        answer: impl Fn(&Seen, &mut dyn Write) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Vendor {
        Vendor::listen(listener, Some(config), Arc::new(answer))
    }

    fn listen(listener: TcpListener, tls: Option<Arc<ServerConfig>>, answer: Arc<Answer>) -> Vendor {
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let door = Arc::new(Door { listener, tls, answer, kept: Arc::default() });
        let shared = Arc::clone(&door);
        std::thread::spawn(move || {
            loop {
                wait_for_connection(&shared.listener);
                shared.accept_all(&mut shared.kept.sockets.lock().unwrap());
            }
        });
        Vendor { address, door }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL over plain HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Every request so far.
    ///
    /// # Panics
    /// When one of its threads panicked.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.door.kept.seen.lock().unwrap().clone()
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.door.kept.connections.load(Ordering::SeqCst)
    }

    /// Bytes that have arrived in the kernel so far, on every connection, read or not and accepted or not: over
    /// loopback that is what was sent.
    ///
    /// # Panics
    /// When one of its threads panicked.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn arrived_bytes(&self) -> u64 {
        let mut sockets = self.door.kept.sockets.lock().unwrap();
        let accepted: u64 = sockets.iter().map(arrived_bytes).sum();
        let known = sockets.len();
        self.door.accept_all(&mut sockets);
        accepted + sockets[known..].iter().map(arrived_bytes).sum::<u64>()
    }

    /// Bytes of requests so far, whole or not.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.door.kept.bytes.load(Ordering::SeqCst)
    }
}

impl Door {
    /// Accepts every connection that waits, and serves each on a thread.
    fn accept_all(&self, sockets: &mut Vec<TcpStream>) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(false).unwrap();
            sockets.push(stream.try_clone().unwrap());
            self.kept.connections.fetch_add(1, Ordering::SeqCst);
            let (kept, answer, tls) = (Arc::clone(&self.kept), Arc::clone(&self.answer), self.tls.clone());
            let socket = stream.try_clone().unwrap();
            std::thread::spawn(move || {
                // How a connection ends is for the test to see from the other side.
                drop(match tls {
                    None => serve(stream, &kept, &*answer),
                    Some(config) => serve_tls(stream, config, &kept, &*answer),
                });
                // It is kept for its numbers, so leaving it does not close it.
                drop(socket.shutdown(Shutdown::Both));
            });
        }
    }
}

pub(crate) fn wait_for_connection(listener: &TcpListener) {
    let mut waiting = libc::pollfd { fd: listener.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: the pointer is to one live `pollfd`.
    unsafe { libc::poll(&raw mut waiting, 1, -1) };
}

#[cfg(target_os = "linux")]
pub(crate) fn arrived_bytes(socket: &TcpStream) -> u64 {
    // SAFETY: all of its fields are integers, for which zeros are values.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap();
    // SAFETY: the pointers are to a live `tcp_info` and its length, which the call does not exceed.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    info.tcpi_bytes_received
}

fn serve_tls(tcp: TcpStream, config: Arc<ServerConfig>, kept: &Kept, answer: &Answer) -> std::io::Result<()> {
    let session = ServerConnection::new(config).map_err(std::io::Error::other)?;
    serve(StreamOwned::new(session, tcp), kept, answer)
}

fn serve<S: Read + Write>(mut stream: S, kept: &Kept, answer: &Answer) -> std::io::Result<()> {
    let mut input = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut input, kept)? {
        kept.seen.lock().unwrap().push(seen.clone());
        answer(&seen, &mut stream)?;
        stream.flush()?;
    }
    Ok(())
}

/// The next request; keybrake always sends a Content-Length where there is a body.
fn read_request(stream: &mut impl Read, input: &mut Vec<u8>, kept: &Kept) -> std::io::Result<Option<Seen>> {
    loop {
        if let Some((seen, length)) = parse(input) {
            input.drain(..length);
            return Ok(Some(seen));
        }
        let mut buffer = [0; 16 * 1024];
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(None);
        }
        kept.bytes.fetch_add(read as u64, Ordering::SeqCst);
        input.extend_from_slice(&buffer[..read]);
    }
}

fn parse(input: &[u8]) -> Option<(Seen, usize)> {
    let end = input.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&input[..end]).into_owned();
    let (line, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
    let fields: Vec<(String, String)> = fields
        .split("\r\n")
        .filter_map(|field| field.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let line = line.strip_suffix(" HTTP/1.1").unwrap_or(line).to_owned();
    let mut seen = Seen { line, fields, body: Vec::new(), at_micros: now_micros() };
    assert!(seen.field("transfer-encoding").is_none(), "keybrake sends whole requests");
    let length = seen.field("content-length").map_or(0, |length| length.parse().unwrap());
    let start = end + 4;
    seen.body = input.get(start..start + length)?.to_vec();
    Some((seen, start + length))
}

/// The bytes of a whole JSON reply.
#[must_use]
pub fn whole(status: u16, body: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nRequest-Id: req_of_the_vendor\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body.as_bytes()].concat()
}

/// The answer of a vendor that carries out everything: an object with the request's amount.
///
/// # Errors
/// When keybrake does not take it.
pub fn paid(seen: &Seen, out: &mut dyn Write) -> std::io::Result<()> {
    let text = seen.text();
    let value = |name: &str| text.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let body = format!(
        r#"{{"id":"ch_1","object":"charge","status":"succeeded","amount":{},"currency":"{}"}}"#,
        value("amount").unwrap_or("0"),
        value("currency").unwrap_or("usd")
    );
    out.write_all(&whole(200, &body))
}
