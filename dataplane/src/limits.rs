//! What agents may use up of the process, counted over all workers: connections, memory for bodies, wrong keys
//! (rules G2, G3, G5).
//!
//! The limits themselves stand in one place, [`Limits::figures`]. What is counted are atomics: nobody waits for
//! anybody. Whoever takes something gets a guard for it, and what is refused was never there.

mod addresses;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use keybrake_proto::config::{Config, Figures};
use keybrake_proto::control::Counter;

use self::addresses::Addresses;
use crate::alarm::{Alarm, Alarms};

/// Requests that are passed on to the admin process at once: nobody has shown a token yet.
const RELAYS_MAX: u64 = 64;

/// Requests may take so many quarters of the memory for bodies; replies all of it. A reply that finds none costs its
/// quote, so agents who send much must not bring that about.
const REQUEST_QUARTERS: u64 = 3;

/// Connections and bytes from which on their end is worth giving memory back to the kernel.
const CROWD: u64 = 500;
const MUCH_MEMORY: u64 = 16 * 1024 * 1024;

/// What the process may use up, and what it does.
#[derive(Debug)]
pub(crate) struct Limits {
    figures: ArcSwap<Figures>,
    /// Files that the process may have open.
    descriptors: u64,
    connections: AtomicU64,
    memory: AtomicU64,
    relays: AtomicU64,
    /// The most connections and memory since [`Limits::has_shrunk`] said so.
    peaks: [AtomicU64; 2],
    addresses: Addresses,
    alarms: Alarms,
}

/// One of so many; dropped, there is room for another one.
#[derive(Debug)]
pub(crate) struct Place {
    limits: Arc<Limits>,
    of: Of,
}

#[derive(Clone, Copy, Debug)]
enum Of {
    /// A connection, of an address that is counted or not.
    Connections(Option<IpAddr>),
    Relays,
}

/// Memory that one exchange has taken.
#[derive(Debug)]
pub(crate) struct Memory {
    limits: Arc<Limits>,
    bytes: u64,
    /// All exchanges together may take so many quarters of what there is.
    quarters: u64,
}

impl Limits {
    /// Those of `config`, for a process that may have so many files open.
    pub(crate) fn new(config: &Config, descriptors: u64) -> Arc<Limits> {
        Limits::of(Figures::of(config, descriptors), descriptors)
    }

    fn of(figures: Figures, descriptors: u64) -> Arc<Limits> {
        let addresses = Addresses::new(figures.wrong_keys, figures.wrong_keys_burst);
        let (connections, memory, relays, peaks) = Default::default();
        let figures = ArcSwap::from_pointee(figures);
        let alarms = Alarms::default();
        Arc::new(Limits { figures, descriptors, connections, memory, relays, peaks, addresses, alarms })
    }

    /// The defaults.
    #[cfg(test)]
    pub(crate) fn of_tests() -> Arc<Limits> {
        let text = "[[vendor]]\nname = \"stripe\"\nbase_url = \"https://api.stripe.com\"";
        let config = keybrake_proto::config::Config::parse(text, std::iter::empty()).unwrap();
        Limits::new(&config, 1 << 20)
    }

    /// The limits.
    pub(crate) fn figures(&self) -> Guard<Arc<Figures>> {
        self.figures.load()
    }

    /// Puts those of another reading of the configuration in force; what is taken stays taken.
    pub(crate) fn renew(&self, config: &Config) {
        self.figures.store(Arc::new(Figures::of(config, self.descriptors)));
    }

    /// Counts a refusal, and tells the operator.
    pub(crate) fn note(&self, alarm: Alarm) {
        self.alarms.note(alarm);
    }

    /// Now and then.
    pub(crate) fn tick(&self) {
        self.alarms.tick();
        for (peak, now) in self.peaks.iter().zip([&self.connections, &self.memory]) {
            peak.fetch_max(now.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Whether less than half is left of a crowd, or of the memory that bodies took: said once.
    pub(crate) fn has_shrunk(&self) -> bool {
        let counts = [(&self.connections, CROWD), (&self.memory, MUCH_MEMORY)];
        let mut has_shrunk = false;
        for (peak, (now, least)) in self.peaks.iter().zip(counts) {
            let (peak_was, now) = (peak.load(Ordering::Relaxed), now.load(Ordering::Relaxed));
            if peak_was >= least && now < peak_was.div_ceil(2) {
                peak.store(now, Ordering::Relaxed);
                has_shrunk = true;
            }
        }
        has_shrunk
    }

    /// A connection from `peer`, if there is room. It costs two atomic additions and two hashes, and no memory.
    pub(crate) fn connect(self: &Arc<Limits>, peer: IpAddr) -> Option<Place> {
        if !take(&self.connections, self.figures().connections_max) {
            self.note(Alarm::Connections);
            return None;
        }
        let counted = self.figures().counts(peer).then_some(peer);
        let place = Place { limits: Arc::clone(self), of: Of::Connections(counted) };
        let Some(address) = counted else { return Some(place) };
        if self.addresses.connect(address) > self.figures().connections_per_address_max {
            // The place gives both back.
            self.note(Alarm::Address);
            return None;
        }
        Some(place)
    }

    /// A request for the admin process, if there is room.
    pub(crate) fn relay(self: &Arc<Limits>) -> Option<Place> {
        if take(&self.relays, RELAYS_MAX) {
            return Some(Place { limits: Arc::clone(self), of: Of::Relays });
        }
        self.note(Alarm::Relay);
        None
    }

    /// A request without a valid key came from `peer`: `true` where they are too many. It costs the same whatever the
    /// answer.
    pub(crate) fn is_flood(&self, peer: IpAddr, now: Instant) -> bool {
        if !self.figures().counts(peer) || self.addresses.take_token(peer, now) {
            return false;
        }
        self.note(Alarm::WrongKeys);
        true
    }

    /// Memory for a request's body; none is taken yet.
    pub(crate) fn request_memory(self: &Arc<Limits>) -> Memory {
        Memory { limits: Arc::clone(self), bytes: 0, quarters: REQUEST_QUARTERS }
    }

    /// Memory for a reply; none is taken yet.
    pub(crate) fn reply_memory(self: &Arc<Limits>) -> Memory {
        Memory { limits: Arc::clone(self), bytes: 0, quarters: 4 }
    }

    /// As `/metrics` shows it.
    pub(crate) fn counters(&self) -> Vec<Counter> {
        let gauge = |name: &str, help: &str, value: u64| Counter {
            name: format!("keybrake_{name}"),
            help: help.to_owned(),
            kind: "gauge".to_owned(),
            label: None,
            value,
        };
        let used = self.memory.load(Ordering::Relaxed);
        let mut counters = vec![
            gauge("body_memory_bytes", "Memory that bodies and priced replies use.", used),
            gauge("body_memory_max_bytes", "What they may use.", self.figures().body_memory_bytes_max),
            gauge(
                "agent_connections_max",
                "Connections that agents may have.",
                self.figures().connections_max,
            ),
        ];
        counters.extend(self.alarms.counters());
        counters
    }
}

/// Takes one of `most`, or none.
fn take(count: &AtomicU64, most: u64) -> bool {
    let is_taken = count.fetch_add(1, Ordering::Relaxed) < most;
    if !is_taken {
        count.fetch_sub(1, Ordering::Relaxed);
    }
    is_taken
}

impl Memory {
    /// Takes what is missing up to `bytes`; `false` where there is not so much, and what was taken stays.
    pub(crate) fn cover(&mut self, bytes: usize) -> bool {
        let wanted = u64::try_from(bytes).unwrap_or(u64::MAX);
        let Some(missing) = wanted.checked_sub(self.bytes).filter(|missing| *missing > 0) else {
            return true;
        };
        // Asked for each time: a connection may be older than the limit.
        let most = self.limits.figures().body_memory_bytes_max.saturating_mul(self.quarters) / 4;
        let used = &self.limits.memory;
        let fits = used.fetch_add(missing, Ordering::Relaxed).saturating_add(missing) <= most;
        if fits {
            self.bytes = wanted;
        } else {
            used.fetch_sub(missing, Ordering::Relaxed);
            self.limits.note(Alarm::Memory);
        }
        fits
    }

    /// Gives all of it back.
    pub(crate) fn give_back(&mut self) {
        if self.bytes > 0 {
            self.limits.memory.fetch_sub(self.bytes, Ordering::Relaxed);
            self.bytes = 0;
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let count = match self.of {
            Of::Relays => &self.limits.relays,
            Of::Connections(counted) => {
                if let Some(address) = counted {
                    self.limits.addresses.disconnect(address);
                }
                &self.limits.connections
            }
        };
        count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn limits(change: impl FnOnce(&mut Figures)) -> Arc<Limits> {
        let mut figures = Figures::clone(&Limits::of_tests().figures());
        change(&mut figures);
        Limits::of(figures, 1 << 20)
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(203, 0, 113, last))
    }

    #[test]
    fn g2_connections_are_limited_in_all_and_by_address_and_come_back() {
        let limits = limits(|figures| {
            (figures.connections_max, figures.connections_per_address_max) = (5, 2);
        });
        let mut places: Vec<Place> = (0..2).filter_map(|_| limits.connect(address(1))).collect();
        assert!(places.len() == 2 && limits.connect(address(1)).is_none(), "two of one address");
        places.extend(limits.connect(address(2)));
        let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
        places.extend((0..9).filter_map(|_| limits.connect(loopback)));
        assert_eq!(places.len(), 5, "a trusted address counts in all, not by itself");
        assert_eq!(limits.alarms.total(Alarm::Connections), 7);
        assert_eq!(limits.alarms.total(Alarm::Address), 1);
        drop(places);
        assert_eq!(limits.connections.load(Ordering::Relaxed), 0, "what was refused left nothing behind");
        let again: Vec<Place> = (0..9).filter_map(|_| limits.connect(address(1))).collect();
        assert_eq!(again.len(), 2);
    }

    #[test]
    fn g2_an_ipv6_network_is_one_address() {
        let limits = limits(|figures| figures.connections_per_address_max = 2);
        let addresses = ["2001:db8::1", "2001:db8::2:3", "2001:db8::ffff"];
        let places: Vec<_> = addresses.map(|address| limits.connect(address.parse().unwrap())).into();
        assert_eq!(places.iter().flatten().count(), 2);
        assert!(limits.connect("2001:db8:0:1::1".parse().unwrap()).is_some());
    }

    #[test]
    fn g3_memory_is_taken_before_it_is_used_and_requests_leave_a_quarter_to_replies() {
        let limits = limits(|figures| figures.body_memory_bytes_max = 1000);
        let (mut one, mut two) = (limits.request_memory(), limits.request_memory());
        assert!(one.cover(700) && one.cover(600), "what it has already it need not take");
        assert!(two.cover(50) && !two.cover(51));
        assert_eq!(limits.memory.load(Ordering::Relaxed), 750);
        let mut reply = limits.reply_memory();
        assert!(reply.cover(250) && !reply.cover(251));
        drop(one);
        assert!(two.cover(500));
        two.give_back();
        drop((two, reply));
        assert_eq!(limits.memory.load(Ordering::Relaxed), 0);
        assert_eq!(limits.alarms.total(Alarm::Memory), 2);
    }

    #[test]
    fn g5_wrong_keys_of_one_address_run_out_and_those_of_another_one_do_not() {
        let limits = limits(|figures| figures.wrong_keys_burst = 3);
        let now = Instant::now();
        let refused = |peer| (0..10).filter(|_| limits.is_flood(peer, now)).count();
        assert_eq!((refused(address(1)), refused(address(2))), (7, 7));
        assert_eq!(refused(IpAddr::V4(Ipv4Addr::LOCALHOST)), 0, "a front proxy is not its agents");
    }

    #[test]
    fn the_end_of_a_crowd_is_told_once() {
        let limits = limits(|_| ());
        let mut crowd: Vec<Place> = (0..CROWD).filter_map(|_| limits.connect(address(1))).collect();
        limits.tick();
        assert!(!limits.has_shrunk());
        crowd.truncate(10);
        limits.tick();
        assert!(limits.has_shrunk() && !limits.has_shrunk());
        drop(crowd);
        assert!(!limits.has_shrunk(), "ten are no crowd");
    }

    #[test]
    fn n5_requests_for_the_admin_process_are_limited() {
        let limits = limits(|_| ());
        let places: Vec<Place> = (0..RELAYS_MAX + 9).filter_map(|_| limits.relay()).collect();
        assert_eq!(places.len() as u64, RELAYS_MAX);
        drop(places);
        assert!(limits.relay().is_some());
    }
}
