//! The project's own rules, where a compiler does not see them.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use keybrake_tests::project::{files, rust_files, text};

const LINES_MAX: usize = 500;

/// The dataplane's modules; each may use those of later lines only. Modules of one line do not use each other.
const LAYERS: [&[&str]; 21] = [
    &["main"],
    &["run", "check"],
    &["hand_over", "take_over"],
    &["state", "control", "worker"],
    &["listener"],
    &["connection"],
    &["exchange", "simulation"],
    &["relay"],
    &["upstream"],
    &["shard"],
    &["heir"],
    &["hold", "recovery", "open_vendor", "settings"],
    &["journal"],
    &["storage", "pool"],
    &["downstream", "registry"],
    &["transport", "in_flight", "account", "idempotency", "objects"],
    &["tls", "pacing"],
    &["resolve", "deadline", "metrics", "lease", "tokens", "requests", "limits"],
    &["rt", "mailbox", "alarm", "fault"],
    &["seal", "clock"],
    &["marks", "progress", "descriptors", "source", "environment"],
];

/// Lines of `files` that hold one of `words`, with their place.
fn found(files: &[PathBuf], words: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    for path in files {
        for (number, line) in text(path).lines().enumerate() {
            if words.iter().any(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    found
}

/// Joins the parts of a word that must not stand here either.
fn word(parts: &[&str]) -> String {
    parts.concat()
}

#[test]
fn no_source_file_has_500_lines_and_none_is_called_mod_rs() {
    for path in rust_files() {
        let lines = text(&path).lines().count();
        assert!(lines < LINES_MAX, "{} has {lines} lines; divide it", path.display());
        assert!(!path.ends_with("mod.rs"), "{}: name it after the module", path.display());
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    // What tests a module is described by that module.
    let is_test = |path: &PathBuf| {
        path.iter().any(|part| part == "tests.rs" || part == "tests") && !path.starts_with("tests")
    };
    for path in rust_files().into_iter().filter(|path| !is_test(path)) {
        assert!(text(&path).starts_with("//! "), "{} does not begin with `//!`", path.display());
    }
}

#[test]
fn nothing_is_left_for_later() {
    let words = [["TO", "DO"], ["FIX", "ME"], ["X", "XX"]].map(|parts| word(&parts));
    assert_eq!(found(&rust_files(), &words), Vec::<String>::new());
}

#[test]
fn no_test_is_skipped_and_none_sleeps() {
    let words = [word(&["#[ig", "nore"]), word(&["thread::", "sleep"])];
    let waits = Path::new("tests/src/wait.rs");
    let of_tests = |path: &PathBuf| path != waits && path.starts_with("tests");
    let tests: Vec<PathBuf> = rust_files().into_iter().filter(of_tests).collect();
    assert_eq!(found(&tests, &words), Vec::<String>::new());
    let everywhere: Vec<PathBuf> = rust_files().into_iter().filter(|path| path != waits).collect();
    assert_eq!(found(&everywhere, &words[..1]), Vec::<String>::new());
    assert_eq!(found(&[waits.to_owned()], &words).len(), 1, "one helper waits for all");
}

#[test]
fn no_file_names_a_place_of_the_machine_it_was_written_on() {
    let words = [
        word(&["/wo", "rk/"]),
        word(&["/ro", "ot/"]),
        word(&["/home", "/"]),
        // Registries are the tools' own business: a lock file names the public ones.
        word(&["index.", "crates.io"]),
        word(&["static.", "crates.io"]),
        word(&["pypi.org", "/simple"]),
        word(&["files.", "pythonhosted.org"]),
        word(&["artifact", "ory"]),
        word(&["extra-", "index-url"]),
    ];
    assert_eq!(found(&files(), &words), Vec::<String>::new());
}

/// What each module of the dataplane uses, by its `use` lines and paths.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let source = Path::new("dataplane/src");
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in rust_files() {
        let Ok(inner) = path.strip_prefix(source) else { continue };
        // `control/keys.rs` is a part of the module `control`.
        let first = inner.iter().next().unwrap();
        let module = Path::new(first).file_stem().unwrap().to_str().unwrap().to_owned();
        let used = uses.entry(module.clone()).or_default();
        for line in text(&path).lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            for behind in line.split("crate::").skip(1) {
                let name: String =
                    behind.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                let names: Vec<String> = match behind.strip_prefix('{') {
                    Some(group) => group
                        .split(',')
                        .map(|name| name.split("::").next().unwrap().trim_matches([' ', '}', ';']).to_owned())
                        .collect(),
                    None => vec![name],
                };
                used.extend(names.into_iter().filter(|name| !name.is_empty() && *name != module));
            }
            if module == "main" {
                used.extend(
                    line.strip_prefix("mod ").and_then(|name| name.strip_suffix(';')).map(str::to_owned),
                );
            }
        }
    }
    uses
}

#[test]
fn modules_of_the_dataplane_use_only_those_below_them() {
    let layer = |name: &str| LAYERS.iter().position(|names| names.contains(&name));
    let mut wrong = Vec::new();
    for (module, used) in uses() {
        let Some(above) = layer(&module) else {
            wrong.push(format!("{module} has no place in LAYERS"));
            continue;
        };
        for name in used {
            if layer(&name).is_none_or(|below| below <= above) {
                wrong.push(format!("{module} uses {name}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn crates_meet_only_in_proto() {
    for name in ["dataplane", "admin", "loadtest", "proto", "checks"] {
        let manifest = text(Path::new(name).join("Cargo.toml"));
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap();
        for other in ["dataplane", "admin", "loadtest", "checks", "tests", "benches"] {
            assert!(!dependencies.contains(&format!("keybrake-{other}")), "{name} depends on {other}");
        }
        assert!(name != "proto" || !dependencies.contains("keybrake-"), "proto depends on nothing of ours");
    }
}

#[test]
fn proto_reads_no_clock_and_does_no_io() {
    let proto: Vec<PathBuf> = rust_files().into_iter().filter(|path| path.starts_with("proto/src")).collect();
    let words =
        ["SystemTime::now", "Instant::now", "std::fs", "std::thread", "TcpStream", "UnixStream", "std::env"];
    assert_eq!(found(&proto, &words.map(str::to_owned)), Vec::<String>::new());
}

/// The names in backquotes of the form `file::test`.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let quoted = text.split('`').skip(1).step_by(2);
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    quoted
        .filter_map(|word| word.split_once("::"))
        .filter(|(file, test)| is_name(file) && is_name(test))
        .collect()
}

#[test]
fn every_test_that_proves_a_control_is_there() {
    let page = text(Path::new("docs/controls.md"));
    let named = named_tests(&page);
    assert!(named.len() > 20, "{named:#?}");
    for (file, test) in named {
        let source = text(Path::new("tests/tests").join(format!("{file}.rs")));
        // Some tests are made by a macro from a list.
        let is_there =
            [format!("fn {test}()"), format!("    {test} ")].iter().any(|form| source.contains(form));
        assert!(is_there, "docs/controls.md names {file}::{test}");
    }
}
