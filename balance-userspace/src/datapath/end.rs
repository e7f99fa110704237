//! How a connection ended, and what the datapath reports of a connection.
//!
//! Invariant: every connection ends in exactly one of the ways listed here.

use std::{fmt, io};

use super::{name::DatapathName, side::Side};

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum ConnectionEnd {
    /// Both sides sent FIN, and every byte was delivered.
    Clean,
    /// The session was over when this side reset the connection. The reset was passed on to the
    /// other side if that still had a connection.
    ResetAfterEnd(Side),
    /// One side failed. The other side was reset.
    Failed(SideError),
    /// Balance itself ended the connection.
    Aborted,
}

impl ConnectionEnd {
    /// Whether the session ended in order.
    pub(crate) fn is_in_order(&self) -> bool {
        matches!(self, Self::Clean | Self::ResetAfterEnd(_))
    }
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.write_str("clean"),
            Self::ResetAfterEnd(side) => write!(f, "clean, then {side} reset"),
            Self::Failed(error) => error.fmt(f),
            Self::Aborted => f.write_str("cut"),
        }
    }
}

/// The side that failed, and its error.
#[derive(Debug)]
pub(crate) struct SideError {
    pub(crate) side: Side,
    pub(crate) error: io::Error,
}

impl fmt::Display for SideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_reset() {
            write!(f, "{} reset", self.side)
        } else {
            write!(f, "{}: {}", self.side, self.error)
        }
    }
}

impl SideError {
    /// Whether the error is a reset.
    pub(crate) fn is_reset(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        matches!(self.error.kind(), ConnectionReset | BrokenPipe)
    }
}

/// What a datapath reports when a connection has ended.
#[derive(Debug)]
pub(crate) struct ConnectionReport {
    /// The datapath that carried the connection last.
    pub(crate) datapath: DatapathName,
    pub(crate) end: ConnectionEnd,
}
