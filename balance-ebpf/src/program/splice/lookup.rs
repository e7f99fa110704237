//! The splice that a packet belongs to, and the side that the packet came from.
//!
//! Invariant: all state is in a value of an array map, which outlives the program. User space and
//! other processors access it at the same time, so the program accesses one word at a time, and
//! reads again instead of relying on an earlier read.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use balance_ebpf::{
    Shared as _, Side,
    splice::{
        Decision, DirectionWords, Phase, Segment, SenderState, SideState, SideWords, SpliceWords,
        TupleWords, decide, is_after, is_near_local, is_over,
    },
};

use crate::SPLICES;

/// A splice, seen from the side that a packet came from.
pub(crate) struct SpliceRef {
    /// The splice's slot.
    pub(crate) slot: u32,
    /// The side that the packet came from.
    pub(crate) side: Side,
    pub(crate) splice: &'static SpliceWords,
    /// The direction of the packets of that side's peer.
    pub(crate) this: &'static DirectionWords,
    /// The other direction.
    pub(crate) other: &'static DirectionWords,
}

/// The state of the side that a packet came from, and of the other side.
pub(crate) struct States {
    pub(crate) this: SideState,
    pub(crate) other: SideState,
}

/// How a packet leaves.
pub(crate) struct Egress {
    /// The packet's tuple.
    pub(crate) translated_tuple: &'static TupleWords,
    /// Change of a checksum by the new addresses. 0 if the addresses stay.
    pub(crate) address_checksum_delta: u32,
    pub(crate) out_ifindex: u32,
    /// Other programs on loopback must see the packet.
    pub(crate) reinject: bool,
    pub(crate) hop_limit_dscp: u32,
}

impl SpliceRef {
    /// Finds a splice by twice its slot, plus the side.
    #[inline(always)]
    pub(crate) fn get(slot_and_side: u32) -> Option<Self> {
        let (slot, side) = (slot_and_side >> 1, Side::from_bit(slot_and_side));
        let splice = SPLICES.get(slot)?;
        let (this, other) = (&splice.directions[side], &splice.directions[!side]);
        Some(Self { slot, side, splice, this, other })
    }

    #[inline(always)]
    pub(crate) fn phase(&self) -> Phase {
        self.splice.phase.load_relaxed()
    }

    /// Lets all packets pass to the local sockets from now on.
    #[inline(always)]
    pub(crate) fn give_back(&self) {
        self.splice.phase.store_relaxed(Phase::Local);
    }

    /// The interface through which the sender is reached.
    #[inline(always)]
    pub(crate) fn sender_ifindex(&self) -> u32 {
        self.other.out_ifindex.load_relaxed()
    }

    /// Whether the connection has ended.
    #[inline(always)]
    pub(crate) fn is_over(&self, phase: Phase) -> bool {
        is_over(phase, self.endings())
    }

    /// Bits of [`ending`](balance_ebpf::splice::ending).
    #[inline(always)]
    pub(crate) fn endings(&self) -> u64 {
        self.splice.endings.load_relaxed()
    }

    /// Whether a packet is near the numbers that the local socket expects, for a packet that the
    /// local socket checks.
    #[inline(always)]
    pub(crate) fn is_near_local(&self, segment: &Segment) -> bool {
        let side = SideState {
            cutover_seq: self.this.side.cutover_seq.load_relaxed(),
            local_snd_nxt: self.this.side.local_snd_nxt.load_relaxed(),
            ..SideState::default()
        };
        is_near_local(&side, segment)
    }

    /// Decides on a packet. `local_max_seq` is the value before the packet, if the packet was
    /// counted in it and must not go to the local socket after all.
    #[inline(always)]
    pub(crate) fn decide(
        &self,
        phase: Phase,
        local_max_seq: Option<u32>,
        segment: &Segment,
        intact: bool,
    ) -> (States, Decision) {
        let (this, other) = (&self.this.side, &self.other.side);
        if this.drained.load_relaxed() && other.drained.load_relaxed() {
            // The case of most packets. The compiler specialises the decision for it.
            let states = States { this: load_drained(this), other: load_drained(other) };
            let decision = decide(phase, &states.this, &states.other, segment, intact);
            return (states, decision);
        }
        let mut states =
            States { this: SideState::load_relaxed(this), other: SideState::load_relaxed(other) };
        if let Some(before) = local_max_seq {
            states.this.local_max_seq = before;
        }
        let decision = decide(phase, &states.this, &states.other, segment, intact);
        (states, decision)
    }

    /// Marks the side: its peer has acknowledged the local socket's last byte. Never reverted.
    #[inline(always)]
    pub(crate) fn set_drained(&self) {
        self.this.side.drained.store_relaxed(true);
    }

    /// Translates `seq` of a packet that was forwarded to this side's peer to the sequence number
    /// that the other peer sent. `None` if no such packet is in flight.
    #[inline(always)]
    pub(crate) fn in_flight(&self, seq: u32) -> Option<u32> {
        let (this, other) = (&self.this.side, &self.other.side);
        if !this.drained.load_relaxed() && is_after(this.local_snd_nxt.load_relaxed(), seq) {
            // The local socket has sent this packet, and retransmits it.
            return None;
        }
        let seq = seq.wrapping_sub(other.seq_delta.load_relaxed());
        let acked = other.sender.snd_una.load_relaxed() as u32;
        let next = other.sender.snd_nxt.load_relaxed();
        if is_after(acked, seq) || !is_after(next, seq) { None } else { Some(seq) }
    }

    /// How packets of this side's peer leave.
    #[inline(always)]
    pub(crate) fn egress(&self) -> Egress {
        Egress {
            translated_tuple: &self.this.translated_tuple,
            address_checksum_delta: self.this.address_checksum_delta.load_relaxed(),
            out_ifindex: self.this.out_ifindex.load_relaxed(),
            reinject: self.this.reinject.load_relaxed(),
            hop_limit_dscp: self.this.hop_limit_dscp.load_relaxed(),
        }
    }

    /// The timestamp clock of the local socket that seems to send the packets, in milliseconds.
    #[inline(always)]
    pub(crate) fn ts_clock(&self) -> u32 {
        // SAFETY: the helper has no requirements.
        let now = (unsafe { bpf_ktime_get_ns() } / 1_000_000) as u32;
        self.this.ts_clock_offset.load_relaxed().wrapping_add(now)
    }

    /// Marks the side: its peer sends packets that cannot be forwarded.
    #[inline(always)]
    pub(crate) fn mark_unforwardable(&self, segment: &Segment) {
        self.this.unforwardable_seq.store_relaxed(segment.seq | 1);
    }

    /// Counts a dropped packet.
    #[inline(always)]
    pub(crate) fn count_dropped(&self) {
        self.this.dropped.add_unsynchronized(1);
    }
}

/// The fields of a side that count once both sides are drained. Nothing is compared with the rest.
#[inline(always)]
fn load_drained(side: &SideWords) -> SideState {
    SideState {
        seq_delta: side.seq_delta.load_relaxed(),
        drained: true,
        scale_in: side.scale_in.load_relaxed(),
        scale_out: side.scale_out.load_relaxed(),
        timestamps: side.timestamps.load_relaxed(),
        ts_delta: side.ts_delta.load_relaxed(),
        sender: SenderState::load_relaxed(&side.sender),
        ..SideState::default()
    }
}
