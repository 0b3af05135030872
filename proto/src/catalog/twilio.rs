//! Twilio: what each class of its table costs.

use super::table::{self, TableError};
use super::{Idempotency, Operation, Price};
use crate::http1::Method;

/// What a class costs, as docs/catalog.md says.
pub(super) fn price(class: &str) -> Option<Price> {
    Some(match class {
        "free" => Price::Free,
        "message" | "call" | "number" | "lookup" | "verification" => {
            Price::Unpriced("keybrake has no price for it")
        }
        "unpriced" => Price::Unpriced("what it costs is not in the request"),
        _ => return None,
    })
}

/// Twilio knows no Idempotency-Key: every repeat is a new call.
fn idempotency(_method: Method, _pattern: &str) -> Idempotency {
    Idempotency::None
}

/// Every operation of api v2010, verify, messaging and lookups.
pub(super) fn operations() -> Result<&'static [Operation], TableError> {
    table::operations(include_str!("tables/twilio.txt"), price, idempotency)
}
