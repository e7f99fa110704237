//! Joins a pair.
//!
//! What arrived before the cut-off is for user space to pass on, what arrives after it goes through
//! the program. Invariant: the numbers by which packets are changed are those of a moment at which
//! nothing was read or written here; exactly what they say is left is then passed on.

use std::{
    cell::Cell,
    future::pending,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use balance_ebpf::splice::{Evidence, Side, Splice, Way, ending, is_after, phase};
use tokio::{select, sync::OnceCell, time::sleep};

use super::{
    doubt::Doubt,
    ineligible::Obstacle,
    kernel::Kernel,
    seq_state::{Begun, Clock, End, obstacle},
    slot::Slot,
};
use crate::{
    datapath::{
        direction::Direction,
        end::SideError,
        pair::Pair,
        relay::{
            buffers::BufferPool,
            pump::{self, Received},
        },
        traffic::Traffic,
    },
    io::stream::Stream,
    sys::{self, SequenceNumbers},
};

/// How often it is looked whether all has arrived that was past the hook when the program took over.
const LOOK: Duration = Duration::from_millis(1);

/// How far a peer may send beyond the room that it was told to have: a probe of the window, and what
/// it has sent before the window shrank.
const OVERSHOOT: u32 = 1 << 16;

/// How often, and how long each time, it is waited for a moment at which a pair can be joined.
const PAUSES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// Why a pair was not joined; it is as it was.
pub(super) enum Refused {
    /// It never can be.
    Never(Obstacle),
    /// A peer has no room for what is here for it, or something has arrived out of order.
    NotNow,
    /// The program has not seen packets of both peers.
    Unseen,
}

/// A pair that the program watches.
pub(super) struct Watched {
    slot: Slot,
    clocks: [Clock; 2],
    /// What our sockets had written when it began, by side, and the bytes that had been moved then.
    written: [u32; 2],
    moved: (u64, u64),
}

/// Lets the program watch a pair that is to be joined.
pub(super) fn prepare(kernel: &Arc<Kernel>, pair: &Pair) -> Result<Watched, Obstacle> {
    let end = |stream: &Stream| End::of(stream).map_err(|_| Obstacle::Ended);
    let clock = |stream: &Stream| Clock::begin(stream).map_err(|_| Obstacle::Ended);
    let clocks = [clock(&pair.client)?, clock(&pair.backend)?];
    let ends = [end(&pair.client)?, end(&pair.backend)?];
    if let Some(obstacle) = obstacle(&ends) {
        return Err(obstacle);
    }
    let mut splice = Splice { phase: phase::LOCAL, ..Splice::default() };
    for i in 0..2 {
        let other = 1 - i;
        let side = Side {
            scale_in: ends[i].agreed.scales.0,
            scale_out: ends[other].agreed.scales.1,
            stamped: u8::from(ends[i].agreed.has_timestamps()),
            ..Side::default()
        };
        let looks = ends[other].path.leaving();
        let head = ends[other].head;
        let addresses = ends[i].path.arriving().difference(&looks);
        splice.ways[i] = Way { side, looks, addresses, head, ..Way::default() };
    }
    let slot = kernel.enter(ends.map(|end| end.path), splice)?;
    let moved = pair.traffic.read();
    let mut written = [0; 2];
    for (side, stream) in [&pair.client, &pair.backend].into_iter().enumerate() {
        let numbers = sys::sequence_numbers(&**stream).map_err(|_| Obstacle::Ended)?;
        written[side] = numbers.snd_nxt;
        slot.set_near(side, numbers.rcv_nxt, numbers.snd_nxt);
    }
    Ok(Watched { slot, clocks, written, moved })
}

impl Watched {
    /// What our socket of a side has written by now, as far as it is counted.
    fn written(&self, side: usize, traffic: &Traffic) -> u32 {
        let (sent, rcvd) = traffic.read();
        let moved = [rcvd - self.moved.1, sent - self.moved.0];
        self.written[side].wrapping_add(moved[side] as u32)
    }
}

/// Whether a side's peer, of which our socket has received up to `received` and may receive up to `edge`,
/// has just sent something that could not have been passed on.
fn sends_fragments(slot: &Slot, side: usize, received: u32, edge: u32) -> bool {
    let room = edge.wrapping_sub(received);
    let from = received.wrapping_sub(room);
    slot.odd(side).is_some_and(|odd| odd.wrapping_sub(from) <= edge.wrapping_sub(from))
}

/// A pair that is joined.
pub(super) struct Joint {
    pub(super) slot: Slot,
    /// The two sockets when packets began to go through.
    begun: [Begun; 2],
    shifts: [u32; 2],
    /// The final cut-offs.
    ready: OnceCell<[u32; 2]>,
    /// [`Joint::release`] has nothing more to do.
    is_released: Cell<bool>,
    /// By direction: it is certain that nothing more arrives at our socket.
    is_final: [Cell<bool>; 2],
    /// What is to be asked of the peers.
    pub(super) doubt: Doubt,
}

/// Joins a pair that the program watches.
pub(super) async fn join(watched: Watched, pair: &Pair) -> Result<Joint, (Watched, Refused)> {
    match begin(&watched, pair).await {
        Ok(Ok((begun, shifts))) => {
            let Watched { slot, .. } = watched;
            Ok(Joint {
                slot,
                begun,
                shifts,
                ready: OnceCell::new(),
                is_released: Cell::default(),
                is_final: Default::default(),
                doubt: Doubt::default(),
            })
        }
        Ok(Err(refused)) => Err((watched, refused)),
        // Whoever moves the bytes will find out.
        Err(_) => Err((watched, Refused::Never(Obstacle::Ended))),
    }
}

type Start = ([Begun; 2], [u32; 2]);

async fn begin(watched: &Watched, pair: &Pair) -> io::Result<Result<Start, Refused>> {
    let Watched { slot, clocks, .. } = watched;
    let streams: [&Stream; 2] = [&pair.client, &pair.backend];
    for (side, stream) in streams.into_iter().enumerate() {
        // Asked first: what the program has seen by now is within what our socket has offered by then.
        let next = slot.next(side);
        let (received, edge) = sys::receive_window(stream)?;
        slot.set_near(side, received, watched.written(side, &pair.traffic));
        if is_after(next, edge.wrapping_add(OVERSHOOT)) {
            // No peer has sent that. What its packets said before was forgotten with it; they have
            // arrived at our socket after a grace period.
            slot.forget_next(side);
            slot.kernel.grace.period().await;
            return Ok(Err(Refused::NotNow));
        }
        if sends_fragments(slot, side, received, edge) {
            return Ok(Err(Refused::Never(Obstacle::Fragments)));
        }
        // Asked again: what has arrived since then was seen before it arrived.
        if next == 0 || is_after(received, slot.next(side)) {
            return Ok(Err(Refused::Unseen));
        }
    }
    let clocks = [clocks[0].offset(streams[0])?, clocks[1].offset(streams[1])?];
    if !is_ready(&streams).await? {
        return Ok(Err(Refused::NotNow));
    }
    let begun = [Begun::of(streams[0])?, Begun::of(streams[1])?];
    let sends_fragments = |side: usize| {
        let SequenceNumbers { rcv_nxt: received, rcv_edge: edge, .. } = begun[side].numbers;
        sends_fragments(slot, side, received, edge)
    };
    if sends_fragments(0) || sends_fragments(1) {
        return Ok(Err(Refused::Never(Obstacle::Fragments)));
    }
    let agreed = [sys::negotiated(streams[0])?, sys::negotiated(streams[1])?];
    // An end takes a number and is nothing to be read: had it come before, the next byte to be read
    // would not be where it seems.
    if !agreed.iter().all(|agreed| agreed.established) {
        return Ok(Err(Refused::Never(Obstacle::Ended)));
    }
    let takes = [sys::peer_mss(streams[0])?, sys::peer_mss(streams[1])?];
    for (this, other) in [(0, 1), (1, 0)] {
        // A peer sends no more than it was told to, nor than its own link takes, which is what it
        // takes itself.
        let segment = agreed[this].advertised_mss.min(takes[this]);
        if segment > takes[other] {
            return Ok(Err(Refused::Never(Obstacle::Segments)));
        }
        // Nor does it send less than the room that it was promised here allows. One that gets more
        // than it has room for may never find any again (net/ipv4/tcp_output.c,
        // __tcp_select_window).
        let room = begun[other].numbers.max_window;
        if room < segment || room >> agreed[this].scales.1 == 0 {
            return Ok(Err(Refused::Never(Obstacle::Window)));
        }
        // A sender bounds its segments by half of the room that it sees (include/net/tcp.h,
        // tcp_bound_to_half_wnd), which was ours. What waits for room for a segment that never fits
        // goes out by probes, one every 200 ms.
        if most_ever(agreed[other].scales.0).max(room) / 2 < segment {
            return Ok(Err(Refused::Never(Obstacle::Window)));
        }
        // Nor may it be a little less than that until more has arrived.
        if sys::send_window(streams[other])? < u64::from(segment) {
            return Ok(Err(Refused::NotNow));
        }
    }
    let shifts = [0, 1].map(|i| begun[1 - i].numbers.snd_nxt.wrapping_sub(begun[i].read()));
    for i in 0..2 {
        let (numbers, other) = (&begun[i].numbers, &begun[1 - i].numbers);
        let queue = sys::send_queue(streams[1 - i])? as u32;
        let acked = other.snd_nxt.wrapping_sub(queue).wrapping_sub(shifts[i]);
        let sent = Evidence {
            snd_edge: numbers.rcv_edge,
            max_window: numbers.rcv_wnd.max(other.max_window),
            edge_slack: streams[i].recv_buffer_size()? as u32,
            ..Evidence::new(acked, numbers.rcv_nxt)
        };
        let side = Side {
            shift: shifts[i],
            cut: numbers.rcv_nxt,
            leeway: numbers.rcv_wnd / 2,
            sent,
            ..Side::default()
        };
        let clock = clocks[1 - i];
        slot.begin(i, &Way { side, clock, last: sys::monotonic(), ..Way::default() });
    }
    for stream in streams {
        stream.set_keepalive(false)?;
    }
    slot.set_phase(phase::OPENING);
    Ok(Ok((begun, shifts)))
}

/// Room that a peer with this scale of windows can come to have, at least: the scale is chosen by the
/// largest buffer that it may get (net/ipv4/tcp_output.c, tcp_select_initial_window).
fn most_ever(scale: u8) -> u32 {
    (1 << 15) << scale.min(14)
}

/// Room that a peer must have beyond what is here for it, if it ever had so much: for what comes
/// while a pair is being joined.
const SPARE: u64 = 64 << 10;

/// Waits a moment until each peer has room for all that is here for it. Then it gets there whatever
/// the peer's application does, and soon: before it has, the peer hears less of the other's
/// acknowledgements than there are. Nothing is moved meanwhile, so it is only waited for what comes
/// without that: not where more has arrived for a peer than it has room for.
async fn is_ready(streams: &[&Stream; 2]) -> io::Result<bool> {
    for turn in 0.. {
        let (mut ready, mut soon) = (true, true);
        for (source, target) in [(streams[0], streams[1]), (streams[1], streams[0])] {
            let (unread, queue) = (u64::from(sys::unread(source)?), sys::send_queue(target)?);
            let room = sys::send_window(target)?;
            // What arrived out of order is there and cannot be read.
            let is_ordered = unread != 0 || sys::receive_memory(source)? == 0;
            ready &= is_ordered && fits(queue + unread, room);
            soon &= fits(unread, room);
        }
        if ready || !soon || turn == PAUSES {
            return Ok(ready);
        }
        sleep(PAUSE).await;
    }
    unreachable!("the turns are counted")
}

/// Whether a peer with so much room can take so much, and a little more.
fn fits(bytes: u64, room: u64) -> bool {
    bytes + SPARE.min(room / 2) <= room
}

impl Joint {
    /// Once nothing is held back any more: has the peers say again what was held back, which they
    /// would otherwise not do before a timer runs out at the other peer.
    pub(super) fn release(&self, pair: &Pair) {
        if self.is_released.get() || !self.slot.is_quiet() {
            return;
        }
        self.is_released.set(true);
        for (side, stream) in [&pair.client, &pair.backend].into_iter().enumerate() {
            // A connection that is gone by now needs no bounds.
            if let Ok(numbers) = sys::sequence_numbers(&**stream) {
                self.slot.close_edge(side, numbers.rcv_edge);
            }
        }
        if self.slot.endings() & (ending::FIN | ending::FIN << 1) != 0 {
            // One of the two may be gone, and would answer that.
            return;
        }
        for (side, stream) in [(0, &pair.client), (1, &pair.backend)] {
            if self.slot.has_clamped(side) {
                // A connection that is gone by now has nobody who waits.
                let _ = sys::send_window_probe(&**stream);
            }
        }
    }

    /// Passes on what is left here of one direction, once that is certain; true if the end of the
    /// stream was in it.
    pub(super) async fn empty(
        &self,
        kernel: &Kernel,
        i: usize,
        direction: &Direction,
        pool: &BufferPool,
        pair: &Pair,
    ) -> Result<bool, SideError> {
        let broke = |error| direction.source_error(error);
        // Each direction settles both sides, if it is the first.
        let cuts = self.ready.get_or_try_init(|| self.settle(kernel, pair)).await;
        let cuts = cuts.map_err(|(side, error)| {
            let broke = match side == i {
                true => direction.source_error(error),
                false => direction.target_error(error),
            };
            self.blame(i, direction, broke)
        })?;
        let ended = self.drain(i, cuts[i], direction, pool, pair).await?;
        self.has_no_more(i, cuts[i], direction)?;
        if sys::send_queue(&*direction.target).map_err(broke)? == 0 {
            self.slot.set_settled(1 - i);
        }
        self.is_final[i].set(ended);
        Ok(ended)
    }

    /// For a source that has not ended: fails if it is gone or something has arrived behind the cut-off,
    /// when nothing can be under way to our socket any more.
    pub(super) async fn late(&self, kernel: &Kernel, i: usize, direction: &Direction) -> SideError {
        kernel.grace.period().await;
        let cut = self.ready.get().expect("nothing is passed on before the cut-offs are final")[i];
        match self.is_there(i, direction).and_then(|()| self.has_no_more(i, cut, direction)) {
            Ok(()) => {
                self.is_final[i].set(true);
                pending().await
            }
            Err(broken) => broken,
        }
    }

    /// Fails if the source is gone.
    fn is_there(&self, i: usize, direction: &Direction) -> Result<(), SideError> {
        let there = self.not_reset(i, &direction.source);
        there.map_err(|error| self.blame(i, direction, direction.source_error(error)))
    }

    /// Who has reset the connection, if the program has seen that: a peer that was told of the other's
    /// reset answers what our socket says with one.
    fn blame(&self, i: usize, direction: &Direction, broke: SideError) -> SideError {
        self.broken(i, direction).unwrap_or(broke)
    }

    /// Who has reset the connection, if the program has seen it; `direction` is the one from side `i`. A
    /// peer that answers a question with a reset may have been reset itself by the one in doubt.
    pub(super) fn broken(&self, i: usize, direction: &Direction) -> Option<SideError> {
        let side = match (self.slot.reset_by(i), self.doubt.suspect()) {
            (None, _) => return None,
            (Some(_), Some(suspect)) => {
                // Its reset came behind all that it had sent, and the other peer has been asked.
                self.slot.deliver(suspect);
                suspect
            }
            (Some(side), None) => side,
        };
        let reset = io::ErrorKind::ConnectionReset.into();
        Some(match side == i {
            true => direction.source_error(reset),
            false => direction.target_error(reset),
        })
    }

    /// Whether our sockets have come to nothing but their addresses: they say nothing and hear nothing.
    pub(super) fn is_idle(&self) -> bool {
        let is_final = |i: usize| self.is_final[i].get() || self.slot.is_over(i);
        self.is_released.get() && is_final(0) && is_final(1)
    }

    /// Fails if the socket of a side whose end is not over is closed: if the program has not seen who
    /// began it, a reset was past the hook.
    fn not_reset(&self, side: usize, stream: &Stream) -> io::Result<()> {
        match sys::is_closed(stream)? && !self.slot.is_over(side) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }

    /// Fails if the source has got more than it was to: its sender takes that for delivered.
    fn has_no_more(&self, i: usize, cut: u32, direction: &Direction) -> Result<(), SideError> {
        let broke = |error| direction.source_error(error);
        if self.slot.is_over(i) || sys::rcv_nxt(&*direction.source).map_err(broke)? == cut {
            return Ok(());
        }
        Err(broke(io::Error::other("something arrived when it was over")))
    }

    /// Waits until all has arrived that was past the hook when the program took over; returns the final
    /// cut-offs, or which side has failed and how.
    async fn settle(&self, kernel: &Kernel, pair: &Pair) -> Result<[u32; 2], (usize, io::Error)> {
        let mut cuts = self.begun.map(|begun| begun.numbers.rcv_nxt);
        // A socket may have refused some of it, and asks for it again. When nothing is on its way any
        // more, that is for the other peer.
        let mut last = pin!(kernel.grace.period());
        let mut is_last = false;
        while !self.has_all(&mut cuts, pair)? && !is_last {
            select! {
                () = &mut last => is_last = true,
                () = sleep(LOOK) => {}
            }
        }
        for (i, stream) in [&pair.client, &pair.backend].into_iter().enumerate() {
            // Before anything is passed on: a socket that has got an end and passed one on closes, too.
            self.not_reset(i, stream).map_err(|e| (i, e))?;
            // From now on it has nothing to say.
            sys::acknowledge_now(stream).map_err(|e| (i, e))?;
            let ahead = sys::snd_wl1(stream).map_err(|e| (i, e))?.wrapping_sub(cuts[i]);
            self.slot.set_ahead(i, if is_after(ahead, 0) { ahead } else { 0 });
        }
        // Unless it is over, and a new connection has come.
        self.slot.advance(phase::OPENING, phase::JOINED);
        Ok(cuts)
    }

    /// Raises the cut-offs to what has arrived at the local sockets; whether that is all that was let
    /// through to them.
    fn has_all(&self, cuts: &mut [u32; 2], pair: &Pair) -> Result<bool, (usize, io::Error)> {
        let mut has_all = true;
        for (i, stream) in [&pair.client, &pair.backend].into_iter().enumerate() {
            // Waits for whoever has the socket, so what came meanwhile is counted (net/core/sock.c,
            // release_sock).
            let received = sys::rcv_nxt(stream).map_err(|e| (i, e))?;
            if received != cuts[i] {
                cuts[i] = received;
                self.slot.raise(i, received, received.wrapping_add(self.shifts[i]));
            }
            has_all &= !is_after(self.slot.next(i), received);
        }
        Ok(has_all)
    }

    async fn drain(
        &self,
        i: usize,
        cut: u32,
        direction: &Direction,
        pool: &BufferPool,
        pair: &Pair,
    ) -> Result<bool, SideError> {
        let counter = if i == 0 { &pair.traffic.sent } else { &pair.traffic.rcvd };
        // The program counts from where it began.
        counter.fetch_add(self.begun[i].unread.into(), Relaxed);
        let mut rest = cut.wrapping_sub(self.begun[i].read());
        let mut ended = false;
        while rest > 0 {
            match pump::receive(direction, pool)? {
                Received::Bytes(buffer, n) => {
                    pump::send_all(direction, &buffer[..n]).await?;
                    rest = rest.checked_sub(n as u32).ok_or_else(|| {
                        direction.source_error(io::Error::other("more arrived than was to"))
                    })?;
                }
                // The end takes a number as well.
                Received::End if rest == 1 => {
                    direction.end_target();
                    rest = 0;
                    ended = true;
                }
                Received::Nothing | Received::End => {
                    let error = io::Error::other("less arrived than was to");
                    return Err(direction.source_error(error));
                }
            }
        }
        if ended {
            self.slot.count_end(i);
        }
        Ok(ended)
    }
}
