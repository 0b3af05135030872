//! What a request states of money, each in one reading (M2).

use super::amount::{AmountRule, IdAt, ObjectId};
use super::currency::Currency;
use super::price::{Priced, QuoteError};
use crate::form::{self, FormError, Text};

/// What a form states of an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stated {
    /// In minor units.
    pub(super) amount: Option<u64>,
    pub(super) currency: Option<Currency>,
    /// It says itself that nothing moves.
    pub(super) is_free: bool,
}

/// Reads what `request` states under `rule`.
pub(super) fn stated(rule: &AmountRule, request: Priced<'_>) -> Result<Stated, QuoteError> {
    // Stripe may take parameters from the query too, so an amount there would have two readings (M2).
    if request.query.is_some_and(|query| !query.is_empty()) {
        return Err(QuoteError::Malformed(
            "send the parameters of this call in the body, not in the query".into(),
        ));
    }
    if !request.content_type.is_none_or(is_form) {
        return Err(QuoteError::MediaType);
    }
    let mut amount: Option<u64> = None;
    for name in rule.parameters {
        let read = if rule.signed { form::read_signed_amount } else { form::read_amount };
        if let Some(part) = read(request.body, name).map_err(malformed)? {
            // Each has twelve digits at most.
            amount = Some(amount.unwrap_or_default().saturating_add(part));
        }
    }
    let currency = form::read_text(request.body, "currency").map_err(malformed)?;
    let currency = currency.map(parse_currency).transpose()?;
    let free_if = rule.free_if.map(|name| form::read_flag(request.body, name)).transpose();
    let is_free = free_if.map_err(malformed)?.flatten() == Some(true);
    Ok(Stated { amount, currency, is_free })
}

/// The id that stands at a place of `request`.
pub(super) fn object_id(at: IdAt, request: Priced<'_>) -> Result<Option<ObjectId>, QuoteError> {
    let wrong = || QuoteError::Malformed("an id has letters, digits and `_` only".into());
    match at {
        IdAt::Segment(index) => {
            let segment = request.path.split(|byte| *byte == b'/').skip(1).nth(index);
            let text = segment.and_then(|segment| std::str::from_utf8(segment).ok());
            text.and_then(ObjectId::parse).map(Some).ok_or_else(wrong)
        }
        IdAt::Parameter(name) => {
            let text = form::read_text(request.body, name).map_err(malformed)?;
            text.map(|text| ObjectId::parse(text.as_str()).ok_or_else(wrong)).transpose()
        }
    }
}

pub(super) fn malformed(error: FormError) -> QuoteError {
    QuoteError::Malformed(error.to_string().into())
}

fn parse_currency(text: Text) -> Result<Currency, QuoteError> {
    Currency::parse(text.as_str())
        .ok_or_else(|| QuoteError::Malformed("`currency` must be three letters".into()))
}

/// Exactly the form type, with or without a `charset=utf-8`.
pub fn is_form(content_type: &[u8]) -> bool {
    let mut parts = content_type.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_form =
        parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded"));
    is_form && parts.all(|parameter| parameter.eq_ignore_ascii_case(b"charset=utf-8"))
}
