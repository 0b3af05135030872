//! Reads the configuration file and the environment; what they mean is `keybrake_proto`'s.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use keybrake_proto::catalog::book::PriceBook;
use keybrake_proto::config::Config;

use crate::failure::Failure;

/// Why there is no configuration.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// There is no such file.
    Missing,
    /// It cannot be read or used.
    Unusable(Failure),
}

/// The configuration in `path` with the environment's overrides.
pub(crate) fn try_load(path: &Path) -> Result<Config, LoadError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            return LoadError::Missing;
        }
        LoadError::Unusable(Failure::setup(format_args!("cannot read {}: {error}", path.display())))
    })?;
    // Names and values that are no text cannot be keybrake's.
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Config::parse(&text, environment)
        .map_err(|error| LoadError::Unusable(Failure::setup(format_args!("{}: {error}", path.display()))))
}

/// Where the admin API and its token are by a file that has something wrong elsewhere; `None` where it does not say.
pub(crate) fn places(path: &Path) -> Option<Config> {
    let mut table: toml::Table = std::fs::read_to_string(path).ok()?.parse().ok()?;
    table.retain(|section, _| section == "admin" || section == "data");
    let vendor = "[[vendor]]\nname = \"stripe\"\nbase_url = \"https://api.stripe.com\"\n";
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("KEYBRAKE_ADMIN__") || name.starts_with("KEYBRAKE_DATA__"));
    Config::parse(&format!("{table}\n{vendor}"), environment).ok()
}

/// As [`try_load`], for commands that cannot do without.
pub(crate) fn load(path: &Path) -> Result<Config, Failure> {
    try_load(path).map_err(|error| match error {
        LoadError::Missing => Failure::setup(format_args!(
            "no configuration file {}; write one, or name another with --config FILE",
            path.display()
        )),
        LoadError::Unusable(failure) => failure,
    })
}

/// The prices that a configuration names.
pub(crate) fn load_prices(config: &Config) -> Result<PriceBook, Failure> {
    PriceBook::load(&config.prices, |path| std::fs::read_to_string(path)).map_err(Failure::setup)
}

/// Where a client on this machine reaches a listener: loopback in place of "all addresses".
pub(crate) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listen.port())
}
