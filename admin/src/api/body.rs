//! The body of `POST /vault/keys`, and what to say about one that is wrong.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use keybrake_proto::policy::KeySpec;
use serde_json::{Map, Value};

use super::BODY_BYTES_MAX;
use super::error::ApiError;

/// The longest a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A [`KeySpec`] from a request's body.
pub(super) struct SpecBody(pub(super) KeySpec);

impl<S: Send + Sync> FromRequest<S> for SpecBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<SpecBody, ApiError> {
        if !is_json(&request) {
            return Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "send JSON with `Content-Type: application/json`",
            ));
        }
        let reading = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state));
        let Ok(read) = reading.await else {
            return Err(ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                "the body did not arrive in time; send it again",
            ));
        };
        let bytes = read.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let message = format!("the body is too long; at most {BODY_BYTES_MAX} bytes are allowed");
                return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message);
            }
            ApiError::new(StatusCode::BAD_REQUEST, "body_unreadable", "the body broke off; send it again")
        })?;
        parse(&bytes).map(SpecBody)
    }
}

fn is_json(request: &Request) -> bool {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn parse(bytes: &[u8]) -> Result<KeySpec, ApiError> {
    let error = match serde_json::from_slice::<KeySpec>(bytes) {
        Ok(spec) => return Ok(spec),
        Err(error) => error,
    };
    let value = serde_json::from_slice::<Value>(bytes).map_err(|error| {
        let message = format!("the body is not JSON: {error}; send one object and nothing behind it");
        ApiError::new(StatusCode::BAD_REQUEST, "malformed_json", message)
    })?;
    let Value::Object(members) = value else {
        let message = "the body must be an object, such as {\"vendor\": \"stripe\", \"allowed_endpoints\": \
                       [\"POST /v1/charges\"]}";
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "not_an_object", message));
    };
    Err(blame(&members, &error))
}

/// Finds the member that is wrong: each one alone, beside a vendor, must be a spec.
fn blame(members: &Map<String, Value>, whole: &serde_json::Error) -> ApiError {
    for (name, value) in members {
        let mut alone = Map::new();
        alone.insert("vendor".to_owned(), Value::from("any"));
        alone.insert(name.clone(), value.clone());
        if let Err(error) = serde_json::from_value::<KeySpec>(Value::Object(alone)) {
            let code = if is_field(name) { "invalid_field" } else { "unknown_field" };
            let message = match expected(name) {
                Some(expected) => format!("{error}; {expected}"),
                None => error.to_string(),
            };
            return ApiError::field(code, name, message);
        }
    }
    if !members.contains_key("vendor") {
        let message = "is missing; name a configured vendor, such as \"stripe\"";
        return ApiError::field("missing_field", "vendor", message);
    }
    // Each member is right and the whole is not: a name stands there twice.
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", format!("{whole}; give each field once"))
}

/// What to write for a field whose type alone does not say it.
fn expected(field: &str) -> Option<&'static str> {
    Some(match field {
        "vendor" => "name a configured vendor, such as \"stripe\"",
        "allowed_endpoints" => {
            "write a list of rules, such as [\"POST /v1/charges\", \"GET /v1/customers/*\"]"
        }
        "daily_usd_cap" | "total_usd_cap" => "write a number of USD, such as 50 or 150.5",
        "expires_at" => "write RFC 3339 in UTC, such as \"2026-11-22T00:00:00Z\"",
        "label" | "agent_run_label" => "write a text",
        "metadata" => "write an object of texts, such as {\"agent_id\": \"billing_agent\"}",
        _ => return None,
    })
}

fn is_field(name: &str) -> bool {
    const OTHERS: [&str; 6] = [
        "expires_in",
        "max_usd_per_call",
        "daily_request_budget",
        "rate_limit_rps",
        "params",
        "parent_vault_key",
    ];
    expected(name).is_some() || OTHERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse as _;

    use super::*;

    async fn check(body: &str, code: &str, field: Option<&str>, words: &str) {
        let response = parse(body.as_bytes()).unwrap_err().into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let answer = axum::body::to_bytes(response.into_body(), 65_536).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let error = &answer["error"];
        assert_eq!(
            (error["code"].as_str(), error["field"].as_str()),
            (Some(code), field),
            "{body}: {answer}"
        );
        assert!(error["message"].as_str().unwrap().contains(words), "{answer}");
    }

    #[tokio::test]
    async fn the_wrong_field_is_named_with_what_to_write() {
        check("{", "malformed_json", None, "not JSON").await;
        check("{} x", "malformed_json", None, "nothing behind it").await;
        check("\u{feff}{}", "malformed_json", None, "not JSON").await;
        check("[]", "not_an_object", None, "must be an object").await;
        check("{}", "missing_field", Some("vendor"), "is missing").await;
        check(r#"{"vendor": 1}"#, "invalid_field", Some("vendor"), "name a configured vendor").await;
        let stripe = |more: &str| format!(r#"{{"vendor": "stripe", {more}}}"#);
        let invalid = "invalid_field";
        check(&stripe(r#""dayly_usd_cap": 1"#), "unknown_field", Some("dayly_usd_cap"), "daily_usd_cap")
            .await;
        check(&stripe(r#""daily_usd_cap": "200""#), invalid, Some("daily_usd_cap"), "a number of USD").await;
        check(&stripe(r#""daily_usd_cap": 1e3"#), invalid, Some("daily_usd_cap"), "not an amount").await;
        check(&stripe(r#""allowed_endpoints": "x""#), invalid, Some("allowed_endpoints"), "list of rules")
            .await;
        check(&stripe(r#""metadata": {"a": 1}"#), invalid, Some("metadata"), "object of texts").await;
        check(&stripe(r#""expires_in": "soon""#), invalid, Some("expires_in"), "15m").await;
        check(&stripe(r#""total_usd_cap": "5""#), invalid, Some("total_usd_cap"), "a number of USD").await;
        let budget = "daily_request_budget";
        check(&stripe(r#""daily_request_budget": 0"#), invalid, Some(budget), "from 1 to 1000000000").await;
        check(&stripe(r#""rate_limit_rps": 5"#), invalid, Some("rate_limit_rps"), "not enforced").await;
        check(&stripe(r#""vendor": "stripe""#), "invalid_body", None, "duplicate field").await;
    }

    #[test]
    fn every_field_of_a_spec_is_known_here() {
        let error = serde_json::from_str::<KeySpec>(r#"{"x": 1}"#).unwrap_err().to_string();
        let fields: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert!(fields.len() > 10, "{error}");
        for field in fields {
            assert!(is_field(field), "{field}");
        }
    }
}
