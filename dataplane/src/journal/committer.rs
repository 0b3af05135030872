//! The thread that syncs journals, one sync for all who wait, and prepares their files.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use keybrake_proto::mark::Reached;

use super::medium::{Disk, Medium};
use super::{Durability, Segment};
use crate::marks::{Last, Marks};
use crate::progress::{AllProgress, Progress, Watch};

/// Between two looks at what nobody waits for: files to prepare, marks to write.
const TICK: Duration = Duration::from_millis(100);

/// Between two syncs that nobody waits for.
const IDLE_SYNC: Duration = Duration::from_millis(200);

/// What a shard tells the committer.
pub(super) enum Order {
    /// The shard writes to this file from now on. `epoch` counts the shard's failures.
    Begin { shard: usize, epoch: u64, medium: Arc<dyn Medium> },
    /// The shard writes to it no more; it may be used again when all up to `last` can be forgotten.
    Retire { shard: usize, segment: Segment, last: u64 },
    /// It refused a write or a sync: it is never used again.
    Discard { shard: usize, segment: Segment, last: u64 },
    /// The shard needs a file in reserve.
    Spare { shard: usize },
    /// Somebody waits.
    Wake,
    /// End, and say so: from then on no file of the journals is touched.
    End(Sender<()>),
}

/// What the committer tells a shard.
pub(crate) enum Event {
    /// All records up to here are on disk.
    Synced {
        /// Of the files that were synced.
        epoch: u64,
        /// The last of the records.
        up_to: u64,
    },
    /// The disk refused: nothing written in this epoch and not yet synced is known to be on disk.
    Failed { epoch: u64 },
    /// A file in reserve.
    Spare(Segment),
}

/// The way to the committer.
#[derive(Clone)]
pub(crate) struct CommitterHandle {
    pub(super) orders: Sender<Order>,
    pub(super) shared: Arc<Shared>,
}

/// What the committer and the shards share.
pub(super) struct Shared {
    asleep: AtomicBool,
    pub(super) syncs: Watch,
}

impl CommitterHandle {
    /// Ends the committer; `false` where that takes longer than `limit`, as on a disk that hangs.
    pub(crate) fn end(&self, limit: Duration) -> bool {
        let (end, ended) = bounded(1);
        self.order(Order::End(end));
        ended.recv_timeout(limit).is_ok()
    }

    pub(super) fn order(&self, order: Order) {
        // A committer that has ended took the process with it.
        self.orders.send(order).ok();
    }

    /// Somebody waits for what was marked as wanted.
    pub(super) fn wake(&self) {
        // Either the committer, falling asleep, sees what is wanted, or this sees it asleep.
        fence(Ordering::SeqCst);
        if self.shared.asleep.swap(false, Ordering::SeqCst) {
            self.order(Order::Wake);
        }
    }
}

/// A shard's line to the committer.
pub(super) struct Line {
    pub(super) shard: u16,
    pub(super) notify: Box<dyn Fn(Event) + Send>,
    /// That of the shard's last failure and of the files since; 0 before the first file.
    pub(super) epoch: u64,
    /// The files that hold what is not known to be synced, the newest last.
    pub(super) media: Vec<Arc<dyn Medium>>,
    /// Files that may not be forgotten yet, with their last record; the flag: it may be used again.
    pub(super) retired: VecDeque<(Segment, u64, Reuse)>,
    pub(super) free: Vec<Segment>,
    /// The number of the next file.
    pub(super) next_slot: u32,
    pub(super) segments: usize,
    pub(super) wants_spare: bool,
}

/// Whether a file can be trusted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reuse {
    Yes,
    Never,
}

pub(crate) struct Committer<D> {
    pub(super) disk: D,
    pub(super) lines: Vec<Line>,
    pub(super) progress: AllProgress,
    pub(super) orders: Receiver<Order>,
    pub(super) shared: Arc<Shared>,
    pub(super) marks: Option<Arc<Marks>>,
    pub(super) durability: Durability,
    pub(super) segment_bytes: u64,
    pub(super) segments_max: usize,
    pub(super) idle_synced: Instant,
    pub(super) complained: bool,
    /// Who ordered the end.
    pub(super) end: Option<Sender<()>>,
}

impl Shared {
    pub(super) fn new(stall: Duration) -> Shared {
        Shared { asleep: AtomicBool::new(false), syncs: Watch::new(stall) }
    }
}

impl<D: Disk> Committer<D> {
    /// Runs until no shard is left.
    pub(super) fn run(mut self) {
        let mut looked = Instant::now();
        loop {
            let synced = self.round();
            if let Some(end) = self.end.take() {
                // Who asked may have given up.
                end.send(()).ok();
                return;
            }
            if looked.elapsed() >= TICK || !synced {
                self.look_after_files();
                self.write_marks();
                looked = Instant::now();
            }
            if synced {
                continue;
            }
            self.shared.asleep.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
            if self.is_wanted() {
                self.shared.asleep.store(false, Ordering::SeqCst);
                continue;
            }
            match self.orders.recv_timeout(TICK) {
                Ok(order) => self.obey(order),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.shared.asleep.store(false, Ordering::SeqCst);
        }
    }

    fn is_wanted(&self) -> bool {
        let wants = |(line, progress): (&Line, &Arc<Progress>)| {
            let is_wanted = progress.wanted() > progress.synced() && progress.written() > progress.synced();
            is_wanted && !line.media.is_empty()
        };
        self.lines.iter().zip(self.progress.iter()).any(wants)
    }

    /// Syncs each journal that somebody waits for. `false`: nobody waits.
    pub(crate) fn round(&mut self) -> bool {
        let mut synced = false;
        let is_idle_due = self.durability != Durability::Off && self.idle_synced.elapsed() >= IDLE_SYNC;
        if is_idle_due {
            self.idle_synced = Instant::now();
        }
        for shard in 0..self.lines.len() {
            synced |= self.sync(shard, is_idle_due);
        }
        synced
    }

    fn sync(&mut self, shard: usize, is_idle_due: bool) -> bool {
        let Some(progress) = self.progress.get(shard).map(Arc::clone) else { return false };
        let up_to = self.written(&progress);
        let Some(line) = self.lines.get_mut(shard) else { return false };
        let is_wanted = progress.wanted() > progress.synced();
        if line.media.is_empty() || up_to <= progress.synced() || !(is_wanted || is_idle_due) {
            return false;
        }
        let media = &line.media;
        let (result, _) = self.shared.syncs.timed(|| media.iter().try_for_each(|medium| medium.sync()));
        match result {
            Ok(()) => {
                // The newest goes on being written to.
                line.media.drain(..line.media.len().saturating_sub(1));
                progress.set_synced(up_to);
                let (number, epoch) = (line.shard, line.epoch);
                if let Some(marks) = self.marks.clone() {
                    let noted = marks.note(Last::Written, |mark| {
                        let reached = Reached { synced: up_to, written: up_to };
                        mark.shards.insert(number, reached);
                    });
                    self.complain(noted);
                }
                self.notify(shard, Event::Synced { epoch, up_to });
            }
            Err(error) => {
                eprintln!(
                    "journal: a sync failed: {error}; a fresh file is begun, and until then nothing is sent"
                );
                // A second sync of the same file may claim a success that is none.
                for (segment, _, reuse) in &mut line.retired {
                    if line.media.iter().any(|medium| Arc::ptr_eq(medium, &segment.medium)) {
                        *reuse = Reuse::Never;
                    }
                }
                line.media.clear();
                let epoch = line.epoch;
                self.notify(shard, Event::Failed { epoch });
            }
        }
        true
    }

    /// What the shard has written, with every file it has written to known.
    fn written(&mut self, progress: &Progress) -> u64 {
        loop {
            let up_to = progress.written();
            let mut has_begun = false;
            while let Ok(order) = self.orders.try_recv() {
                has_begun |= matches!(order, Order::Begin { .. });
                self.obey(order);
            }
            // A fresh file starts lower than the broken one before it had come.
            if !has_begun {
                return up_to;
            }
        }
    }

    fn notify(&self, shard: usize, event: Event) {
        if let Some(line) = self.lines.get(shard) {
            (line.notify)(event);
        }
    }

    fn obey(&mut self, order: Order) {
        let shard = match &order {
            Order::Begin { shard, .. }
            | Order::Retire { shard, .. }
            | Order::Discard { shard, .. }
            | Order::Spare { shard } => *shard,
            Order::Wake | Order::End(_) => {
                if let Order::End(end) = order {
                    self.end = Some(end);
                }
                return;
            }
        };
        let Some(line) = self.lines.get_mut(shard) else { return };
        match order {
            Order::Begin { epoch, medium, .. } => {
                if epoch > line.epoch {
                    (line.epoch, line.media) = (epoch, vec![medium]);
                } else if !line.media.is_empty() {
                    line.media.push(medium);
                }
            }
            Order::Retire { segment, last, .. } => line.retired.push_back((segment, last, Reuse::Yes)),
            Order::Discard { segment, last, .. } => {
                // It no longer counts: its successor is what makes it forgettable.
                line.segments = line.segments.saturating_sub(1);
                line.retired.push_back((segment, last, Reuse::Never));
            }
            Order::Spare { .. } => line.wants_spare = true,
            Order::Wake | Order::End(_) => {}
        }
    }

    /// Frees what the store has, and keeps a file in reserve for each shard.
    pub(crate) fn look_after_files(&mut self) {
        for shard in 0..self.lines.len() {
            let Some(forgettable) = self.progress.get(shard).map(|progress| progress.forgettable()) else {
                continue;
            };
            let Some(line) = self.lines.get_mut(shard) else { continue };
            while let Some((segment, _, reuse)) =
                line.retired.pop_front_if(|(_, last, _)| *last <= forgettable)
            {
                match reuse {
                    Reuse::Yes => line.free.push(segment),
                    Reuse::Never => {
                        // Left where it cannot be removed: all of it is forgotten at the next start.
                        self.disk.remove(line.shard, segment.slot).ok();
                    }
                }
            }
            if line.wants_spare {
                self.give_spare(shard);
            }
        }
    }

    fn give_spare(&mut self, shard: usize) {
        let Some(line) = self.lines.get_mut(shard) else { return };
        let mut spare = line.free.pop();
        if spare.is_none() && line.segments < self.segments_max {
            match self.disk.create(line.shard, line.next_slot, self.segment_bytes) {
                Ok(medium) => {
                    spare = Some(Segment { medium, slot: line.next_slot, bytes: self.segment_bytes });
                    line.next_slot = line.next_slot.saturating_add(1);
                    line.segments = line.segments.saturating_add(1);
                    self.complained = false;
                }
                Err(error) => self.complain(Err(error)),
            }
        }
        if let (Some(spare), Some(line)) = (spare, self.lines.get_mut(shard)) {
            line.wants_spare = false;
            (line.notify)(Event::Spare(spare));
        }
    }

    /// So that the next round syncs what nobody waits for.
    #[cfg(test)]
    pub(crate) fn make_idle_sync_due(&mut self) {
        self.idle_synced = Instant::now().checked_sub(IDLE_SYNC).unwrap_or(self.idle_synced);
    }

    /// How far the kernel has what nobody waits for.
    pub(crate) fn write_marks(&mut self) {
        if self.durability != Durability::Process {
            return;
        }
        let Some(marks) = self.marks.clone() else { return };
        let noted = marks.note(Last::Written, |mark| {
            for (line, progress) in self.lines.iter().zip(self.progress.iter()) {
                let reached = Reached { synced: progress.synced(), written: progress.written() };
                mark.shards.insert(line.shard, reached);
            }
        });
        self.complain(noted);
    }

    /// Says it once, until it works again.
    fn complain(&mut self, result: std::io::Result<()>) {
        if let Err(error) = result
            && !std::mem::replace(&mut self.complained, true)
        {
            eprintln!("journal: {error}; it is tried again");
        }
    }
}
