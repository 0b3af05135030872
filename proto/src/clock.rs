//! Which UTC day money counts on, and whether the wall clock may begin the next one (rules M9, M10, Q10).
//!
//! The wall clock can be set; the boot clock (`CLOCK_BOOTTIME`) cannot. An [`Agreement`] ties one to the
//! other: where the wall clock should be is *expected*, how far it is from there the *deviation*. The day
//! only goes forward, and begins when both clocks are past midnight and agree. This module reads neither
//! clock: callers hand in a [`Reading`].

mod guard;
mod objection;
mod record;

pub use guard::{Guard, Recorded};
pub use objection::{Deviation, Objection};
pub use record::{RECORD_BYTES, Record, RecordError, RecordKind};

use crate::time::{Day, UnixMicros};

/// A wall clock that is further behind than this has been stepped back (rule M10).
pub const BACK_US_MAX: i64 = 2_000_000;

/// A wall clock that is further ahead than this has been stepped forward (rule M10).
pub const FORWARD_US_MAX: i64 = 300_000_000;

/// After the first clock has passed midnight, money goes on the old day for so long: enough to record the
/// new day, and with [`BACK_US_MAX`] not more than the 5 s in which rule Q10 lets a call count on either day.
pub const GRACE_US: u64 = 3_000_000;

/// How fast the anchor follows a wall clock that runs slower or faster: adjtimex(2) slews by 500 parts per
/// million at most.
pub const DRIFT_PPM_MAX: u64 = 500;

/// Microseconds on the boot clock: since the machine started, times of sleep included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootMicros(pub u64);

/// Which start of the machine a [`BootMicros`] counts from; all zero where the system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

impl BootId {
    /// Parses the UUID that Linux shows; anything else is the unknown one.
    pub fn parse(text: &str) -> BootId {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        let is_whole = digits.len() == 32 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        let number = u128::from_str_radix(&digits, 16).ok().filter(|_| is_whole);
        number.map_or(BootId::default(), |number| BootId(number.to_be_bytes()))
    }

    /// Whether both are the same start, and known.
    pub fn is(self, other: BootId) -> bool {
        self == other && self != BootId::default()
    }
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The clock that can be set.
    pub wall: UnixMicros,
    /// The clock that cannot.
    pub boot: BootMicros,
}

/// How far what the boot clock says about the wall clock can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Both clocks agreed when they were last compared.
    Agreed,
    /// The process found the wall clock stepped when it started on the same boot: money waits until it is
    /// back, or an operator confirms.
    Stepped,
    /// Another boot, or nothing recorded: time cannot be before what is expected, and may be any later.
    Floor,
}

/// Why no money counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// The wall clock is further ahead than [`FORWARD_US_MAX`].
    Forward,
    /// The wall clock is further behind than [`BACK_US_MAX`].
    Back,
    /// The clocks differ by less than that, and one alone is past midnight: it may be either day.
    BetweenMidnights,
    /// Both are past midnight and agree, and the new day is not on disk yet.
    NotRecorded,
}

impl Doubt {
    /// The name operators see.
    pub fn as_str(self) -> &'static str {
        match self {
            Doubt::Forward => "step_forward",
            Doubt::Back => "step_back",
            Doubt::BetweenMidnights => "between_midnights",
            Doubt::NotRecorded => "not_recorded",
        }
    }
}

/// What all shards share: where the wall clock should be, and the day that money counts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// Wall clock less boot clock, in microseconds.
    pub offset_us: i64,
    /// The day; it never goes back.
    pub day: Day,
    /// Whether `offset_us` can be relied on.
    pub trust: Trust,
}

impl Agreement {
    /// An agreement on `day` in which `now` is right.
    pub fn at(now: Reading, day: Day) -> Agreement {
        Agreement { offset_us: difference(now.wall.0, now.boot.0), day, trust: Trust::Agreed }
    }

    /// Where the wall clock should be.
    pub fn expected(self, boot: BootMicros) -> UnixMicros {
        UnixMicros(boot.0.saturating_add_signed(self.offset_us))
    }

    /// How far the wall clock is ahead of where it should be, in microseconds; negative is behind.
    pub fn deviation_us(self, now: Reading) -> i64 {
        difference(now.wall.0, self.expected(now.boot).0)
    }

    /// Whether the deviation is what a clock that nobody set can have.
    pub fn is_explained(self, now: Reading) -> bool {
        unexplained(self.deviation_us(now)).is_none()
    }

    /// The day that money counts on at `now`, or why none does.
    ///
    /// A step within the day changes nothing: the clocks are compared once either of them says that the day
    /// is over. A false day here is a cap that can be spent twice.
    pub fn today(self, now: Reading) -> Result<Day, Doubt> {
        let doubt = unexplained(self.deviation_us(now));
        match (self.trust, doubt) {
            (Trust::Agreed, _) | (Trust::Stepped, None) => {}
            (Trust::Stepped, Some(doubt)) | (Trust::Floor, Some(doubt @ Doubt::Back)) => return Err(doubt),
            (Trust::Floor, _) => return Err(Doubt::NotRecorded),
        }
        let (first, last) = self.in_order(now);
        let end = self.day.end();
        if last.0 < end.0.saturating_add(GRACE_US) {
            return Ok(self.day);
        }
        Err(doubt.unwrap_or(if first < end { Doubt::BetweenMidnights } else { Doubt::NotRecorded }))
    }

    /// The day that begins at `now`: both clocks are past the day's end, and agree.
    pub fn next_day(self, now: Reading) -> Option<Day> {
        let (first, _) = self.in_order(now);
        let agreed = self.trust != Trust::Floor && self.is_explained(now);
        Some(first.day()).filter(|day| agreed && *day > self.day)
    }

    /// The clock that is behind, and the one that is ahead.
    fn in_order(self, now: Reading) -> (UnixMicros, UnixMicros) {
        let expected = self.expected(now.boot);
        (now.wall.min(expected), now.wall.max(expected))
    }
}

/// Why this deviation is a step.
fn unexplained(deviation_us: i64) -> Option<Doubt> {
    match deviation_us {
        _ if deviation_us < -BACK_US_MAX => Some(Doubt::Back),
        _ if deviation_us > FORWARD_US_MAX => Some(Doubt::Forward),
        _ => None,
    }
}

/// `left - right`, at the ends of the range where it does not fit.
fn difference(left: u64, right: u64) -> i64 {
    let magnitude = i64::try_from(left.abs_diff(right)).unwrap_or(i64::MAX);
    if left >= right { magnitude } else { magnitude.saturating_neg() }
}

#[cfg(test)]
mod tests;
