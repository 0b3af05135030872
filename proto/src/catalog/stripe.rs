//! Stripe: what each class of its table costs, and what passes to it. Prices are explained in docs/stripe.md.

use super::table::{self, TableError};
use super::tree::Tree;
use super::{AmountRule, Catalog, Declined, Idempotency, Operation, Price};
use crate::http1::Method;

const fn amount(object: &'static str) -> AmountRule {
    AmountRule {
        moved_nothing: &["failed", "canceled"],
        declined: Declined::Nothing,
        amount_optional: false,
        currency_elsewhere: false,
        object,
    }
}

const CHARGE: Price = Price::AmountInRequest(amount("charge"));
const PAYOUT: Price = Price::AmountInRequest(amount("payout"));
const TOPUP: Price = Price::AmountInRequest(amount("topup"));

/// A payment intent counts at creation: its client secret can confirm it outside keybrake.
const INTENT: Price = Price::AmountInRequest(AmountRule {
    moved_nothing: &["canceled"],
    declined: Declined::StaysConfirmable,
    ..amount("payment_intent")
});

/// Without an amount it means all of the source transaction, which only Stripe knows.
const TRANSFER: Price = Price::AmountInRequest(AmountRule { amount_optional: true, ..amount("transfer") });

/// Without an amount it means all that is left, and its currency is the charge's.
///
/// `POST /v1/charges/{charge}/refund` answers a charge, whose `amount` is not the refund's.
const REFUND: Price = Price::AmountInRequest(AmountRule {
    amount_optional: true,
    currency_elsewhere: true,
    ..amount("refund")
});

/// Credit, discounts and subscriptions in a customer's parameters are money by another name.
const CUSTOMER: Price = Price::FreeWithout(&[
    "account_balance",
    "balance",
    "cash_balance",
    "coupon",
    "plan",
    "promotion_code",
    "quantity",
    "trial_end",
]);

/// A new source makes Stripe retry the customer's open invoices, too.
const CUSTOMER_CHANGE: Price = Price::FreeWithout(&[
    "account_balance",
    "balance",
    "card",
    "cash_balance",
    "coupon",
    "default_source",
    "plan",
    "promotion_code",
    "quantity",
    "source",
    "trial_end",
]);

const UNMODELLED: Price =
    Price::Unpriced("its amount is not in the request and keybrake does not look it up");

/// What a class costs, as docs/catalog.md says.
pub(super) fn price(class: &str) -> Option<Price> {
    Some(match class {
        "free" => Price::Free,
        "customer" => CUSTOMER,
        "customer-change" => CUSTOMER_CHANGE,
        "charge" => CHARGE,
        "charge-refund" | "refund" => REFUND,
        "intent" => INTENT,
        "transfer" => TRANSFER,
        "payout" => PAYOUT,
        "topup" => TOPUP,
        "charge-capture"
        | "intent-update"
        | "intent-confirm"
        | "intent-capture"
        | "intent-increment"
        | "intent-balance"
        | "reversal"
        | "fee-refund"
        | "invoice-pay"
        | "invoice-finalize"
        | "credit-note"
        | "balance-transaction" => UNMODELLED,
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
        form_paths: "/v1/",
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
