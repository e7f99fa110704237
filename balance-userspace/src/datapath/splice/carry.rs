//! Carries a connection on the splice datapath, from its first byte to its end.
//!
//! Invariant: a pair that is not joined is returned unchanged, with both streams open and no byte
//! held here.

use std::{io, pin::pin, sync::Arc, time::Duration};

use tokio::{
    select,
    time::{sleep, timeout_at},
};
use tracing::debug;

use super::{
    challenge,
    ineligible::Ineligible,
    join::{JoinedPair, NotJoined, join, observe},
    kernel::Kernel,
    teardown,
};
use crate::{
    datapath::{
        direction::Direction,
        end::{ConnectionEnd, ConnectionReport, SideError},
        name::DatapathName,
        pair::Pair,
        relay::{self, buffers::BufferPool},
        side::{PerSide, Side},
    },
    io::ring,
    sys,
};

/// Buffers that the relay moves while the program observes the first packets. Doubled before each
/// new attempt, up to the maximum.
const RELAYED_BUFFERS: u32 = 2;
const MAX_RELAYED_BUFFERS: u32 = 1024;

/// Time until a new attempt if no byte moves. Doubled before each new attempt, up to the maximum.
const IDLE: Duration = Duration::from_millis(10);
const MAX_IDLE: Duration = Duration::from_secs(60);

/// Attempts with moved bytes after which a peer whose packets the program has not seen counts as
/// not visible.
const MAX_UNSEEN: u32 = 8;

/// Carries a pair to its end. `None` if the pair cannot be joined.
pub(crate) async fn carry(
    kernel: &Arc<Kernel>,
    pair: &Pair,
    pool: &BufferPool,
) -> Option<ConnectionReport> {
    let give_up = |reason: Ineligible| {
        debug!(%reason, "not spliced");
        kernel.count_ineligible(reason);
    };
    let mut observed = observe(kernel, pair).map_err(give_up).ok()?;
    let (mut buffers, mut idle, mut unseen) = (RELAYED_BUFFERS, IDLE, 0);
    loop {
        let before = pair.traffic.read();
        if let Some(report) = relay::carry_first_until(pair, pool, buffers, sleep(idle)).await {
            return Some(report);
        }
        let reason;
        (observed, reason) = match join(observed, pair).await {
            Ok(joined) => return Some(carry_joined(kernel, joined, pair, pool).await),
            Err(not_joined) => not_joined,
        };
        let has_moved = pair.traffic.read() != before;
        unseen += u32::from(has_moved && matches!(reason, NotJoined::Unseen));
        if unseen == MAX_UNSEEN {
            give_up(Ineligible::Unseen);
            return None;
        }
        if let NotJoined::Never(reason) = reason {
            give_up(reason);
            return None;
        }
        if has_moved {
            buffers = MAX_RELAYED_BUFFERS.min(buffers * 2);
        }
        idle = MAX_IDLE.min(idle * 2);
    }
}

async fn carry_joined(
    kernel: &Arc<Kernel>,
    joined: JoinedPair,
    pair: &Pair,
    pool: &BufferPool,
) -> ConnectionReport {
    kernel.count_joined();
    let end = until_end(kernel, &joined, pair, pool).await;
    let end = match end {
        // The program resets a leftover socket that is in the way of a new connection.
        ConnectionEnd::Failed(_)
            if Side::BOTH.into_iter().all(|side| joined.slot.is_fin_acked(side)) =>
        {
            ConnectionEnd::Clean
        }
        ConnectionEnd::Failed(error) => {
            ConnectionEnd::Failed(joined.reset(&pair.direction(Side::Client)).unwrap_or(error))
        }
        other => other,
    };
    let JoinedPair { slot, .. } = joined;
    let end = match end {
        ConnectionEnd::Failed(error)
            if error.is_reset() && slot.evidence(error.side).is_in_order() =>
        {
            ConnectionEnd::ResetAfterEnd(error.side)
        }
        end => end,
    };
    match &end {
        ConnectionEnd::Clean => {
            teardown::close_silently(pair);
            kernel.linger(slot);
        }
        ConnectionEnd::Aborted if pair.abort.is_orderly() => teardown::end(&slot, pair),
        ConnectionEnd::ResetAfterEnd(_) | ConnectionEnd::Failed(_) | ConnectionEnd::Aborted => {
            teardown::reset(&slot, pair).await;
        }
    }
    ConnectionReport { datapath: DatapathName::Splice, end }
}

async fn until_end(
    kernel: &Arc<Kernel>,
    joined: &JoinedPair,
    pair: &Pair,
    pool: &BufferPool,
) -> ConnectionEnd {
    // The relay's pending operations would keep the streams open: no event completes them any more.
    ring::cancel(&pair.client).await;
    ring::cancel(&pair.backend).await;
    let directions = PerSide::from_fn(|side| joined.slot.number * 2 + side as u32);
    pair.traffic.start_offload(kernel, directions);
    let up = pin!(carry_direction(kernel, joined, pair.direction(Side::Client), pool, pair));
    let down = pin!(carry_direction(kernel, joined, pair.direction(Side::Backend), pool, pair));
    let end = pair.run_bypassed(up, down).await;
    pair.traffic.end_offload();
    end
}

/// Carries one direction until its FIN has been acknowledged or its source is gone.
async fn carry_direction(
    kernel: &Kernel,
    joined: &JoinedPair,
    direction: Direction,
    pool: &BufferPool,
    pair: &Pair,
) -> Result<(), SideError> {
    let ended = joined.pass_on_rest(kernel, &direction, pool, pair).await?;
    select! {
        biased;
        result = wait_for_end(joined, &direction, ended, pair) => result,
        error = joined.watch_late(kernel, &direction), if !ended => Err(error),
        error = wait_for_loss(joined, &direction, pair) => Err(direction.source_error(error)),
    }
}

/// Waits until the FIN has been acknowledged, or a peer has reset the connection. `ended` says that
/// the local socket has received the FIN and passed it on.
async fn wait_for_end(
    joined: &JoinedPair,
    direction: &Direction,
    ended: bool,
    pair: &Pair,
) -> Result<(), SideError> {
    let (slot, side) = (&joined.slot, direction.from());
    loop {
        joined.release(pair);
        let changed = slot.ending[side].notified();
        // If the local socket has passed the FIN on, the direction ends with the last
        // acknowledgement that the other local socket waits for. Checked before resets: a peer that
        // has ended and is gone answers every late packet with a RST.
        if slot.is_fin_acked(side) || ended && slot.is_drained(!side) {
            return Ok(());
        }
        challenge::probe_if_due(joined, pair)
            .map_err(|error| direction.error_of(error.side, error.error))?;
        // The other side's own direction may have ended already.
        if let Some(error) = joined.reset(direction) {
            return Err(error);
        }
        match joined.challenge.due() {
            Some(due) => drop(timeout_at(due.into(), changed).await),
            None => changed.await,
        }
    }
}

/// Waits until a peer answers no probes any more, for as long as the kernel would on a socket of
/// its own (tcp(7), tcp_keepalive_time and the settings after it).
async fn wait_for_loss(joined: &JoinedPair, direction: &Direction, pair: &Pair) -> io::Error {
    let (slot, source, side) = (&joined.slot, &direction.source, direction.from());
    let settings = || {
        let time = source.tcp_keepalive_time()?;
        Ok((time, source.tcp_keepalive_interval()?, source.tcp_keepalive_retries()?))
    };
    let (time, interval, retries) = match settings() {
        Ok(settings) => settings,
        Err(error) => return error,
    };
    let (mut unanswered, mut seen) = (0, 0);
    loop {
        let last = slot.last_packet_ns(side);
        if last != seen {
            (seen, unanswered) = (last, 0);
        }
        let silent = Duration::from_nanos(sys::monotonic().saturating_sub(last));
        if silent < time {
            sleep(time - silent).await;
            continue;
        }
        if unanswered == retries {
            return io::ErrorKind::TimedOut.into();
        }
        // The answer is forwarded to the other peer like any packet, and changes nothing there.
        if let Err(error) = challenge::probe(joined, pair, side) {
            return error;
        }
        unanswered += 1;
        sleep(interval).await;
    }
}
