//! Operations by path, one segment a level.

use crate::http1::Method;

use super::{Operation, is_parameter};

/// Finds an operation in time proportional to the path, however many rows there are.
#[derive(Default)]
pub(super) struct Tree {
    /// Sorted by segment once built.
    literals: Vec<(&'static [u8], Tree)>,
    parameter: Option<Box<Tree>>,
    /// Rows that end here.
    rows: Vec<(Method, usize)>,
}

impl Tree {
    pub(super) fn new(operations: &'static [Operation]) -> Tree {
        let mut root = Tree::default();
        for (row, operation) in operations.iter().enumerate() {
            root.insert(&mut operation.pattern.split('/').skip(1), operation.method, row);
        }
        root.sort();
        root
    }

    /// The row of `path`, whose first byte is `/`. Literals are tried first; a branch that leads
    /// nowhere falls back to the parameter, so the depth of the path bounds the work.
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
            .or_else(|| self.parameter.as_ref()?.find(method, rest))
    }

    fn insert(&mut self, segments: &mut dyn Iterator<Item = &'static str>, method: Method, row: usize) {
        let Some(segment) = segments.next() else {
            self.rows.push((method, row));
            return;
        };
        if is_parameter(segment) {
            return self.parameter.get_or_insert_default().insert(segments, method, row);
        }
        let segment = segment.as_bytes();
        let at = self.literals.iter().position(|(literal, _)| *literal == segment).unwrap_or_else(|| {
            self.literals.push((segment, Tree::default()));
            self.literals.len().saturating_sub(1)
        });
        if let Some((_, branch)) = self.literals.get_mut(at) {
            branch.insert(segments, method, row);
        }
    }

    fn sort(&mut self) {
        self.literals.sort_by_key(|(literal, _)| *literal);
        for (_, branch) in &mut self.literals {
            branch.sort();
        }
        if let Some(branch) = &mut self.parameter {
            branch.sort();
        }
    }
}
