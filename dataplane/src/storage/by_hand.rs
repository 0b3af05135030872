//! The store's logic without RocksDB and without its thread, for the simulation.

use std::time::Duration;

use super::books::Stored;
use super::handle::{Limits, StorageHandle, prepare};
use super::writer::{Waits, Writer};
use super::*;
use crate::progress::AllProgress;

pub(crate) use super::batch::{Batch, Change, Family};
pub(crate) use super::writer::{Sink, Wal};

/// A storage thread that is moved by hand.
pub(crate) struct Stepped<S>(Writer<S>);

/// The way to it, and it.
pub(crate) fn start<S: Sink>(sink: S, books: Books, progress: AllProgress) -> (StorageHandle, Stepped<S>) {
    let never = Duration::ZERO;
    let waits = Waits { gather: never, retry: never, checkpoint: never, stop: never };
    let limits = Limits { records_max: 64, stall: Duration::MAX, waits };
    let (handle, writer) = prepare(sink, books, progress, limits);
    (handle, Stepped(writer))
}

impl<S: Sink> Stepped<S> {
    /// Does the next thing that there is to do.
    pub(crate) fn step(&mut self, is_checkpoint_due: bool) {
        self.0.step(is_checkpoint_due);
    }

    /// What it knows.
    pub(crate) fn books(&self) -> &Books {
        self.0.books()
    }
}

/// The books as a store with these entries has them: what [`Store::books`] reads.
pub(crate) fn read<'a>(entries: impl Iterator<Item = (Family, &'a [u8], &'a [u8])>) -> Books {
    let mut stored = Stored { next_sequence: 1, ..Stored::default() };
    for (family, key, value) in entries {
        match family {
            Family::Spend => stored.spend.push(format::decode_spend(key, value).unwrap()),
            Family::Doubts => stored.doubts.push(format::decode_doubt(key, value).unwrap()),
            Family::Intents => stored.open.push(format::decode_open(key, value).unwrap()),
            Family::Meta => {
                stored.cursors.extend(format::decode_place(format::CURSOR, key, value));
                stored.floors.extend(format::decode_place(format::FLOOR, key, value));
            }
            Family::Audit => {
                stored.next_sequence = format::decode_sequence(key).unwrap() + 1;
            }
            Family::Keys | Family::Credentials | Family::Objects | Family::Idempotency => {}
        }
    }
    Books::new(stored)
}

/// What [`Store::recover`] writes; gives how many exchanges were open.
pub(crate) fn recover(books: &mut Books, records: &[Handed], now: UnixMicros) -> (Batch, u64) {
    books.recover(records, now, |_| false, |_| false)
}
