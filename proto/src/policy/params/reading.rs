//! The one reading of a parameter's name, from the query, the body and the path together.

use std::borrow::Cow;

use super::{Name, Parameters, Tests};
use crate::deny::Deny;
use crate::form::{self, FormError, Sought};
use crate::json;

/// A body in the one form that the vendor reads at this path.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// `application/x-www-form-urlencoded`; also for no body at all.
    Form(&'a [u8]),
    /// JSON.
    Json(&'a [u8]),
    /// It was sent as something else than the vendor reads there.
    Other,
}

/// All that a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reading<'a> {
    /// Each value; `None` is one that has no one text.
    pub(super) values: Vec<Option<Cow<'a, str>>>,
    /// It is not there, or not in each element of a list.
    pub(super) is_missing: bool,
    /// No vendor could find it there, in any spelling. Only known where the rule wants it absent.
    pub(super) is_absent: bool,
}

/// Reads each name, in their order.
///
/// # Errors
/// A malformed body or query, and a name that stands there twice or in disguise, as 400; a body in another form than
/// the path's as 415.
pub(super) fn read<'a>(
    request: &Parameters<'a>,
    wanted: &[(&Name, &Tests)],
) -> Result<Vec<Reading<'a>>, Deny> {
    let mut readings = match request.body {
        Body::Form(form) => of_form(form, wanted)?,
        Body::Json(body) => of_json(body, wanted)?,
        Body::Other => {
            let problem = "a rule of this key reads the body; send it in the form that this path takes";
            return Err(Deny::Malformed { status: 415, problem: problem.into() });
        }
    };
    let in_query = of_form(request.query, wanted)?;
    for (((name, tests), reading), in_query) in wanted.iter().zip(&mut readings).zip(in_query) {
        if !in_query.is_missing && !reading.values.is_empty() {
            // Which of them the vendor takes is its own affair.
            return Err(malformed(FormError::Repeated));
        }
        reading.values.extend(in_query.values);
        reading.is_absent &= in_query.is_absent;
        reading.is_missing &= in_query.is_missing;
        if let Some(value) = in_path(request, name).filter(|_| !tests.absent) {
            reading.values.push(std::str::from_utf8(value).ok().map(Cow::Borrowed));
            reading.is_missing = false;
        }
    }
    Ok(readings)
}

fn of_form<'a>(text: &[u8], wanted: &[(&Name, &Tests)]) -> Result<Vec<Reading<'a>>, Deny> {
    let sought = |tests: &Tests| if tests.absent { Sought::Mention } else { Sought::Value };
    let names: Vec<_> = wanted.iter().map(|(name, tests)| (name.in_form.as_str(), sought(tests))).collect();
    let reading = |(found, (_, sought)): (Option<Vec<u8>>, &(&str, Sought))| match (found, sought) {
        (None, Sought::Value) => Reading { is_missing: true, ..Reading::default() },
        (Some(value), Sought::Value) => {
            Reading { values: vec![String::from_utf8(value).ok().map(Cow::Owned)], ..Reading::default() }
        }
        (found, Sought::Mention) => {
            Reading { is_missing: true, is_absent: found.is_none(), ..Reading::default() }
        }
    };
    Ok(form::find(text, &names).map_err(malformed)?.into_iter().zip(&names).map(reading).collect())
}

fn of_json<'a>(body: &'a [u8], wanted: &[(&Name, &Tests)]) -> Result<Vec<Reading<'a>>, Deny> {
    let paths: Vec<&[String]> = wanted.iter().map(|(name, _)| name.segments.as_slice()).collect();
    let found = json::find(body, &paths)
        .map_err(|error| Deny::Malformed { status: 400, problem: error.to_string().into() })?;
    let reading = |found: json::Found<'a>| Reading {
        is_absent: !found.is_there,
        is_missing: found.is_missing,
        values: found.values,
    };
    Ok(found.into_iter().map(reading).collect())
}

fn malformed(error: FormError) -> Deny {
    Deny::Malformed { status: 400, problem: error.to_string().into() }
}

/// The segment of the path that the catalog gives this name.
fn in_path<'a>(request: &Parameters<'a>, name: &Name) -> Option<&'a [u8]> {
    let [name] = name.segments.as_slice() else { return None };
    let pattern = request.call.operation?.pattern;
    let is_it = |segment: &str| {
        segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).is_some_and(|inner| inner == name)
    };
    let at = pattern.split('/').position(is_it)?;
    request.call.path.split(|byte| *byte == b'/').nth(at)
}
