//! Resend: what each class of its table costs.

use super::table::{self, TableError};
use super::{Idempotency, Operation, Price};
use crate::http1::Method;

/// What a class costs, as docs/catalog.md says.
pub(super) fn price(class: &str) -> Option<Price> {
    Some(match class {
        "free" => Price::Free,
        "email" | "batch" => Price::Unpriced("keybrake has no price for it"),
        "unpriced" => Price::Unpriced("how many mails it sends is not in the request"),
        _ => return None,
    })
}

/// Only sending is remembered, for 24 hours (resend.com/docs/dashboard/emails/idempotency-keys).
fn idempotency(method: Method, pattern: &str) -> Idempotency {
    match (method, pattern) {
        (Method::Post, "/emails" | "/emails/batch") => Idempotency::Day,
        _ => Idempotency::None,
    }
}

/// Every operation.
pub(super) fn operations() -> Result<&'static [Operation], TableError> {
    table::operations(include_str!("tables/resend.txt"), price, idempotency)
}
