//! The bodies of requests, and what to say about one that is wrong.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use keybrake_proto::control::{Only, Revoke, RevokeSpec};
use keybrake_proto::key;
use keybrake_proto::policy::{KeyChange, KeySpec};
use keybrake_proto::secret::SecretText;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::doubts::Charge;
use super::error::ApiError;
use super::query::QuerySpec;
use super::{Api, BODY_BYTES_MAX, auth};
use crate::scope::Scope;

/// The longest a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The fields of a [`RevokeSpec`].
const REVOKE_FIELDS: [&str; 7] = ["ids", "label", "agent_run_label", "subtree", "vendor", "all", "cut"];

const CHARGE_EXAMPLE: &str = r#"{"usd": 12.50}"#;

const QUERY_EXAMPLE: &str = r#"{"sql": "SELECT …"}"#;

/// A [`KeySpec`] from the body of a request that may issue it: one with a token for that, or one that names a vault key,
/// and not an id, as the parent. Whether that key is good, the dataplane judges.
pub(super) struct SpecBody(pub(super) KeySpec);

impl FromRequest<Arc<Api>> for SpecBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<SpecBody, ApiError> {
        let who = request.extensions().get::<auth::Who>().cloned().unwrap_or_default();
        let headers = request.headers().clone();
        let read = read(request, api).await;
        let names_parent = || read.as_ref().is_ok_and(|bytes| names_vault_key(bytes));
        // The holder of a vault key needs no token.
        if !names_parent() || auth::has_token(&headers) {
            let caller = auth::identify(api, &headers, &who);
            let permitted = caller.and_then(|caller| auth::permit(&caller, &[Scope::Issue]));
            // Whoever has shown nothing learns nothing of their body.
            if let Err(refusal) = permitted
                && !names_parent()
            {
                return Err(refusal);
            }
        }
        parse(&read?).map(SpecBody)
    }
}

/// Whether the body names a vault key as the parent: its text, which only a holder knows.
fn names_vault_key(body: &[u8]) -> bool {
    let body: Option<Value> = serde_json::from_slice(body).ok();
    let parent = body.as_ref().and_then(|body| body.get("parent_vault_key")?.as_str());
    parent.is_some_and(|parent| key::is_well_formed(parent.as_bytes()))
}

/// A [`KeyChange`] from a request's body.
pub(super) struct ChangeBody(pub(super) KeyChange);

impl<S: Send + Sync> FromRequest<S> for ChangeBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<ChangeBody, ApiError> {
        parse_change(&read(request, state).await?).map(ChangeBody)
    }
}

/// A credential from a request's body. No error repeats what stands in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialBody {
    pub(super) credential: SecretText,
    #[serde(default)]
    pub(super) only: Option<Only>,
}

impl<S: Send + Sync> FromRequest<S> for CredentialBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<CredentialBody, ApiError> {
        let bytes = read(request, state).await?;
        serde_json::from_slice(&bytes).map_err(|_| {
            let message =
                "send {\"credential\": \"…\"}, and where it matters \"only\": \"new\" or \"existing\"";
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", message)
        })
    }
}

/// An order to revoke from a request's body.
pub(super) struct RevokeBody(pub(super) Revoke);

impl<S: Send + Sync> FromRequest<S> for RevokeBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<RevokeBody, ApiError> {
        parse_revoke(&read(request, state).await?).map(RevokeBody)
    }
}

/// What a call cost, from a request's body.
pub(super) struct ChargeBody(pub(super) Charge);

impl<S: Send + Sync> FromRequest<S> for ChargeBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<ChargeBody, ApiError> {
        let bytes = read(request, state).await?;
        // serde would read a list as the fields in their order.
        members(&bytes, CHARGE_EXAMPLE)?;
        serde_json::from_slice(&bytes).map(ChargeBody).map_err(|error| {
            ApiError::field("invalid_field", "usd", format!("{error}; send {CHARGE_EXAMPLE}"))
        })
    }
}

/// A new token, from a request's body.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    pub(super) name: String,
    pub(super) scopes: Vec<Scope>,
    /// A duration such as `30d`; absent: it does not expire.
    #[serde(default)]
    pub(super) expires_in: Option<String>,
}

impl<S: Send + Sync> FromRequest<S> for TokenBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<TokenBody, ApiError> {
        const EXAMPLE: &str = r#"{"name": "ci", "scopes": ["revoke"], "expires_in": "30d"}"#;
        let bytes = read(request, state).await?;
        members(&bytes, EXAMPLE)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("{error}; send such as {EXAMPLE}");
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", message)
        })
    }
}

/// How a token is rotated, from a request's body, which may be empty.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RotateBody {
    /// How long the text before is accepted as well, such as `10m`; absent: not at all.
    #[serde(default)]
    pub(super) overlap: Option<String>,
}

impl<S: Send + Sync> FromRequest<S> for RotateBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<RotateBody, ApiError> {
        const EXAMPLE: &str = r#"{"overlap": "10m"}"#;
        if request.headers().get(CONTENT_TYPE).is_none() {
            return Ok(RotateBody::default());
        }
        let bytes = read(request, state).await?;
        if bytes.is_empty() {
            return Ok(RotateBody::default());
        }
        members(&bytes, EXAMPLE)?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let message = format!("{error}; send such as {EXAMPLE}, or nothing");
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", message)
        })
    }
}

/// A question about the audit, from a request's body.
pub(super) struct QueryBody(pub(super) QuerySpec);

impl<S: Send + Sync> FromRequest<S> for QueryBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<QueryBody, ApiError> {
        let bytes = read(request, state).await?;
        members(&bytes, QUERY_EXAMPLE)?;
        serde_json::from_slice(&bytes).map(QueryBody).map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", format!("{error}; send {QUERY_EXAMPLE}"))
        })
    }
}

/// The bytes of a JSON body.
async fn read<S: Send + Sync>(request: Request, state: &S) -> Result<Bytes, ApiError> {
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
    read.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            let message = format!("the body is too long; at most {BODY_BYTES_MAX} bytes are allowed");
            return ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message);
        }
        ApiError::new(StatusCode::BAD_REQUEST, "body_unreadable", "the body broke off; send it again")
    })
}

fn is_json(request: &Request) -> bool {
    let value = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = value.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn parse(bytes: &[u8]) -> Result<KeySpec, ApiError> {
    let example = r#"{"vendor": "stripe", "allowed_endpoints": ["POST /v1/charges"]}"#;
    // serde would read a list as the fields in their order.
    let members = members(bytes, example)?;
    match serde_json::from_slice::<KeySpec>(bytes) {
        Ok(spec) if spec.vendor.is_empty() && spec.parent_vault_key.is_none() => {
            let message = "is missing; name a configured vendor, such as \"stripe\"";
            Err(ApiError::field("missing_field", "vendor", message))
        }
        Ok(spec) => Ok(spec),
        Err(error) => Err(blame::<KeySpec>(&members, &error)),
    }
}

fn parse_change(bytes: &[u8]) -> Result<KeyChange, ApiError> {
    let members = members(bytes, r#"{"daily_usd_cap": 20}"#)?;
    serde_json::from_slice(bytes).map_err(|error| blame::<KeyChange>(&members, &error))
}

fn parse_revoke(bytes: &[u8]) -> Result<Revoke, ApiError> {
    let example = r#"{"label": "billing"}"#;
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        // serde would read a list as the fields in their order.
        members(bytes, example)?;
    }
    let error = match serde_json::from_slice::<RevokeSpec>(bytes) {
        Ok(spec) => {
            return spec.order().map_err(|wrong| match wrong.field {
                Some(field) => ApiError::field("invalid_field", field, wrong.problem),
                None => ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", wrong.problem),
            });
        }
        Err(error) => error,
    };
    for (name, value) in &members(bytes, example)? {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        if let Err(error) = serde_json::from_value::<RevokeSpec>(Value::Object(alone)) {
            let code = if REVOKE_FIELDS.contains(&name.as_str()) { "invalid_field" } else { "unknown_field" };
            return Err(ApiError::field(code, name, error.to_string()));
        }
    }
    let message = format!("{error}; give each field once");
    Err(ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", message))
}

/// The members of a body that is no spec; the error is of one that is no object at all.
fn members(bytes: &[u8], example: &str) -> Result<Map<String, Value>, ApiError> {
    let value = serde_json::from_slice::<Value>(bytes).map_err(|error| {
        let message = format!("the body is not JSON: {error}; send one object and nothing behind it");
        ApiError::new(StatusCode::BAD_REQUEST, "malformed_json", message)
    })?;
    match value {
        Value::Object(members) => Ok(members),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            let message = format!("the body must be an object, such as {example}");
            Err(ApiError::new(StatusCode::BAD_REQUEST, "not_an_object", message))
        }
    }
}

/// Finds the member that is wrong: each one alone must be a `T`.
fn blame<T: DeserializeOwned>(members: &Map<String, Value>, whole: &serde_json::Error) -> ApiError {
    for (name, value) in members {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        if let Err(error) = serde_json::from_value::<T>(Value::Object(alone)) {
            let code = if is_field(name) { "invalid_field" } else { "unknown_field" };
            let message = match expected(name) {
                Some(expected) => format!("{error}; {expected}"),
                None => error.to_string(),
            };
            return ApiError::field(code, name, message);
        }
    }
    // Each member is right and the whole is not: a name stands there twice.
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_body", format!("{whole}; give each field once"))
}

/// What to write for a field whose type alone does not say it.
fn expected(field: &str) -> Option<&'static str> {
    Some(match field {
        "vendor" => "name a configured vendor, such as \"stripe\"",
        "account" => "name an account of the vendor, such as \"default\"",
        "allowed_endpoints" => {
            "write a list of rules, such as [\"POST /v1/charges\", \"GET /v1/customers/*\"]"
        }
        "daily_usd_cap" | "total_usd_cap" | "max_usd_per_call" => {
            "write a number of USD, such as 50 or 150.5"
        }
        "expires_at" => "write RFC 3339 in UTC, such as \"2026-11-22T00:00:00Z\"",
        "params" => "write a list of rules, such as [{\"name\": \"currency\", \"in\": [\"usd\"]}]",
        "stripe_accounts" => "write a list of accounts, such as [\"acct_1032D82eZvKYlo2C\"]",
        "label" | "agent_run_label" => "write a text",
        "metadata" => "write an object of texts, such as {\"agent_id\": \"billing_agent\"}",
        _ => return None,
    })
}

fn is_field(name: &str) -> bool {
    const OTHERS: [&str; 4] = ["expires_in", "daily_request_budget", "rate_limit_rps", "parent_vault_key"];
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
        check(r#"{"parent_vault_key": 1}"#, "invalid_field", Some("parent_vault_key"), "a string").await;
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
        check(&stripe(r#""rate_limit_rps": "5""#), invalid, Some("rate_limit_rps"), "number").await;
        check(&stripe(r#""rate_limit_rps": 0"#), invalid, Some("rate_limit_rps"), "is not a rate").await;
        check(&stripe(r#""max_usd_per_call": "5""#), invalid, Some("max_usd_per_call"), "a number of USD")
            .await;
        check(&stripe(r#""params": {"currency": "usd"}"#), invalid, Some("params"), "list of rules").await;
        check(&stripe(r#""params": [{"name": "a", "in": []}]"#), invalid, Some("params"), "a: in needs 1")
            .await;
        check(&stripe(r#""vendor": "stripe""#), "invalid_body", None, "duplicate field").await;
    }

    #[test]
    fn a_wrong_order_to_revoke_is_refused_field_by_field() {
        for (body, code, field) in [
            ("{", "malformed_json", None),
            ("[]", "not_an_object", None),
            (r#"[["vk_0123456789abcdef"]]"#, "not_an_object", None),
            ("{}", "invalid_body", None),
            (r#"{"label": "a", "all": true}"#, "invalid_body", None),
            (r#"{"label": "a", "label": "b"}"#, "invalid_body", None),
            (r#"{"label": 1}"#, "invalid_field", Some("label")),
            (r#"{"lable": "a"}"#, "unknown_field", Some("lable")),
            (r#"{"subtree": "vk_1"}"#, "invalid_field", Some("subtree")),
            (r#"{"all": false}"#, "invalid_field", Some("all")),
            (r#"{"all": true, "cut": 1}"#, "invalid_field", Some("cut")),
        ] {
            let error = parse_revoke(body.as_bytes()).unwrap_err();
            let expected = match field {
                Some(field) => ApiError::field(code, field, error.message.clone()),
                None => ApiError::new(StatusCode::BAD_REQUEST, code, error.message.clone()),
            };
            assert_eq!(error, expected, "{body}");
        }
        for field in REVOKE_FIELDS {
            let wrong = parse_revoke(format!(r#"{{"{field}": {{}}}}"#).as_bytes()).unwrap_err();
            assert!(!wrong.message.contains("unknown field"), "{field}: {}", wrong.message);
        }
    }

    #[test]
    fn a_wrong_change_is_refused_field_by_field() {
        for (body, code, field) in [
            ("[]", "not_an_object", None),
            (r#"{"label": "a", "label": "b"}"#, "invalid_body", None),
            (r#"{"dayly_usd_cap": 1}"#, "unknown_field", Some("dayly_usd_cap")),
            (r#"{"daily_usd_cap": "1"}"#, "invalid_field", Some("daily_usd_cap")),
            (r#"{"vendor": "stripe"}"#, "invalid_field", Some("vendor")),
            (r#"{"parent_vault_key": null}"#, "invalid_field", Some("parent_vault_key")),
            (r#"{"daily_request_budget": 0}"#, "invalid_field", Some("daily_request_budget")),
            (r#"{"metadata": null, "expires_at": 5}"#, "invalid_field", Some("expires_at")),
        ] {
            let error = parse_change(body.as_bytes()).unwrap_err();
            let expected = match field {
                Some(field) => ApiError::field(code, field, error.message.clone()),
                None => ApiError::new(StatusCode::BAD_REQUEST, code, error.message.clone()),
            };
            assert_eq!(error, expected, "{body}");
        }
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
