//! A system clock for one process that a test sets while it runs, by libfaketime.
//!
//! The process's boot clock and timers stay true, as they do when somebody sets a machine's clock.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::http;
use crate::keybrake::Keybrake;
use crate::process::Process;
use crate::wait::now_micros;

const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

const DAY_MICROS: u64 = 86_400_000_000;

/// A clock that is ahead of the machine's, or behind.
#[derive(Debug)]
pub struct FakeTime {
    file: PathBuf,
    library: PathBuf,
    offset_micros: i64,
}

impl FakeTime {
    /// A clock, kept in `dir`, that says it is so many seconds after the midnight of some day to come.
    ///
    /// # Panics
    /// When libfaketime is not installed, or `dir` cannot be written.
    #[must_use]
    pub fn at_second_of_day(dir: &Path, second: u64) -> FakeTime {
        let mut time = FakeTime { file: dir.join("fake-time"), library: library(), offset_micros: 0 };
        time.step_to_second_of_day(second);
        time
    }

    /// Sets the clock forward to so many seconds after the next midnight.
    pub fn step_to_second_of_day(&mut self, second: u64) {
        let now = self.now_micros();
        let goal = now / DAY_MICROS * DAY_MICROS + DAY_MICROS + second * 1_000_000;
        self.offset_micros += i64::try_from(goal - now).unwrap();
        self.write();
    }

    /// Sets the clock forward, or back where `seconds` are negative.
    pub fn step(&mut self, seconds: i64) {
        self.offset_micros += seconds * 1_000_000;
        self.write();
    }

    /// What the clock says, in microseconds since the epoch.
    #[must_use]
    pub fn now_micros(&self) -> u64 {
        now_micros().saturating_add_signed(self.offset_micros)
    }

    /// Lets `command` run by this clock.
    pub fn apply(&self, command: &mut Command) {
        command.envs(self.environment());
    }

    /// The variables that do so.
    pub(crate) fn environment(&self) -> [(&'static str, OsString); 4] {
        [
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ]
    }

    /// How far it is from the machine's clock, in microseconds.
    pub(crate) fn offset_micros(&self) -> i64 {
        self.offset_micros
    }

    /// Starts the dataplane by this clock and waits until it takes requests.
    pub fn start_dataplane(&self, keybrake: &mut Keybrake) {
        let mut command = keybrake.dataplane_command();
        self.apply(&mut command);
        let mut process = Process::start("dataplane", &keybrake.out(), &mut command);
        let proxy = keybrake.proxy();
        process.wait_until("ready", |_| http::is_ok(proxy, "/readyz").then_some(()));
        keybrake.dataplane = Some(process);
    }

    /// Each reading of the clock opens the file anew, so that it is replaced as a whole.
    fn write(&self) {
        let new = self.file.with_extension("new");
        let sign = if self.offset_micros < 0 { '-' } else { '+' };
        let micros = self.offset_micros.unsigned_abs();
        std::fs::write(&new, format!("{sign}{}.{:06}\n", micros / 1_000_000, micros % 1_000_000)).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }
}

/// Where Debian and its kin put it.
fn library() -> PathBuf {
    installed().unwrap_or_else(|| panic!("{LIBRARY} is missing: run `scripts/setup.sh test`"))
}

/// libfaketime, where it is installed.
pub(crate) fn installed() -> Option<PathBuf> {
    let below = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
    below.chain([PathBuf::from("/usr/lib")]).map(|dir| dir.join(LIBRARY)).find(|path| path.exists())
}
