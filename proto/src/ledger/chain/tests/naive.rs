//! Chains against a ledger as one would write it on paper: lists, added up anew each time.

use proptest::prelude::*;

use super::*;

/// Who stands above whom: a root, a team with two keys, and a key of the root's own.
const PARENTS: [Option<usize>; 5] = [None, Some(0), Some(1), Some(1), Some(0)];

/// A call whose cost is not booked yet.
struct Open {
    leaf: usize,
    quote: u64,
    /// Its request is not booked either.
    running: bool,
}

/// What one key counts of a call that ended.
struct Booked {
    call: usize,
    key: usize,
    day: u32,
    charge: u64,
}

#[derive(Default)]
struct Naive {
    open: Vec<Open>,
    /// Of each call its keys, leaf first.
    booked: Vec<Booked>,
    calls_booked: usize,
    requests_booked: Vec<(usize, u32)>,
    /// Of each key, where its daily words stand.
    days: [u32; 5],
    request_days: [u32; 5],
    closed: [bool; 5],
    limits: [Limits; 5],
}

fn chain_of(leaf: usize) -> Vec<usize> {
    iter::successors(Some(leaf), |key| PARENTS[*key]).collect()
}

impl Naive {
    fn held(&self, key: usize, limit: Limit) -> u64 {
        let below = self.open.iter().filter(|open| chain_of(open.leaf).contains(&key));
        match limit {
            Limit::Requests => below.filter(|open| open.running).count() as u64,
            Limit::Daily | Limit::Lifetime => below.map(|open| open.quote).sum(),
        }
    }

    fn committed(&self, key: usize, limit: Limit, day: u32) -> u64 {
        let booked = self.booked.iter().filter(|booked| booked.key == key);
        let booked: u64 = match limit {
            Limit::Lifetime => booked.map(|booked| booked.charge).sum(),
            Limit::Daily => booked.filter(|booked| booked.day == day).map(|booked| booked.charge).sum(),
            Limit::Requests => self.requests_booked.iter().filter(|at| **at == (key, day)).count() as u64,
        };
        booked + self.held(key, limit)
    }

    fn reserve(&mut self, leaf: usize, today: u32, quote: u64) -> Result<u32, Refusal> {
        let chain = chain_of(leaf);
        if chain.iter().any(|key| self.closed[*key]) {
            return Err(Refusal::Closed);
        }
        let days = chain.iter().map(|key| self.days[*key].max(self.request_days[*key]));
        let on = days.max().unwrap().max(today);
        for key in &chain {
            for limit in Limit::ALL {
                let Some(cap) = self.limits[*key].cap(limit) else { continue };
                let wanted = if limit == Limit::Requests { 1 } else { quote };
                let left = cap.as_u64().saturating_sub(self.committed(*key, limit, on));
                if wanted > 0 && wanted > left {
                    let (key, left) = (id(name(*key)), Micros::new(left).unwrap());
                    return Err(Refusal::Over(Over { key, limit, cap, left, day: day(on) }));
                }
            }
        }
        for key in chain {
            self.days[key] = on;
            self.roll_requests(key, on);
        }
        self.open.push(Open { leaf, quote, running: true });
        Ok(on)
    }

    fn roll_requests(&mut self, key: usize, today: u32) {
        if self.limits[key].requests.is_some() {
            self.request_days[key] = self.request_days[key].max(today);
        }
    }

    fn book(&mut self, leaf: usize, today: u32, charge: u64) {
        for key in chain_of(leaf) {
            self.days[key] = self.days[key].max(today);
            self.booked.push(Booked { call: self.calls_booked, key, day: self.days[key], charge });
        }
        self.calls_booked += 1;
    }

    fn end_request(&mut self, leaf: usize, today: u32, sent: Sent) {
        for key in chain_of(leaf) {
            self.days[key] = self.days[key].max(today);
            self.roll_requests(key, today);
            if sent == Sent::Yes {
                self.requests_booked.push((key, self.request_days[key]));
            }
        }
    }
}

fn name(key: usize) -> u8 {
    b'a' + u8::try_from(key).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Reserve { leaf: usize, quote: u64 },
    Settle { at: usize, charge: u64, sent: bool },
    Doubt { at: usize },
    Resolve { at: usize, charge: u64 },
    Void { call: usize },
    Cap { key: usize, cap: u64 },
    Close { key: usize },
}

fn steps() -> impl Strategy<Value = Vec<(u32, Step)>> {
    let at = || any::<usize>();
    let step = prop_oneof![
        12 => (0..5usize, 0..100u64).prop_map(|(leaf, quote)| Step::Reserve { leaf, quote }),
        7 => (at(), 0..120u64, any::<bool>()).prop_map(|(at, charge, sent)| Step::Settle { at, charge, sent }),
        3 => at().prop_map(|at| Step::Doubt { at }),
        2 => (at(), 0..120u64).prop_map(|(at, charge)| Step::Resolve { at, charge }),
        1 => at().prop_map(|call| Step::Void { call }),
        1 => (0..5usize, 0..300u64).prop_map(|(key, cap)| Step::Cap { key, cap }),
        1 => (1..30usize).prop_map(|key| Step::Close { key }),
    ];
    // Clocks of several cores: they mostly agree, and go on slowly.
    prop::collection::vec((0..4u32, step), 0..120)
}

fn limits() -> impl Strategy<Value = Limits> {
    let some = |of: std::ops::Range<u64>| prop::option::of(of.prop_map(|cap| Micros::new(cap).unwrap()));
    (some(0..400), some(0..900), prop::option::of(1..12u32)).prop_map(|(daily, lifetime, requests)| Limits {
        daily,
        lifetime,
        requests,
    })
}

/// The place of the `at`-th open call that runs, or that is in doubt.
fn pick(naive: &Naive, at: usize, running: bool) -> Option<usize> {
    let fitting: Vec<usize> = (0..naive.open.len()).filter(|i| naive.open[*i].running == running).collect();
    (!fitting.is_empty()).then(|| fitting[at % fitting.len()])
}

fn play(naive: &mut Naive, keys: &[Rc<Key>], today: u32, step: &Step) -> Result<(), TestCaseError> {
    let micros = |amount| Micros::new(amount).unwrap();
    let on = day(today);
    match *step {
        Step::Reserve { leaf, quote } => {
            let expected = naive.reserve(leaf, today, quote).map(day);
            prop_assert_eq!(reserve(&*keys[leaf], on, micros(quote)), expected);
        }
        Step::Settle { at, charge, sent } => {
            let Some(at) = pick(naive, at, true) else { return Ok(()) };
            let Open { leaf, quote, .. } = naive.open.swap_remove(at);
            let sent = if sent { Sent::Yes } else { Sent::No };
            naive.book(leaf, today, charge);
            naive.end_request(leaf, today, sent);
            let mut days = Vec::new();
            settle(&*keys[leaf], on, micros(quote), micros(charge), sent, |key, day| days.push((key, day)));
            let expected = chain_of(leaf).into_iter().map(|key| (id(name(key)), day(naive.days[key])));
            prop_assert_eq!(days, expected.collect::<Vec<_>>());
        }
        Step::Doubt { at } => {
            let Some(at) = pick(naive, at, true) else { return Ok(()) };
            naive.open[at].running = false;
            let leaf = naive.open[at].leaf;
            naive.end_request(leaf, today, Sent::Yes);
            doubt(&*keys[leaf], on, |_, _| ());
        }
        Step::Resolve { at, charge } => {
            let Some(at) = pick(naive, at, false) else { return Ok(()) };
            let Open { leaf, quote, .. } = naive.open.swap_remove(at);
            naive.book(leaf, today, charge);
            resolve(&*keys[leaf], on, micros(quote), micros(charge), |_, _| ());
        }
        Step::Void { call } => {
            if naive.calls_booked == 0 {
                return Ok(());
            }
            let call = call % naive.calls_booked;
            let of_call = || naive.booked.iter().filter(|booked| booked.call == call);
            let (leaf, charge) = of_call().map(|booked| (booked.key, booked.charge)).next().unwrap();
            let booked_on = |key| {
                let booked = of_call().find(|booked| id(name(booked.key)) == key);
                booked.map(|booked| day(booked.day))
            };
            void(&*keys[leaf], micros(charge), booked_on);
            let of_call = naive.booked.iter_mut().filter(|booked| booked.call == call);
            of_call.for_each(|booked| booked.charge = 0);
        }
        Step::Cap { key, cap } => {
            if naive.limits[key].daily.is_some() {
                naive.limits[key].daily = Some(micros(cap));
                keys[key].limits.set(naive.limits[key]);
            }
        }
        Step::Close { key } => {
            if let Some(closed) = naive.closed.get_mut(key) {
                *closed = true;
                close(&*keys[key]);
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn chains_agree_with_lists(limits in prop::array::uniform5(limits()), steps in steps()) {
        let mut keys: Vec<Rc<Key>> = Vec::new();
        for (key, limits) in limits.iter().enumerate() {
            let parent = PARENTS[key].map(|parent| &keys[parent]);
            let made = Key::new(name(key), *limits, parent);
            keys.push(made);
        }
        let mut naive = Naive { limits, ..Naive::default() };
        for (at, (ahead, step)) in steps.iter().enumerate() {
            let today = u32::try_from(at / 30).unwrap() + ahead / 3;
            play(&mut naive, &keys, today, step)?;
            for (key, real) in keys.iter().enumerate() {
                for limit in Limit::ALL.into_iter().filter(|limit| real.has(*limit)) {
                    let word = real.word(limit);
                    let on = match limit {
                        Limit::Lifetime => 0,
                        Limit::Daily => naive.days[key],
                        Limit::Requests => naive.request_days[key],
                    };
                    prop_assert_eq!(word.day, day(on), "{:?} of {}", limit, key);
                    prop_assert_eq!(word.committed.as_u64(), naive.committed(key, limit, on), "{:?} of {}", limit, key);
                    prop_assert_eq!(word.held.as_u64(), naive.held(key, limit), "{:?} of {}", limit, key);
                    prop_assert_eq!(word.closed, limit == Limit::Daily && naive.closed[key]);
                }
            }
        }
    }
}
