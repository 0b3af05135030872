//! Finds vault keys where none may stand: in a request's target, in its other headers, in its body (rule S4), and in
//! texts that would be written to disk (contract I8).
//!
//! A key is known by its form and checksum, so that any key is found, not only the one that the request came with.

use std::sync::LazyLock;

use memchr::memmem::Finder;
use zeroize::Zeroizing;

use super::{CHECKSUM_DIGITS, PREFIX, RANDOM_DIGITS, VAULT_KEY_BYTES_MAX, is_well_formed};

/// What base64 of any text that holds [`PREFIX`] has in common, by where in a group of three it begins; with the bits
/// of the prefix that stand before these characters, and how many they are.
const IN_BASE64: [(&[u8], u32, u32); 3] =
    [(b"dmF1bHRf", 0, 0), (b"ZhdWx0X", 0b0111, 4), (b"2YXVsdF", 0b01, 2)];

static FINDERS: LazyLock<(Finder<'static>, [Finder<'static>; 3])> =
    LazyLock::new(|| (Finder::new(PREFIX), IN_BASE64.map(|(common, _, _)| Finder::new(common))));

/// Whether a whole vault key stands in `bytes`: as it is, percent-encoded, or in base64 with anything before and behind
/// it, as in the pair of a `Basic`.
///
/// A false `false` lets a key reach a vendor; a false `true` would need a text with the form and checksum of a key.
#[must_use]
pub fn stands_in(bytes: &[u8]) -> bool {
    if stands_plainly_in(bytes) {
        return true;
    }
    memchr::memchr(b'%', bytes).is_some() && stands_plainly_in(&without_escapes(bytes))
}

fn stands_plainly_in(bytes: &[u8]) -> bool {
    let (prefix, in_base64) = &*FINDERS;
    let behind = |at: usize| bytes.get(at..).unwrap_or_default();
    if prefix.find_iter(bytes).any(|at| begins_with_key(behind(at))) {
        return true;
    }
    let encoded = in_base64.iter().zip(IN_BASE64);
    encoded.into_iter().any(|(finder, (_, bits, count))| {
        finder.find_iter(bytes).any(|at| begins_with_key(decoded(behind(at), bits, count).as_slice()))
    })
}

fn begins_with_key(bytes: &[u8]) -> bool {
    // A slug has no `_`, so the first one behind the prefix is the separator.
    let Some(slug) = bytes.get(PREFIX.len()..).and_then(|rest| rest.iter().position(|byte| *byte == b'_'))
    else {
        return false;
    };
    let bytes_of_key = [PREFIX.len(), slug, 1, RANDOM_DIGITS, CHECKSUM_DIGITS];
    let end = bytes_of_key.into_iter().fold(0, usize::saturating_add);
    bytes.get(..end).is_some_and(is_well_formed)
}

/// The first bytes that base64 text stands for, behind `count` bits that are known; room for the longest key.
fn decoded(text: &[u8], mut bits: u32, mut count: u32) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(VAULT_KEY_BYTES_MAX));
    for character in text {
        let Some(sextet) = sextet(*character) else { break };
        bits = (bits << 6) | sextet;
        count = count.saturating_add(6);
        if count >= 8 {
            count = count.saturating_sub(8);
            bytes.push(u8::try_from((bits >> count) & 0xff).unwrap_or_default());
            if bytes.len() >= VAULT_KEY_BYTES_MAX {
                break;
            }
        }
    }
    bytes
}

/// The six bits of a character in either alphabet (RFC 4648 sections 4 and 5).
fn sextet(character: u8) -> Option<u32> {
    let (first, offset) = match character {
        b'A'..=b'Z' => (b'A', 0),
        b'a'..=b'z' => (b'a', 26),
        b'0'..=b'9' => (b'0', 52),
        b'+' | b'-' => return Some(62),
        b'/' | b'_' => return Some(63),
        _ => return None,
    };
    Some(u32::from(character.wrapping_sub(first)).saturating_add(offset))
}

/// The bytes with each `%` and two hex digits decoded; anything else stays as it is.
fn without_escapes(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(bytes.len()));
    let mut rest = bytes;
    while let [byte, tail @ ..] = rest {
        let digit = |at: usize| tail.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        rest = tail;
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                plain.push(u8::try_from((high << 4) | low).unwrap_or_default());
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => plain.push(*byte),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;
    use crate::key::mint;

    fn key() -> String {
        mint(|bytes| bytes.fill(77))
    }

    #[test]
    fn s4_a_key_is_found_raw_percent_encoded_and_in_base64() {
        let key = key();
        let escaped: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let slugged = key.replace("vault_key_", "vault_billing-2_");
        for text in [
            key.clone(),
            slugged.clone(),
            format!("amount=1&note={key}&currency=usd"),
            format!("x=vault_vault_{}", &key["vault_".len()..]),
            format!("{{\"text\": \"vault_key_ {key}\"}}"),
            escaped,
            key.replace('v', "%76").replace('_', "%5f"),
            format!("100%&x={key}"),
            STANDARD.encode(&key),
            STANDARD.encode(format!("{key}:")),
            STANDARD.encode(format!("AC1:{key}")),
            STANDARD.encode(format!("api:{slugged}:x")),
            format!("Basic {}", STANDARD.encode(format!("x:{key}"))).replace('=', "%3D"),
        ] {
            assert!(stands_in(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn s4_what_only_looks_like_a_key_is_not_one() {
        let key = key();
        for text in [
            String::new(),
            "vault_".to_owned(),
            "vault_key_".to_owned(),
            "the vault_key_ of an agent".to_owned(),
            key[..key.len() - 1].to_owned(),
            key.replace("vault_", "Vault_"),
            STANDARD.encode(&key[..key.len() - 1]),
            "%76%61%75%6".to_owned(),
        ] {
            assert!(!stands_in(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn s4_whatever_stands_around_a_key_does_not_hide_it(
            before in prop::collection::vec(any::<u8>(), 0..40), after in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let text = [before.as_slice(), key().as_bytes(), after.as_slice()].concat();
            prop_assert!(stands_in(STANDARD.encode(&text).as_bytes()));
            prop_assert!(stands_in(&text));
        }

        #[test]
        fn s4_no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _found: bool = stands_in(&bytes);
        }
    }
}
