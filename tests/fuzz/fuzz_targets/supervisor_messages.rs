//! Searches for input that violates the property `supervisor_messages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::supervisor_messages(data));
