//! Amounts in forms and in JSON (rules M1, M2, A4, A5).

use std::collections::BTreeMap;

use keybrake_proto::form::{self, FormError, Sought};
use keybrake_proto::json::{self, JsonError, Scalar};
use serde_json::value::RawValue;

const NAMES: [&str; 2] = ["amount", "transfer_data[amount]"];
const AMOUNT_MAX: u64 = 999_999_999_999;

/// A form: an amount that is read is the only thing that anybody could take for that amount, and where none is read
/// nobody finds one.
pub fn form_amount(form: &[u8]) {
    for name in NAMES {
        let found = candidates(form, name);
        let read = form::read_amount(form, name);
        match &read {
            Ok(Some(amount)) => {
                assert!((1..=AMOUNT_MAX).contains(amount));
                let only = (name.as_bytes().to_vec(), amount.to_string().into_bytes());
                assert_eq!(found, [only], "{name} was read as {amount}");
            }
            Ok(None) => assert_eq!(found, [], "{name} was not read"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        let signed = form::read_signed_amount(form, name);
        assert!(read.is_err() || signed == read, "an amount without a sign");
        agrees(form, name, read);
        assert_eq!(form::mentions(form, name), !found.is_empty(), "{name} is mentioned");
    }
    for (key, value) in form::metadata(form) {
        assert!((1..=64).contains(&key.len()) && value.len() <= 500);
    }
}

/// The other readers say the same of the name.
fn agrees(form: &[u8], name: &str, read: Result<Option<u64>, FormError>) {
    let text = form::read_text(form, name);
    let sought = form::find(form, &[(name, Sought::Value)]);
    let count = form::count(form, name);
    let mut long = Vec::new();
    let is_there = form::read_long(form, name, &mut long);
    match read {
        Ok(None) => {
            assert!(matches!(text, Ok(None)) && is_there == Ok(false) && count == Ok(0));
            assert!(matches!(sought.as_deref(), Ok([None]) | Err(FormError::TooMany)));
        }
        Ok(Some(amount)) => {
            let digits = amount.to_string();
            assert_eq!(text.map(|text| text.map(|text| text.as_str().to_owned())), Ok(Some(digits.clone())));
            assert_eq!((is_there, count, long.as_slice()), (Ok(true), Ok(1), digits.as_bytes()));
            let value = sought.map(|mut found| found.remove(0));
            assert!(value == Ok(Some(digits.into_bytes())) || value == Err(FormError::TooMany));
        }
        // The value alone is at fault.
        Err(FormError::Amount) => assert!(is_there == Ok(true) && count == Ok(1)),
        Err(error) => assert_eq!(is_there, Err(error)),
    }
}

/// Raw keys and values that some server could take for `name` or for a part of it: decoded, in any case, whatever
/// brackets and blanks are around its parts.
fn candidates(form: &[u8], name: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let parts = |key: &[u8]| -> Vec<Vec<u8>> {
        let is_break = |byte: &u8| matches!(byte, 0..=b' ' | b'[' | b']' | 0x7f);
        let parts = key.split(is_break).filter(|part| !part.is_empty());
        parts.map(<[u8]>::to_ascii_lowercase).collect()
    };
    let wanted = parts(name.as_bytes());
    let pieces = form.split(|byte| matches!(byte, b'&' | b';'));
    let pairs = pieces.map(|piece| match piece.iter().position(|byte| *byte == b'=') {
        Some(at) => (piece[..at].to_vec(), piece[at + 1..].to_vec()),
        None => (piece.to_vec(), Vec::new()),
    });
    pairs.filter(|(key, _)| parts(&unescaped(key)).starts_with(&wanted)).collect()
}

/// Up to the first bad escape, as a server that gives up there.
fn unescaped(key: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::new(), 0);
    while at < key.len() {
        if key[at] != b'%' {
            out.push(if key[at] == b'+' { b' ' } else { key[at] });
            at += 1;
            continue;
        }
        let digits = key.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(digits) = digits else { break };
        out.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
        at += 3;
    }
    out
}

/// A JSON body: an amount that is read is the only member of that name in any case, a plain integer, and what
/// `serde_json` reads too; and where none is read there is none.
pub fn json_amount(body: &[u8]) {
    let names = ["amount", "currency"];
    let read = json::read_top_level(body, names);
    let _texts = json::count_texts(body, ["to", "cc", "bcc"]);
    let _each = json::count_texts_of_each(body, ["to", "cc", "bcc"], 100);
    let path = ["amount".to_owned()];
    let found = json::find(body, &[&path]);
    let raw = json::read_member(body, &path);
    let Ok(read) = read else {
        assert!(!read.unwrap_err().to_string().is_empty());
        return;
    };
    // Not a `Value`: serde_json takes an object whose first name is one of its own for a number.
    let object: BTreeMap<String, &RawValue> =
        serde_json::from_slice(body).expect("what is read is an object");
    let members = members(std::str::from_utf8(body).unwrap());
    for (name, scalar) in names.iter().zip(&read) {
        let named: Vec<_> = members.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).collect();
        let Some(scalar) = scalar else {
            assert!(named.is_empty(), "{name} was not read");
            continue;
        };
        assert!(named.len() == 1 && named[0].0 == *name, "{name} stands there {} times", named.len());
        let written = named[0].1.trim();
        assert_eq!(object[*name].get(), written);
        agrees_with(scalar, written);
    }
    let written = members.iter().find(|(key, _)| key == "amount").map(|(_, text)| text.trim());
    assert_eq!(raw, Ok(written));
    match (&read[0], found) {
        (_, Err(JsonError::Disguised | JsonError::TooMany)) => {}
        (Some(Scalar::Unsigned(amount)), found) => {
            let values = found.unwrap().remove(0).values;
            assert_eq!(values, [Some(amount.to_string().into())]);
        }
        (None, found) => assert!(!found.unwrap()[0].is_there),
        (Some(_), found) => assert!(found.unwrap()[0].is_there),
    }
}

fn agrees_with(scalar: &Scalar<'_>, written: &str) {
    match scalar {
        Scalar::Unsigned(number) => assert_eq!(written, number.to_string()),
        Scalar::Text(text) => {
            assert_eq!(serde_json::from_str::<String>(written).unwrap(), text.as_ref());
        }
        Scalar::Bool(flag) => assert_eq!(written, flag.to_string()),
        Scalar::Null => assert_eq!(written, "null"),
        Scalar::List(elements) => {
            assert_eq!(serde_json::from_str::<Vec<&RawValue>>(written).unwrap().len(), *elements);
        }
        Scalar::Other => {
            let is_number = written.starts_with(|first: char| first == '-' || first.is_ascii_digit());
            assert!(written.starts_with('{') || is_number && written.parse::<u64>().is_err());
        }
    }
}

/// The members of the outer object of valid JSON, each value as it is written.
fn members(text: &str) -> Vec<(String, &str)> {
    let (mut members, mut depth, mut start, mut key) = (Vec::new(), 0_usize, 0, None);
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => {
                let mut end = at;
                while let Some((next, inner)) = chars.next() {
                    match inner {
                        '\\' => drop(chars.next()),
                        '"' => {
                            end = next;
                            break;
                        }
                        _ => {}
                    }
                }
                if depth == 1 && key.is_none() {
                    key = serde_json::from_str::<String>(&text[at..=end]).ok();
                }
            }
            '{' | '[' => {
                depth += 1;
            }
            ':' if depth == 1 => start = at + 1,
            ',' if depth == 1 => members.extend(key.take().map(|key| (key, &text[start..at]))),
            '}' | ']' => {
                if depth == 1 {
                    members.extend(key.take().map(|key| (key, &text[start..at])));
                }
                depth -= 1;
            }
            _ => {}
        }
    }
    members
}
