//! What a call may cost, before it is sent, and what it did cost, from the reply.
//!
//! Never less than could be spent is quoted, and an unknown price is never zero.

use std::borrow::Cow;

use super::Price;
use super::amount::{self, Acting, Basis, Counted, Known, Remembered};
use super::book::PriceBook;
use super::configured;
use super::currency::Currency;
use super::tariff::{self, Table, Tell, resend};
use crate::form;
use crate::money::Micros;
use crate::time::Day;

pub use super::currency::NoRate;
pub use super::read::is_form;

/// The parts of a request that a price is read from.
#[derive(Clone, Copy, Debug)]
pub struct Priced<'a> {
    /// The canonical path.
    pub path: &'a [u8],
    /// `Content-Type`, as sent.
    pub content_type: Option<&'a [u8]>,
    /// The query, without `?`.
    pub query: Option<&'a [u8]>,
    /// The whole body, decoded from its framing.
    pub body: &'a [u8],
}

/// Under which terms a call is quoted.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Whether the cost must be bounded.
    pub bound: Bound,
    /// The most a call may cost, where the key says so: what nothing else bounds is held at it.
    pub per_call_max: Option<Micros>,
    /// What currencies and units are worth.
    pub book: &'a PriceBook,
    /// The UTC day.
    pub today: Day,
}

/// What is kept aside for a call, and what the request said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote {
    /// The upper bound of the cost.
    pub amount: Micros,
    /// What it stands for in minor units, where the call has an amount.
    pub amount_minor: Option<u64>,
    /// Their currency.
    pub currency: Option<Currency>,
    /// What it was made of.
    pub basis: Option<Basis>,
    /// What it was made of, where a reply may say that only a part was carried out.
    pub batch: Option<resend::Batch>,
}

impl Quote {
    /// What a call that goes as it was asked for costs: the quote, less the spread of its currency.
    pub fn expected(&self) -> Micros {
        self.basis.map_or(self.amount, |basis| basis.expected())
    }

    /// What the whole of it is worth, with what counted before: an intent that grows in steps is one call's worth.
    pub fn whole(&self) -> Micros {
        self.basis.map_or(self.amount, |basis| basis.whole().max(self.amount))
    }
}

/// Why a call has no quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuoteError {
    /// Nothing bounds the cost; the text says what is missing.
    Unpriced(&'static str),
    /// The currency has no rate.
    Currency(NoRate),
    /// The amount is missing, or can be read in more than one way: 400.
    Malformed(Cow<'static, str>),
    /// The body is in a form no amount is read from: 415.
    MediaType,
}

/// Whether the cost must be bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The key or an ancestor has a cap in USD.
    Capped,
    /// None has: money is counted where it can be.
    Uncapped,
}

/// The vendor's object that a call acts on; one call on it at a time is under way (rule Q8).
///
/// # Errors
/// Those of [`quote`].
pub fn acts_on(price: Price, request: Priced<'_>) -> Result<Option<Acting>, QuoteError> {
    match price {
        Price::Amount(rule) => amount::acts_on(rule, request),
        Price::Free | Price::FreeWithout(_) | Price::Table(_) | Price::Configured(_) | Price::Unpriced(_) => {
            Ok(None)
        }
    }
}

/// Whether the object must be read before a quote can be made; `counted` is what it counted for the key.
///
/// # Errors
/// Those of [`quote`].
pub fn must_look_up(
    price: Price,
    request: Priced<'_>,
    counted: Option<Counted>,
    bound: Bound,
) -> Result<bool, QuoteError> {
    match (price, bound) {
        (Price::Amount(rule), Bound::Capped) => amount::must_look_up(rule, request, counted),
        (Price::Amount(_), Bound::Uncapped)
        | (
            Price::Free | Price::FreeWithout(_) | Price::Table(_) | Price::Configured(_) | Price::Unpriced(_),
            _,
        ) => Ok(false),
    }
}

/// The quote of a request under `price`.
///
/// # Errors
/// [`QuoteError`]. A wrong `Ok` spends money; a wrong error refuses one call.
pub fn quote(
    price: Price,
    request: Priced<'_>,
    known: Known,
    terms: &Terms<'_>,
) -> Result<Quote, QuoteError> {
    quote_told(price, request, known, terms, &mut |_| {})
}

/// [`quote`], telling how it is made.
pub(super) fn quote_told(
    price: Price,
    request: Priced<'_>,
    known: Known,
    terms: &Terms<'_>,
    tell: Tell<'_>,
) -> Result<Quote, QuoteError> {
    let quoted = match (price, terms.bound) {
        (Price::Free, _) | (Price::Unpriced(_) | Price::FreeWithout(_), Bound::Uncapped) => {
            return Ok(Quote::default());
        }
        (Price::FreeWithout(names), Bound::Capped) => free_without(names, request),
        (Price::Unpriced(why), Bound::Capped) => Err(QuoteError::Unpriced(why)),
        // What is left of an object has a price, and the vendor knows it: no bound of the key makes it smaller.
        (Price::Amount(rule), _) => return amount::quote(rule, request, known, terms),
        (Price::Table(table), _) => tariff::quote(table, request, terms.book, tell),
        (Price::Configured(cost), _) => configured::quote(cost, request, terms, tell),
    };
    match (quoted, terms.bound) {
        (Err(QuoteError::Unpriced(why)), Bound::Capped) => unpriced(why, terms, tell),
        // Nothing is capped, so nothing has to be known.
        (Err(QuoteError::Unpriced(_)), Bound::Uncapped) => Ok(Quote::default()),
        (quoted, _) => quoted,
    }
}

/// What nothing bounds is held at the most that a call may cost, where the key says that.
fn unpriced(why: &'static str, terms: &Terms<'_>, tell: Tell<'_>) -> Result<Quote, QuoteError> {
    match terms.per_call_max {
        Some(amount) => {
            tell(format_args!("{why}, so the key's max_usd_per_call is held"));
            Ok(Quote { amount, ..Quote::default() })
        }
        None => Err(QuoteError::Unpriced(why)),
    }
}

fn free_without(names: &[&str], request: Priced<'_>) -> Result<Quote, QuoteError> {
    // A body in another form than the one that is read may say anything.
    if !request.body.is_empty() && !request.content_type.is_some_and(is_form) {
        return Err(QuoteError::MediaType);
    }
    let query = request.query.unwrap_or_default();
    if names.iter().any(|name| form::mentions(request.body, name) || form::mentions(query, name)) {
        return Err(QuoteError::Unpriced("a parameter of it gives credit, a discount or a subscription"));
    }
    Ok(Quote::default())
}

/// How a hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The call cost this much; more than the quote is booked in full.
    Settle(Micros),
    /// The vendor carried it out, and says that nothing moved: it cost nothing, whatever was asked for.
    MovedNothing,
    /// Definitely nothing moved.
    Release,
    /// It may have moved: the quote stays held and committed.
    InDoubt,
}

/// What a reply to a call under `price` says of its cost, and what the object then counts that it acted on or made.
///
/// `body` is the whole reply, or `None` where it cannot be read: longer than the limit (rule Q24), encoded, or ended
/// by closing. The quote is then the charge. A wrong `Release` spends money unseen; a wrong `InDoubt` keeps a cap
/// fuller than it is until it is resolved.
pub fn end(
    price: Price,
    quote: &Quote,
    acting: Option<&Acting>,
    status: u16,
    body: Option<&[u8]>,
) -> (End, Option<Remembered>) {
    match price {
        Price::Amount(rule) => amount::end(rule, quote, acting, status, body),
        Price::Table(_) | Price::Configured(_) | Price::Free | Price::FreeWithout(_) | Price::Unpriced(_) => {
            match (quote.batch, status) {
                (Some(batch), 200..=299) => (resend::end_of_batch(quote, batch, body), None),
                _ => (end_by_status(quote, status), None),
            }
        }
    }
}

impl Price {
    /// Whether a reply's body says what its call cost.
    pub fn reads_reply(self) -> bool {
        match self {
            Price::Amount(_) | Price::Table(Table::Batch) => true,
            Price::Table(
                Table::Message
                | Table::Call
                | Table::Number
                | Table::Lookup
                | Table::Verification
                | Table::Email,
            )
            | Price::Configured(_)
            | Price::Free
            | Price::FreeWithout(_)
            | Price::Unpriced(_) => false,
        }
    }
}

/// How a call ends whose reply names no amount (rule Q7). A quote of zero ends the same in each way.
fn end_by_status(quote: &Quote, status: u16) -> End {
    match status {
        _ if quote.amount == Micros::ZERO => End::Settle(Micros::ZERO),
        // Less the spread of a currency.
        200..=299 => End::Settle(quote.expected()),
        408 | 409 | 425 => End::InDoubt,
        400..=499 => End::Release,
        _ => End::InDoubt,
    }
}

#[cfg(test)]
mod tests;
