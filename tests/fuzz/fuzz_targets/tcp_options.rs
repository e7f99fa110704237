//! Searches for input that violates the property `tcp_options`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::tcp_options(data));
