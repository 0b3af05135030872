//! Who asked what of the audit: one line for each query, in a file beside the store (rule P5).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// A longer file is put aside under its name with `.1`, in place of the one before: the two hold the last hundred
/// thousand queries or more.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The file, in `data.dir`.
pub(crate) const FILE_NAME: &str = "admin-queries.log";

/// The file, which is made with the first line.
pub(crate) struct QueryLog {
    path: PathBuf,
    turn: Mutex<()>,
}

impl QueryLog {
    /// In this directory.
    pub(crate) fn new(dir: &Path) -> QueryLog {
        QueryLog { path: dir.join(FILE_NAME), turn: Mutex::new(()) }
    }

    /// Appends a line. What it returns is an error of the disk: then nothing may be asked.
    pub(crate) fn append(&self, entry: &Value) -> io::Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.open()?;
        if file.metadata()?.len() >= FILE_BYTES_MAX {
            let mut aside = self.path.clone().into_os_string();
            aside.push(".1");
            fs::rename(&self.path, aside)?;
            file = self.open()?;
        }
        // One write, so that lines of two processes do not mix.
        file.write_all(format!("{entry}\n").as_bytes())
    }

    fn open(&self) -> io::Result<File> {
        OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p5_lines_are_appended_and_a_full_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let log = QueryLog::new(dir.path());
        log.append(&Value::from("one\ntwo")).unwrap();
        log.append(&Value::from("three")).unwrap();
        let path = dir.path().join(FILE_NAME);
        assert_eq!(fs::read_to_string(&path).unwrap(), "\"one\\ntwo\"\n\"three\"\n");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(FILE_BYTES_MAX).unwrap();
        log.append(&Value::from("four")).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "\"four\"\n");
        assert_eq!(fs::metadata(dir.path().join("admin-queries.log.1")).unwrap().len(), FILE_BYTES_MAX);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(log.append(&Value::Null).is_err());
    }
}
