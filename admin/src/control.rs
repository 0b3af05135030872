//! Asks the dataplane over its control socket: one connection a call, nothing is kept.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keybrake_proto::control::{self, FRAME_HEADER_BYTES, FrameError, Reply, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

/// The longest one call may take, waiting for a slot included.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The most calls at a time. `/vault/keys/self` is open to whoever reaches the listener, and the
/// dataplane serves 64 connections in all: half stay free for `keybrake-dataplane revoke`.
const CALLS_MAX: usize = 32;

/// The way to the dataplane.
pub(crate) struct Control {
    socket: PathBuf,
    slots: Semaphore,
    timeout: Duration,
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum ControlError {
    /// Nobody listens at the socket.
    NotRunning,
    /// The socket exists and cannot be used.
    Unreachable(io::Error),
    /// Nothing was asked: too many calls wait already.
    Busy,
    /// It was asked and did not answer in time; it may still act.
    Silent,
    /// The connection broke off; it may have acted.
    Broken(io::Error),
    /// The question or the answer is no frame of this version.
    Frame(FrameError),
    /// The answer belongs to another question.
    Unexpected,
}

impl ControlError {
    /// Whether the dataplane may have acted, or may still act, on the question.
    pub(crate) const fn may_have_acted(&self) -> bool {
        match self {
            ControlError::NotRunning | ControlError::Unreachable(_) | ControlError::Busy => false,
            ControlError::Silent
            | ControlError::Broken(_)
            | ControlError::Frame(_)
            | ControlError::Unexpected => true,
        }
    }
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ControlError::NotRunning => {
                f.write_str("the dataplane is not running; start it with `keybrake up`")
            }
            ControlError::Unreachable(error) => write!(
                f,
                "the dataplane's control socket cannot be opened ({error}); run both processes as the same user, \
                 or start them with `keybrake up`"
            ),
            ControlError::Busy => f.write_str("too many requests wait for the dataplane; try again"),
            ControlError::Silent => {
                f.write_str("the dataplane did not answer in time; if it stays so, restart it with `keybrake up`")
            }
            ControlError::Broken(error) => write!(
                f,
                "the dataplane broke off the connection ({error}); look at its output, or start it with `keybrake up`"
            ),
            ControlError::Frame(error) => error.fmt(f),
            ControlError::Unexpected => f.write_str(
                "the dataplane answered another question; are both processes of one version? restart them with \
                 `keybrake up`",
            ),
        }
    }
}

impl std::error::Error for ControlError {}

impl Control {
    /// The way through the socket file `socket`.
    pub(crate) fn new(socket: PathBuf) -> Control {
        Control { socket, slots: Semaphore::new(CALLS_MAX), timeout: CALL_TIMEOUT }
    }

    /// The directory that holds the socket: `data.dir`.
    pub(crate) fn data_dir(&self) -> &Path {
        self.socket.parent().unwrap_or(Path::new("."))
    }

    /// The same with another deadline.
    #[cfg(test)]
    pub(crate) fn with_timeout(socket: PathBuf, timeout: Duration) -> Control {
        Control { timeout, ..Control::new(socket) }
    }

    /// Asks `request`. A [`Reply::Refused`] is a reply, not an error.
    pub(crate) async fn call(&self, request: &Request) -> Result<Reply, ControlError> {
        let frame = control::encode(request).map_err(ControlError::Frame)?;
        let until = Instant::now().checked_add(self.timeout).unwrap_or_else(Instant::now);
        let waiting = timeout_at(until, self.slots.acquire()).await;
        let Ok(Ok(_slot)) = waiting else { return Err(ControlError::Busy) };
        let opening = timeout_at(until, UnixStream::connect(&self.socket)).await;
        let mut stream = match opening {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unopened(error)),
            Err(_) => return Err(ControlError::Busy),
        };
        match timeout_at(until, ask(&mut stream, &frame)).await {
            Ok(reply) => reply,
            Err(_) => Err(ControlError::Silent),
        }
    }
}

fn unopened(error: io::Error) -> ControlError {
    let kind = error.kind();
    if matches!(kind, ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
        ControlError::NotRunning
    } else if kind == ErrorKind::WouldBlock {
        // The backlog is full.
        ControlError::Busy
    } else {
        ControlError::Unreachable(error)
    }
}

async fn ask(stream: &mut UnixStream, frame: &[u8]) -> Result<Reply, ControlError> {
    stream.write_all(frame).await.map_err(ControlError::Broken)?;
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await.map_err(ControlError::Broken)?;
    let length = control::body_bytes(header).map_err(ControlError::Frame)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(ControlError::Broken)?;
    control::decode(&body).map_err(ControlError::Frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dataplane_that_is_away_is_told_from_one_that_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("control.sock");
        let control = Control::with_timeout(socket.clone(), Duration::from_millis(50));
        let away = control.call(&Request::Status).await.unwrap_err();
        assert!(matches!(away, ControlError::NotRunning) && !away.may_have_acted());
        // The kernel takes the connection and the frame; nobody reads them, as under SIGSTOP.
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let silent = control.call(&Request::Status).await.unwrap_err();
        assert!(matches!(silent, ControlError::Silent) && silent.may_have_acted());
        drop(listener);
        let dead = control.call(&Request::Status).await.unwrap_err();
        assert!(matches!(dead, ControlError::NotRunning));
    }
}
