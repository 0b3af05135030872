//! The admin token of the first start, which may do everything: where it comes from, how it is made, how it is compared.
//! All others are [`tokens`](crate::tokens).

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use keybrake_proto::config::Data;
use keybrake_proto::key;
use keybrake_proto::secret::Secret;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::failure::Failure;
use crate::tokens;

/// The environment variable that goes before every file.
pub(crate) const TOKEN_ENV: &str = "KEYBRAKE_ADMIN_TOKEN";

/// What a token made here begins with.
const PREFIX: &str = "kbadmin_";

/// Base-62 digits of a made token: 43 hold 256 bits.
const DIGITS: usize = 43;

/// A shorter token could be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// A longer one does not fit a header line comfortably.
const TOKEN_BYTES_MAX: usize = 512;

/// The mode bits of the owner's group and of everybody else.
const OTHERS: u32 = 0o077;

/// Compares tokens without telling by time where they differ: both sides go through an HMAC under a
/// key of this process, and the tags are compared in constant time.
pub(crate) struct AdminToken {
    key: hmac::Key,
    tag: hmac::Tag,
}

impl AdminToken {
    /// Remembers `token` by its tag.
    pub(crate) fn new(token: &Secret) -> Result<AdminToken, Failure> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| Failure::setup("the system gives no random bytes"))?;
        let tag = hmac::sign(&key, token.expose());
        Ok(AdminToken { key, tag })
    }

    /// Whether `presented` is the token.
    pub(crate) fn matches(&self, presented: &[u8]) -> bool {
        hmac::verify(&self.key, presented, self.tag.as_ref()).is_ok()
    }
}

/// Where the server's token came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// [`TOKEN_ENV`].
    Environment,
    /// A file that was there.
    File(PathBuf),
    /// A file made just now.
    Made(PathBuf),
    /// Nowhere: it was revoked.
    Revoked,
}

/// The token of the server: `environment` is the value of [`TOKEN_ENV`]; without it the file in
/// `data.dir`, which is made where it is missing. `None`: it was revoked.
pub(crate) fn of_server(
    data: &Data,
    environment: Option<OsString>,
) -> Result<(Option<Secret>, Source), Failure> {
    if let Some(token) = environment {
        return Ok((Some(from_environment(token)?), Source::Environment));
    }
    if tokens::is_bootstrap_revoked(data) {
        return Ok((None, Source::Revoked));
    }
    let path = data.admin_token_file();
    make_dir(&data.dir)?;
    let mut made = false;
    if !path.exists() {
        made = make(&path)
            .map_err(|error| Failure::setup(format_args!("cannot make {}: {error}", path.display())))?;
    }
    let mode = fs::metadata(&path).map_err(|error| unreadable(&path, &error))?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(Failure::setup(format_args!(
            "{} can be read by others (mode {:03o}); run `chmod 600 {}`, or delete it to get a new token",
            path.display(),
            mode & 0o777,
            path.display()
        )));
    }
    let token = read(&path)?;
    Ok((Some(token), if made { Source::Made(path) } else { Source::File(path) }))
}

/// The token of a client: the environment, else `named`, else the server's own file.
pub(crate) fn of_client(
    environment: Option<OsString>,
    named: Option<&Path>,
    data: Option<&Data>,
) -> Result<Secret, Failure> {
    if let Some(token) = environment {
        return from_environment(token);
    }
    if let Some(path) = named {
        return read(path);
    }
    let Some(data) = data else {
        return Err(Failure::setup(format_args!(
            "no admin token: set {TOKEN_ENV} or name --token-file FILE"
        )));
    };
    let path = data.admin_token_file();
    if !path.exists() {
        return Err(Failure::operation(format_args!(
            "no admin token: {} is not there; `keybrake up` makes it, unless it was revoked; or set {TOKEN_ENV} or name \
             --token-file",
            path.display()
        )));
    }
    read(&path)
}

/// Makes `dir`, which other users must not look into, unless it is there.
pub(crate) fn make_dir(dir: &Path) -> Result<(), Failure> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        let dir = dir.display();
        Failure::setup(format_args!("cannot make the directory {dir}: {error}; make it, or change data.dir"))
    })
}

fn from_environment(token: OsString) -> Result<Secret, Failure> {
    checked(token.into_encoded_bytes(), TOKEN_ENV)
}

fn read(path: &Path) -> Result<Secret, Failure> {
    let bytes = fs::read(path).map_err(|error| unreadable(path, &error))?;
    checked(bytes, &path.display().to_string())
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::setup(format_args!("cannot read the admin token in {}: {error}", path.display()))
}

fn checked(bytes: Vec<u8>, place: &str) -> Result<Secret, Failure> {
    let whole = Secret::new(bytes);
    let bytes = whole.expose().trim_ascii_end();
    let problem = if !(TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&bytes.len()) {
        format!("must have {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} characters")
    } else if !bytes.iter().all(u8::is_ascii_graphic) {
        "may hold ASCII letters, digits and signs only".to_owned()
    } else if key::is_well_formed(bytes) {
        // P1: one kind of secret never stands for the other.
        "is a vault key; an admin token is another secret".to_owned()
    } else {
        return Ok(Secret::new(bytes.to_vec()));
    };
    Err(Failure::setup(format_args!("the admin token in {place} cannot be used: it {problem}")))
}

/// Makes the token file whole or not at all, and never over one that is there; whether it was made.
fn make(path: &Path) -> io::Result<bool> {
    let mut random = [0; 8];
    fill(&mut random)?;
    // Not the process id: in a container a stopped start may have left a file of the same id.
    let written = path.with_extension(format!("token.{:016x}", u64::from_ne_bytes(random)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&written)?;
    let outcome = mint().and_then(|token| {
        file.write_all(token.expose())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        // A link fails where a rename would replace: of two first starts one wins, both read its token.
        match fs::hard_link(&written, path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    });
    fs::remove_file(&written)?;
    outcome
}

fn fill(bytes: &mut [u8]) -> io::Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| io::Error::other("the system gives no random bytes"))
}

/// `kbadmin_` and base-62 digits without bias: bytes from 248 on, the largest multiple of 62, are
/// thrown away.
pub(crate) fn mint() -> io::Result<Secret> {
    const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut token = Vec::with_capacity(PREFIX.len().saturating_add(DIGITS));
    token.extend_from_slice(PREFIX.as_bytes());
    while token.len() < token.capacity() {
        let mut bytes = [0; 32];
        fill(&mut bytes)?;
        let left = token.capacity().saturating_sub(token.len());
        let digits = bytes.iter().filter(|byte| **byte < 248).filter_map(|byte| {
            let index = usize::from(*byte).checked_rem(BASE62.len())?;
            BASE62.get(index).copied()
        });
        token.extend(digits.take(left));
    }
    Ok(Secret::new(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(dir: &Path) -> Data {
        Data { dir: dir.to_owned(), ..Data::default() }
    }

    #[test]
    fn the_first_start_makes_a_token_that_only_its_owner_reads() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(&dir.path().join("data"));
        let path = data.admin_token_file();
        let (made, source) = of_server(&data, None).unwrap();
        let made = made.unwrap();
        assert_eq!(source, Source::Made(path.clone()));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let text = std::str::from_utf8(made.expose()).unwrap();
        assert!(text.starts_with(PREFIX) && text.len() == PREFIX.len() + DIGITS, "{text}");
        assert_eq!(fs::read_dir(&data.dir).unwrap().count(), 1, "nothing else is left behind");
        assert_eq!(of_server(&data, None).unwrap(), (Some(made.clone()), Source::File(path)));
        assert_eq!(of_client(None, None, Some(&data)).unwrap(), made);
        assert_ne!(mint().unwrap(), made);
    }

    #[test]
    fn a_token_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(dir.path());
        of_server(&data, None).unwrap();
        for mode in [0o640, 0o604, 0o666] {
            fs::set_permissions(data.admin_token_file(), fs::Permissions::from_mode(mode)).unwrap();
            let failure = of_server(&data, None).unwrap_err();
            assert!(failure.status == 2 && failure.to_string().contains("chmod 600"), "{failure}");
        }
    }

    #[test]
    fn the_environment_goes_before_files_and_weak_tokens_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = data(&dir.path().join("never-made"));
        let strong = OsString::from("a-token-of-an-operator");
        let (token, source) = of_server(&data, Some(strong.clone())).unwrap();
        assert_eq!((token.unwrap().expose(), source), (strong.as_encoded_bytes(), Source::Environment));
        assert!(!data.dir.exists());
        let vault_key = key::mint(|bytes| bytes.fill(7));
        for weak in ["", "short", "with a blank in between", vault_key.as_str()] {
            assert!(of_server(&data, Some(OsString::from(weak))).is_err(), "{weak}");
        }
        assert!(of_client(None, None, Some(&data)).unwrap_err().to_string().contains("keybrake up"));
        assert!(of_client(None, None, None).unwrap_err().to_string().contains("--token-file"));
    }

    #[test]
    fn only_the_whole_token_matches() {
        let token = AdminToken::new(&Secret::new(b"0123456789abcdef".to_vec())).unwrap();
        assert!(token.matches(b"0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcde", b"0123456789abcdeg", b"0123456789abcdef0"] {
            assert!(!token.matches(wrong));
        }
    }
}
