//! One counter of a datapath, as the command `stats` shows it.
//!
//! Invariant: a counter only grows, unless its name says `now`.

/// A named number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counter {
    /// The name in the output of `stats`.
    pub(crate) name: &'static str,
    pub(crate) value: u64,
    /// What tells apart several counters with one name.
    pub(crate) reason: Option<String>,
}
