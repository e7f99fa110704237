//! Searches for input that violates the property `shell_command`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::shell_command(data));
