//! The exchanges of a shard, by how far they are: what a revoke's acknowledgement waits for.
//!
//! An exchange that has looked for the last time may have its first byte in the kernel or in the
//! ring; a shard acknowledges a revoke only when none of its keys is there (rule Q20). One whose vendor
//! does not take what is sent would hold the acknowledgement back for as long as the vendor likes, so after
//! [`STUCK_TICKS`] its connection is shut down: the send ends by itself, and the outcome is not known.

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use keybrake_proto::journal::IntentId;
use keybrake_proto::key::KeyId;

use crate::deadline::{Deadlines, SlotId};

/// Ticks that a send under a revoked key may take: the first may come at once, so between 100 and 200 ms.
const STUCK_TICKS: u32 = 2;

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
    intent: IntentId,
    phase: Phase,
    /// Its connection to the vendor, once it has looked.
    connection: Option<SlotId>,
}

/// The keys of a revoke.
pub(crate) type KeySet = Arc<HashSet<KeyId>>;

/// What becomes of the exchanges that are at a vendor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtVendor {
    /// They finish.
    Finish,
    /// Their connections are shut down.
    Cut,
    /// They finish, and a send that takes long is waited for: the key is changed, not revoked.
    Wait,
}

/// What a shard says of a revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InForce {
    /// Exchanges that were at the vendor when it acknowledged, cut ones too.
    pub(crate) at_vendor: u64,
    /// Exchanges whose connection was shut down.
    pub(crate) cut: u64,
    /// When it acknowledged.
    pub(crate) at: Instant,
}

/// A shard's exchanges.
pub(crate) struct InFlight {
    deadlines: Rc<Deadlines>,
    flights: RefCell<Vec<Option<Flight>>>,
    free: RefCell<Vec<usize>>,
    waiting: RefCell<Vec<Waiting>>,
}

/// Whose exchanges are waited for.
enum Whose {
    /// Those of a revoke.
    Keys(KeySet),
    /// All: of a change, or since another process takes over, and acknowledges revokes from then on (rule Q23).
    Everybody,
}

impl Whose {
    fn contains(&self, key: &KeyId) -> bool {
        match self {
            Whose::Keys(keys) => keys.contains(key),
            Whose::Everybody => true,
        }
    }
}

/// A revoke, a change or a hand-over that waits.
struct Waiting {
    whose: Whose,
    /// The exchanges that had looked and not sent: further ones look under what holds now, if at all.
    sending: Vec<usize>,
    at_vendor: AtVendor,
    cut: u64,
    ticks: u32,
    acknowledge: Box<dyn FnOnce(InForce)>,
}

/// One exchange; it leaves the list when this is dropped.
pub(crate) struct Ticket {
    in_flight: Rc<InFlight>,
    index: usize,
}

impl InFlight {
    /// Nobody in flight; connections are shut down through `deadlines`.
    pub(crate) fn new(deadlines: Rc<Deadlines>) -> InFlight {
        InFlight {
            deadlines,
            flights: RefCell::default(),
            free: RefCell::default(),
            waiting: RefCell::default(),
        }
    }

    /// Adds an exchange that has a hold.
    pub(crate) fn board(self: &Rc<InFlight>, key: KeyId, intent: IntentId) -> Ticket {
        let flight = Some(Flight { key, intent, phase: Phase::Admitted, connection: None });
        let mut flights = self.flights.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or(flights.len());
        match flights.get_mut(index) {
            Some(empty) => *empty = flight,
            None => flights.push(flight),
        }
        Ticket { in_flight: Rc::clone(self), index }
    }

    /// Calls `acknowledge` as soon as no exchange of `keys`, whose accounts are closed, has looked and not
    /// finished sending; at once, where none has.
    pub(crate) fn acknowledge(
        &self,
        keys: KeySet,
        at_vendor: AtVendor,
        acknowledge: impl FnOnce(InForce) + 'static,
    ) {
        self.wait_for(Whose::Keys(keys), at_vendor, Box::new(acknowledge));
    }

    /// The same for the exchanges of all keys: none that has looked already is still sending.
    pub(crate) fn acknowledge_all(&self, acknowledge: impl FnOnce(InForce) + 'static) {
        self.wait_for(Whose::Everybody, AtVendor::Wait, Box::new(acknowledge));
    }

    /// Calls `quiet` as soon as no exchange at all has looked and not finished sending. None may look any
    /// more.
    pub(crate) fn quiesce(&self, quiet: impl FnOnce(InForce) + 'static) {
        self.wait_for(Whose::Everybody, AtVendor::Finish, Box::new(quiet));
    }

    /// The intents of the exchanges that have not ended.
    pub(crate) fn running(&self) -> Vec<IntentId> {
        self.flights.borrow().iter().flatten().map(|flight| flight.intent).collect()
    }

    fn wait_for(&self, whose: Whose, at_vendor: AtVendor, acknowledge: Box<dyn FnOnce(InForce)>) {
        let cut = match at_vendor {
            AtVendor::Finish | AtVendor::Wait => 0,
            AtVendor::Cut => self.shut_down(&whose, |phase| phase != Phase::Admitted),
        };
        let sending = self.sending(&whose);
        self.waiting.borrow_mut().push(Waiting { whose, sending, at_vendor, cut, ticks: 0, acknowledge });
        self.settle_waiting();
    }

    /// Shuts down what is stuck in its send and holds a revoke back; called every tick.
    pub(crate) fn tick(&self) {
        let mut waiting = self.waiting.borrow_mut();
        for one in waiting.iter_mut().filter(|one| one.at_vendor != AtVendor::Wait) {
            one.ticks = one.ticks.saturating_add(1);
            if one.ticks >= STUCK_TICKS {
                let cut = self.shut_down(&one.whose, |phase| phase == Phase::Looked);
                one.cut = one.cut.saturating_add(cut);
            }
        }
    }

    /// Shuts down the connections of the exchanges of `whose` in some phases; answers how many.
    fn shut_down(&self, whose: &Whose, phases: impl Fn(Phase) -> bool) -> u64 {
        let flights = self.flights.borrow();
        let chosen =
            flights.iter().flatten().filter(|flight| phases(flight.phase) && whose.contains(&flight.key));
        let connections = chosen.filter_map(|flight| flight.connection);
        let cut = |connection: &SlotId| match whose {
            Whose::Keys(_) => self.deadlines.revoke(*connection),
            Whose::Everybody => self.deadlines.expire(*connection),
        };
        u64::try_from(connections.filter(cut).count()).unwrap_or(u64::MAX)
    }

    fn settle_waiting(&self) {
        // Collected first: what is called may come back here.
        let ready: Vec<Waiting> =
            self.waiting.borrow_mut().extract_if(.., |one| one.sending.is_empty()).collect();
        for one in ready {
            let at_vendor = self.count(&one.whose, Phase::AtVendor);
            (one.acknowledge)(InForce { at_vendor, cut: one.cut, at: Instant::now() });
        }
    }

    fn count(&self, whose: &Whose, phase: Phase) -> u64 {
        let flights = self.flights.borrow();
        let of_phase = flights.iter().flatten().filter(|flight| flight.phase == phase);
        u64::try_from(of_phase.filter(|flight| whose.contains(&flight.key)).count()).unwrap_or(u64::MAX)
    }

    fn sending(&self, whose: &Whose) -> Vec<usize> {
        let flights = self.flights.borrow();
        let is_sending = |flight: &Flight| flight.phase == Phase::Looked && whose.contains(&flight.key);
        let sending =
            flights.iter().enumerate().filter(|(_, flight)| flight.as_ref().is_some_and(is_sending));
        sending.map(|(index, _)| index).collect()
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Option<Flight>)) {
        let before = match self.flights.borrow_mut().get_mut(index) {
            Some(slot) => {
                let before = *slot;
                change(slot);
                before
            }
            None => None,
        };
        if before.is_none_or(|flight| flight.phase != Phase::Looked) {
            return;
        }
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            return;
        }
        for one in waiting.iter_mut() {
            one.sending.retain(|sending| *sending != index);
        }
        drop(waiting);
        self.settle_waiting();
    }
}

impl Ticket {
    /// The last look was taken, and it said yes: it is sent on `connection`.
    pub(crate) fn looked(&self, connection: SlotId) {
        self.in_flight.change(self.index, |slot| {
            if let Some(flight) = slot {
                (flight.phase, flight.connection) = (Phase::Looked, Some(connection));
            }
        });
    }

    /// The send is complete.
    pub(crate) fn sent(&self) {
        self.in_flight.change(self.index, |slot| {
            if let Some(flight) = slot {
                flight.phase = Phase::AtVendor;
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
    use std::io::Read as _;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::deadline::Deadline;

    const OURS: &[u8; 16] = b"aaaaaaaaaaaaaaaa";
    const OTHER: &[u8; 16] = b"bbbbbbbbbbbbbbbb";

    const INTENT: IntentId = IntentId::from_u64(1);

    fn key(name: &[u8; 16]) -> KeyId {
        KeyId::from_bytes(name).unwrap()
    }

    fn in_flight() -> Rc<InFlight> {
        Rc::new(InFlight::new(Rc::default()))
    }

    /// What a revoke of `of` was told, once it was: at the vendor, and cut.
    fn ask(in_flight: &InFlight, of: &[u8; 16], at_vendor: AtVendor) -> Rc<Cell<Option<(u64, u64)>>> {
        let told = Rc::new(Cell::new(None));
        let tell = Rc::clone(&told);
        in_flight.acknowledge(Arc::new([key(of)].into()), at_vendor, move |in_force| {
            tell.set(Some((in_force.at_vendor, in_force.cut)));
        });
        told
    }

    /// A connection to a vendor: its deadline, our end and the vendor's.
    fn connect(in_flight: &InFlight) -> (Deadline, UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (in_flight.deadlines.slot(ours.as_raw_fd()), ours, theirs)
    }

    fn is_open(mut theirs: &UnixStream) -> bool {
        theirs.read(&mut [0]).is_err()
    }

    #[test]
    fn q20_a_revoke_waits_for_exchanges_that_have_looked_and_for_no_others() {
        let in_flight = in_flight();
        let connections = [connect(&in_flight), connect(&in_flight)];
        let admitted = in_flight.board(key(OURS), INTENT);
        let sending = in_flight.board(key(OURS), INTENT);
        sending.looked(connections[0].0.id());
        let elsewhere = in_flight.board(key(OTHER), INTENT);
        elsewhere.looked(connections[1].0.id());
        let told = ask(&in_flight, OURS, AtVendor::Finish);
        assert_eq!(told.get(), None);
        drop(admitted);
        assert_eq!(told.get(), None);
        sending.sent();
        assert_eq!(told.get(), Some((1, 0)));
        assert!(is_open(&connections[0].2) && is_open(&connections[1].2));
        drop(elsewhere);
    }

    #[test]
    fn q20_a_revoke_with_nothing_looked_is_told_at_once() {
        let in_flight = in_flight();
        let _admitted = in_flight.board(key(OURS), INTENT);
        assert_eq!(ask(&in_flight, OURS, AtVendor::Finish).get(), Some((0, 0)));
    }

    #[test]
    fn q20_an_exchange_that_fails_while_it_sends_lets_the_revoke_go_on() {
        let in_flight = in_flight();
        let connection = connect(&in_flight);
        let sending = in_flight.board(key(OURS), INTENT);
        sending.looked(connection.0.id());
        let told = ask(&in_flight, OURS, AtVendor::Finish);
        drop(sending);
        assert_eq!(told.get(), Some((0, 0)));
    }

    #[test]
    fn q22_a_change_waits_for_what_had_looked_for_as_long_as_it_takes_and_for_nothing_later() {
        let in_flight = in_flight();
        let connections = [connect(&in_flight), connect(&in_flight)];
        let before = in_flight.board(key(OURS), INTENT);
        before.looked(connections[0].0.id());
        let told = ask(&in_flight, OURS, AtVendor::Wait);
        let after = in_flight.board(key(OURS), INTENT);
        after.looked(connections[1].0.id());
        after.sent();
        assert_eq!(told.get(), None, "that one was decided by the new policy");
        for _ in 0..=STUCK_TICKS {
            in_flight.tick();
        }
        assert!(is_open(&connections[0].2), "nothing is cut for a change");
        before.sent();
        assert_eq!(told.get(), Some((2, 0)));
    }

    #[test]
    fn q20_a_send_that_does_not_end_is_shut_down_and_others_are_not() {
        let in_flight = in_flight();
        let connections = [connect(&in_flight), connect(&in_flight), connect(&in_flight)];
        let (stuck, at_vendor) = (in_flight.board(key(OURS), INTENT), in_flight.board(key(OURS), INTENT));
        let elsewhere = in_flight.board(key(OTHER), INTENT);
        for (ticket, (deadline, ..)) in [&stuck, &at_vendor, &elsewhere].into_iter().zip(&connections) {
            ticket.looked(deadline.id());
        }
        at_vendor.sent();
        let told = ask(&in_flight, OURS, AtVendor::Finish);
        in_flight.tick();
        assert!(is_open(&connections[0].2), "a send may take a moment");
        in_flight.tick();
        assert!(!is_open(&connections[0].2) && connections[0].0.was_revoked());
        assert!(is_open(&connections[1].2) && is_open(&connections[2].2));
        assert_eq!(told.get(), None, "the send has not ended yet");
        stuck.sent();
        assert_eq!(told.get(), Some((2, 1)));
    }

    #[test]
    fn a_revoke_that_cuts_shuts_down_what_is_at_the_vendor_and_answers() {
        let in_flight = in_flight();
        let connections = [connect(&in_flight), connect(&in_flight)];
        let (ours, elsewhere) = (in_flight.board(key(OURS), INTENT), in_flight.board(key(OTHER), INTENT));
        ours.looked(connections[0].0.id());
        elsewhere.looked(connections[1].0.id());
        ours.sent();
        elsewhere.sent();
        let told = ask(&in_flight, OURS, AtVendor::Cut);
        assert_eq!(told.get(), Some((1, 1)));
        assert!(!is_open(&connections[0].2) && is_open(&connections[1].2));
        assert_eq!(ask(&in_flight, OURS, AtVendor::Cut).get(), Some((1, 0)), "it was cut already");
    }

    #[test]
    fn q23_a_hand_over_waits_for_every_send_and_ends_those_that_are_stuck() {
        let in_flight = in_flight();
        let connections = [connect(&in_flight), connect(&in_flight)];
        let (stuck, sent) = (in_flight.board(key(OURS), INTENT), in_flight.board(key(OTHER), INTENT));
        stuck.looked(connections[0].0.id());
        sent.looked(connections[1].0.id());
        let quiet = Rc::new(Cell::new(false));
        let tell = Rc::clone(&quiet);
        in_flight.quiesce(move |_| tell.set(true));
        sent.sent();
        in_flight.tick();
        assert!(!quiet.get() && is_open(&connections[0].2));
        in_flight.tick();
        assert!(!is_open(&connections[0].2) && is_open(&connections[1].2));
        let deadline = &connections[0].0;
        assert!(deadline.has_expired() && !deadline.was_revoked(), "its key is as good as before");
        stuck.sent();
        assert!(quiet.get());
        assert_eq!(in_flight.running(), [INTENT, INTENT]);
        drop((stuck, sent));
        assert_eq!(in_flight.running(), []);
    }
}
