//! Operations by path, one segment a level.

use crate::http1::Method;

use super::Operation;
use super::pattern::{self, Segment};

/// Finds an operation in time proportional to the path, however many rows there are.
#[derive(Default)]
pub(super) struct Tree {
    /// Sorted by segment once built.
    literals: Vec<(&'static [u8], Tree)>,
    /// Parameters by what follows them in their segment. Longest first once built: the bare one is last.
    parameters: Vec<(&'static [u8], Tree)>,
    /// Rows that end here.
    rows: Vec<(Method, usize)>,
}

impl Tree {
    pub(super) fn new(operations: &'static [Operation]) -> Tree {
        let mut root = Tree::default();
        for (row, operation) in operations.iter().enumerate() {
            root.insert(&mut pattern::segments(operation.pattern), operation.method, row);
        }
        root.sort();
        root
    }

    /// The row of `path`, whose first byte is `/`. Literals are tried first; a branch that leads
    /// nowhere falls back to the parameters, so the depth of the path bounds the work.
    pub(super) fn find(&self, method: Method, path: &[u8]) -> Option<usize> {
        let Some(rest) = path.strip_prefix(b"/") else {
            return self.rows.iter().find(|(of, _)| *of == method).map(|(_, row)| *row);
        };
        let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
        let (segment, rest) = rest.split_at_checked(end)?;
        let literal = self.literals.binary_search_by(|(literal, _)| (*literal).cmp(segment)).ok();
        literal
            .and_then(|at| self.literals.get(at))
            .and_then(|(_, branch)| branch.find(method, rest))
            .or_else(|| self.find_parameter(method, segment, rest))
    }

    fn find_parameter(&self, method: Method, segment: &[u8], rest: &[u8]) -> Option<usize> {
        let fits = |suffix: &[u8]| segment.len() > suffix.len() && segment.ends_with(suffix);
        let mut branches = self.parameters.iter().filter(|(suffix, _)| fits(suffix));
        branches.find_map(|(_, branch)| branch.find(method, rest))
    }

    fn insert(&mut self, segments: &mut dyn Iterator<Item = Segment>, method: Method, row: usize) {
        let (branches, name) = match segments.next() {
            None => return self.rows.push((method, row)),
            Some(Segment::Literal(literal)) => (&mut self.literals, literal.as_bytes()),
            Some(Segment::Parameter { suffix }) => (&mut self.parameters, suffix.as_bytes()),
        };
        let at = branches.iter().position(|(of, _)| *of == name).unwrap_or_else(|| {
            branches.push((name, Tree::default()));
            branches.len().saturating_sub(1)
        });
        if let Some((_, branch)) = branches.get_mut(at) {
            branch.insert(segments, method, row);
        }
    }

    fn sort(&mut self) {
        self.literals.sort_by_key(|(literal, _)| *literal);
        self.parameters.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        for (_, branch) in self.literals.iter_mut().chain(&mut self.parameters) {
            branch.sort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Price, table};
    use super::*;

    const TABLE: &str = "
# source here = this test
GET  /A/{Sid}.json                  free here
GET  /A/{Account}/M.json            free here
GET  /A/{Account}/M/{Sid}.json      free here
GET  /A/{Account}/M/{Sid}           free here
POST /A/{Account}/M/Batch.json      free here
GET  /A/{Account}/M/{Sid}.tar.gz    free here
";

    fn check(request: &str, expected: Option<&str>) {
        let free = |class: &str| (class == "free").then_some(Price::Free);
        let operations = table::operations(TABLE, free, |_, _| super::super::Idempotency::None).unwrap();
        let (method, path) = request.split_once(' ').unwrap();
        let row = Tree::new(operations).find(Method::parse(method.as_bytes()).unwrap(), path.as_bytes());
        assert_eq!(row.map(|row| operations[row].pattern), expected, "{request}");
    }

    #[test]
    fn a_parameter_with_an_ending_matches_that_ending_and_something_before_it() {
        check("GET /A/AC1.json", Some("/A/{Sid}.json"));
        check("GET /A/AC1/M/MM1.json", Some("/A/{Account}/M/{Sid}.json"));
        check("GET /A/AC1.JSON", None);
        check("GET /A/AC1.jso", None);
        check("GET /A/AC1", None);
        check("GET /A/.json", None);
        check("GET /A/AC1.json.xml", None);
    }

    #[test]
    fn the_longest_ending_wins_and_the_bare_parameter_comes_last() {
        check("GET /A/AC1/M/MM1", Some("/A/{Account}/M/{Sid}"));
        check("GET /A/AC1/M/MM1.csv", Some("/A/{Account}/M/{Sid}"));
        check("GET /A/AC1/M/MM1.tar.gz", Some("/A/{Account}/M/{Sid}.tar.gz"));
        check("GET /A/AC1/M/.json", Some("/A/{Account}/M/{Sid}"));
    }

    #[test]
    fn a_branch_that_leads_nowhere_falls_back_to_the_next() {
        check("GET /A/AC1.json/M.json", Some("/A/{Account}/M.json"));
        check("GET /A/AC1/M/Batch.json", Some("/A/{Account}/M/{Sid}.json"));
        check("POST /A/AC1/M/Batch.json", Some("/A/{Account}/M/Batch.json"));
        check("POST /A/AC1/M/MM1.json", None);
    }
}
