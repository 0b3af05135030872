//! Stripe's table. Prices are explained in docs/stripe.md; paths are those of Stripe's OpenAPI document.

use super::tree::Tree;
use super::{AmountRule, Catalog, Declined, Idempotency, Operation, Price};
use crate::http1::Method::{self, Delete, Get, Post};

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

const fn row(method: Method, pattern: &'static str, price: Price) -> Operation {
    // Stripe keeps the first answer to a POST's key for at least 24 hours, 500s included
    // (docs.stripe.com/api/idempotent_requests).
    let idempotency = if matches!(method, Post) { Idempotency::Day } else { Idempotency::None };
    Operation { method, pattern, price, idempotency, escalates: false }
}

/// Hands out a credential or widens rights.
const fn escalating(method: Method, pattern: &'static str) -> Operation {
    Operation { escalates: true, ..row(method, pattern, Price::Free) }
}

pub(super) fn catalog() -> Catalog {
    Catalog {
        name: "stripe",
        request_fields: REQUEST_FIELDS,
        account_fields: &["stripe-account", "stripe-context"],
        refused_parameters: &["_method", "_stripe_account", "_stripe_context", "_stripe_version", "key"],
        form_paths: "/v1/",
        request_id_field: "request-id",
        replayed_field: "idempotent-replayed",
        operations: OPERATIONS,
        tree: Tree::new(OPERATIONS),
    }
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

const OPERATIONS: &[Operation] = &[
    row(Get, "/v1/account", Price::Free),
    row(Get, "/v1/balance", Price::Free),
    row(Get, "/v1/balance_transactions", Price::Free),
    row(Get, "/v1/balance_transactions/{id}", Price::Free),
    // Charges.
    row(Get, "/v1/charges", Price::Free),
    row(Get, "/v1/charges/search", Price::Free),
    row(Get, "/v1/charges/{charge}", Price::Free),
    row(Post, "/v1/charges", CHARGE),
    row(Post, "/v1/charges/{charge}", Price::Free),
    row(Post, "/v1/charges/{charge}/capture", UNMODELLED),
    row(Post, "/v1/charges/{charge}/refund", REFUND),
    row(Get, "/v1/charges/{charge}/refunds", Price::Free),
    row(Post, "/v1/charges/{charge}/refunds", REFUND),
    row(Get, "/v1/charges/{charge}/refunds/{refund}", Price::Free),
    // Payment intents.
    row(Get, "/v1/payment_intents", Price::Free),
    row(Get, "/v1/payment_intents/search", Price::Free),
    row(Get, "/v1/payment_intents/{intent}", Price::Free),
    row(Post, "/v1/payment_intents", INTENT),
    row(Post, "/v1/payment_intents/{intent}", UNMODELLED),
    row(Post, "/v1/payment_intents/{intent}/apply_customer_balance", UNMODELLED),
    row(Post, "/v1/payment_intents/{intent}/cancel", Price::Free),
    row(Post, "/v1/payment_intents/{intent}/capture", UNMODELLED),
    row(Post, "/v1/payment_intents/{intent}/confirm", UNMODELLED),
    row(Post, "/v1/payment_intents/{intent}/increment_authorization", UNMODELLED),
    // Money going out.
    row(Get, "/v1/refunds", Price::Free),
    row(Get, "/v1/refunds/{refund}", Price::Free),
    row(Post, "/v1/refunds", REFUND),
    row(Post, "/v1/refunds/{refund}", Price::Free),
    row(Post, "/v1/refunds/{refund}/cancel", Price::Free),
    row(Get, "/v1/payouts", Price::Free),
    row(Get, "/v1/payouts/{payout}", Price::Free),
    row(Post, "/v1/payouts", PAYOUT),
    row(Post, "/v1/payouts/{payout}", Price::Free),
    row(Post, "/v1/payouts/{payout}/cancel", Price::Free),
    row(Post, "/v1/payouts/{payout}/reverse", Price::Free),
    row(Get, "/v1/topups", Price::Free),
    row(Get, "/v1/topups/{topup}", Price::Free),
    row(Post, "/v1/topups", TOPUP),
    row(Post, "/v1/topups/{topup}", Price::Free),
    row(Post, "/v1/topups/{topup}/cancel", Price::Free),
    row(Get, "/v1/transfers", Price::Free),
    row(Get, "/v1/transfers/{transfer}", Price::Free),
    row(Post, "/v1/transfers", TRANSFER),
    row(Post, "/v1/transfers/{transfer}", Price::Free),
    row(Post, "/v1/transfers/{transfer}/reversals", UNMODELLED),
    // Customers and what can be sold to them: no money by themselves.
    row(Get, "/v1/customers", Price::Free),
    row(Get, "/v1/customers/search", Price::Free),
    row(Get, "/v1/customers/{customer}", Price::Free),
    row(Post, "/v1/customers", CUSTOMER),
    row(Post, "/v1/customers/{customer}", CUSTOMER_CHANGE),
    row(Delete, "/v1/customers/{customer}", Price::Free),
    row(Get, "/v1/customers/{customer}/payment_methods", Price::Free),
    row(Get, "/v1/payment_methods", Price::Free),
    row(Get, "/v1/payment_methods/{method}", Price::Free),
    row(Post, "/v1/payment_methods", Price::Free),
    row(Post, "/v1/payment_methods/{method}", Price::Free),
    row(Post, "/v1/payment_methods/{method}/attach", Price::Free),
    row(Post, "/v1/payment_methods/{method}/detach", Price::Free),
    row(Get, "/v1/prices", Price::Free),
    row(Get, "/v1/prices/search", Price::Free),
    row(Get, "/v1/prices/{price}", Price::Free),
    row(Post, "/v1/prices", Price::Free),
    row(Post, "/v1/prices/{price}", Price::Free),
    row(Get, "/v1/products", Price::Free),
    row(Get, "/v1/products/search", Price::Free),
    row(Get, "/v1/products/{product}", Price::Free),
    row(Post, "/v1/products", Price::Free),
    row(Post, "/v1/products/{product}", Price::Free),
    row(Delete, "/v1/products/{product}", Price::Free),
    row(Get, "/v1/setup_intents", Price::Free),
    row(Get, "/v1/setup_intents/{intent}", Price::Free),
    row(Post, "/v1/setup_intents", Price::Free),
    row(Post, "/v1/setup_intents/{intent}", Price::Free),
    row(Post, "/v1/setup_intents/{intent}/cancel", Price::Free),
    row(Post, "/v1/setup_intents/{intent}/confirm", Price::Free),
    // Literal operations beside a parameter that `*` must not match.
    row(Get, "/v1/invoices/search", Price::Free),
    row(Get, "/v1/invoices/upcoming", Price::Free),
    row(Get, "/v1/invoices/{invoice}", Price::Free),
    row(Get, "/v1/subscriptions/search", Price::Free),
    row(Get, "/v1/subscriptions/{subscription}", Price::Free),
    // Credentials and rights.
    escalating(Post, "/v1/account_links"),
    escalating(Post, "/v1/account_sessions"),
    escalating(Post, "/v1/accounts"),
    escalating(Post, "/v1/accounts/{account}"),
    escalating(Post, "/v1/accounts/{account}/external_accounts"),
    escalating(Post, "/v1/accounts/{account}/login_links"),
    escalating(Post, "/v1/apps/secrets"),
    escalating(Get, "/v1/apps/secrets/find"),
    escalating(Post, "/v1/billing_portal/sessions"),
    escalating(Post, "/v1/customer_sessions"),
    escalating(Post, "/v1/ephemeral_keys"),
    escalating(Post, "/v1/terminal/connection_tokens"),
    escalating(Post, "/v1/tokens"),
    escalating(Post, "/v1/webhook_endpoints"),
    escalating(Post, "/v1/webhook_endpoints/{endpoint}"),
    escalating(Post, "/v2/core/event_destinations"),
];
