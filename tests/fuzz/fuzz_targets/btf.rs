//! Searches for input that violates the property `btf`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::btf(data));
