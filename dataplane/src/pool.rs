//! A shard's connections to one vendor.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use keybrake_proto::catalog::Catalog;
use keybrake_proto::catalog::wire::{self, Slot};
use keybrake_proto::config::{self, Origin};
use keybrake_proto::http1::ReplyHead;
use keybrake_proto::leak::Forms;
use keybrake_proto::policy::Rate;
use keybrake_proto::secret::Secret;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use zeroize::Zeroize as _;

use crate::deadline::{Deadline, Deadlines};
use crate::metrics::Metrics;
use crate::pacing::Pacer;
use crate::resolve::{self, AddressPolicy};
use crate::rt::{self, Tcp};
use crate::tls::{self, TlsStream};
use crate::transport::Transport;

/// How long a connection may stay unused: below the 60 s and more after which vendors close theirs,
/// so that a request rarely meets a connection that is just being closed.
const IDLE_SECONDS: u64 = 30;

/// Memory a buffer of an idle connection keeps; more is given back.
const KEPT_BYTES: usize = 16 * 1024;

/// How long addresses are used before the name is resolved again.
const ADDRESS_LIFE: Duration = Duration::from_secs(30);

/// A configured vendor, shared by all shards.
pub(crate) struct Vendor {
    pub(crate) config: config::Vendor,
    pub(crate) catalog: &'static Catalog,
    /// The first segment of paths that lead here; `None` for the vendor's main host.
    pub(crate) label: Option<&'static str>,
    pub(crate) origin: Origin,
    /// The label is not sent: it is in the name of the host.
    pub(crate) drops_label: bool,
    /// What stands in `Host`.
    pub(crate) authority: String,
    /// Of its accounts, shared by all its hosts.
    credentials: Arc<Credentials>,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Vendor {
    /// The same vendor by another configuration, which may differ in what can change live. A file of authorities is
    /// read again. The error says what to change.
    pub(crate) fn renewed(
        &self,
        config: config::Vendor,
        catalog: &'static Catalog,
    ) -> Result<Vendor, String> {
        let credentials = Arc::clone(&self.credentials);
        let is_same_trust = config.ca_file.is_none() && self.config.ca_file.is_none();
        let mut renewed = Vendor::new(config, catalog, self.label, credentials)?;
        if is_same_trust {
            // So that its connections are kept.
            renewed.tls.clone_from(&self.tls);
        }
        Ok(renewed)
    }

    /// Whether connections of `other` are as good as its own.
    fn trusts_like(&self, other: &Vendor) -> bool {
        match (&self.tls, &other.tls) {
            (Some((own, _)), Some((others, _))) => Arc::ptr_eq(own, others),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

/// The credentials of a vendor, by account.
pub(crate) type Credentials = ArcSwap<BTreeMap<String, Arc<Credential>>>;

/// The real secret of one of a vendor's accounts, as of one version. Two are the same only if they are one.
pub(crate) struct Credential {
    pub(crate) account: String,
    /// Counts the account's credentials.
    pub(crate) version: u32,
    /// The whole header line, `Authorization` for most.
    pub(crate) line: Secret,
    /// The vendor's own name of the account, where that stands in paths.
    pub(crate) sid: Option<String>,
    /// Where the vendor has a quota: that is of each account.
    pub(crate) pacer: Option<Arc<Pacer>>,
    /// What of it must not stand in a reply (rule S2).
    pub(crate) forms: Forms,
    /// The second of the last alarm about it.
    alarmed: AtomicU64,
}

impl Credential {
    /// A credential of `account` in place of `before`. The error says what to change.
    pub(crate) fn new(
        config: &config::Vendor,
        slot: &Slot,
        (account, version): (&str, u32),
        secret: &Secret,
        before: Option<&Credential>,
    ) -> Result<Arc<Credential>, String> {
        let wire::Credential { line, account: sid } = slot.credential(secret)?;
        let forms = Forms::new(slot, secret)?;
        rt::keep_in_memory(line.expose());
        let quota = config.quota_rps.and_then(Rate::per_second);
        let pacer = match (before, quota) {
            // Or a rotation would begin the quota anew.
            (Some(before), _) => before.pacer.clone(),
            (None, Some(quota)) => {
                Some(Arc::new(Pacer::start(&config.name, quota).map_err(|error| error.to_string())?))
            }
            (None, None) => None,
        };
        let alarmed = AtomicU64::new(0);
        Ok(Arc::new(Credential { account: account.to_owned(), version, line, sid, pacer, forms, alarmed }))
    }

    /// Says that the vendor sent it back, once a second at most. It names the call, and nothing of the secret.
    pub(crate) fn alarm(&self, vendor: &str, request_id: &str, second: u64) {
        if self.alarmed.swap(second, Ordering::Relaxed) != second {
            eprintln!(
                "keybrake-dataplane: ALARM: vendor {vendor} sent the credential of its account {} in the reply to \
                 {request_id}; the reply was stopped. Find out why, and replace the credential",
                self.account
            );
        }
    }

    /// The same secret under another quota.
    pub(crate) fn with_quota(&self, config: &config::Vendor) -> Result<Arc<Credential>, String> {
        let quota = config.quota_rps.and_then(Rate::per_second);
        let pacer = quota.map(|quota| Pacer::start(&config.name, quota).map(Arc::new)).transpose();
        Ok(Arc::new(Credential {
            account: self.account.clone(),
            version: self.version,
            line: self.line.clone(),
            sid: self.sid.clone(),
            pacer: pacer.map_err(|error| error.to_string())?,
            forms: self.forms.clone(),
            alarmed: AtomicU64::new(self.alarmed.load(Ordering::Relaxed)),
        }))
    }
}

impl Vendor {
    /// Prepares a vendor whose `config` was checked. The error says what to change.
    pub(crate) fn new(
        config: config::Vendor,
        catalog: &'static Catalog,
        label: Option<&'static str>,
        credentials: Arc<Credentials>,
    ) -> Result<Vendor, String> {
        let main = config.origin().map_err(|error| error.to_string())?;
        let origin = label.map_or_else(|| main.clone(), |label| catalog.origin_of(&main, label));
        let drops_label = origin != main;
        let tls = if origin.tls {
            let name = ServerName::try_from(origin.host.clone()).map_err(|error| error.to_string())?;
            Some((tls::client_config(config.ca_file.as_deref())?, name))
        } else {
            None
        };
        let authority = origin.authority();
        Ok(Vendor { catalog, label, origin, drops_label, authority, credentials, tls, config })
    }

    /// The credential of an account that calls are sent with now.
    pub(crate) fn credential(&self, account: &str) -> Option<Arc<Credential>> {
        self.credentials.load().get(account).map(Arc::clone)
    }

    /// All of them, by account.
    pub(crate) fn credentials(&self) -> Vec<Arc<Credential>> {
        self.credentials.load().values().map(Arc::clone).collect()
    }

    /// From now on calls of its account are sent with this one. One at a time: the caller sees to that.
    pub(crate) fn set_credential(&self, credential: Arc<Credential>) {
        let mut credentials = BTreeMap::clone(&self.credentials.load());
        credentials.insert(credential.account.clone(), credential);
        self.credentials.store(Arc::new(credentials));
    }

    /// Whether it has not been replaced.
    pub(crate) fn is_current(&self, credential: &Arc<Credential>) -> bool {
        let credentials = self.credentials.load();
        credentials.get(&credential.account).is_some_and(|current| Arc::ptr_eq(current, credential))
    }

    /// Which addresses the name may have (rule E2).
    fn address_policy(&self) -> AddressPolicy {
        if !self.origin.tls {
            AddressPolicy::LoopbackOnly
        } else if self.config.allow_private_address {
            AddressPolicy::Any
        } else {
            AddressPolicy::Public
        }
    }
}

/// A connection to a vendor, between or in exchanges.
pub(crate) struct VendorConnection {
    // Before the transport, whose descriptor it holds.
    pub(crate) deadline: Deadline,
    pub(crate) transport: Transport,
    /// What was received and not yet read.
    pub(crate) input: Vec<u8>,
    /// The request being sent.
    pub(crate) output: Vec<u8>,
    pub(crate) head: ReplyHead,
    /// It carried an exchange before.
    pub(crate) is_reused: bool,
    /// What its exchanges are sent with, and nothing else (rule H7); `None` before the first.
    pub(crate) credential: Option<Arc<Credential>>,
}

/// The request that was sent last stands in its buffer, with the credential (rule S1).
impl Drop for VendorConnection {
    fn drop(&mut self) {
        self.output.zeroize();
    }
}

/// A shard's connections to one vendor.
pub(crate) struct Pool {
    pub(crate) vendor: Arc<Vendor>,
    kept: Rc<Kept>,
}

/// What a pool has beside its configuration.
#[derive(Default)]
struct Kept {
    /// Last used last.
    idle: RefCell<Vec<VendorConnection>>,
    addresses: RefCell<Addresses>,
}

#[derive(Default)]
struct Addresses {
    known: Vec<SocketAddr>,
    until: Option<Instant>,
}

impl Pool {
    pub(crate) fn new(vendor: Arc<Vendor>) -> Pool {
        Pool { vendor, kept: Rc::default() }
    }

    /// A pool for the same vendor by another configuration: what is kept belongs to both, since requests that began
    /// before give their connections back to this one.
    pub(crate) fn renewed(&self, vendor: Arc<Vendor>) -> Pool {
        let kept = if vendor.trusts_like(&self.vendor) { Rc::clone(&self.kept) } else { Rc::default() };
        Pool { vendor, kept }
    }

    /// A connection that was kept for this credential, and on which nothing has arrived since.
    pub(crate) fn take_idle(&self, credential: &Arc<Credential>) -> Option<VendorConnection> {
        let is_of = |connection: &VendorConnection| {
            connection.credential.as_ref().is_some_and(|of| Arc::ptr_eq(of, credential))
        };
        loop {
            let mut idle = self.kept.idle.borrow_mut();
            // The last one, unless the vendor has several accounts.
            let at = idle.iter().rposition(is_of)?;
            let mut connection = idle.remove(at);
            drop(idle);
            if !connection.deadline.has_expired() && !connection.transport.has_input() {
                // No longer idle, so that draining does not end it.
                connection.deadline.set(self.vendor.config.timeout_s);
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose last exchange ended cleanly (H7).
    pub(crate) fn keep(&self, mut connection: VendorConnection) {
        if !connection.credential.as_ref().is_some_and(|credential| self.vendor.is_current(credential)) {
            return;
        }
        connection.is_reused = true;
        connection.head.reset();
        for buffer in [&mut connection.input, &mut connection.output] {
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
        let mut idle = self.kept.idle.borrow_mut();
        if idle.len() < self.vendor.config.idle_connections_max {
            connection.deadline.set_idle(IDLE_SECONDS);
            idle.push(connection);
        }
    }

    /// Drops connections that were unused for too long; called now and then.
    pub(crate) fn prune(&self) {
        self.kept.idle.borrow_mut().retain(|connection| !connection.deadline.has_expired());
    }

    /// Drops those whose credential was replaced.
    pub(crate) fn drop_stale(&self) {
        let is_current = |credential: &Arc<Credential>| self.vendor.is_current(credential);
        self.kept
            .idle
            .borrow_mut()
            .retain(|connection| connection.credential.as_ref().is_some_and(is_current));
    }

    /// Drops all kept connections.
    pub(crate) fn clear(&self) {
        self.kept.idle.borrow_mut().clear();
    }

    /// Addresses that are still fresh; an IP address needs no resolver.
    pub(crate) fn fresh_addresses(&self) -> Option<Vec<SocketAddr>> {
        let origin = &self.vendor.origin;
        if let Some(address) = resolve::literal(&origin.host, origin.port) {
            return Some(vec![address]);
        }
        let addresses = self.kept.addresses.borrow();
        addresses.until.is_some_and(|until| Instant::now() < until).then(|| addresses.known.clone())
    }

    /// Remembers what the resolver said.
    pub(crate) fn remember(&self, known: &[SocketAddr]) {
        let until = Instant::now().checked_add(ADDRESS_LIFE);
        *self.kept.addresses.borrow_mut() = Addresses { known: known.to_vec(), until };
    }

    /// Opens a connection to the first of `addresses` that answers and may be used.
    pub(crate) async fn open(
        &self,
        addresses: Vec<SocketAddr>,
        deadlines: &Rc<Deadlines>,
        metrics: &Metrics,
    ) -> io::Result<VendorConnection> {
        // Checked at each connect: a name may lead elsewhere tomorrow.
        let addresses =
            resolve::allowed(addresses, self.vendor.address_policy()).map_err(io::Error::other)?;
        let limit = self.vendor.config.connect_timeout_s;
        let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match Tcp::connect(address, Duration::from_secs(limit)).await {
                Ok(tcp) => {
                    metrics.vendor_connections_opened.add(1);
                    return self.equip(tcp, deadlines, limit).await;
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn equip(&self, tcp: Tcp, deadlines: &Rc<Deadlines>, limit: u64) -> io::Result<VendorConnection> {
        let deadline = deadlines.slot(tcp.fd());
        deadline.set(limit);
        let transport = match &self.vendor.tls {
            None => Transport::Plain(tcp),
            Some((config, name)) => {
                Transport::Tls(Box::new(TlsStream::connect(tcp, Arc::clone(config), name.clone()).await?))
            }
        };
        Ok(VendorConnection {
            deadline,
            transport,
            input: Vec::new(),
            output: Vec::new(),
            head: ReplyHead::new(),
            is_reused: false,
            credential: None,
        })
    }
}
