//! What a policy restricts beside endpoints, caps and time; and that a key below another one restricts as much.

use serde::{Deserialize, Serialize};

use super::{Params, Rate, SpecError};
use crate::money::{Micros, usd};

/// Accounts that a policy may name.
const ACCOUNTS_MAX: usize = 50;

/// `acct_` and 16 characters are what Stripe issues; contexts join them by `/`.
const ACCOUNT_BYTES_MAX: usize = 100;

/// Restrictions that are absent restrict nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restrictions {
    /// What parameters may hold.
    #[serde(skip_serializing_if = "Params::is_empty", default)]
    pub params: Params,
    /// The most one call may cost; what a call without a known price is held at.
    #[serde(with = "usd::option", skip_serializing_if = "Option::is_none", default)]
    pub max_usd_per_call: Option<Micros>,
    /// Requests per second.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rate_limit_rps: Option<Rate>,
    /// The accounts that `Stripe-Account` and `Stripe-Context` may name; none of them where it is empty (rule A4).
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub stripe_accounts: Vec<String>,
}

impl Restrictions {
    /// Checks what single fields do not show.
    pub fn judge(&self) -> Result<(), SpecError> {
        self.params.judge()?;
        let refuse = |field: &str, problem: String| Err(SpecError { field: field.to_owned(), problem });
        if self.stripe_accounts.len() > ACCOUNTS_MAX {
            return refuse("stripe_accounts", format!("at most {ACCOUNTS_MAX} accounts are allowed"));
        }
        let is_account = |account: &String| {
            let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/');
            (1..=ACCOUNT_BYTES_MAX).contains(&account.len()) && account.bytes().all(is_word)
        };
        if !self.stripe_accounts.iter().all(is_account) {
            let problem = "write each account as Stripe does, such as \"acct_1032D82eZvKYlo2C\"";
            return refuse("stripe_accounts", problem.to_owned());
        }
        Ok(())
    }

    /// Whether a request may name this account.
    pub fn allows_account(&self, account: &[u8]) -> bool {
        self.stripe_accounts.iter().any(|one| one.as_bytes() == account)
    }

    /// These restrictions for a key below one with `parent`: what is missing is inherited.
    ///
    /// An empty list of accounts cannot be told from a missing one, so it is inherited too.
    #[must_use]
    pub fn below(self, parent: &Restrictions) -> Restrictions {
        let Restrictions { params, max_usd_per_call, rate_limit_rps, stripe_accounts } = self;
        Restrictions {
            params: if params.is_empty() { parent.params.clone() } else { params },
            max_usd_per_call: max_usd_per_call.or(parent.max_usd_per_call),
            rate_limit_rps: rate_limit_rps.or(parent.rate_limit_rps),
            stripe_accounts: if stripe_accounts.is_empty() {
                parent.stripe_accounts.clone()
            } else {
                stripe_accounts
            },
        }
    }

    /// Whether these are as tight as `parent` in each field (rule M11), after [`Restrictions::below`].
    ///
    /// # Errors
    /// The first field that is wider, and by what.
    pub fn is_within(&self, parent: &Restrictions) -> Result<(), SpecError> {
        let refuse = |field: &str, problem: String| Err(SpecError { field: field.to_owned(), problem });
        self.params.is_within(&parent.params)?;
        if let Some(most) = parent.max_usd_per_call
            && self.max_usd_per_call.is_none_or(|own| own > most)
        {
            return refuse("max_usd_per_call", format!("must be at most the parent key's, {most}"));
        }
        if let Some(most) = parent.rate_limit_rps
            && self.rate_limit_rps.is_none_or(|own| own > most)
        {
            return refuse("rate_limit_rps", format!("must be at most the parent key's, {most}"));
        }
        match self.stripe_accounts.iter().find(|account| !parent.stripe_accounts.contains(account)) {
            Some(_) if parent.stripe_accounts.is_empty() => {
                refuse("stripe_accounts", "the parent key may not act on any account".to_owned())
            }
            Some(_) => {
                let accounts = parent.stripe_accounts.join(", ");
                refuse("stripe_accounts", format!("the parent key may act on these only: {accounts}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn restrictions(json: &str) -> Restrictions {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{json}: {error}"))
    }

    const PARENT: &str = r#"{"params": [{"name": "currency", "in": ["usd"]}], "max_usd_per_call": 10.5,
                             "rate_limit_rps": 2.5, "stripe_accounts": ["acct_1", "acct_2"]}"#;

    #[test]
    fn m11_what_is_missing_is_inherited_and_what_is_wider_is_named() {
        let parent = restrictions(PARENT);
        let check = |child: &str, wider: Option<&str>| {
            let child = restrictions(child).below(&parent);
            let field = child.is_within(&parent).err().map(|error| error.field);
            assert_eq!(field.as_deref(), wider, "{child:?}");
        };
        check("{}", None);
        check(PARENT, None);
        check(r#"{"max_usd_per_call": 10, "rate_limit_rps": 1, "stripe_accounts": ["acct_2"]}"#, None);
        check(r#"{"max_usd_per_call": 10.500001}"#, Some("max_usd_per_call"));
        check(r#"{"rate_limit_rps": 3}"#, Some("rate_limit_rps"));
        check(r#"{"stripe_accounts": ["acct_1", "acct_3"]}"#, Some("stripe_accounts"));
        check(r#"{"params": [{"name": "currency", "in": ["usd", "eur"]}]}"#, Some("params"));
        assert!(
            parent.is_within(&Restrictions::default()).is_err(),
            "accounts need a parent that names them"
        );
        // What is missing is wider, where it was not inherited.
        for (parent, field) in [
            (PARENT, "params"),
            (r#"{"max_usd_per_call": 5}"#, "max_usd_per_call"),
            (r#"{"rate_limit_rps": 5}"#, "rate_limit_rps"),
        ] {
            assert_eq!(restrictions("{}").is_within(&restrictions(parent)).unwrap_err().field, field);
        }
    }

    #[test]
    fn accounts_are_compared_whole_and_in_their_case() {
        let parent = restrictions(PARENT);
        assert!(parent.judge().is_ok() && parent.allows_account(b"acct_1"));
        for account in ["acct_3", "ACCT_1", "acct_1 ", "acct_", "", "acct_1/acct_2"] {
            assert!(!parent.allows_account(account.as_bytes()), "{account}");
        }
        for account in ["", "acct 1", "acct_1\\r\\n", "acct-1"] {
            let one = restrictions(&format!(r#"{{"stripe_accounts": ["{account}"]}}"#));
            assert_eq!(one.judge().unwrap_err().field, "stripe_accounts", "{account}");
        }
    }

    proptest! {
        /// A tree of keys, each within the one above, is within the root at every depth.
        #[test]
        fn m11_within_holds_over_any_depth(
            calls in proptest::collection::vec(proptest::option::of(1u64..50), 1..6),
            rates in proptest::collection::vec(proptest::option::of(1u32..50), 1..6),
        ) {
            let mut above = restrictions(PARENT);
            let root = above.clone();
            for (call, rate) in calls.into_iter().zip(rates) {
                let child = Restrictions {
                    max_usd_per_call: call.and_then(|usd| Micros::new(usd * 1_000_000)),
                    rate_limit_rps: rate.and_then(Rate::per_second),
                    ..Restrictions::default()
                }
                .below(&above);
                if child.is_within(&above).is_ok() {
                    prop_assert!(child.max_usd_per_call <= above.max_usd_per_call);
                    prop_assert!(child.is_within(&root).is_ok());
                    above = child;
                }
            }
        }
    }
}
