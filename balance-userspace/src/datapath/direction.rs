//! One direction of a pair.

use std::{io, rc::Rc};

use super::{end::SideError, side::Side};
use crate::io::stream::Stream;

/// One direction of a pair, from the end that sends to the end that is written to.
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

    /// What the source's error means for the connection.
    pub(crate) fn source_error(&self, error: io::Error) -> SideError {
        self.source.record_error(error.kind());
        SideError { side: self.from, error }
    }

    /// What the target's error means for the connection.
    pub(crate) fn target_error(&self, error: io::Error) -> SideError {
        self.target.record_error(error.kind());
        SideError { side: self.from.other(), error }
    }

    /// Passes the source's end on. The target may be gone already, which its own direction tells.
    pub(crate) fn end_target(&self) {
        let _ = self.target.shutdown(std::net::Shutdown::Write);
    }
}
