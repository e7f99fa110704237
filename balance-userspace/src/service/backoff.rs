//! The delay before the supervisor starts a failed instance again.
//!
//! Pure. Invariant: an instance that ran well restarts at once. An instance that keeps failing
//! restarts at most every 30 seconds in the long run.

use std::time::Duration;

/// A process that has served this long ran well.
const HEALTHY_RUN: Duration = Duration::from_secs(5);

/// The first delay after a failure; each further delay is twice as long.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// The longest delay.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The delays of one instance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Returns the delay after a process that served for `served`; `None` if it was never ready.
    pub(super) fn after(&mut self, served: Option<Duration>) -> Duration {
        if served.is_some_and(|time| time >= HEALTHY_RUN) {
            self.next = Duration::ZERO;
        }
        // A process that was never ready would fail again at once.
        let wait = if served.is_none() { self.next.max(MIN_WAIT) } else { self.next };
        self.next = (wait * 2).clamp(MIN_WAIT, MAX_WAIT);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_half_a_minute_and_reset_after_a_good_run() {
        let seconds = |waits: &mut dyn Iterator<Item = Duration>| {
            waits.map(|wait| wait.as_secs()).collect::<Vec<_>>()
        };
        let mut backoff = Backoff::default();
        let mut failing = (0..7).map(|_| backoff.after(None));
        assert_eq!(seconds(&mut failing), [1, 2, 4, 8, 16, 30, 30]);
        let short = Some(Duration::from_secs(1));
        assert_eq!(backoff.after(short).as_secs(), 30);
        let mut crashing =
            [Some(HEALTHY_RUN), short, short, None].map(|served| backoff.after(served)).into_iter();
        assert_eq!(seconds(&mut crashing), [0, 1, 2, 4]);
    }
}
