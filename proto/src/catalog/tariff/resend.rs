//! Mails through Resend: each recipient in `to`, `cc` and `bcc` counts as one (resend.com/docs, "What counts as a mail").

use serde::Deserialize;

use super::file::{self, Usd};
use super::{Tell, no_query, times};
use crate::catalog::price::{End, Priced, Quote, QuoteError};
use crate::json::{self, JsonError};
use crate::money::Micros;
use crate::time::Day;

/// Mails in one batch (resend.com/docs, "Send Batch Emails").
const BATCH_MAX: usize = 100;

/// The members that name recipients.
const RECIPIENTS: [&str; 3] = ["to", "cc", "bcc"];

/// Resend's prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResendPrices {
    /// Where they are from.
    pub source: String,
    /// Of which day they are.
    pub date: Day,
    email: Micros,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceFile {
    source: String,
    date: String,
    email_usd: Usd,
}

impl ResendPrices {
    /// The file that keybrake comes with.
    pub const SHIPPED: &'static str = include_str!("../prices/resend.toml");

    /// Reads a price file.
    ///
    /// # Errors
    /// One line that says what is wrong and what to write.
    pub fn parse(text: &str) -> Result<ResendPrices, String> {
        let file: PriceFile = toml::from_str(text).map_err(|error| file::syntax(text, &error))?;
        let date = file::check_head(&file.source, &file.date)?;
        Ok(ResendPrices { source: file.source, date, email: file.email_usd.0 })
    }
}

/// What a batch was made of, for a reply that says how much of it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    each: Micros,
    mails: u64,
    recipients: u64,
    /// The fewest recipients of one mail.
    fewest: u64,
}

/// One mail.
pub(super) fn email(
    prices: &ResendPrices,
    request: Priced<'_>,
    tell: Tell<'_>,
) -> Result<Micros, QuoteError> {
    let body = json_of(request)?;
    let recipients = json::count_texts(body, RECIPIENTS).map_err(bad_json)?;
    let total = recipients.into_iter().fold(0_u64, u64::saturating_add);
    tell(format_args!("{total} recipients at ${}", prices.email));
    times(prices.email, total)
}

/// Up to a hundred mails.
pub(super) fn batch(prices: &ResendPrices, request: Priced<'_>, tell: Tell<'_>) -> Result<Quote, QuoteError> {
    let body = json_of(request)?;
    let mails = json::count_texts_of_each(body, RECIPIENTS, BATCH_MAX).map_err(bad_json)?;
    let sums = mails.iter().map(|counts| counts.iter().copied().fold(0_u64, u64::saturating_add));
    let recipients = sums.clone().fold(0_u64, u64::saturating_add);
    let fewest = sums.min().unwrap_or_default();
    let count = u64::try_from(mails.len()).unwrap_or(u64::MAX);
    tell(format_args!("{count} mails with {recipients} recipients at ${}", prices.email));
    let batch = Batch { each: prices.email, mails: count, recipients, fewest };
    Ok(Quote { amount: times(prices.email, recipients)?, batch: Some(batch), ..Quote::default() })
}

/// What a batch cost of which a 2xx reply names the mails that were sent. With `x-batch-validation: permissive` that
/// may be some of them, and it is not said reliably which: each that is missing had at least the fewest recipients.
pub(in crate::catalog) fn end_of_batch(quote: &Quote, batch: Batch, body: Option<&[u8]>) -> End {
    #[derive(Deserialize)]
    struct Reply {
        data: Vec<Sent>,
    }
    #[derive(Deserialize)]
    struct Sent {
        #[serde(rename = "id")]
        _id: String,
    }
    let reply = body.and_then(|body| serde_json::from_slice::<Reply>(body).ok());
    let Some(sent) = reply.and_then(|reply| u64::try_from(reply.data.len()).ok()) else {
        return End::Settle(quote.amount);
    };
    let missing = batch.mails.saturating_sub(sent);
    let recipients = batch.recipients.saturating_sub(missing.saturating_mul(batch.fewest));
    let recipients = if sent == 0 { 0 } else { recipients };
    End::Settle(times(batch.each, recipients).unwrap_or(quote.amount).min(quote.amount))
}

fn json_of(request: Priced<'_>) -> Result<&[u8], QuoteError> {
    no_query(request)?;
    if !request.content_type.is_some_and(is_json) {
        return Err(QuoteError::MediaType);
    }
    Ok(request.body)
}

/// Exactly the JSON type, with or without a `charset=utf-8`.
pub fn is_json(content_type: &[u8]) -> bool {
    let mut parts = content_type.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/json"));
    is_json && parts.all(|parameter| parameter.eq_ignore_ascii_case(b"charset=utf-8"))
}

fn bad_json(error: JsonError) -> QuoteError {
    QuoteError::Malformed(error.to_string().into())
}
