//! How a call would be priced, in words: `keybrake price explain`. It is the code that prices calls, told aloud.

use std::fmt;

use super::amount::Known;
use super::currency::Currency;
use super::price::{self, Priced, Quote, QuoteError, Terms};
use super::tariff::Table;
use super::{Call, Price};
use crate::time::Day;

/// How a call is priced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The row of the catalog, such as `/v1/charges`; `None` where none has it.
    pub operation: Option<&'static str>,
    /// The name of its price class.
    pub class: &'static str,
    /// Where its prices or its rate are from, and of which day.
    pub source: Option<String>,
    /// Only a rule that names it exactly allows it.
    pub escalates: bool,
    /// What is kept aside, or why it is refused under a cap.
    pub quote: Result<Quote, QuoteError>,
    /// The path of the vendor's object that is read first, so that the quote is known.
    pub look_up: Option<String>,
    /// How it was made, one step a line.
    pub steps: Vec<String>,
}

/// Prices `request` of which nothing else is known, under a cap.
pub fn explain(call: &Call<'_>, request: Priced<'_>, terms: &Terms<'_>) -> Explanation {
    let price = call.price();
    let mut steps = Vec::new();
    let quote =
        price::quote_told(price, request, Known::default(), terms, &mut |step| steps.push(step.to_string()));
    let acting = price::acts_on(price, request);
    let look_up = match price::must_look_up(price, request, None, terms.bound) {
        Ok(true) => acting.ok().flatten().map(|acting| acting.path()),
        Ok(false) | Err(_) => None,
    };
    if let Ok(Quote { amount_minor: Some(minor), currency: Some(currency), .. }) = &quote
        && matches!(price, Price::Amount(_))
    {
        steps.push(format!("{minor} minor units of {}", currency.as_str()));
    }
    if let Ok(quote) = &quote
        && quote.expected() != quote.amount
    {
        steps.push(format!("expected ${}; the rest is the spread of its currency", quote.expected()));
    }
    Explanation {
        operation: call.operation.map(|operation| operation.pattern),
        class: call.operation.map_or("none", |operation| operation.class),
        escalates: call.operation.is_some_and(|operation| operation.escalates),
        source: source(price, &quote, terms),
        quote,
        look_up,
        steps,
    }
}

fn source(price: Price, quote: &Result<Quote, QuoteError>, terms: &Terms<'_>) -> Option<String> {
    let book = terms.book;
    let currency = quote.as_ref().ok().and_then(|quote| quote.currency);
    let (source, date) = match price {
        Price::Table(Table::Email | Table::Batch) => (book.resend.source.as_str(), book.resend.date),
        Price::Table(Table::Message | Table::Call | Table::Number | Table::Lookup | Table::Verification) => {
            (book.twilio.source.as_str(), book.twilio.date)
        }
        Price::Amount(_) | Price::Configured(_) if currency.is_some_and(|of| of != Currency::USD) => {
            (book.rates.source(), book.rates.date())
        }
        Price::Amount(_)
        | Price::Configured(_)
        | Price::Free
        | Price::FreeWithout(_)
        | Price::Unpriced(_) => return None,
    };
    Some(format!("{source} ({})", day(date)))
}

/// A day as it is written.
fn day(day: Day) -> String {
    day.start().to_string().get(..10).unwrap_or_default().to_owned()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Some(operation) => writeln!(f, "operation  {operation}")?,
            None => writeln!(f, "operation  not in the catalog")?,
        }
        writeln!(f, "class      {}", self.class)?;
        if self.escalates {
            writeln!(f, "escalates  only a rule that names it exactly allows it")?;
        }
        if let Some(source) = &self.source {
            writeln!(f, "source     {source}")?;
        }
        for (at, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:<11}{step}", if at == 0 { "how" } else { "" })?;
        }
        match (&self.look_up, &self.quote) {
            (Some(path), _) => writeln!(f, "held       what GET {path} says, which keybrake reads first"),
            (None, Ok(quote)) => writeln!(f, "held       ${}", quote.amount),
            (None, Err(error)) => writeln!(f, "refused    {}", Why(error)),
        }
    }
}

/// Why a call is refused under a cap.
pub struct Why<'a>(pub &'a QuoteError);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            QuoteError::Unpriced(why) => write!(f, "under a cap: {why}"),
            QuoteError::Currency(price::NoRate::Unknown(currency)) => {
                write!(f, "under a cap: prices.rates_file has no rate for {}", currency.as_str())
            }
            QuoteError::Currency(price::NoRate::Stale(date)) => {
                write!(f, "under a cap: the rates of {} are too old", day(*date))
            }
            QuoteError::Malformed(problem) => write!(f, "as malformed: {problem}"),
            QuoteError::MediaType => f.write_str("since no price is read from a body of this Content-Type"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::catalog::Catalog;
    use crate::catalog::book::PriceBook;
    use crate::catalog::price::Bound;
    use crate::http1::Method;

    use super::*;

    fn explained(vendor: &str, path: &str, content_type: &str, body: &str) -> String {
        let call = Catalog::of(vendor).unwrap().recognize(Method::Post, path.as_bytes());
        let book = PriceBook::shipped();
        let today = Day::parse("2026-11-21").unwrap();
        let terms = Terms { bound: Bound::Capped, per_call_max: None, book: &book, today };
        let content_type = Some(content_type.as_bytes());
        let request = Priced { path: path.as_bytes(), content_type, query: None, body: body.as_bytes() };
        explain(&call, request, &terms).to_string()
    }

    #[track_caller]
    fn check(text: &str, lines: &[&str]) {
        for line in lines {
            assert!(text.lines().any(|found| found == *line), "no line `{line}`:\n{text}");
        }
    }

    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn a_message_says_its_segments_its_country_and_what_is_held() {
        let body = format!("To=%2B15551234567&Body={}", "a".repeat(161));
        let text = explained("twilio", "/2010-04-01/Accounts/AC1/Messages.json", FORM, &body);
        check(
            &text,
            &[
                "operation  /2010-04-01/Accounts/{AccountSid}/Messages.json",
                "class      message",
                "how        country: United States and Canada",
                "           2 segments of GSM-7 (161 units) at $0.0145",
                "held       $0.029",
            ],
        );
    }

    #[test]
    fn a_refund_without_an_amount_says_what_is_read_first() {
        let text = explained("stripe", "/v1/refunds", FORM, "charge=ch_1");
        check(&text, &["held       what GET /v1/charges/ch_1 says, which keybrake reads first"]);
    }

    #[test]
    fn what_is_refused_says_why() {
        let text = explained("stripe", "/v1/charges", FORM, "amount=5&currency=gbp");
        check(&text, &["refused    under a cap: prices.rates_file has no rate for gbp"]);
        let text = explained("resend", "/emails", "application/json", r#"{"to": 5}"#);
        assert!(text.contains("refused    as malformed: a member that is counted"), "{text}");
        let text = explained("resend", "/api-keys", "application/json", "{}");
        check(&text, &["escalates  only a rule that names it exactly allows it", "held       $0.00"]);
    }
}
