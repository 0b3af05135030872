//! The only way into a shard from another thread: a queue and a wake-up line.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::SegQueue;

/// A shard's queue of `T`. Clones are senders.
pub(crate) struct Mailbox<T>(Arc<Inner<T>>);

struct Inner<T> {
    queue: SegQueue<T>,
    /// Set by the shard before it waits; the sender that clears it writes the wake-up.
    asleep: AtomicBool,
    wake: UnixStream,
}

impl<T> Clone for Mailbox<T> {
    fn clone(&self) -> Mailbox<T> {
        Mailbox(Arc::clone(&self.0))
    }
}

impl<T> Mailbox<T> {
    /// A mailbox and the line its shard waits on.
    pub(crate) fn new() -> io::Result<(Mailbox<T>, UnixStream)> {
        let (wake, line) = UnixStream::pair()?;
        // A sender never waits: a full line means that the wake-up is already there.
        wake.set_nonblocking(true)?;
        let inner = Inner { queue: SegQueue::new(), asleep: AtomicBool::new(false), wake };
        Ok((Mailbox(Arc::new(inner)), line))
    }

    /// Puts a message in and wakes the shard where it sleeps.
    pub(crate) fn post(&self, message: T) {
        self.0.queue.push(message);
        // SeqCst on both sides: either this swap sees `asleep`, or the shard's look at the queue
        // behind its store sees the message.
        if self.0.asleep.swap(false, Ordering::SeqCst) {
            // An error is a full line, which wakes as well, or a shard that has ended.
            drop((&self.0.wake).write(&[1]));
        }
    }

    /// The oldest message. About 2 ns where there is none, so a shard looks before each first byte.
    pub(crate) fn take(&self) -> Option<T> {
        self.0.queue.pop()
    }

    /// Says that the shard is about to wait. `false`: there is a message, do not wait.
    pub(crate) fn fall_asleep(&self) -> bool {
        self.0.asleep.store(true, Ordering::SeqCst);
        if self.0.queue.is_empty() {
            return true;
        }
        self.0.asleep.store(false, Ordering::SeqCst);
        false
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_sleeping_shard_is_woken_once_for_many_messages() {
        let (mailbox, mut line) = Mailbox::new().unwrap();
        assert!(mailbox.fall_asleep());
        mailbox.post(1);
        mailbox.post(2);
        let mut woken = [0; 8];
        assert_eq!(line.read(&mut woken).unwrap(), 1);
        assert_eq!((mailbox.take(), mailbox.take(), mailbox.take()), (Some(1), Some(2), None));
    }

    #[test]
    fn a_message_before_sleep_prevents_it() {
        let (mailbox, _line) = Mailbox::new().unwrap();
        mailbox.post(1);
        assert!(!mailbox.fall_asleep());
    }
}
