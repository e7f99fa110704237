//! Parsers of option values. Each error says which value is expected.
//!
//! Invariant: an error text fits behind the option and the rejected value, as in
//! `-T 5x: expected a time`.

use std::{num::NonZeroUsize, ops::RangeInclusive};

use super::{name, time};

/// The longest time that an option takes, in seconds: a year.
pub(super) const MAX_SECONDS: u32 = 31_536_000;

/// Parses a time to seconds in a range.
pub(super) fn seconds(
    range: RangeInclusive<u32>,
) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync + 'static {
    move |text| {
        let parsed = time::seconds(text).and_then(|seconds| u32::try_from(seconds).ok());
        parsed.filter(|seconds| range.contains(seconds)).ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            format!("expected a time from {least} to {most} seconds, such as 30, 30s, 5m, 2h or 1d")
        })
    }
}

/// Parses a number in a range. `noun` says what the number is.
pub(super) fn number<N>(
    noun: &'static str,
    range: RangeInclusive<N>,
) -> impl Fn(&str) -> Result<N, String> + Clone + Send + Sync + 'static
where
    N: TryFrom<i64> + PartialOrd + std::fmt::Display + Copy + Send + Sync + 'static,
{
    move |text| {
        let parsed = text.parse().ok().and_then(|n: i64| N::try_from(n).ok());
        parsed
            .filter(|n| range.contains(n))
            .ok_or_else(|| format!("expected {noun} from {} to {}", range.start(), range.end()))
    }
}

/// Parses a number of connections, at least one.
pub(super) fn connections(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "expected a number of connections, 1 or more".to_owned())
}

/// Parses the name or address of a host. The name is resolved later.
pub(super) fn host(text: &str) -> Result<String, String> {
    non_empty(text, "expected a host name or an address")
}

/// Parses the name of a user. The name is looked up later.
pub(super) fn user(text: &str) -> Result<String, String> {
    non_empty(text, "expected the name of a user")
}

/// Parses the name or number of a group. The group is looked up later.
pub(super) fn group(text: &str) -> Result<String, String> {
    non_empty(text, "expected the name or number of a group")
}

/// Parses the name of an instance.
pub(super) fn name(text: &str) -> Result<String, String> {
    if name::is_valid(text) { Ok(text.to_owned()) } else { Err(name::EXPECTED.to_owned()) }
}

fn non_empty(text: &str, expected: &str) -> Result<String, String> {
    if text.is_empty() { Err(expected.to_owned()) } else { Ok(text.to_owned()) }
}
