//! What Twilio's units cost: the price file, docs/prices.md.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::file::{self, Fee, Usd};
use crate::money::Micros;
use crate::time::Day;

/// Digits of a prefix: a country's code and an area's.
const PREFIX_DIGITS_MAX: usize = 7;

/// What a country's units cost; what is `None` has no price.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Country {
    /// For explanations.
    pub name: String,
    /// One segment of a text message.
    pub sms: Option<Micros>,
    /// One message with media.
    pub mms: Option<Micros>,
    /// One started minute of a call there.
    pub call_minute: Option<Micros>,
    /// One month of a number there.
    pub number: Option<Micros>,
}

/// Twilio's prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwilioPrices {
    /// Where they are from.
    pub source: String,
    /// Of which day they are.
    pub date: Day,
    pub(super) whatsapp: Option<Micros>,
    pub(super) messenger: Option<Micros>,
    pub(super) seconds_default: u64,
    pub(super) client_minute: Option<Micros>,
    pub(super) sip_minute: Option<Micros>,
    pub(super) machine_detection: Option<Micros>,
    pub(super) recording_minute: Option<Micros>,
    pub(super) fetched_twiml: FetchedTwiml,
    pub(super) verification: Micros,
    pub(super) verification_segments: u64,
    pub(super) verification_minutes: u64,
    pub(super) channels: BTreeMap<String, Micros>,
    pub(super) lookup: BTreeMap<String, Micros>,
    countries: Vec<Country>,
    prefixes: BTreeMap<String, usize>,
    elsewhere: Option<Country>,
}

/// What a call costs whose instructions Twilio fetches from a URL, where keybrake does not see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FetchedTwiml {
    /// The call itself.
    Counted,
    /// It is unpriced: they may dial others.
    Unpriced,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    source: String,
    date: String,
    #[serde(default)]
    message: MessageFile,
    call: CallFile,
    verification: VerificationFile,
    #[serde(default)]
    lookup: BTreeMap<String, Fee>,
    #[serde(default, rename = "country")]
    countries: Vec<CountryFile>,
    elsewhere: Option<PricesFile>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct MessageFile {
    whatsapp_usd: Option<Usd>,
    messenger_usd: Option<Usd>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CallFile {
    seconds_default: u64,
    fetched_twiml: FetchedTwiml,
    client_minute_usd: Option<Usd>,
    sip_minute_usd: Option<Usd>,
    machine_detection_usd: Option<Usd>,
    recording_minute_usd: Option<Usd>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerificationFile {
    success_usd: Usd,
    sms_segments: u64,
    call_minutes: u64,
    #[serde(default)]
    channel_usd: BTreeMap<String, Fee>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CountryFile {
    name: String,
    prefixes: Vec<String>,
    sms_usd: Option<Usd>,
    mms_usd: Option<Usd>,
    call_minute_usd: Option<Usd>,
    number_usd: Option<Usd>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PricesFile {
    sms_usd: Option<Usd>,
    mms_usd: Option<Usd>,
    call_minute_usd: Option<Usd>,
    number_usd: Option<Usd>,
}

impl TwilioPrices {
    /// The file that keybrake comes with.
    pub const SHIPPED: &'static str = include_str!("../prices/twilio.toml");

    /// Reads a price file.
    ///
    /// # Errors
    /// One line that says what is wrong and what to write.
    pub fn parse(text: &str) -> Result<TwilioPrices, String> {
        let file: PriceFile = toml::from_str(text).map_err(|error| file::syntax(text, &error))?;
        let date = file::check_head(&file.source, &file.date)?;
        let in_range = |key: &str, value: u64, most: u64| {
            let problem = || format!("{key} must be from 1 to {most}, not {value}");
            if (1..=most).contains(&value) { Ok(value) } else { Err(problem()) }
        };
        let (countries, prefixes) = countries(file.countries)?;
        let elsewhere = file.elsewhere.map(|of| Country {
            name: "elsewhere".to_owned(),
            sms: micros(of.sms_usd),
            mms: micros(of.mms_usd),
            call_minute: micros(of.call_minute_usd),
            number: micros(of.number_usd),
        });
        let fees = |of: BTreeMap<String, Fee>| of.into_iter().map(|(name, Fee(fee))| (name, fee)).collect();
        Ok(TwilioPrices {
            source: file.source,
            date,
            whatsapp: micros(file.message.whatsapp_usd),
            messenger: micros(file.message.messenger_usd),
            seconds_default: in_range("call.seconds_default", file.call.seconds_default, 86_400)?,
            client_minute: micros(file.call.client_minute_usd),
            sip_minute: micros(file.call.sip_minute_usd),
            machine_detection: micros(file.call.machine_detection_usd),
            recording_minute: micros(file.call.recording_minute_usd),
            fetched_twiml: file.call.fetched_twiml,
            verification: file.verification.success_usd.0,
            verification_segments: in_range("verification.sms_segments", file.verification.sms_segments, 24)?,
            verification_minutes: in_range("verification.call_minutes", file.verification.call_minutes, 60)?,
            channels: fees(file.verification.channel_usd),
            lookup: fees(file.lookup),
            countries,
            prefixes,
            elsewhere,
        })
    }

    /// The country of a number, given as its digits without the `+`: the one with the longest prefix of it.
    pub(super) fn country(&self, digits: &str) -> Option<&Country> {
        let longest =
            (1..=PREFIX_DIGITS_MAX).rev().find_map(|length| self.prefixes.get(digits.get(..length)?));
        longest.and_then(|at| self.countries.get(*at)).or(self.elsewhere.as_ref())
    }
}

fn micros(usd: Option<Usd>) -> Option<Micros> {
    usd.map(|Usd(amount)| amount)
}

type Countries = (Vec<Country>, BTreeMap<String, usize>);

fn countries(files: Vec<CountryFile>) -> Result<Countries, String> {
    let mut countries = Vec::new();
    let mut prefixes = BTreeMap::new();
    for file in files {
        let at = countries.len();
        if file.prefixes.is_empty() {
            return Err(format!("country \"{}\" has no prefixes; name one, such as \"44\"", file.name));
        }
        for prefix in file.prefixes {
            let is_prefix = (1..=PREFIX_DIGITS_MAX).contains(&prefix.len())
                && prefix.bytes().all(|byte| byte.is_ascii_digit())
                && !prefix.starts_with('0');
            if !is_prefix {
                let problem = "is no prefix; write 1 to 7 digits of the international number, without the +";
                return Err(format!("country \"{}\": \"{prefix}\" {problem}", file.name));
            }
            if prefixes.insert(prefix.clone(), at).is_some() {
                return Err(format!("country \"{}\": the prefix {prefix} stands there twice", file.name));
            }
        }
        countries.push(Country {
            name: file.name,
            sms: micros(file.sms_usd),
            mms: micros(file.mms_usd),
            call_minute: micros(file.call_minute_usd),
            number: micros(file.number_usd),
        });
    }
    Ok((countries, prefixes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn country(digits: &str) -> Option<String> {
        let prices = TwilioPrices::parse(TwilioPrices::SHIPPED).unwrap();
        prices.country(digits).map(|of| of.name.clone())
    }

    #[test]
    fn the_longest_prefix_names_the_country() {
        assert_eq!(country("15551234567").as_deref(), Some("United States and Canada"));
        assert_eq!(country("18005551234").as_deref(), Some("toll-free, North America"));
        // Jamaica is behind +1 too, and has no price.
        assert_eq!(country("18765551234").as_deref(), Some("other countries behind +1"));
        assert_eq!(country("99912345678"), None);
        assert_eq!(country(""), None);
    }

    #[test]
    fn a_price_file_that_may_be_misread_is_refused() {
        let refused = |from: &str, to: &str, words: &str| {
            let text = TwilioPrices::SHIPPED.replacen(from, to, 1);
            assert_ne!(text, TwilioPrices::SHIPPED, "{from}");
            let problem = TwilioPrices::parse(&text).unwrap_err();
            assert!(problem.contains(words) && !problem.contains('\n'), "{to}: {problem}");
        };
        refused("sms_usd = \"0.0145\"", "sms_usd = 0.0145", "USD as a text");
        refused("sms_usd = \"0.0145\"", "sms_usd = \"0,0145\"", "is not an amount of USD");
        refused("sms_usd = \"0.0145\"", "sms_usd = \"0.01450001\"", "finer than a micro-dollar");
        refused("sms_usd = \"0.0145\"", "sms_usd = \"0\"", "above zero");
        refused("sms_usd = \"0.0145\"", "sms = \"0.0145\"", "unknown field `sms`");
        refused("prefixes = [\"1\"]", "prefixes = [\"+1\"]", "is no prefix");
        refused("prefixes = [\"1\"]", "prefixes = [\"1\", \"1\"]", "twice");
        refused("prefixes = [\"1\"]", "prefixes = []", "has no prefixes");
        refused("seconds_default = 14400", "seconds_default = 0", "call.seconds_default must be from 1");
        refused("date = \"2026-11-21\"", "date = \"21.11.2026\"", "is no day");
        refused("date = \"2026-11-21\"", "", "missing field `date`");
    }
}
