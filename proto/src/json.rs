//! Reads a few named members of one JSON object, in exactly one way (M2). Where vendors speak JSON this is how a
//! price or a rule sees a body.
//!
//! Only the top level is seen: equal names further down are decoys. Numbers other than plain unsigned integers are
//! reported, not rounded: no float is ever made.

mod find;
mod metadata;
mod raw;

pub use raw::{count_texts, count_texts_of_each, read_member};

use std::borrow::Cow;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor,
};

pub use find::{Found, find};
pub use metadata::metadata;

/// Arrays and objects inside each other, the outer object counted. Vendors' bodies stay below ten.
pub const DEPTH_MAX: usize = 64;

/// One member's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scalar<'a> {
    /// An integer without sign, point or exponent that fits 64 bits.
    Unsigned(u64),
    /// A string, unescaped.
    Text(Cow<'a, str>),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// An array, by the number of its elements.
    List(usize),
    /// Any other number, or an object.
    Other,
}

/// Why a body is refused: the agent's fault, answered 400. For a vendor's reply it means the quote stays the charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Not JSON (RFC 8259): bad syntax, bytes that are not UTF-8, anything behind the object.
    Syntax,
    /// Does not begin as an object; a byte order mark counts.
    NotObject,
    /// Nested deeper than [`DEPTH_MAX`].
    TooDeep,
    /// A name that is read stands there twice.
    Repeated,
    /// A name that is read stands there in another case, which some parsers take for it.
    Disguised,
    /// More members than are looked at.
    TooMany,
    /// Does not begin as an array where one is read, or has too many elements.
    NotList,
    /// Neither a text nor a list of texts where those are counted.
    NotTexts,
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            JsonError::Syntax => "malformed JSON; send one object in UTF-8 and nothing behind it",
            JsonError::NotObject => "body is no JSON object; send one, without a byte order mark",
            JsonError::TooDeep => "JSON nested too deep; send a flatter object",
            JsonError::Repeated => "a member that is priced or ruled is repeated; send it once",
            JsonError::Disguised => {
                "a member that is priced or ruled is spelled in another case; send its plain name"
            }
            JsonError::TooMany => "too many members; send a smaller object",
            JsonError::NotList => "body is no JSON array of that length; send one of at most 100 objects",
            JsonError::NotTexts => {
                "a member that is counted is of another type; send a text or a list of texts"
            }
        })
    }
}

impl std::error::Error for JsonError {}

/// Exactly the JSON type, with or without a `charset=utf-8`.
pub fn is_json(content_type: &[u8]) -> bool {
    let mut parts = content_type.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(b"application/json"));
    is_json && parts.all(|parameter| parameter.eq_ignore_ascii_case(b"charset=utf-8"))
}

/// Reads the members `names` of the object that `body` is, `None` for each that is not there. `names` are distinct.
///
/// # Errors
/// [`JsonError`]; the whole body is judged before anything is returned.
pub fn read_top_level<'a, const N: usize>(
    body: &'a [u8],
    names: [&str; N],
) -> Result<[Option<Scalar<'a>>; N], JsonError> {
    read_object(judged(body)?, names)
}

/// The text of a body, whatever JSON it is.
fn judged(body: &[u8]) -> Result<&str, JsonError> {
    // serde_json does not look into strings it ignores; all of the body must be one text for all its readers.
    let text = std::str::from_utf8(body).map_err(|_| JsonError::Syntax)?;
    judge_depth(body)?;
    Ok(text)
}

/// The members `names` of the object that `text` is.
fn read_object<'a, V: Deserialize<'a>, const N: usize>(
    text: &'a str,
    names: [&str; N],
) -> Result<[Option<V>; N], JsonError> {
    // Looked at here, since under `arbitrary_precision` serde_json hands out some numbers as maps.
    if text.as_bytes().trim_ascii_start().first() != Some(&b'{') {
        return Err(JsonError::NotObject);
    }
    let mut members = Members { names, found: [const { None }; N], fault: None };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = deserializer.deserialize_map(&mut members).and_then(|()| deserializer.end());
    match (read, members.fault) {
        (Ok(()), None) => Ok(members.found),
        (_, Some(fault)) => Err(fault),
        (Err(_), None) => Err(JsonError::Syntax),
    }
}

/// serde_json skips ignored values without recursion and so without a limit; the vendor's parser may recurse.
fn judge_depth(body: &[u8]) -> Result<(), JsonError> {
    let mut depth = 0_usize;
    let mut in_string = false;
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match (in_string, byte) {
            (true, b'\\') => {
                // The escaped byte cannot end the string.
                bytes.next();
            }
            (_, b'"') => in_string = !in_string,
            (false, b'[' | b'{') => {
                depth = depth.saturating_add(1);
                if depth > DEPTH_MAX {
                    return Err(JsonError::TooDeep);
                }
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Collects the named members of the outer object.
struct Members<'n, V, const N: usize> {
    names: [&'n str; N],
    found: [Option<V>; N],
    fault: Option<JsonError>,
}

impl<V, const N: usize> Members<'_, V, N> {
    fn refuse<T, E: Error>(&mut self, fault: JsonError) -> Result<T, E> {
        self.fault = Some(fault);
        Err(E::custom("refused"))
    }
}

impl<'a, V: Deserialize<'a>, const N: usize> Visitor<'a> for &mut Members<'_, V, N> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(Name { names: &self.names })? {
            match key {
                Key::Read(index) => {
                    let value = map.next_value()?;
                    let Some(slot) = self.found.get_mut(index) else { continue };
                    if slot.replace(value).is_some() {
                        return self.refuse(JsonError::Repeated);
                    }
                }
                Key::Disguised => return self.refuse(JsonError::Disguised),
                Key::Unread => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// What a member's name means to the caller.
enum Key {
    Read(usize),
    Disguised,
    Unread,
}

struct Name<'n> {
    names: &'n [&'n str],
}

impl<'a> DeserializeSeed<'a> for Name<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Key, E> {
        if let Some(index) = self.names.iter().position(|name| *name == key) {
            return Ok(Key::Read(index));
        }
        let is_disguise = self.names.iter().any(|name| name.eq_ignore_ascii_case(key));
        Ok(if is_disguise { Key::Disguised } else { Key::Unread })
    }
}

/// Reads one value, whatever it is.
struct AnyScalar;

impl<'de: 'a, 'a> Deserialize<'de> for Scalar<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar<'a>, D::Error> {
        deserializer.deserialize_any(AnyScalar)
    }
}

impl<'a> Visitor<'a> for AnyScalar {
    type Value = Scalar<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Bool(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Unsigned(value))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Scalar<'a>, E> {
        // A minus sign, if only before a zero.
        Ok(Scalar::Other)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Other)
    }

    fn visit_borrowed_str<E: Error>(self, value: &'a str) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_unit<E: Error>(self) -> Result<Scalar<'a>, E> {
        Ok(Scalar::Null)
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Scalar<'a>, A::Error> {
        let mut elements = 0_usize;
        while seq.next_element::<IgnoredAny>()?.is_some() {
            elements = elements.saturating_add(1);
        }
        Ok(Scalar::List(elements))
    }

    /// An object, or a number with point, exponent or too many digits under `arbitrary_precision`.
    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Scalar<'a>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other)
    }
}

#[cfg(test)]
mod tests;
