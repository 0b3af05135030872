//! Values of SQL, and dollars among them.
//!
//! SQLite has integers and doubles. A column in USD is a double, so that comparing, sorting and `ROUND` do what they
//! should; but no sum is ever formed in doubles: see [`super::sums`]. What makes that exact: a double is the
//! nearest one to a whole number of micro-dollars below 2^51, and that number can be read back from it. A larger amount
//! is a text with all its digits.

use keybrake_proto::money::Micros;
use rusqlite::ToSql;
use rusqlite::types::{ToSqlOutput, ValueRef};
use serde_json::Value;

/// Micro-dollars in a dollar.
const MICROS: f64 = 1_000_000.0;

/// Below it, 2,251,799,813 USD, each whole number of micro-dollars is read back from its nearest double: that double is
/// off by at most 2^-22 dollars, its product with a million by at most an eighth more, together 0.37 of a micro-dollar.
const EXACT_MICROS_MAX: i128 = 1 << 51;

/// A value that SQLite takes or gives.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    Null,
    Integer(i64),
    Real(f64),
    Text(String),
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Cell::Null => ValueRef::Null,
            Cell::Integer(number) => ValueRef::Integer(*number),
            Cell::Real(number) => ValueRef::Real(*number),
            Cell::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

impl Cell {
    /// What a statement answered. Bytes that are no text are shown in hexadecimal digits.
    pub(super) fn of(value: ValueRef<'_>) -> Cell {
        match value {
            ValueRef::Null => Cell::Null,
            ValueRef::Integer(number) => Cell::Integer(number),
            ValueRef::Real(number) => Cell::Real(number),
            ValueRef::Text(text) => Cell::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Cell::Text(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        }
    }

    /// Roughly what it takes of an answer, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Cell::Null | Cell::Integer(_) | Cell::Real(_) => 24,
            Cell::Text(text) => text.len().saturating_add(24),
        }
    }

    /// As JSON. A number is written without an exponent and with the digits that it means: see [`shown`].
    pub(crate) fn json(&self) -> Value {
        match self {
            Cell::Null => Value::Null,
            Cell::Integer(number) => Value::from(*number),
            Cell::Real(number) => {
                let text = shown(*number);
                text.parse::<serde_json::Number>().map_or(Value::String(text), Value::Number)
            }
            Cell::Text(text) => Value::from(text.as_str()),
        }
    }
}

/// `micros` micro-dollars, as dollars.
pub(super) fn usd(micros: i128) -> Cell {
    if micros.abs() < EXACT_MICROS_MAX {
        // Both are whole numbers that a double holds, so the quotient is the nearest double there is.
        return Cell::Real(micros as f64 / MICROS);
    }
    let sign = if micros < 0 { "-" } else { "" };
    let (whole, fraction) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    Cell::Text(format!("{sign}{whole}.{fraction:06}"))
}

/// The whole number of micro-dollars that `dollars` means: the one whose nearest double it is, or four doubles beside
/// it, which is what a sum or a product of a few such doubles may be off. `None` where it means no such number.
pub(super) fn micros_of_real(dollars: f64) -> Option<i128> {
    let nearest = (dollars * MICROS).round();
    #[expect(clippy::cast_possible_truncation, reason = "beyond the range it is refused in the next line")]
    let micros = nearest as i128;
    if !dollars.is_finite() || micros.abs() >= EXACT_MICROS_MAX {
        return None;
    }
    let off = (dollars - nearest / MICROS).abs();
    (off <= 4.0 * f64::EPSILON * dollars.abs()).then_some(micros)
}

/// The whole number of micro-dollars that a text means, as [`usd`] writes it.
pub(super) fn micros_of_text(text: &str) -> Option<i128> {
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 20 || fraction.len() > 6 || !is_number(whole) || !is_number(fraction)
    {
        return None;
    }
    let whole: i128 = whole.parse().ok()?;
    let fraction: i128 = format!("{fraction:0<6}").parse().ok()?;
    let micros = whole.checked_mul(1_000_000)?.checked_add(fraction)?;
    Some(if is_negative { micros.checked_neg()? } else { micros })
}

/// A double in decimal digits. One that means a whole number of micro-dollars is written as that, so that `0.1 + 0.2` is
/// 0.3; any other with the fewest digits that read back as it.
pub(super) fn shown(number: f64) -> String {
    let exact = micros_of_real(number).and_then(|micros| {
        let amount = u64::try_from(micros.unsigned_abs()).ok().and_then(Micros::new)?;
        let text = amount.to_string();
        // 20.5 and not 20.50: the number may be no money.
        let short = text.trim_end_matches('0').trim_end_matches('.');
        Some(if micros < 0 { format!("-{short}") } else { short.to_owned() })
    });
    exact.unwrap_or_else(|| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dollars_are_written_to_the_micro_dollar() {
        for (micros, text) in [
            (0, "0"),
            (1, "0.000001"),
            (20_500_000, "20.5"),
            (-20_500_000, "-20.5"),
            (300_000, "0.3"),
            (2_251_799_813_685_247, "2251799813.685247"),
        ] {
            let Cell::Real(number) = usd(micros) else { panic!("{micros} is no double") };
            assert_eq!(shown(number), text);
            assert_eq!(micros_of_real(number), Some(micros));
        }
        assert_eq!(usd(EXACT_MICROS_MAX), Cell::Text("2251799813.685248".to_owned()));
        assert_eq!(usd(-36_028_797_018_963_967), Cell::Text("-36028797018.963967".to_owned()));
    }

    #[test]
    fn noise_of_a_few_operations_is_not_shown_and_other_numbers_stay() {
        assert_eq!(shown(0.1 + 0.2), "0.3");
        assert_eq!(shown(1.0 / 3.0), (1.0_f64 / 3.0).to_string());
        assert_eq!(micros_of_real(1.0 / 3.0), None);
        assert_eq!(micros_of_real(0.000_000_1), None);
        assert_eq!(micros_of_real(f64::INFINITY), None);
        assert_eq!(Cell::Real(f64::INFINITY).json(), Value::from("inf"));
        assert_eq!(Cell::Real(1e300).json().to_string().len(), 301);
    }

    #[test]
    fn large_amounts_read_back_from_their_text() {
        assert_eq!(micros_of_text("36028797018.963967"), Some(36_028_797_018_963_967));
        assert_eq!(micros_of_text("-1"), Some(-1_000_000));
        for text in ["", ".", "1e3", "1.1234567", " 1", "999999999999999999999"] {
            assert_eq!(micros_of_text(text), None, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_amount_reads_back_from_its_double(micros in -EXACT_MICROS_MAX + 1..EXACT_MICROS_MAX) {
            let Cell::Real(number) = usd(micros) else { panic!("no double") };
            proptest::prop_assert_eq!(micros_of_real(number), Some(micros));
            proptest::prop_assert_eq!(micros_of_text(&shown(number)), Some(micros));
        }
    }
}
