//! Translates an ICMP report about a packet that was too big for its path, for the peer that sent
//! the packet: "fragmentation needed" (RFC 792, RFC 1191) and "packet too big" (RFC 4443, 3.2).
//!
//! Invariants: only the addresses, the ports and the quoted sequence number change, with the
//! checksums over them. A checksum stays right if it was right, and wrong if it was wrong. The
//! reported size stays, because a packet has the same size on both connections. Words are in
//! network order.

use super::{
    checksum::{ChecksumDelta, update_checksum},
    layout::PacketTuple,
    network::{with_hop_limit_dscp_v4, with_hop_limit_dscp_v6},
};

/// A report over IPv4, from its IP header up to the quoted sequence number.
pub type IcmpWords4 = [u32; 5 + 2 + 5 + 2];
/// A report over IPv6, from its IP header up to the quoted sequence number.
pub type IcmpWords6 = [u32; 10 + 2 + 10 + 2];

const TCP: u8 = 6;

/// The segment that a report quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotedSegment {
    /// The tuple of packets from the peer to which the segment was sent.
    pub tuple: PacketTuple,
    /// The sequence number of the segment.
    pub seq: u32,
}

/// Swaps the two ports.
const fn swap_ports(ports: u32) -> u32 {
    ports.rotate_left(16)
}

/// Reads a report over IPv4. `None` if the packet is no such report, quotes no TCP segment, or has
/// IP options.
#[inline(always)]
pub fn read_ipv4(words: &IcmpWords4) -> Option<QuotedSegment> {
    const ICMP: u8 = 1;
    let is_whole = |at: usize, protocol| {
        // The other bits include "do not fragment".
        let fragment = u32::from_be(words[at + 1]) & 0x3fff;
        words[at].to_ne_bytes()[0] == 0x45
            && fragment == 0
            && words[at + 2].to_ne_bytes()[1] == protocol
    };
    let [kind, code, _, _] = words[5].to_ne_bytes();
    if !is_whole(0, ICMP) || (kind, code) != (3, 4) || !is_whole(7, TCP) {
        return None;
    }
    let tuple = PacketTuple {
        source: [words[11], 0, 0, 0],
        target: [words[10], 0, 0, 0],
        ports: swap_ports(words[12]),
        version: 4,
    };
    Some(QuotedSegment { tuple, seq: u32::from_be(words[13]) })
}

/// Reads a report over IPv6. `None` if the packet is no such report, quotes no TCP segment, or has
/// extension headers.
#[inline(always)]
pub fn read_ipv6(words: &IcmpWords6) -> Option<QuotedSegment> {
    const ICMP: u8 = 58;
    let next = |at: usize| words[at + 1].to_ne_bytes()[2];
    let [kind, code, _, _] = words[10].to_ne_bytes();
    if next(0) != ICMP || (kind, code) != (2, 0) || next(12) != TCP {
        return None;
    }
    let tuple = PacketTuple {
        source: [words[18], words[19], words[20], words[21]],
        target: [words[14], words[15], words[16], words[17]],
        ports: swap_ports(words[22]),
        version: 6,
    };
    Some(QuotedSegment { tuple, seq: u32::from_be(words[23]) })
}

/// Translates a report over IPv4 for the peer that receives packets with the tuple `translated`.
/// `seq` is the number of that peer's packet, `hop_limit_dscp` that of this host's packets.
#[inline(always)]
pub fn translate_ipv4(
    words: &mut IcmpWords4,
    translated: &PacketTuple,
    seq: u32,
    hop_limit_dscp: u32,
) {
    let (own, peer) = (translated.source[0], translated.target[0]);
    let outer = ChecksumDelta::NONE.and(words[3], own).and(words[4], peer).sum();
    [words[0], words[1], words[2]] =
        with_hop_limit_dscp_v4([words[0], words[1], words[2]], hop_limit_dscp, outer);
    [words[3], words[4]] = [own, peer];
    let quoted = ChecksumDelta::NONE.and(words[10], peer).and(words[11], own).sum();
    let [life, protocol, a, b] = words[9].to_ne_bytes();
    let [a, b] = update_checksum(u16::from_ne_bytes([a, b]), quoted).to_ne_bytes();
    let new = [
        u32::from_ne_bytes([life, protocol, a, b]),
        peer,
        own,
        swap_ports(translated.ports),
        seq.to_be(),
    ];
    let mut delta = ChecksumDelta::NONE;
    let mut i = 0;
    while i < new.len() {
        delta = delta.and(words[9 + i], new[i]);
        words[9 + i] = new[i];
        i += 1;
    }
    update_checksum_in(&mut words[5], delta);
}

/// Translates a report over IPv6, like [`translate_ipv4`].
#[inline(always)]
pub fn translate_ipv6(
    words: &mut IcmpWords6,
    translated: &PacketTuple,
    seq: u32,
    hop_limit_dscp: u32,
) {
    [words[0], words[1]] = with_hop_limit_dscp_v6([words[0], words[1]], hop_limit_dscp);
    let mut delta = ChecksumDelta::NONE;
    let mut i = 0;
    while i < 4 {
        // The checksum includes the addresses of the IP header as well (RFC 4443, 2.3).
        let new = [
            (2 + i, translated.source[i]),
            (6 + i, translated.target[i]),
            (14 + i, translated.target[i]),
            (18 + i, translated.source[i]),
        ];
        let mut k = 0;
        while k < new.len() {
            let (at, word) = new[k];
            delta = delta.and(words[at], word);
            words[at] = word;
            k += 1;
        }
        i += 1;
    }
    let (ports, seq) = (swap_ports(translated.ports), seq.to_be());
    delta = delta.and(words[22], ports).and(words[23], seq);
    [words[22], words[23]] = [ports, seq];
    update_checksum_in(&mut words[10], delta);
}

/// Updates the checksum in the second half of a word.
#[inline(always)]
fn update_checksum_in(word: &mut u32, delta: ChecksumDelta) {
    let [kind, code, a, b] = word.to_ne_bytes();
    let [a, b] = update_checksum(u16::from_ne_bytes([a, b]), delta.sum()).to_ne_bytes();
    *word = u32::from_ne_bytes([kind, code, a, b]);
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::splice::{checksum::check, network};
    use core::net::SocketAddr;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn tuple(a: &str, b: &str) -> PacketTuple {
        let at = |text: &str| -> SocketAddr { text.parse().unwrap() };
        PacketTuple::new(at(a), at(b))
    }

    fn set_check(words: &mut [u32], at: usize, sum: u16) {
        let [a, b] = sum.to_ne_bytes();
        let [c, d, _, _] = words[at].to_ne_bytes();
        words[at] = u32::from_ne_bytes([c, d, a, b]);
    }

    /// A report from a router to this host, about a packet from this host to a peer.
    fn message4(quoted: &PacketTuple, seq: u32) -> IcmpWords4 {
        let word = u32::from_ne_bytes;
        let mut words = [
            word([0x45, 0xc0, 0, 56]),
            0,
            word([61, 1, 0, 0]),
            word([10, 9, 9, 9]),
            quoted.target[0],
            word([3, 4, 0, 0]),
            1400u32.to_be(),
            word([0x45, 0, 5, 220]),
            word([1, 2, 0x40, 0]),
            word([61, 6, 0, 0]),
            quoted.target[0],
            quoted.source[0],
            swap_ports(quoted.ports),
            seq.to_be(),
        ];
        for (at, from, to) in [(2, 0, 5), (9, 7, 12), (5, 5, 14)] {
            let sum = check(&words[from..to]);
            set_check(&mut words, at, sum);
        }
        words
    }

    fn pseudo6(words: &IcmpWords6) -> Vec<u32> {
        let mut all: Vec<u32> = words[2..].to_vec();
        all.extend([56u32.to_be(), 58u32.to_be()]);
        all
    }

    fn message6(quoted: &PacketTuple, seq: u32) -> IcmpWords6 {
        let word = u32::from_ne_bytes;
        let mut words = [0; 24];
        words[..2].copy_from_slice(&[word([0x60, 0, 1, 2]), word([0, 56, 58, 61])]);
        words[2..6].copy_from_slice(&[word([0xfd, 9, 0, 0]), 0, 0, word([0, 0, 0, 9])]);
        words[6..10].copy_from_slice(&quoted.target);
        words[10..12].copy_from_slice(&[word([2, 0, 0, 0]), 1400u32.to_be()]);
        words[12..14].copy_from_slice(&[word([0x60, 0, 0, 0]), word([5, 180, 6, 61])]);
        words[14..18].copy_from_slice(&quoted.target);
        words[18..22].copy_from_slice(&quoted.source);
        words[22..].copy_from_slice(&[swap_ports(quoted.ports), seq.to_be()]);
        let sum = check(&pseudo6(&words));
        set_check(&mut words, 10, sum);
        words
    }

    proptest! {
        #[test]
        fn a_translated_ipv4_report_quotes_the_senders_packet(seq: u32, new: u32) {
            let arriving = tuple("10.0.2.2:80", "10.0.2.1:40000");
            let translated = tuple("10.0.1.1:25", "10.0.1.2:5555");
            let mut words = message4(&arriving, seq);
            prop_assert_eq!(read_ipv4(&words), Some(QuotedSegment { tuple: arriving, seq }));
            translate_ipv4(&mut words, &translated, new, network::hop_limit_dscp(64, 0));
            for part in [&words[..5], &words[7..12], &words[5..]] {
                prop_assert_eq!(check(part), 0);
            }
            // The quoted packet is the one that the peer has sent.
            prop_assert_eq!((words[3], words[4]), (translated.source[0], translated.target[0]));
            prop_assert_eq!((words[10], words[11]), (translated.target[0], translated.source[0]));
            prop_assert_eq!(words[12], tuple("10.0.1.2:5555", "10.0.1.1:25").ports);
            prop_assert_eq!((words[13], words[6]), (new.to_be(), 1400u32.to_be()));
            prop_assert_eq!(words[2].to_ne_bytes()[0], 64);
        }

        #[test]
        fn a_translated_ipv6_report_quotes_the_senders_packet(seq: u32, new: u32) {
            let arriving = tuple("[fd11:2::2]:80", "[fd11:2::1]:40000");
            let translated = tuple("[fd11:1::1]:25", "[fd11:1::2]:5555");
            let mut words = message6(&arriving, seq);
            prop_assert_eq!(read_ipv6(&words), Some(QuotedSegment { tuple: arriving, seq }));
            translate_ipv6(&mut words, &translated, new, network::hop_limit_dscp(64, 0));
            prop_assert_eq!(check(&pseudo6(&words)), 0);
            prop_assert_eq!(words[2..6].to_vec(), translated.source);
            prop_assert_eq!(words[6..10].to_vec(), translated.target);
            prop_assert_eq!(words[14..18].to_vec(), translated.target);
            prop_assert_eq!(words[18..22].to_vec(), translated.source);
            prop_assert_eq!(words[22], tuple("[fd11:1::2]:5555", "[fd11:1::1]:25").ports);
            prop_assert_eq!((words[23], words[11]), (new.to_be(), 1400u32.to_be()));
        }

        #[test]
        fn any_other_packet_is_not_read(at in 0usize..56, bit in 0u8..8) {
            let arriving = tuple("10.0.2.2:80", "10.0.2.1:40000");
            let mut bytes: Vec<u8> =
                message4(&arriving, 7).iter().flat_map(|word| word.to_ne_bytes()).collect();
            bytes[at] ^= 1 << bit;
            let mut words = [0; 14];
            for (word, bytes) in words.iter_mut().zip(bytes.chunks(4)) {
                *word = u32::from_ne_bytes(bytes.try_into().unwrap());
            }
            // Header lengths, fragment fields, protocols, and the type of the message.
            let matters = match at {
                0 | 28 | 9 | 37 | 20 | 21 | 7 | 35 => true,
                // Except for "do not fragment" and the reserved bit.
                6 | 34 => bit < 6,
                _ => false,
            };
            prop_assert_eq!(read_ipv4(&words).is_none(), matters);
        }
    }
}
