//! Requests per second, and the bucket that counts them.
//!
//! The bucket is one number: the time up to which all tokens are used ("theoretical arrival time" of the generic cell
//! rate algorithm, ITU-T I.371). So it fits one atomic, and refilling it needs no timer.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// Thousandths of a request per second.
const MILLI: u32 = 1000;

/// A hundred thousand requests a second are more than one machine forwards for a key.
const PER_SECOND_MAX: u32 = 100_000;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Requests per second, from 0.001 to 100000, exact to a thousandth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(u32);

impl Rate {
    /// One request per second.
    pub const ONE: Rate = Rate(MILLI);

    /// A whole number of requests per second; `None` where it is out of range.
    pub fn per_second(requests: u32) -> Option<Rate> {
        let fits = (1..=PER_SECOND_MAX).contains(&requests);
        requests.checked_mul(MILLI).filter(|_| fits).map(Rate)
    }

    /// The requests of one second, rounded up: how many may come at once.
    pub fn burst(self) -> u32 {
        self.0.div_ceil(MILLI)
    }

    /// The requests of a tenth of a second, at least one.
    pub fn short_burst(self) -> u32 {
        self.0.checked_div(MILLI.saturating_mul(10)).unwrap_or_default().max(1)
    }

    fn interval_ns(self) -> u64 {
        NANOS_PER_SECOND.saturating_mul(u64::from(MILLI)).checked_div(u64::from(self.0)).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.checked_div(MILLI).unwrap_or_default();
        match self.0.checked_rem(MILLI).unwrap_or_default() {
            0 => write!(f, "{whole}"),
            rest => write!(f, "{whole}.{}", format!("{rest:03}").trim_end_matches('0')),
        }
    }
}

/// A text or number that is no [`Rate`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARate;

impl fmt::Display for NotARate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not a rate; write requests per second, from 0.001 to 100000, such as 5 or 0.5")
    }
}

impl std::error::Error for NotARate {}

/// Parses a plain decimal exactly: `5`, `0.5`, `2.125`.
impl FromStr for Rate {
    type Err = NotARate;

    fn from_str(text: &str) -> Result<Rate, NotARate> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let fraction =
            if is_digits(fraction) { fraction.trim_end_matches('0') } else { return Err(NotARate) };
        if !is_digits(whole) || fraction.len() > 3 {
            return Err(NotARate);
        }
        let whole: u32 = whole.parse().map_err(|_| NotARate)?;
        let milli: u32 = format!("{fraction:0<3}").parse().map_err(|_| NotARate)?;
        let rate = whole.checked_mul(MILLI).and_then(|whole| whole.checked_add(milli));
        let most = PER_SECOND_MAX.saturating_mul(MILLI);
        rate.filter(|rate| (1..=most).contains(rate)).map(Rate).ok_or(NotARate)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let number: serde_json::Number = self.to_string().parse().map_err(ser::Error::custom)?;
        number.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        let rate = number.as_str().parse();
        rate.map_err(|error| de::Error::custom(format_args!("rate_limit_rps: `{number}` {error}")))
    }
}

/// Tokens that come back at a rate, up to a burst. It holds nothing: what is used is the caller's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    interval_ns: u64,
    /// How far the used time may lie ahead.
    tolerance_ns: u64,
}

impl Bucket {
    /// A bucket of `burst` tokens, at least one.
    pub fn new(rate: Rate, burst: u32) -> Bucket {
        let interval_ns = rate.interval_ns();
        let tolerance_ns = interval_ns.saturating_mul(u64::from(burst.saturating_sub(1)));
        Bucket { interval_ns, tolerance_ns }
    }

    /// Takes a token: `used_ns` is up to when all are used, `now_ns` the time on the same clock. Answers the new
    /// `used_ns`, or in how many nanoseconds there is a token.
    pub fn take(self, used_ns: u64, now_ns: u64) -> Result<u64, u64> {
        let from = used_ns.max(now_ns);
        match from.saturating_sub(now_ns).checked_sub(self.tolerance_ns) {
            None | Some(0) => Ok(from.saturating_add(self.interval_ns)),
            Some(wait_ns) => Err(wait_ns),
        }
    }

    /// What a token that was not needed gives back of `used_ns`.
    pub fn give_back(self, used_ns: u64) -> u64 {
        used_ns.saturating_sub(self.interval_ns)
    }
}

/// Whole seconds for `Retry-After`, at least one.
pub fn retry_after_s(wait_ns: u64) -> u64 {
    wait_ns.div_ceil(NANOS_PER_SECOND).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, NotARate>) {
        let rate = text.parse::<Rate>();
        assert_eq!(rate.map(|rate| rate.to_string()), expected.map(str::to_owned), "{text}");
        if let Ok(rate) = rate {
            let json = serde_json::to_string(&rate).unwrap();
            assert_eq!(serde_json::from_str::<Rate>(&json).unwrap(), rate, "{json}");
        }
    }

    #[test]
    fn rates_are_read_exactly_and_bounded() {
        for (text, shown) in [
            ("5", "5"),
            ("0.5", "0.5"),
            ("2.125", "2.125"),
            ("10.0", "10"),
            ("0.001", "0.001"),
            ("100000", "100000"),
        ] {
            check(text, Ok(shown));
        }
        for text in ["", "0", "0.0001", "100000.001", "-1", "1e3", ".5", "5.", "99999999999"] {
            check(text, Err(NotARate));
        }
    }

    #[test]
    fn a_burst_is_one_second_and_at_least_one() {
        let burst = |text: &str| text.parse::<Rate>().map(Rate::burst);
        assert_eq!((burst("5"), burst("0.2"), burst("2.5")), (Ok(5), Ok(1), Ok(3)));
    }

    #[test]
    fn a_bucket_says_when_there_is_a_token_again() {
        let bucket = Bucket::new("2".parse().unwrap(), 2);
        let used = bucket.take(0, 1_000).unwrap();
        let used = bucket.take(used, 1_000).unwrap();
        assert_eq!(bucket.take(used, 1_000), Err(500_000_000));
        assert!(bucket.take(bucket.give_back(used), 1_000).is_ok());
        assert!(bucket.take(used, 500_001_000).is_ok());
        assert_eq!((retry_after_s(1), retry_after_s(1_000_000_001)), (1, 2));
    }

    proptest::proptest! {
        /// Whatever the times of the requests, no span has more than its tokens and the burst.
        #[test]
        fn no_span_has_more_than_its_rate_and_one_burst(
            milli in 1_000u32..200_000,
            burst in 1u32..20,
            gaps in proptest::collection::vec(0u64..50_000_000, 1..200),
        ) {
            let rate = Rate(milli);
            let bucket = Bucket::new(rate, burst);
            let (mut now, mut used, mut taken) = (0u64, 0u64, Vec::new());
            for gap in gaps {
                now += gap;
                if let Ok(next) = bucket.take(used, now) {
                    used = next;
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let most = (to - from) / rate.interval_ns() + u64::from(burst);
                    proptest::prop_assert!((last - first) as u64 <= most, "{from} {to}");
                }
            }
        }
    }
}
