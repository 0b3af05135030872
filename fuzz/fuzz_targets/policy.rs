//! Fuzzes policies, children and changes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::policy(bytes));
