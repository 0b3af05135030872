//! Turns at a vendor whose quota all keys share: one thread for each credential that has a quota.
//!
//! A request takes a token of the quota's bucket where nobody waits, with no more than two loads and a swap. Else it
//! goes to the thread, which serves the keys in turn ([`Rounds`]) as tokens come back, and posts the answer to the
//! shard's mailbox. So no shard waits for another one, and nothing is held meanwhile.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use keybrake_proto::key::KeyId;
use keybrake_proto::pacing::{Full, Rounds};
use keybrake_proto::policy::Rate;

use crate::tokens::Tokens;

/// How long a request may wait for its turn: below the shortest timeout that SDKs have, and long enough that a burst of
/// a second's quota passes.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(1);

/// Requests of all keys that may wait; each keeps its body in memory.
const WAITING_MAX: usize = 1024;

/// On the way to the thread, which takes them out at once.
const ASKING_MAX: usize = 4096;

/// How often those that have waited too long are looked for.
const LOOK: Duration = Duration::from_millis(50);

/// A request may go, or must not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Its token is taken.
    Granted,
    /// There are too many of its key, or it has waited too long.
    Refused,
}

/// Told the answer, on the pacer's thread.
pub(crate) type Told = Box<dyn FnOnce(Turn) + Send>;

/// The quota of one credential. Shared by all shards.
pub(crate) struct Pacer {
    shared: Arc<Shared>,
    ask: Sender<Asked>,
}

struct Shared {
    tokens: Tokens,
    /// Requests that asked the thread and have no answer yet.
    waiting: AtomicUsize,
}

struct Asked {
    key: KeyId,
    at: Instant,
    told: Told,
}

impl Pacer {
    /// A pacer for `quota` requests per second under the credential that `name` says, and its thread.
    ///
    /// A tenth of a second's quota may go at once, so in any second there are at most a tenth more than `quota`.
    pub(crate) fn start(name: &str, quota: Rate) -> io::Result<Pacer> {
        let tokens = Tokens::new(quota, quota.short_burst());
        let shared = Arc::new(Shared { tokens, waiting: AtomicUsize::new(0) });
        let (ask, asked) = bounded(ASKING_MAX);
        // Alone, a key would wait for its last request as long as it may.
        let per_key_max = usize::try_from(quota.burst()).unwrap_or(WAITING_MAX).min(WAITING_MAX);
        let serving = Serving { shared: Arc::clone(&shared), rounds: Rounds::new(WAITING_MAX, per_key_max) };
        thread::Builder::new().name(format!("pacer-{name}")).spawn(move || {
            // Who waits would wait for good, so the process ends and is restarted.
            if catch_unwind(AssertUnwindSafe(|| serving.run(&asked))).is_err() {
                std::process::abort();
            }
        })?;
        Ok(Pacer { shared, ask })
    }

    /// Takes a token where nobody waits for one.
    pub(crate) fn try_take(&self, now: Instant) -> bool {
        self.shared.waiting.load(Ordering::Acquire) == 0 && self.shared.tokens.take(now).is_ok()
    }

    /// Asks for a turn of `key`; `told` gets the answer within [`WAIT_MAX`] and a little. It is dropped where the thread
    /// has ended, or has too much to read.
    pub(crate) fn ask(&self, key: KeyId, now: Instant, told: Told) {
        self.shared.waiting.fetch_add(1, Ordering::AcqRel);
        if self.ask.try_send(Asked { key, at: now, told }).is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    fn give_back(&self) {
        self.shared.tokens.give_back();
    }
}

/// A turn that was taken. Dropped without [`Taken::used`] it goes back.
#[must_use]
pub(crate) struct Taken(Option<Arc<Pacer>>);

impl Taken {
    /// A turn at a vendor without a quota.
    pub(crate) fn free() -> Taken {
        Taken(None)
    }

    /// A token of this pacer.
    pub(crate) fn of(pacer: &Arc<Pacer>) -> Taken {
        Taken(Some(Arc::clone(pacer)))
    }

    /// Whether it is a token of this pacer.
    pub(crate) fn is_of(&self, pacer: &Arc<Pacer>) -> bool {
        self.0.as_ref().is_some_and(|own| Arc::ptr_eq(own, pacer))
    }

    /// The request went to the vendor.
    pub(crate) fn used(mut self) {
        self.0 = None;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(pacer) = &self.0 {
            pacer.give_back();
        }
    }
}

struct Serving {
    shared: Arc<Shared>,
    rounds: Rounds<KeyId, Asked>,
}

impl Serving {
    /// Serves until nobody can ask any more.
    fn run(mut self, asked: &Receiver<Asked>) {
        let mut looked = Instant::now();
        let mut pause = LOOK;
        loop {
            let first = if self.rounds.is_empty() {
                asked.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                asked.recv_timeout(pause)
            };
            match first {
                Ok(first) => {
                    self.queue(first);
                    asked.try_iter().take(ASKING_MAX).for_each(|asked| self.queue(asked));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            pause = self.serve(now).min(LOOK);
            if now.saturating_duration_since(looked) >= LOOK {
                looked = now;
                // Behind the turns, so that who could be served is not refused because this thread was late.
                self.refuse_late(now);
            }
        }
    }

    fn queue(&mut self, asked: Asked) {
        match self.rounds.push(asked.key, 1, asked) {
            Ok(()) => {}
            Err(Full::Newcomer(full) | Full::Displaced(full)) => self.tell(full, Turn::Refused),
        }
    }

    /// Serves as many as there are tokens; answers when there is the next one.
    fn serve(&mut self, now: Instant) -> Duration {
        while !self.rounds.is_empty() {
            if let Err(wait) = self.shared.tokens.take(now) {
                return wait;
            }
            match self.rounds.take() {
                Some(next) => self.tell(next, Turn::Granted),
                None => self.shared.tokens.give_back(),
            }
        }
        LOOK
    }

    fn refuse_late(&mut self, now: Instant) {
        for late in self.rounds.take_late(|asked| now.saturating_duration_since(asked.at) >= WAIT_MAX) {
            self.tell(late, Turn::Refused);
        }
    }

    fn tell(&self, asked: Asked, turn: Turn) {
        self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
        (asked.told)(turn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &[u8; 16]) -> KeyId {
        KeyId::from_bytes(text).unwrap()
    }

    fn ask(pacer: &Pacer, key: KeyId, number: usize, answers: &Sender<(usize, Turn)>) {
        let answers = answers.clone();
        pacer.ask(key, Instant::now(), Box::new(move |turn| answers.send((number, turn)).unwrap()));
    }

    #[test]
    fn a_burst_fills_its_own_queue_and_another_key_is_served() {
        let pacer = Pacer::start("test", Rate::per_second(20).unwrap()).unwrap();
        let (answers, answered) = bounded(1000);
        let (bursting, steady) = (key(b"burstingburstin1"), key(b"steadysteadystea"));
        for number in 0..200 {
            ask(&pacer, bursting, number, &answers);
        }
        ask(&pacer, steady, 999, &answers);
        let all: Vec<(usize, Turn)> = (0..201).map(|_| answered.recv().unwrap()).collect();
        let granted: Vec<usize> =
            all.iter().filter(|(_, turn)| *turn == Turn::Granted).map(|(number, _)| *number).collect();
        assert!(granted.len() < 200, "the queue of one key is short");
        assert!(granted.contains(&999), "the steady key was refused");
        assert!(granted.windows(2).all(|two| two[0] == 999 || two[1] == 999 || two[0] < two[1]), "in order");
        assert_eq!(pacer.shared.waiting.load(Ordering::Acquire), 0);
    }

    #[test]
    fn a_token_is_taken_at_once_where_nobody_waits() {
        let pacer = Pacer::start("test", Rate::per_second(30).unwrap()).unwrap();
        let now = Instant::now();
        assert!((0..3).all(|_| pacer.try_take(now)), "a tenth of a second's quota at once");
        assert!(!pacer.try_take(now));
        pacer.give_back();
        assert!(pacer.try_take(now));
        pacer.shared.waiting.fetch_add(1, Ordering::AcqRel);
        assert!(!pacer.try_take(now + Duration::from_secs(9)), "who waits comes first");
    }
}
