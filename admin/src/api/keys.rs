//! The routes of vault keys: issue, list, show, change, a holder's own view.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use keybrake_proto::control::{KeyStatus, KeyView, LIST_KEYS_MAX, Reply, Request};
use keybrake_proto::key::KeyId;
use keybrake_proto::money::{Micros, usd};
use keybrake_proto::policy::{Restrictions, Rule};
use serde::Serialize;

use super::Api;
use super::auth;
use super::body::{ChangeBody, SpecBody};
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
    version: u32,
    parent_key_id: Option<KeyId>,
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
    account: String,
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
    let Reply::Issued { vault_key, key } = reply else {
        let refusal = unexpected(reply);
        if refusal.status == StatusCode::UNAUTHORIZED {
            api.metrics.count_unauthorized();
        }
        return Err(refusal);
    };
    let version = etag(key.version);
    let issued = Issued {
        vault_key,
        id: key.id,
        status: key.status,
        version: key.version,
        parent_key_id: key.parent_key_id,
        label: key.label,
        agent_run_label: key.agent_run_label,
        created_at: key.created_at,
        expires_at: key.expires_at.clone(),
        policy: PolicyView {
            vendor: key.vendor,
            account: key.account,
            allowed_endpoints: key.allowed_endpoints,
            daily_usd_cap: key.daily_usd_cap,
            total_usd_cap: key.total_usd_cap,
            daily_request_budget: key.daily_request_budget,
            expires_at: key.expires_at,
            restrictions: key.restrictions,
        },
        metadata: key.metadata,
    };
    Ok((StatusCode::CREATED, [(ETAG, version)], Json(issued)).into_response())
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
) -> Result<impl IntoResponse, ApiError> {
    let reply = api.control.call(&Request::ShowKey(id)).await?;
    let Reply::Key(key) = reply else { return Err(unexpected(reply)) };
    Ok(([(ETAG, etag(key.version))], Json(key)))
}

/// `PATCH /vault/keys/{id}`.
pub(super) async fn change(
    State(api): State<Arc<Api>>,
    IdInPath(id): IdInPath,
    headers: HeaderMap,
    ChangeBody(change): ChangeBody,
) -> Result<Response, ApiError> {
    let version = expected_version(&headers)?;
    let asked = api.control.call(&Request::ChangeKey { id, version, change: Box::new(change) }).await;
    let reply = asked.map_err(|error| {
        if !error.may_have_acted() {
            return ApiError::from(error);
        }
        let message = format!("{error}. The key may have been changed: show it, and change it again");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "dataplane_unavailable", message)
    })?;
    let Reply::Changed { key, late_workers } = reply else { return Err(unexpected(reply)) };
    let version = etag(key.version);
    if late_workers.is_empty() {
        return Ok(([(ETAG, version)], Json(key)).into_response());
    }
    let late: Vec<String> = late_workers.iter().map(ToString::to_string).collect();
    let message = format!(
        "changed and on disk, and worker {} did not say in time that nothing it decided before is sent any more; send \
         the change again, with this ETag, until it is 200",
        late.join(", ")
    );
    let pending = Pending { message, late_workers, key };
    Ok((StatusCode::ACCEPTED, [(ETAG, version)], Json(pending)).into_response())
}

/// The answer to a change that is not in force everywhere yet.
#[derive(Serialize)]
struct Pending {
    message: String,
    late_workers: Vec<usize>,
    key: Box<KeyView>,
}

fn etag(version: u32) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// The version that the caller has seen; `None` for `*`: whatever it is.
fn expected_version(headers: &HeaderMap) -> Result<Option<u32>, ApiError> {
    const FIELD: &str = "If-Match";
    let mut values = headers.get_all(IF_MATCH).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().unwrap_or_default().trim(),
        (Some(_), Some(_)) => return Err(ApiError::field("invalid_parameter", FIELD, "give it once")),
        (None, _) => {
            return Err(ApiError::new(
                StatusCode::PRECONDITION_REQUIRED,
                "precondition_required",
                "send `If-Match` with the ETag that `GET /vault/keys/{id}` answers, so that no other change is lost; \
                 `If-Match: *` changes the key whatever it is now",
            ));
        }
    };
    if value == "*" {
        return Ok(None);
    }
    let version = value
        .strip_prefix('"')
        .and_then(|value| value.strip_suffix('"'))
        .and_then(|value| value.parse().ok());
    let expected = "write one ETag as it was answered, such as `\"3\"`, or `*`";
    version.map(Some).ok_or_else(|| ApiError::field("invalid_parameter", FIELD, expected))
}

/// A key as its holder sees it.
#[derive(Serialize)]
struct Own {
    id: KeyId,
    status: KeyStatus,
    parent_key_id: Option<KeyId>,
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
    #[serde(with = "usd::option")]
    chain_remaining_usd: Option<Micros>,
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
        parent_key_id: key.parent_key_id,
        vendor: key.vendor,
        label: key.label,
        allowed_endpoints: key.allowed_endpoints,
        daily_usd_cap: key.daily_usd_cap,
        committed_usd: key.committed_usd,
        total_usd_cap: key.total_usd_cap,
        total_committed_usd: key.total_committed_usd,
        remaining_usd: key.remaining_usd,
        chain_remaining_usd: key.chain_remaining_usd,
        daily_request_budget: key.daily_request_budget,
        requests_today: key.requests_today,
        resets_at: key.resets_at,
        expires_at: key.expires_at,
        restrictions: key.restrictions,
    }))
}

/// A reply that does not fit the question: a refusal, or a fault.
pub(super) fn unexpected(reply: Reply) -> ApiError {
    match reply {
        Reply::Refused(refused) => refused.into(),
        Reply::Status(_)
        | Reply::Issued { .. }
        | Reply::Changed { .. }
        | Reply::Vendors(_)
        | Reply::CredentialSet(_)
        | Reply::MasterKeyRotated(_)
        | Reply::Keys { .. }
        | Reply::Key(_)
        | Reply::Revoked(_)
        | Reply::Clock(_)
        | Reply::Doubts(_)
        | Reply::Config(_)
        | Reply::DoubtResolved(_) => ControlError::Unexpected.into(),
    }
}
