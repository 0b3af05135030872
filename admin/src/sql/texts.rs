//! Functions of texts in place of SQLite's own, each with time in proportion to its input.
//!
//! SQLite looks at the clock between the steps of its machine and not within a function. Its `LIKE` takes a pattern with
//! many `%` back and forth for as long as a universe lasts, and `instr`, `replace` and `trim` multiply the lengths of
//! their texts. These cannot.

use std::borrow::Cow;
use std::collections::HashSet;

use rusqlite::functions::{Context, FunctionFlags};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Error, Result};

/// The longest pattern, in characters: a match takes at most as many steps for each character of the text.
const PATTERN_CHARS_MAX: usize = 500;

/// The longest text of a query, in bytes: also SQLite's own limit.
pub(super) const TEXT_BYTES_MAX: usize = 256 * 1024;

/// A part of a pattern.
enum Part {
    /// Any number of characters.
    Any,
    /// One character.
    One,
    /// This one.
    Char(char),
    /// One of, or none of, these ranges.
    Class(bool, Vec<(char, char)>),
}

impl Part {
    fn fits(&self, c: char, ignores_case: bool) -> bool {
        match self {
            Part::Any => false,
            Part::One => true,
            Part::Char(expected) if ignores_case => expected.eq_ignore_ascii_case(&c),
            Part::Char(expected) => *expected == c,
            Part::Class(is_of, ranges) => {
                ranges.iter().any(|(first, last)| (*first..=*last).contains(&c)) == *is_of
            }
        }
    }
}

/// Whether the whole text fits. Only the last `Any` is ever taken back: what stood before it has fitted already.
fn fits(parts: &[Part], text: &str, ignores_case: bool) -> bool {
    let chars: Vec<char> = text.chars().collect();
    let (mut part, mut at) = (0_usize, 0_usize);
    let mut last_any: Option<(usize, usize)> = None;
    while let Some(c) = chars.get(at) {
        match parts.get(part) {
            Some(Part::Any) => {
                last_any = Some((part.saturating_add(1), at));
                part = part.saturating_add(1);
            }
            Some(other) if other.fits(*c, ignores_case) => {
                part = part.saturating_add(1);
                at = at.saturating_add(1);
            }
            Some(_) | None => match &mut last_any {
                Some((behind, taken)) => {
                    *taken = taken.saturating_add(1);
                    (part, at) = (*behind, *taken);
                }
                None => return false,
            },
        }
    }
    parts.get(part..).unwrap_or_default().iter().all(|part| matches!(part, Part::Any))
}

fn like_parts(pattern: &str, escape: Option<char>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        parts.push(match c {
            c if Some(c) == escape => match chars.next() {
                Some(c) => Part::Char(c),
                None => break,
            },
            '%' => Part::Any,
            '_' => Part::One,
            c => Part::Char(c),
        });
    }
    parts
}

fn glob_parts(pattern: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Any,
            '?' => Part::One,
            '[' => {
                let is_of = chars.next_if_eq(&'^').is_none();
                let mut ranges = Vec::new();
                // A bracket directly behind the opening one is one of the characters.
                while let Some(first) = chars.next().filter(|c| *c != ']' || ranges.is_empty()) {
                    let has_end =
                        chars.peek() == Some(&'-') && chars.clone().nth(1).is_some_and(|c| c != ']');
                    let last = if has_end { chars.nth(1).unwrap_or(first) } else { first };
                    ranges.push((first, last));
                }
                Part::Class(is_of, ranges)
            }
            c => Part::Char(c),
        });
    }
    parts
}

/// The argument as SQLite would write it; `None` for NULL.
fn text<'a>(context: &'a Context<'_>, at: usize) -> Option<Cow<'a, str>> {
    match context.get_raw(at) {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(Cow::Owned(number.to_string())),
        ValueRef::Real(number) => Some(Cow::Owned(format!("{number:?}"))),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes)),
    }
}

fn refuse(problem: &'static str) -> Error {
    Error::UserFunctionError(problem.into())
}

fn matches(
    context: &Context<'_>,
    ignores_case: bool,
    parts: impl Fn(&str) -> Result<Vec<Part>>,
) -> Result<Option<bool>> {
    let (Some(pattern), Some(text)) = (text(context, 0), text(context, 1)) else { return Ok(None) };
    if pattern.chars().count() > PATTERN_CHARS_MAX {
        return Err(refuse("a pattern of LIKE or GLOB has at most 500 characters"));
    }
    Ok(Some(fits(&parts(&pattern)?, &text, ignores_case)))
}

fn like_with_escape(context: &Context<'_>) -> Result<Option<bool>> {
    let Some(escape) = text(context, 2) else { return Ok(None) };
    let mut chars = escape.chars();
    let (Some(escape), None) = (chars.next(), chars.next()) else {
        return Err(refuse("ESCAPE expression must be a single character"));
    };
    matches(context, true, |pattern| Ok(like_parts(pattern, Some(escape))))
}

fn instr(context: &Context<'_>) -> Result<Option<i64>> {
    let (Some(text), Some(part)) = (text(context, 0), text(context, 1)) else { return Ok(None) };
    let before = text.find(part.as_ref()).and_then(|at| text.get(..at));
    Ok(Some(
        before
            .map_or(0, |before| i64::try_from(before.chars().count()).unwrap_or(i64::MAX).saturating_add(1)),
    ))
}

fn replace(context: &Context<'_>) -> Result<Option<String>> {
    let (Some(text), Some(part), Some(other)) = (text(context, 0), text(context, 1), text(context, 2)) else {
        return Ok(None);
    };
    if part.is_empty() {
        return Ok(Some(text.into_owned()));
    }
    let places = text.matches(part.as_ref()).count();
    if places.saturating_mul(other.len()).saturating_add(text.len()) > TEXT_BYTES_MAX.saturating_mul(2) {
        return Err(refuse("string or blob too big"));
    }
    Ok(Some(text.replace(part.as_ref(), &other)))
}

/// `trim` and its like with a second argument: from the start, the end, or both.
fn trim(context: &Context<'_>, start: bool, end: bool) -> Result<Option<String>> {
    let (Some(text), Some(set)) = (text(context, 0), text(context, 1)) else { return Ok(None) };
    let set: HashSet<char> = set.chars().collect();
    let mut rest = text.as_ref();
    if start {
        rest = rest.trim_start_matches(|c| set.contains(&c));
    }
    if end {
        rest = rest.trim_end_matches(|c| set.contains(&c));
    }
    Ok(Some(rest.to_owned()))
}

/// Puts them in the place of SQLite's own.
pub(super) fn register(connection: &Connection) -> Result<()> {
    let flags =
        FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_INNOCUOUS;
    let like = |context: &Context<'_>| matches(context, true, |pattern| Ok(like_parts(pattern, None)));
    let glob = |context: &Context<'_>| matches(context, false, |pattern| Ok(glob_parts(pattern)));
    connection.create_scalar_function("like", 2, flags, like)?;
    connection.create_scalar_function("like", 3, flags, like_with_escape)?;
    connection.create_scalar_function("glob", 2, flags, glob)?;
    connection.create_scalar_function("instr", 2, flags, instr)?;
    connection.create_scalar_function("replace", 3, flags, replace)?;
    connection.create_scalar_function("trim", 2, flags, |context| trim(context, true, true))?;
    connection.create_scalar_function("ltrim", 2, flags, |context| trim(context, true, false))?;
    connection.create_scalar_function("rtrim", 2, flags, |context| trim(context, false, true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::value::Cell;

    /// Ours and SQLite's own answer alike.
    fn check(expression: &str) {
        let ask = |connection: &Connection| -> Cell {
            let sql = format!("SELECT {expression}");
            connection.query_row(&sql, [], |row| Ok(Cell::of(row.get_ref(0)?))).unwrap()
        };
        let (plain, ours) = (Connection::open_in_memory().unwrap(), Connection::open_in_memory().unwrap());
        register(&ours).unwrap();
        assert_eq!(ask(&ours), ask(&plain), "{expression}");
    }

    #[test]
    fn they_answer_what_sqlite_answers() {
        for pattern in ["", "%", "a%", "%B", "_b%", "a_c", "%a%b%c%", "%%", "ABC", "abcd", "%c_", "%é"] {
            check(&format!("'abc' LIKE '{pattern}'"));
            check(&format!("'' LIKE '{pattern}'"));
            check(&format!("'aabbé' LIKE '{pattern}'"));
        }
        for pattern in ["*", "a*", "[a-c]*", "[^a]*", "a?c", "[]a]bc", "A*", "[a-]bc", "*[0-9]"] {
            check(&format!("'abc' GLOB '{pattern}'"));
            check(&format!("'-bc9' GLOB '{pattern}'"));
        }
        for expression in [
            "'50%' LIKE '50!%' ESCAPE '!'",
            "'50x' LIKE '50!%' ESCAPE '!'",
            "NULL LIKE 'a'",
            "12 LIKE '1%'",
            "instr('añb', 'b')",
            "instr('a', '')",
            "instr('a', 'x')",
            "instr(NULL, 'x')",
            "replace('aXbX', 'X', '--')",
            "replace('a', '', 'x')",
            "replace(NULL, 'a', 'b')",
            "trim('xxaxx', 'x')",
            "ltrim('xyaxy', 'yx')",
            "rtrim('xyaxy', 'yx')",
            "trim('  a ')",
        ] {
            check(expression);
        }
    }
}
