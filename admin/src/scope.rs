//! What an admin token may do (rule P1).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One thing that a token may do. Names are public API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scope {
    /// Read the audit, keys, vendors, doubts, the clock and the health of every part.
    ReadAudit,
    /// Issue and change keys, and read them.
    Issue,
    /// Revoke keys, and nothing else: for incidents.
    Revoke,
    /// Set and replace credentials, rotate the master key, and list vendors.
    SecretsWrite,
    /// Resolve doubts and confirm the clock, and read both and the health.
    Operate,
    /// Everything, tokens included: whoever makes tokens can make one for everything.
    Admin,
}

impl Scope {
    /// All of them.
    pub(crate) const ALL: [Scope; 6] =
        [Scope::ReadAudit, Scope::Issue, Scope::Revoke, Scope::SecretsWrite, Scope::Operate, Scope::Admin];

    /// As written on the command line and in JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Scope::ReadAudit => "read-audit",
            Scope::Issue => "issue",
            Scope::Revoke => "revoke",
            Scope::SecretsWrite => "secrets-write",
            Scope::Operate => "operate",
            Scope::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is no scope.
#[derive(Debug)]
pub(crate) struct NotAScope;

impl fmt::Display for NotAScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no such scope; scopes are {}", listed(&Scope::ALL))
    }
}

impl std::error::Error for NotAScope {}

impl FromStr for Scope {
    type Err = NotAScope;

    fn from_str(text: &str) -> Result<Scope, NotAScope> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or(NotAScope)
    }
}

/// Scopes in one text.
pub(crate) fn listed(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(", ")
}

/// Whether a token with `held` may do what any of `needed` allows.
pub(crate) fn allows(held: &[Scope], needed: &[Scope]) -> bool {
    held.iter().any(|scope| *scope == Scope::Admin || needed.contains(scope))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p1_a_scope_allows_itself_alone_and_admin_allows_all() {
        for held in Scope::ALL {
            assert_eq!(held.as_str().parse::<Scope>().unwrap(), held);
            assert_eq!(serde_json::to_value(held).unwrap(), held.as_str());
            for needed in Scope::ALL {
                assert_eq!(allows(&[held], &[needed]), held == needed || held == Scope::Admin);
            }
        }
        assert!(!allows(&[], &Scope::ALL));
        assert!("everything".parse::<Scope>().unwrap_err().to_string().contains("read-audit, issue"));
    }
}
