//! Several addresses of one channel: attempts overlap, the first that connects wins (RFC 8305).
//!
//! Invariants: an attempt has at least [`LEAST`] unless the limit ends it; at most [`MOST`] are made
//! for one client at a time, and each beyond the first has a permit of the process; attempts that do
//! not win are closed.

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

use super::{Failed, Outgoing, begin, finish};
use crate::io::{ring, stream::Stream};

/// From one attempt to the next while none has an answer (RFC 8305, 8, "Connection Attempt Delay").
const DELAY: Duration = Duration::from_millis(250);

/// The time that an attempt has before it may give way to the next one.
const LEAST: Duration = Duration::from_secs(1);

/// Attempts for one client at a time: as many as begin within [`LEAST`].
const MOST: usize = (LEAST.as_millis() / DELAY.as_millis()) as usize;

/// Connects to the first of the addresses that answers. They are tried in their order, each after
/// [`DELAY`] or when the one before has failed.
pub(super) async fn connect(
    addresses: &[SocketAddr],
    end: Instant,
    segment: Option<u32>,
    how: &Outgoing,
) -> Result<(Rc<Stream>, SocketAddr), Failed> {
    let mut race = Race { how, attempts: Vec::with_capacity(MOST), failed: None };
    let mut left = addresses.iter().copied().peekable();
    let mut due = Instant::now();
    loop {
        while due <= Instant::now()
            && let Some(&address) = left.peek()
        {
            let permit = match race.make_room().await {
                Ok(permit) => permit,
                Err(time) => {
                    due = time;
                    break;
                }
            };
            match begin(address, segment, how).map_err(|source| Failed { address, source }) {
                Ok(stream) => {
                    race.add(address, stream, permit);
                    due = Instant::now() + DELAY;
                }
                Err(failed) if failed.is_shortage() && !race.attempts.is_empty() => {
                    due = Instant::now() + DELAY;
                    break;
                }
                Err(failed) if failed.is_shortage() => return Err(failed),
                Err(failed) => race.note(failed),
            }
            left.next();
        }
        if race.attempts.is_empty() {
            return Err(race.failed.expect("a channel has an address"));
        }
        let wake = if left.peek().is_some() { due.min(end) } else { end };
        select! {
            biased;
            (attempt, result) = race.answer() => match result {
                Ok(()) => {
                    race.give_up_all().await;
                    return Ok((attempt.stream, attempt.address));
                }
                Err(source) => {
                    race.note(Failed { address: attempt.address, source });
                    due = Instant::now();
                }
            },
            () = sleep_until(wake) => if wake == end {
                race.give_up_all().await;
                return Err(race.failed.expect("an attempt was given up"));
            },
        }
    }
}

/// The attempts for one client.
struct Race<'a> {
    how: &'a Outgoing,
    /// In the order in which they began.
    attempts: Vec<Attempt<'a>>,
    /// What is reported if no address answers.
    failed: Option<Failed>,
}

struct Attempt<'a> {
    address: SocketAddr,
    stream: Rc<Stream>,
    begun: Instant,
    answer: Pin<Box<dyn Future<Output = io::Result<()>>>>,
    /// For its descriptor, unless it is the client's first.
    permit: Option<SemaphorePermit<'a>>,
}

impl<'a> Race<'a> {
    /// Makes room for another attempt, if need be by giving up the oldest one. The permit is for the new
    /// one; the error is the time until which there is no room.
    async fn make_room(&mut self) -> Result<Option<SemaphorePermit<'a>>, Instant> {
        let Some(oldest) = self.attempts.first() else { return Ok(None) };
        if self.attempts.len() < MOST
            && let Ok(permit) = self.how.spare.try_acquire()
        {
            return Ok(Some(permit));
        }
        let until = oldest.begun + LEAST;
        if Instant::now() < until { Err(until) } else { Ok(self.give_up(0).await) }
    }

    fn add(
        &mut self,
        address: SocketAddr,
        stream: Rc<Stream>,
        permit: Option<SemaphorePermit<'a>>,
    ) {
        let waiting = Rc::clone(&stream);
        let answer = Box::pin(async move { finish(&waiting).await });
        self.attempts.push(Attempt { address, stream, begun: Instant::now(), answer, permit });
    }

    /// Waits for an attempt that has succeeded or failed, and takes it out.
    async fn answer(&mut self) -> (Attempt<'a>, io::Result<()>) {
        let attempts = &mut self.attempts;
        let (i, result) = poll_fn(|context| {
            for (i, attempt) in attempts.iter_mut().enumerate() {
                if let Poll::Ready(result) = attempt.answer.as_mut().poll(context) {
                    return Poll::Ready((i, result));
                }
            }
            Poll::Pending
        })
        .await;
        (self.attempts.remove(i), result)
    }

    /// Closes an attempt, and returns the permit that it had.
    async fn give_up(&mut self, i: usize) -> Option<SemaphorePermit<'a>> {
        let attempt = self.attempts.remove(i);
        ring::cancel(&attempt.stream).await;
        self.note(Failed::timed_out(attempt.address));
        attempt.permit
    }

    async fn give_up_all(&mut self) {
        while !self.attempts.is_empty() {
            self.give_up(0).await;
        }
    }

    /// Keeps the last failure, but a lack of ports, which may be for good, only if there is no other.
    fn note(&mut self, failed: Failed) {
        if self.failed.is_none() || !failed.is_portless() {
            self.failed = Some(failed);
        }
    }
}
