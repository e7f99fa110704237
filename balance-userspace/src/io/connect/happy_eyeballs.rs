//! Several addresses of one channel: attempts overlap, and the first that connects wins ("Happy
//! Eyeballs", RFC 8305).
//!
//! Invariants: an attempt has at least [`MIN_TIME`], unless the limit ends it. A client has at most
//! [`MAX_ATTEMPTS`] attempts at the same time, and each beyond the first has a permit of the
//! process. Attempts that do not win are closed.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use tokio::{
    select,
    sync::SemaphorePermit,
    time::{Instant, sleep_until},
};

use super::{ConnectError, Connector, finish};
use crate::io::{ring, stream::Stream};

/// The time from one attempt to the next while none has an answer (RFC 8305, section 8, "Connection
/// Attempt Delay").
const DELAY: Duration = Duration::from_millis(250);

/// The time that an attempt has before it may be given up for the next one.
const MIN_TIME: Duration = Duration::from_secs(1);

/// Attempts of one client at the same time: as many as start within [`MIN_TIME`].
const MAX_ATTEMPTS: usize = (MIN_TIME.as_millis() / DELAY.as_millis()) as usize;

/// Connects to the first of the addresses that answers. Tries them in order, each [`DELAY`] after
/// the one before, or as soon as the one before has failed.
pub(super) async fn connect(
    connector: &Connector,
    addresses: &[SocketAddr],
    end: Instant,
    mss: Option<u32>,
) -> Result<(Rc<Stream>, SocketAddr), ConnectError> {
    let mut attempts =
        AddressAttempts { connector, pending: Vec::with_capacity(MAX_ATTEMPTS), error: None };
    let mut left = addresses.iter().copied().peekable();
    let mut due = Instant::now();
    loop {
        while due <= Instant::now()
            && let Some(&address) = left.peek()
        {
            let permit = match attempts.make_room().await {
                Ok(permit) => permit,
                Err(time) => {
                    due = time;
                    break;
                }
            };
            let started = connector.start(address, mss);
            match started.map_err(|source| ConnectError { address, source }) {
                Ok(stream) => {
                    attempts.add(address, stream, permit);
                    due = Instant::now() + DELAY;
                }
                Err(error) if error.is_shortage() && !attempts.pending.is_empty() => {
                    due = Instant::now() + DELAY;
                    break;
                }
                Err(error) if error.is_shortage() => return Err(error),
                Err(error) => attempts.record(error),
            }
            left.next();
        }
        if attempts.pending.is_empty() {
            return Err(attempts.error.expect("a channel has an address"));
        }
        let wake = if left.peek().is_some() { due.min(end) } else { end };
        select! {
            biased;
            (attempt, result) = attempts.next_result() => match result {
                Ok(()) => {
                    attempts.give_up_all().await;
                    return Ok((attempt.stream, attempt.address));
                }
                Err(source) => {
                    attempts.record(ConnectError { address: attempt.address, source });
                    due = Instant::now();
                }
            },
            () = sleep_until(wake) => if wake == end {
                attempts.give_up_all().await;
                return Err(attempts.error.expect("an attempt was given up"));
            },
        }
    }
}

/// The attempts for one client.
struct AddressAttempts<'a> {
    connector: &'a Connector,
    /// In the order in which they started.
    pending: Vec<AddressAttempt<'a>>,
    /// The error to report if no address answers.
    error: Option<ConnectError>,
}

struct AddressAttempt<'a> {
    address: SocketAddr,
    stream: Rc<Stream>,
    started: Instant,
    result: Pin<Box<dyn Future<Output = io::Result<()>>>>,
    /// The permit for the descriptor. The first attempt of a client needs none.
    permit: Option<SemaphorePermit<'a>>,
}

impl<'a> AddressAttempts<'a> {
    /// Makes room for another attempt, if necessary by giving up the oldest one. Returns the permit
    /// for the new attempt.
    ///
    /// # Errors
    /// The time until which there is no room.
    async fn make_room(&mut self) -> Result<Option<SemaphorePermit<'a>>, Instant> {
        let Some(oldest) = self.pending.first() else { return Ok(None) };
        if self.pending.len() < MAX_ATTEMPTS
            && let Ok(permit) = self.connector.extra.try_acquire()
        {
            return Ok(Some(permit));
        }
        let until = oldest.started + MIN_TIME;
        if Instant::now() < until { Err(until) } else { Ok(self.give_up(0).await) }
    }

    fn add(
        &mut self,
        address: SocketAddr,
        stream: Rc<Stream>,
        permit: Option<SemaphorePermit<'a>>,
    ) {
        let connecting = Rc::clone(&stream);
        let result = Box::pin(async move { finish(&connecting).await });
        self.pending.push(AddressAttempt {
            address,
            stream,
            started: Instant::now(),
            result,
            permit,
        });
    }

    /// Waits until an attempt has succeeded or failed, and removes it.
    async fn next_result(&mut self) -> (AddressAttempt<'a>, io::Result<()>) {
        let pending = &mut self.pending;
        let (i, result) = poll_fn(|context| {
            for (i, attempt) in pending.iter_mut().enumerate() {
                if let Poll::Ready(result) = attempt.result.as_mut().poll(context) {
                    return Poll::Ready((i, result));
                }
            }
            Poll::Pending
        })
        .await;
        (self.pending.remove(i), result)
    }

    /// Closes an attempt, and returns its permit.
    async fn give_up(&mut self, i: usize) -> Option<SemaphorePermit<'a>> {
        let attempt = self.pending.remove(i);
        ring::cancel(&attempt.stream).await;
        self.record(ConnectError::timed_out(attempt.address));
        attempt.permit
    }

    async fn give_up_all(&mut self) {
        while !self.pending.is_empty() {
            self.give_up(0).await;
        }
    }

    /// Keeps the latest error. Port exhaustion, which can be permanent, is kept only if there is no
    /// other error.
    fn record(&mut self, error: ConnectError) {
        if self.error.is_none() || !error.is_port_exhaustion() {
            self.error = Some(error);
        }
    }
}
