//! The guard: what one look at both clocks changes, from the start of the process on.

use super::{
    Agreement, BACK_US_MAX, BootId, BootMicros, DRIFT_PPM_MAX, Reading, Record, RecordKind, Trust,
    unexplained,
};
use crate::time::{Day, UnixMicros};

/// Between two times that the anchor follows the wall clock: 60 s.
const REFRESH_US: u64 = 60_000_000;

/// An agreement with what is needed to change it. Each change makes a new one, which takes effect when the
/// caller has recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// What the shards go by.
    pub agreement: Agreement,
    /// The latest that either clock was: expiry goes by it (rule Q10).
    pub seen: UnixMicros,
    boot_id: BootId,
    /// When the anchor was taken.
    anchored: BootMicros,
}

/// Whether a change must be on disk before it takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// The day or the anchor changed.
    First,
    /// Only what was seen, or nothing at all.
    Whenever,
}

impl Guard {
    /// The guard of a process that starts at `now`. `spent` is the newest day that the store has spend of.
    pub fn start(record: Option<Record>, spent: Day, boot_id: BootId, now: Reading) -> Guard {
        let day = record.map_or(spent, |record| record.day.max(spent));
        let offset = |wall: UnixMicros, boot| Agreement::at(Reading { wall, boot }, day).offset_us;
        let (offset_us, trust) = match record {
            // A boot clock that went back is another one, such as that of a moved container.
            Some(Record { at, boot_id: before, kind, .. }) if before.is(boot_id) && at.boot <= now.boot => {
                let trust = if kind == RecordKind::Anchor { Trust::Stepped } else { Trust::Floor };
                (offset(at.wall, at.boot), trust)
            }
            Some(record) => (offset(record.at.wall, now.boot), Trust::Floor),
            // What was spent on a day was spent after the day began.
            None => (offset(spent.start(), now.boot), Trust::Floor),
        };
        let agreement = Agreement { offset_us, day, trust };
        let seen = record.map_or(UnixMicros::default(), |record| record.seen);
        let guard = Guard { agreement, seen, boot_id, anchored: now.boot };
        guard.look(now).0
    }

    /// The guard after a look at both clocks, and whether it may take effect before it is on disk.
    #[must_use]
    pub fn look(self, now: Reading) -> (Guard, Recorded) {
        let Agreement { day, trust, .. } = self.agreement;
        let deviation_us = self.agreement.deviation_us(now);
        let expected = self.agreement.expected(now.boot);
        let seen = Guard { seen: self.seen.max(now.wall).max(expected), ..self };
        match trust {
            Trust::Floor if deviation_us < -BACK_US_MAX => return (seen, Recorded::Whenever),
            Trust::Floor => return (seen.anchor(now, day.max(now.wall.day())), Recorded::First),
            Trust::Stepped if unexplained(deviation_us).is_some() => return (seen, Recorded::Whenever),
            Trust::Stepped | Trust::Agreed => {}
        }
        if let Some(day) = self.agreement.next_day(now) {
            return (seen.anchor(now, day), Recorded::First);
        }
        if trust == Trust::Stepped {
            let agreement = Agreement { trust: Trust::Agreed, ..self.agreement };
            return (Guard { agreement, ..seen }, Recorded::Whenever);
        }
        let waited_us = now.boot.0.saturating_sub(self.anchored.0);
        let drift_us = waited_us.saturating_mul(DRIFT_PPM_MAX) / 1_000_000;
        let allowed_us = drift_us.min(BACK_US_MAX.unsigned_abs());
        if waited_us >= REFRESH_US && deviation_us.unsigned_abs() <= allowed_us {
            return (seen.anchor(now, day), Recorded::Whenever);
        }
        (seen, Recorded::Whenever)
    }

    /// The guard after an operator has said that the wall clock is right. The day does not go back.
    #[must_use]
    pub fn confirm(self, now: Reading) -> Guard {
        let day = self.agreement.day.max(now.wall.day());
        Guard { seen: now.wall, ..self.anchor(now, day) }
    }

    /// What the next start is to find, as of `boot`.
    pub fn record(&self, boot: BootMicros) -> Record {
        let Guard { agreement: Agreement { day, trust, .. }, seen, boot_id, .. } = *self;
        let at = Reading { wall: self.agreement.expected(boot), boot };
        // What is only a floor must not be taken for an anchor.
        let kind = if trust == Trust::Floor { RecordKind::Floor } else { RecordKind::Anchor };
        Record { at, boot_id, day, seen, kind }
    }

    fn anchor(self, now: Reading, day: Day) -> Guard {
        Guard { agreement: Agreement::at(now, day), anchored: now.boot, ..self }
    }
}
