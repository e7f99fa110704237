//! A slot in use: what one spliced connection shares with the program.
//!
//! Invariant: packets find the slot for as long as this lives, and not after; what both sides
//! change are single words, changed atomically.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};

use balance_ebpf::splice::{Evidence, Key, Splice, Way, ending, extended, is_after, phase};

use super::{
    kernel::Kernel,
    tuple::Tuple,
    words::{Words, word},
};
use crate::datapath::{offload::slots::Wakers, reset_evidence::ResetEvidence, side::Side};

/// One connection.
pub(super) struct Slot {
    pub(super) kernel: Arc<Kernel>,
    pub(super) number: u32,
    /// Told when something of the end was seen.
    pub(super) ending: Wakers,
    pub(super) paths: [Tuple; 2],
}

/// Where our end of a connection stands, if our socket were to say it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// The number that the peer waits for.
    pub(super) next: u32,
    /// The number up to which the peer has acknowledged.
    pub(super) acknowledged: u32,
    /// The number behind what the peer has sent.
    pub(super) received: u32,
    /// The number behind what the other peer has acknowledged of that.
    pub(super) delivered: u32,
    /// Our direction has ended already.
    pub(super) is_over: bool,
}

impl Slot {
    /// How packets of a side's peer find the slot.
    pub(super) fn key(&self, side: usize) -> Key {
        self.paths[side].arriving()
    }

    /// Fills the slot; the phase as well.
    pub(super) fn fill(&self, splice: Splice) {
        // SAFETY: nobody else writes to the slot until its phase is another than LOCAL, but for what the
        // program notes of packets; of that, what is lost is noted again with the next.
        unsafe { self.kernel.splices.get(self.number).write_volatile(splice) };
    }

    /// Sets one of [`phase`].
    pub(super) fn set_phase(&self, phase: u32) {
        self.words().phase().store(phase, SeqCst);
    }

    /// Goes from one [`phase`] to another; whether it has. It has not if the program has given the connection back
    /// meanwhile, because a new one has begun between the same addresses.
    pub(super) fn advance(&self, from: u32, to: u32) -> bool {
        self.words().phase().compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }

    /// A number that is behind all that the program has let through to a side's local socket; 0 if it has
    /// seen nothing. Once the phase is another than LOCAL there is nothing that it does not count, but it
    /// may count what goes through.
    pub(super) fn next(&self, side: usize) -> u32 {
        word!(self.words(), AtomicU32, ways[side].side.next).load(SeqCst)
    }

    /// Forgets what the program has let through to a side's local socket: it was not the peer's.
    pub(super) fn forget_next(&self, side: usize) {
        word!(self.words(), AtomicU32, ways[side].side.next).store(0, SeqCst);
    }

    /// The number of a packet of a side's peer that could not have been passed on, if there was one.
    pub(super) fn odd(&self, side: usize) -> Option<u32> {
        let odd = word!(self.words(), AtomicU32, ways[side].odd).load(SeqCst);
        (odd != 0).then_some(odd)
    }

    /// Tells the program near which numbers a side's packets are: those of our socket, which has received
    /// up to `received` and written up to `written`.
    pub(super) fn set_near(&self, side: usize, received: u32, written: u32) {
        let words = self.words();
        word!(words, AtomicU32, ways[side].side.cut).store(received, SeqCst);
        word!(words, AtomicU32, ways[side].side.written).store(written, SeqCst);
    }

    /// Sets what is known when the numbers are, before packets go through.
    pub(super) fn begin(&self, side: usize, begin: &Way) {
        let words = self.words();
        let Evidence { snd_una, snd_nxt, snd_edge, max_window, edge_slack } = begin.side.sent;
        word!(words, AtomicU32, ways[side].side.shift).store(begin.side.shift, SeqCst);
        word!(words, AtomicU64, ways[side].origin).store(extended(begin.side.cut), SeqCst);
        word!(words, AtomicU64, ways[side].side.sent.snd_una).store(snd_una, SeqCst);
        word!(words, AtomicU32, ways[side].side.sent.snd_nxt).store(snd_nxt, SeqCst);
        word!(words, AtomicU32, ways[side].side.sent.snd_edge).store(snd_edge, SeqCst);
        word!(words, AtomicU32, ways[side].side.sent.max_window).store(max_window, SeqCst);
        word!(words, AtomicU32, ways[side].side.sent.edge_slack).store(edge_slack, SeqCst);
        word!(words, AtomicU32, ways[side].side.leeway).store(begin.side.leeway, SeqCst);
        word!(words, AtomicU32, ways[side].clock).store(begin.clock, SeqCst);
        word!(words, AtomicU64, ways[side].last).store(begin.last, SeqCst);
        self.raise(side, begin.side.cut, begin.side.cut.wrapping_add(begin.side.shift));
    }

    /// Moves the cut-off of a side, and what the other side's socket will have written.
    pub(super) fn raise(&self, side: usize, cut: u32, written: u32) {
        let words = self.words();
        word!(words, AtomicU32, ways[side].side.cut).store(cut, SeqCst);
        word!(words, AtomicU32, ways[1 - side].side.written).store(written, SeqCst);
        // What our socket has received is passed on by user space, and acknowledged by the other peer.
        let snd_nxt = word!(words, AtomicU32, ways[side].side.sent.snd_nxt);
        let raise = |seen| is_after(cut, seen).then_some(cut);
        let _ = snd_nxt.fetch_update(SeqCst, SeqCst, raise);
    }

    /// Counts all that a side's peer has sent, which the other peer has no time to acknowledge any more.
    pub(super) fn deliver(&self, side: usize) {
        let words = self.words();
        let snd_nxt = word!(words, AtomicU32, ways[side].side.sent.snd_nxt).load(SeqCst);
        let snd_una = word!(words, AtomicU64, ways[side].side.sent.snd_una);
        let raise = |seen| Some(Evidence::acknowledge(seen, snd_nxt));
        let _ = snd_una.fetch_update(SeqCst, SeqCst, raise);
    }

    /// Does not count one number of a side as a byte: the end that our socket has passed on.
    pub(super) fn count_end(&self, side: usize) {
        word!(self.words(), AtomicU64, ways[side].origin).fetch_add(1, SeqCst);
    }

    /// Sets the right edge of the window that our socket, which says nothing any more, has offered to a
    /// side's peer.
    pub(super) fn close_edge(&self, side: usize, edge: u32) {
        let words = self.words();
        let snd_edge = word!(words, AtomicU32, ways[side].side.sent.snd_edge);
        let raise = |seen| is_after(edge, seen).then_some(edge);
        let _ = snd_edge.fetch_update(SeqCst, SeqCst, raise);
        word!(words, AtomicU32, ways[side].side.sent.edge_slack).store(0, SeqCst);
    }

    /// Sets by how much the local socket has heard of room beyond the cut-off.
    pub(super) fn set_ahead(&self, side: usize, ahead: u32) {
        word!(self.words(), AtomicU32, ways[side].side.ahead).store(ahead, SeqCst);
    }

    /// Marks a side whose peer has acknowledged all that our socket has for it.
    pub(super) fn set_settled(&self, side: usize) {
        word!(self.words(), AtomicU32, ways[side].side.settled).store(1, SeqCst);
    }

    /// Whether the peer of a side has acknowledged all that our socket has for it.
    pub(super) fn is_settled(&self, side: usize) -> bool {
        word!(self.words(), AtomicU32, ways[side].side.settled).load(SeqCst) != 0
    }

    /// Whether acknowledgements of a side's peer were held back to what our socket said.
    pub(super) fn has_clamped(&self, side: usize) -> bool {
        word!(self.words(), AtomicU32, ways[side].clamped).load(SeqCst) != 0
    }

    /// What has been seen of the end: bits of [`ending`].
    pub(super) fn endings(&self) -> u64 {
        self.words().ending().load(SeqCst)
    }

    /// Whether the end of what a side's peer has sent was acknowledged by the other peer, which then has
    /// all of it, wherever it came through.
    pub(super) fn is_over(&self, side: usize) -> bool {
        self.endings() & (ending::ACKNOWLEDGED << side) != 0
    }

    /// Which side's peer has reset the connection, if the program has seen it; side `i` if both have.
    pub(super) fn reset_by(&self, i: usize) -> Option<usize> {
        let endings = self.endings();
        [i, 1 - i].into_iter().find(|side| endings & (ending::BROKEN << side) != 0)
    }

    /// Whether a side's peer has sent a reset that is doubted, since this was last asked.
    pub(super) fn take_doubt(&self, side: usize) -> bool {
        let doubted = ending::DOUBTED << side;
        // Most of the time there is none.
        self.endings() & doubted != 0
            && self.words().ending().fetch_and(!doubted, SeqCst) & doubted != 0
    }

    /// When the last packet of a side's peer went on: nanoseconds of CLOCK_MONOTONIC.
    pub(super) fn last(&self, side: usize) -> u64 {
        word!(self.words(), AtomicU64, ways[side].last).load(SeqCst)
    }

    /// Where our end of a side's connection stands.
    pub(super) fn standing(&self, side: usize) -> Standing {
        let splice = self.read();
        let (this, other) = (&splice.ways[side], &splice.ways[1 - side]);
        Standing {
            next: other.end(&this.side).wrapping_add(other.side.shift),
            acknowledged: other.side.sent.acked().wrapping_add(other.side.shift),
            received: this.end(&other.side),
            delivered: this.side.sent.acked(),
            is_over: splice.ending & (ending::FIN << (1 - side)) != 0,
        }
    }

    /// Whether both peers have acknowledged all that our sockets have for them, which are silent then.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_settled(0) && self.is_settled(1)
    }

    /// What is known of a connection that `reset` has reset. An end counts once it was passed on: who
    /// answers it with a reset does not acknowledge it.
    pub(super) fn evidence(&self, reset: Side) -> ResetEvidence {
        let has_ended = |side: Side| self.endings() & (ending::FIN << side as usize) != 0;
        let Standing { next, acknowledged, .. } = self.standing(reset as usize);
        ResetEvidence {
            reset,
            client_ended: has_ended(Side::Client),
            backend_ended: has_ended(Side::Backend),
            refused: next.wrapping_sub(acknowledged).into(),
        }
    }

    /// As it is at this moment, each word by itself.
    pub(super) fn read(&self) -> Splice {
        self.words().read()
    }

    fn words(&self) -> Words<'_> {
        self.kernel.words(self.number)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.set_phase(phase::LOCAL);
        self.kernel.leave(self);
    }
}
