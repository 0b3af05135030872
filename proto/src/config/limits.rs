//! `[limits]`: how much of the machine agents may use up, in all and each (rules G2, G3, G5).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Config, ConfigError, Proxy};
use crate::policy::Rate;

/// Networks that may be listed: each new connection is compared with all of them.
const TRUSTED_MAX: usize = 64;

/// Descriptors that are kept back for vendors and files, at least: one part in so many of all.
const DESCRIPTORS_KEPT_PART: u64 = 4;

/// The least that is kept back: the store has up to a hundred files open.
const DESCRIPTORS_KEPT_MIN: u64 = 256;

/// `[limits]`: how much of the machine agents may use up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The most connections from one address, or from one /64 of IPv6. Absent: half of `proxy.connections_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_address_max: Option<u64>,
    /// The most requests under one vault key at once, those of the keys below it included. Absent: a quarter of
    /// `proxy.connections_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_key_max: Option<u64>,
    /// Memory for request bodies and for replies that are read for their charge, in bytes, over all workers.
    pub body_memory_bytes_max: u64,
    /// Requests without a valid key that one address is answered per second with 401.
    pub wrong_keys_per_s: u32,
    /// So many of them at once.
    pub wrong_keys_burst: u32,
    /// Addresses that many agents share, such as a front proxy's: what is counted by address is not counted for them.
    pub trusted_addresses: Vec<Network>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections_per_address_max: None,
            requests_per_key_max: None,
            body_memory_bytes_max: 256 * 1024 * 1024,
            wrong_keys_per_s: 20,
            wrong_keys_burst: 200,
            // A front proxy on the same machine, and all agents on it.
            trusted_addresses: vec![
                Network { address: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 },
                Network { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
            ],
        }
    }
}

/// The limits of `[limits]` and `[proxy]` as numbers: what the file leaves out is filled in. They are read here and
/// nowhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Connections from agents, over all workers.
    pub connections_max: u64,
    /// Of them from one address.
    pub connections_per_address_max: u64,
    /// Requests under one vault key at once.
    pub requests_per_key_max: u64,
    /// Bytes of bodies.
    pub body_memory_bytes_max: u64,
    /// Requests without a valid key, per second and address.
    pub wrong_keys: Rate,
    /// So many of them at once.
    pub wrong_keys_burst: u32,
    /// Addresses that are not counted.
    pub trusted_addresses: Vec<Network>,
}

impl Figures {
    /// The limits of `config` for a process that may have `descriptors` open. Of these some are kept for vendors'
    /// connections and for files, so that agents alone never use them up (rule G6).
    pub fn of(config: &Config, descriptors: u64) -> Figures {
        let Config { proxy: Proxy { connections_max, .. }, limits, .. } = config;
        let wanted = u64::try_from(*connections_max).unwrap_or(u64::MAX);
        let connections_max = wanted.min(left_for_agents(descriptors));
        let part = |parts: u64| connections_max.div_ceil(parts);
        Figures {
            connections_max,
            connections_per_address_max: limits.connections_per_address_max.unwrap_or(part(2)),
            requests_per_key_max: limits.requests_per_key_max.unwrap_or(part(4)),
            body_memory_bytes_max: limits.body_memory_bytes_max,
            wrong_keys: rate(limits).unwrap_or(Rate::ONE),
            wrong_keys_burst: limits.wrong_keys_burst,
            trusted_addresses: limits.trusted_addresses.clone(),
        }
    }

    /// Whether `address` is counted by itself.
    pub fn counts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        !self.trusted_addresses.iter().any(|network| network.contains(address))
    }
}

/// What agents may have of so many descriptors.
fn left_for_agents(descriptors: u64) -> u64 {
    let part = descriptors.checked_div(DESCRIPTORS_KEPT_PART).unwrap_or_default();
    descriptors.saturating_sub(part.max(DESCRIPTORS_KEPT_MIN)).max(1)
}

fn rate(limits: &Limits) -> Option<Rate> {
    Rate::per_second(limits.wrong_keys_per_s)
}

/// Whose connection it is: an address of IPv4, or the /64 of IPv6, within which whoever has one address has all.
pub fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let network = address.to_bits() & u128::MAX.wrapping_shl(64);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
    }
}

/// A network such as `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `address` is in it. One of IPv4 that is written as IPv6 is one of IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let same = |ours: u128, theirs: u128, bits: u32| {
            let host_bits = bits.saturating_sub(u32::from(self.prefix));
            (ours ^ theirs).checked_shr(host_bits).unwrap_or(0) == 0
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                same(u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => same(ours.to_bits(), theirs.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Network, &'static str> {
        const SHAPE: &str =
            "is no network; write an address such as 10.1.2.3, or a network such as 10.0.0.0/8";
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| SHAPE)?;
        let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(prefix) => prefix.parse().ok().filter(|prefix| *prefix <= bits).ok_or(SHAPE)?,
            None => bits,
        };
        Ok(Network { address, prefix })
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Network, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|problem| de::Error::custom(format_args!("`{text}` {problem}")))
    }
}

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let Config { proxy, limits, .. } = config;
    let refuse = |key: &str, problem: String| Err(ConfigError::value(key, problem));
    for (key, value, least, most, unit) in [
        ("connections_per_address_max", limits.connections_per_address_max, 1, 1_000_000, "connections"),
        ("requests_per_key_max", limits.requests_per_key_max, 1, 1_000_000, "requests"),
        ("wrong_keys_burst", Some(u64::from(limits.wrong_keys_burst)), 1, 1_000_000, "requests"),
    ] {
        if value.is_some_and(|value| !(least..=most).contains(&value)) {
            return refuse(&format!("limits.{key}"), format!("must be between {least} and {most} {unit}"));
        }
    }
    if rate(limits).is_none() {
        return refuse(
            "limits.wrong_keys_per_s",
            "must be between 1 and 100000 requests per second".to_owned(),
        );
    }
    // A body is there twice, as it is read and as it is sent, and requests have three quarters of it.
    let least = proxy.body_bytes_max.saturating_mul(4);
    if limits.body_memory_bytes_max < least {
        let problem = format!("must be at least four times proxy.body_bytes_max, so {least} bytes");
        return refuse("limits.body_memory_bytes_max", problem);
    }
    if limits.trusted_addresses.len() > TRUSTED_MAX {
        return refuse("limits.trusted_addresses", format!("must have at most {TRUSTED_MAX} networks"));
    }
    for (key, value, least, most, unit) in [
        ("proxy.rate_grace_s", proxy.rate_grace_s, 1, 3600, "seconds"),
        ("proxy.body_bytes_per_s_min", proxy.body_bytes_per_s_min, 1, 1 << 30, "bytes per second"),
        ("proxy.write_bytes_per_s_min", proxy.write_bytes_per_s_min, 1, 1 << 30, "bytes per second"),
    ] {
        if !(least..=most).contains(&value) {
            return refuse(key, format!("must be between {least} and {most} {unit}, not {value}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_source(address: &str, expected: &str) {
        let parsed: IpAddr = address.parse().unwrap();
        assert_eq!(source(parsed).to_string(), expected, "{address}");
    }

    #[test]
    fn g2_an_address_of_ipv6_counts_by_its_64() {
        check_source("203.0.113.7", "203.0.113.7");
        check_source("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
        check_source("2001:db8:1:2:ffff::1", "2001:db8:1:2::");
        check_source("2001:db8:1:3::1", "2001:db8:1:3::");
        check_source("::ffff:203.0.113.7", "203.0.113.7");
    }

    fn check_network(network: &str, address: &str, expected: bool) {
        let network: Network = network.parse().unwrap();
        assert_eq!(network.contains(address.parse().unwrap()), expected, "{network} {address}");
    }

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        check_network("127.0.0.0/8", "127.255.0.1", true);
        check_network("127.0.0.0/8", "126.255.0.1", false);
        check_network("127.0.0.0/8", "::ffff:127.0.0.1", true);
        check_network("10.1.2.3", "10.1.2.3", true);
        check_network("10.1.2.3", "10.1.2.2", false);
        check_network("0.0.0.0/0", "203.0.113.7", true);
        check_network("0.0.0.0/0", "2001:db8::1", false);
        check_network("2001:db8::/32", "2001:db8:ffff::1", true);
        check_network("::/0", "2001:db8::1", true);
        check_network("::1", "::2", false);
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "localhost", "10.0.0.0/"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn g6_agents_leave_descriptors_for_vendors_and_files() {
        for (descriptors, left) in [(0, 1), (256, 1), (1024, 768), (4096, 3072), (20_000, 15_000)] {
            assert_eq!(left_for_agents(descriptors), left, "{descriptors}");
        }
    }
}
