//! `GET /audit/explain/{id}`: what was decided about one request, and why.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use keybrake_proto::audit::{AuditHead, AuditRow};
use keybrake_proto::control::{KeyView, Reply, Request};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use crate::explain::{Explanation, Known, explain};
use crate::history::{HistoryError, Row, Snapshot, Step};

/// The longest id that is looked for, in bytes: ours have 28, and an ending.
const ID_BYTES_MAX: usize = 64;

/// How many rows before the request's own are looked at for the reads that priced it.
const ROWS_BEFORE_MAX: u64 = 200_000;

/// The answer of `GET /audit/explain/{id}`.
#[derive(Serialize)]
pub(super) struct Explained {
    id: String,
    #[serde(flatten)]
    explanation: Explanation,
    row: Row,
    amendment: Option<Row>,
    look_ups: Vec<Row>,
    key: Option<Box<KeyView>>,
}

/// What the audit has of a request.
#[derive(Default)]
struct Found {
    row: Option<Row>,
    amendment: Option<Row>,
    look_ups: Vec<Row>,
    before: Option<Micros>,
}

/// `GET /audit/explain/{id}`.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<Explained>, ApiError> {
    let is_id = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if id.len() > ID_BYTES_MAX || !id.bytes().all(is_id) {
        return Err(ApiError::field(
            "invalid_parameter",
            "id",
            "give a request id, such as req_ and 24 digits",
        ));
    }
    let found = look(&api, id.clone()).await?;
    let Some(row) = found.row else {
        return Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "no_such_request",
            "no row of the audit has this id; a vendor's own request id is not ours: ask \
             `keybrake audit query \"SELECT id FROM calls WHERE vendor_request_id = '…'\"`",
        ));
    };
    let key = match row.vault_key_id {
        Some(id) => key(&api, id).await,
        None => None,
    };
    let known = Known {
        row: &row,
        amendment: found.amendment.as_ref(),
        look_ups: &found.look_ups,
        key: key.as_deref(),
        before: found.before,
    };
    let explanation = explain(&known);
    Ok(Json(Explained { id, explanation, row, amendment: found.amendment, look_ups: found.look_ups, key }))
}

async fn key(api: &Api, id: KeyId) -> Option<Box<KeyView>> {
    match api.control.call(&Request::ShowKey(id)).await {
        Ok(Reply::Key(key)) => Some(key),
        Ok(_) | Err(_) => None,
    }
}

async fn look(api: &Api, id: String) -> Result<Found, ApiError> {
    let _slot = api.scans.acquire().await.map_err(|_| ApiError::internal("the process is stopping"))?;
    let history = Arc::clone(&api.history);
    let until = Instant::now().checked_add(api.queries.sql().time()).unwrap_or_else(Instant::now);
    let looking = tokio::task::spawn_blocking(move || {
        let may_go_on = || Instant::now() < until;
        let Some(snapshot) = history.snapshot(&may_go_on)? else { return Ok(Found::default()) };
        find(&snapshot, &id, &may_go_on)
    });
    let found =
        looking.await.map_err(|_| ApiError::internal("reading the audit broke off; please report this"))?;
    Ok(found?)
}

/// Looks for the request's rows, newest first.
fn find(snapshot: &Snapshot, id: &str, may_go_on: &dyn Fn() -> bool) -> Result<Found, HistoryError> {
    let mut found = Found::default();
    let (mut looked, mut last, mut is_stopped) = (0_u64, u64::MAX, false);
    snapshot.visit(&snapshot.all(), true, |at, bytes| {
        looked = looked.saturating_add(1);
        is_stopped = looked.is_multiple_of(1024) && !may_go_on();
        let is_last = is_stopped || looked > last;
        let (Some(at), Ok(head)) = (at, AuditHead::decode(bytes)) else { return step(is_last) };
        let Some(ending) = head.id.strip_prefix(id) else { return step(is_last) };
        let Ok(row) = AuditRow::decode(bytes) else { return step(is_last) };
        match ending {
            "" => {
                found.row = Some(Row::new(at, &row));
                last = looked.saturating_add(ROWS_BEFORE_MAX);
            }
            "_amended" => found.amendment = Some(Row::new(at, &row)),
            ending if ending.starts_with("_lookup") => found.look_ups.push(Row::new(at, &row)),
            _ => {}
        }
        step(is_last)
    })?;
    if is_stopped && found.row.is_none() {
        return Err(HistoryError::Stopped);
    }
    if let Some(row) = &found.row {
        found.before = before(snapshot, row, may_go_on)?;
    }
    Ok(found)
}

fn step(is_last: bool) -> Step {
    if is_last { Step::Stop } else { Step::Next }
}

/// What the key's earlier rows count on the day of `row`; `None` where there is no key, or no time to add them up.
fn before(
    snapshot: &Snapshot,
    row: &Row,
    may_go_on: &dyn Fn() -> bool,
) -> Result<Option<Micros>, HistoryError> {
    let (Some(key), Some(ts)) = (row.vault_key_id, UnixMicros::parse_rfc3339(&row.ts)) else {
        return Ok(None);
    };
    let day = ts.day();
    let within = snapshot.within(Some(day.start()), None)?;
    let Some(last) = row.sequence.checked_sub(1) else { return Ok(Some(Micros::ZERO)) };
    let (mut sum, mut looked, mut is_stopped) = (Micros::ZERO, 0_u64, false);
    snapshot.visit(&(*within.start()..=last), false, |_, bytes| {
        looked = looked.saturating_add(1);
        is_stopped = looked.is_multiple_of(1024) && !may_go_on();
        let is_ours = |head: &AuditHead<'_>| head.vault_key_id == Some(key) && head.ts.day() == day;
        if AuditHead::decode(bytes).is_ok_and(|head| is_ours(&head)) {
            let row = AuditRow::decode(bytes).ok().filter(|row| row.amends.is_none());
            let amount = row.map(|row| snapshot.amendment(row.id).map_or(row.amount, |later| later.amount));
            sum = sum.saturating_add(amount.unwrap_or_default());
        }
        step(is_stopped)
    })?;
    Ok((!is_stopped).then_some(sum))
}
