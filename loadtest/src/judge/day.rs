//! Days and moments in UTC, as texts and as numbers. Written again here: the judge shares no clock with the proxy.

use std::fmt;

/// Microseconds of a day.
const DAY_US: u64 = 86_400_000_000;
/// Days of 400 years, after which the calendar repeats.
const ERA_DAYS: i64 = 146_097;
/// Days from 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;

/// A day: days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Day(pub(super) u64);

impl Day {
    /// The day of a moment.
    pub(super) fn of(us: u64) -> Day {
        Day(us.checked_div(DAY_US).unwrap_or_default())
    }

    /// The day after.
    pub(super) fn next(self) -> Day {
        Day(self.0.saturating_add(1))
    }

    /// Its first microsecond.
    pub(super) fn start_us(self) -> u64 {
        self.0.saturating_mul(DAY_US)
    }

    /// As [`Day::of`], for a text such as `2026-11-21`.
    pub(super) fn parse(text: &str) -> Option<Day> {
        let (year, rest) = text.split_once('-')?;
        let (month, day) = rest.split_once('-')?;
        days_since_epoch(number(year)?, number(month)?, number(day)?)
    }
}

impl fmt::Display for Day {
    #[expect(clippy::arithmetic_side_effects, reason = "no day of a u64 comes near the ends of an i64")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let days = i64::try_from(self.0).unwrap_or(i64::MAX).saturating_add(EPOCH_DAYS);
        let (era, day_of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
        let leaps = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
        let year_of_era = (day_of_era - leaps) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = era.saturating_mul(400) + year_of_era + i64::from(month <= 2);
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// Microseconds since the epoch of a text such as `2026-11-21T08:23:12.104113Z`.
pub(super) fn moment(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let day = Day::parse(date)?;
    let (whole, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = whole.split(':').map(number);
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    let is_time = hours < 24 && minutes < 60 && seconds < 61 && parts.next().is_none();
    if !is_time || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let micros: u64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    let in_day = hours.saturating_mul(60).saturating_add(minutes).saturating_mul(60).saturating_add(seconds);
    day.start_us().checked_add(in_day.saturating_mul(1_000_000))?.checked_add(micros)
}

fn number(text: &str) -> Option<u64> {
    let is_plain = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_plain { text.parse().ok() } else { None }
}

/// Howard Hinnant's `days_from_civil`, for years from 1970 on.
#[expect(clippy::arithmetic_side_effects, reason = "years, months and days are in range")]
fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<Day> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = i64::try_from(year).ok()? - i64::from(month <= 2);
    let (month, day) = (i64::try_from(month).ok()?, i64::try_from(day).ok()?);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    u64::try_from(era * ERA_DAYS + day_of_era - EPOCH_DAYS).ok().map(Day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_days_are_the_same_thing() {
        for (days, text) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (20_778, "2026-11-21")]
        {
            assert_eq!(Day(days).to_string(), text);
            assert_eq!(Day::parse(text), Some(Day(days)));
        }
        for days in 0..40_000 {
            assert_eq!(Day::parse(&Day(days).to_string()), Some(Day(days)));
        }
    }

    #[test]
    fn moments_are_read_to_the_microsecond() {
        assert_eq!(moment("1970-01-01T00:00:01.5Z"), Some(1_500_000));
        assert_eq!(moment("1970-01-02T01:02:03.000004Z"), Some(DAY_US + 3_723_000_004));
        assert_eq!(moment("1970-01-01T00:00:00Z"), Some(0));
        for text in
            ["", "Z", "1970-01-01", "1970-13-01T00:00:00Z", "1970-01-01T24:00:00Z", "1970-01-01T00:00Z"]
        {
            assert_eq!(moment(text), None, "{text}");
        }
        assert_eq!(moment("1970-01-01T00:00:00.1xZ"), None);
        assert_eq!(moment("1970-01-01T00:00:00+01:00"), None);
    }
}
