//! Who may ask at all, before anything of the body is read: the pace of a key, how much it asks at once, and what becomes
//! of those without a key.

use keybrake_proto::deny::{Deny, Overload, Restriction};
use keybrake_proto::policy::retry_after_s;

use super::admission::Target;
use super::row::Trace;
use crate::alarm::Alarm;
use crate::downstream::Downstream;
use crate::registry::KeyPlace;
use crate::shard::Shard;
use crate::tokens::TooFast;

/// Takes a place among the requests that run under the key (rule G2), then a token of its rate and of the rates above it: a
/// request that finds no place leaves the rates to others.
pub(super) fn enter(shard: &Shard, target: &Target, trace: &Trace) -> Result<KeyPlace, Deny> {
    let most = shard.limits.figures().requests_per_key_max;
    let place = KeyPlace::take(target.entry(), most).ok_or_else(|| {
        shard.limits.note(Alarm::Key);
        Deny::Overload(Overload::Key { most })
    })?;
    target.entry().rate.take(trace.began()).map_err(|TooFast { rate, wait }| {
        let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Deny::Restriction(Restriction::Rate { rate, retry_after_s: retry_after_s(wait_ns) })
    })?;
    Ok(place)
}

/// The refusal of a request that was not recognized. Who sends too many without a valid key is told so and loses the
/// connection (rule G5); a key that was revoked gets no other answer than one that never was (rule S4).
pub(super) fn unrecognized(shard: &Shard, agent: &mut Downstream, trace: &Trace, reason: Deny) -> Deny {
    if reason == Deny::Unauthorized && shard.limits.is_flood(agent.address(), trace.began()) {
        agent.end_after_reply();
        return Deny::Overload(Overload::WrongKeys);
    }
    reason
}
