//! A store whose every write waits for the test to say how it ends.

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::*;

/// What the thread asked to be written: how durably, and how many puts into each family.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) wal: Wal,
    pub(super) keys: usize,
    pub(super) rows: usize,
}

pub(super) struct Disk {
    store: Store,
    asked: Sender<Asked>,
    answers: Receiver<Result<(), StoreError>>,
}

/// The test's end. When it is dropped, every write succeeds.
pub(super) struct Script {
    asked: Receiver<Asked>,
    answers: Sender<Result<(), StoreError>>,
}

impl Disk {
    pub(super) fn new(store: Store) -> (Disk, Script) {
        let (ask, asked) = unbounded();
        let (answer, answers) = bounded(0);
        (Disk { store, asked: ask, answers }, Script { asked, answers: answer })
    }
}

impl Sink for Disk {
    fn commit(&mut self, batch: &Batch, wal: Wal) -> Result<(), StoreError> {
        let asked = Asked { wal, keys: batch.count(Family::Keys), rows: batch.count(Family::Audit) };
        self.asked.send(asked).unwrap_or_default();
        // Without a script the disk is a good one.
        self.answers.recv().unwrap_or(Ok(()))?;
        self.store.commit(batch, wal)
    }

    fn mark(&mut self) -> Result<(), StoreError> {
        self.store.mark()
    }
}

impl Script {
    /// The next write; the thread waits in it.
    pub(super) fn asked(&self) -> Asked {
        self.asked.recv().unwrap()
    }

    /// Ends the write that waits.
    pub(super) fn answer(&self, result: Result<(), StoreError>) {
        self.answers.send(result).unwrap();
    }

    /// Refuses the write that waits or the next one; an error when the thread has ended.
    pub(super) fn try_answer(&self, refusal: StoreError) -> Result<(), StoreError> {
        self.answers.send(Err(refusal)).map_err(|_| StoreError::Stopped)
    }
}
