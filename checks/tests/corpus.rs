//! What the fuzzers are given, on stable and in every test run: each corpus, what is left of it after some damage, and
//! random bytes.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::path::{Path, PathBuf};

use keybrake_checks::{Check, TARGETS};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// Files of one corpus: more are found by fuzzing, and kept elsewhere.
const FILES_MAX: usize = 200;
/// Bytes of one file of a corpus.
const FILE_BYTES_MAX: usize = 20_000;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Each file of a target's corpus with its name.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = root().join("fuzz/corpus").join(target);
    let files = std::fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let file = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(path).unwrap())
    };
    let mut files: Vec<_> = files.map(file).collect();
    files.sort();
    files
}

fn check_of(target: &str) -> Check {
    TARGETS.into_iter().find(|(name, _)| *name == target).map(|(_, check)| check).unwrap()
}

/// Runs a check on every file of its corpus, on each with a few bytes changed, taken out or doubled, and on random
/// bytes.
fn holds(target: &str) {
    let (check, corpus) = (check_of(target), corpus(target));
    assert!((5..=FILES_MAX).contains(&corpus.len()), "{target}: {} files", corpus.len());
    for (name, bytes) in &corpus {
        assert!(bytes.len() <= FILE_BYTES_MAX, "{target}/{name} has {} bytes", bytes.len());
        println!("{target}/{name}");
        check(bytes);
    }
    let seeds: Vec<Vec<u8>> = corpus.into_iter().map(|(_, bytes)| bytes).collect();
    let damaged = (
        prop::sample::select(seeds.clone()),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..6),
    );
    let damaged = damaged.prop_map(|(mut bytes, damage)| {
        for (at, byte, how) in damage {
            let at = at.index(bytes.len() + 1);
            match how {
                0 if at < bytes.len() => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        bytes
    });
    let crossed =
        (prop::sample::select(seeds.clone()), prop::sample::select(seeds), any::<[prop::sample::Index; 2]>());
    let crossed = crossed.prop_map(|(one, other, [end, start])| {
        [&one[..end.index(one.len() + 1)], &other[start.index(other.len() + 1)..]].concat()
    });
    let inputs = prop_oneof![3 => damaged, 1 => crossed, 1 => prop::collection::vec(any::<u8>(), 0..200)];
    let mut runner = TestRunner::new(Config { cases: 4000, failure_persistence: None, ..Config::default() });
    let run = runner.run(&inputs, |bytes| {
        check(&bytes);
        Ok(())
    });
    if let Err(error) = run {
        panic!(
            "{target}: keep these bytes in fuzz/corpus/{target} under a name that says what they show: {error}"
        );
    }
}

macro_rules! corpora {
    ($($test:ident $target:ident)*) => {
        $(#[test]
        fn $test() {
            holds(stringify!($target));
        })*

        #[test]
        fn every_target_has_a_test() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
        }
    };
}

corpora! {
    h1_h2_h3_a1_one_reading_of_a_request_head request_head
    h5_h7_h9_one_reading_of_a_reply_head reply_head
    h4_one_reading_of_a_chunked_body chunked_body
    a1_a2_n1_paths_are_matched_as_a_naive_matcher_does path_match
    m1_m2_a_form_has_one_amount form_amount
    m1_m2_a_json_body_has_one_amount json_amount
    m11_no_policy_widens policy
    control_frames_read_back_as_written control_frame
    q12_no_committed_record_is_lost_in_silence journal
    audit_rows_read_back_as_written audit_record
}

#[test]
fn each_fuzz_target_is_one_call_of_its_check() {
    let manifest = std::fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for (target, _) in TARGETS {
        let source = root().join(format!("fuzz/fuzz_targets/{target}.rs"));
        let source = std::fs::read_to_string(source).unwrap();
        let call = format!("libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::{target}(bytes));\n");
        assert!(source.ends_with(&call), "{target}: {source}");
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
    }
    let targets = std::fs::read_dir(root().join("fuzz/fuzz_targets")).unwrap().count();
    assert_eq!(targets, TARGETS.len());
    for setting in ["overflow-checks = true", "debug-assertions = true"] {
        assert!(manifest.contains(setting), "fuzz/Cargo.toml: {setting}");
    }
}
