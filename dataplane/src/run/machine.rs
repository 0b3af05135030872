//! What is asked of the machine for the whole process: signals, limits, randomness.

use std::io;

use anyhow::anyhow;
use crossbeam_channel::{Receiver, Sender, bounded};
use ring::rand::{SecureRandom as _, SystemRandom};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Signals as a channel, so that they can be waited for beside other things.
pub(super) fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver): (Sender<i32>, _) = bounded(8);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            sender.try_send(signal).ok();
        }
    })?;
    Ok(receiver)
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
pub(super) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which `getrlimit` fills in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the pointer is to a live `rlimit`. A refusal leaves the limit as it was.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

pub(super) fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("the system gives no random bytes"))?;
    Ok(u64::from_le_bytes(bytes))
}
