//! What is to go wrong with which request, where the request does not say so itself.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use super::fault::{Fault, NotAnOutcome};
use crate::random::Random;

/// What one request is to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// What the vendor makes of it.
    Fine,
    /// Something that goes wrong.
    Fault(Fault),
}

impl Outcome {
    /// What goes wrong, if anything does.
    pub(crate) fn fault(self) -> Option<Fault> {
        match self {
            Outcome::Fine => None,
            Outcome::Fault(fault) => Some(fault),
        }
    }

    /// Its name in the ledger.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Outcome::Fine => "200",
            Outcome::Fault(fault) => fault.name(),
        }
    }
}

impl FromStr for Outcome {
    type Err = NotAnOutcome;

    fn from_str(name: &str) -> Result<Outcome, NotAnOutcome> {
        if name == "200" { Ok(Outcome::Fine) } else { name.parse().map(Outcome::Fault) }
    }
}

/// `--outcome NAME[:N]`: every Nth POST without a test source of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Every {
    fault: Fault,
    nth: u64,
    seen: u64,
}

impl Every {
    /// Counts one request; yields the fault if it is this one's turn.
    fn next(&mut self) -> Option<Fault> {
        self.seen = self.seen.saturating_add(1);
        self.seen.is_multiple_of(self.nth).then_some(self.fault)
    }
}

impl FromStr for Every {
    type Err = NotAnOutcome;

    fn from_str(text: &str) -> Result<Every, NotAnOutcome> {
        let (name, nth) = match text.split_once(':') {
            Some((name, nth)) => (name, nth.parse().ok().filter(|nth| *nth > 0).ok_or(NotAnOutcome)?),
            None => (text, 1),
        };
        Ok(Every { fault: name.parse()?, nth, seen: 0 })
    }
}

/// `--script NAME,…`: outcomes in order, one a POST.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Script(VecDeque<Outcome>);

impl FromStr for Script {
    type Err = NotAnOutcome;

    fn from_str(text: &str) -> Result<Script, NotAnOutcome> {
        text.split(',').map(str::parse).collect::<Result<_, _>>().map(Script)
    }
}

/// `--outcomes NAME=WEIGHT,…`: how often each outcome is drawn, in parts of the sum of all weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Weights {
    each: Vec<(Outcome, u64)>,
    sum: u64,
}

/// A text that gives no weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotWeights {
    /// One of its names is no outcome.
    Name(NotAnOutcome),
    /// One of its weights is missing or is no number, or they are all 0.
    Weight,
}

impl fmt::Display for NotWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotWeights::Name(error) => error.fmt(f),
            NotWeights::Weight => {
                f.write_str("no weights; write NAME=WEIGHT with whole numbers, such as 200=90,402=10")
            }
        }
    }
}

impl std::error::Error for NotWeights {}

impl FromStr for Weights {
    type Err = NotWeights;

    fn from_str(text: &str) -> Result<Weights, NotWeights> {
        let mut each = Vec::new();
        let mut sum = 0_u64;
        for part in text.split(',') {
            let (name, weight) = part.split_once('=').ok_or(NotWeights::Weight)?;
            let weight: u32 = weight.parse().map_err(|_| NotWeights::Weight)?;
            sum = sum.saturating_add(u64::from(weight));
            each.push((name.parse().map_err(NotWeights::Name)?, u64::from(weight)));
        }
        if sum == 0 { Err(NotWeights::Weight) } else { Ok(Weights { each, sum }) }
    }
}

impl Weights {
    fn draw(&self, random: &mut Random) -> Outcome {
        let mut left = random.below(self.sum);
        for (outcome, weight) in &self.each {
            match left.checked_sub(*weight) {
                Some(rest) => left = rest,
                None => return *outcome,
            }
        }
        Outcome::Fine
    }
}

/// All of it. The script goes first, then the turns, then the draw.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// In order.
    pub(crate) script: Script,
    /// By turns.
    pub(crate) turns: Vec<Every>,
    /// By chance.
    pub(crate) chance: Option<(Weights, Random)>,
}

impl Plan {
    /// The next request's outcome; `None` where none was asked for.
    pub(super) fn next(&mut self) -> Option<Outcome> {
        if let Some(outcome) = self.script.0.pop_front() {
            return Some(outcome);
        }
        // Every turn is counted, also where another one wins.
        let turn = self.turns.iter_mut().filter_map(Every::next).last();
        let draw = self.chance.as_mut().map(|(weights, random)| weights.draw(random));
        turn.map(Outcome::Fault).or(draw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(script: &str, weights: &str, seed: u64) -> Plan {
        let script = if script.is_empty() { Script::default() } else { script.parse().unwrap() };
        let chance = Some((weights.parse().unwrap(), Random::new(seed)));
        Plan { script, turns: Vec::new(), chance }
    }

    #[test]
    fn every_nth_has_its_turn() {
        let mut every: Every = "500:3".parse().unwrap();
        let turns: Vec<bool> = (0..6).map(|_| every.next().is_some()).collect();
        assert_eq!(turns, [false, false, true, false, false, true]);
        assert_eq!("hang".parse::<Every>().unwrap().next(), Some(Fault::Hang));
        assert_eq!("500:0".parse::<Every>(), Err(NotAnOutcome));
        assert_eq!("tok_500".parse::<Every>(), Err(NotAnOutcome));
    }

    #[test]
    fn a_script_is_played_in_order_and_goes_before_all_else() {
        let mut plan = plan("402,200,cut_after", "hang=1", 1);
        let names: Vec<_> = (0..4).map(|_| plan.next().unwrap().name()).collect();
        assert_eq!(names, ["402", "200", "cut_after", "hang_after"]);
    }

    #[test]
    fn a_turn_goes_before_a_draw_and_without_either_nothing_is_asked_for() {
        let mut plan = plan("", "200=1", 1);
        plan.turns.push("429:2".parse().unwrap());
        let names: Vec<_> = (0..4).map(|_| plan.next().unwrap().name()).collect();
        assert_eq!(names, ["200", "429", "200", "429"]);
        assert_eq!(Plan::default().next(), None);
    }

    #[test]
    fn draws_follow_their_weights_and_repeat_with_their_seed() {
        let draws = |seed| {
            let mut plan = plan("", "200=70,402=20,cut_before=10,429=0", seed);
            (0..10_000).map(|_| plan.next().unwrap().name()).collect::<Vec<_>>()
        };
        let names = draws(5);
        let count = |wanted| names.iter().filter(|name| **name == wanted).count();
        assert!((6_800..7_200).contains(&count("200")), "{}", count("200"));
        assert!((1_850..2_150).contains(&count("402")), "{}", count("402"));
        assert!((900..1_100).contains(&count("cut_before")), "{}", count("cut_before"));
        assert_eq!(count("429"), 0);
        assert_eq!(names, draws(5));
        assert_ne!(names, draws(6));
    }

    #[test]
    fn what_gives_no_weights_says_why() {
        let why = |text: &str| text.parse::<Weights>().unwrap_err();
        assert_eq!(why("200"), NotWeights::Weight);
        assert_eq!(why("200=x"), NotWeights::Weight);
        assert_eq!(why("200=-1"), NotWeights::Weight);
        assert_eq!(why("200=0,402=0"), NotWeights::Weight);
        assert_eq!(why("explode=1"), NotWeights::Name(NotAnOutcome));
    }
}
