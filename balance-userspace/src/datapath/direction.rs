//! One direction of a pair.
//!
//! Invariant: an error of a stream is recorded in the stream before it is reported.

use std::{io, rc::Rc};

use super::{end::SideError, side::Side};
use crate::io::stream::Stream;

/// One direction of a pair: bytes are read from `source` and written to `target`.
#[derive(Clone)]
pub(crate) struct Direction {
    pub(crate) source: Rc<Stream>,
    pub(crate) target: Rc<Stream>,
    pub(super) from: Side,
}

impl Direction {
    /// The side of the source.
    pub(crate) fn from(&self) -> Side {
        self.from
    }

    /// Records an error of the source.
    pub(crate) fn source_error(&self, error: io::Error) -> SideError {
        self.source.record_error(error.kind());
        SideError { side: self.from, error }
    }

    /// Records an error of the target.
    pub(crate) fn target_error(&self, error: io::Error) -> SideError {
        self.target.record_error(error.kind());
        SideError { side: !self.from, error }
    }

    /// The error of the source or of the target, by its side.
    pub(crate) fn error_of(&self, side: Side, error: io::Error) -> SideError {
        match side == self.from {
            true => self.source_error(error),
            false => self.target_error(error),
        }
    }

    /// Sends FIN to the target. An error is ignored: if the target has failed, the other direction
    /// reports the error.
    pub(crate) fn end_target(&self) {
        let _ = self.target.shutdown(std::net::Shutdown::Write);
    }
}
