//! Searches for input that violates the property `channel_arguments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::channel_arguments(data));
