//! The file of the high-water mark (rule R4), written by committer and storage thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use keybrake_proto::mark::{Mark, SLOT_BYTES, SLOTS};

/// The mark and its file. No worker touches it.
pub(crate) struct Marks(Mutex<Kept>);

struct Kept {
    file: File,
    mark: Mark,
    /// Whether the file holds it.
    written: bool,
}

/// How long a mark must last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// Beyond the process: the kernel has it.
    Written,
    /// Beyond the machine: the disk has it.
    Synced,
}

/// The newest mark in `path`; `None` where there is no file.
pub(crate) fn read(path: &Path) -> io::Result<Option<Mark>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?.read_to_end(&mut bytes)?,
    };
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    Mark::newest(&bytes).map(Some).ok_or_else(damaged)
}

impl Marks {
    /// Opens or makes the file and writes `mark` to it; on disk when it returns.
    pub(crate) fn open(path: &Path, mark: Mark) -> io::Result<Marks> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let bytes = u64::try_from(SLOT_BYTES.saturating_mul(SLOTS)).map_err(io::Error::other)?;
        if file.metadata()?.len() != bytes {
            // Written in full, so that no later mark needs space.
            file.write_all_at(&vec![0; SLOT_BYTES.saturating_mul(SLOTS)], 0)?;
        }
        let marks = Marks(Mutex::new(Kept { file, mark, written: false }));
        marks.note(Last::Synced, |_| {})?;
        if let Some(parent) = path.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent)?.sync_all()?;
        }
        Ok(marks)
    }

    /// Changes the mark and writes it.
    pub(crate) fn note(&self, last: Last, change: impl FnOnce(&mut Mark)) -> io::Result<()> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mark = kept.mark.clone();
        change(&mut mark);
        if mark == kept.mark && kept.written {
            return Ok(());
        }
        mark.number = mark.number.saturating_add(1);
        let at = u64::try_from(mark.slot().saturating_mul(SLOT_BYTES)).unwrap_or_default();
        kept.file.write_all_at(&mark.encode(), at)?;
        (kept.mark, kept.written) = (mark, true);
        if last == Last::Synced { kept.file.sync_data() } else { Ok(()) }
    }
}
