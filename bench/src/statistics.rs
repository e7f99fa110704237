//! Summary of the samples of a figure.
//!
//! Invariant: a summary has at least one sample, so it has a median.

use serde::{Deserialize, Serialize};

/// A summary of samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// The median.
    pub(crate) median: f64,
    /// The smallest sample.
    pub(crate) min: f64,
    /// The largest sample.
    pub(crate) max: f64,
    /// All samples, in the order of the rounds.
    pub(crate) samples: Vec<f64>,
}

impl Summary {
    /// Summarises samples. Returns `None` without samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        let median = low.midpoint(high);
        Some(Self { median, min, max, samples: samples.to_vec() })
    }

    /// Returns this median divided by the median of `other`, or `None` if this median is negative
    /// or the other is not positive.
    pub(crate) fn ratio_to(&self, other: &Self) -> Option<f64> {
        (self.median >= 0.0 && other.median > 0.0).then(|| self.median / other.median)
    }

    /// Returns true if the ranges overlap, so that the difference may be noise.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(samples: &[f64]) -> Summary {
        Summary::of(samples).unwrap()
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(of(&[3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(of(&[4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(of(&[7.0]).median, 7.0);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn a_summary_keeps_the_extremes_and_the_order_of_rounds() {
        let summary = of(&[3.0, 1.0, 2.0]);
        assert_eq!((summary.min, summary.max), (1.0, 3.0));
        assert_eq!(summary.samples, [3.0, 1.0, 2.0]);
    }

    #[test]
    fn a_ratio_to_zero_does_not_exist() {
        assert_eq!(of(&[3.0]).ratio_to(&of(&[2.0])), Some(1.5));
        assert_eq!(of(&[3.0]).ratio_to(&of(&[0.0])), None);
    }

    #[test]
    fn overlapping_ranges_are_detected() {
        assert!(of(&[1.0, 3.0]).overlaps(&of(&[2.0, 4.0])));
        assert!(!of(&[1.0, 3.0]).overlaps(&of(&[3.5, 4.0])));
    }
}
