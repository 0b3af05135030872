//! Stripe's table. Prices are explained in docs/stripe.md; paths are those of Stripe's OpenAPI document.

mod rules;

use self::rules::*;
use super::tree::Tree;
use super::{Catalog, Idempotency, Operation, Price};
use crate::http1::Method::{self, Delete, Get, Post};

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
    row(Post, "/v1/charges/{charge}/capture", CHARGE_CAPTURE),
    row(Post, "/v1/charges/{charge}/refund", CHARGE_REFUND),
    row(Get, "/v1/charges/{charge}/refunds", Price::Free),
    row(Post, "/v1/charges/{charge}/refunds", CHARGE_REFUND),
    row(Get, "/v1/charges/{charge}/refunds/{refund}", Price::Free),
    // Payment intents.
    row(Get, "/v1/payment_intents", Price::Free),
    row(Get, "/v1/payment_intents/search", Price::Free),
    row(Get, "/v1/payment_intents/{intent}", Price::Free),
    row(Post, "/v1/payment_intents", INTENT),
    row(Post, "/v1/payment_intents/{intent}", INTENT_UPDATE),
    row(Post, "/v1/payment_intents/{intent}/apply_customer_balance", INTENT_BALANCE),
    row(Post, "/v1/payment_intents/{intent}/cancel", Price::Free),
    row(Post, "/v1/payment_intents/{intent}/capture", INTENT_CAPTURE),
    row(Post, "/v1/payment_intents/{intent}/confirm", INTENT_CONFIRM),
    row(Post, "/v1/payment_intents/{intent}/increment_authorization", INTENT_INCREMENT),
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
    row(Post, "/v1/transfers/{transfer}/reversals", REVERSAL),
    row(Post, "/v1/application_fees/{fee}/refund", FEE_REFUND),
    row(Post, "/v1/application_fees/{fee}/refunds", FEE_REFUND),
    row(Post, "/v1/credit_notes", CREDIT_NOTE),
    row(Post, "/v1/customers/{customer}/balance_transactions", BALANCE_TRANSACTION),
    row(Post, "/v1/invoices/{invoice}/pay", INVOICE_PAY),
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
