//! The routes of revokes: one key, or all that a selector names.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use keybrake_proto::control::{Revoke, Selector};
use keybrake_proto::key::KeyId;

use super::Api;
use super::body::RevokeBody;
use super::error::ApiError;
use super::params::IdInPath;
use crate::revoke::{self, Answer};

/// `POST /vault/keys/{id}/revoke`.
pub(super) async fn one(State(api): State<Arc<Api>>, IdInPath(id): IdInPath) -> Result<Response, ApiError> {
    let order = Revoke { of: Selector::Ids(vec![id]), cut: false };
    carry_out(&api, &order, Some(id)).await
}

/// `POST /vault/revoke`.
pub(super) async fn many(
    State(api): State<Arc<Api>>,
    RevokeBody(order): RevokeBody,
) -> Result<Response, ApiError> {
    carry_out(&api, &order, None).await
}

/// 200 once every worker has acknowledged and it is on disk, else 202.
async fn carry_out(api: &Api, order: &Revoke, id: Option<KeyId>) -> Result<Response, ApiError> {
    let ordered = revoke::order(&api.control, order).await.map_err(|error| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "dataplane_unavailable", error.to_string())
    })?;
    let mut answer = Answer::of(ordered)?;
    answer.id = id;
    let status = if answer.message.is_none() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(answer)).into_response())
}
