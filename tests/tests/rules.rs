//! `docs/rules.md` says of each rule which tests show it: that must be true.
#![allow(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: a panic is how it reports"
)]

use std::collections::BTreeSet;

use keybrake_tests::project::{root, text};

/// Sections whose rules need a test that cites them.
const SECTIONS: &str = "AHMSEPGRC";

/// Rules of these sections that are in force and that no test cites yet. Take a rule out when its test is there.
const UNCITED: [&str; 1] = ["R3"];

/// One line of a table.
#[derive(Debug)]
struct Rule {
    id: String,
    status: String,
    /// Files of tests that cite it.
    citing: Vec<String>,
    /// Files of tests that show it.
    showing: Vec<String>,
}

/// The words in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rules() -> Vec<Rule> {
    let page = text("docs/rules.md");
    let is_id = |id: &str| {
        id.starts_with(|c: char| c.is_ascii_uppercase()) && id.contains(|c: char| c.is_ascii_digit())
    };
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let rule = |row: &str| {
        let columns: Vec<&str> = row.split(" |").map(str::trim).collect();
        let (id, tests) = (*columns.first()?, *columns.get(3)?);
        let (citing, showing) = tests.split_once('(').unwrap_or((tests, ""));
        is_id(id).then(|| Rule {
            id: id.to_owned(),
            status: columns[2].to_owned(),
            citing: quoted(citing),
            showing: quoted(showing),
        })
    };
    rows.filter_map(rule).collect()
}

impl Rule {
    /// Whether it must be cited: it is in force, or in a part.
    fn is_in_force(&self) -> bool {
        self.status.starts_with("in force") || self.status.starts_with("partly")
    }

    /// Whether a file names the rule: as a word, or at the beginning of a name, as in `h1_h3_…`.
    fn is_cited_in(&self, source: &str) -> bool {
        let is_id = |part: &&str| {
            let mut chars = part.chars();
            chars.next().is_some_and(|c| c.is_ascii_lowercase())
                && chars.next().is_some_and(|c| c.is_ascii_digit())
        };
        let begins_with_it =
            |word: &str| word.split('_').take_while(is_id).any(|part| part == self.id.to_ascii_lowercase());
        let mut words = source.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| word == self.id || (word.contains('_') && begins_with_it(word)))
    }
}

#[test]
fn the_table_is_read_whole() {
    let rules = rules();
    let ids: BTreeSet<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids.len(), rules.len(), "a rule stands there twice");
    for id in ["I3b", "N6", "A6", "H9", "M14", "S8", "E3", "P6", "G8", "R4", "C4", "Q30"] {
        assert!(ids.contains(id), "{id} is missing from {ids:?}");
    }
    let known = ["in force", "partly: ", "not yet", "withdrawn: "];
    for rule in &rules {
        assert!(known.iter().any(|status| rule.status.starts_with(status)), "{}: {}", rule.id, rule.status);
    }
}

#[test]
fn each_file_that_the_table_names_is_there_and_cites_the_rule_where_it_is_said_to() {
    let mut wrong = Vec::new();
    for rule in rules() {
        for path in rule.citing.iter().chain(&rule.showing) {
            if !root().join(path).is_file() {
                wrong.push(format!("{}: {path} is not there", rule.id));
            }
        }
        for path in rule.citing.iter().filter(|path| root().join(path).is_file()) {
            if !rule.is_cited_in(&text(path)) {
                wrong.push(format!("{}: {path} does not cite it", rule.id));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn each_rule_in_force_has_a_test_that_names_it() {
    let is_asked = |rule: &&Rule| SECTIONS.contains(&rule.id[..1]) && rule.is_in_force();
    let rules = rules();
    let uncited: Vec<&str> = rules
        .iter()
        .filter(is_asked)
        .filter(|rule| rule.citing.is_empty())
        .map(|rule| rule.id.as_str())
        .collect();
    let excused: Vec<&str> = uncited.iter().copied().filter(|id| UNCITED.contains(id)).collect();
    assert_eq!(uncited, excused, "give each a test that names it, and its file in docs/rules.md");
    let done: Vec<&str> = UNCITED.into_iter().filter(|id| !uncited.contains(id)).collect();
    assert_eq!(done, Vec::<&str>::new(), "these have one: take them out of UNCITED");
}
