//! A child process: its output in files, its end in our hands.

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::wait::{eventually, within};

/// How long a process may take to end after SIGTERM before it is killed.
const TERM_LIMIT: Duration = Duration::from_secs(10);

/// A running child, stopped when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with its output in `dir`, in files named after `name` and a number.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Process {
        let file = |kind: &str| {
            let free = |n: &u32| !dir.join(format!("{name}.{n}.{kind}")).exists();
            dir.join(format!("{name}.{}.{kind}", (1..).find(free).unwrap()))
        };
        let (stdout, stderr) = (file("stdout"), file("stderr"));
        let child = command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Process { name: name.to_owned(), child, stdout, stderr, status: None }
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// What it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    /// Waits until `is_ready`, and fails at once with what it wrote if the process ends before.
    ///
    /// # Panics
    /// When it is not ready in time.
    pub fn wait_until<T>(&mut self, what: &str, mut is_ready: impl FnMut(&Process) -> Option<T>) -> T {
        let event = format!("{} to be {what}", self.name);
        eventually(&event, || {
            if let Some(status) = self.ended() {
                panic!("{} ended with {status} before it was {what}:\n{}", self.name, self.stderr());
            }
            is_ready(self)
        })
    }

    /// Its exit status, if it has ended.
    ///
    /// # Panics
    /// When the kernel does not say.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status
    }

    /// Waits for its end; answers its exit code.
    ///
    /// # Panics
    /// When it does not end in time, or by a signal.
    pub fn exit_code(&mut self) -> i32 {
        let what = format!("the end of {}", self.name);
        let status = eventually(&what, || self.ended());
        status.code().unwrap_or_else(|| panic!("{} ended by signal {:?}", self.name, status.signal()))
    }

    /// Asks it to stop.
    pub fn terminate(&mut self) {
        self.signal(libc::SIGTERM);
    }

    /// Asks a supervisor to restart what it keeps.
    pub fn restart(&mut self) {
        self.signal(libc::SIGUSR2);
    }

    /// Asks it to read its configuration again.
    pub fn hang_up(&mut self) {
        self.signal(libc::SIGHUP);
    }

    /// Asks it to stop and waits until it has; answers its exit code.
    pub fn stop(&mut self) -> i32 {
        self.terminate();
        self.exit_code()
    }

    /// Ends it as a crash would.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill_9(&mut self) {
        self.signal(libc::SIGKILL);
        let what = format!("the end of {} after SIGKILL", self.name);
        eventually(&what, || self.ended());
    }

    /// Stops it where it is, until [`Process::go_on`]. When this returns no thread of it runs.
    ///
    /// # Panics
    /// When it does not stop.
    #[cfg(target_os = "linux")]
    pub fn freeze(&mut self) {
        self.signal(libc::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.pid());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let stat = std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            // Behind the name in parentheses.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        let what = format!("{} to stop", self.name);
        eventually(&what, || std::fs::read_dir(&tasks).unwrap().all(is_stopped).then_some(()));
    }

    /// Lets it go on after [`Process::freeze`].
    pub fn go_on(&mut self) {
        self.signal(libc::SIGCONT);
    }

    /// Whether it has ended, without taking note of its end: its process id stays its own.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.status.is_some() || task_states(self.pid()).iter().all(|state| matches!(state, 'Z' | 'X'))
    }

    fn signal(&mut self, signal: i32) {
        if self.ended().is_some() {
            return;
        }
        // The child was not waited for, so its id is still its own.
        send(self.child.id(), signal);
    }
}

/// One thread of a process, stopped while the others run; it goes on when this is dropped, which must happen on
/// the thread that made it.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub struct FrozenThread(libc::pid_t);

#[cfg(target_os = "linux")]
impl FrozenThread {
    /// Stops the thread called `name`. `None`, with a line on standard error, where this machine forbids it.
    ///
    /// # Panics
    /// When there is no such thread, or it does not stop.
    #[must_use]
    pub fn stop(process: &Process, name: &str) -> Option<FrozenThread> {
        let is_it =
            |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name);
        let tasks = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
        let task = tasks.map(|task| task.unwrap().path()).find(is_it);
        let task = task.unwrap_or_else(|| panic!("no thread {name}"));
        let thread: libc::pid_t = task.file_name().unwrap().to_str().unwrap().parse().unwrap();
        if ptrace(libc::PTRACE_SEIZE, thread) != 0 {
            eprintln!("not run: a thread cannot be stopped: {}", std::io::Error::last_os_error());
            return None;
        }
        let frozen = FrozenThread(thread);
        assert_eq!(ptrace(libc::PTRACE_INTERRUPT, thread), 0, "{}", std::io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: the pointer is to a live integer.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        assert!(waited == thread && libc::WIFSTOPPED(status), "{waited} {status}");
        Some(frozen)
    }
}

#[cfg(target_os = "linux")]
impl Drop for FrozenThread {
    fn drop(&mut self) {
        ptrace(libc::PTRACE_DETACH, self.0);
    }
}

#[cfg(target_os = "linux")]
fn ptrace(request: libc::c_uint, thread: libc::pid_t) -> libc::c_long {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: these requests read and write no memory of this process.
    unsafe { libc::ptrace(request, thread, none, none) }
}

/// What each thread of a process does, as the kernel's one letter; empty if there is no such process.
#[cfg(target_os = "linux")]
fn task_states(pid: u32) -> Vec<char> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let state = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).ok()?;
        // The command's name stands in parentheses and may hold anything.
        stat.rsplit_once(") ")?.1.chars().next()
    };
    tasks.flatten().filter_map(state).collect()
}

/// Makes a child end when the thread that starts it ends, also if that is killed: nothing stays behind.
#[cfg(target_os = "linux")]
pub(crate) fn tie(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: between fork and exec only the one system call is made, which takes no pointers.
    unsafe {
        command.pre_exec(|| {
            // SAFETY: as above.
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
}

/// Kills a process that a child of the test started.
///
/// # Panics
/// When there is none with this id.
pub fn kill_9(pid: u32) {
    send(pid, libc::SIGKILL);
}

fn send(pid: u32, signal: i32) {
    // SAFETY: `kill` takes no pointers.
    let sent = unsafe { libc::kill(libc::pid_t::try_from(pid).unwrap(), signal) };
    assert_eq!(sent, 0, "{pid}: {}", std::io::Error::last_os_error());
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.terminate();
            self.go_on();
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                within(TERM_LIMIT, "the end of a child", || self.ended())
            }));
            if ended.is_err() {
                self.kill_9();
            }
        }
        if std::thread::panicking() {
            eprintln!("--- stderr of {} ---\n{}---", self.name, self.stderr());
        }
    }
}

/// The path of one of this build's binaries, which stand beside the test's directory.
///
/// # Panics
/// When it was not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let mut dir = std::env::current_exe().unwrap();
    dir.pop();
    if dir.ends_with("deps") {
        dir.pop();
    }
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `make test`, or `make build` before `cargo test`",
        path.display()
    );
    path
}

/// The Python of a virtualenv that `scripts/setup.sh test` made.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn python(venv: &str) -> PathBuf {
    let venv = cache().join(venv);
    assert!(venv.join("stamp").exists(), "{} is missing: run `scripts/setup.sh test`", venv.display());
    venv.join("bin/python")
}

/// Where `scripts/setup.sh` installs what tests need.
pub(crate) fn cache() -> PathBuf {
    let home = || std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cache = || std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home().join(".cache"), PathBuf::from);
    std::env::var_os("KEYBRAKE_CACHE").map_or_else(|| cache().join("keybrake"), PathBuf::from)
}

/// Whether something accepts connections at `address`.
pub(crate) fn accepts(address: std::net::SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// How many files this process may open, raised as far as the kernel allows.
#[cfg(target_os = "linux")]
pub(crate) fn may_open() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which the kernel fills in.
    let got = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    // SAFETY: the pointer is to a live `rlimit`. A refusal leaves the limit as it was.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
    if set == 0 { limit.rlim_max } else { limit.rlim_cur }
}

/// The most files that a running process may open from now on; what is open stays open. Answers the limit before.
///
/// # Panics
/// When the kernel does not allow that.
#[cfg(target_os = "linux")]
#[must_use]
pub fn limit_descriptors(pid: u32, most: u64) -> u64 {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let pid = libc::pid_t::try_from(pid).unwrap();
    // SAFETY: the pointer is to a live `rlimit`, which the kernel fills in.
    let got = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &raw mut before) };
    let limit = libc::rlimit { rlim_cur: most, rlim_max: before.rlim_max };
    // SAFETY: the pointer is to a live `rlimit`.
    let set = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    assert_eq!((got, set), (0, 0), "{}", std::io::Error::last_os_error());
    before.rlim_cur
}

/// The memory a process holds, from `/proc`.
///
/// # Panics
/// When there is no such process.
#[cfg(target_os = "linux")]
#[must_use]
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}
