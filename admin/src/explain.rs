//! What was decided about one request, by which rule and on which figures, in an operator's words.
//!
//! It says what the row and the key's record hold, and what they do not: nothing is guessed.

use std::fmt::Write as _;

use keybrake_proto::audit::Outcome;
use keybrake_proto::catalog::Catalog;
use keybrake_proto::control::{KeyStatus, KeyView};
use keybrake_proto::http1::Method;
use keybrake_proto::money::Micros;
use serde::{Deserialize, Serialize};

use crate::history::Row;

/// What is known of a request.
pub(crate) struct Known<'a> {
    /// Its row.
    pub(crate) row: &'a Row,
    /// What an operator said of it later.
    pub(crate) amendment: Option<&'a Row>,
    /// The reads that priced it.
    pub(crate) look_ups: &'a [Row],
    /// The key as it is now.
    pub(crate) key: Option<&'a KeyView>,
    /// What earlier rows of the key count on the UTC day of the request.
    pub(crate) before: Option<Micros>,
}

/// An explanation, a sentence an element.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// What was decided, why, on which figures, and what is left.
    pub(crate) says: Vec<String>,
    /// What is not recorded.
    pub(crate) unknown: Vec<String>,
}

/// Explains it.
pub(crate) fn explain(known: &Known<'_>) -> Explanation {
    let mut out = Explanation::default();
    let row = known.row;
    out.says.push(asked(row));
    out.says.push(decided(row));
    out.says.extend(rule(known, &mut out.unknown));
    out.says.extend(figures(known));
    out.says.push(ended(row, known.amendment));
    out.says.extend(left(known, &mut out.unknown));
    if is_denied(row) {
        out.unknown.push("the text that the agent got, and the key's policy at that moment".to_owned());
    }
    if row.outcome == Outcome::Unknown && known.amendment.is_none() {
        out.unknown
            .push("whether the vendor acted: look the call up there, then `keybrake doubt list`".to_owned());
    }
    out
}

fn is_denied(row: &Row) -> bool {
    row.policy_check_result != "allowed"
}

fn asked(row: &Row) -> String {
    let mut text = format!("{}: {} {}{}", row.ts, row.method, slash(&row.vendor), row.path);
    let whose = row.vault_key_id.map_or("without a key that is known".to_owned(), |id| format!("under {id}"));
    write!(text, ", {whose}").unwrap_or_default();
    for (name, value) in [
        ("label", &row.label),
        ("agent", &row.agent_id),
        ("agent's run", &row.agent_run_id),
        ("crew's run", &row.crew_run_id),
        ("key's run", &row.agent_run_label),
    ] {
        if let Some(value) = value {
            write!(text, ", {name} {value}").unwrap_or_default();
        }
    }
    write!(text, ", from {}", row.client_addr).unwrap_or_default();
    text
}

fn slash(vendor: &str) -> String {
    if vendor.is_empty() { String::new() } else { format!("/{vendor}") }
}

fn decided(row: &Row) -> String {
    match row.policy_check_result.as_str() {
        "allowed" => format!("it was allowed as {} and answered with {}", row.endpoint, row.status),
        code => format!("it was refused with {} {code}: {}", row.status, meaning(code)),
    }
}

/// A code in words; `docs/denials.md` has them all.
fn meaning(code: &str) -> &'static str {
    match code {
        "invalid_vault_key" => "the key was unknown, expired or revoked at that moment",
        "endpoint_not_allowed" => "no rule of the key's allowed_endpoints matched",
        "vendor_not_allowed" => "the key is for another vendor, or the vendor is not configured",
        "account_not_allowed" => "it named an account that the key's stripe_accounts does not have",
        "parameter_not_allowed" => "a parameter was not what one of the key's params allows",
        "call_too_large" => "its quote was above the key's max_usd_per_call",
        "unpriced" => "the key has a cap, and the cost could not be known beforehand",
        "currency_not_allowed" => "its currency had no rate, or rates that are too old",
        "daily_cap_exceeded" => {
            "its quote did not fit under what was left of a daily cap of the key or of one above it"
        }
        "total_cap_exceeded" => {
            "its quote did not fit under what was left of a lifetime cap of the key or of one above it"
        }
        "request_budget_exceeded" => "the day's requests of the key or of one above it were used up",
        "rate_limited" => "the key or one above it sent more requests a second than it may",
        "vendor_quota" => "its turn within the vendor's quota did not come in time",
        "object_not_found" => "the vendor did not know the object that it acts on",
        "object_busy" => "another call was acting on the same object",
        "look_up_failed" => "the object that it acts on could not be read from the vendor",
        "malformed_request" => "it could be read in more than one way, or not at all",
        "clock" => "the system clock was stepped, so that the day of its money was not known",
        "audit_unavailable" => "the audit could not be written",
        "vendor_unreachable" => "the vendor could not be reached, and nothing was sent",
        "vendor_broken" => "the vendor's answer broke off or was no HTTP",
        "vendor_timeout" => "the vendor did not answer in time",
        _ => "docs/denials.md says what that means",
    }
}

/// Which of the key's rules match the call today. The row does not say by which rule it was judged.
fn rule(known: &Known<'_>, unknown: &mut Vec<String>) -> Option<String> {
    let (row, key) = (known.row, known.key?);
    let (Some(catalog), Some(method)) = (Catalog::of(&row.vendor), Method::parse(row.method.as_bytes()))
    else {
        unknown.push(
            "which rule matches: the vendor's operations are in the dataplane's configuration".to_owned(),
        );
        return None;
    };
    let call = catalog.recognize(method, row.path.as_bytes());
    let rules = key.allowed_endpoints.iter().filter(|rule| rule.allows(&call));
    let rules: Vec<String> = rules.map(|rule| format!("`{rule}`")).collect();
    let version = key.version;
    Some(if rules.is_empty() {
        let has: Vec<String> = key.allowed_endpoints.iter().map(|rule| format!("`{rule}`")).collect();
        format!("as the key is now (version {version}) no rule of it matches; it has {}", has.join(", "))
    } else {
        format!("as the key is now (version {version}) this rule of it matches: {}", rules.join(", "))
    })
}

fn figures(known: &Known<'_>) -> Vec<String> {
    let row = known.row;
    let mut lines = Vec::new();
    let stated = row.amount_minor.zip(row.currency.as_ref());
    let stated = stated
        .map_or(String::new(), |(minor, currency)| format!(", stated as {minor} minor units of {currency}"));
    let verb = if is_denied(row) { "would have been" } else { "was" };
    lines.push(format!(
        "its quote, what {verb} held before the call, is ${}{stated}; it counts ${}",
        row.quote_usd, row.amount_usd
    ));
    for look_up in known.look_ups {
        lines.push(format!("it was priced by reading {} ({})", look_up.path, look_up.id));
    }
    if let (Some(before), Some(key)) = (known.before, row.vault_key_id) {
        let day = row.ts.split('T').next().unwrap_or_default();
        lines.push(format!(
            "rows of {key} that were written before it count ${before} on {day}, keys below it not included"
        ));
    }
    lines
}

fn ended(row: &Row, amendment: Option<&Row>) -> String {
    let how = match row.outcome {
        Outcome::Forwarded => "the vendor replied",
        Outcome::Denied => "the vendor saw nothing of it",
        Outcome::Failed => "nothing was sent: the vendor could not be reached",
        Outcome::Unknown => "it was sent, and whether the vendor acted was not known: its quote counts",
        Outcome::Cut => "the reply broke off while it was delivered; what it counts is known",
        Outcome::Amendment => "no call: an operator said what another one came to",
        Outcome::LookUp => "no call of the agent's: keybrake read an object to price another one",
    };
    let took = format!("{how}, after {} us, {} of them keybrake's own", row.latency_us, row.overhead_us);
    match amendment {
        Some(later) => {
            format!(
                "{took}; at {} an operator said ({}) that it counts ${}",
                later.ts, later.policy_check_result, later.amount_usd
            )
        }
        None => took,
    }
}

/// What the key has now.
fn left(known: &Known<'_>, unknown: &mut Vec<String>) -> Vec<String> {
    unknown.push("what was left of the caps at that moment: rows hold the call's own figures".to_owned());
    let Some(key) = known.key else {
        unknown
            .push("what the key has left now: the dataplane does not answer, or does not know it".to_owned());
        return Vec::new();
    };
    let status = match key.status {
        KeyStatus::Active => "active",
        KeyStatus::Expired => "expired",
        KeyStatus::Revoked => "revoked",
    };
    let mut lines = vec![format!("now the key is {status}, at version {}", key.version)];
    if let Some(cap) = key.daily_usd_cap {
        lines.push(format!(
            "of its daily cap of ${cap} ${} are committed today, ${} of them held; the day ends {}",
            key.committed_usd, key.held_usd, key.resets_at
        ));
    }
    if let Some(cap) = key.total_usd_cap {
        let committed = key.total_committed_usd.unwrap_or_default();
        lines.push(format!("of its lifetime cap of ${cap} ${committed} are committed"));
    }
    match (key.chain_remaining_usd.or(key.remaining_usd), key.parent_key_id) {
        (Some(left), Some(_)) => {
            lines.push(format!("with the keys above it a call may cost ${left} at most"))
        }
        (Some(left), None) => lines.push(format!("a call may cost ${left} at most")),
        (None, _) => lines.push("it has no cap in USD".to_owned()),
    }
    if let (Some(budget), Some(sent)) = (key.daily_request_budget, key.requests_today) {
        lines.push(format!("of {budget} requests a day it has sent {sent} today"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::row;

    #[test]
    fn what_is_not_recorded_is_named() {
        let denied = keybrake_proto::audit::AuditRow {
            policy_check_result: "daily_cap_exceeded",
            outcome: Outcome::Denied,
            status: 429,
            amount: Micros::ZERO,
            ..row(0)
        };
        let row = Row::new(1, &denied);
        let before = "20.50".parse().ok();
        let known = Known { row: &row, amendment: None, look_ups: &[], key: None, before };
        let explanation = explain(&known);
        let says = explanation.says.join("\n");
        for part in [
            "POST /stripe/v1/charges, under vk_0123456789abcdef, label billing, agent a2, from 127.0.0.1",
            "refused with 429 daily_cap_exceeded: its quote did not fit",
            "would have been held before the call, is $20.50, stated as 2050 minor units of usd; it counts $0.00",
            "count $20.50 on 1970-01-01",
            "the vendor saw nothing of it",
        ] {
            assert!(says.contains(part), "{part} is missing in {says}");
        }
        let unknown = explanation.unknown.join("\n");
        for part in [
            "what was left of the caps at that moment",
            "what the key has left now",
            "the text that the agent got",
        ] {
            assert!(unknown.contains(part), "{part} is missing in {unknown}");
        }
    }

    #[test]
    fn a_doubt_and_what_became_of_it_are_told() {
        let doubt = keybrake_proto::audit::AuditRow { outcome: Outcome::Unknown, ..row(0) };
        let later = keybrake_proto::audit::AuditRow {
            policy_check_result: "doubt_voided",
            amount: Micros::ZERO,
            outcome: Outcome::Amendment,
            ..row(60)
        };
        let (row, later) = (Row::new(1, &doubt), Row::new(2, &later));
        let known = Known { row: &row, amendment: None, look_ups: &[], key: None, before: None };
        assert!(explain(&known).unknown.join("\n").contains("whether the vendor acted"));
        let explanation = explain(&Known { amendment: Some(&later), ..known });
        assert!(!explanation.unknown.join("\n").contains("whether the vendor acted"));
        assert!(
            explanation.says.join("\n").contains("(doubt_voided) that it counts $0.00"),
            "{explanation:?}"
        );
    }
}
