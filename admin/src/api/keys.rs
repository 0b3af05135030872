//! The routes of vault keys: issue, list, show, a holder's own view.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use keybrake_proto::control::{KeyStatus, KeyView, LIST_KEYS_MAX, Reply, Request};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::{Micros, usd};
use keybrake_proto::policy::{Restrictions, Rule};
use serde::Serialize;

use super::Api;
use super::auth;
use super::body::SpecBody;
use super::error::ApiError;
use super::params::{IdInPath, Params};
use crate::control::ControlError;

const PAGE_KEYS_DEFAULT: usize = 100;

/// The answer to a request that issues a key.
#[derive(Serialize)]
struct Issued {
    /// Shown here and never again.
    vault_key: String,
    id: KeyId,
    status: KeyStatus,
    label: Option<String>,
    agent_run_label: Option<String>,
    created_at: String,
    expires_at: Option<String>,
    policy: PolicyView,
    metadata: BTreeMap<String, String>,
}

/// What the key may do.
#[derive(Serialize)]
struct PolicyView {
    vendor: String,
    allowed_endpoints: Vec<Rule>,
    #[serde(with = "usd::option")]
    daily_usd_cap: Option<Micros>,
    #[serde(with = "usd::option")]
    total_usd_cap: Option<Micros>,
    daily_request_budget: Option<u32>,
    expires_at: Option<String>,
    #[serde(flatten)]
    restrictions: Restrictions,
}

/// `POST /vault/keys` and `POST /vault_keys`.
pub(super) async fn issue(
    State(api): State<Arc<Api>>,
    SpecBody(spec): SpecBody,
) -> Result<Response, ApiError> {
    let asked = api.control.call(&Request::IssueKey(Box::new(spec))).await;
    let reply = asked.map_err(|error| {
        if !error.may_have_acted() {
            return ApiError::from(error);
        }
        let message = format!(
            "{error}. A key may have been made whose text nobody knows: look for it with `keybrake key list` and \
             revoke it"
        );
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "dataplane_unavailable", message)
    })?;
    let Reply::Issued { vault_key, key } = reply else { return Err(unexpected(reply)) };
    let issued = Issued {
        vault_key,
        id: key.id,
        status: key.status,
        label: key.label,
        agent_run_label: key.agent_run_label,
        created_at: key.created_at,
        expires_at: key.expires_at.clone(),
        policy: PolicyView {
            vendor: key.vendor,
            allowed_endpoints: key.allowed_endpoints,
            daily_usd_cap: key.daily_usd_cap,
            total_usd_cap: key.total_usd_cap,
            daily_request_budget: key.daily_request_budget,
            expires_at: key.expires_at,
            restrictions: key.restrictions,
        },
        metadata: key.metadata,
    };
    Ok((StatusCode::CREATED, Json(issued)).into_response())
}

#[derive(Serialize)]
struct Listed {
    keys: Vec<KeyView>,
    next: Option<KeyId>,
}

/// `GET /vault/keys`.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    mut params: Params,
) -> Result<Json<impl Serialize>, ApiError> {
    let after = params.parse("after", "give `next` of the page before")?;
    let limit = params.rows(PAGE_KEYS_DEFAULT, LIST_KEYS_MAX)?;
    params.finish("after, limit")?;
    let reply = api.control.call(&Request::ListKeys { after, limit }).await?;
    let Reply::Keys { keys, more } = reply else { return Err(unexpected(reply)) };
    let next = keys.last().map(|key| key.id).filter(|_| more);
    Ok(Json(Listed { keys, next }))
}

/// `GET /vault/keys/{id}`.
pub(super) async fn show(
    State(api): State<Arc<Api>>,
    IdInPath(id): IdInPath,
) -> Result<Json<impl Serialize>, ApiError> {
    let reply = api.control.call(&Request::ShowKey(id)).await?;
    let Reply::Key(key) = reply else { return Err(unexpected(reply)) };
    Ok(Json(key))
}

/// A key as its holder sees it.
#[derive(Serialize)]
struct Own {
    id: KeyId,
    status: KeyStatus,
    vendor: String,
    label: Option<String>,
    allowed_endpoints: Vec<Rule>,
    #[serde(with = "usd::option")]
    daily_usd_cap: Option<Micros>,
    #[serde(with = "usd")]
    committed_usd: Micros,
    #[serde(with = "usd::option")]
    total_usd_cap: Option<Micros>,
    #[serde(with = "usd::option")]
    total_committed_usd: Option<Micros>,
    #[serde(with = "usd::option")]
    remaining_usd: Option<Micros>,
    daily_request_budget: Option<u32>,
    requests_today: Option<u64>,
    resets_at: String,
    expires_at: Option<String>,
    #[serde(flatten)]
    restrictions: Restrictions,
}

/// `GET /vault/keys/self`.
pub(super) async fn own(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Json<impl Serialize>, ApiError> {
    let vault_key = auth::vault_key(&headers).inspect_err(|_| api.metrics.count_unauthorized())?;
    let reply = api.control.call(&Request::SelfKey { vault_key }).await?;
    let Reply::Key(key) = reply else {
        let refusal = unexpected(reply);
        // To a holder an unknown key is a wrong credential, not a missing page.
        if matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::NOT_FOUND) {
            api.metrics.count_unauthorized();
            return Err(ApiError::unauthorized("this vault key is unknown; ask the operator for a new one"));
        }
        return Err(refusal);
    };
    Ok(Json(Own {
        id: key.id,
        status: key.status,
        vendor: key.vendor,
        label: key.label,
        allowed_endpoints: key.allowed_endpoints,
        daily_usd_cap: key.daily_usd_cap,
        committed_usd: key.committed_usd,
        total_usd_cap: key.total_usd_cap,
        total_committed_usd: key.total_committed_usd,
        remaining_usd: key.remaining_usd,
        daily_request_budget: key.daily_request_budget,
        requests_today: key.requests_today,
        resets_at: key.resets_at,
        expires_at: key.expires_at,
        restrictions: key.restrictions,
    }))
}

/// A reply that does not fit the question: a refusal, or a fault.
fn unexpected(reply: Reply) -> ApiError {
    match reply {
        Reply::Refused(refused) => refused.into(),
        Reply::Status(_)
        | Reply::Issued { .. }
        | Reply::Keys { .. }
        | Reply::Key(_)
        | Reply::Revoked(_)
        | Reply::Clock(_)
        | Reply::Doubts(_)
        | Reply::DoubtResolved(_) => ControlError::Unexpected.into(),
    }
}
