//! Every decision and every shared format of keybrake, as pure functions.
//!
//! Nothing here reads a clock, opens a file or a socket, or knows of threads: the same code runs in
//! the dataplane, in the admin process, in the load generator and in simulation. Callers pass in
//! the time and the random bytes.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::arithmetic_side_effects, reason = "a test that overflows has failed"))]

pub mod audit;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod context;
pub mod control;
pub mod deny;
pub mod form;
pub mod handover;
pub mod http1;
pub mod idempotency;
pub mod journal;
pub mod json;
pub mod key;
pub mod leak;
pub mod ledger;
pub mod mark;
pub mod money;
pub mod pacing;
pub mod policy;
pub mod route;
pub mod secret;
pub mod time;
