//! The new side of a rolling restart (rule Q23): asks the running dataplane for its place, and hears from it how
//! its last exchanges end.

use std::collections::HashSet;
use std::io::{self, BufReader, ErrorKind, Read, Write as _};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use keybrake_proto::config::Config;
use keybrake_proto::control::{self as frames, FRAME_HEADER_BYTES, Request};
use keybrake_proto::handover::{ActsOn, Admits, Answer, Formats, HandedOver, Parting, TakeOver};
use keybrake_proto::journal::IntentId;

use crate::clock;
use crate::descriptors;
use crate::lease::Lease;
use crate::mailbox::Mailbox;
use crate::shard::Message;
use crate::storage;

/// How long the running dataplane may take: it first brings what is in memory to its disk.
const ANSWER_WAIT: Duration = Duration::from_secs(30);

/// How long the control thread may take to its first look, before which nothing is sent.
const LOOK_WAIT: Duration = Duration::from_secs(1);

/// Between two looks whether it has.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// The dataplane that ran before, and what it gave away.
pub(crate) struct Predecessor {
    stream: UnixStream,
    /// Agents connect there.
    pub(crate) listeners: Vec<TcpListener>,
    /// The control socket.
    pub(crate) control: UnixListener,
    /// What it still runs.
    running: HashSet<IntentId>,
    /// The objects that it still acts on.
    pub(crate) acts_on: Vec<ActsOn>,
    paused_at_us: u64,
    pid: u32,
}

/// Asks the running dataplane for its place; `None` where none runs.
pub(crate) fn ask(config: &Config) -> anyhow::Result<Option<Predecessor>> {
    let socket = config.data.control_socket();
    let mut stream = match UnixStream::connect(&socket) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            eprintln!("keybrake-dataplane: no dataplane runs here, so there is none to take over from");
            return Ok(None);
        }
        connected => {
            connected.with_context(|| format!("control socket {} cannot be opened", socket.display()))?
        }
    };
    let offer = TakeOver {
        formats: Formats::own(storage::SCHEMA),
        listen: config.proxy.listen.to_string(),
        anchor: config.data.anchor_file().display().to_string(),
        pid: std::process::id(),
    };
    let frame = frames::encode(&Request::TakeOver(Box::new(offer)))?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    let answered = stream.write_all(&frame).and_then(|()| read_answer(&stream));
    let (body, descriptors) = match answered {
        Ok(answer) => answer,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => bail!(
            "nothing was taken over: nobody answers at {} within {} s; is it a dataplane, and does it run?",
            socket.display(),
            ANSWER_WAIT.as_secs()
        ),
        Err(error) if error.kind() == ErrorKind::InvalidData => bail!(
            "nothing was taken over: what answers at {} is no dataplane of this version: {error}",
            socket.display()
        ),
        Err(error) => {
            // Where it still runs, the store is locked, which says so.
            eprintln!("keybrake-dataplane: the running dataplane broke off ({error}); starting without it");
            return Ok(None);
        }
    };
    let answer = frames::decode(&body).map_err(|error| {
        anyhow!("nothing was taken over: what answers at {} is no dataplane: {error}", socket.display())
    })?;
    match answer {
        Answer::Refused(refused) if refused.code == "malformed_frame" => bail!(
            "nothing was taken over: the running dataplane is of a version that cannot hand over; stop it and start \
             this one"
        ),
        Answer::Refused(refused) => bail!("nothing was taken over: {}", refused.message),
        Answer::HandedOver(handed_over) => accept(stream, *handed_over, descriptors).map(Some),
    }
}

/// The answer's body, and the descriptors that came with it.
fn read_answer(stream: &UnixStream) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut header = [0; FRAME_HEADER_BYTES];
    let (mut read, descriptors) = descriptors::receive(stream, &mut header)?;
    if read == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let mut rest = stream;
    while let Some(missing) = header.get_mut(read..).filter(|missing| !missing.is_empty()) {
        match rest.read(missing)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            more => read = read.saturating_add(more),
        }
    }
    let invalid = |error| io::Error::new(ErrorKind::InvalidData, error);
    let mut body = vec![0; frames::body_bytes(header).map_err(invalid)?];
    rest.read_exact(&mut body)?;
    Ok((body, descriptors))
}

fn accept(
    stream: UnixStream,
    handed_over: HandedOver,
    mut descriptors: Vec<OwnedFd>,
) -> anyhow::Result<Predecessor> {
    let control = descriptors.pop().map(UnixListener::from);
    let control =
        control.context("the running dataplane gave up its place without its sockets; start again")?;
    let listeners = descriptors.into_iter().map(TcpListener::from).collect();
    let HandedOver { running, acts_on, paused_at_us, pid } = handed_over;
    let running = running.into_iter().map(IntentId::from_u64).collect();
    Ok(Predecessor { stream, listeners, control, running, acts_on, paused_at_us, pid })
}

impl Predecessor {
    /// Whether it still runs this exchange.
    pub(crate) fn runs(&self, intent: IntentId) -> bool {
        self.running.contains(&intent)
    }

    /// Waits until requests are sent, tells it and the operator how long none was, and hears from then on how its
    /// exchanges end.
    pub(crate) fn say_that_this_one_admits(
        mut self,
        lease: &Lease,
        shards: Vec<Mailbox<Message>>,
    ) -> io::Result<()> {
        let waiting = Instant::now();
        while !lease.is_fresh(Instant::now()) && waiting.elapsed() < LOOK_WAIT {
            thread::sleep(LOOK_PAUSE);
        }
        let paused_us = clock::monotonic_us().saturating_sub(self.paused_at_us);
        eprintln!(
            "keybrake-dataplane: took over from process {}: admission paused for {paused_us} us, {} calls end there",
            self.pid,
            self.running.len()
        );
        let frame = frames::encode(&Admits { paused_us }).map_err(io::Error::other)?;
        // It may have ended already, with nothing to say.
        self.stream.write_all(&frame).ok();
        self.stream.set_read_timeout(None)?;
        let listen = move || self.listen(&shards);
        thread::Builder::new().name("predecessor".to_owned()).spawn(listen).map(drop)
    }

    /// Hands what it says to the shards that hold the money. When it is gone, what it did not say is in doubt.
    fn listen(self, shards: &[Mailbox<Message>]) {
        let mut stream = BufReader::new(self.stream);
        while let Ok(body) = read_frame(&mut stream) {
            let shard = match Parting::decode(&body) {
                Ok(
                    Parting::Ended { intent, .. }
                    | Parting::Counted { intent, .. }
                    | Parting::Lost { intent },
                ) => shard_of(intent, shards.len()),
                Ok(Parting::Denied { .. }) => 0,
                Err(error) => {
                    eprintln!(
                        "keybrake-dataplane: process {} said {error}: a bug, please report it",
                        self.pid
                    );
                    break;
                }
            };
            if let Some(shard) = shards.get(shard) {
                shard.post(Message::Parting(body));
            }
        }
        shards.iter().for_each(|shard| shard.post(Message::Forsaken));
    }
}

/// Which of so many shards ends an exchange of the process before.
pub(crate) fn shard_of(intent: IntentId, shards: usize) -> usize {
    usize::from(intent.shard()).checked_rem(shards).unwrap_or_default()
}

fn read_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header)?;
    let mut body = vec![0; frames::body_bytes(header).map_err(io::Error::other)?];
    stream.read_exact(&mut body)?;
    Ok(body)
}
