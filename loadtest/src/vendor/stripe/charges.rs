//! Charges and their refunds.

use super::objects::{Charge, ChargeOutcome, Expandable, PaymentIntent, Refund};
use super::refusal::Refusal;
use super::store::List;
use super::{Call, Done, Result, State};

/// `POST /v1/charges`. Without a source it is a Visa test card: what is paid with does not matter here.
pub(super) fn create(state: &mut State, call: &Call<'_>) -> Result<Done> {
    let amount = call.amount()?;
    let currency = call.currency()?;
    let captured = call.form.flag("capture") != Some(false);
    let charge = Charge {
        amount,
        currency: currency.clone(),
        customer: call.form.owned("customer"),
        description: call.form.owned("description"),
        metadata: call.form.metadata(),
        payment_method: call.form.owned("source"),
        receipt_email: call.form.owned("receipt_email"),
        statement_descriptor: call.form.owned("statement_descriptor"),
        transfer_group: call.form.owned("transfer_group"),
        ..Charge::default()
    };
    let id = add(state, charge, captured, call.declined, call.now_s);
    if let Some(code) = call.declined {
        return Err(Refusal::declined(code, id, None));
    }
    let shown = shown(state, call, &id)?;
    Ok(Done::committed(&shown, amount, &currency))
}

/// Keeps a charge that succeeded, or failed if it is `declined`; yields its id.
pub(super) fn add(
    state: &mut State,
    charge: Charge,
    captured: bool,
    declined: Option<&'static str>,
    now_s: u64,
) -> String {
    let id = state.charges.next_id();
    let is_paid = declined.is_none();
    let is_captured = captured && is_paid;
    let balance_transaction = is_captured.then(|| state.next_transaction_id());
    let outcome = if is_paid {
        ChargeOutcome {
            network_status: "approved_by_network",
            reason: None,
            risk_level: "normal",
            seller_message: "Payment complete.",
            kind: "authorized",
        }
    } else {
        ChargeOutcome {
            network_status: "declined_by_network",
            reason: declined,
            risk_level: "normal",
            seller_message: "The bank did not return any further details with this decline.",
            kind: "issuer_declined",
        }
    };
    state.charges.add(Charge {
        id: id.clone(),
        object: "charge",
        amount_captured: if is_captured { charge.amount } else { 0 },
        balance_transaction,
        calculated_statement_descriptor: "STAND-IN",
        captured: is_captured,
        created: now_s,
        failure_code: declined.map(|_| "card_declined"),
        failure_message: declined.map(|_| "Your card was declined."),
        outcome,
        paid: is_paid,
        status: if is_paid { "succeeded" } else { "failed" },
        ..charge
    });
    id
}

/// `GET /v1/charges/{id}`.
pub(super) fn show(state: &State, call: &Call<'_>, id: &str) -> Result<Done> {
    Ok(Done::free(&shown(state, call, id)?))
}

/// A charge as this caller's API version sees it.
pub(super) fn shown(state: &State, call: &Call<'_>, id: &str) -> Result<Charge> {
    let mut charge = state.charges.get(id, "id")?.clone();
    if call.is_legacy {
        charge.refunds = Some(refund_list(state, id));
    }
    Ok(charge)
}

/// `POST /v1/charges/{id}/capture`: commits nothing, since the charge was counted when it was created.
pub(super) fn capture(state: &mut State, call: &Call<'_>, id: &str) -> Result<Done> {
    let wanted = call.optional_amount("amount")?;
    take(state, id, wanted)?;
    show(state, call, id)
}

/// Captures a charge that was only authorized; yields what was captured.
pub(super) fn take(state: &mut State, id: &str, wanted: Option<u64>) -> Result<u64> {
    let transaction = state.next_transaction_id();
    let charge = state.charges.get_mut(id, "id")?;
    if charge.captured || !charge.paid {
        let message = format!("Charge {id} has already been captured.");
        return Err(Refusal::unexpected_state("charge_already_captured", message));
    }
    let amount = wanted.unwrap_or(charge.amount);
    if amount > charge.amount {
        let message = format!("You cannot capture more than the authorized amount ({}).", charge.amount);
        return Err(Refusal::too_much(message));
    }
    charge.captured = true;
    charge.amount_captured = amount;
    charge.balance_transaction = Some(transaction);
    Ok(amount)
}

/// `POST /v1/refunds`: names a charge or a payment intent.
pub(super) fn refund_named(state: &mut State, call: &Call<'_>) -> Result<Done> {
    if let Some(charge) = call.form.owned("charge") {
        return refund(state, call, &charge);
    }
    let intent = call.form.text("payment_intent").ok_or_else(|| Refusal::missing("charge"))?;
    let intent = state.intents.get(intent, "payment_intent")?;
    let Some(charge) = intent.paid_charge() else {
        let message =
            format!("This PaymentIntent ({}) does not have a successful charge to refund.", intent.id);
        return Err(Refusal::unexpected_state("payment_intent_unexpected_state", message));
    };
    refund(state, call, &charge)
}

/// Refunds a charge, without `amount` all that is left of it, and shows the refund.
pub(super) fn refund(state: &mut State, call: &Call<'_>, charge_id: &str) -> Result<Done> {
    let refund = add_refund(state, call, charge_id)?;
    Ok(Done::committed(&refund, refund.amount, &refund.currency))
}

/// `POST /v1/charges/{id}/refund`: as [`refund`], and shows the charge.
pub(super) fn refund_and_show(state: &mut State, call: &Call<'_>, charge_id: &str) -> Result<Done> {
    let refund = add_refund(state, call, charge_id)?;
    Ok(Done::committed(&shown(state, call, charge_id)?, refund.amount, &refund.currency))
}

fn add_refund(state: &mut State, call: &Call<'_>, charge_id: &str) -> Result<Refund> {
    let wanted = call.optional_amount("amount")?;
    let charge = state.charges.get(charge_id, "charge")?;
    let left = charge.amount_captured.saturating_sub(charge.amount_refunded);
    if left == 0 {
        return Err(Refusal::already_refunded(charge_id));
    }
    let amount = wanted.unwrap_or(left);
    if amount > left {
        let message = format!(
            "Refund amount ({amount}) is greater than unrefunded amount on charge ({left}), in minor units"
        );
        return Err(Refusal::too_much(message));
    }
    if call.declined.is_some() {
        return Err(Refusal::balance_insufficient());
    }
    let transaction = state.next_transaction_id();
    let charge = state.charges.get_mut(charge_id, "charge")?;
    charge.amount_refunded = charge.amount_refunded.saturating_add(amount);
    charge.refunded = charge.amount_refunded == charge.amount;
    let refund = Refund {
        id: state.refunds.next_id(),
        object: "refund",
        amount,
        balance_transaction: Some(transaction),
        charge: charge_id.to_owned(),
        created: call.now_s,
        currency: charge.currency.clone(),
        metadata: call.form.metadata(),
        payment_intent: charge.payment_intent.clone(),
        reason: call.form.owned("reason"),
        status: "succeeded",
        ..Refund::default()
    };
    Ok(state.refunds.add(refund).clone())
}

/// `GET /v1/charges/{id}/refunds`.
pub(super) fn refunds_of(state: &State, charge_id: &str) -> Result<Done> {
    state.charges.get(charge_id, "id")?;
    Ok(Done::free(&refund_list(state, charge_id)))
}

fn refund_list(state: &State, charge_id: &str) -> List<Refund> {
    let is_refunded = state.charges.find(charge_id).is_some_and(|charge| charge.amount_refunded > 0);
    // The whole store is only searched for a charge that has refunds.
    let refunds = if is_refunded {
        state.refunds.newest().filter(|refund| refund.charge == charge_id).cloned().collect()
    } else {
        Vec::new()
    };
    List::whole(refunds, format!("/v1/charges/{charge_id}/refunds"))
}

impl PaymentIntent {
    /// The charge that paid it.
    fn paid_charge(&self) -> Option<String> {
        match &self.latest_charge {
            Some(Expandable::Id(id)) if self.amount_received > 0 => Some(id.clone()),
            _ => None,
        }
    }
}
