//! The vendors' tables: which operations exist, how each one's cost is known, and which headers pass.
//!
//! A vendor is data ([`Catalog`]); its rows stand in `tables/`, each with its source.

pub mod amount;
pub mod book;
#[cfg(test)]
mod complete;
pub mod configured;
pub mod currency;
pub mod explain;
mod object;
pub(crate) mod pattern;
pub mod price;
mod read;
mod resend;
mod stripe;
mod table;
pub mod tariff;
mod tree;
mod twilio;
pub mod wire;

use std::sync::LazyLock;

use crate::config::{self, ConfigError};
use crate::http1::Method;
use amount::AmountRule;
use configured::Cost;
use tariff::Table;
use tree::Tree;
use wire::{Bodies, Slot};

/// How a call's cost is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// It moves no money.
    Free,
    /// It moves no money unless one of these parameters is there.
    FreeWithout(&'static [&'static str]),
    /// It moves an amount that the request states, or an object of the vendor's.
    Amount(&'static AmountRule),
    /// It costs units times a price of the price book.
    Table(Table),
    /// As the configuration says.
    Configured(&'static Cost),
    /// Nothing known bounds the cost: denied under a cap. The text says what is missing.
    Unpriced(&'static str),
}

/// How long the vendor remembers an Idempotency-Key, with the answer it gave (rule Q5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idempotency {
    /// Not at all, or not known: every repeat is a new call.
    None,
    /// For 24 hours at least.
    Day,
}

/// One operation of a vendor.
#[derive(Debug, PartialEq, Eq)]
pub struct Operation {
    /// The method.
    pub method: Method,
    /// The path, with `{name}` or `{name}.json` for each segment that is a parameter.
    pub pattern: &'static str,
    /// The name of its price class, as in the vendor's table.
    pub class: &'static str,
    /// How its cost is known.
    pub price: Price,
    /// Whether a repeat is carried out again.
    pub idempotency: Idempotency,
    /// It hands out credentials or widens rights: only a rule that names it exactly allows it.
    pub escalates: bool,
}

impl Operation {
    /// The segments of its path.
    pub fn segments(&self) -> impl Iterator<Item = PatternSegment<'_>> {
        self.pattern.split('/').skip(1).map(PatternSegment)
    }
}

/// One segment of an operation's pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatternSegment<'a>(&'a str);

impl<'a> PatternSegment<'a> {
    /// Whether it stands for a parameter, with or without an ending.
    pub fn is_parameter(self) -> bool {
        self.0.starts_with('{')
    }

    /// Whether it stands for `literal` too.
    pub fn fits(self, literal: &str) -> bool {
        match self.ending() {
            Some(ending) => literal.len() > ending.len() && literal.ends_with(ending),
            None => literal == self.0,
        }
    }

    /// What every value of the parameter ends in, perhaps nothing; `None` for a literal.
    pub fn ending(self) -> Option<&'a str> {
        self.0.strip_prefix('{').and_then(|text| text.split_once('}')).map(|(_, ending)| ending)
    }
}

/// A vendor's table.
pub struct Catalog {
    /// The name in configs, policies and mounts.
    pub name: &'static str,
    /// Request headers that reach the vendor besides those keybrake writes itself, lower case (rule A4).
    pub request_fields: &'static [&'static str],
    /// Request headers that switch the account a credential acts on, lower case: refused, since dropped
    /// they would move money on another account than the agent meant.
    pub account_fields: &'static [&'static str],
    /// Parameters that change the method, the account or the version: refused in query and body.
    pub refused_parameters: &'static [&'static str],
    /// What bodies are.
    pub bodies: Bodies,
    /// Where agents send their vault key, and the vendor gets its credential.
    pub slot: Slot,
    /// The first segments of paths that lead to hosts of their own, as in `verify` of `verify.twilio.com`.
    pub labels: &'static [&'static str],
    /// What a GET without a row costs.
    pub unlisted_reads: UnlistedReads,
    /// A GET may have the body `{}`, which is dropped (rule H3).
    pub drops_empty_bodies: bool,
    /// The reply header that holds the vendor's own request id, lower case.
    pub request_id_field: &'static str,
    /// The reply header that is `true` on a stored answer to an Idempotency-Key, lower case; empty where the
    /// vendor has none: its word that it carries a request out once is then taken.
    pub replayed_field: &'static str,
    operations: &'static [Operation],
    tree: Tree,
}

/// What a GET without a row costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnlistedReads {
    /// Nothing.
    Free,
    /// Nobody knows.
    Unpriced,
}

/// A request recognized as an operation, or as none that is known.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// The canonical path.
    pub path: &'a [u8],
    /// The row of the catalog.
    pub operation: Option<&'static Operation>,
    /// What a GET without a row costs.
    pub unlisted_reads: UnlistedReads,
}

impl Catalog {
    /// The vendor of this name that keybrake knows by itself.
    pub fn of(name: &str) -> Option<&'static Catalog> {
        static STRIPE: LazyLock<Catalog> = LazyLock::new(|| built_in(stripe::catalog()));
        static TWILIO: LazyLock<Catalog> = LazyLock::new(|| built_in(twilio::catalog()));
        static RESEND: LazyLock<Catalog> = LazyLock::new(|| built_in(resend::catalog()));
        [&STRIPE, &TWILIO, &RESEND].into_iter().find(|catalog| catalog.name == name).map(|catalog| &**catalog)
    }

    /// The catalog of a configured vendor, which [`crate::config::Config::parse`] has checked. That of a vendor that only
    /// the configuration knows is kept until the process ends: call it once for each.
    ///
    /// # Errors
    /// What the configuration must say otherwise.
    pub fn of_vendor(vendor: &config::Vendor) -> Result<&'static Catalog, ConfigError> {
        match Catalog::of(&vendor.name) {
            Some(catalog) => Ok(catalog),
            None => Ok(Box::leak(Box::new(Catalog::configured(vendor)?))),
        }
    }

    fn configured(vendor: &config::Vendor) -> Result<Catalog, ConfigError> {
        let mut rows = Vec::new();
        for operation in &vendor.operations {
            let (method, price) = operation.parse()?;
            rows.push(Operation {
                method,
                pattern: leaked(&operation.path),
                class: "configured",
                price: match price {
                    config::Cost::Free => Price::Free,
                    config::Cost::Unpriced => Price::Unpriced("the configuration gives it no price"),
                    config::Cost::Known(cost) => Price::Configured(Box::leak(Box::new(cost))),
                },
                idempotency: if operation.idempotent { Idempotency::Day } else { Idempotency::None },
                escalates: operation.escalates,
            });
        }
        let operations: &'static [Operation] = rows.leak();
        let own = ["accept", "accept-language", "content-type", "user-agent"].into_iter();
        let fields = own.chain(vendor.request_headers.iter().map(|name| leaked(&name.to_ascii_lowercase())));
        Ok(Catalog {
            name: leaked(&vendor.name),
            request_fields: fields.collect::<Vec<_>>().leak(),
            account_fields: &[],
            refused_parameters: &["_method"],
            bodies: Bodies::FormsOrJson,
            slot: wire::slot_of(vendor),
            labels: &[],
            unlisted_reads: if vendor.free_reads { UnlistedReads::Free } else { UnlistedReads::Unpriced },
            drops_empty_bodies: false,
            request_id_field: "request-id",
            replayed_field: "",
            operations,
            tree: Tree::new(operations),
        })
    }

    /// The names [`Catalog::of`] knows, for messages.
    pub const KNOWN: &'static str = "stripe, twilio, resend";

    /// Every operation, for tests and listings.
    pub fn operations(&self) -> &'static [Operation] {
        self.operations
    }

    /// Finds the operation of a request. A literal segment wins over a parameter.
    pub fn recognize<'a>(&self, method: Method, path: &'a [u8]) -> Call<'a> {
        let operation = self.tree.find(method, path).and_then(|at| self.operations.get(at));
        Call { method, path, operation, unlisted_reads: self.unlisted_reads }
    }
}

impl Call<'_> {
    /// How the cost is known. A read without a row is free; anything else without a row is unpriced.
    pub fn price(&self) -> Price {
        match (self.operation, self.method) {
            (Some(operation), _) => operation.price,
            (None, Method::Get) if self.unlisted_reads == UnlistedReads::Free => Price::Free,
            (None, Method::Get) => Price::Unpriced("the configuration does not list it"),
            (None, Method::Post | Method::Put | Method::Patch | Method::Delete) => {
                Price::Unpriced("its cost is not in keybrake's catalog")
            }
        }
    }

    /// Whether a repeat under one Idempotency-Key is the same call and moves money once.
    pub fn is_remembered(&self) -> bool {
        let is_remembered = |operation: &Operation| operation.idempotency == Idempotency::Day;
        let moves_money = matches!(self.price(), Price::Amount(_) | Price::Table(_) | Price::Configured(_));
        self.operation.is_some_and(is_remembered) && moves_money
    }

    /// Whether the segment at `index` stands for a parameter, so that `*` may match it.
    pub fn is_parameter(&self, index: usize) -> bool {
        match self.operation {
            Some(operation) => pattern::is_parameter(operation.pattern, index),
            None => true,
        }
    }
}

/// A text that lives as long as the process.
fn leaked(text: &str) -> &'static str {
    text.to_owned().leak()
}

/// A table is a part of the binary, and the tests read each of them. To go on without one would leave every write
/// unpriced and every operation that mints credentials open to `**`.
fn built_in(catalog: Result<Catalog, table::TableError>) -> Catalog {
    match catalog {
        Ok(catalog) => catalog,
        Err(error) => panic!("a table of the catalog cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(request: &str, pattern: Option<&str>) {
        let (method, path) = request.split_once(' ').unwrap();
        let method = Method::parse(method.as_bytes()).unwrap();
        let call = Catalog::of("stripe").unwrap().recognize(method, path.as_bytes());
        assert_eq!(call.operation.map(|operation| operation.pattern), pattern, "{request}");
    }

    #[test]
    fn a_literal_wins_over_a_parameter() {
        check("GET /v1/charges/search", Some("/v1/charges/search"));
        check("GET /v1/charges/ch_1", Some("/v1/charges/{charge}"));
        check("POST /v1/charges", Some("/v1/charges"));
    }

    #[test]
    fn what_is_not_in_the_table_is_not_recognized() {
        check("DELETE /v1/charges", None);
        check("POST /v1/Charges", None);
        check("POST /v1/charges/ch_1/refund/again", None);
        check("GET /v1", None);
    }

    #[test]
    fn an_unknown_write_is_never_free() {
        let stripe = Catalog::of("stripe").unwrap();
        for method in [Method::Post, Method::Put, Method::Patch, Method::Delete] {
            let price = stripe.recognize(method, b"/v1/not/in/the/table").price();
            assert!(matches!(price, Price::Unpriced(_)), "{method:?}");
        }
        assert_eq!(stripe.recognize(Method::Get, b"/v1/not/in/the/table").price(), Price::Free);
    }

    #[test]
    fn q5_only_what_the_vendor_remembers_and_what_moves_money_is_remembered() {
        let stripe = Catalog::of("stripe").unwrap();
        let check = |method, path: &str, expected| {
            assert_eq!(stripe.recognize(method, path.as_bytes()).is_remembered(), expected, "{path}");
        };
        check(Method::Post, "/v1/charges", true);
        check(Method::Post, "/v1/refunds", true);
        check(Method::Get, "/v1/charges", false);
        check(Method::Post, "/v1/customers", false);
        check(Method::Post, "/v1/not/in/the/table", false);
    }
}
