//! Who is calling: the admin token for operators, a vault key for its holder, and never one for the other.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keybrake_proto::key;
use ring::digest;

use super::Api;
use super::error::ApiError;

/// Lets a request with the admin token through.
pub(super) async fn operator(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if is_operator(&api, request.headers()) {
        return next.run(request).await;
    }
    no_operator(&api, request.headers()).into_response()
}

/// Whether the request has the admin token.
pub(super) fn is_operator(api: &Api, headers: &HeaderMap) -> bool {
    bearer(headers).is_some_and(|token| api.token.matches(token))
}

/// What tells one token from another without telling it: the first digits of its SHA-256.
pub(super) fn mark(headers: &HeaderMap) -> String {
    let digest = digest::digest(&digest::SHA256, bearer(headers).unwrap_or_default());
    digest.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// The answer to one that has not.
pub(super) fn no_operator(api: &Api, headers: &HeaderMap) -> ApiError {
    let token = bearer(headers);
    api.metrics.count_unauthorized();
    let is_vault_key = token.is_some_and(key::is_well_formed);
    let message = match (token, is_vault_key) {
        (None, _) => "send the admin token as `Authorization: Bearer …`; `keybrake token` says where it is",
        (Some(_), true) => "a vault key is not an admin token; `keybrake token` says where that is",
        (Some(_), false) => "this is not the admin token; `keybrake token` says where it is",
    };
    ApiError::unauthorized(message)
}

/// The vault key of the request: a bearer token, or either half of Basic, as vendors' SDKs send it.
pub(super) fn vault_key(headers: &HeaderMap) -> Result<String, ApiError> {
    let found = match bearer(headers) {
        Some(token) => Some(token.to_vec()),
        None => basic(headers),
    };
    let refusal = || {
        ApiError::unauthorized(
            "send a vault key as `Authorization: Bearer …`, or as user or password of Basic",
        )
    };
    found
        .filter(|text| key::is_well_formed(text))
        .and_then(|text| String::from_utf8(text).ok())
        .ok_or_else(refusal)
}

/// The one `Authorization` header; two are none, since which of them counts is a matter of taste.
fn authorization(headers: &HeaderMap) -> Option<&[u8]> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    match (all.next(), all.next()) {
        (Some(one), None) => Some(one.as_bytes()),
        _ => None,
    }
}

/// What follows the scheme `name`, whose case does not count (RFC 9110 section 11.1).
fn behind_scheme<'a>(value: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let (scheme, rest) = value.split_at_checked(name.len())?;
    let rest = rest.strip_prefix(b" ").filter(|_| scheme.eq_ignore_ascii_case(name.as_bytes()))?;
    Some(rest.trim_ascii())
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    behind_scheme(authorization(headers)?, "Bearer")
}

fn basic(headers: &HeaderMap) -> Option<Vec<u8>> {
    let decoded = STANDARD.decode(behind_scheme(authorization(headers)?, "Basic")?).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at_checked(colon)?;
    let password = password.strip_prefix(b":")?;
    [user, password].into_iter().find(|half| key::is_well_formed(half)).map(<[u8]>::to_vec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(values: &[&str], expected: Option<&str>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        assert_eq!(vault_key(&headers).ok().as_deref(), expected, "{values:?}");
    }

    #[test]
    fn a_vault_key_is_found_where_sdks_put_it() {
        let key = &key::mint(|bytes| bytes.fill(7));
        let basic = |text: String| format!("Basic {}", STANDARD.encode(text));
        check(&[&format!("Bearer {key}")], Some(key));
        check(&[&format!("bearer  {key} ")], Some(key));
        check(&[&basic(format!("{key}:"))], Some(key));
        check(&[&basic(format!("AC1:{key}"))], Some(key));
        check(&[&basic("user:password".to_owned())], None);
        check(&[key], None);
        check(&["Bearer"], None);
        check(&["Basic %%%"], None);
        check(&[&format!("Bearer {key}"), &format!("Bearer {key}")], None);
        check(&[], None);
    }
}
