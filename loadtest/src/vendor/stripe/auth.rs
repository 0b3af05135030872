//! Which callers are let in: Bearer or Basic with the key as user, as Stripe takes both.

use super::refusal::Refusal;
use crate::vendor::redact;

/// What a key must begin with if none was named.
const TEST_KEY_PREFIX: &str = "sk_test_";
/// Letters of a wrong key that Stripe's message shows at its start and end.
const SHOWN_START: usize = 8;
const SHOWN_END: usize = 4;

/// The keys that are let in.
pub(crate) struct Keys {
    named: Vec<String>,
}

/// What an Authorization field was worth; whose text is never kept.
pub(crate) struct Presented {
    /// The verdict.
    pub(crate) verdict: Result<(), Refusal>,
    /// It was a vault key, plain or inside Basic.
    pub(crate) is_vault_key: bool,
}

impl Keys {
    /// Lets exactly these in; any test key if there are none.
    pub(crate) fn new(named: Vec<String>) -> Keys {
        Keys { named }
    }

    /// Judges the value of an Authorization field.
    pub(crate) fn judge(&self, authorization: Option<&[u8]>) -> Presented {
        let Some(key) = authorization.and_then(presented_key) else {
            return Presented { verdict: Err(Refusal::no_key()), is_vault_key: false };
        };
        let is_vault_key = redact::holds_vault_key(&key);
        let text = std::str::from_utf8(&key).unwrap_or_default();
        let is_let_in = if self.named.is_empty() {
            text.len() > TEST_KEY_PREFIX.len() && text.starts_with(TEST_KEY_PREFIX)
        } else {
            self.named.iter().any(|named| named == text)
        };
        let verdict = if is_let_in { Ok(()) } else { Err(Refusal::wrong_key(&masked(text))) };
        Presented { verdict, is_vault_key }
    }
}

/// The key inside `Bearer key` or `Basic base64(key:)`.
fn presented_key(value: &[u8]) -> Option<Vec<u8>> {
    let space = value.iter().position(|&byte| byte == b' ')?;
    let (scheme, rest) = value.split_at_checked(space)?;
    let credential = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(credential.to_vec());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let mut pair = base64_decoded(credential)?;
    let user_end = pair.iter().position(|&byte| byte == b':').unwrap_or(pair.len());
    pair.truncate(user_end);
    Some(pair)
}

/// A wrong key as Stripe quotes it: first and last letters, stars between.
fn masked(key: &str) -> String {
    let letters = key.chars().count();
    let hidden = letters.saturating_sub(SHOWN_START).saturating_sub(SHOWN_END);
    if hidden < SHOWN_START {
        return "*".repeat(letters);
    }
    let start: String = key.chars().take(SHOWN_START).collect();
    let end: String = key.chars().skip(letters.saturating_sub(SHOWN_END)).collect();
    format!("{start}{}{end}", "*".repeat(hidden))
}

fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut window = 0_u32;
    let mut bits = 0_u32;
    for &letter in text.iter().take_while(|&&letter| letter != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter.wrapping_sub(b'A'),
            b'a'..=b'z' => letter.wrapping_sub(b'a').wrapping_add(26),
            b'0'..=b'9' => letter.wrapping_sub(b'0').wrapping_add(52),
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        window = (window << 6) | u32::from(value);
        bits = bits.saturating_add(6);
        if bits >= 8 {
            bits = bits.saturating_sub(8);
            bytes.push(u8::try_from((window >> bits) & 0xff).unwrap_or_default());
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_let_in(named: &[&str], authorization: &str) -> bool {
        let keys = Keys::new(named.iter().map(|key| (*key).to_owned()).collect());
        keys.judge(Some(authorization.as_bytes())).verdict.is_ok()
    }

    #[test]
    fn without_names_any_test_key_is_let_in() {
        assert!(is_let_in(&[], "Bearer sk_test_1"));
        assert!(is_let_in(&[], "bearer sk_test_1"));
        // printf 'sk_test_1:' | base64
        assert!(is_let_in(&[], "Basic c2tfdGVzdF8xOg=="));
        assert!(!is_let_in(&[], "Bearer sk_test_"));
        assert!(!is_let_in(&[], "Bearer sk_live_1"));
        assert!(!is_let_in(&[], "Bearer"));
        assert!(!is_let_in(&[], "Basic !"));
    }

    #[test]
    fn with_names_only_these_are_let_in() {
        assert!(is_let_in(&["sk_a", "sk_b"], "Bearer sk_b"));
        assert!(!is_let_in(&["sk_a"], "Bearer sk_test_1"));
        assert!(!is_let_in(&["sk_a"], "Bearer sk_a2"));
    }

    #[test]
    fn a_vault_key_is_noticed_even_inside_basic() {
        let keys = Keys::new(Vec::new());
        // printf 'vault_key_1:' | base64
        assert!(keys.judge(Some(b"Basic dmF1bHRfa2V5XzE6")).is_vault_key);
        assert!(!keys.judge(Some(b"Basic c2tfdGVzdF8xOg==")).is_vault_key);
    }

    #[test]
    fn a_wrong_key_is_quoted_with_stars() {
        assert_eq!(masked("sk_test_51Habcdefghijkl"), "sk_test_***********ijkl");
        assert_eq!(masked("sk_short"), "********");
    }
}
