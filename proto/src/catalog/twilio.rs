//! Twilio: what each class of its table costs, and what passes to it.

use super::table::{self, TableError};
use super::tariff::Table;
use super::tree::Tree;
use super::wire::{Bodies, Slot};
use super::{Catalog, Idempotency, Operation, Price, UnlistedReads};
use crate::http1::Method;

/// What a class costs, as docs/catalog.md says.
pub(super) fn price(class: &str) -> Option<Price> {
    Some(match class {
        "free" => Price::Free,
        "message" => Price::Table(Table::Message),
        "call" => Price::Table(Table::Call),
        "number" => Price::Table(Table::Number),
        "lookup" => Price::Table(Table::Lookup),
        "verification" => Price::Table(Table::Verification),
        "unpriced" => Price::Unpriced("what it costs is not in the request"),
        _ => return None,
    })
}

/// Twilio knows no Idempotency-Key: every repeat is a new call.
fn idempotency(_method: Method, _pattern: &str) -> Idempotency {
    Idempotency::None
}

/// Every operation of api v2010, verify, messaging and lookups.
pub(super) fn operations() -> Result<&'static [Operation], TableError> {
    table::operations(include_str!("tables/twilio.txt"), price, idempotency)
}

pub(super) fn catalog() -> Result<Catalog, TableError> {
    let operations = operations()?;
    Ok(Catalog {
        name: "twilio",
        request_fields: REQUEST_FIELDS,
        account_fields: &[],
        refused_parameters: &["_method"],
        bodies: Bodies::Forms,
        slot: Slot::Twilio,
        labels: LABELS,
        // A look-up is a paid read, and a version of it without a row would be one too.
        unlisted_reads: UnlistedReads::Unpriced,
        drops_empty_bodies: false,
        request_id_field: "twilio-request-id",
        replayed_field: "",
        operations,
        tree: Tree::new(operations),
    })
}

/// The hosts beside `api.twilio.com` whose operations the table has: `verify.twilio.com` and so on.
const LABELS: &[&str] = &["lookups", "messaging", "verify"];

const REQUEST_FIELDS: &[&str] =
    &["accept", "accept-charset", "accept-language", "content-type", "user-agent", "x-twilio-client"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_below_the_version_or_a_label() {
        for operation in operations().unwrap() {
            let first = operation.pattern.split('/').nth(1).unwrap();
            assert!(first == "2010-04-01" || LABELS.contains(&first), "{}", operation.pattern);
        }
    }
}
