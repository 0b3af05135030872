//! When bytes arrived: by the kernel's own stamp where there is one, else by this process's clock.
//!
//! A process that is busy reads late, and would swear that a request came after a revoke that it came before. The
//! kernel stamps a segment when the network hands it over, whoever is busy.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, RawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use serde::Serialize;

/// Whose clock a stamp is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Clock {
    /// The kernel's, read when the segment arrived.
    Kernel,
    /// This process's, read right after the bytes were.
    Process,
}

/// A moment of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Microseconds since the epoch.
    pub(crate) us: u64,
    /// Who says so.
    pub(crate) by: Clock,
}

impl Arrival {
    /// This moment, by the process's clock.
    pub(crate) fn now() -> Arrival {
        Arrival { us: now_us(), by: Clock::Process }
    }
}

/// The wall clock, in microseconds since the epoch.
pub(crate) fn now_us() -> u64 {
    micros(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Asks the kernel for stamps; of a listening socket, for those of every connection it accepts.
///
/// # Errors
/// The kernel has none.
pub(crate) fn ask_for_stamps(socket: &impl AsFd) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::ReceiveTimestampns, &true)?)
}

/// Reads what is there into `buf`, without waiting, and says when the last segment of it arrived.
///
/// # Errors
/// As `recvmsg`; [`io::ErrorKind::WouldBlock`] while nothing is there.
pub(crate) fn receive(socket: RawFd, buf: &mut [u8]) -> io::Result<(usize, Arrival)> {
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut slices = [IoSliceMut::new(buf)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<()>(socket, &mut slices, Some(&mut control), flags)?;
    // Not every segment has a stamp: those that came right after the option was set have none.
    let stamp = received.cmsgs()?.find_map(|message| {
        let ControlMessageOwned::ScmTimestampns(stamp) = message else { return None };
        Some(micros(Duration::from(stamp)))
    });
    let arrival = stamp.map_or_else(Arrival::now, |us| Arrival { us, by: Clock::Kernel });
    Ok((received.bytes, arrival))
}

fn micros(since_epoch: Duration) -> u64 {
    u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX)
}
