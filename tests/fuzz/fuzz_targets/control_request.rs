//! Searches for input that violates the property `control_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::control_request(data));
