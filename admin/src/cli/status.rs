//! `keybrake status`.

use std::process::ExitCode;

use keybrake_proto::control::{RequestsView, TlsView};
use keybrake_proto::time::UnixMicros;
use serde_json::Value;

use super::client::Client;
use super::{Connection, Invocation, print, print_json, table};
use crate::failure::Failure;

/// `keybrake status`.
pub(super) fn status(invocation: &Invocation<'_>, connection: &Connection) -> Result<ExitCode, Failure> {
    let health = Client::beside_a_bad_file(invocation, connection)?.get("/healthz")?.body;
    if invocation.json {
        print_json(&health)?;
    } else {
        print(&table::pairs(&[
            ("admin", format!("up {}, version {}", elapsed(&health), text(&health, "version"))),
            ("dataplane", dataplane(health.get("dataplane").unwrap_or(&Value::Null))),
            ("agents", agents(health.get("dataplane").unwrap_or(&Value::Null))),
            ("certificate", certificate(health.pointer("/dataplane/proxy_tls").unwrap_or(&Value::Null))),
            ("config", configuration(health.pointer("/dataplane/config").unwrap_or(&Value::Null))),
            ("requests", requests(health.pointer("/dataplane/requests").unwrap_or(&Value::Null))),
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
        "{}://{}, {} with {} workers; vendors: {}; keys: {}",
        if part.get("proxy_tls").is_some_and(Value::is_object) { "https" } else { "http" },
        text(part, "proxy_listen"),
        text(part, "driver"),
        number(part, "workers"),
        vendors.join(", "),
        number(part, "keys")
    )
}

/// That of `[proxy.tls]`.
fn certificate(part: &Value) -> String {
    let Ok(view) = serde_json::from_value::<TlsView>(part.clone()) else {
        return "none: agents connect with plain HTTP".to_owned();
    };
    let until = view.expires_at.map_or("an unknown day".to_owned(), UnixMicros::date);
    let failing =
        if view.failing { "; ITS FILES CANNOT BE USED, look at the dataplane's output" } else { "" };
    format!("valid until {until}{failing}")
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

fn configuration(part: &Value) -> String {
    match serde_json::from_value(part.clone()) {
        Ok(state) => super::config::summary(&state),
        Err(_) => "-".to_owned(),
    }
}

fn requests(part: &Value) -> String {
    match serde_json::from_value::<RequestsView>(part.clone()) {
        Ok(RequestsView { month, sent, monthly_max, resets_at }) => {
            format!("{sent} of {monthly_max} in {month}, resets {resets_at}")
        }
        Err(_) => "no monthly quota".to_owned(),
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
