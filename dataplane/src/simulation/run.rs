//! Draws schedules, drives them, and says which seed failed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use keybrake_proto::ledger::chain::Limits;

use super::check::claims;
use super::machine::Machine;
use super::process::{NoStart, Process, SHARDS, Setup, micros};
use super::random::Random;
use super::world::World;
use crate::journal::Durability;

/// What goes wrong in a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// The process is killed; the machine runs on.
    Kills,
    /// Files and store refuse, and the process is killed.
    Refusals,
    /// Power is cut.
    PowerCuts,
    /// Everything.
    All,
    /// Power is cut under `process`, which promises nothing then.
    Unpromised,
    /// Nothing, and at the end bits flip, ends are cut off and files vanish.
    Damage,
}

/// What every run drives, whatever its own seed: schedules that once found a fault.
const REGRESSIONS: [u64; 1] = [1];

/// Drives `count` schedules.
pub(super) fn drive(family: Family, count: u64) {
    if let Some(seed) = given_seed() {
        println!("{family:?} {seed}");
        schedule(family, seed, true);
        return;
    }
    let started = Instant::now();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let first = Random::new(u64::try_from(clock & u128::from(u64::MAX)).unwrap()).next();
    println!("{family:?}: schedules from seed {first}");
    let hush = Hush::begin();
    let seeds = REGRESSIONS.into_iter().chain((0..count).map(|number| first.wrapping_add(number)));
    let mut sealed = 0;
    for (number, seed) in seeds.enumerate() {
        let why = match catch_unwind(AssertUnwindSafe(|| schedule(family, seed, false))) {
            Ok(more) => {
                sealed += more;
                continue;
            }
            Err(why) => why,
        };
        drop(hush);
        let why =
            why.downcast_ref::<String>().cloned().or_else(|| why.downcast_ref::<&str>().map(|&s| s.into()));
        panic!(
            "{family:?}: schedule {number} failed: {}\nrepeat it: KEYBRAKE_TEST_SEED={seed}",
            why.unwrap_or_default()
        );
    }
    drop(hush);
    let seconds = started.elapsed().as_secs_f64();
    println!("{family:?}: {count} schedules in {seconds:.1} s, {:.0} a second", count as f64 / seconds);
    if family == Family::Damage {
        println!("{family:?}: {sealed} starts were sealed");
        assert!(sealed > 0, "no damage was ever noticed");
    }
}

fn given_seed() -> Option<u64> {
    let text = std::env::var("KEYBRAKE_TEST_SEED").ok()?;
    Some(text.parse().expect("KEYBRAKE_TEST_SEED is a number"))
}

/// One schedule, from an empty machine to its last start; gives how many starts over damage were sealed.
fn schedule(family: Family, seed: u64, is_traced: bool) -> usize {
    let mut random = Random::new(seed);
    let setup = setup(family, &mut random);
    let machine = Machine::new(Random::new(random.next()));
    let process = first_start(&machine, &setup, family, &mut random);
    let mut world = World::new(random, machine, setup, process, is_traced);
    world.trace(|| format!("{:?}", world.setup));
    for _ in 0..12 + world.random.below(30) {
        world.step(family);
        world.check_words();
        if world.machine.lock().is_dead {
            world.trace(|| "the process ends within an operation".to_owned());
            world.crash(family);
        }
    }
    if family == Family::Damage {
        return world.damage();
    }
    world.settle_down();
    world.crash(family);
    world.settle_down();
    0
}

fn setup(family: Family, random: &mut Random) -> Setup {
    let survives = match family {
        Family::Kills | Family::Unpromised => Durability::Process,
        Family::PowerCuts | Family::All => Durability::PowerLoss,
        Family::Refusals | Family::Damage => [Durability::Process, Durability::PowerLoss][random.index(2)],
    };
    let cap = |random: &mut Random| Some(micros(6 + random.below(10)));
    let mut limits = [Limits::default(); 3];
    for limits in &mut limits {
        limits.daily = if random.chance(85) { cap(random) } else { None };
    }
    limits[2].lifetime = if random.chance(50) { cap(random) } else { None };
    limits[1].requests = random.chance(30).then(|| 2 + u32::try_from(random.below(3)).unwrap());
    Setup {
        durability: survives,
        segment_bytes: [512, 1024, 2048][random.index(3)],
        segments_max: 3 + random.index(4),
        limits,
    }
}

/// The first start, which may be cut as well.
fn first_start(machine: &Machine, setup: &Setup, family: Family, random: &mut Random) -> Process {
    if family != Family::Damage && random.chance(10) {
        machine.lock().faults.death_in = Some(random.below(6));
    }
    loop {
        match Process::start(machine, setup) {
            Ok(process) if !machine.lock().is_dead => return process,
            Ok(_) | Err(NoStart::Died) => end(machine, family, random),
            Err(NoStart::Sealed(why)) => panic!("the first start, again, is sealed: {why}"),
        };
    }
}

/// The end of the process or of the machine; gives which.
fn end(machine: &Machine, family: Family, random: &mut Random) -> bool {
    let is_power = match family {
        Family::Kills | Family::Refusals | Family::Damage => false,
        Family::PowerCuts | Family::Unpromised => true,
        Family::All => random.chance(50),
    };
    if is_power {
        machine.cut_power()
    } else {
        machine.kill()
    }
    is_power
}

impl World {
    fn step(&mut self, family: Family) {
        match self.random.below(100) {
            0..=21 => self.admit(),
            22..=47 => self.go_on(true),
            48..=79 => self.turn(),
            80..=83 => self.resolve(true),
            84 | 85 => self.resolve(false),
            86 => self.revoke(),
            87 | 88 => self.roll_day(),
            89 | 90 => {
                let shard = self.random.index(SHARDS);
                self.catch_up(shard);
            }
            91..=99 if family == Family::Damage => self.turn(),
            91..=96 => self.harm(family),
            _ => self.crash(family),
        }
    }

    /// Something is about to go wrong.
    fn harm(&mut self, family: Family) {
        let mut inner = self.machine.lock();
        let refuses = matches!(family, Family::Refusals | Family::All);
        let faults = &mut inner.faults;
        let times = 1 + self.random.below(3);
        match self.random.below(6) {
            0 if refuses => faults.writes = times,
            1 if refuses => faults.syncs = times,
            2 if refuses => faults.creates = times,
            3 if refuses => faults.store = times,
            _ => faults.death_in = Some(self.random.below(5)),
        }
        let faults = inner.faults.clone();
        drop(inner);
        self.trace(|| format!("{faults:?}"));
    }

    /// The process ends where it is, and what it left is started again.
    fn crash(&mut self, family: Family) {
        let claimed = claims(&self.process, self.setup.durability);
        let mut is_power = end(&self.machine, family, &mut self.random);
        self.trace(|| format!("crash, power: {is_power}, claimed {claimed:?}"));
        self.forget_process();
        if self.random.chance(30) {
            self.machine.lock().faults.death_in = Some(self.random.below(7));
        }
        self.process = loop {
            match Process::start(&self.machine, &self.setup) {
                Ok(process) if !self.machine.lock().is_dead => break process,
                Ok(_) | Err(NoStart::Died) => {
                    is_power |= end(&self.machine, family, &mut self.random);
                    self.trace(|| format!("the start is cut, power: {is_power}"));
                }
                Err(NoStart::Sealed(why)) => panic!("a false seal: {why}"),
            }
        };
        self.machine.lock().faults.death_in = None;
        self.model.is_unreliable |= family == Family::Unpromised;
        let claimed = claimed.map(|claim| if is_power { claim.cut } else { claim.killed });
        self.trace(|| format!("started; {} were open", self.process.open));
        self.check_start(claimed);
        self.check_again();
    }

    /// Started again from what this start left, there is nothing to do and the books are equal.
    fn check_again(&self) {
        let again = Process::start(&self.machine.copy(), &self.setup).unwrap_or_else(|why| panic!("{why:?}"));
        let (books, first) = (again.writer.books(), self.process.writer.books());
        assert_eq!(again.open, 0, "a second start finds what the first has ended");
        assert_eq!(books.doubts(), first.doubts());
        assert_eq!(books.openings(), first.openings());
        assert_eq!(books.cursors(), first.cursors());
    }

    /// The disk works, every call ends, every doubt is resolved: nothing stays held, and it all goes on.
    fn settle_down(&mut self) {
        self.machine.lock().faults = Default::default();
        for shard in 0..SHARDS {
            self.catch_up(shard);
        }
        for _ in 0..200 {
            self.go_on(false);
            self.process.committer.make_idle_sync_due();
            self.process.committer.round();
            self.process.committer.look_after_files();
            for shard in 0..SHARDS {
                while let Ok(event) = self.process.events[shard].try_recv() {
                    self.process.journals[shard].obey(event);
                }
                self.process.journals[shard].tick();
            }
            self.process.writer.step(true);
            self.resolve(true);
            self.carry_out();
            if self.is_settled() {
                break;
            }
        }
        assert!(self.is_settled(), "not all ends: {:?}", self.process.storage.counters());
        self.check_words();
        self.check_books();
    }

    fn is_settled(&self) -> bool {
        let is_quiet = (0..SHARDS).all(|shard| {
            let progress = &self.process.progress[shard];
            let last = self.process.next[shard] - 1;
            self.process.journals[shard].has_room() && progress.stored() == last
        });
        is_quiet && self.live.is_empty() && self.process.writer.books().doubts().is_empty()
    }
}

/// While schedules run, what the code tells an operator of its disk is not printed.
struct Hush(Option<std::os::fd::OwnedFd>);

impl Hush {
    fn begin() -> Hush {
        // Elsewhere other tests run in this process.
        if std::env::var_os("NEXTEST").is_none() {
            return Hush(None);
        }
        let kept = rustix::io::dup(rustix::stdio::stderr()).unwrap();
        rustix::stdio::dup2_stderr(std::fs::File::create("/dev/null").unwrap()).unwrap();
        Hush(Some(kept))
    }
}

impl Drop for Hush {
    fn drop(&mut self) {
        if let Some(kept) = &self.0 {
            rustix::stdio::dup2_stderr(kept).unwrap();
        }
    }
}
