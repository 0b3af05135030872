//! A shard's journal: an intent before the first byte, an outcome after.
//!
//! The shard writes its file by itself, the one exception to "no disk on a worker" (rule Q11): an
//! append into the page cache takes under a microsecond. Syncs are the committer's. Every record also
//! goes to storage; what storage has on disk the journal forgets.
//!
//! After a refused write or sync the file is never used again (rule Q13): everything that storage
//! does not have yet is written anew to a fresh one, under the same sequences, and only then is
//! anything admitted.

mod committer;
mod medium;
mod outcome;
mod read;
mod start;

#[cfg(test)]
mod tests;

pub(crate) use committer::{CommitterHandle, Event};
#[cfg(test)]
pub(crate) use medium::Disk;
pub(crate) use medium::{Directory, Medium};
pub(crate) use read::{Recovered, recover, recover_readable};
pub(crate) use start::{Place, start};

#[cfg(test)]
pub(crate) use {committer::Committer, read::recover_files, start::prepare};

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use futures_channel::oneshot;
use keybrake_proto::idempotency::Share;
use keybrake_proto::journal::segment::{HEADER_BYTES, Header, Survives, frame_bytes};
use keybrake_proto::journal::{IntentId, Record};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::Day;

use self::committer::Order;
use crate::progress::Progress;
use crate::rt;
use crate::storage::{Handed, StorageHandle};

/// Bytes of a row that hardly ever need a second allocation.
pub(crate) const ROW_BYTES: usize = 512;

/// A sync that takes longer is a disk that hangs (rule G7): who waits for it is refused, and nothing is admitted.
const STALL: Duration = Duration::from_secs(2);

/// What a record survives before its request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Nothing: records go to storage only. For benchmarks, which compare with it.
    Off,
    /// The end of the process.
    Process,
    /// The end of the machine.
    PowerLoss,
}

/// A record cannot be taken, so nothing may be forwarded (I4).
#[derive(Debug)]
pub(crate) struct NoRoom;

/// The disk refused, or took too long: the request must not be sent.
#[derive(Debug)]
pub(crate) struct NotDurable;

/// A file of the journal.
pub(crate) struct Segment {
    medium: Arc<dyn Medium>,
    slot: u32,
    bytes: u64,
}

/// One shard's journal.
pub(crate) struct Journal {
    shard: u16,
    durability: Durability,
    boot: [u8; 16],
    storage: StorageHandle,
    committer: CommitterHandle,
    progress: Arc<Progress>,
    state: RefCell<State>,
}

struct State {
    /// The file that is written to; `None` after a failure.
    active: Option<Active>,
    spare: Option<Segment>,
    /// Counts failures, from 1.
    epoch: u64,
    generation: u64,
    /// The sequence of the next record.
    next: u64,
    /// The last record in the file.
    written: u64,
    /// The last record that is known to have survived what was promised.
    survived: u64,
    /// The last record that storage was given.
    handed: u64,
    /// After a failure: admission waits until this record is on disk.
    confirming: Option<u64>,
    /// What storage has not written yet, oldest first, without gaps up to `next`.
    unstored: VecDeque<(u64, Arc<[u8]>)>,
    waiters: VecDeque<(u64, oneshot::Sender<bool>)>,
    /// Frames on their way to the file.
    scratch: Vec<u8>,
    /// Another process keeps the books, and is told.
    successor: Option<Sender<Vec<u8>>>,
}

struct Active {
    header: Header,
    segment: Segment,
    /// Where the next frame goes.
    at: u64,
}

impl Journal {
    /// Whether admission may go on: file, disk and storage take what comes.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.state.borrow();
        if state.successor.is_some() {
            return true;
        }
        let has_space = state.spare.is_some()
            || state.active.as_ref().is_some_and(|active| active.free_bytes() >= active.segment.bytes / 8);
        let is_open = state.active.is_some() && state.confirming.is_none() && has_space;
        let is_handed = state.handed >= self.ripe(&state);
        (is_open || self.durability == Durability::Off)
            && is_handed
            && self.storage.has_room()
            && !self.committer.shared.syncs.is_stalled()
    }

    /// Records that a request is about to be sent. `row` tells of it if no outcome ever comes.
    pub(crate) fn intent(
        &self,
        keys: Vec<KeyId>,
        day: Day,
        quote: Micros,
        share: Option<Share>,
        row: &[u8],
    ) -> Result<IntentId, NoRoom> {
        let record = Record::Intent { keys, day, quote, share, row };
        let mut state = self.state.borrow_mut();
        if state.successor.is_some() {
            return Err(NoRoom);
        }
        let sequence = state.push(&record);
        if self.flush(&mut state).is_err() {
            // Nobody has heard of it.
            state.unstored.pop_back();
            state.next = sequence;
            return Err(NoRoom);
        }
        self.hand_over(&mut state);
        Ok(IntentId::new(self.shard, sequence))
    }

    /// Waits until the disk has all that was recorded up to now, where that was promised.
    pub(crate) async fn durable(&self) -> Result<(), NotDurable> {
        if self.durability != Durability::PowerLoss {
            return Ok(());
        }
        let synced = self.wait_for_sync()?;
        match rt::within(STALL, synced).await {
            Some(Ok(true)) => Ok(()),
            Some(Ok(false) | Err(oneshot::Canceled)) | None => Err(NotDurable),
        }
    }

    /// Told whether the next sync brought all that is written to the disk.
    pub(crate) fn wait_for_sync(&self) -> Result<oneshot::Receiver<bool>, NotDurable> {
        let (waiter, synced) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        if state.active.is_none() {
            return Err(NotDurable);
        }
        let sequence = state.written;
        state.waiters.push_back((sequence, waiter));
        drop(state);
        self.progress.set_wanted(sequence);
        self.committer.wake();
        Ok(synced)
    }

    /// What the committer says.
    pub(crate) fn obey(&self, event: Event) {
        let mut state = self.state.borrow_mut();
        match event {
            _ if state.successor.is_some() => {}
            Event::Synced { epoch, up_to } => {
                self.synced(&mut state, epoch, up_to);
                self.hand_over(&mut state);
            }
            Event::Failed { epoch } if epoch == state.epoch => self.break_off(&mut state),
            Event::Failed { .. } => {}
            Event::Spare(segment) => state.spare = Some(segment),
        }
    }

    /// Hands over what waits and begins a fresh file where one is needed; called on each tick.
    /// `true` when nothing waits.
    pub(crate) fn tick(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if state.successor.is_some() {
            return true;
        }
        if self.durability != Durability::Off {
            if state.active.is_none() {
                self.begin_fresh(&mut state);
            }
            self.flush(&mut state).ok();
        }
        if self.durability == Durability::PowerLoss && state.survived < state.written {
            // Storage waits for the disk, and so do the rows.
            self.progress.set_wanted(state.written);
            self.committer.wake();
        }
        self.hand_over(&mut state);
        state.handed.saturating_add(1) == state.next
    }

    fn synced(&self, state: &mut State, epoch: u64, up_to: u64) {
        while let Some((_, waiter)) = state.waiters.pop_front_if(|(sequence, _)| *sequence <= up_to) {
            // An exchange that gave up has dropped its end.
            waiter.send(true).ok();
        }
        if state.confirming.is_some_and(|sequence| sequence <= up_to) {
            state.confirming = None;
            eprintln!("journal: a fresh file is on disk; requests are forwarded");
        }
        state.survived = state.survived.max(up_to);
        // Of a sync of the file before this one, this one says nothing.
        if epoch != state.epoch {
            return;
        }
        let State { active: Some(active), scratch, .. } = state else { return };
        scratch.clear();
        active.header.commit(scratch, up_to);
        // Without room the next file's commits vouch for it.
        if active.has_room_for(scratch.len())
            && let Err(error) = active.write(scratch)
        {
            tell_of_failure(&error);
            self.break_off(state);
        }
    }

    /// Writes every record that is not in the file.
    fn flush(&self, state: &mut State) -> Result<(), NoRoom> {
        if self.durability == Durability::Off {
            state.written = state.next.saturating_sub(1);
            return Ok(());
        }
        while state.written.saturating_add(1) < state.next {
            let sequence = state.written.saturating_add(1);
            let first = state.unstored.front().map_or(sequence, |(first, _)| *first);
            let index = usize::try_from(sequence.saturating_sub(first)).unwrap_or(usize::MAX);
            let Some((_, payload)) = state.unstored.get(index) else { return Err(NoRoom) };
            let payload = Arc::clone(payload);
            let needed = frame_bytes(payload.len()).saturating_add(frame_bytes(0));
            if !state.active.as_ref().is_some_and(|active| active.has_room_for(needed)) {
                self.rotate(state)?;
            }
            let State { active: Some(active), scratch, .. } = state else { return Err(NoRoom) };
            scratch.clear();
            active.header.frame(scratch, sequence, &payload);
            if active.header.survives == Survives::Process {
                active.header.commit(scratch, sequence);
            }
            if let Err(error) = active.write(scratch) {
                tell_of_failure(&error);
                self.break_off(state);
                return Err(NoRoom);
            }
            state.written = sequence;
            self.progress.set_written(sequence);
        }
        Ok(())
    }

    /// Goes on in the spare file.
    fn rotate(&self, state: &mut State) -> Result<(), NoRoom> {
        if state.active.is_none() {
            return Err(NoRoom);
        }
        let spare = state.spare.take().ok_or(NoRoom)?;
        let last = state.written;
        if let Some(full) = state.active.take() {
            self.committer.order(Order::Retire {
                shard: usize::from(self.shard),
                segment: full.segment,
                last,
            });
        }
        self.begin(state, spare, last.saturating_add(1)).map_err(|error| {
            eprintln!("journal: a file cannot be begun: {error}; until then nothing is sent");
            self.break_off(state);
            NoRoom
        })
    }

    /// Begins `segment`; its first record will be `first`.
    fn begin(&self, state: &mut State, segment: Segment, first: u64) -> io::Result<()> {
        let shard = usize::from(self.shard);
        state.generation = state.generation.saturating_add(1);
        let survives = match self.durability {
            Durability::PowerLoss => Survives::PowerLoss,
            Durability::Off | Durability::Process => Survives::Process,
        };
        let header = Header {
            shard: self.shard,
            generation: state.generation,
            first_sequence: first,
            segment_bytes: segment.bytes,
            boot: self.boot,
            survives,
        };
        self.committer.order(Order::Spare { shard });
        if let Err(error) = segment.medium.write_at(&header.encode(), 0) {
            self.committer.order(Order::Discard { shard, segment, last: first.saturating_sub(1) });
            return Err(error);
        }
        let medium = Arc::clone(&segment.medium);
        self.committer.order(Order::Begin { shard, epoch: state.epoch, medium });
        state.active = Some(Active { header, segment, at: u64::try_from(HEADER_BYTES).unwrap_or_default() });
        Ok(())
    }

    /// The file is not to be trusted any more: who waits is refused, and a fresh one is begun.
    fn break_off(&self, state: &mut State) {
        state.epoch = state.epoch.saturating_add(1);
        if let Some(broken) = state.active.take() {
            let order = Order::Discard {
                shard: usize::from(self.shard),
                segment: broken.segment,
                last: state.written,
            };
            self.committer.order(order);
        }
        // Nothing is admitted until the fresh file is on disk.
        state.confirming = Some(u64::MAX);
        for (_, waiter) in state.waiters.drain(..) {
            waiter.send(false).ok();
        }
    }

    /// Writes all that storage does not have into the spare file.
    fn begin_fresh(&self, state: &mut State) {
        let Some(spare) = state.spare.take() else { return };
        state.forget_stored(self.progress.stored());
        let first = state.unstored.front().map_or(state.next, |(first, _)| *first);
        state.written = first.saturating_sub(1);
        // Before the committer hears of the file: what it syncs then counts from here.
        self.progress.set_written(state.written);
        if self.begin(state, spare, first).is_err() {
            return;
        }
        // What had survived before is in the broken file, which stays until storage has it.
        let last = state.next.saturating_sub(1);
        let is_promised = self.durability == Durability::PowerLoss && last > state.survived;
        state.confirming = is_promised.then_some(last);
        // Where it does not all fit, the next ticks write the rest.
        self.flush(state).ok();
        if is_promised {
            self.progress.set_wanted(state.written);
            self.committer.wake();
        }
    }

    /// Up to where storage may be given records: the store must not have what the journal can still
    /// lose, or a start would find an intent in the journal and not the outcome that the store has.
    fn ripe(&self, state: &State) -> u64 {
        let recorded = state.next.saturating_sub(1);
        match self.durability {
            Durability::Off => recorded,
            Durability::Process => recorded.min(state.written),
            Durability::PowerLoss => recorded.min(state.survived),
        }
    }

    /// Gives storage all there is, for a shard that ends: storage syncs it, so that a journal that is
    /// refused by its disk loses nothing. `true` when nothing waits.
    pub(crate) fn finish(&self) -> bool {
        let mut state = self.state.borrow_mut();
        if state.successor.is_some() {
            return true;
        }
        let last = state.next.saturating_sub(1);
        self.hand_over_up_to(&mut state, last);
        state.handed == last
    }

    /// Gives storage what it was not given yet and may have, in order.
    fn hand_over(&self, state: &mut State) {
        let ripe = self.ripe(state);
        self.hand_over_up_to(state, ripe);
    }

    fn hand_over_up_to(&self, state: &mut State, last: u64) {
        while state.handed < last {
            let sequence = state.handed.saturating_add(1);
            let first = state.unstored.front().map_or(sequence, |(first, _)| *first);
            let index = usize::try_from(sequence.saturating_sub(first)).unwrap_or(usize::MAX);
            let Some((_, payload)) = state.unstored.get(index) else { return };
            let handed = Handed { shard: self.shard, sequence, payload: Arc::clone(payload) };
            if self.storage.record(handed).is_err() {
                return;
            }
            state.handed = sequence;
        }
        state.forget_stored(self.progress.stored());
    }
}

fn tell_of_failure(error: &io::Error) {
    eprintln!("journal: a write failed: {error}; a fresh file is begun, and until then nothing is sent");
}

impl State {
    fn push(&mut self, record: &Record<'_>) -> u64 {
        let sequence = self.next;
        self.unstored.push_back((sequence, record.encode(Vec::with_capacity(ROW_BYTES)).into()));
        self.next = sequence.saturating_add(1);
        sequence
    }

    fn forget_stored(&mut self, stored: u64) {
        // What the file does not have is kept too: a fresh one must not have gaps.
        let needless = stored.min(self.handed).min(self.written);
        while self.unstored.pop_front_if(|(sequence, _)| *sequence <= needless).is_some() {}
    }
}

impl Active {
    fn free_bytes(&self) -> u64 {
        self.segment.bytes.saturating_sub(self.at)
    }

    fn has_room_for(&self, bytes: usize) -> bool {
        u64::try_from(bytes).is_ok_and(|bytes| bytes <= self.free_bytes())
    }

    fn write(&mut self, frames: &[u8]) -> io::Result<()> {
        self.segment.medium.write_at(frames, self.at)?;
        self.at = self.at.saturating_add(u64::try_from(frames.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}
