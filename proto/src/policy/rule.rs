//! One allowed set of operations: `METHOD /path`, with `*` and a final `**`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, de};

use crate::catalog::{Call, Operation};
use crate::http1::Method;

/// The longest rule, in bytes.
const RULE_BYTES_MAX: usize = 256;

/// One allowed set of operations.
///
/// `*` is one segment that stands for a parameter: `GET /v1/customers/*` does not allow
/// `/v1/customers/search`, which the catalog knows as an operation of its own. `*.json` is such a
/// segment with this ending. A final `**` is any rest of at least one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    method: Method,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    Literal(String),
    /// `*`
    Parameter,
    /// `*.json`: the ending, with its dot.
    Ending(String),
    /// `**`
    Rest,
}

impl Rule {
    /// Whether the rule allows `call`, whose path is canonical.
    pub fn allows(&self, call: &Call<'_>) -> bool {
        let exact_only = call.operation.is_some_and(|operation| operation.escalates);
        self.fits(call, exact_only)
    }

    /// Whether a restriction on these operations is one on `call`: as [`Rule::allows`], but that `**` also stands
    /// for operations that hand out credentials, since a restriction must not pass them by.
    pub fn concerns(&self, call: &Call<'_>) -> bool {
        self.fits(call, false)
    }

    fn fits(&self, call: &Call<'_>, exact_only: bool) -> bool {
        if self.method != call.method {
            return false;
        }
        let mut path = call.path.split(|byte| *byte == b'/').skip(1);
        for (index, segment) in self.segments.iter().enumerate() {
            let Some(actual) = path.next() else { return false };
            match segment {
                Segment::Literal(literal) if literal.as_bytes() == actual => {}
                Segment::Parameter if call.is_parameter(index) => {}
                Segment::Ending(ending) if call.is_parameter(index) && ends_with(actual, ending) => {}
                Segment::Rest => return !exact_only,
                Segment::Literal(_) | Segment::Parameter | Segment::Ending(_) => return false,
            }
        }
        path.next().is_none()
    }

    /// Whether `wider` allows every call that this rule allows, of a vendor with these `operations`.
    ///
    /// A false "yes" gives a child more than its parent has; a false "no" refuses a rule that could be written
    /// more narrowly. So where both are possible it is "no".
    pub fn is_within(&self, wider: &Rule, operations: &[Operation]) -> bool {
        self == wider
            || self.method == wider.method
                && self.has_shape_within(wider)
                && operations.iter().all(|operation| self.is_within_for(wider, operation))
    }

    /// By the segments alone, which is all there is to a call that is no known operation.
    fn has_shape_within(&self, wider: &Rule) -> bool {
        for (index, of_wider) in wider.segments.iter().enumerate() {
            match (self.segments.get(index), of_wider) {
                (Some(_), Segment::Rest) => return true,
                (Some(Segment::Literal(_) | Segment::Parameter | Segment::Ending(_)), Segment::Parameter) => {
                }
                (Some(Segment::Ending(one)), Segment::Ending(other)) if one.ends_with(other) => {}
                (Some(Segment::Literal(one)), Segment::Ending(other))
                    if one.len() > other.len() && one.ends_with(other) => {}
                (Some(Segment::Literal(one)), Segment::Literal(other)) if one == other => {}
                (None | Some(_), _) => return false,
            }
        }
        self.segments.len() == wider.segments.len()
    }

    /// For the calls of one operation. The shape fits.
    fn is_within_for(&self, wider: &Rule, operation: &Operation) -> bool {
        if operation.method != self.method || !self.may_allow(operation) {
            return true;
        }
        // `**` never allows what escalates, so a rule that spells it out is not within one with `**`.
        if operation.escalates && !self.has_rest() && wider.has_rest() {
            return false;
        }
        // A `*` does not match a literal of the operation, which a literal of this rule does.
        let pairs = self.segments.iter().zip(&wider.segments).zip(operation.segments());
        pairs.into_iter().all(|((own, of_wider), segment)| {
            let is_opened =
                matches!((own, of_wider), (Segment::Literal(_), Segment::Parameter | Segment::Ending(_)));
            !is_opened || segment.is_parameter()
        })
    }

    /// Whether some path of `operation` fits, were it not for its rights.
    fn may_allow(&self, operation: &Operation) -> bool {
        let mut segments = operation.segments();
        for own in &self.segments {
            let Some(segment) = segments.next() else { return false };
            match own {
                Segment::Literal(literal) if segment.fits(literal) => {}
                Segment::Parameter if segment.is_parameter() => {}
                Segment::Ending(ending)
                    if segment.ending().is_some_and(|of| of.ends_with(ending) || ending.ends_with(of)) => {}
                Segment::Rest => return true,
                Segment::Literal(_) | Segment::Parameter | Segment::Ending(_) => return false,
            }
        }
        segments.next().is_none()
    }

    fn has_rest(&self) -> bool {
        self.segments.last() == Some(&Segment::Rest)
    }
}

/// Why a text is not a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// No blank between method and path, or more than one.
    Shape,
    /// Not one of the five methods, in capitals.
    Method,
    /// Outside the path grammar of rule A1.
    Path,
    /// `**` before the end, or `*` as a part of a segment that is not `*.ending`.
    Wildcard,
    /// Longer than 256 bytes.
    TooLong,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RuleError::Shape => "write a method, one blank and a path, such as `POST /v1/charges`",
            RuleError::Method => "the method must be GET, POST, PUT, PATCH or DELETE, in capitals",
            RuleError::Path => {
                "the path must be the vendor's own, such as /v1/charges: segments of letters, digits and . _ ~ + -, \
                 no query, no trailing slash"
            }
            RuleError::Wildcard => "`*` must be a whole segment, or stand before its ending as in `*.json`, and `**` must be the last one",
            RuleError::TooLong => "must be at most 256 bytes long",
        })
    }
}

impl std::error::Error for RuleError {}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Rule, RuleError> {
        if text.len() > RULE_BYTES_MAX {
            return Err(RuleError::TooLong);
        }
        let (method, path) = text.split_once(' ').ok_or(RuleError::Shape)?;
        let method = Method::parse(method.as_bytes()).ok_or(RuleError::Method)?;
        let path = path.strip_prefix('/').ok_or(RuleError::Path)?;
        let segments: Vec<Segment> = path.split('/').map(segment).collect::<Result<_, _>>()?;
        let rest = segments.iter().position(|segment| *segment == Segment::Rest);
        if rest.is_some_and(|at| at.saturating_add(1) != segments.len()) {
            return Err(RuleError::Wildcard);
        }
        Ok(Rule { method, segments })
    }
}

fn segment(text: &str) -> Result<Segment, RuleError> {
    match text {
        "*" => Ok(Segment::Parameter),
        "**" => Ok(Segment::Rest),
        _ if text.contains('*') => match text.strip_prefix('*') {
            Some(ending) if ending.starts_with('.') && is_literal(ending) => {
                Ok(Segment::Ending(ending.to_owned()))
            }
            _ => Err(RuleError::Wildcard),
        },
        _ if is_literal(text) => Ok(Segment::Literal(text.to_owned())),
        _ => Err(RuleError::Path),
    }
}

/// Whether something stands before `ending`.
fn ends_with(segment: &[u8], ending: &str) -> bool {
    segment.len() > ending.len() && segment.ends_with(ending.as_bytes())
}

fn is_literal(text: &str) -> bool {
    let in_grammar = |byte: u8| byte.is_ascii_alphanumeric() || b"._~+-".contains(&byte);
    text.bytes().all(in_grammar) && text.bytes().any(|byte| byte != b'.')
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.method.as_str())?;
        for segment in &self.segments {
            match segment {
                Segment::Literal(literal) => write!(f, "/{literal}")?,
                Segment::Parameter => f.write_str("/*")?,
                Segment::Ending(ending) => write!(f, "/*{ending}")?,
                Segment::Rest => f.write_str("/**")?,
            }
        }
        Ok(())
    }
}

impl Serialize for Rule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Rule, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format_args!("`{text}`: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::{Catalog, Idempotency, Operation, Price, UnlistedReads};

    fn allows(rule: &str, request: &str) -> bool {
        let (method, path) = request.split_once(' ').unwrap();
        let method = Method::parse(method.as_bytes()).unwrap();
        let rule: Rule = rule.parse().unwrap();
        rule.allows(&Catalog::of("stripe").unwrap().recognize(method, path.as_bytes()))
    }

    #[test]
    fn literals_match_exactly() {
        assert!(allows("POST /v1/charges", "POST /v1/charges"));
        assert!(!allows("POST /v1/charges", "GET /v1/charges"));
        assert!(!allows("POST /v1/charges", "POST /v1/Charges"));
        assert!(!allows("POST /v1/charges", "POST /v1/charges/ch_1"));
        assert!(!allows("POST /v1/charges/ch_1", "POST /v1/charges"));
    }

    #[test]
    fn a2_a_star_is_one_parameter_and_no_literal_operation() {
        assert!(allows("GET /v1/customers/*", "GET /v1/customers/cus_1"));
        assert!(!allows("GET /v1/customers/*", "GET /v1/customers/search"));
        assert!(!allows("GET /v1/customers/*", "GET /v1/customers"));
        assert!(!allows("GET /v1/customers/*", "GET /v1/customers/cus_1/payment_methods"));
        assert!(!allows("GET /v1/*", "GET /v1/charges"));
    }

    #[test]
    fn a2_a_star_before_an_ending_is_one_parameter_with_that_ending() {
        // No operation of the catalog: each segment counts as a parameter.
        let allows = |rule, path: &str| allows(&format!("GET {rule}"), &format!("GET {path}"));
        assert!(allows("/A/*/M/*.json", "/A/AC1/M/MM1.json"));
        assert!(allows("/A/*/M/*", "/A/AC1/M/MM1.json"));
        assert!(!allows("/A/*/M/*.json", "/A/AC1/M/MM1"));
        assert!(!allows("/A/*/M/*.json", "/A/AC1/M/MM1.xml"));
        assert!(!allows("/A/*/M/*.json", "/A/AC1/M/.json"));
        assert!(!allows("/A/*.json", "/A/AC1/M.json"));
        assert!(allows("/v1/charges/*.json", "/v1/charges/ch_1.json"));
    }

    #[test]
    fn a2_a_literal_of_the_catalog_is_no_parameter_whatever_its_ending() {
        static MESSAGES: Operation = Operation {
            method: Method::Get,
            pattern: "/A/{Account}/Messages.json",
            class: "free",
            price: Price::Free,
            idempotency: Idempotency::None,
            escalates: false,
        };
        let call = Call {
            method: Method::Get,
            path: b"/A/AC1/Messages.json",
            operation: Some(&MESSAGES),
            unlisted_reads: UnlistedReads::Free,
        };
        for (rule, expected) in [
            ("GET /A/*/*.json", false),
            ("GET /A/*/*", false),
            ("GET /A/*/Messages.json", true),
            ("GET /A/**", true),
        ] {
            assert_eq!(rule.parse::<Rule>().unwrap().allows(&call), expected, "{rule}");
        }
    }

    #[test]
    fn two_stars_are_the_rest_and_at_least_one_segment() {
        assert!(allows("GET /v1/**", "GET /v1/charges"));
        assert!(allows("GET /v1/**", "GET /v1/customers/search"));
        assert!(!allows("GET /v1/charges/**", "GET /v1/charges"));
    }

    #[test]
    fn an_operation_that_mints_credentials_must_be_named() {
        assert!(!allows("POST /v1/**", "POST /v1/ephemeral_keys"));
        assert!(!allows("POST /v1/*", "POST /v1/ephemeral_keys"));
        assert!(allows("POST /v1/ephemeral_keys", "POST /v1/ephemeral_keys"));
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for (text, error) in [
            ("/v1/charges", RuleError::Shape),
            ("post /v1/charges", RuleError::Method),
            ("HEAD /v1/charges", RuleError::Method),
            ("POST v1/charges", RuleError::Path),
            ("POST /v1/charges/", RuleError::Path),
            ("POST /v1//charges", RuleError::Path),
            ("POST /v1/../charges", RuleError::Path),
            ("POST /v1/charges?x=1", RuleError::Path),
            ("POST  /v1/charges", RuleError::Path),
            ("POST /v1/ch*", RuleError::Wildcard),
            ("POST /v1/*ch", RuleError::Wildcard),
            ("POST /v1/*.", RuleError::Wildcard),
            ("POST /v1/**.json", RuleError::Wildcard),
            ("POST /v1/*.js*n", RuleError::Wildcard),
            ("POST /v1/**/x", RuleError::Wildcard),
        ] {
            assert_eq!(text.parse::<Rule>(), Err(error), "{text}");
        }
    }

    fn is_within(rule: &str, wider: &str) -> bool {
        let [rule, wider] = [rule, wider].map(|text| text.parse::<Rule>().unwrap());
        rule.is_within(&wider, Catalog::of("stripe").unwrap().operations())
    }

    #[test]
    fn m11_a_rule_is_within_one_that_allows_all_it_allows() {
        for (rule, wider) in [
            ("POST /v1/charges", "POST /v1/charges"),
            ("POST /v1/charges", "POST /v1/**"),
            ("GET /v1/charges/ch_1", "GET /v1/charges/*"),
            ("GET /v1/charges/*", "GET /v1/**"),
            ("GET /v1/charges/**", "GET /v1/**"),
            ("GET /v1/charges/*", "GET /v1/charges/**"),
            ("GET /not/in/the/table", "GET /not/*/the/*"),
            ("POST /v1/ephemeral_keys", "POST /v1/ephemeral_keys"),
        ] {
            assert!(is_within(rule, wider), "{rule} in {wider}");
        }
        for (rule, wider) in [
            ("GET /v1/charges", "POST /v1/charges"),
            ("POST /v1/charges", "POST /v1/refunds"),
            ("POST /v1/**", "POST /v1/charges"),
            ("GET /v1/charges/*", "GET /v1/charges/ch_1"),
            ("GET /v1/charges/**", "GET /v1/charges/*"),
            ("GET /v1/charges", "GET /v1/charges/**"),
            ("GET /v1/charges/search", "GET /v1/charges/*"),
            ("GET /v1/charges/*/x", "GET /v1/charges/*"),
            ("POST /v1/ephemeral_keys", "POST /v1/**"),
        ] {
            assert!(!is_within(rule, wider), "{rule} in {wider}");
        }
    }

    /// Rules and paths of few words, so that they meet.
    const PATH: &str = "/v1(/(v1|charges|search|ephemeral_keys|customers|ch_1|\\*)){0,3}(/\\*\\*)?";

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn m11_what_a_rule_allows_every_rule_around_it_allows(
            rules in prop::collection::vec((PATH, any::<bool>()), 2),
            paths in prop::collection::vec("/v1(/(v1|charges|search|ephemeral_keys|customers|ch_1|x)){0,4}", 20),
        ) {
            let stripe = Catalog::of("stripe").unwrap();
            let parse = |(path, is_post): &(String, bool)| -> Rule {
                format!("{} {path}", if *is_post { "POST" } else { "GET" }).parse().unwrap()
            };
            let (rule, wider) = (parse(&rules[0]), parse(&rules[1]));
            prop_assert!(rule.is_within(&rule, stripe.operations()));
            // Operations of the table too, with and without an id where a parameter stands.
            let patterns = stripe.operations().iter().map(|operation| {
                operation.pattern.replace(['{', '}'], "")
            });
            if rule.is_within(&wider, stripe.operations()) {
                for path in paths.into_iter().chain(patterns) {
                    for method in [Method::Get, Method::Post] {
                        let call = stripe.recognize(method, path.as_bytes());
                        prop_assert!(!rule.allows(&call) || wider.allows(&call), "{rule} in {wider}: {path}");
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_rule_reads_back_as_shown(text in "(GET|POST|PUT|PATCH|DELETE)(/[a-z_]{1,5}|/\\*(\\.[a-z]{1,4})?){1,4}(/\\*\\*)?") {
            let text = text.replacen('/', " /", 1);
            let rule: Rule = text.parse().unwrap();
            prop_assert_eq!(rule.to_string(), text);
        }
    }
}
