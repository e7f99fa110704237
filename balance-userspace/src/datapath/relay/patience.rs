//! How long the bytes of a side that has broken may take to get to the other side.
//!
//! Invariant: the wait goes on while the receiver acknowledges bytes, and ends soon after it stops.

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

/// How long a receiver may acknowledge nothing: some round trips and retransmissions.
const STALL: Duration = Duration::from_secs(2);

/// Pauses between two looks at a send queue.
const SHORTEST: Duration = Duration::from_micros(500);
const LONGEST: Duration = Duration::from_millis(20);

/// A wait for a receiver.
#[derive(Debug)]
pub(crate) struct Patience {
    acked: u64,
    since: Instant,
}

impl Patience {
    /// For a receiver that has acknowledged so much by now.
    pub(crate) fn new(acked: u64, now: Instant) -> Self {
        Self { acked, since: now }
    }

    /// Whether the wait goes on for a receiver that has acknowledged so much by now.
    pub(crate) fn allows(&mut self, acked: u64, now: Instant) -> bool {
        if acked != self.acked {
            *self = Self::new(acked, now);
        }
        now.duration_since(self.since) < STALL
    }
}

/// Waits for room at the target of a direction whose source has broken as told.
pub(crate) async fn room(direction: &Direction, broken: SideError) -> Result<(), SideError> {
    let broke = |e| direction.target_error(e);
    let target = &direction.target;
    let mut patience =
        Patience::new(sys::send_state(&**target).map_err(broke)?.acked, Instant::now());
    // One wait all along: a wait that is dropped stays in the ring until there is room.
    let mut room = pin!(ready::writable(target));
    loop {
        select! {
            biased;
            room = &mut room => return room.map_err(broke),
            () = sleep(STALL / 4) => {
                let state = sys::send_state(&**target).map_err(broke)?;
                if !patience.allows(state.acked, Instant::now()) {
                    return Err(broken);
                }
            }
        }
    }
}

/// Waits until the peer of `target` has acknowledged all that was written, so that a reset does not
/// take its place: a reset discards what is still to be sent, and what is lost on the way is not
/// sent again.
pub(crate) async fn acknowledged(target: &Stream) {
    let mut patience: Option<Patience> = None;
    let mut pause = SHORTEST;
    while let Ok(state) = sys::send_state(target)
        && state.unacked > 0
        && !state.closed
    {
        let now = Instant::now();
        if !patience.get_or_insert_with(|| Patience::new(state.acked, now)).allows(state.acked, now)
        {
            return;
        }
        sleep(pause).await;
        pause = LONGEST.min(pause * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_goes_on_while_something_is_acknowledged() {
        let begin = Instant::now();
        let mut patience = Patience::new(0, begin);
        for turn in 1..100u32 {
            assert!(patience.allows(turn.into(), begin + STALL * turn));
        }
        assert!(patience.allows(99, begin + STALL * 99 + STALL / 2));
        assert!(!patience.allows(99, begin + STALL * 100));
    }
}
