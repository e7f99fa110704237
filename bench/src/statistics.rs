//! Samples of a figure, summed up.
//!
//! Invariant: a summary has at least one sample, so it always has a median.

use serde::{Deserialize, Serialize};

/// What is told about samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// In the middle.
    pub(crate) median: f64,
    /// The least.
    pub(crate) min: f64,
    /// The most.
    pub(crate) max: f64,
    /// All of them, round after round.
    pub(crate) samples: Vec<f64>,
}

impl Summary {
    /// Sums up; none without samples.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        let median = low.midpoint(high);
        Some(Self { median, min, max, samples: samples.to_vec() })
    }

    /// How many times the median of `other` this one is; none if either is nothing or less.
    pub(crate) fn ratio_to(&self, other: &Self) -> Option<f64> {
        (self.median >= 0.0 && other.median > 0.0).then(|| self.median / other.median)
    }

    /// True if both have values in a common range: they may be the same but for noise.
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
    fn extremes_and_the_order_of_rounds_are_kept() {
        let summary = of(&[3.0, 1.0, 2.0]);
        assert_eq!((summary.min, summary.max), (1.0, 3.0));
        assert_eq!(summary.samples, [3.0, 1.0, 2.0]);
    }

    #[test]
    fn nothing_has_no_multiples() {
        assert_eq!(of(&[3.0]).ratio_to(&of(&[2.0])), Some(1.5));
        assert_eq!(of(&[3.0]).ratio_to(&of(&[0.0])), None);
    }

    #[test]
    fn ranges_overlap_or_do_not() {
        assert!(of(&[1.0, 3.0]).overlaps(&of(&[2.0, 4.0])));
        assert!(!of(&[1.0, 3.0]).overlaps(&of(&[3.5, 4.0])));
    }
}
