//! Messages of a test: a skip with its reason, a measured value.
//!
//! Invariant: in CI no test is skipped.

use std::{
    env,
    io::{Write as _, stderr},
};

/// Reports on standard error that the running test is skipped, and why. Writes past the test
/// runner, which hides the output of passed tests.
///
/// # Panics
///
/// In CI (`CI` in the environment), where every documented test must run. Virtual machines with
/// other kernels do not set `CI`; their skips are counted.
#[track_caller]
pub fn skip(reason: &str) {
    let name = std::thread::current().name().map(str::to_owned);
    let name = name.as_deref().unwrap_or("a test");
    let in_ci = env::var_os("CI").is_some_and(|ci| !ci.is_empty());
    assert!(!in_ci, "{name} cannot be skipped in CI: {reason}");
    // A single write, so that lines of concurrent tests stay whole.
    let line = format!("skipped: {name}: {reason}\n");
    // A closed standard error is no reason to fail.
    let _ = stderr().write_all(line.as_bytes());
}

/// Prints a measured value: shown when the test fails, or with `--nocapture`.
#[expect(clippy::print_stdout, reason = "the test harness captures it")]
pub fn note(text: &str) {
    println!("{text}");
}
