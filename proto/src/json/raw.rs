//! Members further down, and bodies that are arrays. A value is handed out as it is written, so that a number keeps
//! every digit.

use serde_json::value::RawValue;

use super::{JsonError, judged, read_object};

/// The value at `path`, such as `["payment", "amount"]`, as it is written; `None` if a part of it is not there.
///
/// # Errors
/// [`JsonError`]; each object on the way is read in one way only.
pub fn read_member<'a>(body: &'a [u8], path: &[impl AsRef<str>]) -> Result<Option<&'a str>, JsonError> {
    let mut text = judged(body)?;
    for name in path {
        let [value] = read_object::<&RawValue, 1>(text, [name.as_ref()])?;
        let Some(value) = value else { return Ok(None) };
        text = value.get();
    }
    Ok(Some(text))
}

/// How many texts each of the members `names` holds: a text, or a list of them. A text with several `@` counts as often,
/// since one text may name several recipients.
///
/// # Errors
/// [`JsonError`]
pub fn count_texts<const N: usize>(body: &[u8], names: [&str; N]) -> Result<[u64; N], JsonError> {
    count_in(judged(body)?, names)
}

/// [`count_texts`] of each object of the array that `body` is, of at most `most` elements.
///
/// # Errors
/// [`JsonError`]
pub fn count_texts_of_each<const N: usize>(
    body: &[u8],
    names: [&str; N],
    most: usize,
) -> Result<Vec<[u64; N]>, JsonError> {
    let text = judged(body)?;
    if text.as_bytes().trim_ascii_start().first() != Some(&b'[') {
        return Err(JsonError::NotList);
    }
    let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|_| JsonError::Syntax)?;
    if elements.len() > most {
        return Err(JsonError::NotList);
    }
    elements.into_iter().map(|element| count_in(element.get(), names)).collect()
}

fn count_in<const N: usize>(text: &str, names: [&str; N]) -> Result<[u64; N], JsonError> {
    let values = read_object::<&RawValue, N>(text, names)?;
    let mut counts = [0; N];
    for (count, value) in counts.iter_mut().zip(values) {
        *count = value.map_or(Ok(0), |value| texts_in(value.get()))?;
    }
    Ok(counts)
}

fn texts_in(value: &str) -> Result<u64, JsonError> {
    let addresses = |text: &String| u64::try_from(text.matches('@').count()).unwrap_or(u64::MAX).max(1);
    let one = |text: &str| serde_json::from_str::<String>(text);
    match value.as_bytes().first() {
        Some(b'"') => one(value).map(|text| addresses(&text)).map_err(|_| JsonError::NotTexts),
        Some(b'[') => match serde_json::from_str::<Vec<String>>(value) {
            Ok(texts) => Ok(texts.iter().map(addresses).fold(0, u64::saturating_add)),
            Err(_) => Err(JsonError::NotTexts),
        },
        Some(b'n') => Ok(0),
        _ => Err(JsonError::NotTexts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, path: &[&str], expected: Result<Option<&str>, JsonError>) {
        assert_eq!(read_member(body.as_bytes(), path), expected, "{body}");
    }

    #[test]
    fn m2_a_member_further_down_is_read_in_one_way_only() {
        let path = ["payment", "amount"];
        check(r#"{"payment": {"amount": 12.50}, "amount": 9}"#, &path, Ok(Some("12.50")));
        check(r#"{"payment": {"amount": "5"}}"#, &path, Ok(Some("\"5\"")));
        check(r#"{"payment": {}}"#, &path, Ok(None));
        check(r#"{}"#, &path, Ok(None));
        check(r#"{"payment": 5}"#, &path, Err(JsonError::NotObject));
        check(r#"{"payment": {"amount": 1}, "payment": {"amount": 2}}"#, &path, Err(JsonError::Repeated));
        check(r#"{"payment": {"amount": 1, "amount": 2}}"#, &path, Err(JsonError::Repeated));
        check(r#"{"payment": {"amount": 1, "\u0061mount": 2}}"#, &path, Err(JsonError::Repeated));
        check(r#"{"payment": {"amount": 1, "Amount": 2}}"#, &path, Err(JsonError::Disguised));
        check(r#"{"payment": {"amount": 1}} x"#, &path, Err(JsonError::Syntax));
        check("\u{feff}{}", &path, Err(JsonError::NotObject));
        check(&format!("{}1", "{\"a\":".repeat(100)), &path, Err(JsonError::TooDeep));
    }

    fn counts(body: &str, expected: Result<[u64; 2], JsonError>) {
        assert_eq!(count_texts(body.as_bytes(), ["to", "cc"]), expected, "{body}");
    }

    #[test]
    fn texts_are_counted_as_recipients() {
        counts(r#"{"to": "a@x.com"}"#, Ok([1, 0]));
        counts(r#"{"to": ["a@x.com", "B <b@x.com>"], "cc": null, "subject": "@@@"}"#, Ok([2, 0]));
        counts(r#"{"to": "a@x.com, b@x.com", "cc": ["c@x.com,d@x.com", ""]}"#, Ok([2, 3]));
        counts(r#"{"to": [], "cc": "\u0040\u0040"}"#, Ok([0, 2]));
        counts(r#"{"to": 5}"#, Err(JsonError::NotTexts));
        counts(r#"{"to": [["a@x.com", "b@x.com"]]}"#, Err(JsonError::NotTexts));
        counts(r#"{"to": {"0": "a@x.com"}}"#, Err(JsonError::NotTexts));
        counts(r#"{"to": "a@x.com", "To": "b@x.com"}"#, Err(JsonError::Disguised));
        counts(r#"[{"to": "a@x.com"}]"#, Err(JsonError::NotObject));
    }

    #[test]
    fn an_array_of_objects_is_counted_one_by_one() {
        let check = |body: &str, expected: Result<Vec<[u64; 2]>, JsonError>| {
            assert_eq!(count_texts_of_each(body.as_bytes(), ["to", "cc"], 3), expected, "{body}");
        };
        check("[]", Ok(vec![]));
        check(r#"[{"to": "a@x"}, {"to": ["a@x", "b@x"], "cc": "c@x"}]"#, Ok(vec![[1, 0], [2, 1]]));
        check(r#"[{}, {}, {}, {}]"#, Err(JsonError::NotList));
        check(r#"{"to": "a@x"}"#, Err(JsonError::NotList));
        check(r#"[{"to": "a@x", "to": "b@x"}]"#, Err(JsonError::Repeated));
        check(r#"["a@x"]"#, Err(JsonError::NotObject));
        check(r#"[{}] []"#, Err(JsonError::Syntax));
    }
}
