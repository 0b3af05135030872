//! `keybrake up`: starts the dataplane and the admin process, keeps both running, stops both.
//!
//! Children have process groups of their own, so a terminal's Ctrl-C reaches the supervisor alone,
//! which then stops them in order. `kill -9` of the supervisor leaves them running: telling the
//! kernel to end them as well would take unsafe code between fork and exec.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use keybrake_proto::config::Config;
use rustix::process::{self, Pid, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::config;
use crate::failure::{Failure, STATUS_SETUP};
use crate::token::TOKEN_ENV;

/// The wait before the first restart; each further one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(500);

/// The longest wait before a restart.
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// A child that ran this long starts over with [`BACKOFF_MIN`].
const STEADY_AFTER: Duration = Duration::from_secs(30);

/// What a child gets beyond `proxy.drain_timeout_s` before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// How long a child may take until it listens for signals; before, a SIGHUP would end it.
const CHILD_LISTENS_WITHIN: Duration = Duration::from_secs(1);

/// The name of the other executable.
const DATAPLANE: &str = "keybrake-dataplane";

/// What a child's keeper is told. Later ones go further, never back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    /// Keep it running.
    Run,
    /// SIGTERM, and SIGKILL when it takes too long.
    Stop,
    /// SIGKILL.
    Kill,
}

/// A child as it is started, each time anew.
struct Program {
    name: &'static str,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    /// What it may take beyond [`GRACE`] is in the configuration, which may have changed since.
    stop_within: Box<dyn Fn() -> Duration + Send + Sync>,
    restart: Restart,
    /// Counts the wishes that it reads its configuration again.
    reloads: watch::Receiver<u64>,
}

/// How a child makes way for the next one of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Restart {
    /// The next one is started beside it, with this argument, and takes over; then it ends by itself.
    TakeOver(&'static str),
    /// It ends, and the next one is started.
    OneBehindTheOther,
}

/// Counts the restarts that were asked for; those that came while one was under way are one.
type Restarts = watch::Receiver<u64>;

/// Why a child is not kept running, although nobody asked for its end.
#[derive(Debug, PartialEq, Eq)]
enum Hopeless {
    /// It ended with this status at its first start: the configuration or the machine has to change.
    CannotStart(u8),
    /// It could not be executed.
    NotFound(String),
}

/// Supervises both processes until SIGTERM or SIGINT; at SIGUSR2 it restarts both, SIGHUP it passes on.
pub(crate) fn up(path: &Path, config: &Config) -> Result<ExitCode, Failure> {
    // Its environment holds the vendors' credentials.
    crate::api::no_core_dump();
    let own = std::env::current_exe()
        .map_err(|error| Failure::setup(format_args!("cannot find this program's own file: {error}")))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::setup(format_args!("cannot start: {error}")))?;
    runtime.block_on(async {
        let ((signals, reloads), restarts) = (signals()?, restart_signals()?);
        let programs = [dataplane(&own, path, config, reloads.clone()), admin(own, path, config, reloads)];
        supervise(programs, signals, restarts).await
    })
}

/// The dataplane, beside this program or else in PATH. It has no use for the operator's token.
fn dataplane(own: &Path, path: &Path, config: &Config, reloads: watch::Receiver<u64>) -> Program {
    let stop_within = stop_within(path, config);
    let beside = own.with_file_name(DATAPLANE);
    let executable = if beside.is_file() { beside } else { PathBuf::from(DATAPLANE) };
    let path = path.to_owned();
    let command = move || {
        let mut command = Command::new(&executable);
        command.arg("--config").arg(&path).env_remove(TOKEN_ENV);
        command
    };
    let restart = Restart::TakeOver("--take-over");
    Program { name: DATAPLANE, command: Box::new(command), stop_within, restart, reloads }
}

/// The admin process, without the vendors' credentials and without master keys (rule Q27).
fn admin(own: PathBuf, path: &Path, config: &Config, reloads: watch::Receiver<u64>) -> Program {
    let stop_within = stop_within(path, config);
    let path = path.to_owned();
    let at_start = secrets(config);
    let command = move || {
        let mut command = Command::new(&own);
        command.arg("admin").arg("--config").arg(&path);
        // A vendor may have been added since.
        let now = config::try_load(&path).map(|config| secrets(&config)).unwrap_or_default();
        for secret in at_start.iter().chain(&now) {
            command.env_remove(secret);
        }
        command
    };
    let restart = Restart::OneBehindTheOther;
    Program { name: "keybrake admin", command: Box::new(command), stop_within, restart, reloads }
}

/// The variables that hold vendors' credentials.
fn secrets(config: &Config) -> Vec<String> {
    let credentials = config.vendors.iter().filter_map(|vendor| vendor.credential_env.as_ref());
    credentials.chain(config.data.master_key_variables()).cloned().collect()
}

/// How long a child may take to end: by the configuration of the start or that of now, whichever allows more.
fn stop_within(path: &Path, config: &Config) -> Box<dyn Fn() -> Duration + Send + Sync> {
    let (path, at_start) = (path.to_owned(), config.proxy.drain_timeout_s);
    Box::new(move || {
        let now = config::try_load(&path).map(|config| config.proxy.drain_timeout_s).unwrap_or_default();
        Duration::from_secs(at_start.max(now)).saturating_add(GRACE)
    })
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::setup(format_args!("cannot listen for signals: {error}")))
}

/// Each SIGUSR2 asks for a restart.
fn restart_signals() -> Result<Restarts, Failure> {
    let mut again = listen(SignalKind::user_defined2())?;
    let (asked, restarts) = watch::channel(0_u64);
    tokio::spawn(async move {
        while again.recv().await.is_some() && !asked.is_closed() {
            asked.send_modify(|count| *count = count.wrapping_add(1));
        }
    });
    Ok(restarts)
}

/// The orders that this process's signals mean: the first one stops, a second SIGINT kills. SIGHUPs are counted: the
/// children read their configuration again.
fn signals() -> Result<(watch::Receiver<Order>, watch::Receiver<u64>), Failure> {
    let mut terminate = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let had_terminal = has_terminal();
    let mut hang_up = listen(SignalKind::hangup())?;
    let (orders, ordered) = watch::channel(Order::Run);
    let (reload, reloads) = watch::channel(0_u64);
    tokio::spawn(async move {
        loop {
            let order = tokio::select! {
                _ = terminate.recv() => Order::Stop,
                // A closed terminal: without this the children would outlive who started them.
                _ = hang_up.recv() => if had_terminal && !has_terminal() {
                    Order::Stop
                } else {
                    reload.send_modify(|count| *count = count.wrapping_add(1));
                    continue;
                },
                _ = interrupt.recv() => {
                    if *orders.borrow() == Order::Run { Order::Stop } else { Order::Kill }
                }
                () = orders.closed() => return,
            };
            orders.send_modify(|current| *current = order.max(*current));
        }
    });
    Ok((ordered, reloads))
}

/// Whether there is a terminal that can be closed.
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

/// Waits until `orders` say `wanted` or more. Where nobody can order anything any more, that is an
/// end as well.
async fn reaches(orders: &mut watch::Receiver<Order>, wanted: Order) {
    if orders.wait_for(|order| *order >= wanted).await.is_err() {
        eprintln!("keybrake: the supervisor's signals are lost; stopping");
    }
}

/// One child's keeper and the way to order it.
struct Kept {
    orders: watch::Sender<Order>,
    keeper: JoinHandle<Result<(), Hopeless>>,
}

impl Kept {
    /// Keeps a child and restarts it when `restarts` ask for it; `restarted` is told of each time.
    fn start(program: Program, restarts: Restarts, restarted: watch::Sender<u64>) -> Kept {
        let (orders, ordered) = watch::channel(Order::Run);
        Kept { orders, keeper: tokio::spawn(keep(program, ordered, restarts, restarted)) }
    }

    /// Orders the child's end and waits for it; a kill asked for meanwhile is passed on.
    async fn stop(&mut self, signals: &mut watch::Receiver<Order>) {
        // The keeper may have ended before: then nobody is there to take the order.
        self.orders.send_replace(Order::Stop);
        let mut killed = false;
        while !self.keeper.is_finished() {
            tokio::select! {
                _ = &mut self.keeper => return,
                () = reaches(signals, Order::Kill), if !killed => {
                    killed = true;
                    self.orders.send_replace(Order::Kill);
                }
            }
        }
    }
}

/// Runs both children until `signals` asks for their end or one of them cannot start.
async fn supervise(
    [dataplane, admin]: [Program; 2],
    mut signals: watch::Receiver<Order>,
    restarts: Restarts,
) -> Result<ExitCode, Failure> {
    // The admin process follows a dataplane that was restarted, so that both are of one version.
    let (taken_over, admin_restarts) = watch::channel(0);
    let mut dataplane = Kept::start(dataplane, restarts, taken_over);
    let mut admin = Kept::start(admin, admin_restarts, watch::channel(0).0);
    let ended = tokio::select! {
        () = reaches(&mut signals, Order::Stop) => None,
        ended = &mut dataplane.keeper => Some(ended),
        ended = &mut admin.keeper => Some(ended),
    };
    // In this order operators can watch and revoke until the last exchange has ended.
    dataplane.stop(&mut signals).await;
    admin.stop(&mut signals).await;
    match ended {
        None | Some(Ok(Ok(()))) => Ok(ExitCode::SUCCESS),
        // The child has said why.
        Some(Ok(Err(Hopeless::CannotStart(status)))) => Ok(ExitCode::from(status)),
        Some(Ok(Err(Hopeless::NotFound(problem)))) => Err(Failure::setup(problem)),
        Some(Err(error)) => Err(Failure::operation(error)),
    }
}

/// Keeps one child running until it is ordered to end.
async fn keep(
    program: Program,
    mut orders: watch::Receiver<Order>,
    mut restarts: Restarts,
    restarted: watch::Sender<u64>,
) -> Result<(), Hopeless> {
    let mut backoff = BACKOFF_MIN;
    let mut is_first = true;
    loop {
        let (ended, ran_for) = match spawn(&program, &[]) {
            Err(error) if is_first => return Err(Hopeless::NotFound(not_started(&program, &error))),
            Err(error) => (Ended::NotStarted(error), Duration::ZERO),
            Ok(child) => match live(&program, child, &mut orders, &mut restarts, &restarted).await {
                Some(ended) => ended,
                None => return Ok(()),
            },
        };
        if let (true, Ended::Status(status)) = (is_first, &ended)
            && status.code() == Some(i32::from(STATUS_SETUP))
        {
            return Err(Hopeless::CannotStart(STATUS_SETUP));
        }
        is_first = false;
        if ran_for >= STEADY_AFTER {
            backoff = BACKOFF_MIN;
        }
        eprintln!("keybrake: {} {ended}; starting it again in {} s", program.name, backoff.as_secs_f32());
        tokio::select! {
            () = sleep(backoff) => {}
            () = reaches(&mut orders, Order::Stop) => return Ok(()),
        }
        backoff = backoff.saturating_mul(2).min(BACKOFF_MAX);
    }
}

/// Watches a child, and those that take its place, until one ends by itself: how, and how long that one ran.
/// `None`: it was ordered to end, and has.
async fn live(
    program: &Program,
    mut child: Child,
    orders: &mut watch::Receiver<Order>,
    restarts: &mut Restarts,
    restarted: &watch::Sender<u64>,
) -> Option<(Ended, Duration)> {
    let mut started = Instant::now();
    let mut reloads = program.reloads.clone();
    // One that starts now reads the configuration anyway.
    reloads.mark_unchanged();
    loop {
        let id = child.id();
        tokio::select! {
            ended = child.wait() => return Some((Ended::from(ended), started.elapsed())),
            () = reaches(orders, Order::Stop) => {
                stop(program, child, orders.clone()).await;
                return None;
            }
            () = asked(restarts) => {}
            () = pass_on(program, id, &mut reloads, started) => continue,
        }
        child = match program.restart {
            Restart::TakeOver(argument) => take_over(program, child, argument, orders).await?,
            Restart::OneBehindTheOther => {
                stop(program, child, orders.clone()).await;
                match spawn(program, &[]) {
                    Ok(next) => next,
                    Err(error) => return Some((Ended::NotStarted(error), Duration::ZERO)),
                }
            }
        };
        if child.id() != id {
            started = Instant::now();
            restarted.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

/// Waits for the next restart that is asked for, for ever where nobody can ask any more.
async fn asked(restarts: &mut Restarts) {
    if restarts.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Waits for the next wish that the configuration is read again, and tells the child.
async fn pass_on(program: &Program, id: Option<u32>, reloads: &mut Restarts, started: Instant) {
    asked(reloads).await;
    sleep(CHILD_LISTENS_WITHIN.saturating_sub(started.elapsed())).await;
    // Not reaped yet, so the id is still the child's.
    if let Some(pid) = pid(id)
        && let Err(error) = kill_process(pid, process::Signal::HUP)
    {
        eprintln!("keybrake: cannot tell {} to read its configuration: {error}", program.name);
    }
}

fn pid(id: Option<u32>) -> Option<Pid> {
    id.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw)
}

/// Starts the next child beside `old`, with the argument that makes it take over; gives the one that runs then.
/// `None`: both were ordered to end, and have.
async fn take_over(
    program: &Program,
    mut old: Child,
    argument: &str,
    orders: &mut watch::Receiver<Order>,
) -> Option<Child> {
    eprintln!("keybrake: restarting {}", program.name);
    let mut next = match spawn(program, &[argument]) {
        Ok(next) => next,
        Err(error) => {
            eprintln!("keybrake: {} is not restarted: {}", program.name, not_started(program, &error));
            return Some(old);
        }
    };
    tokio::select! {
        // It has said why. An old one that has given up its place already ends as well, and is started again.
        ended = next.wait() => {
            eprintln!("keybrake: {} is not restarted: the new one {}", program.name, Ended::from(ended));
            Some(old)
        }
        ended = old.wait() => {
            let ended = Ended::from(ended);
            if !matches!(ended, Ended::Status(status) if status.success()) {
                eprintln!("keybrake: the old {} {ended}", program.name);
            }
            Some(next)
        }
        () = reaches(orders, Order::Stop) => {
            tokio::join!(stop(program, old, orders.clone()), stop(program, next, orders.clone()));
            None
        }
    }
}

/// How a child came to be away.
enum Ended {
    Status(ExitStatus),
    NotStarted(io::Error),
}

impl From<io::Result<ExitStatus>> for Ended {
    fn from(ended: io::Result<ExitStatus>) -> Ended {
        ended.map_or_else(Ended::NotStarted, Ended::Status)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Status(status) => write!(f, "ended ({status})"),
            Ended::NotStarted(error) => write!(f, "cannot be started ({error})"),
        }
    }
}

fn not_started(program: &Program, error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        return format!(
            "{} is neither beside this program nor in PATH; install both executables into one directory",
            program.name
        );
    }
    format!("cannot start {}: {error}", program.name)
}

fn spawn(program: &Program, more: &[&str]) -> io::Result<Child> {
    let mut command = (program.command)();
    command.args(more);
    // Output goes straight through. What keeps a child ends it: the runtime's end kills.
    command.stdin(Stdio::null()).process_group(0).kill_on_drop(true).spawn()
}

/// Ends a child: SIGTERM, then SIGKILL when it takes longer than it may or when that is ordered.
async fn stop(program: &Program, mut child: Child, mut orders: watch::Receiver<Order>) {
    // Not reaped yet, so the id is still the child's.
    if let Some(pid) = pid(child.id())
        && let Err(error) = kill_process(pid, process::Signal::TERM)
    {
        eprintln!("keybrake: cannot stop {}: {error}", program.name);
    }
    let late = tokio::select! {
        ended = timeout((program.stop_within)(), child.wait()) => ended.is_err(),
        () = reaches(&mut orders, Order::Kill) => true,
    };
    if late {
        eprintln!("keybrake: killing {}, which has not ended yet", program.name);
        if let Err(error) = child.kill().await {
            eprintln!("keybrake: cannot kill {}: {error}", program.name);
        }
    }
}

#[cfg(test)]
mod tests;
