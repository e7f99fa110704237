//! Waiting for a state, never for a time.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Polls `look` until it is `Ok`, and panics with what it said last once `deadline` is over.
///
/// The state is looked at once more after the deadline, so that a test process that was not
/// scheduled for a while does not fail for that.
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

/// Tells threads to end when it goes out of scope, so that they do so also when a test fails.
#[derive(Debug)]
pub struct SetOnDrop<'f>(
    /// What they look at.
    pub &'f AtomicBool,
);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
