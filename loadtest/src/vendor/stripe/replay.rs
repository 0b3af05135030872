//! Answers remembered by Idempotency-Key, as Stripe does for a day.
//!
//! The oldest are forgotten to bound memory: a replay of a forgotten key is carried out again, so a long run keeps
//! more than its callers can repeat.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::Answer;

/// A remembered answer and what it answered.
pub(super) struct Stored {
    fingerprint: Vec<u8>,
    pub(super) status: u16,
    pub(super) body: Rc<Vec<u8>>,
    pub(super) request_id: String,
}

impl Stored {
    /// Remembers `answer` as the one to this request.
    pub(super) fn new(path: &str, query: &[u8], body: &[u8], answer: &Answer) -> Stored {
        Stored {
            fingerprint: parts(path, query, body).concat(),
            status: answer.status,
            body: Rc::clone(&answer.body),
            request_id: answer.request_id.clone(),
        }
    }

    fn is_of(&self, path: &str, query: &[u8], body: &[u8]) -> bool {
        let mut rest = self.fingerprint.as_slice();
        parts(path, query, body).into_iter().all(|part| match rest.strip_prefix(part) {
            Some(behind) => {
                rest = behind;
                true
            }
            None => false,
        }) && rest.is_empty()
    }
}

/// Neither a path nor a query holds a line feed.
fn parts<'a>(path: &'a str, query: &'a [u8], body: &'a [u8]) -> [&'a [u8]; 5] {
    [path.as_bytes(), b"\n", query, b"\n", body]
}

/// What is known of a key.
pub(super) enum Seen<'a> {
    /// Not used yet.
    Never,
    /// Used for this request.
    Same(&'a Stored),
    /// Used for another one.
    Other,
}

/// The answers remembered.
pub(super) struct Replays {
    by_key: HashMap<Rc<str>, Stored>,
    oldest_first: VecDeque<Rc<str>>,
    kept_max: usize,
}

impl Replays {
    /// Remembers at most `kept_max` answers.
    pub(super) fn new(kept_max: usize) -> Replays {
        Replays { by_key: HashMap::new(), oldest_first: VecDeque::new(), kept_max }
    }

    /// Looks a key up.
    pub(super) fn find(&self, key: &str, path: &str, query: &[u8], body: &[u8]) -> Seen<'_> {
        match self.by_key.get(key) {
            None => Seen::Never,
            Some(stored) if stored.is_of(path, query, body) => Seen::Same(stored),
            Some(_) => Seen::Other,
        }
    }

    /// Remembers the answer to a key that was not used yet.
    pub(super) fn remember(&mut self, key: &str, stored: Stored) {
        if self.oldest_first.len() >= self.kept_max
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.by_key.remove(&oldest);
        }
        let key: Rc<str> = Rc::from(key);
        self.oldest_first.push_back(Rc::clone(&key));
        self.by_key.insert(key, stored);
    }
}
