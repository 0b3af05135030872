//! Fuzzes audit rows.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::audit_record(bytes));
