//! `keybrake revoke`: many keys at once.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;
use keybrake_proto::config::Config;
use keybrake_proto::control::{Revoke, RevokeSpec};
use keybrake_proto::key::KeyId;
use serde_json::Value;

use super::client::{CallError, Client};
use super::{Connection, Invocation, print, print_json, table};
use crate::control::Control;
use crate::failure::{Failure, STATUS_PENDING};
use crate::revoke::{self, Answer};

/// Which keys; exactly one way to say so.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Keys by id.
    ids: Vec<KeyId>,
    /// All keys with this label.
    #[arg(long)]
    label: Option<String>,
    /// All keys made for this run.
    #[arg(long)]
    run: Option<String>,
    /// A key and all its descendants.
    #[arg(long, value_name = "ID")]
    subtree: Option<KeyId>,
    /// All keys for a vendor.
    #[arg(long)]
    vendor: Option<String>,
    /// Every key; asks first on a terminal.
    #[arg(long)]
    all: bool,
}

/// A revoke.
#[derive(Debug, Args)]
pub(super) struct RevokeArguments {
    #[command(flatten)]
    which: Which,
    /// Do not ask before `--all`.
    #[arg(long)]
    yes: bool,
    /// Also cut the calls that are at a vendor: what came of them is then not known.
    #[arg(long)]
    cut: bool,
    #[command(flatten)]
    connection: Connection,
}

impl RevokeArguments {
    fn spec(&self) -> RevokeSpec {
        RevokeSpec {
            ids: (!self.which.ids.is_empty()).then(|| self.which.ids.clone()),
            label: self.which.label.clone(),
            agent_run_label: self.which.run.clone(),
            subtree: self.which.subtree,
            vendor: self.which.vendor.clone(),
            all: self.which.all.then_some(true),
            cut: self.cut,
        }
    }
}

/// Carries out `keybrake revoke`.
pub(super) fn run(invocation: &Invocation<'_>, arguments: &RevokeArguments) -> Result<ExitCode, Failure> {
    if arguments.which.all && !arguments.yes {
        confirm()?;
    }
    let spec = arguments.spec();
    let body = serde_json::to_vec(&spec).map_err(Failure::operation)?;
    let order = spec.order().map_err(|wrong| {
        Failure::setup(format_args!(
            "{}{}",
            wrong.field.map_or(String::new(), |f| format!("{f}: ")),
            wrong.problem
        ))
    })?;
    let client = Client::new(invocation, &arguments.connection)?;
    let answer = match client.try_post("/vault/revoke", &body) {
        Ok(answer) => answer.body,
        Err(CallError::Refused(failure)) => return Err(failure),
        // In an incident the admin process may be what is broken.
        Err(CallError::Unreachable(failure)) => match (&arguments.connection.url, client.config()) {
            (None, Some(config)) => {
                eprintln!("keybrake: {failure}; asking the dataplane itself");
                order_directly(config, &order)?
            }
            (_, _) => return Err(failure),
        },
    };
    if invocation.json {
        print_json(&answer)?;
    }
    let shown: Answer = serde_json::from_value(answer).map_err(Failure::operation)?;
    if !invocation.json {
        print(&text(&shown))?;
    }
    for id in &shown.unknown_ids {
        eprintln!("keybrake: {id}: no key has this id");
    }
    Ok(match shown.status.as_str() {
        "revoked" if shown.unknown_ids.is_empty() => ExitCode::SUCCESS,
        "revoked" => ExitCode::FAILURE,
        _ => ExitCode::from(STATUS_PENDING),
    })
}

fn confirm() -> Result<(), Failure> {
    let refused =
        || Failure::setup("nothing was revoked; to revoke every key without being asked give --yes");
    if !std::io::stdin().is_terminal() {
        return Err(refused());
    }
    eprint!("Revoke every key, for good? Type yes: ");
    std::io::stderr().flush().unwrap_or_default();
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).map_err(Failure::operation)?;
    if line.trim() == "yes" { Ok(()) } else { Err(refused()) }
}

/// Without the admin process: over the control socket, or into the spool.
fn order_directly(config: &Config, order: &Revoke) -> Result<Value, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::operation)?;
    let control = Control::new(config.data.control_socket());
    let ordered = runtime.block_on(revoke::order(&control, order)).map_err(Failure::operation)?;
    let answer = Answer::of(ordered).map_err(|refused| Failure::operation(refused.message))?;
    serde_json::to_value(answer).map_err(Failure::operation)
}

fn text(shown: &Answer) -> String {
    let number = Option::unwrap_or_default;
    let before = match number(shown.already_revoked) {
        0 => String::new(),
        keys => format!(" ({keys} more had been before)"),
    };
    let head = match (&shown.message, shown.closed_us) {
        (Some(message), None) => format!("pending: {}\n", table::printable(message)),
        (Some(message), Some(us)) => {
            let keys = number(shown.revoked);
            format!("pending: {keys} keys{before} closed after {us} µs; {}\n", table::printable(message))
        }
        (None, _) => format!(
            "revoked {} keys{before}: nothing admitted after {} µs, acknowledged by every worker after {} µs\n",
            number(shown.revoked),
            number(shown.closed_us),
            number(shown.acknowledged_us)
        ),
    };
    let running = match (number(shown.at_vendor), number(shown.cut)) {
        (0, 0) => String::new(),
        (calls, 0) => format!("calls that were already at the vendor and finish: {calls}\n"),
        (calls, cut) => {
            format!("calls that were already at the vendor: {calls}; cut, with an unknown outcome: {cut}\n")
        }
    };
    let mut text = head + &running;
    for id in &shown.ids {
        text.push_str(&format!("  {id}\n"));
    }
    let listed = u64::try_from(shown.ids.len()).unwrap_or(u64::MAX);
    let keys = number(shown.revoked).saturating_add(number(shown.already_revoked));
    if let more @ 1.. = keys.saturating_sub(listed) {
        text.push_str(&format!("  … and {more} more\n"));
    }
    text
}
