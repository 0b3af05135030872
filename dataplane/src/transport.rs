//! A connection's bytes, plain or encrypted.

use std::io;
use std::os::fd::RawFd;

use crate::rt::{self, Tcp};
use crate::tls::TlsStream;

/// A connection's bytes.
pub(crate) enum Transport {
    /// Agents, and stand-in vendors on loopback.
    Plain(Tcp),
    /// Vendors.
    Tls(Box<TlsStream>),
}

impl Transport {
    /// Reads behind what `buf` holds, at most `room` bytes; 0 is the end of the stream.
    pub(crate) async fn read(&mut self, buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Transport::Plain(tcp) => tcp.read(buf, room).await,
            Transport::Tls(tls) => tls.read(buf, room).await,
        }
    }

    /// Writes all of `buf` and hands it back.
    pub(crate) async fn write_all(&mut self, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match self {
            Transport::Plain(tcp) => tcp.write_all(buf).await,
            Transport::Tls(tls) => tls.write_all(buf).await,
        }
    }

    /// The descriptor below, while this lives.
    pub(crate) fn fd(&self) -> RawFd {
        match self {
            Transport::Plain(tcp) => tcp.fd(),
            Transport::Tls(tls) => tls.tcp().fd(),
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
