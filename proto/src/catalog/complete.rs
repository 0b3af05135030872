//! Tests that each vendor's table is whole: it can be read, and each operation of the vendor's published list has a
//! row.

use std::collections::{BTreeMap, HashSet};

use super::pattern;
use super::table::TableError;
use super::tree::Tree;
use super::{Idempotency, Operation, resend, stripe, twilio};
use crate::http1::Method;

struct Vendor {
    name: &'static str,
    operations: fn() -> Result<&'static [Operation], TableError>,
    list: &'static str,
}

const VENDORS: &[Vendor] = &[
    Vendor { name: "resend", operations: resend::operations, list: include_str!("lists/resend.txt") },
    Vendor { name: "stripe", operations: stripe::operations, list: include_str!("lists/stripe.txt") },
    Vendor { name: "twilio", operations: twilio::operations, list: include_str!("lists/twilio.txt") },
];

fn rows(vendor: &Vendor) -> &'static [Operation] {
    (vendor.operations)().unwrap_or_else(|error| panic!("tables/{}.txt: {error}", vendor.name))
}

#[test]
fn m3_each_operation_of_a_published_list_has_a_row() {
    for vendor in VENDORS {
        let shape = |row: &Operation| format!("{} {}", row.method.as_str(), pattern::shape(row.pattern));
        let known: HashSet<String> = rows(vendor).iter().map(shape).collect();
        let listed: Vec<&str> = vendor.list.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(listed.len() > 50, "{}: the list has {} operations", vendor.name, listed.len());
        let missing: Vec<&str> = listed.into_iter().filter(|line| !known.contains(*line)).collect();
        assert!(missing.is_empty(), "tables/{}.txt has no row for:\n{}", vendor.name, missing.join("\n"));
    }
}

/// The class of the row that a request finds.
fn class(vendor: &Vendor, request: &str) -> String {
    let (method, path) = request.split_once(' ').unwrap();
    let row = Tree::new(rows(vendor)).find(Method::parse(method.as_bytes()).unwrap(), path.as_bytes());
    row.map_or("none", |row| rows(vendor)[row].class).to_owned()
}

fn check(vendor: &str, cases: &[(&str, &str)]) {
    let vendor = VENDORS.iter().find(|of| of.name == vendor).unwrap();
    for (request, expected) in cases {
        assert_eq!(class(vendor, request), *expected, "{request}");
    }
}

#[test]
fn m3_what_moves_money_at_stripe_has_a_class_of_its_own_or_is_unpriced() {
    check(
        "stripe",
        &[
            ("POST /v1/charges", "charge"),
            ("POST /v1/charges/ch_1", "free"),
            ("POST /v1/charges/ch_1/capture", "charge-capture"),
            ("POST /v1/charges/ch_1/refund", "charge-refund"),
            ("POST /v1/charges/ch_1/refunds", "charge-refund"),
            ("POST /v1/payment_intents", "intent"),
            ("POST /v1/payment_intents/pi_1", "intent-update"),
            ("POST /v1/payment_intents/pi_1/confirm", "intent-confirm"),
            ("POST /v1/payment_intents/pi_1/capture", "intent-capture"),
            ("POST /v1/payment_intents/pi_1/increment_authorization", "intent-increment"),
            ("POST /v1/payment_intents/pi_1/apply_customer_balance", "intent-balance"),
            ("POST /v1/payment_intents/pi_1/cancel", "free"),
            ("POST /v1/payment_intents/pi_1/verify_microdeposits", "unpriced"),
            ("POST /v1/refunds", "refund"),
            ("POST /v1/transfers", "transfer"),
            ("POST /v1/transfers/tr_1/reversals", "reversal"),
            ("POST /v1/application_fees/fee_1/refunds", "fee-refund"),
            ("POST /v1/payouts", "payout"),
            ("POST /v1/topups", "topup"),
            ("POST /v1/invoices/in_1/pay", "invoice-pay"),
            ("POST /v1/invoices/in_1/finalize", "invoice-finalize"),
            ("POST /v1/invoices/in_1/send", "invoice-finalize"),
            ("POST /v1/invoices", "unpriced"),
            ("POST /v1/invoiceitems", "unpriced"),
            ("POST /v1/quotes/qt_1/accept", "unpriced"),
            ("POST /v1/credit_notes", "credit-note"),
            ("POST /v1/customers", "customer"),
            ("POST /v1/customers/cus_1", "customer-change"),
            ("POST /v1/customers/cus_1/balance_transactions", "balance-transaction"),
            ("POST /v1/customers/cus_1/sources", "unpriced"),
            ("POST /v1/subscriptions", "unpriced"),
            ("DELETE /v1/subscriptions/sub_1", "unpriced"),
            ("POST /v1/customers/cus_1/subscriptions", "unpriced"),
            ("POST /v1/checkout/sessions", "unpriced"),
            ("POST /v1/payment_links", "unpriced"),
            ("POST /v1/coupons", "unpriced"),
            ("POST /v1/promotion_codes", "unpriced"),
            ("POST /v1/billing/meter_events", "unpriced"),
            ("POST /v1/issuing/cards", "escalates-unpriced"),
            ("POST /v1/terminal/readers/tmr_1/process_payment_intent", "unpriced"),
            ("POST /v1/terminal/readers/tmr_1/refund_payment", "unpriced"),
            ("POST /v1/treasury/outbound_payments", "unpriced"),
            ("POST /v1/forwarding/requests", "escalates-unpriced"),
            ("POST /v2/money_management/outbound_payments", "unpriced"),
            ("POST /v2/money_management/payout_intents/pi_1/confirm", "unpriced"),
        ],
    );
}

#[test]
fn a2_what_mints_credentials_or_widens_rights_at_stripe_escalates() {
    check(
        "stripe",
        &[
            ("POST /v1/account_links", "escalates"),
            ("POST /v1/account_sessions", "escalates"),
            ("POST /v1/accounts", "escalates"),
            ("POST /v1/accounts/acct_1", "escalates"),
            ("POST /v1/accounts/acct_1/external_accounts", "escalates"),
            ("POST /v1/account/external_accounts", "escalates"),
            ("POST /v1/accounts/acct_1/bank_accounts", "escalates"),
            ("POST /v1/accounts/acct_1/login_links", "escalates"),
            ("GET /v1/apps/secrets", "escalates"),
            ("GET /v1/apps/secrets/find", "escalates"),
            ("POST /v1/billing_portal/sessions", "escalates"),
            ("POST /v1/customer_sessions", "escalates"),
            ("POST /v1/ephemeral_keys", "escalates"),
            ("POST /v1/file_links", "escalates"),
            ("GET /v1/issuing/cards/ic_1", "escalates"),
            ("POST /v1/terminal/connection_tokens", "escalates"),
            ("POST /v1/tokens", "escalates"),
            ("POST /v1/webhook_endpoints", "escalates"),
            ("POST /v1/webhook_endpoints/we_1", "escalates"),
            ("POST /v2/billing/meter_event_session", "escalates"),
            ("POST /v2/core/account_tokens", "escalates"),
            ("POST /v2/core/event_destinations", "escalates"),
            ("POST /v2/core/vault/us_bank_accounts", "escalates"),
            ("POST /oauth/token", "escalates"),
        ],
    );
}

#[test]
fn m3_what_costs_money_at_twilio_has_a_class_of_its_own_or_is_unpriced() {
    check(
        "twilio",
        &[
            ("POST /2010-04-01/Accounts/AC1/Messages.json", "message"),
            ("POST /2010-04-01/Accounts/AC1/Messages/SM1.json", "free"),
            ("POST /2010-04-01/Accounts/AC1/Calls.json", "call"),
            ("POST /2010-04-01/Accounts/AC1/Calls/CA1.json", "unpriced"),
            ("POST /2010-04-01/Accounts/AC1/Calls/CA1/Recordings.json", "unpriced"),
            ("POST /2010-04-01/Accounts/AC1/Conferences/CF1/Participants.json", "unpriced"),
            ("POST /2010-04-01/Accounts/AC1/IncomingPhoneNumbers.json", "number"),
            ("POST /2010-04-01/Accounts/AC1/IncomingPhoneNumbers/Local.json", "number"),
            ("POST /2010-04-01/Accounts/AC1/IncomingPhoneNumbers/Mobile.json", "number"),
            ("POST /2010-04-01/Accounts/AC1/IncomingPhoneNumbers/TollFree.json", "number"),
            ("GET /2010-04-01/Accounts/AC1/AvailablePhoneNumbers/US/Local.json", "free"),
            ("GET /lookups/v2/PhoneNumbers/+15005550006", "lookup"),
            ("GET /lookups/v1/PhoneNumbers/+15005550006", "lookup"),
            ("POST /lookups/v2/batch/query", "unpriced"),
            ("POST /verify/v2/Services/VA1/Verifications", "verification"),
            ("POST /verify/v2/Services/VA1/VerificationCheck", "free"),
            ("POST /messaging/v1/a2p/BrandRegistrations", "unpriced"),
        ],
    );
}

#[test]
fn a2_what_mints_credentials_or_widens_rights_at_twilio_escalates() {
    check(
        "twilio",
        &[
            ("POST /2010-04-01/Accounts.json", "escalates"),
            ("POST /2010-04-01/Accounts/AC1.json", "escalates"),
            // Their replies have the accounts' tokens.
            ("GET /2010-04-01/Accounts.json", "escalates"),
            ("GET /2010-04-01/Accounts/AC1.json", "escalates"),
            ("POST /2010-04-01/Accounts/AC1/Keys.json", "escalates"),
            ("POST /2010-04-01/Accounts/AC1/Keys/SK1.json", "escalates"),
            ("POST /2010-04-01/Accounts/AC1/SigningKeys.json", "escalates"),
            ("POST /2010-04-01/Accounts/AC1/Tokens.json", "escalates"),
            ("POST /2010-04-01/Accounts/AC1/ConnectApps/CN1.json", "escalates"),
            ("POST /2010-04-01/Accounts/AC1/IncomingPhoneNumbers/PN1.json", "escalates"),
            ("POST /2010-04-01/Accounts/AC1/SIP/CredentialLists/CL1/Credentials.json", "escalates"),
            ("POST /verify/v2/Services/VA1/AccessTokens", "escalates"),
            ("GET /verify/v2/Services/VA1/AccessTokens/YK1", "escalates"),
            ("POST /verify/v2/Services/VA1/Entities/me/Factors", "escalates"),
            ("POST /messaging/v1/Services/MG1", "escalates"),
        ],
    );
}

#[test]
fn a2_m3_the_classes_of_resend_follow_what_a_call_does() {
    check(
        "resend",
        &[
            ("POST /emails", "email"),
            ("POST /emails/batch", "batch"),
            ("POST /emails/e1/cancel", "free"),
            ("POST /broadcasts", "unpriced"),
            ("POST /broadcasts/b1/send", "unpriced"),
            ("POST /automations", "unpriced"),
            ("POST /events/send", "unpriced"),
            ("POST /contacts/imports", "unpriced"),
            ("POST /inboxes/i1/drafts/d1/send", "unpriced"),
            ("POST /inboxes/i1/threads/t1/emails/e1/forward", "unpriced"),
            ("POST /api-keys", "escalates"),
            ("POST /domains", "escalates"),
            ("POST /emails/e1/share", "escalates"),
            ("POST /webhooks", "escalates"),
            ("GET /webhooks", "free"),
            ("GET /webhooks/w1", "escalates"),
            ("POST /webhooks/w1/signing-secret/rotate", "escalates"),
        ],
    );
}

#[test]
fn q5_each_vendor_remembers_what_its_reference_says() {
    let remembered = |name: &str| -> Vec<&str> {
        let vendor = VENDORS.iter().find(|of| of.name == name).unwrap();
        let remembered = |row: &&Operation| row.idempotency == Idempotency::Day;
        rows(vendor).iter().filter(remembered).map(|row| row.pattern).collect()
    };
    assert_eq!(remembered("resend"), ["/emails", "/emails/batch"]);
    assert_eq!(remembered("twilio"), Vec::<&str>::new());
    assert!(remembered("stripe").len() > 200);
}

/// The counts of docs/catalog.md, as its command prints them.
#[test]
fn the_counts_of_the_documentation_are_those_of_the_tables() {
    let page = include_str!("../../../docs/catalog.md");
    for vendor in VENDORS {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for row in rows(vendor) {
            *counts.entry(row.class).or_default() += 1;
        }
        let total = rows(vendor).len();
        let counts: Vec<String> = counts.iter().map(|(class, count)| format!("{class} {count}")).collect();
        let line = format!("{} {total}: {}", vendor.name, counts.join(", "));
        assert!(page.lines().any(|of_page| of_page == line), "docs/catalog.md needs this line:\n{line}");
    }
}
