//! How a connection ended, and what is reported of it.

use std::{fmt, io};

use super::{name::Name, side::Side};

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides ended, every byte was passed on.
    Clean,
    /// The session was over, and a side closed it with a reset, which the other got as well if that
    /// still had a connection.
    Left(Side),
    /// One side broke; the other was reset.
    Broken(Broken),
    /// Balance itself ended it.
    Cut,
}

impl End {
    /// Whether the session ended in order.
    pub(crate) fn is_in_order(&self) -> bool {
        matches!(self, Self::Clean | Self::Left(_))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.write_str("clean"),
            Self::Left(side) => write!(f, "clean, then {side} reset"),
            Self::Broken(broken) => broken.fmt(f),
            Self::Cut => f.write_str("cut"),
        }
    }
}

/// Which side broke and how.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) side: Side,
    pub(crate) error: io::Error,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_reset() {
            write!(f, "{} reset", self.side)
        } else {
            write!(f, "{}: {}", self.side, self.error)
        }
    }
}

impl Broken {
    /// Whether it is a reset, and not an error of another kind.
    pub(crate) fn is_reset(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        matches!(self.error.kind(), ConnectionReset | BrokenPipe)
    }
}

/// What became of a connection.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) datapath: Name,
    pub(crate) end: End,
}
