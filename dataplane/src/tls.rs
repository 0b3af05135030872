//! TLS towards vendors: rustls' buffered API driven over the runtime's sockets.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, IoState, RootCertStore};

use crate::rt::{self, Tcp};

/// Ciphertext read at once: a whole record and its header (RFC 8446 section 5.2).
const CIPHERTEXT_BYTES: usize = 17 * 1024;

/// What a vendor's certificate is checked against. There is no way not to check it.
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, String> {
    let roots = match ca_file {
        Some(path) => roots_of(path).map_err(|error| format!("ca_file {}: {error}", path.display()))?,
        None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn roots_of(path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| error.to_string())? {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("holds no certificate; give a PEM file".to_owned()) } else { Ok(roots) }
}

/// A TLS connection to a vendor.
pub(crate) struct TlsStream {
    tcp: Tcp,
    session: ClientConnection,
    ciphertext: Vec<u8>,
    /// Bytes of `ciphertext` that the session has taken.
    fed: usize,
    /// The last of it came before the peer had all that was sent.
    was_early: bool,
}

impl TlsStream {
    /// Shakes hands; the certificate is checked for `name`.
    pub(crate) async fn connect(
        tcp: Tcp,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<TlsStream> {
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        let mut stream = TlsStream { tcp, session, ciphertext: Vec::new(), fed: 0, was_early: false };
        while stream.session.is_handshaking() {
            stream.send_pending().await?;
            if stream.session.is_handshaking() && !stream.receive().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        stream.send_pending().await?;
        Ok(stream)
    }

    /// Reads plaintext behind what `buf` holds, at most `room` bytes. An end without the peer's
    /// `close_notify` is an error: the stream may have been cut by anybody.
    pub(crate) async fn read(&mut self, mut buf: Vec<u8>, room: usize) -> (io::Result<usize>, Vec<u8>) {
        loop {
            match self.take_plaintext(&mut buf, room) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return (done, buf),
            }
            if let Err(error) = self.receive().await {
                return (Err(error), buf);
            }
            // Key updates and alerts are answered at once.
            if let Err(error) = self.send_pending().await {
                return (Err(error), buf);
            }
        }
    }

    /// Encrypts all of `buf` and sends it with one write.
    pub(crate) async fn write_all(&mut self, buf: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let written = match self.session.writer().write_all(&buf) {
            Ok(()) => self.send_pending().await,
            Err(error) => Err(error),
        };
        (written, buf)
    }

    /// The connection below.
    pub(crate) fn tcp(&self) -> &Tcp {
        &self.tcp
    }

    fn take_plaintext(&mut self, buf: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        let start = buf.len();
        buf.resize(start.saturating_add(room), 0);
        let read = self.session.reader().read(buf.get_mut(start..).unwrap_or_default());
        buf.truncate(start.saturating_add(*read.as_ref().unwrap_or(&0)));
        read
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

    /// Feeds the session with what was received, or with what the socket has next. `false` at its end.
    ///
    /// The session takes no more once it holds 16 KiB of plaintext, so it is fed until it has some and
    /// the rest waits until that is read.
    async fn receive(&mut self) -> io::Result<bool> {
        if self.fed == self.ciphertext.len() {
            let mut buf = std::mem::take(&mut self.ciphertext);
            buf.clear();
            self.fed = 0;
            let (read, buf) = self.tcp.read(buf, CIPHERTEXT_BYTES).await;
            self.ciphertext = buf;
            // Before anything is answered below.
            self.was_early = rt::is_unconfirmed(self.tcp.fd());
            if read? == 0 {
                // Tells the session that no more will come.
                self.session.read_tls(&mut io::empty())?;
                self.session.process_new_packets().map_err(io::Error::other)?;
                return Ok(false);
            }
        }
        while let Some(mut rest) = self.ciphertext.get(self.fed..).filter(|rest| !rest.is_empty()) {
            let taken = self.session.read_tls(&mut rest)?;
            self.fed = self.fed.saturating_add(taken);
            let state = self.session.process_new_packets().map_err(io::Error::other)?;
            if taken == 0 || state.plaintext_bytes_to_read() > 0 {
                break;
            }
        }
        Ok(true)
    }

    async fn send_pending(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            let mut out = Vec::new();
            while self.session.wants_write() {
                self.session.write_tls(&mut out)?;
            }
            let (written, _) = self.tcp.write_all(out).await;
            written?;
        }
        Ok(())
    }
}
