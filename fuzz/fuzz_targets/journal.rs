//! Fuzzes records and segments of journals.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::journal(bytes));
