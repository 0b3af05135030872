//! `keybrake token …`: admin tokens, and where the one of the first start is.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use keybrake_proto::time::parse_duration_seconds;
use serde::Deserialize;
use serde_json::json;

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::config;
use crate::failure::Failure;
use crate::scope::{self, Scope};
use crate::token::{self, TOKEN_ENV};
use crate::tokens::{TokenView, is_name};

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct TokenArguments {
    #[command(subcommand)]
    command: Option<TokenCommand>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct Place {
    /// Print the token itself.
    #[arg(long)]
    show: bool,
    /// The file with the admin token [default: data.dir/admin.token].
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make an admin token that may do some things. Its text is shown once.
    #[command(
        after_help = "Examples:\n  keybrake token create on-call --scope revoke --expires 30d\n  keybrake token create \
                      ci --scope issue --scope revoke > ci.token\n\nStandard output holds the token alone.\nScopes:\n  \
                      read-audit     read the audit, keys, vendors, doubts, the clock and the health\n  issue          \
                      issue, change and read keys\n  revoke         revoke keys, and nothing else\n  secrets-write  \
                      set credentials, rotate the master key, list vendors\n  operate        resolve doubts, confirm \
                      the clock\n  admin          everything, tokens included"
    )]
    Create(Create),
    /// List admin tokens; never their texts.
    #[command(after_help = "Examples:\n  keybrake token list\n  keybrake token list --json")]
    List(Connection),
    /// Give a token another text, which is shown once.
    #[command(
        after_help = "Examples:\n  keybrake token rotate ci > ci.token\n  keybrake token rotate ci --overlap 10m\n  \
                      keybrake token rotate bootstrap\n\nThe text before ends at once, unless --overlap says when. The \
                      new text of `bootstrap` is in data.dir/admin.token as well."
    )]
    Rotate(Rotate),
    /// End a token for good, at once.
    #[command(
        after_help = "Examples:\n  keybrake token revoke ci\n  keybrake token revoke bootstrap\n\nWith no token left that \
                      may do everything, start the admin process with KEYBRAKE_ADMIN_TOKEN set to a new one."
    )]
    Revoke(Named),
}

#[derive(Debug, Args)]
struct Create {
    /// 1 to 64 of a-z, 0-9, `-`, `_` and `.`.
    #[arg(value_parser = name)]
    name: String,
    /// What it may do. Repeatable.
    #[arg(long, value_name = "SCOPE", required = true)]
    scope: Vec<Scope>,
    /// When it expires, such as 12h or 30d [default: never].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    expires: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct Rotate {
    /// Which token.
    #[arg(value_parser = name)]
    name: String,
    /// How long the text before is accepted as well, such as 10m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    overlap: Option<String>,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Args)]
struct Named {
    /// Which token.
    #[arg(value_parser = name)]
    name: String,
    #[command(flatten)]
    connection: Connection,
}

fn name(text: &str) -> Result<String, &'static str> {
    is_name(text).then(|| text.to_owned()).ok_or("write 1 to 64 of the characters a-z, 0-9, `-`, `_` and `.`")
}

fn duration(text: &str) -> Result<String, &'static str> {
    let is_one = parse_duration_seconds(text).is_some_and(|seconds| seconds > 0);
    is_one.then(|| text.to_owned()).ok_or("write 15m, 12h or 30d")
}

/// A token with its text.
#[derive(Deserialize)]
struct Made {
    token: String,
    #[serde(flatten)]
    view: TokenView,
}

#[derive(Deserialize)]
struct Listed {
    tokens: Vec<TokenView>,
}

/// `keybrake token …`.
pub(super) fn run(invocation: &Invocation<'_>, arguments: &TokenArguments) -> Result<ExitCode, Failure> {
    let answer = match &arguments.command {
        None => return place(invocation, &arguments.place),
        Some(TokenCommand::Create(Create { name, scope, expires, connection })) => {
            let body = json!({"name": name, "scopes": scope, "expires_in": expires}).to_string();
            Client::new(invocation, connection)?.post("/tokens", body.as_bytes())?
        }
        Some(TokenCommand::Rotate(Rotate { name, overlap, connection })) => {
            let body = json!({"overlap": overlap}).to_string();
            Client::new(invocation, connection)?.post(&format!("/tokens/{name}/rotate"), body.as_bytes())?
        }
        Some(TokenCommand::Revoke(Named { name, connection })) => {
            let answer = Client::new(invocation, connection)?.post(&format!("/tokens/{name}/revoke"), b"")?;
            if invocation.json {
                print_json(&answer.body)?;
            } else {
                print(&format!("{}: revoked\n", answer.read::<TokenView>()?.name))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(TokenCommand::List(connection)) => {
            let answer = Client::new(invocation, connection)?.get("/tokens")?;
            if invocation.json {
                print_json(&answer.body)?;
            } else {
                print(&listed(&answer.read::<Listed>()?.tokens))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
    };
    if invocation.json {
        print_json(&answer.body)?;
        return Ok(ExitCode::SUCCESS);
    }
    let Made { token, view } = answer.read()?;
    print(&format!("{token}\n"))?;
    let expiry = view.expires_at.map_or("does not expire".to_owned(), |at| format!("expires {at}"));
    eprintln!("{}: {}; {expiry}; its text is shown this once", view.name, scope::listed(&view.scopes));
    if let Some(until) = view.overlap_until {
        eprintln!("{}: the text before is accepted until {until}", view.name);
    }
    Ok(ExitCode::SUCCESS)
}

fn listed(tokens: &[TokenView]) -> String {
    let row = |token: &TokenView| {
        [
            token.name.clone(),
            token.status.clone(),
            scope::listed(&token.scopes),
            token.expires_at.clone().unwrap_or_else(|| "never".to_owned()),
            token.created_at.clone().unwrap_or_else(|| "at the first start".to_owned()),
        ]
    };
    let rows: Vec<_> = tokens.iter().map(row).collect();
    table::render(["NAME", "STATUS", "SCOPES", "EXPIRES", "CREATED"], &rows)
}

/// `keybrake token`: where the first one is, and the secret itself only where asked.
fn place(invocation: &Invocation<'_>, arguments: &Place) -> Result<ExitCode, Failure> {
    let environment = std::env::var_os(TOKEN_ENV);
    // The token file's place is the configuration's, unless the token comes from elsewhere.
    let config = match (&environment, &arguments.token_file) {
        (None, None) => Some(config::load(invocation.config)?),
        (Some(_), _) | (_, Some(_)) => None,
    };
    let place = match (&environment, &arguments.token_file, &config) {
        (Some(_), _, _) => TOKEN_ENV.to_owned(),
        (None, Some(path), _) => path.display().to_string(),
        (None, None, Some(config)) => config.data.admin_token_file().display().to_string(),
        (None, None, None) => return Err(Failure::setup("the admin token's place is not known")),
    };
    if !arguments.show {
        let exists = environment.is_some() || PathBuf::from(&place).exists();
        if invocation.json {
            print_json(&json!({"place": place, "exists": exists}))?;
        } else if exists {
            print(&format!("{place}\n"))?;
        } else {
            print(&format!("{place} (not there yet: `keybrake up` makes it)\n"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let data = config.as_ref().map(|config| &config.data);
    let token = token::of_client(environment, arguments.token_file.as_deref(), data)?;
    let token = String::from_utf8_lossy(token.expose());
    if invocation.json {
        print_json(&json!({"place": place, "token": token}))?;
    } else {
        print(&format!("{token}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
