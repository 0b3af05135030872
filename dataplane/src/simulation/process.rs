//! One run of the dataplane's money: accounts, journals, committer and storage, each moved by hand.

use std::sync::Arc;

use crossbeam_channel::{Receiver, unbounded};
use keybrake_proto::key::KeyId;
use keybrake_proto::ledger::Word;
use keybrake_proto::ledger::chain::{self, Limits};
use keybrake_proto::mark::{Found, Mark, Reached};
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;

use super::machine::Machine;
use super::store::Store;
use crate::account::Account;
use crate::journal::{self, Committer, Durability, Event, Journal, Place};
use crate::marks::{self, Marks};
use crate::progress::{self, AllProgress};
use crate::storage::by_hand::{self, Family, Sink as _, Stepped, Wal};
use crate::storage::{Books, Opening, StorageHandle};

pub(super) const SHARDS: usize = 2;

/// The first is the parent of the second; the third stands alone.
pub(super) const KEYS: usize = 3;

const STORE: [u8; 16] = [7; 16];

/// What is the same for all runs of one schedule.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) durability: Durability,
    pub(super) segment_bytes: u64,
    pub(super) segments_max: usize,
    pub(super) limits: [Limits; KEYS],
}

/// Why there is no run.
#[derive(Debug)]
pub(super) enum NoStart {
    /// The process ended on its way.
    Died,
    /// It refuses what it found.
    Sealed(String),
}

pub(super) struct Process {
    pub(super) accounts: [Arc<Account>; KEYS],
    pub(super) journals: Vec<Journal>,
    pub(super) committer: Committer<Machine>,
    pub(super) events: Vec<Receiver<Event>>,
    pub(super) progress: AllProgress,
    pub(super) storage: StorageHandle,
    pub(super) writer: Stepped<Store>,
    /// The sequence of each shard's next record.
    pub(super) next: Vec<u64>,
    /// Exchanges that the start put in doubt.
    pub(super) open: u64,
}

pub(super) fn key_id(key: usize) -> KeyId {
    KeyId::from_bytes(format!("key0000000000{key:03}").as_bytes()).unwrap()
}

/// The key and those above it.
pub(super) fn levels(key: usize) -> &'static [usize] {
    match key {
        1 => &[1, 0],
        0 => &[0],
        _ => &[2],
    }
}

impl Process {
    /// What the dataplane does at a start, in its order.
    pub(super) fn start(machine: &Machine, setup: &Setup) -> Result<Process, NoStart> {
        let sealed = |why: String| NoStart::Sealed(why);
        let mark = match machine.read_mark() {
            None => None,
            Some(bytes) => marks::newest(&bytes).map_err(|error| sealed(error.to_string()))?,
        };
        let boot = machine.boot();
        let mut books = machine.lock().store.books();
        let files = machine.read_journals(|file| &file.kernel);
        let recovered = journal::recover_files(files, boot, books.cursors(), books.floors())
            .map_err(|error| sealed(error.to_string()))?;
        let sequence = machine.lock().store.sequence;
        let found = Found { store: STORE, boot, store_sequence: sequence, shards: recovered.last.clone() };
        match &mark {
            Some(mark) => mark.judge(&found).map_err(|behind| sealed(behind.to_string()))?,
            None if books.is_empty() => {}
            None => return Err(sealed("the mark is missing".into())),
        }
        if recovered.records.iter().any(|handed| handed.record().is_err()) {
            return Err(sealed("a record cannot be read".into()));
        }
        let died = |_| NoStart::Died;
        let mut store = Store { machine: machine.clone(), marks: None };
        let (batch, open) = by_hand::recover(&mut books, &recovered.records, UnixMicros(1));
        store.commit(&batch, Wal::Synced).map_err(|_| NoStart::Died)?;
        let reached = |last: &u64| Reached { synced: *last, written: *last };
        let mark = Mark {
            number: mark.map_or(0, |mark| mark.number),
            store: STORE,
            boot,
            store_sequence: machine.lock().store.sequence,
            shards: recovered.last.iter().map(|(shard, last)| (*shard, reached(last))).collect(),
        };
        let marks = Arc::new(Marks::begin(machine.open_mark(), mark).map_err(died)?);
        store.marks = Some(Arc::clone(&marks));
        let accounts = open_accounts(machine, setup, &books);
        let last = |shard: usize| recovered.last.get(&u16::try_from(shard).unwrap()).copied().unwrap_or(0);
        let progress = progress::all(SHARDS, last);
        let (storage, writer) = by_hand::start(store, books, Arc::clone(&progress));
        let place = Place {
            directory: machine.clone(),
            durability: setup.durability,
            segment_bytes: setup.segment_bytes,
            segments_max: setup.segments_max,
            boot,
        };
        let (mut notify, mut events) = (Vec::new(), Vec::new());
        for _ in 0..SHARDS {
            let (sender, receiver) = unbounded();
            let tell: Box<dyn Fn(Event) + Send> = Box::new(move |event| sender.send(event).unwrap());
            notify.push(tell);
            events.push(receiver);
        }
        let (journals, committer) =
            journal::prepare(&place, &recovered, &progress, Some(marks), &storage, notify).map_err(died)?;
        let next = (0..SHARDS).map(|shard| last(shard) + 1).collect();
        Ok(Process { accounts, journals, committer, events, progress, storage, writer, next, open })
    }
}

fn open_accounts(machine: &Machine, setup: &Setup, books: &Books) -> [Arc<Account>; KEYS] {
    let openings = books.openings();
    let inner = machine.lock();
    let revoked: Vec<&[u8]> = inner.store.family(Family::Keys).map(|(key, _)| key).collect();
    let account = |key: usize, parent| {
        let Opening { spend, in_doubt } = openings.get(&key_id(key)).copied().unwrap_or_default();
        let word = Word {
            closed: false,
            day: spend.day,
            held: in_doubt,
            committed: spend.settled.saturating_add(in_doubt),
        };
        let lifetime = spend.lifetime.saturating_add(in_doubt);
        let opening = chain::Opening { word, lifetime, requests: spend.requests };
        let account = Account::new(key_id(key), opening, setup.limits[key], parent);
        if revoked.contains(&key_id(key).as_bytes().as_slice()) {
            account.close();
        }
        Arc::new(account)
    };
    let parent = account(0, None);
    let child = account(1, Some(Arc::clone(&parent)));
    [parent, child, account(2, None)]
}

pub(super) fn micros(amount: u64) -> Micros {
    Micros::new(amount).unwrap()
}
