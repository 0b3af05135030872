//! Names to addresses, on a thread of its own: `getaddrinfo` blocks, and a worker must not.
//!
//! It also tells the addresses that are nobody's API (rule E2): a name that suddenly points
//! into this machine or its network would hand a vendor's credential to whoever listens there. The
//! caller asks again at every connect, so an answer is never trusted longer than one.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::thread;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

/// Names that may wait; one more is [`ResolveError::Busy`].
const WAITING_MAX: usize = 256;

/// Why there is no address to connect to. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ResolveError {
    /// Too many names wait already.
    Busy,
    /// The resolver thread has ended.
    Stopped,
    /// The lookup failed, in the system's words.
    Lookup(String),
    /// The name exists and has no address.
    NoAddress,
    /// Every address is one the policy refuses; this is the first of them.
    Refused {
        /// The address.
        address: IpAddr,
        /// What refuses it.
        policy: AddressPolicy,
    },
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::Busy => write!(f, "{WAITING_MAX} names wait for the resolver; try again"),
            ResolveError::Stopped => f.write_str("the resolver has stopped; restart the dataplane"),
            ResolveError::Lookup(reason) => write!(f, "the name does not resolve: {reason}"),
            ResolveError::NoAddress => f.write_str("the name has no address"),
            ResolveError::Refused { address, policy: AddressPolicy::LoopbackOnly } => write!(
                f,
                "plain http goes to a loopback address only, and the name is at {address}; use an https base_url"
            ),
            ResolveError::Refused { address, policy: AddressPolicy::Public | AddressPolicy::Any } => write!(
                f,
                "the name is at {address}, which is not a public address; set the vendor's \
                 allow_private_address if it is meant to be there"
            ),
        }
    }
}

impl std::error::Error for ResolveError {}

/// Which addresses a vendor may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressPolicy {
    /// Those of the public internet.
    Public,
    /// All: `allow_private_address`.
    Any,
    /// This machine: plain HTTP to a stand-in.
    LoopbackOnly,
}

impl AddressPolicy {
    fn allows(self, address: IpAddr) -> bool {
        match self {
            AddressPolicy::Public => is_public(address),
            AddressPolicy::Any => true,
            AddressPolicy::LoopbackOnly => address.to_canonical().is_loopback(),
        }
    }
}

/// Keeps the addresses that `policy` allows, in their order; at least one, or why there is none.
pub(crate) fn allowed(
    addresses: Vec<SocketAddr>,
    policy: AddressPolicy,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let first = addresses.first().ok_or(ResolveError::NoAddress)?.ip();
    let kept: Vec<SocketAddr> = addresses.into_iter().filter(|address| policy.allows(address.ip())).collect();
    if kept.is_empty() { Err(ResolveError::Refused { address: first, policy }) } else { Ok(kept) }
}

/// The address that `host` is, where it is one and not a name. `host` has no brackets.
pub(crate) fn literal(host: &str, port: u16) -> Option<SocketAddr> {
    host.parse().ok().map(|address| SocketAddr::new(address, port))
}

/// Whether an API on the public internet can have this address.
///
/// The ranges are those of the IANA special-purpose address registries (RFC 6890) that are not
/// globally reachable. An address that carries an IPv4 address is judged by that one. A false `true`
/// may send a credential to a neighbor; a false `false` refuses a vendor until the operator sets
/// `allow_private_address`.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // "This network", loopback, private.
        [0 | 10 | 127, ..] | [172, 16..=31, ..] | [192, 168, ..] => true,
        // Shared by carriers' customers (RFC 6598), link-local: cloud metadata is on either.
        [100, 64..=127, ..] | [169, 254, ..] => true,
        // IETF protocols, documentation, the 6to4 relay that was, benchmarks, documentation.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            true
        }
        // Azure's metadata, the one that lies in a public range.
        [168, 63, 129, 16] => true,
        // Multicast, reserved, broadcast.
        [224..=255, ..] => true,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // IPv4-mapped; NAT64 (RFC 6052), the only way to IPv4 vendors from an IPv6-only network.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(embedded(high, low))
        }
        // 6to4 carries it in front.
        [0x2002, high, low, ..] => is_public_v4(embedded(high, low)),
        // IETF protocols, Teredo and benchmarks among them (2001::/23); documentation, old and new.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast is 2000::/3. Outside lie ::, ::1, IPv4-compatible, discard, local NAT64,
        // unique local, link-local, site-local and multicast.
        [first, ..] => (0x2000..0x4000).contains(&first),
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

/// Takes the addresses, or why there are none: on the resolver thread, or on the caller's where
/// the name was never looked up.
pub(crate) type Done = Box<dyn FnOnce(Result<Vec<SocketAddr>, ResolveError>) + Send>;

struct Lookup {
    host: String,
    port: u16,
    done: Done,
}

/// Starts the thread; it ends with the last [`ResolverHandle`].
pub(crate) struct Resolver(());

impl Resolver {
    /// Starts the thread `resolver`.
    pub(crate) fn start() -> io::Result<ResolverHandle> {
        Resolver::start_with(WAITING_MAX, look_up)
    }

    fn start_with(
        waiting_max: usize,
        look_up: impl Fn(&str, u16) -> Result<Vec<SocketAddr>, ResolveError> + Send + 'static,
    ) -> io::Result<ResolverHandle> {
        let (lookups, waiting) = bounded(waiting_max);
        thread::Builder::new().name("resolver".to_owned()).spawn(move || run(&waiting, look_up))?;
        Ok(ResolverHandle { lookups })
    }
}

fn run(waiting: &Receiver<Lookup>, look_up: impl Fn(&str, u16) -> Result<Vec<SocketAddr>, ResolveError>) {
    for Lookup { host, port, done } in waiting {
        done(look_up(&host, port));
    }
}

fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, ResolveError> {
    match (host, port).to_socket_addrs() {
        Ok(addresses) => Ok(addresses.collect()),
        Err(error) => Err(ResolveError::Lookup(error.to_string())),
    }
}

/// The way to the resolver thread, for every worker.
#[derive(Clone)]
pub(crate) struct ResolverHandle {
    lookups: Sender<Lookup>,
}

impl ResolverHandle {
    /// Looks `host` up and calls `done` once, with addresses that are not checked yet: see
    /// [`allowed`]. Never blocks. `done` should only post into a mailbox, as other names wait.
    ///
    /// There is no deadline: the caller has one, and lets go of what `done` brings later.
    pub(crate) fn resolve(&self, host: String, port: u16, done: Done) {
        match self.lookups.try_send(Lookup { host, port, done }) {
            Ok(()) => {}
            Err(TrySendError::Full(lookup)) => (lookup.done)(Err(ResolveError::Busy)),
            Err(TrySendError::Disconnected(lookup)) => (lookup.done)(Err(ResolveError::Stopped)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str) -> SocketAddr {
        literal(address, 443).unwrap()
    }

    fn ask(resolver: &ResolverHandle, host: &str) -> Receiver<Result<Vec<SocketAddr>, ResolveError>> {
        let (answer, answers) = bounded(1);
        resolver.resolve(host.to_owned(), 443, Box::new(move |result| answer.send(result).unwrap()));
        answers
    }

    #[test]
    fn public_addresses_are_allowed() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2600::1",
            "2a00:1450::1",
            "2002:808:808::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
        ] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn e2_addresses_that_are_nobodys_api_are_refused() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.0",
            "100.100.100.200",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::8.8.8.8",
            "::ffff:0:8.8.8.8",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::8.8.8.8",
            "100::1",
            "2001::1",
            "2001:0:4136:e378::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:a00:1::1",
            "2002:7f00:1::1",
            "2002:a9fe:a9fe::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn a_policy_keeps_what_it_allows_or_names_what_it_refused() {
        let (public, private, this) = (socket("8.8.8.8"), socket("10.0.0.1"), socket("::ffff:127.0.0.1"));
        let all = vec![private, public, this];
        assert_eq!(allowed(all.clone(), AddressPolicy::Public), Ok(vec![public]));
        assert_eq!(allowed(all.clone(), AddressPolicy::LoopbackOnly), Ok(vec![this]));
        assert_eq!(allowed(all.clone(), AddressPolicy::Any), Ok(all));
        for (addresses, policy) in
            [(vec![private, this], AddressPolicy::Public), (vec![public], AddressPolicy::LoopbackOnly)]
        {
            let address = addresses[0].ip();
            assert_eq!(allowed(addresses, policy), Err(ResolveError::Refused { address, policy }));
        }
        assert_eq!(allowed(Vec::new(), AddressPolicy::Any), Err(ResolveError::NoAddress));
    }

    #[test]
    fn only_addresses_are_literals() {
        assert_eq!(literal("127.0.0.1", 443), Some(SocketAddr::from(([127, 0, 0, 1], 443))));
        assert_eq!(literal("::1", 443).unwrap().to_string(), "[::1]:443");
        for host in ["localhost", "127.1", "0x7f.0.0.1", "2130706433", "[::1]", "127.0.0.1:80", ""] {
            assert_eq!(literal(host, 443), None, "{host}");
        }
    }

    #[test]
    fn a_name_is_looked_up_on_the_resolver_thread() {
        let resolver = Resolver::start().unwrap();
        let found = ask(&resolver, "localhost").recv().unwrap().unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 443), "{found:?}");
        assert!(matches!(ask(&resolver, "a name.invalid").recv().unwrap(), Err(ResolveError::Lookup(_))));
    }

    #[test]
    fn a_name_too_many_is_refused_at_once() {
        let (go, gate) = bounded::<()>(0);
        let (at_gate, reached) = bounded(0);
        let resolver = Resolver::start_with(1, move |_, _| {
            at_gate.send(()).unwrap();
            gate.recv().unwrap();
            Ok(Vec::new())
        })
        .unwrap();
        let running = ask(&resolver, "a");
        reached.recv().unwrap();
        let waiting = ask(&resolver, "b");
        assert_eq!(ask(&resolver, "c").try_recv(), Ok(Err(ResolveError::Busy)));
        go.send(()).unwrap();
        assert_eq!(running.recv(), Ok(Ok(Vec::new())));
        reached.recv().unwrap();
        go.send(()).unwrap();
        assert_eq!(waiting.recv(), Ok(Ok(Vec::new())));
    }
}
