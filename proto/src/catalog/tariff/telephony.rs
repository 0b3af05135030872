//! What calls to Twilio ask for at most. Parameters are those of Twilio's API reference (twilio.com/docs).

use super::segments::{MOST, segments};
use super::twilio::{Country, FetchedTwiml, TwilioPrices};
use super::{Tell, bad_form, malformed, plus, times};
use crate::catalog::price::QuoteError;
use crate::form;
use crate::money::Micros;

/// Parameters that put another text in the place of `Body`, or change its length.
const TEXT_FROM_ELSEWHERE: [&str; 2] = ["ContentSid", "ShortenUrls"];

/// Parameters with which Twilio fetches a call's instructions itself.
const INSTRUCTIONS_FROM_ELSEWHERE: [&str; 2] = ["Url", "ApplicationSid"];

/// What instructions may hold and cost nothing beside the call's minutes.
const FREE_VERBS: [&str; 6] = ["response", "say", "play", "pause", "hangup", "reject"];

/// One message: segments of the text, or one message with media.
pub(super) fn message(prices: &TwilioPrices, form: &[u8], tell: Tell<'_>) -> Result<Micros, QuoteError> {
    let to = text(form, "To")?.ok_or_else(no_to)?;
    let other = match to.as_str().split_once(':') {
        Some(("whatsapp", _)) => Some(("WhatsApp", prices.whatsapp)),
        Some(("messenger", _)) => Some(("Messenger", prices.messenger)),
        Some(_) => return unpriced("no price is known for the channel of `To`"),
        None => None,
    };
    if let Some((name, price)) = other {
        let price =
            price.ok_or(QuoteError::Unpriced("prices.twilio_file has no price for the channel of `To`"))?;
        tell(format_args!("1 message through {name} at ${price}"));
        return Ok(price);
    }
    let country = country(prices, to.as_str(), tell)?;
    let is_elsewhere = TEXT_FROM_ELSEWHERE.iter().any(|name| form::mentions(form, name));
    let media = form::count(form, "MediaUrl").map_err(bad_form)?;
    let sends_media = media > 0 || form::read_flag(form, "SendAsMms").map_err(bad_form)? == Some(true);
    let mut body = Vec::new();
    form::read_long(form, "Body", &mut body).map_err(bad_form)?;
    let Ok(body) = std::str::from_utf8(&body) else { return malformed("`Body` must be UTF-8") };
    let with_media = |tell: Tell<'_>| {
        let missing = QuoteError::Unpriced("prices.twilio_file has no mms_usd for the country of `To`");
        let price = country.mms.ok_or(missing)?;
        tell(format_args!("1 message with media at ${price}"));
        Ok(price)
    };
    if sends_media && !is_elsewhere {
        return with_media(tell);
    }
    let missing = QuoteError::Unpriced("prices.twilio_file has no sms_usd for the country of `To`");
    let price = country.sms.ok_or(missing)?;
    if is_elsewhere {
        tell(format_args!("the text is not in the request: {MOST} segments at ${price}"));
        // A stored text may have media.
        let texts = times(price, MOST)?;
        return Ok(if sends_media {
            with_media(tell)?.max(texts)
        } else {
            country.mms.unwrap_or_default().max(texts)
        });
    }
    let found = segments(body);
    tell(format_args!(
        "{} segment{} of {} ({} units) at ${price}",
        found.count,
        if found.count == 1 { "" } else { "s" },
        found.encoding.as_str(),
        found.units
    ));
    times(price, found.count)
}

/// One call: the minutes that it may last, started ones whole.
pub(super) fn call(prices: &TwilioPrices, form: &[u8], tell: Tell<'_>) -> Result<Micros, QuoteError> {
    let to = text(form, "To")?.ok_or_else(no_to)?;
    let price = match to.as_str().split_once(':') {
        Some(("client", _)) => prices.client_minute,
        Some(("sip" | "sips", _)) => prices.sip_minute,
        Some(_) => None,
        None => country(prices, to.as_str(), tell)?.call_minute,
    };
    let missing = QuoteError::Unpriced("prices.twilio_file has no call_minute_usd for `To`");
    let mut price = price.ok_or(missing)?;
    judge_instructions(prices, form, tell)?;
    let stated = form::read_amount(form, "TimeLimit").map_err(bad_form)?;
    let seconds = stated.unwrap_or(prices.seconds_default);
    let minutes = seconds.div_ceil(60);
    let whose = if stated.is_some() { "TimeLimit" } else { "no TimeLimit, so" };
    tell(format_args!("{whose} {seconds} s: {minutes} started minutes at ${price}"));
    if form::mentions(form, "Record") && form::read_flag(form, "Record").map_err(bad_form)? == Some(true) {
        let missing = QuoteError::Unpriced("prices.twilio_file has no recording_minute_usd");
        let recording = prices.recording_minute.ok_or(missing)?;
        tell(format_args!("each recorded at ${recording}"));
        price = plus(price, recording)?;
    }
    let mut total = times(price, minutes)?;
    if form::mentions(form, "MachineDetection") {
        let missing = QuoteError::Unpriced("prices.twilio_file has no machine_detection_usd");
        let detection = prices.machine_detection.ok_or(missing)?;
        tell(format_args!("machine detection at ${detection}"));
        total = plus(total, detection)?;
    }
    Ok(total)
}

/// Refuses instructions that may dial or send more than the call itself.
fn judge_instructions(prices: &TwilioPrices, form: &[u8], tell: Tell<'_>) -> Result<(), QuoteError> {
    if INSTRUCTIONS_FROM_ELSEWHERE.iter().any(|name| form::mentions(form, name)) {
        return match prices.fetched_twiml {
            FetchedTwiml::Unpriced => {
                unpriced("its instructions are fetched from a URL; send them as `Twiml`")
            }
            FetchedTwiml::Counted => {
                tell(format_args!("what the instructions behind the URL dial or send is not counted"));
                Ok(())
            }
        };
    }
    let mut twiml = Vec::new();
    form::read_long(form, "Twiml", &mut twiml).map_err(bad_form)?;
    let twiml = twiml.to_ascii_lowercase();
    // Behind each `<`: a name, a closing tag, or the declaration of XML.
    let is_free = twiml.split(|byte| *byte == b'<').skip(1).all(|tag| {
        let name = tag.split(|byte| !byte.is_ascii_alphanumeric()).next().unwrap_or_default();
        tag.starts_with(b"/")
            || tag.starts_with(b"?xml ")
            || FREE_VERBS.iter().any(|verb| verb.as_bytes() == name)
    });
    if is_free { Ok(()) } else { unpriced("its `Twiml` does more than to say, play, pause and hang up") }
}

/// The first month of a number.
pub(super) fn number(prices: &TwilioPrices, form: &[u8], tell: Tell<'_>) -> Result<Micros, QuoteError> {
    let country = match (text(form, "PhoneNumber")?, text(form, "AreaCode")?) {
        (Some(_), Some(_)) => return malformed("give either `PhoneNumber` or `AreaCode`"),
        (Some(number), None) => country(prices, number.as_str(), tell)?,
        // Area codes are of the United States and Canada only.
        (None, Some(area)) => country(prices, &format!("+1{}0000000", area.as_str()), tell)?,
        (None, None) => return malformed("this call needs a `PhoneNumber` or an `AreaCode`"),
    };
    let missing = QuoteError::Unpriced("prices.twilio_file has no number_usd for the country of the number");
    let price = country.number.ok_or(missing)?;
    tell(format_args!("1 month of a number at ${price}"));
    Ok(price)
}

/// The data that a look-up of a number asks for; the number alone is free.
pub(super) fn lookup(prices: &TwilioPrices, query: &[u8], tell: Tell<'_>) -> Result<Micros, QuoteError> {
    if form::mentions(query, "AddOns") {
        return unpriced("no price is known for add-ons");
    }
    let mut fields = Vec::new();
    form::read_long(query, "Fields", &mut fields).map_err(bad_form)?;
    let Ok(fields) = String::from_utf8(fields) else {
        return malformed("`Fields` must be names with commas");
    };
    let types = form::read_each(query, "Type").map_err(bad_form)?;
    let names = fields.split(',').map(str::trim).chain(types.iter().map(form::Text::as_str));
    let mut total = Micros::ZERO;
    for name in names.filter(|name| !name.is_empty()) {
        let missing =
            QuoteError::Unpriced("[lookup] of prices.twilio_file has no price for one of its fields");
        let price = *prices.lookup.get(name).ok_or(missing)?;
        tell(format_args!("{name} at ${price}"));
        total = plus(total, price)?;
    }
    if total == Micros::ZERO {
        tell(format_args!("no paid field is asked for"));
    }
    Ok(total)
}

/// A verification that succeeds, and the message or call with its code.
pub(super) fn verification(prices: &TwilioPrices, form: &[u8], tell: Tell<'_>) -> Result<Micros, QuoteError> {
    let to = text(form, "To")?.ok_or_else(no_to)?;
    let channel = text(form, "Channel")?;
    let channel = channel.as_ref().map_or("sms", form::Text::as_str);
    let carried = match (channel, prices.channels.get(channel)) {
        (_, Some(price)) => {
            tell(format_args!("the channel {channel} at ${price}"));
            *price
        }
        ("sms", None) => {
            let missing = QuoteError::Unpriced("prices.twilio_file has no sms_usd for the country of `To`");
            let price = country(prices, to.as_str(), tell)?.sms.ok_or(missing)?;
            tell(format_args!("{} segments at ${price}", prices.verification_segments));
            times(price, prices.verification_segments)?
        }
        ("call", None) => {
            let missing =
                QuoteError::Unpriced("prices.twilio_file has no call_minute_usd for the country of `To`");
            let price = country(prices, to.as_str(), tell)?.call_minute.ok_or(missing)?;
            tell(format_args!("{} minutes at ${price}", prices.verification_minutes));
            times(price, prices.verification_minutes)?
        }
        (_, None) => {
            return unpriced("verification.channel_usd of prices.twilio_file has no price for its `Channel`");
        }
    };
    tell(format_args!("a verification that succeeds at ${}", prices.verification));
    plus(carried, prices.verification)
}

/// The country of a number in international form.
fn country<'p>(prices: &'p TwilioPrices, number: &str, tell: Tell<'_>) -> Result<&'p Country, QuoteError> {
    let digits = number.strip_prefix('+').filter(|digits| {
        (7..=15).contains(&digits.len())
            && !digits.starts_with('0')
            && digits.bytes().all(|byte| byte.is_ascii_digit())
    });
    let Some(digits) = digits else {
        return malformed(
            "a number must be in international form, such as +15551234567; in a form + is written %2B",
        );
    };
    let unknown = QuoteError::Unpriced("prices.twilio_file has no prices for the country of the number");
    let country = prices.country(digits).ok_or(unknown)?;
    tell(format_args!("country: {}", country.name));
    Ok(country)
}

fn text(form: &[u8], name: &str) -> Result<Option<form::Text>, QuoteError> {
    form::read_text(form, name).map_err(bad_form)
}

fn no_to() -> QuoteError {
    QuoteError::Malformed("this call needs a `To`".into())
}

fn unpriced<T>(why: &'static str) -> Result<T, QuoteError> {
    Err(QuoteError::Unpriced(why))
}
