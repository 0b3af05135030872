//! Which vault keys a program gets, for which vendors, and where the proxy is.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use clap::Args;
use keybrake_proto::config::Config;
use keybrake_proto::key;
use keybrake_proto::secret::Secret;
use serde_json::Value;
use ureq::Agent;

use crate::config::reachable;
use crate::failure::Failure;

/// One key, or several separated by blanks or commas, for whoever gives none on the command line.
pub(super) const KEY_ENV: &str = "KEYBRAKE_VAULT_KEY";

/// The longest a question to the proxy may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// A list of keys is not longer, whoever writes to standard input.
const KEYS_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct KeyArguments {
    /// A vault key, or `-` for standard input. Other users of this machine see the command line: prefer
    /// --key-file, `-` or KEYBRAKE_VAULT_KEY. Repeatable, one key a vendor.
    #[arg(long, value_name = "[VENDOR=]KEY|-", value_parser = secret)]
    key: Vec<Secret>,
    /// A file with one key, or one on each line. Repeatable.
    #[arg(long, value_name = "[VENDOR=]FILE")]
    key_file: Vec<String>,
    /// The proxy [default: proxy.listen of the configuration].
    #[arg(long, value_name = "http[s]://HOST:PORT", env = "KEYBRAKE_PROXY_URL")]
    pub(super) proxy: Option<String>,
}

/// A vault key is never part of an error about the command line.
#[expect(clippy::unnecessary_wraps, reason = "clap wants a Result")]
fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text.as_bytes().to_vec()))
}

/// A vault key and the vendor it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct VendorKey {
    /// The vendor's name in keybrake's configuration.
    pub(super) vendor: String,
    /// The key.
    pub(super) key: Secret,
}

/// Where the proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    /// `http://127.0.0.1:8080`, without a slash at the end.
    pub(super) origin: String,
    /// `127.0.0.1`.
    pub(super) host: String,
}

impl Proxy {
    /// The one that was named, else the configuration's.
    pub(super) fn find(named: Option<&str>, config: Option<&Config>) -> Result<Proxy, Failure> {
        match (named, config) {
            (Some(url), _) => Proxy::parse(url),
            (None, Some(config)) => match reachable(config.proxy.listen) {
                address if address.port() == 0 => Err(Failure::setup(
                    "proxy.listen has port 0, so the proxy's address is not known; name it with --proxy",
                )),
                address => Proxy::parse(&format!("{}://{address}", config.proxy.scheme())),
            },
            (None, None) => Err(Failure::setup(
                "no configuration file, so the proxy's address is not known; name the file with --config or the address \
                 with --proxy",
            )),
        }
    }

    fn parse(url: &str) -> Result<Proxy, Failure> {
        let wrong =
            || Failure::setup("--proxy must be http://HOST:PORT or https://HOST:PORT, without a path");
        let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
        let authority = rest.trim_end_matches('/');
        if !["http", "https"].contains(&scheme)
            || authority.is_empty()
            || authority.contains(|c: char| "/?#@\"'\\".contains(c) || c.is_whitespace() || c.is_control())
        {
            return Err(wrong());
        }
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            Some(_) | None => authority,
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Proxy { origin: format!("{scheme}://{authority}"), host })
    }
}

/// Whether a program may start without a key of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    /// Others come.
    None,
    /// Without a key there is nothing to do.
    One,
}

/// All keys that were given, one for a vendor.
pub(super) fn collect(
    arguments: &KeyArguments,
    proxy: &Proxy,
    needs: Needs,
) -> Result<Vec<VendorKey>, Failure> {
    let mut given = Vec::new();
    for text in &arguments.key {
        if text.expose() == b"-" {
            let mut input = Vec::new();
            let read = std::io::stdin().take(KEYS_BYTES_MAX).read_to_end(&mut input);
            read.map_err(|error| Failure::setup(format_args!("cannot read standard input: {error}")))?;
            given.extend(listed(&input, None, "standard input")?);
        } else {
            given.extend(listed(text.expose(), None, "--key")?);
        }
    }
    for file in &arguments.key_file {
        given.extend(from_file(file)?);
    }
    let is_empty = given.is_empty();
    if let (true, Some(value)) = (is_empty, std::env::var_os(KEY_ENV)) {
        given.extend(listed(value.as_encoded_bytes(), None, KEY_ENV)?);
    }
    if given.is_empty() && needs == Needs::One {
        return Err(Failure::setup(format_args!(
            "no vault key: give one by --key-file, --key - or {KEY_ENV}"
        )));
    }
    let mut keys = Vec::new();
    for Given { vendor, key } in given {
        let vendor = vendor.map_or_else(|| ask_vendor(proxy, &key), Ok)?;
        add(&mut keys, VendorKey { vendor, key })?;
    }
    Ok(keys)
}

/// Adds a key; a vendor has one, since its SDK takes one.
pub(super) fn add(keys: &mut Vec<VendorKey>, key: VendorKey) -> Result<(), Failure> {
    if keys.iter().any(|other| other.vendor == key.vendor) {
        return Err(Failure::setup(format_args!(
            "two vault keys for {}: a program gets one for a vendor",
            key.vendor
        )));
    }
    keys.push(key);
    Ok(())
}

/// One of `[VENDOR=]KEY`.
#[derive(Debug, PartialEq, Eq)]
struct Given {
    vendor: Option<String>,
    key: Secret,
}

fn from_file(argument: &str) -> Result<Vec<Given>, Failure> {
    let (vendor, path) = match argument.split_once('=') {
        Some((vendor, path)) if is_vendor(vendor.as_bytes()) => (Some(vendor), path),
        Some(_) | None => (None, argument),
    };
    let read = std::fs::read(Path::new(path));
    let bytes = read.map_err(|error| Failure::setup(format_args!("cannot read {path}: {error}")))?;
    let given = listed(&bytes, vendor, path)?;
    if given.is_empty() {
        return Err(Failure::setup(format_args!("{path} holds no vault key")));
    }
    Ok(given)
}

/// The keys in a text, separated by blanks, line ends or commas. An error never repeats any of it.
fn listed(text: &[u8], of: Option<&str>, place: &str) -> Result<Vec<Given>, Failure> {
    let words =
        text.split(|byte| byte.is_ascii_whitespace() || *byte == b',').filter(|word| !word.is_empty());
    words
        .map(|word| {
            let (vendor, key) = match word.iter().position(|byte| *byte == b'=') {
                Some(at) => (word.get(..at), word.get(at.saturating_add(1)..).unwrap_or_default()),
                None => (of.map(str::as_bytes), word),
            };
            if vendor.is_some_and(|name| !is_vendor(name)) || !key::is_well_formed(key) {
                return Err(Failure::setup(format_args!(
                    "{place}: this is no vault key, perhaps cut short or a vendor's own; write KEY or VENDOR=KEY, with a \
                     key of `keybrake key issue`"
                )));
            }
            let vendor = vendor.map(|name| String::from_utf8_lossy(name).into_owned());
            Ok(Given { vendor, key: Secret::new(key.to_vec()) })
        })
        .collect()
}

/// A name that can stand in a path and, in capitals, in a variable.
fn is_vendor(name: &[u8]) -> bool {
    let is_name = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(byte);
    !name.is_empty() && name.iter().all(is_name)
}

/// Asks the proxy which vendor the key is for; so a key that is revoked is noticed before the program starts.
fn ask_vendor(proxy: &Proxy, key: &Secret) -> Result<String, Failure> {
    if proxy.origin.starts_with("https:") {
        return Err(Failure::setup(
            "which vendor a key is for is asked over plain HTTP only; write VENDOR=KEY or VENDOR=FILE",
        ));
    }
    let agent = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(TIMEOUT))
        .max_redirects(0)
        // The key goes to the proxy alone, whatever HTTP_PROXY says.
        .proxy(None)
        .build()
        .new_agent();
    let authorization = Secret::new([b"Bearer ", key.expose()].concat());
    let sent = agent
        .get(format!("{}/vault/keys/self", proxy.origin))
        .header("authorization", authorization.expose())
        .call();
    let origin = &proxy.origin;
    let mut response = sent.map_err(|error| {
        Failure::operation(format_args!(
            "cannot reach the proxy at {origin} ({error}); start it with `keybrake up`, or name another with --proxy"
        ))
    })?;
    let body: Value = response.body_mut().read_json().unwrap_or_default();
    match (response.status().as_u16(), body.get("vendor").and_then(Value::as_str)) {
        (200, Some(vendor)) if is_vendor(vendor.as_bytes()) => Ok(vendor.to_owned()),
        (401, _) => Err(Failure::operation(format_args!(
            "the proxy at {origin} does not know this vault key, or it is revoked or has expired"
        ))),
        (status, _) => Err(Failure::operation(format_args!(
            "the proxy at {origin} does not say which vendor the key is for (status {status}); name it: VENDOR=KEY"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_key(digit: u8) -> String {
        key::mint(|bytes| bytes.fill(digit))
    }

    fn check(text: &str, expected: Result<&[(Option<&str>, u8)], &str>) {
        match (listed(text.as_bytes(), None, "here"), expected) {
            (Ok(given), Ok(expected)) => {
                let expected = expected.iter().map(|(vendor, digit)| Given {
                    vendor: vendor.map(str::to_owned),
                    key: Secret::new(a_key(*digit).into_bytes()),
                });
                assert_eq!(given, expected.collect::<Vec<Given>>(), "{text}");
            }
            (Err(failure), Err(words)) => {
                assert!(failure.status == 2 && failure.to_string().contains(words), "{text}: {failure}");
                assert!(!failure.to_string().contains("sk_live"), "{failure}");
            }
            (given, expected) => panic!("{text}: {given:?}, not {expected:?}"),
        }
    }

    #[test]
    fn keys_stand_in_lines_or_lists_with_or_without_their_vendors() {
        let (one, two) = (a_key(1), a_key(2));
        check("", Ok(&[]));
        check(&format!("{one}\n"), Ok(&[(None, 1)]));
        check(&format!("stripe={one}\r\n\n twilio={two}"), Ok(&[(Some("stripe"), 1), (Some("twilio"), 2)]));
        check(&format!("{one},resend={two}"), Ok(&[(None, 1), (Some("resend"), 2)]));
    }

    #[test]
    fn a_real_credential_is_refused_and_not_repeated() {
        check("sk_live_1234567890", Err("here: this is no vault key"));
        check("stripe=sk_live_1234567890", Err("a vendor's own"));
        check(&format!("Stripe/x={}", a_key(1)), Err("VENDOR=KEY"));
        check(a_key(1).trim_end_matches(|c: char| c.is_ascii_alphanumeric()), Err("cut short"));
    }

    #[test]
    fn a_proxy_is_an_origin() {
        let proxy = Proxy::parse("http://127.0.0.1:8080/").unwrap();
        assert_eq!((proxy.origin.as_str(), proxy.host.as_str()), ("http://127.0.0.1:8080", "127.0.0.1"));
        assert_eq!(Proxy::parse("https://[::1]:8443").unwrap().host, "::1");
        assert_eq!(Proxy::parse("https://proxy.internal").unwrap().host, "proxy.internal");
        for url in ["127.0.0.1:8080", "ftp://x", "http://", "http://x/stripe", "http://u@x", "http://a b"] {
            assert_eq!(Proxy::parse(url).unwrap_err().status, 2, "{url}");
        }
    }

    #[test]
    fn a_vendor_has_one_key() {
        let key = |vendor: &str| VendorKey { vendor: vendor.to_owned(), key: Secret::new(Vec::new()) };
        let mut keys = vec![key("stripe")];
        assert_eq!(add(&mut keys, key("twilio")), Ok(()));
        assert!(add(&mut keys, key("stripe")).unwrap_err().to_string().contains("two vault keys for stripe"));
    }
}
