//! Payouts, transfers and top-ups.

use super::objects::{Payout, Topup, Transfer};
use super::refusal::Refusal;
use super::store::List;
use super::{Call, Done, Result, State};

/// Between a payout or top-up and its money.
const ARRIVAL_SECONDS: u64 = 2 * 86_400;

/// `POST /v1/payouts`.
pub(super) fn create_payout(state: &mut State, call: &Call<'_>) -> Result<Done> {
    let (amount, currency) = (call.amount()?, call.currency()?);
    refuse_if_declined(call)?;
    let transaction = state.next_transaction_id();
    let form = &call.form;
    let payout = state.payouts.add(Payout {
        id: state.payouts.next_id(),
        object: "payout",
        amount,
        arrival_date: call.now_s.saturating_add(ARRIVAL_SECONDS),
        balance_transaction: Some(transaction),
        created: call.now_s,
        currency,
        description: form.owned("description"),
        destination: Some(form.owned("destination").unwrap_or_else(|| "ba_standin".to_owned())),
        metadata: form.metadata(),
        method: form.owned("method").unwrap_or_else(|| "standard".to_owned()),
        source_type: "card",
        statement_descriptor: form.owned("statement_descriptor"),
        status: "pending",
        kind: "bank_account",
        ..Payout::default()
    });
    Ok(Done::committed(payout, amount, &payout.currency))
}

/// `POST /v1/transfers`: without an amount, all of the `source_transaction`'s.
pub(super) fn create_transfer(state: &mut State, call: &Call<'_>) -> Result<Done> {
    let form = &call.form;
    let source = match form.text("source_transaction") {
        Some(charge) => Some(state.charges.get(charge, "source_transaction")?),
        None => None,
    };
    let amount = match (call.optional_amount("amount")?, source) {
        (Some(amount), _) => amount,
        (None, Some(charge)) => charge.amount,
        (None, None) => return Err(Refusal::missing("amount")),
    };
    let currency = match source {
        Some(charge) if form.text("currency").is_none() => charge.currency.clone(),
        _ => call.currency()?,
    };
    let destination = form.owned("destination").ok_or_else(|| Refusal::missing("destination"))?;
    refuse_if_declined(call)?;
    let transaction = state.next_transaction_id();
    let id = state.transfers.next_id();
    let transfer = state.transfers.add(Transfer {
        reversals: List::whole(Vec::new(), format!("/v1/transfers/{id}/reversals")),
        id,
        object: "transfer",
        amount,
        amount_reversed: 0,
        balance_transaction: Some(transaction),
        created: call.now_s,
        currency,
        description: form.owned("description"),
        destination,
        destination_payment: None,
        livemode: false,
        metadata: form.metadata(),
        reversed: false,
        source_transaction: form.owned("source_transaction"),
        source_type: "card",
        transfer_group: form.owned("transfer_group"),
    });
    Ok(Done::committed(transfer, amount, &transfer.currency))
}

/// `POST /v1/topups`.
pub(super) fn create_topup(state: &mut State, call: &Call<'_>) -> Result<Done> {
    let (amount, currency) = (call.amount()?, call.currency()?);
    refuse_if_declined(call)?;
    let form = &call.form;
    let topup = state.topups.add(Topup {
        id: state.topups.next_id(),
        object: "topup",
        amount,
        created: call.now_s,
        currency,
        description: form.owned("description"),
        expected_availability_date: call.now_s.saturating_add(ARRIVAL_SECONDS),
        metadata: form.metadata(),
        statement_descriptor: form.owned("statement_descriptor"),
        status: "pending",
        transfer_group: form.owned("transfer_group"),
        ..Topup::default()
    });
    Ok(Done::committed(topup, amount, &topup.currency))
}

/// What a declined card is to a charge, an empty balance is to an outflow.
fn refuse_if_declined(call: &Call<'_>) -> Result<()> {
    if call.declined.is_some() { Err(Refusal::balance_insufficient()) } else { Ok(()) }
}
