//! What other threads ask of a shard, and how it answers.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crossbeam_channel::Sender;
use futures_channel::oneshot;
use keybrake_proto::journal::IntentId;

use crate::in_flight::{AtVendor, InForce, KeySet};
use crate::journal;
use crate::pacing::Turn;
use crate::registry::KeyEntry;
use crate::resolve::ResolveError;
use crate::settings::Settings;

/// What another thread asks of a shard.
pub(crate) enum Message {
    /// Know a new key.
    Add { entry: Arc<KeyEntry>, ack: Ack },
    /// The accounts of these keys were closed: say so when none of their requests can still reach the
    /// vendor, or is past recall there.
    Revoked { keys: KeySet, at_vendor: AtVendor, ack: Ack },
    /// The policy of these keys, or of one above them, has changed: say so when no request of theirs that was
    /// decided before can still reach the vendor.
    Changed { keys: KeySet, ack: Ack },
    /// A vendor has another credential: say so when nothing is sent with the one before.
    Rotated { ack: Ack },
    /// The configuration was read again: it holds for requests from now on.
    Reloaded { settings: Arc<Settings>, ack: Ack },
    /// The resolver's answer for an exchange of this shard.
    Resolved { answer: Result<Vec<SocketAddr>, ResolveError>, waiting: oneshot::Sender<Resolved> },
    /// The pacer's answer for an exchange of this shard.
    Turn { turn: Turn, waiting: oneshot::Sender<Turn> },
    /// The committer's news.
    Journal(journal::Event),
    /// Admit nothing for now, and say so when nothing can reach a vendor any more that has not: another process
    /// wants to take over.
    Pause(Ack),
    /// It does not: go on.
    Resume,
    /// It does: finish what runs, and tell it how that ends.
    PassOn { successor: Sender<Vec<u8>>, ack: Sender<PassedOn> },
    /// What the process before has said of its exchanges.
    Parting(Vec<u8>),
    /// The process before is gone.
    Forsaken,
    /// Admit nothing new, finish what runs.
    Drain,
    /// Time is over: cut what still runs.
    Cut,
}

/// What a shard leaves to the process that takes over.
pub(crate) struct PassedOn {
    /// Exchanges that have not ended.
    pub(crate) running: Vec<IntentId>,
    /// Its listening sockets.
    pub(crate) listeners: Vec<TcpListener>,
}

pub(super) type Resolved = Result<Vec<SocketAddr>, ResolveError>;

/// "In force on this shard", with the shard's number.
pub(crate) struct Ack {
    pub(crate) shard: usize,
    pub(crate) to: Sender<(usize, InForce)>,
}

impl Ack {
    pub(super) fn send(self, in_force: InForce) {
        // The control thread may have stopped waiting; it has then answered "pending".
        self.to.try_send((self.shard, in_force)).ok();
    }
}
