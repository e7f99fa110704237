//! The IP header of a forwarded packet: hop limit, DSCP and flow label are those of this host's own
//! packets.
//!
//! Invariants: congestion notification (ECN, RFC 3168) passes from one peer to the other, because
//! its echo does as well. The IPv4 checksum stays right if it was right, and wrong if it was wrong.
//! Words are in network order.

use super::checksum::{ChecksumDelta, update_checksum};

/// The two ECN bits of a traffic class. The other bits are the DSCP.
const ECN: u8 = 3;

/// Hop limit and DSCP in one word, in the form for the other functions here.
pub const fn hop_limit_dscp(hop_limit: u8, traffic_class: u8) -> u32 {
    u32::from_ne_bytes([hop_limit, traffic_class & !ECN, 0, 0])
}

/// The first three words of an IPv4 header with this hop limit and DSCP. `delta` is the change of
/// the checksum by new addresses.
#[inline(always)]
pub const fn with_hop_limit_dscp_v4(words: [u32; 3], hop_limit_dscp: u32, delta: u32) -> [u32; 3] {
    let [hops, dscp, _, _] = hop_limit_dscp.to_ne_bytes();
    let [version, class, c, d] = words[0].to_ne_bytes();
    let first = u32::from_ne_bytes([version, dscp | class & ECN, c, d]);
    let [life, protocol, a, b] = words[2].to_ne_bytes();
    let (old, new) = ([life, protocol, 0, 0], [hops, protocol, 0, 0]);
    let delta = ChecksumDelta::NONE
        .and(u32::MAX, delta)
        .and(words[0], first)
        .and(u32::from_ne_bytes(old), u32::from_ne_bytes(new));
    let [a, b] = update_checksum(u16::from_ne_bytes([a, b]), delta.sum()).to_ne_bytes();
    [first, words[1], u32::from_ne_bytes([hops, protocol, a, b])]
}

/// Whether an IPv4 header already has this hop limit and DSCP.
#[inline(always)]
pub const fn has_hop_limit_dscp(words: [u32; 3], hop_limit_dscp: u32) -> bool {
    let [hops, dscp, _, _] = hop_limit_dscp.to_ne_bytes();
    words[0].to_ne_bytes()[1] & !ECN == dscp && words[2].to_ne_bytes()[0] == hops
}

/// The first two words of an IPv6 header with this hop limit and DSCP. The flow label becomes 0,
/// which means no label (RFC 6437, 3): the peer's label belongs to the peer's path, and this host's
/// own cannot be read.
#[inline(always)]
pub const fn with_hop_limit_dscp_v6(words: [u32; 2], hop_limit_dscp: u32) -> [u32; 2] {
    let [hops, dscp, _, _] = hop_limit_dscp.to_ne_bytes();
    let [_, class, _, _] = words[0].to_ne_bytes();
    // The traffic class begins in the middle of a byte.
    let ecn = (class >> 4) & ECN;
    let class = dscp | ecn;
    let first = u32::from_ne_bytes([0x60 | class >> 4, class << 4, 0, 0]);
    let [a, b, next, _] = words[1].to_ne_bytes();
    [first, u32::from_ne_bytes([a, b, next, hops])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice::checksum::check;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ipv4_keeps_all_but_hops_and_dscp(
            mut words: [u32; 5],
            addresses: [u32; 2],
            hops: u8,
            class: u8,
        ) {
            words[0] |= 1;
            words[2] &= u32::from_ne_bytes([255, 255, 0, 0]);
            let [a, b] = check(&words).to_ne_bytes();
            words[2] |= u32::from_ne_bytes([0, 0, a, b]);
            let hop_limit_dscp = hop_limit_dscp(hops, class);
            let delta =
                ChecksumDelta::NONE.and(words[3], addresses[0]).and(words[4], addresses[1]).sum();
            let [first, second, third] =
                with_hop_limit_dscp_v4([words[0], words[1], words[2]], hop_limit_dscp, delta);
            prop_assert_eq!(check(&[first, second, third, addresses[0], addresses[1]]), 0);
            let ([v, tos, c, d], [w, old, e, f]) = (first.to_ne_bytes(), words[0].to_ne_bytes());
            prop_assert_eq!((v, c, d, second), (w, e, f, words[1]));
            prop_assert_eq!(tos, class & !3 | old & 3);
            prop_assert_eq!(third.to_ne_bytes()[..2].to_vec(), [hops, words[2].to_ne_bytes()[1]]);
            prop_assert!(has_hop_limit_dscp([first, second, third], hop_limit_dscp));
        }

        #[test]
        fn ipv6_keeps_all_but_hops_dscp_and_label(
            label in 0u32..1 << 20,
            old: u8,
            second: u32,
            hops: u8,
            class: u8,
        ) {
            let first = (6 << 28 | u32::from(old) << 20 | label).to_be();
            let [new, rest] = with_hop_limit_dscp_v6([first, second], hop_limit_dscp(hops, class));
            let class = u32::from(class & !3 | old & 3);
            prop_assert_eq!(u32::from_be(new), 6 << 28 | class << 20);
            let ([a, b, c, limit], [d, e, f, _]) = (rest.to_ne_bytes(), second.to_ne_bytes());
            prop_assert_eq!((a, b, c, limit), (d, e, f, hops));
        }
    }
}
