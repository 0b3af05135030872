//! TLS towards vendors and agents: rustls' buffered API driven by hand over the runtime's sockets.
//!
//! One read of the socket feeds as many records as it brought, and what is written leaves in as few writes as its
//! length allows: a large body costs a third of what an adapter costs that reads and writes record by record.

mod agents;
mod files;
mod vendors;

pub(crate) use agents::AgentTls;
pub(crate) use vendors::client_config;

use std::io::{self, BufRead as _, Write as _};
use std::sync::Arc;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, HandshakeKind, IoState, ServerConnection};

use crate::rt::{self, Tcp};

/// Added to the plaintext that is wanted: a record's header, tag and padding of a few records (RFC 8446 section 5.2).
const RECORD_BYTES: usize = 1024;

/// Ciphertext that is read at once, at most.
const READ_BYTES_MAX: usize = 64 * 1024;

/// Plaintext that is encrypted before it is written, at most: it bounds what a long reply takes a second time.
const WRITE_BYTES_MAX: usize = 128 * 1024;

/// Memory a buffer keeps between uses; more is given back, since most connections are idle.
const KEPT_BYTES: usize = 8 * 1024;

/// A connection over TLS.
pub(crate) struct TlsStream {
    tcp: Tcp,
    session: Connection,
    /// As it was received.
    ciphertext: Vec<u8>,
    /// Bytes of `ciphertext` that the session has taken.
    fed: usize,
    /// As it is sent.
    output: Vec<u8>,
    /// The last of what was received came before the peer had all that was sent.
    was_early: bool,
}

/// What the session has for its reader.
enum Taken {
    /// So many bytes; none is the end that the peer announced.
    Bytes(usize),
    /// Nothing before more is received.
    Nothing,
}

impl TlsStream {
    /// To a vendor: shakes hands; the certificate is checked for `name`.
    pub(crate) async fn connect(
        tcp: Tcp,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<TlsStream> {
        let session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = TlsStream::new(tcp, Connection::Client(session));
        stream.shake_hands().await?;
        Ok(stream)
    }

    /// From an agent; hands are not shaken yet.
    pub(crate) fn accepted(tcp: Tcp, session: ServerConnection) -> TlsStream {
        TlsStream::new(tcp, Connection::Server(session))
    }

    fn new(tcp: Tcp, mut session: Connection) -> TlsStream {
        // What is written is passed on at once, piece by piece.
        session.set_buffer_limit(None);
        TlsStream { tcp, session, ciphertext: Vec::new(), fed: 0, output: Vec::new(), was_early: false }
    }

    /// Shakes hands. A peer that breaks the rules is told which (an alert), as far as it takes that.
    pub(crate) async fn shake_hands(&mut self) -> io::Result<Option<HandshakeKind>> {
        while self.session.is_handshaking() {
            self.send_pending().await?;
            if self.session.is_handshaking() && !self.feed_more(RECORD_BYTES).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        // An agent's first request often comes with the end of its handshake: tickets then leave with the reply.
        if !self.has_for_reader() {
            self.send_pending().await?;
        }
        Ok(self.session.handshake_kind())
    }

    /// Reads plaintext behind what `buf` holds, at most `room` bytes; 0 is the end. An end without the peer's
    /// `close_notify` is an error: the stream may have been cut by anybody. What follows that is not looked at.
    pub(crate) async fn read(&mut self, mut buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        loop {
            match self.take(&mut buf, room) {
                Ok(Taken::Bytes(bytes)) => return (Ok(bytes), buf),
                Ok(Taken::Nothing) => {}
                Err(error) => {
                    self.send_if_room().await;
                    return (Err(error), buf);
                }
            }
            if let Err(error) = self.receive(room).await {
                return (Err(error), buf);
            }
        }
    }

    /// As [`TlsStream::read`], and ends as soon as anything has arrived, be it a part of a record. `false` is the end.
    pub(crate) async fn read_first(&mut self, buf: Vec<u8>, room: usize) -> (io::Result<bool>, Vec<u8>) {
        if !self.holds_input() {
            match self.receive(room).await {
                Ok(true) => {}
                ended => return (ended, buf),
            }
        }
        let mut buf = buf;
        match self.take(&mut buf, room) {
            Ok(Taken::Bytes(bytes)) => (Ok(bytes > 0), buf),
            Ok(Taken::Nothing) => {
                self.send_if_room().await;
                (Ok(true), buf)
            }
            Err(error) => {
                self.send_if_room().await;
                (Err(error), buf)
            }
        }
    }

    /// Encrypts all of `buf` and sends it, in one write unless it is long.
    pub(crate) async fn write_all(&mut self, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        for piece in buf.chunks(WRITE_BYTES_MAX) {
            let written = match self.session.writer().write_all(piece) {
                Ok(()) => self.send_pending().await,
                Err(error) => Err(error),
            };
            if written.is_err() {
                return (written, buf);
            }
        }
        (Ok(()), buf)
    }

    /// Tells the peer that nothing more comes, so that it can tell this end from a cut.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        self.session.send_close_notify();
        self.send_pending().await
    }

    /// The connection below.
    pub(crate) fn tcp(&self) -> &Tcp {
        &self.tcp
    }

    /// The connection below, to read what nobody decrypts any more.
    pub(crate) fn tcp_mut(&mut self) -> &mut Tcp {
        &mut self.tcp
    }

    /// Whether the last bytes that were received had left the peer before it had all that was sent.
    pub(crate) fn was_early(&self) -> bool {
        self.was_early
    }

    /// Nothing received waits to be read, and the peer has not ended the session.
    pub(crate) fn is_quiet(&mut self) -> bool {
        let is_quiet = |state: IoState| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed();
        self.fed == self.ciphertext.len() && self.session.process_new_packets().is_ok_and(is_quiet)
    }

    /// Whether something received waits to be read, be it a part of a record or the end.
    pub(crate) fn holds_input(&mut self) -> bool {
        self.fed < self.ciphertext.len() || self.has_for_reader()
    }

    fn has_for_reader(&mut self) -> bool {
        self.session.reader().fill_buf().is_ok()
    }

    /// Takes what the session has and what it makes of the ciphertext that is there.
    fn take(&mut self, buf: &mut Vec<u8>, room: usize) -> io::Result<Taken> {
        let start = buf.len();
        loop {
            let taken = buf.len().saturating_sub(start);
            let left = room.saturating_sub(taken);
            if left == 0 {
                return Ok(Taken::Bytes(taken));
            }
            let mut reader = self.session.reader();
            match reader.fill_buf() {
                Ok([]) => return Ok(Taken::Bytes(taken)),
                Ok(chunk) => {
                    let (part, _) = chunk.split_at(chunk.len().min(left));
                    buf.extend_from_slice(part);
                    let used = part.len();
                    reader.consume(used);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match self.feed() {
                Ok(true) => {}
                Ok(false) if taken == 0 => return Ok(Taken::Nothing),
                // What came before a fault was authentic; the session repeats the fault.
                Ok(false) | Err(_) if taken > 0 => return Ok(Taken::Bytes(taken)),
                Ok(false) => return Ok(Taken::Nothing),
                Err(error) => return Err(error),
            }
        }
    }

    /// Feeds the session with what was received, until there is something for the reader: it takes no more once it
    /// holds 16 KiB of plaintext. `false`: all of it is fed, and there is nothing.
    fn feed(&mut self) -> io::Result<bool> {
        while let Some(mut rest) = self.ciphertext.get(self.fed..).filter(|rest| !rest.is_empty()) {
            let taken = self.session.read_tls(&mut rest)?;
            self.fed = self.fed.saturating_add(taken);
            if taken == 0 {
                // Behind a `close_notify` it takes nothing.
                self.fed = self.ciphertext.len();
            }
            let state = self.session.process_new_packets().map_err(io::Error::other)?;
            if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Feeds the session in its handshake; `false` at the end of the stream.
    async fn feed_more(&mut self, room: usize) -> io::Result<bool> {
        let is_open = self.fed < self.ciphertext.len() || self.receive(room).await?;
        match self.feed() {
            Ok(_) => Ok(is_open),
            Err(error) => {
                self.send_if_room().await;
                Err(error)
            }
        }
    }

    /// Reads what the socket has next, enough for `room` bytes of plaintext; `false` at its end.
    async fn receive(&mut self, room: usize) -> io::Result<bool> {
        let bytes = room.saturating_add(RECORD_BYTES).min(READ_BYTES_MAX);
        let mut buf = std::mem::take(&mut self.ciphertext);
        if buf.capacity() > bytes.max(KEPT_BYTES) {
            buf = Vec::new();
        }
        buf.clear();
        self.fed = 0;
        let (read, buf) = self.tcp.read(buf, bytes).await;
        self.ciphertext = buf;
        // Before anything is answered to it.
        self.was_early = rt::is_unconfirmed(self.tcp.fd());
        if read? > 0 {
            return Ok(true);
        }
        // Tells the session that no more will come.
        self.session.read_tls(&mut io::empty())?;
        self.session.process_new_packets().map_err(io::Error::other)?;
        Ok(false)
    }

    /// Sends alerts and the like, if the socket takes them at once: a reader must not wait for a peer that does not
    /// read. What stays leaves with the next write.
    async fn send_if_room(&mut self) {
        if self.session.wants_write() && rt::takes_output(self.tcp.fd()) {
            // Whether it arrives changes nothing here.
            self.send_pending().await.ok();
        }
    }

    async fn send_pending(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            let mut output = std::mem::take(&mut self.output);
            output.clear();
            while self.session.wants_write() {
                self.session.write_tls(&mut output)?;
            }
            let (written, output) = self.tcp.write_all(output).await;
            if output.capacity() <= KEPT_BYTES {
                self.output = output;
            }
            written?;
        }
        Ok(())
    }
}
