//! What a request says of who sent it, for the audit alone: nothing is decided by it.
//!
//! Where a name comes from several places, the first of these counts: the key's own metadata, which the operator wrote
//! and no agent can change; headers of keybrake's; `traceparent`; the vendor's metadata in body and query. What does not
//! fit is left out, never cut.

use std::borrow::Cow;

use crate::form;
use crate::json;

/// Entries of one request beside the key's own.
const ENTRIES_MAX: usize = 50;

/// Bytes of their names and values together.
const BYTES_MAX: usize = 4096;

const NAME_BYTES_MAX: usize = 64;

const VALUE_BYTES_MAX: usize = 500;

/// Headers with names of their own in the audit, in lower case.
const NAMED: [(&str, &str); 4] = [
    ("keybrake-agent-id", "agent_id"),
    ("keybrake-agent-name", "agent_name"),
    ("keybrake-agent-run-id", "agent_run_id"),
    ("keybrake-crew-run-id", "crew_run_id"),
];

/// Any other entry: `Keybrake-Metadata-Order-Id` is `order_id`.
const PREFIX: &str = "keybrake-metadata-";

/// `version-trace-parent-flags`, in lower-case hex (W3C Trace Context, section 3.2).
const TRACEPARENT_PARTS: [usize; 4] = [2, 32, 16, 2];

/// The entries of one request, first come first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    entries: Vec<(String, String)>,
    bytes: usize,
}

impl Context {
    /// Name and value of each entry, for a row; the key's own names are the caller's to put before.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Reads the header fields of a request.
    pub fn add_fields<'a>(&mut self, fields: impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone) {
        for (name, value) in fields.clone() {
            if let Some(name) = entry_of(name) {
                self.add(&name, std::str::from_utf8(value).ok());
            }
        }
        let trace = fields.filter(|(name, _)| name.eq_ignore_ascii_case(b"traceparent"));
        let values: Vec<&str> = trace.filter_map(|(_, value)| std::str::from_utf8(value).ok()).collect();
        // Of two, neither is the caller's span.
        if let [value] = values.as_slice()
            && let Some(trace_id) = trace_id(value)
        {
            self.add("trace_id", Some(trace_id));
            self.add("traceparent", Some(value));
        }
    }

    /// Reads `metadata[name]=value` of a form or a query.
    pub fn add_form(&mut self, form: &[u8]) {
        for (name, value) in form::metadata(form) {
            self.add(&name, Some(&value));
        }
    }

    /// Reads the members of `metadata` in a JSON object: texts, whole numbers and flags.
    pub fn add_json(&mut self, body: &[u8]) {
        for (name, value) in json::metadata(body) {
            self.add(&name, Some(&value));
        }
    }

    fn add(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        let bytes = self.bytes.saturating_add(name.len()).saturating_add(value.len());
        let fits = (1..=NAME_BYTES_MAX).contains(&name.len())
            && value.len() <= VALUE_BYTES_MAX
            && self.entries.len() < ENTRIES_MAX
            && bytes <= BYTES_MAX;
        let is_new = || self.entries.iter().all(|(known, _)| known != name);
        if fits && is_new() {
            self.bytes = bytes;
            self.entries.push((name.to_owned(), value.to_owned()));
        }
    }
}

/// The entry that a header field is.
fn entry_of(field: &[u8]) -> Option<Cow<'static, str>> {
    if !field.get(.."keybrake-".len()).is_some_and(|start| start.eq_ignore_ascii_case(b"keybrake-")) {
        return None;
    }
    let is = |name: &str| field.eq_ignore_ascii_case(name.as_bytes());
    if let Some((_, entry)) = NAMED.iter().find(|(name, _)| is(name)) {
        return Some(Cow::Borrowed(*entry));
    }
    let (prefix, rest) = field.split_at_checked(PREFIX.len())?;
    let rest = std::str::from_utf8(rest).ok().filter(|_| prefix.eq_ignore_ascii_case(PREFIX.as_bytes()))?;
    Some(Cow::Owned(rest.to_ascii_lowercase().replace('-', "_")))
}

fn trace_id(value: &str) -> Option<&str> {
    let is_hex = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = value.split('-').collect();
    let fits = parts.len() == TRACEPARENT_PARTS.len()
        && parts.iter().zip(TRACEPARENT_PARTS).all(|(part, length)| part.len() == length && is_hex(part));
    let is_set = |part: &&str| part.bytes().any(|byte| byte != b'0');
    let trace = parts.get(1).copied().filter(is_set);
    trace.filter(|_| fits && parts.first() != Some(&"ff") && parts.get(2).is_some_and(is_set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(fields: &[(&str, &str)], form: &str, json: &str) -> String {
        let mut context = Context::default();
        context.add_fields(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        context.add_form(form.as_bytes());
        context.add_json(json.as_bytes());
        context.entries().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    fn check(fields: &[(&str, &str)], form: &str, json: &str, expected: &str) {
        assert_eq!(of(fields, form, json), expected, "{fields:?} {form} {json}");
    }

    #[test]
    fn headers_and_vendor_metadata_become_entries() {
        let fields = [
            ("Keybrake-Agent-Id", "a1"),
            ("KEYBRAKE-AGENT-NAME", "Ann"),
            ("Keybrake-Agent-Run-Id", "r1"),
            ("Keybrake-Crew-Run-Id", "c1"),
            ("Keybrake-Metadata-Order-Id", "o1"),
            ("Keybrake-Other", "no"),
            ("Keybrake-Metadata-", "no"),
        ];
        check(&fields, "", "", "agent_id=a1 agent_name=Ann agent_run_id=r1 crew_run_id=c1 order_id=o1");
        check(&[], "amount=1&metadata[agent_id]=a+1&metadata%5Bx%5D=y", "", "agent_id=a 1 x=y");
        check(
            &[],
            "",
            r#"{"metadata": {"agent_id": "a1", "n": 5, "b": true, "l": [1], "f": 1.5}}"#,
            "agent_id=a1 b=true n=5",
        );
        for json in [
            "[]",
            "",
            "{",
            r#"{"metadata": []}"#,
            r#"{"metadata": "x"}"#,
            r#"{"a": {"metadata": {"b": "c"}}}"#,
        ] {
            check(&[], "", json, "");
        }
    }

    #[test]
    fn a_header_goes_before_the_body_and_the_first_before_the_second() {
        let fields = [("Keybrake-Agent-Id", "header"), ("keybrake-agent-id", "second")];
        check(&fields, "metadata[agent_id]=form", r#"{"metadata": {"agent_id": "json"}}"#, "agent_id=header");
    }

    #[test]
    fn a_traceparent_is_kept_where_it_is_one() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let whole = format!("00-{trace}-00f067aa0ba902b7-01");
        check(&[("traceparent", &whole)], "", "", &format!("trace_id={trace} traceparent={whole}"));
        check(&[("traceparent", &whole), ("Traceparent", &whole)], "", "", "");
        let zero = "0".repeat(32);
        for wrong in [
            whole.to_ascii_uppercase(),
            format!("ff-{trace}-00f067aa0ba902b7-01"),
            format!("00-{zero}-00f067aa0ba902b7-01"),
            format!("00-{trace}-0000000000000000-01"),
            format!("{whole}-x"),
            String::new(),
        ] {
            check(&[("traceparent", &wrong)], "", "", "");
        }
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_rest_stays() {
        let long = "x".repeat(501);
        check(&[("Keybrake-Agent-Id", &long), ("Keybrake-Metadata-A", "b")], "", "", "a=b");
        let form: Vec<String> = (0..60).map(|at| format!("metadata[n{at}]=1")).collect();
        assert_eq!(of(&[], &form.join("&"), "").split(' ').count(), ENTRIES_MAX);
        let form: Vec<String> = (0..20).map(|at| format!("metadata[n{at}]={}", "x".repeat(490))).collect();
        assert_eq!(of(&[], &form.join("&"), "").split(' ').count(), 8);
        check(&[("Keybrake-Agent-Id", "\u{fffd}")], "", "", "agent_id=\u{fffd}");
        let mut context = Context::default();
        context.add_fields([(&b"Keybrake-Agent-Id"[..], &b"\xff"[..])].into_iter());
        assert_eq!(context, Context::default());
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_stay_within_the_bounds(body: Vec<u8>, name: Vec<u8>, value: Vec<u8>) {
            let mut context = Context::default();
            context.add_fields([(&name[..], &value[..]), (b"traceparent", &value)].into_iter());
            context.add_form(&body);
            context.add_json(&body);
            proptest::prop_assert!(context.bytes <= BYTES_MAX);
        }
    }
}
