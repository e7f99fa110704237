//! The time in which the client measures: after a warm-up, for as long as the job says.
//!
//! Invariant: an operation counts when it ends inside; the CPU time is of exactly this span.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;

use crate::{
    messages::{Latency, WindowCounts},
    probe::cpu,
};

/// Longest operation that the histogram tells from others, in nanoseconds.
const LONGEST: u64 = 600_000_000_000;

/// A window, not begun, open or over.
pub(super) struct Window {
    warm_up: Duration,
    length: Duration,
    /// When its next phase begins.
    next: Option<Instant>,
    open: Option<Open>,
    counts: WindowCounts,
    histogram: Histogram<u64>,
}

struct Open {
    since: Instant,
    cpu: f64,
}

/// What a look at the clock has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// Nothing.
    Unchanged,
    /// The window is open now.
    Opened,
    /// It is over.
    Closed,
}

impl Window {
    /// One that waits for [`Self::warm_up`].
    pub(super) fn new(warm_up: Duration, length: Duration) -> Result<Self> {
        let histogram =
            Histogram::new_with_bounds(1, LONGEST, 3).context("cannot make a histogram")?;
        let counts = WindowCounts::default();
        Ok(Self { warm_up, length, next: None, open: None, counts, histogram })
    }

    /// The load is complete: the warm-up begins. Does nothing when it has begun.
    pub(super) fn warm_up(&mut self, now: Instant) {
        self.next.get_or_insert(now + self.warm_up);
    }

    /// When to call [`Self::turn`] next.
    pub(super) fn next_transition(&self) -> Option<Instant> {
        self.next
    }

    /// Opens or closes it when that is due.
    pub(super) fn update(&mut self, now: Instant) -> Result<Transition> {
        if self.next.is_none_or(|next| now < next) {
            return Ok(Transition::Unchanged);
        }
        let cpu = cpu::seconds()?;
        if let Some(open) = self.open.take() {
            self.counts.seconds = open.since.elapsed().as_secs_f64();
            self.counts.cpu = cpu - open.cpu;
            self.next = None;
            return Ok(Transition::Closed);
        }
        self.open = Some(Open { since: Instant::now(), cpu });
        self.next = Some(now + self.length);
        Ok(Transition::Opened)
    }

    /// Counts an operation.
    pub(super) fn record(&mut self, took: Duration) {
        if self.open.is_some() {
            self.counts.operations += 1;
            self.histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    /// Counts a failure, those before and after as well: none is expected at any time.
    pub(super) fn record_failure(&mut self, why: impl FnOnce() -> String) {
        self.counts.errors += 1;
        self.counts.first_error.get_or_insert_with(why);
    }

    /// How many failures were counts, and what the first was.
    pub(super) fn failures(&self) -> (u64, Option<&str>) {
        (self.counts.errors, self.counts.first_error.as_deref())
    }

    /// All that was counts.
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
    fn only_what_ends_inside_counts() {
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
