//! The shared memory of a spliced connection, and the tuple by which the program finds it.
//!
//! Invariant: all types are `repr(C)` and a multiple of eight bytes, because the kernel spaces the
//! values of a mapped array by eight bytes. A test checks the layout.

use core::net::{IpAddr, SocketAddr};

use super::{
    checksum::ChecksumDelta,
    seq::later,
    state::{Phase, SideState},
};
use crate::shared::{PerSide, Side, Word, shared_struct};

shared_struct! {
    /// The addresses and ports of a packet, in words as they are in the packet. An IPv4 address is
    /// the first word of its array, and the rest is 0.
    #[repr(C)]
    pub struct PacketTuple, in memory TupleWords {
        /// Source address. Of an arriving packet, the peer's.
        pub source: [u32; 4],
        /// Destination address. Of an arriving packet, this host's.
        pub target: [u32; 4],
        /// Source port and destination port.
        pub ports: u32,
        /// 4 or 6.
        pub version: u32,
    }
}

impl PacketTuple {
    /// The tuple of a packet from `source` to `target`.
    pub fn new(source: SocketAddr, target: SocketAddr) -> Self {
        let words = |ip: IpAddr| {
            let mut octets = [0; 16];
            match ip {
                IpAddr::V4(ip) => octets[..4].copy_from_slice(&ip.octets()),
                IpAddr::V6(ip) => octets = ip.octets(),
            }
            let word = |i: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| octets[i * 4 + byte]));
            [0, 1, 2, 3].map(word)
        };
        let ([a, b], [c, d]) = (source.port().to_be_bytes(), target.port().to_be_bytes());
        Self {
            source: words(source.ip()),
            target: words(target.ip()),
            ports: u32::from_ne_bytes([a, b, c, d]),
            version: if source.is_ipv4() { 4 } else { 6 },
        }
    }

    /// The change of a checksum when the addresses (not the ports) of this tuple become those of
    /// `new`. 0 only if the addresses stay.
    pub fn address_checksum_delta(&self, new: &Self) -> u32 {
        if (self.source, self.target) == (new.source, new.target) {
            return 0;
        }
        let pairs = [(self.source, new.source), (self.target, new.target)];
        let words = pairs.iter().flat_map(|(old, new)| old.iter().zip(new));
        // Each word adds more than 0, unless all ones become zeros, and no address is all ones.
        words.fold(ChecksumDelta::NONE, |sum, (old, new)| sum.and(*old, *new)).sum()
    }
}

/// State of the whole datapath in shared memory.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Globals {
    /// Connections in the maps. The program ignores all packets while this is 0. Written by user
    /// space.
    pub entries: Word<u64>,
    /// Not 0 if the ring buffer had no room for an event. Written by both.
    pub missed: Word<u64>,
}

/// The index of the loopback interface in every network namespace (include/net/flow.h,
/// LOOPBACK_IFINDEX).
pub const LOOPBACK: u32 = 1;

/// Upper half of the skb mark of a packet that is already rewritten and reaches the program a
/// second time. The lower half is the index of the interface through which the packet leaves.
pub const REWRITTEN: u32 = 0xba1a_0000;

/// Upper half of the skb mark of a packet that begins a connection while the old connection's
/// socket is not reset yet. The lower half counts how often the packet was reinjected.
pub const REINJECTED: u32 = 0xba1b_0000;

/// Whether a connection has ended, so that a packet that begins a new one is for the local sockets:
/// both directions have ended, or a peer has reset the connection.
#[inline(always)]
pub fn is_over(phase: Phase, endings: u64) -> bool {
    const BOTH: u64 = ending::FIN_ACKED | ending::FIN_ACKED << 1;
    const RESET: u64 = ending::RESET | ending::RESET << 1;
    phase == Phase::Lingering || endings & BOTH == BOTH || endings & RESET != 0
}

/// Bits of [`Splice::endings`]. Each bit is that of the client's side; [`of`](ending::of) makes it
/// the bit of another side.
pub mod ending {
    use crate::shared::Side;

    /// A FIN of the side's peer was forwarded.
    pub const FIN: u64 = 1;
    /// The other peer has acknowledged that FIN.
    pub const FIN_ACKED: u64 = 4;
    /// The side's peer has sent a valid RST.
    pub const RESET: u64 = 16;
    /// The side's peer has sent a RST that is in the window but does not have the expected number.
    /// User space probes the peers and clears the bit.
    pub const RST_IN_WINDOW: u64 = 64;

    /// The bit for a side.
    #[inline(always)]
    pub const fn of(bit: u64, side: Side) -> u64 {
        bit << side.index()
    }
}

shared_struct! {
    /// A spliced connection.
    pub struct Splice, in memory SpliceWords: repr(align(64)) {
        /// Written by user space, and by the program when a new connection replaces this one.
        pub phase: Phase,
        /// Bits of [`ending`]. Written by the program.
        pub endings: u64,
        /// The packets of each side's peer.
        pub directions: PerSide<DirectionState>,
    }
}

shared_struct! {
    /// One direction: the packets of one peer, on the way to the other.
    pub struct DirectionState, in memory DirectionWords {
        /// Sequence state and translation. The program writes `local_max_seq`, `sender` and the
        /// result of timestamp discovery. Both write `drained`. User space writes the rest.
        pub side: SideState,
        /// Tuple of the forwarded packets. Written by user space.
        pub translated_tuple: PacketTuple,
        /// Change of a checksum when the addresses become those of `translated_tuple`. Written by
        /// user space.
        pub address_checksum_delta: u32,
        /// Sequence number of the last packet that the program could not have forwarded (a
        /// fragment, or a packet with headers that it does not read) while the local sockets owned
        /// the connection, with the lowest bit set. 0 if there was none. Written by the program.
        pub unforwardable_seq: u32,
        /// Added to CLOCK_MONOTONIC in whole milliseconds to get the timestamp clock of the local
        /// socket that seems to send the forwarded packets (include/net/tcp.h, tcp_clock_ts).
        pub ts_clock_offset: u32,
        /// Number behind the FIN, once `endings` has the FIN.
        pub fin_end_seq: u32,
        /// `snd_una` from which on this datapath counts bytes. Bytes before were counted elsewhere.
        /// Written by user space.
        pub counted_from: u64,
        /// Accepted packets.
        pub packets: u64,
        /// Time of the last accepted packet: nanoseconds of CLOCK_MONOTONIC.
        pub last_packet_ns: u64,
        /// Number of translated blocks of selective acknowledgements.
        pub sack_blocks: u32,
        /// Number of acknowledgements that were forwarded with another value than the peer's.
        pub clamped_acks: u32,
        /// Number of packets that were dropped because they cannot be forwarded: fragments, and
        /// packets with headers that the program does not read.
        pub dropped: u32,
        /// Interface through which forwarded packets leave. Written by user space.
        pub out_ifindex: u32,
        /// Other programs on loopback must see the forwarded packets. Written by user space.
        pub reinject: bool,
        /// Hop limit and DSCP of forwarded packets ([`hop_limit_dscp`](super::hop_limit_dscp)).
        /// Written by user space.
        pub hop_limit_dscp: u32,
    }
}

impl Splice {
    /// The number behind everything that a side's peer has sent and that the other peer or the
    /// local socket has accepted.
    pub fn accepted_end(&self, side: Side) -> u32 {
        let this = &self.directions[side].side;
        let snd_nxt = this.sender.snd_nxt;
        let other = &self.directions[!side].side;
        if other.drained { snd_nxt } else { later(snd_nxt, this.cutover_seq) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice::{fold, state::SenderState};
    use core::mem::{align_of, offset_of, size_of};

    #[test]
    fn the_layout_is_as_both_sides_read_it() {
        assert_eq!((size_of::<PacketTuple>(), size_of::<TupleWords>()), (40, 40));
        assert_eq!(size_of::<DirectionWords>(), 64 + 40 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 8);
        assert_eq!(offset_of!(SpliceWords, directions), 16);
        assert_eq!((size_of::<SpliceWords>(), align_of::<SpliceWords>()), (384, 64));
        assert_eq!(size_of::<Globals>(), 16);
    }

    #[test]
    fn addresses_are_words_in_network_order() {
        let tuple = |a: &str, b: &str| PacketTuple::new(a.parse().unwrap(), b.parse().unwrap());
        let four = tuple("1.2.3.4:258", "5.6.7.8:772");
        assert_eq!(four.source, [u32::from_ne_bytes([1, 2, 3, 4]), 0, 0, 0]);
        assert_eq!(four.target, [u32::from_ne_bytes([5, 6, 7, 8]), 0, 0, 0]);
        assert_eq!((four.ports, four.version), (u32::from_ne_bytes([1, 2, 3, 4]), 4));
        let six = tuple("[1:2::3]:1", "[::4]:1");
        assert_eq!(six.source, [0x0001_0002_u32.to_be(), 0, 0, 3_u32.to_be()]);
        assert_eq!((six.target, six.version), ([0, 0, 0, 4_u32.to_be()], 6));
        assert_eq!(four.address_checksum_delta(&tuple("1.2.3.4:1", "5.6.7.8:1")), 0);
        let other = four.address_checksum_delta(&tuple("1.2.3.4:1", "5.6.7.10:1"));
        assert_eq!(fold(other), u16::from_ne_bytes([0, 2]));
        // Both on one host.
        let swapped = four.address_checksum_delta(&tuple("5.6.7.8:1", "1.2.3.4:1"));
        assert_eq!((fold(swapped), swapped), (u16::MAX, u32::MAX));
    }

    #[test]
    fn a_peer_has_sent_what_the_other_peer_or_the_local_socket_has_accepted() {
        let sender = SenderState::new(90, 100);
        let side = SideState { cutover_seq: 150, sender, ..SideState::default() };
        let mut splice = Splice::default();
        splice.directions[Side::Client].side = side;
        assert_eq!(splice.accepted_end(Side::Client), 150);
        splice.directions[Side::Backend].side.drained = true;
        assert_eq!(splice.accepted_end(Side::Client), 100);
    }

    #[test]
    fn a_connection_is_over_when_both_have_ended_or_one_has_reset_it() {
        const BOTH_ACKED: u64 = ending::FIN_ACKED | ending::FIN_ACKED << 1;
        assert!(is_over(Phase::Joined, BOTH_ACKED));
        for side in Side::BOTH {
            for (bit, over) in [
                (0, false),
                (ending::FIN, false),
                (ending::FIN_ACKED, false),
                (ending::RST_IN_WINDOW, false),
                (ending::RESET, true),
            ] {
                let endings = ending::of(bit, side);
                assert_eq!(is_over(Phase::Joined, endings), over, "{endings:x}");
                assert!(is_over(Phase::Lingering, endings));
            }
        }
    }
}
