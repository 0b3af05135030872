//! One scan of the audit: which rows SQLite wants of it, and their values.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use keybrake_proto::audit::{AuditHead, AuditRow, Outcome};
use keybrake_proto::key::KeyId;
use keybrake_proto::time::UnixMicros;
use rusqlite::types::Value;

use super::budget::Budget;
use super::columns::{self, COLUMNS, Source, Stored};
use super::moment;
use super::value::Cell;
use crate::history::{HistoryError, Snapshot, Step};

/// The most rows that are fetched at once: with all their texts about 6 MiB.
const ROWS_AT_ONCE: usize = 512;

/// The most rows that are looked at between two looks at the budget.
const LOOKED_AT_ONCE: u64 = 4096;

/// What all scans of one query work with.
pub(super) struct Shared {
    /// `None` where there is no store yet.
    pub(super) snapshot: Option<Snapshot>,
    pub(super) budget: Budget,
    failure: Mutex<Option<HistoryError>>,
}

impl Shared {
    pub(super) fn new(snapshot: Option<Snapshot>, budget: Budget) -> Shared {
        Shared { snapshot, budget, failure: Mutex::new(None) }
    }

    /// Why a scan failed, if one did.
    pub(super) fn take_failure(&self) -> Option<HistoryError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: HistoryError) -> rusqlite::Error {
        let text = error.to_string();
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        rusqlite::Error::ModuleError(text)
    }
}

/// How a value of a row must compare with a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
}

impl Test {
    /// As it stands in a plan.
    pub(super) const fn letter(self) -> char {
        match self {
            Test::Equal => '=',
            Test::NotEqual => '!',
            Test::AtLeast => '>',
            Test::AtMost => '<',
        }
    }

    fn of_letter(letter: char) -> Option<Test> {
        [Test::Equal, Test::NotEqual, Test::AtLeast, Test::AtMost]
            .into_iter()
            .find(|test| test.letter() == letter)
    }
}

/// What [`super::table`] found that a scan can do by itself. SQLite looks at every row that comes once more, so what is
/// left out of a plan costs time and never a wrong answer.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// The tests, in the order of the values that SQLite gives.
    pub(super) tests: Vec<(usize, Test)>,
    /// A bit for each column whose value is read.
    pub(super) used: u64,
    pub(super) newest_first: bool,
}

impl Plan {
    /// As the text that SQLite keeps between planning and running: `12=3!;1f;d`.
    pub(super) fn text(&self) -> String {
        let tests: String =
            self.tests.iter().map(|(column, test)| format!("{column}{}", test.letter())).collect();
        format!("{tests};{:x};{}", self.used, if self.newest_first { 'd' } else { 'a' })
    }

    /// Reads what [`Plan::text`] wrote.
    pub(super) fn parse(text: &str) -> Option<Plan> {
        let mut parts = text.split(';');
        let mut tests = Vec::new();
        for test in parts.next()?.split_inclusive(|c: char| !c.is_ascii_digit()) {
            let letter = test.chars().next_back()?;
            let column = test.strip_suffix(letter)?.parse().ok()?;
            tests.push((column, Test::of_letter(letter)?));
        }
        let used = u64::from_str_radix(parts.next()?, 16).ok()?;
        Some(Plan { tests, used, newest_first: parts.next()? == "d" })
    }
}

/// A test with the value it compares with.
enum Filter {
    Text { column: usize, value: String, is_equal: bool },
    Key { column: usize, value: Option<KeyId>, is_equal: bool },
}

impl Filter {
    /// Whether SQLite could want a row with these values. NULL is neither equal nor unequal to anything.
    fn passes(&self, row: &Stored<'_>) -> bool {
        match self {
            Filter::Text { column, value, is_equal } => {
                match columns::at(*column).map(|column| column.source) {
                    Some(Source::Text(of)) => of(row).is_some_and(|text| (text == value) == *is_equal),
                    _ => true,
                }
            }
            Filter::Key { column, value, is_equal } => match columns::at(*column).map(|column| column.source)
            {
                Some(Source::Key(of)) => of(row).is_some_and(|id| (Some(id) == *value) == *is_equal),
                _ => true,
            },
        }
    }
}

/// The rows of one scan, a few at a time.
pub(super) struct Scan {
    shared: Arc<Shared>,
    with_amendments: bool,
    range: RangeInclusive<u64>,
    is_done: bool,
    newest_first: bool,
    since: Option<UnixMicros>,
    until: Option<UnixMicros>,
    /// Those that look at the head alone come first.
    filters: Vec<Filter>,
    heads_only: usize,
    used: Vec<usize>,
    needs_row: bool,
    fetched: VecDeque<Fetched>,
}

/// A row that passed: its sequence, and the values of the used columns.
struct Fetched {
    sequence: u64,
    cells: Vec<Cell>,
}

impl Scan {
    /// A scan by `plan` with the values of its tests.
    pub(super) fn new(
        shared: Arc<Shared>,
        with_amendments: bool,
        plan: &Plan,
        values: &[Value],
    ) -> rusqlite::Result<Scan> {
        let used: Vec<usize> = (0..COLUMNS.len())
            .filter(|at| plan.used.checked_shr(u32::try_from(*at).unwrap_or(64)).unwrap_or(0) & 1 == 1)
            .collect();
        let mut scan = Scan {
            range: shared.snapshot.as_ref().map_or(0..=0, Snapshot::all),
            is_done: shared.snapshot.is_none(),
            shared,
            with_amendments,
            newest_first: plan.newest_first,
            since: None,
            until: None,
            filters: Vec::new(),
            heads_only: 0,
            needs_row: used.iter().any(|at| columns::at(*at).is_some_and(|column| !column.in_head)),
            used,
            fetched: VecDeque::new(),
        };
        for ((column, test), value) in plan.tests.iter().zip(values) {
            scan.take(*column, *test, value);
        }
        let in_head = |filter: &Filter| match filter {
            Filter::Text { column, .. } | Filter::Key { column, .. } => {
                columns::at(*column).is_some_and(|column| column.in_head)
            }
        };
        scan.filters.sort_by_key(|filter| !in_head(filter));
        scan.heads_only = scan.filters.iter().take_while(|filter| in_head(filter)).count();
        scan.bound()?;
        Ok(scan)
    }

    /// Takes one test over. What is not understood is left to SQLite.
    fn take(&mut self, column: usize, test: Test, value: &Value) {
        let Some(found) = columns::at(column) else { return };
        match (found.source, value) {
            // Nothing compares with NULL.
            (_, Value::Null) => self.is_done = true,
            (Source::Text(_), Value::Text(text)) if matches!(test, Test::Equal | Test::NotEqual) => {
                let is_equal = test == Test::Equal;
                self.filters.push(Filter::Text { column, value: text.clone(), is_equal });
            }
            (Source::Key(_), Value::Text(text)) if matches!(test, Test::Equal | Test::NotEqual) => {
                // Ids are written in one way only: what is no id is equal to none.
                let value = text.parse().ok();
                self.filters.push(Filter::Key { column, value, is_equal: test == Test::Equal });
            }
            (Source::Time(_), Value::Text(text)) => {
                if let Some(at) = moment::parse(text) {
                    self.bound_time(test, at);
                }
            }
            (Source::Integer(_), Value::Integer(number)) if found.name == "ts_micros" => {
                self.bound_time(test, UnixMicros(u64::try_from(*number).unwrap_or(0)));
            }
            (Source::Integer(_), Value::Integer(number)) if found.name == "sequence" => {
                let number = u64::try_from(*number).unwrap_or(0);
                let (first, last) = (*self.range.start(), *self.range.end());
                self.range = match test {
                    Test::Equal => first.max(number)..=last.min(number),
                    Test::AtLeast => first.max(number)..=last,
                    Test::AtMost => first..=last.min(number),
                    Test::NotEqual => first..=last,
                };
            }
            _ => {}
        }
    }

    fn bound_time(&mut self, test: Test, at: UnixMicros) {
        if matches!(test, Test::Equal | Test::AtLeast) {
            self.since = Some(self.since.map_or(at, |since| since.max(at)));
        }
        if matches!(test, Test::Equal | Test::AtMost) {
            let until = UnixMicros(at.0.saturating_add(1));
            self.until = Some(self.until.map_or(until, |other| other.min(until)));
        }
    }

    /// Narrows the sequences by the times.
    fn bound(&mut self) -> rusqlite::Result<()> {
        let Some(snapshot) = &self.shared.snapshot else { return Ok(()) };
        if self.since.is_some() || self.until.is_some() {
            let within = snapshot.within(self.since, self.until).map_err(|error| self.shared.fail(error))?;
            let first = *self.range.start().max(within.start());
            self.range = first..=*self.range.end().min(within.end());
        }
        Ok(())
    }

    /// Goes to the next row.
    pub(super) fn advance(&mut self) -> rusqlite::Result<()> {
        self.fetched.pop_front();
        self.fill()
    }

    /// Fetches rows unless there are some, or none are left.
    pub(super) fn fill(&mut self) -> rusqlite::Result<()> {
        while self.fetched.is_empty() && !self.is_done {
            if !self.shared.budget.may_go_on() {
                return Err(rusqlite::Error::ModuleError("stopped".to_owned()));
            }
            self.fetch()?;
        }
        Ok(())
    }

    fn fetch(&mut self) -> rusqlite::Result<()> {
        let shared = Arc::clone(&self.shared);
        let Some(snapshot) = &shared.snapshot else { return Ok(()) };
        let (mut looked, mut unreadable, mut last) = (0_u64, 0_u64, None);
        let mut fetched = std::mem::take(&mut self.fetched);
        let range = self.range.clone();
        let visited = snapshot.visit(&range, self.newest_first, |at, bytes| {
            looked = looked.saturating_add(1);
            match at.map(|at| (at, self.read(snapshot, at, bytes))) {
                Some((_, Ok(Some(row)))) => fetched.push_back(row),
                Some((_, Ok(None))) => {}
                Some((_, Err(()))) | None => unreadable = unreadable.saturating_add(1),
            }
            last = at.or(last);
            let is_enough = fetched.len() >= ROWS_AT_ONCE || looked >= LOOKED_AT_ONCE;
            // A key that is no sequence is no place to go on from.
            if is_enough && at.is_some() { Step::Stop } else { Step::Next }
        });
        self.fetched = fetched;
        shared.budget.count(looked, unreadable, self.fetched.len());
        visited.map_err(|error| shared.fail(error))?;
        self.go_on_behind(last.filter(|_| looked >= LOOKED_AT_ONCE || self.fetched.len() >= ROWS_AT_ONCE));
        Ok(())
    }

    /// The next fetch begins behind `last`; with `None` there is none.
    fn go_on_behind(&mut self, last: Option<u64>) {
        let (first, end) = (*self.range.start(), *self.range.end());
        let next = match (last, self.newest_first) {
            (Some(last), true) => last.checked_sub(1).map(|last| first..=last),
            (Some(last), false) => last.checked_add(1).map(|first| first..=end),
            (None, _) => None,
        };
        match next {
            Some(range) if !range.is_empty() => self.range = range,
            Some(_) | None => self.is_done = true,
        }
    }

    /// The values of a row, if it passes.
    fn read(&self, snapshot: &Snapshot, sequence: u64, bytes: &[u8]) -> Result<Option<Fetched>, ()> {
        let head = AuditHead::decode(bytes).map_err(|_| ())?;
        if head.outcome == Outcome::Amendment && !self.with_amendments
            || self.since.is_some_and(|since| head.ts < since)
            || self.until.is_some_and(|until| head.ts >= until)
        {
            return Ok(None);
        }
        let mut row = Stored::of_head(sequence, &head);
        let (of_head, of_row) = self.filters.split_at(self.heads_only);
        if !of_head.iter().all(|filter| filter.passes(&row)) {
            return Ok(None);
        }
        if self.needs_row || !of_row.is_empty() {
            row.row = AuditRow::decode(bytes).map_err(|_| ())?;
            row.amendment = snapshot.amendment(row.row.id);
            if !of_row.iter().all(|filter| filter.passes(&row)) {
                return Ok(None);
            }
        }
        let cell = |at: &usize| columns::at(*at).map_or(Cell::Null, |column| column.source.cell(&row));
        Ok(Some(Fetched { sequence, cells: self.used.iter().map(cell).collect() }))
    }

    /// Whether all rows were seen.
    pub(super) fn is_at_end(&self) -> bool {
        self.fetched.is_empty()
    }

    /// The value of a used column of this row.
    pub(super) fn cell(&self, column: usize) -> Option<&Cell> {
        let at = self.used.iter().position(|used| *used == column)?;
        self.fetched.front()?.cells.get(at)
    }

    /// The sequence of this row.
    pub(super) fn sequence(&self) -> i64 {
        self.fetched.front().map_or(0, |row| i64::try_from(row.sequence).unwrap_or(i64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_back_as_written() {
        let plan = Plan {
            tests: vec![(0, Test::AtLeast), (12, Test::NotEqual), (3, Test::Equal), (1, Test::AtMost)],
            used: 0x7fff_0000_0000_0001,
            newest_first: true,
        };
        assert_eq!(Plan::parse(&plan.text()), Some(plan));
        assert_eq!(Plan::parse(&Plan::default().text()), Some(Plan::default()));
        assert_eq!(Plan::parse("1;x;a"), None);
    }
}
