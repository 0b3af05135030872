//! Fuzzes paths and rules.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::path_match(bytes));
