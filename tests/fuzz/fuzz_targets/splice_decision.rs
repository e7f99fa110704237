//! Searches for input that violates the property `splice_decision`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::splice_decision(data));
