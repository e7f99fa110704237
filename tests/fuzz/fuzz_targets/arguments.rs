//! Looks for bytes for which `arguments` does not hold.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::arguments(data));
