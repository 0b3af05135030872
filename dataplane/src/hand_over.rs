//! The old side of a rolling restart (rule Q23): admission stops, store and journals are closed, and the process
//! that asked gets the sockets and the exchanges that run; from then on it is told how they end.
//!
//! Up to the moment at which the shards pass on, everything can be taken back, and is where something is late.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, unbounded};
use keybrake_proto::config::Config;
use keybrake_proto::control::{self as frames, FRAME_HEADER_BYTES, Refused};
use keybrake_proto::handover::{ActsOn, Admits, Answer, Formats, HandedOver, LISTENERS_MAX, TakeOver};
use keybrake_proto::journal::IntentId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::clock;
use crate::control::{Asked, Control, Front, Parked};
use crate::descriptors;
use crate::journal::CommitterHandle;
use crate::marks::Marks;
use crate::objects::{Acts, Objects};
use crate::shard::{Message, PassedOn};
use crate::storage::{self, StorageHandle};

/// How long workers and the control thread may take to stand still. A send that a vendor does not take is shut
/// down after 200 ms of it.
const STILL_WAIT: Duration = Duration::from_secs(2);

/// How long the new process may leave what it is told in its socket.
const WRITE_WAIT: Duration = Duration::from_secs(30);

/// How long the new process may take until it admits.
const ADMITS_WAIT: Duration = Duration::from_secs(60);

/// What a dataplane gives away.
pub(crate) struct Old<'a> {
    pub(crate) config: &'a Config,
    pub(crate) control: &'a Control,
    pub(crate) front: &'a Front,
    pub(crate) storage: &'a StorageHandle,
    pub(crate) committer: &'a CommitterHandle,
    pub(crate) marks: &'a Marks,
    pub(crate) objects: &'a Objects,
}

/// The process that has taken over.
pub(crate) struct Successor {
    /// Frames for it.
    pub(crate) told: Receiver<Vec<u8>>,
    stream: Option<UnixStream>,
    pid: u32,
}

/// Why nothing was handed over.
#[derive(Debug)]
enum Problem {
    /// The two do not fit together.
    Unfit(String),
    /// What is needed for it does not answer; this process goes on.
    Late(String),
    /// Who asked has gone.
    Gone,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unfit(problem) | Problem::Late(problem) => f.write_str(problem),
            Problem::Gone => f.write_str("it has ended"),
        }
    }
}

/// Nothing is admitted, and nothing is on its way to a vendor.
struct Paused {
    parked: Parked,
    at_us: u64,
}

/// Hands over to the process that asked; `None`: this one goes on as before.
pub(crate) fn hand_over(old: &Old<'_>, asked: Asked) -> Option<Successor> {
    let Asked { stream, offer } = asked;
    let prepared = judge(old, &offer).and_then(|()| prepare(old, &stream));
    match prepared.and_then(|()| pause(old, &stream)) {
        Ok(paused) => Some(pass_on(old, stream, &offer, paused)),
        Err(problem) => {
            eprintln!("keybrake-dataplane: process {} does not take over: {problem}", offer.pid);
            refuse(&stream, &problem);
            None
        }
    }
}

fn refuse(mut stream: &UnixStream, problem: &Problem) {
    let (status, code) = match problem {
        Problem::Unfit(_) => (409, "take_over_unfit"),
        Problem::Late(_) | Problem::Gone => (503, "take_over_failed"),
    };
    let message = format!("the running dataplane goes on: {problem}");
    let refused = Refused { status, code: code.to_owned(), field: None, message };
    // Who asked may have gone.
    drop(frames::encode(&Answer::Refused(refused)).map(|frame| stream.write_all(&frame)));
}

/// Whether the process that asks can go on where this one stops.
fn judge(old: &Old<'_>, offer: &TakeOver) -> Result<(), Problem> {
    let own = Formats::own(storage::SCHEMA);
    let TakeOver { formats, listen, anchor, .. } = offer;
    let unfit = |problem: String| Err(Problem::Unfit(problem));
    if *formats != own {
        return unfit(format!(
            "it has other formats ({formats}) than this one ({own}); stop this one and start the other"
        ));
    }
    let config = old.config;
    if *listen != config.proxy.listen.to_string() {
        return unfit(format!(
            "proxy.listen is {listen} there and {} here, and sockets cannot be moved; stop this one and start the \
             other",
            config.proxy.listen
        ));
    }
    let own = config.data.anchor_file().display().to_string();
    if *anchor != own {
        return unfit(format!(
            "data.anchor_file is {anchor} there and {own} here; stop this one and start the other"
        ));
    }
    if old.control.shards.len() >= LISTENERS_MAX {
        return unfit(format!("more than {LISTENERS_MAX} sockets cannot be handed over"));
    }
    match old.control.left.count() {
        0 => Ok(()),
        left => Err(Problem::Late(format!(
            "{left} calls of the dataplane before it still run; try again when they have ended"
        ))),
    }
}

/// What takes long and disturbs nobody.
fn prepare(old: &Old<'_>, stream: &UnixStream) -> Result<(), Problem> {
    if !old.storage.has_room() {
        return Err(Problem::Late("its disk does not take writes; look at its output".to_owned()));
    }
    old.storage.tidy().map_err(|error| Problem::Late(format!("its store does not answer: {error}")))?;
    is_there(stream)
}

fn is_there(stream: &UnixStream) -> Result<(), Problem> {
    let mut fds = [PollFd::new(stream, PollFlags::RDHUP)];
    match poll(&mut fds, Some(&Timespec::default())) {
        // It has nothing to say before it is answered.
        Ok(0) => Ok(()),
        Ok(_) | Err(_) => Err(Problem::Gone),
    }
}

/// Stops admission and orders, or takes that back.
fn pause(old: &Old<'_>, stream: &UnixStream) -> Result<Paused, Problem> {
    let at_us = clock::monotonic_us();
    let until = Instant::now().checked_add(STILL_WAIT).unwrap_or_else(Instant::now);
    old.control.draining.store(true, Ordering::Relaxed);
    let acks = old.control.post_all(Message::Pause);
    let parked = old.front.park(STILL_WAIT);
    let late = old.control.gather(&acks, until).late;
    let problem = match (parked, late.as_slice()) {
        (Some(parked), []) => match is_there(stream).and_then(|()| spool_owed(old)) {
            Ok(()) => return Ok(Paused { parked, at_us }),
            Err(problem) => problem,
        },
        (None, _) => Problem::Late("its control thread waits for a disk or a peer; try again".to_owned()),
        (Some(_), late) => Problem::Late(format!("workers {late:?} do not stand still; try again")),
    };
    old.control.shards.iter().for_each(|shard| shard.post(Message::Resume));
    old.control.draining.store(false, Ordering::Relaxed);
    Err(problem)
}

/// What the disk owes of revokes is this process's memory, and the next one must know it. Nobody revokes any more, the
/// control thread stands still.
fn spool_owed(old: &Old<'_>) -> Result<(), Problem> {
    old.control.spool_owed(&old.config.data, STILL_WAIT).map_err(Problem::Late)
}

/// From here on there is no way back.
fn pass_on(old: &Old<'_>, stream: UnixStream, offer: &TakeOver, paused: Paused) -> Successor {
    let (tell, told) = unbounded();
    let (ack, acks) = bounded(old.control.shards.len());
    for shard in &old.control.shards {
        shard.post(Message::PassOn { successor: tell.clone(), ack: ack.clone() });
    }
    drop((tell, ack));
    let until = Instant::now().checked_add(STILL_WAIT).unwrap_or_else(Instant::now);
    let mut passed_on = PassedOn { running: Vec::new(), listeners: Vec::new() };
    for _ in &old.control.shards {
        // What a worker does not say is in doubt.
        let Ok(more) = acks.recv_deadline(until) else { break };
        passed_on.running.extend(more.running);
        passed_on.listeners.extend(more.listeners);
    }
    close_books(old);
    let running = passed_on.running.len();
    let answered = answer(&stream, &passed_on, acts_on(old), &paused);
    drop(passed_on);
    paused.parked.end();
    let pid = offer.pid;
    match answered.and_then(|()| stream.try_clone()) {
        Ok(same) => {
            watch(same, pid, running);
            Successor { told, stream: Some(stream), pid }
        }
        Err(error) => {
            eprintln!("keybrake-dataplane: process {pid} has ended in the middle of the hand-over: {error}");
            Successor { told, stream: None, pid }
        }
    }
}

/// Everything is on disk and closed; no thread of this process touches a file of the data directory any more.
fn close_books(old: &Old<'_>) {
    if let Err(error) = old.control.clock.retire() {
        eprintln!("keybrake-dataplane: clock: its record cannot be written: {error}");
    }
    if !old.committer.end(STILL_WAIT) {
        eprintln!("keybrake-dataplane: the journals' disk does not answer");
    }
    if let Err(error) = old.storage.flush_and_stop() {
        eprintln!("keybrake-dataplane: {error}; the journals have it");
    }
    old.marks.retire();
}

/// The objects that exchanges act on. One that has ended since the shards passed on is missing, and is over.
fn acts_on(old: &Old<'_>) -> Vec<ActsOn> {
    let settings = old.control.settings.load_full();
    let of = |acts: Acts| {
        let vendor = settings.vendors.get(acts.vendor)?;
        Some(ActsOn {
            intent: acts.intent.as_u64(),
            vendor: vendor.config.name.clone(),
            label: vendor.label.map(str::to_owned),
            object: acts.object,
            request: acts.request,
        })
    };
    old.objects.acting().into_iter().filter_map(of).collect()
}

fn answer(
    stream: &UnixStream,
    passed_on: &PassedOn,
    acts_on: Vec<ActsOn>,
    paused: &Paused,
) -> io::Result<()> {
    let running = passed_on.running.iter().copied().map(IntentId::as_u64).collect();
    let handed_over = HandedOver { running, acts_on, paused_at_us: paused.at_us, pid: std::process::id() };
    let frame = frames::encode(&Answer::HandedOver(Box::new(handed_over))).map_err(io::Error::other)?;
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WRITE_WAIT))?;
    let sockets = passed_on.listeners.iter().map(|listener| listener.as_fd());
    let descriptors: Vec<_> = sockets.chain([paused.parked.listener.as_fd()]).collect();
    descriptors::send(stream, &frame, &descriptors)
}

/// Says when the new process admits.
fn watch(mut stream: UnixStream, pid: u32, running: usize) {
    let watch = move || {
        let admits = stream.set_read_timeout(Some(ADMITS_WAIT)).and_then(|()| {
            let mut header = [0; FRAME_HEADER_BYTES];
            stream.read_exact(&mut header)?;
            let mut body = vec![0; frames::body_bytes(header).map_err(io::Error::other)?];
            stream.read_exact(&mut body)?;
            frames::decode::<Admits>(&body).map_err(io::Error::other)
        });
        match admits {
            Ok(Admits { paused_us }) => eprintln!(
                "keybrake-dataplane: handed over to process {pid}: admission paused for {paused_us} us, {running} \
                 calls end here"
            ),
            Err(error) => {
                eprintln!("keybrake-dataplane: process {pid} did not say that it admits: {error}");
            }
        }
    };
    // Without it only the line is missing.
    thread::Builder::new().name("successor".to_owned()).spawn(watch).ok();
}

impl Successor {
    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it how an exchange ended. One that is gone is told nothing more: what it was not told is in doubt at
    /// the next start.
    pub(crate) fn tell(&mut self, frame: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        if let Err(error) = stream.write_all(frame) {
            eprintln!(
                "keybrake-dataplane: process {} is gone ({error}); calls that still run here are in doubt there",
                self.pid
            );
            self.stream = None;
        }
    }

    /// Whether it was told everything so far.
    pub(crate) fn knows_all(&self) -> bool {
        self.stream.is_some()
    }
}
