//! Fuzzes amounts in forms.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::form_amount(bytes));
