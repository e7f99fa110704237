//! A connection on the splice datapath, from its first byte to its end.
//!
//! Invariant: a pair that is not joined is given back as it was, with both streams open and no byte
//! held here.

use std::{io, pin::pin, sync::Arc, time::Duration};

use tokio::{
    select,
    time::{sleep, timeout_at},
};
use tracing::debug;

use super::{
    doubt,
    ineligible::Obstacle,
    join::{Joint, Refused, join, prepare},
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
    },
    io::ring,
    sys,
};

/// Buffers that the relay moves while the program sees the first packets; then twice as many before
/// each new attempt, up to the other number.
const WATCHED: u32 = 2;
const MOST_WATCHED: u32 = 1024;

/// When there is a new attempt although nothing moves; then after twice as long, up to the other time.
const QUIET: Duration = Duration::from_millis(10);
const MOST_QUIET: Duration = Duration::from_secs(60);

/// Attempts after which the program will not see the packets of a peer that it has not seen, although
/// bytes have moved.
const ATTEMPTS: u32 = 8;

/// Carries a pair to its end; `None` if it cannot be joined.
pub(crate) async fn carry(
    kernel: &Arc<Kernel>,
    pair: &Pair,
    pool: &BufferPool,
) -> Option<ConnectionReport> {
    let refuse = |obstacle: Obstacle| {
        debug!(reason = %obstacle, "not spliced");
        kernel.refuse(obstacle);
    };
    let mut watched = prepare(kernel, pair).map_err(refuse).ok()?;
    let (mut turns, mut quiet, mut unseen) = (WATCHED, QUIET, 0);
    loop {
        let before = pair.traffic.read();
        if let Some(report) = relay::carry_first_until(pair, pool, turns, sleep(quiet)).await {
            return Some(report);
        }
        let refused;
        (watched, refused) = match join(watched, pair).await {
            Ok(joint) => return Some(joined(kernel, joint, pair, pool).await),
            Err(refused) => refused,
        };
        let has_moved = pair.traffic.read() != before;
        unseen += u32::from(has_moved && matches!(refused, Refused::Unseen));
        if unseen == ATTEMPTS {
            refuse(Obstacle::Unseen);
            return None;
        }
        if let Refused::Never(obstacle) = refused {
            refuse(obstacle);
            return None;
        }
        if has_moved {
            turns = MOST_WATCHED.min(turns * 2);
        }
        quiet = MOST_QUIET.min(quiet * 2);
    }
}

async fn joined(
    kernel: &Arc<Kernel>,
    joint: Joint,
    pair: &Pair,
    pool: &BufferPool,
) -> ConnectionReport {
    kernel.joined();
    let end = until_end(kernel, &joint, pair, pool).await;
    // A socket of ours that is in the way of a new connection is reset by the program.
    let end = match end {
        ConnectionEnd::Failed(_) if joint.slot.is_over(0) && joint.slot.is_over(1) => {
            ConnectionEnd::Clean
        }
        ConnectionEnd::Failed(broken) => {
            ConnectionEnd::Failed(joint.broken(0, &pair.up()).unwrap_or(broken))
        }
        other => other,
    };
    let Joint { slot, .. } = joint;
    let end = match end {
        ConnectionEnd::Failed(broken)
            if broken.is_reset() && slot.evidence(broken.side).is_in_order() =>
        {
            ConnectionEnd::ResetAfterEnd(broken.side)
        }
        end => end,
    };
    match &end {
        ConnectionEnd::Clean => {
            teardown::silent(pair);
            kernel.linger(slot);
        }
        ConnectionEnd::ResetAfterEnd(_) | ConnectionEnd::Failed(_) => {
            teardown::break_off(slot, pair)
        }
        ConnectionEnd::Aborted if pair.abort.is_orderly() => teardown::end(slot, pair),
        ConnectionEnd::Aborted => teardown::break_off(slot, pair),
    }
    ConnectionReport { datapath: DatapathName::Splice, end }
}

async fn until_end(
    kernel: &Arc<Kernel>,
    joint: &Joint,
    pair: &Pair,
    pool: &BufferPool,
) -> ConnectionEnd {
    // The relay's last waits would keep the streams open: nothing that ends them comes any more.
    ring::cancel(&pair.client).await;
    ring::cancel(&pair.backend).await;
    let ways = [joint.slot.number * 2, joint.slot.number * 2 + 1];
    pair.traffic.start_offload(kernel, ways);
    let up = pin!(one_way(kernel, joint, 0, pair.up(), pool, pair));
    let down = pin!(one_way(kernel, joint, 1, pair.down(), pool, pair));
    let end = pair.run_bypassed(up, down).await;
    pair.traffic.end_offload();
    end
}

/// One direction, until its end has been acknowledged or its source is gone.
async fn one_way(
    kernel: &Kernel,
    joint: &Joint,
    i: usize,
    direction: Direction,
    pool: &BufferPool,
    pair: &Pair,
) -> Result<(), SideError> {
    let ended = joint.empty(kernel, i, &direction, pool, pair).await?;
    select! {
        biased;
        result = end_of(joint, i, &direction, ended, pair) => result,
        broken = joint.late(kernel, i, &direction), if !ended => Err(broken),
        error = vanishing(joint, i, &direction, pair) => Err(direction.source_error(error)),
    }
}

/// Waits until the end has been acknowledged, or a peer has broken the connection.
async fn end_of(
    joint: &Joint,
    i: usize,
    direction: &Direction,
    ended: bool,
    pair: &Pair,
) -> Result<(), SideError> {
    let slot = &joint.slot;
    loop {
        joint.release(pair);
        let told = slot.ending[i].notified();
        // Where our socket got the end and passed it on, it is over with the last acknowledgement
        // that our other socket waits for. Before resets: a peer that has ended and is gone answers
        // whatever is late with one.
        if slot.is_over(i) || ended && slot.is_settled(1 - i) {
            return Ok(());
        }
        doubt::ask(joint, pair).map_err(|(side, error)| match side == i {
            true => direction.source_error(error),
            false => direction.target_error(error),
        })?;
        // The other side's own direction may be over already.
        if let Some(broken) = joint.broken(i, direction) {
            return Err(broken);
        }
        match joint.doubt.due() {
            Some(due) => drop(timeout_at(due.into(), told).await),
            None => told.await,
        }
    }
}

/// Waits until a peer gives no sign of life any more, as long as the kernel would on a socket of
/// its own (tcp(7), tcp_keepalive_time and what follows it).
async fn vanishing(joint: &Joint, i: usize, direction: &Direction, pair: &Pair) -> io::Error {
    let (slot, source) = (&joint.slot, &direction.source);
    let settings = || {
        let time = source.tcp_keepalive_time()?;
        Ok((time, source.tcp_keepalive_interval()?, source.tcp_keepalive_retries()?))
    };
    let (patience, pause, most) = match settings() {
        Ok(settings) => settings,
        Err(error) => return error,
    };
    let (mut unanswered, mut heard) = (0, 0);
    loop {
        let last = slot.last(i);
        if last != heard {
            (heard, unanswered) = (last, 0);
        }
        let silent = Duration::from_nanos(sys::monotonic().saturating_sub(last));
        if silent < patience {
            sleep(patience - silent).await;
            continue;
        }
        if unanswered == most {
            return io::ErrorKind::TimedOut.into();
        }
        // Its answer goes to the other peer, as any packet does, to whom it says nothing new.
        if let Err(error) = doubt::probe(joint, pair, i) {
            return error;
        }
        unanswered += 1;
        sleep(pause).await;
    }
}
