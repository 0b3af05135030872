//! api.stripe.com as a state machine: a request goes in, an answer and its ledger entry come out. No socket, no
//! clock, no file.
//!
//! An answer says how it is delivered too, since a vendor that breaks is part of what is played here.

mod auth;
mod charges;
mod customers;
mod fault;
mod form;
mod intents;
mod objects;
mod outflows;
mod plan;
mod refusal;
mod replay;
mod store;

use std::rc::Rc;
use std::time::Duration;

use keybrake_proto::http1::Method;
use serde::Serialize;

pub(crate) use plan::{Every, Plan, Script, Weights};

use auth::Keys;
use fault::Fault;
pub(crate) use form::Form;
use objects::{Charge, Customer, PaymentIntent, Payout, Refund, Topup, Transfer};
use plan::Outcome;
use refusal::Refusal;
use replay::{Replays, Seen, Stored};
use store::{Object, Store};

/// From this version on, intents have `latest_charge` instead of `charges`, and charges no `refunds`.
const LATEST_CHARGE_VERSION: &str = "2022-11-15";
const BALANCE: &str = r#"{"object":"balance","available":[{"amount":0,"currency":"usd","source_types":{"card":0}}],"livemode":false,"pending":[{"amount":0,"currency":"usd","source_types":{"card":0}}]}"#;

/// How the stand-in is set up.
pub(crate) struct Setup {
    /// The keys that are let in; any `sk_test_…` if there are none.
    pub(crate) keys: Vec<String>,
    /// What goes wrong without being asked for by a request.
    pub(crate) plan: Plan,
    /// How many objects of a kind, and answers to idempotency keys, are remembered.
    pub(crate) kept_max: usize,
    /// Stands in every id, so that two runs never share one.
    pub(crate) run: u32,
}

/// Everything a Stripe account would hold.
pub(crate) struct State {
    keys: Keys,
    plan: Plan,
    replays: Replays,
    run: u32,
    requests: u64,
    transactions: u64,
    charges: Store<Charge>,
    intents: Store<PaymentIntent>,
    refunds: Store<Refund>,
    payouts: Store<Payout>,
    transfers: Store<Transfer>,
    topups: Store<Topup>,
    customers: Store<Customer>,
}

/// A request as it was read from the wire.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The method.
    pub(crate) method: Method,
    /// The path.
    pub(crate) path: &'a str,
    /// The query, without `?`.
    pub(crate) query: &'a [u8],
    /// The value of Authorization.
    pub(crate) authorization: Option<&'a [u8]>,
    /// The value of Idempotency-Key.
    pub(crate) idempotency_key: Option<&'a str>,
    /// The value of Stripe-Version, or the account's.
    pub(crate) version: &'a str,
    /// The body, decoded from its framing.
    pub(crate) body: &'a [u8],
    /// Seconds since the epoch.
    pub(crate) now_s: u64,
}

/// How an answer reaches the caller, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// At once.
    Whole,
    /// Late by this much.
    After(Duration),
    /// Never, although there is one; the connection stays open.
    Never,
    /// There is none; the connection stays open.
    NeverBefore,
    /// Half of it, then the connection is closed.
    Cut,
    /// None of it, although there is one: the connection is closed.
    CutAfter,
    /// There is none: the connection is closed.
    CutBefore,
}

impl Delivery {
    /// Whether there is an answer, delivered or not.
    pub(crate) fn has_answer(self) -> bool {
        !matches!(self, Delivery::CutBefore | Delivery::NeverBefore)
    }

    /// Its name in the ledger.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Delivery::Whole => "whole",
            Delivery::After(_) => "slow",
            Delivery::Never => "hang",
            Delivery::NeverBefore => "hang_before",
            Delivery::Cut => "cut",
            Delivery::CutAfter => "cut_after",
            Delivery::CutBefore => "cut_before",
        }
    }
}

/// What a request came to.
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// JSON.
    pub(crate) body: Rc<Vec<u8>>,
    /// This request's id.
    pub(crate) request_id: String,
    /// The id of the request whose answer this is, if it is a replay.
    pub(crate) original_request: Option<String>,
    /// How it is delivered.
    pub(crate) delivery: Delivery,
    /// What the ledger says about it.
    pub(crate) entry: Entry,
}

/// What the ledger says about a request, beside its text.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// Its key was let in.
    pub(crate) authorized: bool,
    /// Its Authorization held a vault key, plain or inside Basic.
    pub(crate) vault_key_presented: bool,
    /// It was carried out and may have changed something: never for a read, a refusal or a replay.
    pub(crate) accepted: bool,
    /// What it committed, in minor units of its currency: the judge's word for money spent.
    pub(crate) committed_minor: u64,
    /// The name of the outcome that was asked for, by the request or by the plan.
    pub(crate) outcome: Option<&'static str>,
    /// `amount` as Stripe would read it.
    pub(crate) amount: Option<u64>,
    /// The currency of what was committed, else `currency` as sent; lower case.
    pub(crate) currency: Option<String>,
}

/// One request's parameters and what shapes its answer.
struct Call<'a> {
    form: Form<'a>,
    now_s: u64,
    /// The client expects the shapes before [`LATEST_CHARGE_VERSION`].
    is_legacy: bool,
    /// The decline code, if a card is to be declined.
    declined: Option<&'static str>,
}

/// A success.
struct Done {
    body: Vec<u8>,
    committed_minor: u64,
    currency: Option<String>,
}

impl Done {
    /// An answer that moved no money.
    fn free(object: &impl Serialize) -> Done {
        Done { body: json(object), committed_minor: 0, currency: None }
    }

    /// An answer that committed money.
    fn committed(object: &impl Serialize, minor: u64, currency: &str) -> Done {
        Done { body: json(object), committed_minor: minor, currency: Some(currency.to_owned()) }
    }
}

type Result<T> = std::result::Result<T, Refusal>;

impl State {
    /// An empty account.
    pub(crate) fn new(setup: Setup) -> State {
        let Setup { keys, plan, kept_max, run } = setup;
        State {
            keys: Keys::new(keys),
            plan,
            replays: Replays::new(kept_max),
            run,
            requests: 0,
            transactions: 0,
            charges: Store::new(run, kept_max),
            intents: Store::new(run, kept_max),
            refunds: Store::new(run, kept_max),
            payouts: Store::new(run, kept_max),
            transfers: Store::new(run, kept_max),
            topups: Store::new(run, kept_max),
            customers: Store::new(run, kept_max),
        }
    }

    fn next_request_id(&mut self) -> String {
        self.requests = self.requests.saturating_add(1);
        format!("req_{:08x}{:010}", self.run, self.requests)
    }

    fn next_transaction_id(&mut self) -> String {
        self.transactions = self.transactions.saturating_add(1);
        format!("txn_3{:08x}{:012}", self.run, self.transactions)
    }
}

/// Answers one request.
pub(crate) fn handle(state: &mut State, request: &Request<'_>) -> Answer {
    let request_id = state.next_request_id();
    let presented = state.keys.judge(request.authorization);
    let mut form = Form::parse(request.query);
    form.append(request.body);
    let entry = Entry {
        authorized: presented.verdict.is_ok(),
        vault_key_presented: presented.is_vault_key,
        amount: form.get("amount").and_then(|amount| amount.parse().ok()),
        currency: form.text("currency").map(str::to_ascii_lowercase),
        ..Entry::default()
    };
    let mut answer = Answer {
        status: 200,
        body: Rc::default(),
        request_id,
        original_request: None,
        delivery: Delivery::Whole,
        entry,
    };
    if let Err(refusal) = presented.verdict {
        answer.refuse(&refusal);
    } else {
        dispatch(state, request, form, &mut answer);
    }
    answer
}

/// The answer to bytes that are no request, after which the connection must close.
pub(crate) fn refuse_malformed(state: &mut State, status: u16, why: &str) -> Answer {
    let mut answer = Answer {
        status,
        body: Rc::default(),
        request_id: state.next_request_id(),
        original_request: None,
        delivery: Delivery::Whole,
        entry: Entry::default(),
    };
    answer.refuse(&Refusal::malformed(status, why));
    answer
}

impl Answer {
    fn refuse(&mut self, refusal: &Refusal) {
        self.status = refusal.status;
        self.body = Rc::new(json(&refusal.body));
    }

    fn replay(&mut self, stored: &Stored) {
        self.status = stored.status;
        self.body = Rc::clone(&stored.body);
        self.original_request = Some(stored.request_id.clone());
    }
}

/// Replays or carries out an authorized request.
fn dispatch(state: &mut State, request: &Request<'_>, form: Form<'_>, answer: &mut Answer) {
    // Stripe ignores the key on reads.
    let key = request.idempotency_key.filter(|key| request.method == Method::Post && !key.is_empty());
    if let Some(key) = key {
        match state.replays.find(key, request.path, request.query, request.body) {
            Seen::Never => {}
            Seen::Same(stored) => return answer.replay(stored),
            Seen::Other => return answer.refuse(&Refusal::key_reused(key)),
        }
    }
    let outcome = if request.method == Method::Post {
        Fault::of(&form).map(Outcome::Fault).or_else(|| state.plan.next())
    } else {
        None
    };
    answer.entry.outcome = outcome.map(Outcome::name);
    let fault = outcome.and_then(Outcome::fault);
    if let Some(fault) = fault
        && answer.prevent(fault)
    {
        // An answer counts as Stripe's own from where execution began; of these, only a 500 may have begun.
        if let Some(key) = key.filter(|_| fault == Fault::BrokenBefore) {
            state.replays.remember(key, Stored::new(request.path, request.query, request.body, answer));
        }
        return;
    }
    let call = Call {
        form,
        now_s: request.now_s,
        is_legacy: request.version < LATEST_CHARGE_VERSION,
        declined: fault.and_then(Fault::decline_code),
    };
    let is_executed = match execute(state, &call, request.method, request.path) {
        Ok(done) => {
            answer.settle(request.method, done, fault);
            true
        }
        Err(refusal) => {
            answer.refuse(&refusal);
            refusal.status == 402
        }
    };
    // Stripe remembers an answer once execution began, errors included; a refused parameter is not remembered.
    if let Some(key) = key.filter(|_| is_executed) {
        let stored = Stored::new(request.path, request.query, request.body, answer);
        state.replays.remember(key, stored);
    }
}

impl Answer {
    /// Lets it end without being carried out, if that is what goes wrong.
    fn prevent(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::RateLimited => self.refuse(&Refusal::rate_limited()),
            Fault::Conflict => self.refuse(&Refusal::locked()),
            Fault::BrokenBefore => self.refuse(&Refusal::broken()),
            Fault::HangBefore => self.delivery = Delivery::NeverBefore,
            Fault::CutBefore => self.delivery = Delivery::CutBefore,
            Fault::Declined(_)
            | Fault::Broken
            | Fault::Hang
            | Fault::Cut
            | Fault::CutAfter
            | Fault::Slow(_) => return false,
        }
        true
    }

    /// A request that was carried out, and what is to go wrong afterwards.
    fn settle(&mut self, method: Method, done: Done, fault: Option<Fault>) {
        self.body = Rc::new(done.body);
        self.entry.accepted = method != Method::Get;
        self.entry.committed_minor = done.committed_minor;
        if done.currency.is_some() {
            self.entry.currency = done.currency;
        }
        match fault {
            Some(Fault::Broken) => self.refuse(&Refusal::broken()),
            Some(Fault::Hang) => self.delivery = Delivery::Never,
            Some(Fault::Cut) => self.delivery = Delivery::Cut,
            Some(Fault::CutAfter) => self.delivery = Delivery::CutAfter,
            Some(Fault::Slow(delay)) => self.delivery = Delivery::After(delay),
            Some(_) | None => {}
        }
    }
}

/// Carries out a request under `/v1/`.
fn execute(state: &mut State, call: &Call<'_>, method: Method, path: &str) -> Result<Done> {
    let segments: Vec<&str> = path.strip_prefix("/v1/").unwrap_or_default().split('/').collect();
    let unrecognized = || Refusal::unrecognized_url(method.as_str(), path);
    match (method, segments.as_slice()) {
        (Method::Get, ["balance"]) => {
            Ok(Done { body: BALANCE.as_bytes().to_vec(), committed_minor: 0, currency: None })
        }
        (Method::Post, ["charges"]) => charges::create(state, call),
        (Method::Get, ["charges", id]) => charges::show(state, call, id),
        (Method::Post, ["charges", id]) => {
            update(&mut state.charges, call, id)?;
            charges::show(state, call, id)
        }
        (Method::Post, ["charges", id, "capture"]) => charges::capture(state, call, id),
        (Method::Post, ["charges", id, "refund"]) => charges::refund_and_show(state, call, id),
        (Method::Post, ["charges", id, "refunds"]) => charges::refund(state, call, id),
        (Method::Get, ["charges", id, "refunds"]) => charges::refunds_of(state, id),
        (Method::Post, ["payment_intents"]) => intents::create(state, call),
        (Method::Get, ["payment_intents", id]) => intents::show(state, call, id),
        (Method::Post, ["payment_intents", id]) => intents::update(state, call, id),
        (Method::Post, ["payment_intents", id, "confirm"]) => intents::confirm(state, call, id),
        (Method::Post, ["payment_intents", id, "capture"]) => intents::capture(state, call, id),
        (Method::Post, ["payment_intents", id, "cancel"]) => intents::cancel(state, call, id),
        (Method::Post, ["refunds"]) => charges::refund_named(state, call),
        (Method::Post, ["payouts"]) => outflows::create_payout(state, call),
        (Method::Post, ["transfers"]) => outflows::create_transfer(state, call),
        (Method::Post, ["topups"]) => outflows::create_topup(state, call),
        (Method::Post, ["customers"]) => customers::create(state, call),
        (Method::Post, ["customers", id]) => customers::update(state, call, id),
        (Method::Delete, ["customers", id]) => customers::delete(state, id),
        (Method::Get, ["customers", id]) => customers::show(state, id),
        (Method::Get, [segment]) => list(state, call, segment).ok_or_else(unrecognized),
        (Method::Get, ["refunds", id]) => retrieve(&state.refunds, id),
        (Method::Get, ["payouts", id]) => retrieve(&state.payouts, id),
        (Method::Get, ["transfers", id]) => retrieve(&state.transfers, id),
        (Method::Get, ["topups", id]) => retrieve(&state.topups, id),
        (Method::Post, ["refunds", id]) => update(&mut state.refunds, call, id),
        (Method::Post, ["payouts", id]) => update(&mut state.payouts, call, id),
        (Method::Post, ["transfers", id]) => update(&mut state.transfers, call, id),
        (Method::Post, ["topups", id]) => update(&mut state.topups, call, id),
        _ => Err(unrecognized()),
    }
}

fn list(state: &State, call: &Call<'_>, segment: &str) -> Option<Done> {
    let form = &call.form;
    Some(match segment {
        Charge::SEGMENT => Done::free(&state.charges.page(form)),
        PaymentIntent::SEGMENT => Done::free(&state.intents.page(form)),
        Refund::SEGMENT => Done::free(&state.refunds.page(form)),
        Payout::SEGMENT => Done::free(&state.payouts.page(form)),
        Transfer::SEGMENT => Done::free(&state.transfers.page(form)),
        Topup::SEGMENT => Done::free(&state.topups.page(form)),
        Customer::SEGMENT => Done::free(&state.customers.page(form)),
        _ => return None,
    })
}

fn retrieve<T: Object>(store: &Store<T>, id: &str) -> Result<Done> {
    Ok(Done::free(store.get(id, "id")?))
}

/// Changes what every object lets change: its metadata and description.
fn update<T: Object>(store: &mut Store<T>, call: &Call<'_>, id: &str) -> Result<Done> {
    let object = store.get_mut(id, "id")?;
    call.form.merge_metadata(object.metadata());
    if let (Some(description), Some(text)) = (object.description(), call.form.get("description")) {
        *description = Some(text.to_owned()).filter(|text| !text.is_empty());
    }
    Ok(Done::free(object))
}

impl Call<'_> {
    /// A required amount: at least one minor unit.
    fn amount(&self) -> Result<u64> {
        self.optional_amount("amount")?.ok_or_else(|| Refusal::missing("amount"))
    }

    /// An amount that may be left out.
    fn optional_amount(&self, param: &'static str) -> Result<Option<u64>> {
        let Some(text) = self.form.text(param) else { return Ok(None) };
        let amount = text.parse().ok().filter(|amount| *amount > 0);
        amount.map(Some).ok_or_else(|| Refusal::bad_integer(param, text))
    }

    /// The required currency, in lower case.
    fn currency(&self) -> Result<String> {
        let text = self.form.text("currency").ok_or_else(|| Refusal::missing("currency"))?;
        let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_alphabetic());
        if is_code { Ok(text.to_ascii_lowercase()) } else { Err(Refusal::bad_currency(text)) }
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("objects of texts, numbers and text-keyed maps always serialize")
}

#[cfg(test)]
mod tests;
