//! Probes the peers of a spliced connection after a RST with an unexpected number.
//!
//! A RST ends the connection only with the number that the other peer expects next. A RST with
//! another number in the window may be the peer's own, sent behind bytes that are not acknowledged
//! yet, or an attacker's. User space then probes both peers. A peer that has lost the connection
//! answers with a RST whose number is the acknowledgement number of the probe.
//!
//! Invariant: an attacker's RST costs a few probes, and never the connection.

use std::{
    cell::Cell,
    io,
    time::{Duration, Instant},
};

use super::{join::JoinedPair, teardown};
use crate::{
    datapath::{
        end::SideError,
        pair::Pair,
        side::{PerSide, Side},
    },
    sys,
};

/// Probes because of one RST. A probe or its answer may be lost.
const MAX_PROBES: u32 = 5;

/// Wait for an answer. A peer answers at most every half second (net/ipv4/tcp_input.c,
/// `tcp_oow_rate_limited`).
const PAUSE: Duration = Duration::from_millis(500);

/// A RST that is neither valid nor outside the window.
#[derive(Debug, Default)]
pub(super) struct Challenge {
    suspect: Cell<Option<Side>>,
    probes_left: Cell<u32>,
    due: Cell<Option<Instant>>,
    /// The side's local socket was given other numbers.
    holds_port: PerSide<Cell<bool>>,
    /// When the suspect's last packet had arrived at the time of its RST, in nanoseconds of
    /// CLOCK_MONOTONIC.
    last_packet_ns: Cell<u64>,
}

impl Challenge {
    /// The side whose RST is being challenged.
    pub(super) fn suspect(&self) -> Option<Side> {
        self.suspect.get()
    }

    /// When [`probe_if_due`] must be called again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due.get()
    }
}

/// Probes the peers if a RST is being challenged and a probe is due.
///
/// # Errors
/// When a connection is gone, with its side.
pub(super) fn probe_if_due(joined: &JoinedPair, pair: &Pair) -> Result<(), SideError> {
    let JoinedPair { slot, challenge, .. } = joined;
    for side in Side::BOTH {
        if slot.take_rst_in_window(side) && challenge.due.get().is_none() {
            challenge.suspect.set(Some(side));
            challenge.probes_left.set(MAX_PROBES);
            challenge.due.set(Some(Instant::now()));
            challenge.last_packet_ns.set(slot.last_packet_ns(side));
        }
    }
    let (Some(suspect), Some(due)) = (challenge.suspect.get(), challenge.due.get()) else {
        return Ok(());
    };
    if Instant::now() < due {
        return Ok(());
    }
    let has_answered = slot.last_packet_ns(suspect) > challenge.last_packet_ns.get();
    if has_answered || challenge.probes_left.get() == 0 {
        // The suspect is alive, or no peer answers, as could happen without balance.
        challenge.due.set(None);
        challenge.suspect.set(None);
        return Ok(());
    }
    challenge.probes_left.set(challenge.probes_left.get() - 1);
    challenge.due.set(Some(Instant::now() + PAUSE));
    for side in Side::BOTH {
        probe(joined, pair, side).map_err(|error| SideError { side, error })?;
    }
    Ok(())
}

/// Probes a side's peer.
///
/// # Errors
/// When the connection is gone.
pub(super) fn probe(joined: &JoinedPair, pair: &Pair, side: Side) -> io::Result<()> {
    if joined.is_idle() {
        // A RST in answer has the acknowledgement number of the probe.
        teardown::renumber(&joined.slot, pair, side, &joined.challenge.holds_port[side])?;
    }
    sys::send_window_probe(&**pair.stream(side))
}
