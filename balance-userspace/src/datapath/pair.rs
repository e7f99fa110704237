//! A connected pair, how its two directions end together, and what is reported of it.
//!
//! Invariants: a clean end is reported, and passed on, only when both directions have ended and
//! every byte was written; anything else resets both ends. What a side sent before it broke is
//! delivered before its reset is passed on, as far as the other side takes it.

use std::{
    cell::Cell,
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
    ending::{Evidence, depends_on_other_end, is_in_order},
    relay::{patience, pump},
    side::Side,
    traffic::Traffic,
};
use crate::{
    io::{ready, ring, stream::Stream},
    sys,
};

/// How long the end of a side may take after the other side's reset, which is not passed on before: a
/// server that has been told `QUIT` ends within that, one that has not does not end at all.
const MOMENT: Duration = Duration::from_millis(20);

/// How long the delivery of a side's last bytes may take after its reset, however slowly the other side
/// takes them: the connection keeps its permit and its buffer for so long.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// A client and the backend that was found for it.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) client: Rc<Stream>,
    pub(crate) backend: Rc<Stream>,
    /// Counts along.
    pub(crate) traffic: Arc<Traffic>,
    /// Ends the connection from outside.
    pub(crate) abort: Arc<AbortHandle>,
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

    fn stream(&self, side: Side) -> &Rc<Stream> {
        match side {
            Side::Client => &self.client,
            Side::Backend => &self.backend,
        }
    }

    /// Runs both directions to their end, then closes both streams in the way that the end
    /// asks for. A side whose direction has ended is still watched: its reset ends the other.
    /// The directions come pinned: passed by value they would be stored again at every level,
    /// and make up most of what an idle connection costs.
    pub(crate) async fn run(
        &self,
        up: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        down: Pin<&mut impl Future<Output = Result<(), SideError>>>,
    ) -> ConnectionEnd {
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
        mut up: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        mut down: Pin<&mut impl Future<Output = Result<(), SideError>>>,
    ) -> Option<ConnectionEnd> {
        let course = Course::default();
        let end = select! {
            biased;
            result = self.both(up.as_mut(), down.as_mut(), &course) => result,
            () = self.abort.cancelled() => return Some(self.close(ConnectionEnd::Aborted).await),
            () = pause => return None,
        };
        let end = match end {
            Ok(()) => ConnectionEnd::Clean,
            // On the heap: most connections do without.
            Err(broken) => {
                // What is not delivered by then makes the end of the stream no better.
                let told = SideError { side: broken.side, error: broken.error.kind().into() };
                Box::pin(async {
                    select! {
                        biased;
                        end = self.last_words(broken, up, down, &course) => end,
                        () = self.abort.cancelled() => ConnectionEnd::Failed(told),
                        () = sleep(LAST_WORDS) => ConnectionEnd::Failed(told),
                    }
                })
                .await
            }
        };
        Some(self.close(end).await)
    }

    /// Like [`run`](Self::run), for directions whose bytes do not go through the two streams: a
    /// break ends both at once.
    pub(crate) async fn run_apart(
        &self,
        up: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        down: Pin<&mut impl Future<Output = Result<(), SideError>>>,
    ) -> ConnectionEnd {
        let course = Course::default();
        let end = select! {
            biased;
            result = self.both(up, down, &course) => result.map_or_else(ConnectionEnd::Failed, |()| ConnectionEnd::Clean),
            () = self.abort.cancelled() => ConnectionEnd::Aborted,
        };
        self.close(end).await
    }

    /// Lets both streams go in the way that the end asks for.
    async fn close(&self, end: ConnectionEnd) -> ConnectionEnd {
        let orderly = match end {
            ConnectionEnd::Clean => true,
            ConnectionEnd::Aborted => self.abort.is_orderly(),
            ConnectionEnd::ResetAfterEnd(_) | ConnectionEnd::Failed(_) => false,
        };
        if orderly {
            // A socket that is gone by now has nothing left to deliver either.
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
        course: &Course,
    ) -> Result<(), SideError> {
        select! {
            biased;
            result = &mut up => {
                course.note(Side::Client, &result);
                result?;
                self.traffic.end_one_way();
                let ended = self.up();
                select! {
                    biased;
                    result = &mut down => {
                        course.note(Side::Backend, &result);
                        result
                    }
                    broken = pump::watch(&ended) => Err(broken),
                }
            }
            result = &mut down => {
                course.note(Side::Backend, &result);
                result?;
                self.traffic.end_one_way();
                let ended = self.down();
                select! {
                    biased;
                    result = &mut up => {
                        course.note(Side::Client, &result);
                        result
                    }
                    broken = pump::watch(&ended) => Err(broken),
                }
            }
        }
    }

    /// Delivers what the side that broke has sent before, and says how the connection ended.
    async fn last_words(
        &self,
        broken: SideError,
        up: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        down: Pin<&mut impl Future<Output = Result<(), SideError>>>,
        course: &Course,
    ) -> ConnectionEnd {
        let side = broken.side;
        if !course.is_over(side) {
            // Its break may have been found by writing to it, with its last bytes unread.
            let result = match side {
                Side::Client => up.await,
                Side::Backend => down.await,
            };
            course.note(side, &result);
        }
        patience::acknowledged(self.stream(side.other())).await;
        if !broken.is_reset() {
            return ConnectionEnd::Failed(broken);
        }
        if self.evidence(side, course).is_some_and(depends_on_other_end) {
            let _ = timeout(MOMENT, ready::ended(self.stream(side.other()))).await;
        }
        match self.evidence(side, course) {
            Some(evidence) if is_in_order(evidence) => ConnectionEnd::ResetAfterEnd(side),
            _ => ConnectionEnd::Failed(broken),
        }
    }

    /// What is known of a connection that `reset` has reset.
    fn evidence(&self, reset: Side, course: &Course) -> Option<Evidence> {
        let acked = sys::send_state(&**self.stream(reset)).ok()?.acked;
        let received = sys::bytes_received(&**self.stream(reset.other())).ok()?;
        Some(Evidence {
            reset,
            client_ended: self.has_ended(Side::Client, course),
            backend_ended: self.has_ended(Side::Backend, course),
            // Each may have counted an end as a byte.
            refused: received.saturating_sub(acked),
        })
    }

    /// Whether a side has sent its FIN, read or not.
    fn has_ended(&self, side: Side, course: &Course) -> bool {
        let stream = self.stream(side);
        course.has_ended(side)
            || match stream.error() {
                // What the kernel says of a reset after a FIN (net/ipv4/tcp_input.c, tcp_reset).
                Some(kind) => kind == io::ErrorKind::BrokenPipe,
                None => sys::poll_now(&**stream, libc::POLLRDHUP).is_ok_and(|events| {
                    events & (libc::POLLRDHUP | libc::POLLERR) == libc::POLLRDHUP
                }),
            }
    }
}

/// How far the two directions have come, by the side that they come from.
#[derive(Default)]
struct Course {
    over: [Cell<bool>; 2],
    ended: [Cell<bool>; 2],
}

impl Course {
    /// Notes how a direction ended.
    fn note(&self, side: Side, result: &Result<(), SideError>) {
        self.over[side as usize].set(true);
        self.ended[side as usize].set(result.is_ok());
    }

    /// Whether there is nothing left to do for a direction.
    fn is_over(&self, side: Side) -> bool {
        self.over[side as usize].get()
    }

    /// Whether a side's FIN was read and passed on.
    fn has_ended(&self, side: Side) -> bool {
        self.ended[side as usize].get()
    }
}
