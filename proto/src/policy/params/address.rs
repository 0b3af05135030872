//! Where a mail goes: the domain of one recipient, read in one way only.

/// The longest address, in bytes (RFC 5321 section 4.5.3.1.3).
const ADDRESS_BYTES_MAX: usize = 254;

/// Whether `value` is one recipient, `a@b` or `Name <a@b>`, at one of `domains`, which are in lower case.
///
/// What other parsers could read as two recipients or as another one is none: comments, routes, lists, quoted local
/// parts, a second `@` or bracket. A false `true` sends a mail elsewhere.
pub(super) fn is_at(value: &str, domains: &[String]) -> bool {
    domain(value).is_some_and(|domain| domains.iter().any(|one| one.eq_ignore_ascii_case(domain)))
}

/// The domain of one recipient.
pub(super) fn domain(value: &str) -> Option<&str> {
    let address = match value.trim_ascii().strip_suffix('>') {
        None => value.trim_ascii(),
        Some(rest) => {
            let (name, address) = rest.split_once('<')?;
            if !is_display_name(name.trim_ascii()) {
                return None;
            }
            address
        }
    };
    let (local, domain) = address.split_once('@')?;
    let is_local = !local.is_empty() && local.bytes().all(is_atom);
    (is_local && is_domain(domain) && address.len() <= ADDRESS_BYTES_MAX).then_some(domain)
}

/// Words without specials, or one quoted text without escapes (RFC 5322 section 3.2).
fn is_display_name(name: &str) -> bool {
    let quoted = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let specials: &[char] = if quoted.is_some() {
        &['"', '\\', '<', '>', '@']
    } else {
        &['"', '\\', '<', '>', '@', ',', ';', ':', '(', ')', '[', ']']
    };
    let name = quoted.unwrap_or(name);
    !name.contains(specials) && !name.chars().any(char::is_control)
}

/// What a local part without quotes holds (RFC 5322 section 3.2.3).
fn is_atom(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Labels of letters, digits and hyphens between single dots, two of them at least.
pub(super) fn is_domain(text: &str) -> bool {
    let is_label = |label: &str| {
        let is_word = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        !label.is_empty() && is_word && !label.starts_with('-') && !label.ends_with('-')
    };
    text.contains('.') && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expected: bool) {
        assert_eq!(is_at(value, &["example.com".to_owned()]), expected, "{value:?}");
    }

    #[test]
    fn one_recipient_in_both_forms_is_read() {
        for value in [
            "a@example.com",
            " a@example.com ",
            "a.b+c@EXAMPLE.com",
            "Ann <a@example.com>",
            "<a@example.com>",
            "Ann van der Berg <a@example.com>",
            "\"Berg, Ann\" <a@example.com>",
            "Ánn <a@example.com>",
        ] {
            check(value, true);
        }
        for value in ["a@example.org", "a@x.example.com", "a@notexample.com", "Ann <a@evil.com>"] {
            check(value, false);
        }
    }

    #[test]
    fn what_could_be_another_recipient_is_none() {
        for value in [
            "",
            "example.com",
            "@example.com",
            "a@example.com,b@evil.com",
            "b@evil.com,a@example.com",
            "b@evil.com a@example.com",
            "a@evil.com@example.com",
            "b@evil.com <a@example.com>",
            "<b@evil.com> <a@example.com>",
            "Ann <b@evil.com>, Bob <a@example.com>",
            "a@evil.com\r\nBcc: a@example.com",
            "Ann\r\nBcc: b <a@example.com>",
            "\"x\" <b> \"y <a@example.com>",
            "@evil.com:a@example.com",
            "a(b@evil.com)@example.com",
            "\"b@evil.com,\"@example.com",
            "a@example.com.",
            "a@example.com>",
            "a@[127.0.0.1]",
            "a@ex\u{e4}mple.com",
            "a%evil.com@example.com <a@example.com>",
        ] {
            check(value, false);
        }
    }
}
