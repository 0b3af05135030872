//! Vendors that only the configuration knows: their operations, and what each costs (docs/other-vendors.md).

use super::amount::Basis;
use super::currency::{Currency, Rate};
use super::price::{Bound, Priced, Quote, QuoteError, Terms};
use super::read::is_form;
use super::tariff::resend::is_json;
use super::tariff::{Tell, no_query, times};
use crate::form;
use crate::json;
use crate::money::Micros;

/// Digits of an amount, as for every other vendor (M1).
const DIGITS_MAX: usize = 12;

/// What a configured operation costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cost {
    /// The same each time.
    Fixed(Micros),
    /// The amount that stands in the body.
    Amount {
        /// Where.
        at: Place,
        /// In what.
        unit: Unit,
    },
    /// A number of units that stands in the body, or the length of a list there.
    Units {
        /// Where.
        at: Place,
        /// The price of one.
        each: Micros,
        /// How many there are where nothing stands; `None` refuses that.
        absent: Option<u64>,
    },
}

/// In what an amount is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Whole minor units of a currency.
    Minor(CurrencyAt),
    /// Decimal USD.
    Usd,
}

/// Whose currency an amount is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CurrencyAt {
    /// Always this one.
    Fixed(Currency),
    /// The one that stands in the body.
    Field(Place),
}

/// Where a value stands in a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A parameter of a form.
    Form(String),
    /// A member of a JSON object, by the names on the way to it.
    Json(Vec<String>),
}

/// The quote of a request under `cost`.
pub(super) fn quote(
    cost: &Cost,
    request: Priced<'_>,
    terms: &Terms<'_>,
    tell: Tell<'_>,
) -> Result<Quote, QuoteError> {
    match cost {
        Cost::Fixed(amount) => {
            tell(format_args!("1 call at ${amount}"));
            Ok(Quote { amount: *amount, ..Quote::default() })
        }
        Cost::Units { at, each, absent } => {
            let units = match (value(at, request)?, absent) {
                (Some(value), _) => value.units()?,
                (None, Some(units)) => *units,
                (None, None) => return malformed("this call needs the field that it is priced by"),
            };
            tell(format_args!("{units} units at ${each}"));
            Ok(Quote { amount: times(*each, units)?, ..Quote::default() })
        }
        Cost::Amount { at, unit } => {
            let Some(value) = value(at, request)? else {
                return malformed("this call needs the amount that it is priced by");
            };
            match unit {
                Unit::Usd => {
                    let amount = value.decimal()?;
                    tell(format_args!("the amount in the request, ${amount}"));
                    Ok(Quote { amount, ..Quote::default() })
                }
                Unit::Minor(currency) => in_minor(value.whole()?, currency, request, terms, tell),
            }
        }
    }
}

fn in_minor(
    minor: u64,
    currency: &CurrencyAt,
    request: Priced<'_>,
    terms: &Terms<'_>,
    tell: Tell<'_>,
) -> Result<Quote, QuoteError> {
    let currency = match currency {
        CurrencyAt::Fixed(currency) => Some(*currency),
        CurrencyAt::Field(place) => value(place, request)?.map(Value::currency).transpose()?,
    };
    let Some(currency) = currency else { return malformed("this call needs a currency") };
    let stated = Quote { amount_minor: Some(minor), currency: Some(currency), ..Quote::default() };
    let rate: Rate = match (terms.book.rates.of(currency, terms.today), terms.bound) {
        (Ok(rate), _) => rate,
        (Err(no_rate), Bound::Capped) => return Err(QuoteError::Currency(no_rate)),
        (Err(_), Bound::Uncapped) => return Ok(stated),
    };
    let amount = rate.held(minor).ok_or_else(|| QuoteError::Malformed("the amount is too large".into()))?;
    tell(format_args!("{minor} minor units of {}, ${amount} with its spread", currency.as_str()));
    Ok(Quote { amount, basis: Some(Basis::of(rate, currency, minor)), ..stated })
}

/// A value as it stands in a body.
enum Value<'a> {
    /// Decoded from a form.
    Form(form::Text),
    /// As JSON writes it.
    Json(&'a str),
}

fn value<'a>(place: &Place, request: Priced<'a>) -> Result<Option<Value<'a>>, QuoteError> {
    no_query(request)?;
    match place {
        Place::Form(name) => {
            if !request.content_type.is_none_or(is_form) {
                return Err(QuoteError::MediaType);
            }
            let text = form::read_text(request.body, name);
            let text = text.map_err(|error| QuoteError::Malformed(error.to_string().into()))?;
            Ok(text.map(Value::Form))
        }
        Place::Json(path) => {
            if !request.content_type.is_some_and(is_json) {
                return Err(QuoteError::MediaType);
            }
            let value = json::read_member(request.body, path);
            let value = value.map_err(|error| QuoteError::Malformed(error.to_string().into()))?;
            Ok(value.filter(|text| *text != "null").map(Value::Json))
        }
    }
}

impl Value<'_> {
    /// A number, as it is written: in JSON it must not stand in quotes.
    fn number(&self) -> &str {
        match self {
            Value::Form(text) => text.as_str(),
            Value::Json(text) => text,
        }
    }

    fn whole(&self) -> Result<u64, QuoteError> {
        let text = self.number();
        let is_whole = (1..=DIGITS_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_digit())
            && (!text.starts_with('0') || text == "0");
        match text.parse() {
            Ok(whole) if is_whole => Ok(whole),
            Ok(_) | Err(_) => malformed("the amount that it is priced by must be a whole number"),
        }
    }

    fn decimal(&self) -> Result<Micros, QuoteError> {
        let text = self.number();
        let is_plain = !text.starts_with('0') || text == "0" || text.starts_with("0.");
        match text.parse() {
            Ok(amount) if is_plain => Ok(amount),
            Ok(_) | Err(_) => malformed("the amount that it is priced by must be a decimal number of USD"),
        }
    }

    /// A number, or how long a list is.
    fn units(&self) -> Result<u64, QuoteError> {
        match self {
            Value::Json(text) if text.starts_with('[') => {
                let list: Result<Vec<serde::de::IgnoredAny>, _> = serde_json::from_str(text);
                let length = list.ok().and_then(|list| u64::try_from(list.len()).ok());
                length.map_or_else(|| malformed("the list that it is priced by cannot be read"), Ok)
            }
            Value::Json(_) | Value::Form(_) => self.whole(),
        }
    }

    fn currency(self) -> Result<Currency, QuoteError> {
        let code = match &self {
            Value::Form(text) => Some(text.as_str()),
            Value::Json(text) => text.strip_prefix('"').and_then(|text| text.strip_suffix('"')),
        };
        code.and_then(Currency::parse).map_or_else(|| malformed("a currency must be three letters"), Ok)
    }
}

fn malformed<T>(problem: &'static str) -> Result<T, QuoteError> {
    Err(QuoteError::Malformed(problem.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::book::PriceBook;
    use crate::catalog::currency::{NoRate, Rates};
    use crate::time::Day;

    const RATES: &str = r#"
        source = "made up for this test"
        date = "2026-11-20"
        max_age_days = 7
        spread_percent = "2"
        usd_per = { gbp = "1.25" }
    "#;

    fn usd(text: &str) -> Micros {
        text.parse().unwrap()
    }

    fn json(path: &[&str]) -> Place {
        Place::Json(path.iter().map(|&name| name.to_owned()).collect())
    }

    /// The quote of a body, in USD.
    fn check(cost: &Cost, content_type: &str, body: &str, expected: Result<&str, QuoteError>) {
        let book = PriceBook { rates: Rates::parse(RATES).unwrap(), ..PriceBook::shipped() };
        let today = Day::parse("2026-11-21").unwrap();
        let terms = Terms { bound: Bound::Capped, per_call_max: None, book: &book, today };
        let content_type = Some(content_type.as_bytes());
        let request = Priced { path: b"/", content_type, query: None, body: body.as_bytes() };
        let quote = quote(cost, request, &terms, &mut |_| {});
        assert_eq!(quote.map(|quote| quote.amount), expected.map(usd), "{body}");
    }

    fn refused(cost: &Cost, content_type: &str, bodies: &[&str]) {
        for body in bodies {
            let book = PriceBook::shipped();
            let terms =
                Terms { bound: Bound::Capped, per_call_max: None, book: &book, today: Day::new(20_000) };
            let content_type = Some(content_type.as_bytes());
            let request = Priced { path: b"/", content_type, query: None, body: body.as_bytes() };
            let quote = quote(cost, request, &terms, &mut |_| {});
            assert!(
                matches!(quote, Err(QuoteError::Malformed(_) | QuoteError::MediaType)),
                "{body}: {quote:?}"
            );
        }
    }

    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn an_amount_in_minor_units_takes_its_currency_from_the_body() {
        let currency = CurrencyAt::Field(json(&["payment", "currency"]));
        let cost = Cost::Amount { at: json(&["payment", "amount"]), unit: Unit::Minor(currency) };
        check(&cost, JSON, r#"{"payment": {"amount": 1900, "currency": "USD"}}"#, Ok("19"));
        check(&cost, JSON, r#"{"payment": {"amount": 1900, "currency": "gbp"}}"#, Ok("24.225"));
        let chf = Currency::parse("chf").unwrap();
        let unknown = Err(QuoteError::Currency(NoRate::Unknown(chf)));
        check(&cost, JSON, r#"{"payment": {"amount": 1900, "currency": "chf"}}"#, unknown);
        refused(
            &cost,
            JSON,
            &[
                r#"{"payment": {"amount": 1900}}"#,
                r#"{"payment": {"currency": "usd"}}"#,
                r#"{"payment": {"amount": "1900", "currency": "usd"}}"#,
                r#"{"payment": {"amount": 19.0, "currency": "usd"}}"#,
                r#"{"payment": {"amount": 1e3, "currency": "usd"}}"#,
                r#"{"payment": {"amount": -5, "currency": "usd"}}"#,
                r#"{"payment": {"amount": 1, "amount": 1900, "currency": "usd"}}"#,
                "amount=1900",
            ],
        );
        refused(&cost, FORM, &["amount=1900&currency=usd"]);
    }

    #[test]
    fn an_amount_in_usd_keeps_every_digit() {
        let cost = Cost::Amount { at: json(&["total"]), unit: Unit::Usd };
        check(&cost, JSON, r#"{"total": 12.5}"#, Ok("12.5"));
        check(&cost, JSON, r#"{"total": 0.000001}"#, Ok("0.000001"));
        refused(&cost, JSON, &[r#"{"total": "12.5"}"#, r#"{"total": 1e3}"#, r#"{"total": 0.0000001}"#, "{}"]);
        let form = Cost::Amount { at: Place::Form("total".to_owned()), unit: Unit::Usd };
        check(&form, FORM, "total=12.50&x=1", Ok("12.5"));
        refused(&form, FORM, &["total=12,5", "total=1&total=2", "Total=5", "total=-1"]);
    }

    #[test]
    fn units_are_a_number_or_the_length_of_a_list() {
        let cost = Cost::Units { at: json(&["to"]), each: usd("0.002"), absent: Some(1) };
        check(&cost, JSON, r#"{"to": ["a", "b", "c"]}"#, Ok("0.006"));
        check(&cost, JSON, r#"{"to": 7}"#, Ok("0.014"));
        check(&cost, JSON, "{}", Ok("0.002"));
        refused(&cost, JSON, &[r#"{"to": "a"}"#, r#"{"to": {}}"#]);
        refused(
            &Cost::Units { at: json(&["to"]), each: usd("1"), absent: None },
            JSON,
            &["{}", r#"{"to": null}"#],
        );
        check(&Cost::Fixed(usd("0.05")), JSON, "anything", Ok("0.05"));
    }
}
