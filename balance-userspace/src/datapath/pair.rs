//! A client and its server, connected, and the common end of their two directions.
//!
//! Invariants: a clean end is reported, and passed on, only after both directions have ended and
//! every byte was written. Any other end resets both connections. The bytes that a side sent before
//! it failed are delivered before its reset is passed on, as far as the other side accepts them.

use std::{
    cell::Cell,
    convert::Infallible,
    future::{Future, pending},
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use tokio::{
    select,
    time::{sleep, timeout},
};

use super::{
    abort::AbortHandle,
    direction::Direction,
    end::{ConnectionEnd, SideError},
    relay::{pump, stall},
    reset_evidence::ResetEvidence,
    side::{PerSide, Side},
    traffic::Traffic,
};
use crate::{
    io::{ready, ring, stream::Stream},
    sys,
};

/// How long a side may take to send FIN after the other side's reset. Then the reset is passed on.
/// A server that has received `QUIT` sends FIN within this time, and a server that has not sends no
/// FIN at all.
const FIN_TIMEOUT: Duration = Duration::from_millis(20);

/// How long the last bytes of a side may take to be delivered after its reset. The other side may
/// read them slowly. The connection keeps its permit and its buffer for this time.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(30);

/// A client and its server.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) client: Rc<Stream>,
    pub(crate) backend: Rc<Stream>,
    /// The connection's counters.
    pub(crate) traffic: Arc<Traffic>,
    /// Ends the connection from outside.
    pub(crate) abort: Arc<AbortHandle>,
}

/// How a run of both directions stopped.
pub(crate) enum Run<P> {
    /// The connection has ended.
    Ended(ConnectionEnd),
    /// The run was paused: the connection continues.
    Paused(P),
}

impl Pair {
    /// The direction that comes from a side.
    pub(super) fn direction(&self, from: Side) -> Direction {
        let (source, target) = (Rc::clone(self.stream(from)), Rc::clone(self.stream(!from)));
        Direction { source, target, from }
    }

    /// The stream of a side.
    pub(super) fn stream(&self, side: Side) -> &Rc<Stream> {
        match side {
            Side::Client => &self.client,
            Side::Backend => &self.backend,
        }
    }

    /// Runs both directions to their end, then closes both streams as the end requires. `up` comes
    /// from the client, `down` from the backend. A side whose direction has ended is still watched:
    /// its reset ends the other direction.
    ///
    /// The directions are passed pinned. By value each caller's future would contain them again,
    /// and they are most of the memory of an idle connection.
    pub(crate) async fn run(
        &self,
        up: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        down: Pin<&mut impl Future<Output = Result<(), SideError>>>,
    ) -> ConnectionEnd {
        let Run::Ended(end) = self.run_until(pending::<Infallible>(), up, down).await;
        end
    }

    /// Like [`run`](Self::run), but stops when `pause` is ready. Then both streams are open, and
    /// both directions may be dropped where they stopped. `pause` is polled whenever neither
    /// direction can continue at once.
    pub(crate) async fn run_until<P>(
        &self,
        pause: impl Future<Output = P>,
        mut up: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        mut down: Pin<&mut impl Future<Output = Result<(), SideError>>>,
    ) -> Run<P> {
        let directions = Directions::default();
        let end = select! {
            biased;
            result = self.both(up.as_mut(), down.as_mut(), &directions) => result,
            () = self.abort.requested() => {
                return Run::Ended(self.close(ConnectionEnd::Aborted).await);
            }
            paused = pause => return Run::Paused(paused),
        };
        let end = match end {
            Ok(()) => ConnectionEnd::Clean,
            Err(error) => {
                // The end if the last bytes cannot be delivered in time.
                let undelivered = SideError { side: error.side, error: error.error.kind().into() };
                // Boxed: most connections do not fail.
                Box::pin(async {
                    select! {
                        biased;
                        end = self.deliver_last_bytes(error, up, down, &directions) => end,
                        () = self.abort.requested() => ConnectionEnd::Failed(undelivered),
                        () = sleep(DELIVERY_TIMEOUT) => ConnectionEnd::Failed(undelivered),
                    }
                })
                .await
            }
        };
        Run::Ended(self.close(end).await)
    }

    /// Like [`run`](Self::run), for directions whose bytes do not pass through the two streams: an
    /// error ends both directions at once.
    pub(crate) async fn run_bypassed(
        &self,
        up: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        down: Pin<&mut impl Future<Output = Result<(), SideError>>>,
    ) -> ConnectionEnd {
        let directions = Directions::default();
        let end = select! {
            biased;
            result = self.both(up, down, &directions) => match result {
                Ok(()) => ConnectionEnd::Clean,
                Err(error) => ConnectionEnd::Failed(error),
            },
            () = self.abort.requested() => ConnectionEnd::Aborted,
        };
        self.close(end).await
    }

    /// Prepares both streams for the close that the end requires.
    async fn close(&self, end: ConnectionEnd) -> ConnectionEnd {
        let orderly = match end {
            ConnectionEnd::Clean => true,
            ConnectionEnd::Aborted => self.abort.is_orderly(),
            ConnectionEnd::ResetAfterEnd(_) | ConnectionEnd::Failed(_) => false,
        };
        if orderly {
            // An error means that the socket has no connection any more.
            let _ = self.client.close_cleanly();
            let _ = self.backend.close_cleanly();
        }
        if !matches!(end, ConnectionEnd::Clean) {
            ring::cancel(&self.client).await;
            ring::cancel(&self.backend).await;
        }
        end
    }

    async fn both(
        &self,
        mut up: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        mut down: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        directions: &Directions,
    ) -> Result<(), SideError> {
        select! {
            biased;
            result = &mut up => {
                directions.record(Side::Client, &result);
                result?;
                self.traffic.set_half_closed();
                let ended = self.direction(Side::Client);
                select! {
                    biased;
                    result = &mut down => {
                        directions.record(Side::Backend, &result);
                        result
                    }
                    error = pump::wait_for_source_error(&ended) => Err(error),
                }
            }
            result = &mut down => {
                directions.record(Side::Backend, &result);
                result?;
                self.traffic.set_half_closed();
                let ended = self.direction(Side::Backend);
                select! {
                    biased;
                    result = &mut up => {
                        directions.record(Side::Client, &result);
                        result
                    }
                    error = pump::wait_for_source_error(&ended) => Err(error),
                }
            }
        }
    }

    /// Delivers the bytes that a side sent before it failed, and returns how the connection ended.
    async fn deliver_last_bytes(
        &self,
        error: SideError,
        up: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        down: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        directions: &Directions,
    ) -> ConnectionEnd {
        let side = error.side;
        if !directions.is_over(side) {
            // A write to the side may have found the error, and the side's last bytes are still
            // unread.
            let result = match side {
                Side::Client => up.await,
                Side::Backend => down.await,
            };
            directions.record(side, &result);
        }
        stall::acknowledged(self.stream(!side)).await;
        if !error.is_reset() {
            return ConnectionEnd::Failed(error);
        }
        if self.evidence(side, directions).is_some_and(ResetEvidence::depends_on_other_end) {
            let _ = timeout(FIN_TIMEOUT, ready::ended(self.stream(!side))).await;
        }
        match self.evidence(side, directions) {
            Some(evidence) if evidence.is_in_order() => ConnectionEnd::ResetAfterEnd(side),
            _ => ConnectionEnd::Failed(error),
        }
    }

    /// The state of a connection that the side `reset` has reset; `None` if the kernel no longer
    /// reports it.
    fn evidence(&self, reset: Side, directions: &Directions) -> Option<ResetEvidence> {
        let acked = sys::send_state(&**self.stream(reset)).ok()?.acked;
        let received = sys::bytes_received(&**self.stream(!reset)).ok()?;
        Some(ResetEvidence {
            reset,
            client_ended: self.has_ended(Side::Client, directions),
            backend_ended: self.has_ended(Side::Backend, directions),
            // Each count may include a FIN.
            refused: received.saturating_sub(acked),
        })
    }

    /// Whether a side has sent its FIN, read or not.
    fn has_ended(&self, side: Side, directions: &Directions) -> bool {
        let stream = self.stream(side);
        directions.has_ended(side)
            || match stream.error() {
                // The kernel's error for a reset after a FIN (net/ipv4/tcp_input.c, tcp_reset).
                Some(kind) => kind == io::ErrorKind::BrokenPipe,
                None => sys::poll_now(&**stream, libc::POLLRDHUP).is_ok_and(|events| {
                    events & (libc::POLLRDHUP | libc::POLLERR) == libc::POLLRDHUP
                }),
            }
    }
}

/// The states of the two directions, by the side that each direction comes from.
#[derive(Default)]
struct Directions {
    over: PerSide<Cell<bool>>,
    ended: PerSide<Cell<bool>>,
}

impl Directions {
    /// Records the result of a direction.
    fn record(&self, side: Side, result: &Result<(), SideError>) {
        self.over[side].set(true);
        self.ended[side].set(result.is_ok());
    }

    /// Whether a direction has a result.
    fn is_over(&self, side: Side) -> bool {
        self.over[side].get()
    }

    /// Whether a side's FIN was read and passed on.
    fn has_ended(&self, side: Side) -> bool {
        self.ended[side].get()
    }
}
