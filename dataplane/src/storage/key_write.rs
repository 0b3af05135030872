//! Keys on their way to the disk: who waits for them, and which of them nothing may be written over.

use std::collections::{BTreeMap, HashSet};

use keybrake_proto::key::KeyId;

use super::StoreError;
use super::batch::{Batch, Family};

type Tell = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Who waits for a key write: told once, also where the write is dropped unserved.
pub(super) struct Done(Option<Tell>);

impl Done {
    pub(super) fn new(done: impl FnOnce(Result<(), StoreError>) + Send + 'static) -> Done {
        Done(Some(Box::new(done)))
    }

    pub(super) fn tell(mut self, result: Result<(), StoreError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(StoreError::Stopped));
        }
    }
}

/// Keys to write together.
pub(super) struct KeyWrite {
    pub(super) keys: Vec<(KeyId, Vec<u8>)>,
    /// Revocations, which are tried until they are on disk, and which nothing takes back.
    pub(super) revoked: bool,
    pub(super) done: Done,
}

/// The revocations of this run.
#[derive(Default)]
pub(super) struct Revocations {
    /// Those that the disk refused.
    undurable: BTreeMap<KeyId, Vec<u8>>,
    /// All of them: a change that was made before one of them may come behind it.
    known: HashSet<KeyId>,
}

impl Revocations {
    /// Whether the disk owes some.
    pub(super) fn are_waiting(&self) -> bool {
        !self.undurable.is_empty()
    }

    /// What the disk owes.
    pub(super) fn batch(&self) -> Batch {
        let mut batch = Batch::default();
        for (id, value) in &self.undurable {
            batch.put(Family::Keys, id.as_bytes(), value);
        }
        batch
    }

    /// The disk has them all.
    pub(super) fn were_written(&mut self) {
        self.undurable.clear();
    }

    /// The disk refused these.
    pub(super) fn keep(&mut self, keys: Vec<(KeyId, Vec<u8>)>) {
        self.undurable.extend(keys);
    }

    /// Takes out, and tells, the changes that would give a revoked key its rights back.
    pub(super) fn without_revoked(&mut self, writes: Vec<KeyWrite>) -> Vec<KeyWrite> {
        let mut kept = Vec::with_capacity(writes.len());
        for write in writes {
            if write.revoked {
                self.known.extend(write.keys.iter().map(|(id, _)| *id));
            } else if write.keys.iter().any(|(id, _)| self.known.contains(id)) {
                write.done.tell(Err(StoreError::Revoked));
                continue;
            }
            kept.push(write);
        }
        kept
    }
}
