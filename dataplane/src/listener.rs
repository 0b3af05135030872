//! Accepts agents' connections on one shard.

use std::rc::Rc;
use std::time::Duration;

use crate::connection;
use crate::downstream::Downstream;
use crate::rt::{self, Listener};
use crate::shard::{Shard, Stage};
use crate::transport::Transport;

/// How long to wait when the process is out of descriptors: it must not spin (rule G6).
const BACK_OFF: Duration = Duration::from_millis(10);

/// Between two looks while another process may take over.
const PAUSE: Duration = Duration::from_millis(5);

/// Accepts until the process stops: the socket listens no more when this returns. Or until another process has
/// the socket, which then goes on listening.
pub(crate) async fn run(shard: Rc<Shard>, listener: Rc<Listener>) {
    let _given_up = GivenUp(Rc::clone(&shard));
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
                rt::sleep(BACK_OFF).await;
                continue;
            }
        };
        let metrics = &shard.metrics;
        if metrics.connections.read() >= shard.connections_max() {
            metrics.connections_refused.add(1);
            continue;
        }
        let Ok(transport) = Transport::of_agent(tcp, shard.agent_tls.as_deref()) else { continue };
        metrics.connections.add(1);
        let agent = Downstream::new(transport, peer, &shard.deadlines);
        let (served, panicked) = (Rc::clone(&shard), Rc::clone(&shard));
        let guard = Counted(Rc::clone(&shard));
        let serve = async move {
            let _guard = guard;
            connection::serve(served, agent).await;
        };
        rt::spawn(serve, move || panicked.metrics.panics.add(1));
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
struct Counted(Rc<Shard>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connections.subtract(1);
    }
}
