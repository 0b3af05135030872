//! What Stripe's calls cost, by class. docs/stripe.md explains each; members and parameters are those of Stripe's API
//! reference (docs.stripe.com/api).

use crate::catalog::Price;
use crate::catalog::amount::{
    Absent, AmountRule, Counts, CurrencyOf, Declined, IdAt, Left, ReplyRule, Subject,
};

/// A call that states its amount, answered by an object of its own.
const fn stated(object: &'static str) -> AmountRule {
    AmountRule {
        parameters: &["amount"],
        signed: false,
        partial: false,
        absent: Absent::Malformed,
        free_if: None,
        currency: CurrencyOf::Request,
        subjects: &[],
        counts: Counts::Anew,
        declined: Declined::Nothing,
        reply: ReplyRule {
            object,
            amount: Some("amount"),
            moved_nothing: &["failed", "canceled"],
            last_word: &[],
        },
    }
}

/// A call on an object whose currency it takes; without an amount it means all that is left of it.
const fn on(subjects: &'static [Subject], object: &'static str) -> AmountRule {
    AmountRule { absent: Absent::Left, currency: CurrencyOf::Subject, subjects, ..stated(object) }
}

const fn subject(id: IdAt, collection: &'static str, object: &'static str, left: Left) -> Subject {
    Subject { id, collection, object, left, status: None }
}

/// The charge or intent of `/v1/charges/{charge}/…` and the like.
const IN_PATH: IdAt = IdAt::Segment(2);

const REFUNDABLE: Left = Left::Less("amount", "amount_refunded");

const fn charge_at(id: IdAt, left: Left) -> Subject {
    subject(id, "/v1/charges/", "charge", left)
}

const fn intent_at(id: IdAt, left: Left) -> Subject {
    subject(id, "/v1/payment_intents/", "payment_intent", left)
}

static CHARGE_RULE: AmountRule = AmountRule { counts: Counts::First, ..stated("charge") };

/// A payment intent counts at creation: its client secret can confirm it outside keybrake, also after a decline.
static INTENT_RULE: AmountRule = AmountRule {
    counts: Counts::First,
    declined: Declined::StaysConfirmable,
    reply: ReplyRule { moved_nothing: &["canceled"], ..stated("payment_intent").reply },
    ..stated("payment_intent")
};

/// A later call on an intent adds what the intent comes to beyond what it counted.
const fn on_intent(subjects: &'static [Subject]) -> AmountRule {
    AmountRule {
        counts: Counts::Total,
        declined: Declined::StaysConfirmable,
        reply: ReplyRule { moved_nothing: &["canceled"], ..stated("payment_intent").reply },
        ..on(subjects, "payment_intent")
    }
}

static INTENT_UPDATE_RULE: AmountRule = AmountRule {
    absent: Absent::Nothing,
    declined: Declined::Nothing,
    ..on_intent(&[intent_at(IN_PATH, Left::Whole("amount"))])
};

static INTENT_CONFIRM_RULE: AmountRule =
    AmountRule { parameters: &[], ..on_intent(&[intent_at(IN_PATH, Left::Whole("amount"))]) };

/// Captures in several parts leave the rest capturable, so less than was authorized is the last word only at the end;
/// more than that may be captured where the intent allows it.
static INTENT_CAPTURE_RULE: AmountRule = AmountRule {
    parameters: &["amount_to_capture"],
    partial: true,
    declined: Declined::Nothing,
    reply: ReplyRule {
        amount: Some("amount_received"),
        last_word: &["succeeded"],
        ..stated("payment_intent").reply
    },
    ..on_intent(&[intent_at(IN_PATH, Left::FirstOf("amount_capturable", "amount"))])
};

/// Its amount is the new total.
static INTENT_INCREMENT_RULE: AmountRule = AmountRule {
    absent: Absent::Malformed,
    declined: Declined::Nothing,
    ..on_intent(&[intent_at(IN_PATH, Left::Whole("amount"))])
};

static INTENT_BALANCE_RULE: AmountRule =
    AmountRule { declined: Declined::Nothing, ..on_intent(&[intent_at(IN_PATH, Left::Whole("amount"))]) };

static CHARGE_CAPTURE_RULE: AmountRule = AmountRule {
    counts: Counts::Total,
    reply: ReplyRule { amount: Some("amount_captured"), ..stated("charge").reply },
    ..on(&[charge_at(IN_PATH, Left::Whole("amount"))], "charge")
};

/// `POST /v1/charges/{charge}/refund` answers the charge, whose `amount` is not the refund's.
static CHARGE_REFUND_RULE: AmountRule = on(&[charge_at(IN_PATH, REFUNDABLE)], "refund");

/// What was received of an intent bounds what is left of it to refund.
static REFUND_RULE: AmountRule = on(
    &[
        charge_at(IdAt::Parameter("charge"), REFUNDABLE),
        intent_at(IdAt::Parameter("payment_intent"), Left::FirstOf("amount_received", "amount")),
    ],
    "refund",
);

/// Without an amount it means all of the source transaction.
static TRANSFER_RULE: AmountRule = AmountRule {
    currency: CurrencyOf::Request,
    ..on(&[charge_at(IdAt::Parameter("source_transaction"), Left::Whole("amount"))], "transfer")
};

static REVERSAL_RULE: AmountRule = on(
    &[subject(IN_PATH, "/v1/transfers/", "transfer", Left::Less("amount", "amount_reversed"))],
    "transfer_reversal",
);

static FEE_REFUND_RULE: AmountRule =
    on(&[subject(IN_PATH, "/v1/application_fees/", "application_fee", REFUNDABLE)], "fee_refund");

static PAYOUT_RULE: AmountRule = stated("payout");

static TOPUP_RULE: AmountRule = stated("topup");

/// A draft can still grow, so only an open invoice is paid under a cap (rule Q8).
static INVOICE_PAY_RULE: AmountRule = AmountRule {
    parameters: &[],
    free_if: Some("paid_out_of_band"),
    reply: ReplyRule { amount: None, moved_nothing: &["void", "uncollectible"], ..stated("invoice").reply },
    ..on(
        &[Subject {
            status: Some("open"),
            ..subject(IN_PATH, "/v1/invoices/", "invoice", Left::Whole("amount_remaining"))
        }],
        "invoice",
    )
};

/// What is refunded, credited and merely reduced add up to its amount.
static CREDIT_NOTE_RULE: AmountRule = AmountRule {
    parameters: &["amount", "credit_amount", "refund_amount"],
    absent: Absent::Left,
    ..on(
        &[subject(IdAt::Parameter("invoice"), "/v1/invoices/", "invoice", Left::Whole("total"))],
        "credit_note",
    )
};

/// A negative amount is credit for the customer, and a positive one is owed.
static BALANCE_TRANSACTION_RULE: AmountRule =
    AmountRule { signed: true, ..stated("customer_balance_transaction") };

pub(super) const CHARGE: Price = Price::Amount(&CHARGE_RULE);
pub(super) const CHARGE_CAPTURE: Price = Price::Amount(&CHARGE_CAPTURE_RULE);
pub(super) const CHARGE_REFUND: Price = Price::Amount(&CHARGE_REFUND_RULE);
pub(super) const INTENT: Price = Price::Amount(&INTENT_RULE);
pub(super) const INTENT_UPDATE: Price = Price::Amount(&INTENT_UPDATE_RULE);
pub(super) const INTENT_CONFIRM: Price = Price::Amount(&INTENT_CONFIRM_RULE);
pub(super) const INTENT_CAPTURE: Price = Price::Amount(&INTENT_CAPTURE_RULE);
pub(super) const INTENT_INCREMENT: Price = Price::Amount(&INTENT_INCREMENT_RULE);
pub(super) const INTENT_BALANCE: Price = Price::Amount(&INTENT_BALANCE_RULE);
pub(super) const REFUND: Price = Price::Amount(&REFUND_RULE);
pub(super) const TRANSFER: Price = Price::Amount(&TRANSFER_RULE);
pub(super) const REVERSAL: Price = Price::Amount(&REVERSAL_RULE);
pub(super) const FEE_REFUND: Price = Price::Amount(&FEE_REFUND_RULE);
pub(super) const PAYOUT: Price = Price::Amount(&PAYOUT_RULE);
pub(super) const TOPUP: Price = Price::Amount(&TOPUP_RULE);
pub(super) const INVOICE_PAY: Price = Price::Amount(&INVOICE_PAY_RULE);
pub(super) const CREDIT_NOTE: Price = Price::Amount(&CREDIT_NOTE_RULE);
pub(super) const BALANCE_TRANSACTION: Price = Price::Amount(&BALANCE_TRANSACTION_RULE);

/// Credit, discounts and subscriptions in a customer's parameters are money by another name.
pub(super) const CUSTOMER: Price = Price::FreeWithout(&[
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
pub(super) const CUSTOMER_CHANGE: Price = Price::FreeWithout(&[
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
