//! Numbers that look random and are the same for the same seed, on every machine and in every version.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// splitmix64, by Steele, Lea and Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The sequence of this seed.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// The next number below `bound`; 0 where that is 0. Its bias is `bound` in 2^64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or_default()
    }

    /// True once in a while: with the probability of `parts` in a million.
    pub(crate) fn happens(&mut self, parts: u64) -> bool {
        self.below(1_000_000) < parts
    }
}

/// A seed that no earlier run had.
pub(crate) fn fresh_seed() -> u64 {
    // Short enough to be read out and typed again.
    RandomState::new().build_hasher().finish() >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_the_published_generator() {
        let mut random = Random::new(1_234_567);
        let numbers = [random.next(), random.next(), random.next()];
        assert_eq!(
            numbers,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn a_probability_is_kept_over_many_draws() {
        let mut random = Random::new(7);
        let hits = (0..100_000).filter(|_| random.happens(250_000)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
        assert!(!random.happens(0) && random.happens(1_000_000));
    }
}
