//! Deadlines of a shard's connections: coarse, and nearly free.
//!
//! Each connection has a slot with its descriptor and the tick at which it is shut down; one task a
//! shard walks the slots ten times a second. Setting a deadline is a store, no timer and no
//! cancelled operation: a shut-down connection's read or write ends by itself.

use std::cell::{Cell, RefCell};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::Duration;

use crate::rt::{self, Direction};

/// How often the slots are walked, so how late a deadline may be.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// [`TICK`]s in a second.
pub(crate) const TICKS_PER_SECOND: u64 = 10;

const _: () = assert!(TICK.as_millis() == 1000 / TICKS_PER_SECOND as u128);

const NEVER: u64 = u64::MAX;

/// A shard's slots.
#[derive(Default)]
pub(crate) struct Deadlines {
    now: Cell<u64>,
    slots: RefCell<Vec<Option<Slot>>>,
    free: RefCell<Vec<usize>>,
    /// Slots given out so far.
    given: Cell<u64>,
    cut: Cell<bool>,
}

#[derive(Clone, Copy)]
struct Slot {
    /// Which of the slots ever given out it is.
    serial: u64,
    fd: RawFd,
    at: u64,
    /// What ends when the time is over. Only reads, where an answer is still to be written.
    ends: Direction,
    idle: bool,
    expired: bool,
    /// It was shut down by a revoke.
    revoked: bool,
}

/// How long a transfer may take: some time at first, then as much as its least rate needs for the bytes there are, and
/// in all no more than a limit (rule G1). Trickling bytes buys little time with each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Before the rate counts, in seconds.
    pub(crate) grace_s: u64,
    /// The least rate.
    pub(crate) bytes_per_s_min: u64,
    /// In all, in seconds.
    pub(crate) timeout_s: u64,
}

impl Pace {
    /// Ticks, from its begin, within which a transfer of so many bytes is not too slow.
    fn ticks(self, bytes: usize) -> u64 {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let of_bytes = bytes.saturating_mul(TICKS_PER_SECOND).checked_div(self.bytes_per_s_min);
        let grace = self.grace_s.saturating_mul(TICKS_PER_SECOND);
        let most = self.timeout_s.saturating_mul(TICKS_PER_SECOND);
        // The tick that runs now has begun already.
        grace.saturating_add(of_bytes.unwrap_or(most)).min(most).saturating_add(1)
    }
}

/// When a transfer began, for [`Deadline::keep_pace`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began(u64);

/// Names a connection for [`Deadlines::revoke`]; one that has ended meanwhile is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotId {
    index: usize,
    serial: u64,
}

/// One connection's slot; it must be dropped before the connection.
pub(crate) struct Deadline {
    deadlines: Rc<Deadlines>,
    index: usize,
}

impl Deadlines {
    /// A slot for the connection of `fd`, without a deadline yet.
    pub(crate) fn slot(self: &Rc<Deadlines>, fd: RawFd) -> Deadline {
        let cut = self.cut.get();
        if cut {
            rt::shutdown(fd, Direction::Both);
        }
        let serial = self.given.get();
        self.given.set(serial.wrapping_add(1));
        let ends = Direction::Both;
        let slot = Some(Slot { serial, fd, at: NEVER, ends, idle: false, expired: cut, revoked: false });
        let mut slots = self.slots.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or(slots.len());
        match slots.get_mut(index) {
            Some(empty) => *empty = slot,
            None => slots.push(slot),
        }
        Deadline { deadlines: Rc::clone(self), index }
    }

    /// Shuts down what is due; called every [`TICK`].
    pub(crate) fn tick(&self) {
        let now = self.now.get().saturating_add(1);
        self.now.set(now);
        self.shut_down(|slot| (slot.at <= now).then_some(slot.ends));
    }

    /// Ends the reads of idle connections, which makes them close.
    pub(crate) fn end_idle(&self) {
        self.shut_down(|slot| slot.idle.then_some(Direction::Read));
    }

    /// Cuts every connection, also those that are still to come.
    pub(crate) fn cut_all(&self) {
        self.cut.set(true);
        for slot in self.slots.borrow_mut().iter_mut().flatten() {
            slot.expired = true;
            rt::shutdown(slot.fd, Direction::Both);
        }
    }

    /// Shuts one connection down because of a revoke. `true`, unless it had ended or was shut down before.
    pub(crate) fn revoke(&self, id: SlotId) -> bool {
        self.end_one(id, |slot| slot.revoked = true)
    }

    /// Shuts one connection down before its time. `true`, unless it had ended or was shut down before.
    pub(crate) fn expire(&self, id: SlotId) -> bool {
        self.end_one(id, |_| ())
    }

    fn end_one(&self, id: SlotId, note: impl FnOnce(&mut Slot)) -> bool {
        let mut slots = self.slots.borrow_mut();
        let Some(Some(slot)) = slots.get_mut(id.index) else { return false };
        if slot.serial != id.serial || slot.expired {
            return false;
        }
        slot.expired = true;
        note(slot);
        rt::shutdown(slot.fd, Direction::Both);
        true
    }

    /// Whether every connection was cut.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.get()
    }

    fn shut_down(&self, due: impl Fn(&Slot) -> Option<Direction>) {
        for slot in self.slots.borrow_mut().iter_mut().flatten().filter(|slot| !slot.expired) {
            if let Some(direction) = due(slot) {
                slot.expired = true;
                rt::shutdown(slot.fd, direction);
            }
        }
    }
}

impl Deadline {
    /// The connection is shut down in `seconds` from now, to a tick, unless set anew.
    pub(crate) fn set(&self, seconds: u64) {
        self.start(seconds, Direction::Both, false);
    }

    /// A transfer begins now whose first bytes are due at its [`Pace`]; `ends` as in [`Deadline::set`].
    pub(crate) fn begin(&self, pace: Pace, bytes: usize, ends: Direction) -> Began {
        let began = Began(self.deadlines.now.get());
        self.start_ticks(pace.ticks(bytes), ends, false);
        began
    }

    /// So many bytes of a transfer are there. One that was too slow already stays so.
    pub(crate) fn keep_pace(&self, began: Began, pace: Pace, bytes: usize) {
        self.change(|slot, _| slot.at = began.0.saturating_add(pace.ticks(bytes)));
    }

    /// As [`Deadline::set`], for a connection that waits for its next request.
    pub(crate) fn set_idle(&self, seconds: u64) {
        self.start(seconds, Direction::Both, true);
    }

    /// Nothing is waited for on this connection.
    pub(crate) fn clear(&self) {
        self.change(|slot, _| (slot.at, slot.idle) = (NEVER, false));
    }

    fn start(&self, seconds: u64, ends: Direction, idle: bool) {
        self.start_ticks(seconds.saturating_mul(TICKS_PER_SECOND).saturating_add(1), ends, idle);
    }

    fn start_ticks(&self, ticks: u64, ends: Direction, idle: bool) {
        self.change(|slot, now| {
            let at = now.saturating_add(ticks);
            // A connection that a revoke has shut down stays so.
            let (expired, revoked) = (slot.revoked, slot.revoked);
            *slot = Slot { at, ends, idle, expired, revoked, ..*slot };
        });
    }

    /// Whether the connection was shut down from here.
    pub(crate) fn has_expired(&self) -> bool {
        let slots = self.deadlines.slots.borrow();
        slots.get(self.index).is_some_and(|slot| slot.is_some_and(|slot| slot.expired))
    }

    /// Whether a revoke has shut the connection down.
    pub(crate) fn was_revoked(&self) -> bool {
        let slots = self.deadlines.slots.borrow();
        slots.get(self.index).is_some_and(|slot| slot.is_some_and(|slot| slot.revoked))
    }

    /// The connection's name while it lives.
    pub(crate) fn id(&self) -> SlotId {
        let slots = self.deadlines.slots.borrow();
        let serial = slots.get(self.index).and_then(|slot| slot.map(|slot| slot.serial));
        // This slot is taken as long as this lives.
        SlotId { index: self.index, serial: serial.unwrap_or(u64::MAX) }
    }

    fn change(&self, change: impl FnOnce(&mut Slot, u64)) {
        if let Some(Some(slot)) = self.deadlines.slots.borrow_mut().get_mut(self.index) {
            change(slot, self.deadlines.now.get());
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(slot) = self.deadlines.slots.borrow_mut().get_mut(self.index) {
            *slot = None;
        }
        self.deadlines.free.borrow_mut().push(self.index);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_connection_is_shut_down_when_its_time_is_over_and_not_before() {
        let deadlines = Rc::new(Deadlines::default());
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let deadline = deadlines.slot(ours.as_raw_fd());
        deadline.set(1);
        for _ in 0..10 {
            deadlines.tick();
        }
        assert!(!deadline.has_expired());
        assert!(ours.read(&mut [0]).is_err(), "nothing to read, and no end");
        deadlines.tick();
        assert!(deadline.has_expired());
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }

    fn check_pace(bytes: usize, expected: u64) {
        let pace = Pace { grace_s: 10, bytes_per_s_min: 500, timeout_s: 30 };
        assert_eq!(pace.ticks(bytes), expected * TICKS_PER_SECOND + 1, "{bytes} bytes");
    }

    #[test]
    fn g1_bytes_buy_time_at_the_least_rate_and_never_more_than_the_limit() {
        check_pace(0, 10);
        check_pace(49, 10);
        check_pace(500, 11);
        check_pace(5000, 20);
        check_pace(10_000, 30);
        check_pace(usize::MAX, 30);
    }

    #[test]
    fn g1_a_transfer_that_trickles_is_cut_and_one_that_keeps_its_pace_is_not() {
        let deadlines = Rc::new(Deadlines::default());
        let pace = Pace { grace_s: 1, bytes_per_s_min: 100, timeout_s: 30 };
        let ticks_until_cut = |bytes_per_tick: usize| {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            let deadline = deadlines.slot(ours.as_raw_fd());
            let began = deadline.begin(pace, 0, Direction::Read);
            let mut bytes = 0;
            (0..1000).find(|_| {
                bytes += bytes_per_tick;
                deadline.keep_pace(began, pace, bytes);
                deadlines.tick();
                deadline.has_expired()
            })
        };
        assert_eq!(ticks_until_cut(0), Some(10));
        assert_eq!(ticks_until_cut(1), Some(11), "a tenth of the rate");
        assert_eq!(ticks_until_cut(10), Some(300), "the rate, until the limit");
        let deadline = deadlines.slot(UnixStream::pair().unwrap().0.as_raw_fd());
        let began = deadline.begin(pace, 0, Direction::Read);
        (0..20).for_each(|_| deadlines.tick());
        deadline.keep_pace(began, pace, 1_000_000);
        assert!(deadline.has_expired(), "bytes that come late bring nothing back");
    }

    #[test]
    fn a_revoke_shuts_down_the_connection_it_names_and_no_later_one() {
        let deadlines = Rc::new(Deadlines::default());
        let (mut ours, _theirs) = UnixStream::pair().unwrap();
        let deadline = deadlines.slot(ours.as_raw_fd());
        let id = deadline.id();
        assert!(deadlines.revoke(id) && deadline.was_revoked() && deadline.has_expired());
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
        deadline.set(1);
        assert!(deadline.has_expired(), "no later deadline opens it again");
        assert!(!deadlines.revoke(id), "it counts once");
        drop(deadline);
        let (mut later, _theirs) = UnixStream::pair().unwrap();
        later.set_nonblocking(true).unwrap();
        let deadline = deadlines.slot(later.as_raw_fd());
        assert!(!deadlines.revoke(id) && !deadline.was_revoked());
        assert!(later.read(&mut [0]).is_err(), "nothing to read, and no end");
    }

    #[test]
    fn a_slot_is_used_again() {
        let deadlines = Rc::new(Deadlines::default());
        let (one, _theirs) = UnixStream::pair().unwrap();
        drop(deadlines.slot(one.as_raw_fd()));
        let slot = deadlines.slot(one.as_raw_fd());
        assert_eq!(slot.index, 0);
        assert!(!slot.has_expired());
    }
}
