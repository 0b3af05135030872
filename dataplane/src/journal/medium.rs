//! The files of a journal, behind a seam: tests and the simulation bring disks that fail.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Written at once while a file is prepared.
const ZEROS_BYTES: usize = 1024 * 1024;

/// One file of fixed length.
pub(crate) trait Medium: Send + Sync {
    /// Writes all of `bytes` at `at`; after an error any part of them may be there.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;

    /// Brings what was written to the disk.
    fn sync(&self) -> io::Result<()>;
}

/// Where a journal's files are.
pub(crate) trait Disk: Send {
    /// Opens a file that is there.
    fn open(&self, shard: u16, slot: u32) -> io::Result<Arc<dyn Medium>>;

    /// A file of all zeros, with its space taken, on disk when it returns.
    fn create(&self, shard: u16, slot: u32, bytes: u64) -> io::Result<Arc<dyn Medium>>;

    /// Removes the file.
    fn remove(&self, shard: u16, slot: u32) -> io::Result<()>;
}

/// The directory of all shards' files.
#[derive(Clone, Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    /// Opens or makes it.
    pub(crate) fn open(path: &Path) -> io::Result<Directory> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        Ok(Directory(path.to_owned()))
    }

    /// Where the file is.
    pub(crate) fn path(&self, shard: u16, slot: u32) -> PathBuf {
        self.0.join(format!("{shard}-{slot}.{EXTENSION}"))
    }
}

/// What the files' names end with.
const EXTENSION: &str = "segment";

/// Shard and slot in a file's name; `None` for a name that is not a segment's.
pub(crate) fn parse_name(path: &Path) -> Option<(u16, u32)> {
    let name = path.file_name()?.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    let (shard, slot) = name.split_once('-')?;
    Some((shard.parse().ok()?, slot.parse().ok()?))
}

impl Disk for Directory {
    fn open(&self, shard: u16, slot: u32) -> io::Result<Arc<dyn Medium>> {
        let file = OpenOptions::new().read(true).write(true).open(self.path(shard, slot))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn create(&self, shard: u16, slot: u32, bytes: u64) -> io::Result<Arc<dyn Medium>> {
        let path = self.path(shard, slot);
        let file = fill(&path, bytes).inspect_err(|_| {
            // A disk that is full needs the space for what is more urgent.
            std::fs::remove_file(&path).ok();
        })?;
        File::open(&self.0)?.sync_all()?;
        Ok(Arc::new(RealFile(file)))
    }

    fn remove(&self, shard: u16, slot: u32) -> io::Result<()> {
        std::fs::remove_file(self.path(shard, slot))?;
        File::open(&self.0)?.sync_all()
    }
}

/// A file of zeros, on disk when it returns.
fn fill(path: &Path, bytes: u64) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    // Written, not only allocated: a first write into allocated space changes metadata, which
    // makes each sync dearer (166 against 116 us where it was measured).
    let zeros = vec![0; ZEROS_BYTES];
    let mut at = 0;
    while at < bytes {
        let rest = bytes.saturating_sub(at);
        let part = usize::try_from(rest).unwrap_or(ZEROS_BYTES).min(ZEROS_BYTES);
        file.write_all_at(zeros.get(..part).unwrap_or_default(), at)?;
        at = at.saturating_add(u64::try_from(part).unwrap_or(rest));
    }
    file.sync_all()?;
    Ok(file)
}

struct RealFile(File);

impl Medium for RealFile {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        failpoint::pass()?;
        self.0.write_all_at(bytes, at)
    }

    fn sync(&self) -> io::Result<()> {
        failpoint::pass()?;
        self.0.sync_data()
    }
}

/// In debug builds `KEYBRAKE_FAIL_WRITE=n` makes the n-th write or sync of this process's journals
/// fail with EIO, once: a disk whose faults can be told.
#[cfg(debug_assertions)]
mod failpoint {
    use std::io;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static FAIL_AT: LazyLock<u64> = LazyLock::new(|| {
        std::env::var("KEYBRAKE_FAIL_WRITE").ok().and_then(|text| text.parse().ok()).unwrap_or_default()
    });
    static COUNT: AtomicU64 = AtomicU64::new(0);

    pub(super) fn pass() -> io::Result<()> {
        if *FAIL_AT != 0 && COUNT.fetch_add(1, Ordering::Relaxed).saturating_add(1) == *FAIL_AT {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
        Ok(())
    }
}

#[cfg(not(debug_assertions))]
mod failpoint {
    pub(super) fn pass() -> std::io::Result<()> {
        Ok(())
    }
}
