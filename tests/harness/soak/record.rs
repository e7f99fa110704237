//! What one side of a scenario did and saw.
//!
//! Invariant: only what its own socket told it.

use std::io::{self, ErrorKind};

use super::Ending;

/// How the other side's direction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// With a FIN.
    Clean,
    /// With a RST.
    Reset,
    /// With something else.
    Other(ErrorKind),
}

/// What a side did and saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Bytes that its socket has taken.
    pub sent: u64,
    /// Whether it has ended its direction in an orderly way after that.
    pub finished: bool,
    /// How it left before it was done, if it did.
    pub left: Option<Ending>,
    /// Bytes that it has read.
    pub received: u64,
    /// The first place where another byte came than was sent.
    pub wrong_at: Option<u64>,
    /// How the other side ended, if it saw that.
    pub end: Option<StreamEnd>,
    /// Where it stood when its time was over, if it was.
    pub stuck: Option<String>,
}

impl StreamEnd {
    /// The end that an error tells of.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            kind => Self::Other(kind),
        }
    }
}
