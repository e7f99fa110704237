//! Waits for the receiver of bytes whose sender has failed.
//!
//! Invariant: a wait continues while the receiver acknowledges bytes, and ends [`STALL_TIME`] after
//! the last progress.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use tokio::{select, time::sleep};

use crate::datapath::{direction::Direction, end::SideError};
use crate::{
    io::{ready, stream::Stream},
    sys,
};

/// The time after which a receiver without progress is stalled: several round trips and
/// retransmissions.
const STALL_TIME: Duration = Duration::from_secs(2);

/// The first and the longest pause between two polls of a send queue.
const FIRST_PAUSE: Duration = Duration::from_micros(500);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// Measures how long a receiver has made no progress.
#[derive(Debug)]
pub(crate) struct StallTimer {
    acked: u64,
    since: Instant,
}

impl StallTimer {
    /// Starts the timer with the receiver's current progress, `acked` bytes.
    pub(crate) fn new(acked: u64, now: Instant) -> Self {
        Self { acked, since: now }
    }

    /// Whether the receiver, whose progress is `acked` bytes now, has been without progress for
    /// [`STALL_TIME`].
    pub(crate) fn has_stalled(&mut self, acked: u64, now: Instant) -> bool {
        if acked != self.acked {
            *self = Self::new(acked, now);
        }
        now.duration_since(self.since) >= STALL_TIME
    }
}

/// Waits until the target of a direction has room.
///
/// # Errors
/// `source_error`, with which the source has failed, once the target has stalled.
pub(crate) async fn writable(
    direction: &Direction,
    source_error: SideError,
) -> Result<(), SideError> {
    let target_error = |e| direction.target_error(e);
    let target = &direction.target;
    let acked = sys::send_state(&**target).map_err(target_error)?.acked;
    let mut timer = StallTimer::new(acked, Instant::now());
    // One future for the whole wait: a dropped poll stays in the ring until there is room.
    let mut room = pin!(ready::writable(target));
    loop {
        select! {
            biased;
            room = &mut room => return room.map_err(target_error),
            () = sleep(STALL_TIME / 4) => {
                let state = sys::send_state(&**target).map_err(target_error)?;
                if timer.has_stalled(state.acked, Instant::now()) {
                    return Err(source_error);
                }
            }
        }
    }
}

/// Waits until the peer of `target` has acknowledged every byte that was written, or has stalled. A
/// reset before that would discard the bytes in the send queue, and bytes that the network has lost
/// would not be retransmitted.
pub(crate) async fn acknowledged(target: &Stream) {
    let mut timer: Option<StallTimer> = None;
    let mut pause = FIRST_PAUSE;
    while let Ok(state) = sys::send_state(target)
        && state.unacked > 0
        && !state.closed
    {
        let now = Instant::now();
        let timer = timer.get_or_insert_with(|| StallTimer::new(state.acked, now));
        if timer.has_stalled(state.acked, now) {
            return;
        }
        sleep(pause).await;
        pause = LONGEST_PAUSE.min(pause * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_stalls_only_without_progress() {
        let begin = Instant::now();
        let mut timer = StallTimer::new(0, begin);
        for turn in 1..100u32 {
            assert!(!timer.has_stalled(turn.into(), begin + STALL_TIME * turn));
        }
        assert!(!timer.has_stalled(99, begin + STALL_TIME * 99 + STALL_TIME / 2));
        assert!(timer.has_stalled(99, begin + STALL_TIME * 100));
    }
}
