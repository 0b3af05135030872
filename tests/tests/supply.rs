//! What keybrake is built from: locked, looked at, without unsafe code but where it is named (rules C1 to C4).
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use keybrake_tests::project::{root, rust_files, text};
use serde_json::Value;

/// Files of the product that have unsafe code, each reviewed: its module says why, each block what it relies on.
const UNSAFE: [&str; 4] = [
    "admin/src/sql/table.rs",
    "dataplane/src/rt.rs",
    "dataplane/src/rt/pages.rs",
    "dataplane/src/run/machine.rs",
];

/// Where a crate forbids unsafe code, so that no file of it can have any.
const FORBIDDING: [&str; 4] =
    ["proto/src/lib.rs", "loadtest/src/main.rs", "checks/src/lib.rs", "benches/src/lib.rs"];

#[test]
fn c2_unsafe_code_is_in_named_modules_only() {
    let is_product = |path: &str| !path.starts_with("tests/") && !path.starts_with("fuzz/");
    let has_unsafe = |path: &str| {
        text(path).lines().map(str::trim).filter(|line| !line.starts_with("//")).any(|line| {
            ["unsafe {", "unsafe fn ", "unsafe impl ", "unsafe extern ", "unsafe trait "]
                .iter()
                .any(|form| line.contains(form))
        })
    };
    let files = rust_files().into_iter().map(|path| path.to_str().unwrap().to_owned());
    let found: Vec<String> = files.filter(|path| is_product(path) && has_unsafe(path)).collect();
    assert_eq!(found, UNSAFE, "a file with unsafe code is named here when somebody has looked at it");
    for path in FORBIDDING {
        assert!(text(path).contains("#![forbid(unsafe_code)]"), "{path}");
    }
    for path in ["admin/src/main.rs", "dataplane/src/main.rs"] {
        assert!(text(path).contains("#![deny(unsafe_code)]"), "{path}");
    }
}

/// The settings of a profile in a manifest, with those that it inherits.
fn profile(manifest: &str, name: &str) -> BTreeMap<String, String> {
    let (_, section) = manifest.split_once(&format!("[profile.{name}]\n")).unwrap();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    let own: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('"').to_owned()))
        .collect();
    let mut all = own.get("inherits").map(|from| profile(manifest, from)).unwrap_or_default();
    all.extend(own);
    all
}

#[test]
fn c2_overflow_is_checked_in_release_builds_and_in_what_is_published() {
    let manifest = text("Cargo.toml");
    for name in ["release", "dist"] {
        let profile = profile(&manifest, name);
        assert_eq!(profile.get("overflow-checks").map(String::as_str), Some("true"), "{name}: {profile:?}");
        assert_eq!(profile.get("panic"), None, "{name}: a panic unwinds, so that it ends one connection");
    }
    // A setting for one package would take its checks away again.
    assert!(!manifest.contains("overflow-checks = false"));
    assert!(std::panic::catch_unwind(|| std::hint::black_box(u64::MAX) + std::hint::black_box(1)).is_err());
}

/// Name and version of each package of a lock file, with its checksum where it comes from the registry.
fn locked(path: &str) -> BTreeMap<(String, String), Option<String>> {
    let field = |entry: &str, name: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(&format!("{name} = \"")))?;
        line.strip_suffix('"').map(str::to_owned)
    };
    let lock = text(path);
    let entries = lock.split("[[package]]").skip(1);
    let package = |entry: &str| {
        let name = (field(entry, "name").unwrap(), field(entry, "version").unwrap());
        (name, field(entry, "checksum"))
    };
    entries.map(package).collect()
}

#[test]
fn c1_every_dependency_is_locked_with_its_checksum_and_from_one_registry() {
    // In two parts: no other file may name a registry.
    let registry = ["registry+https://github.com/rust-lang/", "crates.io-index"].concat();
    for path in ["Cargo.lock", "fuzz/Cargo.lock"] {
        for source in text(path).lines().filter_map(|line| line.strip_prefix("source = ")) {
            assert_eq!(source, format!("\"{registry}\""), "{path}");
        }
        for ((name, version), checksum) in locked(path) {
            let is_ours = name.starts_with("keybrake-");
            assert_ne!(is_ours, checksum.is_some(), "{path}: {name} {version}");
        }
    }
    let deny = text("deny.toml");
    for line in ["unknown-registry = \"deny\"", "unknown-git = \"deny\"", "wildcards = \"deny\""] {
        assert!(deny.contains(line), "deny.toml: {line}");
    }
    assert!(text("scripts/setup.sh").contains("npm ci --ignore-scripts"), "no package's own script is run");
}

/// The crates of the table in docs/dependencies.md with the versions that were looked at.
fn reviewed() -> BTreeMap<String, String> {
    let page = text("docs/dependencies.md");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| {
        let (name, rest) = row.split_once('`').unwrap();
        (name.to_owned(), rest.split('|').nth(1).unwrap().trim().to_owned())
    })
    .collect()
}

#[test]
fn c1_each_crate_on_the_byte_path_was_looked_at_in_the_version_that_is_built() {
    let reviewed = reviewed();
    let locked = locked("Cargo.lock");
    for (name, version) in &reviewed {
        let versions: Vec<&String> =
            locked.keys().filter(|(locked, _)| locked == name).map(|(_, version)| version).collect();
        assert!(versions.contains(&version), "{name} {version} was looked at, and {versions:?} is locked");
    }
    for manifest in ["proto/Cargo.toml", "dataplane/Cargo.toml"] {
        let manifest = text(manifest);
        let (_, dependencies) = manifest.split_once("[dependencies]\n").unwrap();
        let lines = dependencies.lines().take_while(|line| !line.starts_with('['));
        let names = lines.filter_map(|line| line.split(['.', ' ']).next()).filter(|name| !name.is_empty());
        for name in names.filter(|name| !name.starts_with("keybrake-")) {
            assert!(reviewed.contains_key(name), "docs/dependencies.md does not speak of {name}");
        }
    }
}

#[test]
fn c3_q29_ci_checks_for_known_vulnerabilities_and_says_where_it_cannot() {
    assert!(text("scripts/test.sh").contains("\nscripts/audit.sh\n"), "`make test` runs it");
    let output = Command::new("scripts/audit.sh")
        .current_dir(root())
        // Without cargo-deny: nothing is fetched in a test.
        .env("PATH", "/usr/bin:/bin")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.starts_with("not run: cargo deny check ("), "{said}");
}

#[test]
fn c4_the_list_of_parts_has_each_crate_that_is_linked_with_the_checksum_of_the_lock_file() {
    let output = Command::new("python3")
        .args(["scripts/sbom.py", "keybrake-dataplane"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let path = "target/sbom/keybrake-dataplane.cdx.json";
    let list: Value = serde_json::from_str(&text(path)).unwrap();
    assert_eq!((&list["bomFormat"], &list["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    let locked = locked("Cargo.lock");
    let mut names = BTreeSet::new();
    for part in list["components"].as_array().unwrap() {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let name = (text(&part["name"]), text(&part["version"]));
        let checksum = locked.get(&name).unwrap_or_else(|| panic!("{name:?} is not locked"));
        assert_eq!(part["hashes"][0]["content"].as_str(), checksum.as_deref(), "{name:?}");
        names.insert(name.0);
    }
    for name in reviewed().into_keys() {
        assert!(names.contains(&name), "{name} is linked and not listed");
    }
    for name in ["proptest", "loom", "bindgen", "serde_derive", "tokio"] {
        assert!(!names.contains(name), "{name} is no part of the dataplane");
    }
}
