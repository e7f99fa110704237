//! Waits for a state, never for a fixed time.
//!
//! Invariant: a state that holds at the deadline is found, however late the thread runs.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Polls `look` until it returns `Ok`. Panics with its last error after `deadline`.
///
/// Polls once more after the deadline, so that a test process that was not scheduled for a while
/// does not fail.
pub fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut look: impl FnMut() -> Result<T, String>,
) -> T {
    let start = Instant::now();
    loop {
        let over = start.elapsed() > deadline;
        match look() {
            Ok(value) => return value,
            Err(state) if over => panic!("not within {deadline:?}: {what}; last seen: {state}"),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// Sets a flag when dropped, so that threads stop even if the test fails.
#[derive(Debug)]
pub struct SetOnDrop<'f>(
    /// The flag that the threads check.
    pub &'f AtomicBool,
);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
