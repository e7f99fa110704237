//! Asks the peers of a spliced connection whether they still know it.
//!
//! A reset counts only with the number that the other peer expects next. One with another number in the
//! window may be a peer's own, sent behind bytes that are not acknowledged yet, or a stranger's. Both
//! peers are asked then for a sign of life: one that has forgotten the connection answers with a reset
//! whose number is that of the question's acknowledgement. Invariant: a stranger's reset costs a few
//! questions, and never the connection.

use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

use super::{join::Joint, teardown};
use crate::{datapath::pair::Pair, sys};

/// How often the peers are asked about one reset, as a question or its answer may be lost.
const QUESTIONS: u32 = 5;

/// How long an answer is waited for. A peer answers only every half second
/// (net/ipv4/tcp_input.c, `tcp_oow_rate_limited`).
const PAUSE: Duration = Duration::from_millis(500);

/// A reset that is neither believed nor ignored.
#[derive(Debug, Default)]
pub(super) struct Doubt {
    suspect: Cell<Option<usize>>,
    left: Cell<u32>,
    due: Cell<Option<Instant>>,
    /// By side: our socket was given other numbers.
    holds_port: [Cell<bool>; 2],
    /// When the suspect had last been heard, in nanoseconds of CLOCK_MONOTONIC.
    asked: Cell<u64>,
}

impl Doubt {
    /// The side whose reset is in doubt.
    pub(super) fn suspect(&self) -> Option<usize> {
        self.suspect.get()
    }

    /// When [`ask`] is to be called again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.get()
    }
}

/// Asks the peers if a reset is in doubt and it is time to.
///
/// # Errors
/// When a connection is gone, with its side.
pub(super) fn ask(joint: &Joint, pair: &Pair) -> Result<(), (usize, io::Error)> {
    let Joint { slot, doubt, .. } = joint;
    for side in 0..2 {
        if slot.take_doubt(side) && doubt.due.get().is_none() {
            doubt.suspect.set(Some(side));
            doubt.left.set(QUESTIONS);
            doubt.due.set(Some(Instant::now()));
            doubt.asked.set(slot.last(side));
        }
    }
    let (Some(suspect), Some(due)) = (doubt.suspect.get(), doubt.due.get()) else { return Ok(()) };
    if Instant::now() < due {
        return Ok(());
    }
    if slot.last(suspect) > doubt.asked.get() || doubt.left.get() == 0 {
        // It is there, or nothing answers, as without balance.
        doubt.due.set(None);
        doubt.suspect.set(None);
        return Ok(());
    }
    doubt.left.set(doubt.left.get() - 1);
    doubt.due.set(Some(Instant::now() + PAUSE));
    for side in 0..2 {
        probe(joint, pair, side).map_err(|error| (side, error))?;
    }
    Ok(())
}

/// Asks a side's peer for a sign of life.
///
/// # Errors
/// When the connection is gone.
pub(super) fn probe(joint: &Joint, pair: &Pair, side: usize) -> io::Result<()> {
    if joint.is_idle() {
        // A reset in answer has the number that the question acknowledges.
        teardown::renumber(&joint.slot, pair, side, &joint.doubt.holds_port[side])?;
    }
    sys::send_window_probe(&**[&pair.client, &pair.backend][side])
}
