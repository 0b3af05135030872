//! The one configuration file, as all processes read it.
//!
//! Parsing is pure: the caller reads the file and the environment. A [`Config`] that exists is
//! possible; whether its addresses are free and its directories writable shows when they are used.

mod audit;
mod check;
mod data;
mod limits;
mod operation;
mod overrides;
mod reload;
mod requests;
mod tls;

pub use audit::Audit;
pub use data::{Data, KeySource};
pub use limits::{Figures, Limits, Network, source};
pub use operation::{BodyForm, Cost, Operation};
pub use reload::{Class, FIELDS, Field, Reload, VENDOR_FIELDS};
pub use requests::Requests;
pub use tls::{Tls, TlsVersion};

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::policy::IssueBounds;

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Towards agents.
    #[serde(default)]
    pub proxy: Proxy,
    /// What agents may use up.
    #[serde(default)]
    pub limits: Limits,
    /// Towards operators.
    #[serde(default)]
    pub admin: Admin,
    /// Where state lives.
    #[serde(default)]
    pub data: Data,
    /// What survives what.
    #[serde(default)]
    pub durability: Durability,
    /// What currencies and units are worth.
    #[serde(default)]
    pub prices: Prices,
    /// What all keys together may send.
    #[serde(default)]
    pub requests: Requests,
    /// What no issued key may go beyond.
    #[serde(default)]
    pub issue: IssueBounds,
    /// What a query of the audit may use.
    #[serde(default)]
    pub audit: Audit,
    /// The vendors, at least one.
    #[serde(default, rename = "vendor")]
    pub vendors: Vec<Vendor>,
}

/// `[proxy]`: towards agents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Worker threads; 0 is one per core.
    pub workers: usize,
    /// How workers talk to the kernel.
    pub driver: Driver,
    /// The most connections from agents, over all workers.
    pub connections_max: usize,
    /// The longest request body, in bytes.
    pub body_bytes_max: u64,
    /// The longest a request's head may take to arrive, in seconds.
    pub head_timeout_s: u64,
    /// The longest a request's body may take to arrive, in seconds.
    pub body_timeout_s: u64,
    /// The longest an agent may take to read a reply, in seconds.
    pub write_timeout_s: u64,
    /// How long a body or a reply may be slower than the rates below, in seconds.
    pub rate_grace_s: u64,
    /// The least rate at which a request's body arrives, in bytes per second (rule G1).
    pub body_bytes_per_s_min: u64,
    /// The least rate at which an agent reads a reply, in bytes per second.
    pub write_bytes_per_s_min: u64,
    /// How long an idle connection is kept, in seconds.
    pub idle_timeout_s: u64,
    /// How long running exchanges may take to finish when the process stops, in seconds.
    pub drain_timeout_s: u64,
    /// The certificate that agents are shown. Absent: they connect with plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
}

impl Default for Proxy {
    fn default() -> Proxy {
        Proxy {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            workers: 0,
            driver: Driver::Auto,
            connections_max: 20_000,
            body_bytes_max: 1024 * 1024,
            head_timeout_s: 10,
            body_timeout_s: 30,
            write_timeout_s: 30,
            rate_grace_s: 10,
            body_bytes_per_s_min: 500,
            write_bytes_per_s_min: 4096,
            idle_timeout_s: 60,
            drain_timeout_s: 30,
            tls: None,
        }
    }
}

/// How workers talk to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Driver {
    /// io_uring where the kernel allows it, else epoll.
    #[serde(rename = "auto")]
    Auto,
    /// io_uring, or an error.
    #[serde(rename = "io_uring")]
    IoUring,
    /// epoll.
    #[serde(rename = "epoll")]
    Epoll,
}

impl Driver {
    /// As written in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Driver::Auto => "auto",
            Driver::IoUring => "io_uring",
            Driver::Epoll => "epoll",
        }
    }
}

/// `[admin]`: towards operators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Admin {
    /// Where operators connect.
    pub listen: SocketAddr,
}

impl Default for Admin {
    fn default() -> Admin {
        Admin { listen: SocketAddr::from(([127, 0, 0, 1], 8081)) }
    }
}

/// `[durability]`: what survives what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Durability {
    /// For requests with a quote above zero.
    pub money: Money,
}

/// How durable money is before a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Money {
    /// On disk.
    #[default]
    Fsync,
    /// In the kernel: it survives the process, not the machine.
    Process,
    /// Nowhere, for benchmarks: refused unless `KEYBRAKE_BENCH` is set.
    Off,
}

/// `[prices]`: what currencies and units are worth (docs/prices.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// What currencies are worth in USD. Absent: only USD has a worth.
    pub rates_file: Option<PathBuf>,
    /// Twilio's prices, in place of those that keybrake comes with.
    pub twilio_file: Option<PathBuf>,
    /// Resend's prices, in place of those that keybrake comes with.
    pub resend_file: Option<PathBuf>,
}

/// `[[vendor]]`: an API that is paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vendor {
    /// Which table of the catalog.
    pub name: String,
    /// Scheme, host and port; no path.
    pub base_url: String,
    /// The environment variable that holds the credential at the first start.
    #[serde(default)]
    pub credential_env: Option<String>,
    /// The file that holds the credential at the first start.
    #[serde(default)]
    pub credential_file: Option<PathBuf>,
    /// Trust only the certificate authorities in this PEM file.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Allow `http://`, to a stand-in on a loopback address only.
    #[serde(default)]
    pub allow_plain_http: bool,
    /// Allow `base_url` to resolve to a loopback, link-local or private address.
    #[serde(default)]
    pub allow_private_address: bool,
    /// The longest a whole exchange with the vendor may take, in seconds.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
    /// The longest a connection to the vendor may take to open, in seconds.
    #[serde(default = "default_connect_timeout_s")]
    pub connect_timeout_s: u64,
    /// The most idle connections each worker keeps.
    #[serde(default = "default_idle_connections_max")]
    pub idle_connections_max: usize,
    /// Requests per second that all keys together send under the credential; absent: as many as come.
    #[serde(default)]
    pub quota_rps: Option<u32>,
    /// The header that holds the credential. Absent: `Authorization`. Only for a vendor that keybrake does not know by
    /// itself, as everything below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_header: Option<String>,
    /// What stands before the credential. Absent: `Bearer` in `Authorization`, nothing in another header. With `Basic`
    /// the credential is `user:password`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_scheme: Option<String>,
    /// Request headers that reach the vendor beside `Accept`, `Accept-Language`, `Content-Type` and `User-Agent`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub request_headers: Vec<String>,
    /// Whether a GET that is not listed is free. Else it is unpriced.
    #[serde(default)]
    pub free_reads: bool,
    /// What it can do.
    #[serde(default, rename = "operation", skip_serializing_if = "Vec::is_empty")]
    pub operations: Vec<Operation>,
}

const fn default_timeout_s() -> u64 {
    60
}

const fn default_connect_timeout_s() -> u64 {
    5
}

const fn default_idle_connections_max() -> usize {
    256
}

/// A vendor's `base_url`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// TLS or plain.
    pub tls: bool,
    /// A DNS name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Origin {
    /// What stands in `Host`.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl Vendor {
    /// A vendor of this name at `base_url`, with the defaults of the file.
    pub fn new(name: impl Into<String>, base_url: impl Into<String>) -> Vendor {
        Vendor {
            name: name.into(),
            base_url: base_url.into(),
            credential_env: None,
            credential_file: None,
            ca_file: None,
            allow_plain_http: false,
            allow_private_address: false,
            timeout_s: default_timeout_s(),
            connect_timeout_s: default_connect_timeout_s(),
            idle_connections_max: default_idle_connections_max(),
            quota_rps: None,
            credential_header: None,
            credential_scheme: None,
            request_headers: Vec::new(),
            free_reads: false,
            operations: Vec::new(),
        }
    }

    /// The origin of `base_url`, which [`Config::parse`] has checked.
    pub fn origin(&self) -> Result<Origin, ConfigError> {
        check::origin(&self.base_url).map_err(|problem| ConfigError::value("vendor.base_url", problem))
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Not TOML, or not these keys and types; the text names the place.
    Syntax(String),
    /// A value that cannot be.
    Value {
        /// The key, such as `proxy.workers`.
        key: String,
        /// What is wrong and what to write.
        problem: String,
    },
}

impl ConfigError {
    /// TOML's error in one line. Of its excerpt only the key stays: the value may be a secret that
    /// was written in the wrong place.
    fn syntax(error: &toml::de::Error) -> ConfigError {
        let is_margin = |c: char| c.is_ascii_digit() || matches!(c, ' ' | '|' | '^');
        let text = error.to_string();
        let key = |line: &str| line.split_once(" | ").is_some();
        let without_value = |line: &'_ str| -> String {
            let cut = if key(line) { line.split('=').next().unwrap_or_default() } else { line };
            cut.trim_start_matches(is_margin).trim().to_owned()
        };
        let lines = text.lines().map(without_value);
        let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
        ConfigError::Syntax(lines.join(": "))
    }

    pub(crate) fn value(key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError::Value { key: key.into(), problem: problem.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Syntax(text) => f.write_str(text),
            ConfigError::Value { key, problem } => write!(f, "{key}: {problem}"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Parses the file's text and applies `KEYBRAKE_<SECTION>__<KEY>` of `environment` over it.
    pub fn parse(
        text: &str,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        // Read as written first: only then do errors name lines.
        let written: Config = toml::from_str(text).map_err(|error| ConfigError::syntax(&error))?;
        let config = overrides::apply(written, text, environment)?;
        check::check(&config)?;
        Ok(config)
    }

    /// The names of the configured vendors.
    pub fn vendor_names(&self) -> Vec<String> {
        self.vendors.iter().map(|vendor| vendor.name.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
