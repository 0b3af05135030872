//! `GET /audit`: rows of the audit as JSON, NDJSON or CSV.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use keybrake_proto::time::{UnixMicros, parse_duration_seconds};
use serde::Serialize;

use super::Api;
use super::error::ApiError;
use super::params::Params;
use crate::history::{COLUMNS, PAGE_ROWS_MAX, Page, Query, Row, Verdict, write_csv_cell};

const PAGE_ROWS_DEFAULT: usize = 100;

/// The cursor of the next page, where the body has no place for it.
const NEXT_HEADER: HeaderName = HeaderName::from_static("keybrake-next");

/// How many rows could not be read, where the body has no place for it.
const UNREADABLE_HEADER: HeaderName = HeaderName::from_static("keybrake-unreadable");

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Ndjson,
    Csv,
}

impl Format {
    /// `?format=` goes before `Accept`.
    pub(super) fn choose(params: &mut Params, headers: &HeaderMap) -> Result<Format, ApiError> {
        let named = params.parse_with("format", "give json, ndjson or csv", |text| match text {
            "json" => Some(Format::Json),
            "ndjson" => Some(Format::Ndjson),
            "csv" => Some(Format::Csv),
            _ => None,
        })?;
        Ok(named.unwrap_or_else(|| {
            let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            // The first that is known, in the caller's order; weights are not read.
            let known = |part: &str| match part.split(';').next().unwrap_or_default().trim() {
                "application/json" => Some(Format::Json),
                "application/x-ndjson" => Some(Format::Ndjson),
                "text/csv" => Some(Format::Csv),
                _ => None,
            };
            accept.split(',').find_map(known).unwrap_or(Format::Json)
        }))
    }
}

/// `GET /audit`.
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    let format = Format::choose(&mut params, &headers)?;
    let query = query(params)?;
    let page = scan(&api, query).await?;
    Ok(match format {
        Format::Json => json(page),
        Format::Ndjson => lines(&page, "application/x-ndjson", ndjson(&page.rows)),
        Format::Csv => {
            let mut response = lines(&page, "text/csv; charset=utf-8; header=present", csv(&page.rows));
            let name = HeaderValue::from_static("attachment; filename=\"audit.csv\"");
            response.headers_mut().insert(CONTENT_DISPOSITION, name);
            response
        }
    })
}

fn query(mut params: Params) -> Result<Query, ApiError> {
    const INSTANT: &str =
        "give RFC 3339 in UTC, such as 2026-11-22T00:00:00Z, or how long ago, such as 15m or 7d";
    let now = super::now();
    let instant = |text: &str| {
        let ago = || {
            let seconds = parse_duration_seconds(text)?;
            Some(UnixMicros(now.0.saturating_sub(UnixMicros::from_seconds(seconds).0)))
        };
        UnixMicros::parse_rfc3339(text).or_else(ago)
    };
    let query = Query {
        vault_key_id: params.parse("vault_key_id", "give a key id, such as vk_ and 16 letters and digits")?,
        since: params.parse_with("since", INSTANT, instant)?,
        until: params.parse_with("until", INSTANT, instant)?,
        verdict: params.parse_with(
            "result",
            "give allowed, denied or a code such as daily_cap_exceeded",
            verdict,
        )?,
        rows_max: params.rows(PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX)?,
        after: params.parse("after", "give `next` of the page before")?,
    };
    params.finish("vault_key_id, since, until, result, limit, after, format")?;
    Ok(query)
}

fn verdict(text: &str) -> Option<Verdict> {
    match text {
        "allowed" => Some(Verdict::Allowed),
        "denied" => Some(Verdict::Denied),
        code if code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
            Some(Verdict::Code(code.to_owned()))
        }
        _ => None,
    }
}

async fn scan(api: &Api, query: Query) -> Result<Page, ApiError> {
    let broken =
        |message: &str| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message.to_owned());
    let _slot = api.scans.acquire().await.map_err(|_| broken("the process is stopping"))?;
    let history = Arc::clone(&api.history);
    let page = tokio::task::spawn_blocking(move || history.read(&query))
        .await
        .map_err(|_| broken("reading the audit broke off; please report this"))?;
    Ok(page?)
}

#[derive(Serialize)]
struct JsonPage {
    rows: Vec<Row>,
    next: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<u64>,
}

fn json(page: Page) -> Response {
    let unreadable = Some(page.unreadable).filter(|rows| *rows > 0);
    Json(JsonPage { rows: page.rows, next: page.next, unreadable }).into_response()
}

fn lines(page: &Page, content_type: &'static str, text: String) -> Response {
    let mut response = ([(CONTENT_TYPE, HeaderValue::from_static(content_type))], text).into_response();
    if let Some(next) = page.next {
        response.headers_mut().insert(NEXT_HEADER, HeaderValue::from(next));
    }
    if page.unreadable > 0 {
        response.headers_mut().insert(UNREADABLE_HEADER, HeaderValue::from(page.unreadable));
    }
    response
}

fn ndjson(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        // Texts and integers in memory always serialize, and a String always takes them.
        let line = serde_json::to_string(row).unwrap_or_default();
        writeln!(text, "{line}").unwrap_or_default();
    }
    text
}

fn csv(rows: &[Row]) -> String {
    let mut text = COLUMNS.join(",");
    text.push_str("\r\n");
    for row in rows {
        let row = serde_json::to_value(row).unwrap_or_default();
        for (at, column) in COLUMNS.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            write_csv_cell(&mut text, row.get(*column).unwrap_or_default());
        }
        text.push_str("\r\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accept_is_read_in_the_callers_order() {
        for (accept, format) in [
            ("", Format::Json),
            ("*/*", Format::Json),
            ("text/csv", Format::Csv),
            ("text/html, application/x-ndjson;q=0.9, text/csv", Format::Ndjson),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, accept.parse().unwrap());
            let chosen = Format::choose(&mut Params::of(&[]), &headers).unwrap();
            assert_eq!(chosen, format, "{accept}");
            let chosen = Format::choose(&mut Params::of(&[("format", "csv")]), &headers).unwrap();
            assert_eq!(chosen, Format::Csv);
        }
        assert!(Format::choose(&mut Params::of(&[("format", "xml")]), &HeaderMap::new()).is_err());
    }

    #[test]
    fn filters_are_parsed_or_refused() {
        let check = |name: &str, value: &str| query(Params::of(&[(name, value)]));
        assert_eq!(
            check("since", "2026-11-22T00:00:00Z").unwrap().since,
            UnixMicros::parse_rfc3339("2026-11-22T00:00:00Z")
        );
        let since = check("since", "1h").unwrap().since.unwrap();
        // The clock is read later, so that at least the hour lies between.
        let ago = super::super::now().0 - since.0;
        assert!((3_600_000_000..3_660_000_000).contains(&ago), "{ago}");
        assert_eq!(check("result", "denied").unwrap().verdict, Some(Verdict::Denied));
        assert_eq!(check("result", "unpriced").unwrap().verdict, Some(Verdict::Code("unpriced".to_owned())));
        assert_eq!(check("limit", "1000").unwrap().rows_max, 1000);
        for (name, value) in [
            ("since", "yesterday"),
            ("until", "-1"),
            ("result", "a b"),
            ("limit", "0"),
            ("limit", "1001"),
            ("after", "x"),
            ("vault_key_id", "vk_1"),
            ("resutl", "denied"),
        ] {
            assert!(check(name, value).is_err(), "{name}={value}");
        }
        assert!(query(Params::of(&[("limit", "1"), ("limit", "2")])).is_err());
    }
}
