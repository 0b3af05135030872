//! How a call would be priced, in words: `keybrake price explain`. It is the code that prices calls, told aloud.

use std::fmt;

use super::amount::Known;
use super::price::{self, Priced, Quote, QuoteError, Terms};
use super::{Call, Price};

/// How a call is priced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The row of the catalog, such as `/v1/charges`; `None` where none has it.
    pub operation: Option<&'static str>,
    /// The name of its price class.
    pub class: &'static str,
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
        quote,
        look_up,
        steps,
    }
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
                let text = date.start().to_string();
                write!(f, "under a cap: the rates of {} are too old", text.get(..10).unwrap_or_default())
            }
            QuoteError::Malformed(problem) => write!(f, "as malformed: {problem}"),
            QuoteError::MediaType => f.write_str("since no price is read from a body of this Content-Type"),
        }
    }
}
