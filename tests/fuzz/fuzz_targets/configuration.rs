//! Searches for input that violates the property `configuration`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::configuration(data));
