//! What price files have in common: amounts are decimal texts, since a TOML number with a point is a float.

use serde::{Deserialize, Deserializer, de};

use crate::money::Micros;

/// USD above zero: a price that is not known must not stand there as nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usd(pub(super) Micros);

/// USD, or "0" for what comes with something else that is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fee(pub(super) Micros);

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Usd, D::Error> {
        match decimal(deserializer)? {
            Micros::ZERO => {
                Err(de::Error::custom("a price is above zero; leave the key out if none is known"))
            }
            amount => Ok(Usd(amount)),
        }
    }
}

impl<'de> Deserialize<'de> for Fee {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fee, D::Error> {
        decimal(deserializer).map(Fee)
    }
}

fn decimal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Micros, D::Error> {
    struct Text;
    impl de::Visitor<'_> for Text {
        type Value = Micros;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("USD as a text, such as \"0.0145\"")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Micros, E> {
            text.parse().map_err(|error| E::custom(format_args!("\"{text}\" {error}")))
        }
    }
    deserializer.deserialize_str(Text)
}

/// What heads every price file.
pub(super) fn check_head(source: &str, date: &str) -> Result<crate::time::Day, String> {
    if source.trim().is_empty() {
        return Err("source is empty; say where the prices are from".to_owned());
    }
    crate::time::Day::parse(date)
        .ok_or_else(|| format!("date = \"{date}\" is no day; write it as 2026-11-20"))
}

/// TOML's error in one line, with its place.
pub(super) fn syntax(text: &str, error: &toml::de::Error) -> String {
    let line = error
        .span()
        .and_then(|span| text.get(..span.start))
        .map(|before| before.matches('\n').count().saturating_add(1));
    let message = error.message().trim().replace('\n', ": ");
    line.map_or(message.clone(), |line| format!("line {line}: {message}"))
}
