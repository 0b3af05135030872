//! `POST /audit/query`: SQL over the audit; `GET /audit/query`: the saved questions.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use keybrake_proto::control::{Reply, Request};
use keybrake_proto::time::{UnixMicros, parse_duration_seconds};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::Api;
use super::audit::Format;
use super::auth::Who;
use super::body::QueryBody;
use super::error::ApiError;
use super::params::Params;
use crate::query_log::QueryLog;
use crate::sql::{Answer, Question, SAVED, Sql, SqlError, Stop, find_saved, saved_names};

/// The most queries at a time, over all tokens; the next ones wait.
const QUERIES_MAX: usize = 2;

/// How long a query waits for its turn. With the longest time of a query it is less than a connection may be silent.
const TURN_WAIT: Duration = Duration::from_secs(5);

/// How far back a saved question looks unless it is told.
const SINCE_DEFAULT: &str = "30d";

/// How much of a statement is written down, in characters.
const LOGGED_CHARS_MAX: usize = 2000;

/// What the routes of queries work with.
pub(super) struct Queries {
    sql: Arc<Sql>,
    log: QueryLog,
    slots: Semaphore,
    /// Who is being answered: each token has one query at a time.
    asking: Arc<Mutex<HashSet<String>>>,
}

/// The body of `POST /audit/query`: a statement, or the name of a saved one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuerySpec {
    #[serde(default)]
    sql: Option<String>,
    #[serde(default)]
    saved: Option<String>,
    /// `:since` in it.
    #[serde(default)]
    since: Option<String>,
}

/// The answer of `GET /audit/query`.
#[derive(Serialize)]
pub(super) struct Saved {
    saved: [crate::sql::Saved; SAVED.len()],
}

impl Queries {
    pub(super) fn new(sql: Sql, log: QueryLog) -> Queries {
        Queries { sql: Arc::new(sql), log, slots: Semaphore::new(QUERIES_MAX), asking: Arc::default() }
    }

    /// What answers them.
    pub(super) fn sql(&self) -> &Sql {
        &self.sql
    }

    /// Takes the one turn of a token.
    fn turn(&self, of: &str) -> Result<Turn, ApiError> {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if !asking.insert(of.to_owned()) {
            return Err(ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "query_running",
                "a query with this token is being answered; there is one at a time",
            ));
        }
        Ok(Turn { of: of.to_owned(), asking: Arc::clone(&self.asking), is_cancelled: Arc::default() })
    }
}

/// One token's turn: dropped with the request, it stops what still runs.
struct Turn {
    of: String,
    asking: Arc<Mutex<HashSet<String>>>,
    is_cancelled: Arc<AtomicBool>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        self.asking.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.of);
    }
}

/// `GET /audit/query`.
pub(super) async fn saved() -> Json<Saved> {
    Json(Saved { saved: SAVED })
}

/// `POST /audit/query`.
pub(super) async fn ask(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    Extension(who): Extension<Who>,
    mut params: Params,
    QueryBody(spec): QueryBody,
) -> Result<Response, ApiError> {
    let format = Format::choose(&mut params, &headers)?;
    params.finish("format")?;
    let question = question(spec)?;
    // Whoever gets here has a token.
    let who = who.name().unwrap_or_default().to_owned();
    let queries = &api.queries;
    let turn = queries.turn(&who)?;
    let id = super::now();
    log(queries, &begun(id, &who, &question))?;
    let Ok(waited) = tokio::time::timeout(TURN_WAIT, queries.slots.acquire()).await else {
        let message = "as many questions to the audit are being answered as may be; try again";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_queries", message));
    };
    let _slot = waited.map_err(|_| ApiError::internal("the process is stopping"))?;
    let asked = Instant::now();
    let queued = queued(&api).await;
    let (sql, is_cancelled) = (Arc::clone(&queries.sql), Arc::clone(&turn.is_cancelled));
    let asking = tokio::task::spawn_blocking(move || sql.ask(&question, &is_cancelled));
    let answered = asking.await.map_err(|_| ApiError::internal("the query broke off; please report this"))?;
    log(queries, &ended(id, &who, &answered, asked))?;
    drop(turn);
    let answer = answered?;
    let lag_ms = lag_ms(&answer, asked, queued);
    Ok(match format {
        Format::Json => written(json_text(&answer, lag_ms), "application/json", &answer, lag_ms),
        Format::Ndjson => written(answer.ndjson(), "application/x-ndjson", &answer, lag_ms),
        Format::Csv => {
            let mut response =
                written(answer.csv(), "text/csv; charset=utf-8; header=present", &answer, lag_ms);
            let name = HeaderValue::from_static("attachment; filename=\"query.csv\"");
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
            response
        }
    })
}

fn question(spec: QuerySpec) -> Result<Question, ApiError> {
    let invalid = |field: &str, message: String| ApiError::field("invalid_field", field, message);
    let sql = match (spec.sql, spec.saved) {
        (Some(sql), None) => sql,
        (None, Some(name)) => {
            let unknown =
                || invalid("saved", format!("there is no such question; there are: {}", saved_names()));
            find_saved(&name).ok_or_else(unknown)?.sql.to_owned()
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_body",
                "send {\"sql\": \"SELECT …\"}, or {\"saved\": \"…\"} with the name of a saved question",
            ));
        }
    };
    let since = spec.since.unwrap_or_else(|| SINCE_DEFAULT.to_owned());
    let ago = |seconds| UnixMicros(super::now().0.saturating_sub(UnixMicros::from_seconds(seconds).0));
    let since = UnixMicros::parse_rfc3339(&since).or_else(|| parse_duration_seconds(&since).map(ago));
    let since = since.ok_or_else(|| {
        invalid("since", "give RFC 3339 in UTC, or how long ago, such as 15m, 24h or 30d".to_owned())
    })?;
    Ok(Question { sql, since: since.to_string() })
}

/// No line, no query: what nobody would know of is not answered.
fn log(queries: &Queries, entry: &Value) -> Result<(), ApiError> {
    queries.log.append(entry).map_err(|error| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "audit_unavailable",
            format!("the query cannot be written down ({error}), so it is not answered"),
        )
    })
}

fn begun(at: UnixMicros, who: &str, question: &Question) -> Value {
    let sql: String = question.sql.chars().take(LOGGED_CHARS_MAX).collect();
    json!({"query": at.0, "ts": at.to_string(), "token": who, "bytes": question.sql.len(), "sql": sql})
}

fn ended(of: UnixMicros, who: &str, answered: &Result<Answer, SqlError>, since: Instant) -> Value {
    let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    let now = super::now().to_string();
    match answered {
        Ok(answer) => json!({"query": of.0, "ts": now, "token": who, "ms": ms, "rows": answer.rows.len(),
                             "scanned": answer.scanned, "truncated": answer.is_truncated}),
        Err(error) => json!({"query": of.0, "ts": now, "token": who, "ms": ms, "error": error.to_string()}),
    }
}

/// How many records the dataplane still has to store; `None` where it does not answer.
async fn queued(api: &Api) -> Option<u64> {
    let Ok(Reply::Status(status)) = api.control.call(&Request::Status).await else { return None };
    status
        .counters
        .iter()
        .find(|counter| counter.name == "keybrake_storage_queued")
        .map(|counter| counter.value)
}

/// How far the rows may be behind what the dataplane has done: where nothing waited, no further than the moment in
/// which that was asked; else since the newest row. `None` without a dataplane, which then does nothing either.
fn lag_ms(answer: &Answer, asked: Instant, queued: Option<u64>) -> Option<u64> {
    let (newest_end, taken) = answer.age.unwrap_or((None, asked));
    let behind = taken.saturating_duration_since(asked);
    let behind = match (queued?, newest_end) {
        (0, _) | (_, None) => behind,
        (_, Some(end)) => {
            let now =
                super::now().0.saturating_sub(u64::try_from(taken.elapsed().as_micros()).unwrap_or(u64::MAX));
            Duration::from_micros(now.saturating_sub(end.0)).max(behind)
        }
    };
    u64::try_from(behind.as_millis()).ok()
}

/// The answer as one JSON object. Rows are written one after the other: all at once they would be there twice.
fn json_text(answer: &Answer, lag_ms: Option<u64>) -> String {
    let columns = Value::from(answer.columns.clone());
    let mut text = format!("{{\"columns\":{columns},\"rows\":[");
    for (at, row) in answer.objects().enumerate() {
        let comma = if at > 0 { "," } else { "" };
        // A String always takes it.
        write!(text, "{comma}{row}").unwrap_or_default();
    }
    let rest = json!({"truncated": answer.is_truncated, "scanned": answer.scanned, "passed": answer.passed, "unreadable": answer.unreadable,
                      "elapsed_ms": elapsed_ms(answer), "lag_ms": lag_ms, "newest": answer.newest});
    let rest = rest.to_string();
    text.push_str("],");
    text.push_str(rest.trim_start_matches('{'));
    text
}

fn elapsed_ms(answer: &Answer) -> u64 {
    u64::try_from(answer.elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// With what the body has no place for in the headers.
fn written(text: String, content_type: &'static str, answer: &Answer, lag_ms: Option<u64>) -> Response {
    let mut response = ([(CONTENT_TYPE, HeaderValue::from_static(content_type))], text).into_response();
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: u64| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
    };
    set("keybrake-truncated", u64::from(answer.is_truncated));
    set("keybrake-scanned", answer.scanned);
    set("keybrake-unreadable", answer.unreadable);
    set("keybrake-elapsed-ms", elapsed_ms(answer));
    if let Some(lag_ms) = lag_ms {
        set("keybrake-lag-ms", lag_ms);
    }
    response
}

impl From<SqlError> for ApiError {
    fn from(error: SqlError) -> ApiError {
        let message = error.to_string();
        let (status, code) = match error {
            SqlError::History(error) => return error.into(),
            SqlError::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_query"),
            SqlError::NotAllowed(_) => (StatusCode::BAD_REQUEST, "query_not_allowed"),
            SqlError::Stopped(Stop::Time | Stop::Gone) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "query_too_long")
            }
            SqlError::Stopped(Stop::Temp) | SqlError::Memory | SqlError::TooLarge(_) => {
                (StatusCode::UNPROCESSABLE_ENTITY, "query_too_large")
            }
            SqlError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        ApiError::new(status, code, message)
    }
}
