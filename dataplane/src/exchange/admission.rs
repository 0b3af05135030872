//! From a parsed request to a permit, a hold and an intent, or to the reason why not.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use keybrake_proto::catalog::amount::Known;
use keybrake_proto::catalog::price::{self, Priced, QuoteError, Terms};
use keybrake_proto::catalog::wire::Slot;
use keybrake_proto::catalog::{Call, Catalog, Operation, Price, UnlistedReads};
use keybrake_proto::deny::{Deny, Restriction};
use keybrake_proto::form;
use keybrake_proto::http1::{BodyFraming, Method, encode};
use keybrake_proto::idempotency::{Answer, Identity};
use keybrake_proto::json;
use keybrake_proto::key;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::Permit;
use keybrake_proto::policy::params::{Body, Parameters};
use keybrake_proto::route::{Route, route};
use ring::digest;

use super::look_up::Ground;
use super::row::Trace;
use crate::downstream::Downstream;
use crate::hold::Hold;
use crate::journal::ROW_BYTES;
use crate::pool::{Credential, Pool};
use crate::registry::{Epoch, KeyEntry, KeyRecord};
use crate::settings::Current;
use crate::shard::Shard;
use crate::upstream::{self, Admitted, Fault, Outgoing, Reply};

/// The longest Idempotency-Key that vendors take.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// A request that the policy allows, before its body was read.
pub(super) struct Target {
    entry: Arc<KeyEntry>,
    /// Of the policy that allowed it.
    epoch: Epoch,
    pool: Rc<Pool>,
    pool_number: usize,
    operation: Option<&'static Operation>,
    unlisted_reads: UnlistedReads,
    method: Method,
    /// The canonical path is so many last bytes of the path that arrived.
    path_bytes: usize,
}

impl Target {
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// What its calls are sent with now.
    pub(super) fn credential(&self) -> Result<Arc<Credential>, Fault> {
        let credential = self.pool.vendor.credential(&self.entry.vendor_account);
        credential.ok_or_else(|| Fault::Unreachable(io::Error::other("its account has no credential")))
    }

    /// The policy that it was recognized under.
    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The number of the pool, the same as long as the process runs.
    pub(super) fn pool_number(&self) -> usize {
        self.pool_number
    }

    /// The key.
    pub(super) fn entry(&self) -> &Arc<KeyEntry> {
        &self.entry
    }

    pub(super) fn vendor(&self) -> &'static Catalog {
        self.pool.vendor.catalog
    }

    /// The canonical path in the path that arrived.
    pub(super) fn path<'a>(&self, arrived: &'a [u8]) -> &'a [u8] {
        arrived.get(arrived.len().saturating_sub(self.path_bytes)..).unwrap_or_default()
    }

    pub(super) fn price(&self) -> Price {
        self.call().price()
    }

    fn call(&self) -> Call<'_> {
        let Target { method, operation, unlisted_reads, .. } = *self;
        Call { method, path: &[], operation, unlisted_reads }
    }
}

/// Finds the key, the vendor and the operation, and asks the policy.
pub(super) fn recognize(
    shard: &Shard,
    agent: &Downstream,
    trace: &mut Trace,
) -> Result<(Target, Permit), Deny> {
    let (head, input) = (agent.head(), agent.input());
    let Some(entry) = find_key(shard, agent, &trace.current) else {
        shard.metrics.wrong_keys.add(1);
        return Err(Deny::Unauthorized);
    };
    // Before anything of the policy is read (rule Q8).
    let epoch = entry.epoch();
    let record = entry.record();
    trace.recognized(agent, &record);
    if !entry.is_open(shard.clock.expiry(shard.now())) {
        return Err(Deny::Unauthorized);
    }
    let full_path = head.path(input);
    let (vendor, path) = match route(full_path) {
        Ok(Route::Vendor { mount, path }) => (mount, path),
        Ok(Route::Bare { path }) => (record.policy.vendor.as_bytes(), path),
        Ok(Route::Keys | Route::Live | Route::Ready) => return Err(Deny::NotFound),
        Err(_) => {
            let problem = "the path is ambiguous; send the vendor's path behind the vendor's name";
            return Err(Deny::Malformed { status: 400, problem: problem.into() });
        }
    };
    let is_own = vendor == record.policy.vendor.as_bytes();
    let catalog = catalog_of(&trace.current, vendor).filter(|_| is_own).ok_or(Deny::Vendor)?;
    let label = catalog.label(path);
    let call = catalog.recognize(head.method(), path);
    trace.called(catalog, &call);
    let label = label.map_err(|problem| Deny::Malformed { status: 400, problem: problem.into() })?;
    let leads_to = |pool: &Pool| pool.vendor.config.name.as_bytes() == vendor && pool.vendor.label == label;
    let mut pools = trace.current.pools.iter().enumerate();
    let (pool_number, pool) = pools.find(|(_, pool)| leads_to(pool)).ok_or(Deny::Vendor)?;
    let pool = Rc::clone(pool);
    if head.is_get_with_body() && !catalog.drops_empty_bodies {
        return Err(get_with_body());
    }
    let refused_by = |(reason, by): (Deny, _)| {
        trace.refused_by(by);
        reason
    };
    let permit =
        judge_account(agent, catalog, &entry).and_then(|()| entry.permit(&call)).map_err(refused_by)?;
    let Call { method, operation, unlisted_reads, .. } = call;
    let path_bytes = path.len();
    Ok((Target { entry, epoch, pool, pool_number, operation, unlisted_reads, method, path_bytes }, permit))
}

/// Refuses a header that switches the account, unless every policy of the chain names that very account (rule A4). One
/// that is there twice, or beside another one, or that would not be sent on, has more than one reading.
fn judge_account(
    agent: &Downstream,
    catalog: &Catalog,
    entry: &KeyEntry,
) -> Result<(), (Deny, Arc<KeyRecord>)> {
    let (head, input) = (agent.head(), agent.input());
    let mut named = catalog.account_fields.iter().filter_map(|name| Some((*name, head.field(input, name)?)));
    let Some((name, account)) = named.next() else { return Ok(()) };
    let is_plain =
        named.next().is_none() && !head.repeats(input, name) && !head.drops(input, name.as_bytes());
    entry.allow(|restrictions| match is_plain && restrictions.allows_account(account) {
        true => Ok(()),
        false => Err(Deny::Account),
    })
}

/// The catalog of a configured vendor.
fn catalog_of(current: &Current, vendor: &[u8]) -> Option<&'static Catalog> {
    let pool = current.pools.iter().find(|pool| pool.vendor.config.name.as_bytes() == vendor)?;
    Some(pool.vendor.catalog)
}

fn get_with_body() -> Deny {
    Deny::Malformed { status: 400, problem: "a GET must not have a body".into() }
}

/// The key in the vendor's credential slot; `None` for one that is unknown or malformed.
fn find_key(shard: &Shard, agent: &Downstream, current: &Current) -> Option<Arc<KeyEntry>> {
    let (head, input) = (agent.head(), agent.input());
    let mut scratch = [0; 512];
    let slot = match route(head.path(input)) {
        Ok(Route::Vendor { mount, .. }) => catalog_of(current, mount).map(|catalog| &catalog.slot),
        Ok(Route::Bare { .. } | Route::Keys | Route::Live | Route::Ready) | Err(_) => None,
    };
    let text = match slot {
        // Two of them would be two keys, or the vendor's choice of one.
        Some(Slot::Header { name, .. }) if head.repeats(input, name) => None,
        Some(Slot::Header { name, scheme }) => key::behind_scheme(head.field(input, name)?, scheme),
        Some(Slot::Bearer | Slot::Basic | Slot::Twilio) | None => {
            key::in_authorization(head.authorization(input)?, &mut scratch)
        }
    }?;
    let digest = shard.digester.digest(text);
    shard.registry.borrow().find(&digest).map(Arc::clone)
}

/// Judges the body and its parameters: what the policy refuses anyway neither waits nor is looked up.
pub(super) fn judge(
    agent: &Downstream,
    target: &Target,
    catalog: &Catalog,
    trace: &mut Trace,
) -> Result<(), Deny> {
    judge_form(agent, target, catalog)?;
    let (head, input) = (agent.head(), agent.input());
    let call = Call { path: target.path(head.path(input)), ..target.call() };
    let query = head.query(input).unwrap_or_default();
    let body = body(agent, target.method, call.path, catalog);
    let parameters = Parameters { call: &call, query, body };
    target.entry.allow(|restrictions| restrictions.params.allow(&parameters)).map_err(|(reason, by)| {
        trace.refused_by(by);
        reason
    })
}

/// Finds what the call may cost at most. Nothing is kept aside yet.
pub(super) fn price(
    shard: &Shard,
    agent: &Downstream,
    target: &Target,
    known: Known,
    trace: &mut Trace,
) -> Result<(), Deny> {
    let per_call_max = target.entry.max_usd_per_call();
    let (bound, today) = (target.entry.bound(), shard.today());
    let unpriced_hold = target.entry.unpriced_hold();
    let terms = Terms { bound, per_call_max: unpriced_hold, book: &trace.current.settings.book, today };
    let request = priced(agent, target);
    trace.quote = price::quote(target.price(), request, known, &terms).map_err(unquoted)?;
    trace.held = trace.quote.amount;
    match per_call_max {
        Some(most) if trace.quote.whole() > most => {
            Err(Deny::Restriction(Restriction::CallTooLarge { quote: trace.quote.whole(), most }))
        }
        Some(_) | None => Ok(()),
    }
}

/// The body in the form that the vendor reads at this path.
fn body<'a>(agent: &'a Downstream, method: Method, path: &[u8], catalog: &Catalog) -> Body<'a> {
    let content_type = agent.head().content_type(agent.input());
    let is_of = |kind: fn(&[u8]) -> bool| content_type.is_some_and(kind);
    let may_be = catalog.bodies.of(path);
    // That of a GET is not sent (rule H3).
    if agent.body().is_empty() || method == Method::Get {
        Body::Form(b"")
    } else if may_be.form && is_of(price::is_form) {
        Body::Form(agent.body())
    } else if may_be.json && is_of(json::is_json) {
        Body::Json(agent.body())
    } else {
        Body::Other
    }
}

/// Prices the request, keeps the quote aside and records the intent. Nothing is awaited here: what
/// was checked is what is held.
pub(super) fn admit(
    shard: &Rc<Shard>,
    agent: &Downstream,
    permit: Permit,
    target: &Target,
    ground: &Ground,
    trace: &mut Trace,
) -> Result<Admitted, Deny> {
    let entry = &target.entry;
    price(shard, agent, target, ground.known, trace)?;
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
    let held = match ground.identity {
        Some(identity) => Hold::share(entry, &shard.journal, (&shard.memory, identity), (today, now), quote),
        None => Hold::reserve(entry, &shard.journal, today, quote),
    };
    let mut hold = held.map_err(|refusal| Deny::by_ledger(refusal, entry.id, quote))?;
    // Dropped without an intent it is released.
    hold.count(&shard.tally).map_err(|used_up| used_up.refusal(now))?;
    trace.held = hold.quote();
    let keys = entry.account.keys();
    let row = trace.intent(agent).encode(Vec::with_capacity(ROW_BYTES));
    let intent = shard.journal.intent(keys, hold.day(), trace.held, hold.shared(), &row);
    let Ok(intent) = intent else {
        hold.release(today);
        return Err(Deny::AuditUnavailable);
    };
    hold.recorded(intent, row);
    trace.intent = Some(intent);
    let ticket = shard.in_flight.board(entry.id, intent);
    Ok(Admitted { permit, hold, ticket, epoch: target.epoch })
}

/// The parts of the request that a price is read from.
pub(super) fn priced<'a>(agent: &'a Downstream, target: &Target) -> Priced<'a> {
    let (head, input) = (agent.head(), agent.input());
    Priced {
        path: target.path(head.path(input)),
        content_type: head.content_type(input),
        query: head.query(input),
        body: agent.body(),
    }
}

/// What makes a request the same as another one of its vault key, where the vendor carries such requests
/// out once (rule Q5).
pub(super) fn identify(agent: &Downstream, target: &Target, catalog: &Catalog) -> Option<Identity> {
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
    add(target.entry.vendor_account.as_bytes());
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
    if target.method == Method::Get {
        // Only where the catalog says so does one come this far, and it is not sent (rule H3).
        return if agent.body().trim_ascii() == b"{}" { Ok(()) } else { Err(get_with_body()) };
    }
    let refuse = |problem: &'static str| Err(Deny::Malformed { status: 415, problem: problem.into() });
    if head.content_encoding(input).is_some() {
        return refuse("send the body without Content-Encoding");
    }
    let is_form = head.content_type(input).is_some_and(price::is_form);
    let may_be = catalog.bodies.of(target.path(head.path(input)));
    if may_be.form && is_form {
        return refuse_parameters(catalog, agent.body());
    }
    if !may_be.json {
        return refuse("send the parameters as application/x-www-form-urlencoded");
    }
    // A list has no members.
    if agent.body().trim_ascii_start().starts_with(b"[") {
        return Ok(());
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

pub(super) fn unquoted(error: QuoteError) -> Deny {
    match error {
        QuoteError::Unpriced(why) => Deny::Unpriced(why),
        QuoteError::Currency(no_rate) => Deny::Currency(no_rate),
        QuoteError::Malformed(problem) => Deny::Malformed { status: 400, problem },
        QuoteError::MediaType => Deny::Malformed {
            status: 415,
            problem:
                "send the parameters as the Content-Type that the vendor documents for this call, without \
                      Content-Encoding"
                    .into(),
        },
    }
}

/// Whose answer a reply is: the vendor says when it is a stored one.
pub(super) fn answer(reply: &Reply, catalog: &Catalog) -> Answer {
    let (head, input) = reply.head();
    if catalog.replayed_field.is_empty() {
        // It does not say, and promises to carry a request out once: whichever answer comes first is paid for.
        return Answer::Replayed;
    }
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
    let pool = target.pool();
    let canonical = target.path(head.path(input));
    // The one place where what is sent is not what arrived: the account is the credential's, and a label is in the name
    // of its host.
    let vendor = &pool.vendor;
    let credential = target.credential()?;
    let replaced = credential.sid.as_deref().and_then(|sid| vendor.catalog.with_account(canonical, sid));
    let label = vendor.label.filter(|_| vendor.drops_label);
    let unlabeled = label.and_then(|label| canonical.strip_prefix(b"/")?.strip_prefix(label.as_bytes()));
    let path = replaced.as_deref().or(unlabeled).unwrap_or(canonical);
    // An account that the policy does not name was refused when the request was recognized.
    let allowed = vendor.catalog.request_fields.iter().chain(vendor.catalog.account_fields);
    let is_allowed = |name: &[u8]| allowed.clone().any(|field| field.as_bytes().eq_ignore_ascii_case(name));
    let idempotency_key = head.idempotency_key(input).map(|key| namespaced(&target.entry, key));
    let mut fields: Vec<(&[u8], &[u8])> = Vec::with_capacity(16);
    for (name, value) in head.fields(input) {
        if is_allowed(name) && !head.drops(input, name) {
            fields.push((name, value));
        }
    }
    fields.extend(idempotency_key.as_deref().map(|key| (&b"Idempotency-Key"[..], key)));
    let is_dropped = target.method == Method::Get && vendor.catalog.drops_empty_bodies;
    let has_body = (head.framing() != BodyFraming::None && !is_dropped)
        || matches!(target.method, Method::Post | Method::Put | Method::Patch);
    let outgoing = Outgoing {
        credential: &credential,
        line: encode::RequestLine { method: target.method, path, query: head.query(input) },
        fields: &fields,
        body: has_body.then(|| agent.body()),
    };
    upstream::forward(shard, pool, admitted, &outgoing, now).await
}

/// An Idempotency-Key of this vault key alone, so that no agent is handed another's stored answer
/// (rule M8). The same key gives the same text, so that the vendor replays.
fn namespaced(entry: &KeyEntry, key: &[u8]) -> Vec<u8> {
    let prefix = entry.id.as_bytes();
    let text = [prefix, &b"-"[..], key].concat();
    if text.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let hash = digest::digest(&digest::SHA256, key);
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        return [prefix, &b"-"[..], hex.as_bytes()].concat();
    }
    text
}
