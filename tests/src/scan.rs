//! Looking for secrets where they must not be.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// The forms in which a secret may leak: as it is, in hex, percent-encoded, and in both alphabets of base64 at each of the
/// three offsets it can have in a longer text.
#[must_use]
pub fn forms_of(secret: &str) -> Vec<Vec<u8>> {
    forms_of_bytes(secret.as_bytes())
}

/// As [`forms_of`], of a secret that is no text.
#[must_use]
pub fn forms_of_bytes(bytes: &[u8]) -> Vec<Vec<u8>> {
    let each = |form: &dyn Fn(&u8) -> String| bytes.iter().map(form).collect::<String>().into_bytes();
    // Some encoders leave letters and digits alone.
    let reserved = |byte: &u8, encoded: String| match byte.is_ascii_alphanumeric() {
        true => char::from(*byte).to_string(),
        false => encoded,
    };
    let mut forms = vec![
        bytes.to_vec(),
        each(&|byte| format!("{byte:02x}")),
        each(&|byte| format!("{byte:02X}")),
        each(&|byte| format!("%{byte:02x}")),
        each(&|byte| format!("%{byte:02X}")),
        each(&|byte| reserved(byte, format!("%{byte:02x}"))),
        each(&|byte| reserved(byte, format!("%{byte:02X}"))),
    ];
    for alphabet in [&STANDARD, &URL_SAFE] {
        for offset in 0..3 {
            let encoded = alphabet.encode([&vec![b'x'; offset][..], bytes].concat());
            // The letters at both ends also depend on the secret's neighbors.
            let start = (offset * 4).div_ceil(3);
            let end = encoded.trim_end_matches('=').len() - 1;
            forms.push(encoded.as_bytes()[start..end].to_vec());
        }
    }
    forms.sort();
    forms.dedup();
    forms
}

/// Whether `bytes` holds the secret in any of its forms.
#[must_use]
pub fn holds(bytes: &[u8], secret: &str) -> bool {
    forms_of(secret).iter().any(|form| contains(bytes, form))
}

/// The files below `dir` that hold the secret in any of its forms.
///
/// # Panics
/// When the directory cannot be read.
#[must_use]
pub fn secrets_in_files(dir: &Path, secret: &str) -> Vec<PathBuf> {
    let forms = forms_of(secret);
    let mut found = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.is_file() {
                // A running store may remove a file that was just listed.
                let bytes = std::fs::read(&path).unwrap_or_default();
                if forms.iter().any(|form| contains(&bytes, form)) {
                    found.push(path);
                }
            }
        }
    }
    found
}

fn contains(bytes: &[u8], form: &[u8]) -> bool {
    let Some(first) = form.first() else { return true };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = &rest[at..];
        if rest.starts_with(form) {
            return true;
        }
        rest = &rest[1..];
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_in_each_form_and_at_each_offset() {
        let secret = "sk_test_abcdefgh";
        for before in ["", "a", "ab", "abc", "user:"] {
            let text = format!("{before}{secret}:after");
            assert!(holds(text.as_bytes(), secret), "{before}");
            assert!(holds(STANDARD.encode(&text).as_bytes(), secret), "{before} in base64");
        }
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(holds(format!("00{hex}00").as_bytes(), secret));
        let percent: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert!(holds(percent.as_bytes(), secret));
        assert!(holds(b"k=sk%5Ftest%5Fabcdefgh", secret));
        assert!(holds(URL_SAFE.encode("?>sk_test_abcdefgh").as_bytes(), secret));
        assert!(!holds(b"sk_test_abcdefg", secret));
    }
}
