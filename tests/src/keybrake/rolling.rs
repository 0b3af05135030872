//! A keybrake whose dataplane is replaced while it runs.

use super::{Keybrake, Setup};
use crate::process::Process;

impl Setup {
    /// With `durability.money` set to this.
    #[must_use]
    pub fn durability(self, money: &str) -> Setup {
        self.config_line(&format!("[durability]\nmoney = \"{money}\""))
    }
}

impl Keybrake {
    /// Starts a dataplane that takes over from the one that runs, and does not wait.
    #[must_use]
    pub fn begin_take_over(&self) -> Process {
        Process::start("dataplane", &self.out(), self.dataplane_command().arg("--take-over"))
    }

    /// Replaces the dataplane by one that takes over and waits until it admits. Gives the one before, which may
    /// still run calls, and how long none admitted anything, in microseconds.
    ///
    /// # Panics
    /// When it does not take over.
    pub fn take_over(&mut self) -> (Process, u64) {
        let mut next = self.begin_take_over();
        let paused_us = next.wait_until("in the place of the other", paused_us);
        (self.dataplane.replace(next).unwrap(), paused_us)
    }
}

/// How long nothing was admitted, by the line of a dataplane that has taken over; `None` while it has not.
///
/// # Panics
/// When the line is not what it was.
#[must_use]
pub fn paused_us(process: &Process) -> Option<u64> {
    let text = process.stderr();
    let (_, rest) = text.split_once("took over from process ")?;
    let (_, rest) = rest.split_once("admission paused for ")?;
    let (digits, _) = rest.split_once(" us, ")?;
    Some(digits.parse().unwrap())
}
