//! What a proxy listener answers besides vendors: its health, and `/vault/keys`, which the admin
//! process serves.

use std::rc::Rc;
use std::time::Duration;

use keybrake_proto::deny::Deny;
use keybrake_proto::http1::{BodyFraming, Method, ReplyHead, encode};

use crate::downstream::{self, After, Downstream};
use crate::pool::VendorConnection;
use crate::rt::Tcp;
use crate::shard::Shard;
use crate::transport::Transport;
use crate::upstream::Reply;

/// How long the admin process may take.
const TIMEOUT_SECONDS: u64 = 15;

/// The longest reply of the admin process that is passed on, in bytes.
const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// The longest body that is passed on, in bytes: nobody has shown a token yet when it is read.
const BODY_BYTES_MAX: u64 = 64 * 1024;

/// Headers that reach the admin process.
const FIELDS: [&[u8]; 2] = [b"content-type", b"accept"];

/// Answers a text of ours.
pub(crate) async fn answer(shard: &Rc<Shard>, agent: &mut Downstream, status: u16, text: &str) -> After {
    let close = !agent.can_go_on();
    let fields = [(&b"Content-Type"[..], &b"text/plain"[..])];
    let framing = BodyFraming::Length(u64::try_from(text.len()).unwrap_or_default());
    encode::reply_head(&mut agent.output, status, fields, framing, close);
    agent.output.extend_from_slice(text.as_bytes());
    agent.reply(shard.current().proxy()).await
}

/// Passes a request for a key on to the admin process, which alone judges its token.
pub(crate) async fn keys(shard: &Rc<Shard>, agent: &mut Downstream) -> After {
    let is_self = agent.head().path(agent.input()).ends_with(b"/self");
    let expected = if is_self { Method::Get } else { Method::Post };
    let reply = if agent.head().method() == expected { ask(shard, agent).await } else { Err(Deny::NotFound) };
    let reply = match reply {
        Ok(reply) => reply,
        Err(reason) => {
            let id = shard.next_request_id();
            downstream::write_denial(agent, &reason.denial(shard.now(), ""), &id, true);
            return agent.reply(shard.current().proxy()).await;
        }
    };
    let close = !agent.can_go_on();
    let (head, input) = reply.head();
    let framing = match reply.status() {
        204 | 304 => BodyFraming::None,
        _ => BodyFraming::Length(u64::try_from(reply.body.len()).unwrap_or(u64::MAX)),
    };
    encode::reply_head(&mut agent.output, reply.status(), head.fields(input), framing, close);
    agent.output.extend_from_slice(&reply.body);
    agent.reply(shard.current().proxy()).await
}

async fn ask(shard: &Rc<Shard>, agent: &mut Downstream) -> Result<Reply, Deny> {
    // Nobody has shown a token yet: more at once would take the descriptors of all others.
    let _place = shard.limits.relay().ok_or(Deny::AdminUnavailable)?;
    let current = shard.current();
    let read = agent.read_body(current.proxy(), BODY_BYTES_MAX).await;
    read.map_err(|fault| downstream::body_refusal(&fault))?;
    let address = current.settings.config.admin.listen;
    let tcp = Tcp::connect(address, Duration::from_secs(TIMEOUT_SECONDS)).await;
    let tcp = tcp.map_err(|_| Deny::AdminUnavailable)?;
    let deadline = shard.deadlines.slot(tcp.fd());
    deadline.set(TIMEOUT_SECONDS);
    let mut connection = VendorConnection {
        deadline,
        transport: Transport::Plain(tcp),
        input: Vec::new(),
        output: Vec::new(),
        head: ReplyHead::new(),
        is_reused: false,
        credential: None,
    };
    encode_request(&mut connection.output, agent, &address.to_string());
    let output = std::mem::take(&mut connection.output);
    let (written, _) = connection.transport.write_all(output).await;
    written.map_err(|_| Deny::AdminUnavailable)?;
    let mut reply = Reply::receive(connection).await.map_err(|_| Deny::AdminUnavailable)?;
    reply
        .read_up_to(REPLY_BYTES_MAX, &mut shard.limits.reply_memory())
        .await
        .map_err(|_| Deny::AdminUnavailable)?;
    if reply.is_complete() { Ok(reply) } else { Err(Deny::AdminUnavailable) }
}

fn encode_request(output: &mut Vec<u8>, agent: &Downstream, authority: &str) {
    let (head, input) = (agent.head(), agent.input());
    let line =
        encode::RequestLine { method: head.method(), path: head.path(input), query: head.query(input) };
    let passes = |name: &[u8]| FIELDS.iter().any(|field| field.eq_ignore_ascii_case(name));
    let fields = head.fields(input).filter(|(name, _)| passes(name));
    let authorization = head.authorization(input).map(|value| [b"Authorization: ", value, b"\r\n"].concat());
    let length =
        (head.method() != Method::Get).then(|| u64::try_from(agent.body().len()).unwrap_or(u64::MAX));
    encode::request_head(
        output,
        line,
        authority.as_bytes(),
        fields,
        length,
        authorization.as_deref().unwrap_or_default(),
    );
    if length.is_some() {
        output.extend_from_slice(agent.body());
    }
}
