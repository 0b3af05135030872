//! What is asked of the machine for the whole process: signals, limits, randomness.

use std::fs::File;
use std::io;
use std::sync::Arc;

use anyhow::anyhow;
use crossbeam_channel::{Receiver, Sender, bounded};
use keybrake_proto::config::Config;
use ring::rand::{SecureRandom as _, SystemRandom};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::control::Control;
use crate::limits::Limits;

/// Signals as channels, so that they can be waited for beside other things: those that end the process, and SIGHUPs
/// that ask for the configuration to be read again.
pub(super) fn signals() -> io::Result<(Receiver<i32>, Receiver<i32>)> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let (sender, receiver): (Sender<i32>, _) = bounded(8);
    // One that waits stands for all that came since.
    let (reload, reloads): (Sender<i32>, _) = bounded(1);
    let had_terminal = has_terminal();
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            // A terminal that was closed ends what was started in it.
            let is_reload = signal == SIGHUP && (!had_terminal || has_terminal());
            let to = if is_reload { &reload } else { &sender };
            to.try_send(signal).ok();
        }
    })?;
    Ok((receiver, reloads))
}

/// Whether there is a terminal that can be closed.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// The thread that reads the configuration again at each signal; it says on standard error what came of it.
pub(super) fn start_reloads(control: &Arc<Control>, hang_ups: Receiver<i32>) -> anyhow::Result<()> {
    let control = Arc::clone(control);
    let run = move || {
        for _ in hang_ups {
            drop(control.reload());
        }
    };
    std::thread::Builder::new().name("reload".to_owned()).spawn(run)?;
    Ok(())
}

/// As many files may be open as the system allows. Answers what agents may use up.
pub(super) fn prepare(config: &Config) -> Arc<Limits> {
    Limits::new(config, raise_descriptor_limit())
}

/// No core dump and no debugger of the same user sees the credential (rule S1).
pub(crate) fn harden() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`. A refusal leaves the limit as it was.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    // SAFETY: PR_SET_DUMPABLE takes one integer and touches no memory.
    let _ = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
}

/// As many descriptors as the system allows: one for each agent and each vendor connection.
/// Answers how many these are.
fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which `getrlimit` fills in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return u64::MAX;
    }
    let before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live `rlimit`. A refusal leaves the limit as it was.
    let is_raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    if is_raised { limit.rlim_cur } else { before }
}

/// Says where agents get fewer connections than configured.
pub(super) fn say_what_is_short(config: &Config, limits: &Limits) {
    let (most, wanted) = (limits.figures().connections_max, config.proxy.connections_max);
    if most < u64::try_from(wanted).unwrap_or(u64::MAX) {
        eprintln!(
            "keybrake-dataplane: agents get {most} connections of proxy.connections_max = {wanted}: the process may open \
             too few files for more; raise its limit (LimitNOFILE, ulimit -n)"
        );
    }
}

pub(super) fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("the system gives no random bytes"))?;
    Ok(u64::from_le_bytes(bytes))
}
