//! The routes of admin tokens. A text is answered once, when it is made.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use keybrake_proto::secret::SecretText;
use keybrake_proto::time::parse_duration_seconds;
use serde::Serialize;

use super::body::{RotateBody, TokenBody};
use super::error::ApiError;
use super::{Api, now};
use crate::scope::{self, Scope};
use crate::tokens::{NotDone, Shown, TokenView};

#[derive(Serialize)]
struct Listed {
    tokens: Vec<TokenView>,
}

/// A token with its text.
#[derive(Serialize)]
struct Made {
    /// Shown here and never again.
    token: SecretText,
    #[serde(flatten)]
    view: TokenView,
}

impl Made {
    fn answer(status: StatusCode, Shown { token, view }: Shown) -> Response {
        (status, Json(Made { token: SecretText(token), view })).into_response()
    }
}

/// `GET /tokens`.
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<impl Serialize>, ApiError> {
    Ok(Json(Listed { tokens: api.tokens.list(now())? }))
}

/// `POST /tokens`.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    TokenBody { name, scopes, expires_in }: TokenBody,
) -> Result<Response, ApiError> {
    let now = now();
    let expires_at = duration("expires_in", expires_in.as_deref())?.map(|seconds| now.plus_seconds(seconds));
    let shown = blocking(&api, move |api| api.tokens.create(&name, &scopes, expires_at, now)).await?;
    Ok(Made::answer(StatusCode::CREATED, shown))
}

/// `POST /tokens/{name}/rotate`.
pub(super) async fn rotate(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    RotateBody { overlap }: RotateBody,
) -> Result<Response, ApiError> {
    let overlap_s = duration("overlap", overlap.as_deref())?.unwrap_or_default();
    let shown = blocking(&api, move |api| api.tokens.rotate(&name, overlap_s, now())).await?;
    Ok(Made::answer(StatusCode::OK, shown))
}

/// `POST /tokens/{name}/revoke`.
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
) -> Result<Json<TokenView>, ApiError> {
    Ok(Json(blocking(&api, move |api| api.tokens.revoke(&name, now())).await?))
}

/// Writes and syncs a file where no other request waits for that.
async fn blocking<T: Send + 'static>(
    api: &Arc<Api>,
    change: impl FnOnce(&Api) -> Result<T, NotDone> + Send + 'static,
) -> Result<T, ApiError> {
    let api = Arc::clone(api);
    let changed = tokio::task::spawn_blocking(move || change(&api)).await;
    let broken = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the change broke off");
    Ok(changed.map_err(broken)??)
}

fn duration(field: &str, text: Option<&str>) -> Result<Option<u64>, ApiError> {
    let Some(text) = text else { return Ok(None) };
    let seconds = parse_duration_seconds(text).filter(|seconds| *seconds > 0);
    let expected = "write a duration such as 15m, 12h or 30d";
    seconds.map(Some).ok_or_else(|| ApiError::field("invalid_field", field, expected))
}

impl From<NotDone> for ApiError {
    fn from(error: NotDone) -> ApiError {
        let conflict = |code: &str, message: &str| ApiError::new(StatusCode::CONFLICT, code, message);
        match error {
            NotDone::Name => {
                let message =
                    "write 1 to 64 of the characters a-z, 0-9, `-`, `_` and `.`, and not `bootstrap`";
                ApiError::field("invalid_field", "name", message)
            }
            NotDone::NoScope => {
                let message = format!("name at least one of {}", scope::listed(&Scope::ALL));
                ApiError::field("invalid_field", "scopes", message)
            }
            NotDone::TooMany => conflict(
                "too_many_tokens",
                "there are 256 tokens, the most there may be; a revoked one is forgotten when its name is used again",
            ),
            NotDone::Exists => {
                conflict("token_exists", "a token of this name is in use; rotate it, or revoke it first")
            }
            NotDone::NoSuch => ApiError::new(
                StatusCode::NOT_FOUND,
                "no_such_token",
                "no token has this name; `keybrake token list` shows all",
            ),
            NotDone::Closed => conflict("token_closed", "this token is revoked or expired; create it anew"),
            NotDone::InEnvironment => conflict(
                "token_in_environment",
                "this token is KEYBRAKE_ADMIN_TOKEN's: change the variable and restart the admin process",
            ),
            NotDone::File(error) => {
                let message = format!("nothing was changed: {error}");
                ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "tokens_unavailable", message)
            }
        }
    }
}
