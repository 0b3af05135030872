//! The route that gives the store another master key. No master key passes through this process.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use keybrake_proto::control::{MasterKeyRotated, Reply, Request};

use super::Api;
use super::error::ApiError;
use super::keys::unexpected;

/// `POST /master-key/rotate`.
pub(super) async fn rotate(State(api): State<Arc<Api>>) -> Result<Json<MasterKeyRotated>, ApiError> {
    let asked = api.control.call(&Request::RotateMasterKey).await;
    let reply = asked.map_err(|error| {
        if !error.may_have_acted() {
            return ApiError::from(error);
        }
        let message = format!(
            "{error}. The master key may have been rotated: keep both keys, and look at the dataplane's output"
        );
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "dataplane_unavailable", message)
    })?;
    let Reply::MasterKeyRotated(rotated) = reply else { return Err(unexpected(reply)) };
    Ok(Json(rotated))
}
