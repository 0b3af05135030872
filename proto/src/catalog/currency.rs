//! Currencies, and what their minor units are worth in USD.
//!
//! Caps are in USD. An amount in another currency counts at a rate that the operator pinned (rule M4), rounded
//! up; without a fresh one it is refused under a cap, never read as cents.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::money::Micros;
use crate::time::Day;

/// An ISO 4217 code in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Currency([u8; 3]);

impl Currency {
    /// US dollars.
    pub const USD: Currency = Currency(*b"usd");

    /// Reads a code in any case.
    pub fn parse(text: &str) -> Option<Currency> {
        let code: [u8; 3] = text.as_bytes().try_into().ok()?;
        code.iter().all(u8::is_ascii_alphabetic).then(|| Currency(code.map(|byte| byte.to_ascii_lowercase())))
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Decimal places of its minor unit as Stripe's API counts them
    /// (docs.stripe.com/currencies, "zero-decimal" and "three-decimal currencies").
    ///
    /// ISK stays at two there. UGX is listed both ways; read as zero it is dearer, which is the safe side.
    pub fn decimals(self) -> u32 {
        match &self.0 {
            b"bif" | b"clp" | b"djf" | b"gnf" | b"jpy" | b"kmf" | b"krw" | b"mga" | b"pyg" | b"rwf"
            | b"ugx" | b"vnd" | b"vuv" | b"xaf" | b"xof" | b"xpf" => 0,
            b"bhd" | b"jod" | b"kwd" | b"omr" | b"tnd" => 3,
            _ => 2,
        }
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Nano-USD in one USD.
const NANOS_PER_USD: u128 = 1_000_000_000;

/// Nano-USD in one micro-USD.
const NANOS_PER_MICRO: u128 = 1000;

/// Basis points in a whole.
const WHOLE_BP: u128 = 10_000;

/// What a currency's minor units are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Of the major unit.
    nanos: u64,
    decimals: u32,
    /// What a hold adds, for a vendor that converts at another rate.
    spread_bp: u32,
}

impl Rate {
    /// US cents.
    pub const USD: Rate = Rate { nanos: 1_000_000_000, decimals: 2, spread_bp: 0 };

    /// What `minor` units are worth, rounded up; `None` above [`Micros::MAX`].
    pub fn worth(self, minor: u64) -> Option<Micros> {
        self.times(minor, 0)
    }

    /// What is held for `minor` units: their worth and the spread.
    pub fn held(self, minor: u64) -> Option<Micros> {
        self.times(minor, self.spread_bp)
    }

    fn times(self, minor: u64, spread_bp: u32) -> Option<Micros> {
        let nanos = u128::from(minor)
            .checked_mul(self.nanos.into())?
            .checked_mul(WHOLE_BP.checked_add(spread_bp.into())?)?;
        let divisor =
            10_u128.checked_pow(self.decimals)?.checked_mul(WHOLE_BP)?.checked_mul(NANOS_PER_MICRO)?;
        Micros::new(nanos.div_ceil(divisor).try_into().ok()?)
    }
}

/// Why an amount in a currency has no worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRate {
    /// The operator pinned none for it.
    Unknown(Currency),
    /// The operator's rates are of this day, and too old.
    Stale(Day),
}

/// The operator's pinned rates. Without any, only USD has a worth.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// USD for one major unit, in nano-USD.
    nanos: BTreeMap<Currency, u64>,
    date: Day,
    max_age_days: u32,
    spread_bp: u32,
    /// Where the rates are from, for listings.
    source: String,
}

impl Rates {
    /// Reads a rate file, TOML (docs/prices.md).
    ///
    /// # Errors
    /// One line that says what is wrong and what to write.
    pub fn parse(text: &str) -> Result<Rates, String> {
        let file: RateFile = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        let date = Day::parse(&file.date)
            .ok_or_else(|| format!("date = \"{}\" is no day; write it as 2026-11-20", file.date))?;
        if file.source.trim().is_empty() {
            return Err("source is empty; say where the rates are from".to_owned());
        }
        if file.max_age_days == 0 {
            return Err("max_age_days must be at least 1".to_owned());
        }
        let spread_bp = basis_points(file.spread_percent.as_deref().unwrap_or("0"))?;
        let mut nanos = BTreeMap::new();
        for (code, rate) in &file.usd_per {
            let currency = Currency::parse(code)
                .ok_or_else(|| format!("usd_per.{code} is no currency; write a code of three letters"))?;
            if currency == Currency::USD {
                return Err("usd_per.usd is always 1; leave it out".to_owned());
            }
            if nanos.insert(currency, parse_rate(code, rate)?).is_some() {
                return Err(format!("usd_per.{code} stands there twice"));
            }
        }
        Ok(Rates { nanos, date, max_age_days: file.max_age_days, spread_bp, source: file.source })
    }

    /// The rate of a currency on `today`.
    ///
    /// # Errors
    /// [`NoRate`]; a wrong rate would count less than is spent.
    pub fn of(&self, currency: Currency, today: Day) -> Result<Rate, NoRate> {
        if currency == Currency::USD {
            return Ok(Rate::USD);
        }
        let nanos = *self.nanos.get(&currency).ok_or(NoRate::Unknown(currency))?;
        if today.as_u32() > self.date.as_u32().saturating_add(self.max_age_days) {
            return Err(NoRate::Stale(self.date));
        }
        Ok(Rate { nanos, decimals: currency.decimals(), spread_bp: self.spread_bp })
    }

    /// The currencies with a rate.
    pub fn currencies(&self) -> impl Iterator<Item = Currency> {
        self.nanos.keys().copied()
    }

    /// Where the rates are from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The day they are of.
    pub fn date(&self) -> Day {
        self.date
    }
}

/// A rate file. Rates are texts, so that no float is ever made of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RateFile {
    source: String,
    date: String,
    max_age_days: u32,
    #[serde(default)]
    spread_percent: Option<String>,
    #[serde(default)]
    usd_per: BTreeMap<String, String>,
}

/// USD for one major unit as nano-USD: at most nine places.
fn parse_rate(code: &str, text: &str) -> Result<u64, String> {
    let problem = || format!("usd_per.{code} = \"{text}\" is no rate; write USD for one, such as \"1.2731\"");
    let nanos = decimal(text, 9).filter(|nanos| (1..=NANOS_PER_USD.saturating_mul(1000)).contains(nanos));
    nanos.and_then(|nanos| nanos.try_into().ok()).ok_or_else(problem)
}

/// A percentage with at most two places, as basis points.
fn basis_points(text: &str) -> Result<u32, String> {
    let problem =
        || format!("spread_percent = \"{text}\" must be from \"0\" to \"100\", with two places at most");
    let points = decimal(text, 2).filter(|points| *points <= WHOLE_BP);
    points.and_then(|points| points.try_into().ok()).ok_or_else(problem)
}

/// `digits` or `digits.digits`, times 10^`places`.
fn decimal(text: &str, places: usize) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits =
        |part: &str| (1..=12).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > places {
        return None;
    }
    format!("{whole}{fraction:0<places$}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        source = "European Central Bank, reference rates"
        date = "2026-11-20"
        max_age_days = 7
        spread_percent = "2"
        [usd_per]
        GBP = "1.2731"
        jpy = "0.0065"
        kwd = "3.25"
        vnd = "0.0000393"
    "#;

    fn day(text: &str) -> Day {
        Day::parse(text).unwrap()
    }

    /// Worth and hold of `minor` units, in micro-USD, on the day after the file's.
    fn check(code: &str, minor: u64, worth: u64, held: u64) {
        let rates = Rates::parse(FILE).unwrap();
        let rate = rates.of(Currency::parse(code).unwrap(), day("2026-11-21")).unwrap();
        assert_eq!(rate.worth(minor).map(Micros::as_u64), Some(worth), "{minor} {code}");
        assert_eq!(rate.held(minor).map(Micros::as_u64), Some(held), "{minor} {code}, held");
    }

    #[test]
    fn m4_minor_units_are_worth_what_their_decimals_say() {
        check("usd", 1900, 19_000_000, 19_000_000);
        check("gbp", 1900, 24_188_900, 24_672_678);
        check("jpy", 1900, 12_350_000, 12_597_000);
        check("kwd", 1900, 6_175_000, 6_298_500);
        // 0.0393 of a thousandth of a micro-USD is rounded up, as is its hold.
        check("vnd", 1, 40, 41);
    }

    #[test]
    fn m4_a_currency_without_a_fresh_rate_has_no_worth() {
        let rates = Rates::parse(FILE).unwrap();
        let gbp = Currency::parse("gbp").unwrap();
        let chf = Currency::parse("chf").unwrap();
        assert_eq!(rates.of(chf, day("2026-11-21")), Err(NoRate::Unknown(chf)));
        assert!(rates.of(gbp, day("2026-11-27")).is_ok());
        assert_eq!(rates.of(gbp, day("2026-11-28")), Err(NoRate::Stale(day("2026-11-20"))));
        assert_eq!(Rates::default().of(gbp, day("2026-11-21")), Err(NoRate::Unknown(gbp)));
        assert_eq!(Rates::default().of(Currency::USD, day("2026-11-21")), Ok(Rate::USD));
    }

    #[test]
    fn a_rate_file_that_may_be_misread_is_refused() {
        let refused = |from: &str, to: &str| {
            let text = FILE.replace(from, to);
            assert_ne!(text, FILE, "{from}");
            assert!(Rates::parse(&text).is_err(), "{to}");
        };
        refused("2026-11-20", "20.11.2026");
        refused("max_age_days = 7", "max_age_days = 0");
        refused("max_age_days = 7", "");
        refused("spread_percent = \"2\"", "spread_percent = \"-2\"");
        refused("spread_percent = \"2\"", "spread = \"2\"");
        refused("\"1.2731\"", "1.2731");
        refused("\"1.2731\"", "\"1,2731\"");
        refused("\"1.2731\"", "\"0\"");
        refused("GBP", "POUND");
        refused("GBP", "usd");
        refused("GBP", "JPY");
    }

    #[test]
    fn what_is_too_large_has_no_worth() {
        assert_eq!(Rate::USD.worth(u64::MAX), None);
        assert_eq!(Rate::USD.worth(999_999_999_999).map(Micros::as_u64), Some(9_999_999_999_990_000));
    }
}
