//! The routes of the configuration: what is in force, and the order to read the file again.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use keybrake_proto::control::{Reply, Request};

use super::Api;
use super::error::ApiError;
use super::keys::unexpected;

/// `GET /config`.
pub(super) async fn show(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    ask(&api, &Request::Config).await
}

/// `POST /config/reload`.
pub(super) async fn reload(State(api): State<Arc<Api>>) -> Result<Response, ApiError> {
    ask(&api, &Request::ReloadConfig).await
}

async fn ask(api: &Api, request: &Request) -> Result<Response, ApiError> {
    let reply = api.control.call(request).await?;
    let Reply::Config(view) = reply else { return Err(unexpected(reply)) };
    let status = if view.late_workers.is_empty() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok((status, Json(*view)).into_response())
}
