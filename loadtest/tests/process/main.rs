//! `keybrake-loadtest` as its users see it: processes, sockets, files and exit codes.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod judge;
mod outcomes;
mod stand_in;
mod stripe;
