//! Asks the judge, a program of its own: `keybrake-loadtest judge` reads what the vendor, the agents and the audit
//! wrote down, and says what does not hold.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::report::Report;
use crate::process::binary;

/// The judge's exit status where it found violations.
const FOUND: i32 = 1;

/// What the judge says.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    accepted: u64,
    refused: u64,
    unknown: u64,
    violations: Vec<String>,
}

/// Lets it read the records of a scene, and apply all rules but `unjudged`.
///
/// # Panics
/// When it cannot read them.
pub(crate) fn ask(dir: &Path, unjudged: &[&str]) -> Findings {
    let mut command = Command::new(binary("keybrake-loadtest"));
    command.args(["judge", "--json"]);
    for (flag, name) in [
        ("--vendor-ledger", "vendor.jsonl"),
        ("--agents", "agents.jsonl"),
        ("--audit", "audit.ndjson"),
        ("--keys", "keys.jsonl"),
        ("--kills", "kills.jsonl"),
        ("--vendor-kills", "vendor-kills.jsonl"),
        ("--books", "books.jsonl"),
    ] {
        let path = dir.join(name);
        if path.exists() {
            command.arg(flag).arg(path);
        }
    }
    for rule in unjudged {
        command.args(["--skip", rule]);
    }
    let output = command.output().unwrap();
    std::fs::write(dir.join("judgement.jsonl"), &output.stdout).unwrap();
    let code = output.status.code();
    let text = String::from_utf8_lossy(&output.stdout);
    let findings = read(&text);
    assert!(
        code == Some(0) || (code == Some(FOUND) && !findings.violations.is_empty()),
        "the judge ended with {:?}: {}",
        code,
        String::from_utf8_lossy(&output.stderr)
    );
    findings
}

/// One JSON object a line: violations, and the whole in numbers.
fn read(text: &str) -> Findings {
    let mut findings = Findings::default();
    for line in text.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        if object["violation"].is_string() {
            findings.violations.push(line.to_owned());
            continue;
        }
        let number = |name: &str| object[name].as_u64().unwrap_or_else(|| panic!("no {name}: {line}"));
        (findings.accepted, findings.refused) = (number("accepted"), number("refused"));
        findings.unknown = number("unknown");
    }
    findings
}

impl Findings {
    pub(crate) fn add_to(self, report: &mut Report) {
        report.accepted += self.accepted;
        report.refused += self.refused;
        report.unknown += self.unknown;
        report.violations.extend(self.violations);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn violations_and_numbers_are_told_apart() {
        let text = "{\"violation\":\"I1\",\"why\":\"too much\"}\n\
                    {\"cycles\":1,\"calls\":5,\"accepted\":2,\"refused\":3,\"unknown\":0,\"violations\":1}\n";
        let findings = read(text);
        assert_eq!((findings.accepted, findings.refused, findings.unknown), (2, 3, 0));
        assert_eq!(findings.violations, ["{\"violation\":\"I1\",\"why\":\"too much\"}"]);
    }
}
