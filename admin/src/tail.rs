//! The audit as it grows: one reader of the store for all who follow it.
//!
//! Each follower has a queue of bounded length. Where it is full, rows are left out and counted, and the count is the
//! next thing that the follower is told: nobody waits for a slow reader, and none is misled.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use keybrake_proto::audit::{AuditHead, AuditRow};
use keybrake_proto::key::KeyId;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::history::{History, HistoryError, Row};

/// Between two looks at the store.
const LOOK: Duration = Duration::from_millis(200);

/// The most rows that wait for one follower: with all their texts about 3 MiB, which followers share.
const QUEUE_ROWS: usize = 256;

/// The most followers.
const FOLLOWERS_MAX: usize = 32;

/// Which rows a follower wants. Absent filters let everything pass.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Of this key.
    pub(crate) vault_key_id: Option<KeyId>,
    /// Of this run: the agent's own, or the one the key was made for.
    pub(crate) run: Option<String>,
    /// Of this agent.
    pub(crate) agent: Option<String>,
    /// Refused ones alone.
    pub(crate) denied: bool,
}

/// What a follower is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// It follows, from behind this row on.
    Open(Option<u64>),
    /// A row that it wants, as JSON, under its sequence.
    Row(u64, Arc<str>),
    /// So many rows that it wanted did not fit into its queue.
    Lost(u64),
}

/// Why nobody more can follow.
#[derive(Debug)]
pub(crate) enum NoTail {
    /// There are as many followers as there may be.
    Full,
    /// The process is stopping.
    Stopping,
    /// The store cannot be read.
    History(HistoryError),
}

/// The followers.
pub(crate) struct Tail {
    history: Arc<History>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    followers: Vec<Follower>,
    /// A task reads the store for them.
    is_read: bool,
    is_closed: bool,
}

struct Follower {
    wanted: Wanted,
    after: Option<u64>,
    queue: Sender<Event>,
    lost: u64,
}

impl Wanted {
    fn takes(&self, bytes: &[u8]) -> bool {
        let Ok(head) = AuditHead::decode(bytes) else { return false };
        let fits = (!self.denied || head.policy_check_result != "allowed")
            && self.vault_key_id.is_none_or(|id| head.vault_key_id == Some(id));
        if !fits || (self.run.is_none() && self.agent.is_none()) {
            return fits;
        }
        let Ok(row) = AuditRow::decode(bytes) else { return false };
        let entry =
            |name: &str| row.metadata.iter().rev().find(|(found, _)| *found == name).map(|found| found.1);
        let is_run = |run: &String| [entry("agent_run_id"), row.agent_run_label].contains(&Some(run));
        self.run.as_ref().is_none_or(is_run)
            && self.agent.as_ref().is_none_or(|agent| entry("agent_id") == Some(agent))
    }
}

impl Follower {
    /// Gives it `event`, or counts it. False once nobody listens.
    fn give(&mut self, event: Option<Event>) -> bool {
        if self.lost > 0 {
            match self.queue.try_send(Event::Lost(self.lost)) {
                Ok(()) => self.lost = 0,
                Err(TrySendError::Full(_)) => {}
                Err(TrySendError::Closed(_)) => return false,
            }
        }
        let Some(event) = event else { return !self.queue.is_closed() };
        // Behind a gap nothing comes before its count.
        if self.lost > 0 {
            self.lost = self.lost.saturating_add(1);
            return true;
        }
        match self.queue.try_send(event) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.lost = 1;
                true
            }
            Err(TrySendError::Closed(_)) => false,
        }
    }
}

impl Tail {
    /// Of this history.
    pub(crate) fn new(history: Arc<History>) -> Tail {
        Tail { history, state: Mutex::default() }
    }

    /// Follows what is committed from now on. Blocks while the store is looked at.
    pub(crate) fn follow(self: &Arc<Tail>, wanted: Wanted) -> Result<Receiver<Event>, NoTail> {
        let after = self.history.newest().map_err(NoTail::History)?;
        let (queue, events) = channel(QUEUE_ROWS);
        let mut follower = Follower { wanted, after, queue, lost: 0 };
        follower.give(Some(Event::Open(after)));
        let mut state = self.lock();
        if state.is_closed {
            return Err(NoTail::Stopping);
        }
        state.followers.retain(|follower| !follower.queue.is_closed());
        if state.followers.len() >= FOLLOWERS_MAX {
            return Err(NoTail::Full);
        }
        state.followers.push(follower);
        if !std::mem::replace(&mut state.is_read, true) {
            tokio::spawn(Arc::clone(self).read());
        }
        Ok(events)
    }

    /// Ends all followers' events.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.followers.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // What a panicked reader leaves is a list of followers all the same.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the store until nobody follows any more.
    async fn read(self: Arc<Tail>) {
        loop {
            let tail = Arc::clone(&self);
            // A store that cannot be read now can be later; the followers' connections show that they wait.
            if tokio::task::spawn_blocking(move || tail.look()).await.is_err() {
                // A fault of keybrake's: who follows is cut and may come again.
                self.lock().followers.clear();
            }
            {
                let mut state = self.lock();
                state.followers.retain_mut(|follower| follower.give(None));
                if state.followers.is_empty() {
                    state.is_read = false;
                    return;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Gives followers what has come since the last look.
    fn look(&self) {
        let Some(after) = self.lock().followers.iter().map(|follower| follower.after).min() else { return };
        let read = self.history.follow(after, |sequence, bytes| {
            let mut row: Option<Arc<str>> = None;
            for follower in &mut self.lock().followers {
                if follower.after.is_some_and(|after| after >= sequence) {
                    continue;
                }
                follower.after = Some(sequence);
                if follower.wanted.takes(bytes) {
                    let row = row.get_or_insert_with(|| json(sequence, bytes));
                    follower.give(Some(Event::Row(sequence, Arc::clone(row))));
                }
            }
        });
        // A look that fails begins again where it was: what was given is not given twice.
        drop(read);
    }
}

/// A row as the API shows it.
fn json(sequence: u64, bytes: &[u8]) -> Arc<str> {
    let text =
        AuditRow::decode(bytes).ok().and_then(|row| serde_json::to_string(&Row::new(sequence, &row)).ok());
    text.unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::tests::{Primary, row};

    struct Followed {
        _dir: tempfile::TempDir,
        primary: Primary,
        tail: Arc<Tail>,
    }

    fn followed() -> Followed {
        let dir = tempfile::tempdir().unwrap();
        let primary = Primary::open(&dir.path().join("store"));
        let history = History::new(dir.path().join("store"), dir.path().join("secondary"));
        Followed { _dir: dir, primary, tail: Arc::new(Tail::new(Arc::new(history))) }
    }

    fn denied(agent: &'static str) -> AuditRow<'static> {
        AuditRow { policy_check_result: "daily_cap_exceeded", metadata: vec![("agent_id", agent)], ..row(1) }
    }

    #[tokio::test]
    async fn a_follower_gets_what_it_wants_from_then_on() {
        let followed = followed();
        followed.primary.append(1, &row(1));
        let wanted = Wanted { denied: true, agent: Some("a1".to_owned()), ..Wanted::default() };
        let mut events = followed.tail.follow(wanted).unwrap();
        let mut all = followed.tail.follow(Wanted::default()).unwrap();
        assert_eq!(events.recv().await, Some(Event::Open(Some(1))));
        for (sequence, row) in [(2, row(2)), (3, denied("a2")), (4, denied("a1")), (5, row(5))] {
            followed.primary.append(sequence, &row);
        }
        let Some(Event::Row(4, json)) = events.recv().await else { panic!("not row 4") };
        assert!(json.contains(r#""sequence":4"#) && json.contains(r#""agent_id":"a1""#), "{json}");
        assert_eq!(all.recv().await, Some(Event::Open(Some(1))));
        for sequence in 2..=5 {
            assert!(matches!(all.recv().await, Some(Event::Row(found, _)) if found == sequence));
        }
        followed.tail.close();
        assert_eq!((events.recv().await, all.recv().await), (None, None));
        assert!(matches!(followed.tail.follow(Wanted::default()), Err(NoTail::Stopping)));
    }

    #[test]
    fn a_slow_follower_is_told_how_much_it_lost_before_anything_later() {
        let (queue, mut events) = channel(2);
        let mut follower = Follower { wanted: Wanted::default(), after: None, queue, lost: 0 };
        let row = |sequence| Event::Row(sequence, "".into());
        for sequence in 1..=5 {
            assert!(follower.give(Some(row(sequence))));
        }
        assert_eq!(events.try_recv(), Ok(row(1)));
        // There is room for the count alone.
        assert!(follower.give(Some(row(6))));
        assert_eq!((events.try_recv(), events.try_recv()), (Ok(row(2)), Ok(Event::Lost(3))));
        assert!(follower.give(None));
        assert!(follower.give(Some(row(7))));
        assert_eq!((events.try_recv(), events.try_recv()), (Ok(Event::Lost(1)), Ok(row(7))));
        drop(events);
        assert!(!follower.give(None) && !follower.give(Some(row(8))));
    }

    #[tokio::test]
    async fn what_a_follower_saw_and_what_it_lost_are_all_rows() {
        let followed = followed();
        let mut events = followed.tail.follow(Wanted::default()).unwrap();
        let rows = 1000;
        (1..=rows).for_each(|sequence| followed.primary.append(sequence, &row(sequence)));
        let (mut seen, mut lost, mut last) = (0, 0, 0);
        while seen + lost < rows {
            match events.recv().await.unwrap() {
                Event::Open(_) => {}
                Event::Row(sequence, _) => {
                    assert!(sequence == last + 1, "{sequence} behind {last}");
                    (seen, last) = (seen + 1, sequence);
                }
                Event::Lost(count) => {
                    (lost, last) = (lost + count, last + count);
                }
            }
        }
        followed.primary.append(rows + 1, &row(1));
        assert!(matches!(events.recv().await, Some(Event::Row(1001, _))));
    }

    #[tokio::test]
    async fn there_are_only_so_many_followers_and_those_that_left_do_not_count() {
        let followed = followed();
        let mut all: Vec<_> =
            (0..FOLLOWERS_MAX).map(|_| followed.tail.follow(Wanted::default()).unwrap()).collect();
        assert!(matches!(followed.tail.follow(Wanted::default()), Err(NoTail::Full)));
        drop(all.pop());
        assert!(followed.tail.follow(Wanted::default()).is_ok());
    }

    #[test]
    fn filters_take_rows_by_run_of_either_kind() {
        let of = |row: &AuditRow<'_>| row.encode(Vec::new());
        let wanted = Wanted { run: Some("r1".to_owned()), ..Wanted::default() };
        assert!(wanted.takes(&of(&AuditRow { metadata: vec![("agent_run_id", "r1")], ..row(1) })));
        assert!(wanted.takes(&of(&AuditRow { agent_run_label: Some("r1"), ..row(1) })));
        assert!(!wanted.takes(&of(&row(1))));
        let wanted = Wanted { vault_key_id: KeyId::from_bytes(b"ffffffffffffffff"), ..Wanted::default() };
        assert!(!wanted.takes(&of(&row(1))));
        assert!(!Wanted::default().takes(b"\x09"));
    }
}
