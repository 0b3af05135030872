//! The paths of the tables: segments that stand for themselves, and parameters.

use std::fmt::Write as _;

/// One segment of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Stands for itself.
    Literal(&'static str),
    /// `{name}`, or `{name}.json`: anything that is not empty, before this ending.
    Parameter {
        /// Empty where the parameter is the whole segment.
        suffix: &'static str,
    },
}

/// The segments of a pattern that [`is_valid`].
pub(super) fn segments(pattern: &'static str) -> impl Iterator<Item = Segment> {
    pattern.split('/').skip(1).map(segment)
}

/// Whether the segment at `index` is a parameter, with or without a suffix.
pub(super) fn is_parameter(pattern: &'static str, index: usize) -> bool {
    matches!(segments(pattern).nth(index), Some(Segment::Parameter { .. }))
}

fn segment(text: &'static str) -> Segment {
    match text.strip_prefix('{').and_then(|text| text.split_once('}')) {
        Some((_, suffix)) => Segment::Parameter { suffix },
        None => Segment::Literal(text),
    }
}

/// Whether `pattern` is `/` and segments of the characters that paths have (rule A1), where a parameter may stand for
/// the beginning of a segment.
pub(crate) fn is_valid(pattern: &str) -> bool {
    pattern.strip_prefix('/').is_some_and(|pattern| pattern.split('/').all(is_valid_segment))
}

fn is_valid_segment(text: &str) -> bool {
    let is_literal = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~+-".contains(&byte))
            && text.bytes().any(|byte| byte != b'.')
    };
    let Some(text) = text.strip_prefix('{') else { return is_literal(text) };
    let Some((name, suffix)) = text.split_once('}') else { return false };
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    is_name && (suffix.is_empty() || (suffix.starts_with('.') && is_literal(suffix)))
}

/// The pattern without its parameters' names: two rows of one shape and method are the same operation.
pub(super) fn shape(pattern: &'static str) -> String {
    segments(pattern).fold(String::new(), |mut shape, segment| {
        let written = match segment {
            Segment::Literal(literal) => write!(shape, "/{literal}"),
            Segment::Parameter { suffix } => write!(shape, "/{{}}{suffix}"),
        };
        written.map(|()| shape).unwrap_or_default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_literals_and_parameters_that_may_have_an_ending() {
        for pattern in
            ["/v1/charges", "/v1/charges/{charge}", "/Accounts/{Sid}.json", "/A/{A_1}/b-c/Local.json"]
        {
            assert!(is_valid(pattern), "{pattern}");
        }
        for pattern in [
            "",
            "/",
            "v1/charges",
            "/v1//charges",
            "/v1/charges/",
            "/v1/{}",
            "/v1/{a",
            "/v1/{a b}",
            "/v1/x{a}",
            "/v1/{a}x",
            "/v1/{a}{b}",
            "/v1/{a}.",
            "/v1/..",
            "/v1/*",
            "/v1/a?b",
        ] {
            assert!(!is_valid(pattern), "{pattern}");
        }
    }

    #[test]
    fn the_shape_of_a_pattern_has_no_names() {
        assert_eq!(shape("/v1/charges/{charge}/refunds/{id}"), "/v1/charges/{}/refunds/{}");
        assert_eq!(shape("/Accounts/{Sid}.json"), "/Accounts/{}.json");
    }

    #[test]
    fn a_parameter_with_an_ending_is_a_parameter() {
        let pattern = "/Accounts/{AccountSid}/Messages/{Sid}.json";
        let parameters: Vec<bool> = (0..5).map(|index| is_parameter(pattern, index)).collect();
        assert_eq!(parameters, [false, true, false, true, false]);
    }
}
