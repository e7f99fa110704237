//! A connected pair, how its two directions end together, and what is reported of it.
//!
//! Invariant: a clean end is reported, and passed on, only when both directions have ended and
//! every byte was written; anything else resets both ends.

use std::{
    fmt,
    future::{Future, pending},
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use tokio::select;
use tokio_util::sync::CancellationToken;

use super::{Name, Traffic, pump};
use crate::{ring, stream::Stream};

/// A client and the backend that was found for it.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) client: Rc<Stream>,
    pub(crate) backend: Rc<Stream>,
    /// Counts along.
    pub(crate) traffic: Arc<Traffic>,
    /// Ends the connection from outside.
    pub(crate) cut: Arc<Cut>,
}

/// A way to end a connection from outside, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    token: CancellationToken,
    orderly: AtomicBool,
}

impl Cut {
    /// One that also ends, with a reset, when `token` does.
    pub(crate) fn below(token: &CancellationToken) -> Self {
        Self { token: token.child_token(), orderly: AtomicBool::new(false) }
    }

    /// Resets both sides.
    pub(crate) fn reset(&self) {
        self.token.cancel();
    }

    /// Closes both sides in an orderly way: for a connection on which nothing moves.
    pub(crate) fn close(&self) {
        self.orderly.store(true, SeqCst);
        self.token.cancel();
    }

    /// Whether it is the latter.
    pub(super) fn is_orderly(&self) -> bool {
        self.orderly.load(SeqCst)
    }
}

/// How a connection ended.
#[derive(Debug)]
pub(crate) enum End {
    /// Both sides ended, every byte was passed on.
    Clean,
    /// One side broke; the other was reset.
    Broken(Broken),
    /// Balance itself ended it.
    Cut,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => f.write_str("clean"),
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
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match self.error.kind() {
            ConnectionReset | BrokenPipe => write!(f, "{} reset", self.side),
            _ => write!(f, "{}: {}", self.side, self.error),
        }
    }
}

/// A side of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Backend,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Backend => "backend",
        })
    }
}

/// What became of a connection.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) datapath: Name,
    pub(crate) end: End,
}

/// One direction of a pair, from the end that sends to the end that is written to.
#[derive(Clone)]
pub(crate) struct Direction {
    pub(crate) source: Rc<Stream>,
    pub(crate) target: Rc<Stream>,
    from: Side,
}

impl Direction {
    /// What the source's error means for the connection.
    pub(crate) fn source_broke(&self, error: io::Error) -> Broken {
        Broken { side: self.from, error }
    }

    /// What the target's error means for the connection.
    pub(crate) fn target_broke(&self, error: io::Error) -> Broken {
        let side = match self.from {
            Side::Client => Side::Backend,
            Side::Backend => Side::Client,
        };
        Broken { side, error }
    }

    /// Passes the source's end on. The target may be gone already, which its own direction tells.
    pub(crate) fn end_target(&self) {
        let _ = self.target.shutdown(std::net::Shutdown::Write);
    }
}

impl Pair {
    /// From client to backend.
    pub(crate) fn up(&self) -> Direction {
        Direction {
            source: Rc::clone(&self.client),
            target: Rc::clone(&self.backend),
            from: Side::Client,
        }
    }

    /// From backend to client.
    pub(crate) fn down(&self) -> Direction {
        Direction {
            source: Rc::clone(&self.backend),
            target: Rc::clone(&self.client),
            from: Side::Backend,
        }
    }

    /// Runs both directions to their end, then closes both streams in the way that the end
    /// asks for. A side whose direction has ended is still watched: its reset ends the other.
    /// The directions come pinned: passed by value they would be stored again at every level,
    /// and make up most of what an idle connection costs.
    pub(crate) async fn run(
        &self,
        up: Pin<&mut impl Future<Output = Result<(), Broken>>>,
        down: Pin<&mut impl Future<Output = Result<(), Broken>>>,
    ) -> End {
        match self.run_until(pending(), up, down).await {
            Some(end) => end,
            None => unreachable!("what is pending is never ready"),
        }
    }

    /// Like [`run`](Self::run), but gives up when `pause` is ready: `None` then, with both
    /// directions dropped where they were and both streams open. It is looked at whenever
    /// neither direction can go on at once.
    pub(crate) async fn run_until(
        &self,
        pause: impl Future<Output = ()>,
        up: Pin<&mut impl Future<Output = Result<(), Broken>>>,
        down: Pin<&mut impl Future<Output = Result<(), Broken>>>,
    ) -> Option<End> {
        let end = select! {
            biased;
            result = self.both(up, down) => result.map_or_else(End::Broken, |()| End::Clean),
            () = self.cut.token.cancelled() => End::Cut,
            () = pause => return None,
        };
        let orderly = match end {
            End::Clean => true,
            End::Cut => self.cut.is_orderly(),
            End::Broken(_) => false,
        };
        if orderly {
            // A socket that is gone by now has nothing left to deliver either.
            let _ = self.client.close_cleanly();
            let _ = self.backend.close_cleanly();
        }
        if !matches!(end, End::Clean) {
            ring::cancel(&self.client).await;
            ring::cancel(&self.backend).await;
        }
        Some(end)
    }

    async fn both(
        &self,
        mut up: Pin<&mut impl Future<Output = Result<(), Broken>>>,
        mut down: Pin<&mut impl Future<Output = Result<(), Broken>>>,
    ) -> Result<(), Broken> {
        select! {
            biased;
            result = &mut up => {
                result?;
                self.traffic.end_one_way();
                let ended = self.up();
                select! {
                    biased;
                    result = &mut down => result,
                    broken = pump::watch(&ended) => Err(broken),
                }
            }
            result = &mut down => {
                result?;
                self.traffic.end_one_way();
                let ended = self.down();
                select! {
                    biased;
                    result = &mut up => result,
                    broken = pump::watch(&ended) => Err(broken),
                }
            }
        }
    }
}
