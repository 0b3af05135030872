//! The harness of the black-box tests: keybrake's processes, vendors in front of them and behind them,
//! and what is needed to watch the wire.
//!
//! It starts the binaries of this build as an operator would and talks to them as agents and operators
//! do; of keybrake's own code it uses the control frames only. Everything listens on 127.0.0.1, every
//! wait has a deadline, and everything started is stopped when it goes out of scope.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "test code: a panic is how it reports"
)]

mod certificates;
mod chain;
mod control;
mod fake_time;
mod http;
mod keybrake;
mod leaks;
mod port;
mod process;
pub mod project;
mod recorder;
mod relay;
mod scan;
mod sdk;
mod stand_in;
pub mod torture;
mod vendor;
mod wait;

pub use certificates::{Certificate, Issuer, TlsFiles};
pub use chain::Chain;
pub use control::{Control, key_id, read_reply};
pub use fake_time::FakeTime;
pub use http::{Client, Reply, call, form_post, get, request};
pub use keybrake::{ADMIN_TOKEN, Issued, Keybrake, SECRET, Setup, paused_us};
pub use leaks::{Kind, register};
pub use port::Port;
pub use process::{Process, binary, python};
pub use recorder::{Recorder, Script, length_of};
pub use relay::Relay;
pub use scan::{forms_of, forms_of_bytes, holds, secrets_in_files};
pub use sdk::{Guest, Sdk, json_of, node, node_module, script, sdk_environment};
pub use stand_in::{Arrival, StandIn};
pub use vendor::{Seen, Vendor, paid, whole};
pub use wait::{eventually, now_micros, within};

#[cfg(target_os = "linux")]
pub use process::{FrozenThread, kill_9, limit_descriptors, resident_bytes};
