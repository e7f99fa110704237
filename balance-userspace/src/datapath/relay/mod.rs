//! The relay: bytes pass through user space. It works on every kernel, without privileges, and
//! takes the connections that the other datapaths cannot.
//!
//! Invariant: each direction has at most one buffer, and none while it waits for bytes.

pub(crate) mod buffers;
pub(crate) mod dump;
pub(crate) mod pump;
pub(crate) mod stall;

use std::{
    cell::Cell,
    future::{pending, poll_fn},
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::Poll,
};

use super::{
    direction::Direction,
    end::{ConnectionReport, SideError},
    name::DatapathName,
    pair::{Pair, Run},
    relay::{buffers::BufferPool, pump::Received},
    side::Side,
};
use crate::io::ready::{self, ReadGuard};

/// Buffers that a direction may move before other connections of the worker run.
const BUFFERS_PER_TURN: u32 = 2;

/// A direction that has moved this many buffers waits through epoll. Epoll costs one
/// system call per connection and none per wait. The ring costs none per connection and one per
/// wait. See bench/README.md.
const EPOLL_AFTER: u32 = 16;

/// Carries a pair to its end. With `dump` prints its bytes on standard output.
pub(crate) async fn carry(pair: &Pair, pool: &BufferPool, dump: bool) -> ConnectionReport {
    let [a, b] = [Progress::default(), Progress::default()];
    let up =
        pin!(relay_direction(pair.direction(Side::Client), pool, &pair.traffic.sent, dump, &a));
    let down =
        pin!(relay_direction(pair.direction(Side::Backend), pool, &pair.traffic.rcvd, dump, &b));
    let end = pair.run(up, down).await;
    ConnectionReport { datapath: DatapathName::Relay, end }
}

/// Carries a pair until it ends or both directions together have moved `buffers` buffers. `None`:
/// the pair continues, user space holds no byte of it, neither side has ended, and another datapath
/// may take it.
pub(crate) async fn carry_first(
    pair: &Pair,
    pool: &BufferPool,
    buffers: u32,
) -> Option<ConnectionReport> {
    carry_first_until(pair, pool, buffers, pending()).await
}

/// Like [`carry_first`], but also returns `None` after fewer buffers, once `deadline` is ready.
pub(super) async fn carry_first_until(
    pair: &Pair,
    pool: &BufferPool,
    buffers: u32,
    deadline: impl Future<Output = ()>,
) -> Option<ConnectionReport> {
    if buffers == 0 {
        return None;
    }
    let [a, b] = [Progress::default(), Progress::default()];
    let (mut deadline, mut is_late) = (pin!(deadline), false);
    let enough = poll_fn(|context| {
        is_late = is_late || deadline.as_mut().poll(context).is_ready();
        let moved = a.buffers.get().saturating_add(b.buffers.get());
        // No waker is needed: a direction that moves a buffer or starts to wait runs in the task
        // that polls this future.
        if (is_late || moved >= buffers) && a.is_waiting.get() && b.is_waiting.get() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    let up =
        pin!(relay_direction(pair.direction(Side::Client), pool, &pair.traffic.sent, false, &a));
    let down =
        pin!(relay_direction(pair.direction(Side::Backend), pool, &pair.traffic.rcvd, false, &b));
    match pair.run_until(enough, up, down).await {
        Run::Ended(end) => Some(ConnectionReport { datapath: DatapathName::Relay, end }),
        Run::Paused(()) => {
            pair.client.leave_epoll();
            pair.backend.leave_epoll();
            None
        }
    }
}

/// The progress of a direction.
#[derive(Default)]
struct Progress {
    /// Buffers that the direction has moved.
    buffers: Cell<u32>,
    /// The direction waits for its source, and holds no byte.
    is_waiting: Cell<bool>,
}

/// Moves bytes until the source ends, then passes the FIN on. Adds the bytes to `moved`.
async fn relay_direction(
    direction: Direction,
    pool: &BufferPool,
    moved: &AtomicU64,
    dump: bool,
    progress: &Progress,
) -> Result<(), SideError> {
    loop {
        progress.is_waiting.set(true);
        let is_frequent = progress.buffers.get() >= EPOLL_AFTER;
        // On a shortage of kernel memory the ring serves as well.
        let registration = if is_frequent { direction.source.registration().ok() } else { None };
        let mut guard = None;
        match &registration {
            Some(registration) => {
                let ready = ready::readable_epoll(registration).await;
                guard = Some(ready.map_err(|e| direction.source_error(e))?);
            }
            None => pump::readable(&direction).await?,
        }
        progress.is_waiting.set(false);
        for _ in 0..BUFFERS_PER_TURN {
            match pump::receive(&direction, pool)? {
                Received::Bytes(buffer, n) => {
                    progress.buffers.set(progress.buffers.get().saturating_add(1));
                    if dump {
                        dump::print(direction.from(), &buffer[..n]);
                    }
                    pump::send_all(&direction, &buffer[..n]).await?;
                    moved.fetch_add(n as u64, Relaxed);
                    if n < buffer.len() {
                        // The read probably emptied the receive queue.
                        guard.iter_mut().for_each(ReadGuard::read_was_short);
                        break;
                    }
                }
                Received::Nothing => {
                    guard.iter_mut().for_each(ReadGuard::read_would_block);
                    break;
                }
                Received::End => {
                    if dump {
                        dump::print(direction.from(), &[]);
                    }
                    direction.end_target();
                    return Ok(());
                }
            }
        }
    }
}
