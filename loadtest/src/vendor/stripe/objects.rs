//! Stripe's objects, with the fields SDKs and examples read, in the order of its API reference.
//!
//! Fields nobody sets here are `null` as in the real answers. Amounts are minor units, times whole seconds.

use serde::Serialize;

use super::form::{Form, Metadata};
use super::store::{List, Object};

/// A field that is always `null` here.
pub(crate) type Null = Option<()>;

/// `charge`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Charge {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) amount: u64,
    pub(crate) amount_captured: u64,
    pub(crate) amount_refunded: u64,
    pub(crate) application: Null,
    pub(crate) application_fee: Null,
    pub(crate) application_fee_amount: Null,
    pub(crate) balance_transaction: Option<String>,
    pub(crate) billing_details: BillingDetails,
    pub(crate) calculated_statement_descriptor: &'static str,
    pub(crate) captured: bool,
    pub(crate) created: u64,
    pub(crate) currency: String,
    pub(crate) customer: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) disputed: bool,
    pub(crate) failure_code: Option<&'static str>,
    pub(crate) failure_message: Option<&'static str>,
    pub(crate) invoice: Null,
    pub(crate) livemode: bool,
    pub(crate) metadata: Metadata,
    pub(crate) outcome: ChargeOutcome,
    pub(crate) paid: bool,
    pub(crate) payment_intent: Option<String>,
    pub(crate) payment_method: Option<String>,
    pub(crate) payment_method_details: MethodDetails,
    pub(crate) receipt_email: Option<String>,
    pub(crate) receipt_number: Null,
    pub(crate) receipt_url: Null,
    pub(crate) refunded: bool,
    /// Only in the answers to clients before API version 2022-11-15.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refunds: Option<List<Refund>>,
    pub(crate) shipping: Null,
    pub(crate) source: Null,
    pub(crate) statement_descriptor: Option<String>,
    pub(crate) status: &'static str,
    pub(crate) transfer_group: Option<String>,
}

/// `charge.billing_details`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct BillingDetails {
    address: Address,
    email: Null,
    name: Null,
    phone: Null,
}

/// An empty address.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Address {
    city: Null,
    country: Null,
    line1: Null,
    line2: Null,
    postal_code: Null,
    state: Null,
}

/// `charge.outcome`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ChargeOutcome {
    pub(crate) network_status: &'static str,
    pub(crate) reason: Option<&'static str>,
    pub(crate) risk_level: &'static str,
    pub(crate) seller_message: &'static str,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
}

/// `charge.payment_method_details`: Stripe's Visa test card.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MethodDetails {
    card: Card,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Clone, Debug, Serialize)]
struct Card {
    brand: &'static str,
    country: &'static str,
    exp_month: u16,
    exp_year: u16,
    funding: &'static str,
    last4: &'static str,
    network: &'static str,
    three_d_secure: Null,
    wallet: Null,
}

impl Default for MethodDetails {
    fn default() -> MethodDetails {
        let card = Card {
            brand: "visa",
            country: "US",
            exp_month: 8,
            exp_year: 2034,
            funding: "credit",
            last4: "4242",
            network: "visa",
            three_d_secure: None,
            wallet: None,
        };
        MethodDetails { card, kind: "card" }
    }
}

/// An id, or with `expand` the object itself.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Expandable<T> {
    Id(String),
    Object(Box<T>),
}

/// `payment_intent`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PaymentIntent {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) amount: u64,
    pub(crate) amount_capturable: u64,
    pub(crate) amount_received: u64,
    pub(crate) application: Null,
    pub(crate) application_fee_amount: Null,
    pub(crate) automatic_payment_methods: Null,
    pub(crate) canceled_at: Option<u64>,
    pub(crate) cancellation_reason: Option<String>,
    pub(crate) capture_method: &'static str,
    /// Only in the answers to clients before API version 2022-11-15.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) charges: Option<List<Charge>>,
    pub(crate) client_secret: String,
    pub(crate) confirmation_method: &'static str,
    pub(crate) created: u64,
    pub(crate) currency: String,
    pub(crate) customer: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) invoice: Null,
    pub(crate) last_payment_error: Null,
    pub(crate) latest_charge: Option<Expandable<Charge>>,
    pub(crate) livemode: bool,
    pub(crate) metadata: Metadata,
    pub(crate) next_action: Null,
    pub(crate) on_behalf_of: Null,
    pub(crate) payment_method: Option<String>,
    pub(crate) payment_method_types: [&'static str; 1],
    pub(crate) processing: Null,
    pub(crate) receipt_email: Option<String>,
    pub(crate) review: Null,
    pub(crate) setup_future_usage: Null,
    pub(crate) shipping: Null,
    pub(crate) source: Null,
    pub(crate) statement_descriptor: Option<String>,
    pub(crate) status: &'static str,
    pub(crate) transfer_data: Null,
    pub(crate) transfer_group: Option<String>,
    /// What the ledger has counted for it, in minor units: its amount once it could be paid.
    #[serde(skip)]
    pub(crate) committed_minor: u64,
}

/// `refund`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Refund {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) amount: u64,
    pub(crate) balance_transaction: Option<String>,
    pub(crate) charge: String,
    pub(crate) created: u64,
    pub(crate) currency: String,
    pub(crate) metadata: Metadata,
    pub(crate) payment_intent: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) receipt_number: Null,
    pub(crate) source_transfer_reversal: Null,
    pub(crate) status: &'static str,
    pub(crate) transfer_reversal: Null,
}

/// `payout`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Payout {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) amount: u64,
    pub(crate) arrival_date: u64,
    pub(crate) automatic: bool,
    pub(crate) balance_transaction: Option<String>,
    pub(crate) created: u64,
    pub(crate) currency: String,
    pub(crate) description: Option<String>,
    pub(crate) destination: Option<String>,
    pub(crate) failure_balance_transaction: Null,
    pub(crate) failure_code: Null,
    pub(crate) failure_message: Null,
    pub(crate) livemode: bool,
    pub(crate) metadata: Metadata,
    pub(crate) method: String,
    pub(crate) original_payout: Null,
    pub(crate) reversed_by: Null,
    pub(crate) source_type: &'static str,
    pub(crate) statement_descriptor: Option<String>,
    pub(crate) status: &'static str,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
}

/// `transfer`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Transfer {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) amount: u64,
    pub(crate) amount_reversed: u64,
    pub(crate) balance_transaction: Option<String>,
    pub(crate) created: u64,
    pub(crate) currency: String,
    pub(crate) description: Option<String>,
    pub(crate) destination: String,
    pub(crate) destination_payment: Null,
    pub(crate) livemode: bool,
    pub(crate) metadata: Metadata,
    pub(crate) reversals: List<()>,
    pub(crate) reversed: bool,
    pub(crate) source_transaction: Option<String>,
    pub(crate) source_type: &'static str,
    pub(crate) transfer_group: Option<String>,
}

/// `topup`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Topup {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) amount: u64,
    pub(crate) balance_transaction: Option<String>,
    pub(crate) created: u64,
    pub(crate) currency: String,
    pub(crate) description: Option<String>,
    pub(crate) expected_availability_date: u64,
    pub(crate) failure_code: Null,
    pub(crate) failure_message: Null,
    pub(crate) livemode: bool,
    pub(crate) metadata: Metadata,
    pub(crate) source: Null,
    pub(crate) statement_descriptor: Option<String>,
    pub(crate) status: &'static str,
    pub(crate) transfer_group: Option<String>,
}

/// `customer`.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Customer {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) address: Null,
    pub(crate) balance: i64,
    pub(crate) created: u64,
    pub(crate) currency: Null,
    pub(crate) default_source: Null,
    pub(crate) delinquent: bool,
    pub(crate) description: Option<String>,
    pub(crate) discount: Null,
    pub(crate) email: Option<String>,
    pub(crate) invoice_prefix: String,
    pub(crate) livemode: bool,
    pub(crate) metadata: Metadata,
    pub(crate) name: Option<String>,
    pub(crate) phone: Option<String>,
    pub(crate) preferred_locales: [(); 0],
    pub(crate) shipping: Null,
    pub(crate) tax_exempt: &'static str,
    #[serde(skip)]
    pub(crate) is_deleted: bool,
}

/// What is left of a deleted customer.
#[derive(Debug, Serialize)]
pub(crate) struct DeletedCustomer {
    pub(crate) id: String,
    pub(crate) object: &'static str,
    pub(crate) deleted: bool,
}

macro_rules! object {
    ($type:ty, $kind:literal, $prefix:literal, $segment:literal $(, $description:ident)?) => {
        impl Object for $type {
            const KIND: &'static str = $kind;
            const PREFIX: &'static str = $prefix;
            const SEGMENT: &'static str = $segment;

            fn id(&self) -> &str {
                &self.id
            }

            fn metadata(&mut self) -> &mut Metadata {
                &mut self.metadata
            }

            fn description(&mut self) -> Option<&mut Option<String>> {
                $(return Some(&mut self.$description);)?
                #[allow(unreachable_code, reason = "only objects without the field come here")]
                None
            }

            fn is_listed(&self, form: &Form<'_>) -> bool {
                self.matches(form)
            }
        }
    };
}

object!(Charge, "charge", "ch", "charges", description);
object!(PaymentIntent, "payment_intent", "pi", "payment_intents", description);
object!(Refund, "refund", "re", "refunds");
object!(Payout, "payout", "po", "payouts", description);
object!(Transfer, "transfer", "tr", "transfers", description);
object!(Topup, "topup", "tu", "topups", description);
object!(Customer, "customer", "cus", "customers", description);

/// Whether a list's filter is absent or names this value.
fn fits(form: &Form<'_>, name: &str, value: Option<&str>) -> bool {
    form.text(name).is_none_or(|wanted| Some(wanted) == value)
}

impl Charge {
    fn matches(&self, form: &Form<'_>) -> bool {
        fits(form, "customer", self.customer.as_deref())
            && fits(form, "payment_intent", self.payment_intent.as_deref())
    }
}

impl PaymentIntent {
    fn matches(&self, form: &Form<'_>) -> bool {
        fits(form, "customer", self.customer.as_deref())
    }
}

impl Refund {
    fn matches(&self, form: &Form<'_>) -> bool {
        fits(form, "charge", Some(&self.charge))
            && fits(form, "payment_intent", self.payment_intent.as_deref())
    }
}

impl Payout {
    fn matches(&self, form: &Form<'_>) -> bool {
        fits(form, "status", Some(self.status))
    }
}

impl Transfer {
    fn matches(&self, form: &Form<'_>) -> bool {
        fits(form, "destination", Some(&self.destination))
    }
}

impl Topup {
    fn matches(&self, form: &Form<'_>) -> bool {
        fits(form, "status", Some(self.status))
    }
}

impl Customer {
    fn matches(&self, form: &Form<'_>) -> bool {
        !self.is_deleted && fits(form, "email", self.email.as_deref())
    }
}
