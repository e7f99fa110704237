//! The measuring window of the client, which follows a warm-up.
//!
//! Invariant: an operation counts if it ends inside the window, and the CPU time covers exactly the
//! window.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use crate::{
    messages::{Latency, WindowCounts},
    probe::cpu,
};

/// The longest operation that the histogram resolves, in nanoseconds.
const LONGEST: u64 = 600_000_000_000;

/// A window: not started, warming up, open or closed.
pub(super) struct Window {
    warm_up: Duration,
    length: Duration,
    /// The time of the next transition.
    next: Option<Instant>,
    open: Option<Open>,
    counts: WindowCounts,
    histogram: Histogram<u64>,
}

struct Open {
    opened: Instant,
    cpu: f64,
}

/// The result of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// The state has not changed.
    Unchanged,
    /// The window has opened.
    Opened,
    /// The window has closed.
    Closed,
}

impl Window {
    /// Makes a window that waits for [`Self::warm_up`].
    pub(super) fn new(warm_up: Duration, length: Duration) -> Result<Self> {
        let histogram =
            Histogram::new_with_bounds(1, LONGEST, 3).context("cannot make a histogram")?;
        let counts = WindowCounts::default();
        Ok(Self { warm_up, length, next: None, open: None, counts, histogram })
    }

    /// Starts the warm-up if it has not started. Call this when the load is complete.
    pub(super) fn warm_up(&mut self, now: Instant) {
        self.next.get_or_insert(now + self.warm_up);
    }

    /// Returns when to call [`Self::update`] next.
    pub(super) fn next_transition(&self) -> Option<Instant> {
        self.next
    }

    /// Opens or closes the window if that is due.
    pub(super) fn update(&mut self, now: Instant) -> Result<Transition> {
        if self.next.is_none_or(|next| now < next) {
            return Ok(Transition::Unchanged);
        }
        let cpu = cpu::seconds()?;
        if let Some(open) = self.open.take() {
            self.counts.seconds = open.opened.elapsed().as_secs_f64();
            self.counts.cpu = cpu - open.cpu;
            self.next = None;
            return Ok(Transition::Closed);
        }
        self.open = Some(Open { opened: Instant::now(), cpu });
        self.next = Some(now + self.length);
        Ok(Transition::Opened)
    }

    /// Counts an operation.
    pub(super) fn record(&mut self, latency: Duration) {
        if self.open.is_some() {
            self.counts.operations += 1;
            self.histogram.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Counts a failure, also outside the window: no failure is expected at any time.
    pub(super) fn record_failure(&mut self, why: impl FnOnce() -> String) {
        self.counts.errors += 1;
        self.counts.first_error.get_or_insert_with(why);
    }

    /// Returns the number of failures and the first one.
    pub(super) fn failures(&self) -> (u64, Option<&str>) {
        (self.counts.errors, self.counts.first_error.as_deref())
    }

    /// Returns the counts and the latencies.
    pub(super) fn into_counts(mut self) -> WindowCounts {
        let micros = |quantile| self.histogram.value_at_quantile(quantile) as f64 / 1e3;
        if !self.histogram.is_empty() {
            self.counts.latency =
                Some(Latency { p50: micros(0.5), p99: micros(0.99), p999: micros(0.999) });
        }
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_operations_that_end_in_the_window_count() {
        let second = Duration::from_secs(1);
        let mut window = Window::new(second, second).unwrap();
        let start = Instant::now();
        assert_eq!(window.update(start + 9 * second).unwrap(), Transition::Unchanged);
        window.warm_up(start);
        window.warm_up(start + second);
        window.record(second);
        assert_eq!(window.update(start).unwrap(), Transition::Unchanged);
        assert_eq!(window.update(start + second).unwrap(), Transition::Opened);
        window.record(Duration::from_micros(5));
        assert_eq!(window.update(start + 2 * second).unwrap(), Transition::Closed);
        window.record(second);
        let counts = window.into_counts();
        assert_eq!(counts.operations, 1);
        assert!((counts.latency.unwrap().p50 - 5.0).abs() < 0.1);
    }
}
