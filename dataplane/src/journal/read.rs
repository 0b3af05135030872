//! Reading the journals at a start: deterministic, and the same however often it is interrupted.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keybrake_proto::journal::segment::{self, Contents, End, SegmentError, Survives, Tail};

use super::medium::parse_name;
use crate::storage::Handed;

/// What the journals hold.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The records behind each shard's floor, each shard's in order.
    pub(crate) records: Vec<Handed>,
    /// The last record of each shard, in its journal or in the store.
    pub(crate) last: BTreeMap<u16, u64>,
    /// Up to where nothing of each shard is missing: the store has the open intents only up to its
    /// floor, behind which they must be in the journal.
    pub(crate) reached: BTreeMap<u16, u64>,
    /// Each shard's newest generation.
    pub(crate) generations: BTreeMap<u16, u64>,
    /// The files that are there: shard, slot, length.
    pub(crate) files: Vec<(u16, u32, u64)>,
    /// Files that ended in a write that broke off.
    pub(crate) torn: usize,
    /// Files whose records stand behind lost ones that nothing vouched for: shard and slot. They must not be
    /// there when those sequences are used again.
    pub(crate) stale: Vec<(u16, u32)>,
}

impl Recovered {
    /// The last record of the shard with this index.
    pub(crate) fn last_of(&self, shard: usize) -> u64 {
        let shard = u16::try_from(shard).ok();
        shard.and_then(|shard| self.last.get(&shard).copied()).unwrap_or_default()
    }
}

/// Why the journals cannot be used: each may hide money that was spent, so the start is sealed.
#[derive(Debug)]
pub(crate) enum JournalError {
    /// A file or the directory cannot be read.
    Unreadable(PathBuf, io::Error),
    /// A file is no segment, or was changed.
    Segment(PathBuf, SegmentError),
    /// A record that was committed is not there.
    Damaged(PathBuf, u64),
    /// A file is another shard's.
    Misplaced(PathBuf),
    /// Records are missing between two others.
    Gap {
        /// Whose journal.
        shard: u16,
        /// The first that is missing.
        sequence: u64,
    },
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let restore =
            "restore the data directory from a backup, or accept the loss with `keybrake-dataplane accept`";
        match self {
            JournalError::Unreadable(path, error) => {
                write!(
                    f,
                    "the journal {} cannot be read: {error}; check its rights and the disk",
                    path.display()
                )
            }
            JournalError::Segment(path, error) => {
                write!(f, "sealed: the journal {} is damaged: {error}; {restore}", path.display())
            }
            JournalError::Damaged(path, sequence) => write!(
                f,
                "sealed: the journal {} is damaged: record {sequence} is not what was written; {restore}",
                path.display()
            ),
            JournalError::Misplaced(path) => {
                write!(f, "sealed: the journal {} is another worker's; {restore}", path.display())
            }
            JournalError::Gap { shard, sequence } => write!(
                f,
                "sealed: the journal of worker {shard} is damaged: record {sequence} is missing; {restore}"
            ),
        }
    }
}

impl std::error::Error for JournalError {}

/// One file.
struct Found {
    slot: u32,
    path: PathBuf,
    bytes: Vec<u8>,
    contents: Contents,
}

/// Reads all journals of `dir`: see [`recover_files`].
pub(crate) fn recover(
    dir: &Path,
    boot: [u8; 16],
    cursors: &BTreeMap<u16, u64>,
    floors: &BTreeMap<u16, u64>,
) -> Result<Recovered, JournalError> {
    let mut files = Vec::new();
    for path in list(dir)?.into_iter().filter(|path| parse_name(path).is_some()) {
        let bytes = fs::read(&path).map_err(|error| JournalError::Unreadable(path.clone(), error))?;
        files.push((path, bytes));
    }
    recover_files(files, boot, cursors, floors)
}

/// Reads the journals of `dir` as [`recover`] does, but leaves out those of shards that cannot be used.
pub(crate) fn recover_readable(
    dir: &Path,
    boot: [u8; 16],
    cursors: &BTreeMap<u16, u64>,
    floors: &BTreeMap<u16, u64>,
) -> Result<Recovered, JournalError> {
    let mut shards: BTreeMap<u16, Vec<(PathBuf, Vec<u8>)>> = BTreeMap::new();
    for path in list(dir)? {
        if let (Some((shard, _)), Ok(bytes)) = (parse_name(&path), fs::read(&path)) {
            shards.entry(shard).or_default().push((path, bytes));
        }
    }
    let mut readable = recover_files(Vec::new(), boot, cursors, floors)?;
    for (shard, files) in shards {
        if let Ok(recovered) = recover_files(files, boot, cursors, floors) {
            readable.records.extend(recovered.records);
            if let Some(last) = recovered.last.get(&shard) {
                readable.last.insert(shard, *last);
            }
        }
    }
    Ok(readable)
}

/// Reads all journals. `cursors` and `floors` are the store's: up to which record it has a
/// shard's journal, and up to which it has the open intents too. `boot` is the kernel's boot id.
pub(crate) fn recover_files(
    files: Vec<(PathBuf, Vec<u8>)>,
    boot: [u8; 16],
    cursors: &BTreeMap<u16, u64>,
    floors: &BTreeMap<u16, u64>,
) -> Result<Recovered, JournalError> {
    let mut recovered = Recovered { last: cursors.clone(), reached: floors.clone(), ..Recovered::default() };
    let mut shards: BTreeMap<u16, Vec<Found>> = BTreeMap::new();
    for (path, bytes) in files {
        let Some((shard, slot)) = parse_name(&path) else { continue };
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        recovered.files.push((shard, slot, length));
        let tail = |header: &segment::Header| if header.boot == boot { Tail::Strict } else { Tail::Lenient };
        let contents = match segment::read(&bytes, tail) {
            Ok(Some(contents)) => contents,
            Ok(None) => continue,
            Err(error) => return Err(JournalError::Segment(path, error)),
        };
        if contents.header.shard != shard {
            return Err(JournalError::Misplaced(path));
        }
        shards.entry(shard).or_default().push(Found { slot, path, bytes, contents });
    }
    for (shard, files) in shards {
        let floor = floors.get(&shard).copied().unwrap_or_default();
        read_shard(shard, files, boot, floor, &mut recovered)?;
    }
    Ok(recovered)
}

/// The files in `dir`; none where it does not exist.
fn list(dir: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let unreadable = |error| JournalError::Unreadable(dir.to_owned(), error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(unreadable)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn read_shard(
    shard: u16,
    mut files: Vec<Found>,
    boot: [u8; 16],
    floor: u64,
    recovered: &mut Recovered,
) -> Result<(), JournalError> {
    files.sort_by_key(|file| file.contents.header.generation);
    let mut records: BTreeMap<u64, &[u8]> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        let later = files.get(index.saturating_add(1)).map(|next| next.contents.header.first_sequence);
        let next = file.contents.next_sequence();
        match file.contents.end {
            End::Clean => {}
            End::Torn => recovered.torn = recovered.torn.saturating_add(usize::from(later.is_none())),
            // What a later file has anew, or the store has long had, is not missing.
            End::Damaged { .. }
                if later.is_some_and(|later| later <= next || later.saturating_sub(1) <= floor) => {}
            End::Damaged { .. } => return Err(JournalError::Damaged(file.path.clone(), next)),
        }
        for (sequence, at) in &file.contents.records {
            // The newest generation holds (rule Q13).
            records.insert(*sequence, file.bytes.get(at.clone()).unwrap_or_default());
        }
        recovered.generations.insert(shard, file.contents.header.generation);
    }
    let mut expected = floor.saturating_add(1);
    for (sequence, payload) in records.range(expected..) {
        if *sequence != expected {
            if vouched(&files, boot) >= expected {
                return Err(JournalError::Gap { shard, sequence: expected });
            }
            // The disk got a later file before this one's last records: none of either was synced.
            let stale = files.iter().filter(|file| file.contents.header.first_sequence > expected);
            recovered.stale.extend(stale.map(|file| (shard, file.slot)));
            recovered.torn = recovered.torn.saturating_add(1);
            break;
        }
        expected = expected.saturating_add(1);
        recovered.records.push(Handed { shard, sequence: *sequence, payload: (*payload).into() });
    }
    let end = expected.saturating_sub(1);
    for place in [&mut recovered.last, &mut recovered.reached] {
        let reached = place.entry(shard).or_default();
        *reached = (*reached).max(end);
    }
    Ok(())
}

/// The last record that a commit vouches for, where commits are worth anything after what happened.
fn vouched(files: &[Found], boot: [u8; 16]) -> u64 {
    let counts = |file: &&Found| {
        let header = &file.contents.header;
        header.survives == Survives::PowerLoss || header.boot == boot
    };
    files.iter().filter(counts).map(|file| file.contents.committed).max().unwrap_or_default()
}
