//! `[proxy.tls]`: the certificate that agents are shown.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Proxy};

/// `[proxy.tls]`: TLS towards agents. Absent: they connect with plain HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate and those that vouch for it, in PEM, the proxy's own first.
    pub cert_file: PathBuf,
    /// Its private key in PEM, not encrypted.
    pub key_file: PathBuf,
    /// Authorities in PEM: only agents with a certificate of one of them are let in. Absent: agents need none.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
    /// The oldest version that is spoken.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// A version of TLS. Older ones than these are never spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    Tls13,
}

impl Proxy {
    /// `http` or `https`: how agents reach it.
    pub fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// Whether vault keys may cross a network where others read along.
    pub fn is_open_to_readers(&self) -> bool {
        self.tls.is_none() && !self.listen.ip().is_loopback()
    }
}

pub(super) fn check(proxy: &Proxy) -> Result<(), ConfigError> {
    let Some(tls) = &proxy.tls else { return Ok(()) };
    let files = [("cert_file", Some(&tls.cert_file)), ("key_file", Some(&tls.key_file))];
    for (key, path) in files.into_iter().chain([("client_ca_file", tls.client_ca_file.as_ref())]) {
        if path.is_some_and(|path| path.as_os_str().is_empty()) {
            return Err(ConfigError::value(format!("proxy.tls.{key}"), "must name a PEM file"));
        }
    }
    Ok(())
}
