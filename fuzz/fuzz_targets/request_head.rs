//! Fuzzes heads of requests.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::request_head(bytes));
