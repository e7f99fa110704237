//! What one side of a scenario did and saw.
//!
//! Invariant: a record has only what the side's own socket reported.

use std::io::{self, ErrorKind};

use super::Ending;

/// How the other side's direction ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// With a FIN.
    Clean,
    /// With a RST.
    Reset,
    /// With another error.
    Other(ErrorKind),
}

/// What a side did and saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Bytes that the socket accepted.
    pub sent: u64,
    /// Whether the side then ended its direction with a FIN.
    pub finished: bool,
    /// How the side broke off, if it did.
    pub left: Option<Ending>,
    /// Bytes read.
    pub received: u64,
    /// Offset of the first wrong byte.
    pub wrong_at: Option<u64>,
    /// How the other side ended, if the side saw that.
    pub end: Option<StreamEnd>,
    /// The act at the deadline, if the side had not finished.
    pub stuck: Option<String>,
}

impl StreamEnd {
    /// The end that an I/O error means.
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Self::Reset,
            kind => Self::Other(kind),
        }
    }
}
