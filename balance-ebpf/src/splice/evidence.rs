//! What balance learns from the packets of a spliced connection.
//!
//! A packet can come from an attacker who knows addresses and ports. Invariant: a packet changes
//! the state of a connection only if the TCP of the receiving peer accepts the packet as well. Its
//! bytes lie in the window that this peer has offered (RFC 9293, 3.10.7.4). It acknowledges what
//! this peer has sent, neither more nor much less (RFC 5961, 5.2). Both bounds come from earlier
//! accepted packets alone, so guessing gains no more here than against the peers.

use super::{
    segment::{Forward, Segment, flag},
    seq::{is_after, later},
    state::SideState,
};

/// The state that an accepted packet of `this` side's peer updates. Each field only raises the
/// value that it updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateUpdate {
    /// The number behind the packet, for this side's `snd_nxt`.
    pub end: u32,
    /// The acknowledgement in the other side's numbers, for that side's `snd_una`.
    pub acked: u32,
    /// The right edge of the window that the packet offers, for the other side's
    /// `window_right_edge`.
    pub window_right_edge: u32,
    /// That window, for the other side's `max_window`.
    pub window: u32,
}

impl StateUpdate {
    /// The update of a packet that is forwarded as `forward`.
    #[inline(always)]
    pub const fn of(
        this: &SideState,
        other: &SideState,
        packet: &Segment,
        forward: &Forward,
    ) -> Self {
        let window = (forward.window as u32) << (this.scale_out & 15);
        Self {
            end: packet.end(),
            acked: packet.ack.wrapping_sub(other.seq_delta),
            window_right_edge: forward.ack.wrapping_add(window),
            window,
        }
    }
}

/// Whether a packet of `this` side's peer acknowledges bytes that this peer was sent.
#[inline(always)]
pub(super) const fn is_ack_acceptable(this: &SideState, other: &SideState, ack: u32) -> bool {
    let snd_nxt = other.sender.snd_nxt.wrapping_add(other.seq_delta);
    // The local socket's own bytes count until the peer has acknowledged all of them.
    let snd_nxt = if this.drained { snd_nxt } else { later(snd_nxt, this.local_snd_nxt) };
    let acked = other.sender.acked().wrapping_add(other.seq_delta);
    !is_after(ack, snd_nxt) && !is_after(acked.wrapping_sub(other.sender.max_window), ack)
}

/// What a RST of `this` side's peer means here. The other peer receives every RST and applies RFC
/// 5961, 3.2 by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// The RST has the number that the other peer expects next: the connection has ended.
    Valid,
    /// The number is elsewhere in the window: both peers must be probed.
    InWindow,
    /// The number is outside the window: no peer accepts the RST.
    Invalid,
}

/// Classifies a RST of `this` side's peer by its sequence number.
#[inline(always)]
pub const fn classify_reset(this: &SideState, other: &SideState, seq: u32) -> Reset {
    // While the local socket still answers for the other peer, the local socket's number counts as
    // well.
    let is_for_local = (!this.drained || !other.drained) && seq == this.cutover_seq;
    if is_for_local || seq == this.sender.acked() {
        Reset::Valid
    } else if this.sender.is_in_window(seq, seq) {
        Reset::InWindow
    } else {
        Reset::Invalid
    }
}

/// The acknowledgement of a valid RST of `this` side's peer, in the other side's numbers. A peer
/// that resets a connection by itself acknowledges what it has received (net/ipv4/tcp_output.c,
/// `tcp_send_active_reset`).
#[inline(always)]
pub const fn acked_by_reset(this: &SideState, other: &SideState, packet: &Segment) -> Option<u32> {
    if packet.flags & flag::ACK != 0 && is_ack_acceptable(this, other, packet.ack) {
        Some(packet.ack.wrapping_sub(other.seq_delta))
    } else {
        None
    }
}

/// How far a packet that the program remembers may be from the local socket's numbers while the
/// local sockets still own the connection. User space updates those numbers before it has moved so
/// much.
const AHEAD: u32 = 1 << 29;
const BEHIND: u32 = 1 << 24;

/// Whether a packet is near the numbers that the local socket expects, which are `this.cutover_seq`
/// and `this.local_snd_nxt` as user space last set them. For packets that the local socket checks
/// itself.
#[inline(always)]
pub const fn is_near_local(this: &SideState, packet: &Segment) -> bool {
    let seq = packet.end().wrapping_sub(this.cutover_seq).wrapping_add(BEHIND);
    let ack = packet.ack.wrapping_sub(this.local_snd_nxt).wrapping_add(BEHIND);
    packet.flags & flag::ACK != 0 && seq < AHEAD + BEHIND && ack < AHEAD + BEHIND
}

/// The new [`SideState::local_max_seq`] after a packet that goes to the local socket, from the
/// value before. Must be called for every packet that can still be between program and socket when
/// the phase changes.
#[inline(always)]
pub const fn advance_local_max(local_max_seq: u32, packet: &Segment) -> u32 {
    if packet.flags & (flag::SYN | flag::RST | flag::ACK) != flag::ACK {
        local_max_seq
    } else if local_max_seq == 0 {
        packet.end()
    } else {
        later(local_max_seq, packet.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice::state::SenderState;
    use proptest::prelude::*;

    /// The peer has sent up to 5,000, of which 1,000 are acknowledged, and may send up to 9,000.
    /// The other peer has sent up to 500 in its own numbers, of which 300 are acknowledged.
    fn sides() -> (SideState, SideState) {
        let side = |acked, snd_nxt, window_right_edge, seq_delta| SideState {
            seq_delta,
            drained: true,
            sender: SenderState {
                window_right_edge,
                max_window: 700,
                ..SenderState::new(acked, snd_nxt)
            },
            ..SideState::default()
        };
        (side(1_000, 5_000, 9_000, 4_000), side(300, 500, 1_000, 10_000))
    }

    #[test]
    fn a_number_is_in_the_window_up_to_both_edges() {
        let (this, _) = sides();
        for (seq, end, expected) in [
            (998, 999, false),
            (999, 1_000, true),
            (5_000, 5_000, true),
            (9_000, 9_001, true),
            (9_001, 9_002, false),
            (1 << 31, 1 << 31, false),
        ] {
            assert_eq!(this.sender.is_in_window(seq, end), expected, "{seq}");
        }
        let open = SenderState { right_edge_slack: 100, ..this.sender };
        assert!(open.is_in_window(9_100, 9_100) && !open.is_in_window(9_101, 9_101));
    }

    #[test]
    fn only_sent_bytes_can_be_acknowledged() {
        let (this, other) = sides();
        for (ack, expected) in
            [(9_599, false), (9_600, true), (10_300, true), (10_500, true), (10_501, false)]
        {
            assert_eq!(is_ack_acceptable(&this, &other, ack), expected, "{ack}");
        }
        let unsettled = SideState { drained: false, local_snd_nxt: 10_600, ..this };
        assert!(is_ack_acceptable(&unsettled, &other, 10_600));
        assert!(!is_ack_acceptable(&unsettled, &other, 10_601));
    }

    #[test]
    fn a_reset_is_valid_with_one_number_alone() {
        let (this, other) = sides();
        let this = SideState { cutover_seq: 77, ..this };
        let count = |this: &SideState| {
            (0..20_000).filter(|&seq| classify_reset(this, &other, seq) == Reset::Valid).count()
        };
        assert_eq!((count(&this), classify_reset(&this, &other, 1_000)), (1, Reset::Valid));
        // While the local socket still answers, its number is valid as well.
        assert_eq!(count(&SideState { drained: false, ..this }), 2);
        for (seq, expected) in [
            (999, Reset::Invalid),
            (1_001, Reset::InWindow),
            (5_000, Reset::InWindow),
            (9_000, Reset::InWindow),
            (9_001, Reset::Invalid),
        ] {
            assert_eq!(classify_reset(&this, &other, seq), expected, "{seq}");
        }
    }

    #[test]
    fn a_reset_acknowledges_only_sent_bytes() {
        let (this, other) = sides();
        let reset = Segment { seq: 1_000, flags: flag::RST | flag::ACK, ..Segment::default() };
        for (ack, expected) in [(10_400, Some(400)), (10_500, Some(500)), (10_501, None)] {
            assert_eq!(acked_by_reset(&this, &other, &Segment { ack, ..reset }), expected);
        }
        let answer = Segment { ack: 10_400, flags: flag::RST, ..reset };
        assert_eq!(acked_by_reset(&this, &other, &answer), None);
    }

    proptest! {
        /// An attacker who does not know the numbers must hit both windows.
        #[test]
        fn guesses_are_accepted_no_more_often_than_by_a_peer(
            firsts: [u32; 2],
            windows in prop::array::uniform2(1u32..1 << 24),
            flights in prop::array::uniform2(0u32..1 << 24),
            guesses in prop::collection::vec(any::<[u32; 2]>(), 2_000),
        ) {
            let side = |i: usize| SideState {
                drained: true,
                sender: SenderState {
                    window_right_edge: firsts[i].wrapping_add(flights[i]).wrapping_add(windows[i]),
                    max_window: windows[i],
                    ..SenderState::new(firsts[i], firsts[i].wrapping_add(flights[i]))
                },
                ..SideState::default()
            };
            let (this, other) = (side(0), side(1));
            for [seq, ack] in guesses {
                let accepted =
                    this.sender.is_in_window(seq, seq) && is_ack_acceptable(&this, &other, ack);
                // In numbers that do not wrap: from what is acknowledged to the edge, and from one
                // window before what is acknowledged to what was sent.
                let seq_fits = seq.wrapping_sub(firsts[0]) <= flights[0] + windows[0];
                let from = firsts[1].wrapping_sub(windows[1]);
                let ack_fits = ack.wrapping_sub(from) <= windows[1] + flights[1];
                prop_assert_eq!(accepted, seq_fits && ack_fits);
            }
        }

        #[test]
        fn a_near_packet_is_one_that_the_local_socket_may_expect(
            cutover_seq: u32,
            local_snd_nxt: u32,
            from_cutover in 0u32..1 << 29,
            from_snd_nxt in 0u32..1 << 29,
        ) {
            let this = SideState { cutover_seq, local_snd_nxt, ..SideState::default() };
            let packet = Segment {
                seq: cutover_seq.wrapping_add(from_cutover),
                ack: local_snd_nxt.wrapping_add(from_snd_nxt),
                flags: flag::ACK,
                ..Segment::default()
            };
            prop_assert!(is_near_local(&this, &packet));
            let half = 1u32 << 31;
            let far = Segment { seq: packet.seq.wrapping_add(half), ..packet };
            prop_assert!(!is_near_local(&this, &far));
            let far = Segment { ack: packet.ack.wrapping_add(half), ..packet };
            prop_assert!(!is_near_local(&this, &far));
            let flagless = Segment { flags: 0, ..packet };
            prop_assert!(!is_near_local(&this, &flagless));
        }
    }
}
