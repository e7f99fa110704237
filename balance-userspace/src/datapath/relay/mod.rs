//! The relay: bytes pass through user space. Works everywhere, without privileges, and takes
//! what the other datapaths cannot.
//!
//! Invariant: at most one buffer for each direction, and none while it waits for bytes.

pub(crate) mod buffers;
pub(crate) mod dump;
pub(crate) mod patience;
pub(crate) mod pump;

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
    pair::Pair,
    relay::{buffers::BufferPool, pump::Received},
};
use crate::io::ready::{self, ReadGuard};

/// Buffers that one direction may move before others of the same worker get their turn.
const TURNS: u32 = 2;

/// A direction that has moved so many buffers waits through epoll: there a connection costs a
/// system call and a wait nothing, on the ring it is the other way round; see bench/README.md.
const OFTEN: u32 = 16;

/// Carries a pair to its end, and shows its bytes on standard output if asked to.
pub(crate) async fn carry(pair: &Pair, pool: &BufferPool, dump: bool) -> ConnectionReport {
    let [a, b] = [Progress::default(), Progress::default()];
    let up = pin!(one_way(pair.up(), pool, &pair.traffic.sent, dump, &a));
    let down = pin!(one_way(pair.down(), pool, &pair.traffic.rcvd, dump, &b));
    let end = pair.run(up, down).await;
    ConnectionReport { datapath: DatapathName::Relay, end }
}

/// Carries a pair until so many turns have been made, if it does not end before; then it may go
/// to another datapath: `None`. At that moment no byte is held here and neither side has ended.
pub(crate) async fn begin(pair: &Pair, pool: &BufferPool, turns: u32) -> Option<ConnectionReport> {
    begin_until(pair, pool, turns, pending()).await
}

/// The same, also if fewer turns have been made when `late` is ready.
pub(super) async fn begin_until(
    pair: &Pair,
    pool: &BufferPool,
    turns: u32,
    late: impl Future<Output = ()>,
) -> Option<ConnectionReport> {
    if turns == 0 {
        return None;
    }
    let [a, b] = [Progress::default(), Progress::default()];
    let (mut late, mut is_late) = (pin!(late), false);
    let enough = poll_fn(|context| {
        is_late = is_late || late.as_mut().poll(context).is_ready();
        let made = a.turns.get().saturating_add(b.turns.get());
        // Whoever makes a turn or comes to wait wakes the task that looks at this.
        if (is_late || made >= turns) && a.waits.get() && b.waits.get() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    });
    let up = pin!(one_way(pair.up(), pool, &pair.traffic.sent, false, &a));
    let down = pin!(one_way(pair.down(), pool, &pair.traffic.rcvd, false, &b));
    let end = pair.run_until(enough, up, down).await;
    if end.is_none() {
        pair.client.leave_epoll();
        pair.backend.leave_epoll();
    }
    Some(ConnectionReport { datapath: DatapathName::Relay, end: end? })
}

/// How far a direction has come.
#[derive(Default)]
struct Progress {
    /// Buffers that it has moved.
    turns: Cell<u32>,
    /// Whether it waits for its source, and so holds no byte.
    waits: Cell<bool>,
}

/// Moves bytes until the source ends, then passes the end on. `moved` counts along.
async fn one_way(
    direction: Direction,
    pool: &BufferPool,
    moved: &AtomicU64,
    dump: bool,
    progress: &Progress,
) -> Result<(), SideError> {
    loop {
        progress.waits.set(true);
        let often = progress.turns.get() >= OFTEN;
        // Where the kernel has no room for it, the ring will do.
        let registration = if often { direction.source.registration().ok() } else { None };
        let mut guard = None;
        match &registration {
            Some(registration) => {
                let ready = ready::readable_epoll(registration).await;
                guard = Some(ready.map_err(|e| direction.source_error(e))?);
            }
            None => pump::readable(&direction).await?,
        }
        progress.waits.set(false);
        for _ in 0..TURNS {
            match pump::receive(&direction, pool)? {
                Received::Bytes(buffer, n) => {
                    progress.turns.set(progress.turns.get().saturating_add(1));
                    if dump {
                        dump::print(direction.from(), &buffer[..n]);
                    }
                    pump::send_all(&direction, &buffer[..n]).await?;
                    moved.fetch_add(n as u64, Relaxed);
                    if n < buffer.len() {
                        // The source is empty, as far as one can tell.
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
