//! The exchanges of a shard, by how far they are: what a revoke's acknowledgement waits for.
//!
//! An exchange that has looked for the last time may have its first byte in the kernel or in the
//! ring; a shard acknowledges a revoke only when none of the key is there (rule Q20).

use std::cell::RefCell;
use std::rc::Rc;

use keybrake_proto::key::KeyId;

/// How far an exchange is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It has a hold and will look once more.
    Admitted,
    /// It has looked; its send is not known to be complete.
    Looked,
    /// All of it was sent.
    AtVendor,
}

#[derive(Clone, Copy)]
struct Flight {
    key: KeyId,
    phase: Phase,
}

/// A shard's exchanges.
#[derive(Default)]
pub(crate) struct InFlight {
    flights: RefCell<Vec<Option<Flight>>>,
    free: RefCell<Vec<usize>>,
    waiting: RefCell<Vec<Waiting>>,
}

/// A revoke that waits; called with the number of exchanges at the vendor.
struct Waiting {
    key: KeyId,
    acknowledge: Box<dyn FnOnce(u64)>,
}

/// One exchange; it leaves the list when this is dropped.
pub(crate) struct Ticket {
    in_flight: Rc<InFlight>,
    index: usize,
}

impl InFlight {
    /// Adds an exchange that has a hold.
    pub(crate) fn board(self: &Rc<InFlight>, key: KeyId) -> Ticket {
        let flight = Some(Flight { key, phase: Phase::Admitted });
        let mut flights = self.flights.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or(flights.len());
        match flights.get_mut(index) {
            Some(empty) => *empty = flight,
            None => flights.push(flight),
        }
        Ticket { in_flight: Rc::clone(self), index }
    }

    /// Calls `acknowledge` as soon as no exchange of `key` has looked and not finished sending; at
    /// once, where none has.
    pub(crate) fn acknowledge(&self, key: KeyId, acknowledge: impl FnOnce(u64) + 'static) {
        self.waiting.borrow_mut().push(Waiting { key, acknowledge: Box::new(acknowledge) });
        self.settle_waiting();
    }

    fn settle_waiting(&self) {
        let is_ready = |one: &mut Waiting| self.count(one.key, Phase::Looked) == 0;
        // Collected first: what is called may come back here.
        let ready: Vec<Waiting> = self.waiting.borrow_mut().extract_if(.., is_ready).collect();
        for one in ready {
            (one.acknowledge)(self.count(one.key, Phase::AtVendor));
        }
    }

    fn count(&self, key: KeyId, phase: Phase) -> u64 {
        let flights = self.flights.borrow();
        let counted = flights.iter().flatten().filter(|flight| flight.key == key && flight.phase == phase);
        u64::try_from(counted.count()).unwrap_or(u64::MAX)
    }

    fn change(&self, index: usize, flight: impl FnOnce(&mut Option<Flight>)) {
        if let Some(slot) = self.flights.borrow_mut().get_mut(index) {
            flight(slot);
        }
        if !self.waiting.borrow().is_empty() {
            self.settle_waiting();
        }
    }
}

impl Ticket {
    /// The last look was taken, and it said yes.
    pub(crate) fn looked(&self) {
        self.enter(Phase::Looked);
    }

    /// The send is complete.
    pub(crate) fn sent(&self) {
        self.enter(Phase::AtVendor);
    }

    fn enter(&self, phase: Phase) {
        self.in_flight.change(self.index, |slot| {
            if let Some(flight) = slot {
                flight.phase = phase;
            }
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.in_flight.free.borrow_mut().push(self.index);
        self.in_flight.change(self.index, |slot| *slot = None);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn key(name: &[u8; 16]) -> KeyId {
        KeyId::from_bytes(name).unwrap()
    }

    /// What a revoke of `of` was told, once it was.
    fn ask(in_flight: &InFlight, of: KeyId) -> Rc<Cell<Option<u64>>> {
        let told = Rc::new(Cell::new(None));
        let tell = Rc::clone(&told);
        in_flight.acknowledge(of, move |at_vendor| tell.set(Some(at_vendor)));
        told
    }

    #[test]
    fn a_revoke_waits_for_exchanges_that_have_looked_and_for_no_others() {
        let in_flight = Rc::new(InFlight::default());
        let (ours, other) = (key(b"aaaaaaaaaaaaaaaa"), key(b"bbbbbbbbbbbbbbbb"));
        let admitted = in_flight.board(ours);
        let sending = in_flight.board(ours);
        sending.looked();
        let elsewhere = in_flight.board(other);
        elsewhere.looked();
        let told = ask(&in_flight, ours);
        assert_eq!(told.get(), None);
        drop(admitted);
        assert_eq!(told.get(), None);
        sending.sent();
        assert_eq!(told.get(), Some(1));
        drop(elsewhere);
    }

    #[test]
    fn a_revoke_with_nothing_looked_is_told_at_once() {
        let in_flight = Rc::new(InFlight::default());
        let ours = key(b"aaaaaaaaaaaaaaaa");
        let _admitted = in_flight.board(ours);
        assert_eq!(ask(&in_flight, ours).get(), Some(0));
    }

    #[test]
    fn an_exchange_that_fails_while_it_sends_lets_the_revoke_go_on() {
        let in_flight = Rc::new(InFlight::default());
        let ours = key(b"aaaaaaaaaaaaaaaa");
        let sending = in_flight.board(ours);
        sending.looked();
        let told = ask(&in_flight, ours);
        drop(sending);
        assert_eq!(told.get(), Some(0));
    }
}
