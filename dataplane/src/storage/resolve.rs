//! How a doubt ends: an operator says what the call came to, or an hour passes.
//!
//! A row never changes: what is learned later is a row of its own that amends it (rule Q16).

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::journal::{Booking, IntentId};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::{Day, UnixMicros};

use super::batch::{Batch, Family};
use super::books::{Books, Doubt, Touched};
use super::format::{encode_doubt, encode_intent};

/// What a call in doubt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolution {
    /// The doubt.
    pub(crate) id: IntentId,
    /// Who says so, and what.
    pub(crate) verdict: Verdict,
    /// The day it is booked on.
    pub(crate) day: Day,
}

/// Who ends a doubt, and with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// An operator: it cost this much.
    Settled(Micros),
    /// An operator: it moved nothing.
    Void,
    /// The hour is over: it is booked at its quote, and can still be resolved.
    Expired,
}

/// What a resolution changes for the accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// Whose money: the key and its ancestors, leaf first.
    pub(crate) keys: Vec<KeyId>,
    /// What was counted for it.
    pub(crate) quote: Micros,
    /// What counts from now on.
    pub(crate) charge: Micros,
    /// The day it had been booked on; `None`: it was still held.
    pub(crate) booked: Option<Day>,
}

/// There is no such doubt: it was never one, or is resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoDoubt;

pub(super) fn resolve(
    books: &mut Books,
    resolution: &Resolution,
    now: UnixMicros,
) -> Result<(Batch, Resolved), NoDoubt> {
    let Resolution { id, verdict, day } = *resolution;
    let doubt = books.doubts.get(&id).cloned().ok_or(NoDoubt)?;
    // The word may have rolled while the disk was waited for: what is held is charged on its day.
    let day = doubt.keys.first().map_or(day, |key| day_of(books, *key, day));
    let (mut batch, mut touched) = (Batch::default(), Touched::default());
    let charge = match verdict {
        Verdict::Settled(charge) => charge,
        Verdict::Void => Micros::ZERO,
        Verdict::Expired => {
            // Booked once; it stays in the list, for an operator to resolve.
            if doubt.booked.is_some() {
                return Err(NoDoubt);
            }
            doubt.quote
        }
    };
    for key in &doubt.keys {
        match doubt.booked {
            None => books.book(Booking { key: *key, day, charge, requests: 0 }, &mut touched),
            Some(booked) => {
                correct(books, *key, booked, doubt.quote, charge.min(doubt.quote), &mut touched);
                // More than was booked counts today: an earlier day's window may be over.
                let excess = charge.saturating_sub(doubt.quote);
                books.book(Booking { key: *key, day, charge: excess, requests: 0 }, &mut touched);
            }
        }
    }
    if verdict == Verdict::Expired {
        let booked = Doubt { booked: Some(day), ..doubt.clone() };
        batch.put(Family::Doubts, &encode_intent(id), &encode_doubt(&booked));
        books.doubts.insert(id, booked);
    } else {
        books.doubts.remove(&id);
        batch.delete(Family::Doubts, &encode_intent(id));
        if let Some(row) = amendment(&doubt, verdict, charge, now) {
            books.put_row(&row, &mut batch);
        }
    }
    books.finish(&mut batch, &touched);
    let Doubt { keys, quote, booked, .. } = doubt;
    Ok((batch, Resolved { keys, quote, charge, booked }))
}

/// The later of `day` and the key's own.
pub(super) fn day_of(books: &Books, key: KeyId, day: Day) -> Day {
    books.accounts.get(&key).map_or(day, |spend| spend.day.max(day))
}

/// Replaces `quote`, booked on `booked`, by `charge`: in the window only while that day lasts (rule Q1).
fn correct(books: &mut Books, key: KeyId, booked: Day, quote: Micros, charge: Micros, touched: &mut Touched) {
    let Some(spend) = books.accounts.get_mut(&key) else { return };
    if spend.day == booked {
        spend.settled = spend.settled.saturating_sub(quote).saturating_add(charge);
    }
    spend.lifetime = spend.lifetime.saturating_sub(quote).saturating_add(charge);
    touched.keys.insert(key);
}

/// The row that amends the doubt's; `None` where that one cannot be read.
pub(super) fn amendment(doubt: &Doubt, verdict: Verdict, charge: Micros, now: UnixMicros) -> Option<Vec<u8>> {
    let row = AuditRow::decode(&doubt.row).ok()?;
    let result = if verdict == Verdict::Void { "doubt_voided" } else { "doubt_settled" };
    let id = format!("{}_amended", row.id);
    let amendment = AuditRow {
        ts: now,
        id: &id,
        amends: Some(row.id),
        policy_check_result: result,
        outcome: Outcome::Amendment,
        status: 0,
        amount: charge,
        latency_us: 0,
        overhead_us: 0,
        client_addr: "",
        user_agent: None,
        ..row.clone()
    };
    Some(amendment.encode(Vec::new()))
}
