//! Searches for input that violates the property `dump`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::dump(data));
