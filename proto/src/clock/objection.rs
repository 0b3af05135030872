//! Why no money counts, in the words that agents and operators read.

use std::fmt;

use super::{Doubt, difference};
use crate::time::{Day, UnixMicros};

/// How long an agent waits before it asks again, where only an operator or a right clock helps: 60 s.
const RETRY_S: u64 = 60;

/// A refusal of the guard, with what it saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Objection {
    /// Why.
    pub doubt: Doubt,
    /// What the wall clock said.
    pub wall: UnixMicros,
    /// Where it should have been.
    pub expected: UnixMicros,
    /// The day that money counted on last.
    pub day: Day,
    /// Since when, by the clock that cannot be set.
    pub since: UnixMicros,
}

impl Objection {
    /// `Retry-After`, in seconds.
    pub fn retry_after_s(&self) -> u64 {
        match self.doubt {
            Doubt::Forward | Doubt::Back => RETRY_S,
            Doubt::BetweenMidnights => {
                self.wall.min(self.expected).seconds_until(self.day.end()).clamp(1, RETRY_S)
            }
            Doubt::NotRecorded => 1,
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Objection { doubt, wall, expected, day, since } = self;
        let deviation = Deviation(difference(wall.0, expected.0));
        match doubt {
            Doubt::Forward | Doubt::Back => write!(
                f,
                "since {since} the system clock is {deviation} where it should be: it says {wall}, and {expected} was \
                 expected. Calls that cost money stop until it is right again, or until an operator accepts it with \
                 `keybrake clock confirm`. Reads go on"
            ),
            Doubt::BetweenMidnights => write!(
                f,
                "the system clock is {deviation} where it should be, and {} is over by one of both clocks only. Calls \
                 that cost money go on when both are past midnight, or when an operator accepts the clock with \
                 `keybrake clock confirm`. Reads go on",
                day.start().date()
            ),
            Doubt::NotRecorded => write!(
                f,
                "{} is over, and the new day is not on disk yet. Calls that cost money go on when it is. Reads go on",
                day.start().date()
            ),
        }
    }
}

/// A deviation in microseconds in words, such as `2 d 1 h ahead of` or `10 s behind`.
#[derive(Clone, Copy, Debug)]
pub struct Deviation(pub i64);

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = self.0.unsigned_abs();
        let seconds = us.saturating_add(500_000) / 1_000_000;
        match seconds {
            0 => write!(f, "{us} us")?,
            1..120 => write!(f, "{seconds} s")?,
            120..7200 => write!(f, "{} min {} s", seconds / 60, seconds % 60)?,
            7200..172_800 => write!(f, "{} h {} min", seconds / 3600, seconds / 60 % 60)?,
            _ => write!(f, "{} d {} h", seconds / 86_400, seconds / 3600 % 24)?,
        }
        f.write_str(if self.0 < 0 { " behind" } else { " ahead of" })
    }
}
