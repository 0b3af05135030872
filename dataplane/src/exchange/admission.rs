//! From a parsed request to a permit, a hold and an intent, or to the reason why not.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use keybrake_proto::catalog::price::{self, Priced, QuoteError};
use keybrake_proto::catalog::{Call, Catalog, Operation, Price};
use keybrake_proto::deny::Deny;
use keybrake_proto::form;
use keybrake_proto::http1::{BodyFraming, Method, encode};
use keybrake_proto::idempotency::{Answer, Identity};
use keybrake_proto::json;
use keybrake_proto::key;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Permit;
use keybrake_proto::route::{Route, route};
use ring::digest;

use super::row::Trace;
use crate::downstream::Downstream;
use crate::hold::Hold;
use crate::pool::Pool;
use crate::registry::KeyEntry;
use crate::shard::Shard;
use crate::upstream::{self, Admitted, Fault, Outgoing, Reply};

/// The vendor account of every credential.
const ACCOUNT: &str = "default";

/// The longest Idempotency-Key that vendors take.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// A request that the policy allows, before its body was read.
pub(super) struct Target {
    entry: Arc<KeyEntry>,
    pool: usize,
    operation: Option<&'static Operation>,
    method: Method,
    /// The canonical path is so many last bytes of the path that arrived.
    path_bytes: usize,
}

impl Target {
    pub(super) fn pool<'a>(&self, shard: &'a Shard) -> &'a Pool {
        // The index was taken from this very list, which never changes.
        #[expect(clippy::indexing_slicing, reason = "an index of the same list")]
        &shard.pools[self.pool]
    }

    pub(super) fn vendor(&self, shard: &Shard) -> &'static Catalog {
        self.pool(shard).vendor.catalog
    }

    /// The canonical path in the path that arrived.
    fn path<'a>(&self, arrived: &'a [u8]) -> &'a [u8] {
        arrived.get(arrived.len().saturating_sub(self.path_bytes)..).unwrap_or_default()
    }

    pub(super) fn price(&self) -> Price {
        self.call().price()
    }

    fn call(&self) -> Call<'_> {
        Call { method: self.method, path: &[], operation: self.operation }
    }
}

/// Finds the key, the vendor and the operation, and asks the policy.
pub(super) fn recognize(
    shard: &Shard,
    agent: &Downstream,
    trace: &mut Trace,
) -> Result<(Target, Permit), Deny> {
    let (head, input) = (agent.head(), agent.input());
    let Some(entry) = find_key(shard, agent) else {
        shard.metrics.wrong_keys.add(1);
        return Err(Deny::Unauthorized);
    };
    trace.recognized(&entry);
    if !entry.is_open(shard.clock.expiry(shard.now())) {
        return Err(Deny::Unauthorized);
    }
    let full_path = head.path(input);
    let (vendor, path) = match route(full_path) {
        Ok(Route::Vendor { mount, path }) => (mount, path),
        Ok(Route::Bare { path }) => (entry.record.policy.vendor.as_bytes(), path),
        Ok(Route::Keys | Route::Live | Route::Ready) => return Err(Deny::NotFound),
        Err(_) => {
            let problem = "the path is ambiguous; send the vendor's path behind the vendor's name";
            return Err(Deny::Malformed { status: 400, problem: problem.into() });
        }
    };
    let is_own = vendor == entry.record.policy.vendor.as_bytes();
    let pool = shard.pools.iter().position(|pool| pool.vendor.config.name.as_bytes() == vendor);
    let Some(pool) = pool.filter(|_| is_own) else { return Err(Deny::Vendor) };
    let catalog = shard.pools.get(pool).map(|pool| pool.vendor.catalog).ok_or(Deny::Vendor)?;
    let call = catalog.recognize(head.method(), path);
    trace.called(catalog, &call);
    if head.is_get_with_body() {
        return Err(Deny::Malformed { status: 400, problem: "a GET must not have a body".into() });
    }
    if catalog.account_fields.iter().any(|name| head.field(input, name).is_some()) {
        return Err(Deny::Account);
    }
    let permit = entry.record.policy.permit(&call)?;
    let target =
        Target { pool, operation: call.operation, method: head.method(), path_bytes: path.len(), entry };
    Ok((target, permit))
}

/// The key in the vendor's credential slot; `None` for one that is unknown or malformed.
fn find_key(shard: &Shard, agent: &Downstream) -> Option<Arc<KeyEntry>> {
    let mut scratch = [0; 512];
    let authorization = agent.head().authorization(agent.input())?;
    let text = key::in_authorization(authorization, &mut scratch)?;
    let digest = shard.digester.digest(text);
    shard.registry.borrow().find(&digest).map(Arc::clone)
}

/// Prices the request, keeps the quote aside and records the intent. Nothing is awaited here: what
/// was checked is what is held.
pub(super) fn admit(
    shard: &Rc<Shard>,
    agent: &Downstream,
    permit: Permit,
    target: &Target,
    trace: &mut Trace,
) -> Result<Admitted, Deny> {
    let (head, input) = (agent.head(), agent.input());
    judge_form(agent, target, target.vendor(shard))?;
    let request =
        Priced { content_type: head.content_type(input), query: head.query(input), body: agent.body() };
    let entry = &target.entry;
    trace.quote = price::quote(target.price(), request, entry.bound()).map_err(unquoted)?;
    trace.held = trace.quote.amount;
    if shard.is_draining() {
        return Err(Deny::Draining);
    }
    if !shard.journal.has_room() {
        return Err(Deny::AuditUnavailable);
    }
    let now = shard.now();
    if !entry.is_open(shard.clock.expiry(now)) {
        return Err(Deny::Unauthorized);
    }
    let quote = trace.quote.amount;
    // Reads go on whatever the clock says: they open no window (rule Q10).
    let today =
        if quote == Micros::ZERO { shard.today() } else { shard.clock.today(now).map_err(Deny::Clock)? };
    let held = match identify(agent, target, target.vendor(shard)) {
        Some(identity) => Hold::share(entry, &shard.journal, (&shard.memory, identity), (today, now), quote),
        None => Hold::reserve(entry, &shard.journal, today, quote),
    };
    let mut hold = held.map_err(|refusal| Deny::by_ledger(refusal, entry.record.id, quote))?;
    trace.held = hold.quote();
    let keys = entry.account.keys();
    let intent = shard.journal.intent(keys, hold.day(), trace.held, hold.shared(), &trace.intent(agent));
    let Ok(intent) = intent else {
        hold.release(today);
        return Err(Deny::AuditUnavailable);
    };
    hold.recorded(intent);
    trace.intent = Some(intent);
    let ticket = shard.in_flight.board(entry.record.id, intent);
    Ok(Admitted { permit, hold, ticket })
}

/// What makes a request the same as another one of its vault key, where the vendor carries such requests
/// out once (rule Q5).
fn identify(agent: &Downstream, target: &Target, catalog: &Catalog) -> Option<Identity> {
    let (head, input) = (agent.head(), agent.input());
    let key = head.idempotency_key(input).filter(|key| !key.is_empty())?;
    if !target.call().is_remembered() {
        return None;
    }
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut add = |part: &[u8]| {
        // With its length, so that no two requests run together.
        hash.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hash.update(part);
    };
    add(key);
    add(catalog.name.as_bytes());
    add(ACCOUNT.as_bytes());
    for name in catalog.account_fields {
        add(head.field(input, name).unwrap_or_default());
    }
    add(target.method.as_str().as_bytes());
    add(target.path(head.path(input)));
    add(head.query(input).unwrap_or_default());
    add(agent.body());
    hash.finish().as_ref().first_chunk().copied().map(Identity)
}

/// Refuses a body that could be read in another way than it is read here, and parameters that
/// change the method, the account or the version behind the policy's back.
fn judge_form(agent: &Downstream, target: &Target, catalog: &Catalog) -> Result<(), Deny> {
    let (head, input) = (agent.head(), agent.input());
    refuse_parameters(catalog, head.query(input).unwrap_or_default())?;
    if agent.body().is_empty() {
        return Ok(());
    }
    let refuse = |problem: &'static str| Err(Deny::Malformed { status: 415, problem: problem.into() });
    if head.content_encoding(input).is_some() {
        return refuse("send the body without Content-Encoding");
    }
    let is_form = head.content_type(input).is_some_and(price::is_form);
    if target.path(head.path(input)).starts_with(catalog.form_paths.as_bytes()) {
        return if is_form {
            refuse_parameters(catalog, agent.body())
        } else {
            refuse("send the parameters as application/x-www-form-urlencoded")
        };
    }
    let names = |name: &&&str| !matches!(json::read_top_level(agent.body(), [**name]), Ok([None]));
    match catalog.refused_parameters.iter().find(names) {
        Some(_) => refuse("send one JSON object, without members that change method, account or version"),
        None => Ok(()),
    }
}

/// Refuses the catalog's parameters in a query or a form.
fn refuse_parameters(catalog: &Catalog, form: &[u8]) -> Result<(), Deny> {
    if catalog.refused_parameters.iter().any(|name| form::mentions(form, name)) {
        let problem = "a parameter that changes the method, the account or the version; leave it out";
        return Err(Deny::Malformed { status: 400, problem: problem.into() });
    }
    Ok(())
}

fn unquoted(error: QuoteError) -> Deny {
    match error {
        QuoteError::Unpriced(why) => Deny::Unpriced(why),
        QuoteError::Currency => Deny::Currency,
        QuoteError::Malformed(problem) => Deny::Malformed { status: 400, problem },
        QuoteError::MediaType => Deny::Malformed {
            status: 415,
            problem: "send the parameters as application/x-www-form-urlencoded, without Content-Encoding"
                .into(),
        },
    }
}

/// Whose answer a reply is: the vendor says when it is a stored one.
pub(super) fn answer(reply: &Reply, catalog: &Catalog) -> Answer {
    let (head, input) = reply.head();
    match head.field(input, catalog.replayed_field) {
        Some(value) if value.trim_ascii().eq_ignore_ascii_case(b"true") => Answer::Replayed,
        Some(_) | None => Answer::Own,
    }
}

/// Encodes the admitted request anew and sends it through the one door (N1, N2).
pub(super) async fn forward(
    shard: &Rc<Shard>,
    agent: &Downstream,
    target: &Target,
    admitted: &Admitted,
    now: Instant,
) -> Result<Reply, Fault> {
    let (head, input) = (agent.head(), agent.input());
    let pool = target.pool(shard);
    let path = target.path(head.path(input));
    let allowed = pool.vendor.catalog.request_fields;
    let is_allowed = |name: &[u8]| allowed.iter().any(|field| field.as_bytes().eq_ignore_ascii_case(name));
    let idempotency_key = head.idempotency_key(input).map(|key| namespaced(&target.entry, key));
    let mut fields: Vec<(&[u8], &[u8])> = Vec::with_capacity(16);
    for (name, value) in head.fields(input) {
        if is_allowed(name) && !head.drops(input, name) {
            fields.push((name, value));
        }
    }
    fields.extend(idempotency_key.as_deref().map(|key| (&b"Idempotency-Key"[..], key)));
    let has_body = head.framing() != BodyFraming::None
        || matches!(target.method, Method::Post | Method::Put | Method::Patch);
    let outgoing = Outgoing {
        line: encode::RequestLine { method: target.method, path, query: head.query(input) },
        fields: &fields,
        body: has_body.then(|| agent.body()),
    };
    upstream::forward(shard, pool, admitted, &outgoing, now).await
}

/// An Idempotency-Key of this vault key alone, so that no agent is handed another's stored answer
/// (rule M8). The same key gives the same text, so that the vendor replays.
fn namespaced(entry: &KeyEntry, key: &[u8]) -> Vec<u8> {
    let prefix = entry.record.id.as_bytes();
    let text = [prefix, &b"-"[..], key].concat();
    if text.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let hash = digest::digest(&digest::SHA256, key);
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        return [prefix, &b"-"[..], hex.as_bytes()].concat();
    }
    text
}
