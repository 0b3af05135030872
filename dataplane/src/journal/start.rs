//! Starting the journals: files, committer, and one journal for each shard.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::unbounded;

use super::committer::{Committer, CommitterHandle, Event, Line, Shared};
use super::medium::{Directory, Disk};
use super::read::Recovered;
use super::{Durability, Journal, STALL, Segment, State};
use crate::marks::Marks;
use crate::progress::AllProgress;
use crate::storage::StorageHandle;

/// How journals are kept.
#[derive(Clone, Debug)]
pub(crate) struct Place<D = Directory> {
    pub(crate) directory: D,
    pub(crate) durability: Durability,
    pub(crate) segment_bytes: u64,
    /// The most files of one shard.
    pub(crate) segments_max: usize,
    pub(crate) boot: [u8; 16],
}

/// Starts the thread `committer` and gives each shard its journal, and the way to that thread; `notify` are the
/// ways to the shards.
pub(crate) fn start(
    place: &Place,
    recovered: &Recovered,
    progress: &AllProgress,
    marks: Option<Arc<Marks>>,
    storage: &StorageHandle,
    notify: Vec<Box<dyn Fn(Event) + Send>>,
) -> io::Result<(Vec<Journal>, CommitterHandle)> {
    let (journals, committer) = prepare(place, recovered, progress, marks, storage, notify)?;
    let handle =
        journals.first().map(|journal| journal.committer.clone()).ok_or(io::ErrorKind::InvalidInput)?;
    thread::Builder::new().name("committer".to_owned()).spawn(move || {
        // Without it no paid request would ever be sent, and none refused.
        let run = std::panic::AssertUnwindSafe(|| committer.run());
        if std::panic::catch_unwind(run).is_err() {
            std::process::abort();
        }
    })?;
    Ok((journals, handle))
}

/// The journals and what the thread `committer` runs.
///
/// All that was `recovered` is in the store, so every file that is there is free.
pub(crate) fn prepare<D: Disk + Clone>(
    place: &Place<D>,
    recovered: &Recovered,
    progress: &AllProgress,
    marks: Option<Arc<Marks>>,
    storage: &StorageHandle,
    notify: Vec<Box<dyn Fn(Event) + Send>>,
) -> io::Result<(Vec<Journal>, Committer<D>)> {
    let (orders, obeyed) = unbounded();
    let shared = Arc::new(Shared::new(STALL));
    let committer = CommitterHandle { orders, shared: Arc::clone(&shared) };
    remove_other_files(place, recovered, notify.len())?;
    let (mut lines, mut journals) = (Vec::new(), Vec::new());
    for (index, notify) in notify.into_iter().enumerate() {
        let shard = u16::try_from(index).map_err(io::Error::other)?;
        let mut line = line(place, recovered, shard, notify)?;
        let last = recovered.last.get(&shard).copied().unwrap_or_default();
        let state = State {
            active: None,
            spare: None,
            epoch: 1,
            generation: recovered.generations.get(&shard).copied().unwrap_or_default(),
            next: last.saturating_add(1),
            written: last,
            survived: last,
            handed: last,
            confirming: None,
            unstored: VecDeque::new(),
            waiters: VecDeque::new(),
            scratch: Vec::new(),
            successor: None,
        };
        let progress = progress.get(index).map(Arc::clone).ok_or(io::ErrorKind::InvalidInput)?;
        let journal = Journal {
            shard,
            durability: place.durability,
            boot: place.boot,
            storage: storage.clone(),
            committer: committer.clone(),
            progress,
            state: RefCell::new(state),
        };
        if place.durability != Durability::Off {
            let segment = match line.free.pop() {
                Some(segment) => segment,
                None => create(place, &mut line)?,
            };
            let medium = Arc::clone(&segment.medium);
            journal.begin(&mut journal.state.borrow_mut(), segment, last.saturating_add(1))?;
            // The file may be the newest of the last run: its old header must not stand before new records.
            medium.sync()?;
        }
        journals.push(journal);
        lines.push(line);
    }
    let committer = Committer {
        disk: place.directory.clone(),
        lines,
        progress: Arc::clone(progress),
        orders: obeyed,
        shared,
        marks,
        durability: place.durability,
        segment_bytes: place.segment_bytes,
        segments_max: place.segments_max,
        idle_synced: Instant::now(),
        complained: false,
        end: None,
    };
    Ok((journals, committer))
}

/// Files of shards that are no more, of another length, and with records behind lost ones: the store has
/// all that counts of them.
fn remove_other_files<D: Disk>(place: &Place<D>, recovered: &Recovered, shards: usize) -> io::Result<()> {
    for (shard, slot, bytes) in &recovered.files {
        let is_stale = recovered.stale.contains(&(*shard, *slot));
        if usize::from(*shard) >= shards || *bytes != place.segment_bytes || is_stale {
            place.directory.remove(*shard, *slot)?;
        }
    }
    Ok(())
}

fn line<D: Disk>(
    place: &Place<D>,
    recovered: &Recovered,
    shard: u16,
    notify: Box<dyn Fn(Event) + Send>,
) -> io::Result<Line> {
    let mut line = Line {
        shard,
        notify,
        epoch: 0,
        media: Vec::new(),
        retired: VecDeque::new(),
        free: Vec::new(),
        next_slot: 0,
        segments: 0,
        wants_spare: false,
    };
    for (_, slot, bytes) in recovered.files.iter().filter(|(of, ..)| *of == shard) {
        line.next_slot = line.next_slot.max(slot.saturating_add(1));
        if *bytes == place.segment_bytes && !recovered.stale.contains(&(shard, *slot)) {
            let medium = place.directory.open(shard, *slot)?;
            line.free.push(Segment { medium, slot: *slot, bytes: *bytes });
            line.segments = line.segments.saturating_add(1);
        }
    }
    Ok(line)
}

fn create<D: Disk>(place: &Place<D>, line: &mut Line) -> io::Result<Segment> {
    let medium = place.directory.create(line.shard, line.next_slot, place.segment_bytes)?;
    let segment = Segment { medium, slot: line.next_slot, bytes: place.segment_bytes };
    line.next_slot = line.next_slot.saturating_add(1);
    line.segments = line.segments.saturating_add(1);
    Ok(segment)
}
