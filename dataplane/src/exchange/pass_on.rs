//! A vendor's reply on its way to the agent: framed anew, whole or piece by piece (rules H9 and S2).

use std::rc::Rc;

use keybrake_proto::http1::{BodyFraming, ReplyFraming, encode};

use super::row::Trace;
use crate::downstream::Downstream;
use crate::shard::Shard;
use crate::upstream::{Leaked, Reply};

/// The reply's head and body in one write.
pub(super) fn write_whole(shard: &Shard, agent: &mut Downstream, trace: &Trace, reply: &Reply) {
    let framing = match reply.status() {
        204 | 304 => BodyFraming::None,
        _ => BodyFraming::Length(u64::try_from(reply.body.len()).unwrap_or(u64::MAX)),
    };
    write_head(shard, agent, trace, reply, framing);
    agent.output.extend_from_slice(&reply.body);
}

fn write_head(shard: &Shard, agent: &mut Downstream, trace: &Trace, reply: &Reply, framing: BodyFraming) {
    if shard.is_draining() {
        agent.end_after_reply();
    }
    let close = !agent.can_go_on();
    let (head, input) = reply.head();
    let has_id = head.field(input, "request-id").is_some();
    let id = trace.id.as_bytes();
    let ours = [Some((&b"Keybrake-Request-Id"[..], id)), (!has_id).then_some((&b"Request-Id"[..], id))];
    let theirs = head.fields(input).filter(|(name, _)| !head.drops(input, name));
    let fields = theirs.chain(ours.into_iter().flatten());
    encode::reply_head(&mut agent.output, reply.status(), fields, framing, close);
}

/// Passes a long reply on piece by piece; the next is read when the agent took the last.
pub(super) async fn stream(
    shard: &Rc<Shard>,
    agent: &mut Downstream,
    trace: &Trace,
    reply: &mut Reply,
) -> Result<(), Broken> {
    let framing = match reply.head().0.framing() {
        ReplyFraming::Length(length) => BodyFraming::Length(length),
        ReplyFraming::Chunked | ReplyFraming::UntilClose => BodyFraming::Chunked,
        ReplyFraming::None => BodyFraming::None,
    };
    write_head(shard, agent, trace, reply, framing);
    loop {
        let passable = reply.passable().map_err(|Leaked| Broken::Leaked)?;
        let piece = reply.body.get(..passable).unwrap_or_default();
        match framing {
            BodyFraming::Chunked => encode::chunk(&mut agent.output, piece),
            BodyFraming::Length(_) | BodyFraming::None => agent.output.extend_from_slice(piece),
        }
        reply.passed(passable);
        let is_complete = reply.is_complete();
        if is_complete && framing == BodyFraming::Chunked {
            encode::last_chunk(&mut agent.output);
        }
        // All of a short piece may have to wait for the next one.
        if !agent.output.is_empty() {
            agent.flush(trace.proxy()).await.map_err(|_| Broken::Off)?;
        }
        if is_complete {
            return Ok(());
        }
        reply.read_more().await.map_err(|_| Broken::Off)?;
    }
}

/// Why a reply is not delivered whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// The vendor or the agent broke it off.
    Off,
    /// What follows has the vendor's credential.
    Leaked,
}
