//! `keybrake price explain`: how a call would be priced. It asks no process; it reads the configuration where there is
//! one.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use keybrake_proto::catalog::Catalog;
use keybrake_proto::catalog::book::PriceBook;
use keybrake_proto::catalog::explain::{Explanation, Why, explain};
use keybrake_proto::catalog::price::{Bound, Priced, Terms};
use keybrake_proto::config::Config;
use keybrake_proto::http1::Method;
use keybrake_proto::money::Micros;
use keybrake_proto::route::{Route, route};
use keybrake_proto::time::UnixMicros;
use serde_json::{Value, json};

use super::{Invocation, print, print_json};
use crate::config::{self, LoadError};
use crate::failure::Failure;

/// `keybrake price …`.
#[derive(Debug, Subcommand)]
pub(super) enum PriceCommand {
    /// Show what would be held for a call under a cap, and how that comes about.
    #[command(
        after_help = "Examples:\n  keybrake price explain POST /stripe/v1/charges --body 'amount=2000&currency=gbp'\n  \
                      keybrake price explain POST /twilio/2010-04-01/Accounts/AC0/Messages.json --body \
                      'To=%2B15551234567&Body=hello'\n  keybrake price explain POST /emails --vendor resend --body \
                      '{\"to\": [\"a@example.com\"]}'\n\nThe exit status is 1 if the call would be refused under a cap."
    )]
    Explain(Explain),
}

/// The call.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// GET, POST, PUT, PATCH or DELETE.
    #[arg(value_name = "METHOD", value_parser = method)]
    method: Method,
    /// The path as an agent sends it, such as /stripe/v1/charges; with --vendor the vendor's own. A query may follow.
    #[arg(value_name = "PATH")]
    path: String,
    /// The vendor, where PATH does not begin with its name.
    #[arg(long, value_name = "NAME")]
    vendor: Option<String>,
    /// The body.
    #[arg(long, value_name = "TEXT", conflicts_with = "body_file")]
    body: Option<String>,
    /// The file with the body.
    #[arg(long, value_name = "FILE")]
    body_file: Option<PathBuf>,
    /// The body's type [default: JSON where it begins with { or [, else a form].
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// The key's max_usd_per_call.
    #[arg(long, value_name = "USD")]
    max_usd_per_call: Option<Micros>,
}

fn method(text: &str) -> Result<Method, &'static str> {
    Method::parse(text.as_bytes()).ok_or("write GET, POST, PUT, PATCH or DELETE, in capitals")
}

/// Carries it out.
pub(super) fn run(invocation: &Invocation<'_>, command: &PriceCommand) -> Result<ExitCode, Failure> {
    let PriceCommand::Explain(arguments) = command;
    let config = match config::try_load(invocation.config) {
        Ok(config) => Some(config),
        Err(LoadError::Missing) => None,
        Err(LoadError::Unusable(failure)) => return Err(failure),
    };
    let book = config.as_ref().map_or_else(|| Ok(PriceBook::shipped()), config::load_prices)?;
    let body = match (&arguments.body, &arguments.body_file) {
        (Some(body), _) => body.clone().into_bytes(),
        (None, Some(path)) => std::fs::read(path)
            .map_err(|error| Failure::setup(format_args!("cannot read {}: {error}", path.display())))?,
        (None, None) => Vec::new(),
    };
    let (name, explanation) = explained(arguments, config.as_ref(), &book, &body)?;
    if invocation.json {
        print_json(&as_json(&name, &explanation))?;
    } else {
        print(&format!("vendor     {name}\n{explanation}"))?;
    }
    let is_refused = explanation.quote.is_err() && explanation.look_up.is_none();
    Ok(if is_refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn explained(
    arguments: &Explain,
    config: Option<&Config>,
    book: &PriceBook,
    body: &[u8],
) -> Result<(String, Explanation), Failure> {
    let (full, query) = match arguments.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (arguments.path.as_str(), None),
    };
    // The vendor's own path with `--vendor` is what an agent sends behind the vendor's name.
    let mounted = match &arguments.vendor {
        Some(name) if !full.starts_with(&format!("/{name}/")) => format!("/{name}{full}"),
        Some(_) | None => full.to_owned(),
    };
    let (name, path) = match route(mounted.as_bytes()) {
        Ok(Route::Vendor { mount, path }) => (String::from_utf8_lossy(mount).into_owned(), path),
        Ok(Route::Bare { .. }) => return Err(Failure::setup("say whose path that is: --vendor stripe")),
        Ok(Route::Keys | Route::Live | Route::Ready) | Err(_) => {
            return Err(Failure::setup("PATH is no vendor's path, such as /stripe/v1/charges"));
        }
    };
    let catalog = catalog(&name, config)?;
    catalog.label(path).map_err(Failure::setup)?;
    let is_json = body.trim_ascii_start().first().is_some_and(|first| matches!(first, b'{' | b'['));
    let guessed = if is_json { "application/json" } else { "application/x-www-form-urlencoded" };
    let content_type = arguments.content_type.as_deref().unwrap_or(guessed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let terms = Terms {
        bound: Bound::Capped,
        per_call_max: arguments.max_usd_per_call,
        book,
        today: UnixMicros::from_seconds(now).day(),
    };
    let request = Priced {
        path,
        content_type: (!body.is_empty()).then_some(content_type.as_bytes()),
        query: query.map(str::as_bytes),
        body,
    };
    let explanation = explain(&catalog.recognize(arguments.method, path), request, &terms);
    Ok((name, explanation))
}

fn catalog(name: &str, config: Option<&Config>) -> Result<&'static Catalog, Failure> {
    let configured = config.and_then(|config| config.vendors.iter().find(|vendor| vendor.name == name));
    match (Catalog::of(name), configured) {
        (Some(catalog), _) => Ok(catalog),
        (None, Some(vendor)) => Catalog::of_vendor(vendor).map_err(Failure::setup),
        (None, None) => {
            let known = Catalog::KNOWN;
            Err(Failure::setup(format_args!("no vendor of that name is configured; keybrake knows {known}")))
        }
    }
}

fn as_json(name: &str, explanation: &Explanation) -> Value {
    let Explanation { operation, class, source, escalates, quote, look_up, steps } = explanation;
    let held = quote.as_ref().ok().filter(|_| look_up.is_none());
    json!({
        "vendor": name,
        "operation": operation,
        "class": class,
        "source": source,
        "escalates": escalates,
        "held_usd": held.map(|quote| quote.amount.to_string()),
        "expected_usd": held.map(|quote| quote.expected().to_string()),
        "look_up": look_up,
        "refused": quote.as_ref().err().filter(|_| look_up.is_none()).map(|error| Why(error).to_string()),
        "steps": steps,
    })
}
