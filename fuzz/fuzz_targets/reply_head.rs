//! Fuzzes heads of replies.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::reply_head(bytes));
