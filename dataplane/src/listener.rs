//! Accepts agents' connections on one shard.

use std::rc::Rc;
use std::time::Duration;

use crate::alarm::Alarm;
use crate::connection;
use crate::downstream::Downstream;
use crate::limits::Place;
use crate::rt::{self, Listener};
use crate::shard::{Shard, Stage};
use crate::transport::Transport;

/// How long to wait when the process is out of descriptors: it must not spin (rule G6).
const BACK_OFF: Duration = Duration::from_millis(10);

/// After so many accepts others have a turn: over epoll an accept of somebody who waits already does not.
const ACCEPTS_AT_ONCE: u32 = 256;

/// The shortest wait that the runtime's timers have.
const TURN: Duration = Duration::from_millis(1);

/// Between two looks while another process may take over.
const PAUSE: Duration = Duration::from_millis(5);

/// Accepts until the process stops: the socket listens no more when this returns. Or until another process has
/// the socket, which then goes on listening.
pub(crate) async fn run(shard: Rc<Shard>, listener: Rc<Listener>) {
    let _given_up = GivenUp(Rc::clone(&shard));
    let mut accepts = 0u32;
    loop {
        match shard.stage() {
            Stage::Admits => {}
            Stage::Pauses => {
                rt::sleep(PAUSE).await;
                continue;
            }
            Stage::HandedOver => return,
            Stage::Drains => return listener.stop(),
        }
        let (tcp, peer) = match listener.accept().await {
            Ok(Some(accepted)) => accepted,
            Ok(None) => continue,
            Err(_) => {
                shard.metrics.accept_errors.add(1);
                shard.limits.note(Alarm::Descriptors);
                rt::sleep(BACK_OFF).await;
                continue;
            }
        };
        accepts = accepts.wrapping_add(1);
        if accepts.is_multiple_of(ACCEPTS_AT_ONCE) {
            rt::sleep(TURN).await;
        }
        let metrics = &shard.metrics;
        // Before it is given any memory (rule G2). It is closed without an answer: that would cost a write each.
        let Some(place) = shard.limits.connect(peer.ip()) else {
            metrics.connections_refused.add(1);
            continue;
        };
        let Ok(transport) = Transport::of_agent(tcp, shard.agent_tls.as_deref()) else { continue };
        metrics.connections.add(1);
        let agent = Downstream::new(transport, peer, &shard.deadlines, &shard.limits);
        let (served, panicked) = (Rc::clone(&shard), Rc::clone(&shard));
        let guard = Counted { shard: Rc::clone(&shard), _place: place };
        let serve = async move {
            let _guard = guard;
            connection::serve(served, agent).await;
        };
        rt::spawn(serve, move || {
            panicked.metrics.panics.add(1);
            panicked.limits.note(Alarm::Panic);
        });
    }
}

/// Says that nobody is accepted any more.
struct GivenUp(Rc<Shard>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.door_is_given_up();
    }
}

/// Counts a connection down, however it ends.
struct Counted {
    shard: Rc<Shard>,
    _place: Place,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shard.metrics.connections.subtract(1);
    }
}
