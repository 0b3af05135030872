//! The hot path: one request from its parsed head to its outcome.
//!
//! ```text
//!  recognize -> read the body -> judge it -> a turn at the vendor -> look the object up
//!            -> admit (quote, hold, intent) -> upstream::forward -> settle -> row -> reply
//! ```
//! Every request that is not forwarded ends in [`refuse`]; every hold ends in settle, release or doubt.

mod admission;
mod entrance;
mod look_up;
mod pace;
mod pass_on;
mod row;
mod stray;

use std::ops::ControlFlow;
use std::rc::Rc;

use keybrake_proto::audit::Outcome;
use keybrake_proto::catalog::price::{self, End};
use keybrake_proto::deny::{Deny, Overload, Withheld};
use keybrake_proto::http1::HeadError;
use keybrake_proto::journal;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Permit;
use keybrake_proto::route::{Route, route};

use crate::downstream::{self, After, BodyFault, Downstream};
use crate::fault;
use crate::hold::{Ended, Execution, Hold};
use crate::pacing::Taken;
use crate::registry::KeyPlace;
use crate::relay;
use crate::shard::Shard;
use crate::upstream::{Admitted, Fault, Reply};
use admission::Target;
use look_up::Ground;
use pass_on::{Broken, stream, write_whole};
use row::{Ending, Trace};

/// Replies of priced calls are read up to here for their charge; of a longer one the quote is the
/// charge (rule Q24).
const PRICED_REPLY_BYTES_MAX: usize = 256 * 1024;

/// How often a request is decided anew because its key's policy changed under it (rule Q8). More changes than that
/// come from a loop that changes keys, and must not keep an agent waiting.
const DECISIONS_MAX: usize = 4;

/// Serves the request whose head `agent` has read.
pub(crate) async fn serve(shard: &Rc<Shard>, agent: &mut Downstream) -> After {
    if shard.is_draining() {
        agent.end_after_reply();
    }
    match route(agent.head().path(agent.input())) {
        Ok(Route::Live) => relay::answer(shard, agent, 200, "ok\n").await,
        Ok(Route::Ready) if shard.is_draining() => relay::answer(shard, agent, 503, "draining\n").await,
        Ok(Route::Ready) if shard.digester.is_sealed() => relay::answer(shard, agent, 503, "sealed\n").await,
        Ok(Route::Ready) if !shard.journal.has_room() => {
            relay::answer(shard, agent, 503, "the audit cannot be written\n").await
        }
        Ok(Route::Ready) => relay::answer(shard, agent, 200, "ready\n").await,
        Ok(Route::Keys) => relay::keys(shard, agent).await,
        Ok(Route::Vendor { .. } | Route::Bare { .. }) | Err(_) => run(shard, agent).await,
    }
}

/// Refuses bytes that are no request. Its key was not read, so it is counted and sampled like a
/// wrong key (rule Q25).
pub(crate) async fn refuse_head(shard: &Rc<Shard>, agent: &mut Downstream, error: HeadError) {
    shard.metrics.malformed.add(1);
    agent.end_after_reply();
    let trace = Trace::begin(shard);
    deny(shard, agent, &trace, &downstream::refusal(agent.input(), error), Ending::denied(None)).await;
}

/// Reads a request whole: whose it is, whether it may come at all, and its body. The error: it was answered.
async fn receive(
    shard: &Rc<Shard>,
    agent: &mut Downstream,
    trace: &mut Trace,
) -> Result<((Target, Permit), KeyPlace), After> {
    if shard.digester.is_sealed() {
        return Err(refuse(shard, agent, trace, &Deny::Sealed).await);
    }
    let recognized = match admission::recognize(shard, agent, trace) {
        Ok(recognized) => recognized,
        // A key that is not known here may have been issued by the process that has taken over.
        Err(Deny::Unauthorized) if shard.is_handing_over() => {
            return Err(refuse(shard, agent, trace, &Deny::Draining).await);
        }
        Err(reason) => {
            let reason = entrance::unrecognized(shard, agent, trace, reason);
            return Err(refuse(shard, agent, trace, &reason).await);
        }
    };
    // Before the body is read: what is too fast, or too much at once, costs nothing more.
    let place = match entrance::enter(shard, &recognized.0, trace) {
        Ok(place) => place,
        Err(reason) => return Err(refuse(shard, agent, trace, &reason).await),
    };
    match agent.read_body(trace.proxy(), trace.proxy().body_bytes_max).await {
        Ok(()) => {}
        Err(BodyFault::Gone) => return Err(After::Close),
        Err(fault) => {
            // What follows may be the rest of this body.
            agent.end_after_reply();
            let reason = downstream::body_refusal(&fault);
            return Err(deny(shard, agent, trace, &reason, Ending::denied(None)).await);
        }
    }
    if stray::has_key(agent, &recognized.0, trace) {
        return Err(refuse(shard, agent, trace, &stray::refusal()).await);
    }
    trace.read(agent);
    Ok((recognized, place))
}

/// Carries one request from its parsed head to its outcome.
async fn run(shard: &Rc<Shard>, agent: &mut Downstream) -> After {
    let mut trace = Trace::begin(shard);
    let (mut recognized, _place) = match receive(shard, agent, &mut trace).await {
        Ok(received) => received,
        Err(after) => return after,
    };
    // The turn of a decision that is taken back.
    let mut kept = None;
    for decision in 1..=DECISIONS_MAX {
        let (target, permit) = recognized;
        let decided = decide(shard, agent, permit, &target, (&mut trace, kept.take())).await;
        let (ground, admitted, turn) = match decided {
            Ok(decided) => decided,
            Err(reason) => return refuse(shard, agent, &trace, &reason).await,
        };
        // The money must be on disk before its request can move it.
        if trace.held > Micros::ZERO && shard.journal.durable().await.is_err() {
            let Admitted { hold, ticket, .. } = admitted;
            drop((ticket, turn));
            let ended = hold.release(shard.today());
            let is_draining = shard.is_handing_over();
            let reason = if is_draining { Deny::Draining } else { Deny::AuditUnavailable };
            return fail(shard, agent, &trace, ended, &reason).await;
        }
        fault_at("admitted", agent);
        let now = trace.sent();
        match admission::forward(shard, agent, &target, &admitted, now).await {
            Ok(reply) => {
                turn.used();
                return deliver(shard, agent, (&target, ground), trace, admitted, reply).await;
            }
            Err(Fault::Stale) if decision < DECISIONS_MAX => {
                if let ControlFlow::Break(ended) = withdraw(shard, &mut trace, admitted) {
                    drop(turn);
                    return fail(shard, agent, &trace, ended, &Deny::PolicyChanged).await;
                }
                kept = Some(turn);
            }
            Err(fault) => {
                turn.used();
                return lose(shard, agent, &mut trace, admitted, &fault).await;
            }
        }
        recognized = match admission::recognize(shard, agent, &mut trace) {
            Ok(recognized) => recognized,
            Err(reason) => {
                drop(kept);
                return refuse(shard, agent, &trace, &reason).await;
            }
        };
    }
    // The last round has returned.
    refuse(shard, agent, &trace, &Deny::PolicyChanged).await
}

/// Decides on a request whose body is there: what it may hold, when its turn is, what it acts on, what it may cost.
async fn decide(
    shard: &Rc<Shard>,
    agent: &Downstream,
    permit: Permit,
    target: &Target,
    (trace, kept): (&mut Trace, Option<Taken>),
) -> Result<(Ground, Admitted, Taken), Deny> {
    admission::judge(agent, target, target.vendor(), trace)?;
    // Like the body it is waited for before money: nothing is held meanwhile, and whatever changes is seen by
    // admission, which comes behind it.
    let turn = pace::pace(shard, target, kept).await?;
    let mut ground = look_up::prepare(shard, agent, &permit, target, trace).await?;
    let admitted = admission::admit(shard, agent, permit, target, &ground, trace)?;
    ground.is_of(trace.intent);
    Ok((ground, admitted, turn))
}

/// Takes back a decision of which nothing was sent, so that it is made anew. It breaks where other exchanges on the
/// same reservation leave a doubt, which needs a row.
fn withdraw(shard: &Shard, trace: &mut Trace, admitted: Admitted) -> ControlFlow<Ended> {
    let Admitted { hold, ticket, .. } = admitted;
    drop(ticket);
    let ended = hold.release(shard.today());
    if ended.end == journal::End::InDoubt {
        return ControlFlow::Break(ended);
    }
    if let Some(intent) = trace.intent {
        shard.journal.withdraw(intent, ended.recorded());
    }
    trace.withdrawn();
    ControlFlow::Continue(())
}

/// Ends a request that keybrake could not send, with what its hold came to.
async fn fail(
    shard: &Rc<Shard>,
    agent: &mut Downstream,
    trace: &Trace,
    ended: Ended,
    reason: &Deny,
) -> After {
    let is_doubt = ended.end == journal::End::InDoubt;
    let outcome = if is_doubt { Outcome::Unknown } else { Outcome::Failed };
    let ending = if *reason == Deny::Draining && !is_doubt {
        Ending::denied(Some(ended))
    } else {
        Ending::allowed(outcome, ended, reason.status())
    };
    deny(shard, agent, trace, reason, ending).await
}

/// Settles by the vendor's reply and hands it to the agent.
async fn deliver(
    shard: &Rc<Shard>,
    agent: &mut Downstream,
    (target, ground): (&Target, Ground),
    mut trace: Trace,
    admitted: Admitted,
    mut reply: Reply,
) -> After {
    let price = target.price();
    let read_up_to = if price.reads_reply() { PRICED_REPLY_BYTES_MAX } else { 0 };
    // Until the agent has the reply. Without room for it it is passed on in pieces, and the quote is the charge.
    let mut memory = shard.limits.reply_memory();
    fault_at("replied", agent);
    if let Err(fault) = reply.read_up_to(read_up_to, &mut memory).await {
        return lose(shard, agent, &mut trace, admitted, &fault).await;
    }
    let withheld = reply.withheld();
    if withheld == Some(Withheld::Credential) {
        // Nothing of it is kept, nor read for anything but what the call cost.
        trace.vendor_done();
    } else {
        trace.replied(&reply, target.vendor());
    }
    let Admitted { hold, ticket, .. } = admitted;
    let (end, remembered) =
        price::end(price, &trace.quote, ground.acting.as_ref(), reply.status(), reply.readable_body());
    let today = shard.today();
    let (ended, outcome) = match end {
        End::Settle(charge) => {
            // A reply that names no amount costs what was asked for, and a repeat of a call that left a doubt may find
            // nothing left to ask for.
            let is_short = trace.quote.amount < trace.held && charge == trace.quote.expected();
            let charge = if is_short { trace.held } else { charge };
            (settle(shard, target, &trace, hold, (&reply, charge)), Outcome::Forwarded)
        }
        End::MovedNothing => {
            (settle(shard, target, &trace, hold, (&reply, Micros::ZERO)), Outcome::Forwarded)
        }
        // It was sent, so it counts as a request.
        End::Release => (hold.refused(today), Outcome::Forwarded),
        End::InDoubt => (hold.doubt(today), Outcome::Unknown),
    };
    fault_at("ended", agent);
    // An object counts what is booked for it, and a doubt may still be voided.
    let remembered = remembered.filter(|_| ended.end != journal::End::InDoubt && withheld.is_none());
    // It left a doubt behind that an earlier exchange on the same reservation made.
    let outcome = if ended.end == journal::End::InDoubt { Outcome::Unknown } else { outcome };
    let ending = Ending::allowed(outcome, ended, reply.status());
    if let Some(why) = withheld {
        drop((ticket, ground));
        return withhold(shard, agent, &trace, reply, ending, why).await;
    }
    if reply.is_complete() {
        // The row is on its way before the agent knows the outcome.
        trace.record(shard, agent, &ending);
        look_up::remember(shard, target, trace.intent, remembered);
        // An agent that does not read keeps nobody else from the object.
        drop((ticket, ground));
        write_whole(shard, agent, &trace, &reply);
        reply.finish(target.pool());
        return agent.reply(trace.proxy()).await;
    }
    fault_at("streams", agent);
    // Whoever acts on the object before this is remembered holds too much.
    drop(ground);
    let streamed = stream(shard, agent, &trace, &mut reply).await;
    drop(ticket);
    let is_whole = streamed.is_ok() || outcome == Outcome::Unknown;
    let result = match streamed {
        Err(Broken::Leaked) => alarm(shard, &trace, &reply),
        Ok(()) | Err(Broken::Off) => ending.result,
    };
    let ending = Ending { outcome: if is_whole { outcome } else { Outcome::Cut }, result, ..ending };
    trace.record(shard, agent, &ending);
    look_up::remember(shard, target, trace.intent, remembered);
    match streamed {
        Ok(()) => {
            reply.finish(target.pool());
            if agent.can_go_on() { After::NextRequest } else { After::Close }
        }
        // What was delivered is not whole, which closing says.
        Err(_) => After::Close,
    }
}

/// Ends an exchange whose reply must not be passed on. The money has gone the way that the reply says; its connection is
/// not used again (rule S2).
async fn withhold(
    shard: &Rc<Shard>,
    agent: &mut Downstream,
    trace: &Trace,
    reply: Reply,
    ending: Ending,
    why: Withheld,
) -> After {
    let reason = Deny::Withheld(why);
    if why == Withheld::Credential {
        alarm(shard, trace, &reply);
    } else {
        shard.metrics.encoded_replies.add(1);
    }
    drop(reply);
    deny(shard, agent, trace, &reason, Ending { result: reason.code(), ..ending }).await
}

/// Says that the vendor's credential stood in a reply; answers the result of its row.
fn alarm(shard: &Shard, trace: &Trace, reply: &Reply) -> &'static str {
    shard.metrics.leaks.add(1);
    if let Some(credential) = reply.credential() {
        credential.alarm(trace.vendor(), &trace.id, shard.now().as_seconds());
    }
    Deny::Withheld(Withheld::Credential).code()
}

/// Settles a call that the vendor has carried out.
fn settle(
    shard: &Shard,
    target: &Target,
    trace: &Trace,
    hold: Hold,
    (reply, charge): (&Reply, Micros),
) -> Ended {
    let answer = admission::answer(reply, target.vendor());
    let ended = hold.settle(shard.today(), Execution { charge, answer, at: shard.now() });
    let is_above = trace.quote.amount_minor.is_some() && ended.amount > ended.covered;
    shard.metrics.above_quote.add(u64::from(is_above));
    ended
}

/// Ends an exchange whose reply did not come.
async fn lose(
    shard: &Rc<Shard>,
    agent: &mut Downstream,
    trace: &mut Trace,
    admitted: Admitted,
    fault: &Fault,
) -> After {
    let Admitted { hold, ticket, .. } = admitted;
    drop(ticket);
    let reason = match fault {
        Fault::Unreachable(_) => Deny::VendorUnreachable,
        Fault::Closed | Fault::Revoked => Deny::Unauthorized,
        Fault::Blind => Deny::ControlUnavailable,
        Fault::Stale => Deny::PolicyChanged,
        Fault::Draining => Deny::Draining,
        Fault::TimedOut => Deny::VendorTimeout,
        Fault::Dropped | Fault::Broken => Deny::VendorBroken,
    };
    if let Fault::Unreachable(error) = fault {
        shard.complain(trace.vendor(), error);
    }
    trace.vendor_done();
    let today = shard.today();
    let ended = if fault.before_send() { hold.release(today) } else { hold.doubt(today) };
    // The vendor may have acted on it, or on an earlier exchange on the same reservation, so the agent
    // has spent it.
    let is_unknown = !fault.before_send() || ended.end == journal::End::InDoubt;
    let ending = if is_unknown {
        Ending::allowed(Outcome::Unknown, ended, reason.status())
    } else if matches!(fault, Fault::Closed | Fault::Blind | Fault::Stale | Fault::Draining) {
        Ending::denied(Some(ended))
    } else {
        Ending::allowed(Outcome::Failed, ended, reason.status())
    };
    deny(shard, agent, trace, &reason, ending).await
}

/// Ends a request that nothing was held for.
async fn refuse(shard: &Rc<Shard>, agent: &mut Downstream, trace: &Trace, reason: &Deny) -> After {
    // A connection with an unread body cannot go on; a small body is read, so that it can. Not for a
    // key that is not valid: a revoked one must look like an unknown one.
    if *reason != Deny::Unauthorized && trace.has_key() && agent.has_small_body_left() {
        drop(agent.read_body(trace.proxy(), trace.proxy().body_bytes_max).await);
    }
    deny(shard, agent, trace, reason, Ending::denied(None)).await
}

/// Writes the row and the answer of a request that was refused or lost.
async fn deny(
    shard: &Rc<Shard>,
    agent: &mut Downstream,
    trace: &Trace,
    reason: &Deny,
    ending: Ending,
) -> After {
    let has_room = shard.journal.has_room();
    // A denial without a row would be unseen, and keeping its row would fill the memory (rule N5).
    let reason = if ending.ended.is_none() && !has_room { &Deny::AuditUnavailable } else { reason };
    let allowed = trace.allowed(reason);
    let denial = reason.denial(shard.now(), &allowed);
    let is_decision = ending.outcome == Outcome::Denied;
    let ending = Ending {
        status: denial.status,
        result: if is_decision { denial.code } else { ending.result },
        ..ending
    };
    let must_record = ending.ended.is_some() || has_room;
    let is_flood = *reason == Deny::Overload(Overload::WrongKeys);
    if must_record && ((trace.has_key() && !is_flood) || shard.samples(shard.now())) {
        trace.record(shard, agent, &ending);
    }
    // It may have begun before.
    if shard.is_draining() {
        agent.end_after_reply();
    }
    let is_repeatable = agent.head().idempotency_key(agent.input()).is_some();
    downstream::write_denial(agent, &denial, &trace.id, is_repeatable);
    agent.reply(trace.proxy()).await
}

/// Where a test may ask for a panic.
fn fault_at(place: &str, agent: &Downstream) {
    fault::at(place, agent.head().field(agent.input(), fault::FIELD));
}
