//! Calls whose cost is units times a price: messages, minutes, recipients. What a unit costs is the operator's to say
//! ([`super::book`]); what a request asks for at most is counted here (rule M5).
//!
//! Vendors of this kind name no price in their answers, so the quote is the charge: it is never corrected upwards, and
//! downwards only where a reply says how much was carried out.

pub mod resend;
pub mod segments;
pub mod twilio;

mod file;
mod telephony;

use std::fmt;

use super::book::PriceBook;
use super::price::{Priced, Quote, QuoteError};
use super::read::is_form;
use crate::form::FormError;
use crate::money::Micros;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Twilio: segments of a text times the price of its country, or one message with media.
    Message,
    /// Twilio: started minutes that the call may last, times the price of its country.
    Call,
    /// Twilio: the first month of a number.
    Number,
    /// Twilio: the paid data that a look-up of a number asks for.
    Lookup,
    /// Twilio: a verification that succeeds, and what carries its code.
    Verification,
    /// Resend: recipients of one mail.
    Email,
    /// Resend: recipients of up to a hundred mails.
    Batch,
}

/// Hears how a quote is made, for `keybrake price explain`.
pub type Tell<'t> = &'t mut dyn FnMut(fmt::Arguments<'_>);

/// The quote of a request under `table`.
pub(super) fn quote(
    table: Table,
    request: Priced<'_>,
    book: &PriceBook,
    tell: Tell<'_>,
) -> Result<Quote, QuoteError> {
    let amount = match table {
        Table::Message => telephony::message(&book.twilio, form_of(request)?, tell),
        Table::Call => telephony::call(&book.twilio, form_of(request)?, tell),
        Table::Number => telephony::number(&book.twilio, form_of(request)?, tell),
        Table::Lookup => telephony::lookup(&book.twilio, request.query.unwrap_or_default(), tell),
        Table::Verification => telephony::verification(&book.twilio, form_of(request)?, tell),
        Table::Email => resend::email(&book.resend, request, tell),
        Table::Batch => return resend::batch(&book.resend, request, tell),
    };
    Ok(Quote { amount: amount?, ..Quote::default() })
}

/// The form of a call that states all it asks for in its body.
fn form_of(request: Priced<'_>) -> Result<&[u8], QuoteError> {
    no_query(request)?;
    if !request.content_type.is_none_or(is_form) {
        return Err(QuoteError::MediaType);
    }
    Ok(request.body)
}

/// A parameter in the query would have two readings (M2).
pub(super) fn no_query(request: Priced<'_>) -> Result<(), QuoteError> {
    match request.query {
        Some(query) if !query.is_empty() => {
            malformed("send what this call costs by in the body, not in the query")
        }
        Some(_) | None => Ok(()),
    }
}

/// So many units at a price each.
pub(super) fn times(each: Micros, units: u64) -> Result<Micros, QuoteError> {
    let product = each.as_u64().checked_mul(units).and_then(Micros::new);
    product.ok_or_else(|| QuoteError::Malformed("the amount is too large".into()))
}

/// The sum of two amounts.
pub(super) fn plus(one: Micros, other: Micros) -> Result<Micros, QuoteError> {
    one.checked_add(other).ok_or_else(|| QuoteError::Malformed("the amount is too large".into()))
}

fn malformed<T>(problem: &'static str) -> Result<T, QuoteError> {
    Err(QuoteError::Malformed(problem.into()))
}

fn bad_form(error: FormError) -> QuoteError {
    QuoteError::Malformed(error.to_string().into())
}

#[cfg(test)]
mod tests;
