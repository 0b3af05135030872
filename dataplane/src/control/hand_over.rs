//! The control socket while another process takes over (rule Q23): who asks for it, and the control thread's
//! standstill. From there on this process closes no key and acknowledges no revoke.

use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use keybrake_proto::handover::TakeOver;

use super::front::Returned;
use crate::mailbox::Mailbox;

/// A process that wants to take over.
pub(crate) struct Asked {
    /// The way to it.
    pub(crate) stream: UnixStream,
    /// What it says of itself.
    pub(crate) offer: TakeOver,
}

/// What the control thread does after its standstill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

/// An order to the control thread: stand still.
pub(super) struct Park {
    parked: Sender<UnixListener>,
    next: Receiver<Next>,
}

/// The way to the control thread.
pub(crate) struct Front(pub(super) Mailbox<Returned>);

/// The control thread stands still, and nobody waits for an answer of its threads. It goes on when this is
/// dropped.
pub(crate) struct Parked {
    /// The control socket: whoever connects waits in it.
    pub(crate) listener: UnixListener,
    next: Sender<Next>,
}

impl Front {
    /// Makes the control thread stand still; `None` where that takes longer than `limit`: it goes on then.
    pub(crate) fn park(&self, limit: Duration) -> Option<Parked> {
        let (parked, is_parked) = bounded(1);
        let (next, then) = bounded(1);
        self.0.post(Returned::Park(Park { parked, next: then }));
        let listener = is_parked.recv_timeout(limit).ok()?;
        Some(Parked { listener, next })
    }
}

impl Parked {
    /// The control thread ends: the socket is another process's.
    pub(crate) fn end(self) {
        self.next.send(Next::End).ok();
    }
}

impl Park {
    /// Stands still on the control thread. `false`: it ends.
    pub(super) fn stand_still(self, listener: &UnixListener) -> bool {
        let Ok(same) = listener.try_clone() else { return true };
        if self.parked.send(same).is_err() {
            return true;
        }
        self.next.recv().unwrap_or(Next::GoOn) == Next::GoOn
    }
}
