//! The routes of the clock: what the guard of the day sees, and an operator's word that the clock is right.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use keybrake_proto::control::{ClockView, Reply, Request};

use super::Api;
use super::error::ApiError;
use crate::control::ControlError;

/// `GET /clock`.
pub(super) async fn show(State(api): State<Arc<Api>>) -> Result<Json<ClockView>, ApiError> {
    ask(&api, &Request::Clock).await
}

/// `POST /clock/confirm`.
pub(super) async fn confirm(State(api): State<Arc<Api>>) -> Result<Json<ClockView>, ApiError> {
    ask(&api, &Request::ConfirmClock).await
}

async fn ask(api: &Api, request: &Request) -> Result<Json<ClockView>, ApiError> {
    match api.control.call(request).await? {
        Reply::Clock(view) => Ok(Json(*view)),
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
        | Reply::Doubts(_)
        | Reply::Config(_)
        | Reply::DoubtResolved(_) => Err(ControlError::Unexpected.into()),
    }
}
