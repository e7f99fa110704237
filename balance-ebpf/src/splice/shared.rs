//! What the program and user space share of a spliced connection, and how packets find it.
//!
//! Invariant: all types are `repr(C)` and a multiple of eight bytes, because the values of a
//! mapped array are spaced by eight bytes; a test checks the layout.

use core::net::{IpAddr, SocketAddr};

use super::{
    checksum::Difference,
    judge::{Side, phase},
    seq::later,
};

/// The addresses of a packet that arrives, in words as they stand in it; those of IPv4 in the first
/// word, the rest is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// Of the peer.
    pub source: [u32; 4],
    /// Ours.
    pub target: [u32; 4],
    /// The peer's port and ours.
    pub ports: u32,
    /// 4 or 6.
    pub version: u32,
}

impl Key {
    /// Of a packet with these addresses.
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

    /// What a checksum changes by when these addresses (not the ports) become others; 0 only if they
    /// stay.
    pub fn difference(&self, new: &Self) -> u32 {
        if (self.source, self.target) == (new.source, new.target) {
            return 0;
        }
        let pairs = [(self.source, new.source), (self.target, new.target)];
        let words = pairs.iter().flat_map(|(old, new)| old.iter().zip(new));
        // Each word adds more than nothing, but one of ones that becomes zeros: no address is that.
        words.fold(Difference::NONE, |sum, (old, new)| sum.and(*old, *new)).sum()
    }
}

/// What is not of one connection.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Common {
    /// Connections that have entries: without any, packets are not looked at. Written by user space.
    pub entries: u64,
    /// Not 0 if an event found no room in the ring buffer. Written by both.
    pub missed: u64,
}

/// A connection that was spliced.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Splice {
    /// One of [`phase`](super::phase). Written by user space, and by the program when a new
    /// connection takes the place of this one.
    pub phase: u32,
    /// Padding.
    pub reserved: u32,
    /// Bits of [`ending`]. Written by the program.
    pub ending: u64,
    /// What arrives from the client, and from the backend.
    pub ways: [Way; 2],
}

/// The number of the loopback interface, in every network namespace (include/net/flow.h,
/// LOOPBACK_IFINDEX).
pub const LOOPBACK: u32 = 1;

/// In the upper half of a packet's mark: it is rewritten already, and leaves through the interface
/// of which the lower half has the number. Such a packet comes to the program a second time.
pub const REWRITTEN: u32 = 0xba1a_0000;

/// In the upper half of the mark of a packet that begins a connection where the old one's socket is still in the
/// way, which is reset first. The lower half counts how often it has come round.
pub const TURNED: u32 = 0xba1b_0000;

/// Whether nothing more is to come of a connection, so that a packet that begins one is for the local sockets: both
/// directions have ended, or a peer has reset it.
#[inline(always)]
pub const fn is_over(phase: u32, endings: u64) -> bool {
    const BOTH: u64 = ending::ACKNOWLEDGED | ending::ACKNOWLEDGED << 1;
    const BROKEN: u64 = ending::BROKEN | ending::BROKEN << 1;
    phase == phase::LINGERING || endings & BOTH == BOTH || endings & BROKEN != 0
}

/// What has been seen of the end.
pub mod ending {
    /// A side's FIN has been passed on; shifted left by the number of the side.
    pub const FIN: u64 = 1;
    /// It was acknowledged; shifted likewise.
    pub const ACKNOWLEDGED: u64 = 4;
    /// It sent a RST that is believed; shifted likewise.
    pub const BROKEN: u64 = 16;
    /// It sent a RST that it may have sent, with another number; shifted likewise. User space asks it,
    /// and takes this away.
    pub const DOUBTED: u64 = 64;
}

/// One direction, from a peer to the other.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// How numbers change, and what is known of them. `next`, `sent` and what is found out of
    /// timestamps is written by the program, `settled` by both, the rest by user space.
    pub side: Side,
    /// How the addresses of its packets are to look. Written by user space.
    pub looks: Key,
    /// What the sum over the addresses changes by when they do. Written by user space.
    pub addresses: u32,
    /// While the local sockets had the connection, the peer has sent something that cannot be passed
    /// on: fragments, or packets whose headers are not read. The number of the last one, with the
    /// lowest bit set; 0 if there was none. Written by the program.
    pub odd: u32,
    /// What is added to CLOCK_MONOTONIC, in whole milliseconds, to get the timestamp clock of the
    /// socket whose packets these seem to be (include/net/tcp.h, tcp_clock_ts).
    pub clock: u32,
    /// Number behind the FIN, once `ending` says that there was one.
    pub fin: u32,
    /// `snd_una` from which on bytes are counted here, those before were counted elsewhere. Written by
    /// user space.
    pub origin: u64,
    /// Accepted packets.
    pub packets: u64,
    /// When the last one came: nanoseconds of CLOCK_MONOTONIC.
    pub last: u64,
    /// How many blocks of selective acknowledgements were changed.
    pub sacks: u32,
    /// How many acknowledgements went on that said something else than the peer's.
    pub clamped: u32,
    /// How many packets went nowhere, because they cannot be passed on as they are: fragments, and
    /// others whose headers are not read.
    pub dropped: u32,
    /// The interface through which packets leave to the other peer. Written by user space.
    pub out: u32,
    /// Not 0 if other programs on loopback have to see what is rewritten. Written by user space.
    pub again: u32,
    /// Hop limit and DSCP of what goes on ([`head`](super::head)). Written by user space.
    pub head: u32,
}

impl Way {
    /// The number behind all that the peer has sent and that has been accepted, by the other peer
    /// (whose side is `other`) or by our socket.
    pub fn end(&self, other: &Side) -> u32 {
        let snd_nxt = self.side.sent.snd_nxt;
        if other.settled == 0 { later(snd_nxt, self.side.cut) } else { snd_nxt }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice::{Evidence, fold};
    use core::mem::{offset_of, size_of};

    #[test]
    fn the_layout_is_as_both_sides_read_it() {
        assert_eq!(size_of::<Key>(), 40);
        assert_eq!(size_of::<Evidence>(), 24);
        assert_eq!(size_of::<Side>(), 40 + 24);
        assert_eq!(offset_of!(Splice, ways), 16);
        assert_eq!(size_of::<Way>(), 64 + 40 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 8);
        assert_eq!(size_of::<Splice>(), 384);
    }

    #[test]
    fn addresses_are_in_words_as_they_stand() {
        let key = |a: &str, b: &str| Key::new(a.parse().unwrap(), b.parse().unwrap());
        let four = key("1.2.3.4:258", "5.6.7.8:772");
        assert_eq!(four.source, [u32::from_ne_bytes([1, 2, 3, 4]), 0, 0, 0]);
        assert_eq!(four.target, [u32::from_ne_bytes([5, 6, 7, 8]), 0, 0, 0]);
        assert_eq!((four.ports, four.version), (u32::from_ne_bytes([1, 2, 3, 4]), 4));
        let six = key("[1:2::3]:1", "[::4]:1");
        assert_eq!(six.source, [0x0001_0002_u32.to_be(), 0, 0, 3_u32.to_be()]);
        assert_eq!((six.target, six.version), ([0, 0, 0, 4_u32.to_be()], 6));
        assert_eq!(four.difference(&key("1.2.3.4:1", "5.6.7.8:1")), 0);
        let other = four.difference(&key("1.2.3.4:1", "5.6.7.10:1"));
        assert_eq!(fold(other), u16::from_ne_bytes([0, 2]));
        // Both on one host.
        let swapped = four.difference(&key("5.6.7.8:1", "1.2.3.4:1"));
        assert_eq!((fold(swapped), swapped), (u16::MAX, u32::MAX));
    }

    #[test]
    fn the_end_is_that_of_the_peer_or_of_our_socket() {
        let side = Side { cut: 150, sent: Evidence::new(90, 100), ..Side::default() };
        let way = Way { side, ..Way::default() };
        assert_eq!(way.end(&Side::default()), 150);
        assert_eq!(way.end(&Side { settled: 1, ..Side::default() }), 100);
    }

    #[test]
    fn a_connection_is_over_when_both_have_ended_or_one_has_broken_it() {
        for side in [0, 1] {
            for (endings, over) in [
                (0, false),
                (ending::FIN << side, false),
                (ending::ACKNOWLEDGED << side, false),
                (ending::DOUBTED << side, false),
                (ending::BROKEN << side, true),
                (ending::ACKNOWLEDGED | ending::ACKNOWLEDGED << 1, true),
            ] {
                assert_eq!(is_over(phase::JOINED, endings), over, "{endings:x}");
                assert!(is_over(phase::LINGERING, endings));
            }
        }
    }
}
