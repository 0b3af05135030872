//! `GET /audit/tail`: rows as they are written, as server-sent events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{self, KeepAlive, Sse};
use futures_core::Stream;
use keybrake_proto::secret::Secret;
use serde_json::json;
use tokio::sync::mpsc::Receiver;

use super::error::ApiError;
use super::params::Params;
use super::{Api, auth};
use crate::tail::{Event, NoTail, Wanted};

/// How often a quiet tail shows that it is alive: more often than a connection may be silent.
const ALIVE: Duration = Duration::from_secs(15);

/// A follower's events. They end with the token that asked for them: one that was revoked or has expired reads no
/// further row.
pub(super) struct Events {
    events: Receiver<Event>,
    api: Arc<Api>,
    token: Secret,
}

impl Stream for Events {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_recv(cx).map(|event| {
            let is_good = auth::may_read(&self.api, &self.token);
            event.filter(|_| is_good).map(|event| Ok(written(event)))
        })
    }
}

fn written(event: Event) -> sse::Event {
    match event {
        Event::Open(after) => sse::Event::default().event("open").data(json!({"after": after}).to_string()),
        Event::Row(sequence, row) => sse::Event::default().event("row").id(sequence.to_string()).data(row),
        Event::Lost(rows) => sse::Event::default().event("lost").data(json!({"rows": rows}).to_string()),
    }
}

/// `GET /audit/tail`.
pub(super) async fn follow(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    params: Params,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, ApiError> {
    let wanted = wanted(params)?;
    let tail = Arc::clone(&api.tail);
    let following = tokio::task::spawn_blocking(move || tail.follow(wanted)).await;
    let following =
        following.map_err(|_| ApiError::internal("reading the audit broke off; please report this"))?;
    let unavailable =
        |message: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_tails", message);
    let events = following.map_err(|error| match error {
        NoTail::Full => unavailable("too many follow the audit already; end one of them"),
        NoTail::Stopping => unavailable("the process is stopping"),
        NoTail::History(error) => error.into(),
    })?;
    let token = auth::token(&headers);
    Ok(Sse::new(Events { events, api, token }).keep_alive(KeepAlive::new().interval(ALIVE)))
}

fn wanted(mut params: Params) -> Result<Wanted, ApiError> {
    let wanted = Wanted {
        vault_key_id: params.parse("vault_key_id", "give a key id, such as vk_ and 16 letters and digits")?,
        run: params.take("run")?,
        agent: params.take("agent")?,
        denied: params.parse("denied", "give true or false")?.unwrap_or(false),
    };
    params.finish("vault_key_id, run, agent, denied")?;
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_with_a_typing_error_is_refused() {
        let check = |name: &str, value: &str| wanted(Params::of(&[(name, value)]));
        assert_eq!(check("run", "r1").unwrap().run.as_deref(), Some("r1"));
        assert!(check("denied", "true").unwrap().denied);
        for (name, value) in [("denied", "yes"), ("vault_key_id", "vk_1"), ("key", "x")] {
            assert!(check(name, value).is_err(), "{name}={value}");
        }
    }
}
