//! The state one worker owns. Other threads reach it through its mailbox only.

mod message;

pub(crate) use message::{Ack, Message, PassedOn};

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use futures_channel::oneshot;
use keybrake_proto::handover::Parting;
use keybrake_proto::key::KeyId;
use keybrake_proto::time::{Day, UnixMicros};

use crate::clock::{self, Clock};
use crate::deadline::{Deadlines, TICK, TICKS_PER_SECOND};
use crate::heir::{Heir, Inherited, Left};
use crate::idempotency::Memory;
use crate::in_flight::{AtVendor, InFlight, InForce};
use crate::journal::Journal;
use crate::lease::{self, Lease};
use crate::limits::Limits;
use crate::mailbox::Mailbox;
use crate::metrics::Metrics;
use crate::objects::Objects;
use crate::pacing::{Pacer, Turn};
use crate::pool::{Pool, VendorConnection};
use crate::registry::{KeyEntry, Registry};
use crate::requests::{Requests, Tally};
use crate::resolve::ResolverHandle;
use crate::rt::{self, Listener};
use crate::seal::KeyDigester;
use crate::settings::{Current, Settings};
use crate::tls::AgentTls;

/// How long after a hand-over a connection may bring a request, to be told to come again.
const IDLE_TICKS: u64 = TICKS_PER_SECOND;

/// Whether a shard takes requests, and what becomes of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It does.
    Admits,
    /// It does not for now: another process wants to take over.
    Pauses,
    /// Another process does.
    HandedOver,
    /// The process is stopping.
    Drains,
}

/// Why there is no connection to a vendor.
#[derive(Debug)]
pub(crate) enum NotConnected {
    /// It cannot be opened.
    Failed(io::Error),
    /// The key was closed meanwhile.
    Closed,
    /// Another process takes over.
    Draining,
}

/// What every shard is made from.
pub(crate) struct Common {
    pub(crate) settings: Arc<Settings>,
    pub(crate) digester: KeyDigester,
    pub(crate) resolver: ResolverHandle,
    pub(crate) clock: Arc<Clock>,
    pub(crate) lease: Lease,
    pub(crate) limits: Arc<Limits>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) requests: Arc<Requests>,
    pub(crate) objects: Arc<Objects>,
    /// What the process before still runs.
    pub(crate) left: Left,
    /// Absent: agents connect with plain HTTP.
    pub(crate) agent_tls: Option<Arc<AgentTls>>,
}

/// One worker's state.
pub(crate) struct Shard {
    /// What the configuration says, for the next request.
    current: RefCell<Rc<Current>>,
    pub(crate) registry: RefCell<Registry>,
    pub(crate) in_flight: Rc<InFlight>,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) journal: Rc<Journal>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) digester: KeyDigester,
    pub(crate) clock: Arc<Clock>,
    /// What repeats of a request find.
    pub(crate) memory: Arc<Memory>,
    /// The installation's requests of the month.
    pub(crate) tally: Rc<Tally>,
    /// What keys counted for the vendor's objects.
    pub(crate) objects: Arc<Objects>,
    /// What agents' connections begin with, if that is TLS.
    pub(crate) agent_tls: Option<Arc<AgentTls>>,
    lease: Lease,
    resolver: ResolverHandle,
    mailbox: Mailbox<Message>,
    /// Makes request ids of this shard and this run unlike all others.
    run: u64,
    requests: Cell<u64>,
    sampled_second: Cell<u64>,
    complained_second: Cell<u64>,
    stage: Cell<Stage>,
    /// Ticks since the hand-over.
    handed_over: Cell<u64>,
    /// Where agents connect, until another process has them.
    doors: RefCell<Vec<Rc<Listener>>>,
    /// Of these the ones that are not given up yet.
    accepting: Cell<usize>,
    /// Exchanges of the process before.
    pub(crate) heir: Heir,
}

impl Shard {
    /// A shard that knows `keys` and has `inherited` exchanges of the process before; `run` is random.
    pub(crate) fn new(
        common: &Common,
        (keys, inherited): (&[Arc<KeyEntry>], &[Inherited]),
        metrics: Arc<Metrics>,
        mailbox: Mailbox<Message>,
        journal: Journal,
        run: u64,
    ) -> Rc<Shard> {
        let mut registry = Registry::default();
        for entry in keys {
            registry.insert(Arc::clone(entry));
        }
        let journal = Rc::new(journal);
        let most = common.settings.config.requests.monthly_max;
        let tally = Rc::new(Tally::new(Arc::clone(&common.requests), most));
        let heir = Heir::new(&journal, &common.memory, &tally, inherited, common.left.clone());
        let deadlines = Rc::<Deadlines>::default();
        let shard = Shard {
            current: RefCell::new(Rc::new(Current::new(Arc::clone(&common.settings)))),
            registry: RefCell::new(registry),
            in_flight: Rc::new(InFlight::new(Rc::clone(&deadlines))),
            deadlines,
            journal,
            metrics,
            limits: Arc::clone(&common.limits),
            digester: common.digester.clone(),
            clock: Arc::clone(&common.clock),
            memory: Arc::clone(&common.memory),
            tally,
            objects: Arc::clone(&common.objects),
            agent_tls: common.agent_tls.clone(),
            lease: common.lease.clone(),
            resolver: common.resolver.clone(),
            mailbox,
            run,
            requests: Cell::new(0),
            sampled_second: Cell::new(0),
            complained_second: Cell::new(0),
            stage: Cell::new(Stage::Admits),
            handed_over: Cell::new(0),
            doors: RefCell::default(),
            accepting: Cell::new(0),
            heir,
        };
        Rc::new(shard)
    }

    /// Obeys every message there is: once per loop turn, and before each first byte.
    pub(crate) fn obey(&self) {
        while let Some(message) = self.mailbox.take() {
            match message {
                Message::Add { entry, ack } => {
                    self.registry.borrow_mut().insert(entry);
                    ack.send(InForce { at_vendor: 0, cut: 0, at: Instant::now() });
                }
                Message::Revoked { keys, at_vendor, ack } => {
                    self.in_flight.acknowledge(keys, at_vendor, move |in_force| ack.send(in_force));
                }
                Message::Changed { keys, ack } => {
                    self.in_flight.acknowledge(keys, AtVendor::Wait, move |in_force| ack.send(in_force));
                }
                Message::Rotated { ack } => {
                    self.current().pools.iter().for_each(|pool| pool.drop_stale());
                    self.in_flight.acknowledge_all(move |in_force| ack.send(in_force));
                }
                Message::Reloaded { settings, ack } => {
                    self.tally.set(settings.config.requests.monthly_max);
                    let renewed = self.current().renewed(settings);
                    // With another quota a credential is another one, whose connections are its own.
                    renewed.pools.iter().for_each(|pool| pool.drop_stale());
                    *self.current.borrow_mut() = Rc::new(renewed);
                    ack.send(InForce { at_vendor: 0, cut: 0, at: Instant::now() });
                }
                // The exchange may have given up.
                Message::Resolved { answer, waiting } => {
                    waiting.send(answer).ok();
                }
                Message::Turn { turn, waiting } => {
                    waiting.send(turn).ok();
                }
                Message::Journal(event) => self.journal.obey(event),
                Message::Pause(ack) => self.pause(ack),
                Message::Resume => self.resume(),
                Message::PassOn { successor, ack } => self.pass_on(successor, &ack),
                Message::Parting(body) => {
                    // Bytes of another version would have been refused before the hand-over.
                    if let Ok(parting) = Parting::decode(&body) {
                        self.heir.obey(self.today(), &parting);
                        if let Parting::Counted { key, object, counted, .. } = parting {
                            self.objects.put(key, object, counted);
                        }
                    }
                }
                Message::Forsaken => self.heir.forsake(),
                Message::Drain => self.begin_drain(),
                Message::Cut => {
                    self.deadlines.cut_all();
                    self.heir.forsake();
                }
            }
        }
    }

    /// What the configuration says now. A request asks once, so that it sees one configuration to its end.
    pub(crate) fn current(&self) -> Rc<Current> {
        Rc::clone(&self.current.borrow())
    }

    /// Whether the shard may wait; `false` while messages are there.
    pub(crate) fn may_sleep(&self) -> bool {
        self.mailbox.fall_asleep()
    }

    /// Whether nothing is admitted.
    pub(crate) fn is_draining(&self) -> bool {
        self.stage.get() != Stage::Admits
    }

    /// What becomes of agents' connections.
    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// Whether another process takes over, so that nothing is sent from here any more.
    pub(crate) fn is_handing_over(&self) -> bool {
        matches!(self.stage.get(), Stage::Pauses | Stage::HandedOver)
    }

    /// Whether a connection without a request is closed. After a hand-over it may first bring one more, so that the
    /// agent gets an answer to what it may have sent already.
    pub(crate) fn closes_idle(&self) -> bool {
        match self.stage.get() {
            Stage::Admits | Stage::Pauses => false,
            Stage::HandedOver => self.handed_over.get() >= IDLE_TICKS,
            Stage::Drains => true,
        }
    }

    /// Agents connect there too.
    pub(crate) fn open_door(&self, door: &Rc<Listener>) {
        self.doors.borrow_mut().push(Rc::clone(door));
        self.accepting.set(self.accepting.get().saturating_add(1));
    }

    /// Nobody is accepted there any more.
    pub(crate) fn door_is_given_up(&self) {
        self.accepting.set(self.accepting.get().saturating_sub(1));
    }

    /// Whether nothing of this shard runs or is to come.
    pub(crate) fn is_done(&self) -> bool {
        self.is_draining()
            && self.accepting.get() == 0
            && self.metrics.connections.read() == 0
            && self.heir.is_empty()
            && self.journal.finish()
    }

    /// Ten times a second: deadlines, late records, unused connections.
    pub(crate) fn tick(&self) {
        self.deadlines.tick();
        self.in_flight.tick();
        self.journal.tick();
        self.limits.tick();
        if self.stage.get() == Stage::HandedOver {
            self.handed_over.set(self.handed_over.get().saturating_add(1));
            if self.closes_idle() {
                self.deadlines.end_idle();
            }
        }
        for pool in &self.current().pools {
            pool.prune();
        }
    }

    /// The time of day, as the system says it.
    pub(crate) fn now(&self) -> UnixMicros {
        clock::wall()
    }

    /// The day that whatever is not a reserve of money counts on.
    pub(crate) fn today(&self) -> Day {
        self.clock.day()
    }

    /// An id no other request has.
    pub(crate) fn next_request_id(&self) -> String {
        let number = self.requests.get();
        self.requests.set(number.wrapping_add(1));
        format!("req_{:016x}{number:08x}", self.run)
    }

    /// Whether a request without a valid key gets a row: one in each second does (rule Q25).
    pub(crate) fn samples(&self, now: UnixMicros) -> bool {
        self.sampled_second.replace(now.as_seconds()) != now.as_seconds()
    }

    /// Tells the operator that a vendor cannot be reached, at most once a second.
    pub(crate) fn complain(&self, vendor: &str, error: &io::Error) {
        let second = self.now().as_seconds();
        if self.complained_second.replace(second) != second {
            eprintln!("keybrake-dataplane: vendor {vendor} cannot be reached: {error}");
        }
    }

    /// Whether the control thread has looked at its socket lately, so that no order to revoke is
    /// waiting there; `now` is the time of this request. Else waits for its next look, and gives up after
    /// some time (contract I3b).
    pub(crate) async fn control_has_looked(&self, now: Instant) -> bool {
        if self.lease.is_fresh(now) {
            return true;
        }
        let waiting = Instant::now();
        while waiting.elapsed() < lease::WAIT && !self.is_handing_over() {
            rt::sleep(lease::PAUSE).await;
            if self.lease.is_fresh(Instant::now()) {
                return true;
            }
        }
        false
    }

    /// Opens a connection to a vendor for a key, resolving the vendor's name where that is not fresh.
    pub(crate) async fn connect(
        &self,
        pool: &Pool,
        entry: &KeyEntry,
    ) -> Result<VendorConnection, NotConnected> {
        let mut attempt = std::pin::pin!(self.attempt(pool));
        // Nothing is sent yet, so an attempt that is cut may be dropped.
        while !self.deadlines.is_cut() {
            if let Some(connected) = rt::within(TICK, attempt.as_mut()).await {
                return connected.map_err(NotConnected::Failed);
            }
            if entry.account.is_closed() {
                return Err(NotConnected::Closed);
            }
            if self.is_handing_over() {
                return Err(NotConnected::Draining);
            }
        }
        Err(NotConnected::Failed(io::Error::other("keybrake is stopping")))
    }

    async fn attempt(&self, pool: &Pool) -> io::Result<VendorConnection> {
        let addresses = match pool.fresh_addresses() {
            Some(addresses) => addresses,
            None => {
                let origin = &pool.vendor.origin;
                let limit = Duration::from_secs(pool.vendor.config.connect_timeout_s);
                let addresses = self.resolve(origin.host.clone(), origin.port, limit).await?;
                pool.remember(&addresses);
                addresses
            }
        };
        pool.open(addresses, &self.deadlines, &self.metrics).await
    }

    /// Waits for a turn of `key` within a vendor's quota; the pacer bounds the wait.
    pub(crate) async fn turn(&self, pacer: &Pacer, key: KeyId) -> Turn {
        let (waiting, answer) = oneshot::channel();
        let mailbox = self.mailbox.clone();
        let told = move |turn| mailbox.post(Message::Turn { turn, waiting });
        pacer.ask(key, Instant::now(), Box::new(told));
        answer.await.unwrap_or(Turn::Refused)
    }

    async fn resolve(&self, host: String, port: u16, limit: Duration) -> io::Result<Vec<SocketAddr>> {
        let (waiting, answer) = oneshot::channel();
        let mailbox = self.mailbox.clone();
        let done = move |answer| mailbox.post(Message::Resolved { answer, waiting });
        self.resolver.resolve(host, port, Box::new(done));
        match rt::within(limit, answer).await {
            Some(Ok(answer)) => answer.map_err(io::Error::other),
            Some(Err(oneshot::Canceled)) => Err(io::ErrorKind::Interrupted.into()),
            None => Err(io::Error::new(io::ErrorKind::TimedOut, "its name was not resolved in time")),
        }
    }

    /// Admits nothing; what has not looked for the last time will not be sent.
    fn pause(&self, ack: Ack) {
        if self.stage.get() != Stage::Admits {
            return;
        }
        self.stage.set(Stage::Pauses);
        self.give_way();
        self.in_flight.quiesce(move |in_force| ack.send(in_force));
    }

    fn resume(&self) {
        if self.stage.get() == Stage::Pauses {
            self.stage.set(Stage::Admits);
        }
    }

    fn pass_on(&self, successor: Sender<Vec<u8>>, ack: &Sender<PassedOn>) {
        self.stage.set(Stage::HandedOver);
        self.journal.pass_on(successor);
        let doors = self.doors.take();
        let listeners = doors.iter().filter_map(|door| door.descriptor().ok()).collect();
        ack.try_send(PassedOn { running: self.in_flight.running(), listeners }).ok();
    }

    fn begin_drain(&self) {
        // Sockets that another process has must go on listening.
        if self.stage.get() != Stage::HandedOver {
            self.stage.set(Stage::Drains);
        }
        self.give_way();
        self.deadlines.end_idle();
    }

    /// Accepts nobody, and keeps no vendor waiting.
    fn give_way(&self) {
        for door in self.doors.borrow().iter() {
            door.interrupt();
        }
        for pool in &self.current().pools {
            pool.clear();
        }
    }
}
