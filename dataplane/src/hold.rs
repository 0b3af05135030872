//! Money kept aside for one exchange, which ends exactly once (N4).

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::handover::Fate;
use keybrake_proto::idempotency::{Answer, Ending, Identity, Joined, Money, Share};
use keybrake_proto::journal::{Booking, End, IntentId};
use keybrake_proto::ledger::chain::{Refusal, Sent};
use keybrake_proto::money::Micros;
use keybrake_proto::time::{Day, Month, UnixMicros};

use crate::idempotency::{Memory, Place};
use crate::journal::Journal;
use crate::registry::KeyEntry;
use crate::requests::{Tally, UsedUp};
use crate::storage::Running;

/// A quote kept aside in a key's account. Only [`Hold::reserve`] makes one.
///
/// Dropped without an end it becomes a doubt: what is not known to be free is not free.
#[must_use]
pub(crate) struct Hold {
    entry: Arc<KeyEntry>,
    journal: Rc<Journal>,
    /// Its intent, once that is recorded.
    intent: Option<IntentId>,
    /// The encoded row of the intent.
    row: Vec<u8>,
    /// What it keeps aside, or what the reservation does that it is on with others.
    quote: Micros,
    shared: Option<Shared>,
    day: Day,
    /// The month it counts in as one of the installation's requests; a look-up does not.
    counted: Option<(Rc<Tally>, Month)>,
    ended: bool,
}

/// A reservation that repeats of the request are on too.
struct Shared {
    memory: Arc<Memory>,
    share: Share,
}

/// The vendor carried a request out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Execution {
    /// What it cost.
    pub(crate) charge: Micros,
    /// Whose answer says so.
    pub(crate) answer: Answer,
    /// When that was known.
    pub(crate) at: UnixMicros,
}

/// How a hold ended, for the journal and the row.
///
/// The account has it already, so it must reach the journal: dropped without [`Ended::recorded`], as by a panic, it
/// is recorded with the row of its intent.
pub(crate) struct Ended {
    /// What it counts on each level of the chain, leaf first.
    bookings: Cell<Vec<Booking>>,
    unrecorded: Cell<Option<Unrecorded>>,
    /// What became of it.
    pub(crate) end: End,
    /// What the row says it came to: the charge, or the quote while in doubt.
    pub(crate) amount: Micros,
    /// What had been held for that.
    pub(crate) covered: Micros,
    /// How its exchange ended by itself, for a process that has taken over.
    pub(crate) fate: Fate,
}

/// An end that the journal does not have.
struct Unrecorded {
    journal: Rc<Journal>,
    intent: IntentId,
    /// The encoded row of the intent.
    row: Vec<u8>,
}

impl Hold {
    /// Keeps `quote` aside in the account of `entry`.
    pub(crate) fn reserve(
        entry: &Arc<KeyEntry>,
        journal: &Rc<Journal>,
        today: Day,
        quote: Micros,
    ) -> Result<Hold, Refusal> {
        let day = entry.account.reserve(today, quote)?;
        let (entry, journal) = (Arc::clone(entry), Rc::clone(journal));
        let (row, counted) = Default::default();
        Ok(Hold { entry, journal, intent: None, row, quote, shared: None, day, counted, ended: false })
    }

    /// Keeps `quote` aside for a request that `memory` knows no other exchange of, or shares what is
    /// kept aside for it (rule M8).
    pub(crate) fn share(
        entry: &Arc<KeyEntry>,
        journal: &Rc<Journal>,
        (memory, identity): (&Arc<Memory>, Identity),
        (today, now): (Day, UnixMicros),
        quote: Micros,
    ) -> Result<Hold, Refusal> {
        let reserve = |quote| entry.account.reserve(today, quote);
        let joined = memory.join(entry.id, identity, quote, now, reserve)?;
        let Some((Place { share, joined }, day)) = joined else {
            return Hold::reserve(entry, journal, today, quote);
        };
        let quote = match joined {
            None => quote,
            // In its intent too: whichever exchange a crash finds, the money is found.
            Some(Joined::Sharing(quote)) => quote,
            Some(Joined::Free) => Micros::ZERO,
        };
        let (entry, journal) = (Arc::clone(entry), Rc::clone(journal));
        let shared = Some(Shared { memory: Arc::clone(memory), share });
        let (row, counted) = Default::default();
        Ok(Hold { entry, journal, intent: None, row, quote, shared, day, counted, ended: false })
    }

    /// The hold of an exchange that another process has admitted. What it keeps aside stands in the account
    /// and in `memory` already.
    pub(crate) fn inherited(
        entry: &Arc<KeyEntry>,
        journal: &Rc<Journal>,
        memory: &Arc<Memory>,
        tally: &Rc<Tally>,
        running: &Running,
    ) -> Hold {
        let Running { intent, day, quote, share, .. } = *running;
        // The count of the start has it.
        let counted = Some((Rc::clone(tally), day.month()));
        let (entry, journal) = (Arc::clone(entry), Rc::clone(journal));
        let shared = share.map(|share| Shared { memory: Arc::clone(memory), share });
        let row = Vec::new();
        Hold { entry, journal, intent: Some(intent), row, quote, shared, day, counted, ended: false }
    }

    /// It counts as one of the installation's requests, unless it ends unsent.
    pub(crate) fn count(&mut self, tally: &Rc<Tally>) -> Result<(), UsedUp> {
        let month = tally.take(self.day)?;
        self.counted = Some((Rc::clone(tally), month));
        Ok(())
    }

    /// What is kept aside for it, by itself or by others.
    pub(crate) fn quote(&self) -> Micros {
        self.quote
    }

    /// The reservation that others may be on too.
    pub(crate) fn shared(&self) -> Option<Share> {
        self.shared.as_ref().map(|shared| shared.share)
    }

    /// The day of the account at the reserve.
    pub(crate) fn day(&self) -> Day {
        self.day
    }

    /// The key.
    pub(crate) fn entry(&self) -> &Arc<KeyEntry> {
        &self.entry
    }

    /// Its intent is in the journal, with this encoded row.
    pub(crate) fn recorded(&mut self, intent: IntentId, row: Vec<u8>) {
        (self.intent, self.row) = (Some(intent), row);
    }

    /// It was sent and cost this much.
    pub(crate) fn settle(self, today: Day, execution: Execution) -> Ended {
        let Execution { charge, answer, at } = execution;
        self.end_as(today, Fate { ending: Ending::Executed(answer), sent: Sent::Yes, charge, at })
    }

    /// It was sent, and the vendor definitely refused.
    pub(crate) fn refused(self, today: Day) -> Ended {
        self.end_as(today, without_charge(Ending::MovedNothing, Sent::Yes))
    }

    /// Nothing was sent.
    pub(crate) fn release(self, today: Day) -> Ended {
        self.end_as(today, without_charge(Ending::MovedNothing, Sent::No))
    }

    /// It was sent and the outcome is not known: the quote stays held and committed.
    pub(crate) fn doubt(self, today: Day) -> Ended {
        self.end_as(today, without_charge(Ending::Unknown, Sent::Yes))
    }

    /// Its exchange ended so, here or in the process that admitted it.
    pub(crate) fn end_as(self, today: Day, fate: Fate) -> Ended {
        match fate.ending {
            _ if self.shared.is_some() => self.end_shared(today, fate),
            Ending::Unknown => self.keep(today, fate),
            Ending::Executed(_) | Ending::MovedNothing => self.end(today, fate),
        }
    }

    fn keep(mut self, today: Day, fate: Fate) -> Ended {
        self.ended = true;
        self.entry.add_doubt(self.quote);
        let mut bookings = Vec::with_capacity(1);
        self.entry.account.doubt(today, |key, day| {
            bookings.push(Booking { key, day, charge: Micros::ZERO, requests: 1 });
        });
        let quote = self.quote;
        self.ended_as(bookings, End::InDoubt, (quote, quote), fate)
    }

    fn end(mut self, today: Day, fate: Fate) -> Ended {
        self.ended = true;
        let bookings = self.book(today, self.quote, fate.charge, fate.sent);
        let quote = self.quote;
        self.ended_as(bookings, End::Booked, (fate.charge, quote), fate)
    }

    /// Ends one of the exchanges on a reservation; what becomes of the money, all of them decide.
    fn end_shared(mut self, today: Day, fate: Fate) -> Ended {
        let Fate { ending, sent, charge, at } = fate;
        self.ended = true;
        let money = self.end_in_memory(ending, at);
        let none = Micros::ZERO;
        let (freed, charged, end) = match money {
            Money::Untouched => (none, none, End::Booked),
            // Of one reservation the books have one doubt, and none if an exchange was executed.
            Money::Unsure(_) | Money::InDoubt(_) => (none, none, End::InDoubt),
            Money::Released(quote) => (quote, none, End::Booked),
            Money::Settled(quote) | Money::DoubtSettled(quote) => (quote, charge, End::Executed { at }),
            Money::Beyond => (none, charge, End::Executed { at }),
        };
        // A request of this exchange's own ends with whatever money it ends.
        let bookings = self.book(today, freed, charged, sent);
        let (amount, covered) = match money {
            Money::Unsure(quote) | Money::InDoubt(quote) => (quote, quote),
            Money::Untouched
            | Money::Released(_)
            | Money::Settled(_)
            | Money::DoubtSettled(_)
            | Money::Beyond => (charged, freed),
        };
        self.ended_as(bookings, end, (amount, covered), fate)
    }

    fn ended_as(
        &mut self,
        bookings: Vec<Booking>,
        end: End,
        (amount, covered): (Micros, Micros),
        fate: Fate,
    ) -> Ended {
        let row = std::mem::take(&mut self.row);
        // Without a row it is of an exchange that nothing is told of, or of another process that tells itself.
        let intent = self.intent.filter(|_| !row.is_empty());
        let unrecorded = intent.map(|intent| Unrecorded { journal: Rc::clone(&self.journal), intent, row });
        Ended { bookings: Cell::new(bookings), unrecorded: Cell::new(unrecorded), end, amount, covered, fate }
    }

    fn end_in_memory(&self, ending: Ending, at: UnixMicros) -> Money {
        let Some(Shared { memory, share }) = &self.shared else { return Money::Untouched };
        let money = memory.end(self.entry.id, *share, ending, at);
        match money {
            Money::InDoubt(quote) => self.entry.add_doubt(quote),
            Money::DoubtSettled(quote) => self.entry.end_doubt(quote),
            Money::Untouched | Money::Unsure(_) | Money::Settled(_) | Money::Beyond | Money::Released(_) => {}
        }
        money
    }

    /// Replaces `freed` of what is held by `charge`, and ends one request.
    fn book(&self, today: Day, freed: Micros, charge: Micros, sent: Sent) -> Vec<Booking> {
        let requests = match sent {
            Sent::Yes => 1,
            Sent::No => {
                if let Some((tally, month)) = &self.counted {
                    tally.give_back(*month);
                }
                0
            }
        };
        let mut bookings = Vec::with_capacity(1);
        self.entry.account.settle(today, freed, charge, sent, |key, day| {
            bookings.push(Booking { key, day, charge, requests });
        });
        bookings
    }
}

impl Ended {
    /// The caller records it now: what it counts on each level of the chain, leaf first.
    pub(crate) fn recorded(&self) -> Vec<Booking> {
        self.unrecorded.take();
        self.bookings.take()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let Some(Unrecorded { journal, intent, row }) = self.unrecorded.take() else { return };
        // It is a row that was encoded here.
        let Ok(row) = AuditRow::decode(&row) else { return journal.lost(intent) };
        let outcome = match (self.end, self.fate.sent) {
            (End::InDoubt, _) => Outcome::Unknown,
            (End::Booked | End::Executed { .. }, Sent::No) => Outcome::Failed,
            // The agent did not get the reply, or not all of it.
            (End::Booked | End::Executed { .. }, Sent::Yes) => Outcome::Cut,
        };
        let row = AuditRow { amount: self.amount, outcome, ..row };
        journal.outcome(Some(intent), self.end, self.bookings.take(), Some(self.fate), &row);
    }
}

fn without_charge(ending: Ending, sent: Sent) -> Fate {
    Fate { ending, sent, charge: Micros::ZERO, at: UnixMicros::default() }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (ending, sent) = match self.intent {
            // Its exchange panicked: the intent's own row tells of it.
            Some(_) => (Ending::Unknown, Sent::Yes),
            // Nothing is sent without an intent.
            None => (Ending::MovedNothing, Sent::No),
        };
        let freed = match (&self.shared, ending) {
            (Some(_), _) => {
                let money = self.end_in_memory(ending, UnixMicros::default());
                if let Money::Released(quote) = money { quote } else { Micros::ZERO }
            }
            (None, Ending::MovedNothing) => self.quote,
            (None, _) => {
                self.entry.add_doubt(self.quote);
                Micros::ZERO
            }
        };
        // On whichever day the word is.
        self.book(Day::default(), freed, Micros::ZERO, sent);
        if let Some(intent) = self.intent {
            self.journal.lost(intent);
        }
    }
}
