//! What a request may ask to go wrong: a test source, or `--outcome` for all.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::form::Form;

/// Where a test source may stand. Refunds and payouts have no source, so `metadata[outcome]` works everywhere.
const PARAMETERS: [&str; 4] = ["source", "payment_method", "destination", "metadata[outcome]"];

/// What goes wrong with one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// 402 `card_declined` with this decline code; nothing moves.
    Declined(&'static str),
    /// 429; nothing moves.
    RateLimited,
    /// 500, although it was carried out.
    Broken,
    /// Carried out, never answered.
    Hang,
    /// Carried out, then closed in the middle of the reply.
    Cut,
    /// Closed without being carried out.
    CutBefore,
    /// Answered late.
    Slow(Duration),
}

impl Fault {
    /// The fault that a form's source asks for.
    pub(crate) fn of(form: &Form<'_>) -> Option<Fault> {
        PARAMETERS.into_iter().find_map(|parameter| Fault::of_source(form.get(parameter)?))
    }

    /// The decline code, if it is a decline.
    pub(crate) fn decline_code(self) -> Option<&'static str> {
        match self {
            Fault::Declined(code) => Some(code),
            Fault::RateLimited
            | Fault::Broken
            | Fault::Hang
            | Fault::Cut
            | Fault::CutBefore
            | Fault::Slow(_) => None,
        }
    }

    /// As [`Fault::of`] for one source: `tok_…`, `pm_…` or `pm_card_…`.
    pub(crate) fn of_source(source: &str) -> Option<Fault> {
        let name = source.strip_prefix("tok_").or_else(|| source.strip_prefix("pm_"))?;
        let name = name.strip_prefix("card_").unwrap_or(name);
        name.strip_prefix("visa_").unwrap_or(name).parse().ok()
    }
}

/// A text that names no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAnOutcome;

impl fmt::Display for NotAnOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not an outcome; use chargeDeclined, chargeDeclinedInsufficientFunds, 429, 500, hang, cut, cut_before \
             or slow_MS, and :N behind it for every Nth request",
        )
    }
}

impl std::error::Error for NotAnOutcome {}

impl FromStr for Fault {
    type Err = NotAnOutcome;

    fn from_str(name: &str) -> Result<Fault, NotAnOutcome> {
        match name {
            "chargeDeclined" => Ok(Fault::Declined("generic_decline")),
            "chargeDeclinedInsufficientFunds" => Ok(Fault::Declined("insufficient_funds")),
            "429" => Ok(Fault::RateLimited),
            "500" => Ok(Fault::Broken),
            "hang" => Ok(Fault::Hang),
            "cut" => Ok(Fault::Cut),
            "cut_before" => Ok(Fault::CutBefore),
            _ => {
                let millis = name.strip_prefix("slow_").and_then(|millis| millis.parse().ok());
                millis.map(|millis| Fault::Slow(Duration::from_millis(millis))).ok_or(NotAnOutcome)
            }
        }
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
    pub(crate) fn next(&mut self) -> Option<Fault> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_name_faults() {
        assert_eq!(Fault::of_source("tok_chargeDeclined"), Some(Fault::Declined("generic_decline")));
        assert_eq!(Fault::of_source("pm_card_chargeDeclined"), Some(Fault::Declined("generic_decline")));
        assert_eq!(Fault::of_source("pm_card_visa_chargeDeclined"), Some(Fault::Declined("generic_decline")));
        assert_eq!(Fault::of_source("tok_slow_250"), Some(Fault::Slow(Duration::from_millis(250))));
        assert_eq!(Fault::of_source("tok_cut_before"), Some(Fault::CutBefore));
        assert_eq!(Fault::of_source("pm_hang"), Some(Fault::Hang));
        assert_eq!(Fault::of_source("tok_visa"), None);
        assert_eq!(Fault::of_source("hang"), None);
        assert_eq!(Fault::of(&Form::parse(b"metadata[outcome]=tok_500")), Some(Fault::Broken));
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
}
