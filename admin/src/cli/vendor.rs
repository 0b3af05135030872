//! `keybrake vendor …`: a vendor's credentials. They are read from a file, a variable or standard input, never from the
//! command line, which every user of the machine can see.

use std::io::{IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use keybrake_proto::control::{CredentialSet, Only, VendorView};
use keybrake_proto::policy::{DEFAULT_ACCOUNT, is_account_name};
use keybrake_proto::secret::{Secret, SecretText, SecretWriter};
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::failure::{Failure, STATUS_PENDING};

/// The longest credential that is read, in bytes.
const CREDENTIAL_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Subcommand)]
pub(super) enum VendorCommand {
    /// List vendors and their accounts.
    #[command(after_help = "Examples:\n  keybrake vendor list\n  keybrake vendor list --json")]
    List(Connection),
    /// Add an account with its credential; fails where there is one of this name.
    #[command(
        after_help = "Examples:\n  keybrake vendor add stripe --account eu < eu.secret\n  keybrake vendor add \
                            stripe --account eu --credential-file eu.secret"
    )]
    Add(Set),
    /// Give an account a credential, whether it has one or not.
    #[command(
        after_help = "Examples:\n  keybrake vendor set stripe < stripe.secret\n  keybrake vendor set stripe \
                            --credential-env STRIPE_SECRET_KEY"
    )]
    Set(Set),
    /// Replace an account's credential. Agents notice nothing.
    #[command(
        after_help = "Examples:\n  keybrake vendor rotate stripe < new.secret\n  keybrake vendor rotate stripe \
                            --account eu --credential-file new.secret"
    )]
    Rotate(Set),
}

#[derive(Debug, Args)]
pub(super) struct Set {
    /// The vendor, as configured.
    vendor: String,
    /// Which of its accounts.
    #[arg(long, value_name = "NAME", default_value = DEFAULT_ACCOUNT, value_parser = account)]
    account: String,
    /// Read the credential from this file [default: standard input].
    #[arg(long, value_name = "FILE", conflicts_with = "credential_env")]
    credential_file: Option<PathBuf>,
    /// Read the credential from this variable of the environment.
    #[arg(long, value_name = "VARIABLE")]
    credential_env: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

fn account(text: &str) -> Result<String, &'static str> {
    let name = is_account_name(text).then(|| text.to_owned());
    name.ok_or("write 1 to 64 of the characters a-z, 0-9, _ and -")
}

/// Carries out a `vendor` command.
pub(super) fn run(invocation: &Invocation<'_>, command: &VendorCommand) -> Result<ExitCode, Failure> {
    match command {
        VendorCommand::List(connection) => list(invocation, connection),
        VendorCommand::Add(arguments) => set(invocation, arguments, Some(Only::New)),
        VendorCommand::Set(arguments) => set(invocation, arguments, None),
        VendorCommand::Rotate(arguments) => set(invocation, arguments, Some(Only::Existing)),
    }
}

#[derive(Deserialize)]
struct Listed {
    vendors: Vec<VendorView>,
}

fn list(invocation: &Invocation<'_>, connection: &Connection) -> Result<ExitCode, Failure> {
    let answer = Client::new(invocation, connection)?.get("/vendors")?;
    if invocation.json {
        print_json(&answer.body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let listed: Listed = answer.read()?;
    let mut rows = Vec::new();
    for vendor in &listed.vendors {
        let row = |account: &str, version: String| {
            [vendor.name.clone(), account.to_owned(), version, vendor.base_url.clone()]
        };
        rows.extend(vendor.accounts.iter().map(|account| row(&account.name, account.version.to_string())));
        if vendor.accounts.is_empty() {
            rows.push(row("-", "no credential".to_owned()));
        }
    }
    print(&table::render(["VENDOR", "ACCOUNT", "CREDENTIAL", "URL"], &rows))?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Serialize)]
struct Body {
    credential: SecretText,
    only: Option<Only>,
}

fn set(invocation: &Invocation<'_>, arguments: &Set, only: Option<Only>) -> Result<ExitCode, Failure> {
    let Set { vendor, account, .. } = arguments;
    let credential = SecretText(read(arguments)?);
    let client = Client::new(invocation, &arguments.connection)?;
    let mut body = SecretWriter::default();
    serde_json::to_writer(&mut body, &Body { credential, only }).map_err(Failure::operation)?;
    let answer = client.put(&format!("/vendors/{vendor}/accounts/{account}"), &body.finish())?;
    let is_done = answer.status != 202;
    if invocation.json {
        print_json(&answer.body)?;
    } else {
        let CredentialSet { version, late_workers, .. } = answer.read()?;
        let state = match late_workers.first() {
            None => "in force on every worker and on disk".to_owned(),
            Some(late) => format!("on disk, and worker {late} was late: set it again"),
        };
        print(&format!("{vendor} {account}  credential {version}, {state}\n"))?;
    }
    Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(STATUS_PENDING) })
}

fn read(arguments: &Set) -> Result<Secret, Failure> {
    let bytes = match (&arguments.credential_file, &arguments.credential_env) {
        (Some(path), _) => std::fs::read(path)
            .map_err(|error| Failure::setup(format_args!("cannot read {}: {error}", path.display())))?,
        (None, Some(variable)) => std::env::var_os(variable)
            .map(std::ffi::OsString::into_encoded_bytes)
            .ok_or_else(|| Failure::setup(format_args!("{variable} is not set")))?,
        (None, None) => {
            if std::io::stdin().is_terminal() {
                return Err(Failure::setup(
                    "a credential is not typed in: redirect a file to standard input, or give --credential-file",
                ));
            }
            // It never grows, so no copy is left behind.
            let mut bytes = Vec::with_capacity(128 * 1024);
            std::io::stdin()
                .lock()
                .take(CREDENTIAL_BYTES_MAX)
                .read_to_end(&mut bytes)
                .map_err(Failure::setup)?;
            bytes
        }
    };
    let secret = Secret::new(bytes);
    let trimmed = Secret::new(secret.expose().trim_ascii().to_vec());
    if trimmed.expose().is_empty() {
        return Err(Failure::setup("the credential is empty"));
    }
    if !trimmed.expose().iter().all(u8::is_ascii_graphic) {
        return Err(Failure::setup(
            "the credential holds blanks or control characters; give the bare secret",
        ));
    }
    Ok(trimmed)
}
