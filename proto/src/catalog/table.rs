//! Reads a vendor's table: one operation a line, each with its class and its source.
//!
//! It knows no vendor. What a class costs is the vendor's module to say; docs/catalog.md describes the format.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{Idempotency, Operation, Price, pattern};
use crate::http1::Method;

/// Before a class, or as a whole one: the operation hands out credentials or widens rights.
const ESCALATES: &str = "escalates";

/// The rows of `text`, in its order.
///
/// `price` says what a class costs and answers `None` for a class that the vendor does not have; it must know
/// `free`. `idempotency` says what the vendor remembers of a method and a pattern.
pub(super) fn operations(
    text: &'static str,
    price: impl Fn(&str) -> Option<Price>,
    idempotency: impl Fn(Method, &str) -> Idempotency,
) -> Result<&'static [Operation], TableError> {
    let mut sources: HashMap<&str, usize> = HashMap::new();
    let mut used: HashSet<&str> = HashSet::new();
    let mut seen: HashSet<(Method, String)> = HashSet::new();
    let mut rows = Vec::new();
    for (line, number) in text.lines().zip(1_usize..) {
        let refuse = |problem| Err(TableError { line: number, problem });
        if let Some(comment) = line.strip_prefix('#') {
            match definition(comment) {
                Ok(None) => {}
                Ok(Some(name)) if sources.insert(name, number).is_some() => {
                    return refuse(Problem::SourceTwice(name));
                }
                Ok(Some(_)) => {}
                Err(problem) => return refuse(problem),
            }
            continue;
        }
        let columns: Vec<&'static str> = line.split_ascii_whitespace().collect();
        let operation = match columns.as_slice() {
            [] => continue,
            [_, _, _, source] if !sources.contains_key(source) => {
                return refuse(Problem::UnknownSource(source));
            }
            [method, pattern, class, source] => {
                used.insert(source);
                row(method, pattern, class, &price, &idempotency)
            }
            _ => Err(Problem::Columns(columns.len())),
        };
        let operation = operation.map_err(|problem| TableError { line: number, problem })?;
        if !seen.insert((operation.method, pattern::shape(operation.pattern))) {
            return refuse(Problem::Twice(operation.pattern));
        }
        rows.push(operation);
    }
    let unused = sources.into_iter().filter(|(name, _)| !used.contains(name)).min_by_key(|(_, line)| *line);
    match unused {
        Some((name, line)) => Err(TableError { line, problem: Problem::UnusedSource(name) }),
        None => Ok(rows.leak()),
    }
}

/// The name that a comment `source NAME = DESCRIPTION` defines.
fn definition(comment: &'static str) -> Result<Option<&'static str>, Problem> {
    let mut words = comment.split_ascii_whitespace();
    if words.next() != Some("source") {
        return Ok(None);
    }
    match (words.next(), words.next(), words.next()) {
        (Some(name), Some("="), Some(_)) => Ok(Some(name)),
        _ => Err(Problem::Definition),
    }
}

fn row(
    method: &'static str,
    pattern: &'static str,
    class: &'static str,
    price: impl Fn(&str) -> Option<Price>,
    idempotency: impl Fn(Method, &str) -> Idempotency,
) -> Result<Operation, Problem> {
    let method = Method::parse(method.as_bytes()).ok_or(Problem::Method(method))?;
    if !pattern::is_valid(pattern) {
        return Err(Problem::Pattern(pattern));
    }
    let (escalates, costs) = match class.strip_prefix(ESCALATES) {
        Some("") => (true, "free"),
        Some(rest) => (true, rest.strip_prefix('-').ok_or(Problem::Class(class))?),
        None => (false, class),
    };
    let price = price(costs).ok_or(Problem::Class(class))?;
    Ok(Operation { method, pattern, class, price, idempotency: idempotency(method, pattern), escalates })
}

/// A line that is no row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableError {
    /// Counted from 1.
    line: usize,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Problem {
    Columns(usize),
    Method(&'static str),
    Pattern(&'static str),
    Class(&'static str),
    UnknownSource(&'static str),
    UnusedSource(&'static str),
    SourceTwice(&'static str),
    Definition,
    Twice(&'static str),
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: ", self.line)?;
        match &self.problem {
            Problem::Columns(3) => f.write_str("there are 3 columns; end the row with its source"),
            Problem::Columns(count) => {
                write!(f, "there are {count} columns; write METHOD /path class source")
            }
            Problem::Method(method) => {
                write!(f, "`{method}` is no method; write GET, POST, PUT, PATCH or DELETE")
            }
            Problem::Pattern(pattern) => {
                write!(
                    f,
                    "`{pattern}` is no path; write segments such as `charges`, `{{id}}` or `{{Sid}}.json`"
                )
            }
            Problem::Class(class) => {
                write!(f, "`{class}` is no class of this vendor; add it to `price` in the vendor's module")
            }
            Problem::UnknownSource(name) => {
                write!(f, "the source `{name}` is not known; define it above: `# source {name} = …`")
            }
            Problem::UnusedSource(name) => write!(f, "no row cites the source `{name}`; take its line out"),
            Problem::SourceTwice(name) => write!(f, "the source `{name}` is defined twice"),
            Problem::Definition => f.write_str("define a source as `# source NAME = DESCRIPTION`"),
            Problem::Twice(pattern) => write!(f, "`{pattern}` has a row already, by this or another name"),
        }
    }
}

impl std::error::Error for TableError {}

#[cfg(test)]
mod tests;
