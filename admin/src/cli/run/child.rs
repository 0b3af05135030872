//! The program: it is started, gets the signals that are sent to `keybrake`, and its end is passed on.

use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::iterator::exfiltrator::origin::Origin;
use signal_hook::low_level::siginfo::Cause;

use crate::failure::Failure;

/// What is passed on where a process sent it.
const PASSED_ON: [i32; 6] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2];

/// As shells say it of a program that is there and cannot be started.
const STATUS_CANNOT_START: u8 = 126;

/// As shells say it of a program that is not there.
const STATUS_NOT_FOUND: u8 = 127;

/// What shells add to the number of a signal.
const STATUS_SIGNAL: i32 = 128;

/// How the program ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// By itself or by a signal.
    Status(ExitStatus),
    /// It was not started; this has been said.
    NotStarted(u8),
}

/// Runs the program to its end.
pub(super) fn run(mut command: Command) -> Result<Ended, Failure> {
    let failed = |error: io::Error| Failure::operation(format_args!("cannot watch the program: {error}"));
    // Handlers come before the program. A signal in between waits for it, and ends nothing here.
    let ignored = ignored_signals();
    let heard: Vec<i32> = PASSED_ON.into_iter().filter(|signal| !is_in(ignored, *signal)).collect();
    let mut signals = SignalsInfo::<WithOrigin>::new(&heard).map_err(failed)?;
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            eprintln!("keybrake: cannot start {}: {error}", command.get_program().to_string_lossy());
            let is_missing = error.kind() == ErrorKind::NotFound;
            return Ok(Ended::NotStarted(if is_missing { STATUS_NOT_FOUND } else { STATUS_CANNOT_START }));
        }
    };
    // By this handle, since a process id may be another's once the program was waited for.
    let handle =
        pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).map_err(|error| failed(error.into()))?;
    let handle = Arc::new(handle);
    let listening = signals.handle();
    let for_thread = Arc::clone(&handle);
    let listener = std::thread::spawn(move || {
        for origin in &mut signals {
            if let Some(signal) = to_pass_on(&origin) {
                // It has ended: then its end is what counts.
                pidfd_send_signal(&for_thread, signal).ok();
            }
        }
    });
    let ended = child.wait().map_err(failed);
    listening.close();
    if listener.join().is_err() {
        eprintln!("keybrake: the thread that passes signals on has failed");
    }
    Ok(Ended::Status(ended?))
}

/// What of a signal the program gets. A terminal's own, such as Ctrl-C, has reached it already: it is in the same
/// process group.
fn to_pass_on(origin: &Origin) -> Option<Signal> {
    if origin.cause == Cause::Kernel {
        return None;
    }
    Signal::from_named_raw(origin.signal)
}

/// The signals that whoever started this process had it ignore, as `nohup` does. They stay ignored in the program,
/// while a handler here would give them back their meaning there.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

fn is_in(mask: u64, signal: i32) -> bool {
    let bit = u32::try_from(signal).ok().and_then(|signal| signal.checked_sub(1));
    bit.and_then(|bit| mask.checked_shr(bit)).is_some_and(|rest| rest & 1 == 1)
}

impl Ended {
    /// Ends this process in the same way where that is by a signal; else the exit status.
    pub(super) fn pass_on(self) -> ExitCode {
        let status = match self {
            Ended::NotStarted(status) => return ExitCode::from(status),
            Ended::Status(status) => status,
        };
        let Some(signal) = status.signal() else {
            return ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1));
        };
        // The program has left a core file, if any. This process holds vault keys.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).ok();
        signal_hook::low_level::emulate_default_handler(signal).ok();
        ExitCode::from(u8::try_from(STATUS_SIGNAL.saturating_add(signal)).unwrap_or(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_has_the_first_signal_in_its_lowest_bit() {
        assert!(is_in(0b1, SIGHUP) && !is_in(0b1, SIGINT) && is_in(0x4000, SIGTERM));
        assert!(!is_in(u64::MAX, 0) && !is_in(u64::MAX, 65));
    }
}
