//! The control socket, as the admin process uses it.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use keybrake_proto::control::{self, KeyView, Reply, Request, Revoke, Revoked, Selector, Status};
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
        let mut stream = self.send(request);
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        read_reply(&mut stream).unwrap()
    }

    /// Asks a dataplane that may be gone, or go at any time.
    ///
    /// # Errors
    /// When none answers.
    pub(crate) fn try_ask(&self, request: &Request) -> std::io::Result<Reply> {
        let mut stream = UnixStream::connect(&self.0)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.write_all(&control::encode(request).unwrap())?;
        read_reply(&mut stream)
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

    /// One of the dataplane's numbers with one label's value.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn labeled(&self, name: &str, label: &str) -> u64 {
        let counters = self.status().counters;
        let is_it =
            |label_of: &Option<(String, String)>| label_of.as_ref().is_some_and(|(_, value)| value == label);
        let found = counters.iter().find(|counter| counter.name == name && is_it(&counter.label));
        found.unwrap_or_else(|| panic!("no {name} of {label}")).value
    }

    /// What a limit refused so far.
    #[must_use]
    pub fn refusals(&self, limit: &str) -> u64 {
        self.labeled("keybrake_limit_refusals_total", limit)
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
        self.revoke_all(Selector::Ids(vec![key_id(id)]), false)
    }

    /// Revokes the keys that a selector names.
    ///
    /// # Panics
    /// When it names none.
    #[must_use]
    pub fn revoke_all(&self, of: Selector, cut: bool) -> Revoked {
        match self.ask(&Request::Revoke(Revoke { of, cut })) {
            Reply::Revoked(revoked) => *revoked,
            other => panic!("{other:?}"),
        }
    }

    /// Sends a request and leaves the answer in the connection.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn send(&self, request: &Request) -> UnixStream {
        let mut stream =
            UnixStream::connect(&self.0).unwrap_or_else(|error| panic!("{}: {error}", self.0.display()));
        stream.write_all(&control::encode(request).unwrap()).unwrap();
        stream
    }
}

/// Reads a reply; an error is its absence.
///
/// # Errors
/// When there is none within the stream's read timeout.
///
/// # Panics
/// When it is no frame.
pub fn read_reply(stream: &mut UnixStream) -> std::io::Result<Reply> {
    let mut header = [0; control::FRAME_HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; control::body_bytes(header).unwrap()];
    stream.read_exact(&mut body)?;
    Ok(control::decode(&body).unwrap())
}

/// The id of this text.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn key_id(text: &str) -> KeyId {
    text.parse().unwrap_or_else(|_| panic!("{text} is no key id"))
}
