//! What must hold of keybrake's parsers for any bytes: one function for each, which panics where it does not.
//!
//! The fuzz targets in `fuzz/` are one call of these each, and `tests/corpus.rs` calls them with the corpora and with
//! random bytes. Each compares with a second reading that was written without looking at the first: slower, without
//! limits, and as simple as possible. It knows `proto` from the outside only.
#![forbid(unsafe_code)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a check reports by panicking"
)]

mod amounts;
mod bodies;
mod heads;
mod paths;
mod policies;
mod records;

pub use amounts::{form_amount, json_amount};
pub use bodies::chunked_body;
pub use heads::{reply_head, request_head};
pub use paths::path_match;
pub use policies::policy;
pub use records::{audit_record, control_frame, journal};

/// A check of any bytes.
pub type Check = fn(&[u8]);

/// Every check, under the name of its fuzz target and of its directory in `fuzz/corpus`.
pub const TARGETS: [(&str, Check); 10] = [
    ("request_head", request_head),
    ("reply_head", reply_head),
    ("chunked_body", chunked_body),
    ("path_match", path_match),
    ("form_amount", form_amount),
    ("json_amount", json_amount),
    ("policy", policy),
    ("control_frame", control_frame),
    ("journal", journal),
    ("audit_record", audit_record),
];
