//! Python's side: official SDKs, and localstripe, a Stripe that nobody here wrote.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::process::{Process, accepts, python};

/// One of the official SDKs, by its virtualenv.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// stripe-python 16.
    New,
    /// stripe-python 7, the last of the old client.
    Old,
    /// stripe-python 2.76.
    Two,
}

impl Sdk {
    /// All of them.
    pub const ALL: [Sdk; 3] = [Sdk::New, Sdk::Old, Sdk::Two];

    fn venv(self) -> &'static str {
        match self {
            Sdk::New => "venv-stripe-new",
            Sdk::Old => "venv-stripe-old",
            Sdk::Two => "venv-stripe-2",
        }
    }

    /// Runs `tests/sdk/<program>` with these arguments; answers the JSON it prints.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn run(self, program: &str, arguments: &[&str]) -> Value {
        let output = Command::new(python(self.venv()))
            .arg(script(program))
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("HTTP_PROXY")
            .env_remove("http_proxy")
            .env("NO_PROXY", "*")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} with {self:?}: {}\n{stderr}", output.status);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{program} with {self:?}: {error}\n{}\n{stderr}", String::from_utf8_lossy(&output.stdout))
        })
    }
}

/// A running localstripe.
#[derive(Debug)]
pub struct Localstripe {
    _process: Process,
    address: SocketAddr,
}

impl Localstripe {
    /// Starts one, empty, with its files in `dir`.
    ///
    /// # Panics
    /// When it does not listen in time.
    #[must_use]
    pub fn start(dir: &Path) -> Localstripe {
        let mut command = Command::new(python("venv-localstripe"));
        // It saves its objects in the temporary directory, under one name.
        command
            .arg("-u")
            .arg(script("serve_localstripe.py"))
            .env("TMPDIR", dir)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let mut process = Process::start("localstripe", dir, &mut command);
        let address = process.wait_until("listening", |process| {
            let address = process.stdout().lines().next()?.parse().ok()?;
            accepts(address).then_some(address)
        });
        Localstripe { _process: process, address }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(name)
}
