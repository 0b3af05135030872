//! Liveness, readiness, detailed health, metrics and the API's own description.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::IntoResponse;
use keybrake_proto::control::{
    ClockState, ClockView, ConfigState, Reply, Request, RequestsView, Status, TlsView,
};
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use crate::control::ControlError;

impl Api {
    async fn dataplane(&self) -> Result<Box<Status>, ApiError> {
        match self.control.call(&Request::Status).await? {
            Reply::Status(status) => Ok(status),
            Reply::Refused(refused) => Err(refused.into()),
            Reply::Issued { .. }
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
            | Reply::DoubtResolved(_) => Err(ControlError::Unexpected.into()),
        }
    }
}

/// `GET /livez`: this process answers.
pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: agents' requests are admitted.
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<&'static str, ApiError> {
    let status = api.dataplane().await?;
    if status.ready {
        return Ok("ok\n");
    }
    if status.sealed.is_some() {
        let message =
            "the dataplane is sealed: it was started without its master key; `keybrake status` says more";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "sealed", message));
    }
    let message =
        "the dataplane runs and admits nothing: it starts, stops, or cannot write; look at its output";
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message))
}

/// `GET /metrics`.
pub(super) async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let dataplane = api.dataplane().await.ok();
    let text = api.metrics.text(api.uptime_s(), dataplane.as_deref());
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// `GET /openapi.json`.
pub(super) async fn openapi(State(api): State<Arc<Api>>) -> ([(HeaderName, &'static str); 1], String) {
    ([(CONTENT_TYPE, "application/json")], api.openapi.clone())
}

#[derive(Serialize)]
struct Health {
    /// `ok`, or `degraded` where a part below is not.
    status: &'static str,
    version: &'static str,
    uptime_s: u64,
    dataplane: DataplaneHealth,
    audit: AuditHealth,
}

#[derive(Serialize)]
struct DataplaneHealth {
    up: bool,
    ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    running: Option<Running>,
}

/// A dataplane's [`Status`] without its counters, which `/metrics` has.
#[derive(Serialize)]
struct Running {
    version: String,
    pid: u32,
    uptime_s: u64,
    /// Why it forwards nothing until it is restarted with the right master key.
    sealed: Option<String>,
    proxy_listen: String,
    driver: String,
    workers: usize,
    vendors: Vec<String>,
    keys: usize,
    config: ConfigState,
    requests: Option<RequestsView>,
    clock: ClockView,
    /// The certificate that agents are shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_tls: Option<TlsView>,
}

#[derive(Serialize)]
struct AuditHealth {
    readable: bool,
    /// The sequence of the newest row.
    newest: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// `GET /healthz`: 200 with every part's state, also where one is down.
pub(super) async fn healthz(State(api): State<Arc<Api>>) -> Json<impl Serialize> {
    let dataplane = match api.dataplane().await {
        Ok(status) => DataplaneHealth {
            up: true,
            ready: status.ready,
            error: None,
            running: Some(Running {
                version: status.version,
                pid: status.pid,
                uptime_s: status.uptime_s,
                sealed: status.sealed,
                proxy_listen: status.proxy_listen,
                driver: status.driver,
                workers: status.workers,
                vendors: status.vendors,
                keys: status.keys,
                config: status.config,
                requests: status.requests,
                clock: status.clock,
                proxy_tls: status.proxy_tls,
            }),
        },
        Err(error) => DataplaneHealth { up: false, ready: false, error: Some(error.message), running: None },
    };
    let history = Arc::clone(&api.history);
    let newest = tokio::task::spawn_blocking(move || history.newest().map_err(|error| error.to_string()));
    let newest = newest.await.unwrap_or_else(|_| Err("reading the audit broke off".to_owned()));
    let audit = match newest {
        Ok(newest) => AuditHealth { readable: true, newest, error: None },
        Err(error) => AuditHealth { readable: false, newest: None, error: Some(error) },
    };
    let clock_is_right =
        dataplane.running.as_ref().is_some_and(|running| running.clock.state == ClockState::Ok);
    Json(Health {
        status: if dataplane.ready && clock_is_right && audit.readable { "ok" } else { "degraded" },
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: api.uptime_s(),
        dataplane,
        audit,
    })
}
