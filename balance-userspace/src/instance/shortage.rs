//! Sessions that wait for a descriptor or for the kernel's memory.
//!
//! Invariant: what becomes free goes to a session that waits, and not to a further client, which would
//! only wait as well: with all descriptors in the hands of clients that wait, none would ever be free.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

/// Pause before another attempt at what has failed for want of something.
pub(crate) const BACK_OFF: Duration = Duration::from_millis(100);

/// How many sessions wait.
#[derive(Debug, Default)]
pub(crate) struct Shortage(AtomicUsize);

/// One that waits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiter<'a>(&'a Shortage);

impl Shortage {
    /// Counts a session that waits.
    pub(crate) fn enter(&self) -> Waiter<'_> {
        self.0.fetch_add(1, Relaxed);
        Waiter(self)
    }

    /// Whether a session waits.
    pub(crate) fn has_waiters(&self) -> bool {
        self.0.load(Relaxed) > 0
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_waiters_until_the_last_session_has_what_it_waits_for() {
        let shortage = Shortage::default();
        let (one, two) = (shortage.enter(), shortage.enter());
        drop(one);
        assert!(shortage.has_waiters());
        drop(two);
        assert!(!shortage.has_waiters());
    }
}
