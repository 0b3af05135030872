//! The query of a URL, each parameter taken once and by name.

use std::str::FromStr;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::StatusCode;
use axum::http::request::Parts;
use keybrake_proto::key::KeyId;

use super::error::ApiError;

const CODE: &str = "invalid_parameter";

/// The parameters nobody has taken yet.
pub(super) struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Params, ApiError> {
        let read = Query::<Vec<(String, String)>>::from_request_parts(parts, state).await;
        read.map(|Query(pairs)| Params(pairs)).map_err(|_: QueryRejection| {
            ApiError::new(
                StatusCode::BAD_REQUEST,
                CODE,
                "the query cannot be read; percent-encode its values",
            )
        })
    }
}

impl Params {
    /// The parameter `name`, or `None` where it is absent or empty. Twice is refused.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = Vec::new();
        self.0.retain_mut(|(found, value)| {
            if found == name {
                values.push(std::mem::take(value));
            }
            found != name
        });
        if values.len() > 1 {
            return Err(ApiError::field(CODE, name, "give it once"));
        }
        Ok(values.pop().filter(|value| !value.is_empty()))
    }

    /// The parameter `name`, parsed; `expected` says what to write.
    pub(super) fn parse<T: FromStr>(&mut self, name: &str, expected: &str) -> Result<Option<T>, ApiError> {
        self.parse_with(name, expected, |text| text.parse().ok())
    }

    /// As [`Params::parse`], with the caller's parser.
    pub(super) fn parse_with<T>(
        &mut self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(text) = self.take(name)? else { return Ok(None) };
        parse(&text).map(Some).ok_or_else(|| ApiError::field(CODE, name, expected))
    }

    /// `limit`, between 1 and `most`.
    pub(super) fn rows(&mut self, default: usize, most: usize) -> Result<usize, ApiError> {
        let expected = format!("give a number from 1 to {most}");
        let in_range = |text: &str| text.parse().ok().filter(|rows| (1..=most).contains(rows));
        Ok(self.parse_with("limit", &expected, in_range)?.unwrap_or(default))
    }

    /// Refuses what nobody took: a filter with a typing error must not show everything.
    pub(super) fn finish(self, known: &str) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                Err(ApiError::field(CODE, name, format!("there is no such parameter; there are: {known}")))
            }
        }
    }
}

#[cfg(test)]
impl Params {
    /// Parameters as a URL would bring them.
    pub(super) fn of(pairs: &[(&str, &str)]) -> Params {
        Params(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }
}

/// The `{id}` of a path.
pub(super) struct IdInPath(pub(super) KeyId);

impl<S: Send + Sync> FromRequestParts<S> for IdInPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<IdInPath, ApiError> {
        let refuse = |message: String| ApiError::field("invalid_key_id", "id", message);
        let text = Path::<String>::from_request_parts(parts, state)
            .await
            .map_err(|rejection: PathRejection| refuse(rejection.body_text()))?;
        text.parse().map(IdInPath).map_err(|error: keybrake_proto::key::NotAKeyId| refuse(error.to_string()))
    }
}
