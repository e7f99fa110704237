//! The state of one side of a spliced connection.
//!
//! Invariant: the sender state only moves forward once packets are forwarded.

use super::seq::is_after;
use crate::shared::{shared_struct, word_enum};

/// How far the join of a connection has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// The local sockets own the connection.
    #[default]
    Local = 0,
    /// Packets are forwarded. Packets that passed the hook before may still arrive at the local
    /// sockets, so the cut-over numbers can rise.
    Opening = 1,
    /// The cut-over numbers are final.
    Joined = 2,
    /// Both directions have ended. Late packets are still forwarded. A new connection between the
    /// same addresses replaces this one.
    Lingering = 3,
}

word_enum!(Phase: u32 = [Local, Opening, Joined, Lingering]);

/// Whether the timestamps of a side's peer are translated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Timestamps {
    /// The connections have no timestamps.
    #[default]
    Off = 0,
    /// The first timestamp of the peer will set [`SideState::ts_delta`].
    DeltaUnknown = 1,
    /// [`SideState::ts_delta`] is set.
    DeltaKnown = 2,
    /// Never written. Two bits have four values.
    Unused = 3,
}

word_enum!(Timestamps: u8 = [Off, DeltaUnknown, DeltaKnown, Unused]);

shared_struct! {
    /// One side: the translation of its peer's packets, and the state of its local socket.
    pub struct SideState, in memory SideWords {
        /// Added to the peer's sequence numbers on the way to the other peer.
        pub seq_delta: u32,
        /// Cut-over: sequence number of the peer's first byte that is not for the local socket.
        pub cutover_seq: u32,
        /// SND.NXT of the local socket: the number behind the last byte that it has for the peer.
        pub local_snd_nxt: u32,
        /// The peer has acknowledged that byte, so the local socket has nothing more to do. From
        /// then on nothing is compared with `local_snd_nxt` or with the other side's `cutover_seq`,
        /// which may be any distance away.
        pub drained: bool,
        /// Number behind all packets that had gone to the local socket when forwarding began, or a
        /// later number: the cut-over does not rise above it. Updated by
        /// [`advance_local_max`](super::advance_local_max). 0 if unknown.
        pub local_max_seq: u32,
        /// Distance from the cut-over to the local socket's `snd_wl1`, the number of the packet
        /// that last updated the send window. That packet can be beyond the cut-over if it was
        /// reordered, and the socket takes no window from an earlier number.
        pub wl1_offset: u32,
        /// How far beyond the cut-over a forwarded acknowledgement may go while the local socket,
        /// which knows no number beyond the cut-over, may still have to send something to the peer.
        pub ack_slack: u32,
        /// Added to the peer's timestamps on the way to the other peer.
        pub ts_delta: u32,
        /// Window scale of the peer.
        pub scale_in: u8,
        /// Window scale that the other peer applies to the windows that it receives.
        pub scale_out: u8,
        /// Whether timestamps are translated.
        pub timestamps: Timestamps,
        /// The peer's state as a sender.
        pub sender: SenderState,
    }
}

shared_struct! {
    /// What is known of a peer as a sender, in its own sequence numbers and by the names of RFC
    /// 9293, 3.3.1. Begins with the numbers of the local sockets.
    pub struct SenderState, in memory SenderWords {
        /// SND.UNA: the first byte that the other peer has not acknowledged. The lower half is the
        /// sequence number, the upper half counts its wraps.
        pub snd_una: u64,
        /// SND.NXT: the number behind the last byte of an accepted packet.
        pub snd_nxt: u32,
        /// SND.UNA + SND.WND: the right edge of the window that the other peer has offered.
        pub window_right_edge: u32,
        /// The largest window that the peer was offered, in bytes.
        pub max_window: u32,
        /// How far the local socket may have offered more than `window_right_edge`. 0 once the
        /// local socket is silent.
        pub right_edge_slack: u32,
    }
}

impl SenderState {
    /// State of a peer that has sent up to `snd_nxt`, of which the other peer has acknowledged up
    /// to `acked`.
    pub const fn new(acked: u32, snd_nxt: u32) -> Self {
        let snd_una = extended(snd_nxt) - snd_nxt.wrapping_sub(acked) as u64;
        Self { snd_una, snd_nxt, window_right_edge: snd_nxt, max_window: 0, right_edge_slack: 0 }
    }

    /// SND.UNA as a sequence number.
    #[inline(always)]
    pub const fn acked(&self) -> u32 {
        self.snd_una as u32
    }

    /// Whether a packet from `seq` up to `end` lies in the window.
    #[inline(always)]
    pub const fn is_in_window(&self, seq: u32, end: u32) -> bool {
        let edge = self.window_right_edge.wrapping_add(self.right_edge_slack);
        !is_after(self.acked(), end) && !is_after(seq, edge)
    }

    /// SND.UNA after an acknowledgement of `acked`. An old acknowledgement changes nothing.
    #[inline(always)]
    pub const fn acknowledge(snd_una: u64, acked: u32) -> u64 {
        let fresh = acked.wrapping_sub(snd_una as u32);
        if is_after(fresh, 0) { snd_una + fresh as u64 } else { snd_una }
    }
}

/// A sequence number with an upper half, as in [`SenderState::snd_una`]. Earlier numbers stay
/// positive.
pub const fn extended(number: u32) -> u64 {
    (1 << 32) + number as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::WordValue as _;
    use core::mem::size_of;
    use proptest::prelude::*;

    #[test]
    fn the_layout_is_as_both_sides_read_it() {
        assert_eq!(size_of::<SenderWords>(), 24);
        assert_eq!(size_of::<SideWords>(), 40 + 24);
    }

    #[test]
    fn acknowledged_bytes_are_counted_beyond_all_numbers() {
        let mut snd_una = SenderState::new(u32::MAX - 5, 3).snd_una;
        let begin = snd_una;
        for step in [0, 9, 1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30] {
            let acked = (snd_una as u32).wrapping_add(step);
            snd_una = SenderState::acknowledge(snd_una, acked);
            assert_eq!(SenderState::acknowledge(snd_una, acked.wrapping_sub(1)), snd_una);
        }
        assert_eq!(snd_una - begin, 9 + (5 << 30));
    }

    proptest! {
        #[test]
        fn any_bits_are_a_phase_and_each_phase_has_its_own(bits: u32) {
            prop_assert_eq!(Phase::from_bits(bits).to_bits(), bits & 3);
            for phase in [Phase::Local, Phase::Opening, Phase::Joined, Phase::Lingering] {
                prop_assert_eq!(Phase::from_bits(phase.to_bits()), phase);
            }
        }
    }
}
