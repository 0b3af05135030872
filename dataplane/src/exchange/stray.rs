//! A vault key outside its slot: it would be sent to the vendor, or be written to disk (rule S4, contract I8).

use std::borrow::Cow;

use keybrake_proto::catalog::wire::Slot;
use keybrake_proto::deny::Deny;
use keybrake_proto::key;
use keybrake_proto::route::{Route, route};

use super::admission::Target;
use super::row::Trace;
use crate::downstream::Downstream;

/// What stands for the account in a path of Twilio's, where it is looked at without what the agent wrote there.
const ANY_ACCOUNT: &str = "AC";

/// Whether a vault key stands anywhere in a request but in its credential slot. Where none does, the trace may show it.
///
/// Twilio's SDK puts what it is given as the user into the path too, where the account is the credential's whatever
/// stands there: that place is not sent, and does not count.
pub(super) fn has_key(agent: &Downstream, target: &Target, trace: &mut Trace) -> bool {
    let (head, input) = (agent.head(), agent.input());
    let arrived = head.path(input);
    let slot = match (route(arrived), &target.vendor().slot) {
        (Ok(Route::Vendor { .. }), Slot::Header { name, .. }) => name.as_str(),
        _ => "authorization",
    };
    let (before, behind) = around(agent.head_bytes(), head.field(input, slot).unwrap_or_default());
    if ![before, behind, agent.body()].into_iter().any(key::stands_in) {
        trace.holds_no_key();
        return false;
    }
    // There is one, perhaps in the one place of a path that is not sent.
    let is_elsewhere = |(name, value): (&[u8], &[u8])| {
        key::stands_in(name) || (!name.eq_ignore_ascii_case(slot.as_bytes()) && key::stands_in(value))
    };
    let query = head.query(input).unwrap_or_default();
    if key::stands_in(query) || head.fields(input).any(is_elsewhere) || key::stands_in(agent.body()) {
        return true;
    }
    let canonical = target.path(arrived);
    let sent =
        target.vendor().with_account(canonical, ANY_ACCOUNT).map_or(Cow::Borrowed(canonical), Cow::Owned);
    key::stands_in(&sent)
}

/// What of `whole` stands before and behind `part`, which is a piece of it.
fn around<'a>(whole: &'a [u8], part: &[u8]) -> (&'a [u8], &'a [u8]) {
    let start = part.as_ptr().addr().saturating_sub(whole.as_ptr().addr());
    let end = start.saturating_add(part.len());
    (whole.get(..start).unwrap_or(whole), whole.get(end..).unwrap_or_default())
}

/// What its agent is told.
pub(super) fn refusal() -> Deny {
    let problem =
        "a vault key stands outside the credential slot; send it as the vendor's API key and nowhere else";
    Deny::Malformed { status: 400, problem: problem.into() }
}
