//! Accepts agents' connections on one shard.

use std::rc::Rc;
use std::time::Duration;

use futures_channel::oneshot;

use crate::connection;
use crate::downstream::Downstream;
use crate::rt::{self, Listener};
use crate::shard::Shard;
use crate::transport::Transport;

/// How long to wait when the process is out of descriptors: it must not spin (rule G6).
const BACK_OFF: Duration = Duration::from_millis(10);

/// Accepts until draining begins. The socket listens no more when this returns.
pub(crate) async fn run(
    shard: Rc<Shard>,
    listener: Listener,
    mut drained: oneshot::Receiver<()>,
    limit: u64,
) {
    while let Some(accepted) = rt::unless(&mut drained, listener.accept()).await {
        let Ok((tcp, peer)) = accepted else {
            rt::sleep(BACK_OFF).await;
            continue;
        };
        let metrics = &shard.metrics;
        if metrics.connections.read() >= limit {
            metrics.connections_refused.add(1);
            continue;
        }
        metrics.connections.add(1);
        let agent = Downstream::new(Transport::Plain(tcp), peer, &shard.deadlines);
        let (served, panicked) = (Rc::clone(&shard), Rc::clone(&shard));
        let guard = Counted(Rc::clone(&shard));
        let serve = async move {
            let _guard = guard;
            connection::serve(served, agent).await;
        };
        rt::spawn(serve, move || panicked.metrics.panics.add(1));
    }
    listener.stop();
}

/// Counts a connection down, however it ends.
struct Counted(Rc<Shard>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connections.subtract(1);
    }
}
