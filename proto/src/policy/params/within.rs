//! Whether the rules of a key below another one are as tight (rule M11).

use super::{Name, ParamRule, Params, Tests};
use crate::policy::SpecError;

impl Params {
    /// Whether every request that these rules allow is allowed by `parent` too: each test of each of its rules must be
    /// implied by one rule here, for the same name and at least the same endpoints.
    ///
    /// It may refuse rules that only together are as tight; it never accepts wider ones.
    ///
    /// # Errors
    /// The first rule of `parent` that is not kept, under the field `params`.
    pub fn is_within(&self, parent: &Params) -> Result<(), SpecError> {
        for rule in &parent.0 {
            for name in &rule.names {
                for test in rule.tests.each() {
                    if !self.0.iter().any(|own| own.covers(rule, name) && own.tests.imply(&test)) {
                        let problem = format!(
                            "wider than the parent key's rule on {name} ({test}); repeat that rule or a tighter one"
                        );
                        return Err(SpecError { field: "params".to_owned(), problem });
                    }
                }
            }
        }
        Ok(())
    }
}

impl ParamRule {
    /// Whether it reads `name` in each call that `other` concerns.
    fn covers(&self, other: &ParamRule, name: &Name) -> bool {
        let is_wider = |own: &[_]| own.is_empty() || other.endpoints.iter().all(|rule| own.contains(rule));
        // A rule for all calls is kept by another one for all calls only.
        let covers_all = self.endpoints.is_empty() || !other.endpoints.is_empty();
        self.names.contains(name) && covers_all && is_wider(&self.endpoints)
    }
}

impl Tests {
    /// Its tests one by one.
    fn each(&self) -> Vec<Tests> {
        let mut each = Vec::new();
        let mut add = |is_there: bool, test: Tests| {
            if is_there {
                each.push(test);
            }
        };
        add(self.any_of.is_some(), Tests { any_of: self.any_of.clone(), ..Tests::default() });
        add(self.prefix.is_some(), Tests { prefix: self.prefix.clone(), ..Tests::default() });
        add(self.domain.is_some(), Tests { domain: self.domain.clone(), ..Tests::default() });
        add(self.min.is_some(), Tests { min: self.min, ..Tests::default() });
        add(self.max.is_some(), Tests { max: self.max, ..Tests::default() });
        add(self.required, Tests { required: true, ..Tests::default() });
        add(self.absent, Tests { absent: true, ..Tests::default() });
        each
    }

    /// Whether what passes these tests passes `test`, which is a single one.
    fn imply(&self, test: &Tests) -> bool {
        if test.absent || test.required {
            return (self.absent || !test.absent) && (self.required || !test.required);
        }
        // What must be absent has no value that could fail; what must be one of a few passes if all of them do.
        let is_listed =
            || self.any_of.as_ref().is_some_and(|values| values.iter().all(|one| test.allow(Some(one))));
        self.absent || is_listed() || self.implies_alike(test)
    }

    /// Whether the test of the same kind here is as tight.
    fn implies_alike(&self, test: &Tests) -> bool {
        let within =
            |own: &Option<Vec<String>>, other: &Option<Vec<String>>, is_in: fn(&str, &str) -> bool| {
                own.as_ref().zip(other.as_ref()).is_some_and(|(own, other)| {
                    own.iter().all(|one| other.iter().any(|of_parent| is_in(one, of_parent)))
                })
            };
        within(&self.prefix, &test.prefix, |own, other| own.starts_with(other))
            || within(&self.domain, &test.domain, |own, other| own == other)
            || self.max.zip(test.max).is_some_and(|(own, most)| own <= most)
            || self.min.zip(test.min).is_some_and(|(own, least)| own >= least)
    }
}
