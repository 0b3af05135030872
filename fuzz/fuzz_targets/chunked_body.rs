//! Fuzzes chunked bodies.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::chunked_body(bytes));
