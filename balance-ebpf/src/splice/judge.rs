//! What becomes of a packet that arrives on a spliced connection.
//!
//! A connection has two *sides*: 0 towards the client, 1 towards the backend. On each there is a
//! *peer* and the socket of ours that the peer believes to talk to. A packet from a peer goes on to
//! the other peer, as if the other socket had sent it. Invariants: a byte is accepted either by the
//! local socket (below the side's cut-off) or by the other peer (from the cut-off on), never by
//! both; the local socket never sees an acknowledgement of something that it did not write, and
//! always one of the last byte that it did; a peer is never told that something arrived that
//! neither has.

use super::{
    evidence::{Evidence, is_ack_acceptable},
    seq::{is_after, later},
};

/// Flag bits of a TCP header, from its 14th byte.
pub mod flag {
    /// The sender ends its direction.
    pub const FIN: u8 = 0x01;
    /// A connection begins.
    pub const SYN: u8 = 0x02;
    /// The connection is broken.
    pub const RST: u8 = 0x04;
    /// `ack` means something.
    pub const ACK: u8 = 0x10;
    /// There is urgent data, and where it ends.
    pub const URG: u8 = 0x20;
}

/// What a packet says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Number of the first byte.
    pub seq: u32,
    /// Number of the next byte that the sender waits for.
    pub ack: u32,
    /// Bytes of payload.
    pub len: u32,
    /// Window as it stands in the header.
    pub window: u16,
    /// Bits of [`flag`].
    pub flags: u8,
}

impl Segment {
    /// Numbers that the packet takes: its bytes, and one for a FIN.
    #[inline(always)]
    pub const fn takes(&self) -> u32 {
        self.len + (self.flags & flag::FIN) as u32
    }

    /// The number behind the packet.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.seq.wrapping_add(self.takes())
    }
}

/// How far the connection has come.
pub mod phase {
    /// The local sockets have it.
    pub const LOCAL: u32 = 0;
    /// Packets go through, and what was on its way to the local sockets may still arrive there:
    /// the cut-offs can rise.
    pub const OPENING: u32 = 1;
    /// The cut-offs are final.
    pub const JOINED: u32 = 2;
    /// Both directions have ended. What is late still goes through; a new connection takes the
    /// place of this one.
    pub const LINGERING: u32 = 3;
}

/// One side: what its peer sends and how that is changed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// What is added to the peer's sequence numbers on the way to the other peer.
    pub shift: u32,
    /// Number of the peer's first byte that is not for the local socket.
    pub cut: u32,
    /// Number behind the last byte that the local socket has for the peer.
    pub written: u32,
    /// Not 0 once the peer has acknowledged that byte: the local socket has done its duty, and
    /// `written`, and the other side's `cut`, are not compared with anything any more. So they may
    /// be as far away as they like.
    pub settled: u32,
    /// Number behind all that had gone to the local socket when packets began to go through, or
    /// further: the cut-off does not rise above it. Kept by means of [`note`]; 0 if it is not known.
    pub next: u32,
    /// By how much the number of the packet that last told the local socket how much room the peer
    /// has (`snd_wl1`) is behind the cut-off: it can be if that packet was ahead of others, and
    /// the socket believes no earlier number.
    pub ahead: u32,
    /// How far beyond the cut-off acknowledgements may be told to the peer while our socket, which
    /// knows no more than the cut-off, may still have to say something to it.
    pub leeway: u32,
    /// By how much the peer scales its window.
    pub scale_in: u8,
    /// By how much the other peer believes it to be scaled.
    pub scale_out: u8,
    /// Not 0 if both connections have timestamps; then what is added to the peer's.
    pub stamped: u8,
    /// Padding.
    pub unused: u8,
    /// What is added to the peer's timestamps on the way to the other peer.
    pub stamp_shift: u32,
    /// Padding.
    pub reserved: u32,
    /// What is known of the peer as a sender.
    pub sent: Evidence,
}

/// A packet as it goes on to the other peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Its sequence number there.
    pub seq: u32,
    /// Its acknowledgement there.
    pub ack: u32,
    /// Its window there.
    pub window: u16,
    /// Its selective acknowledgements must not go along.
    pub without_sack: bool,
}

/// What the local socket gets of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// Nothing.
    Nothing,
    /// All of it, with this acknowledgement.
    Whole(u32),
    /// Neither payload nor FIN: this sequence number and this acknowledgement.
    Acknowledgement(u32, u32),
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What the other peer gets.
    pub forward: Option<Forward>,
    /// What the local socket gets.
    pub local: Local,
    /// The peer has acknowledged the local socket's last byte: the side is to be marked so.
    pub settles: bool,
    /// The other peer's TCP accepts the packet as well: what it says may be believed.
    pub accepted: bool,
}

/// How far packets have gone to the local socket, as long as all of them do, if they had gone as far as
/// `next` before. Has to be asked for all that can still be between program and socket when the phase
/// changes.
#[inline(always)]
pub const fn note(next: u32, packet: &Segment) -> u32 {
    if packet.flags & (flag::SYN | flag::RST | flag::ACK) != flag::ACK {
        next
    } else if next == 0 {
        packet.end()
    } else {
        later(next, packet.end())
    }
}

/// Judges a packet from `this` side's peer; `phase` is not `LOCAL`, and `intact` says whether its
/// checksum is right.
#[inline(always)]
pub fn judge(phase: u32, this: &Side, other: &Side, packet: &Segment, intact: bool) -> Judgement {
    let nothing =
        Judgement { forward: None, local: Local::Nothing, settles: false, accepted: false };
    let settled = this.settled != 0;
    if packet.flags & flag::SYN != 0 && settled && other.settled != 0 {
        // A peer that has forgotten the connection, or somebody who wants to break it: the other
        // peer asks with a challenge (RFC 5961, 4.2), and the answer to that breaks it or not.
        return Judgement { forward: Some(translate(this, other, packet)), ..nothing };
    }
    if packet.flags & flag::SYN != 0 || packet.flags & (flag::ACK | flag::RST) == 0 {
        // As long as there is a local socket that knows the numbers it does the same; and it knows
        // nonsense.
        return Judgement { local: Local::Whole(packet.ack), ..nothing };
    }
    if packet.flags & flag::RST != 0 {
        let local = if settled { Local::Nothing } else { Local::Whole(packet.ack) };
        return Judgement { forward: Some(translate(this, other, packet)), local, ..nothing };
    }
    // An acknowledgement that the other peer does not accept is not improved either.
    let acks = is_ack_acceptable(this, other, packet.ack);
    let seq = if acks { unstale_seq(this, packet) } else { packet.seq };
    let accepted = intact && acks && this.sent.is_in_window(seq, seq.wrapping_add(packet.takes()));
    // Whether the packet acknowledges more than the local socket has written, or all of it.
    let beyond = settled || is_after(packet.ack, this.written);
    let all = beyond || packet.ack == this.written;
    let ack = if beyond { this.written } else { packet.ack };
    let takes = packet.takes() > 0;
    if other.settled == 0 && takes {
        // What the acknowledgement means comes again with a packet that goes on: the local
        // socket does not look at it in one that begins before what it waits for.
        if !is_after(packet.end(), this.cut) {
            // The local socket has these bytes and will say so.
            return Judgement { local: Local::Whole(ack), ..nothing };
        }
        if is_after(bound(phase, this), packet.seq) {
            // Some of it is the local socket's. Were it to go on, the other peer would
            // acknowledge what the local socket has not sent yet. The old number makes the local
            // socket say what it has, so that the peer begins there.
            let old = this.cut.wrapping_sub(1);
            return Judgement { local: Local::Acknowledgement(old, ack), ..nothing };
        }
    }
    let probes = other.settled == 0 && !takes && is_after(this.cut, packet.seq);
    let local = if settled {
        Local::Nothing
    } else if probes {
        // The local socket answers an old number.
        Local::Whole(ack)
    } else if accepted {
        // Not with the packet's own number: it may be beyond the local socket's window, which
        // is told to nobody any more.
        Local::Acknowledgement(this.cut.wrapping_add(this.ahead), ack)
    } else if intact && !is_after(packet.ack, this.written) {
        // With its own numbers, which the local socket judges by itself.
        Local::Acknowledgement(packet.seq, packet.ack)
    } else {
        Local::Nothing
    };
    // An acknowledgement of what the local socket has written means nothing to the other peer;
    // but of the last of it tells how much room there is. And once the other side is settled
    // nobody but the other peer answers a probe of the window.
    let goes_on = takes || all || other.settled != 0;
    let forward = if !goes_on {
        None
    } else if accepted {
        Some(forward(this, other, packet, seq, beyond))
    } else {
        Some(translate(this, other, packet))
    };
    // The local socket does not look at the acknowledgement in a probe.
    let settles = accepted && !settled && all && !probes && phase != phase::OPENING;
    Judgement { forward, local, settles, accepted: accepted && goes_on }
}

/// Number from which on bytes are certainly not for the local socket.
#[inline(always)]
const fn bound(phase: u32, this: &Side) -> u32 {
    if phase == phase::OPENING && this.next != 0 { later(this.cut, this.next) } else { this.cut }
}

/// Passes on what a packet says in the other connection's numbers, for the other peer to judge.
#[inline(always)]
const fn translate(this: &Side, other: &Side, packet: &Segment) -> Forward {
    Forward {
        seq: packet.seq.wrapping_add(this.shift),
        ack: packet.ack.wrapping_sub(other.shift),
        window: rescale(packet.window, this.scale_in, this.scale_out),
        without_sack: this.settled == 0 || other.settled == 0,
    }
}

/// Passes on an accepted packet with the number `seq`. While the sides are not settled, the other
/// peer hears no more than our sockets know.
#[inline(always)]
fn forward(this: &Side, other: &Side, packet: &Segment, seq: u32, beyond: bool) -> Forward {
    let said = packet.ack.wrapping_sub(other.shift);
    let ack = if !beyond {
        // That its bytes have arrived up to the cut-off, as our socket says too.
        other.cut
    } else if other.settled != 0 {
        said
    } else {
        // What our socket says must not seem too old to be looked at (RFC 5961, 5.2). How far the
        // other peer may send stays the same.
        let most = other.cut.wrapping_add(other.leeway);
        if is_after(said, most) { most } else { said }
    };
    let window = (packet.window as u32) << (this.scale_in & 15);
    let room = window.wrapping_add(said.wrapping_sub(ack)) as i32;
    Forward {
        seq: seq.wrapping_add(this.shift),
        ack,
        window: in_scale(if room > 0 { room as u32 } else { 0 }, this.scale_out),
        without_sack: this.settled == 0 || other.settled == 0,
    }
}

/// The number of a packet, so that the other peer looks at it.
///
/// A peer whose window was larger before may have sent more than it may now. Its acknowledgements
/// have the number where its window ends then (`tcp_acceptable_seq`), which to the other peer is an
/// old one, and what an old packet acknowledges is not looked at. If that happens to both, neither
/// ever hears the other again. What the other peer has acknowledged it has received, so the peer has
/// sent it: that number is as true. But a question for a sign of life is asked with an old number,
/// and one that is further back than any window is not the peer's.
#[inline(always)]
const fn unstale_seq(this: &Side, packet: &Segment) -> u32 {
    let acked = this.sent.acked();
    let behind = acked.wrapping_sub(packet.seq);
    let is_stale = behind > 1 && behind <= this.sent.max_window.wrapping_add(this.sent.edge_slack);
    if packet.takes() == 0 && is_stale { acked } else { packet.seq }
}

/// A window in the other scale: never more than fits. What is less than the other scale can say
/// is nothing, so the largest window of a peer must be more than that.
#[inline(always)]
pub const fn rescale(window: u16, scale_in: u8, scale_out: u8) -> u16 {
    // Neither scale exceeds 14 (RFC 7323, 2.3).
    in_scale((window as u32) << (scale_in & 15), scale_out)
}

#[inline(always)]
const fn in_scale(bytes: u32, scale_out: u8) -> u16 {
    let scaled = bytes >> (scale_out & 15);
    if scaled > u16::MAX as u32 { u16::MAX } else { scaled as u16 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The peer's bytes from 1000 on go on as 5000; the local socket has written up to 300.
    const THIS: Side = Side {
        shift: 4000,
        cut: 1000,
        written: 300,
        settled: 0,
        next: 0,
        ahead: 0,
        leeway: 0,
        scale_in: 0,
        scale_out: 0,
        stamped: 0,
        unused: 0,
        stamp_shift: 0,
        reserved: 0,
        sent: sent(800, 2000),
    };
    const OTHER: Side = Side { shift: 200, cut: 100, written: 5000, sent: sent(0, 300), ..THIS };

    const fn sent(acked: u32, snd_nxt: u32) -> Evidence {
        let snd_edge = snd_nxt.wrapping_add(100_000);
        Evidence { snd_edge, max_window: 1000, ..Evidence::new(acked, snd_nxt) }
    }

    const SETTLED: Side = Side { settled: 1, ..THIS };
    const OTHER_SETTLED: Side = Side { settled: 1, ..OTHER };

    fn packet(seq: u32, len: u32, ack: u32) -> Segment {
        Segment { seq, ack, len, window: 50, flags: flag::ACK }
    }

    fn joined(this: &Side, other: &Side, packet: Segment) -> Judgement {
        judge(phase::JOINED, this, other, &packet, true)
    }

    #[test]
    fn what_the_local_socket_has_stays_with_it() {
        for ack in [250, 300, 400] {
            let judgement = joined(&THIS, &OTHER, packet(900, 100, ack));
            assert_eq!(judgement.local, Local::Whole(ack.min(300)));
            // It does not look at the acknowledgement of a packet that it has already.
            assert!(judgement.forward.is_none() && !judgement.settles);
        }
    }

    #[test]
    fn what_comes_next_goes_on_alone() {
        let judgement = joined(&THIS, &OTHER, packet(1000, 10, 250));
        let forward = Forward { seq: 5000, ack: 100, window: 0, without_sack: true };
        assert_eq!(judgement.forward, Some(forward));
        assert_eq!(judgement.local, Local::Acknowledgement(1000, 250));
        assert!(!judgement.settles);
    }

    #[test]
    fn a_packet_across_the_cut_off_makes_the_local_socket_say_where_it_is() {
        let judgement = joined(&THIS, &OTHER, packet(990, 20, 300));
        assert_eq!(judgement.forward, None);
        assert_eq!(judgement.local, Local::Acknowledgement(999, 300));
        assert!(!judgement.settles);
        assert!(joined(&THIS, &OTHER_SETTLED, packet(990, 20, 300)).forward.is_some());
    }

    #[test]
    fn what_may_still_arrive_at_the_local_socket_does_not_go_on() {
        let this = Side { next: 1100, ..THIS };
        for (seq, goes_on) in [(1000, false), (1090, false), (1100, true), (1200, true)] {
            let judgement = judge(phase::OPENING, &this, &OTHER, &packet(seq, 50, 300), true);
            assert_eq!(judgement.forward.is_some(), goes_on);
            assert!(!judgement.settles);
            assert!(joined(&this, &OTHER, packet(seq, 50, 300)).forward.is_some());
        }
    }

    #[test]
    fn the_highest_number_that_passed_is_remembered() {
        let mut next = 0;
        let (fin, rst) = (flag::ACK | flag::FIN, flag::ACK | flag::RST);
        for (seq, flags) in [(u32::MAX - 9, flag::ACK), (2, fin), (0, flag::ACK), (90, rst)] {
            next = note(next, &Segment { flags, ..packet(seq, 8, 0) });
        }
        assert_eq!(next, 11);
    }

    #[test]
    fn an_acknowledgement_of_the_last_byte_settles_once_the_cut_offs_are_final() {
        for (ack, settles) in [(299, false), (300, true), (310, true)] {
            let judgement = joined(&THIS, &OTHER, packet(1500, 0, ack));
            assert_eq!(judgement.settles, settles);
            assert_eq!(judgement.local, Local::Acknowledgement(1000, ack.min(300)));
            assert_eq!(judgement.forward.is_some(), settles);
            assert!(!judge(phase::OPENING, &THIS, &OTHER, &packet(1500, 0, ack), true).settles);
            assert!(!joined(&SETTLED, &OTHER, packet(1500, 0, ack)).settles);
        }
    }

    #[test]
    fn the_local_socket_hears_with_a_number_that_it_believes() {
        let this = Side { ahead: 40, ..THIS };
        let judgement = joined(&this, &OTHER, packet(90_000, 0, 250));
        assert_eq!(judgement.local, Local::Acknowledgement(1040, 250));
    }

    #[test]
    fn the_other_peer_hears_what_our_socket_says_until_both_are_settled() {
        let heard = |this: &Side, other: &Side, ack| {
            let forward = joined(this, other, packet(1000, 10, ack)).forward;
            forward.map(|forward| (forward.ack, forward.window))
        };
        for other in [OTHER, OTHER_SETTLED] {
            // 20 of the 50 that the peer has room for are for what our socket has.
            assert_eq!(heard(&THIS, &other, 280), Some((100, 30)));
            assert_eq!(heard(&THIS, &other, 200), Some((100, 0)));
        }
        assert_eq!(heard(&THIS, &OTHER, 320), Some((100, 70)));
        assert_eq!(heard(&SETTLED, &OTHER, 320), Some((100, 70)));
        assert_eq!(heard(&THIS, &OTHER_SETTLED, 320), Some((120, 50)));
        assert_eq!(heard(&SETTLED, &OTHER_SETTLED, 320), Some((120, 50)));
    }

    #[test]
    fn the_other_peer_hears_a_little_more_than_our_socket_says() {
        let other = Side { leeway: 30, ..OTHER };
        for (ack, heard) in [(290, (100, 40)), (310, (110, 50)), (340, (130, 60))] {
            let forward = joined(&THIS, &other, packet(1000, 10, ack)).forward;
            assert_eq!(forward.map(|forward| (forward.ack, forward.window)), Some(heard), "{ack}");
        }
    }

    #[test]
    fn a_probe_is_answered_by_whoever_has_the_window() {
        let probe = packet(999, 0, 300);
        let judgement = joined(&THIS, &OTHER, probe);
        assert_eq!((judgement.local, judgement.settles), (Local::Whole(300), false));
        let unread = Segment { ack: 250, ..probe };
        assert!(joined(&THIS, &OTHER, unread).forward.is_none());
        assert!(joined(&THIS, &OTHER_SETTLED, unread).forward.is_some());
        assert!(joined(&SETTLED, &OTHER_SETTLED, probe).forward.is_some());
    }

    #[test]
    fn an_acknowledgement_with_an_old_number_is_heard() {
        let this = Side { sent: sent(1500, 2000), ..SETTLED };
        let seq = |packet| joined(&this, &OTHER_SETTLED, packet).forward.map(|f| f.seq - 4000);
        for (old, new) in
            [(499, 499), (500, 1500), (1498, 1500), (1499, 1499), (1500, 1500), (1600, 1600)]
        {
            assert_eq!(seq(packet(old, 0, 300)), Some(new), "{old}");
        }
        // Unless it acknowledges what the other peer has never sent.
        assert_eq!(seq(packet(1400, 0, 501)), Some(1400));
        assert_eq!(seq(packet(1400, 1, 300)), Some(1400));
        let rst = Segment { flags: flag::RST | flag::ACK, ..packet(1400, 0, 300) };
        assert_eq!(seq(rst), Some(1400));
    }

    #[test]
    fn an_end_goes_where_the_bytes_before_it_go() {
        let fin = |seq, len| Segment { flags: flag::ACK | flag::FIN, ..packet(seq, len, 300) };
        assert!(joined(&THIS, &OTHER, fin(1000, 0)).forward.is_some());
        assert!(joined(&THIS, &OTHER, fin(1000, 9)).forward.is_some());
        assert!(joined(&THIS, &OTHER, fin(990, 9)).forward.is_none());
        assert_eq!(joined(&THIS, &OTHER, fin(990, 9)).local, Local::Whole(300));
        assert_eq!(joined(&SETTLED, &OTHER_SETTLED, fin(990, 9)).local, Local::Nothing);
    }

    #[test]
    fn the_local_socket_judges_an_acknowledgement_of_its_own_bytes_by_itself() {
        let far = packet(500_000, 0, 250);
        assert_eq!(joined(&THIS, &OTHER, far).local, Local::Acknowledgement(500_000, 250));
        let broken = judge(phase::JOINED, &THIS, &OTHER, &far, false);
        assert_eq!(broken.local, Local::Nothing);
    }

    #[test]
    fn what_no_peer_accepts_goes_on_as_it_is_and_settles_nothing() {
        let fine = packet(1500, 10, 310);
        let far = packet(500_000, 10, 310);
        let unsent = packet(1500, 10, 501);
        let broken = |packet| judge(phase::JOINED, &THIS, &OTHER, &packet, false);
        assert!(joined(&THIS, &OTHER, fine).accepted);
        for (judgement, packet) in [
            (joined(&THIS, &OTHER, far), far),
            (joined(&THIS, &OTHER, unsent), unsent),
            (broken(fine), fine),
        ] {
            assert!(!judgement.accepted && !judgement.settles);
            // The local socket would believe a number that it got.
            assert_eq!(judgement.local, Local::Nothing);
            assert_eq!(judgement.forward, Some(translate(&THIS, &OTHER, &packet)));
        }
    }

    proptest! {
        #[test]
        fn a_window_is_never_more_than_fits(
            window: u16,
            scale_in in 0u8..15,
            scale_out in 0u8..15,
        ) {
            let bytes = u64::from(window) << scale_in;
            let told = u64::from(rescale(window, scale_in, scale_out)) << scale_out;
            prop_assert!(told <= bytes);
            prop_assert!(bytes - told < 1 << scale_out || told == 65535 << scale_out);
            prop_assert_eq!(rescale(window, scale_in, scale_in), window);
        }

        #[test]
        fn a_beginning_and_nonsense_are_for_the_local_socket(
            packet in segments(),
            sides in prop::array::uniform2(sides()),
        ) {
            let syn = Segment { flags: packet.flags | flag::SYN, ..packet };
            let flags = packet.flags & !(flag::ACK | flag::RST | flag::SYN);
            let nonsense = Segment { flags, ..packet };
            let are_settled = sides.iter().all(|side| side.settled != 0);
            for packet in [syn, nonsense] {
                let judgement = joined(&sides[0], &sides[1], packet);
                let goes_on = are_settled && packet.flags & flag::SYN != 0;
                prop_assert_eq!(judgement.forward.is_some(), goes_on);
                let local = if goes_on { Local::Nothing } else { Local::Whole(packet.ack) };
                prop_assert_eq!(judgement.local, local);
                prop_assert!(!judgement.settles);
            }
        }

        #[test]
        fn a_break_goes_on_with_its_number(
            packet in segments(),
            sides in prop::array::uniform2(sides()),
        ) {
            let packet = Segment { flags: packet.flags & !flag::SYN | flag::RST, ..packet };
            let judgement = joined(&sides[0], &sides[1], packet);
            let seq = packet.seq.wrapping_add(sides[0].shift);
            prop_assert_eq!(judgement.forward.map(|forward| forward.seq), Some(seq));
            prop_assert_eq!(judgement.local == Local::Nothing, sides[0].settled != 0);
            prop_assert!(!judgement.settles);
        }

        /// However far the stream is from where it was handed over.
        #[test]
        fn settled_sides_look_at_nothing_but_shift_and_scale(
            packet in segments(),
            sides in prop::array::uniform2(sides()),
        ) {
            let packet = Segment { flags: flag::ACK | packet.flags & flag::FIN, ..packet };
            let [this, other] = sides.map(|side| Side { settled: 1, ..side });
            let judgement = joined(&this, &other, packet);
            let seq = match is_ack_acceptable(&this, &other, packet.ack) {
                true => unstale_seq(&this, &packet),
                false => packet.seq,
            };
            let forward = Forward {
                seq: seq.wrapping_add(this.shift),
                ack: packet.ack.wrapping_sub(other.shift),
                window: rescale(packet.window, this.scale_in, this.scale_out),
                without_sack: false,
            };
            prop_assert_eq!(judgement.forward, Some(forward));
            prop_assert_eq!((judgement.local, judgement.settles), (Local::Nothing, false));
        }

        /// Nor at anything else of a packet of any kind: the program reads no more of them.
        #[test]
        fn settled_sides_are_judged_by_what_is_read_of_them(
            packet in segments(),
            flags: u8,
            sides in prop::array::uniform2(sides()),
            phase in 1u32..4,
        ) {
            let packet = Segment { flags, ..packet };
            let [this, other] = sides.map(|side| Side { settled: 1, ..side });
            let read = |side| Side { cut: 0, written: 0, next: 0, ahead: 0, leeway: 0, ..side };
            prop_assert_eq!(
                judge(phase, &read(this), &read(other), &packet, true),
                judge(phase, &this, &other, &packet, true)
            );
        }

        /// A peer that never takes the last bytes of our socket can still send for ever.
        #[test]
        fn once_the_other_side_is_settled_the_cut_off_is_not_compared(
            seq: u32,
            len in 0u32..70_000,
        ) {
            let this = Side { sent: sent(seq, seq), ..THIS };
            let judgement = joined(&this, &OTHER_SETTLED, packet(seq, len, 250));
            prop_assert_eq!(judgement.local, Local::Acknowledgement(1000, 250));
            let forward = judgement.forward.map(|forward| (forward.seq, forward.ack));
            prop_assert_eq!(forward, Some((seq.wrapping_add(4000), 100)));
        }

        #[test]
        fn the_local_socket_never_hears_of_what_it_did_not_write(
            packet in segments(),
            from_written in -(1i32 << 30)..1 << 30,
            sides in prop::array::uniform2(sides()),
            phase in phase::OPENING..=phase::JOINED,
        ) {
            let [this, other] = sides;
            let ack = this.written.wrapping_add(from_written as u32);
            let packet = Segment { ack, flags: flag::ACK, ..packet };
            match judge(phase, &this, &other, &packet, true).local {
                Local::Whole(ack) | Local::Acknowledgement(_, ack) => {
                    prop_assert!(!is_after(ack, this.written));
                }
                Local::Nothing => {}
            }
        }
    }

    prop_compose! {
        fn segments()(
            seq: u32,
            ack: u32,
            len in 0u32..70_000,
            window: u16,
            flags: u8,
        ) -> Segment {
            Segment { seq, ack, len, window, flags }
        }
    }

    prop_compose! {
        fn sides()(
            numbers: [u32; 6],
            settled in 0u32..2,
            scales in prop::array::uniform2(0u8..15),
            evidence: [u32; 5],
        ) -> Side {
            let [shift, cut, written, next, ahead, leeway] = numbers;
            let [scale_in, scale_out] = scales;
            let [acked, snd_nxt, snd_edge, max_window, edge_slack] = evidence;
            let sent =
                Evidence { snd_edge, max_window, edge_slack, ..Evidence::new(acked, snd_nxt) };
            let side = Side { shift, cut, written, settled, next, ahead, ..THIS };
            Side { leeway, scale_in, scale_out, sent, ..side }
        }
    }
}
