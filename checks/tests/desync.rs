//! Requests that others may delimit differently, by the judgement of the crate `http_desync_guardian`: what it calls
//! ambiguous or severe is refused (rules H1, H2, H3, A1).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::path::PathBuf;
use std::process::Command;

use http_desync_guardian::RequestSafetyTier;
use http_desync_guardian::request_analyzer::HttpRequestData;
use keybrake_proto::http1::{HeadLimits, Parsed, RequestHead};
use proptest::prelude::*;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

/// Whether this is a request that we would read further. A GET with a body is refused by its reader.
fn is_accepted(head: &[u8]) -> bool {
    let mut parser = RequestHead::new();
    matches!(parser.parse(head, &HeadLimits::REQUEST), Ok(Parsed::Complete { .. }))
        && !parser.is_get_with_body()
}

fn is_dangerous(head: &[u8]) -> bool {
    let tier = HttpRequestData::analyze_raw_request(head).tier;
    matches!(tier, RequestSafetyTier::Ambiguous | RequestSafetyTier::Severe)
}

/// Whether the head is dangerous, and refused then.
fn check(name: &str, head: &[u8]) -> bool {
    let is_dangerous = is_dangerous(head);
    if is_dangerous {
        let reason = HttpRequestData::analyze_raw_request(head).reason;
        assert!(!is_accepted(head), "{name}: accepted, but {reason:?}: {}", head.escape_ascii());
    }
    is_dangerous
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Where cargo has put the crate's sources, its test cases among them.
fn guardian() -> PathBuf {
    let version = String::from_utf8(cargo(&["-vV"])).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // Of other platforms' packages nothing was fetched.
    let platform = ["metadata", "--format-version", "1", "--offline", "--locked", "--filter-platform", host];
    let metadata: Value = serde_json::from_slice(&cargo(&platform)).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "http_desync_guardian").unwrap();
    PathBuf::from(package["manifest_path"].as_str().unwrap()).parent().unwrap().to_owned()
}

fn text(yaml: &Yaml) -> String {
    match yaml {
        Yaml::String(text) | Yaml::Real(text) => text.clone(),
        Yaml::Integer(number) => number.to_string(),
        Yaml::Boolean(flag) => flag.to_string(),
        Yaml::Array(_) | Yaml::Hash(_) | Yaml::Alias(_) | Yaml::Null | Yaml::BadValue => String::new(),
    }
}

/// A case as bytes, with a Host where it has none: without one every request is refused.
fn head_of(case: &Yaml) -> Vec<u8> {
    let latin = |text: String| text.chars().map(|c| u8::try_from(c).unwrap_or(b'?')).collect::<Vec<u8>>();
    let line = ["method", "uri", "version"].map(|part| latin(text(&case[part]))).join(&b' ');
    let fields = case["headers"].as_vec().cloned().unwrap_or_default();
    let has_host = fields.iter().any(|field| text(&field["name"]).eq_ignore_ascii_case("host"));
    let field = |field: &Yaml| [latin(text(&field["name"])), latin(text(&field["value"]))].join(&b": "[..]);
    let host = (!has_host).then(|| b"Host: a".to_vec());
    let lines = [line].into_iter().chain(host).chain(fields.iter().map(field));
    [lines.collect::<Vec<_>>().join(&b"\r\n"[..]), b"\r\n\r\n".to_vec()].concat()
}

#[test]
fn h1_h3_what_the_published_desync_cases_call_dangerous_is_refused() {
    let (mut cases, mut dangerous) = (0, 0);
    for entry in std::fs::read_dir(guardian().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let yaml = YamlLoader::load_from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        for case in yaml[0].as_vec().unwrap() {
            cases += 1;
            dangerous += usize::from(check(&text(&case["name"]), &head_of(case)));
        }
    }
    assert!(cases > 150 && dangerous > 50, "{cases} cases, {dangerous} dangerous");
    println!("{cases} published cases, {dangerous} ambiguous or severe: all refused");
}

/// Request lines that servers have disagreed on, behind one that is right.
const LINES: [&str; 15] = [
    "POST /v1/charges HTTP/1.1",
    "GET /v1/charges HTTP/1.1",
    "DELETE / HTTP/1.1",
    "post / HTTP/1.1",
    "POST / HTTP/1.0",
    "POST / HTTP/2.0",
    "POST  / HTTP/1.1",
    "POST /a b HTTP/1.1",
    "POST / http/1.1",
    "POST /",
    "POST /%zz HTTP/1.1",
    "POST /\x01 HTTP/1.1",
    "POST /a\tb HTTP/1.1",
    "HEAD / HTTP/1.1",
    "POST http://a/ HTTP/1.1",
];

/// Names that are, or look like, those that frame.
const NAMES: &str = "Content-Length|content-length|Content_Length|Content-Length | Content-Length|Content-Length\t|\
                     Transfer-Encoding|transfer-encoding|Transfer_Encoding|Transfer-Encoding |\x01Transfer-Encoding|\
                     Transfer-Encoding\x0b|Transfer- Encoding|TransferEncoding|Transfer--Encoding|Xransfer-Encoding|\
                     X|Accept||Connection|Content-Length\0|Content-Len\u{131}gth|Host";

const VALUES: &str = "5| 5|+5|-5|05|0|5,5|5, 6|5 5|0x5|5.0||a|18446744073709551616|5\x0b|5\t|chunked|Chunked|\
                      chunked |\tchunked|chunked, identity|identity|gzip, chunked|xchunked|chunked;a=b|\"chunked\"|\
                      chu\0nked|close|content-length|\x7f|a\x01b|b\u{fc}ro";

fn one_of(list: &'static str) -> impl Strategy<Value = &'static str> + Clone {
    prop::sample::select(list.split('|').collect::<Vec<_>>())
}

/// Heads out of parts that servers have disagreed on.
fn heads() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![6 => Just(LINES[0]), 1 => prop::sample::select(LINES.to_vec())];
    let colon = prop_oneof![6 => Just(": "), 1 => one_of(":| : |:\t|\t:||:\r\n |: \r\n\t")];
    let end = prop_oneof![12 => Just("\r\n"), 1 => one_of("\n|\r|\r\r\n|\n\r\n|\0\r\n")];
    let fields = prop::collection::vec((one_of(NAMES), colon, one_of(VALUES), end.clone()), 0..4);
    (line, end.clone(), fields, end).prop_map(|(line, end, fields, last)| {
        let mut head = format!("{line}{end}Host: a\r\n");
        for (name, colon, value, end) in fields {
            head.push_str(&format!("{name}{colon}{value}{end}"));
        }
        head.push_str(last);
        // As Latin-1, so that a letter over 127 is one byte.
        head.chars().map(|c| u8::try_from(c).unwrap_or(0xc4)).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn h1_h3_what_a_desync_guard_calls_dangerous_is_refused(head in heads()) {
        check("generated", &head);
    }
}
