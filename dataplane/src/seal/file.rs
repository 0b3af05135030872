//! The master key's file: 64 hexadecimal digits and a newline, for its owner only.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ring::rand::SystemRandom;
use zeroize::Zeroizing;

use super::{MASTER_BYTES, Made, SealError, fill};

/// More than a key file has, so that a wrong path is told and not read into memory.
const FILE_BYTES_MAX: u64 = 1024;

/// The bits of a mode that are not the owner's.
const OTHERS: u32 = 0o077;

/// Reads the key.
pub(super) fn read(path: &Path) -> Result<Zeroizing<[u8; MASTER_BYTES]>, SealError> {
    let io = |error| io_error(path, &error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(SealError::Missing(path.to_owned()));
        }
        Err(error) => return Err(io(error)),
    };
    // Of the open file, so that it cannot be exchanged in between.
    let mode = file.metadata().map_err(io)?.permissions().mode();
    if mode & OTHERS != 0 {
        return Err(SealError::Exposed { path: path.to_owned(), mode: mode & 0o7777 });
    }
    let mut text = Zeroizing::new(Vec::with_capacity(1024));
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(io)?;
    from_hex(text.trim_ascii_end()).ok_or_else(|| SealError::Malformed(path.to_owned()))
}

/// Writes a new file, whole or not at all; never over another one.
pub(super) fn create(path: &Path, bytes: &[u8; MASTER_BYTES]) -> Result<Made, SealError> {
    let directory = directory_of(path);
    let io = |error| io_error(path, &error);
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
    let temporary = temporary(path)?;
    // A link does not replace, unlike a rename: of two processes that start, one key stays.
    let made = write(&temporary, bytes).and_then(|()| match fs::hard_link(&temporary, path) {
        Ok(()) => Ok(Made::New),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Made::Before),
        Err(error) => Err(error),
    });
    let removed = fs::remove_file(&temporary);
    let made = made.map_err(io)?;
    removed.map_err(io)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)?;
    Ok(made)
}

fn write(path: &Path, bytes: &[u8; MASTER_BYTES]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(to_hex(bytes).as_bytes())?;
    file.sync_all()
}

/// Another name for each try: a process that was killed may have left its file.
fn temporary(path: &Path) -> Result<PathBuf, SealError> {
    let mut suffix = [0; 8];
    fill(&SystemRandom::new(), &mut suffix)?;
    let mut name = OsString::from(path);
    name.push(format!(".{:016x}.new", u64::from_le_bytes(suffix)));
    Ok(PathBuf::from(name))
}

pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn to_hex(bytes: &[u8; MASTER_BYTES]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(2 * MASTER_BYTES + 1));
    for byte in bytes {
        text.extend(
            [byte >> 4, byte & 15].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)),
        );
    }
    text.push('\n');
    text
}

pub(super) fn from_hex(text: &[u8]) -> Option<Zeroizing<[u8; MASTER_BYTES]>> {
    if text.len() != 2 * MASTER_BYTES {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut bytes = Zeroizing::new([0; MASTER_BYTES]);
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        let [high, low] = digits else { return None };
        *byte = (digit(high)? << 4) | digit(low)?;
    }
    Some(bytes)
}

pub(super) fn io_error(path: &Path, error: &io::Error) -> SealError {
    SealError::Io { path: path.to_owned(), reason: error.to_string() }
}
