//! Starts the threads, waits for a signal, drains and stops them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use crossbeam_channel::{Receiver, Sender, bounded, select};
use keybrake_proto::config::{Config, Money};
use ring::rand::{SecureRandom as _, SystemRandom};
use signal_hook::consts::{SIGCONT, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use socket2::{Domain, Protocol, Socket, Type};

use crate::clock::Clock;
use crate::control::{self, Control};
use crate::journal::{self, Durability, Journal, Recovered};
use crate::lease::Lease;
use crate::mailbox::Mailbox;
use crate::marks::Marks;
use crate::metrics::Metrics;
use crate::progress::{self, AllProgress};
use crate::registry::KeyEntry;
use crate::resolve::Resolver;
use crate::rt::Kernel;
use crate::shard::{Common, Message};
use crate::state::{self, State};
use crate::storage::{self, StorageHandle, Store};
use crate::worker::Worker;

/// Connections the kernel holds for a listener before it is accepted.
const BACKLOG: i32 = 4096;

/// A process that was killed keeps its port until the kernel has taken its io_uring apart: 4 to 12 ms
/// measured. One that restarts at once waits for that.
const PORT_WAIT: Duration = Duration::from_secs(1);

/// Between two tries to bind.
const PORT_PAUSE: Duration = Duration::from_millis(20);

/// How long cut exchanges may take to record that they were cut.
const CUT_WAIT: Duration = Duration::from_secs(2);

/// Why the process ends with an error.
pub(crate) enum Failure {
    /// It could not start: a matter of configuration or of the machine.
    Start(anyhow::Error),
    /// It broke while running.
    Running(anyhow::Error),
}

/// Runs the dataplane until a signal.
pub(crate) fn run(config: Config) -> Result<(), Failure> {
    let running = Running::start(config).map_err(Failure::Start)?;
    running.wait().map_err(Failure::Running)
}

struct Running {
    config: Arc<Config>,
    control: Arc<Control>,
    storage: StorageHandle,
    ended: Receiver<io::Result<()>>,
    signals: Receiver<i32>,
}

impl Running {
    fn start(config: Config) -> anyhow::Result<Running> {
        let started = Instant::now();
        harden();
        raise_descriptor_limit();
        let signals = signals().context("signals cannot be handled")?;
        let config = Arc::new(config);
        let kernel = Kernel::choose(config.proxy.driver)
            .with_context(|| "proxy.driver: this kernel refuses io_uring; use \"auto\" or \"epoll\"")?;
        let workers = match config.proxy.workers {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            workers => workers,
        };
        let State { mut store, books, memory, objects, book, recovered, marks, boot, master, vendors, keys } =
            state::open(&config)?;
        let spent = keys.iter().map(|key| key.account.word().day).max().unwrap_or_default();
        let clock = Arc::new(Clock::open(&config.data.dir, spent)?);
        clock.start().context("the clock thread does not start")?;
        let (control_listener, all_keys) = open_control(&config, &mut store, &keys)?;
        let listeners = bind(config.proxy.listen, workers)
            .with_context(|| format!("proxy.listen {} cannot be used", config.proxy.listen))?;
        let proxy_listen = listeners.first().map_or(Ok(config.proxy.listen), TcpListener::local_addr)?;
        let lease = lease()?;
        let progress = progress::all(workers, |shard| recovered.last_of(shard));
        // The thread is waited for by `flush_and_stop`, which also reports.
        let (storage, _thread) = storage::start(store, books, Arc::clone(&progress))?;
        let starting = Starting(Some(storage.clone()));
        let common = Arc::new(Common {
            config: Arc::clone(&config),
            vendors: vendors.clone(),
            digester: master.digester(),
            resolver: Resolver::start().context("the resolver thread does not start")?,
            clock: Arc::clone(&clock),
            lease: lease.clone(),
            memory,
            objects,
            book,
        });
        let (ended_sender, ended) = bounded(workers);
        let mut control = Control {
            shards: Vec::new(),
            metrics: Vec::new(),
            storage: storage.clone(),
            clock,
            digester: master.digester(),
            master,
            lease,
            vendors: config.vendor_names(),
            upstreams: vendors,
            bounds: config.issue.clone(),
            proxy_listen: proxy_listen.to_string(),
            kernel,
            started,
            draining: AtomicBool::new(false),
            keys: all_keys,
            changes: Mutex::new(()),
            figures: control::Figures::default(),
        };
        let mailboxes = (0..workers).map(|_| Mailbox::new()).collect::<io::Result<Vec<_>>>()?;
        let journals = start_journals(&config, &mailboxes, &recovered, (&progress, marks), &storage, boot)?;
        let shards = listeners.into_iter().zip(mailboxes).zip(journals).enumerate();
        for (index, ((listener, mailbox), journal)) in shards {
            let worker = Places { index, kernel, listener, mailbox, journal };
            start_worker(worker, &common, &keys, &mut control, ended_sender.clone())?;
        }
        let control = Arc::new(control);
        control::start(control_listener, Arc::clone(&control))
            .context("the control thread does not start")?;
        control::start_doubts(Arc::clone(&control)).context("the doubts thread does not start")?;
        let workers_text = if workers == 1 { "1 worker".to_owned() } else { format!("{workers} workers") };
        eprintln!("keybrake-dataplane: agents at http://{proxy_listen}, {workers_text}, {}", kernel.as_str());
        starting.succeeded();
        Ok(Running { config, control, storage, ended, signals })
    }

    /// Waits for a signal, then drains: what runs is finished, what does not end in time is cut.
    fn wait(self) -> anyhow::Result<()> {
        select! {
            recv(self.signals) -> _ => {}
            recv(self.ended) -> result => {
                let error = result.map_err(io::Error::other).flatten().err();
                let reason = error.map_or("without a reason".to_owned(), |error| error.to_string());
                // The others end as well, so that nothing is sent whose record would be lost.
                self.control.draining.store(true, Ordering::Relaxed);
                self.post_all(|| Message::Drain);
                self.post_all(|| Message::Cut);
                self.wait_for_workers(CUT_WAIT, false);
                if let Err(error) = self.storage.flush_and_stop() {
                    eprintln!("keybrake-dataplane: {error}");
                }
                return Err(anyhow!("a worker ended: {reason}"));
            }
        }
        let drain = Duration::from_secs(self.config.proxy.drain_timeout_s);
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
        let stopped = self.storage.flush_and_stop().context("storage did not stop cleanly");
        eprintln!("keybrake-dataplane: stopped");
        stopped
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

/// What one worker is started with and no other.
struct Places {
    index: usize,
    kernel: Kernel,
    listener: TcpListener,
    mailbox: (Mailbox<Message>, UnixStream),
    journal: Journal,
}

fn start_worker(
    Places { index, kernel, listener, mailbox: (mailbox, wake), journal }: Places,
    common: &Arc<Common>,
    keys: &Arc<[Arc<KeyEntry>]>,
    control: &mut Control,
    ended: Sender<io::Result<()>>,
) -> anyhow::Result<()> {
    let metrics = Arc::new(Metrics::default());
    control.shards.push(mailbox.clone());
    control.metrics.push(Arc::clone(&metrics));
    // The channel has room for the end of each worker.
    let workers = ended.capacity().unwrap_or(1).max(1);
    let connections_max = common.config.proxy.connections_max.div_ceil(workers);
    let worker = Worker {
        index,
        kernel,
        common: Arc::clone(common),
        keys: Arc::clone(keys),
        listener,
        journal,
        metrics,
        mailbox,
        wake,
        run: random()?,
        connections_max: u64::try_from(connections_max)?,
        ended,
    };
    worker.start().context("a worker thread does not start")
}

/// The journals, whose news go to the shards' mailboxes.
fn start_journals(
    config: &Config,
    mailboxes: &[(Mailbox<Message>, UnixStream)],
    recovered: &Recovered,
    (progress, marks): (&AllProgress, Arc<Marks>),
    storage: &StorageHandle,
    boot: [u8; 16],
) -> anyhow::Result<Vec<Journal>> {
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
) -> anyhow::Result<(UnixListener, control::Keys)> {
    let socket = config.data.control_socket();
    let listener = control::bind(&socket)
        .with_context(|| format!("control socket {} cannot be used", socket.display()))?;
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

/// One listening socket a worker, all on one address; the kernel spreads connections over them.
fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    // Shared ports hide a second process on the same address, so one that is not shared comes first.
    let started = Instant::now();
    let probe = loop {
        match socket(address, false) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && started.elapsed() < PORT_WAIT => {
                crossbeam_channel::after(PORT_PAUSE).recv().map_err(io::Error::other)?;
            }
            done => break done?,
        }
    };
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    (0..workers)
        .map(|_| {
            let socket = socket(address, true)?;
            socket.listen(BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Signals as a channel, so that they can be waited for beside other things.
fn signals() -> io::Result<Receiver<i32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (sender, receiver): (Sender<i32>, _) = bounded(8);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            sender.try_send(signal).ok();
        }
    })?;
    Ok(receiver)
}

/// No core dump and no debugger of the same user sees the credential (rule S1).
fn harden() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`. A refusal leaves the limit as it was.
    let _ = unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    // SAFETY: PR_SET_DUMPABLE takes one integer and touches no memory.
    let _ = unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
}

/// As many descriptors as the system allows: one for each agent and each vendor connection.
fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which `getrlimit` fills in.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the pointer is to a live `rlimit`. A refusal leaves the limit as it was.
        let _ = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

fn random() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("the system gives no random bytes"))?;
    Ok(u64::from_le_bytes(bytes))
}
