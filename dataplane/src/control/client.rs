//! `keybrake-dataplane revoke`: over the control socket, or into the spool where nobody listens there.

use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use keybrake_proto::config::Data;
use keybrake_proto::control::{self, FRAME_HEADER_BYTES, Reply, Request, Revoke, Revoked};

use super::spool;

/// How long to wait for the answer, which takes two seconds at most in a dataplane that runs.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// What came of an order.
pub(crate) enum Told {
    /// The dataplane has answered.
    Answered(Box<Revoked>),
    /// The dataplane is down; it carries the order out at its next start, before it listens.
    Recorded,
    /// The order is in its socket, and it does not answer.
    Silent,
}

/// Why there is no answer.
enum Fault {
    /// Nobody listens.
    Away,
    /// Nobody has answered in time; the order is there.
    Silent,
    /// The connection broke off.
    Broken(io::Error),
    /// Asked and refused, or the question or its answer is of another version.
    Refused(String),
}

/// Orders a revoke; the error is one line for the operator.
pub(crate) fn order(data: &Data, revoke: &Revoke) -> Result<Told, String> {
    match ask(&data.control_socket(), revoke) {
        Ok(revoked) => return Ok(Told::Answered(revoked)),
        Err(Fault::Silent) => return Ok(Told::Silent),
        Err(Fault::Refused(problem)) => return Err(problem),
        // It dies, or has died in this moment.
        Err(Fault::Away | Fault::Broken(_)) => {}
    }
    let entry = spool::record(data, revoke)?;
    // A dataplane listens first and reads the spool then: one that listens only now may have missed it.
    match ask(&data.control_socket(), revoke) {
        Ok(revoked) => {
            entry.withdraw();
            Ok(Told::Answered(revoked))
        }
        Err(Fault::Refused(problem)) => {
            entry.withdraw();
            Err(problem)
        }
        Err(Fault::Silent) => Ok(Told::Silent),
        Err(Fault::Away) => Ok(Told::Recorded),
        Err(Fault::Broken(error)) => {
            eprintln!("keybrake-dataplane: the dataplane broke off twice ({error}); look at its output");
            Ok(Told::Recorded)
        }
    }
}

fn ask(socket: &Path, revoke: &Revoke) -> Result<Box<Revoked>, Fault> {
    let frame = control::encode(&Request::Revoke(revoke.clone()))
        .map_err(|error| Fault::Refused(error.to_string()))?;
    let mut peer = UnixStream::connect(socket).map_err(|error| {
        if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) {
            return Fault::Away;
        }
        Fault::Refused(format!("the control socket {} cannot be opened: {error}", socket.display()))
    })?;
    peer.set_read_timeout(Some(ANSWER_WAIT)).map_err(Fault::Broken)?;
    peer.write_all(&frame).map_err(Fault::Broken)?;
    let body = read_frame(&mut peer).map_err(|error| {
        if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) {
            return Fault::Silent;
        }
        if error.kind() == ErrorKind::InvalidData {
            Fault::Refused(error.to_string())
        } else {
            Fault::Broken(error)
        }
    })?;
    match control::decode(&body).map_err(|error| Fault::Refused(error.to_string()))? {
        Reply::Revoked(revoked) => Ok(revoked),
        Reply::Refused(refused) => Err(Fault::Refused(refused.message)),
        Reply::Status(_)
        | Reply::Issued { .. }
        | Reply::Changed { .. }
        | Reply::Vendors(_)
        | Reply::CredentialSet(_)
        | Reply::Keys { .. }
        | Reply::Key(_)
        | Reply::Clock(_)
        | Reply::MasterKeyRotated(_)
        | Reply::Doubts(_)
        | Reply::Config(_)
        | Reply::DoubtResolved(_) => {
            Err(Fault::Refused("the dataplane gave another answer; are both of one version?".to_owned()))
        }
    }
}

fn read_frame(peer: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = [0; FRAME_HEADER_BYTES];
    peer.read_exact(&mut header)?;
    let length =
        control::body_bytes(header).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    let mut body = vec![0; length];
    peer.read_exact(&mut body)?;
    Ok(body)
}
