//! Each stored file is deleted, cut, changed in one bit or replaced by an older copy, after a `kill -9` and after a
//! clean stop. keybrake then starts with the same books, or does not start and says why in one line: it never starts
//! with more left to spend, or with a key that was revoked.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use keybrake_proto::control::KeyStatus;

use super::agents::{FINE, charge_as};
use super::lanes::side_by_side;
use super::random::Random;
use super::report::Report;
use super::scene::{Scene, directory, views};
use super::{NotRun, Plan};
use crate::keybrake::{Keybrake, Setup};
use crate::stand_in::StandIn;

const LANES: usize = 2;

/// Of each file that keybrake decides by, so many bits are changed, one at a time, and of each other file a few.
const BITS: usize = 50;
const BITS_OF_OTHERS: usize = 2;

/// Files without a say: what RocksDB tells people, locks, sockets, what the admin process keeps for itself.
const SPARED: [&str; 5] = ["LOCK", "control.sock", "admin-secondary", "LOG", "admin.token"];

/// How the process ended before its files were damaged.
#[derive(Clone, Copy, Debug)]
enum End {
    Kill9,
    Stop,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Delete,
    /// So many bytes are missing at the end.
    Cut(u64),
    /// This bit is the other one; of the whole file, counted by share.
    Flip(u64),
    /// As it was earlier.
    Older,
}

#[derive(Clone, Debug)]
struct Case {
    end: End,
    /// Relative to the state; empty for all of it.
    file: PathBuf,
    damage: Damage,
}

/// A state to be damaged: its directory as it was left, as it was earlier, and the books in it.
struct State {
    left: PathBuf,
    earlier: PathBuf,
    books: Books,
}

/// What each key has committed, in micros, and whether it may spend.
type Books = BTreeMap<String, (u64, KeyStatus)>;

/// How often each end was met.
#[derive(Default)]
struct Ends {
    equal: AtomicU64,
    more_committed: AtomicU64,
    sealed: AtomicU64,
}

pub(super) fn play(plan: &Plan, mut random: Random, report: &mut Report) -> Result<(), NotRun> {
    let dir = directory("damage");
    let vendor = StandIn::start(&dir);
    let states = [End::Kill9, End::Stop].map(|end| State::make(end, &dir));
    let mut cases: Vec<Case> = Vec::new();
    for (end, state) in [End::Kill9, End::Stop].into_iter().zip(&states) {
        cases.extend(cases_of(end, state, &mut random));
    }
    // A share of them at random, and one of each kind always: the whole state as it was earlier.
    random.shuffle(&mut cases);
    cases.truncate(plan.cycles);
    for end in [End::Kill9, End::Stop] {
        cases.push(Case { end, file: PathBuf::new(), damage: Damage::Older });
    }
    let ends = Ends::default();
    side_by_side(LANES, cases, &mut random, report, |case, _, report| {
        let state = &states[case.end as usize];
        play_case(&case, state, &dir, &vendor, &ends, report);
        report.cycles += 1;
    });
    let count = |ends: &AtomicU64| ends.load(Ordering::Relaxed);
    report.note(format!(
        "damage: {} started with equal books, {} with more counted as spent, {} sealed",
        count(&ends.equal),
        count(&ends.more_committed),
        count(&ends.sealed)
    ));
    drop(vendor);
    report.end_scene(&dir);
    Ok(())
}

impl State {
    /// Spends, keeps a copy, spends more, revokes, and ends.
    fn make(end: End, dir: &Path) -> State {
        let place = |what: &str| dir.join(format!("{end:?}-{what}"));
        let (live, earlier, left) = (place("live"), place("earlier"), place("left"));
        std::fs::create_dir(&live).unwrap();
        let data = live.join("data");
        let scene = place("scene");
        std::fs::create_dir(&scene).unwrap();
        let stand_in = StandIn::start(&scene);
        let mut scene = Scene::start(scene, stand_in, |setup| setup.data_at(data));
        let operator = scene.operator();
        let keys: Vec<_> = (0..6).map(|_| operator.issue_without_admin(100_000).unwrap()).collect();
        let spend = |scene: &Scene, times: u64| {
            for (number, key) in keys.iter().enumerate() {
                for time in 0..times {
                    let cents = 100 + 10 * number as u64 + time;
                    charge_as(scene.keybrake.proxy(), &scene.log, key, cents, FINE);
                }
            }
        };
        spend(&scene, 20);
        assert_eq!(scene.keybrake.dataplane().stop(), 0);
        copy(&live, &earlier);
        scene.keybrake.start_dataplane();
        spend(&scene, 20);
        // One call whose outcome is unknown, one key that is revoked.
        charge_as(scene.keybrake.proxy(), &scene.log, &keys[0], 7_777, "hang");
        assert!(scene.keybrake.control().revoke(&keys[5].issued.id).durable);
        scene.keybrake.settle();
        let books = books(&scene.keybrake);
        match end {
            End::Kill9 => scene.keybrake.dataplane().kill_9(),
            End::Stop => assert_eq!(scene.keybrake.dataplane().stop(), 0),
        }
        copy(&live, &left);
        State { left, earlier, books }
    }
}

fn books(keybrake: &Keybrake) -> Books {
    let view = |view: keybrake_proto::control::KeyView| {
        (view.id.to_string(), (view.committed_usd.as_u64(), view.status))
    };
    views(&keybrake.control()).into_iter().map(view).collect()
}

/// Copies a directory without what belongs to no file of the state.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (kind, name) = (entry.file_type().unwrap(), entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &to.join(name));
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to.join(name)).unwrap();
        }
    }
}

fn files(dir: &Path, inside: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir.join(inside)).unwrap().map(Result::unwrap) {
        let (name, path) = (entry.file_name(), inside.join(entry.file_name()));
        if SPARED.iter().any(|spared| name.to_string_lossy().starts_with(spared)) {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            files(dir, &path, found);
        } else {
            found.push(path);
        }
    }
}

fn cases_of(end: End, state: &State, random: &mut Random) -> Vec<Case> {
    let (mut found, mut cases) = (Vec::new(), Vec::new());
    files(&state.left, Path::new(""), &mut found);
    found.sort();
    for file in found {
        let bytes = std::fs::read(state.left.join(&file)).unwrap();
        let mut damages = vec![Damage::Delete];
        if state.earlier.join(&file).exists() {
            damages.push(Damage::Older);
        }
        if !bytes.is_empty() {
            damages.extend([Damage::Cut(1), Damage::Cut(512)]);
            damages.extend((0..8).map(|_| Damage::Cut(random.between(2, 511))));
            let name = file.to_string_lossy();
            let is_other = name.contains("OPTIONS") || name.contains("IDENTITY");
            let bits = if is_other { BITS_OF_OTHERS } else { BITS };
            // What was never written is zeros: most bits are changed in front of them.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(1, |last| last as u64 + 1);
            let flip = |random: &mut Random| {
                let bytes = if random.chance(80) { used } else { bytes.len() as u64 };
                Damage::Flip(random.below(bytes * 8))
            };
            damages.extend((0..bits).map(|_| flip(random)));
        }
        cases.extend(damages.into_iter().map(|damage| Case { end, file: file.clone(), damage }));
    }
    cases
}

fn apply(case: &Case, state: &State, to: &Path) {
    let path = to.join(&case.file);
    match case.damage {
        Damage::Delete => std::fs::remove_file(path).unwrap(),
        Damage::Cut(bytes) => {
            let length = std::fs::metadata(&path).unwrap().len();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(length.saturating_sub(bytes)).unwrap();
        }
        Damage::Flip(bit) => {
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
            std::fs::write(path, bytes).unwrap();
        }
        // All but the anchor, whose place is outside what is backed up.
        Damage::Older if case.file.as_os_str().is_empty() => {
            std::fs::remove_dir_all(to.join("data")).unwrap();
            copy(&state.earlier.join("data"), &to.join("data"));
        }
        Damage::Older => {
            std::fs::copy(state.earlier.join(&case.file), path).unwrap();
        }
    }
}

fn play_case(case: &Case, state: &State, dir: &Path, vendor: &StandIn, ends: &Ends, report: &mut Report) {
    let place =
        tempfile::Builder::new().prefix("case-").disable_cleanup(true).tempdir_in(dir).unwrap().keep();
    let files = place.join("state");
    copy(&state.left, &files);
    apply(case, state, &files);
    let keybrake = Setup::new(vendor.url()).inside(&place).data_at(files.join("data")).prepare();
    match keybrake.try_start() {
        Ok(_process) => compare(case, state, &books(&keybrake), ends, report),
        Err(said) => {
            let is_clear = said.lines().count() == 1 && said.starts_with("keybrake-dataplane: ");
            if !is_clear {
                report.violation(format!(
                    "{case:?}: it does not start, and does not say so in one line: {said}"
                ));
            }
            ends.sealed.fetch_add(1, Ordering::Relaxed);
        }
    }
    drop(keybrake);
    std::fs::write(place.join("case"), format!("{case:?}")).unwrap();
    report.end_scene(&place);
}

fn compare(case: &Case, state: &State, now: &Books, ends: &Ends, report: &mut Report) {
    if *now == state.books {
        ends.equal.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let known: HashMap<&String, &(u64, KeyStatus)> = now.iter().collect();
    let is_safe = state.books.iter().all(|(id, (committed, status))| {
        known.get(id).is_some_and(|(later, now)| later >= committed && now == status)
    });
    if is_safe {
        ends.more_committed.fetch_add(1, Ordering::Relaxed);
    } else {
        report.violation(format!("{case:?}: it started with {now:?} in place of {:?}", state.books));
    }
}
