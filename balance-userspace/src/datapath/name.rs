//! The names of the datapaths, as logs and the commands `sessions` and `stats` show them.
//!
//! Invariant: a name never changes, because scripts read it.

use std::fmt;

/// The name of a datapath.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatapathName {
    Relay,
    Sockmap,
    Splice,
}

impl fmt::Display for DatapathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Sockmap => "sockmap",
            Self::Splice => "splice",
        })
    }
}
