//! Reads forms as leniently as Stripe's own servers do: escaped names count, and of a repeated name the last wins.
//!
//! The proxy refuses such spellings. Were one let through, this reading would show it as money spent.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// `metadata`, as it is stored and echoed.
pub(crate) type Metadata = BTreeMap<String, String>;

/// A decoded form body or query.
#[derive(Debug, Default)]
pub(crate) struct Form<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Form<'a> {
    /// Decodes; nothing is refused.
    pub(crate) fn parse(text: &'a [u8]) -> Form<'a> {
        let mut form = Form::default();
        form.append(text);
        form
    }

    /// Decodes more text, whose values win over those there already.
    pub(crate) fn append(&mut self, text: &'a [u8]) {
        let pieces = text.split(|&byte| byte == b'&').filter(|piece| !piece.is_empty());
        self.pairs.extend(pieces.map(|piece| {
            let mut halves = piece.splitn(2, |&byte| byte == b'=');
            let mut half = || decoded(halves.next().unwrap_or_default());
            (half(), half())
        }));
    }

    /// The last value under `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    /// As [`Form::get`], without empty values, which unset a parameter.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|value| !value.is_empty())
    }

    /// As [`Form::text`], owned.
    pub(crate) fn owned(&self, name: &str) -> Option<String> {
        self.text(name).map(str::to_owned)
    }

    /// The flag under `name`, in any case: stripe-python before 8 sends Python's `True` and `False`.
    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        let text = self.get(name)?;
        let is = |wanted: &str| text.eq_ignore_ascii_case(wanted);
        if is("true") { Some(true) } else { is("false").then_some(false) }
    }

    /// Whether `expand[]` or `expand[0]` names this field.
    pub(crate) fn expands(&self, field: &str) -> bool {
        self.pairs.iter().any(|(key, value)| key.starts_with("expand[") && value == field)
    }

    /// Adds the `metadata[key]` pairs to `metadata`; an empty value removes its key.
    pub(crate) fn merge_metadata(&self, metadata: &mut Metadata) {
        for (name, value) in &self.pairs {
            let Some(key) = name.strip_prefix("metadata[").and_then(|rest| rest.strip_suffix(']')) else {
                continue;
            };
            if value.is_empty() {
                metadata.remove(key);
            } else {
                metadata.insert(key.to_owned(), value.clone().into_owned());
            }
        }
    }

    /// The `metadata[key]` pairs.
    pub(crate) fn metadata(&self) -> Metadata {
        let mut metadata = Metadata::new();
        self.merge_metadata(&mut metadata);
        metadata
    }
}

fn decoded(raw: &[u8]) -> Cow<'_, str> {
    if !raw.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return String::from_utf8_lossy(raw);
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let [byte, tail @ ..] = rest {
        rest = tail;
        bytes.push(match (byte, tail) {
            (b'+', _) => b' ',
            (b'%', [high, low, behind @ ..]) => match hex_pair(*high, *low) {
                Some(value) => {
                    rest = behind;
                    value
                }
                None => b'%',
            },
            (other, _) => *other,
        });
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some((digit(high)? << 4) | digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_and_the_last_value_wins() {
        let form = Form::parse(b"amount=1&%61mount=2000&description=a+b%21%zz&&x");
        assert_eq!(form.get("amount"), Some("2000"));
        assert_eq!(form.get("description"), Some("a b!%zz"));
        assert_eq!(form.get("x"), Some(""));
        assert_eq!(form.get("y"), None);
    }

    #[test]
    fn metadata_is_merged_and_an_empty_value_removes() {
        let mut metadata = Form::parse(b"metadata[a]=1&metadata%5Bb%5D=2").metadata();
        assert_eq!(metadata.get("b").map(String::as_str), Some("2"));
        Form::parse(b"metadata[a]=").merge_metadata(&mut metadata);
        assert_eq!(metadata.len(), 1);
    }

    #[test]
    fn flags_of_old_sdks_are_read() {
        let form = Form::parse(b"confirm=True&capture=false&x=1");
        assert_eq!((form.flag("confirm"), form.flag("capture")), (Some(true), Some(false)));
        assert_eq!((form.flag("x"), form.flag("y")), (None, None));
    }

    #[test]
    fn both_spellings_of_expand_are_read() {
        assert!(Form::parse(b"expand[]=latest_charge").expands("latest_charge"));
        assert!(Form::parse(b"expand[0]=latest_charge").expands("latest_charge"));
        assert!(!Form::parse(b"expand[0]=customer").expands("latest_charge"));
    }
}
