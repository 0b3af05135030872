//! Finds every value under some dotted paths of a JSON body, in one reading: how a rule about parameters sees it.
//!
//! A list on the way means each of its elements, so a rule on `to` also reads the mails of a batch. A name that is
//! read stands there once in its object, in one spelling (rules A5, M2).

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{JsonError, judge_depth};
use crate::form;

/// Members that rules look at; each is compared with each name, and a worker must not take long for that.
const MEMBERS_MAX: usize = 10_000;

/// What stands under one path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found<'a> {
    /// The values, those of a list one by one. A string is its text, a whole number its digits, `true` and `false`
    /// their words; `None` is anything else, which has no one text.
    pub values: Vec<Option<Cow<'a, str>>>,
    /// Somewhere there is none: no such member, an empty list, or no object where the path goes on.
    pub is_missing: bool,
    /// Somewhere there is one, if only an empty list.
    pub is_there: bool,
}

/// Reads what stands under each of `paths`, in their order. A path is the names of members, outermost first.
///
/// # Errors
/// [`JsonError`]; the body may be an object or a list of objects, and the whole of it is judged.
pub fn find<'a>(body: &'a [u8], paths: &[&[String]]) -> Result<Vec<Found<'a>>, JsonError> {
    let text = std::str::from_utf8(body).map_err(|_| JsonError::Syntax)?;
    judge_depth(body)?;
    if !matches!(body.trim_ascii_start().first(), Some(b'{' | b'[')) {
        return Err(JsonError::NotObject);
    }
    let mut state = State { found: vec![Found::default(); paths.len()], fault: None, members: 0 };
    let wanted = paths.iter().enumerate().map(|(index, rest)| Wanted { index, rest }).collect();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let node = Node { wanted, state: &mut state };
    let read = node.deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match (read, state.fault) {
        (Ok(()), None) => Ok(state.found),
        (_, Some(fault)) => Err(fault),
        (Err(_), None) => Err(JsonError::Syntax),
    }
}

struct State<'a> {
    found: Vec<Found<'a>>,
    fault: Option<JsonError>,
    members: usize,
}

impl<'a> State<'a> {
    fn refuse<T, E: Error>(&mut self, fault: JsonError) -> Result<T, E> {
        self.fault = Some(fault);
        Err(E::custom("refused"))
    }

    fn miss(&mut self, index: usize) {
        if let Some(found) = self.found.get_mut(index) {
            found.is_missing = true;
        }
    }

    fn add(&mut self, index: usize, value: Option<Cow<'a, str>>) {
        if let Some(found) = self.found.get_mut(index) {
            found.values.push(value);
            found.is_there = true;
        }
    }

    fn see(&mut self, index: usize) {
        if let Some(found) = self.found.get_mut(index) {
            found.is_there = true;
        }
    }
}

/// The rest of one path, below a value.
#[derive(Clone, Copy)]
struct Wanted<'p> {
    index: usize,
    rest: &'p [String],
}

/// Reads one value for all the paths that lead to it or through it.
struct Node<'a, 'p, 's> {
    wanted: Vec<Wanted<'p>>,
    state: &'s mut State<'a>,
}

impl<'a> Node<'a, '_, '_> {
    /// The value is no object: it ends each path that leads to it, and breaks each that goes on.
    fn scalar(self, value: &Option<Cow<'a, str>>) {
        for Wanted { index, rest } in self.wanted {
            if rest.is_empty() {
                self.state.add(index, value.clone());
            } else {
                self.state.miss(index);
            }
        }
    }
}

impl<'a> DeserializeSeed<'a> for Node<'a, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for Node<'a, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.scalar(&Some(Cow::Borrowed(if value { "true" } else { "false" })));
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.scalar(&Some(Cow::Owned(value.to_string())));
        Ok(())
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.scalar(&None);
        Ok(())
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.scalar(&None);
        Ok(())
    }

    fn visit_borrowed_str<E: Error>(self, value: &'a str) -> Result<(), E> {
        self.scalar(&Some(Cow::Borrowed(value)));
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.scalar(&Some(Cow::Owned(value.to_owned())));
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.scalar(&None);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<(), A::Error> {
        let Node { wanted, state } = self;
        let mut is_empty = true;
        while seq.next_element_seed(Node { wanted: wanted.clone(), state: &mut *state })?.is_some() {
            is_empty = false;
        }
        if is_empty {
            wanted.iter().for_each(|wanted| state.miss(wanted.index));
            wanted.iter().filter(|wanted| wanted.rest.is_empty()).for_each(|wanted| state.see(wanted.index));
        }
        Ok(())
    }

    /// An object, or a number with point or exponent under `arbitrary_precision`.
    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        let Node { wanted, state } = self;
        let mut seen: Vec<&str> = Vec::new();
        while let Some(key) = map.next_key::<Cow<'a, str>>()? {
            state.members = state.members.saturating_add(usize::from(!wanted.is_empty()));
            if state.members > MEMBERS_MAX {
                return state.refuse(JsonError::TooMany);
            }
            let name = wanted.iter().find_map(|wanted| match wanted.rest.first() {
                Some(name) if *name == key => Some(name.as_str()),
                _ => None,
            });
            let Some(name) = name else {
                let mut names = wanted.iter().filter_map(|wanted| wanted.rest.first());
                if names.any(|name| form::mentions(key.as_bytes(), name)) {
                    return state.refuse(JsonError::Disguised);
                }
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen.contains(&name) {
                return state.refuse(JsonError::Repeated);
            }
            seen.push(name);
            let below =
                |wanted: &Wanted<'_>| wanted.rest.split_first().is_some_and(|(first, _)| first == name);
            let deeper = wanted
                .iter()
                .copied()
                .filter(|wanted| below(wanted))
                .map(|Wanted { index, rest }| Wanted { index, rest: rest.get(1..).unwrap_or_default() });
            map.next_value_seed(Node { wanted: deeper.collect(), state: &mut *state })?;
        }
        for Wanted { index, rest } in wanted {
            match rest.first() {
                None => state.add(index, None),
                Some(name) if !seen.contains(&name.as_str()) => state.miss(index),
                Some(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks what a path finds: values between blanks, `-` for one without a text, `?` where one is missing.
    fn check(body: &str, path: &str, expected: &str) {
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        let shown = match find(body.as_bytes(), &[&path]) {
            Err(error) => format!("{error:?}"),
            Ok(found) => {
                let values = found[0].values.iter().map(|value| value.as_deref().unwrap_or("-").to_owned());
                let missing = found[0].is_missing.then(|| "?".to_owned());
                values.chain(missing).collect::<Vec<_>>().join(" ")
            }
        };
        assert_eq!(shown, expected, "{path:?} in {body}");
    }

    #[test]
    fn values_are_found_at_the_top_and_below() {
        check(r#"{"a": "x", "b": 1}"#, "a", "x");
        check(r#"{"a": 12}"#, "a", "12");
        check(r#"{"a": true}"#, "a", "true");
        check(r#"{"a": {"b": {"c": "x"}}}"#, "a.b.c", "x");
        check(r#"{"\u0061": "\u0078"}"#, "a", "x");
        check(r#"{"b": {"a": "x"}}"#, "a", "?");
        check(r#"{"a": "x"}"#, "a.b", "?");
        check(r#"{"a": {"b": 1}}"#, "a", "-");
        for other in ["null", "1.5", "-1", "1e3", "123456789012345678901234567890"] {
            check(&format!(r#"{{"a": {other}}}"#), "a", "-");
        }
    }

    #[test]
    fn a_list_means_each_of_its_elements() {
        check(r#"{"a": ["x", "y"]}"#, "a", "x y");
        check(r#"{"a": ["x", ["y", null]]}"#, "a", "x y -");
        check(r#"{"a": []}"#, "a", "?");
        check(r#"{"a": [{"b": "x"}, {"b": "y"}, {}]}"#, "a.b", "x y ?");
        check(r#"[{"a": "x"}, {"a": ["y", "z"]}]"#, "a", "x y z");
        check("[]", "a", "?");
        check(r#"["a"]"#, "a", "?");
        let path = ["a".to_owned()];
        let is_there = |body: &str| find(body.as_bytes(), &[&path]).unwrap()[0].is_there;
        assert!(is_there(r#"{"a": []}"#) && is_there(r#"{"a": null}"#) && !is_there("{}") && !is_there("[]"));
    }

    #[test]
    fn a5_m2_a_name_that_is_read_has_one_place_and_one_spelling() {
        check(r#"{"a": 1, "a": 2}"#, "a", "Repeated");
        check(r#"{"a": {"b": 1}, "a": {}}"#, "a.b", "Repeated");
        check(r#"{"a": {"b": 1, "b": 1}}"#, "a.b", "Repeated");
        check(r#"[{"a": 1}, {"a": 2}]"#, "a", "1 2");
        for key in ["A", "a[]", "a[0]", " a", "a ", "%61", "a\\u0000"] {
            check(&format!(r#"{{"{key}": 1}}"#), "a", "Disguised");
            check(&format!(r#"{{"a": {{"{key}": 1}}}}"#), "a.a", "Disguised");
        }
        check(r#"{"A": {"b": 1}}"#, "a.b", "Disguised");
        check(r#"{"x": 1, "x": 2, "X": 3, "a": 1}"#, "a", "1");
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for body in ["", "x", "{", r#"{"a": 1} x"#, "{\"a\": \"\u{1}\"}", r#"{"a": 01}"#] {
            let path = ["a".to_owned()];
            assert!(find(body.as_bytes(), &[&path]).is_err(), "{body}");
        }
        check("\"a\"", "a", "NotObject");
        let members: Vec<String> = (0..=MEMBERS_MAX).map(|at| format!("\"x{at}\": 1")).collect();
        check(&format!("{{{}}}", members.join(",")), "a", "TooMany");
        let deep = format!(r#"{{"b": {}{}}}"#, "[".repeat(64), "]".repeat(64));
        check(&deep, "a", "TooDeep");
    }

    #[test]
    fn several_paths_are_found_in_one_reading() {
        let paths: Vec<Vec<String>> =
            ["a", "a.b", "c"].map(|path| path.split('.').map(str::to_owned).collect()).to_vec();
        let paths: Vec<&[String]> = paths.iter().map(Vec::as_slice).collect();
        let found = find(br#"{"a": {"b": "x"}, "c": ["y"]}"#, &paths).unwrap();
        let of = |value: Option<&'static str>| Found {
            values: vec![value.map(Cow::Borrowed)],
            is_missing: false,
            is_there: true,
        };
        assert_eq!(found, [of(None), of(Some("x")), of(Some("y"))]);
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body: Vec<u8>) {
            let path = ["a".to_owned()];
            let _found = find(&body, &[&path]);
        }
    }
}
