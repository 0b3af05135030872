//! The admin API: its one table of routes, and the server behind it.
//!
//! It holds no state: what is asked goes to the dataplane over the control socket or to the audit.

mod audit;
mod auth;
mod body;
mod clock;
mod config;
mod connection;
mod doubts;
mod error;
mod explain;
mod health;
mod keys;
mod master_key;
mod metrics;
mod params;
mod query;
mod revoke;
mod tail;
mod tokens;
mod vendors;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{MethodRouter, get, patch, post, put};
use keybrake_proto::config::{Audit, Config};
use keybrake_proto::time::UnixMicros;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;

use self::connection::{Bounded, Peer};
use self::error::ApiError;
use self::metrics::Metrics;
use self::query::Queries;
use crate::control::Control;
use crate::failure::Failure;
use crate::history::History;
use crate::query_log::QueryLog;
use crate::scope::Scope;
use crate::sql::Sql;
use crate::tail::Tail;
use crate::token::{self, Source, TOKEN_ENV};
use crate::tokens::{Guesses, Tokens};

/// The longest request body, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 256 * 1024;

/// The most scans of the audit at a time; the next ones wait.
const SCANS_MAX: usize = 4;

/// Threads that block beside the scans': queries, tails, files.
const BLOCKING_BESIDE: usize = 8;

/// How long running requests may take to finish when the process stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// The OpenAPI description, but for its version.
const OPENAPI: &str = include_str!("openapi.json");

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Everybody: it tells nothing worth keeping.
    Open,
    /// Whoever holds an admin token with one of these scopes.
    Token(&'static [Scope]),
    /// Whoever holds a vault key, about that key. The route itself looks the key up.
    KeyHolder,
    /// Whoever holds an admin token with [`Scope::Issue`]; or the vault key that the body names as parent. The route
    /// itself judges that.
    Issuer,
}

/// One row of the table: without an [`Access`] there is no route.
struct Route {
    access: Access,
    #[cfg_attr(not(test), expect(dead_code, reason = "compared with openapi.json by a test"))]
    method: &'static str,
    path: &'static str,
    endpoint: MethodRouter<Arc<Api>>,
}

/// Of routes that read keys.
const READ_KEYS: Access = Access::Token(&[Scope::ReadAudit, Scope::Issue]);

/// Of routes that read how things are.
const READ_STATE: Access = Access::Token(&[Scope::ReadAudit, Scope::Operate]);

const READ_AUDIT: Access = Access::Token(&[Scope::ReadAudit]);
const ISSUE: Access = Access::Token(&[Scope::Issue]);
const REVOKE: Access = Access::Token(&[Scope::Revoke]);
const OPERATE: Access = Access::Token(&[Scope::Operate]);
const SECRETS_WRITE: Access = Access::Token(&[Scope::SecretsWrite]);
const ADMIN: Access = Access::Token(&[Scope::Admin]);

fn routes() -> Vec<Route> {
    let get_route = |access, path, endpoint| Route { access, method: "get", path, endpoint };
    let post_route = |access, path, endpoint| Route { access, method: "post", path, endpoint };
    let patch_route = |access, path, endpoint| Route { access, method: "patch", path, endpoint };
    let put_route = |access, path, endpoint| Route { access, method: "put", path, endpoint };
    vec![
        get_route(Access::Open, "/livez", get(health::livez)),
        get_route(Access::Open, "/readyz", get(health::readyz)),
        get_route(Access::Open, "/metrics", get(health::metrics)),
        get_route(Access::Open, "/openapi.json", get(health::openapi)),
        get_route(READ_STATE, "/healthz", get(health::healthz)),
        get_route(READ_STATE, "/config", get(config::show)),
        post_route(OPERATE, "/config/reload", post(config::reload)),
        get_route(READ_STATE, "/clock", get(clock::show)),
        post_route(OPERATE, "/clock/confirm", post(clock::confirm)),
        get_route(READ_STATE, "/doubts", get(doubts::list)),
        post_route(OPERATE, "/doubts/{id}/settle", post(doubts::settle)),
        post_route(OPERATE, "/doubts/{id}/void", post(doubts::void)),
        post_route(Access::Issuer, "/vault/keys", post(keys::issue)),
        post_route(Access::Issuer, "/vault_keys", post(keys::issue)),
        get_route(READ_KEYS, "/vault/keys", get(keys::list)),
        get_route(Access::KeyHolder, "/vault/keys/self", get(keys::own)),
        get_route(READ_KEYS, "/vault/keys/{id}", get(keys::show)),
        patch_route(ISSUE, "/vault/keys/{id}", patch(keys::change)),
        post_route(REVOKE, "/vault/keys/{id}/revoke", post(revoke::one)),
        post_route(REVOKE, "/vault/revoke", post(revoke::many)),
        get_route(Access::Token(&[Scope::ReadAudit, Scope::SecretsWrite]), "/vendors", get(vendors::list)),
        put_route(SECRETS_WRITE, "/vendors/{vendor}/accounts/{account}", put(vendors::set)),
        get_route(READ_AUDIT, "/audit", get(audit::list)),
        get_route(READ_AUDIT, "/audit/query", get(query::saved)),
        post_route(READ_AUDIT, "/audit/query", post(query::ask)),
        get_route(READ_AUDIT, "/audit/tail", get(tail::follow)),
        get_route(READ_AUDIT, "/audit/explain/{id}", get(explain::show)),
        post_route(SECRETS_WRITE, "/master-key/rotate", post(master_key::rotate)),
        get_route(ADMIN, "/tokens", get(tokens::list)),
        post_route(ADMIN, "/tokens", post(tokens::create)),
        post_route(ADMIN, "/tokens/{name}/rotate", post(tokens::rotate)),
        post_route(ADMIN, "/tokens/{name}/revoke", post(tokens::revoke)),
    ]
}

/// What the routes work with.
pub(crate) struct Api {
    control: Control,
    history: Arc<History>,
    scans: Semaphore,
    queries: Queries,
    tail: Arc<Tail>,
    tokens: Tokens,
    guesses: Guesses,
    metrics: Metrics,
    openapi: String,
    started: Instant,
}

impl Api {
    /// The API of one data directory, with limits for queries of the audit.
    pub(crate) fn new(
        control: Control,
        history: History,
        tokens: Tokens,
        limits: &Audit,
    ) -> Result<Api, Failure> {
        let mut openapi: serde_json::Value = serde_json::from_str(OPENAPI).map_err(Failure::setup)?;
        if let Some(version) = openapi.pointer_mut("/info/version") {
            *version = env!("CARGO_PKG_VERSION").into();
        }
        let history = Arc::new(history);
        let data_dir = control.data_dir();
        let sql = Sql::new(Arc::clone(&history), limits.clone(), data_dir);
        let queries = Queries::new(sql, QueryLog::new(data_dir));
        Ok(Api {
            control,
            tail: Arc::new(Tail::new(Arc::clone(&history))),
            history,
            queries,
            scans: Semaphore::new(SCANS_MAX),
            tokens,
            guesses: Guesses::new(),
            metrics: Metrics::default(),
            openapi: openapi.to_string(),
            started: Instant::now(),
        })
    }

    fn uptime_s(&self) -> u64 {
        self.started.elapsed().as_secs()
    }
}

/// The time now.
fn now() -> UnixMicros {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX))
}

/// The routes with their authentication, and the answers to everything else.
pub(crate) fn router(api: Arc<Api>) -> Router {
    let mut router = Router::new();
    for route in routes() {
        let endpoint = match route.access {
            Access::Open | Access::KeyHolder | Access::Issuer => route.endpoint,
            Access::Token(scopes) => {
                let state = (Arc::clone(&api), scopes);
                route.endpoint.route_layer(middleware::from_fn_with_state(state, auth::holder))
            }
        };
        router = router.route(route.path, endpoint);
    }
    router
        .fallback(async || ApiError::no_such_route())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::from_fn_with_state(Arc::clone(&api), finish))
        .with_state(api)
}

/// Counts every answer, says of each that nobody may keep, reinterpret or frame it, and who has changed what.
async fn finish(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0.0);
    let who = auth::Who::default();
    request.extensions_mut().insert(who.clone());
    let is_change = !matches!(*request.method(), Method::GET | Method::HEAD);
    let asked = is_change.then(|| format!("{} {}", request.method(), request.uri().path()));
    let mut response = next.run(request).await;
    if let (Some(asked), Some(name)) = (asked, who.name()) {
        let from = peer.map_or("-".to_owned(), |peer| peer.to_string());
        eprintln!("{}", auth::log_line(name, &from, &asked, response.status()));
    }
    if let (StatusCode::UNAUTHORIZED, Some(peer)) = (response.status(), peer) {
        response = auth::slow_down(&api, peer, response).await;
    }
    api.metrics.count(response.status());
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
    );
    response
}

/// Serves the API until SIGTERM or SIGINT.
pub(crate) fn serve(config: &Config) -> Result<(), Failure> {
    no_core_dump();
    let (secret, source) = token::of_server(&config.data, std::env::var_os(TOKEN_ENV))?;
    token::make_dir(&config.data.dir)?;
    let history = History::new(config.data.store_dir(), config.data.dir.join("admin-secondary"));
    let control = Control::new(config.data.control_socket());
    let tokens = Tokens::open(&config.data, secret.as_ref(), source.clone())?;
    let api = Arc::new(Api::new(control, history, tokens, &config.audit)?);
    drop(secret);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(SCANS_MAX.saturating_add(BLOCKING_BESIDE))
        .enable_all()
        .build()
        .map_err(|error| Failure::setup(format_args!("cannot start threads: {error}")))?;
    runtime.block_on(async {
        // Caught before anything is announced, so that no stop request is missed.
        let stop = stop_requested()?;
        let listener = TcpListener::bind(config.admin.listen).await.map_err(|error| {
            Failure::setup(format_args!(
                "cannot listen on {} ({error}); is another `keybrake admin` running? else change admin.listen",
                config.admin.listen
            ))
        })?;
        announce(&listener, &source)?;
        run(listener, api, stop).await
    })
}

/// No crash writes tokens to the disk (rule S1); another process cannot read this one's memory either, since `main` says
/// that it is not dumpable.
pub(crate) fn no_core_dump() {
    let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // A refusal leaves the limit as it was.
    rustix::process::setrlimit(rustix::process::Resource::Core, none).ok();
}

fn announce(listener: &TcpListener, source: &Source) -> Result<(), Failure> {
    let address = listener.local_addr().map_err(Failure::setup)?;
    eprintln!("keybrake admin: listening on http://{address}");
    if !address.ip().is_loopback() {
        eprintln!("keybrake admin: {address} can be reached from other machines, and speaks no TLS");
    }
    match source {
        Source::Environment => eprintln!("keybrake admin: the admin token is {TOKEN_ENV}'s"),
        Source::File(path) => eprintln!("keybrake admin: the admin token is in {}", path.display()),
        Source::Made(path) => eprintln!("keybrake admin: made a new admin token in {}", path.display()),
        Source::Revoked => eprintln!("keybrake admin: the admin token of the first start was revoked"),
    }
    Ok(())
}

/// Serves `api` until `stop`, then lets running requests finish.
async fn run(listener: TcpListener, api: Arc<Api>, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    let (draining, drained) = tokio::sync::oneshot::channel::<()>();
    let tail = Arc::clone(&api.tail);
    let service = router(api).into_make_service_with_connect_info::<Peer>();
    let server = axum::serve(Bounded::new(listener), service).with_graceful_shutdown(async {
        // An error is the sender's end, which asks for the same.
        drained.await.unwrap_or_default();
    });
    let server = tokio::spawn(server.into_future());
    stop.await;
    // A tail ends with the process alone.
    tail.close();
    drop(draining);
    match tokio::time::timeout(DRAIN_TIMEOUT, server).await {
        // What still runs is cut: the dataplane finishes what it was asked.
        Err(_) | Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(Failure::operation(error)),
        Ok(Err(error)) => Err(Failure::operation(error)),
    }
}

fn stop_requested() -> Result<impl Future<Output = ()>, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| Failure::setup(format_args!("cannot listen for signals: {error}")))
    };
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    // The dataplane reads its configuration again at this one. Of the fields that change live the admin process uses
    // none; it must only not end.
    let mut hang_up = listen(SignalKind::hangup())?;
    tokio::spawn(async move { while hang_up.recv().await.is_some() {} });
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests;
