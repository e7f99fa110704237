//! What a test tells its reader beside success or failure.

use std::io::{Write as _, stderr};

/// Says on the real standard error, past the test harness that hides the output of tests that
/// pass, that the running test is skipped and why.
pub fn skip(reason: &str) {
    let name = std::thread::current().name().map(str::to_owned);
    let name = name.as_deref().unwrap_or("a test");
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
