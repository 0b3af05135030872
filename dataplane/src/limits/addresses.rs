//! What is counted by address, in a table that never grows.
//!
//! An attacker has as many addresses as it likes, so a table of addresses would be one more thing to exhaust, and one
//! that evicts forgets whom it should remember. Here each address has a slot in each of two rows, found by two keyed
//! hashes, and shares them with others by chance alone: it is over a limit only if both of its slots are
//! (a count-min sketch, Cormode and Muthukrishnan 2005). With a thousand attacking addresses one honest address in a
//! thousand shares both.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use keybrake_proto::config::source;
use keybrake_proto::policy::{Bucket, Rate};

/// Slots of a row; with two rows and 16 bytes a slot that is one MiB.
const SLOTS: usize = 32_768;

#[derive(Debug)]
pub(super) struct Addresses {
    epoch: Instant,
    bucket: Bucket,
    /// Nobody outside can aim at a slot.
    hashes: [RandomState; 2],
    rows: [Box<[Slot]>; 2],
}

#[derive(Debug, Default)]
struct Slot {
    connections: AtomicU64,
    /// Up to when all tokens are used, in nanoseconds since the epoch.
    used_ns: AtomicU64,
}

impl Addresses {
    /// Each address has a bucket of `burst` tokens that come back at `rate`.
    pub(super) fn new(rate: Rate, burst: u32) -> Addresses {
        let row = || (0..SLOTS).map(|_| Slot::default()).collect();
        let hashes = [RandomState::new(), RandomState::new()];
        Addresses { epoch: Instant::now(), bucket: Bucket::new(rate, burst), hashes, rows: [row(), row()] }
    }

    /// One connection more: how many the address has, or a few more.
    pub(super) fn connect(&self, address: IpAddr) -> u64 {
        let [one, two] = self.slots(address);
        let count = |slot: &Slot| slot.connections.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        count(one).min(count(two))
    }

    /// One less.
    pub(super) fn disconnect(&self, address: IpAddr) {
        for slot in self.slots(address) {
            slot.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Takes a token of the address; `false` where there is none.
    pub(super) fn take_token(&self, address: IpAddr, now: Instant) -> bool {
        let now_ns = u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX);
        let take = |slot: &Slot| {
            let next = |used_ns| self.bucket.take(used_ns, now_ns).ok();
            slot.used_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
        };
        let [one, two] = self.slots(address);
        // Of both, so that one that is shared says less.
        let taken = [take(one), take(two)];
        taken.contains(&true)
    }

    fn slots(&self, address: IpAddr) -> [&Slot; 2] {
        let [first, second] = &self.hashes;
        let [one, two] = &self.rows;
        let address = source(address);
        [slot(one, first.hash_one(address)), slot(two, second.hash_one(address))]
    }
}

fn slot(row: &[Slot], hash: u64) -> &Slot {
    let slots = u64::try_from(SLOTS).unwrap_or(1);
    let index = usize::try_from(hash.checked_rem(slots).unwrap_or_default()).unwrap_or_default();
    #[expect(clippy::indexing_slicing, reason = "a remainder of the row's length")]
    &row[index]
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn addresses(burst: u32) -> Addresses {
        Addresses::new("10".parse().unwrap(), burst)
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(number))
    }

    #[test]
    fn n5_a_hundred_thousand_addresses_take_no_more_memory_and_hide_few_honest_ones() {
        let addresses = addresses(1);
        let bytes = || addresses.rows.iter().map(|row| size_of_val::<[Slot]>(row)).sum::<usize>();
        let before = bytes();
        let now = addresses.epoch;
        for number in 0..1000 {
            assert!((0..9).filter(|_| addresses.take_token(address(number), now)).count() <= 2);
        }
        // With so many slots taken, one of a thousand is expected to find both of its own empty.
        let honest =
            (1_000_000..1_001_000).filter(|number| addresses.take_token(address(*number), now)).count();
        assert!(honest >= 950, "{honest} of 1000");
        for number in 2_000_000..2_100_000 {
            addresses.connect(address(number));
        }
        assert_eq!(bytes(), before);
    }

    #[test]
    fn g5_tokens_come_back() {
        let addresses = addresses(5);
        let taken = |at: u64| {
            let now = addresses.epoch + Duration::from_millis(at);
            (0..100).filter(|_| addresses.take_token(address(1), now)).count()
        };
        assert_eq!((taken(0), taken(50), taken(100), taken(10_000)), (5, 0, 1, 5));
    }

    #[test]
    fn g2_connections_go_up_and_down() {
        let addresses = addresses(1);
        assert_eq!((addresses.connect(address(1)), addresses.connect(address(1))), (1, 2));
        addresses.disconnect(address(1));
        assert_eq!(addresses.connect(address(1)), 2);
    }
}
