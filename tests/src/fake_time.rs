//! A system clock for one process that a test sets while it runs, by libfaketime.
//!
//! The process's boot clock and timers stay true, as they do when somebody sets a machine's clock.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::http;
use crate::keybrake::Keybrake;
use crate::process::Process;
use crate::wait::now_micros;

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
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
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
    let name = "faketime/libfaketimeMT.so.1";
    let below = std::fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
    let mut found = below.chain([PathBuf::from("/usr/lib")]).map(|dir| dir.join(name));
    found
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing: run `scripts/setup.sh test`"))
}
