//! Rate limit for log lines that a peer or a resource shortage can cause again and again.
//!
//! Invariant: at most one line passes in an interval, and every other line is counted once.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// Passes one event in an interval and counts the others.
pub(crate) struct Throttle {
    interval: Duration,
    state: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    pub(crate) const fn new(interval: Duration) -> Self {
        Self { interval, state: Mutex::new((None, 0)) }
    }

    /// `Some(n)` if the event may be logged; `n` is the number of events suppressed since the last
    /// one that passed.
    pub(crate) fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (last, suppressed) = *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < self.interval) {
            state.1 += 1;
            return None;
        }
        *state = (Some(now), 0);
        Some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_event_passes_in_an_interval_and_the_others_are_counted() {
        let throttle = Throttle::new(Duration::from_secs(10));
        let start = Instant::now();
        assert_eq!(throttle.pass(start), Some(0));
        assert_eq!(throttle.pass(start + Duration::from_secs(1)), None);
        assert_eq!(throttle.pass(start + Duration::from_secs(9)), None);
        assert_eq!(throttle.pass(start + Duration::from_secs(10)), Some(2));
        assert_eq!(throttle.pass(start + Duration::from_secs(20)), Some(0));
    }
}
