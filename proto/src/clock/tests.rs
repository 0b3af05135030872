use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

const BOOT: BootId = BootId([7; 16]);
const OTHER_BOOT: BootId = BootId([8; 16]);

/// The day on which the tests begin, and when the machine started, in true time.
const TODAY: Day = Day::new(20_000);
const STARTED: u64 = 20_000 * DAY - 5 * DAY;

/// What a test turns: true time, and how far the wall clock is from it.
#[derive(Clone, Copy, Debug)]
struct Machine {
    true_us: u64,
    wrong_us: i64,
}

impl Machine {
    /// A machine with a true clock, so long after the beginning of [`TODAY`].
    fn at(of_day_us: u64) -> Machine {
        Machine { true_us: TODAY.start().0 + of_day_us, wrong_us: 0 }
    }

    fn now(self) -> Reading {
        Reading {
            wall: UnixMicros(self.true_us.saturating_add_signed(self.wrong_us)),
            boot: BootMicros(self.true_us - STARTED),
        }
    }

    fn true_day(self) -> Day {
        UnixMicros(self.true_us).day()
    }

    fn start(self) -> Guard {
        Guard::start(None, Day::default(), BOOT, self.now())
    }

    fn restart(self, guard: Guard, boot: BootId) -> Guard {
        let record = Record::decode(&guard.record(self.now().boot).encode()).unwrap();
        Guard::start(Some(record), Day::default(), boot, self.now())
    }

    /// Looks as often as the dataplane does while `us` pass, and asks for the day before each look.
    fn pass(&mut self, guard: &mut Guard, us: u64, mut answered: impl FnMut(Machine, Result<Day, Doubt>)) {
        let end = self.true_us + us;
        while self.true_us < end {
            let midnight = UnixMicros(self.true_us).day().end().0;
            let wall = self.now().wall;
            let to_midnight = midnight.min(self.true_us + (wall.day().end().0 - wall.0)) - self.true_us;
            // Steps of 250 ms near either midnight, longer ones elsewhere.
            let step = if to_midnight < 10 * SECOND { SECOND / 4 } else { 10 * SECOND.min(to_midnight) };
            let past = self.true_us % DAY < 10 * SECOND || wall.0 % DAY < 10 * SECOND;
            self.true_us = (self.true_us + if past { SECOND / 4 } else { step }).min(end);
            answered(*self, guard.agreement.today(self.now()));
            *guard = guard.look(self.now()).0;
        }
    }
}

fn next(day: Day) -> Day {
    Day::new(day.as_u32() + 1)
}

/// Every answer with a day is the true day, or its neighbour within 5 s of midnight (rule Q10).
fn is_true(machine: Machine, answer: Result<Day, Doubt>) -> bool {
    let Ok(day) = answer else { return true };
    let near = [machine.true_us - 5 * SECOND, machine.true_us + 5 * SECOND];
    near.iter().any(|us| UnixMicros(*us).day() == day)
}

#[test]
fn m9_a_day_begins_at_midnight_and_the_old_one_counts_for_a_moment() {
    let mut machine = Machine::at(23 * HOUR);
    let mut guard = machine.start();
    assert_eq!(guard.agreement, Agreement::at(machine.now(), TODAY));
    let mut refused = 0;
    machine.pass(&mut guard, 2 * HOUR, |machine, answer| {
        refused += u32::from(answer.is_err());
        assert!(is_true(machine, answer), "{answer:?} at {}", UnixMicros(machine.true_us));
    });
    assert_eq!((guard.agreement.day, refused), (next(TODAY), 0));
}

#[test]
fn q10_each_step_size_does_what_is_documented() {
    // The step at noon, then: what is answered at once, at 6 s past the true midnight, and whether the
    // day has begun an hour after it.
    let check = |step: i64, at_once: Result<Day, Doubt>, midnight: Result<Day, Doubt>, begins: bool| {
        let mut machine = Machine::at(12 * HOUR);
        let mut guard = machine.start();
        machine.wrong_us = step;
        assert_eq!(guard.agreement.today(machine.now()), at_once, "{step} us, at once");
        guard = guard.look(machine.now()).0;
        machine.pass(&mut guard, 12 * HOUR + 6 * SECOND, |machine, answer| {
            assert!(is_true(machine, answer), "{step} us: {answer:?} at {}", UnixMicros(machine.true_us));
        });
        assert_eq!(guard.agreement.today(machine.now()), midnight, "{step} us, past midnight");
        machine.pass(&mut guard, HOUR, |_, _| {});
        assert_eq!(guard.agreement.day, if begins { next(TODAY) } else { TODAY }, "{step} us, later");
    };
    let signed = |us: u64| i64::try_from(us).unwrap();
    for step in [0, signed(SECOND), -signed(SECOND), signed(2 * SECOND), -signed(2 * SECOND)] {
        check(step, Ok(TODAY), Ok(next(TODAY)), true);
    }
    for step in [3 * SECOND, MINUTE, 5 * MINUTE].map(signed) {
        check(step, Ok(TODAY), Ok(next(TODAY)), true);
    }
    for step in [5 * MINUTE + 1, HOUR, 11 * HOUR].map(signed) {
        check(step, Ok(TODAY), Err(Doubt::Forward), false);
    }
    for step in [13 * HOUR, DAY, 2 * DAY].map(signed) {
        check(step, Err(Doubt::Forward), Err(Doubt::Forward), false);
    }
    for step in [2 * SECOND + 1, MINUTE, HOUR, DAY, 2 * DAY].map(signed) {
        check(-step, Ok(TODAY), Err(Doubt::Back), false);
    }
}

#[test]
fn q10_between_the_two_midnights_of_a_tolerated_step_no_money_counts() {
    let mut machine = Machine::at(DAY - 10 * MINUTE);
    let mut guard = machine.start();
    machine.wrong_us = i64::try_from(3 * MINUTE).unwrap();
    let mut refused = 0;
    machine.pass(&mut guard, 20 * MINUTE, |machine, answer| match answer {
        Err(doubt) => {
            // Behind the second midnight nothing is missing but the look that rolls.
            let both = machine.true_day() > TODAY;
            assert_eq!(doubt, if both { Doubt::NotRecorded } else { Doubt::BetweenMidnights });
            refused += 1;
        }
        Ok(_) => assert!(is_true(machine, answer), "{answer:?} at {}", UnixMicros(machine.true_us)),
    });
    assert!(refused > 10, "{refused}");
    assert_eq!(guard.agreement.day, next(TODAY));
    assert_eq!(guard.agreement.deviation_us(machine.now()), 0, "the roll has taken a new anchor");
}

#[test]
fn q10_a_step_that_is_taken_back_needs_nobody() {
    let mut machine = Machine::at(12 * HOUR);
    let mut guard = machine.start();
    for step in [2 * DAY, DAY, 13 * HOUR] {
        machine.wrong_us = i64::try_from(step).unwrap();
        machine.pass(&mut guard, MINUTE, |_, answer| assert_eq!(answer, Err(Doubt::Forward)));
        machine.wrong_us = 0;
        machine.pass(&mut guard, MINUTE, |_, answer| assert_eq!(answer, Ok(TODAY)));
    }
}

#[test]
fn m10_confirm_takes_the_wall_clock_and_never_a_day_back() {
    let mut machine = Machine::at(12 * HOUR);
    let guard = machine.start();
    machine.wrong_us = i64::try_from(2 * DAY).unwrap();
    let guard = guard.look(machine.now()).0.confirm(machine.now());
    let later = Day::new(TODAY.as_u32() + 2);
    assert_eq!(guard.agreement.today(machine.now()), Ok(later));
    machine.wrong_us = 0;
    assert_eq!(guard.agreement.today(machine.now()), Ok(later), "the day stays");
    let mut guard = guard.confirm(machine.now());
    // The wall clock is two days behind the day until it has reached it.
    machine.pass(&mut guard, 2 * DAY, |_, answer| assert_eq!(answer, Ok(later)));
    machine.pass(&mut guard, DAY, |machine, answer| assert!(is_true(machine, answer)));
    assert_eq!(guard.agreement.day, next(later));
}

#[test]
fn m10_within_one_boot_a_start_is_strict_and_across_boots_only_back_seals() {
    let machine = Machine::at(12 * HOUR);
    let guard = machine.start();
    let check = |step: i64, boot: BootId, expected: Result<Day, Doubt>| {
        let machine = Machine { true_us: machine.true_us + HOUR, wrong_us: step };
        let found = machine.restart(guard, boot);
        assert_eq!(found.agreement.today(machine.now()), expected, "{step} us");
    };
    let day = i64::try_from(DAY).unwrap();
    let [second, minute] = [SECOND, MINUTE].map(|us| i64::try_from(us).unwrap());
    check(0, BOOT, Ok(TODAY));
    check(-2 * second, BOOT, Ok(TODAY));
    check(5 * minute, BOOT, Ok(TODAY));
    check(6 * minute, BOOT, Err(Doubt::Forward));
    check(day, BOOT, Err(Doubt::Forward));
    check(-3 * second, BOOT, Err(Doubt::Back));
    check(-day, BOOT, Err(Doubt::Back));
    check(day, OTHER_BOOT, Ok(next(TODAY)));
    check(0, OTHER_BOOT, Ok(TODAY));
    check(-day, OTHER_BOOT, Err(Doubt::Back));
    check(-3 * second, OTHER_BOOT, Err(Doubt::Back));
    // What names no boot is another one.
    check(-day, BootId::default(), Err(Doubt::Back));
    check(day, BootId::default(), Ok(next(TODAY)));
}

#[test]
fn m10_what_a_new_boot_sealed_is_not_opened_by_waiting_or_restarting() {
    let machine = Machine::at(12 * HOUR);
    let guard = machine.start();
    // The machine starts again with a clock that is an hour behind.
    let mut machine = Machine { wrong_us: -i64::try_from(HOUR).unwrap(), ..machine };
    let mut guard = machine.restart(guard, OTHER_BOOT);
    machine.pass(&mut guard, 3 * HOUR, |_, answer| assert_eq!(answer, Err(Doubt::Back)));
    machine.true_us += 2 * HOUR;
    let mut guard = machine.restart(guard, OTHER_BOOT);
    assert_eq!(guard.agreement.today(machine.now()), Err(Doubt::Back), "still");
    // Once time is synchronized it goes on by itself; how long the machine was off is not known.
    machine.wrong_us = i64::try_from(HOUR).unwrap();
    machine.pass(&mut guard, SECOND, |_, _| {});
    assert_eq!(guard.agreement.today(machine.now()), Ok(TODAY));
}

#[test]
fn m10_without_a_record_the_newest_spend_is_the_floor() {
    let machine = Machine::at(12 * HOUR);
    let start = |spent: Day| Guard::start(None, spent, BOOT, machine.now());
    assert_eq!(start(TODAY).agreement.today(machine.now()), Ok(TODAY));
    assert_eq!(start(Day::new(19_000)).agreement.today(machine.now()), Ok(TODAY));
    let ahead = start(next(TODAY));
    assert_eq!(ahead.agreement.today(machine.now()), Err(Doubt::Back));
    assert_eq!(ahead.confirm(machine.now()).agreement.today(machine.now()), Ok(next(TODAY)));
    // A record that is older than the store is no way back either.
    let old = Record { day: Day::new(19_000), ..machine.start().record(machine.now().boot) };
    let guard = Guard::start(Some(old), next(TODAY), BOOT, machine.now());
    assert_eq!(guard.agreement.day, next(TODAY));
}

#[test]
fn q10_expiry_goes_by_the_latest_time_of_both_clocks_until_an_operator_confirms() {
    let mut machine = Machine::at(12 * HOUR);
    let guard = machine.start();
    machine.wrong_us = i64::try_from(DAY).unwrap();
    let (guard, _) = guard.look(machine.now());
    let latest = machine.now().wall;
    assert_eq!(guard.seen, latest);
    machine.wrong_us = 0;
    let guard = machine.restart(guard.look(machine.now()).0, BOOT);
    assert_eq!(guard.seen, latest, "also over a restart");
    assert_eq!(guard.confirm(machine.now()).seen, machine.now().wall);
    // Behind a clock that was set back, time goes on by the other one.
    let guard = machine.start();
    machine.wrong_us = -i64::try_from(DAY).unwrap();
    machine.true_us += HOUR;
    assert_eq!(guard.look(machine.now()).0.seen, UnixMicros(machine.true_us));
}

#[test]
fn m10_a_slew_is_followed_and_a_step_in_small_portions_is_not() {
    // How much of a deviation that grows by `per_minute` is swallowed in ten hours.
    let swallowed = |per_minute: i64| {
        let mut machine = Machine::at(HOUR);
        let mut guard = machine.start();
        let before = guard.agreement.offset_us;
        for _ in 0..600 {
            machine.true_us += MINUTE;
            machine.wrong_us += per_minute;
            guard = guard.look(machine.now()).0;
        }
        (guard.agreement.offset_us - before, machine.wrong_us)
    };
    let drift = i64::try_from(MINUTE * DRIFT_PPM_MAX / 1_000_000).unwrap();
    for per_minute in [drift, -drift, drift / 3, 0] {
        let (followed, moved) = swallowed(per_minute);
        assert_eq!(followed, moved);
    }
    for per_minute in [2 * drift, -2 * drift, 1_000_000, -60_000_000] {
        let (followed, moved) = swallowed(per_minute);
        assert!(followed.abs() <= 600 * drift && followed.abs() < moved.abs(), "{followed} of {moved}");
    }
}

#[test]
fn m10_a_step_over_two_seconds_is_never_absorbed_without_a_midnight() {
    for (step, absorbed) in [(2_000_001, false), (-2_000_001, false), (-2_000_000, true), (1_000_000, true)] {
        let mut machine = Machine::at(HOUR);
        let mut guard = machine.start();
        machine.wrong_us = step;
        machine.pass(&mut guard, 20 * HOUR, |_, _| {});
        assert_eq!(guard.agreement.deviation_us(machine.now()) == 0, absorbed, "{step}");
    }
}

#[test]
fn records_read_back_and_every_flipped_bit_is_noticed() {
    let machine = Machine::at(12 * HOUR);
    let record = machine.start().record(machine.now().boot);
    let bytes = record.encode();
    assert_eq!(bytes.len(), RECORD_BYTES);
    assert_eq!(Record::decode(&bytes), Ok(record));
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Record::decode(&damaged).is_err(), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(Record::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
    assert!(Record::decode(&[&bytes[..], b"\n"].concat()).is_err());
}

#[test]
fn boot_ids_are_read_as_linux_shows_them() {
    let id = BootId::parse("62c360f0-d9a1-4c64-b61c-9e6459410190\n");
    assert_eq!((id.0[0], id.0[15]), (0x62, 0x90));
    assert!(id.is(id) && !id.is(BOOT));
    for text in ["", "no-uuid", "62c360f0-d9a1-4c64-b61c-9e64594101", "+2c360f0d9a14c64b61c9e6459410190"] {
        let unknown = BootId::parse(text);
        assert_eq!(unknown, BootId::default(), "{text}");
        assert!(!unknown.is(unknown));
    }
}

#[test]
fn deviations_are_in_words() {
    let check = |us: i64, text: &str| assert_eq!(Deviation(us).to_string(), text);
    check(2 * 86_400_000_000, "2 d 0 h ahead of");
    check(-3_600_000_000, "60 min 0 s behind");
    check(-7_500_000_000, "2 h 5 min behind");
    check(61_000_000, "61 s ahead of");
    check(12, "12 us ahead of");
    check(172_799_999_998, "2 d 0 h ahead of");
}

/// What happens to a machine, one after the other.
#[derive(Clone, Debug)]
enum Event {
    Pass(u64),
    Step(i64),
    Look,
    Restart,
    Reboot,
    Confirm,
}

fn sizes() -> impl Strategy<Value = i64> {
    let sizes: Vec<i64> = [1, 2, 3, 5, 60, 299, 300, 301, 3_600, 40_000, 86_400, 172_800].into();
    (proptest::sample::select(sizes), any::<bool>(), -500_000..500_000_i64)
        .prop_map(|(seconds, back, more)| if back { -seconds } else { seconds } * 1_000_000 + more)
}

fn events(with_confirm: bool) -> impl Strategy<Value = Vec<Event>> {
    let confirm = u32::from(with_confirm);
    let event = prop_oneof![
        6 => (0..3 * HOUR).prop_map(Event::Pass),
        6 => (0..5 * SECOND).prop_map(Event::Pass),
        3 => sizes().prop_map(Event::Step),
        6 => Just(Event::Look),
        confirm => Just(Event::Restart),
        confirm => Just(Event::Reboot),
        confirm => Just(Event::Confirm),
    ];
    proptest::collection::vec(event, 1..80)
}

fn turn(machine: &mut Machine, guard: &mut Guard, event: &Event) {
    match event {
        Event::Pass(us) => machine.true_us += us,
        Event::Step(us) => machine.wrong_us += us,
        Event::Look => *guard = guard.look(machine.now()).0,
        Event::Restart => *guard = machine.restart(*guard, BOOT),
        Event::Reboot => *guard = machine.restart(*guard, OTHER_BOOT),
        Event::Confirm => *guard = guard.confirm(machine.now()),
    }
}

proptest! {
    #[test]
    fn i9_a_day_never_goes_back(of_day in 0..DAY, events in events(true)) {
        let mut machine = Machine::at(of_day);
        let mut guard = machine.start();
        for event in &events {
            let day = guard.agreement.day;
            turn(&mut machine, &mut guard, event);
            prop_assert!(guard.agreement.day >= day, "{event:?}");
            if let Ok(today) = guard.agreement.today(machine.now()) {
                prop_assert!(today >= day);
            }
        }
    }

    // Whatever the wall clock does, a window opens when the boot clock says so: no later and no earlier
    // than the anchor was allowed to move.
    #[test]
    fn i9_each_true_day_has_one_window(of_day in 0..DAY, events in events(false)) {
        let mut machine = Machine::at(of_day);
        let mut guard = machine.start();
        let (began, offset) = (machine.true_us, guard.agreement.offset_us);
        let (mut rolls, mut allowed_us) = (0, 0);
        for event in &events {
            let day = guard.agreement.day;
            turn(&mut machine, &mut guard, event);
            rolls += u64::from(guard.agreement.day > day);
            let drift_us = (machine.true_us - began) * DRIFT_PPM_MAX / 1_000_000;
            allowed_us = rolls * FORWARD_US_MAX.unsigned_abs() + drift_us;
            let moved_us = (guard.agreement.offset_us - offset).unsigned_abs();
            prop_assert!(moved_us <= allowed_us, "moved {moved_us} of {allowed_us} us");
            if let Ok(today) = guard.agreement.today(machine.now()) {
                let earliest = today.start().0.saturating_sub(allowed_us);
                let latest = today.end().0 + allowed_us + GRACE_US;
                prop_assert!((earliest..latest).contains(&machine.true_us), "{today:?} at {}", machine.true_us);
            }
        }
        prop_assert!(guard.agreement.day.as_u32() <= UnixMicros(machine.true_us + allowed_us).day().as_u32());
    }

    // One step of any size at any time, and every answer is the true day.
    #[test]
    fn i9_after_one_unexplained_step_every_answer_is_the_true_day(of_day in 0..DAY, step in sizes(), at in 0..2 * DAY) {
        let mut machine = Machine::at(of_day);
        let mut guard = machine.start();
        let mut wrong = None;
        let mut answered = |machine: Machine, answer| if !is_true(machine, answer) { wrong = Some((machine, answer)) };
        machine.pass(&mut guard, at, &mut answered);
        machine.wrong_us = step;
        // A tolerated step is the new anchor from the first midnight on; until there it is exact too.
        let until = if unexplained(step).is_some() { 2 * DAY } else { machine.true_day().end().0 - machine.true_us };
        machine.pass(&mut guard, until, &mut answered);
        prop_assert_eq!(wrong.map(|(machine, answer)| (machine.true_us, answer)), None);
    }
}
