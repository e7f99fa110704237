//! What the program and user space share of a spliced connection, and how packets find it.
//!
//! Invariant: all types are `repr(C)` and a multiple of eight bytes, because the values of a
//! mapped array are spaced by eight bytes; a test checks the layout.

use core::net::{IpAddr, SocketAddr};

use super::{checksum::Difference, judge::Side, seq::is_after};

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
    /// How numbers change. `next`, `acked` and what is found out of timestamps is written by
    /// the program, `settled` by both, the rest by user space.
    pub side: Side,
    /// How the addresses of its packets are to look. Written by user space.
    pub looks: Key,
    /// What the sum over the addresses changes by when they do. Written by user space.
    pub addresses: u32,
    /// Not 0 once the peer has sent something that cannot be passed on, while the local sockets had the
    /// connection: fragments, or packets whose headers are not read. Written by the program.
    pub odd: u32,
    /// What is added to CLOCK_MONOTONIC, in whole milliseconds, to get the timestamp clock of the
    /// socket whose packets these seem to be (include/net/tcp.h, tcp_clock_ts).
    pub clock: u32,
    /// Number behind the FIN, once `ending` says that there was one.
    pub fin: u32,
    /// Numbers that went on, from the cut-off as it was at first to the highest. Written by the
    /// program.
    pub progress: u64,
    /// Where that began.
    pub origin: u32,
    /// The number behind what this side's peer has been told that there is room for; never goes back.
    /// What is not before it changes nothing here.
    pub edge: u32,
    /// Packets that went on.
    pub packets: u64,
    /// When the last one did: nanoseconds of CLOCK_MONOTONIC.
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
    /// The number up to which the peer has acknowledged what it was sent, as far as it has said so;
    /// never goes back.
    pub said: u32,
}

impl Way {
    /// The number behind the highest that went on.
    #[inline(always)]
    pub const fn next(&self, progress: u64) -> u32 {
        self.origin.wrapping_add(progress as u32)
    }

    /// Whether the peer may have sent this: somebody else does not know where it is. The numbers are
    /// those behind a packet.
    #[inline(always)]
    pub const fn is_plausible(&self, end: u32) -> bool {
        !is_after(self.side.acked, end) && !is_after(end, self.edge)
    }

    /// The number behind all that the peer has sent, however far that is from the cut-off.
    pub fn end(&self) -> u32 {
        let kept = self.side.cut.wrapping_sub(self.origin);
        self.next(if self.progress > kept.into() { self.progress } else { kept.into() })
    }

    /// Whether a RST with this number breaks the connection without a question: its sender has
    /// either sent all that went on, or answers what it was told last, by us or by our socket. The
    /// other peer gets any
    /// RST, and asks with a challenge (RFC 5961, 3.2) about one that it does not believe.
    #[inline(always)]
    pub const fn is_believed(&self, seq: u32, progress: u64) -> bool {
        seq == self.next(progress) || seq == self.side.acked || seq == self.side.cut
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice::fold;
    use core::mem::{offset_of, size_of};

    #[test]
    fn the_layout_is_as_both_sides_read_it() {
        assert_eq!(size_of::<Key>(), 40);
        assert_eq!(size_of::<Side>(), 40);
        assert_eq!(offset_of!(Splice, ways), 16);
        assert_eq!(size_of::<Way>(), 40 + 40 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 8 + 8);
        assert_eq!(size_of::<Splice>() % 64, 0);
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
    fn the_end_is_known_beyond_half_of_all_numbers() {
        let side = Side { cut: 150, ..Side::default() };
        for (progress, end) in [(0u64, 150u32), (50, 150), (51, 151), (3 << 30, (3 << 30) + 100)] {
            let way = Way { side, origin: 100, progress, ..Way::default() };
            assert_eq!(way.end(), end);
        }
    }

    #[test]
    fn what_no_peer_can_have_sent_is_not_plausible() {
        let side = Side { acked: u32::MAX - 2, ..Side::default() };
        let way = Way { side, edge: 10, ..Way::default() };
        for (end, plausible) in
            [(u32::MAX - 3, false), (u32::MAX - 2, true), (10, true), (11, false), (1 << 30, false)]
        {
            assert_eq!(way.is_plausible(end), plausible, "{end}");
        }
    }

    #[test]
    fn only_a_break_with_the_number_that_is_due_is_believed() {
        let way = Way {
            side: Side { acked: u32::MAX - 2, cut: 5, ..Side::default() },
            origin: u32::MAX - 9,
            ..Way::default()
        };
        for (seq, believed) in [(10, true), (u32::MAX - 2, true), (5, true), (9, false), (0, false)]
        {
            assert_eq!(way.is_believed(seq, 20), believed, "{seq}");
        }
    }
}
