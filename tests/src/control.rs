//! The control socket, as the admin process uses it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use keybrake_proto::control::{self, KeyView, Reply, Request, Revoked, Status};
use keybrake_proto::key::KeyId;
use keybrake_proto::policy::KeySpec;
use serde_json::Value;

use crate::keybrake::Issued;

/// The way to a dataplane's control socket; each request has a connection of its own.
#[derive(Debug, Clone)]
pub struct Control(pub(crate) PathBuf);

impl Control {
    /// Whether somebody answers there.
    #[must_use]
    pub fn answers(&self) -> bool {
        UnixStream::connect(&self.0).is_ok()
    }

    /// Asks and waits for the reply.
    ///
    /// # Panics
    /// When no dataplane answers.
    #[must_use]
    pub fn ask(&self, request: &Request) -> Reply {
        self.try_ask(request).unwrap_or_else(|error| panic!("{}: {error}", self.0.display()))
    }

    /// Asks a dataplane that may be gone, or go at any time.
    ///
    /// # Errors
    /// When none answers.
    pub(crate) fn try_ask(&self, request: &Request) -> std::io::Result<Reply> {
        Question::ask(&self.0, request)?.answer(Duration::from_secs(30))
    }

    /// How the dataplane is.
    ///
    /// # Panics
    /// When it answers otherwise.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.ask(&Request::Status) {
            Reply::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// One of the dataplane's numbers, summed over its labels.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.status().counters;
        counters.iter().filter(|counter| counter.name == name).map(|counter| counter.value).sum()
    }

    /// Issues a key.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn issue(&self, spec: &Value) -> Issued {
        let spec: KeySpec = serde_json::from_value(spec.clone()).unwrap();
        match self.ask(&Request::IssueKey(Box::new(spec))) {
            Reply::Issued { vault_key, key } => Issued { text: vault_key, id: key.id.to_string() },
            other => panic!("{other:?}"),
        }
    }

    /// Shows a key.
    ///
    /// # Panics
    /// When there is none of this id.
    #[must_use]
    pub fn show(&self, id: &str) -> KeyView {
        match self.ask(&Request::ShowKey(key_id(id))) {
            Reply::Key(view) => *view,
            other => panic!("{other:?}"),
        }
    }

    /// Revokes a key.
    ///
    /// # Panics
    /// When there is none of this id.
    #[must_use]
    pub fn revoke(&self, id: &str) -> Revoked {
        match self.ask(&Request::RevokeKey(key_id(id))) {
            Reply::Revoked(revoked) => revoked,
            other => panic!("{other:?}"),
        }
    }
}

/// A request that was sent and whose reply was not read yet.
#[derive(Debug)]
pub(crate) struct Question(UnixStream);

impl Question {
    /// Sends a request.
    pub(crate) fn ask(socket: &std::path::Path, request: &Request) -> std::io::Result<Question> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(&control::encode(request).map_err(std::io::Error::other)?)?;
        Ok(Question(stream))
    }

    /// Waits so long for the reply; nothing of it may have come when the time is over.
    pub(crate) fn answer(&mut self, limit: Duration) -> std::io::Result<Reply> {
        self.0.set_read_timeout(Some(limit))?;
        let mut header = [0; control::FRAME_HEADER_BYTES];
        self.0.read_exact(&mut header)?;
        let mut body = vec![0; control::body_bytes(header).map_err(std::io::Error::other)?];
        self.0.read_exact(&mut body)?;
        control::decode(&body).map_err(std::io::Error::other)
    }
}

pub(crate) fn key_id(text: &str) -> KeyId {
    text.parse().unwrap_or_else(|_| panic!("{text} is no key id"))
}
