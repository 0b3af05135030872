//! A plain HTTP/1.1 client that shows every byte it is given.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use crate::leaks;

/// How long a peer may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// One reply.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// Names in lower case with their values.
    pub fields: Vec<(String, String)>,
    /// The body, decoded from its framing.
    pub body: Vec<u8>,
}

impl Reply {
    /// A field's value.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// Asserts the status and answers the JSON body.
    ///
    /// # Panics
    /// When the status is another.
    #[must_use]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// Whether the connection ends behind it.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.field("connection") == Some("close")
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Stream>,
}

/// Its bytes.
#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => &tls.sock,
        }
    }
}

impl std::io::Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.read(buf),
            Stream::Tls(tls) => tls.read(buf),
        }
    }
}

impl std::io::Write for Stream {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Plain(tcp) => tcp.write(buf),
            Stream::Tls(tls) => tls.write(buf),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Stream::Plain(tcp) => tcp.flush(),
            Stream::Tls(tls) => tls.flush(),
        }
    }
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// When nothing accepts.
    #[must_use]
    pub fn connect(address: SocketAddr) -> Client {
        Client::of(TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}")))
    }

    /// Connects to a peer that may be gone, or go at any time.
    ///
    /// # Errors
    /// When nothing accepts.
    pub(crate) fn open(address: SocketAddr, silence_max: Duration) -> std::io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, silence_max)?;
        Client::prepared(stream, silence_max)
    }

    /// Connects from another address of this machine, such as 127.0.0.9.
    ///
    /// # Panics
    /// When nothing accepts, or the address is not one of this machine's.
    #[must_use]
    pub fn connect_from(source: Ipv4Addr, address: SocketAddr) -> Client {
        let stream = connect_from(source, address);
        Client::of(stream.unwrap_or_else(|error| panic!("{source} to {address}: {error}")))
    }

    fn of(stream: TcpStream) -> Client {
        Client::prepared(stream, SILENCE_MAX).unwrap()
    }

    fn prepared(stream: TcpStream, silence_max: Duration) -> std::io::Result<Client> {
        stream.set_read_timeout(Some(silence_max))?;
        stream.set_write_timeout(Some(silence_max))?;
        stream.set_nodelay(true)?;
        Ok(Client { stream: BufReader::new(Stream::Plain(stream)) })
    }

    /// Connects over TLS to a proxy whose certificate is for `localhost`, and shakes hands.
    ///
    /// # Errors
    /// When nothing accepts, or either side does not like the other's certificate.
    pub fn connect_tls(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        let session = ClientConnection::new(Arc::clone(config), name).map_err(std::io::Error::other)?;
        let mut tls = StreamOwned::new(session, stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(Client { stream: BufReader::new(Stream::Tls(Box::new(tls))) })
    }

    /// The TLS session.
    ///
    /// # Panics
    /// When it is a plain connection.
    #[must_use]
    pub fn session(&mut self) -> &mut ClientConnection {
        match self.stream.get_mut() {
            Stream::Tls(tls) => &mut tls.conn,
            Stream::Plain(_) => panic!("no TLS"),
        }
    }

    /// The socket below.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        self.stream.get_ref().tcp()
    }

    /// Reads until the end; whether the peer announced it, as TLS wants.
    pub fn ends_cleanly(&mut self) -> bool {
        self.stream.read_to_end(&mut Vec::new()).is_ok()
    }

    /// Sends one request and reads its reply, or says why there is none.
    ///
    /// # Errors
    /// When the peer closes, resets or is silent.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> std::io::Result<Reply> {
        self.stream.get_mut().write_all(request)?;
        self.try_reply()
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// When the peer is gone.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends bytes; the peer may have closed already.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        drop(self.stream.get_mut().write_all(bytes.as_ref()));
    }

    /// Says that nothing more is sent.
    pub fn end(&mut self) {
        drop(self.tcp().shutdown(Shutdown::Write));
    }

    /// Whether the peer closes without another byte.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    /// Reads a reply's head; its body is still to come.
    ///
    /// # Panics
    /// When the peer sends none.
    pub fn head(&mut self) -> Reply {
        self.try_head().unwrap_or_else(|error| panic!("no reply: {error}"))
    }

    fn try_head(&mut self) -> std::io::Result<Reply> {
        let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(ended)?;
        let mut fields = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(ended());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Reply { status, fields, body: Vec::new() })
    }

    /// Reads `bytes` more bytes.
    ///
    /// # Panics
    /// When there are not so many.
    pub fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        self.stream.read_exact(&mut read).unwrap();
        read
    }

    /// Reads a whole reply, 1xx ones too.
    ///
    /// # Panics
    /// When the peer sends none.
    pub fn reply(&mut self) -> Reply {
        self.try_reply().unwrap_or_else(|error| panic!("no reply: {error}"))
    }

    /// Reads a whole reply, or says why there is none.
    ///
    /// # Errors
    /// When the peer closes, resets or is silent for thirty seconds.
    pub fn try_reply(&mut self) -> std::io::Result<Reply> {
        let reply = self.read_reply()?;
        let fields =
            reply.fields.iter().flat_map(|(name, value)| [name.as_bytes(), b":", value.as_bytes(), b"\n"]);
        leaks::reply(&[fields.collect::<Vec<_>>().concat(), reply.body.clone()].concat());
        Ok(reply)
    }

    fn read_reply(&mut self) -> std::io::Result<Reply> {
        let mut reply = self.try_head()?;
        if reply.status < 200 || matches!(reply.status, 204 | 304) {
            return Ok(reply);
        }
        if reply.field("transfer-encoding") == Some("chunked") {
            reply.body = self.chunks()?;
        } else if let Some(length) = reply.field("content-length") {
            reply.body = vec![0; length.parse().unwrap()];
            self.stream.read_exact(&mut reply.body)?;
        } else {
            self.stream.read_to_end(&mut reply.body)?;
        }
        Ok(reply)
    }

    fn chunks(&mut self) -> std::io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let size = usize::from_str_radix(line.trim_end(), 16).map_err(std::io::Error::other)?;
            let start = body.len();
            body.resize(start + size + 2, 0);
            self.stream.read_exact(&mut body[start..])?;
            body.truncate(start + size);
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// A connection from one of this machine's addresses.
///
/// # Errors
/// When nothing accepts, or no port or descriptor is free.
pub(crate) fn connect_from(source: Ipv4Addr, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // What it does not read waits at the other end, as if it were another machine.
    socket.set_recv_buffer_size(4096)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// One request on a connection of its own.
///
/// # Panics
/// When there is no reply.
#[must_use]
pub fn call(address: SocketAddr, head: &str, body: &[u8]) -> Reply {
    let mut client = Client::connect(address);
    client.send(request(head, body));
    client.reply()
}

/// Whether a process that may still be starting answers `GET path` with 200.
pub(crate) fn is_ok(address: SocketAddr, path: &str) -> bool {
    let Ok(stream) = TcpStream::connect(address) else { return false };
    let mut client = Client::of(stream);
    client.try_send(request(&format!("GET {path}"), b""));
    client.try_reply().is_ok_and(|reply| reply.status == 200)
}

/// The bytes of a request: `head` is the request line without a version, and further field lines.
#[must_use]
pub fn request(head: &str, body: &[u8]) -> Vec<u8> {
    let (line, fields) = head.split_once('\n').unwrap_or((head, ""));
    let mut text = format!("{} HTTP/1.1\r\nHost: keybrake.test\r\n", line.trim());
    for field in fields.lines().map(str::trim).filter(|field| !field.is_empty()) {
        text.push_str(field);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    [text.as_bytes(), body].concat()
}

/// `GET path` with a Bearer token.
#[must_use]
pub fn get(address: SocketAddr, path: &str, token: &str) -> Reply {
    call(address, &format!("GET {path}\nAuthorization: Bearer {token}"), b"")
}

/// The bytes of a form post with a Bearer token.
#[must_use]
pub fn form_post(path: &str, token: &str, form: &str) -> Vec<u8> {
    let head = format!(
        "POST {path}\nAuthorization: Bearer {token}\nContent-Type: application/x-www-form-urlencoded"
    );
    request(&head, form.as_bytes())
}
