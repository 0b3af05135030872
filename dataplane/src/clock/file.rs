//! The file `clock` in `data.dir`: one record, replaced as a whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use keybrake_proto::clock::{RECORD_BYTES, Record, RecordError};

/// More than a record has, so that a wrong file is told and not read into memory.
const FILE_BYTES_MAX: usize = 2 * RECORD_BYTES;

/// Reads the record; `None` where there is no file.
pub(super) fn read(path: &Path) -> io::Result<Option<Result<Record, RecordError>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut bytes = Vec::with_capacity(FILE_BYTES_MAX);
    file.take(u64::try_from(FILE_BYTES_MAX).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok(Some(Record::decode(&bytes)))
}

/// Writes the record, on disk when it returns; what was there stays until then.
pub(super) fn write(path: &Path, record: &Record) -> io::Result<()> {
    let temporary = temporary(path);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&record.encode())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// One process at a time has the directory, so one name is enough.
fn temporary(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    PathBuf::from(name)
}
