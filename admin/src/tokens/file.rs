//! The file of admin tokens: digests and scopes, under the pepper; and the pepper's own file.
//!
//! ```text
//! keybrake-admin-tokens 1 <HMAC of the rest, in hexadecimal digits>
//! <JSON>
//! ```

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use keybrake_proto::secret::Secret;
use ring::hmac;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::Kept;

/// What the file begins with.
const NAME: &str = "keybrake-admin-tokens";

/// The one version so far.
const VERSION: &str = "1";

/// So that the HMAC of a file is never one of a token.
const FILE_PURPOSE: &[u8] = b"keybrake admin tokens file v1\0";

const TOKEN_PURPOSE: &[u8] = b"keybrake admin token v1\0";

const PEPPER_BYTES: usize = 32;

/// The mode bits of the owner's group and of everybody else.
const OTHERS: u32 = 0o077;

/// Why admin tokens cannot be read or written.
#[derive(Debug)]
pub(crate) enum FileError {
    /// A file cannot be read or written.
    Io(PathBuf, io::Error),
    /// Others than the owner may read it.
    Exposed(PathBuf, u32),
    /// The pepper is not there, and tokens are.
    NoPepper(PathBuf, PathBuf),
    /// The pepper is no such file.
    BadPepper(PathBuf),
    /// The tokens are damaged, changed by hand, or made with another pepper.
    Damaged(PathBuf),
    /// The tokens were written by a newer program.
    Newer(PathBuf, String),
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Io(path, error) => write!(f, "cannot read or write {}: {error}", path.display()),
            FileError::Exposed(path, mode) => write!(
                f,
                "{} can be read by others (mode {mode:03o}); run `chmod 600 {}`",
                path.display(),
                path.display()
            ),
            FileError::NoPepper(pepper, tokens) => write!(
                f,
                "{} is not there, without which no token in {} can be checked; put it back, or delete both and make \
                 the tokens anew",
                pepper.display(),
                tokens.display()
            ),
            FileError::BadPepper(path) => {
                write!(
                    f,
                    "{} is no pepper, which is 64 hexadecimal digits; put the right file back",
                    path.display()
                )
            }
            FileError::Damaged(path) => write!(
                f,
                "{} is damaged or was made with another pepper; put a copy of it back, or delete it and make the \
                 tokens anew",
                path.display()
            ),
            FileError::Newer(path, version) => {
                write!(
                    f,
                    "{} has version {version}, newer than this program; run a newer keybrake",
                    path.display()
                )
            }
        }
    }
}

/// What admin tokens are hashed with: kept away from the digests.
pub(super) struct Pepper(hmac::Key);

impl Pepper {
    /// Reads the file; `None` where it is not there.
    pub(super) fn read(path: &Path) -> Result<Option<Pepper>, FileError> {
        let io = |error| FileError::Io(path.to_owned(), error);
        let text = match fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => Secret::new(text.map_err(io)?),
        };
        let mode = fs::metadata(path).map_err(io)?.permissions().mode();
        if mode & OTHERS != 0 {
            return Err(FileError::Exposed(path.to_owned(), mode & 0o777));
        }
        let digits = text.expose().trim_ascii_end();
        let bytes = (digits.len() == 2 * PEPPER_BYTES).then(|| from_hex(digits)).flatten();
        let bytes = bytes.map(Secret::new).ok_or_else(|| FileError::BadPepper(path.to_owned()))?;
        Ok(Some(Pepper(hmac::Key::new(hmac::HMAC_SHA256, bytes.expose()))))
    }

    /// Reads the file, which is made where it is missing.
    pub(super) fn read_or_make(path: &Path) -> Result<Pepper, FileError> {
        if let Some(pepper) = Pepper::read(path)? {
            return Ok(pepper);
        }
        let io = |error| FileError::Io(path.to_owned(), error);
        let mut bytes = [0; PEPPER_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| io(io::Error::other("the system gives no random bytes")))?;
        let text = Secret::new(to_hex(&bytes).into_bytes());
        // Never over one that is there.
        match write_new(path, &[text.expose(), b"\n"].concat(), |from, to| fs::hard_link(from, to)) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io(error)),
            Ok(()) | Err(_) => {}
        }
        Pepper::read(path)?.ok_or_else(|| io(ErrorKind::NotFound.into()))
    }

    /// The digest of a token.
    pub(super) fn digest(&self, token: &[u8]) -> [u8; 32] {
        let mut digest = [0; 32];
        digest.copy_from_slice(self.sign(TOKEN_PURPOSE, token).as_ref());
        digest
    }

    fn sign(&self, purpose: &[u8], bytes: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(purpose);
        context.update(bytes);
        context.sign()
    }
}

/// What tells one state of a file from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// The state of the file now; `None` where it is not there.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    Some(Stamp { inode: found.ino(), bytes: found.len(), changed: (found.mtime(), found.mtime_nsec()) })
}

/// Reads the tokens.
pub(super) fn read(path: &Path, pepper: &Pepper) -> Result<Kept, FileError> {
    let text = fs::read_to_string(path).map_err(|error| FileError::Io(path.to_owned(), error))?;
    let damaged = || FileError::Damaged(path.to_owned());
    let (head, body) = text.split_once('\n').ok_or_else(damaged)?;
    let mut words = head.split(' ');
    let (name, version, tag) = (words.next(), words.next(), words.next());
    if name != Some(NAME) {
        return Err(damaged());
    }
    match version {
        Some(VERSION) => {}
        Some(newer) if newer.bytes().all(|byte| byte.is_ascii_digit()) => {
            return Err(FileError::Newer(path.to_owned(), newer.to_owned()));
        }
        Some(_) | None => return Err(damaged()),
    }
    let tag = tag.and_then(|tag| from_hex(tag.as_bytes())).ok_or_else(damaged)?;
    let signed = [FILE_PURPOSE, body.as_bytes()].concat();
    hmac::verify(&pepper.0, &signed, &tag).map_err(|_| damaged())?;
    serde_json::from_str(body).map_err(|_| damaged())
}

/// Writes the tokens, whole or not at all; on disk when it returns.
pub(super) fn write(path: &Path, pepper: &Pepper, kept: &Kept) -> Result<(), FileError> {
    let io = |error| FileError::Io(path.to_owned(), error);
    let mut body = serde_json::to_string_pretty(kept).map_err(|error| io(error.into()))?;
    body.push('\n');
    let tag = to_hex(pepper.sign(FILE_PURPOSE, body.as_bytes()).as_ref());
    let text = format!("{NAME} {VERSION} {tag}\n{body}");
    write_new(path, text.as_bytes(), |from, to| fs::rename(from, to)).map_err(io)
}

/// Writes `bytes` to a new file for its owner only, brings it to the disk, and has `place` put it at `path`.
pub(super) fn write_new(
    path: &Path,
    bytes: &[u8],
    place: impl Fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut random = [0; 8];
    SystemRandom::new()
        .fill(&mut random)
        .map_err(|_| io::Error::other("the system gives no random bytes"))?;
    // Not the process id: in a container a stopped start may have left a file of the same id.
    let mut name = path.to_owned().into_os_string();
    name.push(format!(".{:016x}.new", u64::from_ne_bytes(random)));
    let unfinished = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    let placed = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| place(&unfinished, path));
    // After a rename it is gone already.
    fs::remove_file(&unfinished).ok();
    placed?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new("."))).and_then(|directory| directory.sync_all())
}

/// Lower-case hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of hexadecimal digits.
pub(super) fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some((digit(high)? << 4) | digit(low)?),
        _ => None,
    };
    digits.chunks(2).map(pair).collect()
}
