//! What a call's price depends on beside the request: the object it acts on, which is read from the vendor first
//! where nothing else says what is left of it (rule Q8).
//!
//! A look-up is an exchange of its own: with a hold of nothing, through the one door, with a row. What it finds holds
//! until the call ends, since no other call acts on the object meanwhile.

use std::rc::Rc;
use std::time::Instant;

use keybrake_proto::catalog::amount::{self, Acting, Known, LookedUp};
use keybrake_proto::catalog::price::{self, Bound};
use keybrake_proto::deny::{Deny, ObjectFault, Withheld};
use keybrake_proto::http1::{Method, encode};
use keybrake_proto::idempotency::Identity;
use keybrake_proto::journal::{self, IntentId};
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Permit;

use super::PRICED_REPLY_BYTES_MAX;
use super::admission::{self, Target};
use super::pace;
use super::row::{LookUpRow, Trace};
use crate::downstream::Downstream;
use crate::hold::Hold;
use crate::objects::Claim;
use crate::shard::Shard;
use crate::upstream::{self, Admitted, Fault, Outgoing, Reply};

/// Fields of the agent's request that a look-up has too: they decide how the vendor answers.
const FIELDS: [&str; 3] = ["accept", "stripe-version", "user-agent"];

/// What a call stands on until it ends.
pub(super) struct Ground {
    /// What makes it a repeat of another one.
    pub(super) identity: Option<Identity>,
    pub(super) acting: Option<Acting>,
    pub(super) known: Known,
    /// That it exists keeps others from the object.
    claim: Option<Claim>,
}

impl Ground {
    /// The call that stands on it has this intent.
    pub(super) fn is_of(&mut self, intent: Option<IntentId>) {
        if let (Some(claim), Some(intent)) = (&mut self.claim, intent) {
            claim.is_of(intent);
        }
    }
}

/// Claims the object that the call acts on, and reads it where the price needs that.
pub(super) async fn prepare(
    shard: &Rc<Shard>,
    agent: &Downstream,
    permit: &Permit,
    target: &Target,
    trace: &mut Trace,
) -> Result<Ground, Deny> {
    let identity = admission::identify(agent, target, target.vendor());
    let request = admission::priced(agent, target);
    let (price, bound) = (target.price(), target.entry().bound());
    let acting = price::acts_on(price, request).map_err(admission::unquoted)?;
    let mut ground = Ground { identity, acting: None, known: Known::default(), claim: None };
    let Some(acting) = acting else { return Ok(ground) };
    let counted = || shard.objects.counted(target.entry().id, &acting.id);
    let must_look_up =
        |counted| price::must_look_up(price, request, counted, bound).map_err(admission::unquoted);
    if must_look_up(counted())? && is_spent(shard, target, identity) {
        Box::pin(refuse_unclaimed(shard, agent, permit, target, trace, &acting)).await?;
    }
    if bound == Bound::Capped {
        let claim = shard.objects.claim(
            target.pool_number(),
            acting.id.clone(),
            identity.map(|of| (target.entry().id, of)),
        );
        ground.claim = Some(claim.map_err(|_| Deny::Object(ObjectFault::Busy))?);
    }
    ground.known.counted = counted();
    if must_look_up(ground.known.counted)? {
        // Seldom, and large: it would make the future of every connection larger.
        let found = Box::pin(look_up(shard, agent, permit, target, trace, &acting));
        ground.known.looked_up = Some(found.await?);
    }
    ground.acting = Some(acting);
    Ok(ground)
}

/// Whether no cap of the chain has anything left, and the call is no repeat, which would hold nothing.
fn is_spent(shard: &Shard, target: &Target, identity: Option<Identity>) -> bool {
    let entry = target.entry();
    let is_repeat = |identity| shard.memory.finds(entry.id, identity, shard.now());
    entry.account.is_spent(shard.today()) && !identity.is_some_and(is_repeat)
}

/// Refuses a call whose cap is spent if it costs anything, which only the object can tell. The object is not claimed
/// meanwhile: who has no money left must not keep it from others. A call that is free is looked up once more under
/// its claim.
async fn refuse_unclaimed(
    shard: &Rc<Shard>,
    agent: &Downstream,
    permit: &Permit,
    target: &Target,
    trace: &mut Trace,
    acting: &Acting,
) -> Result<(), Deny> {
    let entry = target.entry();
    let looked_up = Some(look_up(shard, agent, permit, target, trace, acting).await?);
    let known = Known { counted: shard.objects.counted(entry.id, &acting.id), looked_up };
    admission::price(shard, agent, target, known, trace)?;
    let (quote, today) = (trace.quote.amount, shard.today());
    let hold = Hold::reserve(entry, &shard.journal, today, quote)
        .map_err(|refusal| Deny::by_ledger(refusal, entry.id, quote))?;
    // It is free, or there is room again.
    hold.release(today);
    Ok(())
}

async fn look_up(
    shard: &Rc<Shard>,
    agent: &Downstream,
    permit: &Permit,
    target: &Target,
    trace: &Trace,
    acting: &Acting,
) -> Result<LookedUp, Deny> {
    // It is one more request of the vendor's quota, whatever becomes of the call.
    pace::pace(shard, target, None).await?.used();
    let path = acting.path();
    let call = target.vendor().recognize(Method::Get, path.as_bytes());
    let row = trace.look_up(agent, &call);
    let (admitted, intent) = admit(shard, permit, target, &row)?;
    let (head, input) = (agent.head(), agent.input());
    // On the account that the call acts on, which the policy has allowed.
    let passed = FIELDS.iter().chain(target.vendor().account_fields);
    let is_passed = |name: &[u8]| passed.clone().any(|field| field.as_bytes().eq_ignore_ascii_case(name));
    let fields: Vec<(&[u8], &[u8])> =
        head.fields(input).filter(|(name, _)| is_passed(name) && !head.drops(input, name)).collect();
    let line = encode::RequestLine { method: Method::Get, path: path.as_bytes(), query: None };
    let began = Instant::now();
    let replied = match target.credential() {
        Ok(credential) => {
            let outgoing = Outgoing { credential: &credential, line, fields: &fields, body: None };
            upstream::forward(shard, target.pool(), &admitted, &outgoing, began).await
        }
        Err(fault) => Err(fault),
    };
    let replied = match replied {
        Ok(mut reply) => {
            let mut memory = shard.limits.reply_memory();
            reply.read_up_to(PRICED_REPLY_BYTES_MAX, &mut memory).await.map(|()| reply)
        }
        Err(fault) => Err(fault),
    };
    let Admitted { hold, ticket, .. } = admitted;
    drop(ticket);
    // A read that is nobody's call: it is not one of the key's requests.
    let ended = hold.release(shard.today());
    let status = replied.as_ref().map_or(0, Reply::status);
    shard.metrics.look_ups.add(1);
    let row = row.ended(status, began);
    let bookings = ended.recorded();
    shard.journal.outcome(Some(intent), journal::End::Booked, bookings, Some(ended.fate), &row);
    let mut reply = replied.map_err(|fault| refusal(shard, target, &fault))?;
    if reply.withheld() == Some(Withheld::Credential) {
        // Nothing of it would go out; the operator must know all the same, and its connection is not used again.
        super::alarm(shard, trace, &reply);
        return Err(Deny::Object(ObjectFault::Unread));
    }
    let found = judge(acting, &reply);
    reply.finish(target.pool());
    found
}

/// A hold of nothing and an intent; nothing is awaited in it.
fn admit(
    shard: &Rc<Shard>,
    permit: &Permit,
    target: &Target,
    row: &LookUpRow<'_>,
) -> Result<(Admitted, IntentId), Deny> {
    let entry = target.entry();
    if shard.is_draining() {
        return Err(Deny::Draining);
    }
    if !shard.journal.has_room() {
        return Err(Deny::AuditUnavailable);
    }
    if !entry.is_open(shard.clock.expiry(shard.now())) {
        return Err(Deny::Unauthorized);
    }
    let hold = Hold::reserve(entry, &shard.journal, shard.today(), Micros::ZERO);
    let mut hold = hold.map_err(|refusal| Deny::by_ledger(refusal, entry.id, Micros::ZERO))?;
    let keys = entry.account.keys();
    let begun = row.begun().encode(Vec::new());
    let intent = shard.journal.intent(keys, hold.day(), Micros::ZERO, None, &begun);
    let Ok(intent) = intent else {
        hold.release(shard.today());
        return Err(Deny::AuditUnavailable);
    };
    hold.recorded(intent, begun);
    let ticket = shard.in_flight.board(entry.id, intent);
    Ok((Admitted { permit: permit.for_look_up(), hold, ticket, epoch: target.epoch() }, intent))
}

fn judge(acting: &Acting, reply: &Reply) -> Result<LookedUp, Deny> {
    match reply.status() {
        200 => amount::looked_up(acting.subject, reply.readable_body())
            .map_err(|error| Deny::Unpriced(error.as_str())),
        404 => Err(Deny::Object(ObjectFault::NotFound)),
        _ => Err(Deny::Object(ObjectFault::Unread)),
    }
}

fn refusal(shard: &Shard, target: &Target, fault: &Fault) -> Deny {
    match fault {
        Fault::Closed | Fault::Revoked => Deny::Unauthorized,
        Fault::Stale => Deny::PolicyChanged,
        Fault::Draining => Deny::Draining,
        Fault::Blind => Deny::ControlUnavailable,
        Fault::Unreachable(error) => {
            shard.complain(target.vendor().name, error);
            Deny::VendorUnreachable
        }
        Fault::TimedOut | Fault::Dropped | Fault::Broken => Deny::Object(ObjectFault::Unread),
    }
}

/// Notes what an object counts after a call on it, behind the call's outcome.
pub(super) fn remember(
    shard: &Shard,
    target: &Target,
    intent: Option<IntentId>,
    remembered: Option<amount::Remembered>,
) {
    let (Some(intent), Some((object, counted))) = (intent, remembered) else { return };
    let key = target.entry().id;
    shard.objects.put(key, object.clone(), counted);
    shard.journal.counted(intent, key, object, counted);
}
