//! `keybrake key …`.

mod set;

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use keybrake_proto::control::{KeyStatus, KeyView};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::policy::{KeySpec, ParamRule, Rate, Restrictions, Rule};
use keybrake_proto::time::{UnixMicros, parse_duration_seconds};
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::{Connection, Invocation, print, print_json, table};
use crate::config::reachable;
use crate::failure::{Failure, STATUS_PENDING};
use set::Set;

#[derive(Debug, Subcommand)]
pub(super) enum KeyCommand {
    /// Make a vault key. Its text is shown once.
    #[command(after_help = "Examples:\n  keybrake key issue --vendor stripe --allow \"POST /v1/charges\" \
                            --daily-usd-cap 50 --expires-in 24h\n  keybrake key issue --vendor stripe --allow \"GET \
                            /v1/**\" --label reports --metadata agent_id=reporter\n  echo '{\"vendor\": \"stripe\", \
                            \"allowed_endpoints\": [\"POST /v1/charges\"]}' | keybrake key issue --from-json -\n\n\
                            Standard output holds the key alone; the hints go to standard error.")]
    Issue(Box<Issue>),
    /// Change what a key may do, or its labels; at once, for all calls that are sent from then on.
    #[command(
        visible_alias = "update",
        after_help = "Examples:\n  keybrake key set vk_0123456789abcdef --daily-usd-cap 20\n  keybrake key set \
                      vk_0123456789abcdef --allow \"GET /v1/**\" --clear daily-usd-cap\n  keybrake key set \
                      vk_0123456789abcdef --param \"currency in usd\" --clear rate-limit-rps\n  keybrake key set \
                      vk_0123456789abcdef --expires-in 1h --if-version 3"
    )]
    Set(Box<Set>),
    /// List keys, oldest first.
    #[command(after_help = "Examples:\n  keybrake key list\n  keybrake key list --all --json")]
    List(List),
    /// Show one key.
    #[command(after_help = "Examples:\n  keybrake key show vk_0123456789abcdef")]
    Show(Show),
    /// Stop keys for good, one after the other; `keybrake revoke` stops many at once. Exit status 3 while one is
    /// pending.
    #[command(after_help = "Examples:\n  keybrake key revoke vk_0123456789abcdef\n  keybrake key revoke \
                            vk_0123456789abcdef vk_fedcba9876543210")]
    Revoke(Revoke),
}

#[derive(Debug, Args)]
pub(super) struct Issue {
    /// The vendor, as configured.
    #[arg(long, required_unless_present_any = ["from_json", "parent"])]
    vendor: Option<String>,
    /// Which of the vendor's accounts it acts on [default: default, or the parent's].
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// The id of the key above it: the new one may do nothing that this one may not, and draws on its caps too.
    /// What is not said here is inherited.
    #[arg(long, value_name = "ID")]
    parent: Option<KeyId>,
    /// What the key may call: "METHOD /path", `*` for one segment, a final `**` for the rest. Repeatable.
    #[arg(long, value_name = "RULE", required_unless_present_any = ["from_json", "parent"])]
    allow: Vec<Rule>,
    /// The most it may spend per UTC day.
    #[arg(long, value_name = "USD")]
    daily_usd_cap: Option<Micros>,
    /// The most it may spend in its whole life.
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
    /// What a parameter may hold: "NAME TEST…" with in, equals, prefix, domain, min, max, required or absent, such as
    /// "currency in usd,eur", "amount max 5000", "to,cc,bcc domain example.com", "customer required on POST
    /// /v1/charges"; or the rule as JSON. Repeatable.
    #[arg(long, value_name = "RULE")]
    param: Vec<ParamRule>,
    /// An account that Stripe-Account may name. Repeatable.
    #[arg(long, value_name = "ACCOUNT")]
    stripe_account: Vec<String>,
    /// How long it lives, such as 15m, 24h or 7d.
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with = "expires_at")]
    expires_in: Option<u64>,
    /// When it expires, RFC 3339 in UTC.
    #[arg(long, value_name = "TIME", value_parser = instant)]
    expires_at: Option<String>,
    /// A name for people.
    #[arg(long)]
    label: Option<String>,
    /// The run it is made for.
    #[arg(long, value_name = "LABEL")]
    run_label: Option<String>,
    /// A text for each of its audit rows. Repeatable.
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Read the body of `POST /vault/keys` from a file, or from standard input.
    #[arg(
        long,
        value_name = "FILE|-",
        conflicts_with_all = ["vendor", "account", "parent", "allow", "daily_usd_cap", "total_usd_cap", "daily_request_budget",
            "max_usd_per_call", "rate_limit_rps", "param", "stripe_account", "expires_in", "expires_at", "label", "run_label", "metadata"]
    )]
    from_json: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct List {
    /// Every page, not the first 100 keys only.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The key's id.
    id: KeyId,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct Revoke {
    /// The keys' ids.
    #[arg(required = true)]
    ids: Vec<KeyId>,
    #[command(flatten)]
    connection: Connection,
}

fn duration(text: &str) -> Result<u64, &'static str> {
    parse_duration_seconds(text).ok_or("write a duration such as 90s, 15m, 24h or 7d")
}

fn instant(text: &str) -> Result<String, &'static str> {
    let read = UnixMicros::parse_rfc3339(text);
    read.map(|_| text.to_owned()).ok_or("write RFC 3339 in UTC, such as 2026-11-22T00:00:00Z")
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, such as agent_id=billing_agent")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Carries out a `key` command.
pub(super) fn run(invocation: &Invocation<'_>, command: &KeyCommand) -> Result<ExitCode, Failure> {
    match command {
        KeyCommand::Issue(arguments) => issue(invocation, arguments),
        KeyCommand::Set(arguments) => set::run(invocation, arguments),
        KeyCommand::List(arguments) => list(invocation, arguments),
        KeyCommand::Show(arguments) => show(invocation, arguments),
        KeyCommand::Revoke(arguments) => revoke(invocation, arguments),
    }
}

/// What `POST /vault/keys` answers, as far as it is shown.
#[derive(Deserialize)]
struct Issued {
    vault_key: String,
    id: KeyId,
    expires_at: Option<String>,
    policy: IssuedPolicy,
}

#[derive(Deserialize)]
struct IssuedPolicy {
    vendor: String,
    allowed_endpoints: Vec<Rule>,
    #[serde(with = "keybrake_proto::money::usd::option")]
    daily_usd_cap: Option<Micros>,
    #[serde(with = "keybrake_proto::money::usd::option")]
    total_usd_cap: Option<Micros>,
    daily_request_budget: Option<u32>,
}

fn issue(invocation: &Invocation<'_>, arguments: &Issue) -> Result<ExitCode, Failure> {
    let client = Client::new(invocation, &arguments.connection)?;
    let answer = client.post("/vault/keys", &body(arguments)?)?;
    if invocation.json {
        print_json(&answer.body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let issued: Issued = answer.read()?;
    // A pipe gets the key and nothing else; a person reads both.
    let mut out = std::io::stdout().lock();
    let printed = writeln!(out, "{}", issued.vault_key).and_then(|()| out.flush());
    if let Err(error) = printed {
        let id = &issued.id;
        let problem =
            format!("the vault key could not be printed ({error}) and is not shown again: revoke {id}");
        return Err(Failure::operation(problem));
    }
    drop(out);
    let proxy = client
        .config()
        .map(|config| format!("{}://{}", config.proxy.scheme(), reachable(config.proxy.listen)));
    eprint!("{}", hint(&issued, &proxy.unwrap_or_else(|| "http://PROXY".to_owned())));
    Ok(ExitCode::SUCCESS)
}

fn body(arguments: &Issue) -> Result<Vec<u8>, Failure> {
    if let Some(path) = &arguments.from_json {
        let mut bytes = Vec::new();
        let read = if path.as_os_str() == "-" {
            std::io::stdin().read_to_end(&mut bytes).map(drop)
        } else {
            std::fs::read(path).map(|read| bytes = read)
        };
        let failed = |error| Failure::setup(format_args!("cannot read {}: {error}", path.display()));
        return read.map(|()| bytes).map_err(failed);
    }
    let spec = KeySpec {
        vendor: arguments.vendor.clone().unwrap_or_default(),
        allowed_endpoints: arguments.allow.iter().map(Rule::to_string).collect(),
        daily_usd_cap: arguments.daily_usd_cap,
        total_usd_cap: arguments.total_usd_cap,
        daily_request_budget: arguments.daily_request_budget,
        params: arguments.param.iter().cloned().collect(),
        max_usd_per_call: arguments.max_usd_per_call,
        rate_limit_rps: arguments.rate_limit_rps,
        stripe_accounts: arguments.stripe_account.clone(),
        expires_in: arguments.expires_in,
        expires_at: arguments.expires_at.clone(),
        label: arguments.label.clone(),
        agent_run_label: arguments.run_label.clone(),
        metadata: arguments.metadata.iter().cloned().collect(),
        account: arguments.account.clone(),
        parent_vault_key: arguments.parent.map(|id| id.to_string()),
    };
    serde_json::to_vec(&spec).map_err(Failure::operation)
}

/// How an agent uses the key, for a person.
fn hint(issued: &Issued, proxy: &str) -> String {
    let policy = &issued.policy;
    let rules: Vec<String> = policy.allowed_endpoints.iter().map(Rule::to_string).collect();
    let caps = policy.daily_usd_cap.map(|cap| format!("${cap} per UTC day"));
    let caps: Vec<String> =
        caps.into_iter().chain(policy.total_usd_cap.map(|cap| format!("${cap} in all"))).collect();
    let requests = policy.daily_request_budget;
    let facts = table::pairs(&[
        ("id", issued.id.to_string()),
        ("may call", rules.join(", ")),
        ("cap", if caps.is_empty() { "none".to_owned() } else { caps.join(", ") }),
        ("requests", requests.map_or("no limit".to_owned(), |most| format!("{most} per UTC day"))),
        ("expires", issued.expires_at.clone().unwrap_or_else(|| "never".to_owned())),
    ]);
    let vendor = &policy.vendor;
    format!(
        "\nThis is the vault key. It is shown once and not kept: give it to the agent now.\n\n{facts}\nThe agent \
         uses it in place of its {vendor} key, with this base URL:\n\n  {proxy}/{vendor}\n\nTo stop it: keybrake key \
         revoke {}\n",
        issued.id
    )
}

#[derive(Deserialize)]
struct Page {
    keys: Vec<KeyView>,
    next: Option<KeyId>,
}

fn list(invocation: &Invocation<'_>, arguments: &List) -> Result<ExitCode, Failure> {
    let client = Client::new(invocation, &arguments.connection)?;
    let mut page: Page = client.get("/vault/keys?limit=100")?.read()?;
    let mut keys = page.keys;
    while let (true, Some(after)) = (arguments.all, page.next) {
        page = client.get(&format!("/vault/keys?limit=1000&after={after}"))?.read()?;
        keys.append(&mut page.keys);
    }
    if invocation.json {
        print_json(&json!({"keys": keys, "next": page.next}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = keys.iter().map(row).collect();
    print(&table::render(["ID", "PARENT", "LABEL", "VENDOR", "STATUS", "COMMITTED/CAP", "EXPIRES"], &rows))?;
    if page.next.is_some() {
        eprintln!("There are more keys: keybrake key list --all");
    }
    Ok(ExitCode::SUCCESS)
}

fn row(key: &KeyView) -> [String; 7] {
    [
        key.id.to_string(),
        key.parent_key_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
        key.label.clone().unwrap_or_else(|| "-".to_owned()),
        key.vendor.clone(),
        status(key.status).to_owned(),
        spend(key),
        key.expires_at.clone().unwrap_or_else(|| "never".to_owned()),
    ]
}

fn status(status: KeyStatus) -> &'static str {
    match status {
        KeyStatus::Active => "active",
        KeyStatus::Expired => "expired",
        KeyStatus::Revoked => "revoked",
    }
}

fn spend(key: &KeyView) -> String {
    let cap = key.daily_usd_cap.map_or("no cap".to_owned(), |cap| format!("${cap}"));
    format!("${} / {cap}", key.committed_usd)
}

fn total(key: &KeyView) -> String {
    let both = key.total_committed_usd.zip(key.total_usd_cap);
    both.map_or("no cap".to_owned(), |(total, cap)| format!("${total} / ${cap}"))
}

fn requests(key: &KeyView) -> String {
    let both = key.requests_today.zip(key.daily_request_budget);
    both.map_or("no limit".to_owned(), |(today, budget)| format!("{today} / {budget}"))
}

/// What a key restricts besides, on one line.
fn restrictions(of: &Restrictions) -> String {
    let params = (!of.params.is_empty()).then(|| format!("params {}", json!(of.params)));
    let accounts =
        (!of.stripe_accounts.is_empty()).then(|| format!("accounts {}", of.stripe_accounts.join(", ")));
    let per_call = of.max_usd_per_call.map(|most| format!("${most} per call"));
    let rate = of.rate_limit_rps.map(|rate| format!("{rate} requests per second"));
    let all: Vec<String> = [per_call, rate, accounts, params].into_iter().flatten().collect();
    if all.is_empty() { "-".to_owned() } else { all.join("; ") }
}

fn show(invocation: &Invocation<'_>, arguments: &Show) -> Result<ExitCode, Failure> {
    let client = Client::new(invocation, &arguments.connection)?;
    let answer = client.get(&format!("/vault/keys/{}", arguments.id))?;
    if invocation.json {
        print_json(&answer.body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let key: KeyView = answer.read()?;
    let or_none = |left: Option<Micros>| left.map_or("-".to_owned(), |left| format!("${left}"));
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let rules: Vec<String> = key.allowed_endpoints.iter().map(Rule::to_string).collect();
    let metadata: Vec<String> = key.metadata.iter().map(|(name, value)| format!("{name}={value}")).collect();
    print(&table::pairs(&[
        ("id", key.id.to_string()),
        ("status", status(key.status).to_owned()),
        ("version", key.version.to_string()),
        ("parent", key.parent_key_id.map_or("-".to_owned(), |id| id.to_string())),
        ("children", key.children.to_string()),
        ("vendor", key.vendor.clone()),
        ("account", key.account.clone()),
        ("label", or_dash(&key.label)),
        ("run label", or_dash(&key.agent_run_label)),
        ("may call", rules.join(", ")),
        ("committed/cap", spend(&key)),
        ("not settled yet", format!("${}", key.held_usd)),
        ("in all/cap", total(&key)),
        ("remaining", or_none(key.remaining_usd)),
        ("with keys above", or_none(key.chain_remaining_usd)),
        ("requests today", requests(&key)),
        ("resets", key.resets_at.clone()),
        ("created", key.created_at.clone()),
        ("besides", restrictions(&key.restrictions)),
        ("expires", key.expires_at.clone().unwrap_or_else(|| "never".to_owned())),
        ("revoked", or_dash(&key.revoked_at)),
        ("metadata", if metadata.is_empty() { "-".to_owned() } else { metadata.join(", ") }),
    ]))?;
    Ok(ExitCode::SUCCESS)
}

/// Revokes every key, also behind one that fails: in an incident the rest must not wait.
fn revoke(invocation: &Invocation<'_>, arguments: &Revoke) -> Result<ExitCode, Failure> {
    let client = Client::new(invocation, &arguments.connection)?;
    let mut exit = ExitCode::SUCCESS;
    for id in &arguments.ids {
        match client.post(&format!("/vault/keys/{id}/revoke"), b"") {
            Ok(answer) => {
                if answer.status != 200 && exit == ExitCode::SUCCESS {
                    exit = ExitCode::from(STATUS_PENDING);
                }
                if invocation.json {
                    print_json(&answer.body)?;
                } else {
                    print(&revoked(*id, &answer))?;
                }
            }
            Err(failure) => {
                exit = ExitCode::from(failure.status);
                eprintln!("keybrake: {id}: {failure}");
            }
        }
    }
    Ok(exit)
}

fn revoked(id: KeyId, answer: &Answer) -> String {
    let number = |name: &str| answer.body.get(name).and_then(Value::as_u64);
    if answer.status != 200 {
        let message = answer.body.get("message").and_then(Value::as_str).unwrap_or("not acknowledged yet");
        return format!("{id}  pending: {}\n", table::printable(message));
    }
    let us = |name: &str| number(name).unwrap_or_default();
    let running = match us("at_vendor") {
        0 => String::new(),
        calls => format!("; calls that were already at the vendor and finish: {calls}"),
    };
    format!(
        "{id}  revoked: nothing admitted after {} µs, acknowledged by every worker after {} µs{running}\n",
        us("closed_us"),
        us("acknowledged_us")
    )
}
