//! Who is calling: an admin token for operators, a vault key for its holder, and never one for the other.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use keybrake_proto::key;
use keybrake_proto::secret::Secret;

use super::error::ApiError;
use super::{Api, now};
use crate::scope::{self, Scope};
use crate::tokens::{Caller, Verdict, Wrong};

/// Whose token a request came with, for the one line that says who changed what.
#[derive(Clone, Default)]
pub(super) struct Who(Arc<OnceLock<String>>);

impl Who {
    /// The token's name, if there was a right one.
    pub(super) fn name(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// The longest path in that line; names and ids are shorter.
const LOGGED_BYTES_MAX: usize = 200;

/// Who changed what, in a form that stays as it is. A path has no blank and no control character.
pub(super) fn log_line(name: &str, from: &str, asked: &str, status: StatusCode) -> String {
    let asked: String = asked.chars().take(LOGGED_BYTES_MAX).collect();
    format!("keybrake admin: change: by={name} from={from} status={} {asked}", status.as_u16())
}

/// Lets a request through whose token has one of the scopes.
pub(super) async fn holder(
    State((api, scopes)): State<(Arc<Api>, &'static [Scope])>,
    request: Request,
    next: Next,
) -> Response {
    let who = request.extensions().get::<Who>().cloned().unwrap_or_default();
    match identify(&api, request.headers(), &who).and_then(|caller| permit(&caller, scopes)) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// Whether the request has what could be a token.
pub(super) fn has_token(headers: &HeaderMap) -> bool {
    bearer(headers).is_some()
}

/// Whose token the request has.
pub(super) fn identify(api: &Api, headers: &HeaderMap, who: &Who) -> Result<Caller, ApiError> {
    let token = bearer(headers);
    let wrong = match token.map(|token| api.tokens.authenticate(token, now())) {
        Some(Ok(caller)) => {
            // It is set once a request.
            who.0.set(caller.name.clone()).ok();
            return Ok(caller);
        }
        Some(Err(wrong)) => Some(wrong),
        None => None,
    };
    api.metrics.count_unauthorized();
    let is_vault_key = token.is_some_and(key::is_well_formed);
    Err(ApiError::unauthorized(match wrong {
        None => {
            "send an admin token as `Authorization: Bearer …`; `keybrake token` says where the first one is"
        }
        Some(_) if is_vault_key => {
            "a vault key is not an admin token; `keybrake token` says where the first one is"
        }
        Some(Wrong::Unknown) => "this is not an admin token; `keybrake token` says where the first one is",
        Some(Wrong::Expired) => {
            "this admin token has expired; ask for another, or `keybrake token create` one"
        }
        Some(Wrong::Revoked) => {
            "this admin token was revoked; ask for another, or `keybrake token create` one"
        }
    }))
}

/// The token of a request, for whoever has to ask again whether it is good.
pub(super) fn token(headers: &HeaderMap) -> Secret {
    Secret::new(bearer(headers).unwrap_or_default().to_vec())
}

/// Whether a token may still read the audit.
pub(super) fn may_read(api: &Api, token: &Secret) -> bool {
    let caller = api.tokens.authenticate(token.expose(), now());
    caller.is_ok_and(|caller| scope::allows(&caller.scopes, &[Scope::ReadAudit]))
}

/// Whether a token may do what one of these scopes allows.
pub(super) fn permit(caller: &Caller, scopes: &[Scope]) -> Result<(), ApiError> {
    if scope::allows(&caller.scopes, scopes) {
        return Ok(());
    }
    let message = format!(
        "the token `{}` has the scope {}, and this needs {}, or admin",
        caller.name,
        scope::listed(&caller.scopes),
        scope::listed(scopes)
    );
    Err(ApiError::new(StatusCode::FORBIDDEN, "scope_missing", message))
}

/// Answers a wrong token or key from `peer` later the more of them there are. A right one never waits.
pub(super) async fn slow_down(api: &Api, peer: IpAddr, refusal: Response) -> Response {
    match api.guesses.wrong(peer, Instant::now()) {
        Verdict::After(wait) if wait.is_zero() => refusal,
        Verdict::After(wait) => {
            let _waiting = api.guesses.waits();
            tokio::time::sleep(wait).await;
            refusal
        }
        Verdict::TooMany => {
            let message = "too many wrong tokens from this address; a right one is answered at once";
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_wrong_tokens", message).into_response()
        }
    }
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
