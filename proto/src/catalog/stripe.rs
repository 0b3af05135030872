//! Stripe: what each class of its table costs, and what passes to it. Prices are explained in docs/stripe.md.

mod rules;

use self::rules::{CUSTOMER, CUSTOMER_CHANGE};
use super::table::{self, TableError};
use super::tree::Tree;
use super::wire::{Bodies, Slot};
use super::{Catalog, Idempotency, Operation, Price, UnlistedReads};
use crate::http1::Method;

/// What a class costs, as docs/catalog.md says.
pub(super) fn price(class: &str) -> Option<Price> {
    Some(match class {
        "free" => Price::Free,
        "customer" => CUSTOMER,
        "customer-change" => CUSTOMER_CHANGE,
        "charge" => rules::CHARGE,
        "charge-capture" => rules::CHARGE_CAPTURE,
        "charge-refund" => rules::CHARGE_REFUND,
        "intent" => rules::INTENT,
        "intent-update" => rules::INTENT_UPDATE,
        "intent-confirm" => rules::INTENT_CONFIRM,
        "intent-capture" => rules::INTENT_CAPTURE,
        "intent-increment" => rules::INTENT_INCREMENT,
        "intent-balance" => rules::INTENT_BALANCE,
        "refund" => rules::REFUND,
        "transfer" => rules::TRANSFER,
        "reversal" => rules::REVERSAL,
        "fee-refund" => rules::FEE_REFUND,
        "payout" => rules::PAYOUT,
        "topup" => rules::TOPUP,
        "invoice-pay" => rules::INVOICE_PAY,
        "invoice-finalize" => Price::Unpriced("Stripe charges the customer later, past keybrake"),
        "credit-note" => rules::CREDIT_NOTE,
        "balance-transaction" => rules::BALANCE_TRANSACTION,
        "unpriced" => Price::Unpriced("what it moves, now or later, is not in the request"),
        _ => return None,
    })
}

/// Stripe keeps the first answer to a POST's key for at least 24 hours, 500s included
/// (docs.stripe.com/api/idempotent_requests).
fn idempotency(method: Method, _pattern: &str) -> Idempotency {
    if method == Method::Post { Idempotency::Day } else { Idempotency::None }
}

/// Every operation of v1 and v2.
pub(super) fn operations() -> Result<&'static [Operation], TableError> {
    table::operations(include_str!("tables/stripe.txt"), price, idempotency)
}

pub(super) fn catalog() -> Result<Catalog, TableError> {
    let operations = operations()?;
    Ok(Catalog {
        name: "stripe",
        request_fields: REQUEST_FIELDS,
        account_fields: &["stripe-account", "stripe-context"],
        refused_parameters: &["_method", "_stripe_account", "_stripe_context", "_stripe_version", "key"],
        bodies: Bodies::FormsBelow("/v1/"),
        slot: Slot::Bearer,
        labels: &[],
        unlisted_reads: UnlistedReads::Free,
        drops_empty_bodies: false,
        request_id_field: "request-id",
        replayed_field: "idempotent-replayed",
        operations,
        tree: Tree::new(operations),
    })
}

const REQUEST_FIELDS: &[&str] = &[
    "accept",
    "accept-language",
    "content-type",
    "stripe-version",
    "user-agent",
    "x-stripe-client-telemetry",
    "x-stripe-client-user-agent",
];
