//! Fuzzes frames of the control socket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keybrake_checks::control_frame(bytes));
