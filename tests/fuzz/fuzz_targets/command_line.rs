//! Searches for input that violates the property `command_line`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::command_line(data));
