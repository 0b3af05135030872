//! The routes of vendors and their credentials. What comes in is never given out again (rule P2).

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use keybrake_proto::control::{CredentialSpec, Reply, Request, VendorView};
use serde::Serialize;

use super::Api;
use super::body::CredentialBody;
use super::error::ApiError;
use super::keys::unexpected;

#[derive(Serialize)]
struct Listed {
    vendors: Vec<VendorView>,
}

/// `GET /vendors`.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<impl IntoResponse, ApiError> {
    let reply = api.control.call(&Request::Vendors).await?;
    let Reply::Vendors(vendors) = reply else { return Err(unexpected(reply)) };
    Ok(Json(Listed { vendors }))
}

/// `PUT /vendors/{vendor}/accounts/{account}`.
pub(super) async fn set(
    State(api): State<Arc<Api>>,
    Path((vendor, account)): Path<(String, String)>,
    CredentialBody { credential, only }: CredentialBody,
) -> Result<Response, ApiError> {
    let spec = CredentialSpec { vendor, account, credential, only };
    let asked = api.control.call(&Request::SetCredential(Box::new(spec))).await;
    let reply = asked.map_err(|error| {
        if !error.may_have_acted() {
            return ApiError::from(error);
        }
        let message =
            format!("{error}. The credential may have been set: list the vendors, and set it again");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "dataplane_unavailable", message)
    })?;
    let Reply::CredentialSet(set) = reply else { return Err(unexpected(reply)) };
    let status = match (set.late_workers.is_empty(), set.version) {
        (false, _) => StatusCode::ACCEPTED,
        (true, 1) => StatusCode::CREATED,
        (true, _) => StatusCode::OK,
    };
    Ok((status, Json(set)).into_response())
}
