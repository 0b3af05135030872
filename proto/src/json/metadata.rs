//! The members of `metadata` in a JSON object, for the audit only: lenient where the readers are strict.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::judge_depth;

/// Members that are kept, as Stripe allows.
const PAIRS_MAX: usize = 50;

/// Texts, whole numbers and flags under `metadata`, at most fifty; what is nested is skipped, and nothing is found in
/// a body that is no JSON object.
pub fn metadata(body: &[u8]) -> Vec<(String, String)> {
    let is_object = body.trim_ascii_start().first() == Some(&b'{') && judge_depth(body).is_ok();
    let Some(text) = std::str::from_utf8(body).ok().filter(|_| is_object) else { return Vec::new() };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let read = deserializer.deserialize_map(Outer);
    let Ok(Value::Object(members)) = read.and_then(|found| deserializer.end().map(|()| found)) else {
        return Vec::new();
    };
    let scalar = |(name, value): (String, Value)| match value {
        Value::String(text) => Some((name, text)),
        Value::Bool(flag) => Some((name, flag.to_string())),
        Value::Number(number) => number.as_u64().map(|number| (name, number.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    members.into_iter().filter_map(scalar).take(PAIRS_MAX).collect()
}

/// Finds `metadata` at the top; the last where there are several.
struct Outer;

impl<'a> Visitor<'a> for Outer {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut found = Value::Null;
        while let Some(name) = map.next_key::<String>()? {
            if name == "metadata" {
                found = map.next_value()?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}
