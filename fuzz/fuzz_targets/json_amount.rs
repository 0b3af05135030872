//! Fuzzes amounts in JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::json_amount(bytes));
