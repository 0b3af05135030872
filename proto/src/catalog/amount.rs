//! Calls that move an amount of money: what they state, what they leave to an object of the vendor's, and what the
//! vendor's reply says of it.
//!
//! An object that counted before, as a payment intent did when it was created, counts once: later calls on it add
//! what it grows by.

use serde::Deserialize;

use super::currency::{Currency, Rate};
pub use super::object::{Acting, Counted, Known, LookedUp, LookupError, ObjectId, looked_up};
use super::price::{Bound, End, Priced, Quote, QuoteError, Terms};
use super::read::{self, Stated};
use crate::json::{self, Scalar};
use crate::money::Micros;

/// How the amount of a call is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AmountRule {
    /// The parameters that state it, in minor units; where there are several of them, their sum bounds it.
    pub parameters: &'static [&'static str],
    /// Whether it may be written with a minus sign: what moves is its absolute value.
    pub signed: bool,
    /// Whether it is a part of the object's total, which counts whole: parts may follow, or be more than the whole.
    pub partial: bool,
    /// What it means that none of them is there.
    pub absent: Absent,
    /// A flag in whose presence nothing moves.
    pub free_if: Option<&'static str>,
    /// Whose currency it is.
    pub currency: CurrencyOf,
    /// The object it acts on: the first of these whose id is there.
    pub subjects: &'static [Subject],
    /// How it counts beside what its object counted before.
    pub counts: Counts,
    /// What a 402 leaves behind.
    pub declined: Declined,
    /// What a reply says of it.
    pub reply: ReplyRule,
}

/// What it means that no amount is stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// The vendor would refuse the call.
    Malformed,
    /// All that is left of the object.
    Left,
    /// The call changes something else.
    Nothing,
}

/// Whose currency an amount is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CurrencyOf {
    /// The request states it.
    Request,
    /// It is the object's, unless the request states another one.
    Subject,
}

/// How a call counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counts {
    /// By itself.
    Anew,
    /// By itself, and later calls on the object that it creates add to it.
    First,
    /// The amount is the object's total: what the object counted before is less.
    Total,
}

/// What a declined call (402) may still move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Declined {
    /// Nothing.
    Nothing,
    /// The object stays and can be confirmed outside keybrake, so its amount counts (rule Q7).
    StaysConfirmable,
}

/// What a 2xx reply says of an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyRule {
    /// What its `object` says where its figures are those of this call.
    pub object: &'static str,
    /// The member that holds the amount; `None` where no member does, and the quote is the charge.
    pub amount: Option<&'static str>,
    /// The statuses that moved nothing.
    pub moved_nothing: &'static [&'static str],
    /// The statuses with which a lower amount is the last word; empty: all.
    pub last_word: &'static [&'static str],
}

/// An object of the vendor's that a call acts on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Where its id stands.
    pub id: IdAt,
    /// The path it is read at, without the id.
    pub collection: &'static str,
    /// What its `object` says.
    pub object: &'static str,
    /// What is left of it.
    pub left: Left,
    /// The status it must have: with any other its amount can still grow (rule Q8).
    pub status: Option<&'static str>,
}

/// Where an object's id stands in a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdAt {
    /// In this segment of the path, counted from 0.
    Segment(usize),
    /// In this parameter.
    Parameter(&'static str),
}

/// What is left of an object, in its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// This one.
    Whole(&'static str),
    /// The first of these that is there.
    FirstOf(&'static str, &'static str),
    /// The first less the second.
    Less(&'static str, &'static str),
}

/// What a quote of an amount was made of, for the charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basis {
    rate: Rate,
    currency: Currency,
    /// The object's total, or the amount.
    total: u64,
    /// What of it had counted before.
    counted: u64,
}

/// The object that a request under `rule` acts on.
pub(super) fn acts_on(rule: &'static AmountRule, request: Priced<'_>) -> Result<Option<Acting>, QuoteError> {
    let mut found = None;
    for subject in rule.subjects {
        let Some(id) = read::object_id(subject.id, request)? else { continue };
        if found.replace(Acting { subject, id }).is_some() {
            return Err(QuoteError::Malformed("it names two objects; name one".into()));
        }
    }
    Ok(found)
}

/// Whether the object must be read first.
pub(super) fn must_look_up(
    rule: &AmountRule,
    request: Priced<'_>,
    counted: Option<Counted>,
) -> Result<bool, QuoteError> {
    let Stated { amount, currency, is_free } = read::stated(rule, request)?;
    if is_free {
        return Ok(false);
    }
    let knows_total = rule.counts == Counts::Total && counted.is_some();
    Ok(match (amount, rule.absent) {
        // A change of an object may change its currency; what is stated beside another call need not be true.
        (Some(_), _) if rule.partial => !knows_total,
        (Some(_), Absent::Nothing) => currency.is_none() && counted.is_none(),
        (Some(_), _) => rule.currency == CurrencyOf::Subject && counted.is_none(),
        (None, Absent::Left) => !knows_total,
        (None, Absent::Malformed | Absent::Nothing) => false,
    })
}

/// The quote of a request under `rule`.
pub(super) fn quote(
    rule: &AmountRule,
    request: Priced<'_>,
    known: Known,
    terms: &Terms<'_>,
) -> Result<Quote, QuoteError> {
    let stated = read::stated(rule, request)?;
    if stated.is_free {
        return Ok(Quote::default());
    }
    let Some((total, currency)) = total(rule, stated, known, terms.bound)? else {
        return Ok(Quote { amount_minor: stated.amount, currency: stated.currency, ..Quote::default() });
    };
    let rate = match (terms.book.rates.of(currency, terms.today), terms.bound) {
        (Ok(rate), _) => rate,
        (Err(no_rate), Bound::Capped) => return Err(QuoteError::Currency(no_rate)),
        (Err(_), Bound::Uncapped) => {
            return Ok(Quote { amount_minor: Some(total), currency: Some(currency), ..Quote::default() });
        }
    };
    let counted = known.counted.filter(|of| rule.counts == Counts::Total && of.currency == currency);
    let counted = counted.map_or(0, |of| of.minor);
    let due = total.saturating_sub(counted);
    let amount = rate.held(due).ok_or_else(|| QuoteError::Malformed("the amount is too large".into()))?;
    let basis = Some(Basis { rate, currency, total, counted });
    Ok(Quote { amount, amount_minor: Some(due), currency: Some(currency), basis, ..Quote::default() })
}

/// The amount that is asked for, or the object's total, and its currency; `None` where nothing bounds it and nothing
/// has to.
fn total(
    rule: &AmountRule,
    stated: Stated,
    known: Known,
    bound: Bound,
) -> Result<Option<(u64, Currency)>, QuoteError> {
    let malformed = |problem: &'static str| Err(QuoteError::Malformed(problem.into()));
    let whole = known.counted.filter(|_| rule.counts == Counts::Total).map(|of| (of.minor, of.currency));
    let whole = whole.or(known.looked_up.map(|of| (of.left, of.currency))).filter(|_| rule.partial);
    if let (Some(part), Some((total, currency))) = (stated.amount, whole) {
        return Ok(Some((total.max(part), currency)));
    }
    let Some(amount) = stated.amount else {
        return match (rule.absent, known.counted, known.looked_up, bound) {
            (Absent::Malformed, ..) => malformed("this call needs an `amount` in minor units"),
            (Absent::Nothing, ..) if stated.currency.is_some() && bound == Bound::Capped => {
                malformed("this call changes the currency, so it needs an `amount` in minor units too")
            }
            (Absent::Nothing, ..) => Ok(None),
            (Absent::Left, Some(counted), ..) if rule.counts == Counts::Total => {
                Ok(Some((counted.minor, counted.currency)))
            }
            (Absent::Left, _, Some(LookedUp { left, currency }), _) => Ok(Some((left, currency))),
            (Absent::Left, _, None, Bound::Uncapped) => Ok(None),
            (Absent::Left, _, None, Bound::Capped) => Err(QuoteError::Unpriced(
                "give an `amount`, since without one the vendor takes all that is left",
            )),
        };
    };
    let of_subject = known.looked_up.map(|of| of.currency).or(known.counted.map(|of| of.currency));
    let is_bound = rule.currency == CurrencyOf::Subject && rule.absent != Absent::Nothing;
    if is_bound && of_subject.is_some_and(|of| stated.currency.is_some_and(|stated| stated != of)) {
        return malformed("the currency of this call is that of the object it acts on");
    }
    let currency = match (rule.currency, stated.currency, of_subject, bound) {
        (_, Some(currency), ..) | (CurrencyOf::Subject, None, Some(currency), _) => currency,
        (CurrencyOf::Request, None, ..) => return malformed("this call needs a `currency`"),
        (CurrencyOf::Subject, None, None, Bound::Uncapped) => return Ok(None),
        (CurrencyOf::Subject, None, None, Bound::Capped) => {
            return malformed("this call needs the id of the object it acts on, whose currency it takes");
        }
    };
    Ok(Some((amount, currency)))
}

/// An object of the vendor's and what it counts now.
pub type Remembered = (ObjectId, Counted);

/// What a reply to a call under `rule` says of its cost, as [`super::price::end`].
pub(super) fn end(
    rule: &AmountRule,
    quote: &Quote,
    acting: Option<&Acting>,
    status: u16,
    body: Option<&[u8]>,
) -> (End, Option<Remembered>) {
    let stays = rule.declined == Declined::StaysConfirmable;
    if rule.absent == Absent::Nothing && quote.amount_minor.is_none() && quote.basis.is_none() {
        // It changed something else, and the amount in the reply is none that it moved.
        return (End::Settle(Micros::ZERO), None);
    }
    match status {
        200..=299 => match body {
            None => (End::Settle(quote.expected()), None),
            Some(body) => end_of_success(rule, quote, acting, body),
        },
        // The reply to a decline names the intent that it leaves behind.
        400..=499 if stays && (status == 402 || may_name_intent(body)) => {
            let id = body.and_then(named_intent);
            (End::Settle(quote.expected()), id.zip(quote.basis.map(|basis| basis.counted_now(basis.total))))
        }
        // rule Q7: 408, 409 and 425 do not say that nothing happened; Stripe's 429 does.
        408 | 409 | 425 => (End::InDoubt, None),
        400..=499 => (End::Release, None),
        _ => (End::InDoubt, None),
    }
}

fn end_of_success(
    rule: &AmountRule,
    quote: &Quote,
    acting: Option<&Acting>,
    body: &[u8],
) -> (End, Option<Remembered>) {
    let amount_member = rule.reply.amount.unwrap_or("\0");
    let members = ["object", "id", "currency", "status", amount_member];
    let Ok([object, id, currency, status, amount]) = json::read_top_level(body, members) else {
        return (End::InDoubt, None);
    };
    // Another object's amount or status says nothing of this call.
    if !matches!(&object, Some(Scalar::Text(object)) if object == rule.reply.object) {
        return (End::Settle(quote.expected()), None);
    }
    let has =
        |statuses: &[&str]| matches!(&status, Some(Scalar::Text(of)) if statuses.contains(&of.as_ref()));
    if has(rule.reply.moved_nothing) {
        return (End::MovedNothing, None);
    }
    let currency = match &currency {
        Some(Scalar::Text(code)) => Currency::parse(code),
        _ => None,
    };
    let answered = match amount {
        Some(Scalar::Unsigned(minor)) => Some(minor),
        _ => None,
    };
    let Some(basis) = quote.basis else {
        // Nothing was quoted, as nothing is capped: what is answered in USD counts.
        let charge = answered.filter(|_| currency == Some(Currency::USD)).and_then(|of| Rate::USD.worth(of));
        return (End::Settle(charge.unwrap_or(quote.amount)), None);
    };
    // Only an amount in the currency of the quote can correct it; any other leaves the quote.
    let is_last_word = rule.reply.last_word.is_empty() || has(rule.reply.last_word);
    let total = match answered.filter(|_| currency == Some(basis.currency)) {
        Some(answered) if is_last_word => answered,
        Some(answered) => answered.max(basis.total),
        None => basis.total,
    };
    let counted = basis.counted_now(total);
    let remembered = match (rule.counts, acting, &id) {
        (Counts::Anew, ..) => None,
        (Counts::First, _, Some(Scalar::Text(id))) => ObjectId::parse(id),
        (Counts::First, ..) => None,
        // One in another currency says nothing of what counted.
        (Counts::Total, Some(acting), _) if currency == Some(basis.currency) => Some(acting.id.clone()),
        (Counts::Total, ..) => None,
    };
    let due = total.saturating_sub(basis.counted);
    let charge = basis.rate.worth(due).unwrap_or(Micros::MAX);
    (End::Settle(charge), remembered.map(|id| (id, counted)))
}

impl Basis {
    /// Of an amount that nothing else is set against.
    pub(super) fn of(rate: Rate, currency: Currency, total: u64) -> Basis {
        Basis { rate, currency, total, counted: 0 }
    }

    /// What a call that goes as it was asked for costs.
    pub(super) fn expected(&self) -> Micros {
        self.rate.worth(self.total.saturating_sub(self.counted)).unwrap_or(Micros::MAX)
    }

    /// What all of it is worth.
    pub(super) fn whole(&self) -> Micros {
        self.rate.worth(self.total).unwrap_or(Micros::MAX)
    }

    /// What the object counts once it came to `total`: never less than before.
    fn counted_now(&self, total: u64) -> Counted {
        Counted { minor: total.max(self.counted), currency: self.currency }
    }
}

/// Whether an error may speak of an intent that exists: its member is `error.payment_intent`.
fn may_name_intent(body: Option<&[u8]>) -> bool {
    let name = b"\"payment_intent\"";
    body.is_none_or(|body| body.windows(name.len()).any(|window| window == name))
}

/// `error.payment_intent.id`.
fn named_intent(body: &[u8]) -> Option<ObjectId> {
    #[derive(Deserialize)]
    struct Reply {
        error: Error,
    }
    #[derive(Deserialize)]
    struct Error {
        payment_intent: Intent,
    }
    #[derive(Deserialize)]
    struct Intent {
        id: String,
    }
    let reply: Reply = serde_json::from_slice(body).ok()?;
    ObjectId::parse(&reply.error.payment_intent.id)
}
