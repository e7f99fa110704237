//! Searches for input that violates the property `control_reply`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::control_reply(data));
