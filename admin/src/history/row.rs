//! An audit row as the API shows it, in JSON and in CSV.

use std::collections::BTreeMap;

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::{Micros, usd};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The columns of [`Row`], in the order of its fields.
pub(crate) const COLUMNS: [&str; 34] = [
    "sequence",
    "ts",
    "id",
    "vault_key_id",
    "parent_key_id",
    "label",
    "agent_run_label",
    "vendor",
    "account",
    "method",
    "endpoint",
    "path",
    "status",
    "policy_check_result",
    "outcome",
    "amount_usd",
    "amount",
    "amount_micros",
    "quote_usd",
    "quote_micros",
    "currency",
    "amount_minor",
    "vendor_request_id",
    "idempotency_key",
    "latency_us",
    "overhead_us",
    "client_addr",
    "user_agent",
    "metadata",
    "agent_id",
    "agent_name",
    "agent_run_id",
    "crew_run_id",
    "amends",
];

/// One row of the audit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Row {
    /// The commit sequence: unique, and the cursor of pages.
    pub(crate) sequence: u64,
    /// When the request's head had arrived, RFC 3339.
    pub(crate) ts: String,
    pub(crate) id: String,
    pub(crate) vault_key_id: Option<KeyId>,
    /// The key directly above it.
    #[serde(default)]
    pub(crate) parent_key_id: Option<KeyId>,
    pub(crate) label: Option<String>,
    pub(crate) agent_run_label: Option<String>,
    pub(crate) vendor: String,
    /// Which of the vendor's accounts the key acts on.
    #[serde(default)]
    pub(crate) account: Option<String>,
    pub(crate) method: String,
    pub(crate) endpoint: String,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) policy_check_result: String,
    pub(crate) outcome: Outcome,
    /// Exact decimal USD.
    #[serde(with = "usd")]
    pub(crate) amount_usd: Micros,
    /// The same: the name published queries use.
    #[serde(with = "usd")]
    pub(crate) amount: Micros,
    pub(crate) amount_micros: Micros,
    /// Exact decimal USD.
    #[serde(with = "usd")]
    pub(crate) quote_usd: Micros,
    pub(crate) quote_micros: Micros,
    pub(crate) currency: Option<String>,
    pub(crate) amount_minor: Option<u64>,
    pub(crate) vendor_request_id: Option<String>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) latency_us: u64,
    pub(crate) overhead_us: u64,
    pub(crate) client_addr: String,
    pub(crate) user_agent: Option<String>,
    pub(crate) metadata: BTreeMap<String, String>,
    /// `agent_id` of the metadata.
    pub(crate) agent_id: Option<String>,
    /// `agent_name` of the metadata.
    #[serde(default)]
    pub(crate) agent_name: Option<String>,
    /// `agent_run_id` of the metadata.
    #[serde(default)]
    pub(crate) agent_run_id: Option<String>,
    /// `crew_run_id` of the metadata.
    #[serde(default)]
    pub(crate) crew_run_id: Option<String>,
    /// The id of the row whose amount this one replaces.
    pub(crate) amends: Option<String>,
}

impl Row {
    /// The stored row with this commit sequence.
    pub(crate) fn new(sequence: u64, row: &AuditRow<'_>) -> Row {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        // A later name wins, as the row's definition has it.
        let metadata: BTreeMap<String, String> =
            row.metadata.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Row {
            sequence,
            ts: row.ts.to_string(),
            id: row.id.to_owned(),
            vault_key_id: row.vault_key_id,
            parent_key_id: row.parent_key_id,
            label: owned(row.label),
            agent_run_label: owned(row.agent_run_label),
            vendor: row.vendor.to_owned(),
            account: owned(row.account),
            method: row.method.as_str().to_owned(),
            endpoint: row.endpoint.to_owned(),
            path: row.path.to_owned(),
            status: row.status,
            policy_check_result: row.policy_check_result.to_owned(),
            outcome: row.outcome,
            amount_usd: row.amount,
            amount: row.amount,
            amount_micros: row.amount,
            quote_usd: row.quote,
            quote_micros: row.quote,
            currency: owned(row.currency),
            amount_minor: row.amount_minor,
            vendor_request_id: owned(row.vendor_request_id),
            idempotency_key: owned(row.idempotency_key),
            latency_us: row.latency_us,
            overhead_us: row.overhead_us,
            client_addr: row.client_addr.to_owned(),
            user_agent: owned(row.user_agent),
            agent_id: metadata.get("agent_id").cloned(),
            agent_name: metadata.get("agent_name").cloned(),
            agent_run_id: metadata.get("agent_run_id").cloned(),
            crew_run_id: metadata.get("crew_run_id").cloned(),
            metadata,
            amends: owned(row.amends),
        }
    }
}

/// Appends one CSV cell (RFC 4180).
///
/// Agents write some of these texts, and spreadsheets run what begins like a formula: such cells get
/// a leading apostrophe (rule P4; OWASP adds tab and carriage return).
pub(crate) fn write_csv_cell(out: &mut String, value: &Value) {
    let text = match value {
        Value::Null => return,
        Value::String(text) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    };
    if text.contains(['"', ',', '\r', '\n']) {
        out.push('"');
        out.push_str(&text.replace('"', "\"\""));
        out.push('"');
    } else {
        out.push_str(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: &str) {
        let mut cell = String::new();
        write_csv_cell(&mut cell, &Value::String(value.to_owned()));
        assert_eq!(cell, expected);
    }

    #[test]
    fn p4_a_cell_that_looks_like_a_formula_is_text() {
        check("=HYPERLINK(\"http://x\")", "\"'=HYPERLINK(\"\"http://x\"\")\"");
        check("+1", "'+1");
        check("-1", "'-1");
        check("@SUM(A1)", "'@SUM(A1)");
        check("\t=1", "'\t=1");
        check("a=1", "a=1");
        check("two\nlines", "\"two\nlines\"");
        check("", "");
    }
}
