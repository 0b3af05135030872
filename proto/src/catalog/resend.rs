//! Resend: what each class of its table costs, and what passes to it.

use super::table::{self, TableError};
use super::tariff::Table;
use super::tree::Tree;
use super::wire::{Bodies, Slot};
use super::{Catalog, Idempotency, Operation, Price, UnlistedReads};
use crate::http1::Method;

/// What a class costs, as docs/catalog.md says.
pub(super) fn price(class: &str) -> Option<Price> {
    Some(match class {
        "free" => Price::Free,
        "email" => Price::Table(Table::Email),
        "batch" => Price::Table(Table::Batch),
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

pub(super) fn catalog() -> Result<Catalog, TableError> {
    let operations = operations()?;
    Ok(Catalog {
        name: "resend",
        request_fields: REQUEST_FIELDS,
        account_fields: &[],
        refused_parameters: &["_method"],
        bodies: Bodies::Json,
        slot: Slot::Bearer,
        labels: &[],
        unlisted_reads: UnlistedReads::Free,
        // Its Python SDK sends `{}` with each GET.
        drops_empty_bodies: true,
        request_id_field: "x-request-id",
        replayed_field: "",
        operations,
        tree: Tree::new(operations),
    })
}

/// Resend refuses requests without a `User-Agent` (resend.com/docs/api-reference/introduction).
const REQUEST_FIELDS: &[&str] =
    &["accept", "accept-language", "content-type", "user-agent", "x-batch-validation"];
