//! Sessions that wait for a descriptor or for kernel memory.
//!
//! Invariant: while a session waits, workers accept no client. A freed descriptor thus goes to a
//! waiting session and not to a new client, which would only wait as well: if waiting clients held
//! all descriptors, none would ever become free.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

/// Pause before an operation that failed for lack of a resource is tried again.
pub(crate) const BACK_OFF: Duration = Duration::from_millis(100);

/// The number of waiting sessions.
#[derive(Debug, Default)]
pub(crate) struct Shortage(AtomicUsize);

/// A waiting session; counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiter<'a>(&'a Shortage);

impl Shortage {
    /// Counts a waiting session.
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
    fn there_are_waiters_until_the_last_one_is_dropped() {
        let shortage = Shortage::default();
        let (one, two) = (shortage.enter(), shortage.enter());
        drop(one);
        assert!(shortage.has_waiters());
        drop(two);
        assert!(!shortage.has_waiters());
    }
}
