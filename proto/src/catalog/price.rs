//! What a call may cost, before it is sent, and what it did cost, from the reply.
//!
//! Never less than could be spent is quoted, and an unknown price is never zero.

use std::borrow::Cow;

use crate::form::{self, FormError, Text};
use crate::json::{self, Scalar};
use crate::money::Micros;

use super::{AmountRule, Declined, Price};

/// The parts of a request that a price is read from.
#[derive(Clone, Copy, Debug)]
pub struct Priced<'a> {
    /// `Content-Type`, as sent.
    pub content_type: Option<&'a [u8]>,
    /// The query, without `?`.
    pub query: Option<&'a [u8]>,
    /// The whole body, decoded from its framing.
    pub body: &'a [u8],
}

/// What is kept aside for a call, and what the request said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quote {
    /// The upper bound of the cost.
    pub amount: Micros,
    /// The amount of the request in minor units, where it states one.
    pub amount_minor: Option<u64>,
    /// Its currency, where it states one.
    pub currency: Option<Currency>,
}

/// An ISO 4217 code in lower case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Currency([u8; 3]);

impl Currency {
    /// US dollars.
    pub const USD: Currency = Currency(*b"usd");

    /// Reads a code in any case.
    pub fn parse(text: &str) -> Option<Currency> {
        let code: [u8; 3] = text.as_bytes().try_into().ok()?;
        code.iter().all(u8::is_ascii_alphabetic).then(|| Currency(code.map(|byte| byte.to_ascii_lowercase())))
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for Currency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a call has no quote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuoteError {
    /// Nothing bounds the cost; the text says what is missing.
    Unpriced(&'static str),
    /// The currency has no rate.
    Currency,
    /// The amount is missing, or can be read in more than one way: 400.
    Malformed(Cow<'static, str>),
    /// The body is in a form no amount is read from: 415.
    MediaType,
}

/// Whether the cost must be bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The key or an ancestor has a cap in USD.
    Capped,
    /// None has: money is counted where it can be.
    Uncapped,
}

/// The quote of a request under `price`.
pub fn quote(price: Price, request: Priced<'_>, bound: Bound) -> Result<Quote, QuoteError> {
    match (price, bound) {
        (Price::Free, _) | (Price::Unpriced(_) | Price::FreeWithout(_), Bound::Uncapped) => {
            Ok(Quote::default())
        }
        (Price::FreeWithout(names), Bound::Capped) => free_without(names, request),
        (Price::Unpriced(why), Bound::Capped) => Err(QuoteError::Unpriced(why)),
        (Price::AmountInRequest(rule), _) => amount_in_request(rule, request, bound),
    }
}

fn free_without(names: &[&str], request: Priced<'_>) -> Result<Quote, QuoteError> {
    // A body in another form than the one that is read may say anything.
    if !request.body.is_empty() && !request.content_type.is_some_and(is_form) {
        return Err(QuoteError::MediaType);
    }
    let query = request.query.unwrap_or_default();
    if names.iter().any(|name| form::mentions(request.body, name) || form::mentions(query, name)) {
        return Err(QuoteError::Unpriced("a parameter of it gives credit, a discount or a subscription"));
    }
    Ok(Quote::default())
}

fn amount_in_request(rule: AmountRule, request: Priced<'_>, bound: Bound) -> Result<Quote, QuoteError> {
    // Stripe may take parameters from the query too, so an amount there would have two readings (M2).
    if request.query.is_some_and(|query| !query.is_empty()) {
        return Err(QuoteError::Malformed(
            "send the parameters of this call in the body, not in the query".into(),
        ));
    }
    if !request.content_type.is_none_or(is_form) {
        return Err(QuoteError::MediaType);
    }
    let amount_minor = form::read_amount(request.body, "amount").map_err(malformed)?;
    let currency = form::read_text(request.body, "currency").map_err(malformed)?;
    let currency = currency.map(parse_currency).transpose()?;
    let Some(amount_minor) = amount_minor else {
        return match (rule.amount_optional, bound) {
            (false, _) => Err(QuoteError::Malformed("this call needs an `amount` in minor units".into())),
            (true, Bound::Uncapped) => Ok(Quote { currency, ..Quote::default() }),
            (true, Bound::Capped) => Err(QuoteError::Unpriced(
                "give an `amount`, since without one the vendor takes all that is left",
            )),
        };
    };
    let stated = Quote { amount_minor: Some(amount_minor), currency, ..Quote::default() };
    // A refund names no currency: it is the charge's, which only the vendor knows. Until it is looked
    // up it is read as USD, as under a cap only USD can be charged here; a charge made elsewhere in a
    // dearer currency is under-counted (docs/stripe.md says so).
    match (currency, bound) {
        (Some(Currency::USD), _) => {}
        (None, _) if rule.currency_elsewhere => {}
        (None, _) => return Err(QuoteError::Malformed("this call needs a `currency`".into())),
        (Some(_), Bound::Uncapped) => return Ok(stated),
        (Some(_), Bound::Capped) => return Err(QuoteError::Currency),
    }
    let amount = Micros::from_cents(amount_minor)
        .ok_or_else(|| QuoteError::Malformed("the amount is too large".into()))?;
    Ok(Quote { amount, ..stated })
}

fn malformed(error: FormError) -> QuoteError {
    QuoteError::Malformed(error.to_string().into())
}

fn parse_currency(text: Text) -> Result<Currency, QuoteError> {
    Currency::parse(text.as_str())
        .ok_or_else(|| QuoteError::Malformed("`currency` must be three letters".into()))
}

/// Exactly the form type, with or without a `charset=utf-8`.
pub fn is_form(content_type: &[u8]) -> bool {
    let mut parts = content_type.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_form =
        parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/x-www-form-urlencoded"));
    is_form && parts.all(|parameter| parameter.eq_ignore_ascii_case(b"charset=utf-8"))
}

/// How a hold ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The call cost this much; more than the quote is booked in full.
    Settle(Micros),
    /// Definitely nothing moved.
    Release,
    /// It may have moved: the quote stays held and committed.
    InDoubt,
}

/// What a reply to a call under `price` says of its cost.
///
/// `body` is the whole reply, or `None` where it cannot be read: longer than the limit (rule Q24),
/// encoded, or ended by closing. The quote is then the charge. A wrong `Release` spends money unseen; a wrong `InDoubt` keeps a cap fuller than
/// it is until it is resolved.
pub fn end(price: Price, quote: &Quote, status: u16, body: Option<&[u8]>) -> End {
    let Price::AmountInRequest(rule) = price else {
        return end_without_amount(quote, status);
    };
    match status {
        200..=299 => match body {
            None => End::Settle(quote.amount),
            Some(body) => end_of_success(rule, quote, body),
        },
        402 if rule.declined == Declined::StaysConfirmable => End::Settle(quote.amount),
        400..=499 if rule.declined == Declined::StaysConfirmable && names_intent(body) => {
            End::Settle(quote.amount)
        }
        // rule Q7: 408, 409 and 425 do not say that nothing happened; Stripe's 429 does.
        408 | 409 | 425 => End::InDoubt,
        400..=499 => End::Release,
        _ => End::InDoubt,
    }
}

/// The end of a call whose reply says nothing of its cost: free, or held at what one call may cost.
fn end_without_amount(quote: &Quote, status: u16) -> End {
    match status {
        // A quote of zero ends the same in each way.
        _ if quote.amount == Micros::ZERO => End::Settle(Micros::ZERO),
        200..=299 => End::Settle(quote.amount),
        408 | 409 | 425 => End::InDoubt,
        400..=499 => End::Release,
        _ => End::InDoubt,
    }
}

/// Whether an error may speak of an intent that exists: its member is `error.payment_intent`.
fn names_intent(body: Option<&[u8]>) -> bool {
    let name = b"\"payment_intent\"";
    body.is_none_or(|body| body.windows(name.len()).any(|window| window == name))
}

fn end_of_success(rule: AmountRule, quote: &Quote, body: &[u8]) -> End {
    let members = ["object", "amount", "currency", "status"];
    let Ok([object, amount, currency, status]) = json::read_top_level(body, members) else {
        return End::InDoubt;
    };
    // Another object's amount or status says nothing of this call.
    if !matches!(&object, Some(Scalar::Text(object)) if object == rule.object) {
        return End::Settle(quote.amount);
    }
    if let Some(Scalar::Text(status)) = &status
        && rule.moved_nothing.contains(&status.as_ref())
    {
        return End::Settle(Micros::ZERO);
    }
    let currency = match &currency {
        Some(Scalar::Text(code)) => Currency::parse(code),
        _ => None,
    };
    // Only an amount in the currency of the quote can correct it; any other leaves the quote.
    let comparable = currency == Some(Currency::USD) && quote.currency.is_none_or(|of| of == Currency::USD);
    match amount {
        Some(Scalar::Unsigned(minor)) if comparable => {
            End::Settle(Micros::from_cents(minor).unwrap_or(Micros::MAX))
        }
        _ => End::Settle(quote.amount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::http1::Method;

    fn price(path: &str) -> Price {
        Catalog::of("stripe").unwrap().recognize(Method::Post, path.as_bytes()).price()
    }

    fn priced(body: &str) -> Priced<'_> {
        Priced {
            content_type: Some(b"application/x-www-form-urlencoded"),
            query: None,
            body: body.as_bytes(),
        }
    }

    /// The quote in cents of a POST to `path`, under a cap.
    fn check(path: &str, body: &str, expected: Result<u64, QuoteError>) {
        let quote = quote(price(path), priced(body), Bound::Capped);
        assert_eq!(quote.map(|quote| quote.amount.as_u64() / 10_000), expected, "{path} {body}");
    }

    /// The end of a call to `path` of $20, as `settle <cents>`, `release` or `doubt`.
    fn check_end(path: &str, status: u16, body: &str, expected: &str) {
        let quote = quote(price(path), priced("amount=2000&currency=usd"), Bound::Capped).unwrap();
        let text = match end(price(path), &quote, status, Some(body.as_bytes())) {
            End::Settle(charge) => format!("settle {}", charge.as_u64() / 10_000),
            End::Release => "release".to_owned(),
            End::InDoubt => "doubt".to_owned(),
        };
        assert_eq!(text, expected, "{path} {status} {body}");
    }

    #[test]
    fn amounts_are_read_from_the_request() {
        check("/v1/charges", "amount=2000&currency=usd", Ok(2000));
        check("/v1/payment_intents", "currency=USD&amount=1&metadata[amount]=9", Ok(1));
        check("/v1/refunds", "charge=ch_1&amount=500", Ok(500));
        check("/v1/payouts", "amount=999999999999&currency=usd", Ok(999_999_999_999));
        check("/v1/customers", "name=a", Ok(0));
    }

    #[test]
    fn what_cannot_be_priced_is_refused_under_a_cap() {
        let unpriced = |path, body| match quote(price(path), priced(body), Bound::Capped) {
            Err(QuoteError::Unpriced(_)) => {}
            other => panic!("{path}: {other:?}"),
        };
        unpriced("/v1/refunds", "charge=ch_1");
        unpriced("/v1/transfers", "destination=acct_1&currency=usd");
        let unstated = quote(price("/v1/transfers"), priced("destination=acct_1&amount=5"), Bound::Capped);
        assert!(matches!(unstated, Err(QuoteError::Malformed(_))));
        unpriced("/v1/payment_intents/pi_1/capture", "");
        unpriced("/v1/subscriptions", "customer=cus_1");
        check("/v1/charges", "amount=2000&currency=eur", Err(QuoteError::Currency));
        assert_eq!(quote(price("/v1/subscriptions"), priced(""), Bound::Uncapped), Ok(Quote::default()));
        let euros = quote(price("/v1/charges"), priced("amount=5&currency=eur"), Bound::Uncapped).unwrap();
        assert_eq!((euros.amount, euros.amount_minor), (Micros::ZERO, Some(5)));
    }

    #[test]
    fn m7_a_call_held_at_the_most_it_may_cost_ends_by_its_status() {
        let held = Quote { amount: Micros::from_cents(500).unwrap(), ..Quote::default() };
        let unpriced = price("/v1/subscriptions");
        for (status, expected) in [
            (200, End::Settle(held.amount)),
            (400, End::Release),
            (402, End::Release),
            (429, End::Release),
            (409, End::InDoubt),
            (500, End::InDoubt),
            (302, End::InDoubt),
        ] {
            assert_eq!(end(unpriced, &held, status, None), expected, "{status}");
            assert_eq!(end(unpriced, &Quote::default(), status, None), End::Settle(Micros::ZERO), "{status}");
        }
    }

    #[test]
    fn m2_an_amount_with_two_readings_is_refused() {
        let malformed = |request: Priced<'_>| match quote(price("/v1/charges"), request, Bound::Capped) {
            Err(QuoteError::Malformed(_) | QuoteError::MediaType) => {}
            other => panic!("{request:?}: {other:?}"),
        };
        for body in [
            "currency=usd",
            "amount=2000",
            "amount=&currency=usd",
            "amount=1&amount=2&currency=usd",
            "amount=-1&currency=usd",
            "amount=1.5&currency=usd",
            "amount=1e3&currency=usd",
            "amount=01&currency=usd",
            "amount=0&currency=usd",
            "%61mount=1&amount=2&currency=usd",
            "amount[]=1&amount=2&currency=usd",
            "amount=1000000000000&currency=usd",
            "amount=1&currency=us",
            "amount=1&currency=usd&currency=eur",
        ] {
            malformed(priced(body));
        }
        let good = priced("amount=1&currency=usd");
        malformed(Priced { query: Some(b"amount=9"), ..good });
        malformed(Priced { content_type: Some(b"application/json"), ..good });
        malformed(Priced { content_type: Some(b"multipart/form-data; boundary=x"), ..good });
    }

    #[test]
    fn the_reply_says_what_it_cost() {
        check_end(
            "/v1/charges",
            200,
            r#"{"object": "charge", "amount": 2000, "currency": "usd", "status": "succeeded"}"#,
            "settle 2000",
        );
        check_end(
            "/v1/charges",
            200,
            r#"{"object": "charge", "amount": 1500, "currency": "usd"}"#,
            "settle 1500",
        );
        check_end(
            "/v1/charges",
            200,
            r#"{"object": "charge", "amount": 9000, "currency": "usd"}"#,
            "settle 9000",
        );
        check_end(
            "/v1/charges",
            200,
            r#"{"object": "charge", "amount": 1, "currency": "eur"}"#,
            "settle 2000",
        );
        check_end("/v1/charges", 200, r#"{"metadata": {"amount": 1}}"#, "settle 2000");
        check_end(
            "/v1/payouts",
            200,
            r#"{"object": "payout", "amount": 2000, "currency": "usd", "status": "failed"}"#,
            "settle 0",
        );
        check_end(
            "/v1/payment_intents",
            200,
            r#"{"object": "payment_intent", "amount": 2000, "currency": "usd", "status": "canceled"}"#,
            "settle 0",
        );
    }

    #[test]
    fn a_reply_that_shows_another_object_says_nothing_of_the_amount() {
        let charge = r#"{"object": "charge", "amount": 100000, "currency": "usd", "status": "succeeded"}"#;
        check_end("/v1/refunds", 200, charge, "settle 2000");
        check_end("/v1/charges/ch_1/refund", 200, charge, "settle 2000");
        check_end("/v1/refunds", 200, &charge.replace("charge", "refund"), "settle 100000");
    }

    #[test]
    fn q7_an_intent_that_a_refusal_names_may_live_on() {
        let named = r#"{"error": {"type": "invalid_request_error", "payment_intent": {"id": "pi_1"}}}"#;
        check_end("/v1/payment_intents", 400, named, "settle 2000");
        check_end("/v1/charges", 400, named, "release");
    }

    #[test]
    fn credit_and_subscriptions_in_a_customer_are_not_free_under_a_cap() {
        check("/v1/customers", "name=a&source=tok_visa", Ok(0));
        for body in ["balance=-100", "plan=gold", "b%61lance=-1", "coupon=x", "items[]=1&balance=1"] {
            let refused = quote(price("/v1/customers"), priced(body), Bound::Capped);
            assert!(matches!(refused, Err(QuoteError::Unpriced(_))), "{body}");
        }
        let source = priced("source=tok_visa");
        assert!(quote(price("/v1/customers/cus_1"), source, Bound::Capped).is_err());
        assert!(quote(price("/v1/customers/cus_1"), source, Bound::Uncapped).is_ok());
    }

    #[test]
    fn m7_q7_only_a_definite_refusal_releases() {
        let error = r#"{"error": {"type": "card_error"}}"#;
        check_end("/v1/charges", 402, error, "release");
        check_end("/v1/payment_intents", 402, error, "settle 2000");
        for status in [400, 401, 403, 404, 422, 429] {
            check_end("/v1/charges", status, error, "release");
        }
        for status in [302, 408, 409, 425, 500, 502, 503, 504] {
            check_end("/v1/charges", status, error, "doubt");
        }
        check_end("/v1/charges", 200, "not json", "doubt");
        check_end("/v1/charges", 200, r#"{"amount": 1, "amount": 2000}"#, "doubt");
    }
}
