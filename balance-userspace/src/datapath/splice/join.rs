//! Joins the two connections of a pair.
//!
//! User space passes on the bytes that arrive before the cut-over. The program forwards the packets
//! that arrive after it.
//!
//! Invariant: the sequence numbers for the translation are read at one moment, at which user space
//! neither reads nor writes. User space then passes on exactly the bytes before these numbers.

use std::{
    cell::Cell,
    future::pending,
    io,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use balance_ebpf::splice::{
    DirectionState, Phase, SenderState, SideState, Splice, Timestamps, ending, is_after,
};
use tokio::{select, sync::OnceCell, time::sleep};

use super::{
    challenge::Challenge,
    ineligible::Ineligible,
    kernel::Kernel,
    seq_state::{Endpoint, StartState, TimestampClock, ineligible},
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
        side::{PerSide, Side},
        traffic::Traffic,
    },
    io::stream::Stream,
    sys::{self, SequenceNumbers},
};

/// Pause between two checks whether all packets have arrived that had passed the hook when the
/// program began to forward.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// How far a peer may send beyond the window that it was offered: a window probe, and bytes sent
/// before the window shrank.
const OVERSHOOT: u32 = 1 << 16;

/// Pauses until a moment at which a pair can be joined, and the length of each.
const MAX_PAUSES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(1);

/// Why a pair was not joined. The pair is unchanged.
pub(super) enum NotJoined {
    /// The pair can never be joined.
    Never(Ineligible),
    /// A peer has no room for the bytes that wait for it here, or bytes have arrived out of order.
    NotNow,
    /// The program has not seen packets of both peers.
    Unseen,
}

impl From<io::Error> for NotJoined {
    /// A socket that fails has no connection any more. The next datapath finds and reports the
    /// error.
    fn from(_: io::Error) -> Self {
        Self::Never(Ineligible::Ended)
    }
}

/// A pair whose packets the program observes.
pub(super) struct ObservedPair {
    slot: Slot,
    clocks: PerSide<TimestampClock>,
    /// SND.NXT of the local sockets when the observation began.
    snd_nxt: PerSide<u32>,
    /// Bytes from client to backend, and back, that had been moved then.
    moved: (u64, u64),
}

/// Lets the program observe a pair that is to be joined.
///
/// # Errors
/// The reason if the pair can never be joined.
pub(super) fn observe(kernel: &Arc<Kernel>, pair: &Pair) -> Result<ObservedPair, Ineligible> {
    let clocks = PerSide::try_from_fn(|side| TimestampClock::begin(pair.stream(side)))
        .map_err(|_| Ineligible::Ended)?;
    let ends = PerSide::try_from_fn(|side| Endpoint::of(pair.stream(side)))
        .map_err(|_| Ineligible::Ended)?;
    if let Some(reason) = ineligible(&ends) {
        return Err(reason);
    }
    let directions = PerSide::from_fn(|side| {
        let (this, other) = (&ends[side], &ends[!side]);
        let has_timestamps = this.agreed.has_timestamps();
        let side = SideState {
            scale_in: this.agreed.scales.0,
            scale_out: other.agreed.scales.1,
            timestamps: if has_timestamps { Timestamps::DeltaUnknown } else { Timestamps::Off },
            ..SideState::default()
        };
        let translated_tuple = other.tuple.leaving();
        DirectionState {
            side,
            translated_tuple,
            address_checksum_delta: this.tuple.arriving().address_checksum_delta(&translated_tuple),
            hop_limit_dscp: other.hop_limit_dscp,
            ..DirectionState::default()
        }
    });
    let splice = Splice { directions, ..Splice::default() };
    let slot = kernel.enter(ends.map(|end| end.tuple), splice)?;
    let moved = pair.traffic.read();
    let snd_nxt = PerSide::try_from_fn(|side| {
        let numbers = sys::sequence_numbers(&**pair.stream(side)).map_err(|_| Ineligible::Ended)?;
        slot.set_local_numbers(side, numbers.rcv_nxt, numbers.snd_nxt);
        Ok(numbers.snd_nxt)
    })?;
    Ok(ObservedPair { slot, clocks, snd_nxt, moved })
}

impl ObservedPair {
    /// SND.NXT of a side's local socket by the bytes that were counted so far.
    fn snd_nxt(&self, side: Side, traffic: &Traffic) -> u32 {
        let (sent, rcvd) = traffic.read();
        let written = match side {
            Side::Client => rcvd - self.moved.1,
            Side::Backend => sent - self.moved.0,
        };
        self.snd_nxt[side].wrapping_add(written as u32)
    }
}

/// Whether a side's peer has just sent a packet that the program could not have forwarded. The
/// local socket has received up to `rcv_nxt`, and has offered a window up to `right_edge`.
fn sends_unforwardable(slot: &Slot, side: Side, rcv_nxt: u32, right_edge: u32) -> bool {
    let window = right_edge.wrapping_sub(rcv_nxt);
    let from = rcv_nxt.wrapping_sub(window);
    slot.unforwardable_seq(side)
        .is_some_and(|seq| seq.wrapping_sub(from) <= right_edge.wrapping_sub(from))
}

/// A pair that is joined.
pub(super) struct JoinedPair {
    pub(super) slot: Slot,
    /// The state of the two local sockets when forwarding began.
    start: PerSide<StartState>,
    seq_deltas: PerSide<u32>,
    /// The final cut-over numbers.
    cutovers: OnceCell<PerSide<u32>>,
    /// [`JoinedPair::release`] has nothing more to do.
    is_released: Cell<bool>,
    /// By the side that sends: no packet can be on its way to the local socket any more.
    is_final: PerSide<Cell<bool>>,
    pub(super) challenge: Challenge,
}

/// Joins an observed pair, or returns it unchanged.
pub(super) async fn join(
    observed: ObservedPair,
    pair: &Pair,
) -> Result<JoinedPair, (ObservedPair, NotJoined)> {
    match begin(&observed, pair).await {
        Ok((start, seq_deltas)) => Ok(JoinedPair {
            slot: observed.slot,
            start,
            seq_deltas,
            cutovers: OnceCell::new(),
            is_released: Cell::default(),
            is_final: PerSide::default(),
            challenge: Challenge::default(),
        }),
        Err(reason) => Err((observed, reason)),
    }
}

/// Checks that the pair can be joined now, and begins to forward its packets. Returns the state of
/// the local sockets at that moment, and the sequence deltas.
async fn begin(
    observed: &ObservedPair,
    pair: &Pair,
) -> Result<(PerSide<StartState>, PerSide<u32>), NotJoined> {
    let slot = &observed.slot;
    for side in Side::BOTH {
        // Read this number first: every packet that the program has seen by now is within the
        // window that the next call returns.
        let local_max_seq = slot.local_max_seq(side);
        let (rcv_nxt, right_edge) = sys::receive_window(&**pair.stream(side))?;
        slot.set_local_numbers(side, rcv_nxt, observed.snd_nxt(side, &pair.traffic));
        if is_after(local_max_seq, right_edge.wrapping_add(OVERSHOOT)) {
            // The peer cannot have sent such a packet. Its number has replaced the number of the
            // peer's own packets. After a grace period those packets have arrived at the local
            // socket.
            slot.reset_local_max_seq(side);
            slot.kernel.grace_periods.wait().await;
            return Err(NotJoined::NotNow);
        }
        if sends_unforwardable(slot, side, rcv_nxt, right_edge) {
            return Err(NotJoined::Never(Ineligible::Fragments));
        }
        // Read again: the program has seen every packet before it arrived at the local socket.
        if local_max_seq == 0 || is_after(rcv_nxt, slot.local_max_seq(side)) {
            return Err(NotJoined::Unseen);
        }
    }
    let clock_offsets =
        PerSide::try_from_fn(|side| observed.clocks[side].offset(pair.stream(side)))?;
    if !is_ready(pair).await? {
        return Err(NotJoined::NotNow);
    }
    let start = PerSide::try_from_fn(|side| StartState::of(pair.stream(side)))?;
    for side in Side::BOTH {
        let SequenceNumbers { rcv_nxt, rcv_edge, .. } = start[side].numbers;
        if sends_unforwardable(slot, side, rcv_nxt, rcv_edge) {
            return Err(NotJoined::Never(Ineligible::Fragments));
        }
    }
    check_segments_and_windows(pair, &start)?;
    let seq_deltas =
        PerSide::from_fn(|side| start[!side].numbers.snd_nxt.wrapping_sub(start[side].read_seq()));
    for side in Side::BOTH {
        let (numbers, other) = (&start[side].numbers, &start[!side].numbers);
        let queue = sys::send_queue(&**pair.stream(!side))? as u32;
        let acked = other.snd_nxt.wrapping_sub(queue).wrapping_sub(seq_deltas[side]);
        let sender = SenderState {
            window_right_edge: numbers.rcv_edge,
            max_window: numbers.rcv_wnd.max(other.max_window),
            right_edge_slack: pair.stream(side).recv_buffer_size()? as u32,
            ..SenderState::new(acked, numbers.rcv_nxt)
        };
        let state = SideState {
            seq_delta: seq_deltas[side],
            cutover_seq: numbers.rcv_nxt,
            ack_slack: numbers.rcv_wnd / 2,
            sender,
            ..SideState::default()
        };
        let begin = DirectionState {
            side: state,
            ts_clock_offset: clock_offsets[!side],
            last_packet_ns: sys::monotonic(),
            ..DirectionState::default()
        };
        slot.begin(side, &begin);
    }
    for side in Side::BOTH {
        pair.stream(side).set_keepalive(false)?;
    }
    slot.set_phase(Phase::Opening);
    Ok((start, seq_deltas))
}

/// Checks that neither peer can send segments that the other cannot take, and that each has a
/// window that the other can use.
fn check_segments_and_windows(pair: &Pair, start: &PerSide<StartState>) -> Result<(), NotJoined> {
    let agreed = PerSide::try_from_fn(|side| sys::negotiated(&**pair.stream(side)))?;
    // A FIN occupies a sequence number and cannot be read. If one had arrived, the next byte to be
    // read would have another number than computed.
    if !agreed.iter().all(|(_, agreed)| agreed.established) {
        return Err(NotJoined::Never(Ineligible::Ended));
    }
    let peer_mss = PerSide::try_from_fn(|side| sys::peer_mss(&**pair.stream(side)))?;
    for side in Side::BOTH {
        let other = !side;
        // A peer sends segments of at most the offered MSS, and of at most the size that its own
        // link takes, which is the MSS that it has announced.
        let mss = agreed[side].advertised_mss.min(peer_mss[side]);
        if mss > peer_mss[other] {
            return Err(NotJoined::Never(Ineligible::Segments));
        }
        // A peer also sends no more than the window that it was offered. A peer that receives more
        // than it has room for may never open its window again (net/ipv4/tcp_output.c,
        // __tcp_select_window).
        let max_window = start[other].numbers.max_window;
        if max_window < mss || max_window >> agreed[side].scales.1 == 0 {
            return Err(NotJoined::Never(Ineligible::Window));
        }
        // A sender bounds its segments by half of the peer's maximum receive window
        // (include/net/tcp.h, tcp_bound_to_half_wnd), which was the local socket's. A segment that
        // never fits goes out by window probes, one every 200 ms.
        if least_max_window(agreed[other].scales.0).max(max_window) / 2 < mss {
            return Err(NotJoined::Never(Ineligible::Window));
        }
        // If the current window is smaller than a segment, try again later.
        if sys::send_window(&**pair.stream(other))? < u64::from(mss) {
            return Err(NotJoined::NotNow);
        }
    }
    Ok(())
}

/// The largest window that a peer with this window scale can have, at least: the peer chooses the
/// scale by the largest buffer that it may get (net/ipv4/tcp_output.c, tcp_select_initial_window).
fn least_max_window(scale: u8) -> u32 {
    (1 << 15) << scale.min(14)
}

/// The reserve for bytes that arrive during a join: a peer must have this much window beyond the
/// bytes that wait for the peer here, or half of its window if half is less.
const SPARE: u64 = 64 << 10;

/// Waits a moment until each peer has room for all bytes that wait for it here. Returns whether
/// each has.
///
/// These bytes then reach the peer soon, whatever its application does. Until then the
/// acknowledgements that the peer receives are clamped.
///
/// User space moves no byte during the wait, so only the send queues can shrink. The function does
/// not wait for a peer that has no room even for the unread bytes.
async fn is_ready(pair: &Pair) -> io::Result<bool> {
    for pauses in 0.. {
        let (mut ready, mut soon) = (true, true);
        for side in Side::BOTH {
            let (source, target) = (&**pair.stream(side), &**pair.stream(!side));
            let (unread, queue) = (u64::from(sys::unread(source)?), sys::send_queue(target)?);
            let room = sys::send_window(target)?;
            // Bytes that arrived out of order take memory and cannot be read.
            let is_ordered = unread != 0 || sys::receive_memory(source)? == 0;
            ready &= is_ordered && fits(queue + unread, room);
            soon &= fits(unread, room);
        }
        if ready || !soon || pauses == MAX_PAUSES {
            return Ok(ready);
        }
        sleep(PAUSE).await;
    }
    unreachable!("the number of pauses is bounded")
}

/// Whether a peer with this window can take these bytes and a little more.
fn fits(bytes: u64, room: u64) -> bool {
    bytes + SPARE.min(room / 2) <= room
}

impl JoinedPair {
    /// Once both sides are drained, makes the peers repeat the acknowledgements that were clamped.
    /// Otherwise they would not do so before a timer of the other peer expires.
    pub(super) fn release(&self, pair: &Pair) {
        if self.is_released.get() || !self.slot.are_both_drained() {
            return;
        }
        self.is_released.set(true);
        for side in Side::BOTH {
            // A connection that is gone by now needs no bounds.
            if let Ok(numbers) = sys::sequence_numbers(&**pair.stream(side)) {
                self.slot.close_window(side, numbers.rcv_edge);
            }
        }
        if Side::BOTH.into_iter().any(|side| self.slot.has_ending(ending::FIN, side)) {
            // One of the peers may be gone, and would answer a probe with a RST.
            return;
        }
        for side in Side::BOTH {
            if self.slot.has_clamped(side) {
                // A connection that is gone by now has no peer that waits.
                let _ = sys::send_window_probe(&**pair.stream(side));
            }
        }
    }

    /// Passes on the remaining bytes of one direction, once the cut-over is final. True if the
    /// source's FIN was among them.
    pub(super) async fn pass_on_rest(
        &self,
        kernel: &Kernel,
        direction: &Direction,
        pool: &BufferPool,
        pair: &Pair,
    ) -> Result<bool, SideError> {
        let side = direction.from();
        // The first direction determines both cut-overs.
        let cutovers = self.cutovers.get_or_try_init(|| self.finish_cutover(kernel, pair)).await;
        let cutovers = cutovers.map_err(|error| {
            let error = direction.error_of(error.side, error.error);
            self.attribute(direction, error)
        })?;
        let ended = self.relay_rest(cutovers[side], direction, pool, pair).await?;
        self.check_no_more(cutovers[side], direction)?;
        if sys::send_queue(&*direction.target).map_err(|e| direction.source_error(e))? == 0 {
            self.slot.set_drained(!side);
        }
        self.is_final[side].set(ended);
        Ok(ended)
    }

    /// Watches a source that has not ended. Fails if the source is gone, or if bytes have arrived
    /// beyond the cut-over when no packet can be on its way to the local socket any more. Otherwise
    /// never returns.
    pub(super) async fn watch_late(&self, kernel: &Kernel, direction: &Direction) -> SideError {
        kernel.grace_periods.wait().await;
        let side = direction.from();
        let cutovers =
            self.cutovers.get().expect("the cut-overs are final before bytes are passed on");
        let check = self
            .check_not_reset(side, &direction.source)
            .map_err(|error| self.attribute(direction, direction.source_error(error)))
            .and_then(|()| self.check_no_more(cutovers[side], direction));
        match check {
            Ok(()) => {
                self.is_final[side].set(true);
                pending().await
            }
            Err(error) => error,
        }
    }

    /// Replaces an error by the reset that the program has seen, if any. A peer that has received
    /// the other's RST answers packets of the local socket with a further RST.
    fn attribute(&self, direction: &Direction, error: SideError) -> SideError {
        self.reset(direction).unwrap_or(error)
    }

    /// The reset that the program has seen, if any, preferring the source of `direction`. A peer
    /// that answers a packet with a RST may have been reset itself, by a RST of the other peer that
    /// is challenged or still to be challenged.
    pub(super) fn reset(&self, direction: &Direction) -> Option<SideError> {
        let side = self.slot.reset_by(direction.from())?;
        let first = match self.challenge.suspect() {
            None if self.slot.has_ending(ending::RST_IN_WINDOW, !side) => Some(!side),
            suspect => suspect,
        };
        if let Some(suspect) = first {
            // The suspect's RST came behind everything that it had sent.
            self.slot.count_delivered(suspect);
        }
        Some(direction.error_of(first.unwrap_or(side), io::ErrorKind::ConnectionReset.into()))
    }

    /// Whether the local sockets only hold their addresses: they neither send nor receive.
    pub(super) fn is_idle(&self) -> bool {
        let is_final = |side| self.is_final[side].get() || self.slot.is_fin_acked(side);
        self.is_released.get() && Side::BOTH.into_iter().all(is_final)
    }

    /// Fails if the socket of a side is closed although the side's FIN is not acknowledged. If the
    /// program has seen no RST, the RST had passed the hook before.
    fn check_not_reset(&self, side: Side, stream: &Stream) -> io::Result<()> {
        match sys::is_closed(stream)? && !self.slot.is_fin_acked(side) {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }

    /// Fails if the source's local socket has received bytes beyond the cut-over: the sender takes
    /// them for delivered.
    fn check_no_more(&self, cutover: u32, direction: &Direction) -> Result<(), SideError> {
        let failed = |error| direction.source_error(error);
        if self.slot.is_fin_acked(direction.from())
            || sys::rcv_nxt(&*direction.source).map_err(failed)? == cutover
        {
            return Ok(());
        }
        Err(failed(io::Error::other("bytes arrived beyond the cut-over")))
    }

    /// Waits until all packets have arrived that had passed the hook when the program began to
    /// forward. Returns the final cut-overs, or the side that has failed.
    async fn finish_cutover(
        &self,
        kernel: &Kernel,
        pair: &Pair,
    ) -> Result<PerSide<u32>, SideError> {
        let mut cutovers = self.start.map(|start| start.numbers.rcv_nxt);
        // A socket may have rejected some of the packets. The sender repeats their bytes, and the
        // repeated packets go to the other peer. So the wait ends when no packet can be on its way
        // any more.
        let mut last = pin!(kernel.grace_periods.wait());
        let mut is_last = false;
        while !self.has_all(&mut cutovers, pair)? && !is_last {
            select! {
                () = &mut last => is_last = true,
                () = sleep(POLL_INTERVAL) => {}
            }
        }
        for side in Side::BOTH {
            let (stream, failed) = (pair.stream(side), |error| SideError { side, error });
            // Check this before any byte is passed on: later the socket also closes when it has
            // received a FIN and passed one on.
            self.check_not_reset(side, stream).map_err(failed)?;
            // From now on the socket has nothing to acknowledge.
            sys::acknowledge_now(&**stream).map_err(failed)?;
            let wl1 = sys::snd_wl1(&**stream).map_err(failed)?;
            let offset = wl1.wrapping_sub(cutovers[side]);
            self.slot.set_wl1_offset(side, if is_after(offset, 0) { offset } else { 0 });
        }
        // Unless the connection has ended and a new one has begun.
        self.slot.advance(Phase::Opening, Phase::Joined);
        Ok(cutovers)
    }

    /// Raises the cut-overs to the numbers that the local sockets have received. Returns whether
    /// the sockets have received all packets that the program let through.
    fn has_all(&self, cutovers: &mut PerSide<u32>, pair: &Pair) -> Result<bool, SideError> {
        let mut has_all = true;
        for side in Side::BOTH {
            // The call takes the socket lock. So it includes packets that waited in the socket
            // backlog until the lock was released (net/core/sock.c, release_sock).
            let received =
                sys::rcv_nxt(&**pair.stream(side)).map_err(|error| SideError { side, error })?;
            if received != cutovers[side] {
                cutovers[side] = received;
                let other_snd_nxt = received.wrapping_add(self.seq_deltas[side]);
                self.slot.raise_cutover(side, received, other_snd_nxt);
            }
            has_all &= !is_after(self.slot.local_max_seq(side), received);
        }
        Ok(has_all)
    }

    /// Relays the bytes up to the cut-over. True if the last number was the source's FIN.
    async fn relay_rest(
        &self,
        cutover: u32,
        direction: &Direction,
        pool: &BufferPool,
        pair: &Pair,
    ) -> Result<bool, SideError> {
        let side = direction.from();
        let counter = match side {
            Side::Client => &pair.traffic.sent,
            Side::Backend => &pair.traffic.rcvd,
        };
        // The program counts from the number up to which the local socket had received.
        counter.fetch_add(self.start[side].unread.into(), Relaxed);
        let mut rest = cutover.wrapping_sub(self.start[side].read_seq());
        let mut ended = false;
        while rest > 0 {
            match pump::receive(direction, pool)? {
                Received::Bytes(buffer, n) => {
                    pump::send_all(direction, &buffer[..n]).await?;
                    rest = rest.checked_sub(n as u32).ok_or_else(|| {
                        direction.source_error(io::Error::other("read beyond the cut-over"))
                    })?;
                }
                // The FIN occupies a number as well.
                Received::End if rest == 1 => {
                    direction.end_target();
                    rest = 0;
                    ended = true;
                }
                Received::Nothing | Received::End => {
                    let error = io::Error::other("bytes before the cut-over are missing");
                    return Err(direction.source_error(error));
                }
            }
        }
        if ended {
            self.slot.discount_fin(side);
        }
        Ok(ended)
    }
}
