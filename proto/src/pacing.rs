//! Whose turn it is at a vendor whose quota all keys share: deficit round-robin over the keys that wait.
//!
//! A key that sends a hundred times as much as another one waits behind its own requests, not in front of the other's:
//! each round serves every key that waits. The queue is short, and when it is full the key with the longest queue loses.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// What a key may be served in one round.
const QUANTUM: u32 = 1;

/// Requests that wait, each with a cost in units of the quota. It knows no time.
#[derive(Debug)]
pub struct Rounds<K, T> {
    queues: HashMap<K, Queue<T>>,
    /// The keys that wait, in the order of their turns.
    turns: VecDeque<K>,
    waiting: usize,
    waiting_max: usize,
    per_key_max: usize,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<(u32, T)>,
    /// What it was granted and has not used, in units of the quota.
    deficit: u32,
}

/// Why something that asks for a turn, or asked before, does not get one.
#[derive(Debug, PartialEq, Eq)]
pub enum Full<T> {
    /// The newcomer: its key's queue is full, or no other is longer.
    Newcomer(T),
    /// The newest of the longest queue, which made room for the newcomer.
    Displaced(T),
}

impl<K: Copy + Eq + Hash, T> Rounds<K, T> {
    /// At most `waiting_max` requests wait, and `per_key_max` of one key; both are at least one.
    pub fn new(waiting_max: usize, per_key_max: usize) -> Rounds<K, T> {
        Rounds {
            queues: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
            waiting_max: waiting_max.max(1),
            per_key_max: per_key_max.max(1),
        }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Adds a request of `key` that costs `cost` units, at least one.
    ///
    /// # Errors
    /// [`Full`], with what does not wait any more.
    pub fn push(&mut self, key: K, cost: u32, item: T) -> Result<(), Full<T>> {
        let own = self.queues.get(&key).map_or(0, |queue| queue.items.len());
        if own >= self.per_key_max {
            return Err(Full::Newcomer(item));
        }
        let mut displaced = None;
        if self.waiting >= self.waiting_max {
            match self.displace(own.saturating_add(1)) {
                Some(longest) => displaced = Some(longest),
                None => return Err(Full::Newcomer(item)),
            }
        }
        let queue = self.queues.entry(key).or_insert_with(|| {
            self.turns.push_back(key);
            Queue { items: VecDeque::new(), deficit: 0 }
        });
        queue.items.push_back((cost.max(1), item));
        self.waiting = self.waiting.saturating_add(1);
        displaced.map_or(Ok(()), |item| Err(Full::Displaced(item)))
    }

    /// Takes out the newest request of the longest queue, if that is longer than `than`.
    fn displace(&mut self, than: usize) -> Option<T> {
        let (key, length) =
            self.queues.iter().map(|(key, queue)| (*key, queue.items.len())).max_by_key(|of| of.1)?;
        // Longer by one at least, so it is not empty afterwards.
        let (_, item) = self.queues.get_mut(&key).filter(|_| length > than)?.items.pop_back()?;
        self.waiting = self.waiting.saturating_sub(1);
        Some(item)
    }

    /// Whose turn it is. Each call grants at most one request.
    pub fn take(&mut self) -> Option<T> {
        // Each turn adds to a deficit, so this ends after as many rounds as the largest cost.
        loop {
            let key = self.turns.pop_front()?;
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            queue.deficit = queue.deficit.saturating_add(QUANTUM);
            match queue.items.pop_front() {
                Some((cost, item)) if cost <= queue.deficit => {
                    queue.deficit = queue.deficit.saturating_sub(cost);
                    self.waiting = self.waiting.saturating_sub(1);
                    self.return_turn(key);
                    return Some(item);
                }
                Some(costly) => {
                    queue.items.push_front(costly);
                    self.turns.push_back(key);
                }
                None => self.return_turn(key),
            }
        }
    }

    /// Takes out what has waited too long: from the front of each queue as far as `is_late` says so.
    pub fn take_late(&mut self, is_late: impl Fn(&T) -> bool) -> Vec<T> {
        let mut late = Vec::new();
        for queue in self.queues.values_mut() {
            while queue.items.front().is_some_and(|(_, item)| is_late(item)) {
                late.extend(queue.items.pop_front().map(|(_, item)| item));
            }
        }
        if !late.is_empty() {
            self.waiting = self.waiting.saturating_sub(late.len());
            self.queues.retain(|_, queue| !queue.items.is_empty());
            self.turns.retain(|key| self.queues.contains_key(key));
        }
        late
    }

    /// A key that still waits goes behind the others; one that does not keeps no credit.
    fn return_turn(&mut self, key: K) {
        if self.queues.get(&key).is_some_and(|queue| !queue.items.is_empty()) {
            self.turns.push_back(key);
        } else {
            self.queues.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Requests are a key's letter and their number, such as `a1`.
    fn rounds(waiting_max: usize, per_key_max: usize, items: &[&'static str]) -> Rounds<char, &'static str> {
        let mut rounds = Rounds::new(waiting_max, per_key_max);
        for item in items {
            let key = item.chars().next().unwrap();
            assert_eq!(rounds.push(key, 1, *item), Ok(()), "{item}");
        }
        rounds
    }

    fn order(mut rounds: Rounds<char, &'static str>) -> String {
        std::iter::from_fn(|| rounds.take()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_round_serves_every_key_that_waits() {
        assert_eq!(order(rounds(9, 9, &["a1", "a2", "a3", "b1", "c1", "b2"])), "a1 b1 c1 a2 b2 a3");
        assert_eq!(order(rounds(9, 9, &["a1", "a2"])), "a1 a2");
        assert_eq!(order(rounds(9, 9, &[])), "");
    }

    #[test]
    fn a_costly_request_waits_as_many_rounds_as_it_costs() {
        let mut rounds = rounds(9, 9, &["b1", "b2", "b3"]);
        rounds.push('a', 3, "a1").unwrap();
        assert_eq!(order(rounds), "b1 b2 b3 a1");
        let mut rounds = self::rounds(9, 9, &["b1", "b2", "b3", "b4"]);
        rounds.push('a', 2, "a1").unwrap();
        assert_eq!(order(rounds), "b1 b2 a1 b3 b4");
    }

    #[test]
    fn a_full_queue_refuses_the_key_that_fills_it() {
        let mut own = rounds(9, 2, &["a1", "a2"]);
        assert_eq!(own.push('a', 1, "a3"), Err(Full::Newcomer("a3")));
        assert_eq!(own.push('b', 1, "b1"), Ok(()));
        let mut all = rounds(3, 9, &["a1", "a2", "a3"]);
        assert_eq!(all.push('a', 1, "a4"), Err(Full::Newcomer("a4")));
        assert_eq!(all.push('b', 1, "b1"), Err(Full::Displaced("a3")));
        assert_eq!(
            all.push('b', 1, "b2"),
            Err(Full::Newcomer("b2")),
            "no queue is longer than its own would be"
        );
        assert_eq!(all.waiting(), 3);
        assert_eq!(order(all), "a1 b1 a2");
    }

    #[test]
    fn what_has_waited_too_long_is_taken_out() {
        let mut rounds = rounds(9, 9, &["a1", "a2", "b1"]);
        assert_eq!(rounds.take_late(|item| *item == "a1"), ["a1"]);
        assert_eq!(rounds.take_late(|item| *item == "b1"), ["b1"]);
        assert_eq!(rounds.waiting(), 1);
        assert_eq!(order(rounds), "a2");
    }

    proptest! {
        /// Between two turns of a key that waits, no other key has more than one.
        #[test]
        fn no_key_waits_longer_than_one_turn_of_each_other(
            arrivals in proptest::collection::vec((0u8..5, 0u8..3), 1..300),
        ) {
            let mut rounds: Rounds<u8, (u8, usize)> = Rounds::new(64, 32);
            // For each key: how often each other was served since it began to wait at the front.
            let mut since: HashMap<u8, HashMap<u8, usize>> = HashMap::new();
            let mut order: HashMap<u8, usize> = HashMap::new();
            for (number, (key, served)) in arrivals.into_iter().enumerate() {
                if !matches!(rounds.push(key, 1, (key, number)), Err(Full::Newcomer(_))) {
                    since.entry(key).or_default();
                }
                for _ in 0..served {
                    let Some((key, number)) = rounds.take() else { break };
                    prop_assert!(order.insert(key, number).is_none_or(|before| before < number), "in order");
                    for (waiting, others) in &mut since {
                        if *waiting != key {
                            let turns = others.entry(key).or_default();
                            *turns += 1;
                            prop_assert!(*turns <= 1, "{waiting} waited for two turns of {key}");
                        }
                    }
                    since.remove(&key);
                    if rounds.queues.contains_key(&key) {
                        since.insert(key, HashMap::new());
                    }
                }
                let sum: usize = rounds.queues.values().map(|queue| queue.items.len()).sum();
                prop_assert!(sum == rounds.waiting() && sum <= 64);
                prop_assert_eq!(rounds.turns.len(), rounds.queues.len());
            }
        }
    }
}
