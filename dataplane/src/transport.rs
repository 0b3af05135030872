//! A connection's bytes, plain or encrypted.

use std::io;
use std::os::fd::RawFd;

use rustls::HandshakeKind;

use crate::rt::{self, Direction, Tcp};
use crate::tls::{AgentTls, TlsStream};

/// A connection's bytes.
pub(crate) enum Transport {
    /// Agents, and stand-in vendors on loopback.
    Plain(Tcp),
    /// Vendors, and agents where there is a certificate.
    Tls(Box<TlsStream>),
}

impl Transport {
    /// Of an agent that was accepted; over TLS, hands are still to be shaken.
    pub(crate) fn of_agent(tcp: Tcp, tls: Option<&AgentTls>) -> io::Result<Transport> {
        match tls {
            None => Ok(Transport::Plain(tcp)),
            Some(tls) => Ok(Transport::Tls(Box::new(TlsStream::accepted(tcp, tls.session()?)))),
        }
    }

    /// Shakes hands, where that is to be done; says how it went.
    pub(crate) async fn shake_hands(&mut self) -> io::Result<Option<HandshakeKind>> {
        match self {
            Transport::Plain(_) => Ok(None),
            Transport::Tls(tls) => tls.shake_hands().await,
        }
    }

    /// Reads behind what `buf` holds, at most `room` bytes; 0 is the end of the stream.
    pub(crate) async fn read(&mut self, buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Transport::Plain(tcp) => tcp.read(buf, room).await,
            Transport::Tls(tls) => tls.read(buf, room).await,
        }
    }

    /// As [`Transport::read`], and ends as soon as anything has arrived, be it nothing that can be read yet.
    /// `false` is the end of the stream.
    pub(crate) async fn read_first(&mut self, buf: Vec<u8>, room: usize) -> (io::Result<bool>, Vec<u8>) {
        match self {
            Transport::Plain(tcp) => {
                let (read, buf) = tcp.read(buf, room).await;
                (read.map(|bytes| bytes > 0), buf)
            }
            Transport::Tls(tls) => tls.read_first(buf, room).await,
        }
    }

    /// Reads what nobody looks at any more; 0 is the end of the stream.
    pub(crate) async fn read_away(&mut self, buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Transport::Plain(tcp) => tcp.read(buf, room).await,
            Transport::Tls(tls) => tls.tcp_mut().read(buf, room).await,
        }
    }

    /// Writes all of `buf` and hands it back.
    pub(crate) async fn write_all(&mut self, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match self {
            Transport::Plain(tcp) => tcp.write_all(buf).await,
            Transport::Tls(tls) => tls.write_all(buf).await,
        }
    }

    /// Says that nothing more is written.
    pub(crate) async fn end(&mut self) {
        if let Transport::Tls(tls) = self {
            // The peer may be gone.
            tls.end().await.ok();
        }
        rt::shutdown(self.fd(), Direction::Write);
    }

    /// The descriptor below, while this lives.
    pub(crate) fn fd(&self) -> RawFd {
        match self {
            Transport::Plain(tcp) => tcp.fd(),
            Transport::Tls(tls) => tls.tcp().fd(),
        }
    }

    /// Whether something that was received waits to be read here.
    pub(crate) fn holds_input(&mut self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(tls) => tls.holds_input(),
        }
    }

    /// Whether the peer has spoken although nothing was asked yet. Below TLS what waits may be a ticket or an alert, so
    /// there only what was decrypted counts.
    pub(crate) fn has_spoken(&mut self) -> bool {
        match self {
            Transport::Plain(tcp) => rt::has_input(tcp.fd()),
            Transport::Tls(tls) => !tls.is_quiet(),
        }
    }

    /// Whether the last bytes that were read had left the peer before it had all that was written to it.
    pub(crate) fn was_early(&self) -> bool {
        match self {
            Transport::Plain(tcp) => rt::is_unconfirmed(tcp.fd()),
            Transport::Tls(tls) => tls.was_early(),
        }
    }

    /// Whether an idle connection has bytes or its end to read.
    pub(crate) fn has_input(&mut self) -> bool {
        let is_quiet = match self {
            Transport::Plain(_) => true,
            Transport::Tls(tls) => tls.is_quiet(),
        };
        !is_quiet || rt::has_input(self.fd())
    }
}
