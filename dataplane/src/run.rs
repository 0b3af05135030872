//! Starts the threads, waits for a signal or for a process that takes over, drains and stops them.

mod doors;
#[expect(unsafe_code, reason = "limits of the process, which no safe interface sets")]
mod machine;
mod outlive;
mod workers;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use arc_swap::ArcSwap;
use crossbeam_channel::{Receiver, bounded, select};
use keybrake_proto::config::{Config, Money};
use signal_hook::consts::SIGCONT;

use self::doors::open_doors;
pub(crate) use self::machine::harden;
use self::machine::{prepare, say_what_is_short, signals, start_reloads};
use self::workers::{places, start_workers, worker_count};
use crate::clock::Clock;
use crate::control::{self, Asked, Control, Front, Reloads, Sealing};
use crate::hand_over::{self, Old};
use crate::heir::Left;
use crate::journal::{self, CommitterHandle, Durability, Journal, Recovered};
use crate::lease::Lease;
use crate::mailbox::Mailbox;
use crate::marks::Marks;
use crate::objects::Objects;
use crate::progress::{self, AllProgress};
use crate::registry::KeyEntry;
use crate::resolve::Resolver;
use crate::rt::{self, Kernel};
use crate::seal::MasterKey;
use crate::settings::Settings;
use crate::shard::{Common, Message};
use crate::source::Source;
use crate::state::{self, State};
use crate::storage::{self, Books, StorageHandle, Store};
use crate::take_over::{self, Predecessor};
use crate::tls::AgentTls;

/// How long cut exchanges may take to record that they were cut.
const CUT_WAIT: Duration = Duration::from_secs(2);

/// Why the process ends with an error.
pub(crate) enum Failure {
    /// It could not start: a matter of configuration or of the machine.
    Start(anyhow::Error),
    /// It broke while running.
    Running(anyhow::Error),
}

/// How a dataplane begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Alone: another one on the same data is an error.
    Alone,
    /// In the place of the one that runs, if any does (rule Q23).
    TakeOver,
}

/// Runs the dataplane until a signal, or until another one has taken over.
pub(crate) fn run(config: Config, source: Source, begin: Begin) -> Result<(), Failure> {
    let running = Running::start(config, source, begin).map_err(Failure::Start)?;
    running.wait().map_err(Failure::Running)
}

struct Running {
    config: Arc<Config>,
    control: Arc<Control>,
    front: Front,
    storage: StorageHandle,
    committer: CommitterHandle,
    marks: Arc<Marks>,
    objects: Arc<Objects>,
    ended: Receiver<io::Result<()>>,
    signals: Receiver<i32>,
    /// Processes that want to take over.
    asked: Receiver<Asked>,
}

impl Running {
    fn start(config: Config, source: Source, begin: Begin) -> anyhow::Result<Running> {
        let started = Instant::now();
        let limits = prepare(&config);
        let (signals, hang_ups) = signals().context("signals cannot be handled")?;
        let config = Arc::new(config);
        let kernel = choose_kernel(&config)?;
        let workers = worker_count(&config);
        let agent_tls = open_tls(&config)?;
        let mut predecessor = predecessor(&config, begin)?;
        let mut state = open_state(&config, predecessor.as_ref())?;
        let clock = start_clock(&config, &state.keys)?;
        let (control_listener, all_keys) =
            open_control(&config, &mut state.store, &state.keys, predecessor.as_ref())?;
        let doors = open_doors(config.proxy.listen, workers, predecessor.as_mut())
            .with_context(|| format!("proxy.listen {} cannot be used", config.proxy.listen))?;
        let (proxy_listen, lease) = (address(&doors, &config)?, lease()?);
        let left = Left::new(state.inherited.len());
        let progress = progress::all(workers, |shard| state.recovered.last_of(shard));
        let (storage, starting) = start_storage(state.store, state.books, &progress)?;
        let settings = Settings::new(Config::clone(&config), state.vendors, state.book);
        let common = Arc::new(Common {
            settings: Arc::clone(&settings),
            digester: state.master.digester(),
            resolver: Resolver::start().context("the resolver thread does not start")?,
            clock: Arc::clone(&clock),
            lease: lease.clone(),
            limits: Arc::clone(&limits),
            memory: state.memory,
            objects: Arc::clone(&state.objects),
            requests: Arc::clone(&state.requests),
            left: left.clone(),
            agent_tls: agent_tls.clone(),
        });
        let (asked_sender, asked) = bounded(1);
        let mut control = Control {
            shards: Vec::new(),
            metrics: Vec::new(),
            storage: storage.clone(),
            clock,
            digester: state.master.digester(),
            master: kept(state.master),
            data: config.data.clone(),
            sealing: Sealing::default(),
            lease: lease.clone(),
            settings: ArcSwap::new(settings),
            requests: state.requests,
            reloads: Reloads::new(source),
            limits,
            proxy_listen: proxy_listen.to_string(),
            kernel,
            started,
            draining: AtomicBool::new(false),
            keys: all_keys,
            changes: Mutex::new(()),
            figures: control::Figures::default(),
            asked: asked_sender,
            left,
            agent_tls,
        };
        let mailboxes: Vec<_> = (0..workers).map(|_| Mailbox::new()).collect::<io::Result<_>>()?;
        let of_marks = (&progress, Arc::clone(&state.marks));
        let (journals, committer) =
            start_journals(&config, &mailboxes, &state.recovered, of_marks, &storage, state.boot)?;
        let places = places(kernel, doors, mailboxes, journals, &state.inherited);
        let ended = start_workers(places, &common, &state.keys, &mut control)?;
        let control = Arc::new(control);
        let front = start_control(control_listener, &control, hang_ups)?;
        say_that_it_runs(&config, &control, predecessor)?;
        starting.succeeded();
        let (marks, objects) = (state.marks, state.objects);
        Ok(Running { config, control, front, storage, committer, marks, objects, ended, signals, asked })
    }

    /// Waits for a signal, then drains: what runs is finished, what does not end in time is cut. Or until another
    /// process has taken over and everything here has ended.
    fn wait(self) -> anyhow::Result<()> {
        loop {
            select! {
                recv(self.signals) -> _ => return self.drain(),
                recv(self.ended) -> result => return self.break_off(result.map_err(io::Error::other).flatten()),
                recv(self.asked) -> asked => {
                    if let Some(successor) = asked.ok().and_then(|asked| hand_over::hand_over(&self.old(), asked)) {
                        return self.outlive(successor);
                    }
                }
            }
        }
    }

    fn old(&self) -> Old<'_> {
        Old {
            config: &self.config,
            control: &self.control,
            front: &self.front,
            storage: &self.storage,
            committer: &self.committer,
            marks: &self.marks,
            objects: &self.objects,
        }
    }

    /// A worker ended by itself.
    fn break_off(self, result: io::Result<()>) -> anyhow::Result<()> {
        let reason = result.err().map_or("without a reason".to_owned(), |error| error.to_string());
        // The others end as well, so that nothing is sent whose record would be lost.
        self.control.draining.store(true, Ordering::Relaxed);
        self.post_all(|| Message::Drain);
        self.post_all(|| Message::Cut);
        self.wait_for_workers(CUT_WAIT, false);
        if let Err(error) = self.storage.flush_and_stop() {
            eprintln!("keybrake-dataplane: {error}");
        }
        Err(anyhow!("a worker ended: {reason}"))
    }

    fn drain(self) -> anyhow::Result<()> {
        let drain = self.drain_timeout();
        eprintln!(
            "keybrake-dataplane: stopping; running requests may take {} s, a second signal cuts them",
            drain.as_secs()
        );
        self.control.draining.store(true, Ordering::Relaxed);
        self.post_all(|| Message::Drain);
        if !self.wait_for_workers(drain, true) {
            self.post_all(|| Message::Cut);
            if !self.wait_for_workers(CUT_WAIT, false) {
                eprintln!("keybrake-dataplane: some requests did not end; their outcome is not recorded");
            }
        }
        if let Err(error) = self.control.clock.record() {
            eprintln!("keybrake-dataplane: clock: its record cannot be written: {error}");
        }
        // Before the store's lock is free: behind it the socket may be another process's.
        std::fs::remove_file(self.config.data.control_socket()).ok();
        if let Err(problem) = self.control.spool_owed(&self.config.data, CUT_WAIT) {
            eprintln!("keybrake-dataplane: {problem}");
        }
        let stopped = self.storage.flush_and_stop().context("storage did not stop cleanly");
        eprintln!("keybrake-dataplane: stopped");
        stopped
    }

    /// How long running exchanges may take to finish.
    fn drain_timeout(&self) -> Duration {
        Duration::from_secs(self.control.settings.load().config.proxy.drain_timeout_s)
    }

    fn post_all(&self, message: impl Fn() -> Message) {
        for shard in &self.control.shards {
            shard.post(message());
        }
    }

    /// Whether every worker ended in time; a signal ends the wait where `heed_signals`.
    fn wait_for_workers(&self, limit: Duration, heed_signals: bool) -> bool {
        let late = crossbeam_channel::after(limit);
        let never = crossbeam_channel::never();
        let signals = if heed_signals { &self.signals } else { &never };
        for _ in &self.control.shards {
            select! {
                recv(self.ended) -> _ => {}
                recv(late) -> _ => return false,
                recv(signals) -> _ => return false,
            }
        }
        true
    }
}

/// A start that has opened the store. One that fails closes it before the process ends: RocksDB's own
/// threads do not survive the end of `main`.
struct Starting(Option<StorageHandle>);

impl Starting {
    fn succeeded(mut self) {
        self.0 = None;
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(storage) = self.0.take() {
            // Nothing was served, so nothing can be lost.
            storage.flush_and_stop().ok();
        }
    }
}

fn start_storage(
    store: Store,
    books: Books,
    progress: &AllProgress,
) -> anyhow::Result<(StorageHandle, Starting)> {
    // The thread is waited for by `flush_and_stop`, which also reports.
    let (storage, _thread) = storage::start(store, books, Arc::clone(progress))?;
    let starting = Starting(Some(storage.clone()));
    Ok((storage, starting))
}

fn choose_kernel(config: &Config) -> anyhow::Result<Kernel> {
    Kernel::choose(config.proxy.driver)
        .context("proxy.driver: this kernel refuses io_uring; use \"auto\" or \"epoll\"")
}

/// The last run's state, with what another process still runs.
fn open_state(config: &Config, before: Option<&Predecessor>) -> anyhow::Result<State> {
    let mut state = state::open(config, |intent| before.is_some_and(|before| before.runs(intent)))?;
    state.claim(before.map_or(&[], |before| &before.acts_on));
    Ok(state)
}

/// The master key, where it is not swapped to disk.
fn kept(master: MasterKey) -> Arc<ArcSwap<MasterKey>> {
    let master = Arc::new(master);
    rt::keep_in_memory(&*master);
    Arc::new(ArcSwap::new(master))
}

/// Tells the operator, and the process before.
fn say_that_it_runs(
    config: &Config,
    control: &Control,
    predecessor: Option<Predecessor>,
) -> anyhow::Result<()> {
    say_what_is_short(config, &control.limits);
    let (address, scheme, kernel) = (&control.proxy_listen, config.proxy.scheme(), control.kernel.as_str());
    let workers = match control.shards.len() {
        1 => "1 worker".to_owned(),
        workers => format!("{workers} workers"),
    };
    eprintln!("keybrake-dataplane: agents at {scheme}://{address}, {workers}, {kernel}");
    if config.proxy.is_open_to_readers() {
        eprintln!(
            "keybrake-dataplane: WARNING: vault keys cross the network to {address} in the clear; set [proxy.tls], or \
             listen on loopback"
        );
    }
    let heard = predecessor.map(|it| it.say_that_this_one_admits(&control.lease, control.shards.clone()));
    heard.transpose().context("the predecessor thread does not start").map(drop)
}

/// The certificate that agents are shown, and the thread that looks after it.
fn open_tls(config: &Config) -> anyhow::Result<Option<Arc<AgentTls>>> {
    let Some(files) = &config.proxy.tls else { return Ok(None) };
    let tls = AgentTls::load(files).context("proxy.tls")?;
    tls.watch().context("the certificate thread does not start")?;
    Ok(Some(tls))
}

/// The journals, whose news go to the shards' mailboxes.
fn start_journals(
    config: &Config,
    mailboxes: &[(Mailbox<Message>, UnixStream)],
    recovered: &Recovered,
    (progress, marks): (&AllProgress, Arc<Marks>),
    storage: &StorageHandle,
    boot: [u8; 16],
) -> anyhow::Result<(Vec<Journal>, CommitterHandle)> {
    let dir = config.data.journal_dir();
    let cannot = || format!("the journals in {} cannot be written", dir.display());
    let place = journal::Place {
        directory: journal::Directory::open(&dir).with_context(cannot)?,
        durability: durability(config.durability.money)?,
        segment_bytes: config.data.journal_segment_bytes,
        segments_max: config.data.journal_segments_max,
        boot,
    };
    let notify = mailboxes.iter().map(|(mailbox, _)| {
        let mailbox = mailbox.clone();
        let notify: Box<dyn Fn(journal::Event) + Send> =
            Box::new(move |event| mailbox.post(Message::Journal(event)));
        notify
    });
    journal::start(&place, recovered, progress, Some(marks), storage, notify.collect()).with_context(cannot)
}

fn durability(money: Money) -> anyhow::Result<Durability> {
    match money {
        Money::Fsync => Ok(Durability::PowerLoss),
        Money::Process => Ok(Durability::Process),
        Money::Off if std::env::var_os("KEYBRAKE_BENCH").is_some() => Ok(Durability::Off),
        Money::Off => Err(anyhow!(
            "durability.money: \"off\" forgets money at a crash and is for benchmarks; use \"fsync\" or \"process\""
        )),
    }
}

/// The control socket and the table of keys. Orders to revoke have a place from here on, and those from
/// before are in force before agents connect (rule Q22).
fn open_control(
    config: &Config,
    store: &mut Store,
    keys: &[Arc<KeyEntry>],
    predecessor: Option<&Predecessor>,
) -> anyhow::Result<(UnixListener, control::Keys)> {
    let socket = config.data.control_socket();
    let listener = match predecessor {
        // Who has connected since the old one stopped waits in it.
        Some(before) => before.control.try_clone(),
        None => control::bind(&socket),
    };
    let listener = listener.with_context(|| format!("control socket {} cannot be used", socket.display()))?;
    let keys = control::Keys::new(keys);
    control::carry_out(&listener, &config.data, store, &keys)?;
    Ok((listener, keys))
}

/// A lease that also SIGCONT voids: it tells stops that are too short to be seen in its age.
fn lease() -> anyhow::Result<Lease> {
    let lease = Lease::new();
    let registered = signal_hook::flag::register_usize(SIGCONT, lease.cell(), Lease::voided());
    registered.context("SIGCONT cannot be handled")?;
    Ok(lease)
}

/// The dataplane that runs, once it has given up its place; `None`: this one starts alone.
fn predecessor(config: &Config, begin: Begin) -> anyhow::Result<Option<Predecessor>> {
    match begin {
        Begin::Alone => Ok(None),
        Begin::TakeOver => {
            // What is wrong with this start must be known before the other one stops.
            state::rehearse(config)?;
            take_over::ask(config)
        }
    }
}

/// Where agents connect: a port of 0 is chosen when it is bound.
fn address(doors: &[Vec<TcpListener>], config: &Config) -> io::Result<SocketAddr> {
    doors.iter().flatten().next().map_or(Ok(config.proxy.listen), TcpListener::local_addr)
}

fn start_clock(config: &Config, keys: &[Arc<KeyEntry>]) -> anyhow::Result<Arc<Clock>> {
    let spent = keys.iter().map(|key| key.account.word().day).max().unwrap_or_default();
    let clock = Arc::new(Clock::open(&config.data.dir, spent)?);
    clock.start().context("the clock thread does not start")?;
    Ok(clock)
}

/// The threads that carry out orders, book doubts when their hour is over, and read the configuration again.
fn start_control(
    listener: UnixListener,
    control: &Arc<Control>,
    hang_ups: Receiver<i32>,
) -> anyhow::Result<Front> {
    let front = control::start(listener, Arc::clone(control)).context("the control thread does not start")?;
    control::start_doubts(Arc::clone(control)).context("the doubts thread does not start")?;
    start_reloads(control, hang_ups)?;
    Ok(front)
}
