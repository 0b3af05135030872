//! Official SDKs of the vendors, and stand-ins for vendors that nobody here wrote.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::port::Port;
use crate::process::{Process, accepts, cache, python};

/// One of the official SDKs, by its place in the cache directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sdk {
    /// stripe-python 16.
    StripePython16,
    /// stripe-python 7, the last of the old client.
    StripePython7,
    /// stripe-python 2.76.
    StripePython2,
    /// stripe-node 14.
    StripeNode14,
    /// stripe-node 23.
    StripeNode23,
    /// twilio-python 9.
    TwilioPython9,
    /// twilio-node 4.
    TwilioNode4,
    /// twilio-node 6.
    TwilioNode6,
    /// resend-python 2.51.
    ResendPython2,
    /// resend-python 0.8.
    ResendPython0,
    /// resend-node 2.
    ResendNode2,
    /// resend-node 6.
    ResendNode6,
}

/// Where an SDK is installed: a virtualenv, or the name of a package for Node.
enum Place {
    Venv(&'static str),
    Package(&'static str),
}

impl Sdk {
    fn place(self) -> Place {
        match self {
            Sdk::StripePython16 => Place::Venv("venv-stripe-new"),
            Sdk::StripePython7 => Place::Venv("venv-stripe-old"),
            Sdk::StripePython2 => Place::Venv("venv-stripe-2"),
            Sdk::TwilioPython9 => Place::Venv("venv-twilio"),
            Sdk::ResendPython2 => Place::Venv("venv-resend-new"),
            Sdk::ResendPython0 => Place::Venv("venv-resend-old"),
            Sdk::StripeNode14 => Place::Package("stripe-14"),
            Sdk::StripeNode23 => Place::Package("stripe-23"),
            Sdk::TwilioNode4 => Place::Package("twilio-4"),
            Sdk::TwilioNode6 => Place::Package("twilio-6"),
            Sdk::ResendNode2 => Place::Package("resend-2"),
            Sdk::ResendNode6 => Place::Package("resend-6"),
        }
    }

    /// Whether it is an SDK for Python; else it is one for Node.
    #[must_use]
    pub fn is_python(self) -> bool {
        matches!(self.place(), Place::Venv(_))
    }

    /// The words that run `tests/sdk/<program>.py` or `.cjs`, to be followed by its arguments. Node's programs
    /// take the package's name first.
    #[must_use]
    pub fn words(self, program: &str) -> Vec<String> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        match self.place() {
            Place::Venv(venv) => vec![text(python(venv)), text(script(&format!("{program}.py")))],
            Place::Package(package) => {
                vec![text(node()), text(script(&format!("{program}.cjs"))), package.to_owned()]
            }
        }
    }

    /// Runs `tests/sdk/<program>` with these arguments; answers the JSON it prints.
    ///
    /// # Panics
    /// When it fails.
    #[must_use]
    pub fn run(self, program: &str, arguments: &[&str]) -> Value {
        let words = self.words(program);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(arguments).env_remove("HTTP_PROXY").env_remove("http_proxy");
        json_of(sdk_environment(&mut command).env("NO_PROXY", "*"))
    }
}

/// Gives a command what a program with an SDK needs, and no byte code beside our scripts.
pub fn sdk_environment(command: &mut Command) -> &mut Command {
    let modules = cache().join("npm-sdks/node_modules");
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("NODE_PATH", modules).stdin(Stdio::null())
}

/// The JSON that a command prints.
///
/// # Panics
/// When it fails.
pub fn json_of(command: &mut Command) -> Value {
    let output = command.output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{command:?}: {error}\n{stdout}\n{stderr}"))
}

/// A file of `tests/sdk`.
#[must_use]
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(name)
}

/// Node, as `scripts/setup.sh test` found or installed it.
#[must_use]
pub fn node() -> PathBuf {
    let own = cache().join("venv-node/bin/node");
    if own.exists() { own } else { PathBuf::from("node") }
}

/// A file or directory below `node_modules` of a package list that `scripts/setup.sh test` installed.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn node_module(list: &str, path: &str) -> PathBuf {
    let list = cache().join(format!("npm-{list}"));
    assert!(list.join("stamp").exists(), "{} is missing: run `scripts/setup.sh test`", list.display());
    list.join("node_modules").join(path)
}

/// A stand-in for a vendor that runs in a process of its own.
#[derive(Debug)]
pub struct Guest {
    _process: Process,
    address: SocketAddr,
    /// For one that cannot choose its port itself.
    _port: Option<Port>,
}

impl Guest {
    /// localstripe: customers, payment methods, charges, refunds. Any key that begins with `sk_` opens it.
    #[must_use]
    pub fn localstripe(dir: &Path) -> Guest {
        let mut command = Command::new(python("venv-localstripe"));
        // It saves its objects in the temporary directory, under one name.
        command.arg("-u").arg(script("serve_localstripe.py")).env("TMPDIR", dir);
        Guest::start("localstripe", dir, &mut command)
    }

    /// stripe-stateful-mock: charges and refunds with idempotency, and cards that fail on demand.
    #[must_use]
    pub fn stripe_mock(dir: &Path) -> Guest {
        let mut command = Command::new(node());
        command
            .arg(script("serve_stripe_mock.cjs"))
            .arg(node_module("stripe-mock", "stripe-stateful-mock"))
            .env("LOG_LEVEL", "silent");
        Guest::start("stripe-mock", dir, &mut command)
    }

    /// Prism, which answers by Twilio's own OpenAPI document of api.twilio.com: it wants Basic credentials and the
    /// required fields, remembers nothing, and answers with the document's examples.
    #[must_use]
    pub fn twilio(dir: &Path) -> Guest {
        let documents = cache().join("twilio-openapi");
        assert!(documents.join("stamp").exists(), "{} is missing", documents.display());
        let document = documents.join("package/src/services/twilio-api/twilio_api_v2010.json");
        let mut command = Command::new(node());
        command
            .arg(node_module("prism", "@stoplight/prism-cli/dist/index.js"))
            .args(["mock", "--host", "127.0.0.1", "--port", "0"])
            .arg(document);
        Guest::start("prism", dir, &mut command)
    }

    /// resend-local: mails one by one and in batches, in a file. Any key that begins with `re_` opens it.
    ///
    /// # Panics
    /// When its file cannot be copied.
    #[must_use]
    pub fn resend_local(dir: &Path) -> Guest {
        let app = node_module("resend-local", "resend-local/dist/app");
        // It wants a file with its tables.
        let file = dir.join("resend-local.sqlite");
        std::fs::copy(app.join("resend-local.sqlite"), &file).unwrap();
        let port = Port::reserve();
        let mut command = Command::new(node());
        command
            .arg(app.join("server.js"))
            .env("HOSTNAME", "127.0.0.1")
            .env("PORT", port.address().port().to_string())
            .env("DATABASE_URL", format!("file:{}", file.display()));
        Guest { _port: Some(port), ..Guest::start("resend-local", dir, &mut command) }
    }

    fn start(name: &str, dir: &Path, command: &mut Command) -> Guest {
        let mut process = Process::start(name, dir, command.env("PYTHONDONTWRITEBYTECODE", "1"));
        let address = process.wait_until("listening", |process| {
            let stdout = process.stdout();
            // Programs of ours print the address alone, others in a sentence.
            let address = stdout.split_whitespace().find_map(|word| {
                let authority = word.trim_start_matches("http://").split('/').next()?;
                authority.parse::<SocketAddr>().ok()
            })?;
            accepts(address).then_some(address)
        });
        Guest { _process: process, address, _port: None }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
