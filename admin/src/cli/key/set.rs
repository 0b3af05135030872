//! `keybrake key set`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use keybrake_proto::control::KeyView;
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::{KeyChange, ParamRule, Rate, Rule};

use super::super::client::Client;
use super::super::{Connection, Invocation, print, print_json, table};
use super::{duration, instant, pair};
use crate::failure::{Failure, STATUS_PENDING};

#[derive(Debug, Args)]
pub(in crate::cli) struct Set {
    /// The key's id.
    id: KeyId,
    /// What it may call, in place of all it might before. Repeatable.
    #[arg(long, value_name = "RULE")]
    allow: Vec<Rule>,
    /// The most it may spend per UTC day. One below what is committed lets only free calls through.
    #[arg(long, value_name = "USD")]
    daily_usd_cap: Option<Micros>,
    /// The most it may spend in its whole life, what it has spent included.
    #[arg(long, value_name = "USD")]
    total_usd_cap: Option<Micros>,
    /// The most requests it may send per UTC day, reads included.
    #[arg(long, value_name = "REQUESTS", value_parser = clap::value_parser!(u32).range(1..=1_000_000_000))]
    daily_request_budget: Option<u32>,
    /// The most one call may cost; a call without a known price is held at it.
    #[arg(long, value_name = "USD")]
    max_usd_per_call: Option<Micros>,
    /// Requests per second, such as 5 or 0.5; one second's worth may come at once.
    #[arg(long, value_name = "RPS")]
    rate_limit_rps: Option<Rate>,
    /// What a parameter may hold, in place of all such rules it has; written as for `key issue`. Repeatable.
    #[arg(long, value_name = "RULE")]
    param: Vec<ParamRule>,
    /// An account that Stripe-Account may name, in place of all there are. Repeatable.
    #[arg(long, value_name = "ACCOUNT")]
    stripe_account: Vec<String>,
    /// How long it lives from now on, such as 15m, 24h or 7d.
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "expires_at")]
    expires_in: Option<u64>,
    /// When it expires, RFC 3339 in UTC.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    expires_at: Option<String>,
    /// A name for people.
    #[arg(long)]
    label: Option<String>,
    /// The run it is for.
    #[arg(long, value_name = "LABEL")]
    run_label: Option<String>,
    /// A text for each of its audit rows, in place of all there are. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// What it has no longer; below a parent, the parent's limit in its place. Repeatable.
    #[arg(long, value_name = "FIELD")]
    clear: Vec<Field>,
    /// Change it only if it is still at this version, as `key show` says [default: the version it has].
    #[arg(long, value_name = "N")]
    if_version: Option<u32>,
    #[command(flatten)]
    connection: Connection,
}

/// What can be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Field {
    /// The daily cap.
    DailyUsdCap,
    /// The cap for life.
    TotalUsdCap,
    /// The request budget.
    DailyRequestBudget,
    /// The bound of one call.
    MaxUsdPerCall,
    /// The requests per second.
    RateLimitRps,
    /// All parameter rules.
    Params,
    /// All accounts that Stripe-Account may name.
    StripeAccounts,
    /// The expiry.
    ExpiresAt,
    /// The label.
    Label,
    /// The run label.
    RunLabel,
    /// All metadata.
    Metadata,
}

/// Carries out `key set`.
pub(super) fn run(invocation: &Invocation<'_>, arguments: &Set) -> Result<ExitCode, Failure> {
    let change = change(arguments)?;
    let client = Client::new(invocation, &arguments.connection)?;
    let path = format!("/vault/keys/{}", arguments.id);
    let version = match arguments.if_version {
        Some(version) => version,
        None => client.get(&path)?.read::<KeyView>()?.version,
    };
    let body = serde_json::to_vec(&change).map_err(Failure::operation)?;
    let answer = client.patch(&path, &format!("\"{version}\""), &body)?;
    let is_done = answer.status == 200;
    if invocation.json {
        print_json(&answer.body)?;
    } else if is_done {
        let key: KeyView = answer.read()?;
        print(&format!(
            "{}  changed: version {}, in force on every worker and on disk\n",
            key.id, key.version
        ))?;
    } else {
        let message =
            answer.body.get("message").and_then(serde_json::Value::as_str).unwrap_or("not acknowledged yet");
        print(&format!("{}  pending: {}\n", arguments.id, table::printable(message)))?;
    }
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(STATUS_PENDING) })
}

fn change(arguments: &Set) -> Result<KeyChange, Failure> {
    let clears = |field| arguments.clear.contains(&field);
    let change = KeyChange {
        allowed_endpoints: (!arguments.allow.is_empty())
            .then(|| arguments.allow.iter().map(Rule::to_string).collect()),
        daily_usd_cap: either(arguments.daily_usd_cap, clears(Field::DailyUsdCap), "daily-usd-cap")?,
        total_usd_cap: either(arguments.total_usd_cap, clears(Field::TotalUsdCap), "total-usd-cap")?,
        daily_request_budget: either(
            arguments.daily_request_budget,
            clears(Field::DailyRequestBudget),
            "daily-request-budget",
        )?,
        params: either(
            (!arguments.param.is_empty()).then(|| arguments.param.iter().cloned().collect()),
            clears(Field::Params),
            "params",
        )?,
        max_usd_per_call: either(
            arguments.max_usd_per_call,
            clears(Field::MaxUsdPerCall),
            "max-usd-per-call",
        )?,
        rate_limit_rps: either(arguments.rate_limit_rps, clears(Field::RateLimitRps), "rate-limit-rps")?,
        stripe_accounts: either(
            (!arguments.stripe_account.is_empty()).then(|| arguments.stripe_account.clone()),
            clears(Field::StripeAccounts),
            "stripe-accounts",
        )?,
        expires_in: arguments.expires_in,
        expires_at: either(arguments.expires_at.clone(), clears(Field::ExpiresAt), "expires-at")?,
        label: either(arguments.label.clone(), clears(Field::Label), "label")?,
        agent_run_label: either(arguments.run_label.clone(), clears(Field::RunLabel), "run-label")?,
        metadata: match (arguments.metadata.is_empty(), clears(Field::Metadata)) {
            (true, false) => None,
            (_, _) => Some(arguments.metadata.iter().cloned().collect::<BTreeMap<_, _>>()),
        },
        ..KeyChange::default()
    };
    if change.is_empty() {
        return Err(Failure::setup(
            "nothing to change: name at least one option, such as --daily-usd-cap 20",
        ));
    }
    Ok(change)
}

/// A new value, none in its place, or no change.
fn either<T>(value: Option<T>, clear: bool, field: &str) -> Result<Option<Option<T>>, Failure> {
    match (value, clear) {
        (Some(_), true) => Err(Failure::setup(format_args!("give either --{field} or --clear {field}"))),
        (Some(value), false) => Ok(Some(Some(value))),
        (None, true) => Ok(Some(None)),
        (None, false) => Ok(None),
    }
}
