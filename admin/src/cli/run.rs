//! `keybrake run` and `keybrake env`: a program whose SDKs use vault keys, without a change in it.
//!
//! The vendors' real credentials have no part in this: what stands for one in the environment is
//! replaced or left out.

mod child;
mod keys;
mod shims;
mod variables;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Args;
use keybrake_proto::config::Config;
use keybrake_proto::key::KeyId;
use keybrake_proto::secret::Secret;
use serde::Deserialize;
use serde_json::json;

use self::keys::{KeyArguments, Proxy, VendorKey};
use self::shims::Shims;
use self::variables::Variables;
use super::client::Client;
use super::{Connection, Invocation, print, print_json};
use crate::config::{self, LoadError};
use crate::failure::Failure;

#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    keys: KeyArguments,
    /// Issue a key for this run by a body of `POST /vault/keys` in a file, and revoke it at the end. Repeatable.
    #[arg(long, value_name = "FILE")]
    issue: Vec<PathBuf>,
    /// Set the variables only: no start-up shims for Python and Node.
    #[arg(long)]
    no_shims: bool,
    /// The program and its arguments.
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
pub(super) struct Env {
    #[command(flatten)]
    keys: KeyArguments,
    /// Write the start-up shims into this directory, and load them too. It has to stay.
    #[arg(long, value_name = "DIR")]
    shims: Option<PathBuf>,
}

/// Carries out `keybrake run`; answers as the program ended.
pub(super) fn run(invocation: &Invocation<'_>, arguments: &Run) -> Result<ExitCode, Failure> {
    let config = configuration(invocation)?;
    let proxy = Proxy::find(arguments.keys.proxy.as_deref(), config.as_ref())?;
    let needs = if arguments.issue.is_empty() { keys::Needs::One } else { keys::Needs::None };
    let mut keys = keys::collect(&arguments.keys, &proxy, needs)?;
    let shims = if arguments.no_shims { None } else { Some(Shims::temporary()?) };
    let issued = issue(invocation, arguments, &mut keys)?;
    let ended = start(&keys, &proxy, config.as_ref(), shims.as_ref(), &arguments.program);
    // Before this process may die of the program's signal.
    drop(shims);
    issued.revoke();
    ended.map(child::Ended::pass_on)
}

fn start(
    keys: &[VendorKey],
    proxy: &Proxy,
    config: Option<&Config>,
    shims: Option<&Shims>,
    program: &[OsString],
) -> Result<child::Ended, Failure> {
    let mut variables = Variables::of(keys, proxy, &environment());
    variables.leave_out_credentials(config);
    if let Some(shims) = shims {
        variables.load(shims, &environment());
    }
    let [name, arguments @ ..] = program else { return Err(Failure::setup("name a program behind `--`")) };
    let mut command = Command::new(name);
    command.args(arguments);
    variables.apply(&mut command);
    child::run(command)
}

/// Carries out `keybrake env`.
pub(super) fn env(invocation: &Invocation<'_>, arguments: &Env) -> Result<ExitCode, Failure> {
    let config = configuration(invocation)?;
    let proxy = Proxy::find(arguments.keys.proxy.as_deref(), config.as_ref())?;
    let keys = keys::collect(&arguments.keys, &proxy, keys::Needs::One)?;
    let mut variables = Variables::of(&keys, &proxy, &environment());
    variables.leave_out_credentials(config.as_ref());
    if let Some(dir) = &arguments.shims {
        variables.load(&Shims::in_directory(dir)?, &environment());
    }
    let (set, unset) = variables.texts()?;
    if invocation.json {
        print_json(&json!({"set": set, "unset": unset}))?;
    } else {
        print(&variables::for_a_shell(&set, &unset))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The configuration, where there is one: it says where the proxy is and what holds credentials.
fn configuration(invocation: &Invocation<'_>) -> Result<Option<Config>, Failure> {
    match config::try_load(invocation.config) {
        Ok(config) => Ok(Some(config)),
        Err(LoadError::Missing) => Ok(None),
        Err(LoadError::Unusable(failure)) => Err(failure),
    }
}

fn environment() -> BTreeMap<OsString, OsString> {
    std::env::vars_os().collect()
}

/// Keys that live as long as the run, and the way to revoke them.
#[derive(Default)]
struct IssuedKeys {
    client: Option<Client>,
    ids: Vec<KeyId>,
}

/// What `POST /vault/keys` answers, as far as it is used.
#[derive(Deserialize)]
struct Issued {
    vault_key: String,
    id: KeyId,
    policy: IssuedPolicy,
}

#[derive(Deserialize)]
struct IssuedPolicy {
    vendor: String,
}

fn issue(
    invocation: &Invocation<'_>,
    arguments: &Run,
    keys: &mut Vec<VendorKey>,
) -> Result<IssuedKeys, Failure> {
    if arguments.issue.is_empty() {
        return Ok(IssuedKeys::default());
    }
    // All files first: a typing error in the last must not leave keys behind.
    let read = |path: &PathBuf| {
        std::fs::read(path)
            .map_err(|error| Failure::setup(format_args!("cannot read {}: {error}", path.display())))
    };
    let bodies = arguments.issue.iter().map(read).collect::<Result<Vec<Vec<u8>>, Failure>>()?;
    let mut issued =
        IssuedKeys { client: Some(Client::new(invocation, &arguments.connection)?), ids: Vec::new() };
    for body in bodies {
        let added = issued.add(&body, keys);
        if let Err(failure) = added {
            issued.revoke();
            return Err(failure);
        }
    }
    Ok(issued)
}

impl IssuedKeys {
    fn add(&mut self, body: &[u8], keys: &mut Vec<VendorKey>) -> Result<(), Failure> {
        let Some(client) = &self.client else { return Ok(()) };
        let one: Issued = client.post("/vault/keys", body)?.read()?;
        self.ids.push(one.id);
        let key = VendorKey { vendor: one.policy.vendor, key: Secret::new(one.vault_key.into_bytes()) };
        keys::add(keys, key)
    }

    /// Revokes them all. What fails is said, with what to do: the program's own end is what is passed on.
    fn revoke(self) {
        let Some(client) = &self.client else { return };
        for id in self.ids {
            let problem = match client.post(&format!("/vault/keys/{id}/revoke"), b"") {
                Ok(answer) if answer.status == 200 => continue,
                Ok(_) => "the revoke is pending".to_owned(),
                Err(failure) => failure.to_string(),
            };
            eprintln!("keybrake: {id}: {problem}; run `keybrake key revoke {id}`");
        }
    }
}
