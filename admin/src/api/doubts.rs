//! The routes of calls in doubt: which there are, and what one came to.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use keybrake_proto::control::{DoubtResolved, DoubtView, Reply, Request};
use keybrake_proto::money::{Micros, usd};
use serde::{Deserialize, Serialize};

use super::Api;
use super::body::ChargeBody;
use super::error::ApiError;
use crate::control::ControlError;

/// The answer of `GET /doubts`.
#[derive(Debug, Serialize)]
pub(super) struct Doubts {
    doubts: Vec<DoubtView>,
}

/// The body of `POST /doubts/{id}/settle`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Charge {
    /// What the call cost.
    #[serde(with = "usd")]
    pub(super) usd: Micros,
}

/// `GET /doubts`.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<Doubts>, ApiError> {
    match api.control.call(&Request::Doubts).await? {
        Reply::Doubts(doubts) => Ok(Json(Doubts { doubts })),
        Reply::Refused(refused) => Err(refused.into()),
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
        | Reply::Config(_)
        | Reply::DoubtResolved(_) => Err(ControlError::Unexpected.into()),
    }
}

/// `POST /doubts/{id}/settle`.
pub(super) async fn settle(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    ChargeBody(charge): ChargeBody,
) -> Result<Json<DoubtResolved>, ApiError> {
    resolve(&api, id, Some(charge.usd)).await
}

/// `POST /doubts/{id}/void`.
pub(super) async fn void(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<DoubtResolved>, ApiError> {
    resolve(&api, id, None).await
}

async fn resolve(api: &Api, id: String, charge_usd: Option<Micros>) -> Result<Json<DoubtResolved>, ApiError> {
    match api.control.call(&Request::ResolveDoubt { id, charge_usd }).await? {
        Reply::DoubtResolved(resolved) => Ok(Json(*resolved)),
        Reply::Refused(refused) => Err(refused.into()),
        Reply::Status(_)
        | Reply::Issued { .. }
        | Reply::Changed { .. }
        | Reply::Vendors(_)
        | Reply::Config(_)
        | Reply::CredentialSet(_)
        | Reply::MasterKeyRotated(_)
        | Reply::Keys { .. }
        | Reply::Key(_)
        | Reply::Revoked(_)
        | Reply::Clock(_)
        | Reply::Doubts(_) => Err(ControlError::Unexpected.into()),
    }
}
