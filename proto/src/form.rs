//! A strict reader of `application/x-www-form-urlencoded` bodies and queries: where a rule or a price reads a name,
//! there is exactly one way to read it (M1, M2, A5).
//!
//! Readers judge the whole text before they answer, so a refused one was read nowhere. Texts are only read, never
//! rewritten: what was judged is what is sent. Which names count is the catalog's business.

mod find;

use std::borrow::Cow;
use std::fmt;

pub use find::{Sought, find};

/// Bytes of a [`Text`].
pub const TEXT_BYTES_MAX: usize = 64;
/// Digits of an amount (M1).
const AMOUNT_DIGITS_MAX: usize = 12;
/// Pairs of metadata that are kept, as Stripe allows.
const METADATA_PAIRS_MAX: usize = 50;
/// Bytes of a metadata key, after decoding.
const METADATA_KEY_BYTES_MAX: usize = 64;
/// Bytes of a metadata value, after decoding.
const METADATA_VALUE_BYTES_MAX: usize = 500;

/// Why a form is refused: the agent's fault, answered 400. A false refusal costs one call; a false reading spends
/// money nobody counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormError {
    /// `%` without two hex digits, or `%00`.
    Escape,
    /// `;`, which older servers read as `&`.
    Semicolon,
    /// A control byte, a byte over 127, or a space in a name.
    Byte,
    /// The name that is read stands there twice.
    Repeated,
    /// Another spelling of the name that is read: escaped, bracketed, padded or in other case.
    Disguised,
    /// Not `[1-9][0-9]{0,11}` where an amount is read.
    Amount,
    /// Longer than [`TEXT_BYTES_MAX`], or not printable ASCII, where a short text is read.
    Text,
    /// Neither `true` nor `false` where a flag is read.
    Flag,
    /// More parameters than are looked at.
    TooMany,
}

impl fmt::Display for FormError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FormError::Escape => "bad percent escape in the form; use % and two hex digits other than 00",
            FormError::Semicolon => "semicolon in the form; percent-encode it or separate parameters with &",
            FormError::Byte => "character not allowed in the form; percent-encode it",
            FormError::Repeated => "a parameter that is priced or ruled is repeated; send it once",
            FormError::Disguised => {
                "a parameter that is priced or ruled is spelled otherwise; send its plain name"
            }
            FormError::Amount => "malformed amount; send a positive whole number of minor units",
            FormError::Text => "malformed parameter; send at most 64 printable ASCII characters",
            FormError::Flag => "malformed flag; send true or false",
            FormError::TooMany => "too many parameters; send at most 4096",
        })
    }
}

impl std::error::Error for FormError {}

/// One `key=value` as it stands in the text, still escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// Before the first `=`.
    pub key: &'a [u8],
    /// Behind it; empty if there is none.
    pub value: &'a [u8],
}

/// A short decoded value, printable ASCII, kept without allocating.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Text {
    bytes: [u8; TEXT_BYTES_MAX],
    length: usize,
}

impl Text {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.length).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    fn decode(raw: &[u8]) -> Result<Text, FormError> {
        let mut text = Text { bytes: [0; TEXT_BYTES_MAX], length: 0 };
        for byte in decoded(raw) {
            let byte = byte.ok_or(FormError::Escape)?;
            if !matches!(byte, b' '..=b'~') {
                return Err(FormError::Text);
            }
            *text.bytes.get_mut(text.length).ok_or(FormError::Text)? = byte;
            text.length = text.length.saturating_add(1);
        }
        Ok(text)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// The pairs of a form, each judged; empty pieces between `&` are skipped. Stop at the first error.
pub fn pairs(form: &[u8]) -> impl Iterator<Item = Result<Pair<'_>, FormError>> {
    raw_pairs(form).map(|pair| {
        judge(pair.key)?;
        judge(pair.value)?;
        // Some servers skip blanks behind `&`, and would see a name where we see none.
        if pair.key.contains(&b' ') { Err(FormError::Byte) } else { Ok(pair) }
    })
}

/// The amount under `name` in minor units, `1..=999_999_999_999`; `None` if the name is not there (M1, M2).
///
/// `name` stands for itself, unescaped: `amount`, or with brackets as in `transfer_data[amount]`.
///
/// # Errors
/// Anything that could be read as this amount by somebody else: the name twice, disguised (`amount[]`,
/// `%61mount`, `Amount`), a value with sign, point, exponent, escape or leading zero; and any malformed pair.
pub fn read_amount(form: &[u8], name: &str) -> Result<Option<u64>, FormError> {
    seek(form, name)?.map(amount).transpose()
}

/// As [`read_amount`] for an amount that may stand with a minus sign: its absolute value.
///
/// # Errors
/// As [`read_amount`].
pub fn read_signed_amount(form: &[u8], name: &str) -> Result<Option<u64>, FormError> {
    let unsigned = |value: &'_ [u8]| amount(value.strip_prefix(b"-").unwrap_or(value));
    seek(form, name)?.map(unsigned).transpose()
}

/// The short text under `name`, decoded, as for `currency`.
///
/// # Errors
/// As [`read_amount`], and [`FormError::Text`] if it is long or not printable ASCII.
pub fn read_text(form: &[u8], name: &str) -> Result<Option<Text>, FormError> {
    seek(form, name)?.map(Text::decode).transpose()
}

/// The flag under `name`: `true` or `false`, literally.
///
/// # Errors
/// As [`read_amount`], and [`FormError::Flag`] for anything else.
pub fn read_flag(form: &[u8], name: &str) -> Result<Option<bool>, FormError> {
    let flag = |value: &[u8]| match value {
        b"true" => Ok(true),
        b"false" => Ok(false),
        _ => Err(FormError::Flag),
    };
    seek(form, name)?.map(flag).transpose()
}

/// The decoded bytes under `name`, of any length and encoding, as for the text of a message; appended to `out`.
/// Returns whether the name is there.
///
/// # Errors
/// As [`read_amount`], without a grammar for the value.
pub fn read_long(form: &[u8], name: &str, out: &mut Vec<u8>) -> Result<bool, FormError> {
    let Some(raw) = seek(form, name)? else { return Ok(false) };
    for byte in decoded(raw) {
        out.push(byte.ok_or(FormError::Escape)?);
    }
    Ok(true)
}

/// How often a name stands there that may be repeated, as `MediaUrl` (M5).
///
/// # Errors
/// [`FormError::Disguised`] for other spellings of it, and any malformed pair.
pub fn count(form: &[u8], name: &str) -> Result<usize, FormError> {
    let mut found = 0_usize;
    for pair in pairs(form) {
        if is_name(pair?.key, name)? {
            found = found.saturating_add(1);
        }
    }
    Ok(found)
}

/// Every short text under a name that may be repeated, decoded.
///
/// # Errors
/// As [`read_text`], without [`FormError::Repeated`].
pub fn read_each(form: &[u8], name: &str) -> Result<Vec<Text>, FormError> {
    let mut found = Vec::new();
    for pair in pairs(form) {
        let pair = pair?;
        if is_name(pair.key, name)? {
            found.push(Text::decode(pair.value)?);
        }
    }
    Ok(found)
}

/// Whether a form or query may hold a parameter `name`, in any spelling a lenient server accepts (A4).
#[must_use]
pub fn mentions(form: &[u8], name: &str) -> bool {
    // `;` separates too: it is the lenient reading that must find nothing.
    form.split(|byte| matches!(byte, b'&' | b';')).any(|piece| {
        let key = piece.split(|&byte| byte == b'=').next().unwrap_or_default();
        may_mean(key, name)
    })
}

/// The `metadata[key]=value` pairs, decoded, for the audit only: nothing is decided by them.
///
/// Lenient where the readers are strict: what is malformed, not UTF-8, nested or too long (key over 64 bytes, value
/// over 500) is skipped, and after 50 pairs it ends. Allocates only for pairs with escapes.
pub fn metadata(form: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    // At most three raw bytes a decoded one: nothing long is decoded to be thrown away.
    let key_bytes_max = METADATA_KEY_BYTES_MAX.saturating_add("metadata[]".len()).saturating_mul(3);
    let value_bytes_max = METADATA_VALUE_BYTES_MAX.saturating_mul(3);
    raw_pairs(form)
        .filter(move |pair| pair.key.len() <= key_bytes_max && pair.value.len() <= value_bytes_max)
        .filter_map(|pair| {
            let key = metadata_key(decoded_text(pair.key)?)?;
            let value = decoded_text(pair.value)?;
            (key.len() <= METADATA_KEY_BYTES_MAX && value.len() <= METADATA_VALUE_BYTES_MAX)
                .then_some((key, value))
        })
        .take(METADATA_PAIRS_MAX)
}

fn raw_pairs(form: &[u8]) -> impl Iterator<Item = Pair<'_>> {
    form.split(|&byte| byte == b'&').filter(|piece| !piece.is_empty()).map(|piece| {
        let mut halves = piece.splitn(2, |&byte| byte == b'=');
        Pair { key: halves.next().unwrap_or_default(), value: halves.next().unwrap_or_default() }
    })
}

/// Refuses bytes and escapes that have more than one reading. Spaces stay: curl sends them raw in values.
fn judge(raw: &[u8]) -> Result<(), FormError> {
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        match byte {
            b';' => return Err(FormError::Semicolon),
            b'%' => {
                let [high, low, behind @ ..] = tail else { return Err(FormError::Escape) };
                if hex_pair(*high, *low).is_none_or(|byte| byte == 0) {
                    return Err(FormError::Escape);
                }
                rest = behind;
            }
            b' '..=b'~' => {}
            _ => return Err(FormError::Byte),
        }
    }
    Ok(())
}

/// The one value under `name`, still escaped, after the whole form was judged.
fn seek<'a>(form: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, FormError> {
    let mut found = None;
    for pair in pairs(form) {
        let pair = pair?;
        if is_name(pair.key, name)? && found.replace(pair.value).is_some() {
            return Err(FormError::Repeated);
        }
    }
    Ok(found)
}

/// Whether a raw key is `name`, literally; an error if another parser could take it for `name`.
fn is_name(key: &[u8], name: &str) -> Result<bool, FormError> {
    if key == name.as_bytes() {
        return Ok(true);
    }
    if may_mean(key, name) { Err(FormError::Disguised) } else { Ok(false) }
}

/// Whether the most lenient parsers take a raw key for `name` or for a part of it.
fn may_mean(key: &[u8], name: &str) -> bool {
    let mut key = lenient(decoded(key).map_while(|byte| byte)).fuse();
    let mut last = 0;
    for wanted in lenient(name.bytes()) {
        // The end of a key closes its last bracket.
        if key.next().unwrap_or(EDGE) != wanted {
            return false;
        }
        last = wanted;
    }
    last == EDGE || matches!(key.next(), None | Some(EDGE))
}

/// What ends a part of a key.
const EDGE: u8 = b'[';

/// A decoded key in lower case, in which each run of brackets, blanks and controls is one [`EDGE`], and none comes
/// first: Rack reads `[amount]` as `amount`, PHP skips blanks.
fn lenient(key: impl Iterator<Item = u8>) -> impl Iterator<Item = u8> {
    let mut last = EDGE;
    key.filter_map(move |byte| {
        let byte =
            if matches!(byte, 0..=b' ' | b'[' | b']' | 0x7f) { EDGE } else { byte.to_ascii_lowercase() };
        let before = std::mem::replace(&mut last, byte);
        (byte != EDGE || before != EDGE).then_some(byte)
    })
}

/// `[1-9][0-9]{0,11}` (M1).
fn amount(value: &[u8]) -> Result<u64, FormError> {
    let is_amount = value.len() <= AMOUNT_DIGITS_MAX
        && matches!(value.first(), Some(b'1'..=b'9'))
        && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_amount);
    text.and_then(|text| text.parse().ok()).ok_or(FormError::Amount)
}

/// Decodes escapes and `+`; `None` in the place of a bad escape.
fn decoded(raw: &[u8]) -> impl Iterator<Item = Option<u8>> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let (byte, tail) = rest.split_first()?;
        rest = tail;
        match byte {
            b'+' => Some(Some(b' ')),
            b'%' => {
                let [high, low, behind @ ..] = tail else { return Some(None) };
                rest = behind;
                Some(hex_pair(*high, *low))
            }
            _ => Some(Some(*byte)),
        }
    })
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(high)? << 4) | digit(low)?)
}

fn decoded_text(raw: &[u8]) -> Option<Cow<'_, str>> {
    if !raw.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return std::str::from_utf8(raw).ok().map(Cow::Borrowed);
    }
    let bytes = decoded(raw).collect::<Option<Vec<u8>>>()?;
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// The key inside `metadata[…]`.
fn metadata_key(name: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let inner = |name: &str| {
        let key = name.strip_prefix("metadata[")?.strip_suffix(']')?;
        (!key.is_empty() && !key.contains(['[', ']'])).then_some(key.len())
    };
    let length = inner(&name)?;
    let start = "metadata[".len();
    let range = start..start.saturating_add(length);
    match name {
        Cow::Borrowed(name) => name.get(range).map(Cow::Borrowed),
        Cow::Owned(name) => name.get(range).map(|key| Cow::Owned(key.to_owned())),
    }
}

#[cfg(test)]
mod tests;
