//! Joins a pair, and waits for its end.
//!
//! What arrived before the cut-off is for user space to pass on, what arrives after it goes through
//! the program. Invariant: the numbers by which packets are changed are those of a moment at which
//! nothing was read or written here; exactly what they say is left is then passed on.

use std::{
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use balance_ebpf::splice::{Side, Splice, Way, ending, is_after, phase};
use tokio::{sync::OnceCell, time::sleep};
use tracing::debug;

use super::{
    kernel::{Kernel, Slot},
    numbers::{End, obstacle},
};
use crate::{
    datapath::{
        Name, Pool,
        pair::{Broken, Direction, Pair, Report},
        pump::{self, Received},
        relay,
    },
    ring,
    stream::Stream,
    sys::{self, Numbers},
};

/// How long nothing may have arrived at the local sockets before the cut-offs are final: packets
/// that were past the hook when the program took over are there by then.
const SETTLING: Duration = Duration::from_millis(1);

/// Why a pair was not joined; it is as it was.
enum Refused {
    /// It never can be.
    Never(&'static str),
    /// Bytes were on their way, or the kernel had no room.
    NotNow,
}

/// Carries a pair to its end, joined if it can be; tried again after as many turns of the relay
/// while it cannot be at a moment.
pub(crate) async fn carry(kernel: &Arc<Kernel>, pair: &Pair, pool: &Pool, turns: u32) -> Report {
    loop {
        match joined(kernel, pair, pool).await {
            Ok(report) => return report,
            Err(Refused::Never(why)) => {
                debug!(why, "not spliced");
                return relay::carry(pair, pool, false).await;
            }
            Err(Refused::NotNow) => {}
        }
        if let Some(report) = relay::begin(pair, pool, turns.max(1)).await {
            return report;
        }
    }
}

async fn joined(kernel: &Arc<Kernel>, pair: &Pair, pool: &Pool) -> Result<Report, Refused> {
    let joint = join(kernel, pair).await.unwrap_or(Err(Refused::NotNow))?;
    // The relay's last waits would keep the streams open: nothing that ends them comes any more.
    ring::cancel(&pair.client).await;
    ring::cancel(&pair.backend).await;
    let ways = [joint.slot.number * 2, joint.slot.number * 2 + 1];
    pair.traffic.follow(kernel, ways);
    let up = pin!(joint.one_way(0, pair.up(), pool, pair));
    let down = pin!(joint.one_way(1, pair.down(), pool, pair));
    let end = pair.run(up, down).await;
    pair.traffic.settle();
    if !matches!(end, crate::datapath::End::Cut) {
        // The peers have told each other; our sockets know nothing of it and must not speak.
        let _ = sys::fall_silent(&pair.client);
        let _ = sys::fall_silent(&pair.backend);
    }
    Ok(Report { datapath: Name::Splice, end })
}

/// A pair that is joined.
struct Joint {
    slot: Slot,
    /// The two sockets when packets began to go through.
    begun: [Begun; 2],
    /// Numbers of the next bytes that user space is to read of them.
    read: [u32; 2],
    shifts: [u32; 2],
    /// The final cut-offs.
    ready: OnceCell<[u32; 2]>,
}

async fn join(kernel: &Arc<Kernel>, pair: &Pair) -> io::Result<Result<Joint, Refused>> {
    let ends = [End::of(&pair.client)?, End::of(&pair.backend)?];
    if let Some(why) = obstacle(&ends[0], &ends[1]) {
        return Ok(Err(Refused::Never(why)));
    }
    let streams: [&Stream; 2] = [&pair.client, &pair.backend];
    for stream in streams {
        // What arrived out of order is there and cannot be read.
        let is_odd = sys::unread(stream)? == 0 && sys::receive_memory(stream)? != 0;
        if sys::unsent(stream)? != 0 || is_odd {
            return Ok(Err(Refused::NotNow));
        }
    }
    let mut begun = [Begun::of(streams[0])?, Begun::of(streams[1])?];
    for stream in streams {
        // An end takes a number and is nothing to be read: had it come before, the next byte to be
        // read would not be where it seems.
        if !sys::agreed(stream)?.established {
            return Ok(Err(Refused::Never("one side has ended already")));
        }
    }
    let read = [begun[0].read(), begun[1].read()];
    let shifts = [0, 1].map(|i| begun[1 - i].numbers.written.wrapping_sub(read[i]));
    let stamped = ends[0].agreed.has_timestamps();
    let mut splice = Splice::default();
    for i in 0..2 {
        let other = 1 - i;
        let (scale_in, scale_out) = (ends[i].agreed.scales.0, ends[other].agreed.scales.1);
        if begun[i].numbers.most_room >> scale_out == 0 {
            return Ok(Err(Refused::Never("a peer's window is too small to be told to the other")));
        }
        splice.ways[i] = Way {
            side: Side {
                shift: shifts[i],
                scale_in,
                scale_out,
                stamped: u8::from(stamped),
                ..Side::default()
            },
            looks: ends[other].leaving(),
            clock: if stamped { sys::timestamp(streams[other])? } else { 0 },
            clock_at: sys::monotonic(),
            ..Way::default()
        };
    }
    let slot = kernel.enter(splice, [ends[0].arriving(), ends[1].arriving()])?;
    // The program sees packets now that still go to the local sockets, and remembers how far they
    // reach; those that had passed before are there after this.
    sleep(SETTLING).await;
    for i in 0..2 {
        begun[i] = Begun::of(streams[i])?;
        let cut = begun[i].numbers.received;
        slot.raise(i, cut, cut.wrapping_add(shifts[i]));
        slot.begin(i, cut);
    }
    for stream in streams {
        stream.set_keepalive(false)?;
    }
    slot.set_phase(phase::OPENING);
    Ok(Ok(Joint { slot, begun, read, shifts, ready: OnceCell::new() }))
}

/// Where a socket stood when packets began to go through.
#[derive(Clone, Copy)]
struct Begun {
    numbers: Numbers,
    /// Bytes that were not yet read.
    unread: u32,
}

impl Begun {
    /// Asks until nothing arrives in between.
    fn of(stream: &Stream) -> io::Result<Self> {
        loop {
            let before = sys::received(stream)?;
            let unread = sys::unread(stream)?;
            let numbers = sys::numbers(stream)?;
            if numbers.received == before {
                return Ok(Self { numbers, unread });
            }
        }
    }

    /// Number of the next byte that user space is to read.
    fn read(&self) -> u32 {
        self.numbers.received.wrapping_sub(self.unread)
    }
}

impl Joint {
    async fn one_way(
        &self,
        i: usize,
        direction: Direction,
        pool: &Pool,
        pair: &Pair,
    ) -> Result<(), Broken> {
        let broke = |error| direction.source_broke(error);
        let cuts = self.ready.get_or_try_init(|| self.settle(pair)).await.map_err(broke)?;
        let ended = self.drain(i, cuts[i], &direction, pool, pair).await?;
        if sys::send_queue(&*direction.target).map_err(broke)? == 0 {
            self.slot.set_settled(1 - i);
        }
        loop {
            let told = self.slot.ending[i].notified();
            let endings = self.slot.endings();
            if endings & (ending::BROKEN << i) != 0 {
                return Err(broke(io::ErrorKind::ConnectionReset.into()));
            }
            if endings & (ending::BROKEN << (1 - i)) != 0 {
                // Its own direction may be over already.
                return Err(direction.target_broke(io::ErrorKind::ConnectionReset.into()));
            }
            // Where our socket got the end and passed it on, it is over with the last
            // acknowledgement that our other socket waits for.
            let is_over =
                endings & (ending::ACKNOWLEDGED << i) != 0 || ended && self.slot.is_settled(1 - i);
            if is_over {
                return Ok(());
            }
            told.await;
        }
    }

    /// Waits until the last packets have arrived that were past the hook already; returns the final
    /// cut-offs.
    async fn settle(&self, pair: &Pair) -> io::Result<[u32; 2]> {
        let streams: [&Stream; 2] = [&pair.client, &pair.backend];
        let mut cuts = self.begun.map(|begun| begun.numbers.received);
        loop {
            sleep(SETTLING).await;
            let mut still = true;
            for i in 0..2 {
                let received = sys::received(streams[i])?;
                if received != cuts[i] {
                    cuts[i] = received;
                    self.slot.raise(i, received, received.wrapping_add(self.shifts[i]));
                    still = false;
                }
            }
            if still {
                for i in 0..2 {
                    let ahead = sys::heard(streams[i])?.wrapping_sub(cuts[i]);
                    self.slot.set_ahead(i, if is_after(ahead, 0) { ahead } else { 0 });
                }
                self.slot.set_phase(phase::JOINED);
                return Ok(cuts);
            }
        }
    }

    /// Passes on what the local socket got; true if the end of the stream was in it.
    async fn drain(
        &self,
        i: usize,
        cut: u32,
        direction: &Direction,
        pool: &Pool,
        pair: &Pair,
    ) -> Result<bool, Broken> {
        let counter = if i == 0 { &pair.traffic.sent } else { &pair.traffic.rcvd };
        // The program counts from where it began.
        counter.fetch_add(self.begun[i].unread.into(), Relaxed);
        let mut rest = cut.wrapping_sub(self.read[i]);
        while rest > 0 {
            match pump::receive(direction, pool)? {
                Received::Bytes(buffer, n) => {
                    pump::send_all(&direction.target, &buffer[..n])
                        .await
                        .map_err(|e| direction.target_broke(e))?;
                    rest = rest.checked_sub(n as u32).ok_or_else(|| {
                        direction.source_broke(io::Error::other("more arrived than was to"))
                    })?;
                }
                // The end takes a number as well.
                Received::End if rest == 1 => {
                    direction.end_target();
                    return Ok(true);
                }
                Received::Nothing | Received::End => {
                    let error = io::Error::other("less arrived than was to");
                    return Err(direction.source_broke(error));
                }
            }
        }
        Ok(false)
    }
}
