//! Searches for input that violates the property `run_dir_names`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| balance_userspace::untrusted_input::run_dir_names(data));
