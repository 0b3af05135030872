//! The workers, and what each is started with.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::Context as _;
use crossbeam_channel::{Receiver, Sender, bounded};
use keybrake_proto::config::Config;

use super::machine::random;
use crate::control::Control;
use crate::heir::Inherited;
use crate::journal::Journal;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::registry::KeyEntry;
use crate::rt::Kernel;
use crate::shard::{Common, Message};
use crate::take_over;
use crate::worker::Worker;

/// What one worker is started with and no other.
pub(super) struct Places {
    index: usize,
    kernel: Kernel,
    listeners: Vec<TcpListener>,
    mailbox: (Mailbox<Message>, UnixStream),
    journal: Journal,
    inherited: Vec<Inherited>,
}

/// For each its own part of what was prepared.
pub(super) fn places(
    kernel: Kernel,
    doors: Vec<Vec<TcpListener>>,
    mailboxes: Vec<(Mailbox<Message>, UnixStream)>,
    journals: Vec<Journal>,
    inherited: &[Inherited],
) -> Vec<Places> {
    let workers = doors.len();
    let place = |(index, ((listeners, mailbox), journal))| {
        let mut inherited = inherited.to_vec();
        inherited.retain(|one| take_over::shard_of(one.running.intent, workers) == index);
        Places { index, kernel, listeners, mailbox, journal, inherited }
    };
    doors.into_iter().zip(mailboxes).zip(journals).enumerate().map(place).collect()
}

/// Starts them all; the receiver is told of the end of each.
pub(super) fn start_workers(
    places: Vec<Places>,
    common: &Arc<Common>,
    keys: &Arc<[Arc<KeyEntry>]>,
    control: &mut Control,
) -> anyhow::Result<Receiver<io::Result<()>>> {
    let (sender, ended) = bounded(places.len());
    for place in places {
        start_worker(place, common, keys, control, sender.clone())?;
    }
    Ok(ended)
}

/// How many threads serve agents.
pub(super) fn worker_count(config: &Config) -> usize {
    match config.proxy.workers {
        0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        workers => workers,
    }
}

fn start_worker(
    Places { index, kernel, listeners, mailbox: (mailbox, wake), journal, inherited }: Places,
    common: &Arc<Common>,
    keys: &Arc<[Arc<KeyEntry>]>,
    control: &mut Control,
    ended: Sender<io::Result<()>>,
) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    control.shards.push(mailbox.clone());
    control.metrics.push(Arc::clone(&metrics));
    let worker = Worker {
        index,
        kernel,
        common: Arc::clone(common),
        keys: Arc::clone(keys),
        listeners,
        inherited,
        journal,
        metrics,
        mailbox,
        wake,
        run: random()?,
        ended,
    };
    worker.start().context("a worker thread does not start")
}
