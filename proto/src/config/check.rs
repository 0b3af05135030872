//! Values that cannot be, found before anything binds.

use std::net::IpAddr;

use super::{Config, ConfigError, Origin, Vendor, data, limits, operation, requests, tls};
use crate::catalog::Catalog;
use crate::policy::{DEPTH_MAX, KEYS_BELOW_MAX, Rate};

/// `sun_path` holds 108 bytes, the last one a zero (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

const WORKERS_MAX: usize = 256;

pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let refuse = |key: &str, problem: String| Err(ConfigError::value(key, problem));
    let proxy = &config.proxy;
    if proxy.workers > WORKERS_MAX {
        return refuse("proxy.workers", format!("must be at most {WORKERS_MAX}; 0 is one per core"));
    }
    let in_range = |key: &str, value: u64, least: u64, most: u64, unit: &str| {
        if (least..=most).contains(&value) {
            return Ok(());
        }
        refuse(key, format!("must be between {least} and {most} {unit}, not {value}"))
    };
    in_range("proxy.body_bytes_max", proxy.body_bytes_max, 1024, 64 * 1024 * 1024, "bytes")?;
    in_range(
        "proxy.connections_max",
        u64::try_from(proxy.connections_max).unwrap_or(u64::MAX),
        1,
        1_000_000,
        "connections",
    )?;
    for (key, value) in [
        ("proxy.head_timeout_s", proxy.head_timeout_s),
        ("proxy.body_timeout_s", proxy.body_timeout_s),
        ("proxy.write_timeout_s", proxy.write_timeout_s),
        ("proxy.idle_timeout_s", proxy.idle_timeout_s),
        ("proxy.drain_timeout_s", proxy.drain_timeout_s),
    ] {
        in_range(key, value, 1, 3600, "seconds")?;
    }
    limits::check(config)?;
    if proxy.listen == config.admin.listen && proxy.listen.port() != 0 {
        return refuse("admin.listen", "must differ from proxy.listen".to_owned());
    }
    tls::check(proxy)?;
    if config.data.dir.as_os_str().is_empty() {
        return refuse("data.dir", "must name a directory".to_owned());
    }
    data::check(&config.data)?;
    in_range(
        "data.journal_segment_bytes",
        config.data.journal_segment_bytes,
        1024 * 1024,
        1024 * 1024 * 1024,
        "bytes",
    )?;
    in_range(
        "data.journal_segments_max",
        u64::try_from(config.data.journal_segments_max).unwrap_or(u64::MAX),
        3,
        1000,
        "files",
    )?;
    let socket = config.data.control_socket();
    if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        let problem = format!(
            "{} is too long for a socket, which allows {SOCKET_PATH_BYTES_MAX} bytes",
            socket.display()
        );
        return refuse("data.dir", problem);
    }
    requests::check(&config.requests)?;
    issue(config)?;
    config.audit.check()?;
    vendors(config)
}

fn vendors(config: &Config) -> Result<(), ConfigError> {
    let refuse = |key: &str, problem: String| Err(ConfigError::value(key, problem));
    if config.vendors.is_empty() {
        return refuse("vendor", "name at least one vendor in a [[vendor]] section".to_owned());
    }
    for (at, one) in config.vendors.iter().enumerate() {
        vendor(one, &format!("vendor[{at}]"))?;
        if config.vendors.iter().take(at).any(|other| other.name == one.name) {
            return refuse(&format!("vendor[{at}].name"), format!("`{}` is there twice", one.name));
        }
    }
    Ok(())
}

fn issue(config: &Config) -> Result<(), ConfigError> {
    let names = config.vendor_names();
    if let Some(unknown) = config.issue.vendors.iter().flatten().find(|name| !names.contains(name)) {
        return Err(ConfigError::value("issue.vendors", format!("`{unknown}` is not configured")));
    }
    if config.issue.depth_max > DEPTH_MAX {
        return Err(ConfigError::value("issue.depth_max", format!("must be at most {DEPTH_MAX}")));
    }
    if !(1..=KEYS_BELOW_MAX).contains(&config.issue.keys_below_max) {
        return Err(ConfigError::value(
            "issue.keys_below_max",
            format!("must be from 1 to {KEYS_BELOW_MAX}"),
        ));
    }
    Ok(())
}

fn vendor(vendor: &Vendor, key: &str) -> Result<(), ConfigError> {
    let refuse = |field: &str, problem: &str| Err(ConfigError::value(format!("{key}.{field}"), problem));
    if Catalog::of(&vendor.name).is_none() {
        operation::check(vendor, key)?;
    } else if let Some(field) = operation::field_of_others(vendor) {
        return refuse(field, "is for vendors that keybrake does not know by itself; leave it out");
    }
    let origin = match origin(&vendor.base_url) {
        Ok(origin) => origin,
        Err(problem) => return refuse("base_url", problem),
    };
    if !origin.tls {
        if !vendor.allow_plain_http {
            return refuse(
                "base_url",
                "must be https; for a stand-in on loopback set allow_plain_http = true",
            );
        }
        if !is_loopback(&origin.host) {
            return refuse("base_url", "may be plain http only to a loopback address such as 127.0.0.1");
        }
        if vendor.ca_file.is_some() {
            return refuse("ca_file", "has no meaning without https");
        }
    }
    for (field, value) in [("timeout_s", vendor.timeout_s), ("connect_timeout_s", vendor.connect_timeout_s)] {
        if !(1..=600).contains(&value) {
            return refuse(field, "must be between 1 and 600 seconds");
        }
    }
    if vendor.quota_rps.is_some_and(|quota| Rate::per_second(quota).is_none()) {
        return refuse(
            "quota_rps",
            "must be between 1 and 100000 requests per second; leave it out for no quota",
        );
    }
    if !vendor.credential_env.as_deref().is_none_or(is_variable) {
        return refuse(
            "credential_env",
            "must be the name of an environment variable, in capitals, and not the secret",
        );
    }
    if vendor.credential_env.is_some() && vendor.credential_file.is_some() {
        return refuse("credential_file", "give either credential_file or credential_env");
    }
    Ok(())
}

/// Whether this can be the name of an environment variable; a secret in its place rarely can.
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Takes `https://host[:port]` apart. Nothing else is an origin: no user, path, query or fragment
/// (rule E3).
pub(super) fn origin(url: &str) -> Result<Origin, &'static str> {
    const SHAPE: &str = "must be https://host or https://host:port, without a path";
    let (tls, rest) = match url.split_once("://") {
        Some(("https", rest)) => (true, rest),
        Some(("http", rest)) => (false, rest),
        Some(_) | None => return Err(SHAPE),
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, port) = bracketed.split_once(']').ok_or(SHAPE)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| SHAPE)?;
            match (port.is_empty(), port.strip_prefix(':')) {
                (true, _) => (host, None),
                (false, Some(port)) => (host, Some(port)),
                (false, None) => return Err(SHAPE),
            }
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'-' || byte == b'_';
    let is_host = !host.is_empty() && host.len() <= 253 && host.bytes().all(is_name);
    if !is_host && host.parse::<std::net::Ipv6Addr>().is_err() {
        return Err(SHAPE);
    }
    let port = match port {
        None => {
            if tls {
                443
            } else {
                80
            }
        }
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().ok().filter(|port| *port != 0).ok_or("has an impossible port")?
        }
        Some(_) => return Err(SHAPE),
    };
    Ok(Origin { tls, host: host.to_ascii_lowercase(), port })
}
