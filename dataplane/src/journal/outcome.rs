//! How exchanges end: into the journal, or to the process that has taken over and keeps the books since then
//! (rule Q23).

use crossbeam_channel::Sender;
use keybrake_proto::audit::AuditRow;
use keybrake_proto::catalog::amount::{Counted, ObjectId};
use keybrake_proto::handover::{Fate, Parting};
use keybrake_proto::journal::{Booking, End, IntentId, Record};
use keybrake_proto::key::KeyId;

use super::{Journal, ROW_BYTES};

impl Journal {
    /// Records how an exchange ended, or that a request was denied. It is never lost. `fate` is for a process
    /// that has taken over: an exchange without one is in doubt there.
    pub(crate) fn outcome(
        &self,
        intent: Option<IntentId>,
        end: End,
        bookings: Vec<Booking>,
        fate: Option<Fate>,
        row: &AuditRow<'_>,
    ) {
        let row = row.encode(Vec::with_capacity(ROW_BYTES));
        let is_told = self.tell(&match (intent, fate) {
            (Some(intent), Some(fate)) => Parting::Ended { intent, fate, row: &row },
            (Some(intent), None) => Parting::Lost { intent },
            (None, _) => Parting::Denied { row: &row },
        });
        if !is_told {
            self.record(&Record::Outcome { intent, end, bookings, row: &row });
        }
    }

    /// Records what a vendor's object counts for a key, behind the outcome that says so.
    pub(crate) fn counted(&self, intent: IntentId, key: KeyId, object: ObjectId, counted: Counted) {
        if !self.tell(&Parting::Counted { intent, key, object: object.clone(), counted }) {
            self.record(&Record::Counted { key, object, counted });
        }
    }

    /// Records that a decision was taken back and nothing was sent: its exchange goes on under another intent, which
    /// has the row. A process that has taken over never hears of it: what had not looked was refused before.
    pub(crate) fn withdraw(&self, intent: IntentId, bookings: Vec<Booking>) {
        self.record(&Record::Outcome { intent: Some(intent), end: End::Booked, bookings, row: &[] });
    }

    /// Records that an exchange vanished: what it held is in doubt.
    pub(crate) fn lost(&self, intent: IntentId) {
        if !self.tell(&Parting::Lost { intent }) {
            self.record(&Record::Lost { intent });
        }
    }

    fn record(&self, record: &Record<'_>) {
        let mut state = self.state.borrow_mut();
        state.push(record);
        // What the file does not take waits for a fresh one.
        self.flush(&mut state).ok();
        self.hand_over(&mut state);
    }

    /// Gives storage all there is, as [`Journal::finish`] does; from then on nothing is written here, and
    /// frames of [`Parting`]s go to `successor`. What storage has no room for stands in the file.
    pub(crate) fn pass_on(&self, successor: Sender<Vec<u8>>) {
        let mut state = self.state.borrow_mut();
        self.flush(&mut state).ok();
        let last = state.next.saturating_sub(1);
        self.hand_over_up_to(&mut state, last);
        state.successor = Some(successor);
        // Whoever waits for a sync is not sent.
        (state.active, state.spare) = (None, None);
        state.waiters.clear();
    }

    /// Tells the successor; `false` where there is none.
    fn tell(&self, parting: &Parting<'_>) -> bool {
        let state = self.state.borrow();
        let Some(successor) = &state.successor else { return false };
        // One that is gone has left its exchanges in doubt for the next start.
        successor.send(parting.frame()).ok();
        true
    }
}
