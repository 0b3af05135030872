//! What can go wrong with a request, and how a request asks for it: by a test source.

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
    /// 409: another request holds the object; nothing moves.
    Conflict,
    /// 500, and it was not carried out.
    BrokenBefore,
    /// 500, although it was carried out.
    Broken,
    /// Not carried out, never answered.
    HangBefore,
    /// Carried out, never answered.
    Hang,
    /// Closed without being carried out.
    CutBefore,
    /// Carried out, then closed in the middle of the reply.
    Cut,
    /// Carried out, then closed without a byte of the reply.
    CutAfter,
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
        if let Fault::Declined(code) = self { Some(code) } else { None }
    }

    /// Its name in the ledger.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Fault::Declined(_) => "402",
            Fault::RateLimited => "429",
            Fault::Conflict => "409",
            Fault::BrokenBefore => "500_before",
            Fault::Broken => "500_after",
            Fault::HangBefore => "hang_before",
            Fault::Hang => "hang_after",
            Fault::CutBefore => "cut_before",
            Fault::Cut => "cut_middle",
            Fault::CutAfter => "cut_after",
            Fault::Slow(_) => "slow",
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
            "not an outcome; use 402, chargeDeclinedInsufficientFunds, 429, 409, 500_before, 500, hang_before, hang, \
             cut_before, cut, cut_after or slow_MS; for --outcome with :N behind it for every Nth request",
        )
    }
}

impl std::error::Error for NotAnOutcome {}

impl FromStr for Fault {
    type Err = NotAnOutcome;

    fn from_str(name: &str) -> Result<Fault, NotAnOutcome> {
        match name {
            "chargeDeclined" | "402" => Ok(Fault::Declined("generic_decline")),
            "chargeDeclinedInsufficientFunds" => Ok(Fault::Declined("insufficient_funds")),
            "429" => Ok(Fault::RateLimited),
            "409" => Ok(Fault::Conflict),
            "500_before" => Ok(Fault::BrokenBefore),
            "500" | "500_after" => Ok(Fault::Broken),
            "hang_before" => Ok(Fault::HangBefore),
            "hang" | "hang_after" => Ok(Fault::Hang),
            "cut_before" => Ok(Fault::CutBefore),
            "cut" | "cut_middle" => Ok(Fault::Cut),
            "cut_after" => Ok(Fault::CutAfter),
            _ => {
                let millis = name.strip_prefix("slow_").and_then(|millis| millis.parse().ok());
                millis.map(|millis| Fault::Slow(Duration::from_millis(millis))).ok_or(NotAnOutcome)
            }
        }
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
        assert_eq!(Fault::of_source("tok_hang_before"), Some(Fault::HangBefore));
        assert_eq!(Fault::of_source("tok_visa"), None);
        assert_eq!(Fault::of_source("hang"), None);
        assert_eq!(Fault::of(&Form::parse(b"metadata[outcome]=tok_500")), Some(Fault::Broken));
    }
}
