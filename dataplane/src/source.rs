//! Where the configuration comes from: a file, the environment over it, the command line over both.

use std::fs::{self, Metadata};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use keybrake_proto::config::{Config, Driver};

/// A file that is being written differs from itself after this long, or has another length or time.
const SETTLE: Duration = Duration::from_millis(50);

/// How often it is looked whether the file has settled.
const LOOKS_MAX: usize = 40;

/// The configuration's place, which is read at the start and at each reload.
pub(crate) struct Source {
    pub(crate) path: PathBuf,
    /// `--driver`.
    pub(crate) driver: Option<Driver>,
}

impl Source {
    /// Reads and checks it. The error is one line that names the file and says what to do.
    pub(crate) fn read(&self) -> Result<Config, String> {
        let text = fs::read_to_string(&self.path)
            .map_err(|error| format!("config {}: {error}; give --config FILE", self.path.display()))?;
        self.parse(&text)
    }

    /// As [`Source::read`], of a file that may be written at this moment: half of a file can be a possible one. Blocks
    /// for 50 ms, and for two seconds at most while somebody writes.
    pub(crate) fn read_settled(&self) -> Result<Config, String> {
        let unreadable = |error: io::Error| format!("config {}: {error}", self.path.display());
        let mut before = self.look().map_err(unreadable)?;
        for _ in 0..LOOKS_MAX {
            // Not a worker's thread, and whoever asked waits.
            crossbeam_channel::after(SETTLE).recv().ok();
            let now = self.look().map_err(unreadable)?;
            if now == before {
                return self.parse(&now.0);
            }
            before = now;
        }
        Err(format!("config {}: it is being written; reload again when that is done", self.path.display()))
    }

    fn look(&self) -> io::Result<(String, u64, Option<std::time::SystemTime>)> {
        let text = fs::read_to_string(&self.path)?;
        let found: Metadata = fs::metadata(&self.path)?;
        Ok((text, found.len(), found.modified().ok()))
    }

    fn parse(&self, text: &str) -> Result<Config, String> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let config = Config::parse(text, environment);
        let mut config = config.map_err(|error| format!("config {}: {error}", self.path.display()))?;
        config.proxy.driver = self.driver.unwrap_or(config.proxy.driver);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str =
        "[proxy]\nidle_timeout_s = 9\n[[vendor]]\nname = \"stripe\"\nbase_url = \"https://x.example\"\n";

    #[test]
    fn q30_a_file_that_is_being_written_is_read_when_it_is_done() {
        let path = std::env::temp_dir().join(format!("keybrake-source-{}.toml", std::process::id()));
        // The first half is a possible configuration by itself but for its vendor, the second without its first line too.
        fs::write(&path, "[[vendor]]\nname = \"stripe\"\nbase_url = \"https://x.example\"\n").unwrap();
        let source = Source { path: path.clone(), driver: None };
        let first = source.look().unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || fs::write(&path, WHOLE).unwrap()
        });
        writer.join().unwrap();
        assert_ne!(source.look().unwrap(), first, "another look tells that it was written");
        assert_eq!(source.read_settled().unwrap().proxy.idle_timeout_s, 9);
        fs::remove_file(&path).unwrap();
        let error = source.read_settled().unwrap_err();
        assert!(error.contains(&path.display().to_string()), "{error}");
    }
}
