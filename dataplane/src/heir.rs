//! The exchanges that another process still runs, after this one has taken its place (rule Q23).
//!
//! Their money is held here as that of any other exchange, and ends the same way: the process before says
//! how each of them ended, and what it did not say when it is gone is in doubt.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use keybrake_proto::audit::{AuditRow, Outcome};
use keybrake_proto::handover::{Fate, Parting};
use keybrake_proto::idempotency::Ending;
use keybrake_proto::journal::{End, IntentId};
use keybrake_proto::ledger::chain::Sent;
use keybrake_proto::time::Day;

use crate::hold::{Ended, Hold};
use crate::idempotency::Memory;
use crate::journal::Journal;
use crate::objects::Claim;
use crate::registry::KeyEntry;
use crate::requests::Tally;
use crate::storage::Running;

/// An exchange of the process before and the key it is under.
#[derive(Clone)]
pub(crate) struct Inherited {
    pub(crate) entry: Arc<KeyEntry>,
    pub(crate) running: Running,
    /// The object that it acts on.
    pub(crate) claim: Option<Arc<Claim>>,
}

/// What an exchange of the process before keeps until it ends.
struct Kept {
    hold: Hold,
    /// That it exists keeps others from the object.
    _claim: Option<Arc<Claim>>,
}

/// Exchanges of the process before that have not ended, of all shards.
#[derive(Clone, Default)]
pub(crate) struct Left(Arc<AtomicU64>);

/// One shard's share of them.
pub(crate) struct Heir {
    journal: Rc<Journal>,
    holds: RefCell<HashMap<IntentId, Kept>>,
    left: Left,
}

impl Left {
    /// So many, before any shard has its share.
    pub(crate) fn new(exchanges: usize) -> Left {
        Left(Arc::new(u64::try_from(exchanges).unwrap_or(u64::MAX).into()))
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn one_less(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Heir {
    /// Holds what `inherited` stand for; the accounts and `memory` count it already, and so does `left`.
    pub(crate) fn new(
        journal: &Rc<Journal>,
        memory: &Arc<Memory>,
        tally: &Rc<Tally>,
        inherited: &[Inherited],
        left: Left,
    ) -> Heir {
        let hold = |one: &Inherited| {
            let hold = Hold::inherited(&one.entry, journal, memory, tally, &one.running);
            (one.running.intent, Kept { hold, _claim: one.claim.as_ref().map(Arc::clone) })
        };
        let holds = RefCell::new(inherited.iter().map(hold).collect());
        Heir { journal: Rc::clone(journal), holds, left }
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.holds.borrow().is_empty()
    }

    /// The process before has said this, of an exchange of this shard.
    pub(crate) fn obey(&self, today: Day, parting: &Parting<'_>) {
        match parting {
            Parting::Ended { intent, fate, row } => {
                // The object is free again when the outcome is on its way.
                let Some(Kept { hold, _claim }) = self.take(*intent) else { return };
                // A row that cannot be read tells nothing, so the exchange is as good as lost.
                let Ok(row) = AuditRow::decode(row) else { return drop(hold) };
                let ended = hold.end_as(today, *fate);
                let row = AuditRow { amount: ended.amount, outcome: outcome(&ended, row.outcome), ..row };
                let bookings = ended.recorded();
                self.journal.outcome(Some(*intent), ended.end, bookings, Some(ended.fate), &row);
            }
            Parting::Lost { intent } => drop(self.take(*intent)),
            Parting::Counted { intent, key, object, counted } => {
                self.journal.counted(*intent, *key, object.clone(), *counted);
            }
            Parting::Denied { row } => {
                if let Ok(row) = AuditRow::decode(row) {
                    self.journal.outcome(None, End::Booked, Vec::new(), None, &row);
                }
            }
        }
    }

    /// The process before is gone, or not waited for any longer: what is left is in doubt.
    pub(crate) fn forsake(&self) {
        let intents: Vec<IntentId> = self.holds.borrow().keys().copied().collect();
        for intent in intents {
            drop(self.take(intent));
        }
    }

    fn take(&self, intent: IntentId) -> Option<Kept> {
        let kept = self.holds.borrow_mut().remove(&intent)?;
        self.left.one_less();
        Some(kept)
    }
}

/// What the row says: the process before knew nothing of repeats that came since.
fn outcome(ended: &Ended, told: Outcome) -> Outcome {
    let Fate { ending, sent, .. } = ended.fate;
    match (ended.end, told) {
        (End::InDoubt, _) => Outcome::Unknown,
        (_, Outcome::Unknown) if ending == Ending::Unknown => Outcome::Unknown,
        (_, Outcome::Unknown) if sent == Sent::No => Outcome::Failed,
        (_, Outcome::Unknown) => Outcome::Forwarded,
        (_, told) => told,
    }
}
