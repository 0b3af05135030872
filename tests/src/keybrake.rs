//! keybrake itself: a data directory of its own, a dataplane, and an admin process where one is asked for.

mod rolling;
mod secrets;
mod torture;

use std::ffi::CString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use keybrake_proto::control::KeyView;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::control::Control;
use crate::http::{self, Reply};
use crate::port::Port;
use crate::process::Process;
use crate::wait::eventually;
pub use rolling::paused_us;

/// The vendor credential of the tests: localstripe takes any key that begins with `sk_`.
pub const SECRET: &str = "sk_test_9Lq3ZbVtYw2RkHs7XnDc5PfM";

/// The admin token of the tests.
pub const ADMIN_TOKEN: &str = "kbadmin_of-the-black-box-tests-0123456789";

/// The variable that holds [`SECRET`] when a dataplane starts.
const SECRET_VARIABLE: &str = "STRIPE_SECRET_KEY";

/// Small files, so that tests see what happens at their ends.
const SEGMENT_BYTES: u64 = 1024 * 1024;

/// What a test wants of a keybrake.
#[derive(Debug, Clone)]
pub struct Setup {
    vendor: String,
    vendor_name: String,
    workers: usize,
    proxy_lines: String,
    vendor_lines: String,
    secret: Option<String>,
    admin: bool,
    on_disk: bool,
    torture: torture::Extras,
}

impl Setup {
    /// One vendor, Stripe, at `vendor`, such as `http://127.0.0.1:1234`; one worker, no admin process.
    #[must_use]
    pub fn new(vendor: impl Into<String>) -> Setup {
        let vendor = vendor.into();
        let vendor_lines = if vendor.starts_with("http:") { "allow_plain_http = true\n" } else { "" };
        Setup {
            vendor_lines: vendor_lines.to_owned(),
            vendor,
            vendor_name: "stripe".to_owned(),
            workers: 1,
            proxy_lines: String::new(),
            secret: Some(SECRET.to_owned()),
            admin: false,
            on_disk: false,
            torture: torture::Extras::default(),
        }
    }

    /// With another vendor than Stripe, whose credential in the environment is this one.
    #[must_use]
    pub fn of_vendor(self, name: &str, secret: &str) -> Setup {
        Setup { vendor_name: name.to_owned(), ..self.secret(Some(secret)) }
    }

    /// With another vendor than Stripe.
    #[must_use]
    pub fn vendor_name(self, name: &str) -> Setup {
        Setup { vendor_name: name.to_owned(), ..self }
    }

    /// With so many workers.
    #[must_use]
    pub fn workers(self, workers: usize) -> Setup {
        Setup { workers, ..self }
    }

    /// With an admin process too.
    #[must_use]
    pub fn with_admin(self) -> Setup {
        Setup { admin: true, ..self }
    }

    /// With its data on the disk of temporary files. Without it they are in `/dev/shm` where the machine has that: a
    /// busy disk's time neither hides a race there nor stops admission.
    #[must_use]
    pub fn on_disk(self) -> Setup {
        Setup { on_disk: true, ..self }
    }

    /// With a further line in `[proxy]`.
    #[must_use]
    pub fn proxy_line(self, line: &str) -> Setup {
        Setup { proxy_lines: format!("{}{line}\n", self.proxy_lines), ..self }
    }

    /// With a further line in the vendor's section.
    #[must_use]
    pub fn vendor_line(self, line: &str) -> Setup {
        Setup { vendor_lines: format!("{}{line}\n", self.vendor_lines), ..self }
    }

    /// With another vendor credential in the environment, or none.
    #[must_use]
    pub fn secret(self, secret: Option<&str>) -> Setup {
        Setup { secret: secret.map(str::to_owned), ..self }
    }

    /// Writes the configuration, starts nothing.
    ///
    /// # Panics
    /// When the temporary directory cannot be written.
    #[must_use]
    pub fn prepare(self) -> Keybrake {
        let dir =
            self.torture.dir(if self.on_disk { std::env::temp_dir() } else { in_memory_or_temporary() });
        std::fs::create_dir(dir.path().join("out")).unwrap();
        let keybrake = Keybrake {
            dataplane: None,
            admin: None,
            proxy_port: Port::reserve(),
            admin_port: Port::reserve(),
            setup: self,
            dir,
        };
        std::fs::write(keybrake.config(), keybrake.config_text()).unwrap();
        keybrake.register_given();
        keybrake
    }

    /// Starts it and waits until it takes requests.
    #[must_use]
    pub fn start(self) -> Keybrake {
        let admin = self.admin;
        let mut keybrake = self.prepare();
        keybrake.start_dataplane();
        if admin {
            keybrake.start_admin();
        }
        keybrake
    }
}

/// A key that was issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The vault key.
    pub text: String,
    /// Its public id.
    pub id: String,
}

/// A keybrake: its processes stop when it is dropped, and its directory goes.
#[derive(Debug)]
pub struct Keybrake {
    /// The dataplane, while one was started.
    pub dataplane: Option<Process>,
    /// The admin process, while one was started.
    pub admin: Option<Process>,
    proxy_port: Port,
    admin_port: Port,
    setup: Setup,
    dir: TempDir,
}

impl Keybrake {
    /// The test's own directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where the processes' output goes.
    #[must_use]
    pub fn out(&self) -> PathBuf {
        self.dir().join("out")
    }

    /// The data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.setup.torture.data.clone().unwrap_or_else(|| self.dir().join("data"))
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir().join("keybrake.toml")
    }

    /// What stands in it.
    #[must_use]
    pub fn config_text(&self) -> String {
        let Setup { vendor, vendor_name, workers, proxy_lines, vendor_lines, .. } = &self.setup;
        format!(
            "[proxy]\nlisten = \"{}\"\nworkers = {workers}\n{proxy_lines}\n[admin]\nlisten = \"{}\"\n\n\
             [data]\ndir = \"{}\"\njournal_segment_bytes = {}\n{}\n\
             [[vendor]]\nname = \"{vendor_name}\"\nbase_url = \"{vendor}\"\ncredential_env = \"{SECRET_VARIABLE}\"\n{vendor_lines}",
            self.proxy(),
            self.admin_address(),
            self.data().display(),
            self.setup.torture.segment_bytes.unwrap_or(SEGMENT_BYTES),
            self.setup.torture.config
        )
    }

    /// The same keybrake with another vendor credential in the environment of what is started from now on.
    #[must_use]
    pub fn with_secret(mut self, secret: Option<&str>) -> Keybrake {
        self.setup.secret = secret.map(str::to_owned);
        self.register_given();
        self
    }

    /// Where agents connect.
    #[must_use]
    pub fn proxy(&self) -> SocketAddr {
        self.proxy_port.address()
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_port.address()
    }

    /// The control socket.
    #[must_use]
    pub fn control(&self) -> Control {
        Control(self.data().join(keybrake_proto::control::SOCKET_NAME))
    }

    /// The command that runs the dataplane, over the driver that `KEYBRAKE_TEST_DRIVER` names.
    #[must_use]
    pub fn dataplane_command(&self) -> Command {
        let mut command = self.command("keybrake-dataplane");
        command.arg("--config").arg(self.config());
        if let Some(driver) = std::env::var_os("KEYBRAKE_TEST_DRIVER").filter(|driver| !driver.is_empty()) {
            command.arg("--driver").arg(driver);
        }
        command
    }

    /// The command that runs `keybrake` with these arguments and this keybrake's token and configuration.
    #[must_use]
    pub fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("keybrake");
        command
            .args(arguments)
            .env("KEYBRAKE_CONFIG", self.config())
            .env("KEYBRAKE_ADMIN_TOKEN", ADMIN_TOKEN);
        command
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.setup.torture.binary(name));
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("KEYBRAKE_") {
                command.env_remove(variable);
            }
        }
        command.current_dir(self.dir()).env_remove(SECRET_VARIABLE);
        if let Some(secret) = &self.setup.secret {
            command.env(SECRET_VARIABLE, secret);
        }
        self.setup.torture.apply(name, &mut command);
        command
    }

    /// Starts the dataplane and waits until it takes requests.
    pub fn start_dataplane(&mut self) {
        self.begin_dataplane();
        self.await_dataplane();
    }

    /// Starts the dataplane and does not wait.
    pub fn begin_dataplane(&mut self) {
        self.dataplane = Some(Process::start("dataplane", &self.out(), &mut self.dataplane_command()));
    }

    /// Waits until the dataplane takes requests.
    pub fn await_dataplane(&mut self) {
        let (proxy, control) = (self.proxy(), self.control());
        // Over TLS it is asked where no certificate is needed.
        let speaks_tls = self.setup.proxy_lines.contains("cert_file");
        let is_ready = || {
            if speaks_tls {
                control.answers() && control.status().ready
            } else {
                http::is_ok(proxy, "/readyz")
            }
        };
        self.dataplane().wait_until("ready", |_| is_ready().then_some(()));
    }

    /// Starts the dataplane, which must end by itself; answers its exit code and standard error.
    ///
    /// # Panics
    /// When it goes on.
    #[must_use]
    pub fn failed_start(&self) -> (i32, String) {
        let mut process = Process::start("dataplane", &self.out(), &mut self.dataplane_command());
        let code = process.exit_code();
        (code, process.stderr())
    }

    /// Starts the admin process and waits until it answers.
    pub fn start_admin(&mut self) {
        let mut command = self.cli_command(&["admin"]);
        let mut process = Process::start("admin", &self.out(), &mut command);
        let admin = self.admin_address();
        process.wait_until("live", |_| http::is_ok(admin, "/livez").then_some(()));
        self.admin = Some(process);
    }

    /// The running dataplane.
    ///
    /// # Panics
    /// When none was started.
    pub fn dataplane(&mut self) -> &mut Process {
        self.dataplane.as_mut().unwrap()
    }

    /// The running admin process.
    ///
    /// # Panics
    /// When none was started.
    pub fn admin(&mut self) -> &mut Process {
        self.admin.as_mut().unwrap()
    }

    /// Issues a Stripe key over the control socket: `allowed_endpoints` and the fields of `more`.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn issue(&self, allowed_endpoints: &[&str], more: &Value) -> Issued {
        self.control().issue(&spec(allowed_endpoints, more))
    }

    /// As operators see a key.
    #[must_use]
    pub fn key(&self, id: &str) -> KeyView {
        self.control().show(id)
    }

    /// What a key has committed today, in US cents.
    #[must_use]
    pub fn committed_cents(&self, id: &str) -> u64 {
        self.key(id).committed_usd.as_u64() / 10_000
    }

    /// What a key has committed today and what of it is held or in doubt, in micro-USD.
    #[must_use]
    pub fn micros(&self, id: &str) -> (u64, u64) {
        let key = self.key(id);
        (key.committed_usd.as_u64(), key.held_usd.as_u64())
    }

    /// What of it is held or in doubt, in US cents.
    #[must_use]
    pub fn held_cents(&self, id: &str) -> u64 {
        self.key(id).held_usd.as_u64() / 10_000
    }

    /// Calls the admin API with the admin token and a JSON body, if any.
    #[must_use]
    pub fn operate(&self, line: &str, body: Option<&Value>) -> Reply {
        secrets::register_body(body);
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!("{line}\nAuthorization: Bearer {ADMIN_TOKEN}\nContent-Type: application/json");
        http::call(self.admin_address(), &head, body.as_bytes())
    }

    /// Issues a Stripe key through the admin API.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn issue_by_admin(&self, allowed_endpoints: &[&str], more: &Value) -> Issued {
        let issued = self.operate("POST /vault/keys", Some(&spec(allowed_endpoints, more))).expect(201);
        let text =
            |name: &str| issued[name].as_str().unwrap_or_else(|| panic!("no {name}: {issued}")).to_owned();
        Issued { text: text("vault_key"), id: text("id") }
    }

    /// The audit rows of a key, newest or oldest first as the admin process lists them.
    #[must_use]
    pub fn rows(&self, id: &str) -> Vec<Value> {
        let answer = self.operate(&format!("GET /audit?vault_key_id={id}&limit=1000"), None).expect(200);
        answer["rows"].as_array().unwrap_or_else(|| panic!("no rows: {answer}")).clone()
    }

    /// Waits until a key has so many audit rows.
    #[must_use]
    pub fn eventually_rows(&self, id: &str, count: usize) -> Vec<Value> {
        let rows = eventually(&format!("{count} audit rows of {id}"), || {
            let rows = self.rows(id);
            (rows.len() >= count).then_some(rows)
        });
        assert_eq!(rows.len(), count, "{rows:#?}");
        rows
    }

    /// Waits until every exchange's row is in the store.
    pub fn settle(&self) {
        eventually("all audit rows to be written", || {
            let control = self.control();
            let open =
                control.counter("keybrake_storage_queued") + control.counter("keybrake_storage_open_intents");
            (open == 0).then_some(())
        });
    }

    /// All that the processes wrote.
    ///
    /// # Panics
    /// When the files cannot be read.
    #[must_use]
    pub fn output(&self) -> String {
        let files = std::fs::read_dir(self.out()).unwrap().map(|entry| entry.unwrap().path());
        files.map(|path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()).collect()
    }
}

fn spec(allowed_endpoints: &[&str], more: &Value) -> Value {
    let mut spec = json!({ "vendor": "stripe", "allowed_endpoints": allowed_endpoints });
    if let Some(more) = more.as_object() {
        spec.as_object_mut().unwrap().extend(more.clone());
    }
    spec
}

/// `/dev/shm`, where it is there and a container has not made it tiny; else the disk of temporary files.
fn in_memory_or_temporary() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    match free_bytes(&memory) {
        Some(free) if free >= 1 << 30 => memory,
        _ => std::env::temp_dir(),
    }
}

fn free_bytes(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).ok()?;
    // SAFETY: all of its fields are integers, for which zeros are values.
    let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers are to a string that ends with a zero byte and to a live `statvfs`.
    let got = unsafe { libc::statvfs(path.as_ptr(), &raw mut space) };
    (got == 0).then(|| space.f_bavail * space.f_frsize)
}
