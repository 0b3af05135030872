//! TLS towards agents: the certificate they are shown, and its replacement while connections live on.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;
use keybrake_proto::config::Tls;
use keybrake_proto::time::UnixMicros;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{ServerConfig, ServerConnection};

use super::files::{self, Loaded, Look, TlsError};
use crate::clock;

/// Between two looks at the files.
const WATCH: Duration = Duration::from_secs(2);

/// A certificate that expires sooner is spoken of.
const SOON_SECONDS: u64 = 14 * DAY_SECONDS;

/// Between two lines on the same expiry.
const REMIND_SECONDS: u64 = DAY_SECONDS;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// What agents' TLS connections begin with; shared by all workers.
pub(crate) struct AgentTls {
    current: ArcSwap<Current>,
    /// Replacements since the start.
    reloads: AtomicU64,
    /// 1 while the files cannot be used.
    failing: AtomicU64,
    /// Of whoever replaces; no worker waits for it.
    watched: Mutex<Watched>,
}

/// A certificate in force.
struct Current {
    config: Arc<ServerConfig>,
    loaded: Loaded,
}

/// What was last seen of the files.
struct Watched {
    files: Tls,
    /// When they were last read with success, or their fault was told.
    known: Look,
    /// How they looked when they could not be used, once.
    doubtful: Option<Look>,
    /// When the operator was last told of the expiry.
    reminded_at: UnixMicros,
}

impl AgentTls {
    /// Reads the files. The error says what to change.
    pub(crate) fn load(files: &Tls) -> Result<Arc<AgentTls>, TlsError> {
        let known = Look::at(files);
        let current = Current::read(files, None)?;
        let reminded_at = UnixMicros::default();
        let watched = Watched { files: files.clone(), known, doubtful: None, reminded_at };
        Ok(Arc::new(AgentTls {
            current: ArcSwap::from_pointee(current),
            reloads: AtomicU64::new(0),
            failing: AtomicU64::new(0),
            watched: Mutex::new(watched),
        }))
    }

    /// A session for a connection that was accepted.
    pub(crate) fn session(&self) -> io::Result<ServerConnection> {
        ServerConnection::new(Arc::clone(&self.current.load().config)).map_err(io::Error::other)
    }

    /// Reads the files again, now: connections that come from here on are shown what they hold, others live on.
    /// After an error everything is as before.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let look = Look::at(&watched.files);
        let reloaded = self.replace(&watched.files);
        watched.known = look;
        watched.doubtful = None;
        match reloaded {
            Ok(()) => watched.reminded_at = UnixMicros::default(),
            Err(_) => self.failing.store(1, Ordering::Relaxed),
        }
        reloaded
    }

    /// Until when the certificate is valid; `None` where that cannot be read.
    pub(crate) fn expires_at(&self) -> Option<UnixMicros> {
        self.current.load().loaded.expires_at
    }

    /// Replacements since the start.
    pub(crate) fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// Whether the files cannot be used, so that what was read before is in force.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed) != 0
    }

    /// Starts the thread that looks at the files and at the expiry, as long as the process lives.
    pub(crate) fn watch(self: &Arc<AgentTls>) -> io::Result<()> {
        let tls = Arc::clone(self);
        let look = move || {
            loop {
                tls.remind();
                // Nothing is sent: it is the pause.
                crossbeam_channel::after(WATCH).recv().ok();
                tls.look();
            }
        };
        thread::Builder::new().name("certificate".to_owned()).spawn(look).map(drop)
    }

    /// Takes changed files over. Two files are not replaced at once, so a fault counts at the second look.
    fn look(&self) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let look = Look::at(&watched.files);
        if look == watched.known {
            return;
        }
        match self.replace(&watched.files) {
            Ok(()) => {
                watched.known = look;
                watched.doubtful = None;
                watched.reminded_at = UnixMicros::default();
            }
            Err(error) if watched.doubtful.as_ref() == Some(&look) => {
                watched.known = look;
                self.failing.store(1, Ordering::Relaxed);
                eprintln!(
                    "keybrake-dataplane: proxy.tls: {error}; the certificate read before stays in force"
                );
            }
            Err(_) => watched.doubtful = Some(look),
        }
    }

    fn replace(&self, files: &Tls) -> Result<(), TlsError> {
        let before = self.current.load_full();
        let current = Current::read(files, Some(&before))?;
        self.failing.store(0, Ordering::Relaxed);
        let until =
            current.loaded.expires_at.map_or(String::new(), |at| format!(", valid until {}", at.date()));
        self.current.store(Arc::new(current));
        self.reloads.fetch_add(1, Ordering::Relaxed);
        eprintln!("keybrake-dataplane: proxy.tls: the certificate was read again{until}");
        Ok(())
    }

    /// Tells the operator of an expiry, once a day.
    fn remind(&self) {
        let Some(expires_at) = self.expires_at() else { return };
        let now = clock::wall();
        let left = now.seconds_until(expires_at);
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if left >= SOON_SECONDS || watched.reminded_at.seconds_until(now) < REMIND_SECONDS {
            return;
        }
        watched.reminded_at = now;
        let file = watched.files.cert_file.display();
        let date = expires_at.date();
        match left.checked_div(DAY_SECONDS).unwrap_or_default() {
            0 if left == 0 => eprintln!(
                "keybrake-dataplane: ALARM: proxy.tls: the certificate in {file} expired on {date}: agents refuse it; \
                 replace it"
            ),
            days => eprintln!(
                "keybrake-dataplane: ALARM: proxy.tls: the certificate in {file} expires on {date}, in {days} days; \
                 replace it"
            ),
        }
    }
}

impl Current {
    fn read(files: &Tls, before: Option<&Current>) -> Result<Current, TlsError> {
        let loaded = Loaded::read(files)?;
        let verifier = match loaded.client_verifier(files)? {
            Some(verifier) => verifier,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let refused = |error: rustls::Error| TlsError::Refused {
            key: "cert_file",
            path: files.cert_file.clone(),
            problem: error.to_string(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&files::versions(files.min_version))
            .map_err(refused)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&loaded.certified))));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A request in early data could be repeated by whoever recorded it (RFC 8446 section 8).
        config.max_early_data_size = 0;
        config.ignore_client_order = true;
        // Tickets resume sessions of both versions; a memory of sessions would be a lock between workers.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ticketer(&loaded, before).map_err(refused)?;
        // An SDK opens connections one after the other.
        config.send_tls13_tickets = 1;
        Ok(Current { config: Arc::new(config), loaded })
    }
}

/// What seals tickets, under keys of its own that change every six hours. Tickets outlive a new certificate; they
/// do not outlive other authorities for agents, whose certificates are not asked for again at a resumption.
fn ticketer(loaded: &Loaded, before: Option<&Current>) -> Result<Arc<dyn ProducesTickets>, rustls::Error> {
    match before {
        Some(before) if before.loaded.client_roots == loaded.client_roots => {
            Ok(Arc::clone(&before.config.ticketer))
        }
        Some(_) | None => rustls::crypto::ring::Ticketer::new(),
    }
}
