//! The HTTP client of the admin API, and its errors in an operator's words.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use keybrake_proto::config::Config;
use keybrake_proto::secret::Secret;
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;

use super::{Connection, Invocation};
use crate::config::{self, LoadError};
use crate::failure::Failure;
use crate::token::{self, TOKEN_ENV};

/// The longest a request may take: a revoke waits up to ten seconds for the dataplane.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The longest a query of the audit may take: its time and its wait for a turn, a minute together.
const QUERY_TIMEOUT: Duration = Duration::from_secs(70);

/// The longest answer: a page of 1000 rows with all their texts.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// The admin API at one address.
pub(super) struct Client {
    agent: Agent,
    base: String,
    authorization: Secret,
    config: Option<Config>,
}

/// A 2xx answer.
pub(super) struct Answer {
    /// 200, 201 or 202.
    pub(super) status: u16,
    /// The JSON body.
    pub(super) body: Value,
}

/// A 2xx answer that is no JSON object.
pub(super) struct Text {
    /// The body.
    pub(super) text: String,
    headers: ureq::http::HeaderMap,
}

impl Text {
    /// The body as JSON, which this version's API writes.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        serde_json::from_str(&self.text).map_err(|error| {
            Failure::operation(format_args!(
                "the admin API's answer cannot be read ({error}); are both of one version?"
            ))
        })
    }

    /// The number in a header; 0 where there is none.
    pub(super) fn number(&self, name: &str) -> u64 {
        let value = self.headers.get(name).and_then(|value| value.to_str().ok());
        value.and_then(|value| value.parse().ok()).unwrap_or_default()
    }
}

/// Why there is no 2xx answer.
pub(super) enum CallError {
    /// Nobody answered; what was asked may still have happened.
    Unreachable(Failure),
    /// Somebody refused.
    Refused(Failure),
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Failure {
        match error {
            CallError::Unreachable(failure) | CallError::Refused(failure) => failure,
        }
    }
}

impl Answer {
    /// The body as `T`, which this version's API writes.
    pub(super) fn read<T: DeserializeOwned>(self) -> Result<T, Failure> {
        serde_json::from_value(self.body).map_err(|error| {
            Failure::operation(format_args!(
                "the admin API's answer cannot be read ({error}); are both of one version?"
            ))
        })
    }
}

impl Client {
    /// The way to the API, from the command line or the configuration.
    pub(super) fn new(invocation: &Invocation<'_>, connection: &Connection) -> Result<Client, Failure> {
        let config = match config::try_load(invocation.config) {
            Ok(config) => Some(config),
            Err(LoadError::Missing) => None,
            // Whoever names address and token needs no configuration.
            Err(LoadError::Unusable(_)) if connection.url.is_some() => None,
            Err(LoadError::Unusable(failure)) => return Err(failure),
        };
        Client::with(config, invocation, connection)
    }

    /// The way to the API for what is about the configuration itself: a file that cannot be used still says where
    /// address and token are.
    pub(super) fn beside_a_bad_file(
        invocation: &Invocation<'_>,
        connection: &Connection,
    ) -> Result<Client, Failure> {
        match config::try_load(invocation.config) {
            Err(LoadError::Unusable(failure)) if connection.url.is_none() => {
                let places = config::places(invocation.config).ok_or(failure)?;
                Client::with(Some(places), invocation, connection)
            }
            Ok(_) | Err(LoadError::Missing | LoadError::Unusable(_)) => Client::new(invocation, connection),
        }
    }

    fn with(
        config: Option<Config>,
        invocation: &Invocation<'_>,
        connection: &Connection,
    ) -> Result<Client, Failure> {
        let base = match (&connection.url, &config) {
            (Some(url), _) => base(url)?,
            (None, Some(config)) => match config::reachable(config.admin.listen) {
                address if address.port() == 0 => {
                    return Err(Failure::setup(
                        "admin.listen has port 0, so the admin API's address is not known; name it with --url",
                    ));
                }
                address => format!("http://{address}"),
            },
            (None, None) => {
                return Err(Failure::setup(format_args!(
                    "no configuration file {}, so the admin API's address is not known; name the file with --config \
                     or the address with --url",
                    invocation.config.display()
                )));
            }
        };
        let data = config.as_ref().map(|config| &config.data);
        let token = token::of_client(std::env::var_os(TOKEN_ENV), connection.token_file.as_deref(), data)?;
        let authorization = Secret::new([b"Bearer ", token.expose()].concat());
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            // The token goes to the API alone, whatever HTTP_PROXY says.
            .proxy(None)
            .build()
            .new_agent();
        Ok(Client { agent, base, authorization, config })
    }

    /// The configuration, where there is one.
    pub(super) fn config(&self) -> Option<&Config> {
        self.config.as_ref()
    }

    /// `GET path`.
    pub(super) fn get(&self, path: &str) -> Result<Answer, Failure> {
        let url = format!("{}{path}", self.base);
        Ok(self.answer(self.agent.get(url).header("authorization", self.authorization.expose()).call())?)
    }

    /// `POST path` with a JSON body.
    pub(super) fn post(&self, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        Ok(self.try_post(path, body)?)
    }

    /// As [`Client::post`], for a caller that knows another way.
    pub(super) fn try_post(&self, path: &str, body: &[u8]) -> Result<Answer, CallError> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.post(url).header("authorization", self.authorization.expose());
        self.answer(request.content_type("application/json").send(body))
    }

    /// `PUT path` with a JSON body.
    pub(super) fn put(&self, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.put(url).header("authorization", self.authorization.expose());
        Ok(self.answer(request.content_type("application/json").send(body))?)
    }

    /// `PATCH path` of what has this ETag.
    pub(super) fn patch(&self, path: &str, etag: &str, body: &[u8]) -> Result<Answer, Failure> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.patch(url).header("authorization", self.authorization.expose());
        let sent = request.header("if-match", etag).content_type("application/json").send(body);
        Ok(self.answer(sent)?)
    }

    /// As [`Client::post`], for a query, whose answer may be another format than JSON.
    pub(super) fn query(&self, path: &str, body: &[u8]) -> Result<Text, Failure> {
        let url = format!("{}{path}", self.base);
        let request = self.agent.post(url).header("authorization", self.authorization.expose());
        let request = request.config().timeout_global(Some(QUERY_TIMEOUT)).build();
        let sent = request.content_type("application/json").send(body);
        if sent.as_ref().map_or(true, |response| !response.status().is_success()) {
            return Err(self.answer(sent).err().map_or_else(no_reason, Failure::from));
        }
        let mut response = sent.map_err(|error| Failure::from(self.unreachable(&error)))?;
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| Failure::from(self.unreachable(&error)))?;
        Ok(Text { text, headers: response.headers().clone() })
    }

    /// `GET path` whose answer goes on and on.
    pub(super) fn follow(&self, path: &str) -> Result<impl BufRead + use<>, Failure> {
        let url = format!("{}{path}", self.base);
        let endless = self.agent.get(url).header("authorization", self.authorization.expose());
        let sent = endless.config().timeout_global(None).build().call();
        if sent.as_ref().map_or(true, |response| !response.status().is_success()) {
            return Err(self.answer(sent).err().map_or_else(no_reason, Failure::from));
        }
        let response = sent.map_err(|error| Failure::from(self.unreachable(&error)))?;
        Ok(BufReader::new(response.into_body().into_reader()))
    }

    fn answer(&self, sent: Result<Response<ureq::Body>, ureq::Error>) -> Result<Answer, CallError> {
        let mut response = sent.map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        let body: Value = serde_json::from_str(&text).map_err(|_| {
            CallError::Refused(Failure::operation(format_args!(
                "{} answered {status} and no JSON; is it keybrake's admin API? its address is admin.listen",
                self.base
            )))
        })?;
        if (200..300).contains(&status) {
            return Ok(Answer { status, body });
        }
        Err(CallError::Refused(Failure::operation(refusal(status, &body))))
    }

    fn unreachable(&self, error: &ureq::Error) -> CallError {
        CallError::Unreachable(Failure::operation(format_args!(
            "cannot reach the admin API at {} ({error}); start it with `keybrake up`, or name another address with \
             --url",
            self.base
        )))
    }
}

fn no_reason() -> Failure {
    Failure::operation("the admin API gave no reason")
}

/// The API's own words, and what a person at a command line does about them.
fn refusal(status: u16, body: &Value) -> String {
    let text = |name: &str| body.get("error").and_then(|error| error.get(name)).and_then(Value::as_str);
    let message = text("message").unwrap_or("the admin API gave no reason");
    match (status, text("field")) {
        (401, _) => format!(
            "the admin API does not accept this token: {message}; set {TOKEN_ENV}, or name the right file with \
             --token-file"
        ),
        // Some messages begin with the field already.
        (_, Some(field)) if !message.starts_with(field) => format!("{field}: {message}"),
        (_, _) => message.to_owned(),
    }
}

fn base(url: &str) -> Result<String, Failure> {
    let authority = url.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    match authority {
        Some(authority) if !authority.is_empty() && !authority.contains(['/', '?', '#', '@']) => {
            Ok(format!("http://{authority}"))
        }
        _ => Err(Failure::setup(
            "--url must be http://HOST:PORT; from another machine go through `ssh -L` or a TLS proxy on this one",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_is_an_origin() {
        assert_eq!(base("http://127.0.0.1:8081/"), Ok("http://127.0.0.1:8081".to_owned()));
        for url in ["https://x", "127.0.0.1:8081", "http://", "http://x/path", "http://user@x"] {
            assert_eq!(base(url).unwrap_err().status, 2, "{url}");
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let body = json!({"error": {"code": "x", "field": "daily_usd_cap", "message": "is wrong"}});
        assert_eq!(refusal(400, &body), "daily_usd_cap: is wrong");
        assert!(refusal(401, &body).contains("--token-file"));
        let body = json!({"error": {"code": "x", "field": "vendor", "message": "vendor: is wrong"}});
        assert_eq!(refusal(400, &body), "vendor: is wrong");
        assert_eq!(refusal(404, &json!({"error": {"message": "no such key"}})), "no such key");
        assert_eq!(refusal(500, &json!({})), "the admin API gave no reason");
    }
}
