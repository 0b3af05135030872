//! The rows as of one moment, in either direction, and what was amended of them.
//!
//! Rows never change (rule Q16), so a snapshot is the newest sequence at that moment. It holds no iterator between two
//! reads: one would pin the store's files.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use keybrake_proto::audit::{AuditHead, AuditRow, Outcome};
use keybrake_proto::money::Micros;
use keybrake_proto::time::UnixMicros;
use rocksdb::DB;

use super::{COMMIT_DELAY_S_MAX, CaughtUp, History, HistoryError, family, sequence};

/// The most amendments that are kept in memory, about 200 bytes each. An operator makes each of them by hand.
const AMENDMENTS_MAX: usize = 500_000;

/// How often a reader of many rows asks whether to go on.
const ROWS_BETWEEN_LOOKS: u64 = 1024;

/// What a call in doubt came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Amendment {
    /// The id of the row that says so.
    pub(crate) id: String,
    /// What the call counts from then on.
    pub(crate) amount: Micros,
}

/// All amendments of a store up to a sequence, by the id of the amended row. There are few, and rows do not point
/// forward to theirs, so they are read once and kept.
#[derive(Debug, Default)]
pub(super) struct Amendments {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Rows up to this one were looked at.
    upto: Option<u64>,
    of: Arc<HashMap<String, Amendment>>,
}

/// Whether a visitor wants more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It does.
    Next,
    /// It does not.
    Stop,
}

/// The rows that were committed when it was taken.
#[derive(Clone)]
pub(crate) struct Snapshot {
    store: Arc<DB>,
    /// The newest row; `None` where there is none.
    newest: Option<u64>,
    /// When the newest row's exchange had ended.
    newest_end: Option<UnixMicros>,
    /// When it was taken.
    taken: Instant,
    amendments: Arc<HashMap<String, Amendment>>,
}

impl History {
    /// Shows the rows behind `after` to `visitor`, oldest first; answers the newest one's sequence. For who follows the
    /// audit: amendments are rows like others.
    pub(crate) fn follow(
        &self,
        after: Option<u64>,
        mut visitor: impl FnMut(u64, &[u8]),
    ) -> Result<Option<u64>, HistoryError> {
        let Some((store, _)) = self.opened()? else { return Ok(None) };
        let snapshot = Snapshot::bare(store)?;
        let first = after.map_or(0, |after| after.saturating_add(1));
        let followed = snapshot.visit(&(first..=u64::MAX), false, |at, bytes| {
            at.into_iter().for_each(|at| visitor(at, bytes));
            Step::Next
        });
        if followed.is_err() {
            // Files a secondary knew may be gone: the next call opens it anew.
            self.lock().take();
        }
        followed.map(|()| snapshot.newest)
    }

    /// The rows as of now; `None` where there is no store yet. While `may_go_on` says so it first reads the amendments
    /// that it does not know yet: all rows for the first snapshot, the new ones later.
    pub(crate) fn snapshot(&self, may_go_on: &dyn Fn() -> bool) -> Result<Option<Snapshot>, HistoryError> {
        let take = |(store, amendments): CaughtUp| Snapshot::take(store, &amendments, may_go_on);
        match self.opened()?.map(take).transpose() {
            Err(HistoryError::Store(_)) => {
                // Files a secondary knew may be gone.
                self.lock().take();
                self.opened()?.map(take).transpose()
            }
            other => other,
        }
    }
}

impl Snapshot {
    fn take(
        store: Arc<DB>,
        amendments: &Amendments,
        may_go_on: &dyn Fn() -> bool,
    ) -> Result<Snapshot, HistoryError> {
        let mut snapshot = Snapshot::bare(store)?;
        snapshot.amendments = amendments.upto(&snapshot, may_go_on)?;
        Ok(snapshot)
    }

    /// Without amendments.
    fn bare(store: Arc<DB>) -> Result<Snapshot, HistoryError> {
        let taken = Instant::now();
        let (newest, newest_end) = {
            let mut rows = store.raw_iterator_cf(family(&store)?);
            rows.seek_to_last();
            // A key that is no sequence sorts behind those that are.
            while rows.key().is_some_and(|key| sequence(key).is_none()) {
                rows.prev();
            }
            rows.status()?;
            let row = rows.value().and_then(|bytes| AuditRow::decode(bytes).ok());
            let end = row.map(|row| UnixMicros(row.ts.0.saturating_add(row.latency_us)));
            (rows.key().and_then(sequence), end)
        };
        Ok(Snapshot { store, newest, newest_end, taken, amendments: Arc::default() })
    }

    /// When the newest row's exchange had ended, and when the snapshot was taken.
    pub(crate) const fn age(&self) -> (Option<UnixMicros>, Instant) {
        (self.newest_end, self.taken)
    }

    /// The newest row's sequence.
    pub(crate) const fn newest(&self) -> Option<u64> {
        self.newest
    }

    /// All sequences.
    pub(crate) fn all(&self) -> RangeInclusive<u64> {
        0..=self.newest.unwrap_or_default()
    }

    /// What the call of the row with this id came to, where an operator said so.
    pub(crate) fn amendment(&self, id: &str) -> Option<&Amendment> {
        self.amendments.get(id)
    }

    /// Shows rows of `range` to `visitor`, oldest first or newest first, until it stops. Keys that are no sequence come
    /// as `None`.
    pub(crate) fn visit(
        &self,
        range: &RangeInclusive<u64>,
        newest_first: bool,
        mut visitor: impl FnMut(Option<u64>, &[u8]) -> Step,
    ) -> Result<(), HistoryError> {
        let Some(newest) = self.newest else { return Ok(()) };
        let range = *range.start()..=(*range.end()).min(newest);
        if range.is_empty() {
            return Ok(());
        }
        let mut rows = self.store.raw_iterator_cf(family(&self.store)?);
        if newest_first {
            rows.seek_for_prev(range.end().to_be_bytes());
        } else {
            rows.seek(range.start().to_be_bytes());
        }
        while let Some((key, bytes)) = rows.item() {
            let at = sequence(key);
            if at.is_some_and(|at| !range.contains(&at)) || visitor(at, bytes) == Step::Stop {
                break;
            }
            if newest_first {
                rows.prev();
            } else {
                rows.next();
            }
        }
        Ok(rows.status()?)
    }

    /// The sequences outside which no row can have started at `since` or later and before `until`.
    ///
    /// Rows lie in the order of their commits; [`COMMIT_DELAY_S_MAX`] bounds how far that is from the order of their
    /// starts (see [`super::Query`]), as long as the system clock is not set back by more than that.
    pub(crate) fn within(
        &self,
        since: Option<UnixMicros>,
        until: Option<UnixMicros>,
    ) -> Result<RangeInclusive<u64>, HistoryError> {
        let (mut first, mut last) = self.all().into_inner();
        if let Some(since) = since {
            let is_before = |ts: UnixMicros| ts.plus_seconds(COMMIT_DELAY_S_MAX) < since;
            first = self.boundary(first, last, is_before)?;
        }
        if let Some(until) = until {
            let until = until.plus_seconds(COMMIT_DELAY_S_MAX);
            let end = self.boundary(first, last, |ts| ts < until)?;
            // The first row behind it is the last one's successor; one row too many does no harm.
            last = last.min(end);
        }
        Ok(first..=last)
    }

    /// A sequence such that every row before it is `true`, or stands before a row that is, by halving.
    fn boundary(
        &self,
        first: u64,
        last: u64,
        is_before: impl Fn(UnixMicros) -> bool,
    ) -> Result<u64, HistoryError> {
        let (mut low, mut high) = (first, last.saturating_add(1));
        while low < high {
            let middle = low.midpoint(high);
            let mut found = None;
            self.visit(&(middle..=last), false, |at, bytes| {
                found = AuditHead::decode(bytes).ok().map(|head| (at, is_before(head.ts)));
                Step::Stop
            })?;
            match found {
                Some((at, true)) => low = at.unwrap_or(middle).max(middle).saturating_add(1),
                Some((_, false)) | None => high = middle,
            }
        }
        Ok(low)
    }
}

impl Amendments {
    /// The amendments among the rows of `snapshot`, and perhaps later ones.
    fn upto(
        &self,
        snapshot: &Snapshot,
        may_go_on: &dyn Fn() -> bool,
    ) -> Result<Arc<HashMap<String, Amendment>>, HistoryError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(newest) = snapshot.newest else { return Ok(Arc::clone(&known.of)) };
        let first = known.upto.map_or(0, |upto| upto.saturating_add(1));
        let (mut looked, mut is_stopped, mut upto) = (0_u64, false, known.upto);
        let mut new = Vec::new();
        snapshot.visit(&(first..=newest), false, |at, bytes| {
            looked = looked.saturating_add(1);
            if looked.is_multiple_of(ROWS_BETWEEN_LOOKS) && !may_go_on() {
                is_stopped = true;
                return Step::Stop;
            }
            new.extend(amendment(bytes));
            upto = at.or(upto);
            Step::Next
        })?;
        if !new.is_empty() {
            let of = Arc::make_mut(&mut known.of);
            of.extend(new);
            if of.len() > AMENDMENTS_MAX {
                return Err(HistoryError::Directory(format!(
                    "the audit has more than {AMENDMENTS_MAX} amendments; read it with GET /audit"
                )));
            }
        }
        // What was read stays known, so that the next query goes on behind it.
        known.upto = upto;
        if is_stopped { Err(HistoryError::Stopped) } else { Ok(Arc::clone(&known.of)) }
    }
}

/// Which row these bytes amend, if they do.
fn amendment(bytes: &[u8]) -> Option<(String, Amendment)> {
    let head = AuditHead::decode(bytes).ok()?;
    let row = (head.outcome == Outcome::Amendment).then(|| AuditRow::decode(bytes).ok())??;
    Some((row.amends?.to_owned(), Amendment { id: row.id.to_owned(), amount: row.amount }))
}
