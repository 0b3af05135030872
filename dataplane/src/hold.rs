//! Money kept aside for one exchange, which ends exactly once (N4).

use std::rc::Rc;
use std::sync::Arc;

use keybrake_proto::journal::{Booking, End, IntentId};
use keybrake_proto::ledger::chain::{Refusal, Sent};
use keybrake_proto::money::Micros;
use keybrake_proto::time::Day;

use crate::journal::Journal;
use crate::registry::KeyEntry;

/// A quote kept aside in a key's account. Only [`Hold::reserve`] makes one.
///
/// Dropped without an end it becomes a doubt: what is not known to be free is not free.
#[must_use]
pub(crate) struct Hold {
    entry: Arc<KeyEntry>,
    journal: Rc<Journal>,
    /// Its intent, once that is recorded.
    intent: Option<IntentId>,
    quote: Micros,
    day: Day,
    ended: bool,
}

/// How a hold ended, for the journal and the row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    /// What it counts on each level of the chain, leaf first.
    pub(crate) bookings: Vec<Booking>,
    /// What became of it.
    pub(crate) end: End,
    /// What the row says it came to: the charge, or the quote while in doubt.
    pub(crate) amount: Micros,
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
        Ok(Hold { entry, journal, intent: None, quote, day, ended: false })
    }

    /// The day of the account at the reserve.
    pub(crate) fn day(&self) -> Day {
        self.day
    }

    /// The key.
    pub(crate) fn entry(&self) -> &Arc<KeyEntry> {
        &self.entry
    }

    /// Its intent is in the journal.
    pub(crate) fn recorded(&mut self, intent: IntentId) {
        self.intent = Some(intent);
    }

    /// It was sent and cost this much; zero where the vendor definitely refused.
    pub(crate) fn settle(self, today: Day, charge: Micros) -> Ended {
        self.end(today, charge, Sent::Yes)
    }

    /// Nothing was sent.
    pub(crate) fn release(self, today: Day) -> Ended {
        self.end(today, Micros::ZERO, Sent::No)
    }

    /// It was sent and the outcome is not known: the quote stays held and committed.
    pub(crate) fn doubt(mut self, today: Day) -> Ended {
        self.ended = true;
        self.entry.add_doubt(self.quote);
        let mut bookings = Vec::with_capacity(1);
        self.entry.account.doubt(today, |key, day| {
            bookings.push(Booking { key, day, charge: Micros::ZERO, requests: 1 });
        });
        Ended { bookings, end: End::InDoubt, amount: self.quote }
    }

    fn end(mut self, today: Day, charge: Micros, sent: Sent) -> Ended {
        self.ended = true;
        let requests = match sent {
            Sent::Yes => 1,
            Sent::No => 0,
        };
        let mut bookings = Vec::with_capacity(1);
        self.entry.account.settle(today, self.quote, charge, sent, |key, day| {
            bookings.push(Booking { key, day, charge, requests });
        });
        Ended { bookings, end: End::Booked, amount: charge }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        match self.intent {
            // Its exchange panicked: the intent's own row tells of it.
            Some(intent) => {
                self.entry.add_doubt(self.quote);
                // On whichever day the word is.
                self.entry.account.doubt(Day::default(), |_, _| ());
                self.journal.lost(intent);
            }
            // Nothing is sent without an intent.
            None => {
                self.entry.account.settle(self.day, self.quote, Micros::ZERO, Sent::No, |_, _| ());
            }
        }
    }
}
