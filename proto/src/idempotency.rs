//! Who pays for a repeat: several exchanges under one Idempotency-Key share one reservation (rule M8).
//!
//! A vendor that remembers such keys carries a request out once. So the money is held once, the
//! exchanges on it are counted, and what they end as together decides what becomes of it (rule Q6).
//! Nothing here knows of accounts: an [`Entry`] says what is to be done with the money.

use serde::{Deserialize, Serialize};

use crate::money::Micros;
use crate::time::UnixMicros;

/// How long a repeat of an executed call is free, in seconds: an hour less than vendors remember.
pub const REMEMBERED_S: u64 = 23 * 60 * 60;

/// What makes two requests of one vault key the same: the first half of a SHA-256 over
/// Idempotency-Key, account, method, path, query and body (rule Q5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(pub [u8; 16]);

/// Names a reservation for ever; a later one has a higher number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReservationId(pub u64);

/// Which reservation an exchange is on, and which request it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The reservation.
    pub reservation: ReservationId,
    /// The request.
    pub identity: Identity,
}

/// What a repeat finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// Money is held for the request: the repeat holds none of its own.
    Sharing(Micros),
    /// The request was executed and paid for: a repeat is free.
    Free,
}

/// Whose answer a reply is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// That of this very exchange: the vendor carried it out.
    Own,
    /// A stored one: the vendor carried the request out before.
    Replayed,
}

/// How one exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The vendor carried the request out.
    Executed(Answer),
    /// Nobody knows.
    Unknown,
    /// This exchange definitely moved nothing.
    MovedNothing,
}

/// What becomes of the money when an exchange ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Money {
    /// Nothing: others hold it, or it is settled.
    Untouched,
    /// Nothing yet: others hold it still. This exchange may have been executed, which must be
    /// recorded with it, as the records of the others may be lost.
    Unsure(Micros),
    /// What is held becomes the charge.
    Settled(Micros),
    /// What is in doubt becomes the charge.
    DoubtSettled(Micros),
    /// The vendor carried it out once more than was paid for: the charge is booked on top.
    Beyond,
    /// What is held is free again.
    Released(Micros),
    /// What is held stays so: it is in doubt.
    InDoubt(Micros),
}

/// One request under one Idempotency-Key, with all exchanges that carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    reservation: ReservationId,
    state: State,
    /// Exchanges that have not ended.
    running: u32,
    /// Times the vendor said that it carried the request out there and then.
    executions: u32,
    /// Times a charge was booked.
    charges: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Exchanges run, and none is known to be executed; `unknown` where one ended so.
    Held { quote: Micros, unknown: bool },
    /// All ended without an execution, and one may have been.
    InDoubt { quote: Micros },
    /// Executed, last seen at that time.
    Executed { at: UnixMicros },
    /// All ended, and nothing moved.
    Released,
}

impl Entry {
    /// The first exchange has just reserved `quote`.
    pub fn first(reservation: ReservationId, quote: Micros) -> Entry {
        let state = State::Held { quote, unknown: false };
        Entry { reservation, state, running: 1, executions: 0, charges: 0 }
    }

    /// As an earlier run left it: executed, and paid for once.
    pub fn executed(reservation: ReservationId, at: UnixMicros) -> Entry {
        Entry { reservation, state: State::Executed { at }, running: 0, executions: 1, charges: 1 }
    }

    /// As an earlier run left it: in doubt.
    pub fn in_doubt(reservation: ReservationId, quote: Micros) -> Entry {
        Entry { reservation, state: State::InDoubt { quote }, running: 0, executions: 0, charges: 0 }
    }

    /// As another process left it: held, and none of its exchanges is known to have ended.
    pub fn held(reservation: ReservationId, quote: Micros) -> Entry {
        Entry { running: 0, ..Entry::first(reservation, quote) }
    }

    /// Its reservation.
    pub fn reservation(&self) -> ReservationId {
        self.reservation
    }

    /// Whether exchanges have not ended.
    pub fn is_running(&self) -> bool {
        self.running > 0
    }

    /// Whether the vendor may have forgotten the request, or never kept it: a repeat reserves anew.
    pub fn is_over(&self, now: UnixMicros) -> bool {
        match self.state {
            State::Held { .. } | State::InDoubt { .. } => false,
            State::Executed { at } => at.plus_seconds(REMEMBERED_S) < now,
            State::Released => true,
        }
    }

    /// Whether its doubt is there for somebody else to end.
    pub fn has_doubt(&self) -> bool {
        matches!(self.state, State::InDoubt { .. })
    }

    /// What a repeat at `now` would find; `None`: it reserves anew.
    pub fn finds(&self, now: UnixMicros) -> Option<Joined> {
        match self.state {
            _ if self.is_over(now) => None,
            State::Held { quote, .. } | State::InDoubt { quote } => Some(Joined::Sharing(quote)),
            State::Executed { .. } => Some(Joined::Free),
            State::Released => None,
        }
    }

    /// One more exchange carries the request.
    pub fn join(&mut self) {
        self.running = self.running.saturating_add(1);
    }

    /// One of its exchanges ends at `now`.
    pub fn end(&mut self, ending: Ending, now: UnixMicros) -> Money {
        self.running = self.running.saturating_sub(1);
        match ending {
            Ending::Executed(answer) => self.execute(answer, now),
            Ending::Unknown | Ending::MovedNothing => self.end_without(ending == Ending::Unknown),
        }
    }

    /// However the replies of one execution come in, the original or a stored copy first, they are
    /// paid for once; each further execution is paid for too.
    fn execute(&mut self, answer: Answer, at: UnixMicros) -> Money {
        if answer == Answer::Own {
            self.executions = self.executions.saturating_add(1);
        }
        let is_due = self.executions.max(1) > self.charges;
        let money = match self.state {
            _ if !is_due => Money::Untouched,
            State::Held { quote, .. } => Money::Settled(quote),
            State::InDoubt { quote } => Money::DoubtSettled(quote),
            State::Executed { .. } | State::Released => Money::Beyond,
        };
        self.charges = self.charges.saturating_add(u32::from(is_due));
        // A stored answer does not make the vendor remember it any longer.
        let first_at = match self.state {
            State::Executed { at } if !is_due => at,
            State::Held { .. } | State::InDoubt { .. } | State::Executed { .. } | State::Released => at,
        };
        self.state = State::Executed { at: first_at };
        money
    }

    fn end_without(&mut self, is_unknown: bool) -> Money {
        let State::Held { quote, unknown } = self.state else { return Money::Untouched };
        let unknown = unknown || is_unknown;
        let (state, money) = match (self.running, unknown) {
            (0, true) => (State::InDoubt { quote }, Money::InDoubt(quote)),
            (0, false) => (State::Released, Money::Released(quote)),
            (_, _) if is_unknown => (State::Held { quote, unknown }, Money::Unsure(quote)),
            (_, _) => (State::Held { quote, unknown }, Money::Untouched),
        };
        self.state = state;
        money
    }
}

#[cfg(test)]
mod tests;
