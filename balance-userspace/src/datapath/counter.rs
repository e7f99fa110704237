//! One counter of a datapath, as the command `stats` shows it.
//!
//! Invariant: a counter only grows, unless its name says `now`.

/// A named number of a datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counter {
    /// The name in the output of `stats`.
    pub(crate) name: &'static str,
    pub(crate) value: u64,
    /// Tells several counters with the same name apart.
    pub(crate) reason: Option<String>,
}
