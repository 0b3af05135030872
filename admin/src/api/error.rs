//! Every refusal of the API, in one JSON shape: `{"error": {"code", "field", "message"}}`.

use axum::Json;
use axum::http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use keybrake_proto::control::Refused;
use serde::Serialize;

use crate::control::ControlError;
use crate::history::HistoryError;

/// What a caller can try again after a second.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");

/// A refused request. Status and code are public API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    code: String,
    field: Option<String>,
    pub(super) message: String,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    message: &'a str,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &str, message: impl Into<String>) -> ApiError {
        ApiError { status, code: code.to_owned(), field: None, message: message.into() }
    }

    /// 400 about one field of the body or one parameter of the query.
    pub(super) fn field(code: &str, field: &str, message: impl Into<String>) -> ApiError {
        ApiError { field: Some(field.to_owned()), ..ApiError::new(StatusCode::BAD_REQUEST, code, message) }
    }

    pub(super) fn unauthorized(message: &str) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    /// 500: a fault of this program, or its end.
    pub(super) fn internal(message: &str) -> ApiError {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }

    pub(super) fn no_such_route() -> ApiError {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "no_such_route",
            "there is nothing at this path; GET /openapi.json lists what there is",
        )
    }

    pub(super) fn method_not_allowed() -> ApiError {
        ApiError::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path has no such method; the Allow header lists those it has",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = Inner { code: &self.code, field: self.field.as_deref(), message: &self.message };
        let mut response = (self.status, Json(Body { error })).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response
                .headers_mut()
                .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"keybrake\""));
        }
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
        }
        response
    }
}

impl From<ControlError> for ApiError {
    fn from(error: ControlError) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "dataplane_unavailable", error.to_string())
    }
}

impl From<HistoryError> for ApiError {
    fn from(error: HistoryError) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable", error.to_string())
    }
}

/// The dataplane's refusal in its own words.
impl From<Refused> for ApiError {
    fn from(refused: Refused) -> ApiError {
        // Only a refusal passes as one: whatever else stands there is a fault of the dataplane.
        let status = StatusCode::from_u16(refused.status)
            .ok()
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        ApiError { status, code: refused.code, field: refused.field, message: refused.message }
    }
}
