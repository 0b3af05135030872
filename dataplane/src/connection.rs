//! The life of an agent's connection: one request after the other.

use std::rc::Rc;

use crate::downstream::{After, Downstream, End};
use crate::exchange;
use crate::shard::Shard;

/// Serves requests until the connection ends.
pub(crate) async fn serve(shard: Rc<Shard>, mut agent: Downstream) {
    loop {
        if shard.closes_idle() && agent.has_no_input() {
            return agent.close().await;
        }
        let current = shard.current();
        match agent.next_request(current.proxy()).await {
            Ok(()) => {}
            Err(End::Closed) => return,
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
