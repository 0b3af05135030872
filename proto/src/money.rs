//! Money as integers. No float ever holds an amount.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Micro-USD in one US dollar.
const MICROS_PER_USD: u64 = 1_000_000;

/// Micro-USD in one US cent, Stripe's minor unit for `usd`.
const MICROS_PER_CENT: u64 = 10_000;

/// An amount in micro-USD, at most [`Micros::MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(u64);

impl Micros {
    /// No money.
    pub const ZERO: Micros = Micros(0);

    /// The largest amount an account word can hold: 55 bits, about 36 billion USD.
    pub const MAX: Micros = Micros((1 << 55) - 1);

    /// `micros` micro-USD, or `None` above [`Micros::MAX`].
    pub const fn new(micros: u64) -> Option<Micros> {
        if micros <= Micros::MAX.0 { Some(Micros(micros)) } else { None }
    }

    /// `cents` US cents, or `None` above [`Micros::MAX`].
    pub fn from_cents(cents: u64) -> Option<Micros> {
        Micros::new(cents.checked_mul(MICROS_PER_CENT)?)
    }

    /// The amount in micro-USD.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The sum, or `None` above [`Micros::MAX`].
    pub fn checked_add(self, other: Micros) -> Option<Micros> {
        Micros::new(self.0.checked_add(other.0)?)
    }

    /// The sum, at most [`Micros::MAX`]: for bookings that must not be lost.
    pub fn saturating_add(self, other: Micros) -> Micros {
        self.checked_add(other).unwrap_or(Micros::MAX)
    }

    /// The difference, or zero where `other` is larger.
    pub fn saturating_sub(self, other: Micros) -> Micros {
        Micros(self.0.saturating_sub(other.0))
    }
}

/// Decimal USD with at least two places: `12.50`, `0.000001`.
impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usd = self.0.checked_div(MICROS_PER_USD).unwrap_or_default();
        let fraction = format!("{:06}", self.0.checked_rem(MICROS_PER_USD).unwrap_or_default());
        let significant = fraction.trim_end_matches('0').len().max(2);
        write!(f, "{usd}.{}", fraction.get(..significant).unwrap_or_default())
    }
}

/// Why a text is not an amount of USD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UsdError {
    /// Not `digits` or `digits.digits`: signs, exponents and blanks are refused.
    NotDecimal,
    /// More than six places: finer than a micro-dollar.
    TooFine,
    /// Above [`Micros::MAX`].
    TooLarge,
}

impl fmt::Display for UsdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UsdError::NotDecimal => "is not an amount of USD; write a plain number such as 200 or 150.5",
            UsdError::TooFine => "is finer than a micro-dollar; give at most six decimal places",
            UsdError::TooLarge => "is too large; the most is 36028797018.963967 USD",
        })
    }
}

impl std::error::Error for UsdError {}

/// Parses a decimal number of USD exactly, as written: `200`, `200.0`, `150.5`.
impl FromStr for Micros {
    type Err = UsdError;

    fn from_str(text: &str) -> Result<Micros, UsdError> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(fraction) {
            return Err(UsdError::NotDecimal);
        }
        let fraction = fraction.trim_end_matches('0');
        if fraction.len() > 6 {
            return Err(UsdError::TooFine);
        }
        let usd: u64 = whole.parse().map_err(|_| UsdError::TooLarge)?;
        // Padded to six digits, so it is below one million.
        let micros: u64 = format!("{fraction:0<6}").parse().map_err(|_| UsdError::NotDecimal)?;
        usd.checked_mul(MICROS_PER_USD)
            .and_then(|whole| whole.checked_add(micros))
            .and_then(Micros::new)
            .ok_or(UsdError::TooLarge)
    }
}

/// `#[serde(with = "usd")]`: an amount as a JSON number of USD, exact in both directions.
pub mod usd {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Micros;

    /// Writes the amount as an exact decimal number.
    pub fn serialize<S: Serializer>(amount: &Micros, serializer: S) -> Result<S::Ok, S::Error> {
        let number: serde_json::Number = amount.to_string().parse().map_err(S::Error::custom)?;
        number.serialize(serializer)
    }

    /// Reads a decimal number digit by digit, never through a float.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Micros, D::Error> {
        let number = serde_json::Number::deserialize(deserializer)?;
        number.as_str().parse().map_err(|error| D::Error::custom(format_args!("`{number}` {error}")))
    }

    /// The same for an amount that may be absent.
    pub mod option {
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        use super::Micros;

        #[derive(Serialize, Deserialize)]
        #[serde(transparent)]
        struct Usd(#[serde(with = "super")] Micros);

        /// Writes a number or `null`.
        pub fn serialize<S: Serializer>(amount: &Option<Micros>, serializer: S) -> Result<S::Ok, S::Error> {
            amount.map(Usd).serialize(serializer)
        }

        /// Reads a number or `null`.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Micros>, D::Error> {
            Ok(Option::<Usd>::deserialize(deserializer)?.map(|usd| usd.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Capped {
        #[serde(default, with = "usd::option")]
        cap: Option<Micros>,
    }

    fn check(text: &str, expected: Result<u64, UsdError>) {
        assert_eq!(text.parse::<Micros>().map(Micros::as_u64), expected, "{text}");
    }

    #[test]
    fn decimals_are_read_exactly() {
        check("200", Ok(200_000_000));
        check("200.0", Ok(200_000_000));
        check("150.5", Ok(150_500_000));
        check("0.000001", Ok(1));
        check("0.1000000", Ok(100_000));
        check("36028797018.963967", Ok(Micros::MAX.as_u64()));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1 ", "0x1", "١", "NaN", "1.2.3"] {
            check(text, Err(UsdError::NotDecimal));
        }
        check("0.0000001", Err(UsdError::TooFine));
        check("36028797018.963968", Err(UsdError::TooLarge));
        check("99999999999999999999999", Err(UsdError::TooLarge));
    }

    #[test]
    fn json_numbers_keep_every_digit() {
        let capped: Capped = serde_json::from_str(r#"{"cap": 36028797018.963967}"#).unwrap();
        assert_eq!(capped.cap, Some(Micros::MAX));
        assert_eq!(serde_json::to_string(&capped).unwrap(), r#"{"cap":36028797018.963967}"#);
        assert!(serde_json::from_str::<Capped>(r#"{"cap": "200"}"#).is_err());
        assert!(serde_json::from_str::<Capped>(r#"{"cap": 1e3}"#).is_err());
        assert_eq!(serde_json::from_str::<Capped>("{}").unwrap(), Capped { cap: None });
    }

    proptest::proptest! {
        #[test]
        fn what_is_shown_reads_back(micros in 0..=Micros::MAX.as_u64()) {
            let amount = Micros::new(micros).unwrap();
            proptest::prop_assert_eq!(amount.to_string().parse::<Micros>(), Ok(amount));
        }
    }
}
