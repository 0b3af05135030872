//! What tests of secrets ask of a keybrake beyond the others.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::Value;

use super::{ADMIN_TOKEN, Keybrake, Setup};
use crate::http;
use crate::leaks::{self, Kind, register};
use crate::process::Process;

impl Setup {
    /// With a further line in `[data]`.
    #[must_use]
    pub fn data_line(self, line: &str) -> Setup {
        self.config_line(line)
    }

    /// With a variable in the dataplane's environment.
    #[must_use]
    pub fn variable(self, name: &str, value: &str) -> Setup {
        self.dataplane_env(name, value)
    }
}

impl Keybrake {
    /// Where the master key is, where nothing else is configured.
    #[must_use]
    pub fn master_key_file(&self) -> PathBuf {
        self.data().join("master.key")
    }

    /// Sets these variables, and no others, for the dataplanes that are started from now on.
    pub fn set_variables(&mut self, variables: &[(&str, &str)]) {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), OsString::from(value));
        self.set_dataplane_env(variables.iter().map(own).collect());
    }

    /// Starts a dataplane that cannot read its store, and waits until it says so.
    pub fn start_sealed(&mut self) {
        let proxy = self.proxy();
        let mut process = Process::start("dataplane", &self.out(), &mut self.dataplane_command());
        process.wait_until("live", |_| http::is_ok(proxy, "/livez").then_some(()));
        self.dataplane = Some(process);
    }
}

/// What a request to the admin API brings is a secret, or is not.
pub(super) fn register_body(body: Option<&Value>) {
    if let Some(credential) = body.and_then(|body| body["credential"].as_str()) {
        register(Kind::Credential, credential);
    }
}

impl Keybrake {
    /// Registers what its processes are started with.
    pub(super) fn register_given(&self) {
        register(Kind::AdminToken, ADMIN_TOKEN);
        if let Some(secret) = &self.setup.secret {
            register(Kind::Credential, secret.trim());
        }
    }

    /// Registers what they have made.
    fn register_made(&self) {
        let files = std::fs::read_dir(self.data()).into_iter().flatten().flatten();
        let mut keys: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
        keys.push(self.data().with_extension("pepper"));
        for path in keys {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let kind = match name.as_str() {
                "admin.token" => Kind::AdminToken,
                name if name.starts_with("master.key") => Kind::MasterKey,
                name if name.ends_with(".pepper") => Kind::Pepper,
                _ => continue,
            };
            let text = std::fs::read(&path).unwrap_or_default();
            let text = text.trim_ascii();
            register(kind, text);
            let pairs =
                text.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
            // The bytes themselves, where the file has them in hexadecimal digits.
            if let Some(bytes) =
                pairs.collect::<Option<Vec<u8>>>().filter(|bytes| kind != Kind::AdminToken && !is_dull(bytes))
            {
                register(kind, bytes);
            }
        }
    }
}

/// Zeros and the like, which tests give as a wrong key, are everywhere.
fn is_dull(bytes: &[u8]) -> bool {
    bytes.windows(2).all(|pair| pair[0] == pair[1])
}

impl Drop for Keybrake {
    fn drop(&mut self) {
        self.register_made();
        // What they say while they stop counts too.
        drop((self.dataplane.take(), self.admin.take()));
        if self.setup.torture.keeps_directory() {
            return;
        }
        let data = self.data();
        let beside = ["anchor", "pepper"].map(|extension| data.with_extension(extension));
        let name = std::thread::current().name().unwrap_or("-").to_owned();
        leaks::search(&name, &[vec![data, self.out()], beside.to_vec()].concat());
    }
}
