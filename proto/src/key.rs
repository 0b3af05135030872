//! Vault keys: their text, their public id, and the digest that is stored.

mod elsewhere;

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use serde::{Deserialize, Serialize, de};

pub use elsewhere::stands_in;

/// What every vault key begins with.
const PREFIX: &str = "vault_";

/// Base-62 digits of randomness in a vault key: 190 bits (rule R1 asks for 160).
const RANDOM_DIGITS: usize = 32;

/// Base-62 digits of the CRC-32 behind them: enough for 32 bits.
const CHECKSUM_DIGITS: usize = 6;

/// Base-62 digits in a [`KeyId`]: 95 bits.
const ID_DIGITS: usize = 16;

const ID_PREFIX: &str = "vk_";

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// The longest text that can be a vault key: prefix, slug of 24, separator and digits.
pub const VAULT_KEY_BYTES_MAX: usize = 6 + 24 + 1 + RANDOM_DIGITS + CHECKSUM_DIGITS;

/// Whether `text` has the form and the checksum of a vault key: `vault_<slug>_<digits><checksum>`.
///
/// A typing error is told from a real key without looking anything up; a key that passes may still
/// be unknown.
pub fn is_well_formed(text: &[u8]) -> bool {
    let Some((slug, digits)) = split(text) else { return false };
    let well_formed_slug = !slug.is_empty()
        && slug.len() <= 24
        && slug.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-');
    let Some((random, checksum)) = digits.split_at_checked(RANDOM_DIGITS) else { return false };
    well_formed_slug && random.iter().all(u8::is_ascii_alphanumeric) && checksum == checksum_of(random)
}

/// Room for the decoded form of an `Authorization: Basic`.
pub type Scratch = [u8; 512];

/// Finds the vault key in the value of an `Authorization` field: behind `Bearer`, or as either half of
/// `Basic` (Stripe's curl examples send it as the user, Twilio's SDKs as the password).
///
/// Only this slot is read; a key anywhere else is not one.
pub fn in_authorization<'a>(value: &'a [u8], scratch: &'a mut Scratch) -> Option<&'a [u8]> {
    let (scheme, rest) = value.split_at_checked(value.iter().position(|byte| *byte == b' ')?)?;
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return is_well_formed(rest).then_some(rest);
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let length = base64::engine::general_purpose::STANDARD.decode_slice(rest, scratch).ok()?;
    let decoded = scratch.get(..length)?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = (decoded.get(..colon)?, decoded.get(colon.checked_add(1)?..)?);
    [user, password].into_iter().find(|half| is_well_formed(half))
}

/// The vault key in a header of a vendor's own, behind `scheme` and a blank where that is not empty.
pub fn behind_scheme<'a>(value: &'a [u8], scheme: &str) -> Option<&'a [u8]> {
    let key = match scheme.is_empty() {
        true => value.trim_ascii(),
        false => {
            let (found, rest) = value.split_at_checked(value.iter().position(|byte| *byte == b' ')?)?;
            if !found.eq_ignore_ascii_case(scheme.as_bytes()) {
                return None;
            }
            rest.trim_ascii()
        }
    };
    is_well_formed(key).then_some(key)
}

/// Makes the text of a new vault key from random bytes that `random` fills in.
pub fn mint(random: impl FnMut(&mut [u8])) -> String {
    let digits = random_digits::<RANDOM_DIGITS>(random);
    let mut text = String::with_capacity(VAULT_KEY_BYTES_MAX);
    text.push_str(PREFIX);
    text.push_str("key_");
    text.extend(digits.iter().chain(&checksum_of(&digits)).map(|digit| char::from(*digit)));
    text
}

fn split(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let text = text.strip_prefix(PREFIX.as_bytes())?;
    let at = text.len().checked_sub(RANDOM_DIGITS.saturating_add(CHECKSUM_DIGITS))?;
    let (slug, digits) = text.split_at_checked(at)?;
    Some((slug.strip_suffix(b"_")?, digits))
}

fn checksum_of(digits: &[u8]) -> [u8; CHECKSUM_DIGITS] {
    let mut rest = crc32fast::hash(digits);
    let mut text = [b'0'; CHECKSUM_DIGITS];
    for digit in text.iter_mut().rev() {
        let index = usize::try_from(rest.checked_rem(62).unwrap_or_default()).unwrap_or_default();
        *digit = BASE62.get(index).copied().unwrap_or(b'0');
        rest = rest.checked_div(62).unwrap_or_default();
    }
    text
}

/// Draws base-62 digits without bias: bytes from 248 on, the largest multiple of 62, are thrown away.
fn random_digits<const N: usize>(mut random: impl FnMut(&mut [u8])) -> [u8; N] {
    let mut digits = [0; N];
    for digit in &mut digits {
        *digit = loop {
            let mut byte = [0];
            random(&mut byte);
            let [byte] = byte;
            if byte < 248 {
                break BASE62
                    .get(usize::from(byte).checked_rem(62).unwrap_or_default())
                    .copied()
                    .unwrap_or(b'0');
            }
        };
    }
    digits
}

/// The public name of a vault key, in logs, URLs and rows: `vk_` and 16 base-62 digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_DIGITS]);

impl KeyId {
    /// Bytes of the id as stored.
    pub const BYTES: usize = ID_DIGITS;

    /// A new id from random bytes that `random` fills in.
    pub fn mint(random: impl FnMut(&mut [u8])) -> KeyId {
        KeyId(random_digits(random))
    }

    /// The 16 digits.
    pub fn as_bytes(&self) -> &[u8; ID_DIGITS] {
        &self.0
    }

    /// The digits as text, without the `vk_`.
    pub fn digits(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The id with these 16 digits; `None` for any other bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<KeyId> {
        let digits: [u8; ID_DIGITS] = bytes.try_into().ok()?;
        digits.iter().all(u8::is_ascii_alphanumeric).then_some(KeyId(digits))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ID_PREFIX)?;
        f.write_str(self.digits())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not a key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKeyId;

impl fmt::Display for NotAKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a key id; it looks like vk_ and 16 letters and digits, see `keybrake key list`")
    }
}

impl std::error::Error for NotAKeyId {}

impl FromStr for KeyId {
    type Err = NotAKeyId;

    fn from_str(text: &str) -> Result<KeyId, NotAKeyId> {
        text.strip_prefix(ID_PREFIX).and_then(|digits| KeyId::from_bytes(digits.as_bytes())).ok_or(NotAKeyId)
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<KeyId, D::Error> {
        if deserializer.is_human_readable() {
            let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
            return text.parse().map_err(de::Error::custom);
        }
        let digits = <[u8; ID_DIGITS]>::deserialize(deserializer)?;
        KeyId::from_bytes(&digits).ok_or_else(|| de::Error::custom(NotAKeyId))
    }
}

/// The keyed hash (HMAC-SHA256) of a vault key's text. Only this is stored and looked up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyDigest(pub [u8; 32]);

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key digest]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts up, so that tests are repeatable; it also yields the bytes that are thrown away.
    fn counter() -> impl FnMut(&mut [u8]) {
        let mut next = 200u8;
        move |bytes| {
            for byte in bytes {
                *byte = next;
                next = next.wrapping_add(7);
            }
        }
    }

    #[test]
    fn r1_a_minted_key_is_well_formed() {
        let key = mint(counter());
        assert!(key.starts_with("vault_key_"), "{key}");
        assert!(is_well_formed(key.as_bytes()));
        assert!(key.len() <= VAULT_KEY_BYTES_MAX);
        // Each of 62 digits is worth five bits and more.
        const { assert!(RANDOM_DIGITS * 5 >= 160) };
    }

    #[test]
    fn one_wrong_character_anywhere_is_noticed() {
        let key = mint(counter());
        for at in 10..key.len() {
            let mut wrong = key.clone().into_bytes();
            wrong[at] = if wrong[at] == b'a' { b'b' } else { b'a' };
            assert!(!is_well_formed(&wrong), "at {at}");
        }
        assert!(!is_well_formed(&key.as_bytes()[..key.len() - 1]));
        assert!(!is_well_formed(b""));
        assert!(!is_well_formed(b"sk_test_123"));
    }

    #[test]
    fn a_slug_may_stand_in_place_of_key() {
        let key = mint(counter());
        assert!(is_well_formed(key.replace("vault_key_", "vault_billing-2_").as_bytes()));
        assert!(!is_well_formed(key.replace("vault_key_", "vault_Billing_").as_bytes()));
        assert!(!is_well_formed(key.replace("vault_key_", "vault__").as_bytes()));
    }

    #[test]
    fn a_key_is_found_in_both_credential_slots_and_nowhere_else() {
        let key = mint(counter());
        let found = |value: &str| {
            let mut scratch = [0; 512];
            in_authorization(value.as_bytes(), &mut scratch).map(<[u8]>::to_vec)
        };
        let basic =
            |pair: String| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let expected = Some(key.clone().into_bytes());
        assert_eq!(found(&format!("Bearer {key}")), expected);
        assert_eq!(found(&format!("bearer {key}")), expected);
        assert_eq!(found(&basic(format!("{key}:"))), expected);
        assert_eq!(found(&basic(format!("AC0000:{key}"))), expected);
        for wrong in [key.clone(), format!("Token {key}"), format!("Bearer{key}"), format!("Bearer {key}x")] {
            assert_eq!(found(&wrong), None, "{wrong}");
        }
        assert_eq!(found(&basic("x".repeat(1000))), None);
        assert_eq!(found("Basic !!!"), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn a_key_in_a_header_of_a_vendors_own_stands_behind_its_scheme_alone() {
        let key = mint(counter());
        let found = |value: &str, scheme: &str| behind_scheme(value.as_bytes(), scheme).map(<[u8]>::to_vec);
        let expected = Some(key.clone().into_bytes());
        assert_eq!(found(&key, ""), expected);
        assert_eq!(found(&format!("Token {key}"), "Token"), expected);
        assert_eq!(found(&format!("token {key}"), "Token"), expected);
        for (value, scheme) in [
            (key.clone(), "Token"),
            (format!("Bearer {key}"), "Token"),
            (format!("Token {key}"), ""),
            (format!("{key}x"), ""),
            (format!("{key}, {key}"), ""),
        ] {
            assert_eq!(found(&value, scheme), None, "{value}");
        }
    }

    #[test]
    fn an_id_reads_back_as_shown() {
        let id = KeyId::mint(counter());
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("vk_short".parse::<KeyId>(), Err(NotAKeyId));
        assert_eq!(serde_json::from_str::<KeyId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }
}
