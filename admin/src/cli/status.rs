//! `keybrake status` and `keybrake config …`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;
use keybrake_proto::config::Config;
use serde_json::{Value, json};

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::config;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Read the configuration as every process does, and say what is wrong with it.
    #[command(
        after_help = "Examples:\n  keybrake config check\n  keybrake config check other.toml --json\n\nThe exit \
                            status is 2 if the configuration cannot be used."
    )]
    Check {
        /// The file [default: that of --config].
        file: Option<PathBuf>,
    },
}

/// `keybrake status`.
pub(super) fn status(invocation: &Invocation<'_>, connection: &Connection) -> Result<ExitCode, Failure> {
    let health = Client::new(invocation, connection)?.get("/healthz")?.body;
    if invocation.json {
        print_json(&health)?;
    } else {
        print(&table::pairs(&[
            ("admin", format!("up {}, version {}", elapsed(&health), text(&health, "version"))),
            ("dataplane", dataplane(health.get("dataplane").unwrap_or(&Value::Null))),
            ("agents", agents(health.get("dataplane").unwrap_or(&Value::Null))),
            ("clock", clock(health.pointer("/dataplane/clock").unwrap_or(&Value::Null))),
            ("audit", audit(health.get("audit").unwrap_or(&Value::Null))),
        ]))?;
    }
    Ok(if text(&health, "status") == "ok" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text<'a>(part: &'a Value, name: &str) -> &'a str {
    part.get(name).and_then(Value::as_str).unwrap_or("-")
}

fn number(part: &Value, name: &str) -> u64 {
    part.get(name).and_then(Value::as_u64).unwrap_or_default()
}

fn is(part: &Value, name: &str) -> bool {
    part.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn dataplane(part: &Value) -> String {
    if !is(part, "up") {
        return format!("down: {}", text(part, "error"));
    }
    if let Some(why) = part.get("sealed").and_then(Value::as_str) {
        return format!(
            "SEALED, forwards nothing: {why}; restart it with the right master key (docs/operations.md), process {}",
            number(part, "pid")
        );
    }
    let ready = if is(part, "ready") { "ready" } else { "NOT READY, admits nothing" };
    format!(
        "{ready}, up {}, version {}, process {}",
        elapsed(part),
        text(part, "version"),
        number(part, "pid")
    )
}

fn agents(part: &Value) -> String {
    if !is(part, "up") {
        return "-".to_owned();
    }
    let vendors = part.get("vendors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let vendors: Vec<&str> = vendors.iter().filter_map(Value::as_str).collect();
    format!(
        "http://{}, {} with {} workers; vendors: {}; keys: {}",
        text(part, "proxy_listen"),
        text(part, "driver"),
        number(part, "workers"),
        vendors.join(", "),
        number(part, "keys")
    )
}

fn audit(part: &Value) -> String {
    match (is(part, "readable"), part.get("newest").and_then(Value::as_u64)) {
        (false, _) => format!("cannot be read: {}", text(part, "error")),
        (true, None) => "no rows yet".to_owned(),
        (true, Some(newest)) => format!("readable up to row {newest}"),
    }
}

fn clock(part: &Value) -> String {
    match serde_json::from_value(part.clone()) {
        Ok(view) => super::clock::summary(&view),
        Err(_) => "-".to_owned(),
    }
}

fn elapsed(part: &Value) -> String {
    let seconds = number(part, "uptime_s");
    let whole = |unit: u64| seconds.checked_div(unit).unwrap_or_default();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", whole(60)),
        7200..172_800 => format!("{} h", whole(3600)),
        _ => format!("{} days", whole(86_400)),
    }
}

/// `keybrake config …`.
pub(super) fn config(invocation: &Invocation<'_>, command: &ConfigCommand) -> Result<ExitCode, Failure> {
    let ConfigCommand::Check { file } = command;
    let path = file.as_deref().unwrap_or(invocation.config);
    let config = config::load(path)?;
    config::load_prices(&config)?;
    if invocation.json {
        print_json(&json!({
            "ok": true,
            "proxy_listen": config.proxy.listen,
            "admin_listen": config.admin.listen,
            "data_dir": config.data.dir,
            "vendors": config.vendor_names(),
        }))?;
    } else {
        print(&checked(&config))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn checked(config: &Config) -> String {
    let facts = table::pairs(&[
        ("agents", format!("http://{}", config.proxy.listen)),
        ("admin", format!("http://{}", config.admin.listen)),
        ("data", config.data.dir.display().to_string()),
        ("vendors", config.vendor_names().join(", ")),
    ]);
    format!("configuration is fine\n{facts}")
}
