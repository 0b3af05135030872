//! Secrets that came in the environment: taken out of it, so that `/proc/PID/environ` does not show them (rule S1).
//!
//! The kernel shows the block that a process was started with for as long as it runs, whatever the process forgets.
//! So it starts itself anew without them, under the same id, and reads them from a pipe in the place of its standard
//! input.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::OnceLock;

use keybrake_proto::secret::Secret;

/// Says that the secrets come on standard input.
const MARKER: &str = "KEYBRAKE_SECRETS_ON_STDIN";

/// What a pipe takes at once on every system (`PIPE_BUF` is less, its capacity is 64 KiB on Linux).
const BYTES_MAX: usize = 16 * 1024;

static TAKEN: OnceLock<BTreeMap<String, Secret>> = OnceLock::new();

/// Takes the variables `names` out of the environment. Where any of them is set this does not return: the process
/// begins anew.
///
/// The error leaves them where they are, and [`secret`] finds them there.
pub(crate) fn take(names: &[&String]) -> io::Result<()> {
    if std::env::var_os(MARKER).is_some() {
        let mut text = Vec::with_capacity(BYTES_MAX);
        let limit = u64::try_from(BYTES_MAX).unwrap_or(u64::MAX);
        let read = io::stdin().take(limit).read_to_end(&mut text);
        let text = Secret::new(text);
        read?;
        TAKEN.set(parse(text.expose())).ok();
        return Ok(());
    }
    let mut text = Vec::with_capacity(BYTES_MAX);
    let mut taken = Vec::new();
    for name in names {
        let Some(value) = std::env::var_os(name.as_str()).map(OsString::into_encoded_bytes).map(Secret::new)
        else {
            continue;
        };
        let bytes = [name.as_bytes(), b"\0", value.expose(), b"\0"];
        if text.len().saturating_add(bytes.iter().map(|part| part.len()).sum()) > BYTES_MAX {
            return Err(io::Error::other("they are too long"));
        }
        bytes.iter().for_each(|part| text.extend_from_slice(part));
        taken.push(*name);
    }
    let text = Secret::new(text);
    if taken.is_empty() {
        return Ok(());
    }
    let (reader, mut writer) = io::pipe()?;
    writer.write_all(text.expose())?;
    drop(writer);
    let mut arguments = std::env::args_os();
    let mut again = Command::new(std::env::current_exe()?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    for name in taken {
        again.env_remove(name);
    }
    Err(again.args(arguments).env(MARKER, "1").stdin(reader).exec())
}

fn parse(text: &[u8]) -> BTreeMap<String, Secret> {
    let mut parts = text.split(|byte| *byte == 0);
    let mut secrets = BTreeMap::new();
    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
        secrets.insert(String::from_utf8_lossy(name).into_owned(), Secret::new(value.to_vec()));
    }
    secrets
}

/// The value of a variable that may hold a secret, wherever it is now.
pub(crate) fn secret(name: &str) -> Option<Secret> {
    let taken = TAKEN.get().and_then(|taken| taken.get(name));
    taken.cloned().or_else(|| std::env::var_os(name).map(|value| Secret::new(value.into_encoded_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_secrets_read_back_as_they_were_written() {
        let read = parse(b"STRIPE_SECRET_KEY\0sk_test_1\0MASTER\0\0");
        assert_eq!(read.get("STRIPE_SECRET_KEY"), Some(&Secret::new(b"sk_test_1".to_vec())));
        assert_eq!(read.get("MASTER"), Some(&Secret::new(Vec::new())));
        assert_eq!(read.len(), 2);
        assert!(parse(b"").is_empty());
    }
}
