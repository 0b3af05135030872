//! The life of an agent's connection: one request after the other.

use std::rc::Rc;

use rustls::HandshakeKind;

use crate::downstream::{After, Downstream, End};
use crate::exchange;
use crate::shard::Shard;

/// Serves requests until the connection ends.
pub(crate) async fn serve(shard: Rc<Shard>, mut agent: Downstream) {
    let metrics = &shard.metrics;
    match agent.shake_hands(shard.current().proxy()).await {
        Ok(None) => {}
        Ok(Some(HandshakeKind::Resumed)) => metrics.tls_resumed.add(1),
        Ok(Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest)) => metrics.tls_full.add(1),
        Err(_) => {
            metrics.tls_failed.add(1);
            return agent.close().await;
        }
    }
    loop {
        if shard.closes_idle() && agent.has_no_input() {
            return agent.close().await;
        }
        let current = shard.current();
        match agent.next_request(current.proxy()).await {
            Ok(()) => {}
            Err(End::Closed) => return agent.hang_up().await,
            Err(End::Malformed(error)) => {
                exchange::refuse_head(&shard, &mut agent, error).await;
                return agent.close().await;
            }
        }
        shard.obey();
        match exchange::serve(&shard, &mut agent).await {
            After::NextRequest => {}
            After::Close => return agent.close().await,
        }
    }
}
