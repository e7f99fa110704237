//! How long to wait before an instance is started again.
//!
//! Pure. Invariant: one that ran well is started again at once, one that does not never more often
//! than every half minute in the long run.

use std::time::Duration;

/// Who has run for so long ran well.
const HEALTHY_RUN: Duration = Duration::from_secs(60);

/// The first wait after one that did not help; each is twice as long as the one before.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// The longest.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// The waits of one instance.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// How long to wait after a process that served for so long, or not at all.
    pub(super) fn after(&mut self, served: Option<Duration>) -> Duration {
        if served.is_some_and(|time| time >= HEALTHY_RUN) {
            self.next = Duration::ZERO;
        }
        // What never served will not do so at once.
        let wait = if served.is_none() { self.next.max(MIN_WAIT) } else { self.next };
        self.next = (wait * 2).clamp(MIN_WAIT, MAX_WAIT);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_half_a_minute_and_begin_anew_after_a_good_run() {
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
