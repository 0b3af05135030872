//! Rules about a call's parameters: what a name in the body, the query or the path may hold.
//!
//! A rule speaks of the one reading that a name has. What could be read in two ways is refused, but only where a rule
//! reads it (rules A5, Q26). Nothing here knows a vendor: where a body is a form and where it is JSON is the caller's.

mod address;
mod reading;
mod text;
mod within;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Rule, SpecError};
use crate::catalog::Call;
use crate::deny::{Deny, Restriction};

pub use reading::Body;

const RULES_MAX: usize = 50;
const NAMES_MAX: usize = 10;

/// Names of all rules together: each request is searched for each of them.
const NAMES_ALL_MAX: usize = 100;

const ENDPOINTS_MAX: usize = 20;
const VALUES_MAX: usize = 500;
const VALUE_BYTES_MAX: usize = 200;
const NAME_DEPTH_MAX: usize = 5;
const NAME_BYTES_MAX: usize = 100;

/// All rules of a key together, as JSON: a page of keys must fit into one frame of the control socket.
const BYTES_MAX: usize = 8 * 1024;

/// Values that a denial lists; the rest is a number.
const LISTED_MAX: usize = 10;

/// The rules of a key about parameters. All of them must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Params(Vec<ParamRule>);

/// One rule: what the named parameters may hold, in the calls it concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct ParamRule {
    names: Vec<Name>,
    /// The calls it concerns; all of them where there is none.
    endpoints: Vec<Rule>,
    tests: Tests,
}

/// What one value must be. An absent test lets everything pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tests {
    any_of: Option<Vec<String>>,
    prefix: Option<Vec<String>>,
    domain: Option<Vec<String>>,
    min: Option<u64>,
    max: Option<u64>,
    required: bool,
    absent: bool,
}

/// A rule as an operator writes it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: OneOrMore,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    endpoints: Vec<Rule>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    equals: Option<Value>,
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    any_of: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prefix: Option<OneOrMore>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<OneOrMore>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    min: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    max: Option<u64>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    required: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    absent: bool,
}

/// A text, or a list of texts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl Default for OneOrMore {
    fn default() -> OneOrMore {
        OneOrMore::More(Vec::new())
    }
}

impl OneOrMore {
    fn list(self) -> Vec<String> {
        match self {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts,
        }
    }

    fn of(mut texts: Vec<String>) -> OneOrMore {
        match texts.pop() {
            Some(text) if texts.is_empty() => OneOrMore::One(text),
            Some(text) => {
                texts.push(text);
                OneOrMore::More(texts)
            }
            None => OneOrMore::More(texts),
        }
    }
}

/// A value to compare with: numbers and words of JSON are compared as the text a form would hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Whole(u64),
    Flag(bool),
}

impl Value {
    fn text(self) -> String {
        match self {
            Value::Text(text) => text,
            Value::Whole(number) => number.to_string(),
            Value::Flag(flag) => flag.to_string(),
        }
    }
}

/// A parameter's name: `currency`, or `transfer_data.destination`, which is `transfer_data[destination]` in a form.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Name {
    segments: Vec<String>,
    /// As it stands in a form.
    in_form: String,
}

impl Name {
    fn parse(text: &str) -> Option<Name> {
        let dotted = text.replace('[', ".").replace(']', "");
        let segments: Vec<String> = dotted.split('.').map(str::to_owned).collect();
        let is_segment = |segment: &String| {
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            !segment.is_empty() && segment.bytes().all(is_word)
        };
        let fits = text.len() <= NAME_BYTES_MAX && segments.len() <= NAME_DEPTH_MAX;
        let (first, rest) = segments.split_first().filter(|_| fits && segments.iter().all(is_segment))?;
        let in_form = rest.iter().fold(first.clone(), |name, segment| format!("{name}[{segment}]"));
        (text == in_form || text == dotted).then_some(Name { segments, in_form })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.segments.join("."))
    }
}

impl TryFrom<Written> for ParamRule {
    type Error = String;

    fn try_from(written: Written) -> Result<ParamRule, String> {
        let names = written.name.list();
        if names.is_empty() || names.len() > NAMES_MAX {
            return Err(format!("params: give a rule 1 to {NAMES_MAX} names, such as \"currency\""));
        }
        let parse = |text: &String| {
            let shape =
                "is not a parameter's name; write one such as \"currency\" or \"transfer_data.destination\"";
            Name::parse(text).ok_or_else(|| format!("params: `{text}` {shape}"))
        };
        let names: Vec<Name> = names.iter().map(parse).collect::<Result<_, _>>()?;
        let any_of = match (written.equals, written.any_of) {
            (Some(_), Some(_)) => return Err("params: give either equals or in".to_owned()),
            (Some(value), None) => Some(vec![value.text()]),
            (None, values) => values.map(|values| values.into_iter().map(Value::text).collect()),
        };
        let domain = written.domain.map(OneOrMore::list);
        let tests = Tests {
            any_of,
            prefix: written.prefix.map(OneOrMore::list),
            domain: domain.map(|domains| domains.iter().map(|domain| domain.to_ascii_lowercase()).collect()),
            min: written.min,
            max: written.max,
            required: written.required,
            absent: written.absent,
        };
        if written.endpoints.len() > ENDPOINTS_MAX {
            return Err(format!("params: a rule may name at most {ENDPOINTS_MAX} endpoints"));
        }
        tests.judge().map_err(|problem| format!("params: {}: {problem}", names_text(&names)))?;
        Ok(ParamRule { names, endpoints: written.endpoints, tests })
    }
}

impl From<ParamRule> for Written {
    fn from(rule: ParamRule) -> Written {
        Written {
            name: OneOrMore::of(rule.names.iter().map(Name::to_string).collect()),
            endpoints: rule.endpoints,
            equals: None,
            any_of: rule.tests.any_of.map(|values| values.into_iter().map(Value::Text).collect()),
            prefix: rule.tests.prefix.map(OneOrMore::of),
            domain: rule.tests.domain.map(OneOrMore::of),
            min: rule.tests.min,
            max: rule.tests.max,
            required: rule.tests.required,
            absent: rule.tests.absent,
        }
    }
}

fn names_text(names: &[Name]) -> String {
    names.iter().map(Name::to_string).collect::<Vec<_>>().join(", ")
}

impl Tests {
    /// Refuses a rule that nothing or everything satisfies: it was not meant so.
    fn judge(&self) -> Result<(), String> {
        let lists = [("in", &self.any_of), ("prefix", &self.prefix), ("domain", &self.domain)];
        for (test, values) in lists {
            let Some(values) = values else { continue };
            if values.is_empty() || values.len() > VALUES_MAX {
                return Err(format!("{test} needs 1 to {VALUES_MAX} values"));
            }
            if values.iter().any(|value| value.is_empty() || value.len() > VALUE_BYTES_MAX) {
                return Err(format!("each value of {test} must have 1 to {VALUE_BYTES_MAX} bytes"));
            }
        }
        if !self.domain.iter().flatten().all(|domain| address::is_domain(domain)) {
            return Err("write a domain as in \"example.com\", without @ and without *".to_owned());
        }
        if self.min.zip(self.max).is_some_and(|(min, max)| min > max) {
            return Err("min is above max".to_owned());
        }
        let has_value_test = self.has_value_test();
        if self.absent && (self.required || has_value_test) {
            return Err("absent stands alone".to_owned());
        }
        if !self.absent && !self.required && !has_value_test {
            let tests = "in, equals, prefix, domain, min, max, required or absent";
            return Err(format!("says nothing about its value; give {tests}"));
        }
        Ok(())
    }

    fn has_value_test(&self) -> bool {
        let texts = self.any_of.is_some() || self.prefix.is_some() || self.domain.is_some();
        texts || self.min.is_some() || self.max.is_some()
    }

    /// Whether one value passes; `None` is one that is no text.
    fn allow(&self, value: Option<&str>) -> bool {
        let Some(value) = value else { return !self.has_value_test() };
        let is_within = |number: u64| {
            self.min.is_none_or(|min| number >= min) && self.max.is_none_or(|max| number <= max)
        };
        self.any_of.as_ref().is_none_or(|values| values.iter().any(|one| one == value))
            && self.prefix.as_ref().is_none_or(|texts| texts.iter().any(|text| value.starts_with(text)))
            && self.domain.as_ref().is_none_or(|domains| address::is_at(value, domains))
            && ((self.min.is_none() && self.max.is_none()) || whole(value).is_some_and(is_within))
    }
}

/// A whole number without sign, point, exponent or leading zero: anything else has more than one reading.
fn whole(text: &str) -> Option<u64> {
    let is_plain = text == "0" || !text.starts_with('0');
    let is_digits = !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain && is_digits)
}

/// What would be allowed, for the message of a denial: nothing an agent sent stands in it.
impl fmt::Display for Tests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.absent {
            return f.write_str("it must be left out");
        }
        let mut parts = Vec::new();
        if let Some(values) = &self.any_of {
            parts.push(format!("one of {}", listed(values)));
        }
        if let Some(prefixes) = &self.prefix {
            parts.push(format!("a text that begins with {}", listed(prefixes)));
        }
        if let Some(domains) = &self.domain {
            parts.push(format!("addresses at {}", listed(domains)));
        }
        match (self.min, self.max) {
            (Some(min), Some(max)) => parts.push(format!("a whole number from {min} to {max}")),
            (Some(min), None) => parts.push(format!("a whole number of at least {min}")),
            (None, Some(max)) => parts.push(format!("a whole number of at most {max}")),
            (None, None) => {}
        }
        if self.required {
            parts.push("it must be there".to_owned());
        }
        f.write_str(&parts.join(", and "))
    }
}

fn listed(values: &[String]) -> String {
    let shown: Vec<&str> = values.iter().take(LISTED_MAX).map(String::as_str).collect();
    match values.len().saturating_sub(LISTED_MAX) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The parts of a request that rules read.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// The operation and the canonical path.
    pub call: &'a Call<'a>,
    /// Without `?`; empty where there is none.
    pub query: &'a [u8],
    /// The whole body.
    pub body: Body<'a>,
}

impl Params {
    /// Checks what only all rules together show.
    pub fn judge(&self) -> Result<(), SpecError> {
        let refuse = |problem: String| Err(SpecError { field: "params".to_owned(), problem });
        if self.0.len() > RULES_MAX {
            return refuse(format!("at most {RULES_MAX} rules are allowed"));
        }
        if self.0.iter().map(|rule| rule.names.len()).sum::<usize>() > NAMES_ALL_MAX {
            return refuse(format!("all rules together may have at most {NAMES_ALL_MAX} names"));
        }
        // Texts and numbers in memory always serialize.
        let bytes = serde_json::to_vec(self).map_or(usize::MAX, |json| json.len());
        if bytes > BYTES_MAX {
            return refuse(format!(
                "all rules together may have at most {BYTES_MAX} bytes as JSON, not {bytes}"
            ));
        }
        Ok(())
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Allows the parameters of a request, or says which rule forbids them and what it would allow.
    ///
    /// A false `Ok` lets an agent pay whom it must not; a false refusal costs one call. A rule says nothing about a
    /// parameter that is not there, unless it has `required`.
    pub fn allow(&self, request: &Parameters<'_>) -> Result<(), Deny> {
        let concerned: Vec<&ParamRule> = self.0.iter().filter(|rule| rule.concerns(request.call)).collect();
        if concerned.is_empty() {
            return Ok(());
        }
        let pairs: Vec<(&Name, &Tests)> =
            concerned.iter().flat_map(|rule| rule.names.iter().map(|name| (name, &rule.tests))).collect();
        let readings = reading::read(request, &pairs)?;
        for ((name, tests), reading) in pairs.into_iter().zip(readings) {
            let passes = if tests.absent {
                reading.is_absent
            } else {
                (!tests.required || !reading.is_missing)
                    && reading.values.iter().all(|value| tests.allow(value.as_deref()))
            };
            if !passes {
                let (name, allowed) = (name.to_string(), tests.to_string());
                return Err(Deny::Restriction(Restriction::Parameter { name, allowed }));
            }
        }
        Ok(())
    }
}

impl FromIterator<ParamRule> for Params {
    fn from_iter<I: IntoIterator<Item = ParamRule>>(rules: I) -> Params {
        Params(rules.into_iter().collect())
    }
}

impl ParamRule {
    fn concerns(&self, call: &Call<'_>) -> bool {
        self.endpoints.is_empty() || self.endpoints.iter().any(|rule| rule.concerns(call))
    }
}

#[cfg(test)]
mod tests;
