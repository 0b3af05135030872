//! Instants, UTC days and their texts. Reading a clock is the caller's part.

use std::fmt;

use serde::{Deserialize, Serialize};

const MICROS_PER_SECOND: u64 = 1_000_000;
const SECONDS_PER_DAY: u64 = 86_400;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMicros(pub u64);

/// A UTC day: days since 1970-01-01. At most [`Day::MAX`], the year 2328.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Day(u32);

impl Day {
    /// The last day an account word can hold: 17 bits.
    pub const MAX: Day = Day((1 << 17) - 1);

    /// The day with this number, at most [`Day::MAX`].
    pub const fn new(days: u32) -> Day {
        if days <= Day::MAX.0 { Day(days) } else { Day::MAX }
    }

    /// Reads a day such as `2026-11-20`.
    pub fn parse(text: &str) -> Option<Day> {
        let is_day = text.len() == "2026-11-20".len();
        is_day.then(|| UnixMicros::parse_rfc3339(&format!("{text}T00:00:00Z")))?.map(UnixMicros::day)
    }

    /// Days since 1970-01-01.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The UTC month it lies in.
    #[expect(clippy::arithmetic_side_effects, reason = "a day is below 2^17, far from overflow")]
    pub fn month(self) -> Month {
        let (year, month, _) = civil_from_days(u64::from(self.0));
        let months = (year - 1970) * 12 + (month - 1);
        Month(u32::try_from(months).unwrap_or(u32::MAX))
    }

    /// The first instant of this day.
    pub fn start(self) -> UnixMicros {
        UnixMicros::from_seconds(u64::from(self.0).saturating_mul(SECONDS_PER_DAY))
    }

    /// The first instant after this day: when a daily window resets.
    pub fn end(self) -> UnixMicros {
        let seconds = u64::from(self.0).saturating_add(1).saturating_mul(SECONDS_PER_DAY);
        UnixMicros(seconds.saturating_mul(MICROS_PER_SECOND))
    }
}

/// A UTC month: months since January 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Month(u32);

impl Month {
    /// The month with this number, at most that of [`Day::MAX`].
    pub fn new(months: u32) -> Month {
        Month(months.min(Day::MAX.month().0))
    }

    /// Months since January 1970.
    pub const fn as_u32(self) -> u32 {
        self.0
    }

    /// The first instant after this month: when a monthly window resets.
    #[expect(clippy::arithmetic_side_effects, reason = "months are below 2^13, far from overflow")]
    pub fn end(self) -> UnixMicros {
        let next = u64::from(self.0) + 1;
        let days = days_from_civil(1970 + next / 12, next % 12 + 1, 1);
        UnixMicros::from_seconds(days.saturating_mul(SECONDS_PER_DAY))
    }
}

/// As `2026-11`.
impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", 1970_u32.saturating_add(self.0 / 12), (self.0 % 12).saturating_add(1))
    }
}

impl UnixMicros {
    /// The instant `seconds` after the epoch.
    pub const fn from_seconds(seconds: u64) -> UnixMicros {
        UnixMicros(seconds.saturating_mul(MICROS_PER_SECOND))
    }

    /// Whole seconds since the epoch, rounded down.
    pub fn as_seconds(self) -> u64 {
        self.0.checked_div(MICROS_PER_SECOND).unwrap_or_default()
    }

    /// The UTC day of this instant.
    pub fn day(self) -> Day {
        let days = self.as_seconds().checked_div(SECONDS_PER_DAY).unwrap_or_default();
        Day::new(u32::try_from(days).unwrap_or(u32::MAX))
    }

    /// The UTC day of this instant as `2026-11-22`.
    pub fn date(self) -> String {
        self.to_string().split('T').next().unwrap_or_default().to_owned()
    }

    /// The instant `seconds` later.
    pub fn plus_seconds(self, seconds: u64) -> UnixMicros {
        UnixMicros(self.0.saturating_add(seconds.saturating_mul(MICROS_PER_SECOND)))
    }

    /// Whole seconds from here to `later`, rounded up; zero where it has passed.
    pub fn seconds_until(self, later: UnixMicros) -> u64 {
        later.0.saturating_sub(self.0).div_ceil(MICROS_PER_SECOND)
    }

    /// Parses `2026-11-22T00:00:00Z`, with an optional fraction of up to six digits. Only UTC.
    pub fn parse_rfc3339(text: &str) -> Option<UnixMicros> {
        let text = text.strip_suffix(['Z', 'z'])?;
        let (date, time) = text.split_once(['T', 't'])?;
        let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let [year, month, day] = numbers(date, '-')?;
        let [hour, minute, second] = numbers(time, ':')?;
        let in_range = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60
            && fraction.len() <= 6
            && fraction.bytes().all(|byte| byte.is_ascii_digit());
        if !in_range {
            return None;
        }
        let micros: u64 = format!("{fraction:0<6}").parse().ok()?;
        let seconds = days_from_civil(year, month, day)
            .checked_mul(SECONDS_PER_DAY)?
            .checked_add(hour.checked_mul(3600)?)?
            .checked_add(minute.checked_mul(60)?)?
            .checked_add(second)?;
        Some(UnixMicros(seconds.checked_mul(MICROS_PER_SECOND)?.checked_add(micros)?))
    }
}

/// RFC 3339 in UTC: whole seconds as `2026-11-22T00:00:00Z`, else with six decimals.
impl fmt::Display for UnixMicros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.as_seconds();
        let (year, month, day) = civil_from_days(seconds / SECONDS_PER_DAY);
        let of_day = seconds % SECONDS_PER_DAY;
        write!(f, "{year:04}-{month:02}-{day:02}T")?;
        write!(f, "{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)?;
        match self.0 % MICROS_PER_SECOND {
            0 => f.write_str("Z"),
            fraction => write!(f, ".{fraction:06}Z"),
        }
    }
}

/// Parses a duration in seconds: `90` (seconds), `90s`, `15m`, `24h`, `7d`.
pub fn parse_duration_seconds(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..)? {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => SECONDS_PER_DAY,
        _ => return None,
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

fn numbers(text: &str, separator: char) -> Option<[u64; 3]> {
    let mut parts = text.split(separator);
    let mut next = || {
        let part = parts.next()?;
        if part.len() < 2 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        part.parse().ok()
    };
    let read = [next()?, next()?, next()?];
    parts.next().is_none().then_some(read)
}

fn days_in_month(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date from 1970 on; years begin in March, so that
/// the leap day is the last of its year.
#[expect(clippy::arithmetic_side_effects, reason = "the caller bounds year, month and day")]
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let leap_days = year / 4 - year / 100 + year / 400;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    365 * year + leap_days + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// The inverse of [`days_from_civil`].
#[expect(clippy::arithmetic_side_effects, reason = "days are below 2^45, far from overflow")]
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_read_back_as_shown() {
        for text in [
            "1970-01-01T00:00:00Z",
            "2026-11-22T00:00:00Z",
            "2024-02-29T23:59:59.000001Z",
            "2100-03-01T12:00:00Z",
        ] {
            assert_eq!(UnixMicros::parse_rfc3339(text).unwrap().to_string(), text);
        }
        assert_eq!(UnixMicros::from_seconds(1_795_305_600).to_string(), "2026-11-22T00:00:00Z");
    }

    #[test]
    fn impossible_instants_are_refused() {
        for text in [
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:00+01:00",
            "2026-1-1T0:0:0Z",
            "2026-01-01",
            "",
        ] {
            assert_eq!(UnixMicros::parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn a_day_ends_when_the_next_begins() {
        let noon = UnixMicros::parse_rfc3339("2026-11-21T12:00:00.5Z").unwrap();
        assert_eq!(noon.day().end().to_string(), "2026-11-22T00:00:00Z");
        assert_eq!(noon.seconds_until(noon.day().end()), 43_200);
        assert_eq!(noon.day().end().day(), Day::new(noon.day().as_u32() + 1));
        assert_eq!(noon.day().start().to_string(), "2026-11-21T00:00:00Z");
        assert_eq!(noon.date(), "2026-11-21");
    }

    #[test]
    fn durations_have_units() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("15m", 900), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(parse_duration_seconds(text), Some(seconds), "{text}");
        }
        for text in ["", "h", "-1h", "1.5h", "1w", "1h30m", "99999999999999999999d"] {
            assert_eq!(parse_duration_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn a_month_ends_where_the_next_one_begins() {
        for (day, month, end) in [
            ("1970-01-01", "1970-01", "1970-02-01T00:00:00Z"),
            ("2026-11-30", "2026-11", "2026-12-01T00:00:00Z"),
            ("2026-12-01", "2026-12", "2027-01-01T00:00:00Z"),
            ("2028-02-29", "2028-02", "2028-03-01T00:00:00Z"),
        ] {
            let of = Day::parse(day).unwrap().month();
            assert_eq!((of.to_string(), of.end().to_string()), (month.to_owned(), end.to_owned()));
            assert_eq!(Month::new(of.as_u32()), of);
        }
        assert_eq!(Month::new(u32::MAX), Day::MAX.month());
    }

    proptest::proptest! {
        #[test]
        fn every_second_reads_back(seconds in 0..4_000_000_000u64) {
            let instant = UnixMicros::from_seconds(seconds);
            proptest::prop_assert_eq!(UnixMicros::parse_rfc3339(&instant.to_string()), Some(instant));
        }
    }
}
