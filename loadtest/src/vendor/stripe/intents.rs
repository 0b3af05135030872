//! Payment intents: counted when they are created, since whoever holds the client secret can confirm them.

use super::fault::Fault;
use super::objects::{Charge, Expandable, PaymentIntent};
use super::refusal::Refusal;
use super::store::List;
use super::{Call, Done, Result, State, charges};

/// `POST /v1/payment_intents`. One that is declined at once commits nothing, and stays open for another card.
pub(super) fn create(state: &mut State, call: &Call<'_>) -> Result<Done> {
    let amount = call.amount()?;
    let currency = call.currency()?;
    let form = &call.form;
    let id = state.intents.next_id();
    let payment_method = payment_method(call);
    state.intents.add(PaymentIntent {
        client_secret: format!("{id}_secret_standin"),
        id: id.clone(),
        object: "payment_intent",
        amount,
        capture_method: if form.get("capture_method") == Some("manual") { "manual" } else { "automatic" },
        confirmation_method: "automatic",
        created: call.now_s,
        currency: currency.clone(),
        customer: form.owned("customer"),
        description: form.owned("description"),
        metadata: form.metadata(),
        status: if payment_method.is_some() { "requires_confirmation" } else { "requires_payment_method" },
        payment_method,
        payment_method_types: ["card"],
        receipt_email: form.owned("receipt_email"),
        statement_descriptor: form.owned("statement_descriptor"),
        transfer_group: form.owned("transfer_group"),
        ..PaymentIntent::default()
    });
    if form.flag("confirm") == Some(true) {
        return confirm(state, call, &id);
    }
    state.intents.get_mut(&id, "intent")?.committed_minor = amount;
    Ok(Done::committed(&shown(state, call, &id)?, amount, &currency))
}

/// `GET /v1/payment_intents/{id}`.
pub(super) fn show(state: &State, call: &Call<'_>, id: &str) -> Result<Done> {
    Ok(Done::free(&shown(state, call, id)?))
}

/// `POST /v1/payment_intents/{id}`: a raised amount commits the difference.
pub(super) fn update(state: &mut State, call: &Call<'_>, id: &str) -> Result<Done> {
    let amount = call.optional_amount("amount")?;
    let intent = state.intents.get_mut(id, "intent")?;
    if amount.is_some() && !is_open(intent) {
        return Err(unexpected_state(intent, "update"));
    }
    call.form.merge_metadata(&mut intent.metadata);
    if let Some(description) = call.form.owned("description") {
        intent.description = Some(description);
    }
    if let Some(customer) = call.form.owned("customer") {
        intent.customer = Some(customer);
    }
    if let Some(method) = payment_method(call).filter(|_| is_open(intent)) {
        intent.payment_method = Some(method);
        intent.status = "requires_confirmation";
    }
    intent.amount = amount.unwrap_or(intent.amount);
    let raised = commit(intent);
    let currency = intent.currency.clone();
    Ok(Done::committed(&shown(state, call, id)?, raised, &currency))
}

/// `POST /v1/payment_intents/{id}/confirm`: pays with the card given now or before.
pub(super) fn confirm(state: &mut State, call: &Call<'_>, id: &str) -> Result<Done> {
    let intent = state.intents.get(id, "intent")?;
    if !is_open(intent) {
        return Err(unexpected_state(intent, "confirm"));
    }
    let Some(method) = payment_method(call).or_else(|| intent.payment_method.clone()) else {
        let message = "You cannot confirm this PaymentIntent because it's missing a payment method. You can either \
                       update the PaymentIntent with a payment method and then confirm it again, or confirm it \
                       again directly with a payment method or ConfirmationToken.";
        return Err(Refusal::unexpected_state("payment_intent_unexpected_state", message.to_owned()));
    };
    let declined = call.declined.or_else(|| Fault::of_source(&method)?.decline_code());
    let is_manual = intent.capture_method == "manual";
    let charge = Charge {
        amount: intent.amount,
        currency: intent.currency.clone(),
        customer: intent.customer.clone(),
        description: intent.description.clone(),
        metadata: intent.metadata.clone(),
        payment_intent: Some(id.to_owned()),
        payment_method: Some(method.clone()),
        receipt_email: intent.receipt_email.clone(),
        statement_descriptor: intent.statement_descriptor.clone(),
        transfer_group: intent.transfer_group.clone(),
        ..Charge::default()
    };
    let charge_id = charges::add(state, charge, !is_manual, declined, call.now_s);
    let intent = state.intents.get_mut(id, "intent")?;
    intent.latest_charge = Some(Expandable::Id(charge_id.clone()));
    if let Some(code) = declined {
        intent.status = "requires_payment_method";
        intent.payment_method = None;
        return Err(Refusal::declined(code, charge_id, Some(shown(state, call, id)?)));
    }
    intent.payment_method = Some(method);
    if is_manual {
        intent.status = "requires_capture";
        intent.amount_capturable = intent.amount;
    } else {
        intent.status = "succeeded";
        intent.amount_received = intent.amount;
    }
    let committed = commit(intent);
    let currency = intent.currency.clone();
    Ok(Done::committed(&shown(state, call, id)?, committed, &currency))
}

/// `POST /v1/payment_intents/{id}/capture`: commits nothing, since the intent was counted before.
pub(super) fn capture(state: &mut State, call: &Call<'_>, id: &str) -> Result<Done> {
    let wanted = call.optional_amount("amount_to_capture")?;
    let intent = state.intents.get(id, "intent")?;
    let charge = match (&intent.latest_charge, intent.status) {
        (Some(Expandable::Id(charge)), "requires_capture") => charge.clone(),
        _ => return Err(unexpected_state(intent, "capture")),
    };
    let received = charges::take(state, &charge, wanted)?;
    let intent = state.intents.get_mut(id, "intent")?;
    intent.status = "succeeded";
    intent.amount_capturable = 0;
    intent.amount_received = received;
    show(state, call, id)
}

/// `POST /v1/payment_intents/{id}/cancel`. The ledger gives nothing back: what was committed was at risk.
pub(super) fn cancel(state: &mut State, call: &Call<'_>, id: &str) -> Result<Done> {
    let intent = state.intents.get_mut(id, "intent")?;
    if !is_open(intent) && intent.status != "requires_capture" {
        return Err(unexpected_state(intent, "cancel"));
    }
    intent.status = "canceled";
    intent.amount_capturable = 0;
    intent.canceled_at = Some(call.now_s);
    intent.cancellation_reason = call.form.owned("cancellation_reason");
    show(state, call, id)
}

/// The card a request brings: an id, an old-style source, or card details.
fn payment_method(call: &Call<'_>) -> Option<String> {
    let form = &call.form;
    let given = form.owned("payment_method").or_else(|| form.owned("source"));
    given.or_else(|| form.text("payment_method_data[type]").map(|_| "pm_card_visa".to_owned()))
}

fn is_open(intent: &PaymentIntent) -> bool {
    matches!(intent.status, "requires_payment_method" | "requires_confirmation")
}

/// Counts what of the amount was not counted yet.
fn commit(intent: &mut PaymentIntent) -> u64 {
    let more = intent.amount.saturating_sub(intent.committed_minor);
    intent.committed_minor = intent.committed_minor.saturating_add(more);
    more
}

fn unexpected_state(intent: &PaymentIntent, action: &str) -> Refusal {
    let message =
        format!("You cannot {action} this PaymentIntent because it has a status of {}.", intent.status);
    Refusal::unexpected_state("payment_intent_unexpected_state", message)
}

/// An intent as this caller's API version and `expand` want it.
fn shown(state: &State, call: &Call<'_>, id: &str) -> Result<PaymentIntent> {
    let mut intent = state.intents.get(id, "intent")?.clone();
    let latest = match &intent.latest_charge {
        Some(Expandable::Id(charge)) => Some(charge.clone()),
        _ => None,
    };
    if call.is_legacy {
        let charge = latest.as_deref().and_then(|charge| charges::shown(state, call, charge).ok());
        intent.charges =
            Some(List::whole(charge.into_iter().collect(), format!("/v1/charges?payment_intent={id}")));
    }
    if let Some(charge) = latest.filter(|_| call.form.expands("latest_charge")) {
        intent.latest_charge = Some(Expandable::Object(Box::new(charges::shown(state, call, &charge)?)));
    }
    Ok(intent)
}
