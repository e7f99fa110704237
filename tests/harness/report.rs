//! What a test tells its reader beside success or failure.

use std::{
    env,
    io::{Write as _, stderr},
};

/// Reports that the running test is skipped, and why, on the real standard error: the test harness
/// hides the output of tests that pass.
///
/// # Panics
///
/// In CI (`CI` in the environment), which has to run what the documents promise. A virtual machine
/// with another kernel is not CI in this sense: what it cannot run is counted.
#[track_caller]
pub fn skip(reason: &str) {
    let name = std::thread::current().name().map(str::to_owned);
    let name = name.as_deref().unwrap_or("a test");
    let in_ci = env::var_os("CI").is_some_and(|ci| !ci.is_empty());
    assert!(!in_ci, "{name} cannot be skipped in CI: {reason}");
    // One write, so that lines of tests that run side by side stay whole.
    let line = format!("skipped: {name}: {reason}\n");
    // A reader that went away is no reason to fail.
    let _ = stderr().write_all(line.as_bytes());
}

/// A measured value: shown when the test fails, or with `--nocapture`.
#[expect(clippy::print_stdout, reason = "the test harness captures it")]
pub fn note(text: &str) {
    println!("{text}");
}
