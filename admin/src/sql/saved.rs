//! The usual questions, ready to be asked.

use serde::Serialize;

/// A statement with a name. `:since` in it is the beginning of the time it is about.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Saved {
    /// What it is asked for by.
    pub(crate) name: &'static str,
    /// What it answers.
    pub(crate) about: &'static str,
    /// The statement.
    pub(crate) sql: &'static str,
}

/// All of them.
pub(crate) const SAVED: [Saved; 8] = [
    Saved {
        name: "spend-by-agent",
        about: "what each agent spent and was refused",
        sql: "SELECT agent_id, SUM(amount) AS spent_usd, COUNT(*) AS calls, \
              SUM(policy_check_result != 'allowed') AS denied FROM calls WHERE ts >= :since \
              GROUP BY agent_id ORDER BY spent_usd DESC, calls DESC",
    },
    Saved {
        name: "spend-by-run",
        about: "what each run spent, and when it was at work",
        sql: "SELECT agent_run_id, agent_id, SUM(amount) AS spent_usd, COUNT(*) AS calls, \
              SUM(policy_check_result != 'allowed') AS denied, MIN(ts) AS first_call, MAX(ts) AS last_call \
              FROM calls WHERE ts >= :since AND agent_run_id IS NOT NULL \
              GROUP BY agent_run_id, agent_id ORDER BY spent_usd DESC, calls DESC",
    },
    Saved {
        name: "spend-by-day",
        about: "what was spent on each UTC day with each vendor",
        sql: "SELECT substr(ts, 1, 10) AS day, vendor, SUM(amount) AS spent_usd, COUNT(*) AS calls, \
              SUM(policy_check_result != 'allowed') AS denied FROM calls WHERE ts >= :since \
              GROUP BY day, vendor ORDER BY day DESC, spent_usd DESC",
    },
    Saved {
        name: "spend-by-key",
        about: "what each key spent and was refused",
        sql: "SELECT vault_key_id, label, SUM(amount) AS spent_usd, COUNT(*) AS calls, \
              SUM(policy_check_result != 'allowed') AS denied FROM calls WHERE ts >= :since \
              GROUP BY vault_key_id, label ORDER BY spent_usd DESC, calls DESC",
    },
    Saved {
        name: "first-denial",
        about: "where each run was first refused, and why",
        sql: "SELECT agent_run_id, agent_id, ts, id, method, endpoint, policy_check_result, quote_usd FROM ( \
              SELECT *, row_number() OVER (PARTITION BY agent_run_id, vault_key_id ORDER BY sequence) AS nth \
              FROM calls WHERE ts >= :since AND policy_check_result != 'allowed') WHERE nth = 1 ORDER BY ts DESC",
    },
    Saved {
        name: "top-endpoints",
        about: "which operations are called, at what cost and how fast",
        sql: "SELECT vendor, method, endpoint, COUNT(*) AS calls, SUM(amount) AS spent_usd, \
              SUM(policy_check_result != 'allowed') AS denied, CAST(AVG(latency_us) AS INTEGER) AS mean_us, \
              MAX(latency_us) AS max_us FROM calls WHERE ts >= :since \
              GROUP BY vendor, method, endpoint ORDER BY calls DESC LIMIT 50",
    },
    Saved {
        name: "denials-by-code",
        about: "what is refused most",
        sql: "SELECT policy_check_result, COUNT(*) AS calls, COUNT(DISTINCT vault_key_id) AS keys, MAX(ts) AS last \
              FROM calls WHERE ts >= :since AND policy_check_result != 'allowed' \
              GROUP BY policy_check_result ORDER BY calls DESC",
    },
    Saved {
        name: "doubts",
        about: "calls whose outcome was not known, and what an operator said of them",
        sql: "SELECT ts, id, vault_key_id, agent_run_id, method, endpoint, amount_usd, quote_usd, vendor_request_id, \
              idempotency_key, amended_by FROM calls WHERE ts >= :since AND outcome = 'unknown' ORDER BY ts DESC",
    },
];

/// The one of this name.
pub(crate) fn find(name: &str) -> Option<&'static Saved> {
    SAVED.iter().find(|saved| saved.name == name)
}

/// All names, for a message.
pub(crate) fn names() -> String {
    SAVED.map(|saved| saved.name).join(", ")
}
