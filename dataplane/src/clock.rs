//! The two clocks, and the day that money counts on (rules M9, M10, Q10). What a reading means is decided in
//! `keybrake_proto::clock`; here it is read, shared, recorded and told.
//!
//! Workers read a few atomics and no lock. One thread of its own looks at both clocks, and alone rolls the day.

mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use keybrake_proto::clock::{
    Agreement, BootId, BootMicros, Deviation, Doubt, FORWARD_US_MAX, Guard, Objection, Reading, Recorded,
    Trust,
};
use keybrake_proto::control::{ClockState, ClockView};
use keybrake_proto::time::{Day, UnixMicros};
use rustix::time::{ClockId, clock_gettime};

/// The file's name in `data.dir`.
const FILE_NAME: &str = "clock";

/// Between two looks at the clocks: a new day begins so much after midnight.
const LOOK: Duration = Duration::from_millis(250);

/// Between two records while nothing changes: 60 s.
const RECORD_US: u64 = 60_000_000;

/// A wall clock that ran ahead of its record by more than this was stepped, which is recorded at once: 2 s.
const STEP_US: u64 = 2_000_000;

/// Two readings of the boot clock with the wall clock between them; further apart, the thread was interrupted.
const READ_US_MAX: u64 = 200;

/// How often it is tried to read both clocks at one moment.
const READS_MAX: usize = 8;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Of [`Trust`] in `day_and_trust`.
const TRUST_BITS: u32 = 2;

/// The clock of one dataplane.
pub(crate) struct Clock {
    offset_us: AtomicI64,
    day_and_trust: AtomicU32,
    /// The latest that either clock was.
    seen: AtomicU64,
    /// When the guard began to object, in microseconds; 0 while it does not.
    since: AtomicU64,
    keeper: Mutex<Keeper>,
}

/// What only the clock's own thread and operators' threads touch.
struct Keeper {
    path: PathBuf,
    guard: Guard,
    /// What was written last.
    written: (BootMicros, UnixMicros),
    is_written: bool,
    /// Another process rolls the day.
    is_retired: bool,
    told: (ClockState, Option<&'static str>),
}

impl Clock {
    /// The clock of the process that has `dir`, judged as a start is: `spent` is the newest day of the store.
    pub(crate) fn open(dir: &Path, spent: Day) -> anyhow::Result<Clock> {
        let path = dir.join(FILE_NAME);
        let read = file::read(&path).with_context(|| format!("the clock's record {}", path.display()))?;
        let record = match read {
            Some(Err(error)) => {
                eprintln!(
                    "keybrake-dataplane: clock: {} {error}; the day goes on from the newest spend in the store, and the \
                     wall clock may not be before it",
                    path.display()
                );
                None
            }
            Some(Ok(record)) => Some(record),
            None => None,
        };
        let boot_id = BootId::parse(&std::fs::read_to_string(BOOT_ID).unwrap_or_default());
        let now = read_both();
        let guard = Guard::start(record, spent, boot_id, now);
        let keeper = Keeper {
            path,
            guard,
            written: (now.boot, guard.seen),
            is_written: true,
            is_retired: false,
            told: (ClockState::Ok, None),
        };
        let clock = Clock {
            offset_us: AtomicI64::new(0),
            day_and_trust: AtomicU32::new(0),
            seen: AtomicU64::new(0),
            since: AtomicU64::new(0),
            keeper: Mutex::new(keeper),
        };
        let mut keeper = clock.keeper();
        keeper
            .write(guard, now.boot)
            .with_context(|| format!("the clock's record {} cannot be written", keeper.path.display()))?;
        clock.publish(&guard);
        clock.tell(&mut keeper, now);
        drop(keeper);
        Ok(clock)
    }

    /// Looks at the clocks from a thread of its own until the process ends.
    pub(crate) fn start(self: &Arc<Clock>) -> io::Result<()> {
        let clock = Arc::clone(self);
        let look = move || {
            loop {
                thread::sleep(LOOK);
                clock.look();
            }
        };
        thread::Builder::new().name("clock".to_owned()).spawn(look).map(drop)
    }

    /// The day that money counted on last: the day of everything that is not a reserve of money.
    pub(crate) fn day(&self) -> Day {
        self.agreement().day
    }

    /// The day that money counts on at `wall`, or why none does.
    pub(crate) fn today(&self, wall: UnixMicros) -> Result<Day, Objection> {
        let agreement = self.agreement();
        let now = Reading { wall, boot: boot() };
        agreement.today(now).map_err(|doubt| self.objection(agreement, now, doubt))
    }

    /// What expiry is compared with at `wall`: a clock that was set back brings no key back (rule Q10).
    pub(crate) fn expiry(&self, wall: UnixMicros) -> UnixMicros {
        wall.max(UnixMicros(self.seen.load(Ordering::Relaxed)))
    }

    /// Whether an expiry can be counted from the wall clock.
    pub(crate) fn is_explained(&self, wall: UnixMicros) -> bool {
        self.agreement().is_explained(Reading { wall, boot: boot() })
    }

    /// What the guard sees, for operators.
    pub(crate) fn view(&self) -> ClockView {
        let mut keeper = self.keeper();
        let now = read_both();
        self.tell(&mut keeper, now);
        self.view_of(&keeper.guard, now)
    }

    /// An operator says that the wall clock is right: it is the new anchor, once that is on disk.
    pub(crate) fn confirm(&self) -> io::Result<ClockView> {
        let mut keeper = self.keeper();
        let now = read_both();
        let (before, guard) = (keeper.guard.agreement, keeper.guard.confirm(now));
        keeper.write(guard, now.boot)?;
        eprintln!(
            "keybrake-dataplane: clock: an operator confirmed {}, which is {} where it was expected; money counts on {}",
            now.wall,
            Deviation(before.deviation_us(now)),
            guard.agreement.day.start().date()
        );
        self.publish(&guard);
        self.tell(&mut keeper, now);
        Ok(self.view_of(&guard, now))
    }

    /// Records the agreement as it is, for an orderly stop.
    pub(crate) fn record(&self) -> io::Result<()> {
        let mut keeper = self.keeper();
        let guard = keeper.guard;
        keeper.write(guard, read_both().boot)
    }

    /// Records the agreement as [`Clock::record`] does, and touches the record no more: another process rolls the
    /// day from now on.
    pub(crate) fn retire(&self) -> io::Result<()> {
        let mut keeper = self.keeper();
        let guard = keeper.guard;
        let recorded = keeper.write(guard, read_both().boot);
        keeper.is_retired = true;
        recorded
    }

    /// Compares the clocks; the day rolls here, when it is on disk.
    fn look(&self) {
        let mut keeper = self.keeper();
        if keeper.is_retired {
            return;
        }
        let now = read_both();
        let (next, recorded) = keeper.guard.look(now);
        if recorded == Recorded::Whenever {
            keeper.guard = next;
        }
        if recorded == Recorded::First || keeper.is_due(next.seen, now) {
            let written = keeper.write(next, now.boot);
            if let Err(error) = &written
                && keeper.is_written
            {
                eprintln!(
                    "keybrake-dataplane: clock: {} cannot be written: {error}; until it is, no new day begins",
                    keeper.path.display()
                );
            }
            keeper.is_written = written.is_ok();
        }
        keeper.guard.seen = next.seen;
        self.publish(&keeper.guard);
        self.tell(&mut keeper, now);
    }

    /// Each of them may be read with the other's value of before: no such pair opens a day that neither does.
    fn publish(&self, guard: &Guard) {
        let Agreement { offset_us, day, trust } = guard.agreement;
        let trust = match trust {
            Trust::Agreed => 0,
            Trust::Stepped => 1,
            Trust::Floor => 2,
        };
        self.seen.store(guard.seen.0, Ordering::Relaxed);
        self.offset_us.store(offset_us, Ordering::Relaxed);
        self.day_and_trust.store(day.as_u32() << TRUST_BITS | trust, Ordering::Relaxed);
    }

    fn agreement(&self) -> Agreement {
        let day_and_trust = self.day_and_trust.load(Ordering::Relaxed);
        let trust = match day_and_trust % (1 << TRUST_BITS) {
            0 => Trust::Agreed,
            1 => Trust::Stepped,
            _ => Trust::Floor,
        };
        let offset_us = self.offset_us.load(Ordering::Relaxed);
        Agreement { offset_us, day: Day::new(day_and_trust >> TRUST_BITS), trust }
    }

    fn objection(&self, agreement: Agreement, now: Reading, doubt: Doubt) -> Objection {
        let expected = agreement.expected(now.boot);
        let since = UnixMicros(self.since.load(Ordering::Relaxed));
        let since = if since == UnixMicros::default() { expected } else { since };
        Objection { doubt, wall: now.wall, expected, day: agreement.day, since }
    }

    /// One line for each change of what the guard sees.
    fn tell(&self, keeper: &mut Keeper, now: Reading) {
        let agreement = keeper.guard.agreement;
        let told = state(&keeper.guard, now);
        if told.0 == ClockState::Ok {
            self.since.store(0, Ordering::Relaxed);
        } else if keeper.told.0 == ClockState::Ok {
            self.since.store(agreement.expected(now.boot).0, Ordering::Relaxed);
        }
        if std::mem::replace(&mut keeper.told, told) == told {
            return;
        }
        match (told, agreement.today(now)) {
            ((ClockState::Ok, _), _) => eprintln!("keybrake-dataplane: clock: both clocks agree again"),
            ((ClockState::Suspended, _), Err(doubt)) => {
                eprintln!("keybrake-dataplane: clock: {}", self.objection(agreement, now, doubt));
            }
            ((_, Some(SEEN_AHEAD)), _) => eprintln!(
                "keybrake-dataplane: clock: it was {} once, so keys that expire before then have expired; if that was \
                 wrong, run `keybrake clock confirm`",
                keeper.guard.seen
            ),
            (_, _) => eprintln!(
                "keybrake-dataplane: clock: the system clock is {} where it should be: it says {}, and {} was expected. \
                 Money goes on until {} is over by either clock; set the clock right, or run `keybrake clock confirm`",
                Deviation(agreement.deviation_us(now)),
                now.wall,
                agreement.expected(now.boot),
                agreement.day.start().date()
            ),
        }
    }

    fn view_of(&self, guard: &Guard, now: Reading) -> ClockView {
        let agreement = guard.agreement;
        let (state, why) = state(guard, now);
        let since = UnixMicros(self.since.load(Ordering::Relaxed));
        ClockView {
            state,
            why: why.map(str::to_owned),
            since: Some(since.to_string()).filter(|_| since != UnixMicros::default()),
            wall: now.wall.to_string(),
            expected: agreement.expected(now.boot).to_string(),
            deviation_us: agreement.deviation_us(now),
            day: agreement.day.start().date(),
            resets_at: agreement.day.end().to_string(),
            latest_seen: guard.seen.max(now.wall).to_string(),
        }
    }

    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The reason where nothing but expiry is in doubt.
const SEEN_AHEAD: &str = "seen_ahead";

/// How it is, and why it is not well.
fn state(guard: &Guard, now: Reading) -> (ClockState, Option<&'static str>) {
    let agreement = guard.agreement;
    let ahead_us = guard.seen.0.saturating_sub(now.wall.0);
    match agreement.today(now) {
        Err(doubt) => (ClockState::Suspended, Some(doubt.as_str())),
        Ok(_) if !agreement.is_explained(now) => {
            let doubt = if agreement.deviation_us(now) < 0 { Doubt::Back } else { Doubt::Forward };
            (ClockState::Deviating, Some(doubt.as_str()))
        }
        Ok(_) if ahead_us > FORWARD_US_MAX.unsigned_abs() => (ClockState::Deviating, Some(SEEN_AHEAD)),
        Ok(_) => (ClockState::Ok, None),
    }
}

impl Keeper {
    /// Brings `guard` to the disk; from then on it is the one in force.
    fn write(&mut self, guard: Guard, boot: BootMicros) -> io::Result<()> {
        if self.is_retired {
            return Err(io::Error::other("another dataplane has taken over"));
        }
        let record = guard.record(boot);
        file::write(&self.path, &record)?;
        self.guard = guard;
        self.written = (boot, record.seen);
        Ok(())
    }

    /// Whether the record on disk is old, or a step has put the latest time ahead of it.
    fn is_due(&self, seen: UnixMicros, now: Reading) -> bool {
        let (written_at, written_seen) = self.written;
        let waited_us = now.boot.0.saturating_sub(written_at.0);
        let has_stepped = seen.0 > written_seen.0.saturating_add(waited_us).saturating_add(STEP_US);
        waited_us >= RECORD_US || has_stepped || !self.is_written
    }
}

/// Microseconds of a clock that all processes of the machine share and nobody can set.
pub(crate) fn monotonic_us() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default() / 1000)
}

/// The wall clock, which anybody may set.
pub(crate) fn wall() -> UnixMicros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixMicros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// The clock that nobody can set, read without libc: what is loaded before libc cannot change it.
fn boot() -> BootMicros {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let micros = u64::try_from(time.tv_nsec).unwrap_or_default() / 1000;
    BootMicros(seconds.saturating_mul(1_000_000).saturating_add(micros))
}

/// Both clocks at one moment, or as near to it as several tries came.
fn read_both() -> Reading {
    let mut best = (u64::MAX, Reading { wall: UnixMicros::default(), boot: BootMicros::default() });
    for _ in 0..READS_MAX {
        let before = boot();
        let wall = wall();
        let apart_us = boot().0.saturating_sub(before.0);
        if apart_us < best.0 {
            let boot = BootMicros(before.0.saturating_add(apart_us / 2));
            best = (apart_us, Reading { wall, boot });
        }
        if apart_us <= READ_US_MAX {
            break;
        }
    }
    best.1
}
