//! What is known of an exchange, and its audit row.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::catalog::currency::Currency;
use keybrake_proto::catalog::price::{self, Quote};
use keybrake_proto::catalog::{Call, Catalog, Operation};
use keybrake_proto::config::Proxy;
use keybrake_proto::context::Context;
use keybrake_proto::deny::Deny;
use keybrake_proto::http1::Method;
use keybrake_proto::journal::{End, IntentId};
use keybrake_proto::json;
use keybrake_proto::key;
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;

use crate::downstream::Downstream;
use crate::hold::Ended;
use crate::registry::KeyRecord;
use crate::settings::Current;
use crate::shard::Shard;
use crate::upstream::Reply;

/// The longest text of an agent or a vendor in a row; paths are longer at most by their own limit.
const TEXT_BYTES_MAX: usize = 256;

/// What the policy said of a request that is forwarded.
const ALLOWED: &str = "allowed";

/// What is known of an exchange so far.
pub(super) struct Trace {
    pub(super) id: String,
    pub(super) quote: Quote,
    pub(super) intent: Option<IntentId>,
    /// What is held for it, or would be if it fitted.
    pub(super) held: Micros,
    /// What the configuration said when its head had arrived: it holds for the whole request.
    pub(super) current: Rc<Current>,
    ts: UnixMicros,
    began: Instant,
    sent: Option<Instant>,
    vendor_us: u64,
    key: Option<Arc<KeyRecord>>,
    /// The key, of the chain, whose rules refused it.
    refused_by: Option<Arc<KeyRecord>>,
    vendor: &'static str,
    operation: Option<&'static Operation>,
    /// The canonical path is so many last bytes of the path that arrived.
    path_bytes: Option<usize>,
    vendor_request_id: Option<String>,
    /// What the request says of its sender.
    context: Context,
    /// No text of the request holds a vault key.
    has_no_key: bool,
}

/// How an exchange ended.
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    /// The status the agent gets.
    pub(super) status: u16,
    /// `allowed`, or the code of the refusal.
    pub(super) result: &'static str,
    /// What the hold came to, where there was one.
    pub(super) ended: Option<Ended>,
}

/// What stands in a row in place of a path that holds a vault key.
const WITHHELD: &str = "(withheld)";

/// What the id of a look-up's row has behind that of the call that needs it.
const LOOK_UP: &str = "_lookup";

/// The row of a look-up.
pub(super) struct LookUpRow<'a> {
    id: String,
    row: AuditRow<'a>,
}

impl LookUpRow<'_> {
    /// What is told of it if nothing ever ends it.
    pub(super) fn begun(&self) -> AuditRow<'_> {
        AuditRow { id: &self.id, ..self.row.clone() }
    }

    /// It ended with this status of the vendor's; 0 is without a reply.
    pub(super) fn ended(&self, status: u16, began: Instant) -> AuditRow<'_> {
        AuditRow { id: &self.id, status, latency_us: micros_since(began), overhead_us: 0, ..self.row.clone() }
    }
}

impl Ending {
    /// The policy allowed it.
    pub(super) fn allowed(outcome: Outcome, ended: Ended, status: u16) -> Ending {
        Ending { outcome, status, result: ALLOWED, ended: Some(ended) }
    }

    /// keybrake refused it; status and code are the refusal's.
    pub(super) fn denied(ended: Option<Ended>) -> Ending {
        Ending { outcome: Outcome::Denied, status: 0, result: "", ended }
    }
}

impl Trace {
    /// The limits towards its agent.
    pub(super) fn proxy(&self) -> &Proxy {
        self.current.proxy()
    }

    /// A request whose head has just arrived.
    pub(super) fn begin(shard: &Shard) -> Trace {
        Trace {
            id: shard.next_request_id(),
            quote: Quote::default(),
            intent: None,
            held: Micros::ZERO,
            current: shard.current(),
            ts: shard.now(),
            began: Instant::now(),
            sent: None,
            vendor_us: 0,
            key: None,
            refused_by: None,
            vendor: "",
            operation: None,
            path_bytes: None,
            vendor_request_id: None,
            context: Context::default(),
            has_no_key: false,
        }
    }

    /// Its key is known, as of one version.
    pub(super) fn recognized(&mut self, agent: &Downstream, record: &Arc<KeyRecord>) {
        if self.key.replace(Arc::clone(record)).is_none() {
            self.context.add_fields(agent.head().fields(agent.input()));
        }
    }

    /// Its body is there.
    pub(super) fn read(&mut self, agent: &Downstream) {
        let (head, input) = (agent.head(), agent.input());
        if head.content_type(input).is_some_and(price::is_form) {
            self.context.add_form(agent.body());
        } else if head.content_type(input).is_some_and(json::is_json) {
            self.context.add_json(agent.body());
        }
        self.context.add_form(head.query(input).unwrap_or_default());
    }

    /// None of its texts holds a vault key, so that all of them may be written down.
    pub(super) fn holds_no_key(&mut self) {
        self.has_no_key = true;
    }

    /// When its head had arrived.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// The rules of this key, or of one above it, do not allow it.
    pub(super) fn refused_by(&mut self, record: Arc<KeyRecord>) {
        self.refused_by = Some(record);
    }

    /// Its decision was taken back before anything was sent: nothing is held for it.
    pub(super) fn withdrawn(&mut self) {
        (self.intent, self.held, self.sent) = (None, Micros::ZERO, None);
    }

    /// Its vendor and operation are known.
    pub(super) fn called(&mut self, catalog: &'static Catalog, call: &Call<'_>) {
        self.vendor = catalog.name;
        self.operation = call.operation;
        self.path_bytes = Some(call.path.len());
    }

    /// It goes to the vendor now: answers when that is.
    pub(super) fn sent(&mut self) -> Instant {
        *self.sent.insert(Instant::now())
    }

    /// The vendor's reply is there, or as much of it as is waited for.
    pub(super) fn replied(&mut self, reply: &Reply, catalog: &Catalog) {
        self.vendor_done();
        let (head, input) = reply.head();
        self.vendor_request_id =
            head.field(input, catalog.request_id_field).and_then(text).map(str::to_owned);
    }

    /// The vendor's part is over, with or without a reply.
    pub(super) fn vendor_done(&mut self) {
        self.vendor_us = self.sent.map_or(0, micros_since);
    }

    /// The vendor's name.
    pub(super) fn vendor(&self) -> &'static str {
        self.vendor
    }

    /// Whether the key was recognized.
    pub(super) fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// What a policy allows in place of what `reason` refuses, for the message of a denial: that of this key, or of
    /// the one above it that refuses.
    pub(super) fn allowed(&self, reason: &Deny) -> String {
        let Some(record) = self.refused_by.as_ref().or(self.key.as_ref()) else { return String::new() };
        if matches!(reason, Deny::Account) {
            return record.policy.restrictions.stripe_accounts.join(", ");
        }
        if !matches!(reason, Deny::Endpoint { .. }) {
            return String::new();
        }
        let rules: Vec<String> = record.policy.allowed_endpoints.iter().map(ToString::to_string).collect();
        rules.join(", ")
    }

    /// The row of an exchange that is about to be sent: what is told of it if nothing ever ends it.
    pub(super) fn intent<'a>(&'a self, agent: &'a Downstream) -> AuditRow<'a> {
        AuditRow { amount: self.held, ..self.row(agent, Outcome::Unknown, 0, ALLOWED) }
    }

    /// Writes the exchange's row, with what its hold came to.
    pub(super) fn record(&self, shard: &Shard, agent: &Downstream, ending: &Ending) {
        let amount = ending.ended.as_ref().map_or(Micros::ZERO, |ended| ended.amount);
        let row = AuditRow { amount, ..self.row(agent, ending.outcome, ending.status, ending.result) };
        let count = match ending.outcome {
            // A look-up counts apart, and an amendment is no exchange.
            Outcome::Forwarded | Outcome::Cut | Outcome::LookUp | Outcome::Amendment => {
                &shard.metrics.forwarded
            }
            Outcome::Denied => &shard.metrics.denied,
            Outcome::Failed => &shard.metrics.failed,
            Outcome::Unknown => &shard.metrics.unknown,
        };
        count.add(1);
        let end = ending.ended.as_ref().map_or(End::Booked, |ended| ended.end);
        let bookings = ending.ended.as_ref().map_or_else(Vec::new, Ended::recorded);
        let fate = ending.ended.as_ref().map(|ended| ended.fate);
        shard.journal.outcome(self.intent, end, bookings, fate, &row);
    }

    /// The row of a look-up that this exchange needs, as a call of its own.
    pub(super) fn look_up<'a>(&'a self, agent: &'a Downstream, call: &Call<'a>) -> LookUpRow<'a> {
        let path = std::str::from_utf8(call.path).unwrap_or_default();
        let endpoint = call.operation.map_or(path, |operation| operation.pattern);
        let row = AuditRow {
            method: Method::Get,
            endpoint,
            path,
            idempotency_key: None,
            ..self.row(agent, Outcome::LookUp, 0, ALLOWED)
        };
        LookUpRow { id: format!("{}{LOOK_UP}", self.id), row }
    }

    fn row<'a>(
        &'a self,
        agent: &'a Downstream,
        outcome: Outcome,
        status: u16,
        result: &'a str,
    ) -> AuditRow<'a> {
        let (head, input) = (agent.head(), agent.input());
        let path = head.path(input);
        let path = self
            .path_bytes
            .map_or(path, |bytes| path.get(path.len().saturating_sub(bytes)..).unwrap_or(path));
        let path = std::str::from_utf8(path).unwrap_or_default();
        // A vault key is on no disk (contract I8).
        let may_show = |text: &str| self.has_no_key || !key::stands_in(text.as_bytes());
        let shown = |value: &'a [u8]| text(value).filter(|_| self.has_no_key || !key::stands_in(value));
        let path = if may_show(path) { path } else { WITHHELD };
        let record = self.key.as_ref();
        let latency_us = micros_since(self.began);
        AuditRow {
            ts: self.ts,
            id: &self.id,
            vault_key_id: record.map(|record| record.id),
            label: record.and_then(|record| record.label.as_deref()),
            agent_run_label: record.and_then(|record| record.agent_run_label.as_deref()),
            vendor: self.vendor,
            method: head.method(),
            endpoint: self.operation.map_or(path, |operation| operation.pattern),
            path,
            status,
            policy_check_result: result,
            outcome,
            amount: Micros::ZERO,
            quote: self.held,
            currency: self.quote.currency.as_ref().map(Currency::as_str),
            amount_minor: self.quote.amount_minor,
            vendor_request_id: self.vendor_request_id.as_deref(),
            idempotency_key: head.idempotency_key(input).and_then(shown),
            latency_us,
            overhead_us: latency_us.saturating_sub(self.vendor_us),
            client_addr: agent.peer(),
            user_agent: head.field(input, "user-agent").and_then(shown),
            metadata: record.map_or_else(Vec::new, |record| {
                let own = record.metadata.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                // What the operator wrote on the key no agent can say otherwise.
                let said = self.context.entries().filter(|(name, value)| {
                    !record.metadata.contains_key(*name) && may_show(name) && may_show(value)
                });
                own.chain(said).collect()
            }),
            amends: None,
            account: record.map(|record| record.policy.account.as_str()),
            parent_key_id: record.and_then(|record| record.parent),
        }
    }
}

fn micros_since(instant: Instant) -> u64 {
    u64::try_from(instant.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The first part of a value that is a text; `None` where there is none.
fn text(value: &[u8]) -> Option<&str> {
    let value = value.get(..TEXT_BYTES_MAX).unwrap_or(value);
    value.utf8_chunks().next().map(|chunk| chunk.valid())
}
