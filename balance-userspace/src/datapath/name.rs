//! The names of the datapaths, in logs and reports.

use std::fmt;

/// A datapath's name in logs and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    Relay,
    Sockmap,
    Splice,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relay => "relay",
            Self::Sockmap => "sockmap",
            Self::Splice => "splice",
        })
    }
}
