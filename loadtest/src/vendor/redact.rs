//! Keeps secrets out of what the stand-in writes and shows, and notices a vault key that reached it.

use std::borrow::Cow;

/// What every vault key begins with; spelled again here, since the judge shares nothing with the proxy.
const VAULT_PREFIX: &[u8] = b"vault_";
/// What secrets begin with: Stripe's secret and restricted keys, and vault keys.
const SECRET_PREFIXES: [&str; 5] = ["sk_test_", "sk_live_", "rk_test_", "rk_live_", "vault_"];
/// Stands in place of the rest of a secret.
const REDACTED: &str = "[redacted]";

/// Whether any byte sequence in `bytes` begins like a vault key.
pub(crate) fn holds_vault_key(bytes: &[u8]) -> bool {
    // The head and body of every request pass here: look for the rarest letter of the prefix first.
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&byte| byte == b'v') {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(VAULT_PREFIX) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

/// `text` with every secret cut off behind its prefix, wherever it stands.
pub(crate) fn redacted(text: &str) -> Cow<'_, str> {
    let Some(first) = first_secret(text) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut next = Some(first);
    while let Some((at, prefix)) = next {
        let behind = at.saturating_add(prefix.len());
        out.push_str(rest.get(..behind).unwrap_or_default());
        out.push_str(REDACTED);
        let tail = rest.get(behind..).unwrap_or_default();
        rest =
            tail.trim_start_matches(|letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter));
        next = first_secret(rest);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn first_secret(text: &str) -> Option<(usize, &'static str)> {
    SECRET_PREFIXES.into_iter().filter_map(|prefix| Some((text.find(prefix)?, prefix))).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_keeps_only_its_prefix() {
        assert_eq!(redacted("a=1&k=sk_test_abcDEF9&b=2"), "a=1&k=sk_test_[redacted]&b=2");
        assert_eq!(redacted("vault_key_x sk_live_y"), "vault_[redacted] sk_live_[redacted]");
        assert_eq!(redacted("amount=2000&source=tok_visa"), "amount=2000&source=tok_visa");
        assert_eq!(redacted("ä vault_ö"), "ä vault_[redacted]ö");
    }

    #[test]
    fn a_vault_key_is_noticed_anywhere() {
        assert!(holds_vault_key(b"vault_key_1"));
        assert!(holds_vault_key(b"a=v&metadata[k]=vvault_"));
        assert!(!holds_vault_key(b"vaul"));
        assert!(!holds_vault_key(b"vault-key"));
        assert!(!holds_vault_key(b""));
    }
}
