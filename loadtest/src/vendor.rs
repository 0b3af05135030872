//! Stand-in vendors: they take calls as the real one does, can fail on demand, and keep a ledger of their own.
//!
//! They are the judge of a test, so they share no money rule, form reader or ledger with the proxy; only HTTP
//! framing comes from `proto`, and what it refuses is in the ledger too.

pub(crate) mod command;
mod kill;
mod ledger;
pub(crate) mod redact;
mod server;
mod stripe;

pub(crate) use stripe::Form;
