//! A rule on one line, for the command line: `currency in usd,eur`.

use std::fmt;
use std::str::FromStr;

use super::{OneOrMore, ParamRule, Value, Written};

/// What to write.
const SHAPE: &str = "write NAME and tests, such as `currency in usd,eur`, `amount max 5000 required`, `To prefix +1`, \
                     `to,cc,bcc domain example.com` or `customer required on POST /v1/charges`, or the rule as JSON";

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotARule(String);

impl fmt::Display for NotARule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotARule {}

impl FromStr for ParamRule {
    type Err = NotARule;

    /// `NAME[,NAME] TEST… [on METHOD /path]`, where a test is `in`, `equals`, `prefix` or `domain` with values
    /// between commas, `min` or `max` with a number, `required` or `absent`. What begins with `{` is JSON.
    fn from_str(text: &str) -> Result<ParamRule, NotARule> {
        let text = text.trim();
        if text.starts_with('{') {
            return serde_json::from_str(text).map_err(|error| NotARule(error.to_string()));
        }
        let mut words = text.split_whitespace();
        let name = list(words.next().ok_or_else(shape)?);
        let mut written = Written { name: OneOrMore::of(name), ..Written::default() };
        while let Some(test) = words.next() {
            let mut value = || words.next().ok_or_else(shape);
            match test {
                "in" => written.any_of = Some(list(value()?).into_iter().map(Value::Text).collect()),
                "equals" => written.equals = Some(Value::Text(value()?.to_owned())),
                "prefix" => written.prefix = Some(OneOrMore::of(list(value()?))),
                "domain" => written.domain = Some(OneOrMore::of(list(value()?))),
                "min" => written.min = Some(value()?.parse().map_err(|_| shape())?),
                "max" => written.max = Some(value()?.parse().map_err(|_| shape())?),
                "required" => written.required = true,
                "absent" => written.absent = true,
                "on" => {
                    let rule = format!("{} {}", value()?, value()?);
                    written
                        .endpoints
                        .push(rule.parse().map_err(|error| NotARule(format!("`{rule}`: {error}")))?);
                }
                _ => return Err(shape()),
            }
        }
        ParamRule::try_from(written).map_err(NotARule)
    }
}

fn shape() -> NotARule {
    NotARule(SHAPE.to_owned())
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let rule = text.parse::<ParamRule>().map_err(|error| error.to_string());
        match (rule.map(|rule| serde_json::to_string(&rule).unwrap()), expected) {
            (Ok(rule), Ok(expected)) => assert_eq!(rule, expected, "{text}"),
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
            (rule, expected) => panic!("{text}: {rule:?} instead of {expected:?}"),
        }
    }

    #[test]
    fn a_line_is_the_rule_that_it_says() {
        check("currency in usd,eur", Ok(r#"{"name":"currency","in":["usd","eur"]}"#));
        check("currency equals usd", Ok(r#"{"name":"currency","in":["usd"]}"#));
        check(
            "amount min 50 max 5000 required",
            Ok(r#"{"name":"amount","min":50,"max":5000,"required":true}"#),
        );
        check("To prefix +1", Ok(r#"{"name":"To","prefix":"+1"}"#));
        check("to,cc,bcc domain Example.com", Ok(r#"{"name":["to","cc","bcc"],"domain":"example.com"}"#));
        check(
            "transfer_data[destination] absent on POST /v1/charges",
            Ok(r#"{"name":"transfer_data.destination","endpoints":["POST /v1/charges"],"absent":true}"#),
        );
        check(r#"{"name": "x", "equals": 5}"#, Ok(r#"{"name":"x","in":["5"]}"#));
    }

    #[test]
    fn any_other_line_says_what_to_write() {
        for text in ["", "currency", "currency is usd", "amount max", "amount max -1", "x in usd on POST"] {
            check(text, Err(if text == "currency" { "says nothing" } else { "write NAME and tests" }));
        }
        check("x required on charges POST", Err("the method must be"));
        check("a..b required", Err("is not a parameter's name"));
        check(r#"{"name": "x", "is": 5}"#, Err("unknown field"));
    }
}
