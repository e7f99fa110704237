//! A slot in use: the memory that one spliced connection shares with the program.
//!
//! Invariant: packets find the slot exactly as long as this value lives.

use std::sync::{Arc, atomic::Ordering::SeqCst};

use balance_ebpf::{
    Shared as _, Word,
    splice::{
        DirectionState, DirectionWords, PacketTuple, Phase, SenderState, SideWords, Splice,
        SpliceWords, Timestamps, ending, extended, is_after,
    },
};

use super::{kernel::Kernel, tuple::Tuple};
use crate::datapath::{
    offload::slots::Wakers,
    reset_evidence::ResetEvidence,
    side::{PerSide, Side},
};

/// One connection.
pub(super) struct Slot {
    pub(super) kernel: Arc<Kernel>,
    pub(super) number: u32,
    /// Woken when the program has seen a part of the connection's end.
    pub(super) ending: Wakers,
    pub(super) tuples: PerSide<Tuple>,
}

/// The sequence numbers of this host's end of a connection, as its peer sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalEnd {
    /// The number that the peer expects.
    pub(super) next: u32,
    /// The number up to which the peer has acknowledged.
    pub(super) acknowledged: u32,
    /// The number behind everything that the peer has sent.
    pub(super) received: u32,
    /// The number up to which the other peer has acknowledged these bytes.
    pub(super) delivered: u32,
    /// The FIN towards the peer was already forwarded.
    pub(super) has_ended: bool,
}

impl Slot {
    /// The tuple by which packets of a side's peer find the slot.
    pub(super) fn arriving(&self, side: Side) -> PacketTuple {
        self.tuples[side].arriving()
    }

    /// Fills the slot, including the phase. Until the phase leaves `Local`, the program only counts
    /// packets. A count that is overwritten here is repeated with the next packet.
    pub(super) fn fill(&self, splice: Splice) {
        splice.store_relaxed(self.words());
    }

    /// Sets the phase.
    pub(super) fn set_phase(&self, phase: Phase) {
        self.words().phase.store_seq_cst(phase);
    }

    /// Changes the phase, and returns whether it has. The phase stays if the program has given the
    /// connection back to the local sockets because a new one began between the same addresses.
    pub(super) fn advance(&self, from: Phase, to: Phase) -> bool {
        self.words().phase.compare_exchange_seq_cst(from, to)
    }

    /// A number behind every packet that the program has let through to a side's local socket. 0 if
    /// the program has seen none. Once the phase has left `Local`, the number includes all such
    /// packets, and may include forwarded packets.
    pub(super) fn local_max_seq(&self, side: Side) -> u32 {
        self.side(side).local_max_seq.load_seq_cst()
    }

    /// Resets [`Self::local_max_seq`], because the packet with this number was not the peer's.
    pub(super) fn reset_local_max_seq(&self, side: Side) {
        self.side(side).local_max_seq.store_seq_cst(0);
    }

    /// The sequence number of a packet of a side's peer that the program could not have forwarded,
    /// if it has seen one.
    pub(super) fn unforwardable_seq(&self, side: Side) -> Option<u32> {
        let seq = self.direction(side).unforwardable_seq.load_seq_cst();
        (seq != 0).then_some(seq)
    }

    /// Sets RCV.NXT and SND.NXT of a side's local socket, which the program compares packets with.
    pub(super) fn set_local_numbers(&self, side: Side, rcv_nxt: u32, snd_nxt: u32) {
        let words = self.side(side);
        words.cutover_seq.store_seq_cst(rcv_nxt);
        words.local_snd_nxt.store_seq_cst(snd_nxt);
    }

    /// Sets the state of a direction before packets are forwarded.
    pub(super) fn begin(&self, side: Side, begin: &DirectionState) {
        let direction = self.direction(side);
        let SenderState { snd_una, snd_nxt, window_right_edge, max_window, right_edge_slack } =
            begin.side.sender;
        direction.side.seq_delta.store_seq_cst(begin.side.seq_delta);
        direction.counted_from.store_seq_cst(extended(begin.side.cutover_seq));
        let sender = &direction.side.sender;
        sender.snd_una.store_seq_cst(snd_una);
        sender.snd_nxt.store_seq_cst(snd_nxt);
        sender.window_right_edge.store_seq_cst(window_right_edge);
        sender.max_window.store_seq_cst(max_window);
        sender.right_edge_slack.store_seq_cst(right_edge_slack);
        direction.side.ack_slack.store_seq_cst(begin.side.ack_slack);
        direction.ts_clock_offset.store_seq_cst(begin.ts_clock_offset);
        direction.last_packet_ns.store_seq_cst(begin.last_packet_ns);
        let (cutover, delta) = (begin.side.cutover_seq, begin.side.seq_delta);
        self.raise_cutover(side, cutover, cutover.wrapping_add(delta));
    }

    /// Moves the cut-over of a side, and the SND.NXT that the other side's local socket will then
    /// have.
    pub(super) fn raise_cutover(&self, side: Side, cutover: u32, other_snd_nxt: u32) {
        let words = self.side(side);
        words.cutover_seq.store_seq_cst(cutover);
        self.side(!side).local_snd_nxt.store_seq_cst(other_snd_nxt);
        // User space passes on what the local socket has received, and the other peer acknowledges
        // it.
        raise(&words.sender.snd_nxt, cutover);
    }

    /// Counts everything that a side's peer has sent as delivered, because the other peer has no
    /// time left to acknowledge it.
    pub(super) fn count_delivered(&self, side: Side) {
        let sender = &self.side(side).sender;
        let snd_nxt = sender.snd_nxt.load_seq_cst();
        sender.snd_una.update_seq_cst(|seen| Some(SenderState::acknowledge(seen, snd_nxt)));
    }

    /// Takes one sequence number out of the byte count of a side: the FIN that the local socket has
    /// passed on.
    pub(super) fn discount_fin(&self, side: Side) {
        self.direction(side).counted_from.as_atomic().fetch_add(1, SeqCst);
    }

    /// Sets the right edge of the window that a local socket, which is silent now, has offered to
    /// its peer.
    pub(super) fn close_window(&self, side: Side, right_edge: u32) {
        let sender = &self.side(side).sender;
        raise(&sender.window_right_edge, right_edge);
        sender.right_edge_slack.store_seq_cst(0);
    }

    /// Sets the distance from the cut-over to the local socket's `snd_wl1`.
    pub(super) fn set_wl1_offset(&self, side: Side, offset: u32) {
        self.side(side).wl1_offset.store_seq_cst(offset);
    }

    /// Marks a side whose peer has acknowledged everything that the local socket has for it.
    pub(super) fn set_drained(&self, side: Side) {
        self.side(side).drained.store_seq_cst(true);
    }

    /// Whether the peer of a side has acknowledged everything that the local socket has for it.
    pub(super) fn is_drained(&self, side: Side) -> bool {
        self.side(side).drained.load_seq_cst()
    }

    /// Whether both sides are drained. Both local sockets are silent then.
    pub(super) fn are_both_drained(&self) -> bool {
        Side::BOTH.into_iter().all(|side| self.is_drained(side))
    }

    /// Whether acknowledgements of a side's peer were clamped to the numbers of the local socket.
    pub(super) fn has_clamped(&self, side: Side) -> bool {
        self.direction(side).clamped_acks.load_seq_cst() != 0
    }

    /// Bits of [`ending`].
    pub(super) fn endings(&self) -> u64 {
        self.words().endings.load_seq_cst()
    }

    /// Whether a bit of [`ending`] is set for a side.
    pub(super) fn has_ending(&self, bit: u64, side: Side) -> bool {
        self.endings() & ending::of(bit, side) != 0
    }

    /// Whether the other peer has acknowledged the FIN of a side's peer. It has received everything
    /// then, on whichever datapath.
    pub(super) fn is_fin_acked(&self, side: Side) -> bool {
        self.has_ending(ending::FIN_ACKED, side)
    }

    /// The side whose peer has reset the connection, if the program has seen it. `side` if both
    /// have.
    pub(super) fn reset_by(&self, side: Side) -> Option<Side> {
        [side, !side].into_iter().find(|&side| self.has_ending(ending::RESET, side))
    }

    /// Whether a side's peer has sent a RST with an unexpected number in the window since the last
    /// call.
    pub(super) fn take_rst_in_window(&self, side: Side) -> bool {
        let bit = ending::of(ending::RST_IN_WINDOW, side);
        // Usually there is none, and the word need not be written.
        self.endings() & bit != 0 && self.words().endings.fetch_and_seq_cst(!bit) & bit != 0
    }

    /// When the last packet of a side's peer was forwarded: nanoseconds of CLOCK_MONOTONIC.
    pub(super) fn last_packet_ns(&self, side: Side) -> u64 {
        self.direction(side).last_packet_ns.load_seq_cst()
    }

    /// Whether the timestamps of a side's peer are translated.
    pub(super) fn has_timestamps(&self, side: Side) -> bool {
        self.side(side).timestamps.load_seq_cst() != Timestamps::Off
    }

    /// The sequence numbers of this host's end of a side's connection.
    pub(super) fn local_end(&self, side: Side) -> LocalEnd {
        let splice = self.read();
        let (this, other) = (&splice.directions[side].side, &splice.directions[!side].side);
        LocalEnd {
            next: splice.accepted_end(!side).wrapping_add(other.seq_delta),
            acknowledged: other.sender.acked().wrapping_add(other.seq_delta),
            received: splice.accepted_end(side),
            delivered: this.sender.acked(),
            has_ended: splice.endings & ending::of(ending::FIN, !side) != 0,
        }
    }

    /// The evidence about a connection that the peer of the side `reset` has reset. A FIN counts
    /// once it was forwarded: a peer that answers a FIN with a RST does not acknowledge the FIN.
    pub(super) fn evidence(&self, reset: Side) -> ResetEvidence {
        let LocalEnd { next, acknowledged, .. } = self.local_end(reset);
        ResetEvidence {
            reset,
            client_ended: self.has_ending(ending::FIN, Side::Client),
            backend_ended: self.has_ending(ending::FIN, Side::Backend),
            refused: next.wrapping_sub(acknowledged).into(),
        }
    }

    /// The whole slot at this moment, word by word.
    pub(super) fn read(&self) -> Splice {
        Splice::load_relaxed(self.words())
    }

    fn side(&self, side: Side) -> &SideWords {
        &self.direction(side).side
    }

    fn direction(&self, side: Side) -> &DirectionWords {
        &self.words().directions[side]
    }

    fn words(&self) -> &SpliceWords {
        self.kernel.words(self.number)
    }
}

/// Raises a sequence number.
fn raise(word: &Word<u32>, number: u32) {
    word.update_seq_cst(|seen| is_after(number, seen).then_some(number));
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set_phase(Phase::Local);
        self.kernel.leave(self);
    }
}
