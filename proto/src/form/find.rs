//! Several names of a form in one reading: how rules about parameters see it.

use super::{FormError, decoded, is_name, may_mean, pairs};

/// Parameters of a form that rules look at; each is compared with each name, and a worker must not take long for that.
const PAIRS_MAX: usize = 4096;

/// What is asked of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// Its one value.
    Value,
    /// Whether it is there, in any spelling that a lenient server accepts.
    Mention,
}

/// For each of `names`, in their order, its decoded value; `None` where it is not there. A name that is only sought as a
/// mention has an empty value.
///
/// # Errors
/// Where a value is sought, anything that could be read as another value of that name by somebody else, and any malformed
/// pair; [`FormError::TooMany`] above 4096 parameters.
pub fn find(form: &[u8], names: &[(&str, Sought)]) -> Result<Vec<Option<Vec<u8>>>, FormError> {
    let mut found = vec![None; names.len()];
    if form.is_empty() {
        return Ok(found);
    }
    let is_separator = |byte: &u8| matches!(byte, b'&' | b';');
    if form.iter().filter(|byte| is_separator(byte)).count() >= PAIRS_MAX {
        return Err(FormError::TooMany);
    }
    let of = |kind: Sought| names.iter().enumerate().filter(move |(_, (_, sought))| *sought == kind);
    if of(Sought::Value).next().is_some() {
        for pair in pairs(form) {
            let pair = pair?;
            for (at, (name, _)) in of(Sought::Value) {
                if is_name(pair.key, name)? {
                    let value = decoded(pair.value).collect::<Option<Vec<u8>>>().ok_or(FormError::Escape)?;
                    if found.get_mut(at).is_some_and(|slot| slot.replace(value).is_some()) {
                        return Err(FormError::Repeated);
                    }
                }
            }
        }
    }
    for piece in form.split(|byte| is_separator(byte)) {
        let key = piece.split(|&byte| byte == b'=').next().unwrap_or_default();
        for (at, (name, _)) in of(Sought::Mention) {
            if let Some(slot) = found.get_mut(at).filter(|_| may_mean(key, name)) {
                *slot = Some(Vec::new());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::form::{mentions, read_long};

    #[test]
    fn n5_a_form_of_too_many_parameters_is_refused() {
        let form = |pairs: usize| "b&".repeat(pairs - 1) + "a=1";
        let names = [("a", Sought::Value)];
        assert_eq!(find(form(PAIRS_MAX).as_bytes(), &names), Ok(vec![Some(b"1".to_vec())]));
        assert_eq!(find(form(PAIRS_MAX + 1).as_bytes(), &names), Err(FormError::TooMany));
    }

    proptest::proptest! {
        /// Several names are read as each one alone is.
        #[test]
        fn several_names_are_read_as_each_alone(form in "([aAb%61=&;x\\[\\]1+ ]|%[0-9a-f]{2}){0,30}") {
            let form = form.as_bytes();
            for name in ["a", "b", "a[x]"] {
                let mut value = Vec::new();
                let alone = read_long(form, name, &mut value).map(|is_there| is_there.then_some(value));
                let found = find(form, &[(name, Sought::Value)]).map(|mut found| found.remove(0));
                proptest::prop_assert_eq!(found, alone);
                let mention = find(form, &[(name, Sought::Mention)]).map(|found| found[0].is_some());
                proptest::prop_assert_eq!(mention, Ok(mentions(form, name)));
            }
            let both = find(form, &[("a", Sought::Value), ("b", Sought::Value)]);
            let of = |name| find(form, &[(name, Sought::Value)]);
            if let (Ok(a), Ok(b)) = (of("a"), of("b")) {
                proptest::prop_assert_eq!(both, Ok([a, b].concat()));
            } else {
                proptest::prop_assert!(both.is_err());
            }
        }
    }
}
