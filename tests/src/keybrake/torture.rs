//! What torture asks of a keybrake beyond the other tests: a place, a clock and a build of its choice.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::{Keybrake, Setup};
use crate::http;
use crate::process::{self, Process, binary};
use crate::wait::eventually;

/// The answers; the defaults change nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Extras {
    /// Its directory goes there, and stays.
    parent: Option<PathBuf>,
    /// The data directory, where it is not inside that one.
    pub(super) data: Option<PathBuf>,
    /// Lines behind `data.dir`: more of `[data]`, then further sections.
    pub(super) config: String,
    /// Of the journals' files.
    pub(super) segment_bytes: Option<u64>,
    /// For the dataplane alone.
    environment: Vec<(String, OsString)>,
    /// The release build, where there is one.
    is_release: bool,
}

impl Extras {
    pub(super) fn dir(&self, parent: PathBuf) -> TempDir {
        let mut builder = tempfile::Builder::new();
        match &self.parent {
            Some(parent) => builder.prefix("keybrake-").disable_cleanup(true).tempdir_in(parent).unwrap(),
            None => builder.prefix("keybrake-test-").tempdir_in(parent).unwrap(),
        }
    }

    pub(super) fn binary(&self, name: &str) -> PathBuf {
        let debug = binary(name);
        let release = || debug.parent()?.parent().map(|target| target.join("release").join(name));
        match release().filter(|_| self.is_release) {
            Some(path) if path.exists() => path,
            Some(path) => panic!("{} is not built: run `make release`", path.display()),
            None => debug,
        }
    }

    /// Whether whoever made it looks into its directory afterwards.
    pub(super) fn keeps_directory(&self) -> bool {
        self.parent.is_some()
    }

    pub(super) fn apply(&self, name: &str, command: &mut Command) {
        if name == "keybrake-dataplane" {
            command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        }
        if self.parent.is_some() {
            process::tie(command);
        }
    }
}

impl Setup {
    /// With its directory below `parent`, where it stays for whoever looks into a violation; its processes end
    /// when the thread that starts them ends.
    pub(crate) fn inside(mut self, parent: &Path) -> Setup {
        self.torture.parent = Some(parent.to_owned());
        self
    }

    /// With its data directory there.
    pub(crate) fn data_at(mut self, data: PathBuf) -> Setup {
        self.torture.data = Some(data);
        self
    }

    /// With a further line behind `data.dir`; a line `[section]` begins another section.
    #[must_use]
    pub fn config_line(mut self, line: &str) -> Setup {
        self.torture.config = format!("{}{line}\n", self.torture.config);
        self
    }

    /// With journals in files of this length.
    pub(crate) fn segment_bytes(mut self, bytes: u64) -> Setup {
        self.torture.segment_bytes = Some(bytes);
        self
    }

    /// With a variable in the dataplane's environment.
    #[must_use]
    pub fn dataplane_env(mut self, name: &str, value: impl Into<OsString>) -> Setup {
        self.torture.environment.push((name.to_owned(), value.into()));
        self
    }

    /// With the binaries of the release build, where there is one.
    pub(crate) fn release_if_built(self) -> Setup {
        let debug = binary("keybrake-dataplane");
        let release =
            debug.parent().and_then(Path::parent).map(|target| target.join("release/keybrake-dataplane"));
        if release.is_some_and(|path| path.exists()) { self.release() } else { self }
    }

    /// Which build it is.
    pub(crate) fn build(&self) -> &'static str {
        if self.torture.is_release { "release" } else { "debug" }
    }

    /// With the binaries of the release build.
    pub(crate) fn release(mut self) -> Setup {
        self.torture.is_release = true;
        self
    }
}

impl Keybrake {
    /// Starts a dataplane that may refuse; then what it said before it ended, with an exit status of its own.
    pub(crate) fn try_start(&self) -> Result<Process, String> {
        let mut process = Process::start("dataplane", &self.out(), &mut self.dataplane_command());
        // Without its master key it runs, and forwards nothing.
        let sealed = |process: &Process| {
            let said = process.stderr();
            let line = said.lines().find(|line| line.contains("nothing is forwarded until it is restarted"));
            line.map(|line| format!("{line}\n"))
        };
        let refusal = eventually("the dataplane to start or to refuse", || {
            if process.ended().is_some() {
                return Some(None);
            }
            let is_ready = || http::is_ok(self.proxy(), "/readyz").then_some(None);
            sealed(&process).map(Some).or_else(is_ready)
        });
        match (process.ended(), refusal) {
            (None, Some(line)) => Err(line),
            (None, None) => Ok(process),
            (Some(status), _) if status.code().is_some_and(|code| code != 0) => Err(process.stderr()),
            (Some(status), _) => Err(format!("{status}\n{}", process.stderr())),
        }
    }

    /// The same keybrake with another environment for the dataplanes that are started from now on.
    pub(crate) fn set_dataplane_env(&mut self, environment: Vec<(String, OsString)>) {
        self.setup.torture.environment = environment;
    }
}
