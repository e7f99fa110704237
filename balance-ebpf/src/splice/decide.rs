//! What happens to a packet of a spliced connection.
//!
//! Each *side* of a connection ([`Side`](crate::Side)) has a *peer* and a *local socket*, the
//! socket of this host that the peer is connected to. A packet of a peer is forwarded to the other
//! peer as if the other local socket had sent it.
//!
//! Invariants:
//! - A byte is accepted either by the local socket (below the side's cut-over) or by the other peer
//!   (from the cut-over on), never by both.
//! - The local socket never receives an acknowledgement of a byte that it did not write, and always
//!   one of the last byte that it wrote.
//! - A peer never receives an acknowledgement of a byte that neither the local socket nor the other
//!   peer has.

use super::{
    evidence::is_ack_acceptable,
    segment::{Decision, Forward, LocalDelivery, Segment, flag},
    seq::{is_after, later},
    state::{Phase, SideState},
};

/// Decides on a packet from `this` side's peer. `phase` is not [`Phase::Local`]. `intact` says
/// whether the packet's checksum is right.
#[inline(always)]
pub fn decide(
    phase: Phase,
    this: &SideState,
    other: &SideState,
    packet: &Segment,
    intact: bool,
) -> Decision {
    let nothing =
        Decision { forward: None, local: LocalDelivery::Nothing, drains: false, accepted: false };
    let drained = this.drained;
    if packet.flags & flag::SYN != 0 && drained && other.drained {
        // The peer has lost the connection, or an attacker wants to break it. The other peer
        // answers with a challenge ACK (RFC 5961, 4.2), and the answer to that ACK decides.
        return Decision { forward: Some(translate(this, other, packet)), ..nothing };
    }
    if packet.flags & flag::SYN != 0 || packet.flags & (flag::ACK | flag::RST) == 0 {
        // The local socket still has the sequence state: it sends the challenge ACK, and rejects
        // invalid packets itself.
        return Decision { local: LocalDelivery::Segment(packet.ack), ..nothing };
    }
    if packet.flags & flag::RST != 0 {
        let local =
            if drained { LocalDelivery::Nothing } else { LocalDelivery::Segment(packet.ack) };
        return Decision { forward: Some(translate(this, other, packet)), local, ..nothing };
    }
    // The sequence number is corrected only if the other peer accepts the acknowledgement.
    let acks = is_ack_acceptable(this, other, packet.ack);
    let seq = if acks { unstale_seq(this, packet) } else { packet.seq };
    let accepted =
        intact && acks && this.sender.is_in_window(seq, seq.wrapping_add(packet.seq_len()));
    // Whether the packet acknowledges more than the local socket has written, or all of it.
    let beyond = drained || is_after(packet.ack, this.local_snd_nxt);
    let all = beyond || packet.ack == this.local_snd_nxt;
    let ack = if beyond { this.local_snd_nxt } else { packet.ack };
    let takes = packet.seq_len() > 0;
    if !other.drained && takes {
        // The local socket ignores the acknowledgement of a packet that begins before the number it
        // expects. The peer repeats the acknowledgement in a packet that is forwarded.
        if !is_after(packet.end(), this.cutover_seq) {
            // The local socket has these bytes and answers with a duplicate acknowledgement.
            return Decision { local: LocalDelivery::Segment(ack), ..nothing };
        }
        if is_after(bound(phase, this), packet.seq) {
            // Some of the bytes are for the local socket. If the packet were forwarded, the other
            // peer would acknowledge bytes that the local socket has not sent yet. The old number
            // makes the local socket acknowledge what it has, and the peer sends again from there.
            let old = this.cutover_seq.wrapping_sub(1);
            return Decision { local: LocalDelivery::AckOnly(old, ack), ..nothing };
        }
    }
    let probes = !other.drained && !takes && is_after(this.cutover_seq, packet.seq);
    let local = if drained {
        LocalDelivery::Nothing
    } else if probes {
        // The local socket answers an old number.
        LocalDelivery::Segment(ack)
    } else if accepted {
        // Not with the packet's own number, which may be beyond the local socket's window. That
        // window is no longer advertised to anyone.
        LocalDelivery::AckOnly(this.cutover_seq.wrapping_add(this.wl1_offset), ack)
    } else if intact && !is_after(packet.ack, this.local_snd_nxt) {
        // With the packet's own numbers, which the local socket checks itself.
        LocalDelivery::AckOnly(packet.seq, packet.ack)
    } else {
        LocalDelivery::Nothing
    };
    // An acknowledgement of the local socket's bytes means nothing to the other peer. An
    // acknowledgement of the last of them still carries the peer's window. Once the other side is
    // drained, only the other peer answers a window probe.
    let is_forwarded = takes || all || other.drained;
    let forward = if !is_forwarded {
        None
    } else if accepted {
        Some(forward(this, other, packet, seq, beyond))
    } else {
        Some(translate(this, other, packet))
    };
    // The local socket ignores the acknowledgement of a probe.
    let drains = accepted && !drained && all && !probes && phase != Phase::Opening;
    Decision { forward, local, drains, accepted: accepted && is_forwarded }
}

/// The first number that is certainly not for the local socket.
#[inline(always)]
fn bound(phase: Phase, this: &SideState) -> u32 {
    if phase == Phase::Opening && this.local_max_seq != 0 {
        later(this.cutover_seq, this.local_max_seq)
    } else {
        this.cutover_seq
    }
}

/// Translates a packet into the numbers of the other connection and changes nothing else. The other
/// peer decides on it.
#[inline(always)]
const fn translate(this: &SideState, other: &SideState, packet: &Segment) -> Forward {
    Forward {
        seq: packet.seq.wrapping_add(this.seq_delta),
        ack: packet.ack.wrapping_sub(other.seq_delta),
        window: rescale(packet.window, this.scale_in, this.scale_out),
        without_sack: !this.drained || !other.drained,
    }
}

/// Forwards an accepted packet with the number `seq`. While a side is not drained, the other peer
/// receives no acknowledgement that the local sockets do not know of.
#[inline(always)]
fn forward(
    this: &SideState,
    other: &SideState,
    packet: &Segment,
    seq: u32,
    beyond: bool,
) -> Forward {
    let highest_acked = packet.ack.wrapping_sub(other.seq_delta);
    let ack = if !beyond {
        // The other peer's bytes have arrived up to the cut-over, as its local socket says as well.
        other.cutover_seq
    } else if other.drained {
        highest_acked
    } else {
        // An acknowledgement of the local socket must not be too old to be accepted (RFC 5961,
        // 5.2). The right edge of the window stays the same.
        let max = other.cutover_seq.wrapping_add(other.ack_slack);
        if is_after(highest_acked, max) { max } else { highest_acked }
    };
    let window = (packet.window as u32) << (this.scale_in & 15);
    let room = window.wrapping_add(highest_acked.wrapping_sub(ack)) as i32;
    Forward {
        seq: seq.wrapping_add(this.seq_delta),
        ack,
        window: in_scale(if room > 0 { room as u32 } else { 0 }, this.scale_out),
        without_sack: !this.drained || !other.drained,
    }
}

/// The sequence number of a packet, raised to SND.UNA if the other peer would ignore the packet.
///
/// A peer whose window has shrunk may have sent more than the window now allows. Its
/// acknowledgements then have the number of the window's right edge (`tcp_acceptable_seq`), which
/// is old to the other peer, and the other peer ignores the acknowledgement of an old packet. If
/// that happens to both peers, neither hears the other again. SND.UNA is valid as well, because the
/// peer has sent everything that the other peer has acknowledged. Two numbers stay: SND.UNA - 1,
/// which is a keepalive probe, and a number further back than any window, which is not the peer's.
#[inline(always)]
const fn unstale_seq(this: &SideState, packet: &Segment) -> u32 {
    let acked = this.sender.acked();
    let behind = acked.wrapping_sub(packet.seq);
    let max = this.sender.max_window.wrapping_add(this.sender.right_edge_slack);
    let is_stale = behind > 1 && behind <= max;
    if packet.seq_len() == 0 && is_stale { acked } else { packet.seq }
}

/// A window field in the other scale. Never more than the field can hold. A window smaller than one
/// unit of the other scale becomes 0, so the largest window of a peer must be at least one unit.
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
    use crate::splice::{
        evidence::advance_local_max,
        state::{SenderState, Timestamps},
    };
    use proptest::prelude::*;

    /// The peer's bytes from 1000 on are forwarded as 5000. The local socket has written up to 300.
    const THIS: SideState = SideState {
        seq_delta: 4000,
        cutover_seq: 1000,
        local_snd_nxt: 300,
        drained: false,
        local_max_seq: 0,
        wl1_offset: 0,
        ack_slack: 0,
        scale_in: 0,
        scale_out: 0,
        ts_delta: 0,
        timestamps: Timestamps::Off,
        sender: sender(800, 2000),
    };
    const OTHER: SideState = SideState {
        seq_delta: 200,
        cutover_seq: 100,
        local_snd_nxt: 5000,
        sender: sender(0, 300),
        ..THIS
    };

    const fn sender(acked: u32, snd_nxt: u32) -> SenderState {
        let window_right_edge = snd_nxt.wrapping_add(100_000);
        SenderState { window_right_edge, max_window: 1000, ..SenderState::new(acked, snd_nxt) }
    }

    const DRAINED: SideState = SideState { drained: true, ..THIS };
    const OTHER_DRAINED: SideState = SideState { drained: true, ..OTHER };

    fn packet(seq: u32, len: u32, ack: u32) -> Segment {
        Segment { seq, ack, len, window: 50, flags: flag::ACK }
    }

    fn joined(this: &SideState, other: &SideState, packet: Segment) -> Decision {
        decide(Phase::Joined, this, other, &packet, true)
    }

    #[test]
    fn bytes_that_the_local_socket_has_are_not_forwarded() {
        for ack in [250, 300, 400] {
            let decision = joined(&THIS, &OTHER, packet(900, 100, ack));
            assert_eq!(decision.local, LocalDelivery::Segment(ack.min(300)));
            // The local socket ignores the acknowledgement of a packet that it already has.
            assert!(decision.forward.is_none() && !decision.drains);
        }
    }

    #[test]
    fn bytes_from_the_cutover_on_are_only_forwarded() {
        let decision = joined(&THIS, &OTHER, packet(1000, 10, 250));
        let forward = Forward { seq: 5000, ack: 100, window: 0, without_sack: true };
        assert_eq!(decision.forward, Some(forward));
        assert_eq!(decision.local, LocalDelivery::AckOnly(1000, 250));
        assert!(!decision.drains);
    }

    #[test]
    fn a_packet_across_the_cutover_makes_the_local_socket_acknowledge() {
        let decision = joined(&THIS, &OTHER, packet(990, 20, 300));
        assert_eq!(decision.forward, None);
        assert_eq!(decision.local, LocalDelivery::AckOnly(999, 300));
        assert!(!decision.drains);
        assert!(joined(&THIS, &OTHER_DRAINED, packet(990, 20, 300)).forward.is_some());
    }

    #[test]
    fn bytes_that_may_still_reach_the_local_socket_are_not_forwarded() {
        let this = SideState { local_max_seq: 1100, ..THIS };
        for (seq, is_forwarded) in [(1000, false), (1090, false), (1100, true), (1200, true)] {
            let decision = decide(Phase::Opening, &this, &OTHER, &packet(seq, 50, 300), true);
            assert_eq!(decision.forward.is_some(), is_forwarded);
            assert!(!decision.drains);
            assert!(joined(&this, &OTHER, packet(seq, 50, 300)).forward.is_some());
        }
    }

    #[test]
    fn the_highest_number_for_the_local_socket_is_kept() {
        let mut next = 0;
        let (fin, rst) = (flag::ACK | flag::FIN, flag::ACK | flag::RST);
        for (seq, flags) in [(u32::MAX - 9, flag::ACK), (2, fin), (0, flag::ACK), (90, rst)] {
            next = advance_local_max(next, &Segment { flags, ..packet(seq, 8, 0) });
        }
        assert_eq!(next, 11);
    }

    #[test]
    fn an_acknowledgement_of_the_last_byte_drains_once_the_cutovers_are_final() {
        for (ack, drains) in [(299, false), (300, true), (310, true)] {
            let decision = joined(&THIS, &OTHER, packet(1500, 0, ack));
            assert_eq!(decision.drains, drains);
            assert_eq!(decision.local, LocalDelivery::AckOnly(1000, ack.min(300)));
            assert_eq!(decision.forward.is_some(), drains);
            assert!(!decide(Phase::Opening, &THIS, &OTHER, &packet(1500, 0, ack), true).drains);
            assert!(!joined(&DRAINED, &OTHER, packet(1500, 0, ack)).drains);
        }
    }

    #[test]
    fn the_local_socket_receives_a_number_that_updates_its_window() {
        let this = SideState { wl1_offset: 40, ..THIS };
        let decision = joined(&this, &OTHER, packet(90_000, 0, 250));
        assert_eq!(decision.local, LocalDelivery::AckOnly(1040, 250));
    }

    #[test]
    fn acknowledgements_are_clamped_until_both_sides_are_drained() {
        let received = |this: &SideState, other: &SideState, ack| {
            let forward = joined(this, other, packet(1000, 10, ack)).forward;
            forward.map(|forward| (forward.ack, forward.window))
        };
        for other in [OTHER, OTHER_DRAINED] {
            // 20 of the 50 bytes of the window are for bytes that the local socket has.
            assert_eq!(received(&THIS, &other, 280), Some((100, 30)));
            assert_eq!(received(&THIS, &other, 200), Some((100, 0)));
        }
        assert_eq!(received(&THIS, &OTHER, 320), Some((100, 70)));
        assert_eq!(received(&DRAINED, &OTHER, 320), Some((100, 70)));
        assert_eq!(received(&THIS, &OTHER_DRAINED, 320), Some((120, 50)));
        assert_eq!(received(&DRAINED, &OTHER_DRAINED, 320), Some((120, 50)));
    }

    #[test]
    fn acknowledgements_may_exceed_the_cutover_by_the_slack() {
        let other = SideState { ack_slack: 30, ..OTHER };
        for (ack, expected) in [(290, (100, 40)), (310, (110, 50)), (340, (130, 60))] {
            let forward = joined(&THIS, &other, packet(1000, 10, ack)).forward;
            assert_eq!(
                forward.map(|forward| (forward.ack, forward.window)),
                Some(expected),
                "{ack}"
            );
        }
    }

    #[test]
    fn the_owner_of_the_window_answers_a_probe() {
        let probe = packet(999, 0, 300);
        let decision = joined(&THIS, &OTHER, probe);
        assert_eq!((decision.local, decision.drains), (LocalDelivery::Segment(300), false));
        let unread = Segment { ack: 250, ..probe };
        assert!(joined(&THIS, &OTHER, unread).forward.is_none());
        assert!(joined(&THIS, &OTHER_DRAINED, unread).forward.is_some());
        assert!(joined(&DRAINED, &OTHER_DRAINED, probe).forward.is_some());
    }

    #[test]
    fn an_acknowledgement_with_a_stale_number_is_corrected() {
        let this = SideState { sender: sender(1500, 2000), ..DRAINED };
        let seq = |packet| joined(&this, &OTHER_DRAINED, packet).forward.map(|f| f.seq - 4000);
        for (old, new) in
            [(499, 499), (500, 1500), (1498, 1500), (1499, 1499), (1500, 1500), (1600, 1600)]
        {
            assert_eq!(seq(packet(old, 0, 300)), Some(new), "{old}");
        }
        // Unless it acknowledges bytes that the other peer has never sent.
        assert_eq!(seq(packet(1400, 0, 501)), Some(1400));
        assert_eq!(seq(packet(1400, 1, 300)), Some(1400));
        let rst = Segment { flags: flag::RST | flag::ACK, ..packet(1400, 0, 300) };
        assert_eq!(seq(rst), Some(1400));
    }

    #[test]
    fn a_fin_goes_where_the_bytes_before_it_go() {
        let fin = |seq, len| Segment { flags: flag::ACK | flag::FIN, ..packet(seq, len, 300) };
        assert!(joined(&THIS, &OTHER, fin(1000, 0)).forward.is_some());
        assert!(joined(&THIS, &OTHER, fin(1000, 9)).forward.is_some());
        assert!(joined(&THIS, &OTHER, fin(990, 9)).forward.is_none());
        assert_eq!(joined(&THIS, &OTHER, fin(990, 9)).local, LocalDelivery::Segment(300));
        assert_eq!(joined(&DRAINED, &OTHER_DRAINED, fin(990, 9)).local, LocalDelivery::Nothing);
    }

    #[test]
    fn the_local_socket_checks_an_acknowledgement_of_its_own_bytes() {
        let far = packet(500_000, 0, 250);
        assert_eq!(joined(&THIS, &OTHER, far).local, LocalDelivery::AckOnly(500_000, 250));
        let broken = decide(Phase::Joined, &THIS, &OTHER, &far, false);
        assert_eq!(broken.local, LocalDelivery::Nothing);
    }

    #[test]
    fn an_unacceptable_packet_is_only_translated() {
        let fine = packet(1500, 10, 310);
        let far = packet(500_000, 10, 310);
        let unsent = packet(1500, 10, 501);
        let broken = |packet| decide(Phase::Joined, &THIS, &OTHER, &packet, false);
        assert!(joined(&THIS, &OTHER, fine).accepted);
        for (decision, packet) in [
            (joined(&THIS, &OTHER, far), far),
            (joined(&THIS, &OTHER, unsent), unsent),
            (broken(fine), fine),
        ] {
            assert!(!decision.accepted && !decision.drains);
            // The local socket would accept any number that it received.
            assert_eq!(decision.local, LocalDelivery::Nothing);
            assert_eq!(decision.forward, Some(translate(&THIS, &OTHER, &packet)));
        }
    }

    proptest! {
        #[test]
        fn a_rescaled_window_is_never_larger(
            window: u16,
            scale_in in 0u8..15,
            scale_out in 0u8..15,
        ) {
            let bytes = u64::from(window) << scale_in;
            let rescaled = u64::from(rescale(window, scale_in, scale_out)) << scale_out;
            prop_assert!(rescaled <= bytes);
            prop_assert!(bytes - rescaled < 1 << scale_out || rescaled == 65535 << scale_out);
            prop_assert_eq!(rescale(window, scale_in, scale_in), window);
        }

        #[test]
        fn a_syn_and_an_invalid_packet_are_for_the_local_socket(
            packet in segments(),
            sides in prop::array::uniform2(sides()),
        ) {
            let syn = Segment { flags: packet.flags | flag::SYN, ..packet };
            let flags = packet.flags & !(flag::ACK | flag::RST | flag::SYN);
            let invalid = Segment { flags, ..packet };
            let are_drained = sides.iter().all(|side| side.drained);
            for packet in [syn, invalid] {
                let decision = joined(&sides[0], &sides[1], packet);
                let is_forwarded = are_drained && packet.flags & flag::SYN != 0;
                prop_assert_eq!(decision.forward.is_some(), is_forwarded);
                let local = match is_forwarded {
                    true => LocalDelivery::Nothing,
                    false => LocalDelivery::Segment(packet.ack),
                };
                prop_assert_eq!(decision.local, local);
                prop_assert!(!decision.drains);
            }
        }

        #[test]
        fn a_reset_is_forwarded_with_its_number(
            packet in segments(),
            sides in prop::array::uniform2(sides()),
        ) {
            let packet = Segment { flags: packet.flags & !flag::SYN | flag::RST, ..packet };
            let decision = joined(&sides[0], &sides[1], packet);
            let seq = packet.seq.wrapping_add(sides[0].seq_delta);
            prop_assert_eq!(decision.forward.map(|forward| forward.seq), Some(seq));
            prop_assert_eq!(decision.local == LocalDelivery::Nothing, sides[0].drained);
            prop_assert!(!decision.drains);
        }

        /// At any distance from the cut-over.
        #[test]
        fn drained_sides_use_only_delta_and_scale(
            packet in segments(),
            sides in prop::array::uniform2(sides()),
        ) {
            let packet = Segment { flags: flag::ACK | packet.flags & flag::FIN, ..packet };
            let [this, other] = sides.map(|side| SideState { drained: true, ..side });
            let decision = joined(&this, &other, packet);
            let seq = match is_ack_acceptable(&this, &other, packet.ack) {
                true => unstale_seq(&this, &packet),
                false => packet.seq,
            };
            let forward = Forward {
                seq: seq.wrapping_add(this.seq_delta),
                ack: packet.ack.wrapping_sub(other.seq_delta),
                window: rescale(packet.window, this.scale_in, this.scale_out),
                without_sack: false,
            };
            prop_assert_eq!(decision.forward, Some(forward));
            prop_assert_eq!((decision.local, decision.drains), (LocalDelivery::Nothing, false));
        }

        /// For any packet: the program loads only the fields that count for drained sides.
        #[test]
        fn drained_sides_need_only_the_loaded_fields(
            packet in segments(),
            flags: u8,
            sides in prop::array::uniform2(sides()),
            phase in prop::sample::select(&[Phase::Opening, Phase::Joined, Phase::Lingering][..]),
        ) {
            let packet = Segment { flags, ..packet };
            let [this, other] = sides.map(|side| SideState { drained: true, ..side });
            let loaded = |side| SideState {
                cutover_seq: 0,
                local_snd_nxt: 0,
                local_max_seq: 0,
                wl1_offset: 0,
                ack_slack: 0,
                ..side
            };
            prop_assert_eq!(
                decide(phase, &loaded(this), &loaded(other), &packet, true),
                decide(phase, &this, &other, &packet, true)
            );
        }

        /// A peer that never acknowledges the local socket's last bytes can still send any number
        /// of bytes.
        #[test]
        fn the_cutover_is_not_compared_once_the_other_side_is_drained(
            seq: u32,
            len in 0u32..70_000,
        ) {
            let this = SideState { sender: sender(seq, seq), ..THIS };
            let decision = joined(&this, &OTHER_DRAINED, packet(seq, len, 250));
            prop_assert_eq!(decision.local, LocalDelivery::AckOnly(1000, 250));
            let forward = decision.forward.map(|forward| (forward.seq, forward.ack));
            prop_assert_eq!(forward, Some((seq.wrapping_add(4000), 100)));
        }

        #[test]
        fn the_local_socket_never_receives_an_acknowledgement_beyond_its_bytes(
            packet in segments(),
            from_written in -(1i32 << 30)..1 << 30,
            sides in prop::array::uniform2(sides()),
            phase in prop::sample::select(&[Phase::Opening, Phase::Joined][..]),
        ) {
            let [this, other] = sides;
            let ack = this.local_snd_nxt.wrapping_add(from_written as u32);
            let packet = Segment { ack, flags: flag::ACK, ..packet };
            match decide(phase, &this, &other, &packet, true).local {
                LocalDelivery::Segment(ack) | LocalDelivery::AckOnly(_, ack) => {
                    prop_assert!(!is_after(ack, this.local_snd_nxt));
                }
                LocalDelivery::Nothing => {}
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
            drained: bool,
            scales in prop::array::uniform2(0u8..15),
            evidence: [u32; 5],
        ) -> SideState {
            let [seq_delta, cutover_seq, local_snd_nxt, local_max_seq, wl1_offset, ack_slack] =
                numbers;
            let [scale_in, scale_out] = scales;
            let [acked, snd_nxt, window_right_edge, max_window, right_edge_slack] = evidence;
            let sender =
                SenderState {
                    window_right_edge,
                    max_window,
                    right_edge_slack,
                    ..SenderState::new(acked, snd_nxt)
                };
            let side =
                SideState { seq_delta, cutover_seq, local_snd_nxt, drained, local_max_seq, ..THIS };
            SideState { wl1_offset, ack_slack, scale_in, scale_out, sender, ..side }
        }
    }
}
