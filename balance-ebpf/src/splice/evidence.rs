//! What balance concludes from the packets of a spliced connection, and from which of them.
//!
//! A packet can come from an attacker who knows addresses and ports. Invariant: a packet changes what
//! is known of a connection only if the TCP of the peer that it goes to accepts it as well: its
//! bytes lie in the window that this peer has offered (RFC 9293, 3.10.7.4), and it acknowledges what
//! this peer has sent, neither more nor much less (RFC 5961, 5.2). Both bounds come from earlier
//! packets of that kind alone, so guessing gains no more here than it gains against the peers.

use super::{
    judge::{Forward, Segment, Side, flag},
    seq::{is_after, later},
};

/// What is known of a peer as a sender, in its own sequence numbers and by the names of RFC 9293,
/// 3.3.1. It begins with what our sockets knew and only moves forward.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// SND.UNA: what the other peer has acknowledged of this one's bytes. The lower half is the
    /// sequence number, the upper half counts how often that has wrapped.
    pub snd_una: u64,
    /// SND.NXT: behind the last byte of an accepted packet.
    pub snd_nxt: u32,
    /// SND.UNA + SND.WND: the right edge of the window that the other peer has offered.
    pub snd_edge: u32,
    /// The largest window that the peer was offered, in bytes.
    pub max_window: u32,
    /// By how much our own socket may have offered more than `snd_edge` says; 0 once it is silent.
    pub edge_slack: u32,
}

impl Evidence {
    /// Evidence of a peer that has sent up to `snd_nxt`, of which the other peer has acknowledged up
    /// to `acked`.
    pub const fn new(acked: u32, snd_nxt: u32) -> Self {
        let snd_una = extended(snd_nxt) - snd_nxt.wrapping_sub(acked) as u64;
        Self { snd_una, snd_nxt, snd_edge: snd_nxt, max_window: 0, edge_slack: 0 }
    }

    /// SND.UNA as a sequence number.
    #[inline(always)]
    pub const fn acked(&self) -> u32 {
        self.snd_una as u32
    }

    /// Whether a packet with these bytes lies in the window.
    #[inline(always)]
    pub const fn is_in_window(&self, seq: u32, end: u32) -> bool {
        let edge = self.snd_edge.wrapping_add(self.edge_slack);
        !is_after(self.acked(), end) && !is_after(seq, edge)
    }

    /// SND.UNA once `acked` is acknowledged; the same if that is no news.
    #[inline(always)]
    pub const fn acknowledge(snd_una: u64, acked: u32) -> u64 {
        let fresh = acked.wrapping_sub(snd_una as u32);
        if is_after(fresh, 0) { snd_una + fresh as u64 } else { snd_una }
    }
}

/// A sequence number with an upper half, as in [`Evidence::snd_una`]. Earlier numbers stay positive.
pub const fn extended(number: u32) -> u64 {
    (1 << 32) + number as u64
}

/// What an accepted packet of `this` side's peer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct News {
    /// Behind its last byte: raises this side's `snd_nxt`.
    pub end: u32,
    /// What it acknowledges, in the other side's numbers: raises that side's `snd_una`.
    pub acked: u32,
    /// The right edge of the window that it offers: raises the other side's `snd_edge`.
    pub edge: u32,
    /// That window: raises the other side's `max_window`.
    pub window: u32,
}

impl News {
    /// What a packet says, as it is forwarded.
    #[inline(always)]
    pub const fn of(this: &Side, other: &Side, packet: &Segment, forward: &Forward) -> Self {
        let window = (forward.window as u32) << (this.scale_out & 15);
        Self {
            end: packet.end(),
            acked: packet.ack.wrapping_sub(other.shift),
            edge: forward.ack.wrapping_add(window),
            window,
        }
    }
}

/// Whether a packet of `this` side's peer acknowledges what that peer was sent.
#[inline(always)]
pub(super) const fn is_ack_acceptable(this: &Side, other: &Side, ack: u32) -> bool {
    let sent = other.sent.snd_nxt.wrapping_add(other.shift);
    // What our socket sends itself counts until all of it is acknowledged.
    let sent = if this.settled == 0 { later(sent, this.written) } else { sent };
    let acked = other.sent.acked().wrapping_add(other.shift);
    !is_after(ack, sent) && !is_after(acked.wrapping_sub(other.sent.max_window), ack)
}

/// What a RST of `this` side's peer means for what balance knows. The other peer gets any RST and
/// judges it by itself (RFC 5961, 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// It has the number that the other peer expects next: the connection is over.
    Believed,
    /// Its number is in the window: the peers have to be asked.
    Doubted,
    /// No peer believes it.
    Ignored,
}

/// Judges the number of a RST of `this` side's peer.
#[inline(always)]
pub const fn judge_reset(this: &Side, other: &Side, seq: u32) -> Reset {
    // As long as our own socket answers for the other peer, that one's number counts, too.
    let is_ours = (this.settled == 0 || other.settled == 0) && seq == this.cut;
    if is_ours || seq == this.sent.acked() {
        Reset::Believed
    } else if this.sent.is_in_window(seq, seq) {
        Reset::Doubted
    } else {
        Reset::Ignored
    }
}

/// What a believed RST of `this` side's peer acknowledges, in the other side's numbers: one that a peer sends
/// by itself says how far it has received (net/ipv4/tcp_output.c, `tcp_send_active_reset`).
#[inline(always)]
pub const fn acked_by_reset(this: &Side, other: &Side, packet: &Segment) -> Option<u32> {
    if packet.flags & flag::ACK != 0 && is_ack_acceptable(this, other, packet.ack) {
        Some(packet.ack.wrapping_sub(other.shift))
    } else {
        None
    }
}

/// How far from the numbers of our socket a packet may be that the program remembers while our
/// sockets still have the connection: user space says where they are before it has moved so much.
const AHEAD: u32 = 1 << 29;
const BEHIND: u32 = 1 << 24;

/// Whether a packet is near what our socket expects, as far as user space has said where that is: at
/// `this.cut` and `this.written`. For packets that our socket judges itself.
#[inline(always)]
pub const fn is_near(this: &Side, packet: &Segment) -> bool {
    let seq = packet.end().wrapping_sub(this.cut).wrapping_add(BEHIND);
    let ack = packet.ack.wrapping_sub(this.written).wrapping_add(BEHIND);
    packet.flags & flag::ACK != 0 && seq < AHEAD + BEHIND && ack < AHEAD + BEHIND
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The peer has sent up to 5,000, of which 1,000 are acknowledged, and may send up to 9,000.
    /// The other one has sent up to 500 in its own numbers, of which 300 are acknowledged.
    fn sides() -> (Side, Side) {
        let side = |acked, snd_nxt, snd_edge, shift| Side {
            shift,
            settled: 1,
            sent: Evidence { snd_edge, max_window: 700, ..Evidence::new(acked, snd_nxt) },
            ..Side::default()
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
            assert_eq!(this.sent.is_in_window(seq, end), expected, "{seq}");
        }
        let open = Evidence { edge_slack: 100, ..this.sent };
        assert!(open.is_in_window(9_100, 9_100) && !open.is_in_window(9_101, 9_101));
    }

    #[test]
    fn only_what_was_sent_can_be_acknowledged() {
        let (this, other) = sides();
        for (ack, expected) in
            [(9_599, false), (9_600, true), (10_300, true), (10_500, true), (10_501, false)]
        {
            assert_eq!(is_ack_acceptable(&this, &other, ack), expected, "{ack}");
        }
        let unsettled = Side { settled: 0, written: 10_600, ..this };
        assert!(is_ack_acceptable(&unsettled, &other, 10_600));
        assert!(!is_ack_acceptable(&unsettled, &other, 10_601));
    }

    #[test]
    fn a_reset_is_believed_with_one_number_alone() {
        let (this, other) = sides();
        let this = Side { cut: 77, ..this };
        let count = |this: &Side| {
            (0..20_000).filter(|&seq| judge_reset(this, &other, seq) == Reset::Believed).count()
        };
        assert_eq!((count(&this), judge_reset(&this, &other, 1_000)), (1, Reset::Believed));
        // While our own socket still answers, it is a judge as well.
        assert_eq!(count(&Side { settled: 0, ..this }), 2);
        for (seq, expected) in [
            (999, Reset::Ignored),
            (1_001, Reset::Doubted),
            (5_000, Reset::Doubted),
            (9_000, Reset::Doubted),
            (9_001, Reset::Ignored),
        ] {
            assert_eq!(judge_reset(&this, &other, seq), expected, "{seq}");
        }
    }

    #[test]
    fn a_reset_acknowledges_what_was_sent_and_nothing_else() {
        let (this, other) = sides();
        let reset = Segment { seq: 1_000, flags: flag::RST | flag::ACK, ..Segment::default() };
        for (ack, expected) in [(10_400, Some(400)), (10_500, Some(500)), (10_501, None)] {
            assert_eq!(acked_by_reset(&this, &other, &Segment { ack, ..reset }), expected);
        }
        let answer = Segment { ack: 10_400, flags: flag::RST, ..reset };
        assert_eq!(acked_by_reset(&this, &other, &answer), None);
    }

    #[test]
    fn acknowledged_bytes_are_counted_beyond_all_numbers() {
        let mut snd_una = Evidence::new(u32::MAX - 5, 3).snd_una;
        let begin = snd_una;
        for step in [0, 9, 1 << 30, 1 << 30, 1 << 30, 1 << 30, 1 << 30] {
            let acked = (snd_una as u32).wrapping_add(step);
            snd_una = Evidence::acknowledge(snd_una, acked);
            assert_eq!(Evidence::acknowledge(snd_una, acked.wrapping_sub(1)), snd_una);
        }
        assert_eq!(snd_una - begin, 9 + (5 << 30));
    }

    proptest! {
        /// What guessing gains: an attacker who knows nothing of the numbers has to hit both windows.
        #[test]
        fn guesses_are_accepted_no_more_often_than_by_a_peer(
            firsts: [u32; 2],
            windows in prop::array::uniform2(1u32..1 << 24),
            flights in prop::array::uniform2(0u32..1 << 24),
            guesses in prop::collection::vec(any::<[u32; 2]>(), 2_000),
        ) {
            let side = |i: usize| Side {
                settled: 1,
                sent: Evidence {
                    snd_edge: firsts[i].wrapping_add(flights[i]).wrapping_add(windows[i]),
                    max_window: windows[i],
                    ..Evidence::new(firsts[i], firsts[i].wrapping_add(flights[i]))
                },
                ..Side::default()
            };
            let (this, other) = (side(0), side(1));
            for [seq, ack] in guesses {
                let accepted =
                    this.sent.is_in_window(seq, seq) && is_ack_acceptable(&this, &other, ack);
                // In numbers that do not wrap: from what is acknowledged to the edge, and from one
                // window before what is acknowledged to what was sent.
                let seq_fits = seq.wrapping_sub(firsts[0]) <= flights[0] + windows[0];
                let from = firsts[1].wrapping_sub(windows[1]);
                let ack_fits = ack.wrapping_sub(from) <= windows[1] + flights[1];
                prop_assert_eq!(accepted, seq_fits && ack_fits);
            }
        }

        #[test]
        fn what_is_near_is_what_our_socket_may_expect(
            cut: u32, written: u32, from_cut in 0u32..1 << 29, from_written in 0u32..1 << 29,
        ) {
            let this = Side { cut, written, ..Side::default() };
            let packet = Segment {
                seq: cut.wrapping_add(from_cut),
                ack: written.wrapping_add(from_written),
                flags: flag::ACK,
                ..Segment::default()
            };
            prop_assert!(is_near(&this, &packet));
            let half = 1u32 << 31;
            let far = Segment { seq: packet.seq.wrapping_add(half), ..packet };
            prop_assert!(!is_near(&this, &far));
            let far = Segment { ack: packet.ack.wrapping_add(half), ..packet };
            prop_assert!(!is_near(&this, &far));
            let flagless = Segment { flags: 0, ..packet };
            prop_assert!(!is_near(&this, &flagless));
        }
    }
}
